"""Proposals: blocks, unsigned and signed, full and blinded, kept as their SSZ bytes.

Theory of operation. A block may have 2 MB with its blobs, and a node looks at few of them: slot, proposer, graffiti, fee recipient,
and its root. So a proposal is its bytes, checked against the schema once when it comes in, and fields are cut out of them. SSZ
is canonical, so two proposals have the same message bytes exactly if they have the same message: whoever compares (`same_message`)
needs no hash, and the root of a message is computed once and remembered for all that carry the same bytes.

    fork             full                       blinded                    signed, full / blinded
    phase0, altair   BeaconBlock                –                          SignedBeaconBlock
    to capella       BeaconBlock                BlindedBeaconBlock         SignedBeaconBlock / SignedBlindedBeaconBlock
    deneb on         BlockContents with blobs   BlindedBeaconBlock         SignedBlockContents / SignedBlindedBeaconBlock

    SignedBeaconBlock   = offset u32 (100) ‖ signature 96 ‖ message
    SignedBlockContents = offset u32 (12) ‖ offset ‖ offset ‖ signed_block ‖ kzg_proofs ‖ blobs

What is compared with a block that is known needs no decoding either: `cut_signed` and `cut_signed_json` give the signature and the message
bytes that somebody sends, good for nothing but the comparison; blobs and proofs are skipped, for the known block has its own.

Bytes have mainnet's sizes; the preset only matters for the root (Gnosis' limit of withdrawals, 08 §6.1).
Limits: MAX_TRANSACTIONS; ROOTS_REMEMBERED roots (with their message bytes); everything is linear in the bytes; `hashing_ms` says beforehand
what a root costs.
Source: specification 05 §10.1, 07 §5.7 to §5.9, 08 §7.3.
"""

from functools import cached_property, lru_cache
from typing import Any, Final, Protocol, Self

import msgspec

from charon_actors.bounded_json import PEER_BLOCK, JsonKind, check_foreign_json
from charon_actors.eth2 import containers
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork, fork_from_number
from charon_actors.eth2.preset import MAINNET, Preset
from charon_actors.eth2.signing import DomainType
from charon_actors.eth2.ssz import Container, EncodingFault, bytes_from_hex
from charon_actors.eth2.versioned import (
    decode_v13,
    encode_json,
    encode_v13,
    json_fork,
    json_member,
    looks_like_json,
    parse_versioned_json,
)

ROOTS_REMEMBERED: Final = 8  # the signatures actor does without: it keeps a root beside each partial signature
MAX_TRANSACTIONS: Final = 65536  # a gas limit of 1.4 billion; the schema's limit is 2**20, at up to 25 hashes each
HASHED_BYTES_A_MS: Final = 50_000
HASHED_TRANSACTIONS_A_MS: Final = 50  # each has its own tree of 25 levels
SIGNATURE_BYTES: Final = 96
_SIGNED_BLOCK_OFFSET: Final = 100


@lru_cache(maxsize=ROOTS_REMEMBERED)
def _block_root(fork: Fork, blinded: bool, preset: Preset, message: bytes) -> bytes:
    block = containers.beacon_block(fork, blinded, preset)
    return block.hash_tree_root(block.decode(message))


class HasMessage(Protocol):
    """A proposal, signed or not."""

    @property
    def fork(self) -> Fork: ...
    @property
    def blinded(self) -> bool: ...
    @property
    def message(self) -> bytes: ...


def same_message(a: HasMessage, b: HasMessage) -> bool:
    """Whether both carry the same block, of the same fork and kind. No hashing; blobs and signatures don't count (07 §5.8)."""
    return a.fork == b.fork and a.blinded == b.blinded and a.message == b.message


def _check_kind(fork: Fork, blinded: bool) -> None:
    if blinded and fork < Fork.BELLATRIX:
        raise EncodingFault(f"there are no blinded blocks in {fork.label}")


