"""What all duties' stories share. A story is one function in its kind's file (`kinds/`), top to bottom; where it stops is why it failed.

Its steps wait for what happens: the beacon node's answer, the decision of consensus, the signatures of a threshold; the deadline of the
duty is the cancel scope around them (`duty_run.py`).

Consensus is joined before our own value is there (05 §6 "participate"): a peer that leads may propose while our beacon node is
slow, and its decision is served all the same. What fails for a moment only, also on the way to consensus, is tried again.

What was decided may come from a lying leader. It is served only if it passes, else nothing is; who proposed it is in the timeline:

    both          fits the duty (`unsigned_data.py`)
    attestation   its source is justified for our own beacon nodes (`sources.py`)
    block         its randao reveal is the group's signature, which there is only one of
    block         unless blinded, it pays the cluster's fee recipient of that validator. Not looked at: a chain of made-up blocks, a lock
                  without address, and with `allow_foreign_fee_recipient`

Refused is after the decision, not before our PREPARE: a liar that leads can always ruin its duty unnoticed, by a head or a payload that
is none, so that nothing is won; and no value is decoded before it is decided.

Source: specification 05-core-workflow §3 and §6; architecture §3.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import msgspec
import trio

from actors.beacon import BeaconFault
from actors.beacon import Message as BeaconMessage
from actors.consensus import Agree, Agreed, ProposeValue
from actors.consensus import Message as ConsensusMessage
from actors.duties.clock import SlotClock
from actors.duties.decided import Merge
from actors.duties.sources import Sources
from actors.facts import OnFact
from actors.mailbox import Address
from actors.off_loop import OffLoop, json_ms
from actors.signatures import DutyExpired
from actors.signatures import Message as SignaturesMessage
from charon_actors.crypto import Check
from charon_actors.errors import Retryable
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty
from charon_actors.eth2.signed_data import SignedData
from charon_actors.eth2.unsigned_data import WrongValue
from charon_actors.eth2.versioned import looks_like_json
from charon_actors.profile import Profile

RETRY_FIRST_S: Final = 0.25  # 05 §15
RETRY_FACTOR: Final = 1.6
RETRY_MAX_S: Final = 12.0
SSZ_BYTES_A_MS: Final = 500_000  # checked, with all copies
MAX_STEPS: Final = 64
MAX_FAULTS: Final = 8

T = TypeVar("T")


class DutyContext(msgspec.Struct, frozen=True):
    """What a story may touch.

    serve(duty, merge), give_up(duty): what was decided, or that nothing was, see `DecidedValues`. fee_recipients: as of Settings.
    paid: whom blocks of a validator must pay, 20 bytes by group public key; a validator that is missing may pay anybody.
    verify_all: whether each signature is valid, off the event loop. off_loop: reads what was decided.
    """

    chain: Chain
    profile: Profile
    clock: SlotClock
    beacon: Address[BeaconMessage]
    consensus: Address[ConsensusMessage]
    signatures: Address[SignaturesMessage]
    serve: Callable[[Duty, Merge], None]
    give_up: Callable[[Duty], None]
    graffiti: Callable[[bytes], bytes]
    builder_boost: int
    fee_recipients: Mapping[bytes, str]
    paid: Mapping[bytes, bytes]
    sources: Sources
    verify_all: Callable[[Sequence[Check]], Awaitable[Sequence[bool]]]
    on_fact: OnFact
    off_loop: OffLoop


Groups = trio.MemoryReceiveChannel[Mapping[bytes, SignedData]]


class Timeline:
    """Where a duty is, and what went wrong on the way: its failure reason is where it stopped.

    at: the current step. faults: what was tried in vain, bounded, in order. agreed: what was decided. clock: Unix seconds.
    """

    def __init__(self, duty: Duty, clock: Callable[[], float]) -> None:
        self.duty, self._clock = duty, clock
        self.at = "start"
        self.steps: list[tuple[str, float]] = []
        self.faults: list[str] = []
        self.agreed: Agreed | None = None

    def step(self, name: str) -> None:
        if self.at != "done" and len(self.steps) < MAX_STEPS:
            self.at = name
            self.steps.append((name, self._clock()))

    def since(self, unix_s: float) -> dict[str, int]:
        """Milliseconds from `unix_s` to the first entry into each step."""
        return {name: round((when - unix_s) * 1000) for name, when in reversed(self.steps)}

    def fault(self, error: BaseException) -> None:
        text = f"{self.at}: {str(error) or type(error).__name__}"
        if text not in self.faults and len(self.faults) < MAX_FAULTS:
            self.faults.append(text)


def reading_ms(decided: Mapping[str, bytes]) -> float:
    """What it costs to read what was decided; a lying leader's may be as long as consensus lets it be."""
    return sum(json_ms(each) if looks_like_json(each) else 0.015 + len(each) / SSZ_BYTES_A_MS for each in decided.values())


async def agree(fetch: Callable[[], Awaitable[dict[str, bytes]]], on: DutyContext, timeline: Timeline) -> dict[str, bytes]:
    """What the cluster decides. Our own value goes in as soon as `fetch` has it; a failed fetch is a peer's chance to lead."""
    duty = timeline.duty

    async def offer() -> None:
        try:
            value = await until_done(fetch, timeline)
        except (BeaconFault, DutyExpired, WrongValue) as fault:
            timeline.fault(fault)
            return

        async def tell() -> None:
            on.consensus.tell(ProposeValue(duty=duty, value=value))

        timeline.step("agree")
        await until_done(tell, timeline)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(offer)
        agreed = timeline.agreed = await until_done(lambda: on.consensus.ask(Agree(duty=duty)), timeline)
        nursery.cancel_scope.cancel()
    return agreed.unsigned_data


async def submit(
    groups: Groups,
    expected: int,
    broadcast: Callable[[Mapping[bytes, SignedData]], Awaitable[None]],
    timeline: Timeline,
    succeeded: Callable[[int], None],
    completed: Callable[[], None],
) -> None:
    """Hand over to the beacon node what thresholds have signed, batch by batch, until no more can come.

    broadcast: the kind's way to the beacon node. completed: called when nothing more is expected, and again with whatever comes
    all the same.

    Only with the first batch the story's step becomes `submit`; until then it stays where agreement is. A batch that the beacon
    node refuses for good is a fault of its validators alone; a validator counts once, however often it comes.
    """
    accepted: set[bytes] = set()
    refused: set[bytes] = set()
    async for signed in groups:
        timeline.step("submit")
        try:
            await until_done(partial(broadcast, signed), timeline)
        except BeaconFault as fault:
            timeline.fault(fault)
            refused |= signed.keys()
        else:
            succeeded(len(signed.keys() - accepted))
            accepted |= signed.keys()
            timeline.step("done" if len(accepted) >= expected else "submit" if refused else "collect")
        if len(accepted | refused) >= expected:
            completed()


async def until_done(attempt: Callable[[], Awaitable[T]], timeline: Timeline) -> T:
    """Try again after errors of the moment, until the caller's deadline. Raises: BeaconFault that repeating can't mend."""
    delay_s = RETRY_FIRST_S
    while True:
        try:
            return await attempt()
        except Retryable as moment:
            timeline.fault(moment)
        await trio.sleep(delay_s)
        delay_s = min(delay_s * RETRY_FACTOR, RETRY_MAX_S)
