"""The containers of the consensus layer, by fork and preset, as SSZ schemas. Data only; `ssz.py` does the work.

Names and fields are those of consensus-specs; what a fork adds stands in one place, so a new fork is a few lines. Functions
with a fork give the shape of that fork; Fulu's blocks have Electra's shape, and only its block contents differ (cell proofs).

    fork        attestation   block body adds                              published with
    phase0      phase0        –                                            –
    altair                    sync_aggregate
    bellatrix                 execution_payload (blinded: its header)
    capella                   bls_to_execution_changes, withdrawals
    deneb                     blob_kzg_commitments, blob gas               kzg_proofs and blobs
    electra     electra       execution_requests
    fulu                                                                   128 proofs a blob

Limits are the schema's own; blobs and proofs are cut, never hashed.
Source: specification 08 §7.2; Gnosis' limit of withdrawals 08 §6.1.
"""

from functools import cache
from typing import Final

from charon_actors.eth2.forks import Fork
from charon_actors.eth2.preset import MAINNET, SYNC_COMMITTEE_SUBNET_COUNT, Preset
from charon_actors.eth2.ssz import (
    ADDRESS,
    BYTES20,
    BYTES32,
    BYTES48,
    BYTES96,
    UINT64,
    UINT256,
    Bitlist,
    Bitvector,
    ByteList,
    ByteVector,
    Container,
    List,
    SszType,
    Vector,
)

BLOB_BYTES: Final = 131072
MAX_BLOBS: Final = 4096
MAX_CELL_PROOFS: Final = 33554432  # Fulu has 128 cell proofs a blob; the limit is consensus-specs'
MAX_BYTES_PER_TRANSACTION: Final = 2**30
MAX_TRANSACTIONS: Final = 2**20


def signed(name: str, message: SszType) -> Container:
    """`Signed…`: a message and its signature."""
    return Container(name, {"message": message, "signature": BYTES96})


CHECKPOINT: Final = Container("Checkpoint", {"epoch": UINT64, "root": BYTES32})
ATTESTATION_DATA: Final = Container(
    "AttestationData",
    {"slot": UINT64, "index": UINT64, "beacon_block_root": BYTES32, "source": CHECKPOINT, "target": CHECKPOINT},
)
SINGLE_ATTESTATION: Final = Container(
    "SingleAttestation",
    {"committee_index": UINT64, "attester_index": UINT64, "data": ATTESTATION_DATA, "signature": BYTES96},
)
SYNC_COMMITTEE_MESSAGE: Final = Container(
    "SyncCommitteeMessage",
    {"slot": UINT64, "beacon_block_root": BYTES32, "validator_index": UINT64, "signature": BYTES96},
)
SYNC_AGGREGATOR_SELECTION_DATA: Final = Container("SyncAggregatorSelectionData", {"slot": UINT64, "subcommittee_index": UINT64})
VOLUNTARY_EXIT: Final = Container("VoluntaryExit", {"epoch": UINT64, "validator_index": UINT64})
SIGNED_VOLUNTARY_EXIT: Final = signed("SignedVoluntaryExit", VOLUNTARY_EXIT)
VALIDATOR_REGISTRATION: Final = Container(
    "ValidatorRegistrationV1",
    {"fee_recipient": ADDRESS, "gas_limit": UINT64, "timestamp": UINT64, "pubkey": BYTES48},
)
SIGNED_VALIDATOR_REGISTRATION: Final = signed("SignedValidatorRegistrationV1", VALIDATOR_REGISTRATION)
DEPOSIT_MESSAGE: Final = Container("DepositMessage", {"pubkey": BYTES48, "withdrawal_credentials": BYTES32, "amount": UINT64})
DEPOSIT_DATA: Final = Container("DepositData", {**DEPOSIT_MESSAGE.fields, "signature": BYTES96})
DEPOSIT: Final = Container("Deposit", {"proof": Vector(BYTES32, 33), "data": DEPOSIT_DATA})
ETH1_DATA: Final = Container("Eth1Data", {"deposit_root": BYTES32, "deposit_count": UINT64, "block_hash": BYTES32})
BEACON_BLOCK_HEADER: Final = Container(
    "BeaconBlockHeader",
    {
        "slot": UINT64,
        "proposer_index": UINT64,
        "parent_root": BYTES32,
        "state_root": BYTES32,
        "body_root": BYTES32,
    },
)
SIGNED_BEACON_BLOCK_HEADER: Final = signed("SignedBeaconBlockHeader", BEACON_BLOCK_HEADER)
PROPOSER_SLASHING: Final = Container(
    "ProposerSlashing", {"signed_header_1": SIGNED_BEACON_BLOCK_HEADER, "signed_header_2": SIGNED_BEACON_BLOCK_HEADER}
)
BLS_TO_EXECUTION_CHANGE: Final = Container(
    "BLSToExecutionChange",
    {"validator_index": UINT64, "from_bls_pubkey": BYTES48, "to_execution_address": ADDRESS},
)
WITHDRAWAL: Final = Container(
    "Withdrawal",
    # Charon prints this one address in lower case, the others with EIP-55's capitals (core_encodings_by_fork.json).
    {"index": UINT64, "validator_index": UINT64, "address": BYTES20, "amount": UINT64},
)
DEPOSIT_REQUEST: Final = Container("DepositRequest", {**DEPOSIT_DATA.fields, "index": UINT64})
WITHDRAWAL_REQUEST: Final = Container(
    "WithdrawalRequest", {"source_address": ADDRESS, "validator_pubkey": BYTES48, "amount": UINT64}
)
CONSOLIDATION_REQUEST: Final = Container(
    "ConsolidationRequest", {"source_address": ADDRESS, "source_pubkey": BYTES48, "target_pubkey": BYTES48}
)
EXECUTION_REQUESTS: Final = Container(
    "ExecutionRequests",
    {
        "deposits": List(DEPOSIT_REQUEST, 8192),
        "withdrawals": List(WITHDRAWAL_REQUEST, 16),
        "consolidations": List(CONSOLIDATION_REQUEST, 2),
    },
)


