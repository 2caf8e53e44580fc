"""Slashing protection: EIP-3076's rules and its file format."""

from charon_actors.slashing.interchange import Interchange, InterchangeFault, decode_interchange, encode_interchange
from charon_actors.slashing.rules import (
    Allowed,
    AttestationEntry,
    BlockEntry,
    Conflict,
    Entry,
    History,
    Kind,
    Minimum,
    SlashableFault,
    check,
    check_attestation,
    check_block,
    short_pubkey,
)

__all__ = [
    "Allowed",
    "AttestationEntry",
    "BlockEntry",
    "Conflict",
    "Entry",
    "History",
    "Interchange",
    "InterchangeFault",
    "Kind",
    "Minimum",
    "SlashableFault",
    "check",
    "check_attestation",
    "check_block",
    "decode_interchange",
    "encode_interchange",
    "short_pubkey",
]
