"""`charon combine`: on what real Charon wrote, on what we wrote, and on everything that operators' folders can look like."""

import contextlib
import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import charon_actors.cli.commands.combine
from charon_actors.cli.main import main
from charon_actors.cluster.lock_json import decode_lock, encode_lock
from charon_actors.crypto.bls import public_key
from charon_actors.crypto.group import CURVE_ORDER
from charon_actors.crypto.keystore import decode_keystore, decrypt_keystore, encode_keystore, encrypt_keystore
from charon_actors.files.data_directory import load_lock
from charon_actors.files.keystore_files import read_keystores
from tests.cli.conftest import Charon, Outcome

VECTORS = Path(__file__).parent.parent / "vectors"
ARCHIVES = sorted((VECTORS / "live/clusters").glob("*.tar.gz"))
DKG_ARCHIVES = sorted((VECTORS / "live/dkg").glob("*.tar.gz"))
TESTNET = ("--testnet-name=lab", "--testnet-chain-id=1337", "--testnet-fork-version=0x00000001", "--testnet-genesis-timestamp=1")
INTEROP = {int.from_bytes(sha256(bytes([i]).ljust(32, b"\0")).digest(), "little") % CURVE_ORDER for i in range(2)}
ADDRESS = "0x000000000000000000000000000000000000dEaD"
CREATE = (
    *("create", "cluster", "--name=test", "--network=hoodi", "--insecure-keys", "--cluster-dir=cluster"),
    *(f"--fee-recipient-addresses={ADDRESS}", f"--withdrawal-addresses={ADDRESS}"),
)
COMBINE = ("combine", "--cluster-dir=cluster", "--output-dir=out")
DRY = (*COMBINE, "--dry-run")


def unpack(archive: Path | str, directory: str = "cluster") -> Path:
    with tarfile.open(VECTORS / "live/clusters" / archive) as tar:
        tar.extractall(directory, filter="data")
    return Path(directory)


def opened(directory: Path) -> list[bytes]:
    return [decrypt_keystore(decode_keystore(k.content), k.password) for k in read_keystores(directory)]


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def keystore_of(node: int, validator: int = 0) -> Path:
    return Path(f"cluster/node{node}/validator_keys/keystore-insecure-{validator}.json")


@pytest.fixture
def cluster(charon: Charon) -> Path:
    """4 nodes, threshold 3, 2 validators, in ./cluster. (`charon` has made the working directory.)"""
    return unpack("1.10.3-n4v2-insecure.tar.gz")


# --- it works --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def test_clusters_that_real_charon_wrote_combine_to_the_keys_of_their_locks(charon: Charon, archive: Path) -> None:
    unpack(archive)
    extra = TESTNET if "testnet" in archive.name else ()
    outcome = charon(*COMBINE, *extra)
    assert outcome.status == 0, outcome
    lock = decode_lock(Path("cluster/node0/cluster-lock.json").read_bytes())
    secrets = opened(Path("out"))
    assert [public_key(secret) for secret in secrets] == [validator.public_key for validator in lock.validators]
    if "split" in archive.name:
        assert {int.from_bytes(secret, "big") for secret in secrets} == INTEROP  # in an order of Charon's choice (01 §10.1)
    for secret in secrets:
        assert secret.hex() not in outcome.stdout + outcome.stderr


@pytest.mark.parametrize("archive", DKG_ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def test_ceremonies_of_real_charon_can_be_combined(charon: Charon, archive: Path) -> None:
    unpack(archive)
    outcome = charon(*DRY, *TESTNET)
    assert outcome.status == 0, outcome
    assert not Path("out").exists()


def test_split_then_combine_gives_the_keys_back_under_charons_names_at_full_cost(charon: Charon) -> None:
    Path("keys").mkdir()
    secrets = [(5000 + index).to_bytes(32, "big") for index in range(3)]
    for index, secret in enumerate(secrets):
        keystore = encrypt_keystore(secret, "p", os.urandom, iterations=16)
        Path(f"keys/keystore-{index}.json").write_bytes(encode_keystore(keystore))
        Path(f"keys/keystore-{index}.txt").write_text("p")
    assert charon(*CREATE, "--nodes=5", "--split-existing-keys", "--split-keys-dir=keys").status == 0
    outcome = charon(*COMBINE)
    assert outcome.status == 0, outcome
    assert opened(Path("out")) == secrets
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in Path("out").iterdir()}
    assert modes == {f"keystore-{i}.{kind}": mode for i in range(3) for kind, mode in (("json", 0o444), ("txt", 0o400))}
    for index in range(3):
        keystore = json.loads(Path(f"out/keystore-{index}.json").read_text())
        assert keystore["crypto"]["kdf"]["params"]["c"] == 262144
        assert keystore["pubkey"] == public_key(secrets[index]).hex()
        assert len(Path(f"out/keystore-{index}.txt").read_text()) == 32
    assert "WARNING: Combined keys" in outcome.stdout
    assert "2 finalized epochs" in outcome.stdout