def _attestation_bits(fork: Fork, preset: Preset) -> int:
    committees = preset.max_committees_per_slot if fork >= Fork.ELECTRA else 1
    return preset.max_validators_per_committee * committees


@cache
def attestation(fork: Fork, preset: Preset = MAINNET) -> Container:
    fields: dict[str, SszType] = {
        "aggregation_bits": Bitlist(_attestation_bits(fork, preset)),
        "data": ATTESTATION_DATA,
        "signature": BYTES96,
    }
    if fork >= Fork.ELECTRA:
        fields["committee_bits"] = Bitvector(preset.max_committees_per_slot)
    return Container("Attestation", fields)


@cache
def aggregate_and_proof(fork: Fork, preset: Preset = MAINNET) -> Container:
    return Container(
        "AggregateAndProof",
        {"aggregator_index": UINT64, "aggregate": attestation(fork, preset), "selection_proof": BYTES96},
    )


@cache
def signed_aggregate_and_proof(fork: Fork, preset: Preset = MAINNET) -> Container:
    return signed("SignedAggregateAndProof", aggregate_and_proof(fork, preset))


@cache
def sync_committee_contribution(preset: Preset = MAINNET) -> Container:
    return Container(
        "SyncCommitteeContribution",
        {
            "slot": UINT64,
            "beacon_block_root": BYTES32,
            "subcommittee_index": UINT64,
            "aggregation_bits": Bitvector(preset.sync_committee_size // SYNC_COMMITTEE_SUBNET_COUNT),
            "signature": BYTES96,
        },
    )


@cache
def contribution_and_proof(preset: Preset = MAINNET) -> Container:
    return Container(
        "ContributionAndProof",
        {
            "aggregator_index": UINT64,
            "contribution": sync_committee_contribution(preset),
            "selection_proof": BYTES96,
        },
    )


@cache
def signed_contribution_and_proof(preset: Preset = MAINNET) -> Container:
    return signed("SignedContributionAndProof", contribution_and_proof(preset))


@cache
def attester_slashing(fork: Fork, preset: Preset = MAINNET) -> Container:
    indexed = Container(
        "IndexedAttestation",
        {
            "attesting_indices": List(UINT64, _attestation_bits(fork, preset)),
            "data": ATTESTATION_DATA,
            "signature": BYTES96,
        },
    )
    return Container("AttesterSlashing", {"attestation_1": indexed, "attestation_2": indexed})


@cache
def execution_payload(fork: Fork, blinded: bool = False, preset: Preset = MAINNET) -> Container:
    """The payload, or with `blinded` its header: the same fields with roots in place of the two lists."""
    transactions = List(ByteList(MAX_BYTES_PER_TRANSACTION), MAX_TRANSACTIONS)
    fields: dict[str, SszType] = {
        "parent_hash": BYTES32,
        "fee_recipient": ADDRESS,
        "state_root": BYTES32,
        "receipts_root": BYTES32,
        "logs_bloom": ByteVector(256),
        "prev_randao": BYTES32,
        "block_number": UINT64,
        "gas_limit": UINT64,
        "gas_used": UINT64,
        "timestamp": UINT64,
        "extra_data": ByteList(32),
        "base_fee_per_gas": UINT256,
        "block_hash": BYTES32,
    }
    if blinded:
        fields["transactions_root"] = BYTES32
    else:
        fields["transactions"] = transactions
    if fork >= Fork.CAPELLA:
        if blinded:
            fields["withdrawals_root"] = BYTES32
        else:
            fields["withdrawals"] = List(WITHDRAWAL, preset.max_withdrawals)
    if fork >= Fork.DENEB:
        fields["blob_gas_used"] = UINT64
        fields["excess_blob_gas"] = UINT64
    return Container("ExecutionPayloadHeader" if blinded else "ExecutionPayload", fields)


@cache
def beacon_block_body(fork: Fork, blinded: bool = False, preset: Preset = MAINNET) -> Container:
    is_electra = fork >= Fork.ELECTRA
    fields: dict[str, SszType] = {
        "randao_reveal": BYTES96,
        "eth1_data": ETH1_DATA,
        "graffiti": BYTES32,
        "proposer_slashings": List(PROPOSER_SLASHING, 16),
        "attester_slashings": List(attester_slashing(fork, preset), 1 if is_electra else 2),
        "attestations": List(attestation(fork, preset), 8 if is_electra else 128),
        "deposits": List(DEPOSIT, 16),
        "voluntary_exits": List(SIGNED_VOLUNTARY_EXIT, 16),
    }
    if fork >= Fork.ALTAIR:
        fields["sync_aggregate"] = Container(
            "SyncAggregate",
            {"sync_committee_bits": Bitvector(preset.sync_committee_size), "sync_committee_signature": BYTES96},
        )
    if fork >= Fork.BELLATRIX:
        name = "execution_payload_header" if blinded else "execution_payload"
        fields[name] = execution_payload(fork, blinded, preset)
    if fork >= Fork.CAPELLA:
        change = signed("SignedBLSToExecutionChange", BLS_TO_EXECUTION_CHANGE)
        fields["bls_to_execution_changes"] = List(change, 16)
    if fork >= Fork.DENEB:
        fields["blob_kzg_commitments"] = List(BYTES48, MAX_BLOBS)
    if is_electra:
        fields["execution_requests"] = EXECUTION_REQUESTS
    return Container("BlindedBeaconBlockBody" if blinded else "BeaconBlockBody", fields)


@cache
def beacon_block(fork: Fork, blinded: bool = False, preset: Preset = MAINNET) -> Container:
    """A block, or with `blinded` a blinded one (from Bellatrix on); both have the same root."""
    return Container(
        "BlindedBeaconBlock" if blinded else "BeaconBlock",
        {
            "slot": UINT64,
            "proposer_index": UINT64,
            "parent_root": BYTES32,
            "state_root": BYTES32,
            "body": beacon_block_body(fork, blinded, preset),
        },
    )


def blinded_beacon_block(fork: Fork, preset: Preset = MAINNET) -> Container:
    return beacon_block(fork, True, preset)


@cache
def signed_beacon_block(fork: Fork, blinded: bool = False, preset: Preset = MAINNET) -> Container:
    block = beacon_block(fork, blinded, preset)
    return signed(f"Signed{block.name}", block)


def has_contents(fork: Fork, blinded: bool) -> bool:
    """Whether a proposal of that kind travels with its blobs (`BlockContents`) rather than as a bare block."""
    return fork >= Fork.DENEB and not blinded


def _contents(name: str, block_name: str, block: Container, fork: Fork) -> Container:
    proofs = MAX_CELL_PROOFS if fork >= Fork.FULU else MAX_BLOBS
    return Container(
        name,
        {
            block_name: block,
            "kzg_proofs": List(BYTES48, proofs),
            "blobs": List(ByteVector(BLOB_BYTES), MAX_BLOBS),
        },
    )


@cache
def block_contents(fork: Fork, preset: Preset = MAINNET) -> Container:
    """What a beacon node produces from Deneb on: `{block, kzg_proofs, blobs}`."""
    return _contents("BlockContents", "block", beacon_block(fork, False, preset), fork)


@cache
def signed_block_contents(fork: Fork, preset: Preset = MAINNET) -> Container:
    """What is published from Deneb on: `{signed_block, kzg_proofs, blobs}`."""
    return _contents("SignedBlockContents", "signed_block", signed_beacon_block(fork, False, preset), fork)


def proposal_type(fork: Fork, blinded: bool, preset: Preset = MAINNET) -> Container:
    """The type of an unsigned proposal: a block, its contents from Deneb on, or a blinded block."""
    return block_contents(fork, preset) if has_contents(fork, blinded) else beacon_block(fork, blinded, preset)


def signed_proposal_type(fork: Fork, blinded: bool, preset: Preset = MAINNET) -> Container:
    """The type of a signed proposal, published as it is."""
    if has_contents(fork, blinded):
        return signed_block_contents(fork, preset)
    return signed_beacon_block(fork, blinded, preset)
