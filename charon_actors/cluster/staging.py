"""Reading files with errors for people; writing them whole or not at all.

Files are written into a staging directory (mode 0700) beside their destination, synced, and then renamed into place one entry
after the other; an error before the last rename takes back the earlier ones. All functions block.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from charon_actors.errors import UserError

MAX_FILE_BYTES: Final = 16 << 20  # 01 §11
MANY_FILES: Final = 100  # from here on one sync of all disks costs less than one a file


def read_file(path: Path, remedy: str, missing: str = "no such file") -> bytes:
    """A file of at most MAX_FILE_BYTES. Raises UserError; `remedy` and `missing` are words for it."""
    try:
        if path.is_dir():
            raise UserError(str(path), "is a directory, not a file", remedy)
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise UserError(str(path), missing, remedy) from error
    except OSError as error:
        raise UserError(str(path), f"cannot read ({error.strerror})", ownership_hint(path)) from error
    except ValueError as error:  # a NUL character in the name
        raise UserError(ascii(str(path)), "is no file name", remedy) from error
    if len(content) > MAX_FILE_BYTES:
        raise UserError(str(path), f"larger than {MAX_FILE_BYTES} bytes", remedy)
    return content


def write_file(path: Path, content: bytes, mode: int, *, is_synced: bool = True) -> None:
    """A new file with exactly this mode (before umask). Raises OSError, FileExistsError when it is there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if is_synced:
            os.fsync(file.fileno())


class Staging:
    """A directory that only we can enter, on the same disk as the destination; `commit` moves its entries into place."""

    def __init__(self, destination: Path, directory: Path) -> None:
        self._destination, self._directory = destination, directory
        self._order: list[str] = []
        self.is_committed = False

    def write(self, relative: str, content: bytes, mode: int) -> None:
        """Stage one file; the first part of its path takes its place in the order of renames."""
        first = Path(relative).parts[0]
        if first not in self._order:
            self._order.append(first)
        path = self._directory / relative
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_file(path, content, mode, is_synced=False)

    def commit(self) -> None:
        """Move all entries into the destination. Raises UserError and takes back everything when one is in the way."""
        self._sync()
        moved: list[str] = []
        try:
            for name in self._order:
                target = self._destination / name
                if target.is_symlink() or (target.exists() and not _is_empty_directory(target)):
                    raise UserError(str(target), "already exists", "move it away; nothing was written")
                (self._directory / name).rename(target)
                moved.append(name)
            _sync_path(self._destination)
            self.is_committed = True
        except BaseException:
            for name in reversed(moved):
                (self._destination / name).rename(self._directory / name)
            raise

    def _sync(self) -> None:
        paths = [self._directory, *self._directory.rglob("*")]
        if len(paths) > MANY_FILES:
            os.sync()
            return
        for path in paths:
            _sync_path(path)


@contextmanager
def staging(destination: Path) -> Iterator[Staging]:
    """Stage files for a directory, which is made if needed; without `commit`, or on any error, nothing stays behind.

    Raises UserError for a destination that can't be written.
    """
    made = [path for path in (destination, *destination.parents) if not path.exists()]
    directory = destination / f".charon-staging-{os.getpid()}"
    stage = Staging(destination, directory)
    try:
        destination.mkdir(mode=0o755, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700)
        yield stage
    except OSError as error:
        where = str(error.filename or destination)
        raise UserError(where, f"cannot write ({error.strerror})", ownership_hint(destination)) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        if not stage.is_committed:
            for path in made:
                if _is_empty_directory(path):
                    path.rmdir()


def ownership_hint(path: Path) -> str:
    """What to tell somebody who may not read or write there: mode and owners, as containers get them wrong."""
    try:
        found = path.stat()
    except OSError:
        return "check the path and its permissions"
    mode, uid = stat.S_IMODE(found.st_mode), os.getuid()
    return f"it has mode {mode:04o} and owner {found.st_uid}, we are user {uid}; check permissions and free space"


def _is_empty_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
