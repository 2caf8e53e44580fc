"""Deposits: roots, files and rules against the launchpad golden, Charon's files and its texts."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from charon_actors.cluster.definition_json import decode_definition
from charon_actors.cluster.deposit import (
    GWEI_PER_ETH,
    Deposit,
    amounts_to_sign,
    check_deposit_amounts,
    decode_deposit_file,
    deposit_file_name,
    encode_deposit_file,
    encode_deposit_files,
    verify_deposits,
    withdrawal_credentials,
)
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.schema import schema_of
from tests.charon_actors.cluster.vectors import CLUSTER, load, real_files


def deposits_of(rows: list[dict[str, Any]]) -> list[Deposit]:
    return [
        Deposit(
            bytes.fromhex(row["pubkey"]),
            bytes.fromhex(row["withdrawal_credentials"]),
            row["amount"],
            bytes.fromhex(row["signature"]),
        )
        for row in rows
    ]


@pytest.mark.parametrize(
    "name",
    [
        "deposit/deposit-data-goerli-compounding.json",
        "signed-v1_11_0/deposit-data.json",
        "signed-v1_11_0/deposit-data-1eth.json",
    ],
)
def test_deposit_files_are_rebuilt_byte_for_byte(name: str) -> None:
    rows = load(name)
    rebuilt = encode_deposit_file(
        list(reversed(deposits_of(rows))), rows[0]["network_name"], bytes.fromhex(rows[0]["fork_version"])
    )
    assert rebuilt == (CLUSTER / name).read_bytes()


def test_deposit_files_of_real_charon_are_rebuilt_from_its_locks() -> None:
    locks = dict(real_files("cluster-lock.json"))
    compared = 0
    for file_name in ("deposit-data.json", "deposit-data-1eth.json", "deposit-data-8eth.json"):
        for path, content in real_files(file_name):
            lock = decode_lock(locks[path.replace(file_name, "cluster-lock.json")])
            deposits = [deposit for validator in lock.validators for deposit in validator.deposits]
            network = json.loads(content)[0]["network_name"]
            files = encode_deposit_files(deposits, network, lock.definition.fork_version)
            assert files[file_name] == content, path
            compared += 1
    assert compared > 50


def test_wrong_signatures_and_mixed_amounts_are_never_written() -> None:
    deposits = deposits_of(load("signed-v1_11_0/deposit-data.json"))
    fork_version = bytes.fromhex("10000910")
    with pytest.raises(ClusterFault, match="invalid deposit data signature"):
        encode_deposit_file([replace(deposits[0], signature=deposits[1].signature)], "hoodi", fork_version)
    with pytest.raises(ClusterFault, match="invalid deposit data signature"):
        encode_deposit_file(deposits, "mainnet", bytes(4))
    with pytest.raises(ClusterFault, match="different amounts"):
        encode_deposit_file([deposits[0], replace(deposits[1], amount_gwei=1)], "hoodi", fork_version)


@pytest.mark.parametrize(
    ("eth", "name"),
    [
        ("32", "deposit-data.json"),
        ("1", "deposit-data-1eth.json"),
        ("256", "deposit-data-256eth.json"),
        ("0.5", "deposit-data-0.5eth.json"),
        ("1.000000001", "deposit-data-1.000000001eth.json"),
    ],
)
def test_file_names(eth: str, name: str) -> None:
    whole, _, fraction = eth.partition(".")
    assert deposit_file_name(int(whole) * GWEI_PER_ETH + int(fraction.ljust(9, "0"))) == name


@pytest.mark.parametrize(
    ("eth", "compounding", "fault"),
    [
        ([], False, None),
        ([32], False, None),
        ([8, 8, 8, 8], False, None),
        ([32] * 100, False, None),
        ([2048], True, None),
        ([33], False, "too large"),
        ([2049], True, "too large"),
        ([0, 32], False, "greater than 1ETH"),
        ([31], False, "at least 32ETH"),
        ([1, 30], True, "at least 32ETH"),
    ],
)
def test_amount_rules(eth: list[int], compounding: bool, fault: str | None) -> None:
    amounts = [amount * GWEI_PER_ETH for amount in eth]
    if fault is None:
        check_deposit_amounts(amounts, compounding=compounding)
        return
    with pytest.raises(ClusterFault, match=fault):
        check_deposit_amounts(amounts, compounding=compounding)


def test_deposits_are_made_for_distinct_amounts_in_ascending_order() -> None:
    golden = decode_definition((CLUSTER / "golden/cluster_definition_v1_10_0.json").read_bytes())
    assert golden.deposit_amounts_gwei == (16 * GWEI_PER_ETH,) * 2
    schema = schema_of("v1.8.0")
    assert amounts_to_sign(schema, golden.deposit_amounts_gwei, compounding=False) == (16 * GWEI_PER_ETH,)
    assert amounts_to_sign(schema, [32, 1, 32], compounding=False) == (1, 32)
    assert [amount // GWEI_PER_ETH for amount in amounts_to_sign(schema, (), compounding=True)] == [1, 8, 32, 256]
    assert amounts_to_sign(schema_of("v1.7.0"), (), compounding=False) == (32 * GWEI_PER_ETH,)


def test_withdrawal_credentials() -> None:
    address = "0x000000000000000000000000000000000000dEaD"
    assert withdrawal_credentials(address, compounding=False).hex() == "01" + "00" * 29 + "dead"
    assert withdrawal_credentials(address, compounding=True).hex() == "02" + "00" * 29 + "dead"
    for wrong in ("", "0x", address + "0", address[:-2], "0x" + "zz" * 20, "0x" + "０" * 40):
        with pytest.raises(ClusterFault, match="invalid ethereum address"):
            withdrawal_credentials(wrong, compounding=False)


@pytest.mark.parametrize(
    "name",
    [
        *("cli-files/deposit-data-1eth.json", "cli-files/deposit-data-31eth.json", "signed-v1_11_0/deposit-data.json"),
        "deposit/deposit-data-goerli-compounding.json",
    ],
)
def test_deposit_files_are_read_verified_and_written_byte_for_byte(name: str) -> None:
    content = (CLUSTER / name).read_bytes()
    file = decode_deposit_file(content)
    verify_deposits(file.deposits, file.fork_version)
    assert encode_deposit_file(file.deposits, file.network_name, file.fork_version) == content


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda rows: rows.clear(), "no deposits"),
        (lambda rows: rows[1].update(amount=1), r"deposit data\[1\].deposit_message_root: is not the root of this deposit"),
        (lambda rows: rows[0].update(deposit_data_root="00" * 32), "deposit_data_root: is not the root"),
        (lambda rows: rows[1].update(network_name="mainnet"), "another network than the first"),
        (lambda rows: rows[1].update(fork_version="00000000"), "another network than the first"),
        (lambda rows: rows[0].update(pubkey=rows[0]["pubkey"][2:]), "pubkey: expected 48 bytes, not 47"),
        (lambda rows: rows[0].update(amount="32000000000"), "amount: expected a plain whole number"),
        (lambda rows: rows.append(7), r"\[2\]: expected an object"),
    ],
)
def test_other_deposit_files_are_refused_with_the_field(change: Any, fault: str) -> None:
    rows = json.loads((CLUSTER / "signed-v1_11_0/deposit-data.json").read_bytes())
    change(rows)
    with pytest.raises(ClusterFault, match=fault):
        decode_deposit_file(json.dumps(rows).encode())


def test_a_wrong_deposit_signature_is_named_by_its_validator() -> None:
    file = decode_deposit_file((CLUSTER / "signed-v1_11_0/deposit-data.json").read_bytes())
    swapped = [replace(file.deposits[0], signature=file.deposits[1].signature), file.deposits[1]]
    with pytest.raises(ClusterFault, match=f"invalid deposit data signature .validator 0x{file.deposits[0].pubkey.hex()}"):
        verify_deposits(swapped, file.fork_version)
