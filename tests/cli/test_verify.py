"""`charon verify`: what holds is said, what doesn't is named first in Charon's words, and everything else is still checked."""

import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from charon_actors.cluster.definition_json import decode_definition
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.verify import verify_definition, verify_lock
from charon_actors.files.identity import KEY_FILE
from charon_actors.files.staging import STAGING_PREFIX
from tests.charon_actors.cluster.test_verify import CASES, patched, rehashed
from tests.charon_actors.cluster.vectors import CLUSTER, VECTORS, load
from tests.cli.conftest import Charon, Outcome, on_a_terminal

LOCK, DEFINITION, KEYS = "cluster-lock.json", "cluster-definition.json", "validator_keys"
SIGNED = CLUSTER / "signed-v1_11_0" / LOCK
ARCHIVES = sorted((VECTORS / "live/clusters").glob("*.tar.gz"))
TESTNET = [
    "--testnet-name=bench",
    "--testnet-chain-id=1337",
    "--testnet-fork-version=0x00000001",
    "--testnet-genesis-timestamp=1",
]


def unpack(name: str) -> Path:
    """A cluster that Charon made, in the working directory; files can be changed."""
    with tarfile.open(VECTORS / f"live/clusters/{name}.tar.gz") as archive:
        archive.extractall(name, filter="data")
    for path in Path(name).rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return Path(name)


@pytest.fixture
def cluster(charon: Charon) -> Path:  # charon changes into the directory of the test
    return unpack("main-n4v2-insecure")


