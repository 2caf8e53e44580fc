"""Where a node's records are kept: an empty slashing record is never begun while the true one stands elsewhere.

/proc/self stands for a directory that can't be written: no permission helps there. The last tests run `charon run` from read-only mounts.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from charon_actors.cli.inputs.state_place import file_system_of, state_place
from charon_actors.errors import UserError
from tests.cli.test_run import CHARON, data, dealt, flags  # noqa: F401

UNWRITABLE = Path("/proc/self/cluster-lock.json")
RECORD = "slashing-protection.sqlite"
OWN = "charon-actors/brave-tree-a1f552b7"  # `printf '\2key' | sha256sum` begins with these digits


class Asked:
    """`state_place` with what doesn't matter filled in."""

    def __init__(self, root: Path) -> None:
        self.said: list[str] = []
        self.lock = root / "cluster" / "cluster-lock.json"
        self.lock.parent.mkdir()

    def __call__(self, given: Path | None = None, lock: Path | None = None, /, **environment: str) -> Path:
        peer = ("brave-tree", b"\x02key")
        return state_place(given, "--state-dir", lock or self.lock, peer, [RECORD], environment, self.said.append)

    def refused(self, given: Path | None = None, lock: Path | None = None, /, **environment: str) -> str:
        with pytest.raises(UserError) as caught:
            self(given, lock, **environment)
        return str(caught.value)


