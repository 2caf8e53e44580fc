"""`charon combine`: the validators' own keys again, from the key shares of enough operators. Source: specification 01 §10.2, 11 §6.

    folders     every sub-directory of `--cluster-dir` that has `validator_keys`; each with the same lock, verified once
    shares      sorted by public share, whatever files and folders are called; each folder holds shares of one operator
    secrets     `threshold` shares a validator are opened and checked against their public shares; the result must have the lock's key
    validators  those without a key share in any folder are left out, and a line says so; one with some shares, but fewer than
                `threshold`, is an error: somebody's folder is incomplete, which is no reason to write the others' keys
    output      keystore-N.json and .txt at full cost, N = position of the validator in the lock, also when others are left out, so that
                a number means the same validator everywhere; all of them or none

Charon goes by position in the file names and fails for a folder without keystore-0, for a folder without keys and for a copied folder;
here the first two contribute what they have, and a copy counts once. More shares than the threshold would say nothing about a secret
whose public key is the lock's, so they stay closed. `--force` replaces keystore-*.json and .txt, after everything else has succeeded;
those of validators that are left out stay.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

from charon_actors.cli.door import notice, one_line
from charon_actors.cli.inputs.custom_network import custom_networks
from charon_actors.cli.keystore_workers import decrypt_all, encrypt_all
from charon_actors.cli.options import flags
from charon_actors.cli.options.flag import Flag
from charon_actors.cli.options.table import Values, charon_command
from charon_actors.cli.options.values import Kind
from charon_actors.cli.services.execution_client import execution_client
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.key_shares import ShareOwner, ShareOwners, recover_group_secret
from charon_actors.cluster.lock import Lock
from charon_actors.crypto import KeystoreFault, named_public_key, public_key
from charon_actors.errors import UserError
from charon_actors.files.data_directory import LOCK_FILE, load_lock
from charon_actors.files.keystore_files import (
    MACOS_FOLDER,
    VALIDATOR_KEYS,
    Keystore,
    natural_order,
    read_keystore_folder,
    stage_keystores,
)
from charon_actors.files.staging import STAGING_PREFIX, check_no_leftovers, is_taken, list_directory, read_file, staging

MAX_FOLDERS: Final = 255  # share indexes (04 §5.1)
MAX_LISTED: Final = 8

Shares = dict[ShareOwner, Keystore]


def run(values: Values) -> int:
    output = values.path("output-dir")
    folders = _folders(values.path("cluster-dir"))
    replaced = _in_the_way(output, folders, is_forced=values.switch("force"))
    lock = _common_lock(values, folders)
    shares = _read_shares(lock, folders)
    chosen = _enough(values.path("cluster-dir"), lock, shares)
    is_whole, all_validators = len(chosen) == len(lock.validators), len(lock.validators)
    if values.switch("dry-run"):
        _recover(values, lock, chosen)
        count = f"All {all_validators}" if is_whole else f"{len(chosen)} of {all_validators}"
        print(f"{count} validator keys can be combined. Nothing was written, that was a dry run.")
    else:
        with staging(output) as stage:  # first, so that a directory which can't be written is known before the long work
            secrets = _recover(values, lock, chosen)
            stage_keystores(stage, "", encrypt_all(secrets, is_insecure=False), folder="", numbers=list(chosen))
            stage.commit(replaced if is_whole else [name for name in replaced if number_of(name) in chosen])
        count = f"{all_validators}" if is_whole else f"{len(chosen)} of {all_validators}"
        print(f"Combined {count} validator keys: {one_line(str(output))}/keystore-*.json, passwords in .txt")
    print(_SLASHING_WARNING)
    return 0


def _folders(directory: Path) -> list[Path]:
    """The operators' folders, node2 before node10. Raises UserError for none."""
    folders = []
    for entry in list_directory(directory):
        if entry.name == MACOS_FOLDER:
            continue
        try:
            is_folder = is_taken(entry / VALIDATOR_KEYS)
        except UserError as error:  # something that we may not enter, lost+found or an operator's; too few shares is said later
            notice(f"left out: {error}")
            continue
        if is_folder and entry.name.startswith(STAGING_PREFIX):
            notice(f"left out: {entry}: another charon is writing here, or was killed while it did")
        elif is_folder:
            folders.append(entry)
    if not folders:
        what = f"open manifest file: no manifest file found, no sub-directory has {VALIDATOR_KEYS}"
        raise UserError(str(directory), what, "give the directory that holds the operators' folders, such as node0 and node1")
    if len(folders) > MAX_FOLDERS:
        raise UserError(str(directory), f"more than {MAX_FOLDERS} folders with {VALIDATOR_KEYS}", "leave those of one cluster")
    return sorted(folders, key=lambda folder: natural_order(folder.name))


