"""One node's signatures actor with real keys, a real slashing record and hand-made peers: four shares, threshold three."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import lru_cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import trio
import trio.testing

from actors.facts import Fact
from actors.mailbox import Address, Mailbox, open_actor
from actors.off_loop import OffLoop
from actors.signatures import GroupSigned, Message, PartialsStored, PartialsVerified, PeerPartials, Settings, Shares, Signatures
from actors.slashing.actor import ExportHistory, SlashingGuard
from actors.slashing.actor import Message as GuardMessage
from charon_actors.crypto import Check, generate_secret, public_key, sign, split_secret, verify_all
from charon_actors.eth2 import containers
from charon_actors.eth2.chain import Chain, ForkEntry
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.proposal import Proposal, SignedProposal
from charon_actors.eth2.signed_data import SignedData, VersionedAttestation
from charon_actors.eth2.unsigned_data import AttestationData
from charon_actors.signatures.wire import encode_message
from tests.charon_actors.eth2.vectors import raw

NODES, THRESHOLD = 4, 3
GENESIS_S, SLOT = 1_700_000_000.0, 40
DUTY = Duty(SLOT, DutyType.ATTESTER)
BLOCK_DUTY = Duty(SLOT, DutyType.PROPOSER)
CHAIN = Chain(
    genesis_time_s=GENESIS_S,
    genesis_validators_root=bytes(32),
    slot_duration_s=12.0,
    slots_per_epoch=8,
    fork_schedule=(ForkEntry(0, bytes([6, 0, 0, 1])),),
    fork_epochs=dict.fromkeys(Fork, 0),
    capella_fork_version=bytes([3, 0, 0, 1]),
)


@lru_cache
def keys(validator: int = 0) -> tuple[bytes, dict[int, bytes]]:
    """Group public key and share secrets by share index."""
    random = Random(validator)
    secret = generate_secret(random.randbytes)
    return public_key(secret), split_secret(secret, THRESHOLD, NODES, random.randbytes)


def vote(*, head: int = 0, slot: int = SLOT, source: int | None = None, target: int | None = None) -> AttestationData:
    target = slot // 8 if target is None else target
    source = target - 1 if source is None else source
    return AttestationData(
        slot, 0, hashlib.sha256(bytes([head])).digest(), source, bytes(32), target, hashlib.sha256(b"t").digest()
    )


def attestation(
    share_index: int,
    *,
    validator: int = 0,
    head: int = 0,
    slot: int = SLOT,
    sign_with: int | None = None,
    data: AttestationData | None = None,
    validator_index: int | None = None,
) -> VersionedAttestation:
    data = vote(head=head, slot=slot) if data is None else data
    index = validator if validator_index is None else validator_index
    unsigned = VersionedAttestation.from_single_attestation_json(
        Fork.FULU,
        {"committee_index": "0", "attester_index": str(index), "data": data.to_json(), "signature": "0x" + bytes(96).hex()},
    )
    return signed_by(sign_with or share_index, unsigned, validator=validator)


S = TypeVar("S", bound=SignedData)


def signed_by(share_index: int, unsigned: S, *, validator: int = 0, chain: Chain = CHAIN) -> S:
    return unsigned.with_signature(sign(keys(validator)[1][share_index], unsigned.signing_root(chain)))


async def verify_here(checks: Sequence[Check]) -> Sequence[bool]:
    return verify_all(checks, Random(1).randbytes)


def block(*, slot: int = SLOT, blobs: Sequence[int] = (), **payload: Any) -> SignedProposal:
    """An unsigned block around a recorded one of Fulu. blobs: what each is filled with. payload: fields of the
    execution payload to replace."""
    schema = containers.beacon_block(Fork.FULU)
    value = schema.decode(raw("eth2/fulu_beacon_block.ssz"))
    value["slot"] = slot
    value["body"]["execution_payload"] |= payload
    contents = {"block": value, "kzg_proofs": [], "blobs": [bytes([n]) * containers.BLOB_BYTES for n in blobs]}
    return Proposal(Fork.FULU, False, containers.block_contents(Fork.FULU).encode(contents)).signed(bytes(96))


def unsigned(signed: SignedProposal) -> Proposal:
    """What was to be signed."""
    value = containers.signed_block_contents(Fork.FULU).decode(signed.body)
    contents = {"block": value["signed_block"]["message"], "kzg_proofs": value["kzg_proofs"], "blobs": value["blobs"]}
    return Proposal(signed.fork, signed.blinded, containers.block_contents(Fork.FULU).encode(contents))


class Node:
    def __init__(self, share_index: int) -> None:
        self.share_index = share_index
        self.sent: list[bytes] = []
        self.groups: list[GroupSigned] = []
        self.stored: list[tuple[Duty, int, int]] = []
        self.verified: list[tuple[DutyType, float]] = []
        self.asked: list[tuple[int, bytes]] = []
        self.verifier: Callable[[Sequence[Check]], Awaitable[Sequence[bool]]] = verify_here
        self.proposer: bytes | None = None  # None: nobody can tell
        self.decided: dict[int, Proposal | None] = {}  # by slot; what isn't there is undecided
        self.decision = trio.Event()
        self.now = CHAIN.slot_start_s(SLOT) + 4
        self.address: Address[Message]
        self.guard: Address[GuardMessage]

    def hear(self, fact: Fact) -> None:
        match fact:
            case PartialsStored(duty, share_index, validators):
                self.stored.append((duty, share_index, validators))
            case PartialsVerified(kind, seconds):
                self.verified.append((kind, seconds))

    async def recorded(self) -> set[bytes]:
        """The keys that have something on the slashing record."""
        return {entry.pubkey for entry in (await self.guard.ask(ExportHistory())).entries}

    async def verify(self, checks: Sequence[Check]) -> Sequence[bool]:
        return await self.verifier(checks)

    def decide(self, block: SignedProposal) -> None:
        """The cluster decides that block, of its slot."""
        self.decided[block.slot] = unsigned(block)
        self.decision.set()
        self.decision = trio.Event()

    async def agreed_block(self, slot: int) -> Proposal | None:
        while slot not in self.decided:
            await self.decision.wait()
        return self.decided[slot]

    async def may_propose(self, slot: int, pubkey: bytes) -> bool:
        self.asked.append((slot, pubkey))
        return self.proposer in (None, pubkey)


@asynccontextmanager
async def node(
    share_index: int = 1,
    validators: int = 1,
    *,
    chain: Chain = CHAIN,
    off_loop: OffLoop | None = None,
    wrap: Callable[[Address[GuardMessage]], Address[GuardMessage]] = lambda guard: guard,
) -> AsyncIterator[Node]:
    this = Node(share_index)
    settings = Settings(
        validators={
            keys(v)[0]: Shares({index: public_key(secret) for index, secret in keys(v)[1].items()}) for v in range(validators)
        },
        own_share_index=share_index,
        threshold=THRESHOLD,
        chain=chain,
    )
    async with AsyncExitStack() as stack:
        file = Path(stack.enter_context(TemporaryDirectory())) / "slashing.sqlite"
        record = open_actor(Mailbox[GuardMessage]("slashing"), lambda: SlashingGuard(file, bytes(32)))
        this.guard = await stack.enter_async_context(record)
        actor = Signatures(
            settings,
            verify_all=this.verify,
            guard=wrap(this.guard),
            broadcast=lambda protocols, message: this.sent.append(message),
            on_group=this.groups.append,
            wall_clock=lambda: this.now,
            agreed_block=this.agreed_block,
            off_loop=off_loop,
            may_propose=this.may_propose,
            on_fact=this.hear,
        )
        this.address = await stack.enter_async_context(open_actor(Mailbox[Message]("signatures"), lambda: actor))
        yield this


async def tell(this: Node, share_index: int, signed: SignedData, *, validator: int = 0, duty: Duty = DUTY) -> None:
    this.address.tell(PeerPartials(share_index - 1, encode_message(duty, share_index, {keys(validator)[0]: signed})))
    await settle(this)


async def settle(this: Node) -> None:
    """Wait until the actor has handled its mail and the slashing record, whose disk is a thread, has answered each of its questions."""
    for _ in range(5):
        await trio.testing.wait_all_tasks_blocked()
        await this.guard.ask(ExportHistory())
    await trio.testing.wait_all_tasks_blocked()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what happens in a thread."""
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.005)
