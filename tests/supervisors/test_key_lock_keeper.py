"""The key's lock file is kept fresh through a full disk, and given up only to another program."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

import supervisors.key_lock_keeper as keeper
from charon_actors.cluster.key_lock import KeyLock, encode_key_lock
from charon_actors.errors import UserError
from charon_actors.files.data_directory import read_key_lock, replace_key_lock
from supervisors.key_lock_keeper import keep_key_lock

PATIENCE_S = 20.0


class Ticking:
    """Each lock is a second later than the one before."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> KeyLock:
        self.count += 1
        return KeyLock("charon run", 1000.0 + self.count, "0xab")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "REWRITE_INTERVAL_S", 0.01)


def written_at(path: Path) -> float:
    found = read_key_lock(path)
    return 0.0 if found is None else found.timestamp_s


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not is_so():
            await trio.sleep(0.005)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES])
async def test_a_disk_that_refuses_for_a_while_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path, refusals = tmp_path / "key.lock", 0

    def refuse(path: Path, content: bytes) -> None:
        nonlocal refusals
        refusals += 1
        raise OSError(number, "refused")

    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_key_lock, path, Ticking())
            await until(lambda: written_at(path) > 1003)
            with monkeypatch.context() as patch:
                patch.setattr(keeper, "replace_key_lock", refuse)
                await until(lambda: refusals > 20)
            last = written_at(path)
            await until(lambda: written_at(path) > last + 3)
            nursery.cancel_scope.cancel()
    assert len([line for line in lines if line["log_level"] == "warning"]) == 1, "once, however often it was tried"


async def test_another_programs_lock_ends_it_and_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "key.lock"
    theirs = encode_key_lock(KeyLock("charon dkg", 5.0))

    async def keep() -> None:
        with pytest.raises(UserError, match="another program \\(charon dkg\\)"):
            await keep_key_lock(path, Ticking())

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep)
            await until(lambda: written_at(path) > 1003)
            replace_key_lock(path, theirs)
    assert path.read_bytes() == theirs


async def test_a_lock_that_somebody_deletes_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "key.lock"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_key_lock, path, Ticking())
        await until(path.exists)
        path.unlink()
        await until(path.exists)
        nursery.cancel_scope.cancel()