class _Block(msgspec.Struct, frozen=True, dict=True):
    """What unsigned and signed proposals share: their forms, and fields cut out of `message`."""

    fork: Fork
    blinded: bool
    body: bytes

    @classmethod
    def _type_of(cls, fork: Fork, blinded: bool) -> Container:
        """The schema of `body`."""
        raise NotImplementedError

    @classmethod
    def from_ssz(cls, fork: Fork, blinded: bool, body: bytes) -> Self:
        """From the octet stream of the Beacon API. Raises: EncodingFault."""
        _check_kind(fork, blinded)
        proposal = cls(fork, blinded, body)
        proposal.check_transactions()
        cls._type_of(fork, blinded).check(memoryview(body))
        return proposal

    @classmethod
    def from_json(cls, fork: Fork, blinded: bool, value: object) -> Self:
        """From the JSON of the Beacon API: the member `data` of an answer, or a submission. Raises: EncodingFault."""
        _check_kind(fork, blinded)
        schema = cls._type_of(fork, blinded)
        return cls(fork, blinded, schema.encode(schema.from_json(value)))

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        schema = self._type_of(self.fork, self.blinded)
        return schema.to_json(schema.decode(self.body))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """From V13 or the JSON form. Raises: EncodingFault."""
        try:
            return cls.from_ssz(*decode_v13(data))
        except EncodingFault:
            if not looks_like_json(data):
                raise
        value = parse_versioned_json(data, PEER_BLOCK)
        blinded = value.get("blinded", False) if isinstance(value, dict) else False
        if not isinstance(blinded, bool):
            raise EncodingFault("blinded is neither true nor false")
        return cls.from_json(json_fork(value), blinded, json_member(value, "block"))

    def encode(self) -> bytes:
        """The form between nodes, V13."""
        return encode_v13(self.fork, self.blinded, self.body)

    @cached_property
    def message(self) -> bytes:
        """The SSZ of the BeaconBlock or BlindedBeaconBlock inside `body`: what is signed."""
        raise NotImplementedError

    @property
    def slot(self) -> int:
        return int.from_bytes(self.message[:8], "little")

    @property
    def proposer_index(self) -> int:
        return int.from_bytes(self.message[8:16], "little")

    @property
    def randao_reveal(self) -> bytes:
        """96 bytes; the group's signature in an agreed block."""
        return self._body_field("randao_reveal")

    @property
    def graffiti(self) -> bytes:
        """32 bytes, zero padded."""
        return self._body_field("graffiti")

    @property
    def fee_recipient(self) -> bytes | None:
        """20 bytes: of the payload, or of the builder's header; None before Bellatrix."""
        if self.fork < Fork.BELLATRIX:
            return None
        payload = self._body_field("execution_payload_header" if self.blinded else "execution_payload")
        return containers.execution_payload(self.fork, self.blinded).field_bytes(payload, "fee_recipient")

    def block_root(self, preset: Preset = MAINNET) -> bytes:
        """32 bytes, the same for a full block and its blinded form. About 5 ms for a large block, once; then remembered."""
        return _block_root(self.fork, self.blinded, preset, self.message)

    def check_transactions(self) -> None:
        """Only offsets are read, so it may be asked before anything is decoded. Raises: EncodingFault."""
        count = self._count_transactions()
        if count > MAX_TRANSACTIONS:
            raise EncodingFault(f"a block with {count} transactions, more than {MAX_TRANSACTIONS}")

    def hashing_ms(self) -> float:
        """What `block_root` costs, roughly, on a core of 2025. Only offsets are read. Raises: EncodingFault."""
        return len(self.message) / HASHED_BYTES_A_MS + self._count_transactions() / HASHED_TRANSACTIONS_A_MS

    def _count_transactions(self) -> int:
        if self.blinded or self.fork < Fork.BELLATRIX:
            return 0
        payload = self._body_view("execution_payload")
        transactions = containers.execution_payload(self.fork).field_view(payload, "transactions")
        return int.from_bytes(transactions[:4], "little") // 4  # the first offset ends the list of offsets

    def _body_field(self, name: str) -> bytes:
        return bytes(self._body_view(name))

    def _body_view(self, name: str) -> memoryview:
        block = containers.beacon_block(self.fork, self.blinded)
        body = block.field_view(memoryview(self.message), "body")
        return containers.beacon_block_body(self.fork, self.blinded).field_view(body, name)


class Proposal(_Block, frozen=True, dict=True):
    """An unsigned proposal. body: SSZ of BeaconBlock, BlockContents (Deneb on) or BlindedBeaconBlock.

    Make one with `from_ssz`, `from_json` or `decode`, which check the bytes; the constructor trusts its caller.
    """

    @classmethod
    def _type_of(cls, fork: Fork, blinded: bool) -> Container:
        return containers.proposal_type(fork, blinded)

    @cached_property
    def message(self) -> bytes:
        if containers.has_contents(self.fork, self.blinded):
            return containers.block_contents(self.fork).field_bytes(self.body, "block")
        return self.body

    def signed(self, signature: bytes) -> "SignedProposal":
        """With a signature (96 bytes) around it."""
        signed_block = _signed_block(signature, self.message)
        if not containers.has_contents(self.fork, self.blinded):
            return SignedProposal(self.fork, self.blinded, signed_block)
        contents = containers.block_contents(self.fork)
        parts = [signed_block, *(contents.field_bytes(self.body, name) for name in ("kzg_proofs", "blobs"))]
        return SignedProposal(self.fork, self.blinded, _join(parts))


