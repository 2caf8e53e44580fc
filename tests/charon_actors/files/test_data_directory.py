"""The data directory: whole or not at all, right modes, and one clear line for everything that can be wrong."""

import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from charon_actors.cluster.hashes import with_lock_hashes
from charon_actors.cluster.key_lock import KeyLock, check_key_lock, decode_key_lock, encode_key_lock
from charon_actors.cluster.lock_json import decode_lock, encode_lock
from charon_actors.enr import new_record
from charon_actors.errors import UserError
from charon_actors.files.data_directory import (
    check_ceremony_directory,
    load_lock,
    read_definition,
    read_key_lock,
    take_key_lock,
    verified_definition,
    write_ceremony_artifacts,
)
from charon_actors.files.identity import KEY_FILE, load_key_file, write_identity
from charon_actors.files.keystore_files import Keystore
from charon_actors.files.staging import staging
from tests.charon_actors.cluster.vectors import CLUSTER, VECTORS, load, real_files

KEY = bytes([1] * 32)
LOCK = (CLUSTER / "signed-v1_11_0/cluster-lock.json").read_bytes()


def silent(text: str) -> None:
    raise AssertionError(f"unexpected warning: {text}")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def _usual_umask() -> Any:
    old = os.umask(0o022)
    yield
    os.umask(old)


# --- identity --------------------------------------------------------------------------------------------------------


def test_a_new_identity_is_private_and_reads_back(tmp_path: Path) -> None:
    path = write_identity(tmp_path / "deep" / ".charon", KEY)
    assert path.read_text() == "01" * 32
    assert (mode_of(path), mode_of(path.parent)) == (0o600, 0o755)
    assert [entry.name for entry in path.parent.iterdir()] == [KEY_FILE]
    assert load_key_file(path, silent) == KEY


def test_the_enr_of_a_known_key_is_charons(tmp_path: Path) -> None:
    row = load("k1-enr.json")["enr"][0]
    path = tmp_path / "key"
    path.write_text(row["private_key_file"])
    path.chmod(0o600)
    assert new_record(load_key_file(path, silent)).encode() == row["enr"]


@pytest.mark.parametrize("content", ["{}", "{}\n", "{}\r\n", " {} "])
def test_white_space_around_the_key_is_fine(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_text(content.format("01" * 32))
    path.chmod(0o600)
    assert load_key_file(path, silent) == KEY


@pytest.mark.parametrize(
    "content",
    ["", "0x" + "01" * 32, "01" * 31, "01" * 33, "zz" * 32, "00" * 32, "ff" * 32, "abcXYZ123", "\x00\xff", "01 " * 32],
)
def test_a_malformed_key_is_refused_and_never_shown_or_overwritten(tmp_path: Path, content: str) -> None:
    path = tmp_path / KEY_FILE
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        load_key_file(path, lambda _: None)
    assert "01" * 8 not in str(caught.value)
    with pytest.raises(UserError, match="already exists"):
        write_identity(tmp_path, KEY)
    assert path.read_text() == content


def test_a_key_that_others_can_read_is_warned_about(tmp_path: Path) -> None:
    path = write_identity(tmp_path, KEY)
    path.chmod(0o644)
    warnings: list[str] = []
    assert load_key_file(path, warnings.append) == KEY
    assert "chmod 600" in warnings[0]


def test_missing_key_and_directory_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="private key not found; create one with `charon create enr`"):
        load_key_file(tmp_path / "none", silent)
    with pytest.raises(UserError, match="is a directory"):
        load_key_file(tmp_path, silent)


# --- staging ---------------------------------------------------------------------------------------------------------


def test_an_error_before_commit_leaves_nothing_not_even_the_directory(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with pytest.raises(RuntimeError), staging(target) as stage:  # noqa: PT012
        stage.write("validator_keys/keystore-0.txt", b"secret", 0o400)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_something_in_the_way_takes_back_what_was_moved_before(tmp_path: Path) -> None:
    (tmp_path / "second").write_text("mine")
    with pytest.raises(UserError, match="second: already exists"), staging(tmp_path) as stage:  # noqa: PT012
        stage.write("first", b"1", 0o444)
        stage.write("second", b"2", 0o444)
        stage.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["second"]
    assert (tmp_path / "second").read_text() == "mine"


def test_staged_files_are_hidden_from_others_until_they_are_complete(tmp_path: Path) -> None:
    with staging(tmp_path) as stage:
        stage.write("deposit-data.json", b"[]", 0o444)
        (hidden,) = tmp_path.iterdir()
        assert mode_of(hidden) == 0o700
        stage.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["deposit-data.json"]


def test_a_destination_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), staging(tmp_path / "file" / "below"):
        pass