def edit(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def faults(outcome: Outcome) -> list[str]:
    return [line.removeprefix("  FAULT   ") for line in outcome.stdout.splitlines() if line.startswith("  FAULT ")]


def warnings(outcome: Outcome) -> list[str]:
    return [line.removeprefix("  warning ") for line in outcome.stdout.splitlines() if line.startswith("  warning ")]


# --- what holds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def test_clusters_of_real_charon_hold(charon: Charon, archive: Path) -> None:
    folder = unpack(archive.name.removesuffix(".tar.gz"))
    nodes = len(list(folder.glob("node*")))
    decrypt = [] if "secure" in archive.name and "insecure" not in archive.name else ["--decrypt"]
    outcome = charon("verify", str(folder), *decrypt, *(TESTNET if "testnet" in archive.name else []))
    assert (outcome.status, outcome.stderr, faults(outcome), warnings(outcome)) == (0, "", [], [])
    assert outcome.stdout.count("a key share for each of the") == nodes
    assert outcome.stdout.count("opened with their passwords") == (nodes if decrypt else 0)
    assert f"operators: all {nodes} are here, each once" in outcome.stdout
    assert outcome.stdout.endswith("checks, everything holds\n")


def test_the_data_directory_is_checked_when_no_path_is_given(charon: Charon, cluster: Path) -> None:
    assert charon("verify").error.startswith(".charon: no such directory; give the path of what to check")
    shutil.copytree(cluster / "node2", ".charon")
    for outcome in (charon("verify"), charon("verify", CHARON_DATA_DIR=str(cluster / "node2"))):
        assert outcome.status == 0
        assert "charon-enr-private-key: that of operator 2 (of 0 to 3), share index 3" in outcome.stdout


VECTOR_FILES = sorted(path for path in CLUSTER.rglob("cluster*.json") if "create-cluster" not in path.parts)


@pytest.mark.parametrize("path", VECTOR_FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_vector_is_judged_as_by_the_verification_of_the_node(charon: Charon, path: Path) -> None:
    content = path.read_bytes()
    outcome = charon("verify", str(path))
    fault = verification_fault(path.name, content)
    if fault:
        assert fault in outcome.error
    else:
        assert outcome.status == 0


def verification_fault(name: str, content: bytes) -> str:
    try:
        if "lock" in name:
            verify_lock(decode_lock(content))
        else:
            verify_definition(decode_definition(content))
    except ClusterFault as error:
        return str(error)
    return ""


def test_a_definition_an_enr_a_key_and_standard_input_are_checked(
    charon: Charon, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = CLUSTER / "signed-v1_11_0" / DEFINITION
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(definition.read_bytes())))
    assert "ok      standard input: config hash 0x" in charon("verify", "-").stdout
    enr = json.loads((cluster / "node0" / LOCK).read_text())["cluster_definition"]["operators"][3]["enr"]
    outcome = charon("verify", enr, "--lock-file", str(cluster / "node0" / LOCK))
    assert "ENR: form and signature" in outcome.stdout
    assert "ENR: that of operator 3" in outcome.stdout
    assert charon("verify", enr[:-3] + "AAA").error.startswith("ENR: invalid ENR: invalid enr signature; ask its operator")
    outcome = charon("verify", str(cluster / "node1" / KEY_FILE))
    assert "that of operator 1" in outcome.stdout
    foreign = unpack("main-n3v1-insecure")
    error = charon("verify", str(foreign / "node0" / KEY_FILE), "--lock-file", str(cluster / "node0" / LOCK)).error
    assert "unknown private key provided" in error


# --- the first fault, in the specification's order and words --------------------------------------------------------


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["name"])
def test_a_broken_lock_is_told_with_the_first_fault_that_charon_names(charon: Charon, case: dict[str, Any]) -> None:
    document = patched(load("signed-v1_11_0/cluster-lock.json"), case["patch"])
    try:
        lock = rehashed(decode_lock(json.dumps(document).encode()), case["rehash"])
        definition = document["cluster_definition"]
        definition["config_hash"] = "0x" + lock.definition.config_hash.hex()
        definition["definition_hash"] = "0x" + lock.definition.definition_hash.hex()
        document["lock_hash"] = "0x" + lock.lock_hash.hex()
        if case["rehash"] == "resign":
            document["signature_aggregate"] = "0x" + lock.signature_aggregate.hex()
            document["node_signatures"] = ["0x" + signature.hex() for signature in lock.node_signatures]
    except ClusterFault:
        pass  # can't be read or hashed, that is the case
    Path(LOCK).write_text(json.dumps(document))
    outcome = charon("verify", LOCK)
    if case["expect_error"] is not None:
        what = outcome.error.removeprefix(f"{LOCK}: ")
        prefixes = ("unmarshal cluster-lock.json: ", "verify cluster lock hashes: ", "verify cluster lock signatures: ")
        assert any(what.startswith(prefix + case["expect_error"]) for prefix in prefixes), what
    else:  # what Charon loads; deposits in the lock are checked by us alone
        assert [
            fault for fault in faults(outcome) if "verify cluster lock deposits: invalid deposit data signature" not in fault
        ] == []


def test_checks_after_a_fault_are_still_made(charon: Charon, cluster: Path) -> None:
    node = cluster / "node0"
    edit(node / LOCK, lambda lock: lock["cluster_definition"].update(threshold=2))
    (node / "deposit-data.json").write_text("[]")
    (node / KEYS / "keystore-insecure-1.txt").unlink()
    outcome = charon("verify", str(node), "--decrypt")
    told = "\n".join(faults(outcome))
    for expected in (
        "cluster-lock.json: verify cluster lock hashes: invalid definition: invalid config hash",
        "cluster-lock.json: verify cluster lock hashes: invalid lock hash",
        "verify share reconstruction: public shares do not reconstruct distributed public key",
        "deposit-data.json: deposit data: no deposits",
        "validator_keys/keystore-insecure-1.txt: password file not found",
    ):
        assert expected in told
    assert "ok      validator_keys: 1 keystores opened" in outcome.stdout
    error = outcome.error
    assert error.startswith(f"{node}/cluster-lock.json: verify cluster lock hashes: invalid definition: invalid config hash; ")
    assert error.endswith(
        f"put cluster_definition.threshold back to 3, or restore the file from a backup or from another "
        f"operator ({len(faults(outcome))} of {outcome.stdout.count('  ok ') + len(faults(outcome))} checks failed)"
    )
    assert "cluster_definition.threshold is 2; with 3 the hash comes out right" in outcome.stdout


