"""One node's signatures actor with real keys, a real slashing record and hand-made peers: four shares, threshold three."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import trio
import trio.testing

from actors.facts import Fact
from actors.mailbox import Address, Mailbox, open_actor
from actors.off_loop import OffLoop
from actors.signatures import (
    GroupSigned,
    Message,
    PartialsStored,
    PartialsVerified,
    PeerPartials,
    Settings,
    Signatures,
    ValidatorShares,
)
from actors.slashing.actor import ExportHistory, SlashingGuard
from actors.slashing.actor import Message as GuardMessage
from charon_actors.crypto import Check, public_key, verify_all
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.proposal import Proposal, SignedProposal
from charon_actors.eth2.signed_data import SignedData
from charon_actors.signatures.wire import encode_partials_message
from tests.charon_actors.signatures.signed import CHAIN, DUTY, SLOT, THRESHOLD, keys, unsigned


async def verify_here(checks: Sequence[Check]) -> Sequence[bool]:
    return verify_all(checks, Random(1).randbytes)


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
            keys(v)[0]: ValidatorShares({index: public_key(secret) for index, secret in keys(v)[1].items()})
            for v in range(validators)
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
    this.address.tell(PeerPartials(share_index - 1, encode_partials_message(duty, share_index, {keys(validator)[0]: signed})))
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
