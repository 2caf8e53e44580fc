"""The slashing record as a file: its schema, how it is made, taken for this process, brought up to date and looked over.

    table    columns                                                                   one row for
    meta     genesis_validators_root, history, generation, digest,                     the file
             low_slot, low_source, low_target (floor of all keys), listen_left_s
    keys     id, pubkey, low_slot, low_source, low_target (watermark)                  each public key
    blocks   key_id, slot, signing_root                                                each block
    votes    key_id, target, source, signing_root                                      each attestation

    schema   what it has not                                       how it was kept
    1        history, generation, digest, floor, listen_left_s    write-ahead log: the newest entries stood in `-wal` only
    2        –                                                     rollback journal: when a transaction returns, all is in the file

Durability: a rollback journal with synchronous=FULL. SQLite writes what a transaction will overwrite into `-journal`, then the file,
then makes the journal void, each on disk before the next; so between two transactions the file alone is the record, and after a kill
in the middle of one the journal leads back to the state before. (With locking_mode=EXCLUSIVE it stays there, void, until the file is
closed.) A file that was copied without the journal it needed, or beside one of another state, is mixed from two states: its digest says so.

The file belongs to one process (locking_mode=EXCLUSIVE) and has mode 0600. A new one is made whole under another name and renamed: an
empty file is never a new one, but a damaged one. Blocking: every call may wait for the disk.
"""

import sqlite3
import struct
from pathlib import Path
from typing import Final

import msgspec

from actors.twin_file import sync_folder
from charon_actors.errors import UserError
from charon_actors.slashing import Digest, Minimum, State

APPLICATION_ID: Final = 0x43415350  # "CASP"
SCHEMA_VERSION: Final = 2
SIDE_FILES: Final = ("-wal", "-shm", "-journal")  # SQLite's, beside the file

_SCHEMA: Final = """
CREATE TABLE meta (
    genesis_validators_root BLOB NOT NULL, history BLOB, generation INTEGER, digest BLOB,
    low_slot INTEGER, low_source INTEGER, low_target INTEGER, listen_left_s REAL);
CREATE TABLE keys (
    id INTEGER PRIMARY KEY, pubkey BLOB NOT NULL UNIQUE, low_slot INTEGER, low_source INTEGER, low_target INTEGER);
CREATE TABLE blocks (key_id INTEGER NOT NULL REFERENCES keys, slot INTEGER NOT NULL, signing_root BLOB);
CREATE TABLE votes (
    key_id INTEGER NOT NULL REFERENCES keys, target INTEGER NOT NULL, source INTEGER NOT NULL, signing_root BLOB);
CREATE INDEX blocks_by_slot ON blocks (key_id, slot);
CREATE INDEX votes_by_target ON votes (key_id, target, source);
CREATE INDEX votes_by_source ON votes (key_id, source, target);
"""
_NEW_IN_2: Final = (
    "history BLOB",
    "generation INTEGER",
    "digest BLOB",
    "low_slot INTEGER",
    "low_source INTEGER",
    "low_target INTEGER",
    "listen_left_s REAL",
)


class Meta(msgspec.Struct, frozen=True):
    """What the file says of itself. floor: what no key may sign below. listen_left_s: how long nothing may be signed yet, or None."""

    history: bytes
    generation: int
    digest: bytes
    floor: Minimum = Minimum()
    listen_left_s: float | None = None

    @property
    def state(self) -> State:
        return State(self.history, self.generation, self.digest)


def read_meta(db: sqlite3.Connection) -> Meta:
    row = db.execute(
        "SELECT history, generation, digest, low_slot, low_source, low_target, listen_left_s FROM meta LIMIT 1"
    ).fetchone()
    if row is None or not (isinstance(row[0], bytes) and isinstance(row[1], int) and isinstance(row[2], bytes)):
        raise sqlite3.DatabaseError("it does not say what it holds")
    return Meta(row[0], row[1], row[2], Minimum(*row[3:6]), row[6])


def write_meta(db: sqlite3.Connection, meta: Meta) -> None:
    """Inside a transaction of the caller's."""
    db.execute(
        "UPDATE meta SET history = ?, generation = ?, digest = ?, low_slot = ?, low_source = ?, low_target = ?, listen_left_s = ?",
        (
            meta.history,
            meta.generation,
            meta.digest,
            meta.floor.slot,
            meta.floor.source_epoch,
            meta.floor.target_epoch,
            meta.listen_left_s,
        ),
    )


