"""Keystore files on disk: `validator_keys/keystore-N.json`, and the password beside each in `keystore-N.txt`.

    read                  which files                          order                        for
    read_keystores        keystore-N.json, N exactly 0..n-1    by N                         commands where N is a validator's position
    read_keystore_folder  keystore-*.json of one directory     by name, numbers as numbers  commands that match by public share
    find_keystores        every *.json below a directory       by path, numbers as numbers  splitting existing keys

`keystore-insecure-N` are cheap ones of `--insecure-keys`. Which validator and which operator a keystore belongs to is said by its
public key (`key_shares.py`), not by its name. Reading decodes nothing: that is the business of `crypto/keystore.py`.

Limits: MAX_KEYSTORES a directory, MAX_FILE_BYTES of `crypto/keystore.py` a file. Source: specification 01-cluster-files, section 7.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from charon_actors.cluster.staging import Staging, list_directory, read_file
from charon_actors.crypto.keystore import MAX_FILE_BYTES
from charon_actors.errors import UserError

VALIDATOR_KEYS: Final = "validator_keys"
MAX_KEYSTORES: Final = 65536

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


def find_keystores(directory: Path) -> tuple[Keystore, ...]:
    """Every `*.json` below a directory with its password, in the order of their paths (numbers as numbers).

    The password is the `.txt` of the same name. If none has one, the only `.txt` below the directory is the password of all. JSON lists
    are no keystores: staking-deposit-cli puts its deposit data beside them. Raises UserError, also for a keystore without a password.
    """
    list_directory(directory)
    found = (path for path in directory.rglob("*.json") if not _is_list(path))
    ordered = _in_order(directory, found, "it should hold keystore files and their passwords")
    texts = list(islice(directory.rglob("*.txt"), 2))
    is_shared = len(texts) == 1 and texts[0].with_suffix(".json") not in ordered
    return tuple(_read(ordered, shared_password=texts[0] if is_shared else None))


def stage_keystores(stage: Staging, prefix: str, keystores: Sequence[Keystore], *, folder: str = f"{VALIDATOR_KEYS}/") -> None:
    """`validator_keys/keystore-N.json` and `.txt` below `prefix` ("" or "node0/"), N in the order given.

    folder: "" for keystores that stand in the destination itself.
    """
    for index, keystore in enumerate(keystores):
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


def _is_list(path: Path) -> bool:
    if not path.is_file():  # a pipe, which would hold us
        return False
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip().startswith(b"[")
    except OSError:
        return False  # whoever reads it says what is wrong


def _read(paths: Iterable[Path], shared_password: Path | None = None) -> Iterable[Keystore]:
    for path in paths:
        password_path = shared_password or path.with_suffix(".txt")
        content = read_file(path, "every keystore needs its file", limit=MAX_FILE_BYTES)
        password = read_file(
            password_path, f"put the password of {path.name} there", missing="password file not found", limit=MAX_FILE_BYTES
        )
        try:
            yield Keystore(content, password.decode("utf-8"), path.name.startswith("keystore-insecure-"), str(path))
        except UnicodeDecodeError as error:
            raise UserError(str(password_path), "the password is no UTF-8 text", "write it as UTF-8") from error


def natural_order(text: str) -> list[tuple[int, int, str]]:
    """A sort key that takes runs of digits as numbers: `node2` stands before `node10`."""
    parts = re.split(r"([0-9]+)", text)
    return [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]
