"""Sync committee messages and contributions, signed. Source: specification 05 §10.1, §10.2."""

from typing import Any

import msgspec

from charon_actors.eth2 import containers
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.signed.parts import replaced, ssz_or_json
from charon_actors.eth2.signing import DomainType
from charon_actors.eth2.unsigned_data import SyncCommitteeContribution


class SignedSyncMessage(msgspec.Struct, frozen=True):
    """A sync committee member's vote for a head. The object root is the block root itself."""

    slot: int
    beacon_block_root: bytes
    validator_index: int
    signature: bytes

    def with_signature(self, signature: bytes) -> "SignedSyncMessage":
        return replaced(self, "signature", signature)

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
        return cls(**ssz_or_json(containers.SYNC_COMMITTEE_MESSAGE, data))

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
        return replaced(self, "signature", signature)

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
        return cls._from_value(ssz_or_json(containers.signed_contribution_and_proof(), data))

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
