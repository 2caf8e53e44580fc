"""Signed data: what a validator signs in a duty, what exactly is signed, and its bytes between the nodes.

    duty                          type                         sent as   object root                    domain, epoch
    1 proposer                    SignedProposal               V13       the block                      BEACON_PROPOSER, slot's
    2 attester                    VersionedAttestation         V20, V12  AttestationData                BEACON_ATTESTER, target
    3 signature                   RawSignature                 JSON      –                              –
    4 exit                        SignedVoluntaryExit          JSON      VoluntaryExit                  VOLUNTARY_EXIT, Capella's
    6 builder_registration        SignedValidatorRegistration  JSON      ValidatorRegistrationV1        APPLICATION_BUILDER, genesis
    7 randao                      SignedRandao                 JSON      epoch                          RANDAO, that epoch
    8 prepare_aggregator          BeaconCommitteeSelection     JSON      slot                           SELECTION_PROOF, slot's
    9 aggregator                  SignedAggregateAndProof      V12       AggregateAndProof              AGGREGATE_AND_PROOF, slot's
    10 sync_message               SignedSyncMessage            144 B     the block root itself          SYNC_COMMITTEE, slot's
    11 prepare_sync_contribution  SyncCommitteeSelection       JSON      SyncAggregatorSelectionData    SYNC_COMMITTEE_SELECTION_PROOF
    12 sync_contribution          SignedContributionAndProof   360 B     ContributionAndProof           CONTRIBUTION_AND_PROOF, slot's

A decoder tries SSZ, then JSON if the bytes look like it. `from_json` and `to_json` are the Beacon API's forms, for the validator
client and the beacon node; the JSON between nodes differs by a version around it.

`belongs_to` tells whether the object can be one of that duty: Charon doesn't check it, every honest peer's can (05 §10.2). A vote's
target is the epoch of its slot and its source no later: any other would block, on the slashing record, all that comes after.
Signatures are not checked here; all of them have 96 bytes. Source: specification 05 §10, 07 §5.6, 08 §6.3.
"""

import base64
import binascii
from typing import Any, Final, Protocol, Self, TypeVar

import msgspec

from charon_actors.bounded_json import OBJECT
from charon_actors.eth2 import containers
from charon_actors.eth2.attestation import EMPTY_BITLIST, MAX_COMMITTEES, Attestation, AttestationData
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.proposal import SignedProposal, proposal_to_wire_json, same_message
from charon_actors.eth2.signing import DomainType
from charon_actors.eth2.ssz import BYTES96, UINT64, Container, EncodingFault
from charon_actors.eth2.unsigned_data import SyncCommitteeContribution
from charon_actors.eth2.versioned import (
    decode_v12,
    decode_v20,
    encode_json,
    encode_v12,
    encode_v20,
    json_fork,
    json_member,
    json_uint,
    looks_like_json,
    parse_json,
)

__all__ = [
    "BeaconCommitteeSelection",
    "EncodingFault",
    "RawSignature",
    "SignedAggregateAndProof",
    "SignedContributionAndProof",
    "SignedData",
    "SignedProposal",
    "SignedRandao",
    "SignedSyncMessage",
    "SignedValidatorRegistration",
    "SignedVoluntaryExit",
    "SyncCommitteeSelection",
    "VersionedAttestation",
    "decode_signed_data",
    "encode_signed_data_json",
    "same_message",
]

S = TypeVar("S", bound=msgspec.Struct)

SIGNATURE_BYTES: Final = 96
_BARE_AGGREGATE_OFFSET: Final = (100).to_bytes(4, "little")  # a SignedAggregateAndProof without a version around it


