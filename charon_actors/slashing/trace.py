"""The trace: what a second small file remembers of a slashing record, so that the record can't be lost, or grow younger, unseen. Pure.

A record has a history (16 random bytes, drawn when it was begun), a generation (how often it was changed since) and a digest of all
that stands in it (`digest.py`). The trace holds the three as they were when the node last answered, and the highest slot, source and
target of all keys. The record is written first, the trace second, the answer is given third; so whatever was answered is in both:

    record                              trace                     verdict         because
    none                                none                      FIRST           nothing was ever signed here, as far as anybody can tell
    none                                generation 0              FIRST           a first start was interrupted; nothing was answered
    none                                any other                 MISSING         the file was lost, or isn't mounted
    without history (schema 1)          none                      UPGRADE         of a release that kept no trace
    without history, the same digest    generation 1              UPGRADE         an upgrade was interrupted
    without history                     any other                 OLDER           a copy from before the upgrade
    there                               none                      UNTRACED        only one of the two files was copied
    the same history, lower generation  there                     OLDER           an old copy has forgotten what was signed since
    the same history and generation,
      the same digest                   there                     INTACT
      another digest                    there                     CHANGED         mixed from two states, or edited
    the same history, higher generation there                     INTACT          a crash between record and trace, or an old trace
    another history                     there                     FOREIGN         of another node, or from before a loss

Whether a record is what its own digest says is looked at before (a torn or mixed file isn't), so INTACT means: everything that was ever
answered under this history is in it. Only the loss of both files at once can't be told from a first start.

Source: EIP-3076 (a signer must never lose its history); docs/threat-model.md.
"""

import enum
from typing import Final

import msgspec

from charon_actors.slashing.rules import Minimum

HISTORY_BYTES: Final = 16
DIGEST_BYTES: Final = 32

_NOTHING: Final = 2**64 - 1  # instead of a slot or epoch that there is none of
_VERSION: Final = 1
_TRACE_BYTES: Final = 1 + HISTORY_BYTES + 8 + DIGEST_BYTES + 3 * 8


class TraceFault(ValueError):
    """Not the content of a trace of this version."""


class State(msgspec.Struct, frozen=True):
    """Of a record. history: 16 bytes, None for one of schema 1, whose generation counts as 1. digest: 32 bytes, of its content."""

    history: bytes | None
    generation: int
    digest: bytes


class Trace(msgspec.Struct, frozen=True):
    """history, generation, digest: of the record as it was last answered for. highest: of all that was ever recorded, any key."""

    history: bytes
    generation: int
    digest: bytes
    highest: Minimum


class Verdict(enum.Enum):
    """What a record is, beside its trace (table on top)."""

    FIRST = enum.auto()
    INTACT = enum.auto()
    UPGRADE = enum.auto()
    MISSING = enum.auto()
    OLDER = enum.auto()
    CHANGED = enum.auto()
    FOREIGN = enum.auto()
    UNTRACED = enum.auto()


def judge_record(record: State | None, trace: Trace | None) -> Verdict:
    """record: None when there is no such file; its digest was compared with its content. trace: None when there is no such file."""
    if record is None:
        return Verdict.FIRST if trace is None or trace.generation == 0 else Verdict.MISSING
    if record.history is None:
        is_known = trace is None or (trace.generation, trace.digest) == (1, record.digest)
        return Verdict.UPGRADE if is_known else Verdict.OLDER
    if trace is None:
        return Verdict.UNTRACED
    if record.history != trace.history:
        return Verdict.FOREIGN
    if record.generation != trace.generation:
        return Verdict.INTACT if record.generation > trace.generation else Verdict.OLDER
    return Verdict.INTACT if record.digest == trace.digest else Verdict.CHANGED


def encode_trace(trace: Trace) -> bytes:
    highest = (trace.highest.slot, trace.highest.source_epoch, trace.highest.target_epoch)
    numbers = b"".join((_NOTHING if number is None else number).to_bytes(8, "big") for number in highest)
    return bytes([_VERSION]) + trace.history + trace.generation.to_bytes(8, "big") + trace.digest + numbers


def decode_trace(data: bytes) -> Trace:
    """Raises: TraceFault."""
    if len(data) != _TRACE_BYTES or data[0] != _VERSION:
        raise TraceFault("not the trace of a slashing record, or of a later release")
    generation_at = 1 + HISTORY_BYTES
    digest_at = generation_at + 8
    numbers_at = digest_at + DIGEST_BYTES
    numbers = [int.from_bytes(data[at : at + 8], "big") for at in range(numbers_at, _TRACE_BYTES, 8)]
    return Trace(
        data[1:generation_at],
        int.from_bytes(data[generation_at:digest_at], "big"),
        data[digest_at:numbers_at],
        Minimum(*(None if number == _NOTHING else number for number in numbers)),
    )