def test_a_hash_is_shown_as_stored_and_as_recomputed(charon: Charon, cluster: Path) -> None:
    path = cluster / "node0" / LOCK
    stored = json.loads(path.read_text())["lock_hash"]
    edit(path, lambda lock: lock.update(lock_hash="0x" + "ab" * 32))
    outcome = charon("verify", str(path))
    assert f"stored 0x{'ab' * 32}, the content hashes to {stored}" in outcome.stdout
    assert f"put lock_hash back to {stored}" in outcome.error


# --- other copies ----------------------------------------------------------------------------------------------------


def test_another_copy_names_the_leaf_and_both_values(charon: Charon, cluster: Path) -> None:
    ours, theirs = cluster / "node0" / LOCK, cluster / "node1" / LOCK
    edit(ours, lambda lock: lock["cluster_definition"].update(name="\x1b[31mhacked\n"))
    name = json.loads(theirs.read_text())["cluster_definition"]["name"]
    expected = f'cluster_definition.name is "?[31mhacked "; in {theirs} it is "{name}", where these hashes fit'
    outcome = charon("verify", str(ours), "--against", str(theirs))
    assert expected in outcome.stdout
    assert f'put cluster_definition.name back to "{name}", or copy {theirs} here' in outcome.error
    assert "\x1b" not in outcome.stdout + outcome.stderr
    outcome = charon("verify", str(theirs), "--against", str(ours))  # the good one is compared, too
    assert "differs from" in outcome.error
    assert charon("verify", str(theirs), "--against", str(cluster / "node2" / LOCK)).stdout.count("says the same as") == 1
    assert "is no lock and no definition" in charon("verify", str(ours), "--against", str(cluster / "node0" / KEY_FILE)).error


def test_the_other_nodes_of_a_cluster_are_copies(charon: Charon, cluster: Path) -> None:
    edit(cluster / "node0" / LOCK, lambda lock: lock["cluster_definition"].update(name="other"))
    outcome = charon("verify", str(cluster))
    assert "in node1/cluster-lock.json it is" in outcome.stdout
    assert "its lock differs from node0's: cluster_definition.name" in outcome.stdout
    assert faults(outcome)[0].startswith("cluster-lock.json: verify cluster lock hashes: invalid definition: invalid config hash")
    assert outcome.stdout.count("the same as") == 2


def test_a_definition_that_the_lock_denies_is_named(charon: Charon, cluster: Path) -> None:
    node = cluster / "node3"
    definition = json.loads((node / LOCK).read_text())["cluster_definition"]
    (node / DEFINITION).write_text(json.dumps(definition))
    assert "ok      cluster-definition.json: says the same as the lock" in charon("verify", str(node)).stdout
    edit(node / DEFINITION, lambda document: document.update(threshold=4))
    outcome = charon("verify", str(node))
    assert "differs from the lock: threshold is 4 here, 3 there" in outcome.error
    assert "cluster-definition.json: verify definition hashes: invalid config hash" in outcome.stdout


# --- keystores -------------------------------------------------------------------------------------------------------


def test_keys_of_another_node_are_the_trap_that_is_named(charon: Charon, cluster: Path) -> None:
    node, other = cluster / "node2", cluster / "node0"
    shutil.rmtree(node / KEYS)
    shutil.copytree(other / KEYS, node / KEYS)
    outcome = charon("verify", str(node))
    assert "2 key shares of operator 0 (of 0 to 3), share index 1" in outcome.error
    assert "but this node is operator 2 (of 0 to 3), share index 3" in outcome.error
    assert "keep every validator client that has these keys stopped" in outcome.error
    single = charon("verify", str(node / KEYS / "keystore-insecure-1.json"))
    assert "1 key shares of operator 0" in single.error


