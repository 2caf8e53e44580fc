"""The data directory on disk: names, modes, reading with errors for people, and writing that is whole or not at all.

    path                            mode                     written by
    charon-enr-private-key          0600                     create enr, create cluster
    charon-enr-private-key.lock     0666 before umask        run on request, dkg always
    cluster-definition.json         0444                     create dkg
    cluster-lock.json               0444, dealer's 0400      dkg, create cluster
    deposit-data*.json              0444                     dkg, create cluster
    validator_keys/keystore-N.json  0444 (encrypted)         dkg, create cluster
    validator_keys/keystore-N.txt   0400                     dkg, create cluster

Everything is written into a staging directory beside its destination, synced, and then renamed into place one entry after
the other; an error before the last rename takes back the earlier ones. What a kill between two renames can leave is named by
`check_ceremony_directory`. This is the one file of the room that touches the disk; all its functions block.

Source: specification 01-cluster-files, sections 1 and 7; 04-dkg, sections 1.3 and 6.5.
"""

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from charon_actors.cluster.definition import Definition, decode_definition
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.foreign_json import MAX_FILE_BYTES
from charon_actors.cluster.key_lock import KeyLock, check_key_lock, decode_key_lock, encode_key_lock
from charon_actors.cluster.lock import Lock, decode_lock
from charon_actors.cluster.verify import (
    verify_definition_hashes,
    verify_definition_signatures,
    verify_lock_hashes,
    verify_lock_signatures,
)
from charon_actors.errors import UserError
from charon_actors.eth2.networks import Network

KEY_FILE: Final = "charon-enr-private-key"
DEFINITION_FILE: Final = "cluster-definition.json"
LOCK_FILE: Final = "cluster-lock.json"
VALIDATOR_KEYS: Final = "validator_keys"
DEPOSIT_PREFIX: Final = "deposit-data"

PRIVATE: Final = 0o600
SECRET: Final = 0o400
PUBLIC: Final = 0o444
MAX_KEYSTORES: Final = 65536

Warn = Callable[[str], None]


class Keystore(msgspec.Struct, frozen=True):
    """A keystore with its password, as in `keystore-N.json` and `keystore-N.txt`. Its repr shows neither."""

    content: bytes
    password: str
    insecure: bool = False
    path: str = ""

    def __repr__(self) -> str:
        return f"Keystore(path={self.path!r})"


# --- reading ------------------------------------------------------------------------------------------------------------


def load_key_file(path: Path, warn: Warn) -> bytes:
    """The identity key, 32 bytes. Raises UserError: missing, unreadable, malformed. Warns when others may read the file."""
    content = _read(path, "create one with `charon create enr`", missing="private key not found")
    text = content.strip()
    if not re.fullmatch(rb"[0-9a-fA-F]{64}", text):
        raise UserError(str(path), "malformed private key", "the file holds exactly 64 hex digits; restore your backup")
    key = bytes.fromhex(text.decode("ascii"))
    if not 0 < int.from_bytes(key, "big") < _K1_ORDER:
        raise UserError(str(path), "the number is no secp256k1 key", "restore your backup")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        warn(f"{path}: the private key can be read by other users (mode {mode:04o}); run `chmod 600 {path}`")
    return key


def load_definition(path: Path, warn: Warn, *, is_verified: bool = True, networks_extra: Sequence[Network] = ()) -> Definition:
    """A definition whose hashes and signatures are right. With is_verified=False those faults only warn.

    Raises UserError.
    """
    content = _read(path, "create it with `charon create dkg`, or pass --definition-file", missing="definition not found")
    try:
        definition = decode_definition(content)
    except ClusterFault as error:
        raise UserError(str(path), f"unmarshal {DEFINITION_FILE}: {error}", "get a fresh copy of the file") from error
    _check(path, "definition hashes", lambda: verify_definition_hashes(definition), is_verified, warn)
    _check(
        path,
        "definition signatures",
        lambda: verify_definition_signatures(definition, networks_extra),
        is_verified,
        warn,
    )
    return definition


def load_lock(path: Path, warn: Warn, *, is_verified: bool = True, networks_extra: Sequence[Network] = ()) -> Lock:
    """A lock whose hashes and signatures are right. With is_verified=False those faults only warn. Raises UserError."""
    content = _read(path, "run `charon dkg` first, or pass --lock-file", missing="cluster lock not found")
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
        return decode_key_lock(_read(path, "delete it when nothing else uses the key"))
    except ClusterFault as error:
        raise UserError(str(path), str(error), "delete it when nothing else uses the key") from error


