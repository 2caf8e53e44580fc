"""The checks of `charon verify` for folders: a node's (`.charon`), and a cluster's (node0 … nodeN-1).

    node folder        identity key of an operator of the lock · definition says what the lock says · deposits · registrations
                       · every keystore is a share of ours, one a validator · modes of secrets · leftovers of a killed process
    cluster folder     each node's folder · one lock for all · every operator once

Not a fault: no definition (the lock holds it), no deposit files, no keystores (they may be in a key manager), and no lock while a
definition waits for its ceremony. Limits: MAX_FILES a folder, MAX_NODES. Source: specification 01-cluster-files, sections 1, 7.2, 12.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from charon_actors.cli.verification.files import Copy, FileChecks
from charon_actors.cli.verification.keystores import KeystoreChecks
from charon_actors.cluster.definition import Definition
from charon_actors.cluster.definition_json import decode_definition
from charon_actors.cluster.explain import first_difference
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.crypto import k1_public_key
from charon_actors.enr import new_record
from charon_actors.errors import UserError
from charon_actors.files.data_directory import DEFINITION_FILE, DEPOSIT_PREFIX, LOCK_FILE
from charon_actors.files.identity import KEY_FILE, load_key_file
from charon_actors.files.keystore_files import MACOS_FOLDER, VALIDATOR_KEYS, natural_order
from charon_actors.files.staging import LEFTOVER, STAGING_PREFIX, leftovers, list_directory, read_file

OVERRIDES_FILE: Final = "builder_registrations_overrides.json"
MANIFEST_FILE: Final = "cluster-manifest.pb"
MAX_FILES: Final = 256  # deposit files of a folder
MAX_NODES: Final = 256

_OF_A_NODE: Final = (KEY_FILE, LOCK_FILE, DEFINITION_FILE, VALIDATOR_KEYS)


def is_node_folder(directory: Path) -> bool:
    """Has files of a node; or we may not enter it, which its checks will say."""
    return any(os.path.exists(directory / name) for name in _OF_A_NODE) or not os.access(directory, os.X_OK)


def node_folders(directory: Path) -> list[Path]:
    """Sub-directories that are nodes' folders, node2 before node10. Raises UserError."""
    found = [path for path in list_directory(directory) if path.is_dir() and path.name != MACOS_FOLDER and is_node_folder(path)]
    if len(found) > MAX_NODES:
        raise UserError(str(directory), f"more than {MAX_NODES} folders of nodes", "leave those of one cluster")
    return sorted(found, key=lambda path: natural_order(path.name))


def check_cluster_folder(checks: FileChecks, directory: Path, folders: Sequence[Path], *, decrypts: bool) -> None:
    """Every node's folder, then what they must have in common."""
    operators: dict[int, Path] = {}
    locks: dict[Path, Lock] = {}
    for folder in folders:
        lock, operator = check_node_folder(checks, folder, copies=_lock_beside(folders, folder), decrypts=decrypts)
        if lock is not None:
            locks[folder] = lock
        if operator is not None and operator in operators:
            what = f"has the identity of {operators[operator].name}, too: operator {operator}"
            checks.report.fault(
                UserError(str(folder), what, "one of the two is a copy; two nodes must never run with one identity")
            )
        elif operator is not None:
            operators[operator] = folder
    checks.report.title(f"{directory}: all nodes")
    first = next(iter(locks), None)
    for folder in list(locks)[1:]:
        difference = first_difference(locks[folder], locks[first]) if first else None
        if first and difference:
            what = f"its lock differs from {first.name}'s: {difference.leaf} is {difference.ours} here, {difference.theirs} there"
            remedy = "every node needs the same lock: that of the latest ceremony or edit"
            checks.report.fault(UserError(str(folder / LOCK_FILE), what, remedy))
            break
    else:
        if first:
            checks.report.ok("locks", f"all {len(locks)} say the same, lock hash 0x{locks[first].lock_hash.hex()}")
    if not locks:
        return
    count = len(next(iter(locks.values())).definition.operators)
    missing = [str(index) for index in range(count) if index not in operators]
    if missing:
        checks.report.note("operators", f"{len(operators)} of {count} are here, not {', '.join(missing)}")
    else:
        checks.report.ok("operators", f"all {count} are here, each once")


def _lock_beside(folders: Sequence[Path], folder: Path) -> list[Copy]:
    """Another node's lock, as evidence of what was edited in a lock whose hashes don't fit."""
    for other in folders:
        try:
            if other != folder:
                return [(f"{other.name}/{LOCK_FILE}", decode_lock(read_file(other / LOCK_FILE, "")))]
        except (UserError, ClusterFault):
            continue
    return []