# --- a ceremony's files ----------------------------------------------------------------------------------------------

ARTIFACTS: dict[str, Any] = {
    "keystores": [Keystore(b"{}", "pass0"), Keystore(b"{ }", "pass1")],
    "lock": b"lock",
    "deposit_files": {"deposit-data-1eth.json": b"[1]", "deposit-data.json": b"[32]"},
}


def test_ceremony_artifacts_have_charons_names_and_modes(tmp_path: Path) -> None:
    write_identity(tmp_path, KEY)
    check_ceremony_directory(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]  # the test write has cleaned up
    write_ceremony_artifacts(tmp_path, **ARTIFACTS)
    written = {str(p.relative_to(tmp_path)): mode_of(p) for p in tmp_path.rglob("*") if p.is_file()}
    with tarfile.open(VECTORS / "live/dkg/1.10.3-frost-n4.tar.gz") as tar:  # two validators
        real = {member.name.removeprefix("node0/"): member.mode for member in tar if member.name.startswith("node0/")}
    del real["charon-enr-private-key.lock"], real["cluster-definition.json"]  # written earlier
    assert written == real
    assert (tmp_path / "validator_keys/keystore-1.txt").read_bytes() == b"pass1"


def test_a_dirty_directory_is_refused_and_every_offender_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing required files"):
        check_ceremony_directory(tmp_path)
    write_identity(tmp_path, KEY)
    (tmp_path / "validator_keys").mkdir()
    (tmp_path / "cluster-lock.json").touch()
    (tmp_path / "deposit-data-anything").touch()
    with pytest.raises(UserError, match=r"cluster-lock.json, deposit-data-anything, validator_keys; .*keep charon-enr"):
        check_ceremony_directory(tmp_path)


@pytest.mark.parametrize("in_the_way", ["validator_keys", "cluster-lock.json", "deposit-data.json"])
def test_artifacts_are_all_or_nothing(tmp_path: Path, in_the_way: str) -> None:
    (tmp_path / in_the_way).mkdir()
    (tmp_path / in_the_way / "full").touch()
    with pytest.raises(UserError, match="already exists"):
        write_ceremony_artifacts(tmp_path, **ARTIFACTS)
    assert [path.name for path in tmp_path.iterdir()] == [in_the_way]


def test_passwords_do_not_show_in_a_repr() -> None:
    assert "pass0" not in repr(ARTIFACTS["keystores"])


# --- definition and lock ---------------------------------------------------------------------------------------------


def test_a_lock_is_loaded_verified_and_faults_name_file_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "cluster-lock.json"
    with pytest.raises(UserError, match="cluster lock not found; run `charon dkg` first"):
        load_lock(path, silent)
    path.write_bytes(LOCK)
    lock = load_lock(path, silent)
    path.write_bytes(LOCK.replace(b'"lock_hash": "0x', b'"lock_hash": "0x00'))
    with pytest.raises(UserError, match=r"verify cluster lock hashes: invalid lock hash; .*--no-verify"):
        load_lock(path, silent)
    warnings: list[str] = []
    path.write_bytes(LOCK.replace(lock.lock_hash.hex().encode(), b"00" * 32))
    assert load_lock(path, warnings.append, is_verified=False).lock_hash == bytes(32)
    assert len(warnings) == 2  # hashes, and node signatures over the file's hash
    path.write_bytes(LOCK[:-1])
    with pytest.raises(UserError, match=r"unmarshal cluster-lock.json"):
        load_lock(path, silent, is_verified=False)


