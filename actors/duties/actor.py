"""Duties: the slot clock. Resolves who has to do what, starts a task a duty, ends it at its deadline, serves what was decided.

Accepts     AwaitAttestationData, AwaitProposal, ProposalsInHand, ProposerOf, PubkeyOfAttester, AttesterAt (ask) · GroupArrived,
            ChainReorganised (tell)
Emits       DutyEnded to the `on_ended` it was made with, once a duty; each slot as it starts to `on_slot`; BlockFetched to `on_block`;
            DecisionRefused to `on_refused`
Owns        duty definitions of the last epochs, decided values, one task a duty
May touch   the beacon, consensus and signatures actors. Not: sockets, disk, another actor's state
Mailbox     4096, policy `reject`
Cancelled   duties in flight end; what a threshold signed stays with the signatures actor and the peers
Restart     resolves the current epoch anew; decided values are gone, the validator clients' requests get ActorDown and are repeated.
            Consensus does not join duties that began before it started, so nothing is voted twice (06 §10)
Source      specification 05-core-workflow §5 (scheduler), §7 (decided values), §15; 06 §8

Timing of an epoch: its duties are resolved when its first slot comes into sight, that is in the last slot of the epoch before, whether
or not that slot has a duty (05 §21.1), and again at once after a reorganisation that goes back behind it. Until then what was known
holds, and what has begun stays as it began: its slot keeps its definitions. Who asks for what is just being read for the first time
waits, up to PATIENCE_SLOTS. One task at a time reads an epoch's duties; who else needs them joins it.

Reorganisations may come without end. REREADS readings begin at once, after that one each half slot; an answer that a reorganisation has
overtaken is asked for again FRESH_TRIES times and then taken as it is, and read again when its turn comes. So no duty that was known
is lost, and an epoch that begins gets its duties, whatever the chain is said to do.

Limits: MAX_WAITING questions wait for duties, as many for decided values; MAX_BATCHES batches of group signatures for each duty.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar, assert_never

import msgspec
import structlog
import trio

from actors.beacon import (
    AttesterDuties,
    BeaconFault,
    ClusterValidators,
    PrepareProposers,
    ProposerDefinition,
    ProposerDuties,
    SyncStatus,
)
from actors.beacon import Message as BeaconMessage
from actors.consensus import DeadlinePassed
from actors.consensus import Message as ConsensusMessage
from actors.duties.decided import MAX_WAITING, ClashingValue, DecidedValues
from actors.duties.messages import (
    AttesterAt,
    AwaitAttestationData,
    AwaitProposal,
    BlockFetched,
    ChainReorganised,
    DecisionRefused,
    DutyEnded,
    GroupArrived,
    Message,
    NoDuty,
    NotReady,
    ProposalsInHand,
    ProposerOf,
    PubkeyOfAttester,
    UnknownValidator,
)
from actors.duties.sources import Sources
from actors.duties.story import DutyContext, Timeline, attest, propose, submit
from actors.mailbox import Address, Inbox, Reply
from actors.off_loop import Elsewhere, OffLoop
from actors.signatures import DutyExpired, GroupSigned
from actors.signatures import Message as SignaturesMessage
from charon_actors.crypto import Check
from charon_actors.errors import Retryable
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType, deadline_s, is_over, refusal, start_s
from charon_actors.eth2.signed_data import SignedData
from charon_actors.eth2.unsigned_data import AttestationData, AttesterDefinition, EncodingFault, Proposal, WrongValue
from charon_actors.exception_groups import leaves
from charon_actors.pace import Bucket
from charon_actors.profile import Profile

log = structlog.get_logger(topic="sched")

EPOCHS_KEPT: Final = 3  # 05 §5: definitions of epoch − 3 are dropped
RESOLVE_RETRY_S: Final = 1.0
REREADS: Final = 6  # two of a few epochs each
FRESH_TRIES: Final = 3
SLOT_GRACE_S: Final = 0.02
SYNC_POLL_S: Final = 1.0
MAX_BATCHES: Final = 256  # group signatures of one duty that wait to be submitted
ADDRESS_BYTES: Final = 20
PATIENCE_SLOTS: Final = 1 / 3  # a block asked for later than that comes too late anyway (05 §2)

T = TypeVar("T")
NOT_SERVED: Final = (WrongValue, ClashingValue, EncodingFault)  # the cluster has decided what may not be signed
EXPECTED: Final = (BeaconFault, Retryable, DeadlinePassed, DutyExpired, *NOT_SERVED)
Agreement = Callable[[Timeline], Awaitable[None]]


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


class Epoch(msgspec.Struct):
    """Duties of one epoch, by slot."""

    attesters: dict[int, dict[bytes, AttesterDefinition]] = {}
    proposers: dict[int, ProposerDefinition] = {}

    def keep(self, old: "Epoch", slot: int) -> None:
        """What has begun until `slot` stays as it was."""
        self.attesters |= {begun: duties for begun, duties in old.attesters.items() if begun <= slot}
        self.proposers |= {begun: duty for begun, duty in old.proposers.items() if begun <= slot}


class Running(msgspec.Struct):
    """A duty at work: `groups` takes what thresholds sign for it."""

    timeline: Timeline
    groups: trio.MemorySendChannel[Mapping[bytes, SignedData]]


class Duties:
    """One incarnation. on_slot: called with each slot as it starts; on_ended: with each duty's end; on_block: when we have a block;
    on_refused: when a decision isn't served. verify_all: of signatures, off the event loop or on it. off_loop: reads what was decided."""

    def __init__(
        self,
        settings: Settings,
        *,
        beacon: Address[BeaconMessage],
        consensus: Address[ConsensusMessage],
        signatures: Address[SignaturesMessage],
        wall_clock: Callable[[], float],
        verify_all: Callable[[Sequence[Check]], Awaitable[Sequence[bool]]],
        on_slot: Callable[[int, int], None] = lambda slot, active_validators: None,
        on_ended: Callable[[DutyEnded], None] = lambda ended: None,
        on_block: Callable[[BlockFetched], None] = lambda block: None,
        on_refused: Callable[[DecisionRefused], None] = lambda refused: None,
        off_loop: OffLoop | None = None,
    ) -> None:
        self._settings, self._chain, self._beacon = settings, settings.chain, beacon
        self._wall_clock, self._on_slot, self._on_ended, self._on_refused = wall_clock, on_slot, on_ended, on_refused
        self._decided = DecidedValues()
        self._epochs: dict[int, Epoch] = {}
        self._resolving: dict[int, trio.Event] = {}
        self._due_again: set[int] = set()  # epochs whose turn to be read again comes
        self._rereading: set[int] = set()  # epochs that are read once more in the next slot
        self._rereads = Bucket(REREADS, 2 / settings.chain.slot_duration_s)
        self._slot = -1
        self._begun: set[Duty] = set()  # of the current slot
        self._running: dict[Duty, Running] = {}
        self._active_validators = 0
        self._reorganisations = 0
        self._on = DutyContext(
            chain=settings.chain,
            beacon=beacon,
            consensus=consensus,
            signatures=signatures,
            put_attestations=self._decided.put_attestations,
            put_proposal=self._decided.put_proposal,
            graffiti=settings.graffiti,
            builder_boost=settings.builder_boost,
            fee_recipients=settings.fee_recipients,
            paid=settings.paid(),
            sources=Sources(settings.chain, beacon, wall_clock),
            verify_all=verify_all,
            on_block=on_block,
            off_loop=off_loop or Elsewhere(),
        )

    async def run(self, inbox: Inbox[Message]) -> None:
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._keep_time)
            async for mail in inbox:
                match mail.message:
                    case AwaitAttestationData(slot, committee_index) as request:
                        self._await_attestation_data(slot, committee_index, mail.reply_to(request))
                    case AwaitProposal(slot) as request:
                        self._await_proposal(slot, mail.reply_to(request))
                    case ProposalsInHand() as in_hand:
                        self._answer(self._clock_slot(), mail.reply_to(in_hand), self._proposals_in_hand)
                    case ProposerOf() as proposer:
                        self._answer(proposer.slot, mail.reply_to(proposer), partial(self._proposer_of, proposer))
                    case PubkeyOfAttester() as attester:
                        self._answer(attester.slot, mail.reply_to(attester), partial(self._pubkey_of_attester, attester))
                    case AttesterAt() as place:
                        self._answer(place.slot, mail.reply_to(place), partial(self._attester_at, place))
                    case GroupArrived(group):
                        self._group_arrived(group)
                    case ChainReorganised(epoch):
                        self._reorganised(epoch)
                    case unknown:
                        assert_never(unknown)
            self._nursery.cancel_scope.cancel()

    # what the validator API asks

    def _await_attestation_data(self, slot: int, committee_index: int, reply: Reply[AttestationData]) -> None:
        epoch = self._epochs.get(self._chain.epoch_of(slot))
        if epoch is not None and slot not in epoch.attesters:
            reply.fail(NoDuty(f"no validator of the cluster attests in slot {slot}"))
        elif reason := self._refusal(Duty(slot, DutyType.ATTESTER)):
            reply.fail(NoDuty(reason))
        else:
            self._decided.await_attestation_data(slot, committee_index, reply)

    def _await_proposal(self, slot: int, reply: Reply[Proposal]) -> None:
        epoch = self._epochs.get(self._chain.epoch_of(slot))
        if epoch is not None and slot not in epoch.proposers:
            reply.fail(NoDuty(f"no validator of the cluster proposes in slot {slot}"))
        elif reason := self._refusal(Duty(slot, DutyType.PROPOSER)):
            reply.fail(NoDuty(reason))
        else:
            self._decided.await_proposal(slot, reply)

    def _answer(self, slot: int, reply: Reply[T], look_up: Callable[[], T]) -> None:
        """Now, or once the duties are there that are just being read for the first time."""
        epoch = self._chain.epoch_of(slot)
        resolved = None if epoch in self._epochs else self._resolving.get(epoch)
        if resolved is not None and resolved.statistics().tasks_waiting >= MAX_WAITING:
            resolved = None

        async def answer() -> T:
            if resolved is not None:
                with trio.move_on_after(PATIENCE_SLOTS * self._chain.slot_duration_s):
                    await resolved.wait()
            return look_up()

        self._nursery.start_soon(partial(reply.answer, answer, errors=(NoDuty, NotReady, UnknownValidator)))

    def _known(self, slot: int) -> Epoch:
        epoch = self._epochs.get(self._chain.epoch_of(slot))
        if epoch is None:
            raise NotReady(f"the duties of epoch {self._chain.epoch_of(slot)} are not known yet")
        return epoch

    def _proposals_in_hand(self) -> tuple[Proposal, ...]:
        now = self._clock_slot()
        slots = [slot for slot in (now - 1, now, now + 1) if slot >= 0 and not self._is_over(Duty(slot, DutyType.PROPOSER))]
        found = self._decided.proposals(slots)
        epochs = {slot: self._epochs.get(self._chain.epoch_of(slot)) for slot in slots}
        if not found and not any(epoch is not None and slot in epoch.proposers for slot, epoch in epochs.items()):
            self._known(now)
            raise NoDuty("no validator of the cluster proposes now")
        return found

    def _clock_slot(self) -> int:
        return max(self._chain.slot_at(self._wall_clock()), 0)

    def _proposer_of(self, asked: ProposerOf) -> bytes:
        proposer = self._known(asked.slot).proposers.get(asked.slot)
        if proposer is None:
            raise NoDuty(f"no validator of the cluster proposes in slot {asked.slot}")
        return proposer.pubkey

    def _pubkey_of_attester(self, asked: PubkeyOfAttester) -> bytes:
        for pubkey, duty in self._known(asked.slot).attesters.get(asked.slot, {}).items():
            if duty.validator_index == asked.validator_index and asked.committee_index in (0, duty.committee_index):
                return pubkey
        raise UnknownValidator(
            f"validator {asked.validator_index} of the cluster has no duty in slot {asked.slot}, committee {asked.committee_index}"
        )

    def _attester_at(self, asked: AttesterAt) -> AttesterDefinition:
        for duty in self._known(asked.slot).attesters.get(asked.slot, {}).values():
            if (duty.committee_index, duty.validator_committee_index) == (asked.committee_index, asked.position):
                return duty
        raise UnknownValidator(
            f"no validator of the cluster is at position {asked.position} of committee {asked.committee_index} in slot {asked.slot}"
        )

    # the clock

    async def _keep_time(self) -> None:
        await self._sleep_until(self._chain.genesis_time_s)
        await self._wait_for_sync()
        slot = max(self._chain.slot_at(self._wall_clock()), 0)
        prepared: int | None = None
        while True:
            epoch = self._chain.epoch_of(slot)
            self._slot = slot
            self._begun.clear()
            self._on_slot(slot, self._active_validators)
            if prepared is None:
                self._nursery.start_soon(self._prepare_proposers, epoch)
            elif prepared != epoch:
                self._nursery.start_soon(self._in_mid_slot, slot, partial(self._prepare_proposers, epoch))
            prepared = epoch
            self._expire(slot)
            if epoch not in self._epochs:
                await self._resolve(epoch)
            self._start_duties(slot)
            if self._chain.epoch_of(slot + 1) > epoch and epoch + 1 not in self._epochs:
                self._nursery.start_soon(self._in_mid_slot, slot, partial(self._resolve, epoch + 1))
            await self._sleep_until(self._chain.slot_start_s(slot + 1))
            slot = max(slot + 1, self._chain.slot_at(self._wall_clock()))  # missed slots are never replayed

    async def _sleep_until(self, unix_s: float) -> None:
        while (left_s := unix_s - self._wall_clock()) > 0:
            await trio.sleep(min(left_s, 60.0))  # the wall clock may be set meanwhile

    async def _in_mid_slot(self, slot: int, what: Callable[[], Awaitable[None]]) -> None:
        """What can wait doesn't compete with the slot's own duties."""
        await self._sleep_until(self._chain.slot_start_s(slot) + self._chain.slot_duration_s / 2)
        await what()

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

    def _reorganised(self, epoch: int) -> None:
        """Later duties may have changed: read them again at once. Whoever is reading already notices by the count."""
        self._reorganisations += 1
        if later := [known for known in self._epochs if known > epoch]:
            log.warning("The chain was reorganised, reading duties again", epoch=epoch)
        for known in later:
            if known not in self._resolving:
                self._read_again(known)

    def _read_again(self, epoch: int) -> None:
        if epoch not in self._due_again:
            self._due_again.add(epoch)
            self._nursery.start_soon(self._resolve_again, epoch)

    async def _resolve_again(self, epoch: int) -> None:
        """At once, or when its turn comes; and in the next slot: by then every beacon node has heard of the new chain."""
        try:
            await trio.sleep(self._rereads.spend(trio.current_time()))
        finally:
            self._due_again.discard(epoch)
        await self._resolve(epoch)
        if self._chain.epoch_of(self._slot) == epoch:
            self._start_duties(self._slot)  # those that nobody knew of when the slot began
        if epoch not in self._rereading:
            self._rereading.add(epoch)
            try:
                await self._in_mid_slot(self._slot + 1, partial(self._resolve, epoch))
            finally:
                self._rereading.discard(epoch)

    async def _resolve(self, epoch: int) -> None:
        """Know who does what in `epoch`, or that it is over."""
        if (resolving := self._resolving.get(epoch)) is not None:
            await resolving.wait()
            return
        resolved = self._resolving[epoch] = trio.Event()
        try:
            await self._read_duties(epoch)
        finally:
            del self._resolving[epoch]
            resolved.set()

    async def _read_duties(self, epoch: int) -> None:
        """Tries until the epoch is over; a slot's duties come too late rather than never."""
        warned, tries = False, 0
        while self._chain.slot_at(self._wall_clock()) < self._chain.first_slot(epoch + 1):
            before = self._reorganisations
            try:
                resolved = await self._ask_for_duties(epoch)
                if self._reorganisations != before:  # the answer may be about the chain before
                    tries += 1
                    if tries < FRESH_TRIES:
                        continue
                    self._read_again(epoch)
                resolved.keep(self._epochs.get(epoch, Epoch()), self._slot)
                self._epochs[epoch] = resolved
                slots = range(self._chain.first_slot(epoch), self._chain.first_slot(epoch + 1))
                self._decided.release(slots, resolved.attesters, resolved.proposers)
                return
            except (BeaconFault, Retryable) as fault:
                if not warned:
                    log.warning("Duties can't be read, trying again", epoch=epoch, reason=str(fault))
                warned = True
            # again in a second, but by all means as soon as the next slot starts: it may begin the epoch, with a proposal of ours
            now = self._wall_clock()
            await self._sleep_until(
                min(now + RESOLVE_RETRY_S, self._chain.slot_start_s(self._chain.slot_at(now) + 1) + SLOT_GRACE_S)
            )

    async def _ask_for_duties(self, epoch: int) -> Epoch:
        validators = await self._beacon.ask(ClusterValidators())
        active = {
            validator.index: validator.pubkey
            for validator in validators
            if validator.status.startswith("active") or validator.activation_epoch == epoch
        }
        self._active_validators = len(active)
        resolved = Epoch()
        if not active:
            log.warning("No validator of the cluster is active", epoch=epoch)
            return resolved
        attesters = await self._beacon.ask(AttesterDuties(epoch=epoch, indices=tuple(sorted(active))))
        proposers = await self._beacon.ask(ProposerDuties(epoch=epoch))
        for duty in attesters.duties:
            if active.get(duty.validator_index) == duty.pubkey:
                resolved.attesters.setdefault(duty.slot, {})[duty.pubkey] = duty
        for duty in proposers.duties:
            if active.get(duty.validator_index) == duty.pubkey:
                resolved.proposers[duty.slot] = duty
        log.info("Duties resolved", epoch=epoch, attester_slots=len(resolved.attesters), proposals=sorted(resolved.proposers))
        return resolved

    def _start_duties(self, slot: int) -> None:
        epoch = self._epochs.get(self._chain.epoch_of(slot))
        if epoch is None:
            return
        if proposer := epoch.proposers.get(slot):
            self._start(Duty(slot, DutyType.PROPOSER), 1, lambda timeline: propose(proposer, self._on, timeline))
        if attesters := epoch.attesters.get(slot):
            self._start(Duty(slot, DutyType.ATTESTER), len(attesters), lambda timeline: attest(attesters, self._on, timeline))

    def _start(self, duty: Duty, expected: int, agreement: Agreement) -> None:
        if duty not in self._running and duty not in self._begun and not self._is_over(duty):
            self._begun.add(duty)
            send, receive = trio.open_memory_channel[Mapping[bytes, SignedData]](MAX_BATCHES)
            running = self._running[duty] = Running(Timeline(duty, self._wall_clock), send)
            self._nursery.start_soon(self._live, running, expected, agreement, receive, name=f"duty {duty}")

    async def _live(
        self,
        running: Running,
        expected: int,
        agreement: Agreement | None,
        groups: trio.MemoryReceiveChannel[Mapping[bytes, SignedData]],
    ) -> None:
        """One duty from its start to its end; nothing that goes wrong here leaves it."""
        timeline, duty = running.timeline, running.timeline.duty
        succeeded, latency_s, is_told, is_agreed = 0, None, False, agreement is None
        begin_s = start_s(duty, self._chain)

        def count(validators: int) -> None:
            nonlocal succeeded, latency_s
            succeeded += validators
            latency_s = self._wall_clock() - begin_s

        def leave() -> None:
            """What comes from now on begins anew; what is queued is still submitted."""
            if is_told and is_agreed:
                self._forget(running)

        async def agree_on() -> None:
            nonlocal is_agreed
            assert agreement is not None
            try:
                await agreement(timeline)
            except (Exception, ExceptionGroup) as error:
                for leaf in leaves(error):
                    timeline.fault(leaf)
                    if isinstance(leaf, NOT_SERVED):
                        self._refuse(timeline, leaf)
                    elif not isinstance(leaf, EXPECTED):
                        log.exception("A duty failed by a fault of ours", duty=str(duty), exc_info=leaf)
            is_agreed = True
            leave()

        def end() -> None:
            nonlocal is_told
            if is_told:
                return
            is_told = True
            reason = None if succeeded >= expected else "; ".join(timeline.faults) or WHY_IT_STOPPED.get(timeline.at, timeline.at)
            self._on_ended(DutyEnded(duty, timeline.at, expected, succeeded, latency_s, reason))
            if reason is None:
                log.debug("Duty done", duty=str(duty), ms_after_start=timeline.since(begin_s))
            else:
                log.warning(
                    "Duty failed", duty=str(duty), step=timeline.at, succeeded=succeeded, expected=expected, reason=reason
                )
            leave()

        deadline = deadline_s(duty, self._chain, self._settings.profile)
        try:
            with trio.move_on_after(math.inf if deadline is None else max(deadline - self._wall_clock(), 0)):
                if agreement is not None:
                    await self._sleep_until(begin_s)
                async with trio.open_nursery() as nursery, groups:
                    if agreement is not None:
                        # It goes on when the peers were done without us: our client waits for what was decided.
                        nursery.start_soon(agree_on)
                    await submit(groups, expected, self._on, timeline, count, end)
        except (Exception, ExceptionGroup) as error:
            for leaf in leaves(error):
                timeline.fault(leaf)
        finally:
            self._forget(running)
        self._decided.give_up(duty)  # not when this incarnation dies: then who waits gets ActorDown and may ask again
        end()

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
        self._on_refused(DecisionRefused(timeline.duty, index))

    def _forget(self, running: Running) -> None:
        if self._running.get(running.timeline.duty) is running:
            del self._running[running.timeline.duty]
        running.groups.close()

    def _group_arrived(self, group: GroupSigned) -> None:
        running = self._running.get(group.duty)
        if running is None:
            if group.duty.type is DutyType.RANDAO or self._is_over(group.duty):
                return
            # A threshold signed a duty that we don't know or had finished: it is broadcast all the same (05 §3).
            send, receive = trio.open_memory_channel[Mapping[bytes, SignedData]](MAX_BATCHES)
            running = self._running[group.duty] = Running(Timeline(group.duty, self._wall_clock), send)
            self._nursery.start_soon(self._live, running, len(group.signed), None, receive, name=f"duty {group.duty}")
        try:
            running.groups.send_nowait(group.signed)
        except trio.BrokenResourceError:  # the duty is just being ended: all is submitted, or its deadline has passed
            log.info("Group signatures come too late", duty=str(group.duty))
        except trio.WouldBlock:
            log.error("Group signatures could not be queued for the beacon node", duty=str(group.duty))

    async def _prepare_proposers(self, epoch: int) -> None:
        """Tell the beacon nodes who gets the fees, once an epoch (07 §5.10). Each slot a try, until the epoch is over."""
        warned = False
        while self._chain.epoch_of(self._chain.slot_at(self._wall_clock())) <= epoch:
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

    def _refusal(self, duty: Duty) -> str | None:
        """Over, or beyond what anybody can know of: a client on another chain must not fill our lists."""
        return refusal(duty, self._chain, self._settings.profile, self._wall_clock())

    def _is_over(self, duty: Duty) -> bool:
        return is_over(duty, self._chain, self._settings.profile, self._wall_clock())

    def _expire(self, slot: int) -> None:
        attestations_until = slot - self._chain.slots_per_epoch - 1
        self._decided.expire(attestations_until, slot - 1)
        for epoch in [known for known in self._epochs if known <= self._chain.epoch_of(slot) - EPOCHS_KEPT]:
            del self._epochs[epoch]


def _address(text: str) -> bytes:
    """20 bytes; empty for what is no address, as in locks of the first versions, which don't check it."""
    try:
        address = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        return b""
    return address if len(address) == ADDRESS_BYTES else b""


WHY_IT_STOPPED: Final = {
    "start": "the deadline passed before anything happened",
    "randao": "no threshold of validator clients asked for the block in time",
    "fetch": "the beacon node did not answer in time",
    "agree": "the peers did not agree in time",
    "serve": "no threshold of validator clients signed in time",
    "collect": "for some validators no threshold of validator clients signed in time",
    "submit": "the beacon node did not accept it in time",
}
