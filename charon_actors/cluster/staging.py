"""Reading files with errors for people; writing them whole or not at all.

Files are written into a staging directory (mode 0700) beside their destination, synced, and then renamed into place one entry
after the other; an error before the last rename takes back the earlier ones. All functions block.

A kill -9 can leave a staging directory behind. Nobody but its operator knows whether the keys in it are in use (after a ceremony
the other operators may have theirs), so the next writer refuses and names it; `leftovers` finds it for everybody else. Nothing
here ever deletes a directory of another process.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from charon_actors.errors import UserError

MAX_FILE_BYTES: Final = 16 << 20  # 01 §11
MANY_FILES: Final = 100  # from here on one sync of all disks costs less than one a file
STAGING_PREFIX: Final = ".charon-staging-"


def read_file(path: Path, remedy: str, missing: str = "no such file") -> bytes:
    """A file of at most MAX_FILE_BYTES. Raises UserError; `remedy` and `missing` are words for it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)  # a pipe without a writer must not hold us
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            what = "is a directory, not a file" if stat.S_ISDIR(mode) else "is a pipe or a device, not a file"
            raise UserError(str(path), what, remedy)
        with os.fdopen(descriptor, "rb") as file:
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
                if target.is_symlink() or (target.exists() and not is_empty_directory(target)):
                    raise UserError(str(target), "already exists", "move it away; nothing was written")
                moved.append(name)  # first: an interrupt after the rename must find it here
                (self._directory / name).rename(target)
            _sync_path(self._destination)
            self.is_committed = True
        except BaseException:
            for name in reversed(moved):
                if not os.path.lexists(self._directory / name):
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

    Raises UserError for a destination that can't be written, and for one where a killed process left its staging directory.
    """
    directory: Path | None = None
    stage: Staging | None = None
    made: list[Path] = []
    try:
        made = [path for path in (destination, *destination.parents) if not path.exists()]
        destination.mkdir(mode=0o755, parents=True, exist_ok=True)
        check_no_leftovers(destination)
        directory = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=destination))  # mode 0700
        stage = Staging(destination, directory)
        yield stage
    except OSError as error:
        where = str(destination if directory is None else error.filename or destination)
        raise UserError(where, f"cannot write ({error.strerror})", ownership_hint(destination)) from error
    finally:
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)
        if stage is None or not stage.is_committed:
            for path in made:
                with contextlib.suppress(OSError):  # not empty, or never made
                    path.rmdir()


LEFTOVER: Final = (
    "another charon is writing here, or was killed while it did",
    "if none runs: it may hold keys that are in use; move what you need out of it, then delete it",
)


def leftovers(directory: Path) -> list[Path]:
    """Staging directories below `directory`, in order: of a process that runs, or was killed. Empty when it can't be read."""
    try:
        return sorted(path for path in directory.iterdir() if path.name.startswith(STAGING_PREFIX))
    except OSError:
        return []


def check_no_leftovers(directory: Path) -> None:
    """Raises UserError when a staging directory is there. Before long work; `staging` does it, too."""
    for found in leftovers(directory):
        raise UserError(str(found), *LEFTOVER)


def is_taken(path: Path) -> bool:
    """Something stands there, whatever it is, also a dangling link. Raises UserError when that can't be told."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(str(path), f"cannot look it up ({error.strerror})", ownership_hint(path.parent)) from error
    except ValueError as error:  # a NUL character in the name
        raise UserError(ascii(str(path)), "is no file name", "choose another one") from error
    return True


def ownership_hint(path: Path) -> str:
    """What to tell somebody who may not read or write there: mode and owners, as containers get them wrong."""
    try:
        found = path.stat()
    except OSError:
        return "check the path and its permissions"
    mode, uid = stat.S_IMODE(found.st_mode), os.getuid()
    return f"it has mode {mode:04o} and owner {found.st_uid}, we are user {uid}; check permissions and free space"


def is_empty_directory(path: Path) -> bool:
    """A directory, no link to one, that can be listed and has no entries."""
    try:
        return path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    except OSError:
        return False


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
