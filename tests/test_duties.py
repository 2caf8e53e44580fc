"""The duties actor on a virtual clock, between three small actors that stand in for beacon, consensus and signatures."""

import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from actors.beacon import (
    AttesterDuties,
    BeaconFault,
    BeaconUnavailable,
    ClusterValidators,
    DutiesAnswer,
    FetchAttestationData,
    PrepareProposers,
    ProduceBlock,
    ProposerDefinition,
    ProposerDuties,
    SubmitAttestations,
    SubmitProposal,
    SyncState,
    SyncStatus,
    ValidatorInfo,
)
from actors.beacon import Message as BeaconMessage
from actors.consensus import Agree, DeadlinePassed, ProposeValue
from actors.consensus import Message as ConsensusMessage
from actors.duties import (
    AttesterAt,
    AwaitAttestationData,
    AwaitProposal,
    ChainReorganised,
    Duties,
    DutyEnded,
    GroupArrived,
    Message,
    NoDuty,
    NotReady,
    ProposerOf,
    PubkeyOfAttester,
    Settings,
    UnknownValidator,
)
from actors.duties.decided import ClashingValue, DecidedValues
from actors.mailbox import ActorDown, Address, Inbox, Mailbox, MailboxFull, Reply, Request, open_actor, run_incarnation
from actors.signatures import AwaitGroupSignature, GroupSigned
from actors.signatures import Message as SignaturesMessage
from charon_actors.eth2 import containers
from charon_actors.eth2.chain import Chain, ForkEntry
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signed_data import SignedData, SignedProposal, SignedRandao, VersionedAttestation
from charon_actors.eth2.unsigned_data import (
    AttestationData,
    AttestationUnsigned,
    AttesterDefinition,
    Proposal,
    decode_unsigned,
    encode_unsigned,
)
from supervisors.simulation.beacon_mock import zero_value

GENESIS_S, SLOT_S, SLOTS = 1_700_000_000.0, 12.0, 8
ALICE, BOB, CAROL = b"A" * 48, b"B" * 48, b"C" * 48
RANDAO = b"\x77" * 96


def chain_of(last_fork: Fork = Fork.FULU) -> Chain:
    return Chain(
        genesis_time_s=GENESIS_S,
        genesis_validators_root=bytes(32),
        slot_duration_s=SLOT_S,
        slots_per_epoch=SLOTS,
        fork_schedule=(ForkEntry(0, bytes([last_fork, 0, 0, 1])),),
        fork_epochs={fork: 0 for fork in Fork if fork <= last_fork},
        capella_fork_version=bytes([3, 0, 0, 1]),
    )


def info(pubkey: bytes, status: str = "active_ongoing", activation_epoch: int = 0) -> ValidatorInfo:
    return ValidatorInfo(pubkey[0], pubkey, status, activation_epoch, {})


def attester(pubkey: bytes, slot: int, committee: int = 3) -> AttesterDefinition:
    return AttesterDefinition(pubkey, slot, pubkey[0], committee, 64, 8, 5)


def attestation_data(slot: int, committee: int = 0, *, head: int = 0, target: int = 0) -> AttestationData:
    epoch = slot // SLOTS
    return AttestationData(slot, committee, bytes([head] * 32), max(epoch - 1, 0), bytes(32), epoch, bytes([target] * 32))


def block(slot: int, graffiti: bytes = b"", randao: bytes = RANDAO) -> Proposal:
    schema = containers.block_contents(Fork.FULU)
    value = zero_value(schema)
    value["block"]["slot"] = slot
    value["block"]["body"]["randao_reveal"] = randao
    value["block"]["body"]["graffiti"] = graffiti.ljust(32, b"\0")
    value["block"]["body"]["sync_aggregate"]["sync_committee_signature"] = bytes(96)
    return Proposal(Fork.FULU, False, schema.encode(value))


def signed_attestation(slot: int, pubkey: bytes = ALICE, fork: Fork = Fork.FULU) -> VersionedAttestation:
    single = {"committee_index": "3", "attester_index": str(pubkey[0]), "data": attestation_data(slot).to_json()}
    return VersionedAttestation.from_single_attestation_json(fork, {**single, "signature": "0x" + bytes(96).hex()})


def signed_block(slot: int) -> SignedProposal:
    schema = containers.signed_block_contents(Fork.FULU)
    value = zero_value(schema)
    value["signed_block"]["message"]["slot"] = slot
    value["signed_block"]["message"]["body"]["sync_aggregate"]["sync_committee_signature"] = bytes(96)
    return SignedProposal(Fork.FULU, False, schema.encode(value))