def test_the_report_says_k_of_n_for_each_validator_and_each_folder(charon: Charon, cluster: Path) -> None:
    keystore_of(2, 1).unlink()
    outcome = charon(*DRY)
    lock = decode_lock((cluster / "node0/cluster-lock.json").read_bytes())
    first, second = (validator.public_key.hex() for validator in lock.validators)
    assert outcome.stdout.splitlines()[:8] == [
        "node0: key shares of 2 of 2 validators, of share index 1",
        "node1: key shares of 2 of 2 validators, of share index 2",
        "node2: key shares of 1 of 2 validators, of share index 3",
        "node3: key shares of 2 of 2 validators, of share index 4",
        "3 key shares of each validator are needed, no more are opened",
        f"validator 0 0x{first}: 4 of 4 key shares (1, 2, 3, 4)",
        f"validator 1 0x{second}: 3 of 4 key shares (1, 2, 4)",
        "All 2 validator keys can be combined. Nothing was written, that was a dry run.",
    ]
    assert not Path("out").exists()


def test_the_working_directory_is_the_default(charon: Charon) -> None:
    unpack("1.10.3-n3v1-insecure.tar.gz", ".")
    assert charon("combine").status == 0
    assert len(opened(Path("validator_keys"))) == 1
    assert "validator_keys/keystore-0.json: already exists" in charon("combine").error
    assert charon("combine", "--force").status == 0


# --- incomplete, copied and mixed folders ----------------------------------------------------------------------------


def test_a_folder_without_keystore_0_contributes_what_it_has(charon: Charon, cluster: Path) -> None:
    keystore_of(1, 0).unlink()
    outcome = charon(*DRY)
    assert outcome.status == 0, outcome
    assert "3 of 4 key shares (1, 3, 4)" in outcome.stdout


def test_an_empty_folder_contributes_nothing(charon: Charon, cluster: Path) -> None:
    for node in range(4):
        shutil.rmtree(cluster / f"node{node}/validator_keys")
        (cluster / f"node{node}/validator_keys").mkdir()
    error = charon(*DRY).error
    assert error.startswith("cluster/node0/validator_keys: load private key share: no keys found; ")
    shutil.rmtree(cluster)
    unpack("1.10.3-n4v2-insecure.tar.gz")
    for path in (cluster / "node3/validator_keys").iterdir():
        path.unlink()
    outcome = charon(*DRY)
    assert outcome.status == 0, outcome
    assert "node3: key shares of 0 of 2 validators\n" in outcome.stdout


def test_too_few_shares_name_the_validator(charon: Charon, cluster: Path) -> None:
    keystore_of(0, 1).unlink()
    shutil.rmtree(cluster / "node3")
    key = decode_lock((cluster / "node0/cluster-lock.json").read_bytes()).validators[1].public_key.hex()
    assert charon(*COMBINE).error == (
        f"cluster: insufficient private key shares found for validator: validator 1 0x{key}: 2 of 4 key shares (2, 3), 3 needed; "
        "add the folders of more operators"
    )
    assert not Path("out").exists()
    shutil.rmtree(cluster / "node2")
    assert "found for validator (and 1 more): validator 0" in charon(*COMBINE).error


