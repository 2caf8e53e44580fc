"""Who does what: the duties of the last epochs, read from the beacon nodes and read again when the chain is reorganised.

An epoch's duties are resolved when its first slot comes into sight, that is in the last slot of the epoch before, whether or not that slot
has a duty (05 §21.1), and again at once after a reorganisation that goes back behind it. Until then what was known holds, and what has
begun stays as it began: its slot keeps its definitions. One task at a time reads an epoch's duties; who else needs them joins it.

Reorganisations may come without end. REREADS readings begin at once, after that one each half slot; an answer that a reorganisation has
overtaken is asked for again FRESH_TRIES times and then taken as it is, and read again when its turn comes. So no duty that was known
is lost, and an epoch that begins gets its duties, whatever the chain is said to do.

Limits: EPOCHS_KEPT epochs; one reading an epoch at a time.
Source: specification 05 §5 (scheduler), §21.1.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import trio

from actors.beacon import BeaconFault, ClusterValidators
from actors.beacon import Message as BeaconMessage
from actors.duties.clock import SlotClock
from actors.duties.kinds import Kinds
from actors.duties.messages import NotReady
from actors.log import get_logger
from actors.mailbox import Address
from charon_actors.errors import Retryable
from charon_actors.eth2.duty import DutyType
from charon_actors.pace import Bucket

log = get_logger("sched")

EPOCHS_KEPT: Final = 3  # 05 §5: definitions of epoch − 3 are dropped
RESOLVE_RETRY_S: Final = 1.0
REREADS: Final = 6  # two of a few epochs each
FRESH_TRIES: Final = 3
SLOT_GRACE_S: Final = 0.02

Definitions = Mapping[bytes, Any]  # by group public key


class Epoch:
    """Duties of one epoch, by kind, slot and group public key."""

    def __init__(self) -> None:
        self._slots: dict[DutyType, dict[int, dict[bytes, Any]]] = {}

    def add(self, kind: DutyType, definition: Any) -> None:
        self._slots.setdefault(kind, {}).setdefault(definition.slot, {})[definition.pubkey] = definition

    def slots(self, kind: DutyType) -> Mapping[int, Definitions]:
        """Those with a duty of that kind."""
        return self._slots.get(kind, {})

    def at(self, kind: DutyType, slot: int) -> Definitions:
        return self.slots(kind).get(slot, {})

    def keep(self, old: "Epoch", slot: int) -> None:
        """What has begun until `slot` stays as it was."""
        for kind, slots in old._slots.items():
            begun = {at: definitions for at, definitions in slots.items() if at <= slot}
            self._slots.setdefault(kind, {}).update(begun)


class Epochs:
    """Of one incarnation, in its nursery.

    slot: the one that the clock is in, -1 before the first. on_resolved: an epoch's duties are known, for the first time or afresh.
    may_start: duties of the current slot may have come to light.
    """

    def __init__(
        self,
        kinds: Kinds,
        clock: SlotClock,
        beacon: Address[BeaconMessage],
        nursery: Callable[[], trio.Nursery],
        *,
        on_resolved: Callable[[int, Epoch], None],
        may_start: Callable[[], None],
    ) -> None:
        self._kinds, self._clock, self._chain, self._beacon, self._nursery = kinds, clock, clock.chain, beacon, nursery
        self._on_resolved, self._may_start = on_resolved, may_start
        self._known: dict[int, Epoch] = {}
        self._resolving: dict[int, trio.Event] = {}
        self._due_again: set[int] = set()  # epochs whose turn to be read again comes
        self._rereading: set[int] = set()  # epochs that are read once more in the next slot
        self._rereads = Bucket(REREADS, 2 / clock.chain.slot_duration_s)
        self._reorganisations = 0
        self.slot = -1
        self.active_validators = 0

    def of_slot(self, slot: int) -> Epoch | None:
        """None while that epoch's duties aren't known."""
        return self._known.get(self._chain.epoch_of(slot))

    def known(self, slot: int) -> Epoch:
        """Raises: NotReady."""
        epoch = self.of_slot(slot)
        if epoch is None:
            raise NotReady(f"the duties of epoch {self._chain.epoch_of(slot)} are not known yet")
        return epoch

    def being_read(self, slot: int) -> trio.Event | None:
        """Set once the duties are there that are just being read for the first time; None if nobody reads them, or they are known."""
        epoch = self._chain.epoch_of(slot)
        return None if epoch in self._known else self._resolving.get(epoch)

    def expire(self, slot: int) -> None:
        """Forget the epochs that are over for long."""
        for epoch in [known for known in self._known if known <= self._chain.epoch_of(slot) - EPOCHS_KEPT]:
            del self._known[epoch]

    def reorganised(self, epoch: int) -> None:
        """Later duties may have changed: read them again at once. Whoever is reading already notices by the count."""
        self._reorganisations += 1
        if later := [known for known in self._known if known > epoch]:
            log.warning("The chain was reorganised, reading duties again", epoch=epoch)
        for known in later:
            if known not in self._resolving:
                self._read_again(known)

    def _read_again(self, epoch: int) -> None:
        if epoch not in self._due_again:
            self._due_again.add(epoch)
            self._nursery().start_soon(self._resolve_again, epoch)

    async def _resolve_again(self, epoch: int) -> None:
        """At once, or when its turn comes; and in the next slot: by then every beacon node has heard of the new chain."""
        try:
            await trio.sleep(self._rereads.spend(trio.current_time()))
        finally:
            self._due_again.discard(epoch)
        await self.resolve(epoch)
        if self._chain.epoch_of(self.slot) == epoch:
            self._may_start()  # what nobody knew of when the slot began
        if epoch not in self._rereading:
            self._rereading.add(epoch)
            try:
                await self._clock.in_mid_slot(self.slot + 1, partial(self.resolve, epoch))
            finally:
                self._rereading.discard(epoch)

    async def resolve(self, epoch: int) -> None:
        """Know who does what in `epoch`, or that it is over."""
        if (resolving := self._resolving.get(epoch)) is not None:
            await resolving.wait()
            return
        resolved = self._resolving[epoch] = trio.Event()
        try:
            await self._read(epoch)
        finally:
            del self._resolving[epoch]
            resolved.set()

    async def _read(self, epoch: int) -> None:
        """Tries until the epoch is over; a slot's duties come too late rather than never."""
        warned, tries = False, 0
        while self._clock.slot_now() < self._chain.first_slot(epoch + 1):
            before = self._reorganisations
            try:
                resolved = await self._ask(epoch)
                if self._reorganisations != before:  # the answer may be about the chain before
                    tries += 1
                    if tries < FRESH_TRIES:
                        continue
                    self._read_again(epoch)
                resolved.keep(self._known.get(epoch, Epoch()), self.slot)
                self._known[epoch] = resolved
                self._on_resolved(epoch, resolved)
                return
            except (BeaconFault, Retryable) as fault:
                if not warned:
                    log.warning("Duties can't be read, trying again", epoch=epoch, reason=str(fault))
                warned = True
            # again in a second, but by all means as soon as the next slot starts: it may begin the epoch, with a proposal of ours
            now = self._clock.wall_clock()
            next_slot_s = self._chain.slot_start_s(self._chain.slot_at(now) + 1)
            await self._clock.sleep_until(min(now + RESOLVE_RETRY_S, next_slot_s + SLOT_GRACE_S))

    async def _ask(self, epoch: int) -> Epoch:
        validators = await self._beacon.ask(ClusterValidators())
        active = {
            validator.index: validator.pubkey
            for validator in validators
            if validator.status.startswith("active") or validator.activation_epoch == epoch
        }
        self.active_validators = len(active)
        resolved = Epoch()
        if not active:
            log.warning("No validator of the cluster is active", epoch=epoch)
            return resolved
        for kind in self._kinds.values():
            for definition in await kind.define(self._beacon, epoch, active):
                if active.get(definition.validator_index) == definition.pubkey:
                    resolved.add(kind.duty_type, definition)
        log.info(
            "Duties resolved",
            epoch=epoch,
            **{kind.named: kind.summary(resolved.slots(kind.duty_type)) for kind in self._kinds.values()},
        )
        return resolved
