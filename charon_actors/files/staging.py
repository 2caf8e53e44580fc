"""Reading files with errors for people; writing them whole or not at all.

Files are written into a staging directory (mode 0700) beside their destination, synced, and then renamed into place one entry
after the other; an error before the last rename takes back the earlier ones. Entries that are replaced move into the staging
directory first, and are deleted with it. All functions block.

A kill -9 can leave a staging directory behind. Nobody but its operator knows whether the keys in it are in use (after a ceremony
the other operators may have theirs), so the next writer refuses and names it; `leftovers` finds it for everybody else. Nothing
here ever deletes a directory of another process.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from charon_actors.errors import UserError
from charon_actors.file_kinds import MAX_FILE_BYTES, clause, form_by_beginning

MANY_FILES: Final = 100  # from here on one sync of all disks costs less than one a file
STAGING_PREFIX: Final = ".charon-staging-"
REPLACED: Final = ".replaced"  # inside a staging directory: what stood in the destination before


def read_file(path: Path, remedy: str, missing: str = "no such file", limit: int = MAX_FILE_BYTES) -> bytes:
    """A file of at most `limit` bytes. Raises UserError; `remedy` and `missing` are words for it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)  # a pipe without a writer must not hold us
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            what = "is a directory, not a file" if stat.S_ISDIR(mode) else "is a pipe or a device, not a file"
            raise UserError(str(path), what, remedy)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError as error:
        raise UserError(str(path), missing, remedy) from error
    except OSError as error:
        raise UserError(str(path), f"cannot read ({error.strerror})", ownership_hint(path)) from error
    except ValueError as error:  # a NUL character in the name
        raise UserError(ascii(str(path)), "is no file name", remedy) from error
    if len(content) > limit:
        raise UserError(str(path), f"larger than {limit} bytes{clause(form_by_beginning(content))}", remedy)
    return content


def list_directory(directory: Path) -> list[Path]:
    """The entries of a directory, sorted. Raises UserError."""
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError as error:
        raise UserError(str(directory), "no such directory", "check the path") from error
    except OSError as error:
        raise UserError(str(directory), f"cannot list ({error.strerror})", ownership_hint(directory)) from error


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
        self._order: dict[str, None] = {}  # first parts of paths, in the order of renames
        self.is_committed = False
        self.is_torn = False  # an error while moves were taken back: something may stand in the staging directory only

    def write(self, relative: str, content: bytes, mode: int) -> None:
        """Stage one file; the first part of its path takes its place in the order of renames."""
        first = Path(relative).parts[0]
        self._order.setdefault(first)
        path = self._directory / relative
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_file(path, content, mode, is_synced=False)

    def path(self, name: str) -> Path:
        """Where in the staging directory the caller may write a file itself; it takes its place in the order of renames."""
        self._order.setdefault(name)
        return self._directory / name

    @property
    def names(self) -> tuple[str, ...]:
        """What is staged so far, in the order of renames."""
        return tuple(self._order)

    def drop(self, name: str) -> None:
        """Delete what is staged under that name."""
        del self._order[name]
        path = self._directory / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def commit(self, replaced: Sequence[str] = ()) -> None:
        """Move all entries into the destination. Raises UserError and takes back everything when one is in the way.

        replaced: names of entries in the destination that give way; they are deleted once everything is in its place.
        """
        self._sync()
        moves = [(self._directory / name, self._destination / name) for name in self._order]
        if replaced:
            (self._directory / REPLACED).mkdir()
            moves = [(self._destination / name, self._directory / REPLACED / name) for name in replaced] + moves
        begun: list[tuple[Path, Path]] = []
        try:
            for source, target in moves:
                if target.is_symlink() or (target.exists() and not is_empty_directory(target)):
                    raise UserError(str(target), "already exists", "move it away; nothing was written")
                begun.append((source, target))  # first: an interrupt after the rename must find it here
                source.rename(target)
            _sync_path(self._destination)
            self.is_committed = True
        except BaseException:
            self.is_torn = True
            for source, target in reversed(begun):
                if not os.path.lexists(source):
                    target.rename(source)
            self.is_torn = False
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
        if directory is not None and not (stage is not None and stage.is_torn):
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
