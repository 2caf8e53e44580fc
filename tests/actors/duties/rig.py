"""The duties actor on a virtual clock, between three small actors that stand in for beacon, consensus and signatures."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
import trio.testing

from actors.beacon import (
    AttesterDuties,
    BeaconFault,
    BeaconUnavailable,
    ClusterValidators,
    DutiesAnswer,
    FetchAttestationData,
    ForeignFeeRecipient,
    JustifiedEpoch,
    ProduceBlock,
    ProposerDefinition,
    ProposerDuties,
    SyncState,
    SyncStatus,
    ValidatorInfo,
)
from actors.beacon import Message as BeaconMessage
from actors.consensus import Agree, Agreed, DeadlinePassed, ProposeValue
from actors.consensus import Message as ConsensusMessage
from actors.duties import (
    BlockFetched,
    DecisionRefused,
    Duties,
    DutyEnded,
    GroupArrived,
    Message,
    Settings,
    SlotStarted,
)
from actors.duties.kinds import KINDS, Kinds
from actors.facts import Fact
from actors.mailbox import Address, Inbox, Mailbox, Reply, Request, open_actor, run_incarnation
from actors.signatures import AwaitGroupSignature, GroupSigned
from actors.signatures import Message as SignaturesMessage
from charon_actors.crypto import Check
from charon_actors.eth2 import containers
from charon_actors.eth2.chain import Chain, ForkEntry
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signed_data import SignedData, SignedProposal, SignedRandao, VersionedAttestation
from charon_actors.eth2.unsigned_data import (
    AttestationData,
    AttesterDefinition,
    Proposal,
    foreign_text,
    pays,
)
from supervisors.simulation.beacon_mock import zero_value

GENESIS_S, SLOT_S, SLOTS = 1_700_000_000.0, 12.0, 8
ALICE, BOB, CAROL = b"A" * 48, b"B" * 48, b"C" * 48
RANDAO = b"\x77" * 96
FEE_RECIPIENT = b"\xa1" * 20
CONSENSUS_MAIL = 4


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


def block(
    slot: int,
    graffiti: bytes = b"",
    randao: bytes = RANDAO,
    *,
    index: int = ALICE[0],
    fork: Fork = Fork.FULU,
    blinded: bool = False,
    fee_recipient: bytes = FEE_RECIPIENT,
) -> Proposal:
    schema = containers.proposal_type(fork, blinded)
    value = zero_value(schema)
    message = value["block"] if containers.has_contents(fork, blinded) else value
    message["slot"], message["proposer_index"] = slot, index
    message["body"]["randao_reveal"] = randao
    message["body"]["graffiti"] = graffiti.ljust(32, b"\0")
    message["body"]["execution_payload_header" if blinded else "execution_payload"]["fee_recipient"] = fee_recipient
    message["body"]["sync_aggregate"]["sync_committee_signature"] = bytes(96)
    return Proposal(fork, blinded, schema.encode(value))


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
        self.make_block: Callable[[int, bytes, bytes], Proposal] = block
        self.source: Callable[[int], int] = lambda epoch: max(epoch - 1, 0)  # of votes in an epoch

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
                made = attestation_data(slot, committee_index, head=9)
                return msgspec.structs.replace(made, source_epoch=self.source(made.target_epoch))
            case JustifiedEpoch(slot):
                return self.source(slot // SLOTS)
            case ProduceBlock(slot, randao, graffiti, _, fee_recipient):
                made_block = self.make_block(slot, graffiti, randao)
                if fee_recipient and not pays(made_block, fee_recipient):
                    raise ForeignFeeRecipient(None, f"bn1: {foreign_text(made_block, fee_recipient)}")
                return made_block
            case _:
                return None


class Consensus:
    """Agrees on what the test decides; with `follows`, on our own proposal."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.joined: dict[Duty, float] = {}
        self.proposed: dict[Duty, dict[str, bytes]] = {}
        self.follows = True
        self.is_awake = trio.Event()  # a busy actor reads no mail; a test may put a fresh event here
        self.is_awake.set()
        self.life = trio.CancelScope()  # of the current incarnation: cancel it, and the next one begins
        self._decided: dict[Duty, dict[str, bytes]] = {}
        self.askers: dict[Duty, list[Reply[Agreed]]] = {}
        self.proposer_index: int | None = 2

    async def run(self, inbox: Inbox[ConsensusMessage]) -> None:
        async for mail in inbox:
            await self.is_awake.wait()
            match mail.message:
                case Agree(duty) as request:
                    self.joined.setdefault(duty, self._now())
                    self.askers.setdefault(duty, []).append(mail.reply_to(request))
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
        for reply in self.askers.pop(duty):
            reply.fail(DeadlinePassed(str(duty)))

    def _answer(self) -> None:
        for duty in self._decided:
            for reply in self.askers.pop(duty, []):
                reply.send(Agreed(dict(self._decided[duty]), 1, self.proposer_index))


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
        self.blocks: list[BlockFetched] = []
        self.refused: list[DecisionRefused] = []
        self.allow_foreign_fee_recipient = False
        self.kinds: Kinds = KINDS
        self.address: Address[Message]
        self.consensus_address: Address[ConsensusMessage]
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

    async def keep_consensus_busy(self) -> None:
        """One message in its hands, the others fill its mailbox; until the test sets `is_awake`."""
        self.consensus.is_awake = trio.Event()
        for slot in range(100, 100 + CONSENSUS_MAIL + 1):
            self.consensus_address.tell(ProposeValue(Duty(slot, DutyType.ATTESTER), {}))
            await settle()

    def group(self, slot: int, signed: Mapping[bytes, SignedData], kind: DutyType = DutyType.ATTESTER) -> None:
        self.address.tell(GroupArrived(GroupSigned(Duty(slot, kind), signed)))

    def duties(self) -> Duties:
        beacon, consensus, signatures = self._neighbours
        return Duties(
            Settings(
                chain=self.chain,
                fee_recipients={ALICE: "0x" + "A1" * 20, BOB: "0x" + "b0" * 20},
                graffiti=lambda pubkey: pubkey[:1].ljust(32, b"\0"),
                builder_boost=7,
                allow_foreign_fee_recipient=self.allow_foreign_fee_recipient,
                peer_names=("one", "two", "three", "four"),
            ),
            beacon=beacon,
            consensus=consensus,
            signatures=signatures,
            wall_clock=self.now,
            on_fact=self.hear,
            kinds=self.kinds,
            verify_all=self.verify_all,
        )

    def hear(self, fact: Fact) -> None:
        match fact:
            case SlotStarted(slot, _, active):
                self.slots.append((slot, active))
            case DutyEnded():
                self.ended.append(fact)
            case BlockFetched():
                self.blocks.append(fact)
            case DecisionRefused():
                self.refused.append(fact)
            case unknown:
                raise AssertionError(unknown)

    async def verify_all(self, checks: Sequence[Check]) -> Sequence[bool]:
        """The keys here are made up, so are their signatures."""
        return [check.signature == RANDAO for check in checks]

    @property
    def only_end(self) -> DutyEnded:
        [ended] = self.ended
        return ended


