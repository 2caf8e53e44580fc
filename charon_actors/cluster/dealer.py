"""The trusted dealer: all keys of a cluster made on one machine. Pure.

    group secret of validator v   split into shares 1..n of threshold t
    deposits, registration        signed with the group secret (a ceremony would combine partial signatures; same bytes)
    signature aggregate           the sum of the signatures of every share of every validator over the lock hash; the same bytes
                                  as one signature by the sum of all shares, which we know
    node signatures               by every identity key over the lock hash

The work of a validator, some 2 ms, depends on no other one: `deal` hands parts of PART_VALIDATORS to the `run` it is given, which
may be the `map` of a pool of processes. Each part verifies what it signed.

Source: specification 01-cluster-files, sections 5, 6, 9 and 10.1.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
from msgspec.structs import replace

from charon_actors.cluster import merkle
from charon_actors.cluster.definition import Definition, ValidatorAddresses
from charon_actors.cluster.deposit import Deposit, amounts_to_sign, deposit_signing_root, withdrawal_credentials
from charon_actors.cluster.hashes import with_lock_hashes
from charon_actors.cluster.lock import NO_REGISTRATION, DistributedValidator, Lock
from charon_actors.cluster.registration import LEGACY_GAS_LIMIT, Registration, registration_signing_root
from charon_actors.cluster.schema import Deposits, schema_of
from charon_actors.crypto import (
    CURVE_ORDER,
    Check,
    CryptoFault,
    Entropy,
    aggregate_signatures,
    aggregate_verify,
    encode_scalar,
    k1_sign_recoverable,
    sign,
    split_secret_openly,
)

PART_VALIDATORS: Final = 25


class Part(msgspec.Struct, frozen=True):
    """Some of the validators: their definition (with their addresses only) and their secrets, 32 bytes each. Its repr hides them."""

    definition: Definition
    group_secrets: tuple[bytes, ...]
    registered_at_s: int
    entropy: Entropy

    def __repr__(self) -> str:
        return f"Part({len(self.group_secrets)} validators)"


class DealtPart(msgspec.Struct, frozen=True):
    """What `Dealt` says, of some of the validators. Its repr hides the shares."""

    validators: tuple[DistributedValidator, ...]
    deposits: tuple[Deposit, ...]
    shares: tuple[Mapping[int, bytes], ...]
    verified: tuple[Check, ...]

    def __repr__(self) -> str:
        return f"DealtPart({len(self.shares)} validators)"


class Run(Protocol):
    """The built-in `map`, or that of a pool of processes; results in the order of the parts."""

    def __call__(self, work: Callable[[Part], DealtPart], parts: Sequence[Part], /) -> Iterable[DealtPart]: ...


class Dealt(msgspec.Struct, frozen=True):
    """A cluster with its secrets. Its repr hides them.

    deposits: all, also those that old locks have no place for. shares[v][i]: validator v's share of index i, 32 bytes. verified: the
    deposits' and registrations' signatures, with key and signing root.
    """

    lock: Lock
    deposits: tuple[Deposit, ...]
    shares: tuple[Mapping[int, bytes], ...]
    verified: frozenset[Check]

    def __repr__(self) -> str:
        return f"Dealt({len(self.shares)} validators)"


def deal(
    definition: Definition,
    group_secrets: Sequence[bytes],
    identity_keys: Sequence[bytes],
    *,
    registered_at_s: int,
    entropy: Entropy,
    run: Run = map,
) -> Dealt:
    """A complete cluster. group_secrets: 32 bytes a validator. identity_keys: 32 bytes an operator, those of its ENRs.

    registered_at_s: timestamp of the builder registrations. Raises ClusterFault, CryptoFault for unusable input.
    """
    assert len(group_secrets) == len(definition.validators)
    parts = []
    for first in range(0, len(group_secrets), PART_VALIDATORS):
        some = slice(first, first + PART_VALIDATORS)
        part_of_definition = replace(definition, validators=definition.validators[some])
        parts.append(Part(part_of_definition, tuple(group_secrets[some]), registered_at_s, entropy))
    dealt = list(run(deal_part, parts))
    shares = tuple(shares_of_one for part in dealt for shares_of_one in part.shares)
    lock = with_lock_hashes(Lock(definition, tuple(validator for part in dealt for validator in part.validators)))
    all_shares = sum(int.from_bytes(share, "big") for shares_of_one in shares for share in shares_of_one.values())
    signatures: tuple[bytes, ...] = ()
    if schema_of(definition.version).has_registrations:
        signatures = tuple(k1_sign_recoverable(key, lock.lock_hash) for key in identity_keys)
    aggregate = sign(encode_scalar(all_shares % CURVE_ORDER), lock.lock_hash)
    signed = replace(lock, signature_aggregate=aggregate, node_signatures=signatures)
    verified = frozenset(check for part in dealt for check in part.verified)
    return Dealt(signed, tuple(deposit for part in dealt for deposit in part.deposits), shares, verified)


def deal_part(part: Part) -> DealtPart:
    """The validators of a part, every signature verified. Raises ClusterFault, CryptoFault."""
    definition, schema = part.definition, schema_of(part.definition.version)
    validators: list[DistributedValidator] = []
    all_deposits: list[Deposit] = []
    all_shares: list[Mapping[int, bytes]] = []
    made: list[Check] = []
    for secret, addresses in zip(part.group_secrets, definition.validators, strict=True):
        split = split_secret_openly(secret, definition.threshold, len(definition.operators), part.entropy)
        deposits = _deposits(definition, addresses, secret, split.public_key)
        made += [Check(each.pubkey, deposit_signing_root(each, definition.fork_version), each.signature) for each in deposits]
        registration = NO_REGISTRATION
        if schema.has_registrations:
            registration = _registration(definition, addresses, secret, split.public_key, part.registered_at_s)
            root = registration_signing_root(registration, definition.fork_version)
            made.append(Check(split.public_key, root, registration.signature))
        of_lock = () if schema.deposits is Deposits.NONE else deposits
        validators.append(DistributedValidator(split.public_key, split.public_shares, of_lock, registration))
        all_deposits += deposits
        all_shares.append(split.shares)
    # A sum is enough: all are ours, nobody chose errors that cancel.
    if not aggregate_verify(((key, root) for key, root, _ in made), aggregate_signatures([each.signature for each in made])):
        raise CryptoFault("a signature that was just made does not verify; this machine miscalculates")
    return DealtPart(tuple(validators), tuple(all_deposits), tuple(all_shares), tuple(made))


def _deposits(definition: Definition, addresses: ValidatorAddresses, secret: bytes, public_key: bytes) -> tuple[Deposit, ...]:
    schema = schema_of(definition.version)
    credentials = withdrawal_credentials(addresses.withdrawal_address, compounding=definition.compounding)
    deposits = []
    for amount in amounts_to_sign(schema, definition.deposit_amounts_gwei, compounding=definition.compounding):
        deposit = Deposit(public_key, credentials, amount)
        root = deposit_signing_root(deposit, definition.fork_version)
        deposits.append(replace(deposit, signature=sign(secret, root)))
    return tuple(deposits)


def _registration(
    definition: Definition, addresses: ValidatorAddresses, secret: bytes, public_key: bytes, registered_at_s: int
) -> Registration:
    registration = Registration(
        fee_recipient=merkle.address_bytes(addresses.fee_recipient_address),
        gas_limit=definition.target_gas_limit or LEGACY_GAS_LIMIT,
        timestamp_s=registered_at_s,
        pubkey=public_key,
    )
    return replace(registration, signature=sign(secret, registration_signing_root(registration, definition.fork_version)))
