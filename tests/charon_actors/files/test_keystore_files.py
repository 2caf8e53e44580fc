"""Keystore files: which ones are read and in which order, sets that are refused, and replacing them without ever losing one."""

import os
import signal
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from charon_actors.crypto.bls import public_key
from charon_actors.crypto.faults import KeystoreFault
from charon_actors.crypto.keystore import decode_keystore, decrypt_keystore
from charon_actors.errors import UserError
from charon_actors.files.data_directory import load_lock
from charon_actors.files.keystore_files import (
    Keystore,
    find_keystores,
    natural_order,
    read_keystore_folder,
    read_keystores,
    stage_keystores,
)
from charon_actors.files.staging import STAGING_PREFIX, staging
from tests.charon_actors.cluster.vectors import VECTORS

ROOT = Path(__file__).parents[3]


def silent(text: str) -> None:
    raise AssertionError(f"unexpected warning: {text}")


def write(directory: Path, *names: str) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        path.with_suffix(".txt").write_text(name)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_keystores_of_real_charon_open_to_the_shares_of_the_lock(tmp_path: Path) -> None:
    with tarfile.open(VECTORS / "live/clusters/1.10.3-n4v2-insecure.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    for index in range(4):
        lock = load_lock(tmp_path / f"node{index}/cluster-lock.json", silent)
        keystores = read_keystores(tmp_path / f"node{index}/validator_keys")
        assert keystores == read_keystore_folder(tmp_path / f"node{index}/validator_keys")
        assert keystores == find_keystores(tmp_path / f"node{index}/validator_keys", silent)
        assert all(keystore.insecure for keystore in keystores)
        opened = [decrypt_keystore(decode_keystore(keystore.content), keystore.password) for keystore in keystores]
        assert [public_key(secret) for secret in opened] == [v.public_shares[index] for v in lock.validators]


def test_a_folder_of_staking_deposit_cli_is_read_with_its_one_password(tmp_path: Path) -> None:
    for name in ("keystore-m_12381_3600_1_0_0-1.json", "keystore-m_12381_3600_0_0_0-1.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "deposit_data-1.json").write_text(' [{"pubkey": ""}]')
    (tmp_path / "password.txt").write_text("secret")
    left_out: list[str] = []
    assert [(Path(each.path).name, each.password) for each in find_keystores(tmp_path, left_out.append)] == [
        ("keystore-m_12381_3600_0_0_0-1.json", "secret"),
        ("keystore-m_12381_3600_1_0_0-1.json", "secret"),
    ]
    assert left_out == [f"left out: {tmp_path / 'deposit_data-1.json'}: it is a list, no keystore"]
    (tmp_path / "another.txt").write_text("which one?")
    with pytest.raises(UserError, match=r"keystore-m_12381_3600_0_0_0-1\.txt: password file not found"):
        find_keystores(tmp_path, left_out.append)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ([], "no keys found"),
        (["other.json"], "no keys found"),
        (["keystore-1.json"], "out of sequence"),
        (["keystore-0.json", "keystore-2.json"], "out of sequence"),
        (["keystore-0.json", "keystore-00.json"], "duplicate keystore index"),
        (["keystore-0.json", "keystore-insecure-0.json"], "duplicate keystore index"),
        (["keystore-m_12381_3600.json"], "unknown keystore index"),
        (["keystore-²¹.json"], "unknown keystore index"),
        (["keystore-0.json\n.json"], "unknown keystore index"),
    ],
)
def test_sequences_with_gaps_repeats_or_other_names_are_refused(tmp_path: Path, names: list[str], what: str) -> None:
    write(tmp_path, *names)
    with pytest.raises(UserError, match=what):
        read_keystores(tmp_path)


def test_a_folder_is_read_whatever_stands_after_the_first_word(tmp_path: Path) -> None:
    write(
        tmp_path, "keystore-10.json", "keystore-9.json", "keystore-m_12381_3600_0_0_0-1.json", "other.json", "sub/keystore-1.json"
    )
    found = read_keystore_folder(tmp_path)
    assert [keystore.password for keystore in found] == [
        "keystore-9.json",
        "keystore-10.json",
        "keystore-m_12381_3600_0_0_0-1.json",
    ]


def test_keystores_are_found_in_one_order_whatever_the_disk_says(tmp_path: Path) -> None:
    write(tmp_path, "b/2.json", "b/10.json", "a.json", "b/1.json")
    assert [keystore.password for keystore in find_keystores(tmp_path, silent)] == ["a.json", "b/1.json", "b/2.json", "b/10.json"]
    (tmp_path / "b/10.txt").unlink()
    with pytest.raises(UserError, match=r"10\.txt: password file not found"):
        find_keystores(tmp_path, silent)