class Beacon:
    """Answers at once from what the test has set. `fault` is asked first, and may raise for any request."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.validators = [info(ALICE), info(BOB)]
        self.attesters: dict[int, list[AttesterDefinition]] = {}
        self.proposers: dict[int, dict[int, bytes]] = {}
        self.seen: list[tuple[float, Any]] = []
        self.fault: Callable[[Any], None] = lambda request: None
        self.is_syncing = False
        self.hanging: set[type] = set()
        self.kept: list[Reply[Any]] = []

    def saw(self, kind: type) -> list[Any]:
        return [request for _, request in self.seen if isinstance(request, kind)]

    def times_of(self, kind: type) -> list[float]:
        return [round(when, 3) for when, request in self.seen if isinstance(request, kind)]

    async def run(self, inbox: Inbox[BeaconMessage]) -> None:
        async for mail in inbox:
            reply: Reply[Any] = mail.reply_to(mail.message)
            self.seen.append((self._now(), mail.message))
            if type(mail.message) in self.hanging:
                self.kept.append(reply)
                continue
            try:
                self.fault(mail.message)
                reply.send(self._answer(mail.message))
            except BeaconFault as fault:
                reply.fail(fault)

    def _answer(self, request: BeaconMessage) -> Any:
        match request:
            case SyncStatus():
                return SyncState(self.is_syncing, 0, None, {})
            case ClusterValidators():
                return tuple(self.validators)
            case AttesterDuties(epoch, indices):
                duties = (duty for duty in self.attesters.get(epoch, []) if duty.validator_index in indices)
                return DutiesAnswer(tuple(duties), bytes(32), False)
            case ProposerDuties(epoch):
                found = (ProposerDefinition(key, key[0], slot) for slot, key in self.proposers.get(epoch, {}).items())
                return DutiesAnswer(tuple(found), bytes(32), False)
            case FetchAttestationData(slot, committee_index):
                return attestation_data(slot, committee_index, head=9)
            case ProduceBlock(slot, randao, graffiti):
                return block(slot, graffiti, randao)
            case _:
                return None


class Consensus:
    """Agrees on what the test decides; with `follows`, on our own proposal."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.joined: dict[Duty, float] = {}
        self.proposed: dict[Duty, dict[str, bytes]] = {}
        self.follows = True
        self._decided: dict[Duty, dict[str, bytes]] = {}
        self._askers: dict[Duty, list[Reply[dict[str, bytes]]]] = {}

    async def run(self, inbox: Inbox[ConsensusMessage]) -> None:
        async for mail in inbox:
            match mail.message:
                case Agree(duty) as request:
                    self.joined.setdefault(duty, self._now())
                    self._askers.setdefault(duty, []).append(mail.reply_to(request))
                case ProposeValue(duty, value):
                    self.proposed[duty] = value
                    if self.follows:
                        self._decided.setdefault(duty, value)
                case _:
                    raise AssertionError("not used here")
            self._answer()

    def decide(self, duty: Duty, value: dict[str, bytes]) -> None:
        self._decided[duty] = value
        self._answer()

    def fail(self, duty: Duty) -> None:
        for reply in self._askers.pop(duty):
            reply.fail(DeadlinePassed(str(duty)))

    def _answer(self) -> None:
        for duty in self._decided:
            for reply in self._askers.pop(duty, []):
                reply.send(dict(self._decided[duty]))


