"""Unsigned data: what the nodes agree on before anyone signs, and its bytes in consensus.

    duty                value                    bytes
    1 proposer          Proposal                 V13
    2 attester          AttestationUnsigned      offset 8 ‖ offset 136 ‖ AttestationData 128 ‖ AttesterDefinition 96 = 232
    9 aggregator        AggregatedAttestation    V12
    12 sync_contribution SyncContributions       160 bytes each alone, or a JSON array (v1.11)

We send the first form; the JSON forms of all of them are understood. What a peer proposes is only decoded once it is decided, and
then whatever is wrong with it is an EncodingFault.

Limits: linear in the bytes. Source: specification 05 §10.1. Vectors: core/core_encodings_by_fork.json.
"""

import struct
from typing import Any, Final

import msgspec

from charon_actors.eth2 import containers
from charon_actors.eth2.attestation import ATTESTATION_DATA_BYTES, Attestation, AttestationData
from charon_actors.eth2.duty import DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.proposal import Proposal, proposal_to_wire_json, same_message
from charon_actors.eth2.ssz import BYTES48, UINT64, Container, EncodingFault
from charon_actors.eth2.versioned import (
    decode_v12,
    encode_json,
    encode_v12,
    json_fork,
    json_member,
    looks_like_json,
    parse_json,
)

__all__ = [
    "AggregatedAttestation",
    "AttestationData",
    "AttestationUnsigned",
    "AttesterDefinition",
    "EncodingFault",
    "Proposal",
    "SyncCommitteeContribution",
    "SyncContributions",
    "UnsignedData",
    "decode_unsigned",
    "encode_unsigned",
    "encode_unsigned_json",
    "same_message",
]

MAX_CONTRIBUTIONS: Final = 64  # a validator has one a subcommittee, of which there are 4


_DEFINITION_SCHEMA: Final = Container(
    "AttesterDefinition",
    {
        "pubkey": BYTES48,
        "slot": UINT64,
        "validator_index": UINT64,
        "committee_index": UINT64,
        "committee_length": UINT64,
        "committees_at_slot": UINT64,
        "validator_committee_index": UINT64,
    },
)
_ATTESTATION_OFFSETS: Final = struct.pack("<II", 8, 8 + ATTESTATION_DATA_BYTES)
_ATTESTATION_BYTES: Final = 8 + ATTESTATION_DATA_BYTES + 96


class AttesterDefinition(msgspec.Struct, frozen=True):
    """An attester duty as the beacon node defines it. pubkey: the group public key, 48 bytes; the rest uint64."""

    pubkey: bytes
    slot: int
    validator_index: int
    committee_index: int
    committee_length: int
    committees_at_slot: int
    validator_committee_index: int

    @classmethod
    def decode(cls, data: bytes) -> "AttesterDefinition":
        """From its 96 bytes. Raises: EncodingFault."""
        return cls(**_DEFINITION_SCHEMA.decode(data))

    def encode(self) -> bytes:
        return _DEFINITION_SCHEMA.encode(msgspec.structs.asdict(self))

    @classmethod
    def from_json(cls, value: object) -> "AttesterDefinition":
        """From an element of a duties answer. Raises: EncodingFault."""
        return cls(**_DEFINITION_SCHEMA.from_json(value))

    def to_json(self) -> dict[str, Any]:
        return _DEFINITION_SCHEMA.to_json(msgspec.structs.asdict(self))


class AttestationUnsigned(msgspec.Struct, frozen=True):
    """What one validator is to vote for, and which duty it does so in."""

    data: AttestationData
    duty: AttesterDefinition

    def encode(self) -> bytes:
        return _ATTESTATION_OFFSETS + self.data.encode() + self.duty.encode()

    def to_wire_json(self) -> object:
        return {"attestation_data": self.data.to_json(), "attestation_duty": self.duty.to_json()}

    @classmethod
    def decode(cls, data: bytes) -> "AttestationUnsigned":
        """From its 232 bytes or the JSON form. Raises: EncodingFault."""
        if len(data) == _ATTESTATION_BYTES and data.startswith(_ATTESTATION_OFFSETS):
            split = 8 + ATTESTATION_DATA_BYTES
            return cls(AttestationData.decode(data[8:split]), AttesterDefinition.decode(data[split:]))
        if not looks_like_json(data):
            raise EncodingFault(f"{len(data)} bytes that are no unsigned attestation")
        value = parse_json(data)
        return cls(
            AttestationData.from_json(json_member(value, "attestation_data")),
            AttesterDefinition.from_json(json_member(value, "attestation_duty")),
        )


