"""What the tests of partial signatures sign: keys of four shares, threshold three, and votes and a block on a chain of their own."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Any, TypeVar

from charon_actors.crypto import generate_secret, public_key, sign, split_secret
from charon_actors.eth2 import containers
from charon_actors.eth2.attestation import AttestationData
from charon_actors.eth2.chain import Chain, ForkEntry
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.proposal import Proposal, SignedProposal
from charon_actors.eth2.signed_data import SignedData, VersionedAttestation
from tests.charon_actors.eth2.vectors import raw

NODES, THRESHOLD = 4, 3
GENESIS_S, SLOT = 1_700_000_000.0, 40
DUTY = Duty(SLOT, DutyType.ATTESTER)
BLOCK_DUTY = Duty(SLOT, DutyType.PROPOSER)
CHAIN = Chain(
    genesis_time_s=GENESIS_S,
    genesis_validators_root=bytes(32),
    slot_duration_s=12.0,
    slots_per_epoch=8,
    fork_schedule=(ForkEntry(0, bytes([6, 0, 0, 1])),),
    fork_epochs=dict.fromkeys(Fork, 0),
    capella_fork_version=bytes([3, 0, 0, 1]),
)


@lru_cache
def keys(validator: int = 0) -> tuple[bytes, dict[int, bytes]]:
    """Group public key and share secrets by share index."""
    random = Random(validator)
    secret = generate_secret(random.randbytes)
    return public_key(secret), split_secret(secret, THRESHOLD, NODES, random.randbytes)


def vote(*, head: int = 0, slot: int = SLOT, source: int | None = None, target: int | None = None) -> AttestationData:
    target = slot // 8 if target is None else target
    source = target - 1 if source is None else source
    return AttestationData(
        slot, 0, hashlib.sha256(bytes([head])).digest(), source, bytes(32), target, hashlib.sha256(b"t").digest()
    )


def attestation(
    share_index: int,
    *,
    validator: int = 0,
    head: int = 0,
    slot: int = SLOT,
    sign_with: int | None = None,
    data: AttestationData | None = None,
    validator_index: int | None = None,
) -> VersionedAttestation:
    data = vote(head=head, slot=slot) if data is None else data
    index = validator if validator_index is None else validator_index
    unsigned = VersionedAttestation.from_single_attestation_json(
        Fork.FULU,
        {"committee_index": "0", "attester_index": str(index), "data": data.to_json(), "signature": "0x" + bytes(96).hex()},
    )
    return signed_by(sign_with or share_index, unsigned, validator=validator)


S = TypeVar("S", bound=SignedData)


def signed_by(share_index: int, unsigned: S, *, validator: int = 0, chain: Chain = CHAIN) -> S:
    return unsigned.with_signature(sign(keys(validator)[1][share_index], unsigned.signing_root(chain)))


def block(*, slot: int = SLOT, blobs: Sequence[int] = (), **payload: Any) -> SignedProposal:
    """An unsigned block around a recorded one of Fulu. blobs: what each is filled with. payload: fields of the
    execution payload to replace."""
    schema = containers.beacon_block(Fork.FULU)
    value = schema.decode(raw("eth2/fulu_beacon_block.ssz"))
    value["slot"] = slot
    value["body"]["execution_payload"] |= payload
    contents = {"block": value, "kzg_proofs": [], "blobs": [bytes([n]) * containers.BLOB_BYTES for n in blobs]}
    return Proposal(Fork.FULU, False, containers.block_contents(Fork.FULU).encode(contents)).signed(bytes(96))


def unsigned(signed: SignedProposal) -> Proposal:
    """What was to be signed."""
    value = containers.signed_block_contents(Fork.FULU).decode(signed.body)
    contents = {"block": value["signed_block"]["message"], "kzg_proofs": value["kzg_proofs"], "blobs": value["blobs"]}
    return Proposal(signed.fork, signed.blinded, containers.block_contents(Fork.FULU).encode(contents))
