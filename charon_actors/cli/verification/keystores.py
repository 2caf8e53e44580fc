"""The checks of `charon verify` for keystores: whose key shares are they, and are they ours?

    file names     keystore-N.json without a gap, each with its password in keystore-N.txt
    public key     of each is a public share of the lock: of which validator, and of which operator
    ours           all are shares of the operator whose identity key is here
    complete       one for each validator of the lock
    --decrypt      each opens with its password, and holds the secret of the public key that it names; without it a line says that
                   nobody has looked

The trap of specification 01 §12: keystores of another node sign happily, and the cluster never works. A keystore names its public
key, so whose share it is can be told without opening it.

Limits: MAX_KEYSTORES; MAX_LISTED faults of one kind are told; after MAX_DECRYPT_FAULTS nothing more is opened.
Source: specification 01-cluster-files, sections 7.2 and 12.
"""

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from charon_actors.cli.keystore_workers import decrypt_all
from charon_actors.cli.verification.files import MAX_LISTED, FileChecks, operator_text
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.key_shares import UNKNOWN_SHARE, ShareOwner, ShareOwners
from charon_actors.cluster.lock import Lock
from charon_actors.crypto import MAX_KEYSTORE_BYTES, KeystoreFault, named_public_key, public_key
from charon_actors.errors import UserError
from charon_actors.file_kinds import clause, form_of
from charon_actors.files.keystore_files import MAX_KEYSTORES, VALIDATOR_KEYS, Keystore, natural_order
from charon_actors.files.staging import list_directory, read_file
from charon_actors.share_index import peer_index_of

MAX_DECRYPT_FAULTS: Final = 3

_TRY_THEM: Final = "--decrypt does that"