@pytest.mark.parametrize("absent", [0, 1])
def test_validators_of_which_nobody_has_a_share_are_left_out(charon: Charon, cluster: Path, absent: int) -> None:
    """What real Charon does when the last ones are missing in all folders; numbers stay those of the lock."""
    shutil.rmtree(cluster / "node3")
    for node in range(3):
        for kind in (".json", ".txt"):
            keystore_of(node, absent).with_suffix(kind).unlink()
    outcome = charon(*DRY)
    assert outcome.status == 0, outcome
    assert "\n1 of 2 validator keys can be combined. Nothing was written" in outcome.stdout
    outcome = charon(*COMBINE)
    assert outcome.status == 0, outcome
    assert outcome.stderr.splitlines() == [f"Notice: left out: 1 of 2 validators, of which no folder holds a key share: {absent}"]
    assert "\nCombined 1 of 2 validator keys: out/keystore-*.json" in outcome.stdout
    assert {path.name for path in Path("out").iterdir()} == {f"keystore-{1 - absent}.{kind}" for kind in ("json", "txt")}
    lock = decode_lock((cluster / "node0/cluster-lock.json").read_bytes())
    content, password = (Path(f"out/keystore-{1 - absent}.{kind}").read_text() for kind in ("json", "txt"))
    assert public_key(decrypt_keystore(decode_keystore(content.encode()), password)) == lock.validators[1 - absent].public_key
    assert f"out/keystore-{1 - absent}.json: already exists" in charon(*COMBINE).error
    assert charon(*COMBINE, "--force").status == 0


def test_one_validator_with_too_few_shares_is_an_error_whatever_the_others_have(charon: Charon, cluster: Path) -> None:
    """Nothing is written: that a share is missing may be a mistake, and its keys are wanted as well."""
    shutil.rmtree(cluster / "node3")
    keystore_of(0, 1).unlink()
    error = charon(*COMBINE).error
    assert error.startswith("cluster: insufficient private key shares found for validator: validator 1 0x")
    assert "2 of 4 key shares (2, 3), 3 needed" in error
    assert not Path("out").exists()


def test_a_folder_of_macos_side_files_is_nobodys(charon: Charon, cluster: Path) -> None:
    (cluster / "__MACOSX/validator_keys").mkdir(parents=True)
    (cluster / "__MACOSX/validator_keys/._keystore-0.json").write_bytes(b"\0\5\26\7")
    for node in range(4):
        (cluster / f"node{node}/validator_keys/._keystore-insecure-0.json").write_bytes(b"\0\5\26\7")
        (cluster / f"node{node}/validator_keys/.DS_Store").write_bytes(b"\0\0\0\1Bud1")
    outcome = charon(*DRY)
    assert outcome.status == 0, outcome
    assert "All 2 validator keys" in outcome.stdout


def test_key_shares_with_0x_before_their_public_key_are_found(charon: Charon, cluster: Path) -> None:
    for path in cluster.rglob("keystore-*.json"):
        keystore = json.loads(path.read_text())
        path.unlink()
        path.write_text(json.dumps({**keystore, "pubkey": "0x" + keystore["pubkey"]}))
    outcome = charon(*COMBINE)
    assert outcome.status == 0, outcome


def test_a_copied_folder_counts_once(charon: Charon, cluster: Path) -> None:
    shutil.copytree(cluster / "node0", cluster / "node10")
    outcome = charon(*DRY)
    assert outcome.status == 0, outcome
    assert "cluster/node10: 2 key shares that another folder holds, too" in outcome.stderr
    assert "4 of 4 key shares (1, 2, 3, 4)" in outcome.stdout
    for path in (cluster / "node10/validator_keys").glob("*.txt"):  # the first one counts, in the order people count in
        path.unlink()
        path.write_text("wrong")
    (cluster / "node0").rename(cluster / "node9")
    assert charon(*DRY).status == 0
    shutil.rmtree(cluster / "node2")
    shutil.rmtree(cluster / "node3")
    assert "insufficient private key shares found for validator (and 1 more): validator 0" in charon(*DRY).error


def test_files_of_another_operator_are_named(charon: Charon, cluster: Path) -> None:
    shutil.copy(keystore_of(1, 1), keystore_of(0, 1))
    shutil.copy(keystore_of(1, 1).with_suffix(".txt"), keystore_of(0, 1).with_suffix(".txt"))
    assert charon(*DRY).error.startswith(
        "cluster/node0/validator_keys/keystore-insecure-1.json: key share of share index 2, "
        "while cluster/node0/validator_keys/keystore-insecure-0.json is one of share index 1; "
    )