def _in_the_way(output: Path, folders: Sequence[Path], *, is_forced: bool) -> list[str]:
    """Names of the keystore files in the output directory that `--force` replaces. Raises UserError when they must stay."""
    if not is_taken(output):
        return []
    for folder in folders:
        if (folder / VALIDATOR_KEYS).exists() and output.exists() and output.samefile(folder / VALIDATOR_KEYS):
            raise UserError(str(output), "holds key shares, which the result would replace", "give another --output-dir")
    check_no_leftovers(output)
    found = [path for path in list_directory(output) if re.fullmatch(r"keystore-.*\.(json|txt)", path.name, flags=re.DOTALL)]
    for path in found:
        if not is_forced:
            what = "already exists, refusing to overwrite"
            raise UserError(
                str(path), what, "give another --output-dir, or --force to replace all keystore-*.json and .txt there"
            )
        if path.is_dir():
            raise UserError(str(path), "is a directory, not a file", "move it away; nothing was written")
    return [path.name for path in found]


def number_of(name: str) -> int | None:
    """N of keystore-N.json or .txt."""
    found = re.fullmatch(r"keystore-(?:insecure-)?([0-9]{1,9})\.(?:json|txt)", name)
    return None if found is None else int(found[1])


def _common_lock(values: Values, folders: Sequence[Path]) -> Lock:
    """The lock that all folders have. With --no-verify the last one, if they differ. Raises UserError."""
    networks, is_verified = custom_networks(values), not values.switch("no-verify")
    contract = execution_client(values, is_verified=is_verified)
    loaded: dict[bytes, Lock] = {}  # by the file's content: mostly they are copies of one, which is verified once
    last: Lock | None = None
    for folder in folders:
        path = folder / LOCK_FILE
        with _prefixed("open manifest file: manifest load error: "):
            digest = sha256(read_file(path, "put the cluster's lock there", missing="cluster lock not found")).digest()
            if digest not in loaded:
                loaded[digest] = load_lock(path, notice, is_verified=is_verified, networks_extra=networks, contract=contract)
        lock = loaded[digest]
        if last is not None and lock.lock_hash != last.lock_hash:
            what = "open manifest file: mismatching last mutation hash"
            if is_verified:
                remedy = "the folders are of different clusters, or of one before and after an edit; keep those of one"
                raise UserError(str(path), f"{what}: 0x{lock.lock_hash.hex()}, before it 0x{last.lock_hash.hex()}", remedy)
            notice(f"{path}: ignoring {what} due to --no-verify flag, the last lock counts")
        last = lock
    assert last is not None
    return last


def _read_shares(lock: Lock, folders: Sequence[Path]) -> Shares:
    """The keystores of all folders by whose share they are; says what each folder contributes. Raises UserError."""
    try:
        owners = ShareOwners(lock)
    except ClusterFault as fault:
        raise UserError(str(folders[-1] / LOCK_FILE), str(fault), "get a fresh copy of the file") from fault
    shares: Shares = {}
    for folder in folders:
        keystores = _read_folder(folder)
        of_path = owners.of_one_operator(zip((keystore.path for keystore in keystores), _public_shares(keystores), strict=True))
        found = {of_path[keystore.path]: keystore for keystore in keystores}
        whose = "".join(f", of share index {index}" for index in {owner.share_index for owner in found})
        print(f"{one_line(folder.name)}: key shares of {len(found)} of {len(lock.validators)} validators{whose}")
        copies = [keystore.path for owner, keystore in found.items() if owner in shares]
        if copies:
            notice(f"{folder}: {len(copies)} key shares that another folder holds, too, such as {copies[0]}; they count once")
        shares = {**found, **shares}
    if not shares:
        raise UserError(str(folders[0] / VALIDATOR_KEYS), "load private key share: no keys found", "put the keystores there")
    return shares


def _read_folder(folder: Path) -> Sequence[Keystore]:
    directory = folder / VALIDATOR_KEYS
    with _prefixed("load private key share: "):
        if not any(path.name.startswith("keystore-") for path in list_directory(directory)):
            return ()
        return read_keystore_folder(directory)


