"""Deposits: amounts, withdrawal credentials, roots, and the launchpad's deposit-data files. Pure.

    rule on amounts                                          why
    each at least 1 ETH                                      the deposit contract's minimum
    each at most 32 ETH, or 2048 ETH when compounding        the effective balance ends there
    together at least 32 ETH; repetition is allowed          less never activates

Deposits are made for the distinct amounts in ascending order (of 32 ETH for definitions before v1.8, which name none); a definition
keeps its original list. They are signed under the deposit domain of the network's genesis fork version and a zero genesis
validators root.

Source: specification 01-cluster-files, section 6.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from charon_actors.cluster import merkle
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.foreign_json import decode_objects, encode_object
from charon_actors.cluster.schema import Schema
from charon_actors.crypto import Check, VerifyBatch, verify_bound
from charon_actors.eth2.signing import compute_signing_root, deposit_domain
from charon_actors.file_kinds import FileKind

GWEI_PER_ETH: Final = 10**9
MIN_AMOUNT_GWEI: Final = 1 * GWEI_PER_ETH
MAX_AMOUNT_GWEI: Final = 32 * GWEI_PER_ETH
MAX_COMPOUNDING_AMOUNT_GWEI: Final = 2048 * GWEI_PER_ETH
MIN_SUM_GWEI: Final = 32 * GWEI_PER_ETH
DEFAULT_AMOUNTS_GWEI: Final = tuple(eth * GWEI_PER_ETH for eth in (1, 32))
DEFAULT_COMPOUNDING_AMOUNTS_GWEI: Final = tuple(eth * GWEI_PER_ETH for eth in (1, 8, 32, 256))
DEPOSIT_CLI_VERSION: Final = "2.7.0"


class Deposit(msgspec.Struct, frozen=True):
    """pubkey: 48 bytes, the group's. withdrawal_credentials: 32 bytes. signature: 96 bytes."""

    pubkey: bytes
    withdrawal_credentials: bytes
    amount_gwei: int
    signature: bytes = b""


def check_deposit_amounts(amounts_gwei: Sequence[int], *, compounding: bool) -> None:
    """Raises ClusterFault when an amount or the sum breaks a rule; an empty list stands for the defaults."""
    if not amounts_gwei:
        return
    if any(amount < MIN_AMOUNT_GWEI for amount in amounts_gwei):
        raise ClusterFault("each partial deposit amount must be greater than 1ETH")
    if any(amount > (MAX_COMPOUNDING_AMOUNT_GWEI if compounding else MAX_AMOUNT_GWEI) for amount in amounts_gwei):
        raise ClusterFault("single partial deposit amount is too large unless --compounding validators are used")
    if sum(amounts_gwei) < MIN_SUM_GWEI:
        raise ClusterFault("sum of partial deposit amounts must be at least 32ETH, repetition is allowed")


def amounts_to_sign(schema: Schema, amounts_gwei: Sequence[int], *, compounding: bool) -> tuple[int, ...]:
    """The distinct amounts, ascending, of which deposits are made; the defaults for an empty list."""
    if not schema.has_deposit_amounts:
        return (MAX_AMOUNT_GWEI,)
    defaults = DEFAULT_COMPOUNDING_AMOUNTS_GWEI if compounding else DEFAULT_AMOUNTS_GWEI
    return tuple(sorted(set(amounts_gwei or defaults)))


def withdrawal_credentials(withdrawal_address: str, *, compounding: bool) -> bytes:
    """32 bytes: type 0x01, or 0x02 for compounding validators, and the address. Raises ClusterFault."""
    return (b"\x02" if compounding else b"\x01") + bytes(11) + merkle.address_bytes(withdrawal_address)


def deposit_message_root(deposit: Deposit) -> bytes:
    """hash_tree_root(DepositMessage), 32 bytes."""
    return merkle.container(*_message_leaves(deposit))[0]


def deposit_data_root(deposit: Deposit) -> bytes:
    """hash_tree_root(DepositData), 32 bytes."""
    return merkle.container(*_message_leaves(deposit), merkle.fixed_bytes(deposit.signature, 96))[0]


def deposit_signing_root(deposit: Deposit, fork_version: bytes) -> bytes:
    """What the group key signs, 32 bytes. fork_version: genesis fork version of the network, 4 bytes."""
    return compute_signing_root(deposit_message_root(deposit), deposit_domain(fork_version))


