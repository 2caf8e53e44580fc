"""Attestations and aggregates, signed. Source: specification 05 §10.1, §10.2."""

from typing import Any, Final

import msgspec

from charon_actors.bounded_json import OBJECT
from charon_actors.eth2 import containers
from charon_actors.eth2.attestation import EMPTY_BITLIST, MAX_COMMITTEES, Attestation, AttestationData
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signed.parts import replaced
from charon_actors.eth2.signing import DomainType
from charon_actors.eth2.ssz import EncodingFault
from charon_actors.eth2.versioned import (
    decode_v12,
    decode_v20,
    encode_v12,
    encode_v20,
    json_fork,
    json_member,
    json_uint,
    looks_like_json,
    parse_versioned_json,
)

_BARE_AGGREGATE_OFFSET: Final = (100).to_bytes(4, "little")  # a SignedAggregateAndProof without a version around it


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
        return VersionedAttestation(replaced(self.attestation, "signature", signature), self.validator_index)

    def object_root(self) -> bytes:
        return self.data.hash_tree_root()

    def signing_root(self, chain: Chain) -> bytes:
        return chain.signing_root(self.object_root(), DomainType.BEACON_ATTESTER, self.data.target_epoch)

    def belongs_to(self, duty: Duty, chain: Chain) -> bool:
        committee_index = self.attestation.committee_index
        is_electra = chain.fork_at(self.data.target_epoch) >= Fork.ELECTRA  # within either side of it forks differ in name only
        return (
            duty.type is DutyType.ATTESTER
            and committee_index is not None
            and self.data.fault(duty.slot, committee_index, chain) is None
            and (self.fork >= Fork.ELECTRA) == is_electra
        )

    def encode(self) -> bytes:
        if self.validator_index is None:
            return encode_v12(self.fork, self.attestation.encode())
        return encode_v20(self.fork, self.validator_index, self.attestation.encode())

    def to_wire_json(self) -> object:
        return self.attestation.to_wire_json(self.validator_index)

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
        value = parse_versioned_json(data, OBJECT)
        has_index = json_member(value, "validator_index") is not None
        return cls(Attestation.from_wire_json(value), json_uint(value, "validator_index") if has_index else None)

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
        return replaced(self, "signature", signature)

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
        value = parse_versioned_json(data, OBJECT)
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
