"""Builder registrations: where a validator's fees go, signed by the group key when the keys are made. Pure.

The message is the builder specification's ValidatorRegistrationV1; it is signed under the builder domain of the network's
genesis fork version and a zero genesis validators root. The lock holds one a validator, the overrides file newer ones.
Source: specification 01-cluster-files, section 9.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from charon_actors.cluster import merkle
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.foreign_json import decode_objects, encode_object, hex_or_empty
from charon_actors.crypto import Check, checksum_address, verify_bound
from charon_actors.eth2.signing import builder_domain, compute_signing_root
from charon_actors.file_kinds import FileKind

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


def encode_overrides(registrations: Sequence[Registration]) -> bytes:
    """builder_registrations_overrides.json: newer registrations than the lock's. Raises ClusterFault for values of another size."""
    return encode_object(
        [
            {
                "version": "v1",
                "v1": {
                    "message": {
                        "fee_recipient": checksum_address("0x" + each.fee_recipient.hex()),
                        "gas_limit": str(each.gas_limit),
                        "timestamp": str(each.timestamp_s),
                        "pubkey": hex_or_empty(each.pubkey),
                    },
                    "signature": hex_or_empty(each.signature),
                },
            }
            for each in registrations
        ],
        indent=2,
    )


def decode_overrides(content: bytes) -> tuple[Registration, ...]:
    """The registrations of an overrides file of at most 16 MiB; signatures are `verify_registrations`' business. Raises ClusterFault."""
    registrations = []
    for row in decode_objects(content, "overrides", FileKind.OVERRIDES):
        if row.text("version") != "v1":
            raise row.fault("version", "expected v1")
        signed = row.object("v1")
        message = signed.object("message")
        registrations.append(
            Registration(
                fee_recipient=message.exact("fee_recipient", 20),
                gas_limit=message.quoted_number("gas_limit"),
                timestamp_s=message.quoted_number("timestamp"),
                pubkey=message.exact("pubkey", 48),
                signature=signed.exact("signature", 96),
            )
        )
    return tuple(registrations)


def verify_registrations(registrations: Sequence[Registration], fork_version: bytes) -> None:
    """Raises ClusterFault that names the first validator whose signature is wrong. fork_version: the network's genesis one."""
    checks = [Check(each.pubkey, registration_signing_root(each, fork_version), each.signature) for each in registrations]
    for registration, is_right in zip(registrations, verify_bound(checks), strict=True):
        if not is_right:
            raise ClusterFault(f"builder registration signature not verified (validator 0x{registration.pubkey.hex()})")
