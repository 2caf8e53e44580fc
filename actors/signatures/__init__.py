"""Partial signatures, and the group signatures that a threshold of them makes."""

from actors.signatures.actor import Signatures
from actors.signatures.facts import PartialsStored, PartialsVerified
from actors.signatures.messages import (
    AwaitGroupSignature,
    DutyExpired,
    GroupSigned,
    InvalidPartial,
    Message,
    PeerPartials,
    Settings,
    SubmitPartials,
    ValidatorShares,
)

__all__ = [
    "AwaitGroupSignature",
    "DutyExpired",
    "GroupSigned",
    "InvalidPartial",
    "Message",
    "PartialsStored",
    "PartialsVerified",
    "PeerPartials",
    "Settings",
    "Signatures",
    "SubmitPartials",
    "ValidatorShares",
]