def test_a_keystore_alone_is_told_by_its_lock(charon: Charon, cluster: Path) -> None:
    path = Path("keystore-0.json")
    shutil.copy(cluster / "node1" / KEYS / "keystore-insecure-1.json", path)
    assert charon("verify", str(path)).error.endswith("whose key share it is only the cluster's lock says; pass --lock-file")
    outcome = charon("verify", str(path), "--lock-file", str(cluster / "node0" / LOCK))
    assert "validator 1: share of operator 1 (of 0 to 3), share index 2" in outcome.stdout
    assert outcome.status == 0
    other = unpack("main-n3v1-insecure") / "node0" / LOCK
    error = charon("verify", str(path), "--lock-file", str(other)).error
    assert "public key share from provided private key share not found in provided lock" in error


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            lambda keys: (keys / "keystore-insecure-0.json").rename(keys / "keystore-m_12381.json"),
            "unknown keystore index, filename not",
        ),
        (
            lambda keys: (keys / "keystore-insecure-0.json").unlink(),
            "out of sequence keystore index: there is no keystore-0.json",
        ),
        (lambda keys: shutil.copy(keys / "keystore-insecure-0.json", keys / "keystore-0.json"), "duplicate keystore index 0"),
        (
            lambda keys: (keys / "keystore-insecure-1.json").unlink(),
            "does not contain key shares for all cluster validators: not for 1",
        ),
        (
            lambda keys: shutil.copy(keys / "keystore-insecure-0.json", keys / "keystore-insecure-1.json"),
            "resolve to the same validator 0",
        ),
        (
            lambda keys: (keys / "keystore-insecure-1.json").write_bytes(b"\xff" * 100),
            "keystore-insecure-1.json: keystore: not JSON",
        ),
        (lambda keys: (keys / "keystore-insecure-1.json").write_bytes(b" " * 10**6), "larger than 65536 bytes"),
        (lambda keys: (keys / "keystore-insecure-1.txt").write_bytes(b"\xff"), "the password is no UTF-8 text"),
        (lambda keys: [path.unlink() for path in keys.iterdir()], "no keys found"),
        (lambda keys: keys.rename("away").parent and keys.write_text(""), "cannot list (Not a directory)"),
    ],
)
def test_what_is_wrong_in_validator_keys_is_named(
    charon: Charon, cluster: Path, change: Callable[[Path], Any], error: str
) -> None:
    change(cluster / "node0" / KEYS)
    outcome = charon("verify", str(cluster / "node0"))
    assert error in "\n".join(faults(outcome))
    assert outcome.error


def test_keystores_that_do_not_open_are_named_and_the_others_are_opened(charon: Charon, cluster: Path) -> None:
    keys = cluster / "node0" / KEYS
    password = keys / "keystore-insecure-0.txt"
    password.write_text("wrong")
    outcome = charon("verify", str(cluster / "node0"), "--decrypt")
    assert [fault.split(": ", 2)[1] for fault in faults(outcome)] == ["keystore decryption"]
    assert "1 keystores opened" in outcome.stdout
    assert "wrong" not in outcome.stdout.replace("wrong password", "") + outcome.stderr.replace("wrong password", "")
    outcome = charon("verify", str(cluster / "node0"))
    assert outcome.status == 0  # without --decrypt nobody knows
    assert "  note    validator_keys: passwords not tried on 2 keystores; --decrypt does that" in outcome.stdout.splitlines()
    path = keys / "keystore-insecure-0.json"
    outcome = charon("verify", str(path))
    assert outcome.status == 0
    assert f"  note    {path}: its password was not tried; --decrypt does that" in outcome.stdout.splitlines()
    for asked in (str(cluster / "node0"), str(path)):
        outcome = charon("verify", asked, "--decrypt")
        assert "not tried" not in outcome.stdout
        assert "wrong password" in outcome.error
    password.write_text("")
    outcome = charon("verify", str(cluster / "node0"), "--decrypt")
    assert outcome.error.startswith(f"{path}: keystore decryption: ")
    assert "wrong password, or the file is damaged (the password's file is empty)" in outcome.error


def test_a_keystore_that_names_no_public_key_is_opened_to_see_whose_it_is(charon: Charon, cluster: Path) -> None:
    path = cluster / "node0" / KEYS / "keystore-insecure-0.json"
    edit(path, lambda keystore: keystore.pop("pubkey"))
    assert "see whose it is with --decrypt" in charon("verify", str(path)).error
    assert "validator 0: share of operator 0" in charon("verify", str(path), "--decrypt").stdout