def test_two_files_for_one_validator_are_named(charon: Charon, cluster: Path) -> None:
    shutil.copy(keystore_of(0, 0), keystore_of(0, 7))
    shutil.copy(keystore_of(0, 0).with_suffix(".txt"), keystore_of(0, 7).with_suffix(".txt"))
    error = charon(*DRY).error
    assert error.startswith(
        "cluster/node0/validator_keys/keystore-insecure-7.json: multiple provided private key shares resolve to"
    )


def test_folders_of_two_clusters_do_not_mix(charon: Charon, cluster: Path) -> None:
    unpack("main-n4v2-insecure.tar.gz", "other")
    shutil.rmtree(cluster / "node3")
    Path("other/node3").rename(cluster / "node3")
    error = charon(*DRY).error
    assert error.startswith("cluster/node3/cluster-lock.json: open manifest file: mismatching last mutation hash: 0x")
    shutil.copy(cluster / "node0/cluster-lock.json", cluster / "node3/lock")
    (cluster / "node3/lock").replace(cluster / "node3/cluster-lock.json")
    error = charon(*DRY).error
    assert error.startswith("cluster/node3/validator_keys/keystore-insecure-0.json: secret key share not found: ")


def test_with_no_verify_the_last_lock_wins(charon: Charon, cluster: Path) -> None:
    shutil.rmtree(cluster / "node0/validator_keys")
    (cluster / "node0/validator_keys").mkdir()
    unpack("main-n4v2-insecure.tar.gz", "other")
    Path("other/node0/cluster-lock.json").replace(cluster / "node0/cluster-lock.json")
    assert "mismatching last mutation hash" in charon(*DRY).error
    outcome = charon(*DRY, "--no-verify")
    assert outcome.status == 0, outcome
    assert "ignoring open manifest file: mismatching last mutation hash due to --no-verify flag" in outcome.stderr
    (cluster / "node0").rename(cluster / "node9")  # now it is the last one, and all shares are unknown
    assert "secret key share not found" in charon(*DRY, "--no-verify").error


NAMES = st.sampled_from(["0", "1", "7", "insecure-0", "insecure-3", "m_12381_3600_0_0_0-17", "x"])


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "node2", "node10"]), st.integers(0, 3)), unique_by=lambda row: row[0]),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), NAMES), max_size=12, unique_by=lambda row: (row[0], row[2])),
)
@settings(max_examples=60, deadline=None)
def test_names_of_files_and_folders_never_matter(folders: list[tuple[str, int]], kept: list[tuple[int, int, str]]) -> None:
    """Folders by name, each of one operator; of each operator some keystores under other names. Which shares are there decides."""
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        source = unpack("1.10.3-n4v2-insecure.tar.gz", "source")
        by_operator = {node: {validator: name for n, validator, name in kept if n == node} for _, node in folders}
        for folder, node in folders:
            target = Path("cluster", folder, "validator_keys")
            target.mkdir(parents=True)
            shutil.copy(source / f"node{node}/cluster-lock.json", target.parent)
            for validator, name in by_operator[node].items():
                for kind in ("json", "txt"):
                    file = source / f"node{node}/validator_keys/keystore-insecure-{validator}.{kind}"
                    shutil.copy(file, target / f"keystore-{name}.{kind}")
        Path("cluster").mkdir(exist_ok=True)
        with contextlib.redirect_stdout(io.StringIO()) as stdout, contextlib.redirect_stderr(io.StringIO()) as stderr:
            status = main([*DRY])
    shares = [{node for node, files in by_operator.items() if validator in files} for validator in range(2)]
    if any(shares) and all(len(nodes) >= 3 or not nodes for nodes in shares):
        assert status == 0, stderr.getvalue()
        count = "All 2" if all(shares) else "1 of 2"
        assert f"{count} validator keys can be combined" in stdout.getvalue()
    else:
        assert status == 1
        expected = "insufficient private" if any(shares) else "no keys found" if folders else "no manifest file found"
        assert expected in stderr.getvalue()


# --- locks -----------------------------------------------------------------------------------------------------------


