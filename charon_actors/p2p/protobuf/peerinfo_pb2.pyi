import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PeerInfo(_message.Message):
    __slots__ = ("charon_version", "lock_hash", "sent_at", "git_hash", "started_at", "builder_api_enabled", "nickname", "dv_client")
    CHARON_VERSION_FIELD_NUMBER: _ClassVar[int]
    LOCK_HASH_FIELD_NUMBER: _ClassVar[int]
    SENT_AT_FIELD_NUMBER: _ClassVar[int]
    GIT_HASH_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    BUILDER_API_ENABLED_FIELD_NUMBER: _ClassVar[int]
    NICKNAME_FIELD_NUMBER: _ClassVar[int]
    DV_CLIENT_FIELD_NUMBER: _ClassVar[int]
    charon_version: str
    lock_hash: bytes
    sent_at: _timestamp_pb2.Timestamp
    git_hash: str
    started_at: _timestamp_pb2.Timestamp
    builder_api_enabled: bool
    nickname: str
    dv_client: str
    def __init__(self, charon_version: _Optional[str] = ..., lock_hash: _Optional[bytes] = ..., sent_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., git_hash: _Optional[str] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., builder_api_enabled: _Optional[bool] = ..., nickname: _Optional[str] = ..., dv_client: _Optional[str] = ...) -> None: ...
