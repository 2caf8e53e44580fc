"""One duty at work, from its start to its end; nothing that goes wrong here leaves it.

    agreement   the kind's story, if we know of the duty: until what was decided is served. It goes on when the peers were done without us:
                our client waits for what was decided
    submission  beside it: what thresholds sign is handed to the beacon node, batch by batch, until the deadline

The end is told once, when nothing more is expected or when the deadline has passed. A run that is told and agreed makes room for another
one of the same duty: what comes from then on begins afresh, what is queued is still submitted.

Limits: MAX_BATCHES batches of group signatures.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio

from actors.beacon import BeaconFault
from actors.consensus import DeadlinePassed
from actors.duties.decided import ClashingValue
from actors.duties.facts import DutyEnded
from actors.duties.story import DutyContext, Timeline, submit
from actors.log import get_logger
from actors.signatures import DutyExpired
from charon_actors.errors import Retryable
from charon_actors.eth2.duty import Duty, deadline_s, start_s
from charon_actors.eth2.signed_data import SignedData
from charon_actors.eth2.unsigned_data import EncodingFault, WrongValue
from charon_actors.exception_groups import leaves

log = get_logger("sched")

MAX_BATCHES: Final = 256  # group signatures of one duty that wait to be submitted
NOT_SERVED: Final = (WrongValue, ClashingValue, EncodingFault)  # the cluster has decided what may not be signed
EXPECTED: Final = (BeaconFault, Retryable, DeadlinePassed, DutyExpired, *NOT_SERVED)

WHY_IT_STOPPED: Final = {
    "start": "the deadline passed before anything happened",
    "randao": "no threshold of validator clients asked for the block in time",
    "fetch": "the beacon node did not answer in time",
    "agree": "the peers did not agree in time",
    "serve": "no threshold of validator clients signed in time",
    "collect": "for some validators no threshold of validator clients signed in time",
    "submit": "the beacon node did not accept it in time",
}

Agreement = Callable[[Timeline], Awaitable[None]]
Signed = Mapping[bytes, SignedData]  # by group public key


class DutyRun:
    """expected: validators. agreement: None for a duty that a threshold signed and we don't know of (05 §3).

    on_refused: the decision is not served, for that reason. on_left: the run makes room, called once or more often.
    """

    def __init__(
        self,
        duty: Duty,
        expected: int,
        agreement: Agreement | None,
        broadcast: Callable[[Signed], Awaitable[None]],
        on: DutyContext,
        *,
        on_refused: Callable[[Timeline, Exception], None],
        on_left: Callable[["DutyRun"], None],
    ) -> None:
        self.duty, self.timeline = duty, Timeline(duty, on.clock.wall_clock)
        self._expected, self._agreement, self._broadcast, self._on = expected, agreement, broadcast, on
        self._on_refused, self._on_left = on_refused, on_left
        self._groups, self._arriving = trio.open_memory_channel[Signed](MAX_BATCHES)
        self._begin_s = start_s(duty, on.chain)
        self._succeeded = 0
        self._latency_s: float | None = None
        self._is_told, self._is_agreed = False, agreement is None

    def submit(self, signed: Signed) -> None:
        """A threshold has signed. Raises: trio.BrokenResourceError when the run is just ending, trio.WouldBlock when too much waits."""
        self._groups.send_nowait(signed)

    def close(self) -> None:
        """No more group signatures come."""
        self._groups.close()

    async def run(self) -> None:
        deadline = deadline_s(self.duty, self._on.chain, self._on.profile)
        try:
            with trio.move_on_after(math.inf if deadline is None else max(deadline - self._on.clock.wall_clock(), 0)):
                if self._agreement is not None:
                    await self._on.clock.sleep_until(self._begin_s)
                async with trio.open_nursery() as nursery, self._arriving:
                    if self._agreement is not None:
                        nursery.start_soon(self._agree, self._agreement)
                    await submit(self._arriving, self._expected, self._broadcast, self.timeline, self._count, self._end)
        except (Exception, ExceptionGroup) as error:
            for leaf in leaves(error):
                self.timeline.fault(leaf)
        finally:
            self._on_left(self)
        self._on.give_up(self.duty)  # not when this incarnation dies: then who waits gets ActorDown and may ask again
        self._end()

    async def _agree(self, agreement: Agreement) -> None:
        try:
            await agreement(self.timeline)
        except (Exception, ExceptionGroup) as error:
            for leaf in leaves(error):
                self.timeline.fault(leaf)
                if isinstance(leaf, NOT_SERVED):
                    self._on_refused(self.timeline, leaf)
                elif not isinstance(leaf, EXPECTED):
                    log.exception("A duty failed by a fault of ours", duty=str(self.duty), exc_info=leaf)
        self._is_agreed = True
        self._leave()

    def _count(self, validators: int) -> None:
        self._succeeded += validators
        self._latency_s = self._on.clock.wall_clock() - self._begin_s

    def _end(self) -> None:
        if self._is_told:
            return
        self._is_told = True
        timeline, is_done = self.timeline, self._succeeded >= self._expected
        reason = None if is_done else "; ".join(timeline.faults) or WHY_IT_STOPPED.get(timeline.at, timeline.at)
        self._on.on_fact(DutyEnded(self.duty, timeline.at, self._expected, self._succeeded, self._latency_s, reason))
        if reason is None:
            log.debug("Duty done", duty=str(self.duty), ms_after_start=timeline.since(self._begin_s))
        else:
            log.warning(
                "Duty failed",
                duty=str(self.duty),
                step=timeline.at,
                succeeded=self._succeeded,
                expected=self._expected,
                reason=reason,
            )
        self._leave()

    def _leave(self) -> None:
        """What comes from now on begins afresh; what is queued is still submitted."""
        if self._is_told and self._is_agreed:
            self._on_left(self)