class AggregatedAttestation(msgspec.Struct, frozen=True):
    """A committee's aggregate, as the beacon node made it."""

    attestation: Attestation

    @property
    def fork(self) -> Fork:
        return self.attestation.fork

    @property
    def data(self) -> AttestationData:
        return self.attestation.data

    def encode(self) -> bytes:
        return encode_v12(self.fork, self.attestation.encode())

    def to_wire_json(self) -> object:
        return {"version": int(self.fork), "validator_index": None, "attestation": self.attestation.to_json()}

    @classmethod
    def decode(cls, data: bytes) -> "AggregatedAttestation":
        """From V12 or the JSON form. Raises: EncodingFault."""
        try:
            return cls(Attestation.decode(*decode_v12(data)))
        except EncodingFault:
            if not looks_like_json(data):
                raise
        value = parse_json(data)
        return cls(Attestation.from_json(json_fork(value), json_member(value, "attestation")))


class SyncCommitteeContribution(msgspec.Struct, frozen=True):
    """A subcommittee's aggregate of sync messages. beacon_block_root: 32 bytes; aggregation_bits: 16; signature: 96."""

    slot: int
    beacon_block_root: bytes
    subcommittee_index: int
    aggregation_bits: bytes
    signature: bytes

    @classmethod
    def decode(cls, data: bytes) -> "SyncCommitteeContribution":
        """From its 160 bytes. Raises: EncodingFault."""
        return cls(**containers.sync_committee_contribution().decode(data))

    def encode(self) -> bytes:
        return containers.sync_committee_contribution().encode(self.to_value())

    @classmethod
    def from_json(cls, value: object) -> "SyncCommitteeContribution":
        """From the Beacon API's object. Raises: EncodingFault."""
        return cls(**containers.sync_committee_contribution().from_json(value))

    def to_json(self) -> dict[str, Any]:
        return containers.sync_committee_contribution().to_json(self.to_value())

    def to_value(self) -> dict[str, Any]:
        """As the schema's dict."""
        return msgspec.structs.asdict(self)


class SyncContributions(msgspec.Struct, frozen=True):
    """A validator's contributions of a slot. as_list: whether in v1.11's list form, which v1.10 cannot read; else exactly one."""

    contributions: tuple[SyncCommitteeContribution, ...]
    as_list: bool = False

    def encode(self) -> bytes:
        if self.as_list:
            return encode_json(self.to_wire_json())
        return self._single().encode()

    def to_wire_json(self) -> object:
        if self.as_list:
            return [contribution.to_json() for contribution in self.contributions]
        return self._single().to_json()

    def _single(self) -> SyncCommitteeContribution:
        if len(self.contributions) != 1:
            raise ValueError("the single form holds one contribution")
        return self.contributions[0]

    @classmethod
    def decode(cls, data: bytes) -> "SyncContributions":
        """From the list, the 160 bytes of one, or its JSON form. Raises: EncodingFault."""
        if len(data) == 160:
            return cls((SyncCommitteeContribution.decode(data),))
        if not looks_like_json(data, b"{["):
            raise EncodingFault(f"{len(data)} bytes that are no contribution")
        value = parse_json(data)
        if not isinstance(value, list):
            return cls((SyncCommitteeContribution.from_json(value),))
        if not 1 <= len(value) <= MAX_CONTRIBUTIONS:
            raise EncodingFault(f"a list of {len(value)} contributions")
        return cls(tuple(SyncCommitteeContribution.from_json(element) for element in value), as_list=True)


UnsignedData = Proposal | AttestationUnsigned | AggregatedAttestation | SyncContributions

_TYPES: Final[dict[DutyType, type[UnsignedData]]] = {
    DutyType.PROPOSER: Proposal,
    DutyType.ATTESTER: AttestationUnsigned,
    DutyType.AGGREGATOR: AggregatedAttestation,
    DutyType.SYNC_CONTRIBUTION: SyncContributions,
}


def encode_unsigned(value: UnsignedData) -> bytes:
    """The bytes that consensus agrees on."""
    return value.encode()


def encode_unsigned_json(value: UnsignedData) -> bytes:
    """The JSON form, which every release understands and none sends where there is an SSZ form."""
    return proposal_to_wire_json(value) if isinstance(value, Proposal) else encode_json(value.to_wire_json())


def decode_unsigned(duty_type: DutyType, data: bytes) -> UnsignedData:
    """The value of a decided duty. Raises: EncodingFault (also for duty types that agree on nothing of the kind)."""
    kind = _TYPES.get(duty_type)
    if kind is None:
        raise EncodingFault(f"duty {duty_type} has no unsigned data")
    return kind.decode(data)
