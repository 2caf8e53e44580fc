"""The slashing guard: what this node's keys have signed stands on disk before it leaves, and nothing slashable is signed."""

from actors.slashing.actor import (
    AttestationEntry,
    BlockEntry,
    ExportHistory,
    Guard,
    ImportHistory,
    Listening,
    Message,
    SlashableFault,
    SlashingGuard,
)
from actors.slashing.facts import OnlyListening

__all__ = [
    "AttestationEntry",
    "BlockEntry",
    "ExportHistory",
    "Guard",
    "ImportHistory",
    "Listening",
    "Message",
    "OnlyListening",
    "SlashableFault",
    "SlashingGuard",
]
