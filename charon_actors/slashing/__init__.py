"""Slashing protection: EIP-3076's rules and its file format."""

from charon_actors.slashing.digest import Digest
from charon_actors.slashing.interchange import Interchange, InterchangeFault, decode_interchange, encode_interchange
from charon_actors.slashing.rules import (
    Allowed,
    AttestationEntry,
    BlockEntry,
    Conflict,
    Entry,
    History,
    Minimum,
    Reason,
    SlashableFault,
    check,
    check_attestation,
    check_block,
    short_pubkey,
)
from charon_actors.slashing.trace import State, Trace, TraceFault, Verdict, decode_trace, encode_trace, judge_record

__all__ = [
    "Allowed",
    "AttestationEntry",
    "BlockEntry",
    "Conflict",
    "Digest",
    "Entry",
    "History",
    "Interchange",
    "InterchangeFault",
    "Minimum",
    "Reason",
    "SlashableFault",
    "State",
    "Trace",
    "TraceFault",
    "Verdict",
    "check",
    "check_attestation",
    "check_block",
    "decode_interchange",
    "decode_trace",
    "encode_interchange",
    "encode_trace",
    "judge_record",
    "short_pubkey",
]
