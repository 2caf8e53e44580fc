"""Signatures that other duties need: randao reveals, selection proofs, and a bare signature. Source: specification 05 §10.1, §10.2."""

import base64
import binascii
from typing import Any, Final

import msgspec

from charon_actors.bounded_json import OBJECT
from charon_actors.eth2 import containers
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.signed.parts import SIGNATURE_BYTES, checked, replaced
from charon_actors.eth2.signing import DomainType
from charon_actors.eth2.ssz import BYTES96, UINT64, Container, EncodingFault
from charon_actors.eth2.versioned import encode_json, parse_versioned_json

_RANDAO: Final = Container("SignedRandao", {"epoch": UINT64, "signature": BYTES96})
_COMMITTEE_SELECTION: Final = Container(
    "BeaconCommitteeSelection", {"validator_index": UINT64, "slot": UINT64, "selection_proof": BYTES96}
)
_SYNC_SELECTION: Final = Container(
    "SyncCommitteeSelection",
    {"validator_index": UINT64, "slot": UINT64, "subcommittee_index": UINT64, "selection_proof": BYTES96},
)


class SignedRandao(msgspec.Struct, frozen=True):
    """A proposer's randao reveal of an epoch."""

    epoch: int
    signature: bytes

    def with_signature(self, signature: bytes) -> "SignedRandao":
        return replaced(self, "signature", signature)

    def object_root(self) -> bytes:
        return UINT64.hash_tree_root(self.epoch)

    def signing_root(self, chain: Chain) -> bytes:
        return chain.signing_root(self.object_root(), DomainType.RANDAO, self.epoch)

    def belongs_to(self, duty: Duty, chain: Chain) -> bool:
        return duty.type is DutyType.RANDAO and self.epoch == chain.epoch_of(duty.slot)

    def encode(self) -> bytes:
        return encode_json(self.to_wire_json())

    def to_wire_json(self) -> object:
        return _RANDAO.to_json(msgspec.structs.asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> "SignedRandao":
        """From JSON. Raises: EncodingFault."""
        return cls(**_RANDAO.from_json(parse_versioned_json(data, OBJECT)))


class BeaconCommitteeSelection(msgspec.Struct, frozen=True):
    """A validator's proof whether it aggregates in a slot; the proof is the signature."""

    validator_index: int
    slot: int
    selection_proof: bytes

    @property
    def signature(self) -> bytes:
        return self.selection_proof

    def with_signature(self, signature: bytes) -> "BeaconCommitteeSelection":
        return replaced(self, "selection_proof", signature)

    def object_root(self) -> bytes:
        return UINT64.hash_tree_root(self.slot)

    def signing_root(self, chain: Chain) -> bytes:
        return chain.signing_root(self.object_root(), DomainType.SELECTION_PROOF, chain.epoch_of(self.slot))

    def belongs_to(self, duty: Duty, chain: Chain) -> bool:
        return duty.type is DutyType.PREPARE_AGGREGATOR and self.slot == duty.slot

    def encode(self) -> bytes:
        return encode_json(self.to_json())

    @classmethod
    def decode(cls, data: bytes) -> "BeaconCommitteeSelection":
        """From JSON. Raises: EncodingFault."""
        return cls.from_json(parse_versioned_json(data, OBJECT))

    @classmethod
    def from_json(cls, value: object) -> "BeaconCommitteeSelection":
        """From the Beacon API's object. Raises: EncodingFault."""
        return cls(**_COMMITTEE_SELECTION.from_json(value))

    def to_json(self) -> dict[str, Any]:
        return _COMMITTEE_SELECTION.to_json(msgspec.structs.asdict(self))

    to_wire_json = to_json


class SyncCommitteeSelection(msgspec.Struct, frozen=True):
    """A validator's proof whether it aggregates for a subcommittee in a slot; the proof is the signature."""

    validator_index: int
    slot: int
    subcommittee_index: int
    selection_proof: bytes

    @property
    def signature(self) -> bytes:
        return self.selection_proof

    def with_signature(self, signature: bytes) -> "SyncCommitteeSelection":
        return replaced(self, "selection_proof", signature)

    def object_root(self) -> bytes:
        return containers.SYNC_AGGREGATOR_SELECTION_DATA.hash_tree_root(msgspec.structs.asdict(self))

    def signing_root(self, chain: Chain) -> bytes:
        epoch = chain.epoch_of(self.slot)
        return chain.signing_root(self.object_root(), DomainType.SYNC_COMMITTEE_SELECTION_PROOF, epoch)

    def belongs_to(self, duty: Duty, chain: Chain) -> bool:
        return duty.type is DutyType.PREPARE_SYNC_CONTRIBUTION and self.slot == duty.slot

    def encode(self) -> bytes:
        return encode_json(self.to_json())

    @classmethod
    def decode(cls, data: bytes) -> "SyncCommitteeSelection":
        """From JSON. Raises: EncodingFault."""
        return cls.from_json(parse_versioned_json(data, OBJECT))

    @classmethod
    def from_json(cls, value: object) -> "SyncCommitteeSelection":
        """From the Beacon API's object. Raises: EncodingFault."""
        return cls(**_SYNC_SELECTION.from_json(value))

    def to_json(self) -> dict[str, Any]:
        return _SYNC_SELECTION.to_json(msgspec.structs.asdict(self))

    to_wire_json = to_json


class RawSignature(msgspec.Struct, frozen=True):
    """A signature of something that is agreed elsewhere (DKG). It has no root, so nothing can verify it here."""

    signature: bytes

    def with_signature(self, signature: bytes) -> "RawSignature":
        return RawSignature(checked(signature))

    def object_root(self) -> bytes:
        raise EncodingFault("a bare signature has no root")

    def signing_root(self, chain: Chain) -> bytes:
        raise EncodingFault("a bare signature has no root")

    def belongs_to(self, duty: Duty, chain: Chain) -> bool:
        return duty.type is DutyType.SIGNATURE

    def encode(self) -> bytes:
        return encode_json(self.to_wire_json())

    def to_wire_json(self) -> object:
        return base64.b64encode(self.signature).decode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> "RawSignature":
        """From base64 in quotes. Raises: EncodingFault."""
        value = parse_versioned_json(data, OBJECT)
        if not isinstance(value, str):
            raise EncodingFault("not a signature in quotes")
        try:
            signature = base64.b64decode(value.encode("ascii"), validate=True)
        except (binascii.Error, ValueError):
            raise EncodingFault("not base64") from None
        if len(signature) != SIGNATURE_BYTES:
            raise EncodingFault(f"a signature of {len(signature)} bytes")
        return cls(signature)
