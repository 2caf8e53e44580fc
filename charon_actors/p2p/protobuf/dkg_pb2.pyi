import datetime

from google.protobuf import any_pb2 as _any_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MsgSync(_message.Message):
    __slots__ = ("timestamp", "hash_signature", "shutdown", "version", "step", "nickname")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    HASH_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    SHUTDOWN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    NICKNAME_FIELD_NUMBER: _ClassVar[int]
    timestamp: _timestamp_pb2.Timestamp
    hash_signature: bytes
    shutdown: bool
    version: str
    step: int
    nickname: str
    def __init__(self, timestamp: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., hash_signature: _Optional[bytes] = ..., shutdown: _Optional[bool] = ..., version: _Optional[str] = ..., step: _Optional[int] = ..., nickname: _Optional[str] = ...) -> None: ...

class MsgSyncResponse(_message.Message):
    __slots__ = ("sync_timestamp", "error")
    SYNC_TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    sync_timestamp: _timestamp_pb2.Timestamp
    error: str
    def __init__(self, sync_timestamp: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[str] = ...) -> None: ...

class BCastSigRequest(_message.Message):
    __slots__ = ("id", "message")
    ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    id: str
    message: _any_pb2.Any
    def __init__(self, id: _Optional[str] = ..., message: _Optional[_Union[_any_pb2.Any, _Mapping]] = ...) -> None: ...

class BCastSigResponse(_message.Message):
    __slots__ = ("id", "signature")
    ID_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    id: str
    signature: bytes
    def __init__(self, id: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class BCastMessage(_message.Message):
    __slots__ = ("id", "message", "signatures")
    ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    id: str
    message: _any_pb2.Any
    signatures: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, id: _Optional[str] = ..., message: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., signatures: _Optional[_Iterable[bytes]] = ...) -> None: ...

class FrostMsgKey(_message.Message):
    __slots__ = ("val_idx", "source_id", "target_id")
    VAL_IDX_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    val_idx: int
    source_id: int
    target_id: int
    def __init__(self, val_idx: _Optional[int] = ..., source_id: _Optional[int] = ..., target_id: _Optional[int] = ...) -> None: ...

class FrostRound1Cast(_message.Message):
    __slots__ = ("key", "wi", "ci", "commitments")
    KEY_FIELD_NUMBER: _ClassVar[int]
    WI_FIELD_NUMBER: _ClassVar[int]
    CI_FIELD_NUMBER: _ClassVar[int]
    COMMITMENTS_FIELD_NUMBER: _ClassVar[int]
    key: FrostMsgKey
    wi: bytes
    ci: bytes
    commitments: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, key: _Optional[_Union[FrostMsgKey, _Mapping]] = ..., wi: _Optional[bytes] = ..., ci: _Optional[bytes] = ..., commitments: _Optional[_Iterable[bytes]] = ...) -> None: ...

class FrostRound1Casts(_message.Message):
    __slots__ = ("casts",)
    CASTS_FIELD_NUMBER: _ClassVar[int]
    casts: _containers.RepeatedCompositeFieldContainer[FrostRound1Cast]
    def __init__(self, casts: _Optional[_Iterable[_Union[FrostRound1Cast, _Mapping]]] = ...) -> None: ...

class FrostRound1ShamirShare(_message.Message):
    __slots__ = ("key", "id", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: FrostMsgKey
    id: int
    value: bytes
    def __init__(self, key: _Optional[_Union[FrostMsgKey, _Mapping]] = ..., id: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...

class FrostRound1P2P(_message.Message):
    __slots__ = ("shares",)
    SHARES_FIELD_NUMBER: _ClassVar[int]
    shares: _containers.RepeatedCompositeFieldContainer[FrostRound1ShamirShare]
    def __init__(self, shares: _Optional[_Iterable[_Union[FrostRound1ShamirShare, _Mapping]]] = ...) -> None: ...

class FrostRound2Cast(_message.Message):
    __slots__ = ("key", "verification_key", "vk_share")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERIFICATION_KEY_FIELD_NUMBER: _ClassVar[int]
    VK_SHARE_FIELD_NUMBER: _ClassVar[int]
    key: FrostMsgKey
    verification_key: bytes
    vk_share: bytes
    def __init__(self, key: _Optional[_Union[FrostMsgKey, _Mapping]] = ..., verification_key: _Optional[bytes] = ..., vk_share: _Optional[bytes] = ...) -> None: ...

class FrostRound2Casts(_message.Message):
    __slots__ = ("casts",)
    CASTS_FIELD_NUMBER: _ClassVar[int]
    casts: _containers.RepeatedCompositeFieldContainer[FrostRound2Cast]
    def __init__(self, casts: _Optional[_Iterable[_Union[FrostRound2Cast, _Mapping]]] = ...) -> None: ...

class MsgNodeSig(_message.Message):
    __slots__ = ("signature", "peer_index")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    PEER_INDEX_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    peer_index: int
    def __init__(self, signature: _Optional[bytes] = ..., peer_index: _Optional[int] = ...) -> None: ...
