"""The data directory on disk: names, modes, reading with errors for people, and writing that is whole or not at all.

    path                            mode                     written by
    charon-enr-private-key          0600                     create enr, create cluster
    charon-enr-private-key.lock     0666 before umask        run on request, dkg always
    cluster-definition.json         0444                     create dkg
    cluster-lock.json               0444, dealer's 0400      dkg, create cluster
    deposit-data*.json              0444                     dkg, create cluster
    validator_keys/keystore-N.json  0444 (encrypted)         dkg, create cluster
    validator_keys/keystore-N.txt   0400                     dkg, create cluster

Everything is written through `staging.py`: all or nothing. What a kill between two renames can leave is named by
`check_ceremony_directory`. This file, `staging.py` and `identity.py` are the ones of the room that touch the disk; they block.

Source: specification 01-cluster-files, sections 1 and 7; 04-dkg, sections 1.3 and 6.5.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from charon_actors.cluster.definition import Definition, decode_definition
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.identity import KEY_FILE, Warn
from charon_actors.cluster.key_lock import KeyLock, check_key_lock, decode_key_lock, encode_key_lock
from charon_actors.cluster.lock import Lock, decode_lock
from charon_actors.cluster.staging import STAGING_PREFIX, Staging, ownership_hint, read_file, staging, write_file
from charon_actors.cluster.verify import (
    verify_definition_hashes,
    verify_definition_signatures,
    verify_lock_hashes,
    verify_lock_signatures,
)
from charon_actors.errors import UserError
from charon_actors.eth2.networks import Network

DEFINITION_FILE: Final = "cluster-definition.json"
LOCK_FILE: Final = "cluster-lock.json"
VALIDATOR_KEYS: Final = "validator_keys"
DEPOSIT_PREFIX: Final = "deposit-data"

SECRET: Final = 0o400
PUBLIC: Final = 0o444
MAX_KEYSTORES: Final = 65536


class Keystore(msgspec.Struct, frozen=True):
    """A keystore with its password, as in `keystore-N.json` and `keystore-N.txt`. Its repr shows neither."""

    content: bytes
    password: str
    insecure: bool = False
    path: str = ""

    def __repr__(self) -> str:
        return f"Keystore(path={self.path!r})"


def load_definition(
    path: Path, warn: Warn, *, is_verified: bool = True, networks_extra: Sequence[Network] = (), can_bypass: bool = True
) -> Definition:
    """A definition whose hashes and signatures are right. With is_verified=False those faults only warn.

    can_bypass: the command has the flag --no-verify. Raises UserError.
    """
    content = read_file(path, "create it with `charon create dkg`, or pass --definition-file", missing="definition not found")
    try:
        definition = decode_definition(content)
    except ClusterFault as error:
        raise UserError(str(path), f"unmarshal {DEFINITION_FILE}: {error}", "get a fresh copy of the file") from error
    remedy = "get a fresh copy" + (_BYPASS if can_bypass else "")
    _check(path, "definition hashes", lambda: verify_definition_hashes(definition), is_verified, warn, remedy)
    _check(
        path,
        "definition signatures",
        lambda: verify_definition_signatures(definition, networks_extra),
        is_verified,
        warn,
        remedy,
    )
    return definition


def load_lock(path: Path, warn: Warn, *, is_verified: bool = True, networks_extra: Sequence[Network] = ()) -> Lock:
    """A lock whose hashes and signatures are right. With is_verified=False those faults only warn. Raises UserError."""
    content = read_file(path, "run `charon dkg` first, or pass --lock-file", missing="cluster lock not found")
    try:
        lock = decode_lock(content)
    except ClusterFault as error:
        raise UserError(str(path), f"unmarshal {LOCK_FILE}: {error}", "get a fresh copy of the file") from error
    _check(path, "cluster lock hashes", lambda: verify_lock_hashes(lock), is_verified, warn)
    _check(path, "cluster lock signatures", lambda: verify_lock_signatures(lock, networks_extra), is_verified, warn)
    return lock


def read_keystores(directory: Path) -> tuple[Keystore, ...]:
    """The keystores of a `validator_keys` directory with their passwords, by index; indexes are exactly 0..n-1.

    Raises UserError.
    """
    found: dict[int, Keystore] = {}
    for path in _entries(directory):
        if not (path.name.startswith("keystore-") and path.name.endswith(".json")):
            continue
        match = re.fullmatch(r"keystore-(insecure-)?([0-9]{1,6})\.json", path.name, flags=re.ASCII)
        if match is None:
            raise UserError(str(path), "unknown keystore index, filename not 'keystore-N.json'", "rename or remove it")
        index = int(match[2])
        if index in found:
            raise UserError(str(path), "duplicate keystore index", "keep one keystore an index")
        found[index] = _keystore(path, path.with_suffix(".txt"), is_insecure=bool(match[1]))
    if not found:
        raise UserError(str(directory), "no keys found", "it should hold keystore-0.json and so on")
    if sorted(found) != list(range(len(found))):
        raise UserError(str(directory), "out of sequence keystore index", "indexes are 0, 1, 2 … without a gap")
    return tuple(found[index] for index in range(len(found)))


def find_keystores(directory: Path) -> tuple[Keystore, ...]:
    """Every `*.json` below a directory with the `.txt` of the same name, in the order of their paths (numbers as numbers).

    Raises UserError, also for a keystore without a password.
    """
    _entries(directory)
    paths = sorted(directory.rglob("*.json"), key=lambda path: _natural_order(path.relative_to(directory)))
    if not paths:
        raise UserError(str(directory), "no keys found", "it should hold keystore files and their passwords")
    if len(paths) > MAX_KEYSTORES:
        raise UserError(str(directory), f"more than {MAX_KEYSTORES} keystores", "split them in several runs")
    return tuple(_keystore(path, path.with_suffix(".txt"), is_insecure=False) for path in paths)


def read_key_lock(path: Path) -> KeyLock | None:
    """The lock file beside an identity key, None if there is none. Raises UserError."""
    if not path.exists():
        return None
    try:
        return decode_key_lock(read_file(path, "delete it when nothing else uses the key"))
    except ClusterFault as error:
        raise UserError(str(path), str(error), "delete it when nothing else uses the key") from error


def take_key_lock(key_path: Path, command: str, cluster_lock_hash: str, now: float) -> Path:
    """Check and write the lock file of an identity key; its path, for `write_key_lock` every second.

    command: `charon run` or `charon dkg`. cluster_lock_hash: the text in the lock file, "" without one. Raises UserError.
    """
    if not key_path.is_file():
        raise UserError(str(key_path), "private key file does not exist, please check the path", "run `charon create enr` first")
    if not os.access(key_path.parent, os.W_OK):
        raise UserError(str(key_path.parent), "the directory is not writable", ownership_hint(key_path.parent))
    path = key_path.with_name(key_path.name + ".lock")
    check_key_lock(str(path), read_key_lock(path), cluster_lock_hash, now)
    write_key_lock(path, KeyLock(command, now, cluster_lock_hash))
    return path


def check_ceremony_directory(directory: Path) -> None:
    """Key present, no results of an earlier ceremony, and everything the ceremony will write can be written.

    Raises UserError, which lists all offending files.
    """
    names = [path.name for path in _entries(directory)]
    if KEY_FILE not in names:
        raise UserError(str(directory), f"missing required files, cannot continue: {KEY_FILE}", "run `charon create enr` first")
    dirty = sorted(n for n in names if n in (VALIDATOR_KEYS, LOCK_FILE) or n.startswith((DEPOSIT_PREFIX, STAGING_PREFIX)))
    if dirty:
        raise UserError(
            str(directory),
            "data directory not clean, cannot continue: " + ", ".join(dirty),
            f"move these away (they may hold keys of live validators); keep {KEY_FILE}",
        )
    samples = [directory / LOCK_FILE, directory / "deposit-data.json", directory / VALIDATOR_KEYS / "keystore-0.json"]
    written: list[Path] = []
    try:
        for sample in samples:
            if not sample.parent.exists():
                sample.parent.mkdir()
                written.append(sample.parent)
            write_file(sample, b"test", SECRET)
            written.append(sample)
    except OSError as error:
        raise UserError(str(directory), f"the test write failed ({error.strerror})", ownership_hint(directory)) from error
    finally:
        for path in reversed(written):
            path.rmdir() if path.is_dir() else path.unlink()


def write_key_lock(path: Path, lock: KeyLock) -> None:
    """Replace the lock file at once, never leaving half of one. Raises UserError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(encode_key_lock(lock))
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UserError(str(path), f"cannot write ({error.strerror})", ownership_hint(path.parent)) from error