@pytest.fixture
def ask(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


def test_beside_the_lock_while_that_can_be_written(ask: Asked, tmp_path: Path) -> None:
    assert ask(STATE_DIRECTORY=str(tmp_path), XDG_STATE_HOME=str(tmp_path), HOME=str(tmp_path)) == ask.lock.parent
    assert ask.said == []
    assert list(ask.lock.parent.iterdir()) == []


def test_the_service_managers_directory_is_next(ask: Asked, tmp_path: Path) -> None:
    place = ask(None, UNWRITABLE, STATE_DIRECTORY=f"{tmp_path}/service:/other", XDG_STATE_HOME=str(tmp_path))
    assert place == tmp_path / "service"
    assert place.stat().st_mode & 0o777 == 0o700
    assert ask.said == [f"/proc/self cannot be written: the node's records are in {place}"]


@pytest.mark.parametrize("environment", [{"XDG_STATE_HOME": "{}"}, {"XDG_STATE_HOME": "relative", "HOME": "{}"}, {"HOME": "{}"}])
def test_then_the_users_state_with_a_folder_for_this_node(ask: Asked, tmp_path: Path, environment: Mapping[str, str]) -> None:
    named = {name: text.format(tmp_path) for name, text in environment.items()}
    home = tmp_path if named.get("XDG_STATE_HOME") == str(tmp_path) else tmp_path / ".local" / "state"
    assert ask(None, UNWRITABLE, **named) == home / OWN
    assert (home / OWN).is_dir()


def test_memory_is_no_place_unless_it_is_named(ask: Asked) -> None:
    memory = Path("/dev/shm")
    assert file_system_of(memory) == "tmpfs"
    assert "there is no other place for the slashing record" in ask.refused(None, UNWRITABLE, XDG_STATE_HOME=str(memory))
    named = memory / f"charon-test-{os.getpid()}"
    try:
        assert ask(named) == named
        assert "the slashing record does not outlive it" in ask.said[0]
    finally:
        named.rmdir()


def test_without_a_place_it_says_what_mends_it(ask: Asked) -> None:
    error = ask.refused(None, UNWRITABLE)
    for word in ("--state-dir", "CHARON_STATE_DIR", "Compose: a volume", "PersistentVolumeClaim", "StateDirectory=charon"):
        assert word in error


def test_a_named_directory_is_made(ask: Asked, tmp_path: Path) -> None:
    assert ask(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    (tmp_path / "file").write_text("")
    assert ask.refused(tmp_path / "file").startswith(f"{tmp_path}/file: cannot be made")
    assert ask.refused(Path("/proc/self")).startswith("/proc/self: cannot be written")


@pytest.mark.parametrize("is_link", [False, True])
def test_a_record_is_never_left_behind(ask: Asked, tmp_path: Path, is_link: bool) -> None:
    """Wherever one stands, the next start finds it, whatever has become writable or named since; a link to nothing counts."""
    first = ask(None, UNWRITABLE, XDG_STATE_HOME=str(tmp_path))
    if is_link:
        (first / RECORD).symlink_to(tmp_path / "not-mounted")
    else:
        (first / RECORD).write_bytes(b"")
    assert ask(XDG_STATE_HOME=str(tmp_path)) == first  # though the lock's directory can be written
    assert f"the slashing record is in {first}" in ask.refused(tmp_path / "named", XDG_STATE_HOME=str(tmp_path))
    assert not (tmp_path / "named").exists()
    shutil.move(first / RECORD, ask.lock.parent / RECORD)
    assert ask(XDG_STATE_HOME=str(tmp_path)) == ask.lock.parent


def test_two_records_are_one_too_many(ask: Asked, tmp_path: Path) -> None:
    named = tmp_path / "named"
    named.mkdir()
    for place in (named, ask.lock.parent):
        (place / RECORD).write_bytes(b"")
    assert "both hold a slashing record of this node" in ask.refused(named)
    assert ask() == ask.lock.parent  # nobody can know of the other


def test_the_same_directory_by_another_name_is_one(ask: Asked, tmp_path: Path) -> None:
    (ask.lock.parent / RECORD).write_bytes(b"")
    (tmp_path / "link").symlink_to(ask.lock.parent)
    assert ask(tmp_path / "link") == tmp_path / "link"


def test_a_file_system_that_is_not_known(tmp_path: Path) -> None:
    assert file_system_of(tmp_path, mounts=tmp_path / "none") == ""
    (tmp_path / "mounts").write_bytes(b"\xff\n\n1 2 0:0 / / - \n")
    assert file_system_of(tmp_path, mounts=tmp_path / "mounts") == ""


Started = Callable[..., str]


@pytest.fixture
def from_read_only(data: Path, tmp_path: Path) -> Started:  # noqa: F811
    """`charon run` with .charon mounted read-only; its stderr until it waits for a beacon node, or its error."""
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount: run as root")

    def start(*more: str, **environment: str) -> str:
        mount = f"mount --bind '{data}' '{data}' && mount -o remount,bind,ro '{data}' && exec \"$@\""
        command = ["unshare", "-m", "sh", "-c", mount, "sh", *CHARON, *flags(*more), "--log-level=info"]
        process = subprocess.Popen(
            command, cwd=tmp_path, env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        said = ""
        assert process.stderr is not None
        for line in process.stderr:
            said += line
            if "Waiting for a beacon node" in line:
                process.send_signal(signal.SIGTERM)
        assert process.wait(20) == (0 if "Charon started" in said else 1), said
        return said

    return start


def test_a_lock_from_a_read_only_mount(from_read_only: Started, tmp_path: Path) -> None:
    assert "Error: .charon: cannot be written" in from_read_only()
    said = from_read_only(f"--state-dir={tmp_path}/state")
    assert "Charon started" in said
    assert (tmp_path / "state" / "node-record.enr").exists()
    assert "Charon started" in from_read_only(STATE_DIRECTORY=str(tmp_path / "state"))


def test_the_key_lock_of_a_read_only_mount_is_with_the_records(from_read_only: Started, tmp_path: Path) -> None:
    said = from_read_only(f"--state-dir={tmp_path}/state", "--private-key-file-lock")
    assert f"Notice: .charon cannot be written: the lock file of the key is {tmp_path}/state/charon-enr-private-key.lock" in said
    assert "Charon started" in said
    assert (tmp_path / "state" / "charon-enr-private-key.lock").exists()


def test_a_record_in_a_read_only_mount(from_read_only: Started, data: Path) -> None:  # noqa: F811
    (data / RECORD).write_bytes(b"")
    assert "holds the slashing record and cannot be written" in from_read_only(STATE_DIRECTORY=str(data.parent / "state"))