def deposit_file_name(amount_gwei: int) -> str:
    """`deposit-data.json` for 32 ETH, `deposit-data-1eth.json` and the like for other amounts."""
    if amount_gwei == 32 * GWEI_PER_ETH:
        return "deposit-data.json"
    return f"deposit-data-{eth_number(amount_gwei)}eth.json"


def eth_number(amount_gwei: int) -> str:
    """In ETH, as the shortest decimal: `32`, `0.5`."""
    whole, rest = divmod(amount_gwei, GWEI_PER_ETH)
    return f"{whole}" + (f".{rest:09d}".rstrip("0") if rest else "")


def verify_deposits(deposits: Sequence[Deposit], fork_version: bytes, verify_batch: VerifyBatch = verify_bound) -> None:
    """Raises ClusterFault that names the first validator whose signature is wrong. About 0.7 ms a deposit."""
    checks = [Check(each.pubkey, deposit_signing_root(each, fork_version), each.signature) for each in deposits]
    for deposit, is_right in zip(deposits, verify_batch(checks), strict=True):
        if not is_right:
            raise ClusterFault(f"invalid deposit data signature (validator 0x{deposit.pubkey.hex()})")


def encode_deposit_file(
    deposits: Sequence[Deposit], network_name: str, fork_version: bytes, *, are_verified: bool = False
) -> bytes:
    """The launchpad file of deposits of one amount, sorted by public key. are_verified: by whoever made them.

    Raises ClusterFault when amounts differ or a signature is wrong: a wrong deposit is money lost.
    """
    if len({deposit.amount_gwei for deposit in deposits}) > 1:
        raise ClusterFault("deposit datas have different amounts")
    if not are_verified:
        verify_deposits(deposits, fork_version)
    return encode_object(
        [
            {
                "pubkey": deposit.pubkey.hex(),
                "withdrawal_credentials": deposit.withdrawal_credentials.hex(),
                "amount": deposit.amount_gwei,
                "signature": deposit.signature.hex(),
                "deposit_message_root": deposit_message_root(deposit).hex(),
                "deposit_data_root": deposit_data_root(deposit).hex(),
                "fork_version": fork_version.hex(),
                "network_name": network_name,
                "deposit_cli_version": DEPOSIT_CLI_VERSION,
            }
            for deposit in sorted(deposits, key=lambda deposit: deposit.pubkey)
        ]
    )


def encode_deposit_files(
    deposits: Sequence[Deposit], network_name: str, fork_version: bytes, *, are_verified: bool = False
) -> dict[str, bytes]:
    """File names and contents of deposits of any amounts, ascending. Raises ClusterFault as `encode_deposit_file`."""
    return {
        deposit_file_name(amount): encode_deposit_file(
            [deposit for deposit in deposits if deposit.amount_gwei == amount],
            network_name,
            fork_version,
            are_verified=are_verified,
        )
        for amount in sorted({deposit.amount_gwei for deposit in deposits})
    }


class DepositFile(msgspec.Struct, frozen=True):
    """A launchpad file. fork_version: 4 bytes, the network's genesis fork version. deposits: in the order of the file."""

    network_name: str
    fork_version: bytes
    deposits: tuple[Deposit, ...]


def decode_deposit_file(content: bytes) -> DepositFile:
    """A file of at most 16 MiB whose roots are right; signatures are `verify_deposits`' business. Raises ClusterFault."""
    rows = decode_objects(content, "deposit data", FileKind.DEPOSITS)
    if not rows:
        raise ClusterFault("deposit data: no deposits")
    network_name, fork_version = rows[0].text("network_name"), rows[0].exact("fork_version", 4)
    deposits = []
    for row in rows:
        deposit = Deposit(
            pubkey=row.exact("pubkey", 48),
            withdrawal_credentials=row.exact("withdrawal_credentials", 32),
            amount_gwei=row.number("amount"),
            signature=row.exact("signature", 96),
        )
        if (row.text("network_name"), row.exact("fork_version", 4)) != (network_name, fork_version):
            raise row.fault("network_name", "another network than the first deposit's")
        for name, root in (("deposit_message_root", deposit_message_root), ("deposit_data_root", deposit_data_root)):
            if row.exact(name, 32) != root(deposit):
                raise row.fault(name, "is not the root of this deposit")
        deposits.append(deposit)
    return DepositFile(network_name, fork_version, tuple(deposits))


def _message_leaves(deposit: Deposit) -> tuple[list[bytes], list[bytes], list[bytes]]:
    return (
        merkle.fixed_bytes(deposit.pubkey, 48),
        merkle.fixed_bytes(deposit.withdrawal_credentials, 32),
        merkle.number(deposit.amount_gwei),
    )
