"""Which log lines are written, when somebody else decides how often there is something to say. Pure; the clock is an argument.

A peer, a relay, a beacon node, a client or a disk can make a node say the same thing without end. So each kind of line has a bucket of
tokens; what gets none is left out, and counted. A kind is what the source code says, about whom: level, topic, text, and the subject, the
first of the fields SUBJECTS that the line has. All of these come from a bounded set; whatever else a line holds may be anything.

    level     burst   a second   the most that a healthy node says of one kind
    debug     1000    20         "Partial signatures stored", of one share: ten a slot
    info      200     2          "Peer connected": once a peer
    warning   100     1          none for days; "Duty failed" three times a slot while the beacon node is away
    error     100     1          none

So the first hundred lines of any kind are always there, and each kind's bucket is its own: no flood drowns another fault. What was left
out is said PERIOD_S after its first line, with its number, and at the end.

Limits: MAX_KINDS kinds; while all of them are in use, further ones share one bucket a level.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from charon_actors.pace import Bucket

LIMITS: Final = {"debug": (1000.0, 20.0), "info": (200.0, 2.0), "warning": (100.0, 1.0), "error": (100.0, 1.0)}  # burst, a second
SUBJECTS: Final = ("peer", "peer_index", "share_index", "relay", "node", "actor", "operator", "library")
MAX_KINDS: Final = 2048
MAX_TEXT: Final = 200
PERIOD_S: Final = 30.0


class LineKind(msgspec.Struct, frozen=True):
    """level: a key of LIMITS. subject: name and value of a field, empty texts without one."""

    level: str
    topic: str
    text: str
    subject: tuple[str, str] = ("", "")


class LeftOut(msgspec.Struct, frozen=True):
    """So many lines of a kind were left out in the last `seconds`."""

    kind: LineKind
    lines: int
    seconds: float


class KindState(msgspec.Struct):
    bucket: Bucket
    left_out: int = 0
    since: float = 0.0


def line_kind(level: str, topic: str, text: str, fields: Mapping[str, Any]) -> LineKind:
    """The kind of a line. level: other names than those of LIMITS count as `error`."""
    subject = next(((name, str(fields[name])[:MAX_TEXT]) for name in SUBJECTS if name in fields), ("", ""))
    return LineKind(level if level in LIMITS else "error", topic[:MAX_TEXT], text[:MAX_TEXT], subject)


class LogLimits:
    """now: seconds, on any one clock, the same for all calls."""

    def __init__(self) -> None:
        self._entries: dict[LineKind, KindState] = {}
        self._next_due = float("inf")

    def admits(self, kind: LineKind, now: float) -> bool:
        """Whether to write a line of that kind; if not, it is counted."""
        entry = self._entry(kind, now)
        if entry.bucket.take(now):
            return True
        if not entry.left_out:
            entry.since = now
            self._next_due = min(self._next_due, now + PERIOD_S)
        entry.left_out += 1
        return False

    def due(self, now: float, *, is_end: bool = False) -> list[LeftOut]:
        """What has to be said now about lines that were left out. is_end: everything, for this is the last time."""
        if now < self._next_due and not is_end:
            return []
        told = []
        self._next_due = float("inf")
        for kind, entry in self._entries.items():
            if not entry.left_out:
                continue
            if is_end or now - entry.since >= PERIOD_S:
                told.append(LeftOut(kind, entry.left_out, now - entry.since))
                entry.left_out = 0
            else:
                self._next_due = min(self._next_due, entry.since + PERIOD_S)
        return told

    def _entry(self, kind: LineKind, now: float) -> KindState:
        entry = self._entries.get(kind)
        if entry is None:
            if len(self._entries) >= MAX_KINDS:
                kind = self._room_for(kind, now)
            entry = self._entries.setdefault(kind, KindState(Bucket(*LIMITS[kind.level])))
        return entry

    def _room_for(self, kind: LineKind, now: float) -> LineKind:
        """The kind itself, if another one has had its rest; else the one that all others share."""
        rested = [known for known, entry in self._entries.items() if not entry.left_out and entry.bucket.is_full(now)]
        for known in rested:
            del self._entries[known]
        return kind if rested else LineKind(kind.level, "", "")
