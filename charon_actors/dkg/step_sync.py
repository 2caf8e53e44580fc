"""Step sync: the barrier at which all nodes of a ceremony meet. Sans-IO.

Theory of operation: a ceremony is a row of steps 0, 1, 2 …; a node leaves step k only when every peer has entered it. So each
node repeats its own step to every peer and remembers one number a peer: the last step that peer reported. Step 0 means "we
hear each other"; without its barrier a lost first report would look like a restart.

    last known   reported        meaning                                        outcome
    none         0 or 1          the peer has just started                      accept
    none         anything else   one of us restarted in the middle              fail
    s            s, s+1, s+2     still there, gone on, or one report was lost   accept
    s            anything else   the peer restarted, or skips barriers          fail

The barrier of our step k opens when every last known step is k or k+1. A peer at k+2 has left a step that we have not
entered; no honest peer can. A failure is final: only a new ceremony helps, so from then on the machine says nothing.

What is known of a peer outlives its streams, so step 0 alone can't tell that a peer has left again. Who leaves step 0 therefore also
looks whether all peers are there at that moment (`actors/dkg/step_reports.py`).

Each report also says who speaks and about what: the minor release and the peer's signature of the definition hash
(`sync_messages.py`). One that is of another release or another definition fails the ceremony on both sides, as the sender is
told why. A report that is refused for its step is answered by v1.11 only (`Failed.answer`); v1.10 just ends the stream.

A new step is reported at once. It is repeated every REPORT_INTERVAL_S while we wait at its barrier, and every WORKING_INTERVAL_S
while we work towards the next: then nobody waits for a report of ours, and no version of Charon has a time limit for it.

Limits: the peers, one or more, are fixed at the start; one integer a peer; one report a peer every REPORT_INTERVAL_S.
Source: specification 04-dkg, sections 3.2 to 3.4.
"""

import re
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from charon_actors.crypto import k1_verify_der
from charon_actors.dkg.dialect import Dialect
from charon_actors.dkg.sync_messages import SyncReport, definition_digest

REPORT_INTERVAL_S: Final = 0.1  # 04-dkg 3.2; Charon v0.17 to v0.19 used 0.25
WORKING_INTERVAL_S: Final = 0.5

FIRST_STEP_TEXT: Final = "peer reported abnormal initial step, expected 0 or 1"
BEHIND_TEXT: Final = "peer reported step is behind the last known step"
AHEAD_TEXT: Final = "peer reported step is ahead the last known step"
BARRIER_TEXT: Final = "peer step is too far ahead"
RESTART_TEXT: Final = "node restarted mid-ceremony, all operators must stop charon and restart the ceremony together"

_VERSION = re.compile(r"v([0-9]{1,9})\.([0-9]{1,9})(?:\.[0-9]{1,9})?(?:-.{1,100})?", re.ASCII)


class Report(msgspec.Struct, frozen=True):  # effect: tell this peer that we are at this step
    peer_index: int
    step: int


class Passed(msgspec.Struct, frozen=True):  # effect: every peer has entered this step; the ceremony may go on
    step: int


class Failed(msgspec.Struct, frozen=True):
    """Effect: the ceremony is over. `reason` is for the operator; `answer`, if any, for the peer before its stream ends."""

    peer_index: int
    reason: str
    answer: str | None = None


Effect = Report | Passed | Failed


class StepSync:
    """Feed it `enter`, `receive`, `tick`; do what it returns, in order. `wake_at` says when to tick next (caller's clock)."""

    def __init__(self, peers: Collection[int], *, tells_restarted_peer: bool = False) -> None:
        self._last: dict[int, int | None] = dict.fromkeys(peers)
        self._step, self._open, self._failed = 0, False, False
        self._tells_restarted_peer = tells_restarted_peer
        self.wake_at = 0.0

    @property
    def step(self) -> int:
        """Our own step: what every report says."""
        return self._step

    def last_step_of(self, peer_index: int) -> int | None:
        """The last step that this peer reported, None before its first report."""
        return self._last[peer_index]

    def missing(self) -> list[int]:
        """Peers that we wait for at our barrier: those that have not entered our step, as far as we know."""
        return [peer for peer, last in self._last.items() if last is None or last < self._step]

    def enter(self, step: int, now: float) -> list[Effect]:
        """We reached `step`: report it at once, then wait for the others."""
        assert self._open, "a step is left after its barrier"
        assert step == self._step + 1, "steps are entered one by one"
        self._step, self._open, self.wake_at = step, False, now
        return [*self.tick(now), *self._barrier()]

    def receive(self, peer_index: int, step: int) -> list[Effect]:
        """A peer reported `step`. Whatever a peer sends ends in an effect, never in an exception."""
        if self._failed:
            return []
        last = self._last[peer_index]
        if step not in ((0, 1) if last is None else (last, last + 1, last + 2)):
            text = FIRST_STEP_TEXT if last is None else BEHIND_TEXT if step < last else AHEAD_TEXT
            before = "none" if last is None else last
            reason = f"went from step {before} to {step} ({text}): a node restarted in the middle of the ceremony"
            return self._fail(peer_index, reason, f"{text}: {RESTART_TEXT}" if self._tells_restarted_peer else None)
        self._last[peer_index] = step
        return self._barrier()

    def tick(self, now: float) -> list[Effect]:
        """Repeat our step to everybody, if it is time."""
        if self._failed or now < self.wake_at:
            return []
        is_working = self._open and self._step > 0  # at step 0 there is nothing to do but wait for each other
        self.wake_at = now + (WORKING_INTERVAL_S if is_working else REPORT_INTERVAL_S)
        return [Report(peer_index, self._step) for peer_index in self._last]

    def _barrier(self) -> list[Effect]:
        for peer_index, last in self._last.items():
            if last is not None and last > self._step + 1:
                return self._fail(peer_index, f"is at step {last}, we are at {self._step} ({BARRIER_TEXT})")
        if self._open or self.missing():
            return []
        self._open = True
        return [Passed(self._step)]

    def _fail(self, peer_index: int, reason: str, answer: str | None = None) -> list[Effect]:
        self._failed = True
        return [Failed(peer_index, reason, answer)]


class SyncDoor:
    """Who may report at all: same minor release, same definition. What it refuses, the sender is told word for word.

    definition_hash: 32 bytes. public_keys: by peer index, 33 bytes.
    """

    def __init__(self, dialect: Dialect, definition_hash: bytes, public_keys: Mapping[int, bytes]) -> None:
        self._minor = dialect.minor
        self._digest = definition_digest(definition_hash)
        self._public_keys = dict(public_keys)
        self._known_good: dict[int, bytes] = {}

    def refusal(self, peer_index: int, report: SyncReport) -> str | None:
        """None: let it in. Otherwise the error text for the answer; the ceremony is over."""
        parsed = _VERSION.fullmatch(report.version)
        if parsed is None:
            return "parse peer version: invalid version string"
        if f"v{int(parsed[1])}.{int(parsed[2])}" != self._minor:
            return f"mismatching charon version; expect={self._minor}, got={report.version}"
        if self._known_good.get(peer_index) != report.hash_signature:  # the same bytes come ten times a second
            if not k1_verify_der(self._public_keys[peer_index], self._digest, report.hash_signature):
                return "invalid definition hash signature"
            self._known_good[peer_index] = report.hash_signature
        return None