async def settle() -> None:
    """Until every task waits for something."""
    await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def open_consensus(actor: Consensus, mailbox: Mailbox[ConsensusMessage]) -> AsyncIterator[Address[ConsensusMessage]]:
    """The actor with a new incarnation after each end, as under a supervisor."""

    async def live() -> None:
        while not mailbox.is_closed:
            with trio.CancelScope() as actor.life:
                await run_incarnation(mailbox, lambda: actor)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        yield mailbox
        mailbox.close()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def rig_of(
    prepare: Callable[[Rig], None] = lambda rig: None, *, slot: float = 8, last_fork: Fork = Fork.FULU, runs: bool = True
) -> AsyncIterator[Rig]:
    """The actor at work, from the start of `slot` on."""
    rig = Rig(chain_of(last_fork), slot)
    prepare(rig)
    async with (
        open_actor(Mailbox[BeaconMessage]("beacon"), lambda: rig.beacon) as beacon,
        open_consensus(rig.consensus, Mailbox[ConsensusMessage]("consensus", CONSENSUS_MAIL)) as consensus,
        open_actor(Mailbox[SignaturesMessage]("signatures"), lambda: rig.signatures) as signatures,
    ):
        rig._neighbours, rig.consensus_address = (beacon, consensus, signatures), consensus
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


def two_attesters(rig: Rig) -> None:
    rig.beacon.attesters[1] = [attester(ALICE, 9, committee=3), attester(BOB, 9, committee=4)]


def two_attesters_and_the_next_slot(rig: Rig) -> None:
    two_attesters(rig)
    rig.beacon.attesters[1].append(attester(ALICE, 10))


def proposer(rig: Rig) -> None:
    rig.beacon.proposers[1] = {9: ALICE}


def busy(rig: Rig) -> None:
    """A proposal and an attestation in each slot of epochs 1 to 4."""
    for epoch in range(1, 5):
        slots = range(epoch * SLOTS, (epoch + 1) * SLOTS)
        rig.beacon.attesters[epoch] = [attester(ALICE, slot) for slot in slots]
        rig.beacon.proposers[epoch] = dict.fromkeys(slots, ALICE)
