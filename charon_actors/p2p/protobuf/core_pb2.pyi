from google.protobuf import any_pb2 as _any_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Duty(_message.Message):
    __slots__ = ("slot", "type")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    slot: int
    type: int
    def __init__(self, slot: _Optional[int] = ..., type: _Optional[int] = ...) -> None: ...

class UnsignedDataSet(_message.Message):
    __slots__ = ("set",)
    class SetEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    SET_FIELD_NUMBER: _ClassVar[int]
    set: _containers.ScalarMap[str, bytes]
    def __init__(self, set: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class ParSignedData(_message.Message):
    __slots__ = ("data", "signature", "share_idx")
    DATA_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    SHARE_IDX_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    signature: bytes
    share_idx: int
    def __init__(self, data: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., share_idx: _Optional[int] = ...) -> None: ...

class ParSignedDataSet(_message.Message):
    __slots__ = ("set",)
    class SetEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ParSignedData
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ParSignedData, _Mapping]] = ...) -> None: ...
    SET_FIELD_NUMBER: _ClassVar[int]
    set: _containers.MessageMap[str, ParSignedData]
    def __init__(self, set: _Optional[_Mapping[str, ParSignedData]] = ...) -> None: ...

class ParSigExMsg(_message.Message):
    __slots__ = ("duty", "data_set")
    DUTY_FIELD_NUMBER: _ClassVar[int]
    DATA_SET_FIELD_NUMBER: _ClassVar[int]
    duty: Duty
    data_set: ParSignedDataSet
    def __init__(self, duty: _Optional[_Union[Duty, _Mapping]] = ..., data_set: _Optional[_Union[ParSignedDataSet, _Mapping]] = ...) -> None: ...

class QBFTMsg(_message.Message):
    __slots__ = ("type", "duty", "peer_idx", "round", "prepared_round", "signature", "value_hash", "prepared_value_hash")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DUTY_FIELD_NUMBER: _ClassVar[int]
    PEER_IDX_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PREPARED_ROUND_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    VALUE_HASH_FIELD_NUMBER: _ClassVar[int]
    PREPARED_VALUE_HASH_FIELD_NUMBER: _ClassVar[int]
    type: int
    duty: Duty
    peer_idx: int
    round: int
    prepared_round: int
    signature: bytes
    value_hash: bytes
    prepared_value_hash: bytes
    def __init__(self, type: _Optional[int] = ..., duty: _Optional[_Union[Duty, _Mapping]] = ..., peer_idx: _Optional[int] = ..., round: _Optional[int] = ..., prepared_round: _Optional[int] = ..., signature: _Optional[bytes] = ..., value_hash: _Optional[bytes] = ..., prepared_value_hash: _Optional[bytes] = ...) -> None: ...

class QBFTConsensusMsg(_message.Message):
    __slots__ = ("msg", "justification", "values")
    MSG_FIELD_NUMBER: _ClassVar[int]
    JUSTIFICATION_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    msg: QBFTMsg
    justification: _containers.RepeatedCompositeFieldContainer[QBFTMsg]
    values: _containers.RepeatedCompositeFieldContainer[_any_pb2.Any]
    def __init__(self, msg: _Optional[_Union[QBFTMsg, _Mapping]] = ..., justification: _Optional[_Iterable[_Union[QBFTMsg, _Mapping]]] = ..., values: _Optional[_Iterable[_Union[_any_pb2.Any, _Mapping]]] = ...) -> None: ...

class PriorityTopicProposal(_message.Message):
    __slots__ = ("topic", "priorities")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PRIORITIES_FIELD_NUMBER: _ClassVar[int]
    topic: _any_pb2.Any
    priorities: _containers.RepeatedCompositeFieldContainer[_any_pb2.Any]
    def __init__(self, topic: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., priorities: _Optional[_Iterable[_Union[_any_pb2.Any, _Mapping]]] = ...) -> None: ...

class PriorityMsg(_message.Message):
    __slots__ = ("duty", "topics", "peer_id", "signature")
    DUTY_FIELD_NUMBER: _ClassVar[int]
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    duty: Duty
    topics: _containers.RepeatedCompositeFieldContainer[PriorityTopicProposal]
    peer_id: str
    signature: bytes
    def __init__(self, duty: _Optional[_Union[Duty, _Mapping]] = ..., topics: _Optional[_Iterable[_Union[PriorityTopicProposal, _Mapping]]] = ..., peer_id: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class PriorityScoredResult(_message.Message):
    __slots__ = ("priority", "score")
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    priority: _any_pb2.Any
    score: int
    def __init__(self, priority: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., score: _Optional[int] = ...) -> None: ...

class PriorityTopicResult(_message.Message):
    __slots__ = ("topic", "priorities")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PRIORITIES_FIELD_NUMBER: _ClassVar[int]
    topic: _any_pb2.Any
    priorities: _containers.RepeatedCompositeFieldContainer[PriorityScoredResult]
    def __init__(self, topic: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., priorities: _Optional[_Iterable[_Union[PriorityScoredResult, _Mapping]]] = ...) -> None: ...

class PriorityResult(_message.Message):
    __slots__ = ("msgs", "topics")
    MSGS_FIELD_NUMBER: _ClassVar[int]
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    msgs: _containers.RepeatedCompositeFieldContainer[PriorityMsg]
    topics: _containers.RepeatedCompositeFieldContainer[PriorityTopicResult]
    def __init__(self, msgs: _Optional[_Iterable[_Union[PriorityMsg, _Mapping]]] = ..., topics: _Optional[_Iterable[_Union[PriorityTopicResult, _Mapping]]] = ...) -> None: ...