def check_node_folder(
    checks: FileChecks, directory: Path, *, copies: Sequence[Copy] = (), decrypts: bool = False
) -> tuple[Lock | None, int | None]:
    """The lock, and which operator's folder it is (index from 0), as far as known. copies: of the lock."""
    report = checks.report
    report.title(f"{directory}: folder of a node")
    for found in leftovers(directory):
        report.warn(f"{found}: {'; '.join(LEFTOVER)}")
    if os.path.exists(directory / MANIFEST_FILE):
        report.note(MANIFEST_FILE, "is of Charon before v1.9, nothing reads it any more")
    key = _identity_key(checks, directory)
    lock, definition = _lock_and_definition(checks, directory, copies)
    known = lock.definition if lock else definition
    peer = None
    if key is not None and known is not None:
        peer = checks.operator(str(directory / KEY_FILE), k1_public_key(key), known, KEY_FILE)
    _deposit_files(checks, directory, lock)
    if os.path.exists(directory / OVERRIDES_FILE):
        try:
            content = read_file(directory / OVERRIDES_FILE, "fetch it again")
            checks.overrides(str(directory / OVERRIDES_FILE), content, lock, OVERRIDES_FILE)
        except UserError as error:
            report.fault(error)
    keys = directory / VALIDATOR_KEYS
    if not os.access(directory, os.X_OK):
        return lock, None  # said already
    if not os.path.exists(keys):
        report.note(VALIDATOR_KEYS, "not here; the key shares may be in a key manager")
    elif lock is not None:
        KeystoreChecks(checks, lock, peer.share_index if peer else None).folder(keys, decrypts=decrypts)
    else:
        what = "can't be told whose key shares these are without the lock"
        report.fault(UserError(str(keys), what, f"put {LOCK_FILE} beside it"), shown_where=VALIDATOR_KEYS)
    return lock, peer.index if peer else None


def _identity_key(checks: FileChecks, directory: Path) -> bytes | None:
    path = directory / KEY_FILE

    def warn(text: str) -> None:
        if not text.startswith(str(directory / STAGING_PREFIX)):  # told already
            checks.report.warn(text)

    try:
        key = load_key_file(path, warn)
    except UserError as error:
        checks.report.fault(error, shown_where=KEY_FILE)
        return None
    checks.enrs.append(new_record(key).encode())
    return key


def _lock_and_definition(checks: FileChecks, directory: Path, copies: Sequence[Copy]) -> tuple[Lock | None, Definition | None]:
    lock_path, definition_path = directory / LOCK_FILE, directory / DEFINITION_FILE
    content = None
    try:
        if os.path.exists(definition_path):
            content = read_file(definition_path, "get a fresh copy")
    except UserError as error:
        checks.report.fault(error, shown_where=DEFINITION_FILE)
    lock = None
    is_before_ceremony = content is not None and not os.path.exists(directory / VALIDATOR_KEYS)
    try:
        if os.path.exists(lock_path) or not is_before_ceremony:
            remedy = "restore it from a backup or another operator; before the ceremony, get the definition"
            locked = read_file(lock_path, remedy, missing="cluster lock not found")
            beside: list[Copy] = []
            with contextlib.suppress(ClusterFault):
                beside = [(DEFINITION_FILE, decode_definition(content))] if content is not None else []
            lock = checks.lock(str(lock_path), locked, [*copies, *beside], LOCK_FILE)
        else:
            checks.report.note(LOCK_FILE, "not here yet; `charon dkg` makes it")
    except UserError as error:
        checks.report.fault(error, shown_where=LOCK_FILE)
    if content is None:
        return lock, None
    return lock, checks.definition(str(definition_path), content, shown=DEFINITION_FILE, lock=lock)


def _deposit_files(checks: FileChecks, directory: Path, lock: Lock | None) -> None:
    try:
        found = [path for path in list_directory(directory) if path.name.startswith(DEPOSIT_PREFIX)]
        files = [path for path in found if path.suffix == ".json"]
        in_folders = (path for folder in found if folder.is_dir() for path in list_directory(folder))
        fetched = [path for path in in_folders if path.suffix == ".json" and not path.name.startswith(".")]
    except UserError as error:
        checks.report.fault(error, shown_where=DEPOSIT_PREFIX)
        return
    if len(files) + len(fetched) > MAX_FILES:
        checks.report.note(DEPOSIT_PREFIX, f"more than {MAX_FILES} files, the first of them are checked")
    for path in [*files, *fetched][:MAX_FILES]:
        shown = str(path.relative_to(directory))
        try:
            content = read_file(path, "get a fresh copy")
        except UserError as error:
            checks.report.fault(error, shown_where=shown)
            continue
        checks.deposits(str(path), path.name if path in files else "", content, lock, shown)
    if not found:
        checks.report.note(DEPOSIT_PREFIX, "no deposit files here")
