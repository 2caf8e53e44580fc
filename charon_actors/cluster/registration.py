"""Builder registrations: where a validator's fees go, signed by the group key when the keys are made. Pure.

The message is the builder specification's ValidatorRegistrationV1; it is signed under the builder domain of the network's
genesis fork version and a zero genesis validators root. Source: specification 01-cluster-files, section 9.
"""

from typing import Final

import msgspec

from charon_actors.cluster import merkle
from charon_actors.eth2.signing import builder_domain, compute_signing_root

DEFAULT_TARGET_GAS_LIMIT: Final = 60_000_000
LEGACY_GAS_LIMIT: Final = 30_000_000  # for target_gas_limit 0, which only schemas before v1.10 have


class Registration(msgspec.Struct, frozen=True):
    """fee_recipient: 20 bytes. timestamp_s: unix seconds. pubkey: 48 bytes, the group's. signature: 96 bytes."""

    fee_recipient: bytes
    gas_limit: int
    timestamp_s: int
    pubkey: bytes
    signature: bytes = b""


def registration_message_root(registration: Registration) -> bytes:
    """hash_tree_root of the message, 32 bytes. Raises ClusterFault for fields that are too long."""
    return merkle.container(
        merkle.fixed_bytes(registration.fee_recipient, 20),
        merkle.number(registration.gas_limit),
        merkle.number(registration.timestamp_s),
        merkle.fixed_bytes(registration.pubkey, 48),
    )[0]


def registration_signing_root(registration: Registration, fork_version: bytes) -> bytes:
    """What the group key signs, 32 bytes. fork_version: genesis fork version of the network, 4 bytes."""
    return compute_signing_root(registration_message_root(registration), builder_domain(fork_version))
