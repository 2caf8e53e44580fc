"""The slashing records on disk: one SQLite file, opened by one process, that never forgets what it has promised.

    table    columns                                                      one row for
    meta     genesis_validators_root                                      the file
    keys     id, pubkey, low_slot, low_source, low_target (watermark)     each public key
    blocks   key_id, slot, signing_root                                   each block
    votes    key_id, target, source, signing_root                         each attestation

Durability: WAL with synchronous=FULL, so a transaction that returned is on disk; one transaction a `record`, all entries or none.
The file belongs to one process (locking_mode=EXCLUSIVE) and has mode 0600. It carries an application id and a schema version; a file
of another program, chain or later version, or a damaged one, is a UserError – never silently replaced, for an empty history signs
everything. So a new file is made whole under another name and renamed: an empty one is never a new one, but a damaged one.

Pruning: the newest KEPT_VOTES attestations and KEPT_BLOCKS blocks of a key stay; older ones go into its watermark in the same
transaction (rules.py says why that is safe). An import only raises watermarks.
Limits: KEPT_… rows a key plus PRUNE_SLACK; MAX_KEYS keys. Blocking: every call may wait for the disk; not thread-safe.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from charon_actors.errors import UserError
from charon_actors.slashing import (
    Allowed,
    AttestationEntry,
    BlockEntry,
    Conflict,
    Entry,
    Interchange,
    InterchangeFault,
    Minimum,
    SlashableFault,
    check,
)

APPLICATION_ID: Final = 0x43415350  # "CASP"
SCHEMA_VERSION: Final = 1
KEPT_VOTES: Final = 512  # more than two days of mainnet epochs
KEPT_BLOCKS: Final = 128
PRUNE_SLACK: Final = 64  # so that most transactions needn't prune
MAX_KEYS: Final = 100_000

_SCHEMA: Final = """
CREATE TABLE meta (genesis_validators_root BLOB NOT NULL);
CREATE TABLE keys (
    id INTEGER PRIMARY KEY, pubkey BLOB NOT NULL UNIQUE, low_slot INTEGER, low_source INTEGER, low_target INTEGER);
CREATE TABLE blocks (key_id INTEGER NOT NULL REFERENCES keys, slot INTEGER NOT NULL, signing_root BLOB);
CREATE TABLE votes (
    key_id INTEGER NOT NULL REFERENCES keys, target INTEGER NOT NULL, source INTEGER NOT NULL, signing_root BLOB);
