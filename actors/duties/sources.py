"""The source of a decided vote, compared with what our own beacon nodes hold justified. Served, and so signed, is only what passes.

Why. Whoever has signed a vote from source s to target t may sign no later one from before s: it would surround the first. Honest votes go
from the justified epoch, so a vote from a later one forbids every honest vote until that epoch is justified. While the chain
finalises, that is never long; while it doesn't, one lying leader would end the cluster's attestations for hours.

    the decided source is                                   then
    0, or not later than what a beacon node said last       served: honest votes to come start there or later
    later, and one of them says so too when asked afresh    served: ours was behind, as is usual in the first slots of an epoch
    later, and they say something earlier until the slot    refused: that many honest leaders are not ahead of our beacon nodes
      is over
    later, and none answers in time                         served, if the last that they said was that the epoch before the vote's
                                                            is justified: the chain finalises; else asked again as above

In time is within ANSWER_SLOTS while what they said last is of this epoch or the one before; after that, and at first, PATIENT_SLOTS: a
slow beacon node is heard every other epoch then, and one that is down says so at once. A node that has never heard one trusts nobody.

An earlier source than ours is served: it may be worthless on chain, but forbids nothing. Roots are not compared. Of honest nodes, heads
and targets differ whenever a block comes late; a wrong root of the right source is a vote lost, as it would be if we refused it.

Asked afresh are all beacon nodes (`actors/beacon/justified.py`), every ASK_AGAIN_SLOTS until the slot is over, but once at least: whoever
gets the data later than that has given up.

Limits: one answer remembered; the rest of the slot, or PATIENT_SLOTS. Source: EIP-3076; consensus-specs phase0, `process_attestation`,
`is_slashable_attestation_data`; specification 06 §7 (which compares before PREPARE, and roots as well).
"""

from collections.abc import Callable
from typing import Final

import msgspec
import trio

from actors.beacon import BeaconFault, JustifiedEpoch
from actors.beacon import Message as BeaconMessage
from actors.log import get_logger
from actors.mailbox import Address
from charon_actors.errors import Retryable
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.unsigned_data import WrongValue

log = get_logger("fetcher")

ANSWER_SLOTS: Final = 1 / 12  # of a slot; a validator client waits for a quarter, of which consensus has taken some
PATIENT_SLOTS: Final = 1 / 4
ASK_AGAIN_SLOTS: Final = 1 / 24
GRACE_SLOTS: Final = 1 / 24  # for the beacon actor's own part


class Said(msgspec.Struct, frozen=True):
    """A beacon node's last answer: votes of `epoch` go from `source_epoch`."""

    epoch: int
    source_epoch: int

    @property
    def finalises(self) -> bool:
        return self.source_epoch + 1 >= self.epoch


class Sources:
    """What our beacon nodes said last. wall_clock: Unix seconds."""

    def __init__(self, chain: Chain, beacon: Address[BeaconMessage], wall_clock: Callable[[], float]) -> None:
        self._chain, self._beacon, self._wall_clock = chain, beacon, wall_clock
        self._said: Said | None = None

    def heard(self, slot: int, source_epoch: int) -> None:
        """A beacon node has answered: votes in `slot` go from that source."""
        self._said = Said(self._chain.epoch_of(slot), source_epoch)

    async def confirm(self, slot: int, source_epoch: int) -> None:
        """Return if a vote in `slot` may go from that source (table on top). Raises: WrongValue.

        Takes until the end of the slot at most, or PATIENT_SLOTS. Cancellation: at any time; what was heard stays.
        """
        if source_epoch == 0 or (self._said is not None and source_epoch <= self._said.source_epoch):
            return
        slot_s = self._chain.slot_duration_s
        left_s = self._chain.slot_start_s(slot + 1) - self._wall_clock()
        with trio.move_on_after(max(left_s, (PATIENT_SLOTS + GRACE_SLOTS) * slot_s)):
            while not await self._is_confirmed(slot, source_epoch):
                await trio.sleep(ASK_AGAIN_SLOTS * slot_s)
            return
        said = "nothing" if self._said is None else f"epoch {self._said.source_epoch}"
        raise WrongValue(f"source epoch {source_epoch} is not justified: our beacon nodes say {said}")

    async def _is_confirmed(self, slot: int, source_epoch: int) -> bool:
        latest: int | None = None
        slot_s, said = self._chain.slot_duration_s, self._said
        is_recent = said is not None and said.epoch + 1 >= self._chain.epoch_of(slot)
        within_slots = ANSWER_SLOTS if is_recent else PATIENT_SLOTS
        request = JustifiedEpoch(slot=slot, at_least=source_epoch, within_s=within_slots * slot_s)
        with trio.move_on_after((within_slots + GRACE_SLOTS) * slot_s):
            try:
                latest = await self._beacon.ask(request)
            except (BeaconFault, Retryable) as fault:
                log.debug("The beacon nodes don't say which epoch is justified", slot=slot, reason=str(fault))
        if latest is not None:
            self.heard(slot, latest)
            return latest >= source_epoch
        if said is not None and said.finalises:
            log.info("The beacon nodes don't answer; the decided source is taken on trust", slot=slot, source_epoch=source_epoch)
            return True
        return False
