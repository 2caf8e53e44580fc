"""The trusted dealer: all keys of a cluster made on one machine. Pure.

    group secret of validator v   split into shares 1..n of threshold t
    deposits, registration        signed with the group secret (a ceremony would combine partial signatures; same bytes)
    signature aggregate           the sum of the signatures of every share of every validator over the lock hash
    node signatures               by every identity key over the lock hash

Source: specification 01-cluster-files, sections 5, 6, 9 and 10.1.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from charon_actors.cluster import merkle
from charon_actors.cluster.definition import Definition, ValidatorAddresses
from charon_actors.cluster.deposit import Deposit, amounts_to_sign, deposit_signing_root, withdrawal_credentials
from charon_actors.cluster.hashes import with_lock_hashes
from charon_actors.cluster.lock import DistributedValidator, Lock
from charon_actors.cluster.registration import LEGACY_GAS_LIMIT, Registration, registration_signing_root
from charon_actors.crypto.bls import aggregate_signatures, public_key, sign
from charon_actors.crypto.faults import Entropy
from charon_actors.crypto.secp256k1 import k1_sign_recoverable
from charon_actors.crypto.threshold import split_secret


class Dealt(msgspec.Struct, frozen=True):
    """The lock, and the secret shares: shares[v][i] is validator v's share of index i, 32 bytes. Its repr hides them."""

    lock: Lock
    shares: tuple[Mapping[int, bytes], ...]

    def __repr__(self) -> str:
        return f"Dealt({len(self.shares)} validators)"


def deal(
    definition: Definition,
    group_secrets: Sequence[bytes],
    identity_keys: Sequence[bytes],
    *,
    registered_at_s: int,
    entropy: Entropy,
) -> Dealt:
    """A complete cluster. group_secrets: 32 bytes a validator. identity_keys: 32 bytes an operator, those of its ENRs.

    registered_at_s: timestamp of the builder registrations. Raises ClusterFault, CryptoFault for unusable input.
    """
    shares = tuple(split_secret(secret, definition.threshold, len(definition.operators), entropy) for secret in group_secrets)
    validators = tuple(
        DistributedValidator(
            public_key=public_key(secret),
            public_shares=tuple(public_key(shares_of_one[index]) for index in sorted(shares_of_one)),
            deposits=_deposits(definition, addresses, secret),
            registration=_registration(definition, addresses, secret, registered_at_s),
        )
        for secret, shares_of_one, addresses in zip(group_secrets, shares, definition.validators, strict=True)
    )
    lock = with_lock_hashes(Lock(definition, validators))
    aggregate = aggregate_signatures(
        [sign(share, lock.lock_hash) for shares_of_one in shares for share in shares_of_one.values()]
    )
    signatures = tuple(k1_sign_recoverable(key, lock.lock_hash) for key in identity_keys)
    return Dealt(replace(lock, signature_aggregate=aggregate, node_signatures=signatures), shares)


def _deposits(definition: Definition, addresses: ValidatorAddresses, secret: bytes) -> tuple[Deposit, ...]:
    credentials = withdrawal_credentials(addresses.withdrawal_address, compounding=definition.compounding)
    deposits = []
    for amount in amounts_to_sign(definition.deposit_amounts_gwei, compounding=definition.compounding):
        deposit = Deposit(public_key(secret), credentials, amount)
        root = deposit_signing_root(deposit, definition.fork_version)
        deposits.append(replace(deposit, signature=sign(secret, root)))
    return tuple(deposits)


def _registration(definition: Definition, addresses: ValidatorAddresses, secret: bytes, registered_at_s: int) -> Registration:
    registration = Registration(
        fee_recipient=merkle.address_bytes(addresses.fee_recipient_address),
        gas_limit=definition.target_gas_limit or LEGACY_GAS_LIMIT,
        timestamp_s=registered_at_s,
        pubkey=public_key(secret),
    )
    return replace(registration, signature=sign(secret, registration_signing_root(registration, definition.fork_version)))