CREATE INDEX blocks_by_slot ON blocks (key_id, slot);
CREATE INDEX votes_by_target ON votes (key_id, target, source);
CREATE INDEX votes_by_source ON votes (key_id, source, target);
"""


class SlashingStore:
    """Open with `open_store`. Raises of all methods: sqlite3.Error where the disk fails; then nothing was promised."""

    def __init__(self, connection: sqlite3.Connection, genesis_validators_root: bytes) -> None:
        self._db = connection
        self._root = genesis_validators_root

    def close(self) -> None:
        self._db.close()

    def record(self, entries: Sequence[Entry]) -> None:
        """Put all entries on disk, or none. Raises: SlashableFault (the first entry that must not be signed)."""
        with self._transaction():
            for entry in entries:
                if entry.signing_root is None or len(entry.signing_root) != 32 or len(entry.pubkey) != 48:
                    raise ValueError("an entry to be signed has a signing root of 32 bytes and a public key of 48")
                history = _StoredHistory(self._db, self._key_id(entry.pubkey), entry.pubkey)
                match check(history, entry):
                    case Conflict() as conflict:
                        raise SlashableFault(conflict)
                    case Allowed.RECORD:
                        history.add(entry)
                        history.prune()
                    case Allowed.REPEAT:
                        pass

    def import_entries(self, interchange: Interchange) -> int:
        """Merge another program's histories, all or nothing; returns the number of entries in it.

        They only raise the watermarks: a key may sign what lies above all of its imported entries. So it doesn't matter whether
        the file is complete, conflicts with itself, or comes twice, and it takes no room.
        Raises: InterchangeFault (another chain).
        """
        if interchange.genesis_validators_root != self._root:
            raise InterchangeFault("the file is of a chain with another genesis validators root")
        by_key: dict[bytes, list[Entry]] = {}
        for entry in interchange.entries:
            by_key.setdefault(entry.pubkey, []).append(entry)
        with self._transaction():
            for pubkey, entries in by_key.items():
                _StoredHistory(self._db, self._key_id(pubkey), pubkey).raise_minimum(entries)
        return len(interchange.entries)

    def export(self) -> Interchange:
        """All histories; a watermark becomes an entry without a signing root."""
        entries: list[Entry] = []
        for key_id, pubkey in self._db.execute("SELECT id, pubkey FROM keys ORDER BY id").fetchall():
            entries.extend(_StoredHistory(self._db, key_id, pubkey).entries())
        return Interchange(self._root, tuple(entries))

    def _key_id(self, pubkey: bytes) -> int:
        row = self._db.execute("SELECT id FROM keys WHERE pubkey = ?", (pubkey,)).fetchone()
        if row is not None:
            return int(row[0])
        (count,) = self._db.execute("SELECT COUNT(*) FROM keys").fetchone()
        if count >= MAX_KEYS:
            raise ValueError(f"the slashing database holds {MAX_KEYS} keys, no more")
        inserted = self._db.execute("INSERT INTO keys (pubkey) VALUES (?)", (pubkey,)).lastrowid
        assert inserted is not None, "an INSERT has a row"
        return inserted

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


class _StoredHistory:
    """One key's history in the database; the `History` of rules.py."""

    def __init__(self, db: sqlite3.Connection, key_id: int, pubkey: bytes) -> None:
        self._db, self._key_id, self._pubkey = db, key_id, pubkey

    def minimum(self) -> Minimum:
        row = self._db.execute("SELECT low_slot, low_source, low_target FROM keys WHERE id = ?", (self._key_id,))
        return Minimum(*row.fetchone())

    def blocks_at(self, slot: int) -> list[BlockEntry]:
        return self._blocks("AND slot = ?", slot)

    def lowest_slot(self) -> int | None:
        return self._lowest("SELECT MIN(slot) FROM blocks WHERE key_id = ?")

    def attestations_to(self, target_epoch: int) -> list[AttestationEntry]:
        return self._votes("AND target = ?", target_epoch)

    def surrounded_by(self, source_epoch: int, target_epoch: int) -> AttestationEntry | None:
        return next(iter(self._votes("AND source > ? AND target < ? LIMIT 1", source_epoch, target_epoch)), None)

    def surrounding(self, source_epoch: int, target_epoch: int) -> AttestationEntry | None:
        return next(iter(self._votes("AND source < ? AND target > ? LIMIT 1", source_epoch, target_epoch)), None)

    def lowest_source(self) -> int | None:
        return self._lowest("SELECT MIN(source) FROM votes WHERE key_id = ?")

    def lowest_target(self) -> int | None:
        return self._lowest("SELECT MIN(target) FROM votes WHERE key_id = ?")

    def add(self, entry: Entry) -> None:
        match entry:
            case BlockEntry():
                row = (self._key_id, entry.slot, entry.signing_root)
                self._db.execute("INSERT INTO blocks (key_id, slot, signing_root) VALUES (?, ?, ?)", row)
            case AttestationEntry():
                vote = (self._key_id, entry.target_epoch, entry.source_epoch, entry.signing_root)
                self._db.execute("INSERT INTO votes (key_id, target, source, signing_root) VALUES (?, ?, ?, ?)", vote)

    def raise_minimum(self, entries: Iterable[Entry]) -> None:
        minimum = before = self.minimum()
        for entry in entries:
            minimum = minimum.raised_by(entry)
        if minimum != before:
            row = (minimum.slot, minimum.source_epoch, minimum.target_epoch, self._key_id)
            self._db.execute("UPDATE keys SET low_slot = ?, low_source = ?, low_target = ? WHERE id = ?", row)

    def prune(self) -> None:
        """Move the oldest records into the watermark, once there are PRUNE_SLACK more than are kept."""
        (blocks,) = self._db.execute("SELECT COUNT(*) FROM blocks WHERE key_id = ?", (self._key_id,)).fetchone()
        if blocks > KEPT_BLOCKS + PRUNE_SLACK:
            cut = self._lowest(
                f"SELECT slot FROM blocks WHERE key_id = ? ORDER BY slot DESC LIMIT 1 OFFSET {KEPT_BLOCKS}"  # noqa: S608 – a constant
            )
            self.raise_minimum(self._blocks("AND slot <= ?", cut))
            self._db.execute("DELETE FROM blocks WHERE key_id = ? AND slot <= ?", (self._key_id, cut))
        (votes,) = self._db.execute("SELECT COUNT(*) FROM votes WHERE key_id = ?", (self._key_id,)).fetchone()
        if votes > KEPT_VOTES + PRUNE_SLACK:
            cut = self._lowest(
                f"SELECT target FROM votes WHERE key_id = ? ORDER BY target DESC LIMIT 1 OFFSET {KEPT_VOTES}"  # noqa: S608 – a constant
            )
            self.raise_minimum(self._votes("AND target <= ?", cut))
            self._db.execute("DELETE FROM votes WHERE key_id = ? AND target <= ?", (self._key_id, cut))

    def entries(self) -> list[Entry]:
        blocks: list[Entry] = list(self._blocks("ORDER BY slot"))
        votes: list[Entry] = list(self._votes("ORDER BY target"))
        minimum = self.minimum()
        if minimum.slot is not None:
            blocks.insert(0, BlockEntry(self._pubkey, None, minimum.slot))
        if minimum.source_epoch is not None and minimum.target_epoch is not None:
            votes.insert(0, AttestationEntry(self._pubkey, None, minimum.source_epoch, minimum.target_epoch))
        return [*dict.fromkeys(blocks), *dict.fromkeys(votes)]

    def _blocks(self, condition: str, *values: int | None) -> list[BlockEntry]:
        query = f"SELECT signing_root, slot FROM blocks WHERE key_id = ? {condition}"  # noqa: S608 – conditions of this file
        return [BlockEntry(self._pubkey, *row) for row in self._db.execute(query, (self._key_id, *values))]

    def _votes(self, condition: str, *values: int | None) -> list[AttestationEntry]:
        query = f"SELECT signing_root, source, target FROM votes WHERE key_id = ? {condition}"  # noqa: S608 – conditions of this file
        return [AttestationEntry(self._pubkey, *row) for row in self._db.execute(query, (self._key_id, *values))]

    def _lowest(self, query: str) -> int | None:
        row = self._db.execute(query, (self._key_id,)).fetchone()
        return None if row is None or row[0] is None else int(row[0])