def test_a_directory_without_folders_of_operators(charon: Charon, cluster: Path) -> None:
    for wrong in ("cluster/node0", "cluster/node0/validator_keys"):
        error = charon("combine", f"--cluster-dir={wrong}").error
        assert error.startswith(
            f"{wrong}: open manifest file: no manifest file found, no sub-directory has validator_keys; give "
        )
    assert "none: no such directory" in charon("combine", "--cluster-dir=none").error
    assert "cannot list (Not a directory)" in charon("combine", "--cluster-dir=cluster/node0/cluster-lock.json").error


def test_locks_that_are_missing_damaged_or_wrong(charon: Charon, cluster: Path) -> None:
    path = cluster / "node1/cluster-lock.json"
    content = path.read_bytes()
    path.unlink()
    prefix = "cluster/node1/cluster-lock.json: open manifest file: manifest load error: "
    assert charon(*DRY).error.startswith(prefix + "cluster lock not found; put the cluster's lock there")
    path.write_bytes(content[:-10])
    assert charon(*DRY).error.startswith(prefix + "unmarshal cluster-lock.json: ")
    path.write_bytes(content.replace(b'"threshold": 3', b'"threshold": 2'))
    assert charon(*DRY).error.startswith(prefix + "verify cluster lock hashes: invalid definition: invalid config hash; ")
    outcome = charon(*DRY, "--no-verify")
    assert outcome.status == 0, outcome
    assert "ignoring failed cluster lock hashes verification due to --no-verify flag" in outcome.stderr


def test_a_threshold_that_is_a_lie_gives_no_keys_even_without_verification(charon: Charon, cluster: Path) -> None:
    lock = load_lock(cluster / "node0/cluster-lock.json", pytest.fail)
    for threshold in (0, 2):
        for node in range(4):
            path = cluster / f"node{node}/cluster-lock.json"
            path.chmod(0o600)
            path.write_bytes(encode_lock(lock).replace(b'"threshold": 3', b'"threshold": %d' % threshold))
        error = charon(*COMBINE, "--no-verify").error
        assert error.startswith("cluster: unexpected resulting combined validator public key of validator 0; ")
    assert not Path("out").exists()


def test_a_custom_network_needs_its_flags(charon: Charon) -> None:
    unpack("main-n4v1-testnet.tar.gz")
    assert "invalid fork version" in charon(*DRY).error
    assert charon(*DRY, *TESTNET).status == 0


def test_what_another_charon_is_writing_is_left_out(charon: Charon, cluster: Path) -> None:
    (cluster / "node3").rename(cluster / ".charon-staging-x")
    outcome = charon(*DRY)
    assert outcome.status == 0, outcome
    assert "Notice: left out: cluster/.charon-staging-x: another charon is writing" in outcome.stderr
    assert "3 of 4 key shares (1, 2, 3)" in outcome.stdout


# --- keystores that cannot be opened ---------------------------------------------------------------------------------

PREFIX = "cluster/node1/validator_keys/keystore-insecure-0.json: load private key share: "


def test_wrong_and_missing_passwords_name_the_file(charon: Charon, cluster: Path) -> None:
    password = keystore_of(1).with_suffix(".txt")
    password.chmod(0o600)
    password.write_text("hunter2")
    error = charon(*COMBINE).error
    assert error.startswith(
        PREFIX + "keystore decryption: keystore field crypto.checksum.message: invalid checksum: wrong password"
    )
    assert "hunter2" not in error
    password.unlink()
    error = charon(*COMBINE).error
    assert error.startswith(f"{password}: load private key share: password file not found; ")
    assert not Path("out").exists()


def test_a_public_key_that_is_not_the_secrets_is_found_out(charon: Charon, cluster: Path) -> None:
    """Node 1's file for validator 0 holds another share of this very cluster under the right name and public key."""
    right, other = (json.loads(keystore_of(1, validator).read_text()) for validator in (0, 1))
    keystore_of(1).unlink()
    keystore_of(1).write_text(json.dumps({**other, "pubkey": right["pubkey"]}))
    password = keystore_of(1).with_suffix(".txt")
    password.unlink()
    shutil.copy(keystore_of(1, 1).with_suffix(".txt"), password)
    assert charon(*DRY).error.startswith(
        PREFIX + "keystore decryption: keystore field pubkey: is not the public key of the secret"
    )


