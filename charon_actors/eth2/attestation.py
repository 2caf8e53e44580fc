"""Attestations as values: what is voted for, and a vote with its bits, in the shape of its fork. Pure.

Consensus between the nodes and the slashing rules need only `AttestationData`: 128 bytes with fixed places. An `Attestation` has
committee bits from Electra on; before, the committee stood in `data.index`.

Source: specification 05 §10.1 (sizes), 08 §7.2; consensus-specs phase0 and electra.
"""

import struct
from typing import TYPE_CHECKING, Any, Final

import msgspec

from charon_actors.eth2 import containers
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.ssz import SszFault
from charon_actors.eth2.versioned import json_fork, json_member

if TYPE_CHECKING:
    from charon_actors.eth2.chain import Chain

_DATA: Final = struct.Struct("<QQ32sQ32sQ32s")
ATTESTATION_DATA_BYTES: Final = _DATA.size
EMPTY_BITLIST: Final = b"\x01"
MAX_COMMITTEES: Final = 64


def vote_index(committee_index: int, fork: Fork) -> int:
    """The `index` of a vote of that committee: from Electra on it is 0 for all, and the committee stands beside the vote (EIP-7549).

    Gloas gives it another meaning: asked for with 0, answered with 0 or 1, where 1 means that the payload is present (12 §7).
    """
    return committee_index if fork < Fork.ELECTRA else 0


class AttestationData(msgspec.Struct, frozen=True):
    """A vote. Roots: 32 bytes; the rest uint64. `index` is 0 from Electra on."""

    slot: int
    index: int
    beacon_block_root: bytes
    source_epoch: int
    source_root: bytes
    target_epoch: int
    target_root: bytes

    @classmethod
    def decode(cls, data: bytes) -> "AttestationData":
        """From its 128 bytes. Raises: SszFault."""
        if len(data) != _DATA.size:
            raise SszFault(f"AttestationData: {len(data)} bytes instead of {_DATA.size}")
        return cls(*_DATA.unpack(data))

    def encode(self) -> bytes:
        return _DATA.pack(
            self.slot,
            self.index,
            self.beacon_block_root,
            self.source_epoch,
            self.source_root,
            self.target_epoch,
            self.target_root,
        )

    @classmethod
    def from_json(cls, value: object) -> "AttestationData":
        """From the Beacon API's object. Raises: SszFault."""
        return cls.from_value(containers.ATTESTATION_DATA.from_json(value))

    def to_json(self) -> dict[str, Any]:
        return containers.ATTESTATION_DATA.to_json(self.to_value())

    def fault(self, slot: int, committee_index: int, chain: "Chain") -> str | None:
        """Why nobody may cast this vote in that slot and committee; None: it is a possible one. The fork is the slot's.

            slot     the one asked for
            index    the committee, 0 from Electra on
            target   the slot's epoch: any other would block, on the slashing record, all that comes after
            source   before the target, but for genesis: an epoch is justified at its end at the earliest

        Source: consensus-specs phase0 and electra, `process_justification_and_finalization`, `process_attestation`.
        """
        epoch = chain.epoch_of(slot)
        index = vote_index(committee_index, chain.fork_at(epoch))
        for what, found, due in (
            ("slot", self.slot, slot),
            ("index", self.index, index),
            ("target epoch", self.target_epoch, epoch),
        ):
            if found != due:
                return f"{what} {found} instead of {due}"
        if self.source_epoch > self.target_epoch:
            return f"source epoch {self.source_epoch} is after target epoch {self.target_epoch}"
        if self.source_epoch == self.target_epoch != 0:
            return f"source epoch {self.source_epoch} is the target epoch, which nobody can have justified yet"
        return None

    def hash_tree_root(self) -> bytes:
        """32 bytes; the object root of every attestation."""
        return containers.ATTESTATION_DATA.hash_tree_root(self.to_value())

    @classmethod
    def from_value(cls, value: dict[str, Any]) -> "AttestationData":
        source, target = value["source"], value["target"]
        return cls(
            value["slot"],
            value["index"],
            value["beacon_block_root"],
            source["epoch"],
            source["root"],
            target["epoch"],
            target["root"],
        )

    def to_value(self) -> dict[str, Any]:
        """As the schema's dict."""
        return {
            "slot": self.slot,
            "index": self.index,
            "beacon_block_root": self.beacon_block_root,
            "source": {"epoch": self.source_epoch, "root": self.source_root},
            "target": {"epoch": self.target_epoch, "root": self.target_root},
        }


class Attestation(msgspec.Struct, frozen=True):
    """A vote with its bits and signature (96 bytes). aggregation_bits: an SSZ bit list with its delimiter.

    committee_bits: 8 bytes from Electra on, empty before. As an aggregate the signature is the committee's.
    """

    fork: Fork
    aggregation_bits: bytes
    data: AttestationData
    signature: bytes
    committee_bits: bytes = b""

    @classmethod
    def decode(cls, fork: Fork, data: bytes) -> "Attestation":
        """From SSZ. Raises: SszFault."""
        return cls.from_value(fork, containers.attestation(fork).decode(data))

    def encode(self) -> bytes:
        return containers.attestation(self.fork).encode(self.to_value())

    @classmethod
    def from_json(cls, fork: Fork, value: object) -> "Attestation":
        """From the Beacon API's object of that fork. Raises: SszFault."""
        return cls.from_value(fork, containers.attestation(fork).from_json(value))

    def to_json(self) -> dict[str, Any]:
        return containers.attestation(self.fork).to_json(self.to_value())

    @classmethod
    def from_value(cls, fork: Fork, value: dict[str, Any]) -> "Attestation":
        data = AttestationData.from_value(value["data"])
        return cls(fork, value["aggregation_bits"], data, value["signature"], value.get("committee_bits", b""))

    def to_value(self) -> dict[str, Any]:
        value = {
            "aggregation_bits": self.aggregation_bits,
            "data": self.data.to_value(),
            "signature": self.signature,
        }
        if self.fork >= Fork.ELECTRA:
            value["committee_bits"] = self.committee_bits
        return value

    def to_wire_json(self, validator_index: int | None = None) -> dict[str, Any]:
        """The JSON form between the nodes, with the fork's number around it (`versioned.py`); an aggregate has no validator index."""
        index = None if validator_index is None else str(validator_index)
        return {"version": int(self.fork), "validator_index": index, "attestation": self.to_json()}

    @classmethod
    def from_wire_json(cls, value: object) -> "Attestation":
        """From that form, whatever its validator index. Raises: EncodingFault."""
        return cls.from_json(json_fork(value), json_member(value, "attestation"))

    @property
    def committee_index(self) -> int | None:
        """The one committee that voted; None if there are several or none (Electra on)."""
        if self.fork < Fork.ELECTRA:
            return self.data.index
        bits = int.from_bytes(self.committee_bits, "little")
        return bits.bit_length() - 1 if bits.bit_count() == 1 else None