# --- folders of operators --------------------------------------------------------------------------------------------


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.mark.parametrize(
    ("folder", "left_out"),
    [
        ("mix_appledouble", []),
        ("mix_deposit_list_bom", ["deposit_data-1700000000.json: it is a list, no keystore"]),
        ("mix_empty_json", ["validator_definitions.json: it is empty, no keystore"]),
        ("pubkey_0x", []),
        ("pw_unicode_altnorm", []),
    ],
)
def test_folders_from_the_field_are_read(folder: str, left_out: list[str], notices: list[str]) -> None:
    """The secret is that of EIP-2335's examples."""
    directory = VECTORS / "field" / folder
    (found,) = find_keystores(directory, notices.append)
    secret = decrypt_keystore(decode_keystore(found.content), found.password)
    assert secret.hex() == "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"
    assert notices == [f"left out: {directory}/{text}" for text in left_out]


REAL = (VECTORS / "field/pubkey_0x/keystore-0.json").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("._keystore-0.json", REAL, ""),
        ("__MACOSX/keystore-0.json", REAL, ""),
        ("__MACOSX/sub/._keystore-0.json", b"\0\5\26\7", ""),
        (".keystore-0.json.swp", b"x", ""),
        (".backup/keystore-0.json", REAL, "is hidden"),
        (".keystore-0.json", REAL, "is hidden"),
        ("deposit_data-1.json", b"[{}]", "it is a list, no keystore"),
        ("deposit_data-2.json", b"\xef\xbb\xbf [{}]", "it is a list, no keystore"),
        ("deposit_data-3.json", '[{"amount": 1}]'.encode("utf-16"), "it is a list, no keystore"),
        ("keystore-list.json", b"[{}]", "it is a list, no keystore"),
        ("validator_definitions.json", b" \n", "it is empty, no keystore"),
        ("validator_definitions.json", b"\xef\xbb\xbf", "it is empty, no keystore"),
        ("settings.json", b'{"theme": "dark"}', "it is an object of another program, no keystore"),
        ("settings.json", b'\xef\xbb\xbf{"theme": "dark"}', "it is an object of another program, no keystore"),
        ("cluster-lock.json", b'{"cluster_definition": {}}', "it is a cluster lock, no keystore"),
        ("cluster-lock.json", b'{"cluster_definition": {"x":"' + b"x" * 70_000, "it is a cluster lock, no keystore"),
    ],
)
def test_what_surely_is_no_keystore_is_left_out_and_named(
    tmp_path: Path, notices: list[str], name: str, content: bytes, said: str
) -> None:
    (tmp_path / "keystore-0.json").write_bytes(REAL)
    (tmp_path / "keystore-0.txt").write_text("testpassword")
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).write_bytes(content)
    assert [Path(each.path) for each in find_keystores(tmp_path, notices.append)] == [tmp_path / "keystore-0.json"]
    punctuation = ": " if said else ""
    assert notices == ([f"left out: {tmp_path / name}{punctuation}{said}"] if said else [])


@pytest.mark.parametrize(
    ("name", "content", "has_password"),
    [
        ("keystore-1.json", b"", False),  # the disk was full
        ("Keystore-1.json", b"", False),
        ("voting-keystore.json", b"", False),
        ("1.json", b"", True),
        ("1.json", b"\0" * 700, False),
        ("1.json", b'{"theme": "dark"}', True),
        ("keystore-m_12381.json", b'{"theme": "dark"}', False),
        ("1.json", REAL[:100], False),
        ("1.json", REAL[100:], False),
        ("1.json", b"\xef\xbb\xbf" + REAL, False),
        ("1.json", REAL.decode().encode("utf-16"), False),
        ("1.json", b'{"pubkey": "aa", "version": 4}', False),
        ("1.json", b"{}", False),
        ("1.json", b"<html>", False),
        ("1.json", b"\x1f\x8b", False),
        ("1.json", REAL + b"x", False),
    ],
)
def test_what_may_be_a_damaged_keystore_is_never_left_out(
    tmp_path: Path, notices: list[str], name: str, content: bytes, has_password: bool
) -> None:
    """It is read, so that whoever opens it says what is wrong; or it has no password, which is an error that names it."""
    (tmp_path / "keystore-0.json").write_bytes(REAL)
    (tmp_path / "keystore-0.txt").write_text("testpassword")
    (tmp_path / name).write_bytes(content)
    if has_password:
        (tmp_path / name).with_suffix(".txt").write_text("testpassword")
        found = {Path(each.path).name: each for each in find_keystores(tmp_path, notices.append)}
        assert found.keys() == {"keystore-0.json", name}
        with pytest.raises(KeystoreFault):
            decrypt_keystore(decode_keystore(found[name].content), found[name].password)
    else:
        with pytest.raises(UserError, match=f"{Path(name).stem}.txt: password file not found; put the password of {name} there"):
            find_keystores(tmp_path, notices.append)
    assert notices == []


def test_a_side_file_is_no_password(tmp_path: Path, notices: list[str]) -> None:
    """Nor does it make the only password of a folder one of two."""
    for name in ("keystore-m_12381_3600_0_0_0-1.json", "keystore-m_12381_3600_1_0_0-1.json"):
        (tmp_path / name).write_bytes(REAL)
        (tmp_path / f"._{name}").write_bytes(b"\0\5\26\7")
    (tmp_path / "password.txt").write_text("testpassword")
    (tmp_path / "._password.txt").write_bytes(b"\0\5\26\7")
    assert [each.password for each in find_keystores(tmp_path, notices.append)] == ["testpassword", "testpassword"]