def test_keystores_that_name_no_public_key_are_opened_to_know(charon: Charon, cluster: Path) -> None:
    for node in range(4):
        keystore = json.loads(keystore_of(node).read_text())
        del keystore["pubkey"], keystore["path"]
        keystore_of(node).unlink()
        keystore_of(node).write_text(json.dumps({**keystore, "name": "something of another program"}))
    outcome = charon(*DRY)
    assert outcome.status == 0, outcome


HOSTILE = {
    "nothing": b"",
    "binary": bytes(range(256)),
    "half of it": b'{"crypto": {"kdf": ',
    "nesting": b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "a number of a million digits": b'{"version":' + b"9" * 1_000_000 + b"}",
    "a number of 60 000 digits": b'{"version":' + b"9" * 60_000 + b"}",
    "a key twice": b'{"crypto":{},"crypto":{}}',
    "bytes that are no UTF-8": b'{"description":"\xff"}',
    "not a number": b'{"version":NaN}',
    "a list": b"[]",
    "a wrong public key": b'{"pubkey":"00"}',
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_keystores_are_one_line_that_names_the_file(charon: Charon, cluster: Path, content: bytes) -> None:
    keystore_of(1).unlink()
    keystore_of(1).write_bytes(content)
    assert charon(*COMBINE).error.startswith(PREFIX)
    assert not Path("out").exists()


def test_a_keystore_of_100_megabytes_is_not_read(charon: Charon, cluster: Path) -> None:
    keystore_of(1).chmod(0o600)
    os.truncate(keystore_of(1), 100 << 20)
    assert charon(*COMBINE).error.startswith(PREFIX + "larger than 65536 bytes; ")


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """As somebody whom file modes stop, if we are root."""
    if os.geteuid() != 0:
        yield
        return
    Path().chmod(0o755)  # ours alone until here
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("place", ["node1", "node1/validator_keys", "node1/validator_keys/keystore-insecure-0.json"])
def test_what_cannot_be_read_is_named_with_mode_and_owner(charon: Charon, cluster: Path, place: str) -> None:
    assert charon_actors.cli.commands.combine.command.name == "combine"  # imported while everything may be read
    path = cluster / place
    if os.geteuid() == 0:
        for file in cluster.rglob("*"):
            os.chown(file, 65534, 65534)
    path.chmod(0)
    with unprivileged():
        outcome = charon(*DRY)
    path.chmod(0o755)
    if place == "node1":  # enough without it
        assert outcome.status == 0, outcome
        assert (
            "Notice: left out: cluster/node1/validator_keys: cannot look it up (Permission denied); it has mode 0000"
            in outcome.stderr
        )
    else:
        assert outcome.error.startswith(f"cluster/{place}: load private key share: cannot ")
        assert "(Permission denied); it has mode 0000 and owner " in outcome.error


# --- the output directory --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["keystore-0.json", "keystore-7.txt", "keystore-insecure-0.json"])
def test_keystores_in_the_output_directory_are_not_overwritten(charon: Charon, cluster: Path, name: str) -> None:
    Path("out").mkdir()
    Path("out", name).write_text("mine")
    assert charon(*COMBINE).error == (
        f"out/{name}: already exists, refusing to overwrite; "
        "give another --output-dir, or --force to replace all keystore-*.json and .txt there"
    )
    assert snapshot(Path("out")) == {name: b"mine"}


def test_force_replaces_keystores_and_nothing_else(charon: Charon, cluster: Path) -> None:
    Path("out").mkdir()
    for name in ("keystore-0.json", "keystore-9.json", "keystore-9.txt", "keystore-x", "notes.json"):
        Path("out", name).write_text("mine")
    outcome = charon(*COMBINE, "--force")
    assert outcome.status == 0, outcome
    keystores = {f"keystore-{i}.{kind}" for i in range(2) for kind in ("json", "txt")}
    assert snapshot(Path("out")).keys() == {*keystores, "keystore-x", "notes.json"}
    assert len(os.listdir("out")) == 6
    assert len(opened(Path("out"))) == 2


def test_force_keeps_the_keys_of_validators_that_are_left_out(charon: Charon, cluster: Path) -> None:
    """They may be all that is left of an earlier, whole result."""
    assert charon(*COMBINE).status == 0
    before = snapshot(Path("out"))
    for node in range(4):
        keystore_of(node, 1).unlink()
    assert charon(*COMBINE, "--force").status == 0
    after = snapshot(Path("out"))
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"keystore-0.json", "keystore-0.txt"}