class SignedProposal(_Block, frozen=True, dict=True):
    """A signed proposal. body: SSZ of SignedBeaconBlock, SignedBlockContents (Deneb on) or SignedBlindedBeaconBlock.

    Make one with `from_ssz`, `from_json`, `decode` or `Proposal.signed`; the constructor trusts its caller.
    """

    @classmethod
    def _type_of(cls, fork: Fork, blinded: bool) -> Container:
        return containers.signed_proposal_type(fork, blinded)

    @cached_property
    def message(self) -> bytes:
        return self._signed_block[_SIGNED_BLOCK_OFFSET:]

    @property
    def signature(self) -> bytes:
        return self._signed_block[_SIGNED_BLOCK_OFFSET - SIGNATURE_BYTES : _SIGNED_BLOCK_OFFSET]

    @cached_property
    def _signed_block(self) -> bytes:
        if containers.has_contents(self.fork, self.blinded):
            return containers.signed_block_contents(self.fork).field_bytes(self.body, "signed_block")
        return self.body

    def with_signature(self, signature: bytes) -> "SignedProposal":
        """The same block under another signature (96 bytes)."""
        if len(signature) != SIGNATURE_BYTES:
            raise ValueError(f"a signature of {len(signature)} bytes")
        start = self._signature_start
        body = self.body[:start] + signature + self.body[start + SIGNATURE_BYTES :]
        return SignedProposal(self.fork, self.blinded, body)

    @property
    def _signature_start(self) -> int:
        return (12 if containers.has_contents(self.fork, self.blinded) else 0) + 4

    def object_root(self) -> bytes:
        """The block root with mainnet's sizes; on another preset use `signing_root`."""
        return self.block_root()

    def signing_root(self, chain: Chain) -> bytes:
        return chain.signing_root(self.block_root(chain.preset), DomainType.BEACON_PROPOSER, chain.epoch_of(self.slot))

    def belongs_to(self, duty: Duty, chain: Chain) -> bool:
        return duty.type is DutyType.PROPOSER and self.slot == duty.slot


class _SignedBlockJson(msgspec.Struct):
    message: Any
    signature: str


class _SignedContentsJson(msgspec.Struct):  # what isn't named here is skipped, not made into objects
    signed_block: _SignedBlockJson


class _WireJson(msgspec.Struct):
    version: int
    block: msgspec.Raw
    blinded: bool = False


def cut_signed(fork: Fork, blinded: bool, body: bytes | memoryview) -> tuple[bytes, memoryview]:
    """Signature (96 bytes) and message of a signed proposal's SSZ; only offsets are looked at. Raises: EncodingFault."""
    _check_kind(fork, blinded)
    signed_block = memoryview(body)
    if containers.has_contents(fork, blinded):
        signed_block = containers.signed_block_contents(fork).field_view(signed_block, "signed_block")
    if len(signed_block) < _SIGNED_BLOCK_OFFSET or signed_block[:4] != _SIGNED_BLOCK_OFFSET.to_bytes(4, "little"):
        raise EncodingFault("not a signed block")
    return bytes(signed_block[_SIGNED_BLOCK_OFFSET - SIGNATURE_BYTES : _SIGNED_BLOCK_OFFSET]), signed_block[_SIGNED_BLOCK_OFFSET:]


def cut_signed_json(fork: Fork, blinded: bool, text: bytes | msgspec.Raw, kind: JsonKind) -> tuple[bytes, bytes]:
    """The same of the Beacon API's JSON. Long work: some 30 ms a megabyte without blobs. Raises: EncodingFault."""
    _check_kind(fork, blinded)
    has_contents = containers.has_contents(fork, blinded)
    try:
        check_foreign_json(bytes(text), kind)
        if has_contents:
            signed_block = msgspec.json.decode(text, type=_SignedContentsJson).signed_block
        else:
            signed_block = msgspec.json.decode(text, type=_SignedBlockJson)
    except (ValueError, RecursionError) as error:
        raise EncodingFault(f"not the JSON of a signed block: {str(error)[:100]}") from None
    block = containers.beacon_block(fork, blinded)
    return bytes_from_hex(signed_block.signature, SIGNATURE_BYTES), block.encode(block.from_json(signed_block.message))


def cut_wire_json(text: bytes) -> tuple[Fork, bool, bytes, bytes]:
    """Fork, whether blinded, signature and message of a signed proposal in the JSON form of a wire value. Raises: EncodingFault."""
    try:
        check_foreign_json(text, PEER_BLOCK)
        outer = msgspec.json.decode(text, type=_WireJson)
        fork = fork_from_number(outer.version)
    except (ValueError, RecursionError) as error:
        raise EncodingFault(f"not the JSON of a signed block: {str(error)[:100]}") from None
    return fork, outer.blinded, *cut_signed_json(fork, outer.blinded, outer.block, PEER_BLOCK)


def _signed_block(signature: bytes, message: bytes) -> bytes:
    if len(signature) != SIGNATURE_BYTES:
        raise ValueError(f"a signature of {len(signature)} bytes")
    return _SIGNED_BLOCK_OFFSET.to_bytes(4, "little") + signature + message


def _join(parts: list[bytes]) -> bytes:
    position = 4 * len(parts)
    offsets = []
    for part in parts:
        offsets.append(position.to_bytes(4, "little"))
        position += len(part)
    return b"".join(offsets + parts)


def proposal_to_wire_json(proposal: Proposal | SignedProposal) -> bytes:
    """The JSON form of a wire value: what nodes of other releases may send instead of SSZ."""
    value: dict[str, object] = {"version": int(proposal.fork), "block": proposal.to_json()}
    if proposal.blinded:
        value["blinded"] = True
    return encode_json(value)