def _public_shares(keystores: Sequence[Keystore]) -> list[bytes]:
    """What the files say; those that say nothing are opened. Raises UserError."""
    named: list[bytes | None] = []
    for keystore in keystores:
        try:
            named.append(named_public_key(keystore.content))
        except KeystoreFault as fault:
            what, remedy = f"load private key share: keystore decryption: {fault}", "restore the file, or move it away"
            raise UserError(keystore.path, what, remedy) from fault
    with _prefixed("load private key share: "):
        unnamed = iter(decrypt_all([keystore for keystore, name in zip(keystores, named, strict=True) if name is None]))
    return [public_key(next(unnamed)) if name is None else name for name in named]


def _enough(directory: Path, lock: Lock, shares: Shares) -> dict[int, Mapping[int, Keystore]]:
    """By validator `threshold` of its shares, by share index; without validators that have none. Says how many there are.

    Raises UserError for a validator with some shares, but too few.
    """
    of_validator: list[dict[int, Keystore]] = [{} for _ in lock.validators]
    for owner in sorted(shares):
        of_validator[owner.validator_index][owner.share_index] = shares[owner]
    threshold = lock.definition.threshold
    lines = [
        f"validator {index} 0x{validator.public_key.hex()}: {len(found)} of {len(validator.public_shares)} key shares "
        f"({', '.join(map(str, found)) or 'none'})"
        for index, (validator, found) in enumerate(zip(lock.validators, of_validator, strict=True))
    ]
    print(f"{threshold} key shares of each validator are needed, no more are opened")
    for line in lines:
        print(line)
    lacking = [index for index, found in enumerate(of_validator) if 0 < len(found) < threshold]
    if lacking:
        more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
        what = f"insufficient private key shares found for validator{more}: {lines[lacking[0]]}, {threshold} needed"
        raise UserError(str(directory), what, "add the folders of more operators")
    absent = [index for index, found in enumerate(of_validator) if not found]
    if absent:
        listed = ", ".join(map(str, absent[:MAX_LISTED])) + (", …" if len(absent) > MAX_LISTED else "")
        notice(f"left out: {len(absent)} of {len(of_validator)} validators, of which no folder holds a key share: {listed}")
    enough = {validator: found for validator, found in enumerate(of_validator) if found}
    return {
        validator: {index: found[index] for index in sorted(found)[: max(threshold, 1)]} for validator, found in enough.items()
    }


def _recover(values: Values, lock: Lock, chosen: Mapping[int, Mapping[int, Keystore]]) -> list[bytes]:
    """The chosen validators' secrets, in the order of the lock. Raises UserError."""
    with _prefixed("load private key share: "):
        opened = iter(decrypt_all([keystore for shares in chosen.values() for keystore in shares.values()]))
    secrets = []
    for index, shares in chosen.items():
        try:
            secrets.append(recover_group_secret(lock, index, {share_index: next(opened) for share_index in shares}))
        except ClusterFault as fault:
            remedy = "check that lock and keystores are of the same cluster"
            raise UserError(str(values.path("cluster-dir")), str(fault), remedy) from fault
    return secrets


@contextmanager
def _prefixed(prefix: str) -> Iterator[None]:
    """Charon's words for where it was when something went wrong."""
    try:
        yield
    except UserError as error:
        raise UserError(error.where, prefix + error.what, error.remedy) from error


_SLASHING_WARNING: Final = """
***************** WARNING: Combined keys ***********************
 Stop the validator clients of every operator first, and wait for
 at least 2 finalized epochs, before anything signs with these
 keys; otherwise slashing could occur.
****************************************************************
"""

command = charon_command(
    "combine",
    "Combine the key shares of enough operators into the validators' own keys, to leave the cluster for good.",
    run,
    [
        Flag("cluster-dir", Kind.TEXT, "./", "Directory whose sub-directories each hold one operator's lock and validator_keys"),
        Flag("output-dir", Kind.TEXT, "./validator_keys", "Directory that the combined keystores are written to"),
        Flag("force", Kind.SWITCH, False, "Replace keystores in the output directory"),
        Flag("dry-run", Kind.SWITCH, False, "Check and open everything, write nothing"),
        flags.NO_VERIFY,
        *flags.TESTNET,
        flags.EXECUTION_CLIENT,
    ],
    example="charon combine --cluster-dir ./cluster --output-dir ./combined",
)
