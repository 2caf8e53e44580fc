"""Duties: the slot clock. Resolves who has to do what, starts a task a duty, ends it at its deadline, serves what was decided.

Accepts     what each kind is asked (`kinds/`): AwaitDecided, LookUp (ask) · GroupArrived, ChainReorganised (tell)
Emits       the facts of `facts.py`: SlotStarted, BlockFetched, DecisionRefused, and DutyEnded once a duty
Owns        duty definitions of the last epochs (`epochs.py`), decided values (`decided.py`), one task a duty (`duty_run.py`)
May touch   the beacon, consensus and signatures actors. Not: sockets, disk, another actor's state
Mailbox     4096, policy `reject`
Cancelled   duties in flight end; what a threshold signed stays with the signatures actor and the peers
Restart     resolves the current epoch again; decided values are gone, the validator clients' requests get ActorDown and are repeated.
            Consensus does not join duties that began before it started, so nothing is voted twice (06 §10)
Source      specification 05-core-workflow §5 (scheduler), §7 (decided values), §15; 06 §8

What differs from kind to kind is in the kind's file; here they are all alike. Whoever asks for what is just being read for the first
time waits, up to PATIENCE_SLOTS.

Limits: MAX_WAITING questions wait for duties, as many for decided values of a duty.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar, assert_never

import msgspec
import trio

from actors.beacon import BeaconFault, ClusterValidators, PrepareProposers, SyncStatus
from actors.beacon import Message as BeaconMessage
from actors.consensus import Message as ConsensusMessage
from actors.duties.clock import SlotClock
from actors.duties.decided import MAX_WAITING, DecidedValues, Words
from actors.duties.duty_run import Agreement, DutyRun, Signed
from actors.duties.epochs import Definitions, Epoch, Epochs
from actors.duties.facts import DecisionRefused, SlotStarted
from actors.duties.kinds import KINDS, Kinds
from actors.duties.kinds.kind import DutyKind
from actors.duties.messages import (
    AwaitDecided,
    ChainReorganised,
    GroupArrived,
    LookUp,
    LookUpSlot,
    Message,
    NoDuty,
    NotReady,
    UnknownValidator,
)
from actors.duties.sources import Sources
from actors.duties.story import DutyContext, Timeline
from actors.facts import OnFact, unheard
from actors.log import get_logger
from actors.mailbox import Address, Inbox, Reply
from actors.off_loop import Elsewhere, OffLoop
from actors.signatures import GroupSigned
from actors.signatures import Message as SignaturesMessage
from charon_actors.crypto import Check
from charon_actors.errors import Retryable
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import ROWS, Duty, DutyType, GroupGoesTo, is_over, refusal, slots_until_deadline
from charon_actors.profile import Profile

log = get_logger("sched")

SYNC_POLL_S: Final = 1.0
ADDRESS_BYTES: Final = 20
PATIENCE_SLOTS: Final = 1 / 3  # a block asked for later than that comes too late anyway (05 §2)

T = TypeVar("T")


class Settings(msgspec.Struct, frozen=True):
    """fee_recipients: 0x-address, or nothing, by group public key (48 bytes), for all validators of the lock, in the lock's order.

    graffiti: 32 bytes for a group public key. builder_boost: 0 without, 2**64 - 1 with the builder (05 §6).
    allow_foreign_fee_recipient: blocks may pay anybody. peer_names: by peer index, for the log.
    """

    chain: Chain
    fee_recipients: Mapping[bytes, str]
    graffiti: Callable[[bytes], bytes]
    builder_boost: int = 0
    profile: Profile = Profile.V1_10
    allow_foreign_fee_recipient: bool = False
    peer_names: Sequence[str] = ()

    def paid(self) -> Mapping[bytes, bytes]:
        """Whom blocks must pay, 20 bytes by group public key, for validators with an address."""
        if self.allow_foreign_fee_recipient or self.chain.has_made_up_blocks:
            return {}
        paid = {pubkey: address for pubkey, text in self.fee_recipients.items() if (address := _address(text))}
        if missing := len(self.fee_recipients) - len(paid):
            log.warning("The lock has no fee recipient for some validators: their blocks may pay anybody", validators=missing)
        return paid


class Duties:
    """One incarnation. verify_all: of signatures, off the event loop or on it. off_loop: reads what was decided. kinds: those performed."""

    def __init__(
        self,
        settings: Settings,
        *,
        beacon: Address[BeaconMessage],
        consensus: Address[ConsensusMessage],
        signatures: Address[SignaturesMessage],
        wall_clock: Callable[[], float],
        verify_all: Callable[[Sequence[Check]], Awaitable[Sequence[bool]]],
        on_fact: OnFact = unheard,
        off_loop: OffLoop | None = None,
        kinds: Kinds = KINDS,
    ) -> None:
        self._settings, self._chain, self._beacon, self._kinds = settings, settings.chain, beacon, kinds
        self._on_fact = on_fact
        self._clock = SlotClock(settings.chain, wall_clock)
        self._decided = DecidedValues({kind.duty_type: Words(kind.does, kind.called) for kind in kinds.values()})
        self._epochs = Epochs(
            kinds,
            self._clock,
            beacon,
            lambda: self._nursery,
            on_resolved=self._release,
            may_start=lambda: self._start_duties(self._epochs.slot),
        )
        self._begun: set[Duty] = set()  # of the current slot
        self._running: dict[Duty, DutyRun] = {}
        self._nursery: trio.Nursery
        self._on = DutyContext(
            chain=settings.chain,
            profile=settings.profile,
            clock=self._clock,
            beacon=beacon,
            consensus=consensus,
            signatures=signatures,
            serve=self._decided.put,
            give_up=self._decided.give_up,
            graffiti=settings.graffiti,
            builder_boost=settings.builder_boost,
            fee_recipients=settings.fee_recipients,
            paid=settings.paid(),
            sources=Sources(settings.chain, beacon, wall_clock),
            verify_all=verify_all,
            on_fact=on_fact,
            off_loop=off_loop or Elsewhere(),
        )

    async def run(self, inbox: Inbox[Message]) -> None:
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._keep_time)
            async for mail in inbox:
                match mail.message:
                    case AwaitDecided() as request:
                        self._await_decided(request, mail.reply_to(request))
                    case LookUp() as asked:
                        self._look_up(asked, mail.reply_to(asked))
                    case GroupArrived(group):
                        self._group_arrived(group)
                    case ChainReorganised(epoch):
                        self._epochs.reorganised(epoch)
                    case unknown:
                        assert_never(unknown)
            self._nursery.cancel_scope.cancel()

    # what the validator API asks

    def _await_decided(self, request: AwaitDecided[Any], reply: Reply[Any]) -> None:
        duty, kind = Duty(request.slot, request.kind), self._kinds[request.kind]
        epoch = self._epochs.of_slot(duty.slot)
        if epoch is not None and not epoch.at(kind.duty_type, duty.slot):
            reply.fail(NoDuty(f"no validator of the cluster {kind.does} in slot {duty.slot}"))
        elif self.is_over(duty):
            reply.fail(NoDuty(f"{kind.called} of slot {duty.slot} is over"))
        elif reason := refusal(duty, self._chain, self._settings.profile, self._clock.wall_clock(), self._kinds.keys()):
            reply.fail(NoDuty(reason))  # a client on another chain must not fill our lists
        else:
            self._decided.wait_for(duty, request.key, reply)

    def _look_up(self, asked: LookUp[T], reply: Reply[T]) -> None:
        """Now, or once the duties are there that are just being read for the first time."""
        slot = asked.slot if isinstance(asked, LookUpSlot) else self.slot_now()
        resolved = self._epochs.being_read(slot)
        if resolved is not None and resolved.statistics().tasks_waiting >= MAX_WAITING:
            resolved = None

        async def answer() -> T:
            if resolved is not None:
                with trio.move_on_after(PATIENCE_SLOTS * self._chain.slot_duration_s):
                    await resolved.wait()
            found: T = self._kinds[asked.kind].look_ups[type(asked)](asked, self)
            return found

        self._nursery.start_soon(partial(reply.answer, answer, errors=(NoDuty, NotReady, UnknownValidator)))

    # what look-ups may read (kinds/kind.py, `Known`)

    def slot_now(self) -> int:
        return self._clock.slot_now()

    def is_over(self, duty: Duty) -> bool:
        return is_over(duty, self._chain, self._settings.profile, self._clock.wall_clock())

    def definitions(self, kind: DutyType, slot: int) -> Definitions:
        return self._epochs.known(slot).at(kind, slot)

    def may_have(self, kind: DutyType, slot: int) -> bool:
        epoch = self._epochs.of_slot(slot)
        return epoch is not None and bool(epoch.at(kind, slot))

    def decided(self, kind: DutyType, slot: int) -> Mapping[int, Any]:
        return self._decided.of(Duty(slot, kind))

    # the clock

    async def _keep_time(self) -> None:
        await self._clock.sleep_until(self._chain.genesis_time_s)
        await self._wait_for_sync()
        slot = self.slot_now()
        prepared: int | None = None
        while True:
            epoch = self._chain.epoch_of(slot)
            self._epochs.slot = slot
            self._begun.clear()
            self._on_fact(SlotStarted(slot, epoch, self._epochs.active_validators))
            if prepared is None:
                self._nursery.start_soon(self._prepare_proposers, epoch)
            elif prepared != epoch:
                self._nursery.start_soon(self._clock.in_mid_slot, slot, partial(self._prepare_proposers, epoch))
            prepared = epoch
            self._expire(slot)
            if self._epochs.of_slot(slot) is None:
                await self._epochs.resolve(epoch)
            self._start_duties(slot)
            if self._chain.epoch_of(slot + 1) > epoch and self._epochs.of_slot(slot + 1) is None:
                self._nursery.start_soon(self._clock.in_mid_slot, slot, partial(self._epochs.resolve, epoch + 1))
            await self._clock.sleep_until(self._chain.slot_start_s(slot + 1))
            slot = max(slot + 1, self._chain.slot_at(self._clock.wall_clock()))  # missed slots are never replayed

    async def _wait_for_sync(self) -> None:
        announced = -math.inf
        while True:
            with suppress(BeaconFault, Retryable):
                status = await self._beacon.ask(SyncStatus())
                if not status.is_syncing:
                    return
                if trio.current_time() - announced >= 15:
                    announced = trio.current_time()
                    log.info("Waiting for the beacon node to sync", distance=status.sync_distance)
            await trio.sleep(SYNC_POLL_S)

    def _release(self, epoch: int, resolved: Epoch) -> None:
        """Who waits for a duty that nobody of ours has is told so."""
        slots = range(self._chain.first_slot(epoch), self._chain.first_slot(epoch + 1))
        for kind in self._kinds:
            self._decided.release(kind, slots, resolved.slots(kind))

    def _expire(self, slot: int) -> None:
        for kind in self._kinds:
            self._decided.expire(kind, slot - slots_until_deadline(kind, self._chain, self._settings.profile))
        self._epochs.expire(slot)

    # duties at work

    def _start_duties(self, slot: int) -> None:
        epoch = self._epochs.of_slot(slot)
        if epoch is None:
            return
        for kind in self._kinds.values():
            duty, definitions = Duty(slot, kind.duty_type), epoch.at(kind.duty_type, slot)
            if definitions and duty not in self._running and duty not in self._begun and not self.is_over(duty):
                self._begun.add(duty)
                self._start(kind, duty, len(definitions), partial(self._agree, kind, definitions))

    def _agree(self, kind: DutyKind[Any], definitions: Definitions, timeline: Timeline) -> Awaitable[None]:
        return kind.story(definitions, self._on, timeline)

    def _start(self, kind: DutyKind[Any], duty: Duty, expected: int, agreement: Agreement | None) -> DutyRun:
        async def broadcast(signed: Signed) -> None:
            await kind.submit(signed, self._on)

        run = DutyRun(duty, expected, agreement, broadcast, self._on, on_refused=self._refuse, on_left=self._forget)
        self._running[duty] = run
        self._nursery.start_soon(run.run, name=f"duty {duty}")
        return run

    def _forget(self, run: DutyRun) -> None:
        if self._running.get(run.duty) is run:
            del self._running[run.duty]
        run.close()

    def _refuse(self, timeline: Timeline, fault: Exception) -> None:
        """Name who proposed it: no honest node of ours does (but one whose beacon node is on another chain)."""
        agreed, names = timeline.agreed, self._settings.peer_names
        index = None if agreed is None else agreed.proposer_index
        log.warning(
            "The cluster's decision is refused, nothing is served",
            duty=str(timeline.duty),
            proposed_by="unknown" if index is None else names[index] if index < len(names) else str(index),
            reason=str(fault),
        )
        self._on_fact(DecisionRefused(timeline.duty, index))

    def _group_arrived(self, group: GroupSigned) -> None:
        duty = group.duty
        if ROWS[duty.type].group_goes_to is not GroupGoesTo.BEACON_NODE:
            return  # who waits for it has asked the signatures actor
        run = self._running.get(duty)
        if run is None:
            if self.is_over(duty):
                return
            # A threshold signed a duty that we don't know or had finished: it is broadcast all the same (05 §3).
            run = self._start(self._kinds[duty.type], duty, len(group.signed), None)
        try:
            run.submit(group.signed)
        except trio.BrokenResourceError:  # the duty is just being ended: all is submitted, or its deadline has passed
            log.info("Group signatures come too late", duty=str(duty))
        except trio.WouldBlock:
            log.error("Group signatures could not be queued for the beacon node", duty=str(duty))

    async def _prepare_proposers(self, epoch: int) -> None:
        """Tell the beacon nodes who gets the fees, once an epoch (07 §5.10). Each slot a try, until the epoch is over."""
        warned = False
        while self._chain.epoch_of(self.slot_now()) <= epoch:
            try:
                validators = await self._beacon.ask(ClusterValidators())
                known = tuple(
                    (validator.index, recipient)
                    for validator in validators
                    if validator.status.startswith("active")
                    and (recipient := self._settings.fee_recipients.get(validator.pubkey))
                )
                if known:
                    await self._beacon.ask(PrepareProposers(preparations=known))
                return
            except (BeaconFault, Retryable) as fault:
                if not warned:
                    log.warning("The beacon node did not take the fee recipients", epoch=epoch, reason=str(fault))
                warned = True
                if isinstance(fault, BeaconFault) and not fault.retryable and 400 <= (fault.status or 0) < 500:
                    return
            await trio.sleep(self._chain.slot_duration_s)


def _address(text: str) -> bytes:
    """20 bytes; empty for what is no address, as in locks of the first versions, which don't check it."""
    try:
        address = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        return b""
    return address if len(address) == ADDRESS_BYTES else b""
