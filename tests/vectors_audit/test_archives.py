"""The 21 archives that real Charon wrote, every file in them, read by the code that reads our own."""

import itertools
import re
import stat
import tarfile
from pathlib import Path

import pytest

from charon_actors.cluster.deposit import encode_deposit_files
from charon_actors.crypto import decode_keystore, decrypt_keystore, k1_public_key, public_key, recover_secret
from charon_actors.enr import decode_enr
from charon_actors.eth2.networks import Network, network_by_fork_version
from charon_actors.files.data_directory import DEPOSIT_PREFIX, PUBLIC, SECRET, load_lock, read_key_lock
from charon_actors.files.identity import load_key_file
from charon_actors.files.keystore_files import read_keystores
from tests.vector import ROOT

ARCHIVES = sorted((ROOT / "live").glob("*/*.tar.gz"))
LAB = Network("lab", 1337, bytes.fromhex("00000001"), 1, b"")


def test_there_are_twenty_one() -> None:
    assert len(ARCHIVES) == 21


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_every_file_of_every_node(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="tar")
    nodes = sorted(path.parent for path in tmp_path.rglob("cluster-lock.json"))
    lock = load_lock(nodes[0] / "cluster-lock.json", pytest.fail, networks_extra=(LAB,))
    count, threshold = len(lock.definition.operators), lock.definition.threshold
    assert len(nodes) == count
    shares: list[list[bytes]] = []
    for index, node in enumerate(nodes):
        assert (node / "cluster-lock.json").read_bytes() == (nodes[0] / "cluster-lock.json").read_bytes()
        key = load_key_file(node / "charon-enr-private-key", pytest.fail)
        assert decode_enr(lock.definition.operators[index].enr).public_key == k1_public_key(key)
        key_lock = read_key_lock(node / "charon-enr-private-key.lock")
        assert (key_lock is not None) == (archive.parent.name == "dkg")
        assert key_lock is None or key_lock.command == "charon dkg"
        keystores = read_keystores(node / "validator_keys")
        secrets = [decrypt_keystore(decode_keystore(keystore.content), keystore.password) for keystore in keystores]
        assert [public_key(secret) for secret in secrets] == [v.public_shares[index] for v in lock.validators]
        shares.append(secrets)
        check_modes(node, is_ceremony=archive.parent.name == "dkg")
        check_deposits(node, lock)
    for number, validator in enumerate(lock.validators):
        for chosen in list(itertools.combinations(range(count), threshold))[:: max(1, count - 3)]:
            secret = recover_secret({index + 1: shares[index][number] for index in chosen})
            assert public_key(secret) == validator.public_key


def check_modes(node: Path, *, is_ceremony: bool) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in node.rglob("*") if path.is_file()}
    assert modes["charon-enr-private-key"] == 0o600
    assert modes["cluster-lock.json"] == (PUBLIC if is_ceremony else SECRET)
    assert {mode for name, mode in modes.items() if name.startswith(DEPOSIT_PREFIX)} == {PUBLIC}
    assert {mode for name, mode in modes.items() if re.fullmatch(r"keystore-.*\.json", name)} == {PUBLIC}
    assert {mode for name, mode in modes.items() if name.endswith(".txt")} == {SECRET}


def check_deposits(node: Path, lock: object) -> None:
    definition, validators = lock.definition, lock.validators  # type: ignore[attr-defined]
    network = network_by_fork_version(definition.fork_version, (LAB,))
    assert network is not None
    deposits = [deposit for validator in validators for deposit in validator.deposits]
    content = next(iter(node.glob(f"{DEPOSIT_PREFIX}*"))).read_text()
    (name,) = set(re.findall(r'"network_name": "([^"]*)"', content))
    files = encode_deposit_files(deposits, name, definition.fork_version)
    assert {path.name: path.read_bytes() for path in node.glob(f"{DEPOSIT_PREFIX}*")} == files
