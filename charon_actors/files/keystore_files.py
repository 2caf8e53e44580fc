"""Keystore files on disk: `validator_keys/keystore-N.json`, and the password beside each in `keystore-N.txt`.

    read                  which files                          order                        for
    read_keystores        keystore-N.json, N exactly 0..n-1    by N                         commands where N is a validator's position
    read_keystore_folder  keystore-*.json of one directory     by name, numbers as numbers  commands that match by public share
    find_keystores        every *.json below a directory       by path, numbers as numbers  splitting existing keys

Below a directory there may be more than keystores. What surely is none is left out, and a line says so; what may
be a damaged one is read as one, so that its fault is told. Nobody's key is missed in silence.

    found                                                                 what becomes of it
    hidden files and folders, __MACOSX                                    left out; side files of macOS (._…) in silence
    a list, also behind a byte order mark or in UTF-16: deposit data      left out
    empty, an object that has keys, but none of a keystore's              left out
    the same, named …keystore… or with a password of its own               read, refused: a keystore that was damaged
    everything else                                                       read

`keystore-insecure-N` are cheap ones of `--insecure-keys`. Which validator and which operator a keystore belongs to is said by its
public key (`key_shares.py`), not by its name. Reading decodes nothing: that is the business of `crypto/keystore.py`.

Limits: MAX_KEYSTORES a directory, MAX_FILE_BYTES of `crypto/keystore.py` a file. Source: specification 01-cluster-files, section 7.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from charon_actors.crypto import MAX_KEYSTORE_BYTES, is_no_keystore
from charon_actors.errors import UserError
from charon_actors.file_kinds import clause, form_of
from charon_actors.files.staging import Staging, list_directory, read_file

VALIDATOR_KEYS: Final = "validator_keys"
MAX_KEYSTORES: Final = 65536
MACOS_FOLDER: Final = "__MACOSX"  # of its zip archives: a side file ._… for each file

KEYSTORE_MODE: Final = 0o444  # encrypted
PASSWORD_MODE: Final = 0o400

PASSWORD_BYTES: Final = 16  # random, as hex digits
KEY_MANAGER_PASSWORD_BYTES: Final = 32  # of keystores that are pushed (01 §7.1)


class Keystore(msgspec.Struct, frozen=True):
    """A keystore with its password, as in `keystore-N.json` and `keystore-N.txt`. Its repr shows neither."""

    content: bytes
    password: str
    insecure: bool = False
    path: str = ""

    def __repr__(self) -> str:
        return f"Keystore(path={self.path!r})"


def read_keystores(directory: Path) -> tuple[Keystore, ...]:
    """The keystores of a `validator_keys` directory with their passwords, by index; indexes are exactly 0..n-1.

    Raises UserError.
    """
    found: dict[int, Path] = {}
    for path in _keystore_paths(directory):
        match = re.fullmatch(r"keystore-(?:insecure-)?([0-9]{1,6})\.json", path.name, flags=re.ASCII)
        if match is None:
            raise UserError(str(path), "unknown keystore index, filename not 'keystore-N.json'", "rename or remove it")
        index = int(match[1])
        if index in found:
            raise UserError(str(path), "duplicate keystore index", "keep one keystore an index")
        found[index] = path
    if sorted(found) != list(range(len(found))):
        raise UserError(str(directory), "out of sequence keystore index", "indexes are 0, 1, 2 … without a gap")
    return tuple(_read(found[index] for index in range(len(found))))


def read_keystore_folder(directory: Path) -> tuple[Keystore, ...]:
    """Every `keystore-*.json` of one directory with its password, whatever the rest of its name. Raises UserError."""
    return tuple(_read(_keystore_paths(directory)))


def find_keystores(directory: Path, warn: Callable[[str], None]) -> tuple[Keystore, ...]:
    """Every keystore below a directory with its password, in the order of their paths (numbers as numbers).

    The password is the `.txt` of the same name. If none has one, the only `.txt` below the directory is the password of all. warn: told
    of what was left out (table on top). Raises UserError, also for a keystore without a password.
    """
    list_directory(directory)
    found = (path for path in directory.rglob("*.json") if _is_taken_for_keystore(directory, path, warn))
    ordered = _in_order(directory, found, "it should hold keystore files and their passwords")
    texts = list(islice((path for path in directory.rglob("*.txt") if not _is_hidden(directory, path)), 2))
    is_shared = len(texts) == 1 and texts[0].with_suffix(".json") not in ordered
    return tuple(_read(ordered, shared_password=texts[0] if is_shared else None))


def stage_keystores(
    stage: Staging,
    prefix: str,
    keystores: Sequence[Keystore],
    *,
    folder: str = f"{VALIDATOR_KEYS}/",
    numbers: Sequence[int] | None = None,
) -> None:
    """`validator_keys/keystore-N.json` and `.txt` below `prefix` ("" or "node0/"). N: of each in numbers, without them 0, 1, 2 …

    folder: "" for keystores that stand in the destination itself.
    """
    for index, keystore in zip(range(len(keystores)) if numbers is None else numbers, keystores, strict=True):
        name = f"{prefix}{folder}keystore-{'insecure-' if keystore.insecure else ''}{index}"
        stage.write(f"{name}.json", keystore.content, KEYSTORE_MODE)
        stage.write(f"{name}.txt", keystore.password.encode("utf-8"), PASSWORD_MODE)


def _keystore_paths(directory: Path) -> list[Path]:
    named = [path for path in list_directory(directory) if path.name.startswith("keystore-") and path.name.endswith(".json")]
    return _in_order(directory, named, "it should hold keystore-0.json and so on")


def _in_order(directory: Path, paths: Iterable[Path], remedy: str) -> list[Path]:
    found = islice(paths, MAX_KEYSTORES + 1)
    ordered = sorted(found, key=lambda path: natural_order(path.relative_to(directory).as_posix()))
    if not ordered:
        raise UserError(str(directory), "no keys found", remedy)
    if len(ordered) > MAX_KEYSTORES:
        raise UserError(str(directory), f"more than {MAX_KEYSTORES} keystores", "split them in several runs")
    return ordered


def _is_taken_for_keystore(directory: Path, path: Path, warn: Callable[[str], None]) -> bool:
    if _is_hidden(directory, path):
        if not path.name.startswith("._") and MACOS_FOLDER not in path.parts:
            warn(f"left out: {path}: is hidden")
        return False
    if not path.is_file():  # a pipe, which would hold us
        return True
    try:
        with path.open("rb") as file:
            content = file.read(MAX_KEYSTORE_BYTES + 1)
    except OSError:
        return True  # whoever reads it says what is wrong
    is_claimed = "keystore" in path.name.lower() or path.with_suffix(".txt").exists()
    what = is_no_keystore(content, is_claimed=is_claimed)
    if what:
        warn(f"left out: {path}: it {what}, no keystore")
    return not what


def _is_hidden(directory: Path, path: Path) -> bool:
    return any(part.startswith(".") or part == MACOS_FOLDER for part in path.relative_to(directory).parts)


def _read(paths: Iterable[Path], shared_password: Path | None = None) -> Iterable[Keystore]:
    for path in paths:
        password_path = shared_password or path.with_suffix(".txt")
        content = read_file(path, "every keystore needs its file", limit=MAX_KEYSTORE_BYTES)
        password = read_file(
            password_path, f"put the password of {path.name} there", missing="password file not found", limit=MAX_KEYSTORE_BYTES
        )
        try:
            yield Keystore(content, password.decode("utf-8"), path.name.startswith("keystore-insecure-"), str(path))
        except UnicodeDecodeError as error:
            what = f"the password is no UTF-8 text{clause(form_of(password))}"
            raise UserError(str(password_path), what, "write it as UTF-8") from error


def natural_order(text: str) -> list[tuple[int, int, str]]:
    """A sort key that takes runs of digits as numbers: `node2` stands before `node10`."""
    parts = re.split(r"([0-9]+)", text)
    return [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]