def stage_keystores(stage: Staging, prefix: str, keystores: Sequence[Keystore]) -> None:
    """`validator_keys/keystore-N.json` and `.txt` below `prefix` ("" or "node0/"), N in the order given."""
    for index, keystore in enumerate(keystores):
        name = f"{prefix}{VALIDATOR_KEYS}/keystore-{'insecure-' if keystore.insecure else ''}{index}"
        stage.write(f"{name}.json", keystore.content, PUBLIC)
        stage.write(f"{name}.txt", keystore.password.encode("utf-8"), SECRET)


def write_ceremony_artifacts(
    directory: Path, *, keystores: Sequence[Keystore], lock: bytes, deposit_files: Mapping[str, bytes]
) -> None:
    """What a ceremony leaves, in this order: keystores (one a validator), lock, deposit files. All or nothing.

    Without keystores (they went to a key manager) there is no `validator_keys`. Raises UserError.
    """
    with staging(directory) as stage:
        stage_keystores(stage, "", keystores)
        stage.write(LOCK_FILE, lock, PUBLIC)
        for name, content in deposit_files.items():
            stage.write(name, content, PUBLIC)
        stage.commit()


_BYPASS: Final = "; run with --no-verify to bypass at own risk"


def _check(
    path: Path, what: str, check: Callable[[], None], is_verified: bool, warn: Warn, remedy: str = f"get a fresh copy{_BYPASS}"
) -> None:
    try:
        check()
    except ClusterFault as error:
        if is_verified:
            raise UserError(str(path), f"verify {what}: {error}", remedy) from error
        warn(f"{path}: ignoring failed {what} verification due to --no-verify flag: {error}")


def _keystore(path: Path, password_path: Path, *, is_insecure: bool) -> Keystore:
    content = read_file(path, "every keystore needs its file")
    password = read_file(password_path, f"put the password of {path.name} there", missing="password file not found")
    try:
        return Keystore(content, password.decode("utf-8"), is_insecure, str(path))
    except UnicodeDecodeError as error:
        raise UserError(str(password_path), "the password is no UTF-8 text", "write it as UTF-8") from error


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError as error:
        raise UserError(str(directory), "no such directory", "check the path") from error
    except OSError as error:
        raise UserError(str(directory), f"cannot list ({error.strerror})", ownership_hint(directory)) from error


def _natural_order(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"([0-9]+)", path.as_posix())
    return [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]