def open_store(path: Path, genesis_validators_root: bytes) -> SlashingStore:
    """Open the records in the file `path`, or make it (its folder exists). genesis_validators_root: 32 bytes, of the chain.

    Raises: UserError (not ours, damaged, of another chain or a later release, in use, or not writable).
    """
    where = f"slashing protection database {path}"
    try:
        if not path.exists():
            _create(path, where, genesis_validators_root)
        path.chmod(0o600)
        connection = _connect(path)
    except (OSError, sqlite3.Error) as error:
        raise UserError(where, f"cannot be opened: {error}", "check the folder and its permissions") from None
    try:
        _check(connection, where, genesis_validators_root)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise _as_user_error(where, error) from None
    except BaseException:
        connection.close()
        raise
    return SlashingStore(connection, genesis_validators_root)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)


def _create(path: Path, where: str, genesis_validators_root: bytes) -> None:
    if path.with_name(path.name + "-wal").exists():
        raise UserError(where, "is missing, though its journal is there", f"put that very file back; {_LOST}")
    staged = path.with_name(path.name + ".new")
    staged.unlink(missing_ok=True)
    os.close(os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    db = _connect(staged)
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("INSERT INTO meta VALUES (?)", (genesis_validators_root,))
        db.execute("COMMIT")
    finally:
        db.close()
    staged.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check(db: sqlite3.Connection, where: str, genesis_validators_root: bytes) -> None:
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    if not tables:
        raise sqlite3.DatabaseError("it is empty")
    if application_id != APPLICATION_ID:
        raise UserError(where, "is the database of another program", "move it away or name another file")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        raise UserError(where, f"has schema version {version}, this release knows {SCHEMA_VERSION}", "upgrade the node")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("BEGIN IMMEDIATE")  # takes the file for this process
    db.execute("COMMIT")
    (state,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if state != "ok":
        raise sqlite3.DatabaseError(state)
    roots = db.execute("SELECT genesis_validators_root FROM meta").fetchall()
    if roots != [(genesis_validators_root,)]:
        raise UserError(
            where,
            "belongs to a chain with another genesis validators root",
            "check the beacon node's network; never delete this file while its keys are in use",
        )


_LOST = "if it is lost, stop for two epochs, move what is left of it away, and start with the validator client's own protection intact"


def _as_user_error(where: str, error: sqlite3.DatabaseError) -> UserError:
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UserError(where, "is in use by another process", "stop the other node; never run two with the same keys")
    if code is not None and code & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL):
        return UserError(where, f"cannot be written: {error}", "check permissions and free space")
    return UserError(
        where,
        f"is damaged: {error}",
        f"an old copy has forgotten what was signed since, so {_LOST}",
    )