def test_no_keystores_are_a_note_for_they_may_be_in_a_key_manager(charon: Charon, cluster: Path) -> None:
    shutil.rmtree(cluster / "node0" / KEYS)
    outcome = charon("verify", str(cluster / "node0"))
    assert outcome.status == 0
    assert "note    validator_keys: not here; the key shares may be in a key manager" in outcome.stdout


def test_folders_of_macos_are_nobodys(charon: Charon, cluster: Path) -> None:
    (cluster / "__MACOSX" / KEYS).mkdir(parents=True)
    (cluster / "__MACOSX" / "._node0").write_bytes(b"\0\5\26\7")
    fetched = cluster / "node0/deposit-data-2026-01-01T00:00:00Z"
    fetched.mkdir()
    shutil.copy(cluster / "node0/deposit-data.json", fetched)
    (fetched / "._deposit-data.json").write_bytes(b"\0\5\26\7")
    outcome = charon("verify", str(cluster))
    assert outcome.status == 0, outcome
    assert "__MACOSX" not in outcome.stdout


# --- the rest of a node's folder -------------------------------------------------------------------------------------


def test_modes_leftovers_and_manifests_are_told_and_are_no_faults(charon: Charon, cluster: Path) -> None:
    node = cluster / "node0"
    (node / KEY_FILE).chmod(0o640)
    (node / KEYS / "keystore-insecure-0.txt").chmod(0o444)
    (node / f"{STAGING_PREFIX}1").mkdir()
    (node / "cluster-manifest.pb").touch()
    outcome = charon("verify", str(node))
    assert outcome.status == 0
    said = warnings(outcome)
    assert any("the private key can be read by other users (mode 0640)" in line for line in said)
    assert any("keystore-insecure-0.txt: passwords that other users can read" in line for line in said)
    assert [line for line in said if STAGING_PREFIX in line] == [
        line for line in said if "it may hold keys that are in use" in line
    ]
    assert len(said) == 3
    assert "note    cluster-manifest.pb" in outcome.stdout


def test_a_folder_before_its_ceremony_holds_without_a_lock_and_one_after_it_does_not(charon: Charon, cluster: Path) -> None:
    node = Path("before")
    node.mkdir()
    shutil.copy(cluster / "node1" / KEY_FILE, node / KEY_FILE)
    assert "cluster lock not found" in charon("verify", str(node)).error
    definition = json.loads((cluster / "node1" / LOCK).read_text())["cluster_definition"]
    (node / DEFINITION).write_text(json.dumps(definition))
    outcome = charon("verify", str(node))
    assert outcome.status == 0
    assert "note    cluster-lock.json: not here yet; `charon dkg` makes it" in outcome.stdout
    assert "that of operator 1" in outcome.stdout
    shutil.copytree(cluster / "node1" / KEYS, node / KEYS)
    assert "cluster lock not found" in charon("verify", str(node)).error


def test_the_key_of_a_stranger_and_a_damaged_key_are_faults(charon: Charon, cluster: Path) -> None:
    key = cluster / "node0" / KEY_FILE
    key.write_text("11" * 32)
    assert (
        "unknown private key provided, it doesn't match any public key encoded inside the operator ENRs"
        in charon("verify", str(cluster / "node0")).error
    )
    key.write_text("0x" + "11" * 32)
    outcome = charon("verify", str(cluster / "node0"))
    assert "malformed private key" in outcome.error
    assert "11" * 32 not in outcome.stdout + outcome.stderr
    assert "2 of its keystores are shares of operator 0" in outcome.stdout


def test_two_nodes_with_one_identity_are_a_fault(charon: Charon, cluster: Path) -> None:
    shutil.copytree(cluster / "node0", cluster / "node9")
    outcome = charon("verify", str(cluster))
    assert f"{cluster}/node9: has the identity of node0, too: operator 0; one of the two is a copy" in outcome.error
    shutil.rmtree(cluster / "node9")
    shutil.rmtree(cluster / "node2")
    outcome = charon("verify", str(cluster))
    assert outcome.status == 0
    assert "note    operators: 3 of 4 are here, not 2" in outcome.stdout