class Signatures:
    """Has the group randaos that the test gives."""

    def __init__(self) -> None:
        self.randaos: dict[int, SignedData] = {}
        self.waiting: dict[int, list[Reply[SignedData]]] = {}

    async def run(self, inbox: Inbox[SignaturesMessage]) -> None:
        async for mail in inbox:
            request = mail.message
            assert isinstance(request, AwaitGroupSignature), "nothing else is asked here"
            assert request.duty.type is DutyType.RANDAO, "a story waits for no other signature"
            self.waiting.setdefault(request.duty.slot, []).append(mail.reply_to(request))
            self._answer()

    def randao(self, slot: int) -> None:
        self.randaos[slot] = SignedRandao(slot // SLOTS, RANDAO)
        self._answer()

    def _answer(self) -> None:
        for slot, randao in self.randaos.items():
            for reply in self.waiting.pop(slot, []):
                reply.send(randao)


class Rig:
    """wall: what the node's clock shows beside Trio's; a test may set it forward."""

    def __init__(self, chain: Chain, slot: float) -> None:
        self.chain = chain
        self.wall = GENESIS_S + slot * SLOT_S - trio.current_time()
        self.beacon, self.consensus, self.signatures = Beacon(self.now), Consensus(self.now), Signatures()
        self.slots: list[tuple[int, int]] = []
        self.ended: list[DutyEnded] = []
        self.address: Address[Message]
        self._neighbours: tuple[Address[Any], ...]

    def now(self) -> float:
        """Unix seconds."""
        return self.wall + trio.current_time()

    def at(self, slot: float) -> float:
        """Unix seconds of the `slot`'s start."""
        return GENESIS_S + slot * SLOT_S

    async def until(self, slot: float) -> None:
        """Sleep until just after the start of `slot` (a fraction is a part of a slot), and until everything has settled."""
        await trio.sleep(max(self.at(slot) - self.now(), 0) + 0.001)
        await settle()

    def group(self, slot: int, signed: Mapping[bytes, SignedData], kind: DutyType = DutyType.ATTESTER) -> None:
        self.address.tell(GroupArrived(GroupSigned(Duty(slot, kind), signed)))

    def duties(self) -> Duties:
        beacon, consensus, signatures = self._neighbours
        return Duties(
            Settings(
                chain=self.chain,
                fee_recipients={ALICE: "0xA11ce", BOB: "0xB0b"},
                graffiti=lambda pubkey: pubkey[:1].ljust(32, b"\0"),
                builder_boost=7,
            ),
            beacon=beacon,
            consensus=consensus,
            signatures=signatures,
            wall_clock=self.now,
            on_slot=lambda slot, active: self.slots.append((slot, active)),
            on_ended=self.ended.append,
        )

    @property
    def only_end(self) -> DutyEnded:
        [ended] = self.ended
        return ended


async def settle() -> None:
    """Until every task waits for something."""
    await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def rig_of(
    prepare: Callable[[Rig], None] = lambda rig: None, *, slot: float = 8, last_fork: Fork = Fork.FULU, runs: bool = True
) -> AsyncIterator[Rig]:
    """The actor at work, from the start of `slot` on."""
    rig = Rig(chain_of(last_fork), slot)
    prepare(rig)
    async with (
        open_actor(Mailbox[BeaconMessage]("beacon"), lambda: rig.beacon) as beacon,
        open_actor(Mailbox[ConsensusMessage]("consensus"), lambda: rig.consensus) as consensus,
        open_actor(Mailbox[SignaturesMessage]("signatures"), lambda: rig.signatures) as signatures,
    ):
        rig._neighbours = (beacon, consensus, signatures)
        mailbox = Mailbox[Message]("duties", 4096)
        rig.address = mailbox.address
        if not runs:
            yield rig
            return
        async with open_actor(mailbox, rig.duties):
            await settle()
            yield rig


def down(request: Any) -> None:
    """A beacon node that nobody reaches, whatever is asked."""
    raise BeaconUnavailable(None, "connection refused")


class Asked:
    """The outcome of a request that was asked in the background."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: Exception | None = None
        self.is_over = False
        self.at: float | None = None

    async def ask(self, rig: Rig, request: Request[Any]) -> None:
        try:
            self.value = await rig.address.ask(request)
        except Exception as error:  # the test looks at it
            self.error = error
        self.is_over, self.at = True, rig.now()


Clock = trio.testing.MockClock

# the stories


def two_attesters(rig: Rig) -> None:
    rig.beacon.attesters[1] = [attester(ALICE, 9, committee=3), attester(BOB, 9, committee=4)]


async def test_an_attestation_from_the_duty_to_the_beacon_node(autojump_clock: Clock) -> None:
    duty = Duty(9, DutyType.ATTESTER)
    async with rig_of(two_attesters) as rig, trio.open_nursery() as nursery:
        await rig.until(9)
        waiting = Asked()
        nursery.start_soon(waiting.ask, rig, AwaitAttestationData(9, 3))
        await rig.until(9.3)
        assert not rig.consensus.joined, "an attester duty begins at a third of the slot"
        await rig.until(9.34)
        assert rig.consensus.joined[duty] == pytest.approx(rig.at(9) + SLOT_S / 3)
        assert rig.beacon.saw(FetchAttestationData) == [FetchAttestationData(9, 0)], "one request for all committees (05 §6)"
        values = {key: decode_unsigned(DutyType.ATTESTER, value) for key, value in rig.consensus.proposed[duty].items()}
        assert values == {
            "0x" + ALICE.hex(): AttestationUnsigned(attestation_data(9, head=9), attester(ALICE, 9, 3)),
            "0x" + BOB.hex(): AttestationUnsigned(attestation_data(9, head=9), attester(BOB, 9, 4)),
        }
        assert waiting.value == attestation_data(9, head=9)
        assert await rig.address.ask(AwaitAttestationData(9, 0)) == attestation_data(9, head=9), "index 0 is served as well"
        assert not rig.ended
        signed: dict[bytes, SignedData] = {ALICE: signed_attestation(9, ALICE), BOB: signed_attestation(9, BOB)}
        await rig.until(9.5)
        rig.group(9, signed)
        await settle()
        assert rig.beacon.saw(SubmitAttestations) == [SubmitAttestations(Fork.FULU, tuple(signed.values()))]  # type: ignore[arg-type]
        ended = rig.only_end
        assert (ended.duty, ended.step, ended.expected, ended.succeeded, ended.reason) == (duty, "done", 2, 2, None)
        assert ended.latency_s == pytest.approx(SLOT_S * (0.5 - 1 / 3), abs=0.01), "from the duty's start"


async def test_before_electra_each_committee_has_its_own_attestation_data(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters, last_fork=Fork.DENEB) as rig:
        await rig.until(9.4)
        assert rig.beacon.saw(FetchAttestationData) == [FetchAttestationData(9, 3), FetchAttestationData(9, 4)]
        assert (await rig.address.ask(AwaitAttestationData(9, 4))).index == 4


async def test_each_fork_of_a_batch_is_submitted_by_itself(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        await rig.until(9.4)
        rig.group(9, {ALICE: signed_attestation(9, ALICE), BOB: signed_attestation(9, BOB, Fork.ELECTRA)})
        await settle()
        assert [(call.fork, len(call.attestations)) for call in rig.beacon.saw(SubmitAttestations)] == [
            (Fork.FULU, 1),
            (Fork.ELECTRA, 1),
        ]


def proposer(rig: Rig) -> None:
    rig.beacon.proposers[1] = {9: ALICE}


async def test_a_block_from_the_randao_to_the_beacon_node(autojump_clock: Clock) -> None:
    duty = Duty(9, DutyType.PROPOSER)
    async with rig_of(proposer) as rig, trio.open_nursery() as nursery:
        await rig.until(9)
        assert rig.consensus.joined[duty] == pytest.approx(rig.at(9), abs=0.01)
        assert await rig.address.ask(ProposerOf(9)) == ALICE
        waiting = Asked()
        nursery.start_soon(waiting.ask, rig, AwaitProposal(9))
        await rig.until(9.1)
        assert not rig.beacon.saw(ProduceBlock), "no block without the group's randao"
        rig.signatures.randao(9)
        await settle()
        assert rig.beacon.saw(ProduceBlock) == [ProduceBlock(9, RANDAO, b"A".ljust(32, b"\0"), 7)]
        assert waiting.value == block(9, b"A")
        rig.group(9, {ALICE: signed_block(9)}, DutyType.PROPOSER)
        await settle()
        assert rig.beacon.saw(SubmitProposal) == [SubmitProposal(signed_block(9))]
        assert (rig.only_end.step, rig.only_end.succeeded, rig.only_end.reason) == ("done", 1, None)


async def test_our_beacon_node_refuses_but_the_peers_decide_and_the_duty_succeeds(autojump_clock: Clock) -> None:
    def refuse(request: Any) -> None:
        if isinstance(request, FetchAttestationData):
            raise BeaconFault(400, "no data here")

    duty = Duty(9, DutyType.ATTESTER)
    async with rig_of(two_attesters) as rig:
        rig.beacon.fault = refuse
        await rig.until(9.4)
        assert duty not in rig.consensus.proposed
        assert rig.beacon.saw(FetchAttestationData) == [FetchAttestationData(9, 0)], "what repeating can't mend is not repeated"
        peers = {
            "0x" + key.hex(): encode_unsigned(AttestationUnsigned(attestation_data(9, head=5), attester(key, 9)))
            for key in (ALICE, BOB)
        }
        rig.consensus.decide(duty, peers)
        assert await rig.address.ask(AwaitAttestationData(9, 3)) == attestation_data(9, head=5)
        rig.group(9, {ALICE: signed_attestation(9, ALICE), BOB: signed_attestation(9, BOB)})
        await settle()
        assert (rig.only_end.step, rig.only_end.reason) == ("done", None)


async def test_a_beacon_node_that_is_down_is_asked_again_until_it_is_back(autojump_clock: Clock) -> None:
    duty = Duty(9, DutyType.ATTESTER)
    async with rig_of(two_attesters) as rig:
        back_s = rig.at(9.9)

        def down(request: Any) -> None:
            if isinstance(request, FetchAttestationData | SubmitAttestations) and rig.now() < back_s:
                raise BeaconUnavailable(None, "connection refused")

        rig.beacon.fault = down
        await rig.until(9.8)
        tries = rig.beacon.times_of(FetchAttestationData)
        gaps = [round(after - before, 2) for before, after in itertools.pairwise(tries)]
        assert gaps == [0.25, 0.4, 0.64, 1.02, 1.64], "250 ms, each time 1.6 times as long (05 §15)"
        assert duty not in rig.consensus.proposed
        await rig.until(10.4)
        assert duty in rig.consensus.proposed
        back_s = rig.at(11)
        rig.group(9, {ALICE: signed_attestation(9, ALICE), BOB: signed_attestation(9, BOB)})
        await rig.until(11.9)
        assert len(rig.beacon.saw(SubmitAttestations)) > 3
        assert (rig.only_end.step, rig.only_end.succeeded, rig.only_end.reason) == ("done", 2, None)


async def test_a_beacon_node_that_stays_down_is_asked_until_the_deadline_and_not_longer(autojump_clock: Clock) -> None:
    def down(request: Any) -> None:
        if isinstance(request, FetchAttestationData):
            raise BeaconUnavailable(None, "connection refused")

    async with rig_of(two_attesters) as rig, trio.open_nursery() as nursery:
        rig.beacon.fault = down
        waiting = Asked()
        nursery.start_soon(waiting.ask, rig, AwaitAttestationData(9, 3))
        await rig.until(9 + SLOTS)
        assert not rig.ended
        last = rig.beacon.times_of(FetchAttestationData)[-1]
        assert last > rig.at(9 + SLOTS - 1), "at most 12 s between two tries"
        await rig.until(9 + SLOTS + 1 / 12)
        ended = rig.only_end
        assert (ended.step, ended.succeeded, ended.latency_s) == ("fetch", 0, None)
        assert ended.reason == "fetch: connection refused"
        assert isinstance(waiting.error, NoDuty), "nobody waits longer than the duty"
        count = len(rig.beacon.saw(FetchAttestationData))
        await rig.until(9 + SLOTS + 3)
        assert len(rig.beacon.saw(FetchAttestationData)) == count


# group signatures nobody here has waited for


async def test_a_group_signature_of_a_duty_that_does_not_run_here_is_broadcast_all_the_same(autojump_clock: Clock) -> None:
    async with rig_of() as rig:
        rig.group(8, {CAROL: signed_attestation(8, CAROL)})
        await settle()
        assert [len(call.attestations) for call in rig.beacon.saw(SubmitAttestations)] == [1]
        ended = rig.only_end
        assert (ended.duty, ended.expected, ended.succeeded, ended.reason) == (Duty(8, DutyType.ATTESTER), 1, 1, None)


async def test_a_group_signature_with_the_beacon_node_down_is_broadcast_when_it_is_back(autojump_clock: Clock) -> None:
    async with rig_of() as rig:

        def down(request: Any) -> None:
            if isinstance(request, SubmitAttestations) and rig.now() < rig.at(12):
                raise BeaconUnavailable(None, "connection refused")

        rig.beacon.fault = down
        rig.group(8, {ALICE: signed_attestation(8, ALICE)})
        await rig.until(14)
        assert rig.only_end.succeeded == 1


async def test_group_randaos_and_group_signatures_after_the_deadline_go_nowhere(autojump_clock: Clock) -> None:
    async with rig_of(slot=20) as rig:
        rig.group(20, {ALICE: SignedRandao(2, RANDAO)}, DutyType.RANDAO)
        rig.group(11, {ALICE: signed_attestation(11)})
        rig.group(19, {ALICE: signed_block(19)}, DutyType.PROPOSER)
        await settle()
        assert not rig.ended
        assert not rig.beacon.saw(SubmitAttestations)
        assert not rig.beacon.saw(SubmitProposal)


async def test_a_group_signature_ends_a_duty_even_when_we_have_not_decided(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        rig.consensus.follows = False
        await rig.until(9.5)
        rig.group(9, {ALICE: signed_attestation(9, ALICE), BOB: signed_attestation(9, BOB)})
        await settle()
        assert (rig.only_end.step, rig.only_end.reason) == ("done", None)


async def test_one_refused_validator_keeps_no_other_from_being_broadcast(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        submitted: list[int | None] = []

        def refuse_alice(request: Any) -> None:
            if isinstance(request, SubmitAttestations):
                indices = [attestation.validator_index for attestation in request.attestations]
                if ALICE[0] in indices:
                    raise BeaconFault(400, "bad attestation")
                submitted.extend(indices)

        rig.beacon.fault = refuse_alice
        await rig.until(9.4)
        rig.group(9, {ALICE: signed_attestation(9, ALICE)})
        rig.group(9, {BOB: signed_attestation(9, BOB)})
        await rig.until(9.9)
        assert submitted == [BOB[0]]
        await rig.until(9 + SLOTS + 1)
        ended = rig.only_end
        assert (ended.expected, ended.succeeded, ended.reason) == (2, 1, "submit: bad attestation")


async def test_one_validator_twice_does_not_count_for_the_other_one(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        await rig.until(9.4)
        rig.group(9, {ALICE: signed_attestation(9, ALICE)})
        rig.group(9, {ALICE: signed_attestation(9, ALICE)})  # from a signatures actor that has been restarted
        await settle()
        assert not rig.ended
        rig.group(9, {BOB: signed_attestation(9, BOB)})
        await settle()
        assert (rig.only_end.succeeded, rig.only_end.reason) == (2, None)
        assert BOB[0] in [each.validator_index for call in rig.beacon.saw(SubmitAttestations) for each in call.attestations]


# why a duty failed


async def ends(rig: Rig) -> DutyEnded:
    await rig.until(9 + SLOTS + 1)
    return rig.only_end


async def test_reason_nobody_agrees(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        rig.consensus.follows = False
        ended = await ends(rig)
        assert (ended.step, ended.reason) == ("agree", "the peers did not agree in time")


async def test_reason_consensus_says_that_the_deadline_has_passed(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        rig.consensus.follows = False
        await rig.until(9.4)
        rig.consensus.fail(Duty(9, DutyType.ATTESTER))
        ended = await ends(rig)
        assert (ended.step, ended.reason) == ("agree", "agree: 9/attester")


async def test_reason_no_validator_client_signs(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        ended = await ends(rig)
        assert (ended.step, ended.reason) == ("serve", "no threshold of validator clients signed in time")


async def test_reason_some_validators_are_not_signed_for(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        await rig.until(9.4)
        rig.group(9, {ALICE: signed_attestation(9, ALICE)})
        ended = await ends(rig)
        assert (ended.step, ended.expected, ended.succeeded) == ("collect", 2, 1)
        assert ended.reason == "for some validators no threshold of validator clients signed in time"


async def test_reason_no_randao(autojump_clock: Clock) -> None:
    async with rig_of(proposer) as rig:
        ended = await ends(rig)
        assert (ended.step, ended.reason) == ("randao", "no threshold of validator clients asked for the block in time")


async def test_reason_the_beacon_node_takes_nothing(autojump_clock: Clock) -> None:
    def refuse(request: Any) -> None:
        if isinstance(request, SubmitProposal):
            raise BeaconFault(400, "invalid block")

    async with rig_of(proposer) as rig:
        rig.beacon.fault = refuse
        rig.signatures.randao(9)
        await rig.until(9.1)
        rig.group(9, {ALICE: signed_block(9)}, DutyType.PROPOSER)
        ended = await ends(rig)
        assert (ended.step, ended.succeeded, ended.reason) == ("submit", 0, "submit: invalid block")


async def test_reason_the_beacon_node_hangs(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        rig.beacon.hanging.add(FetchAttestationData)
        ended = await ends(rig)
        assert (ended.step, ended.reason) == ("fetch", "the beacon node did not answer in time")
        assert all(reply.is_abandoned for reply in rig.beacon.kept), "nobody works for a duty that is over"


async def test_reason_consensus_decides_rubbish(autojump_clock: Clock) -> None:
    def both(rig: Rig) -> None:
        two_attesters(rig)
        rig.beacon.attesters[1].append(attester(ALICE, 10))

    async with rig_of(both) as rig:
        rig.consensus.follows = False
        await rig.until(9.4)
        rig.consensus.decide(Duty(9, DutyType.ATTESTER), {"0x" + ALICE.hex(): b"rubbish"})
        rig.consensus.follows = True
        await rig.until(10.4)
        assert await rig.address.ask(AwaitAttestationData(10, 3)) == attestation_data(10, head=9), "other duties go on"
        ended = await ends(rig)
        assert ended.succeeded == 0
        assert ended.reason is not None
        assert ended.reason.startswith("agree: ")


async def test_reason_consensus_decides_two_things_for_one_committee(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        rig.consensus.follows = False
        await rig.until(9.4)
        clash = [
            AttestationUnsigned(attestation_data(9, head=1), attester(ALICE, 9)),
            AttestationUnsigned(attestation_data(9, head=2), attester(BOB, 9)),
        ]
        rig.consensus.decide(Duty(9, DutyType.ATTESTER), {f"0x{n}": encode_unsigned(value) for n, value in enumerate(clash)})
        ended = await ends(rig)
        assert ended.reason == "serve: slot 9, committee 3: two attestation data were decided"


# the clock


def busy(rig: Rig) -> None:
    """A proposal and an attestation in each slot of epochs 1 to 4."""
    for epoch in range(1, 5):
        slots = range(epoch * SLOTS, (epoch + 1) * SLOTS)
        rig.beacon.attesters[epoch] = [attester(ALICE, slot) for slot in slots]
        rig.beacon.proposers[epoch] = dict.fromkeys(slots, ALICE)


async def test_missed_slots_are_never_replayed(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig:
        await rig.until(9.5)
        rig.wall += 5 * SLOT_S  # the machine slept, or its clock was wrong
        await rig.until(15.5)
        assert [slot for slot, _ in rig.slots] == [8, 9, 15] or [slot for slot, _ in rig.slots] == [8, 9, 14, 15]
        begun = {duty.slot for duty in rig.consensus.joined}
        assert begun.isdisjoint({10, 11, 12, 13})
        assert {8, 9, 15} <= begun


async def test_a_clock_set_back_starts_no_duty_twice(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig:
        await rig.until(11.5)
        rig.wall -= 2 * SLOT_S
        await rig.until(12.5)
        slots = [slot for slot, _ in rig.slots]
        assert slots == sorted(set(slots))


async def test_a_late_start_begins_with_the_current_slot(autojump_clock: Clock) -> None:
    async with rig_of(busy, slot=10.2) as rig:
        await rig.until(10.5)
        assert {duty.slot for duty in rig.consensus.joined} == {10}


async def test_nothing_happens_before_genesis(autojump_clock: Clock) -> None:
    async with rig_of(lambda rig: rig.beacon.proposers.update({0: {0: ALICE}}), slot=-2) as rig:
        await rig.until(-0.01)
        assert not rig.beacon.seen
        await rig.until(0.1)
        assert rig.consensus.joined[Duty(0, DutyType.PROPOSER)] == pytest.approx(rig.at(0), abs=0.01)


async def test_a_syncing_beacon_node_is_waited_for(autojump_clock: Clock) -> None:
    def syncing(rig: Rig) -> None:
        busy(rig)
        rig.beacon.is_syncing = True

    async with rig_of(syncing) as rig:
        await rig.until(11.2)
        assert not rig.beacon.saw(AttesterDuties)
        assert not rig.slots
        rig.beacon.is_syncing = False
        await rig.until(11.5)
        assert {duty.slot for duty in rig.consensus.joined} == {11}


@pytest.mark.parametrize("has_duty_in_last_slot", [False, True])
async def test_an_epoch_is_resolved_in_the_last_slot_of_the_one_before(
    has_duty_in_last_slot: bool, autojump_clock: Clock
) -> None:
    def first_of_next(rig: Rig) -> None:
        rig.beacon.proposers[2] = {16: BOB}
        if has_duty_in_last_slot:
            rig.beacon.proposers[1] = {15: ALICE}

    async with rig_of(first_of_next) as rig:
        await rig.until(15.4)
        with pytest.raises(NotReady):
            await rig.address.ask(ProposerOf(16))
        await rig.until(15.6)
        assert await rig.address.ask(ProposerOf(16)) == BOB
        assert [request.epoch for request in rig.beacon.saw(ProposerDuties)] == [1, 2]
        await rig.until(16.1)
        assert rig.consensus.joined[Duty(16, DutyType.PROPOSER)] == pytest.approx(rig.at(16), abs=0.01)
        assert [request.epoch for request in rig.beacon.saw(ProposerDuties)] == [1, 2], "asked once"


async def test_duties_that_cannot_be_read_are_asked_for_until_they_can_and_start_late(autojump_clock: Clock) -> None:
    async with rig_of(busy, slot=12) as rig:
        await rig.until(14.5)
        rig.beacon.fault = down
        await rig.until(17.4)
        with pytest.raises(NotReady):
            await rig.address.ask(ProposerOf(17))
        rig.beacon.fault = lambda request: None
        await rig.until(18.5)
        begun = {duty for duty in rig.consensus.joined if duty.slot >= 16}
        assert Duty(18, DutyType.PROPOSER) in begun
        assert Duty(18, DutyType.ATTESTER) in begun
        assert Duty(16, DutyType.ATTESTER) in begun, "its deadline is an epoch away"
        assert Duty(17, DutyType.PROPOSER) not in begun, "its slot is over"
        assert not {ended.duty for ended in rig.ended} & {Duty(16, DutyType.PROPOSER), Duty(17, DutyType.PROPOSER)}


async def test_a_reorganisation_has_later_epochs_read_again(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig:
        await rig.until(15.6)
        assert await rig.address.ask(ProposerOf(16)) == ALICE
        rig.beacon.proposers[2] = {16: BOB}
        rig.beacon.attesters[2] = []
        rig.address.tell(ChainReorganised(1))
        await rig.until(16.5)
        assert await rig.address.ask(ProposerOf(16)) == BOB
        with pytest.raises(NoDuty):
            await rig.address.ask(AwaitAttestationData(16, 3))
        assert await rig.address.ask(ProposerOf(15)) == ALICE, "the epoch that the reorganisation began in stays"


async def test_a_reorganisation_in_the_middle_of_an_epoch_has_the_rest_read_again(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig:
        await rig.until(18.1)
        rig.beacon.proposers[2] = dict.fromkeys(range(16, 24), BOB)
        rig.address.tell(ChainReorganised(1))
        await rig.until(19.1)
        assert await rig.address.ask(ProposerOf(19)) == BOB
        assert {duty.slot for duty in rig.consensus.joined} == set(range(8, 20)), "no slot is left out or begun twice"


async def test_a_reorganisation_while_duties_are_being_read_is_not_overtaken_by_the_old_answer(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig:
        await rig.until(15.4)
        rig.beacon.hanging.add(ProposerDuties)
        await rig.until(15.6)
        [late] = rig.beacon.kept
        rig.beacon.hanging.clear()
        rig.address.tell(ChainReorganised(1))
        rig.beacon.proposers[2] = {16: BOB}
        rig.beacon.attesters[2] = []
        await settle()
        late.send(DutiesAnswer((ProposerDefinition(ALICE, ALICE[0], 16),), bytes(32), False))  # of the chain before
        await rig.until(16.1)
        assert await rig.address.ask(ProposerOf(16)) == BOB


async def test_only_active_validators_have_duties_also_in_their_very_first_epoch(autojump_clock: Clock) -> None:
    def mixed(rig: Rig) -> None:
        rig.beacon.validators = [info(ALICE, "pending_queued", 1), info(BOB, "exited_unslashed"), info(CAROL, "active_exiting")]
        rig.beacon.attesters[1] = [
            attester(ALICE, 9),
            attester(BOB, 9),
            AttesterDefinition(b"X" * 48, 9, CAROL[0], 3, 64, 8, 5),  # a key that isn't this index's
        ]
        rig.beacon.proposers[1] = {10: BOB, 11: CAROL}

    async with rig_of(mixed) as rig:
        await rig.until(9.4)
        assert rig.beacon.saw(AttesterDuties) == [AttesterDuties(1, (ALICE[0], CAROL[0]))]
        assert set(rig.consensus.proposed[Duty(9, DutyType.ATTESTER)]) == {"0x" + ALICE.hex()}
        with pytest.raises(NoDuty):
            await rig.address.ask(ProposerOf(10))
        assert await rig.address.ask(ProposerOf(11)) == CAROL
        assert rig.slots[-1] == (9, 2)


async def test_without_an_active_validator_nothing_is_due_and_nothing_breaks(autojump_clock: Clock) -> None:
    async with rig_of(lambda rig: rig.beacon.validators.clear()) as rig:
        await rig.until(17.1)
        assert not rig.beacon.saw(AttesterDuties)
        with pytest.raises(NoDuty):
            await rig.address.ask(ProposerOf(17))


async def test_fee_recipients_are_told_at_the_start_and_once_an_epoch(autojump_clock: Clock) -> None:
    def with_stranger(rig: Rig) -> None:
        rig.beacon.validators = [info(ALICE), info(BOB, "pending_queued", 9), info(CAROL)]

    async with rig_of(with_stranger, slot=10) as rig:
        await rig.until(25.5)
        assert rig.beacon.saw(PrepareProposers) == [PrepareProposers(((ALICE[0], "0xA11ce"),))] * 3
        assert rig.beacon.times_of(PrepareProposers) == pytest.approx([rig.at(10), rig.at(16.5), rig.at(24.5)], abs=0.01)


async def test_a_refused_fee_recipient_stops_nothing(autojump_clock: Clock) -> None:
    def refuse(request: Any) -> None:
        if isinstance(request, PrepareProposers):
            raise BeaconFault(400, "no")

    async with rig_of(busy) as rig:
        rig.beacon.fault = refuse
        await rig.until(17.1)
        assert Duty(17, DutyType.PROPOSER) in rig.consensus.joined


# what the validator API is told


async def test_where_nothing_is_due_the_answer_comes_at_once(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        await rig.until(8.5)
        nothing: tuple[Request[Any], ...] = (AwaitAttestationData(10, 0), AwaitProposal(9), ProposerOf(9))
        for request in nothing:
            with pytest.raises(NoDuty), trio.fail_after(0.1):
                await rig.address.ask(request)
        with pytest.raises(NotReady):
            await rig.address.ask(ProposerOf(100))
        with pytest.raises(NotReady):
            await rig.address.ask(PubkeyOfAttester(100, 3, ALICE[0]))
        await rig.until(9.4)
        with pytest.raises(NoDuty):
            await rig.address.ask(AwaitAttestationData(9, 60))  # nobody of ours sits in that committee


async def test_validators_are_found_by_their_place(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        await rig.until(8.5)
        assert await rig.address.ask(PubkeyOfAttester(9, 3, ALICE[0])) == ALICE
        assert await rig.address.ask(PubkeyOfAttester(9, 0, BOB[0])) == BOB, "many clients always say committee 0"
        assert await rig.address.ask(AttesterAt(9, 4, 5)) == attester(BOB, 9, 4)
        unknown: tuple[Request[Any], ...] = (
            PubkeyOfAttester(9, 4, ALICE[0]),
            PubkeyOfAttester(9, 0, 1234),
            PubkeyOfAttester(10, 3, ALICE[0]),
            AttesterAt(9, 4, 6),
        )
        for request in unknown:
            with pytest.raises(UnknownValidator):
                await rig.address.ask(request)


async def test_who_asks_before_the_duties_are_known_is_answered_when_they_are(autojump_clock: Clock) -> None:
    def starting(rig: Rig) -> None:
        busy(rig)
        rig.beacon.fault = down

    async with rig_of(starting) as rig, trio.open_nursery() as nursery:
        await rig.until(8.5)
        waiting = Asked()
        nursery.start_soon(waiting.ask, rig, AwaitAttestationData(10, 3))
        rig.beacon.fault = lambda request: None
        await rig.until(10.3)
        assert not waiting.is_over
        await rig.until(10.4)
        assert waiting.value == attestation_data(10, head=9)


async def test_who_waits_for_a_slot_without_duty_is_freed_when_that_is_known(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig, trio.open_nursery() as nursery:
        rig.beacon.fault = down
        await rig.until(15)
        waiting = [Asked(), Asked()]
        nursery.start_soon(waiting[0].ask, rig, AwaitAttestationData(16, 3))
        nursery.start_soon(waiting[1].ask, rig, AwaitProposal(16))
        await rig.until(16.2)
        assert not any(each.is_over for each in waiting)
        rig.beacon.fault = lambda request: None
        await rig.until(17.1)
        assert all(isinstance(each.error, NoDuty) for each in waiting)


async def test_who_waits_for_an_epoch_that_was_never_known_is_freed_with_the_next_one(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig, trio.open_nursery() as nursery:
        await rig.until(14.5)
        rig.beacon.fault = down
        waiting = [Asked(), Asked()]
        nursery.start_soon(waiting[0].ask, rig, AwaitProposal(17))
        nursery.start_soon(waiting[1].ask, rig, AwaitAttestationData(17, 3))
        await rig.until(23.9)
        assert not any(each.is_over for each in waiting)
        await rig.until(17 + SLOTS + 2)
        assert not rig.consensus.joined.keys() & {Duty(17, DutyType.PROPOSER), Duty(17, DutyType.ATTESTER)}
        rig.beacon.fault = lambda request: None
        await rig.until(17 + SLOTS + 3.1)
        assert all(isinstance(each.error, NoDuty) for each in waiting)


async def test_values_stay_until_they_expire_and_the_past_is_no_duty(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        await rig.until(9.4)
        await rig.until(9 + SLOTS)
        assert await rig.address.ask(AwaitAttestationData(9, 3)) == attestation_data(9, head=9)
        await rig.until(9 + SLOTS + 1 / 12)
        with pytest.raises(NoDuty), trio.fail_after(0.1):
            await rig.address.ask(AwaitAttestationData(9, 3))
        for slot in (9, 8, 0):
            with pytest.raises(NoDuty), trio.fail_after(0.1):
                await rig.address.ask(AwaitProposal(slot))


async def test_an_incarnation_that_dies_tells_nobody_that_there_is_no_duty(autojump_clock: Clock) -> None:
    class Bug(Exception):
        pass

    outcome = Asked()
    async with rig_of(two_attesters, runs=False) as rig, trio.open_nursery() as nursery:

        async def live() -> None:
            with trio.CancelScope() as scope:

                async def crash() -> None:
                    await rig.until(9.5)
                    scope.cancel()

                nursery.start_soon(crash)
                await run_incarnation(rig.address, rig.duties)  # type: ignore[arg-type]

        rig.consensus.follows = False
        nursery.start_soon(live)
        await rig.until(9.4)
        nursery.start_soon(outcome.ask, rig, AwaitAttestationData(9, 3))
        await rig.until(9.6)
        assert isinstance(outcome.error, ActorDown), "the validator client may repeat it"
        assert not rig.ended


async def test_an_asker_that_leaves_leaves_nothing_behind(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        await rig.until(9.1)
        with trio.move_on_after(0.5):
            await rig.address.ask(AwaitAttestationData(9, 3))
        await rig.until(9.4)
        assert await rig.address.ask(AwaitAttestationData(9, 3)) == attestation_data(9, head=9)


# what was decided, and that nothing else is ever served (05 §7)


class Answer(Reply[Any]):
    """A reply that only remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Any] = []

    def send(self, value: Any) -> None:
        self.given.append(value)

    def fail(self, error: Exception) -> None:
        self.given.append(error)