class SignedData(Protocol):
    """What all types of the table can do."""

    @property
    def signature(self) -> bytes:
        """96 bytes: a share's (partial) or the group's."""

    def with_signature(self, signature: bytes) -> Self:
        """The same object under another signature of 96 bytes."""

    def object_root(self) -> bytes:
        """32 bytes; partial signatures combine only under equal roots."""

    def signing_root(self, chain: Chain) -> bytes:
        """The 32 bytes that the key signs. Raises: ChainFault (an epoch that the chain has no fork for)."""

    def belongs_to(self, duty: Duty, chain: Chain) -> bool:
        """Whether the object can be one of that duty. Never raises."""

    def encode(self) -> bytes:
        """The form that we send to peers."""


def _checked(signature: bytes) -> bytes:
    if len(signature) != SIGNATURE_BYTES:
        raise ValueError(f"a signature of {len(signature)} bytes")
    return signature


def _replaced(value: S, name: str, signature: bytes) -> S:
    return msgspec.structs.replace(value, **{name: _checked(signature)})


class VersionedAttestation(msgspec.Struct, frozen=True):
    """A validator's own vote. validator_index: known from Electra on; without it we send V12 instead of V20."""

    attestation: Attestation
    validator_index: int | None = None

    @property
    def fork(self) -> Fork:
        return self.attestation.fork

    @property
    def data(self) -> AttestationData:
        return self.attestation.data

    @property
    def signature(self) -> bytes:
        return self.attestation.signature

    def with_signature(self, signature: bytes) -> "VersionedAttestation":
        return VersionedAttestation(_replaced(self.attestation, "signature", signature), self.validator_index)

    def object_root(self) -> bytes:
        return self.data.hash_tree_root()

    def signing_root(self, chain: Chain) -> bytes:
        return chain.signing_root(self.object_root(), DomainType.BEACON_ATTESTER, self.data.target_epoch)

    def belongs_to(self, duty: Duty, chain: Chain) -> bool:
        data = self.data
        is_electra = chain.fork_at(data.target_epoch) >= Fork.ELECTRA  # within either side of it forks differ in name only
        return (
            duty.type is DutyType.ATTESTER
            and data.slot == duty.slot
            and data.has_possible_source
            and data.target_epoch == chain.epoch_of(duty.slot)
            and (self.fork >= Fork.ELECTRA) == is_electra
            and self.attestation.committee_index is not None
        )

    def encode(self) -> bytes:
        if self.validator_index is None:
            return encode_v12(self.fork, self.attestation.encode())
        return encode_v20(self.fork, self.validator_index, self.attestation.encode())

    def to_wire_json(self) -> object:
        index = None if self.validator_index is None else str(self.validator_index)
        return {"version": int(self.fork), "validator_index": index, "attestation": self.attestation.to_json()}

    @classmethod
    def decode(cls, data: bytes) -> "VersionedAttestation":
        """From V20, V12 or the JSON form. Raises: EncodingFault."""
        try:
            fork, validator_index, body = decode_v20(data)
            return cls(Attestation.decode(fork, body), validator_index)
        except EncodingFault:
            pass  # also a V12 form whose slot is 20 looks like V20 at first
        try:
            return cls(Attestation.decode(*decode_v12(data)))
        except EncodingFault:
            if not looks_like_json(data):
                raise
        value = parse_json(data, OBJECT)
        has_index = json_member(value, "validator_index") is not None
        attestation = Attestation.from_json(json_fork(value), json_member(value, "attestation"))
        return cls(attestation, json_uint(value, "validator_index") if has_index else None)

    @classmethod
    def from_single_attestation_json(cls, fork: Fork, value: object) -> "VersionedAttestation":
        """From a validator client's SingleAttestation (Electra on). Raises: EncodingFault.

        The inner form is what all nodes use: the one committee bit, no aggregation bits, and the validator index (07 §5.6).
        """
        if fork < Fork.ELECTRA:
            raise EncodingFault(f"{fork.label} has no SingleAttestation")
        single = containers.SINGLE_ATTESTATION.from_json(value)
        committee = single["committee_index"]
        if committee >= MAX_COMMITTEES:
            raise EncodingFault(f"committee {committee}, there are {MAX_COMMITTEES}")
        bits = (1 << committee).to_bytes(MAX_COMMITTEES // 8, "little")
        data = AttestationData.from_value(single["data"])
        return cls(Attestation(fork, EMPTY_BITLIST, data, single["signature"], bits), single["attester_index"])

    def to_single_attestation_json(self) -> dict[str, Any]:
        """What POST v2 pool/attestations takes (Electra on).

        Raises: EncodingFault (no validator index, or not exactly one committee bit: skip it, send the rest, 08 §4).
        """
        committee = self.attestation.committee_index
        if self.fork < Fork.ELECTRA or self.validator_index is None or committee is None:
            raise EncodingFault("not the attestation of one known validator in one committee")
        return {
            "committee_index": str(committee),
            "attester_index": str(self.validator_index),
            "data": self.data.to_json(),
            "signature": "0x" + self.signature.hex(),
        }

    @classmethod
    def from_attestation_json(cls, fork: Fork, value: object) -> "VersionedAttestation":
        """From a validator client's Attestation (before Electra); has no validator index. Raises: EncodingFault."""
        if fork >= Fork.ELECTRA:
            raise EncodingFault(f"{fork.label} has SingleAttestation")
        return cls(Attestation.from_json(fork, value))

    def to_json(self) -> dict[str, Any]:
        """What the beacon node takes in this fork. Raises: EncodingFault, as `to_single_attestation_json`."""
        return self.to_single_attestation_json() if self.fork >= Fork.ELECTRA else self.attestation.to_json()


class SignedAggregateAndProof(msgspec.Struct, frozen=True):
    """An aggregate with the aggregator's proof of selection (96 bytes)."""

    aggregator_index: int
    aggregate: Attestation
    selection_proof: bytes
    signature: bytes

    @property
    def fork(self) -> Fork:
        return self.aggregate.fork

    @property
    def slot(self) -> int:
        return self.aggregate.data.slot

    def with_signature(self, signature: bytes) -> "SignedAggregateAndProof":
        return _replaced(self, "signature", signature)

    def object_root(self) -> bytes:
        return containers.aggregate_and_proof(self.fork).hash_tree_root(self._value()["message"])

    def signing_root(self, chain: Chain) -> bytes:
        return chain.signing_root(self.object_root(), DomainType.AGGREGATE_AND_PROOF, chain.epoch_of(self.slot))

    def belongs_to(self, duty: Duty, chain: Chain) -> bool:
        return duty.type is DutyType.AGGREGATOR and self.slot == duty.slot

    def encode(self) -> bytes:
        return encode_v12(self.fork, containers.signed_aggregate_and_proof(self.fork).encode(self._value()))

    def to_wire_json(self) -> object:
        return {"version": int(self.fork), "aggregate_and_proof": self.to_json()}

    @classmethod
    def decode(cls, data: bytes) -> "SignedAggregateAndProof":
        """From V12, a bare phase0 object or the JSON form. Raises: EncodingFault."""
        try:
            if data.startswith(_BARE_AGGREGATE_OFFSET):  # no version is 100
                fork, body = Fork.PHASE0, data
            else:
                fork, body = decode_v12(data)
            return cls._from_value(fork, containers.signed_aggregate_and_proof(fork).decode(body))
        except EncodingFault:
            if not looks_like_json(data):
                raise
        value = parse_json(data, OBJECT)
        return cls.from_json(json_fork(value), json_member(value, "aggregate_and_proof"))

    @classmethod
    def from_json(cls, fork: Fork, value: object) -> "SignedAggregateAndProof":
        """From the Beacon API's object of that fork. Raises: EncodingFault."""
        return cls._from_value(fork, containers.signed_aggregate_and_proof(fork).from_json(value))

    def to_json(self) -> dict[str, Any]:
        return containers.signed_aggregate_and_proof(self.fork).to_json(self._value())

    @classmethod
    def _from_value(cls, fork: Fork, value: dict[str, Any]) -> "SignedAggregateAndProof":
        message = value["message"]
        aggregate = Attestation.from_value(fork, message["aggregate"])
        return cls(message["aggregator_index"], aggregate, message["selection_proof"], value["signature"])

    def _value(self) -> dict[str, Any]:
        return {
            "message": {
                "aggregator_index": self.aggregator_index,
                "aggregate": self.aggregate.to_value(),
                "selection_proof": self.selection_proof,
            },
            "signature": self.signature,
        }


class SignedSyncMessage(msgspec.Struct, frozen=True):
    """A sync committee member's vote for a head. The object root is the block root itself."""

    slot: int
    beacon_block_root: bytes
    validator_index: int
    signature: bytes

    def with_signature(self, signature: bytes) -> "SignedSyncMessage":
        return _replaced(self, "signature", signature)

    def object_root(self) -> bytes:
        return self.beacon_block_root

    def signing_root(self, chain: Chain) -> bytes:
        return chain.signing_root(self.object_root(), DomainType.SYNC_COMMITTEE, chain.epoch_of(self.slot))

    def belongs_to(self, duty: Duty, chain: Chain) -> bool:
        return duty.type is DutyType.SYNC_MESSAGE and self.slot == duty.slot

    def encode(self) -> bytes:
        return containers.SYNC_COMMITTEE_MESSAGE.encode(msgspec.structs.asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> "SignedSyncMessage":
        """From its 144 bytes or JSON. Raises: EncodingFault."""
        return cls(**_ssz_or_json(containers.SYNC_COMMITTEE_MESSAGE, data))

    @classmethod
    def from_json(cls, value: object) -> "SignedSyncMessage":
        """From the Beacon API's object. Raises: EncodingFault."""
        return cls(**containers.SYNC_COMMITTEE_MESSAGE.from_json(value))

    def to_json(self) -> dict[str, Any]:
        return containers.SYNC_COMMITTEE_MESSAGE.to_json(msgspec.structs.asdict(self))

    to_wire_json = to_json


class SignedContributionAndProof(msgspec.Struct, frozen=True):
    """A sync contribution with the aggregator's proof of selection (96 bytes)."""

    aggregator_index: int
    contribution: SyncCommitteeContribution
    selection_proof: bytes
    signature: bytes

    @property
    def slot(self) -> int:
        return self.contribution.slot

    def with_signature(self, signature: bytes) -> "SignedContributionAndProof":
        return _replaced(self, "signature", signature)

    def object_root(self) -> bytes:
        return containers.contribution_and_proof().hash_tree_root(self._value()["message"])

    def signing_root(self, chain: Chain) -> bytes:
        return chain.signing_root(self.object_root(), DomainType.CONTRIBUTION_AND_PROOF, chain.epoch_of(self.slot))

    def belongs_to(self, duty: Duty, chain: Chain) -> bool:
        return duty.type is DutyType.SYNC_CONTRIBUTION and self.slot == duty.slot

    def encode(self) -> bytes:
        return containers.signed_contribution_and_proof().encode(self._value())

    @classmethod
    def decode(cls, data: bytes) -> "SignedContributionAndProof":
        """From its 360 bytes or JSON. Raises: EncodingFault."""
        return cls._from_value(_ssz_or_json(containers.signed_contribution_and_proof(), data))

    @classmethod
    def from_json(cls, value: object) -> "SignedContributionAndProof":
        """From the Beacon API's object. Raises: EncodingFault."""
        return cls._from_value(containers.signed_contribution_and_proof().from_json(value))

    def to_json(self) -> dict[str, Any]:
        return containers.signed_contribution_and_proof().to_json(self._value())

    to_wire_json = to_json

    @classmethod
    def _from_value(cls, value: dict[str, Any]) -> "SignedContributionAndProof":
        message = value["message"]
        contribution = SyncCommitteeContribution(**message["contribution"])
        return cls(message["aggregator_index"], contribution, message["selection_proof"], value["signature"])

    def _value(self) -> dict[str, Any]:
        return {
            "message": {
                "aggregator_index": self.aggregator_index,
                "contribution": self.contribution.to_value(),
                "selection_proof": self.selection_proof,
            },
            "signature": self.signature,
        }


class SignedVoluntaryExit(msgspec.Struct, frozen=True):
    """A validator wants to leave from `epoch` on. Its duty has the first slot of that epoch."""

    epoch: int
    validator_index: int
    signature: bytes

    def with_signature(self, signature: bytes) -> "SignedVoluntaryExit":
        return _replaced(self, "signature", signature)

    def object_root(self) -> bytes:
        return containers.VOLUNTARY_EXIT.hash_tree_root(msgspec.structs.asdict(self))

    def signing_root(self, chain: Chain) -> bytes:
        return chain.signing_root(self.object_root(), DomainType.VOLUNTARY_EXIT, self.epoch)

    def belongs_to(self, duty: Duty, chain: Chain) -> bool:
        return duty.type is DutyType.EXIT and chain.first_slot(self.epoch) == duty.slot

    def encode(self) -> bytes:
        return encode_json(self.to_json())

    def encode_ssz(self) -> bytes:
        """The 112 bytes that are understood as well, but never sent."""
        return containers.SIGNED_VOLUNTARY_EXIT.encode(self._value())

    @classmethod
    def decode(cls, data: bytes) -> "SignedVoluntaryExit":
        """From JSON or 112 bytes of SSZ. Raises: EncodingFault."""
        return cls._from_value(_ssz_or_json(containers.SIGNED_VOLUNTARY_EXIT, data))

    @classmethod
    def from_json(cls, value: object) -> "SignedVoluntaryExit":
        """From the Beacon API's object. Raises: EncodingFault."""
        return cls._from_value(containers.SIGNED_VOLUNTARY_EXIT.from_json(value))

    def to_json(self) -> dict[str, Any]:
        return containers.SIGNED_VOLUNTARY_EXIT.to_json(self._value())

    to_wire_json = to_json

    @classmethod
    def _from_value(cls, value: dict[str, Any]) -> "SignedVoluntaryExit":
        message = value["message"]
        return cls(message["epoch"], message["validator_index"], value["signature"])

    def _value(self) -> dict[str, Any]:
        message = {"epoch": self.epoch, "validator_index": self.validator_index}
        return {"message": message, "signature": self.signature}


class SignedValidatorRegistration(msgspec.Struct, frozen=True):
    """A builder registration. fee_recipient: 20 bytes; pubkey: the group's, 48; timestamp: Unix seconds."""

    fee_recipient: bytes
    gas_limit: int
    timestamp: int
    pubkey: bytes
    signature: bytes

    def with_signature(self, signature: bytes) -> "SignedValidatorRegistration":
        return _replaced(self, "signature", signature)

    def object_root(self) -> bytes:
        return containers.VALIDATOR_REGISTRATION.hash_tree_root(msgspec.structs.asdict(self))

    def signing_root(self, chain: Chain) -> bytes:
        return chain.signing_root(self.object_root(), DomainType.APPLICATION_BUILDER, 0)

    def belongs_to(self, duty: Duty, chain: Chain) -> bool:
        return duty.type is DutyType.BUILDER_REGISTRATION

    def encode(self) -> bytes:
        return encode_json(self.to_wire_json())

    def to_wire_json(self) -> object:
        return {"version": 0, "registration": self.to_json()}  # 0 is builder v1, the only one

    @classmethod
    def decode(cls, data: bytes) -> "SignedValidatorRegistration":
        """From the JSON form. Raises: EncodingFault."""
        value = parse_json(data, OBJECT)
        version = json_member(value, "version")
        if version != 0 or isinstance(version, bool):
            raise EncodingFault("a builder registration of an unknown version")
        return cls.from_json(json_member(value, "registration"))

    @classmethod
    def from_json(cls, value: object) -> "SignedValidatorRegistration":
        """From the Beacon API's object. Raises: EncodingFault."""
        fields = containers.SIGNED_VALIDATOR_REGISTRATION.from_json(value)
        return cls(**fields["message"], signature=fields["signature"])

    def to_json(self) -> dict[str, Any]:
        message = msgspec.structs.asdict(self)
        return containers.SIGNED_VALIDATOR_REGISTRATION.to_json({"message": message, "signature": self.signature})


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
        return _replaced(self, "signature", signature)

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
        return cls(**_RANDAO.from_json(parse_json(data, OBJECT)))


class BeaconCommitteeSelection(msgspec.Struct, frozen=True):
    """A validator's proof whether it aggregates in a slot; the proof is the signature."""

    validator_index: int
    slot: int
    selection_proof: bytes

    @property
    def signature(self) -> bytes:
        return self.selection_proof

    def with_signature(self, signature: bytes) -> "BeaconCommitteeSelection":
        return _replaced(self, "selection_proof", signature)

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
        return cls.from_json(parse_json(data, OBJECT))

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
        return _replaced(self, "selection_proof", signature)

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
        return cls.from_json(parse_json(data, OBJECT))

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
        return RawSignature(_checked(signature))

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
        value = parse_json(data, OBJECT)
        if not isinstance(value, str):
            raise EncodingFault("not a signature in quotes")
        try:
            signature = base64.b64decode(value.encode("ascii"), validate=True)
        except (binascii.Error, ValueError):
            raise EncodingFault("not base64") from None
        if len(signature) != SIGNATURE_BYTES:
            raise EncodingFault(f"a signature of {len(signature)} bytes")
        return cls(signature)


def _ssz_or_json(schema: Container, data: bytes) -> dict[str, Any]:
    if len(data) == schema.fixed_size:
        return schema.decode(data)
    if not looks_like_json(data):
        raise EncodingFault(f"{schema.name}: {len(data)} bytes instead of {schema.fixed_size}")
    return schema.from_json(parse_json(data, OBJECT))


_Concrete = (
    SignedProposal
    | VersionedAttestation
    | RawSignature
    | SignedVoluntaryExit
    | SignedValidatorRegistration
    | SignedRandao
    | BeaconCommitteeSelection
    | SignedAggregateAndProof
    | SignedSyncMessage
    | SyncCommitteeSelection
    | SignedContributionAndProof
)

_TYPES: Final[dict[DutyType, type[_Concrete]]] = {
    DutyType.PROPOSER: SignedProposal,
    DutyType.ATTESTER: VersionedAttestation,
    DutyType.SIGNATURE: RawSignature,
    DutyType.EXIT: SignedVoluntaryExit,
    DutyType.BUILDER_REGISTRATION: SignedValidatorRegistration,
    DutyType.RANDAO: SignedRandao,
    DutyType.PREPARE_AGGREGATOR: BeaconCommitteeSelection,
    DutyType.AGGREGATOR: SignedAggregateAndProof,
    DutyType.SYNC_MESSAGE: SignedSyncMessage,
    DutyType.PREPARE_SYNC_CONTRIBUTION: SyncCommitteeSelection,
    DutyType.SYNC_CONTRIBUTION: SignedContributionAndProof,
}


def decode_signed_data(duty_type: DutyType, data: bytes) -> SignedData:
    """What a peer signed for a duty of that type. Raises: EncodingFault (also for types 5 and 13, which sign nothing)."""
    kind = _TYPES.get(duty_type)
    if kind is None:
        raise EncodingFault(f"duty {duty_type} has no signed data")
    return kind.decode(data)


def encode_signed_data_json(value: _Concrete) -> bytes:
    """The JSON form, which every release understands; we send it only where there is no SSZ form."""
    return proposal_to_wire_json(value) if isinstance(value, SignedProposal) else encode_json(value.to_wire_json())
