"""`charon verify`: whether cluster files may be trusted and belong together, and if not, what is wrong with them.

Says line by line what holds; ends 0 only if everything does. Checks that can still be made after a fault are made; the first one, in the
specification's order and words, is the command's error. Reads only, and needs no network (but contract wallets do).
Source: specification 01-cluster-files, sections 1, 5.1, 6, 7.2 and 12.
"""

import os
from pathlib import Path

from charon_actors.cli.inputs.cluster_file import STDIN, read_cluster_file
from charon_actors.cli.inputs.custom_network import custom_networks
from charon_actors.cli.options import flags
from charon_actors.cli.options.flag import Argument, Flag
from charon_actors.cli.options.table import Values, charon_command
from charon_actors.cli.options.values import Kind
from charon_actors.cli.services.execution_client import execution_client
from charon_actors.cli.verification.files import Copy, FileChecks
from charon_actors.cli.verification.folder import check_cluster_folder, check_node_folder, is_node_folder, node_folders
from charon_actors.cli.verification.keystores import KeystoreChecks
from charon_actors.cli.verification.report import VerificationReport
from charon_actors.cluster.definition import Definition
from charon_actors.cluster.definition_json import decode_definition
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.peers import of_consensus_client, own_peer, peers_of
from charon_actors.cluster.verify import ContractCheck
from charon_actors.crypto import k1_public_key
from charon_actors.enr import EnrFault, consensus_keys, decode_enr
from charon_actors.errors import UserError
from charon_actors.file_kinds import FileKind
from charon_actors.files.data_directory import DEPOSIT_PREFIX, LOCK_FILE
from charon_actors.files.identity import KEY_FILE, load_key_file
from charon_actors.files.staging import read_file


def run(values: Values) -> int:
    text = values.text("path")
    path = Path(text).expanduser() if text else values.path("data-dir")
    if not text and not os.path.lexists(path):
        raise UserError(
            str(path), "no such directory", "give the path of what to check, or make an identity: `charon create enr`"
        )
    report = VerificationReport()
    checks = FileChecks(report, custom_networks(values), _contract(values, report), _against(values))
    if text == STDIN or text.startswith("enr:") or not path.is_dir():
        _check_file(values, checks, text or str(path))
        return report.end()
    folders = [] if is_node_folder(path) else node_folders(path)
    if folders:
        check_cluster_folder(checks, path, folders, decrypts=values.switch("decrypt"))
    elif is_node_folder(path):
        check_node_folder(checks, path, decrypts=values.switch("decrypt"))
    else:
        what = "holds no files of a cluster, and no folders of nodes"
        raise UserError(str(path), what, "give the path of a .charon directory, of node0, node1 …, or of a file")
    return report.end()


def _check_file(values: Values, checks: FileChecks, text: str) -> None:
    where, content, kind = read_cluster_file(text)
    path = Path(text).expanduser()
    if kind is FileKind.LOCK:
        checks.lock(where, content)
    elif kind is FileKind.DEFINITION:
        checks.definition(where, content)
    elif kind is FileKind.DEPOSITS:
        name = path.name if path.name.startswith(DEPOSIT_PREFIX) else ""
        checks.deposits(where, name, content, _lock_for(values, path))
    elif kind is FileKind.OVERRIDES:
        checks.overrides(where, content, _lock_for(values, path))
    elif kind is FileKind.KEYSTORE:
        lock = _lock_for(values, path)
        if lock is None:
            raise UserError(where, "whose key share it is only the cluster's lock says", "pass --lock-file")
        KeystoreChecks(checks, lock, _own_share_index(checks, path, lock)).one(path, content, decrypts=values.switch("decrypt"))
    elif kind is FileKind.KEY:
        key, lock = load_key_file(path, checks.report.warn), _lock_for(values, path)
        if lock is None:
            checks.report.ok(where, "an identity key; not compared with a lock")
        else:
            checks.operator(where, k1_public_key(key), lock.definition)
    else:
        _check_enr(values, checks, where, content)


