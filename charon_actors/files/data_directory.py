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
`check_ceremony_directory`. This file, `staging.py`, `identity.py` and `keystore_files.py` touch the disk; they block.

Source: specification 01-cluster-files, sections 1 and 7; 04-dkg, sections 1.3 and 6.5.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from charon_actors.cluster.definition import Definition
from charon_actors.cluster.definition_json import decode_definition
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.key_lock import KeyLock, check_key_lock, decode_key_lock, encode_key_lock
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.verify import (
    ContractCheck,
    WalletFault,
    verify_definition_hashes,
    verify_definition_signatures,
    verify_lock_hashes,
    verify_lock_signatures,
)
from charon_actors.errors import UserError
from charon_actors.eth2.networks import Network
from charon_actors.files.identity import KEY_FILE, Warn
from charon_actors.files.keystore_files import VALIDATOR_KEYS, Keystore, stage_keystores
from charon_actors.files.staging import STAGING_PREFIX, list_directory, ownership_hint, read_file, staging, write_file

DEFINITION_FILE: Final = "cluster-definition.json"
LOCK_FILE: Final = "cluster-lock.json"
DEPOSIT_PREFIX: Final = "deposit-data"

SECRET: Final = 0o400
PUBLIC: Final = 0o444


def read_definition(path: Path) -> bytes:
    """What stands in the file, at most 16 MiB. Raises UserError."""
    return read_file(path, "create it with `charon create dkg`, or pass --definition-file", missing="definition not found")


def verified_definition(
    where: str,
    content: bytes,
    warn: Warn,
    *,
    is_verified: bool = True,
    networks_extra: Sequence[Network] = (),
    can_bypass: bool = True,
    contract: ContractCheck | None = None,
) -> Definition:
    """The definition in a file's content, whose hashes and signatures are right. With is_verified=False those faults only warn.

    where: the place for errors. can_bypass: the command has the flag --no-verify. contract: how to ask contract wallets. Raises
    UserError.
    """
    try:
        definition = decode_definition(content)
    except ClusterFault as error:
        raise UserError(where, f"unmarshal {DEFINITION_FILE}: {error}", "get a fresh copy of the file") from error
    remedy = "get a fresh copy" + (_BYPASS if can_bypass else "")
    _check(where, "definition hashes", lambda: verify_definition_hashes(definition), is_verified, warn, remedy)
    _check(
        where,
        "definition signatures",
        lambda: verify_definition_signatures(definition, networks_extra, contract),
        is_verified,
        warn,
        remedy,
    )
    return definition


def load_lock(
    path: Path,
    warn: Warn,
    *,
    is_verified: bool = True,
    networks_extra: Sequence[Network] = (),
    contract: ContractCheck | None = None,
) -> Lock:
    """A lock whose hashes and signatures are right. With is_verified=False those faults only warn. Raises UserError."""
    content = read_file(path, "run `charon dkg` first, or pass --lock-file", missing="cluster lock not found")
    try:
        lock = decode_lock(content)
    except ClusterFault as error:
        raise UserError(str(path), f"unmarshal {LOCK_FILE}: {error}", "get a fresh copy of the file") from error
    _check(path, "cluster lock hashes", lambda: verify_lock_hashes(lock), is_verified, warn)
    _check(path, "cluster lock signatures", lambda: verify_lock_signatures(lock, networks_extra, contract), is_verified, warn)
    return lock


def read_key_lock(path: Path) -> KeyLock | None:
    """The lock file beside an identity key, None if there is none. Raises UserError."""
    if not path.exists():
        return None
    try:
        return decode_key_lock(read_file(path, "delete it when nothing else uses the key"))
    except ClusterFault as error:
        raise UserError(str(path), str(error), "delete it when nothing else uses the key") from error


def take_key_lock(
    key_path: Path, command: str, cluster_lock_hash: str, now: float, instead: Path | None = None, warn: Warn = lambda _: None
) -> Path:
    """Check and write the lock file of an identity key; its path, for who keeps it fresh every second.

    command: `charon run` or `charon dkg`. cluster_lock_hash: the text in the lock file, "" without one. instead: the directory for it
    if the key's can't be written, which is told to `warn`; None: refused then. Raises UserError.
    """
    if not key_path.is_file():
        raise UserError(str(key_path), "private key file does not exist, please check the path", "run `charon create enr` first")
    path = key_path.with_name(key_path.name + ".lock")
    if not os.access(key_path.parent, os.W_OK):
        if instead is None:
            raise UserError(str(key_path.parent), "the directory is not writable", ownership_hint(key_path.parent))
        path = instead / path.name
        warn(f"{key_path.parent} cannot be written: the lock file of the key is {path}")
    check_key_lock(str(path), read_key_lock(path), cluster_lock_hash, now)
    write_key_lock(path, KeyLock(command, now, cluster_lock_hash))
    return path


def check_ceremony_directory(directory: Path) -> None:
    """Key present, no results of an earlier ceremony, and everything the ceremony will write can be written.

    Raises UserError, which lists all offending files.
    """
    names = [path.name for path in list_directory(directory)]
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
    try:
        replace_key_lock(path, encode_key_lock(lock))
    except OSError as error:
        raise UserError(str(path), f"cannot write ({error.strerror})", ownership_hint(path.parent)) from error


def replace_key_lock(path: Path, content: bytes) -> None:
    """The same for those who try again. Raises OSError; then the old file stands, and nothing beside it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


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


_CONTRACT_HINT: Final = "if a contract wallet signed, pass --execution-client-rpc-endpoint; else "
_BYPASS: Final = "; run with --no-verify to bypass at own risk"


def _check(
    where: Path | str,
    what: str,
    check: Callable[[], None],
    is_verified: bool,
    warn: Warn,
    remedy: str = f"get a fresh copy{_BYPASS}",
) -> None:
    try:
        check()
    except ClusterFault as error:
        if is_verified:
            hint = _CONTRACT_HINT if isinstance(error, WalletFault) else ""
            raise UserError(str(where), f"verify {what}: {error}", hint + remedy) from error
        warn(f"{where}: ignoring failed {what} verification due to --no-verify flag: {error}")
