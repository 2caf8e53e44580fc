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

from typing import Final, Protocol, Self

from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.proposal import SignedProposal, proposal_to_wire_json, same_message
from charon_actors.eth2.signed.attestation import SignedAggregateAndProof, VersionedAttestation
from charon_actors.eth2.signed.ingredients import BeaconCommitteeSelection, RawSignature, SignedRandao, SyncCommitteeSelection
from charon_actors.eth2.signed.sync_committee import SignedContributionAndProof, SignedSyncMessage
from charon_actors.eth2.signed.validator import SignedValidatorRegistration, SignedVoluntaryExit
from charon_actors.eth2.ssz import EncodingFault
from charon_actors.eth2.versioned import (
    encode_json,
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
