"""Blocks that peers sign: compared with the one that the cluster has decided, never decoded.

Theory of operation. An honest member signs the block that consensus decided and no other, and SSZ is canonical: its message bytes, from
whichever release, are those of our decided block, and the same bytes have the same root. So all that is read of a peer's block
is its signature, cut out between offsets; of its message a hash is kept, a few milliseconds for the longest. Blobs and proofs, which
the signature doesn't cover, are not looked at: the decided block has its own, and those go out with the group signature.

    when            what is done                                                       what it costs
    at the door     one look a peer and slot (`peers.py`); the rest is dropped unseen  nothing
    the look        signature cut out, message hashed                                  16 ms for 16 MiB, in a thread
    undecided       signature and hash wait                                            200 bytes
    decided         hashes compared; the root of the decided block, once for all       see `off_loop.py`

No release sends a block as JSON, but all understand it. Its text waits as it is, within HELD_JSON_BYTES for all peers, is refused if far
longer than the decided block could be, and otherwise decoded once a peer and slot, off the event loop, without its blobs.

Nothing decided, nothing compared: who has only peers' signatures and no decision drops them at the deadline. A threshold of members
has both then, and publishes.

Source: specification 05 §10.1, §10.2, §11; 08 §7.3.
"""

from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Final

import msgspec
import trio

from actors.log import get_logger
from actors.off_loop import OffLoop, json_ms
from charon_actors.bounded_json import BLOCK_BYTES, KIB, PEER_BLOCK
from charon_actors.errors import Retryable
from charon_actors.eth2 import containers
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.preset import Preset
from charon_actors.eth2.proposal import SIGNATURE_BYTES, Proposal, SignedProposal, cut_signed, cut_wire_json, same_message
from charon_actors.eth2.signed_data import EncodingFault
from charon_actors.eth2.signing import DomainType
from charon_actors.eth2.versioned import decode_v13_view, looks_like_json
from charon_actors.signatures.partial import UNREADABLE, Partial, check_fork

log = get_logger("parsigex")

HELD_JSON_BYTES: Final = 2 * PEER_BLOCK.max_bytes
JSON_BYTES_A_BYTE: Final = 4  # hex digits are two, a number of eight bytes has up to 23 characters; spaces
SPARE_JSON_BYTES: Final = 64 * KIB
HASHED_BYTES_A_MS: Final = 1_000_000
RETRY_S: Final = 0.1

AgreedBlock = Callable[[int], Awaitable[Proposal | None]]  # of a slot, waits for it; None: there will be none


class BlockIdentity(msgspec.Struct, frozen=True):
    """What tells one block from another. digest: SHA-256 of its message."""

    fork: Fork
    blinded: bool
    digest: bytes


class Look(msgspec.Struct, frozen=True):
    """What is kept of a peer's signed block. of: its identity, or its JSON, unread."""

    signature: bytes
    of: BlockIdentity | bytes


class DecidedBlock(msgspec.Struct, frozen=True):
    """The decided block of a slot. carrier: it, under a signature of zeros. signing_root: what members sign of it."""

    identity: BlockIdentity
    carrier: SignedProposal
    signing_root: bytes
    size: int

    def partial(self, signature: bytes) -> Partial:
        return Partial(self.carrier, self.signing_root, signature)