def test_force_keeps_everything_when_the_shares_are_not_enough(charon: Charon, cluster: Path) -> None:
    Path("out").mkdir()
    Path("out/keystore-0.json").write_text("mine")
    keystore_of(0).with_suffix(".txt").chmod(0o600)
    keystore_of(0).with_suffix(".txt").write_text("wrong")
    assert "wrong password" in charon(*COMBINE, "--force").error
    assert snapshot(Path("out")) == {"keystore-0.json": b"mine"}
    assert os.listdir("out") == ["keystore-0.json"]


def test_key_shares_are_never_replaced_by_the_result(charon: Charon, cluster: Path) -> None:
    before = snapshot(cluster)
    Path("link").symlink_to("cluster/node2/validator_keys")
    for output in ("cluster/node0/validator_keys", "cluster/../cluster/node0/validator_keys/", "link"):
        error = charon("combine", "--cluster-dir=cluster", f"--output-dir={output}", "--force").error
        assert "holds key shares, which the result would replace; give another --output-dir" in error
    assert snapshot(cluster) == before


def test_what_stands_in_the_way_of_the_output(charon: Charon, cluster: Path) -> None:
    Path("out").write_text("a file")
    assert charon(*COMBINE).error.startswith("out: cannot list (Not a directory); ")
    Path("out").unlink()
    Path("out").symlink_to("nowhere")
    assert charon(*COMBINE).error.startswith("out: no such directory; ")
    Path("out").unlink()
    Path("out/keystore-0.json").mkdir(parents=True)
    assert "keystore-0.json: is a directory, not a file; move it away" in charon(*COMBINE, "--force").error
    assert "is empty" in charon("combine", "--cluster-dir=cluster", "--output-dir=").error


def test_what_a_kill_left_in_the_output_is_named(charon: Charon, cluster: Path) -> None:
    Path("out/.charon-staging-1").mkdir(parents=True)
    for more in ((), ("--force",), ("--dry-run",)):
        assert charon(*COMBINE, *more).error.startswith("out/.charon-staging-1: another charon is writing here, or was killed")


def test_an_output_directory_that_may_not_be_written_is_named_before_the_work(charon: Charon, cluster: Path) -> None:
    if os.geteuid() == 0:
        for file in cluster.rglob("*"):
            os.chown(file, 65534, 65534)
    Path("out").mkdir(mode=0o555)
    with unprivileged():
        error = charon(*COMBINE).error
    assert error.startswith("out: cannot write (Permission denied); it has mode 0555 and owner ")


@pytest.fixture
def small_disk(charon: Charon) -> Iterator[Path]:
    """out/, a disk with room for one set of two keystores."""
    Path("out").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", "out"], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield Path("out")
    finally:
        subprocess.run(["umount", "out"], check=True)


def test_a_full_disk_loses_nothing(cluster: Path, small_disk: Path, charon: Charon) -> None:
    assert charon(*COMBINE).status == 0
    before = snapshot(small_disk)
    error = charon(*COMBINE, "--force").error
    assert "cannot write (No space left on device)" in error
    assert error.endswith("check permissions and free space")
    assert snapshot(small_disk) == before
    assert len(os.listdir(small_disk)) == 4


def test_flags_are_charons_with_type_and_default_and_one_of_ours() -> None:
    reference = json.loads((VECTORS / "monitoring/cli_flags.json").read_text())["commands"]["combine"]["flags"]
    ours = {flag.name: flag for flag in charon_actors.cli.commands.combine.command.flags}
    assert set(ours) - set(reference) == {"dry-run"}
    for name, row in reference.items():
        assert (ours[name].kind.value, ours[name].default) == (row["type"], row["default"]), name


def test_the_help_says_what_for(charon: Charon) -> None:
    outcome: Outcome = charon("combine", "--help")
    assert "validators' own keys" in outcome.stdout
