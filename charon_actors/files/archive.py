"""`--zipped`: everything in one `.tar.gz`, and nothing beside it. Touches the disk; blocks.

    create cluster    cluster.tar.gz    made in the staging directory, so the files in it never stand anywhere else
    dkg               dkg.tar.gz        of what a ceremony has left in the data directory, identity key included

An archive is complete or absent, and synced before the originals go. It holds all secrets, so only its owner may read it. Entries are
as Charon's: files only, relative, sorted, with the modes that they would have on disk; owned by root, for nobody's name is in it.

Source: specification 01 §10.1, §10.3.
"""

import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from charon_actors.errors import UserError
from charon_actors.files.data_directory import DEFINITION_FILE, DEPOSIT_PREFIX, LOCK_FILE
from charon_actors.files.identity import KEY_FILE, PRIVATE
from charon_actors.files.keystore_files import VALIDATOR_KEYS
from charon_actors.files.staging import Staging, list_directory, staging

CLUSTER_ARCHIVE: Final = "cluster.tar.gz"
CEREMONY_ARCHIVE: Final = "dkg.tar.gz"
COMPRESSION: Final = 6  # of 9; what is encrypted doesn't get smaller

_OF_A_CEREMONY: Final = (KEY_FILE, DEFINITION_FILE, LOCK_FILE, VALIDATOR_KEYS)


def pack(stage: Staging, name: str) -> None:
    """Put everything that is staged so far into the archive `name`, which takes its place. Raises UserError, OSError."""
    entries = stage.names
    path = stage.path(name)
    _write_archive(path, path.parent, entries)
    for entry in entries:
        stage.drop(entry)


def archive_ceremony(directory: Path) -> Path:
    """Put identity key, definition and results of a ceremony into an archive in their directory, then delete them; its path.

    What else is there stays. Raises UserError; then everything is as it was.
    """
    names = [path.name for path in list_directory(directory)]
    entries = [name for name in names if name in _OF_A_CEREMONY or (name.startswith(DEPOSIT_PREFIX) and name.endswith(".json"))]
    with staging(directory) as stage:
        _write_archive(stage.path(CEREMONY_ARCHIVE), directory, entries)
        stage.commit(replaced=entries)
    return directory / CEREMONY_ARCHIVE


def _write_archive(path: Path, root: Path, entries: Iterable[str]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=COMPRESSION) as archive:
        for found in sorted(_files(root, entries)):
            _add(archive, found, found.relative_to(root).as_posix())


def _files(root: Path, entries: Iterable[str]) -> Iterator[Path]:
    for entry in entries:
        path = root / entry
        if path.is_dir():
            yield from (found for found in path.rglob("*") if not found.is_dir())
        else:
            yield path


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe must not hold us
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise UserError(str(path), "is no file, it can't be archived", "move it away")
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime, entry.mode = found.st_size, int(found.st_mtime), stat.S_IMODE(found.st_mode)
        entry.uname = entry.gname = "root"
        archive.addfile(entry, file)