class KeystoreChecks:
    """Keystores against a lock. own_share_index: ours, from 1; None when we don't know who we are."""

    def __init__(self, checks: FileChecks, lock: Lock, own_share_index: int | None) -> None:
        self._report, self._lock, self._own = checks.report, lock, own_share_index
        self._without_password: set[str] = set()  # paths of keystores
        try:
            self._owners: ShareOwners | None = ShareOwners(lock)
        except ClusterFault:  # told with the lock
            self._owners = None

    def folder(self, directory: Path, *, decrypts: bool) -> None:
        """All keystores of a `validator_keys` directory."""
        try:
            paths = [path for path in list_directory(directory) if path.name.startswith("keystore-") and path.suffix == ".json"]
        except UserError as error:
            self._report.fault(error, shown_where=VALIDATOR_KEYS)
            return
        if not paths:
            remedy = "restore them from a backup; if they are in a key manager, remove the empty directory"
            self._report.fault(UserError(str(directory), "no keys found", remedy), shown_where=VALIDATOR_KEYS)
        if len(paths) > MAX_KEYSTORES:
            many = UserError(str(directory), f"more than {MAX_KEYSTORES} keystores", "remove those of other clusters")
            self._report.fault(many, shown_where=VALIDATOR_KEYS)
        if not 0 < len(paths) <= MAX_KEYSTORES:
            return
        paths.sort(key=lambda path: natural_order(path.name))
        self._names(directory, paths)
        keystores = self._readable(paths)
        owners = self._owned(directory, keystores)
        self._complete(directory, owners)
        if decrypts:
            self._open(keystores)
        else:
            self._report.note(VALIDATOR_KEYS, f"passwords not tried on {len(keystores)} keystores; {_TRY_THEM}")

    def one(self, path: Path, content: bytes, *, decrypts: bool) -> None:
        """One keystore file."""
        try:
            named = named_public_key(content)
        except KeystoreFault as fault:
            self._report.fault(UserError(str(path), str(fault), "restore it from a backup"))
            return
        if named is None and not decrypts:
            self._report.fault(UserError(str(path), "doesn't name its public key", "see whose it is with --decrypt"))
        elif named is not None:
            self._owned(path, [Keystore(content, "", path=str(path))])
        if decrypts:
            self._open(self._readable([path]))
        else:
            self._report.note(str(path), f"its password was not tried; {_TRY_THEM}")

    def _names(self, directory: Path, paths: Sequence[Path]) -> None:
        """01 §7.2, sequenced: what `combine`, `exit` and the like insist on."""
        seen: dict[int, Path] = {}
        for path in paths:
            digits = path.stem.removeprefix("keystore-").removeprefix("insecure-")
            if not (digits.isascii() and digits.isdigit() and len(digits) <= 6):
                error = UserError(str(path), "unknown keystore index, filename not 'keystore-N.json'", "rename or remove it")
                self._report.fault(error, shown_where=f"{VALIDATOR_KEYS}/{path.name}")
            elif int(digits) in seen:
                what = f"duplicate keystore index {int(digits)}: {seen[int(digits)].name} has it, too"
                self._report.fault(
                    UserError(str(path), what, "keep one keystore an index"), shown_where=f"{VALIDATOR_KEYS}/{path.name}"
                )
            else:
                seen[int(digits)] = path
        missing = sorted(set(range(max(seen, default=-1) + 1)) - set(seen))
        if missing:
            what = f"out of sequence keystore index: there is no keystore-{missing[0]}.json"
            error = UserError(str(directory), what, "indexes are 0, 1, 2 … without a gap; restore the missing ones")
            self._report.fault(error, shown_where=VALIDATOR_KEYS)

    def _readable(self, paths: Sequence[Path]) -> list[Keystore]:
        """Those whose files can be read; the others, and those without password, are told. Passwords that others may read, too."""
        keystores, faults, exposed = [], [], []
        for path in paths:
            password_path = path.with_suffix(".txt")
            try:
                content = read_file(path, "restore it from a backup", limit=MAX_KEYSTORE_BYTES)
                self._without_password.add(str(path))
                keystores.append(Keystore(content, "", path.name.startswith("keystore-insecure-"), str(path)))
                remedy = f"put the password of {path.name} there"
                password = read_file(password_path, remedy, missing="password file not found", limit=MAX_KEYSTORE_BYTES)
                keystores[-1] = Keystore(content, password.decode("utf-8"), keystores[-1].insecure, str(path))
                self._without_password.discard(str(path))
                if stat.S_IMODE(password_path.stat().st_mode) & 0o077:
                    exposed.append(password_path)
            except UserError as error:
                faults.append(error)
            except UnicodeDecodeError:
                what = f"the password is no UTF-8 text{clause(form_of(password))}"
                faults.append(UserError(str(password_path), what, "write it as UTF-8"))
        self._faults(faults)
        if exposed:
            more = f" and {len(exposed) - 1} more" if len(exposed) > 1 else ""
            self._report.warn(f"{exposed[0]}{more}: passwords that other users can read; run `chmod 400` on them")
        return keystores

    def _owned(self, place: Path, keystores: Sequence[Keystore]) -> dict[str, ShareOwner]:
        """Whose shares these are, by path, as far as they are ours."""
        if self._owners is None:
            return {}
        faults: list[UserError] = []
        owners: dict[str, ShareOwner] = {}
        for keystore in keystores:
            try:
                named = named_public_key(keystore.content)
            except KeystoreFault as fault:
                faults.append(UserError(keystore.path, str(fault), "restore it from a backup"))
                continue
            owner = self._owners.find(named) if named else None
            if named and owner is None:
                what = f"{UNKNOWN_SHARE}: 0x{named.hex()}"
                faults.append(UserError(keystore.path, what, "it belongs to another cluster; move it away"))
            elif owner:
                owners[keystore.path] = owner
        self._faults(faults)
        definition = self._lock.definition
        for share_index in sorted({owner.share_index for owner in owners.values()}):
            held = [path for path, owner in owners.items() if owner.share_index == share_index]
            whose = operator_text(definition, peer_index_of(share_index))
            if self._own in (None, share_index):
                what = f"{len(held)} of its keystores are shares of {whose}"
                of_validator = f"validator {owners[held[0]].validator_index}: share of {whose}"
                self._report.ok(str(place) if place.is_file() else VALIDATOR_KEYS, of_validator if place.is_file() else what)
                continue
            what = (
                f"{len(held)} key shares of {whose}, but this node is {operator_text(definition, peer_index_of(self._own or 0))}"
            )
            remedy = "keep every validator client that has these keys stopped; put the folder of the right node here"
            self._report.fault(UserError(held[0], what, remedy))
            owners = {path: owner for path, owner in owners.items() if owner.share_index != share_index}
        if self._own is None and len({owner.share_index for owner in owners.values()}) > 1:
            what = "key shares of several operators in one folder"
            self._report.fault(UserError(str(place), what, "keep the keystores of each operator in a folder of their own"))
        return owners

    def _complete(self, directory: Path, owners: dict[str, ShareOwner]) -> None:
        """One keystore for each validator of the lock."""
        by_validator: dict[int, str] = {}
        faults = []
        for path, owner in owners.items():
            other = by_validator.setdefault(owner.validator_index, path)
            if other != path:
                what = "multiple provided private key shares resolve to the same validator "
                faults.append(UserError(path, f"{what}{owner.validator_index}: also {other}", "keep one of them"))
            elif Path(path).stem.rpartition("-")[2] != str(owner.validator_index):
                self._report.note(f"{VALIDATOR_KEYS}/{Path(path).name}", f"is the share of validator {owner.validator_index}")
        self._faults(faults)
        missing = [index for index in range(len(self._lock.validators)) if index not in by_validator]
        if missing and self._owners is not None:
            listed = ", ".join(map(str, missing[:MAX_LISTED])) + (", …" if len(missing) > MAX_LISTED else "")
            what = f"{VALIDATOR_KEYS} directory does not contain key shares for all cluster validators: not for {listed}"
            error = UserError(str(directory), what, "restore them from a backup; a validator without them doesn't sign")
            self._report.fault(error, shown_where=VALIDATOR_KEYS)
        elif self._owners is not None:
            self._report.ok(VALIDATOR_KEYS, f"a key share for each of the {len(self._lock.validators)} validators")

    def _open(self, keystores: Sequence[Keystore]) -> None:
        """Opens those that have a password. After a fault the rest is tried again, MAX_DECRYPT_FAULTS times."""
        rest = [keystore for keystore in keystores if keystore.path not in self._without_password]
        opened = 0
        for _ in range(MAX_DECRYPT_FAULTS):
            try:
                secrets = decrypt_all(rest)
            except UserError as error:
                self._report.fault(error)
                position = next((i for i, keystore in enumerate(rest) if keystore.path == error.where), len(rest) - 1)
                opened += position
                rest = rest[position + 1 :]
                if rest:
                    continue
                break
            opened += len(rest)
            self._unnamed(rest, secrets)
            rest = []
            break
        if rest:
            self._report.note(VALIDATOR_KEYS, f"{len(rest)} further keystores were not opened")
        if opened:
            self._report.ok(VALIDATOR_KEYS, f"{opened} keystores opened with their passwords")

    def _unnamed(self, keystores: Sequence[Keystore], secrets: Sequence[bytes]) -> None:
        """Keystores that don't name their public key belong to somebody, too."""
        for keystore, secret in zip(keystores, secrets, strict=True):
            if named_public_key(keystore.content) is None and self._owners is not None:
                owner = self._owners.find(public_key(secret))
                if owner is None:
                    self._report.fault(UserError(keystore.path, UNKNOWN_SHARE, "it belongs to another cluster; move it away"))
                else:
                    whose = operator_text(self._lock.definition, peer_index_of(owner.share_index))
                    self._report.ok(keystore.path, f"validator {owner.validator_index}: share of {whose}")

    def _faults(self, faults: Sequence[UserError]) -> None:
        for error in faults[:MAX_LISTED]:
            self._report.fault(error, shown_where=f"{VALIDATOR_KEYS}/{Path(error.where).name}")
        if len(faults) > MAX_LISTED:
            self._report.note(VALIDATOR_KEYS, f"… and {len(faults) - MAX_LISTED} more such faults")