def test_a_lock_that_nobody_signed_is_loaded_only_if_its_shares_are_right(tmp_path: Path) -> None:
    """As `run` and `combine` load it; with --no-verify the fault is a warning, as of any other lock."""
    lock = decode_lock((CLUSTER / "examples/cluster-lock-000.json").read_bytes())
    unsigned = with_lock_hashes(replace(lock, signature_aggregate=b""))
    path = tmp_path / "cluster-lock.json"
    path.write_bytes(encode_lock(unsigned))
    assert load_lock(path, silent) == unsigned
    first = unsigned.validators[0]
    swapped = replace(first, public_shares=(first.public_shares[1], first.public_shares[0], *first.public_shares[2:]))
    path.write_bytes(encode_lock(with_lock_hashes(replace(unsigned, validators=(swapped, *unsigned.validators[1:])))))
    with pytest.raises(UserError, match="do not reconstruct"):
        load_lock(path, silent)
    warnings: list[str] = []
    load_lock(path, warnings.append, is_verified=False)
    assert len(warnings) == 1
    assert "do not reconstruct" in warnings[0]


def test_a_definition_is_loaded_and_verified(tmp_path: Path) -> None:
    path = tmp_path / "cluster-definition.json"
    path.write_bytes((CLUSTER / "signed-v1_11_0/cluster-definition.json").read_bytes())
    assert verified_definition(str(path), read_definition(path), silent).threshold == 3
    path.write_bytes(path.read_bytes().replace(b'"threshold": 3', b'"threshold": 2'))
    with pytest.raises(UserError, match="verify definition hashes: invalid config hash"):
        verified_definition(str(path), read_definition(path), silent)


# --- key lock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_s", "stored_hash", "own_hash", "refusal"),
    [
        (0, "", "0xaa", "recently updated"),
        (4.5, "0xaa", "0xaa", "recently updated"),
        (6, "0xaa", "0xaa", None),
        (6, "", "0xaa", None),
        (100, "0xbb", "0xaa", "wait 668 s"),
        (760, "0xbb", "0xaa", "wait 8 s"),
        (769, "0xbb", "0xaa", None),
        (100, "0xAA", "0xaa", "wait 668 s"),
        (-3, "", "", "recently updated"),
        (-1000, "", "", "in the future"),
    ],
)
def test_key_lock_rules(age_s: float, stored_hash: str, own_hash: str, refusal: str | None) -> None:
    found = KeyLock("charon run", 1_800_000_000.0 - age_s, stored_hash)
    if refusal is None:
        check_key_lock("x.lock", found, own_hash, 1_800_000_000.0)
        return
    with pytest.raises(UserError, match=refusal):
        check_key_lock("x.lock", found, own_hash, 1_800_000_000.0)


def test_key_locks_of_real_charon_are_read() -> None:
    for name, content in real_files("charon-enr-private-key.lock"):
        found = decode_key_lock(content)
        assert found.command == "charon dkg", name
        assert 1_700_000_000 < found.timestamp_s < 2_000_000_000


def test_offsets_and_nanoseconds_of_timestamps() -> None:
    content = b'{"command":"charon run","timestamp":"2022-07-19T18:19:58.123456789+02:00","cluster_lock_hash":"0xab"}'
    assert decode_key_lock(content).timestamp_s == pytest.approx(1658247598.123456789)
    assert encode_key_lock(KeyLock("charon dkg", 1658247598.5)) == (
        b'{"command":"charon dkg","timestamp":"2022-07-19T16:19:58.5Z"}'
    )


def test_taking_the_key_lock_writes_it_and_blocks_the_next_for_five_seconds(tmp_path: Path) -> None:
    key = tmp_path / KEY_FILE
    with pytest.raises(UserError, match="private key file does not exist"):
        take_key_lock(key, "charon dkg", "", 1000.0)
    write_identity(tmp_path, KEY)
    path = take_key_lock(key, "charon dkg", "", 1000.0)
    assert read_key_lock(path) == KeyLock("charon dkg", 1000.0)
    assert mode_of(path) == 0o644
    with pytest.raises(UserError, match="another charon instance"):
        take_key_lock(key, "charon run", "0xaa", 1004.9)
    take_key_lock(key, "charon run", "0xaa", 1005.1)
    path.write_text("{")
    with pytest.raises(UserError, match="no valid JSON"):
        take_key_lock(key, "charon run", "", 2000.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == [KEY_FILE, KEY_FILE + ".lock"]