def _check_enr(values: Values, checks: FileChecks, where: str, content: bytes) -> None:
    try:
        record = decode_enr(content.decode("utf-8", "replace"))
    except EnrFault as error:
        checks.report.fault(UserError(where, f"invalid ENR: {error}", "ask its operator for `charon enr`, and copy all of it"))
        return
    checks.report.ok(where, "form and signature")
    if keys := consensus_keys(record):
        checks.report.warn(f"{where}: {of_consensus_client(keys)}")
    lock = _read_lock(values.path("lock-file")) if values.is_set("lock-file") else None
    if lock is not None:
        checks.operator(where, record.public_key, lock.definition)


def _lock_for(values: Values, path: Path) -> Lock | None:
    """The lock of --lock-file, else the nearest one beside or above a file. It is compared with, not checked."""
    beside = [path.parent / LOCK_FILE, path.absolute().parent.parent / LOCK_FILE]
    found = next((each for each in beside if os.path.exists(each)), None)
    if values.is_set("lock-file") or (found is None and os.path.exists(values.path("lock-file"))):
        found = values.path("lock-file")
    return _read_lock(found) if found else None


def _read_lock(path: Path) -> Lock:
    try:
        return decode_lock(read_file(path, "pass --lock-file", missing="cluster lock not found"))
    except ClusterFault as error:
        raise UserError(str(path), f"unmarshal {LOCK_FILE}: {error}", f"see `charon verify {path}`") from error


def _own_share_index(checks: FileChecks, keystore: Path, lock: Lock) -> int | None:
    """Ours, when the identity key stands where it does in a node's folder."""
    key = keystore.absolute().parent.parent / KEY_FILE
    if not os.path.exists(key):
        return None
    try:
        return own_peer(peers_of(lock.definition), k1_public_key(load_key_file(key, checks.report.warn))).share_index
    except ClusterFault as error:
        checks.report.fault(UserError(str(key), str(error), "the key and the lock are of different clusters"))
        return None


def _against(values: Values) -> tuple[Copy, ...]:
    if not values.text("against"):
        return ()
    where, content, kind = read_cluster_file(str(values.path("against")))
    copy: Definition | Lock
    try:
        if kind is FileKind.LOCK:
            copy = decode_lock(content)
        elif kind is FileKind.DEFINITION:
            copy = decode_definition(content)
        else:
            raise UserError(where, f"is no lock and no definition ({kind.value})", "give --against another copy of the file")
    except ClusterFault as error:
        raise UserError(where, str(error), "give --against another copy of the file") from error
    return ((where, copy),)


def _contract(values: Values, report: VerificationReport) -> ContractCheck | None:
    """Asks contract wallets; an execution client that fails is a fault of its own, and the other checks go on."""
    client = execution_client(values)
    if client is None:
        return None

    def accepts(address: str, digest: bytes, signature: bytes) -> bool:
        try:
            return client(address, digest, signature)
        except UserError as error:
            if str(error) not in map(str, report.faults):
                report.fault(error)
            return False

    return accepts


command = charon_command(
    "verify",
    "Check cluster files: hashes, signatures, deposits, keys, and that they belong together. PATH is a lock, a definition, a deposit "
    "file, a keystore, an identity key, an ENR, a node's folder (.charon) or a cluster's folder (with node0, node1 …). Says what holds "
    "and what doesn't; ends with status 0 only if everything holds.",
    run,
    [
        flags.DATA_DIR,
        Flag("lock-file", Kind.TEXT, flags.LOCK_FILE.default, "Lock to check a single keystore or deposit file with"),
        Flag("against", Kind.TEXT, "", "Another copy of the lock or definition: names the first leaf that differs"),
        Flag("decrypt", Kind.SWITCH, False, "Also open every keystore with its password"),
        flags.EXECUTION_CLIENT,
        *flags.TESTNET,
    ],
    arguments=[Argument("path", "What to check; without it the data directory")],
    example="charon verify .charon",
)