def create_file(path: Path, genesis_validators_root: bytes, meta: Meta) -> None:
    """An empty record. Raises: OSError, sqlite3.Error."""
    staged = path.with_name(path.name + ".new")
    for leftover in (staged, *(staged.with_name(staged.name + suffix) for suffix in SIDE_FILES)):
        leftover.unlink(missing_ok=True)
    staged.touch(0o600, exist_ok=False)
    db = connect(staged)
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("INSERT INTO meta (genesis_validators_root) VALUES (?)", (genesis_validators_root,))
        write_meta(db, meta)
        db.execute("COMMIT")
    finally:
        db.close()
    staged.rename(path)
    sync_folder(path.parent)


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)


def take_file(db: sqlite3.Connection, where: str, genesis_validators_root: bytes) -> int:
    """Make the file ours and look whether it is what it should be; its schema version. Raises: UserError, sqlite3.Error."""
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    if not tables:
        raise sqlite3.DatabaseError("it is empty")
    if application_id != APPLICATION_ID:
        raise UserError(where, "is the database of another program", "move it away or name another file")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version not in (1, SCHEMA_VERSION):
        raise UserError(where, f"has schema version {version}, this release knows {SCHEMA_VERSION}", "upgrade the node")
    db.execute("PRAGMA journal_mode = DELETE")  # brings home what an earlier release left in a write-ahead log
    db.execute("PRAGMA synchronous = FULL")
    db.execute("BEGIN IMMEDIATE")  # takes the file for this process
    db.execute("COMMIT")
    (state,) = db.execute("PRAGMA integrity_check(1)").fetchone()  # also that indexes and tables agree
    if state != "ok":
        raise sqlite3.DatabaseError(state)
    roots = db.execute("SELECT genesis_validators_root FROM meta").fetchall()
    if roots != [(genesis_validators_root,)]:
        raise UserError(
            where,
            "belongs to a chain with another genesis validators root",
            "check the beacon node's network; never delete this file while its keys are in use",
        )
    return int(version)


def upgrade_file(db: sqlite3.Connection, meta: Meta) -> None:
    """From schema 1. All or nothing. Raises: sqlite3.Error."""
    db.execute("BEGIN IMMEDIATE")
    try:
        for column in _NEW_IN_2:
            db.execute(f"ALTER TABLE meta ADD COLUMN {column}")
        write_meta(db, meta)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def digest_of(db: sqlite3.Connection, floor: Minimum) -> bytes:
    """Of everything that stands in the file, row by row: some 2 µs each. Raises: sqlite3.Error; also for what no record holds."""
    digest = Digest()
    try:
        for key_id, pubkey, *low in db.execute("SELECT id, pubkey, low_slot, low_source, low_target FROM keys"):
            digest.add_key(pubkey, Minimum(*low))
            digest.add_blocks(pubkey, db.execute("SELECT signing_root, slot FROM blocks WHERE key_id = ?", (key_id,)))
            digest.add_votes(pubkey, db.execute("SELECT signing_root, source, target FROM votes WHERE key_id = ?", (key_id,)))
        for table in ("blocks", "votes"):
            (orphans,) = db.execute(f"SELECT COUNT(*) FROM {table} WHERE key_id NOT IN (SELECT id FROM keys)").fetchone()  # noqa: S608
            if orphans:
                raise sqlite3.DatabaseError(f"{table} of no key")
    except (TypeError, AttributeError, OverflowError, struct.error):
        raise sqlite3.DatabaseError("a value of another kind") from None
    if floor != Minimum():
        digest.add_key(b"", floor)
    return digest.value


def highest_in(db: sqlite3.Connection, floor: Minimum) -> Minimum:
    """The highest slot, source and target of all keys, watermarks included."""
    (slot,) = db.execute(
        "SELECT MAX(x) FROM (SELECT MAX(slot) x FROM blocks UNION ALL SELECT MAX(low_slot) FROM keys)"
    ).fetchone()
    (source,) = db.execute(
        "SELECT MAX(x) FROM (SELECT MAX(source) x FROM votes UNION ALL SELECT MAX(low_source) FROM keys)"
    ).fetchone()
    (target,) = db.execute(
        "SELECT MAX(x) FROM (SELECT MAX(target) x FROM votes UNION ALL SELECT MAX(low_target) FROM keys)"
    ).fetchone()
    return Minimum(slot, source, target).joined(floor)
