"""Unsigned data: what the nodes agree on before anyone signs, and its bytes in consensus.

    duty                value                    bytes
    1 proposer          Proposal                 V13
    2 attester          AttestationUnsigned      offset 8 ‖ offset 136 ‖ AttestationData 128 ‖ AttesterDefinition 96 = 232
    9 aggregator        AggregatedAttestation    V12
    12 sync_contribution SyncContributions       160 bytes each alone, or a JSON array (v1.11)

We send the first form; the JSON forms of all of them are understood. What a peer proposes is only decoded once it is decided, and
then whatever is wrong with it is an EncodingFault, or a WrongValue if it contradicts its duty. Without the latter one lying leader has
every node sign a vote for a target far ahead, and whatever honest votes follow are surrounded by it, for ever:

    attestation data    its definition's slot = the duty's · a vote that is possible there (`AttestationData.fault`)
                        definition: under its public key; of a validator of ours with our validator and committee index
    block               the only one, of our proposer's public key · slot: the duty's · fork: the slot's · proposer index: our proposer's

Limits: linear in the bytes. Source: specification 05 §7, §10.1; consensus-specs phase0 and electra, `process_attestation`,
`process_block_header`. Vectors: core/core_encodings_by_fork.json.
"""

import struct
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from charon_actors.bounded_json import OBJECT
from charon_actors.eth2 import containers
from charon_actors.eth2.attestation import ATTESTATION_DATA_BYTES, Attestation, AttestationData
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.proposal import Proposal, proposal_to_wire_json, same_message
from charon_actors.eth2.ssz import BYTES48, UINT64, Container, EncodingFault
from charon_actors.eth2.versioned import decode_v12, encode_json, encode_v12, json_member, looks_like_json, parse_versioned_json

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
    "WrongValue",
    "check_proposal",
    "decided_attestations",
    "decided_proposal",
    "decode_unsigned",
    "encode_unsigned",
    "encode_unsigned_json",
    "foreign_text",
    "pays",
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
        value = parse_versioned_json(data, OBJECT)
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
        return self.attestation.to_wire_json()

    @classmethod
    def decode(cls, data: bytes) -> "AggregatedAttestation":
        """From V12 or the JSON form. Raises: EncodingFault."""
        try:
            return cls(Attestation.decode(*decode_v12(data)))
        except EncodingFault:
            if not looks_like_json(data):
                raise
        return cls(Attestation.from_wire_json(parse_versioned_json(data, OBJECT)))


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
        value = parse_versioned_json(data, OBJECT)
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


class WrongValue(Exception):
    """A value contradicts the duty that it is for. No honest leader proposes it, and nobody may sign it."""


def decided_attestations(
    decided: Mapping[str, bytes], duty: Duty, definitions: Mapping[bytes, AttesterDefinition], chain: Chain
) -> list[AttestationUnsigned]:
    """What was decided for an attester duty, decoded and checked (table on top).

    decided: encodings by "0x" and hex digits of the group public key. definitions: ours, by group public key.
    Some of ours may be missing, and there may be others, which only the peers' beacon nodes know to be active; they are held to the
    same rules, for they may share a committee with ours. Raises: EncodingFault, WrongValue; one wrong value condemns all.
    """
    if not decided:
        raise WrongValue("nothing was decided for any validator")
    values = []
    for key, encoding in decided.items():
        value = AttestationUnsigned.decode(encoding)
        theirs = value.duty
        ours = definitions.get(theirs.pubkey, theirs)
        if key != "0x" + theirs.pubkey.hex():
            raise WrongValue(f"a definition of validator {theirs.validator_index} under another public key")
        _demand("validator index", theirs.validator_index, ours.validator_index)
        _demand("committee", theirs.committee_index, ours.committee_index)
        _demand("slot of the definition", theirs.slot, duty.slot)
        if fault := value.data.fault(duty.slot, theirs.committee_index, chain):
            raise WrongValue(fault)
        values.append(value)
    if len({(value.duty.committee_index, value.duty.validator_index) for value in values}) < len(values):
        raise WrongValue("two public keys for one validator")
    return values


def decided_proposal(decided: Mapping[str, bytes], duty: Duty, pubkey: bytes, validator_index: int, chain: Chain) -> Proposal:
    """What was decided for a proposer duty, decoded and checked (table on top).

    decided: as of `decided_attestations`. pubkey: the group's of our proposer, 48 bytes. Raises: EncodingFault, WrongValue.
    """
    encoding = decided.get("0x" + pubkey.hex())
    if encoding is None or len(decided) != 1:
        raise WrongValue(f"{len(decided)} blocks, not one of validator {validator_index}")
    proposal = Proposal.decode(encoding)
    check_proposal(proposal, duty, validator_index, chain)
    return proposal


def check_proposal(proposal: Proposal, duty: Duty, validator_index: int, chain: Chain) -> None:
    """Whether it may be the block of this duty and validator. Raises: WrongValue."""
    _demand("slot", proposal.slot, duty.slot)
    if chain.has_made_up_blocks:
        return
    _demand("fork", proposal.fork.label, chain.fork_at(chain.epoch_of(duty.slot)).label)
    _demand("proposer index", proposal.proposer_index, validator_index)


def pays(proposal: Proposal, fee_recipient: bytes) -> bool:
    """Whether the fees of this block go to that address (20 bytes). True where it can't be said: a blinded block pays the cluster
    through its builder, and before Bellatrix a block pays nobody."""
    return proposal.blinded or proposal.fee_recipient in (None, fee_recipient)


def foreign_text(proposal: Proposal, fee_recipient: bytes) -> str:
    """For logs and faults, of a block that `pays` somebody else."""
    return f"the block's fee recipient is 0x{(proposal.fee_recipient or b'').hex()} instead of 0x{fee_recipient.hex()}"


def _demand(what: str, found: object, due: object) -> None:
    if found != due:
        raise WrongValue(f"{what} {found} instead of {due}")
