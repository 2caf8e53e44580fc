"""Domains and signing roots: what a validator key signs. Pure; one or two SHA-256 each.

    domain       = domain type (4 bytes) ‖ hash_tree_root(ForkData{version, genesis validators root})[:28]
    signing root = hash_tree_root(SigningData{object root, domain})

Both containers have two leaves, so their roots are one hash each. Which version goes with which object is the business of
`chain.py` (duties) and of the two functions at the end (what is signed offline or for builders).

Source: specification 08 §6.2; consensus-specs phase0 `compute_domain`, `compute_signing_root`.
"""

import enum
from hashlib import sha256
from typing import Final

ZERO_ROOT: Final = bytes(32)


class DomainType(enum.Enum):
    """The four bytes that keep signatures of different kinds of objects apart."""

    BEACON_PROPOSER = bytes.fromhex("00000000")
    BEACON_ATTESTER = bytes.fromhex("01000000")
    RANDAO = bytes.fromhex("02000000")
    DEPOSIT = bytes.fromhex("03000000")
    VOLUNTARY_EXIT = bytes.fromhex("04000000")
    SELECTION_PROOF = bytes.fromhex("05000000")
    AGGREGATE_AND_PROOF = bytes.fromhex("06000000")
    SYNC_COMMITTEE = bytes.fromhex("07000000")
    SYNC_COMMITTEE_SELECTION_PROOF = bytes.fromhex("08000000")
    CONTRIBUTION_AND_PROOF = bytes.fromhex("09000000")
    BLS_TO_EXECUTION_CHANGE = bytes.fromhex("0a000000")
    APPLICATION_BUILDER = bytes.fromhex("00000001")


def fork_data_root(version: bytes, genesis_validators_root: bytes) -> bytes:
    """hash_tree_root(ForkData). version: 4 bytes; genesis_validators_root: 32 bytes. Returns 32 bytes."""
    if len(version) != 4 or len(genesis_validators_root) != 32:
        raise ValueError("a fork version has 4 bytes, a genesis validators root 32")
    return sha256(version + bytes(28) + genesis_validators_root).digest()


def compute_domain(domain_type: DomainType, version: bytes, genesis_validators_root: bytes) -> bytes:
    """The 32-byte domain of `domain_type` under one fork version (4 bytes) of the chain with that root (32 bytes)."""
    return domain_type.value + fork_data_root(version, genesis_validators_root)[:28]


def compute_signing_root(object_root: bytes, domain: bytes) -> bytes:
    """hash_tree_root(SigningData), the 32 bytes that are signed. Both arguments have 32 bytes."""
    if len(object_root) != 32 or len(domain) != 32:
        raise ValueError("an object root and a domain have 32 bytes each")
    return sha256(object_root + domain).digest()


def deposit_domain(fork_version: bytes) -> bytes:
    """Of deposit messages: the genesis fork version (the lock's), zero validators root; needs no beacon node."""
    return compute_domain(DomainType.DEPOSIT, fork_version, ZERO_ROOT)


def builder_domain(fork_version: bytes) -> bytes:
    """Of builder registrations: the genesis fork version, zero validators root, whatever the fork of the day."""
    return compute_domain(DomainType.APPLICATION_BUILDER, fork_version, ZERO_ROOT)