# --- deposits --------------------------------------------------------------------------------------------------------


def rewrite(path: Path, **changes: object) -> None:
    edit(path, lambda rows: rows[0].update(changes))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda path: rewrite(path, amount=31 * 10**9), "deposit_message_root: is not the root of this deposit"),
        (lambda path: rewrite(path, signature="00" * 96), "is not the root of this deposit"),
        (lambda path: edit(path, lambda rows: rows.append(rows[0])), "is in it 2 times"),
        (lambda path: path.rename(path.with_name("deposit-data-8eth.json")), "its deposits are of 32 ETH, which its name denies"),
        (lambda path: edit(path, lambda rows: [row.update(network_name="mainnet") for row in rows]), 'says network "mainnet"'),
        (
            lambda path: edit(path, lambda rows: [row.update(fork_version="00000000") for row in rows]),
            "invalid deposit data signature",
        ),
        (lambda path: path.write_text('{"a": 1}'), "deposit data"),
    ],
)
def test_what_is_wrong_with_a_deposit_file_is_named(
    charon: Charon, cluster: Path, change: Callable[[Path], Any], error: str
) -> None:
    change(cluster / "node0" / "deposit-data.json")
    outcome = charon("verify", str(cluster / "node0"))
    assert error in "\n".join(faults(outcome))
    assert outcome.error


def test_deposits_of_another_cluster_and_of_another_withdrawal_address_are_faults(charon: Charon, cluster: Path) -> None:
    other = unpack("main-n4v1-compounding")
    shutil.copy(other / "node0/deposit-data.json", cluster / "node0/deposit-data.json")
    error = charon("verify", str(cluster / "node0")).error
    assert "is not in the lock; don't deposit with this file" in error
    alone = charon("verify", str(shutil.copy(other / "node0/deposit-data.json", "deposit-data.json")))
    assert alone.status == 0
    assert "not compared with a lock" in alone.stdout
    path = other / "node0" / LOCK
    edit(path, lambda lock: lock["cluster_definition"]["validators"][0].update(withdrawal_address="0x" + "22" * 20))
    outcome = charon("verify", str(other / "node0/deposit-data.json"))
    assert f"by the lock they are 0x02{'00' * 11}{'22' * 20}" in outcome.error


def test_deposits_that_were_fetched_later_are_checked_in_their_folder(charon: Charon, cluster: Path) -> None:
    node = cluster / "node0"
    fetched = node / "deposit-data-2026-01-01T00:00:00Z"
    fetched.mkdir()
    shutil.copy(node / "deposit-data.json", fetched / "deposit-data-8eth.json")
    assert charon("verify", str(node)).status == 0
    rewrite(fetched / "deposit-data-8eth.json", signature="00" * 96)
    assert f"{fetched.name}/deposit-data-8eth.json: deposit data[0].deposit_data_root" in faults(charon("verify", str(node)))[0]


# --- files that are none ---------------------------------------------------------------------------------------------

HOSTILE: list[tuple[str, bytes]] = [
    (LOCK, b""),
    (LOCK, b"\x00\xff" * 1000),
    (LOCK, b"[" * 100_000),
    (LOCK, b'{"cluster_definition":{},"cluster_definition":{}}'),
    (LOCK, b'{"cluster_definition":{"version":"v1.0.0","num_validators":' + b"9" * 5000 + b"}}"),
    (LOCK, b'{"cluster_definition":{"version":"v1.0.0","fork_version":"0x00000000","num_validators":65537}}'),
    (LOCK, b'{"cluster_definition":{"version":"\\u001b[31m\\ud800"}}'),
    (DEFINITION, b'{"operators": 3}'),
    (DEFINITION, b'{"num_validators": NaN}'),
    ("deposit-data.json", b'[{"withdrawal_credentials": 1}]'),
    ("deposit-data.json", b"{}"),
    ("keystore-0.json", b"[]"),
    ("builder_registrations_overrides.json", b'[{"v1": null}]'),
    ("unknown", b"hello"),
    ("unknown.json", b'{"a": 1}'),
]