def take_key_lock(key_path: Path, command: str, cluster_lock_hash: str, now: float) -> Path:
    """Check and write the lock file of an identity key; its path, for `write_key_lock` every second.

    command: `charon run` or `charon dkg`. cluster_lock_hash: the text in the lock file, "" without one. Raises UserError.
    """
    if not key_path.is_file():
        raise UserError(str(key_path), "private key file does not exist, please check the path", "run `charon create enr` first")
    if not os.access(key_path.parent, os.W_OK):
        raise UserError(str(key_path.parent), "the directory is not writable", _ownership_hint(key_path.parent))
    path = key_path.with_name(key_path.name + ".lock")
    check_key_lock(str(path), read_key_lock(path), cluster_lock_hash, now)
    write_key_lock(path, KeyLock(command, now, cluster_lock_hash))
    return path


# --- checks before a ceremony ----------------------------------------------------------------------------------------


def check_ceremony_directory(directory: Path) -> None:
    """Key present, no results of an earlier ceremony, and everything the ceremony will write can be written.

    Raises UserError, which lists all offending files.
    """
    names = [path.name for path in _entries(directory)]
    if KEY_FILE not in names:
        raise UserError(str(directory), f"missing required files, cannot continue: {KEY_FILE}", "run `charon create enr` first")
    dirty = sorted(n for n in names if n in (VALIDATOR_KEYS, LOCK_FILE) or n.startswith(DEPOSIT_PREFIX))
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
        raise UserError(str(directory), f"the test write failed ({error.strerror})", _ownership_hint(directory)) from error
    finally:
        for path in reversed(written):
            path.rmdir() if path.is_dir() else path.unlink()


# --- writing ---------------------------------------------------------------------------------------------------------


def write_file(path: Path, content: bytes, mode: int) -> None:
    """A new file with exactly this mode (before umask), synced. Raises OSError, FileExistsError when it is there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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
        raise UserError(str(path), f"cannot write ({error.strerror})", _ownership_hint(path.parent)) from error


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
        write_file(path, content, mode)

    def commit(self) -> None:
        """Move all entries into the destination. Raises UserError and takes back everything when one is in the way."""
        for folder in {path.parent for path in self._directory.rglob("*")}:
            _sync_directory(folder)
        moved: list[str] = []
        try:
            for name in self._order:
                target = self._destination / name
                if target.is_symlink() or (target.exists() and not _is_empty_directory(target)):
                    raise UserError(str(target), "already exists", "move it away; nothing was written")
                (self._directory / name).rename(target)
                moved.append(name)
            _sync_directory(self._destination)
            self.is_committed = True
        except BaseException:
            for name in reversed(moved):
                (self._destination / name).rename(self._directory / name)
            raise


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
        raise UserError(where, f"cannot write ({error.strerror})", _ownership_hint(destination)) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        if not stage.is_committed:
            for path in made:
                if _is_empty_directory(path):
                    path.rmdir()


def write_identity(directory: Path, key: bytes) -> Path:
    """A new identity key file; its path. Refuses whenever a file exists, readable or not. Raises UserError."""
    path = directory / KEY_FILE
    if path.exists() or path.is_symlink():
        raise UserError(str(path), f"{KEY_FILE} already exists", "`charon enr` prints its ENR; move it away for a new one")
    with staging(directory) as stage:
        stage.write(KEY_FILE, key.hex().encode("ascii"), PRIVATE)
        stage.commit()
    return path


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


# --- what the above use ----------------------------------------------------------------------------------------------

_K1_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def _read(path: Path, remedy: str, missing: str = "no such file") -> bytes:
    try:
        if path.is_dir():
            raise UserError(str(path), "is a directory, not a file", remedy)
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise UserError(str(path), missing, remedy) from error
    except OSError as error:
        raise UserError(str(path), f"cannot read ({error.strerror})", _ownership_hint(path)) from error
    except ValueError as error:  # a NUL character in the name
        raise UserError(ascii(str(path)), "is no file name", remedy) from error
    if len(content) > MAX_FILE_BYTES:
        raise UserError(str(path), f"larger than {MAX_FILE_BYTES} bytes", remedy)
    return content


def _check(path: Path, what: str, check: Callable[[], None], is_verified: bool, warn: Warn) -> None:
    try:
        check()
    except ClusterFault as error:
        if is_verified:
            raise UserError(
                str(path), f"verify {what}: {error}", "get a fresh copy; run with --no-verify to bypass at own risk"
            ) from error
        warn(f"{path}: ignoring failed {what} verification due to --no-verify flag: {error}")


def _keystore(path: Path, password_path: Path, *, is_insecure: bool) -> Keystore:
    content = _read(path, "every keystore needs its file")
    password = _read(password_path, f"put the password of {path.name} there", missing="password file not found")
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
        raise UserError(str(directory), f"cannot list ({error.strerror})", _ownership_hint(directory)) from error


def _natural_order(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"([0-9]+)", path.as_posix())
    return [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]


def _ownership_hint(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "check the path and its permissions"
    mode, uid = stat.S_IMODE(found.st_mode), os.getuid()
    return f"it has mode {mode:04o} and owner {found.st_uid}, we are user {uid}; check permissions and free space"


def _is_empty_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
