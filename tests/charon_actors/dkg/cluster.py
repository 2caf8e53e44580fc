"""Operators of a test ceremony: keys, a definition, data directories, and what must be true of the results."""

import hashlib
import json
from itertools import combinations
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from charon_actors.cluster.definition import Creator, Definition, Operator, ValidatorAddresses
from charon_actors.cluster.definition_json import encode_definition
from charon_actors.cluster.hashes import with_definition_hashes
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.verify import verify_lock
from charon_actors.crypto import decode_keystore, decrypt_keystore, public_key, recover_secret
from charon_actors.enr import new_record
from charon_actors.eth2.networks import Network, network_by_fork_version
from charon_actors.files.keystore_files import read_keystores

ADDRESS = "0x000000000000000000000000000000000000dEaD"
CUSTOM = Network("rig", 1337, bytes.fromhex("00000001"), 1_700_000_000, bytes.fromhex("40000001"), 12.0)


def private_key(index: int) -> bytes:
    """The test operators of the vectors."""
    return hashlib.sha256(f"charon-actors/operator/{index}".encode()).digest()


def definition(operators: int, threshold: int, validators: int, ports: list[int] | None = None, **changes: Any) -> Definition:
    """A definition that nobody has signed. ports: of each operator on 127.0.0.1, put into the ENRs."""
    records = [
        new_record(private_key(i), ip=None if ports is None else "127.0.0.1", tcp=None if ports is None else ports[i])
        for i in range(operators)
    ]
    made = Definition(
        name="test",
        creator=Creator(),
        operators=tuple(Operator(enr=record.encode()) for record in records),
        uuid="18A29D37-879F-43EA-8589-023F45DDC716",
        version="v1.10.0",
        timestamp="2026-11-21T15:13:50Z",
        num_validators=validators,
        threshold=threshold,
        validators=(ValidatorAddresses(ADDRESS, ADDRESS),) * validators,
        dkg_algorithm="default",
        fork_version=bytes.fromhex("10000910"),
        deposit_amounts_gwei=(),
        consensus_protocol="",
        target_gas_limit=60_000_000,
        compounding=False,
    )
    return with_definition_hashes(replace(made, **changes))


def network_of(of: Definition) -> Network:
    network = network_by_fork_version(of.fork_version, (CUSTOM,))
    assert network is not None
    return network


def prepare_directory(directory: Path, index: int, of: Definition) -> Path:
    """A data directory with the key and the definition of an operator."""
    directory.mkdir(parents=True)
    key = directory / "charon-enr-private-key"
    key.write_text(private_key(index).hex())
    key.chmod(0o600)
    (directory / "cluster-definition.json").write_bytes(encode_definition(of))
    return directory


def check_results(directories: list[Path], of: Definition) -> None:
    """All operators have the same lock, it verifies, and their keystores hold shares of its keys."""
    locks = [(directory / "cluster-lock.json").read_bytes() for directory in directories]
    assert len(set(locks)) == 1
    lock = decode_lock(locks[0])
    verify_lock(lock, (CUSTOM,))
    assert lock.definition == of
    shares: list[list[bytes]] = []
    for directory in directories:
        keystores = read_keystores(directory / "validator_keys")
        assert len(keystores) == of.num_validators
        shares.append([decrypt_keystore(decode_keystore(k.content), k.password) for k in keystores])
        assert len({k.password for k in keystores}) == len(keystores)
    for validator, expected in enumerate(lock.validators):
        for index, of_operator in enumerate(shares):
            assert public_key(of_operator[validator]) == expected.public_shares[index]
        for chosen in list(combinations(range(len(directories)), of.threshold))[:4]:
            secret = recover_secret({index + 1: shares[index][validator] for index in chosen})
            assert public_key(secret) == expected.public_key
    for name in deposit_file_names(directories[0]):
        files = [(directory / name).read_bytes() for directory in directories]
        assert len(set(files)) == 1
        deposits = json.loads(files[0])
        assert sorted(d["pubkey"] for d in deposits) == [d["pubkey"] for d in deposits]
        assert {d["pubkey"] for d in deposits} == {v.public_key.hex() for v in lock.validators}


def deposit_file_names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("deposit-data*"))


def results_in(directory: Path) -> list[str]:
    """Names of what a ceremony writes, as far as it is there."""
    return sorted(
        path.name
        for path in directory.iterdir()
        if path.name in ("validator_keys", "cluster-lock.json") or path.name.startswith("deposit-data")
    )