@pytest.mark.parametrize(("name", "content"), HOSTILE, ids=[f"{name}-{number}" for number, (name, _) in enumerate(HOSTILE)])
def test_a_file_that_is_none_is_one_line(charon: Charon, name: str, content: bytes) -> None:
    Path(name).write_bytes(content)
    shutil.copy(SIGNED, "the-lock")
    outcome = charon("verify", name, "--lock-file", "the-lock")
    assert outcome.error.startswith(f"{name}: ")
    assert "\x1b" not in outcome.stdout + outcome.stderr


@pytest.mark.timeout(10)
def test_missing_unreadable_and_strange_paths_are_one_line(charon: Charon) -> None:
    os.mkfifo("pipe")
    Path("link").symlink_to("nowhere")
    Path("empty").mkdir()
    Path("large").write_bytes(b" " * (65 << 20))
    for path, error in (
        ("missing", "missing: no such file"),
        ("pipe", "pipe: is a pipe or a device, not a file"),
        ("link", "link: no such file"),
        ("empty", "empty: holds no files of a cluster, and no folders of nodes"),
        ("large", "large: larger than 67108864 bytes"),
        ("a\x00b", "'a\\x00b': is no file name"),
    ):
        assert charon("verify", path).error.startswith(error)
    assert 'unexpected argument "b"; besides flags it takes PATH only' in charon("verify", "a", "b").error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_lock_that_we_may_not_read_is_named_with_its_mode(charon: Charon, cluster: Path) -> None:
    (cluster / "node0" / LOCK).chmod(0)
    assert "it has mode 0000" in charon("verify", str(cluster / "node0")).error


# --- contract wallets ------------------------------------------------------------------------------------------------


def test_contract_wallets_are_asked_and_a_client_that_fails_stops_no_other_check(charon: Charon) -> None:
    """Operator 0's config signature becomes one that only a contract can accept."""
    document = load("signed-v1_11_0/cluster-definition.json")
    document["operators"][0]["config_signature"] = "0x" + "00" * 65
    definition = decode_definition(json.dumps(document).encode())
    from charon_actors.cluster.hashes import definition_hash

    document["definition_hash"] = "0x" + definition_hash(definition).hex()
    Path(DEFINITION).write_text(json.dumps(document))
    assert "if a contract wallet signed, pass --execution-client-rpc-endpoint" in charon("verify", DEFINITION).error
    asked: list[str] = []
    magic = "0x1626ba7e" + "00" * 28

    class Client(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(request["method"])
            body = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": magic}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Client) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        outcome = charon("verify", DEFINITION, "--execution-client-rpc-endpoint", f"http://127.0.0.1:{server.server_port}")
        assert (outcome.status, asked) == (0, ["web3_clientVersion", "eth_call"])
        magic = "0x"
        outcome = charon("verify", DEFINITION, "--execution-client-rpc-endpoint", f"http://127.0.0.1:{server.server_port}")
        assert "invalid operator config signature" in outcome.error
        magic = "nonsense"
        outcome = charon("verify", DEFINITION, "--execution-client-rpc-endpoint", f"http://127.0.0.1:{server.server_port}")
        assert "the answer is no data" in outcome.error
        assert "ok      cluster-definition.json: definition hash" in outcome.stdout
        server.shutdown()


# --- terminal --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("locale", "symbol"), [({"PYTHONIOENCODING": "utf-8"}, "✓"), ({"PYTHONIOENCODING": "ascii"}, "ok")])
def test_a_terminal_sees_symbols_if_it_can_show_them(charon: Charon, cluster: Path, locale: dict[str, str], symbol: str) -> None:
    status, seen = on_a_terminal("verify", str(cluster / "node0" / LOCK), **locale, NO_COLOR="1")
    lines = seen.decode().splitlines()
    assert status == 0
    assert sum(line.startswith(f"  {symbol} ") for line in lines) == 10
    assert lines[-1] == "10 checks, everything holds"