def decided_attestation(committee: int, head: int, target: int = 0) -> AttestationUnsigned:
    return AttestationUnsigned(attestation_data(9, head=head, target=target), attester(ALICE, 9, committee))


def served(values: DecidedValues, committee: int) -> Any:
    answer = Answer()
    values.await_attestation_data(9, committee, answer)
    return answer.given[0] if answer.given else None


@pytest.mark.parametrize(
    ("second", "clashes"),
    [
        (decided_attestation(3, head=1), False),  # the same again
        (decided_attestation(3, head=2), True),  # another head for the same committee
        (decided_attestation(4, head=2), False),  # heads of two committees may differ (before Electra)
        (decided_attestation(4, head=1, target=2), True),  # source and target may not
    ],
)
def test_a_second_decision_may_not_contradict_the_first(second: AttestationUnsigned, clashes: bool) -> None:
    values = DecidedValues()
    values.put_attestations(9, [decided_attestation(3, head=1)])
    if clashes:
        with pytest.raises(ClashingValue):
            values.put_attestations(9, [decided_attestation(5, head=1), second])
        assert isinstance(served(values, 5), NoDuty), "nothing of a clashing set is stored"
    else:
        values.put_attestations(9, [second])
    assert served(values, 3) == attestation_data(9, head=1)
    assert served(values, 0) == attestation_data(9, head=1), "the first one stays under index 0"


