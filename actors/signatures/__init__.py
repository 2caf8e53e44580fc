"""Partial signatures, and the group signatures that a threshold of them makes."""

from actors.signatures.actor import Signatures
from actors.signatures.messages import (
    AwaitGroupSignature,
    DutyExpired,
    GroupSigned,
    InvalidPartial,
    Message,
    PeerPartials,
    Settings,
    Shares,
    SubmitPartials,
)
from actors.signatures.wire import MAX_MESSAGE_BYTES, PERFORMED, PROTOCOL, decode_message, encode_message

__all__ = [
    "MAX_MESSAGE_BYTES",
    "PERFORMED",
    "PROTOCOL",
    "AwaitGroupSignature",
    "DutyExpired",
    "GroupSigned",
    "InvalidPartial",
    "Message",
    "PeerPartials",
    "Settings",
    "Shares",
    "Signatures",
    "SubmitPartials",
    "decode_message",
    "encode_message",
]