class Blocks:
    """One incarnation. agreed: asked once a slot; may raise Retryable. is_over: the duty's deadline has passed."""

    def __init__(self, chain: Chain, agreed: AgreedBlock, off_loop: OffLoop, is_over: Callable[[Duty], bool]) -> None:
        self._chain, self._ask, self._off_loop, self._is_over = chain, agreed, off_loop, is_over
        self._slots: dict[Duty, _Slot] = {}
        self._held_bytes = 0

    async def look(self, data: bytes, duty: Duty) -> Look:
        """What a peer's bytes show without being decoded. Raises: EncodingFault, ChainFault."""
        if looks_like_json(data):
            if len(data) > PEER_BLOCK.max_bytes:
                raise EncodingFault(f"a block of {len(data)} bytes as JSON")
            return Look(b"", data)
        if len(data) > BLOCK_BYTES:
            raise EncodingFault(f"a block of {len(data)} bytes")
        fork, blinded, body = decode_v13_view(data)
        check_fork(fork, duty, self._chain)
        signature, message = cut_signed(fork, blinded, body)
        digest = await self._off_loop(len(message) / HASHED_BYTES_A_MS, _sha256, message)
        return Look(signature, BlockIdentity(fork, blinded, digest))

    async def match(self, look: Look, duty: Duty, nursery: trio.Nursery) -> Partial | None:
        """A peer's partial signature of the decided block, once it is decided; None: nothing is decided for that duty.

        Raises: EncodingFault, ChainFault, when it is of another block.
        """
        size = len(look.of) if isinstance(look.of, bytes) else 0
        if size and self._held_bytes + size > HELD_JSON_BYTES:
            raise EncodingFault(f"blocks as JSON of more than {HELD_JSON_BYTES} bytes wait already")
        self._held_bytes += size
        try:
            agreed = await self._agreed(duty, nursery)
            if agreed is None:
                return None
            if isinstance(look.of, bytes):
                look = await self._read_json(look.of, agreed)
        finally:
            self._held_bytes -= size
        if look.of != agreed.identity:
            raise EncodingFault("it signs another block than the cluster has decided")
        return agreed.partial(look.signature)

    async def own(self, signed: SignedProposal, duty: Duty) -> Partial:
        """Ours, from our validator client. Raises: EncodingFault, ChainFault, Retryable."""
        signing_root = await self._signing_root(signed, duty)
        agreed = self._slot(duty).agreed
        if agreed is not None and agreed.signing_root != signing_root:
            raise EncodingFault("it is another block than the cluster has decided")
        return Partial(signed, signing_root)

    def trim(self) -> None:
        """Forget the blocks of duties that are over."""
        for duty in [duty for duty in self._slots if self._is_over(duty)]:
            self._slots.pop(duty).scope.cancel()

    async def _agreed(self, duty: Duty, nursery: trio.Nursery) -> DecidedBlock | None:
        slot = self._slot(duty)
        if not slot.is_asked_for:
            slot.is_asked_for = True
            nursery.start_soon(self._learn, duty, slot, name=f"decided block of {duty}")
        await slot.known.wait()
        if slot.fault is not None:
            raise EncodingFault(slot.fault)
        return slot.agreed

    def _slot(self, duty: Duty) -> "_Slot":
        return self._slots.setdefault(duty, _Slot())

    async def _learn(self, duty: Duty, slot: "_Slot") -> None:
        try:
            with slot.scope:
                while not self._is_over(duty):
                    try:
                        slot.agreed = await self._read(duty)
                        break
                    except Retryable as moment:
                        log.debug("The decided block is not known yet", duty=str(duty), reason=str(moment))
                    await trio.sleep(RETRY_S)
        except UNREADABLE as fault:
            slot.fault = f"the decided block can't be signed: {fault}"
        finally:
            slot.known.set()

    async def _read(self, duty: Duty) -> DecidedBlock | None:
        proposal = await self._ask(duty.slot)
        if proposal is None:
            return None
        carrier = proposal.signed(bytes(SIGNATURE_BYTES))
        signing_root = await self._signing_root(carrier, duty)
        digest = await self._off_loop(len(proposal.message) / HASHED_BYTES_A_MS, _sha256, proposal.message)
        return DecidedBlock(BlockIdentity(proposal.fork, proposal.blinded, digest), carrier, signing_root, len(proposal.body))

    async def _signing_root(self, signed: SignedProposal, duty: Duty) -> bytes:
        if not signed.belongs_to(duty, self._chain):
            raise EncodingFault(f"the signed object does not belong to duty {duty}")
        check_fork(signed.fork, duty, self._chain)
        signed.check_transactions()
        slot = self._slot(duty)
        async with slot.hashing:  # ours and the decided one are mostly the same: hashed once
            if slot.hashed is not None and same_message(slot.hashed[0], signed):
                return slot.hashed[1]
            job = _Message(signed.fork, signed.blinded, self._chain.preset, signed.message)
            root = await self._off_loop(signed.hashing_ms(), _root, job)
            signing_root = self._chain.signing_root(root, DomainType.BEACON_PROPOSER, self._chain.epoch_of(duty.slot))
            slot.hashed = signed, signing_root
            return signing_root

    async def _read_json(self, text: bytes, agreed: DecidedBlock) -> Look:
        if len(text) > JSON_BYTES_A_BYTE * agreed.size + SPARE_JSON_BYTES:
            raise EncodingFault(f"a block of {len(text)} bytes as JSON, the decided one has {agreed.size} as SSZ")
        return await self._off_loop(json_ms(text), _look_at_json, text)


class _Slot:
    """What is known of one duty's decided block. fault: why nobody can sign it."""

    def __init__(self) -> None:
        self.known, self.scope, self.is_asked_for = trio.Event(), trio.CancelScope(), False
        self.hashing = trio.Lock()
        self.hashed: tuple[SignedProposal, bytes] | None = None
        self.agreed: DecidedBlock | None = None
        self.fault: str | None = None


class _Message(msgspec.Struct, frozen=True):
    fork: Fork
    blinded: bool
    preset: Preset
    message: bytes


# What may be done elsewhere: importable by name, without state.


def _sha256(content: bytes | memoryview) -> bytes:
    return sha256(content).digest()


def _root(of: _Message) -> bytes:
    block = containers.beacon_block(of.fork, of.blinded, of.preset)
    return block.hash_tree_root(block.decode(of.message))  # not `block_root`, whose cache would keep it longer than the slot


def _look_at_json(text: bytes) -> Look:
    fork, blinded, signature, message = cut_wire_json(text)
    return Look(signature, BlockIdentity(fork, blinded, _sha256(message)))