@given(
    st.lists(
        st.lists(st.builds(decided_attestation, st.integers(0, 3), st.integers(0, 2), st.integers(0, 1)), max_size=4), max_size=6
    )
)
def test_no_committee_is_ever_served_two_things_and_no_two_targets(sets: list[list[AttestationUnsigned]]) -> None:
    values, seen = DecidedValues(), dict[int, AttestationData]()
    waiting = {committee: Answer() for committee in range(5)}
    for committee, answer in waiting.items():
        values.await_attestation_data(9, committee, answer)
    for some in sets:
        with suppress(ClashingValue):
            values.put_attestations(9, some)
        for committee in range(5):
            now = served(values, committee)
            if isinstance(now, AttestationData):
                assert seen.setdefault(committee, now) == now
    assert len({data.target_root for data in seen.values()}) <= 1
    for committee, answer in waiting.items():
        assert len(answer.given) <= 1
        if answer.given and isinstance(answer.given[0], AttestationData):
            assert answer.given[0] == seen[committee]


def test_of_two_blocks_for_one_slot_the_first_stays() -> None:
    values, early, late = DecidedValues(), Answer(), Answer()
    values.await_proposal(9, early)
    values.put_proposal(9, block(9, b"one"))
    values.put_proposal(9, block(9, b"one"))
    with pytest.raises(ClashingValue):
        values.put_proposal(9, block(9, b"two"))
    values.await_proposal(9, late)
    assert early.given == late.given == [block(9, b"one")]


def test_too_many_requests_for_one_slot_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.duties.decided.MAX_WAITING", 2)
    values, answers = DecidedValues(), [Answer() for _ in range(3)]
    for answer in answers:
        values.await_proposal(9, answer)
    assert [len(answer.given) for answer in answers] == [0, 0, 1]
    assert isinstance(answers[2].given[0], MailboxFull)