def test_natural_order() -> None:
    names = ["node", "node0", "node2", "node10", "node10a", "node²", "x"]
    assert sorted([*names[3:], *names[:3]], key=natural_order) == names


def test_files_that_are_none_of_ours_are_refused_at_once(tmp_path: Path) -> None:
    write(tmp_path, "keystore-0.json")
    os.truncate(tmp_path / "keystore-0.json", 100 << 20)
    with pytest.raises(UserError, match=r"keystore-0\.json: larger than 65536 bytes"):
        read_keystores(tmp_path)
    (tmp_path / "keystore-0.json").unlink()
    os.mkfifo(tmp_path / "keystore-0.json")
    with pytest.raises(UserError, match="is a pipe or a device"):
        read_keystores(tmp_path)
    (tmp_path / "keystore-0.json").unlink()
    (tmp_path / "keystore-0.json").mkdir()
    with pytest.raises(UserError, match="is a directory"):
        read_keystores(tmp_path)


def test_a_password_file_that_is_huge_or_no_text_is_refused_and_not_shown(tmp_path: Path) -> None:
    write(tmp_path, "keystore-0.json")
    (tmp_path / "keystore-0.txt").write_bytes(b"hunter2\xff")
    with pytest.raises(UserError, match=r"keystore-0\.txt: the password is no UTF-8 text") as caught:
        read_keystores(tmp_path)
    assert "hunter2" not in str(caught.value)
    os.truncate(tmp_path / "keystore-0.txt", 100 << 20)
    with pytest.raises(UserError, match=r"keystore-0\.txt: larger than 65536 bytes"):
        read_keystores(tmp_path)


def test_no_secret_shows_in_a_repr() -> None:
    assert repr(Keystore(b"{secret}", "hunter2", path="a/keystore-0.json")) == "Keystore(path='a/keystore-0.json')"


# --- writing and replacing -------------------------------------------------------------------------------------------

NEW = [Keystore(b"{}", "new0"), Keystore(b"{}", "new1", insecure=True)]
OLD = {"keystore-0.json": "old", "keystore-0.txt": "old0", "keystore-7.json": "old7", "notes": "mine"}
REPLACED = ["keystore-0.json", "keystore-0.txt", "keystore-7.json"]


def content(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir() if path.is_file()}


def replace(directory: Path) -> None:
    with staging(directory) as stage:
        stage_keystores(stage, "", NEW, folder="")
        stage.commit(REPLACED)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    for name, text in OLD.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_replaced_files_go_and_others_stay(old: Path) -> None:
    replace(old)
    new = {"keystore-0.json": "{}", "keystore-0.txt": "new0", "keystore-insecure-1.json": "{}", "keystore-insecure-1.txt": "new1"}
    assert content(old) == {**new, "notes": "mine"}
    assert len(list(old.iterdir())) == 5
    assert {stat.S_IMODE((old / name).stat().st_mode) for name in new if name.endswith(".txt")} == {0o400}


def test_what_is_in_the_way_and_not_to_be_replaced_takes_everything_back(old: Path) -> None:
    (old / "keystore-insecure-1.txt").write_text("in the way")
    with pytest.raises(UserError, match=r"keystore-insecure-1\.txt: already exists; move it away; nothing was written"):
        replace(old)
    assert content(old) == {**OLD, "keystore-insecure-1.txt": "in the way"}
    assert len(list(old.iterdir())) == 5


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("is_done", [False, True])
def test_an_error_at_any_rename_takes_everything_back(
    old: Path, number: int, is_done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Path.rename, 0

    def rename(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == number + 1:
            if is_done:
                real(self, target)
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        replace(old)
    assert content(old) == OLD
    assert len(list(old.iterdir())) == len(OLD)


def test_when_taking_back_fails_too_nothing_is_deleted(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Path.rename, 0

    def rename(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise OSError(5, "Input/output error", str(self))
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(UserError, match="Input/output error"):
            replace(old)
    found = [path.read_text() for path in old.rglob("*") if path.is_file()]
    assert set(OLD.values()) <= set(found)
    with pytest.raises(UserError, match="another charon is writing here, or was killed"):
        replace(old)


def test_a_kill_between_two_renames_loses_nothing(old: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from tests.charon_actors.files.test_keystore_files import replace
real, calls = Path.rename, 0
def rename(self, target):
    global calls
    calls += 1
    if calls == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, target)
Path.rename = rename
replace(Path({str(old)!r}))
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = (path for path in old.iterdir() if path.name.startswith(STAGING_PREFIX))
    assert stat.S_IMODE(left.stat().st_mode) == 0o700
    found = [path.read_text() for path in old.rglob("*") if path.is_file()]
    assert sorted(found) == sorted([*OLD.values(), "{}", "{}", "new0", "new1"])
    with pytest.raises(UserError, match="another charon is writing here, or was killed"):
        replace(old)
