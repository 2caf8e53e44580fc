"""The slashing records on disk, that never forget what they have promised: the record, and a trace of it in a second file.

    file                                    what                                                      by
    slashing-protection.sqlite              the record: everything that was signed                    slashing_file.py, this file
    slashing-protection.sqlite-journal      what SQLite needs after a kill, void otherwise            SQLite
    slashing-protection.trace               how far the record had come when the node last answered   twin_file.py, trace.py

`record` answers in this order: the transaction is on disk, then the trace, then the caller may sign. One transaction a `record`, all
entries or none. The trace stands beside the path that the operator named, so beside a link and not where it leads: a disk that isn't
mounted takes the record away, and not the trace.

    at the start (verdicts: trace.py)                            without is_lost          with is_lost
    FIRST                                                        begin a history          begin one, listen
    UPGRADE                                                      keep it, make a trace    the same
    INTACT                                                       go on                    the same: nothing was lost
    MISSING                                                      refuse                   begin a history, listen
    OLDER, CHANGED, FOREIGN, UNTRACED                            refuse                   keep what it has under a new history, listen
    damaged (SQLite, or its own digest, says so)                 refuse                   move it aside; as MISSING
    the trace is damaged                                         refuse                   move it aside; as UNTRACED or MISSING
    a link that leads nowhere; another program's file, another
    chain's, a later schema's; in use; not writable              refuse                   refuse

To listen is to let nothing be signed for `listen_s`. What is left of it stands in the record and shrinks by the time that the node
has run (`listened`), by no clock that could be set; so a restart neither shortens it nor begins it anew. Below the highest slot,
source and target that the trace remembers, a history begun after a loss signs nothing, ever. So is_lost may stay set: it never takes
an intact record's place, and listens once a loss.

An import only raises watermarks.
Limits: MAX_KEYS keys; those of `slashing_history.py` a key. Blocking: every call may wait for the disk; not thread-safe.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from actors.slashing.history import StoredHistory
from actors.slashing.record_file import (
    SIDE_FILES,
    Meta,
    connect,
    create_file,
    digest_of,
    highest_in,
    read_meta,
    take_file,
    upgrade_file,
    write_meta,
)
from actors.twin_file import TwinFault, TwinFile, create_twin, open_twin
from charon_actors.errors import Retryable, UserError
from charon_actors.passing_errors import may_pass
from charon_actors.slashing import (
    Allowed,
    Conflict,
    Digest,
    Entry,
    Interchange,
    InterchangeFault,
    Minimum,
    SlashableFault,
    State,
    Trace,
    TraceFault,
    Verdict,
    check,
    decode_trace,
    encode_trace,
    judge_record,
)

MAX_KEYS: Final = 100_000
LISTEN_S: Final = 768.0  # two epochs of mainnet
MAX_ASIDE: Final = 100  # damaged files that were moved aside


class Listening(Retryable):
    """After a loss of records nothing is signed yet, whatever it is."""

    def __init__(self, left_s: float) -> None:
        super().__init__(f"slashing records were lost: nothing is signed for another {left_s:.0f} s")


class DiskRefuses(Retryable):
    """The records can't be opened just now: the disk is full, or fails. Nothing is wrong with them, as far as one can tell."""


class SlashingStore:
    """Open with `open_store`. Raises of all methods: sqlite3.Error and OSError where the disk fails; then nothing was promised.

    has_begun_anew: this opening found a loss, and began a history that listens.
    """

    def __init__(
        self, connection: sqlite3.Connection, genesis_validators_root: bytes, trace: TwinFile, *, has_begun_anew: bool = False
    ) -> None:
        self._db, self._root, self._trace = connection, genesis_validators_root, trace
        self._traced = decode_trace(trace.content)
        self._highest = self._traced.highest
        self._meta = read_meta(connection)
        self.has_begun_anew = has_begun_anew

    @property
    def listen_left_s(self) -> float:
        """How long nothing may be signed yet; 0 when it may."""
        return self._meta.listen_left_s or 0.0

    def listened(self, seconds: float) -> None:
        """So much time has passed."""
        left_s = self.listen_left_s - seconds
        meta = msgspec.structs.replace(self._meta, listen_left_s=left_s if left_s > 0 else None)
        self._db.execute("UPDATE meta SET listen_left_s = ?", (meta.listen_left_s,))
        self._meta = meta

    def close(self) -> None:
        self._db.close()
        self._trace.close()

    def record(self, entries: Sequence[Entry]) -> None:
        """Put all entries on disk, or none.

        Raises: SlashableFault (the first entry that must not be signed), Listening (none may be).
        """
        if self.listen_left_s:
            raise Listening(self.listen_left_s)
        with self._transaction() as digest:
            for entry in entries:
                if entry.signing_root is None or len(entry.signing_root) != 32 or len(entry.pubkey) != 48:
                    raise ValueError("an entry to be signed has a signing root of 32 bytes and a public key of 48")
                history = StoredHistory(self._db, self._key_id(entry.pubkey, digest), entry.pubkey, digest)
                match check(history, entry):
                    case Conflict() as conflict:
                        raise SlashableFault(conflict)
                    case Allowed.RECORD:
                        history.add(entry)
                        history.prune()
                    case Allowed.REPEAT:
                        pass
        self._leave_trace(entries)

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
        with self._transaction() as digest:
            for pubkey, entries in by_key.items():
                StoredHistory(self._db, self._key_id(pubkey, digest), pubkey, digest).raise_minimum(entries)
        self._leave_trace(interchange.entries)
        return len(interchange.entries)

    def export(self) -> Interchange:
        """All histories; a watermark becomes an entry without a signing root."""
        entries: list[Entry] = []
        for key_id, pubkey in self._db.execute("SELECT id, pubkey FROM keys ORDER BY id").fetchall():
            entries.extend(StoredHistory(self._db, key_id, pubkey, Digest()).entries())
        return Interchange(self._root, tuple(entries))

    def _key_id(self, pubkey: bytes, digest: Digest) -> int:
        row = self._db.execute("SELECT id FROM keys WHERE pubkey = ?", (pubkey,)).fetchone()
        if row is not None:
            return int(row[0])
        (count,) = self._db.execute("SELECT COUNT(*) FROM keys").fetchone()
        if count >= MAX_KEYS:
            raise ValueError(f"the slashing database holds {MAX_KEYS} keys, no more")
        floor = self._meta.floor
        inserted = self._db.execute(
            "INSERT INTO keys (pubkey, low_slot, low_source, low_target) VALUES (?, ?, ?, ?)",
            (pubkey, floor.slot, floor.source_epoch, floor.target_epoch),
        ).lastrowid
        assert inserted is not None, "an INSERT has a row"
        digest.add_key(pubkey, floor)
        return inserted

    @contextmanager
    def _transaction(self) -> Iterator[Digest]:
        """All or nothing. What the block changes it adds to the digest; then the record is a generation older."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            before = self._meta = read_meta(self._db)  # whatever a disk that failed made of the transaction before
            digest = Digest(before.digest)
            yield digest
            meta = before
            if digest.value != before.digest:
                meta = msgspec.structs.replace(before, generation=before.generation + 1, digest=digest.value)
                write_meta(self._db, meta)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._meta = meta

    def _leave_trace(self, entries: Iterable[Entry]) -> None:
        """Only now may the caller hear of it. What a full disk kept from the trace last time is in it this time."""
        for entry in entries:
            self._highest = self._highest.raised_by(entry)
        meta = self._meta
        trace = Trace(meta.history, meta.generation, meta.digest, self._highest)
        if trace != self._traced:
            self._trace.write(encode_trace(trace))
            self._traced = trace


def open_store(path: Path, genesis_validators_root: bytes, *, is_lost: bool = False, listen_s: float = LISTEN_S) -> SlashingStore:
    """Open the records in the file `path`, or make it (its folder exists), together with its trace.

    genesis_validators_root: 32 bytes, of the chain. is_lost: the operator says that records were lost (table on top). listen_s: how
    long to listen after a loss.
    Raises: UserError (not ours, damaged, lost, older than its trace, of another chain or a later release, in use, or not writable);
    DiskRefuses (try again).
    """
    return _Opening(path, genesis_validators_root, is_lost, listen_s).store()


class _Opening:
    def __init__(self, path: Path, genesis_validators_root: bytes, is_lost: bool, listen_s: float) -> None:
        self._path, self._root, self._is_lost, self._listen_s = path, genesis_validators_root, is_lost, listen_s
        self._trace_path = path.with_suffix(".trace")
        self._trace: TwinFile | None = None
        self._db: sqlite3.Connection | None = None

    def store(self) -> SlashingStore:
        try:
            return self._open()
        except BaseException as error:
            if self._db is not None:
                self._db.close()
            if self._trace is not None:
                self._trace.close()
            match error:
                case BlockingIOError():
                    raise UserError(record_at(self._path), _IN_USE, _STOP_THE_OTHER) from None
                case sqlite3.DatabaseError():
                    raise _as_told(record_at(self._path), error) from None
                case OSError() if may_pass(error):
                    raise DiskRefuses(f"{record_at(self._path)} can't be opened: {error}") from None
                case OSError():
                    raise UserError(
                        record_at(self._path), f"cannot be opened: {error}", "check the folder and its permissions"
                    ) from None
            raise

    def _open(self) -> SlashingStore:
        for path in (self._path, self._trace_path):
            if path.is_symlink() and not path.exists():
                raise UserError(
                    record_at(self._path),
                    f"{path} is a link to {os.readlink(path)}, which is not there",
                    f"mount or restore what it leads to; if it is lost for good, remove the link and {_SAY_SO}",
                )
        trace = self._read_trace()
        record = self._read_record()
        verdict = judge_record(record, trace)
        match verdict:
            case Verdict.FIRST if not self._is_lost:
                self._begin(trace)
            case Verdict.FIRST | Verdict.MISSING if self._is_lost:
                self._begin_after_loss(trace)
            case Verdict.UPGRADE:
                assert record is not None
                self._upgrade(record, trace)
            case Verdict.INTACT:
                pass
            case _ if self._is_lost:
                self._keep_after_loss(record, trace)
            case _:
                raise UserError(record_at(self._path), _why_refused(verdict), _LOST)
        has_begun_anew = verdict is not Verdict.UPGRADE and verdict is not Verdict.INTACT and self._is_lost
        assert self._db is not None, "every way here has opened the record"
        assert self._trace is not None, "and left a trace"
        store = SlashingStore(self._db, self._root, self._trace, has_begun_anew=has_begun_anew)
        store._leave_trace(())  # a crash may have come between the two
        return store

    def _read_trace(self) -> Trace | None:
        if not self._trace_path.exists():
            return None
        try:
            self._trace = open_twin(self._trace_path)
            return decode_trace(self._trace.content)
        except (TwinFault, TraceFault) as fault:
            if not self._is_lost:
                raise UserError(record_at(self._path), f"its trace {self._trace_path.name} is damaged: {fault}", _LOST) from None
        if self._trace is not None:
            self._trace.close()
            self._trace = None
        _move_aside(self._trace_path)
        return None

    def _read_record(self) -> State | None:
        """Open the record and compare it with its own digest; None when there is none, or a damaged one was moved aside."""
        if not self._path.exists():
            leftovers = [path for path in map(self._beside, SIDE_FILES) if path.exists()]
            if leftovers and not self._is_lost:
                raise UserError(record_at(self._path), "is missing, though its journal is there", _LOST)
            for path in leftovers:
                _move_aside(path)
            return None
        try:
            return self._opened()
        except sqlite3.DatabaseError as error:
            if not self._is_lost or not _is_damage(error):
                raise
        if self._db is not None:
            self._db.close()
            self._db = None
        for path in (self._path.resolve(), *map(self._beside, SIDE_FILES)):
            if path.exists():
                _move_aside(path)
        return None

    def _opened(self) -> State:
        self._path.chmod(0o600)
        db = self._db = connect(self._path)
        version = take_file(db, record_at(self._path), self._root)
        if version == 1:
            return State(None, 1, digest_of(db, Minimum()))
        meta = read_meta(db)
        if digest_of(db, meta.floor) != meta.digest:
            raise sqlite3.DatabaseError("it does not hold what it says it holds")
        return meta.state

    def _beside(self, suffix: str) -> Path:
        real = self._path.resolve()
        return real.with_name(real.name + suffix)

    def _begin(self, trace: Trace | None) -> None:
        """The trace first: from its generation 0 one can tell that nothing was answered yet."""
        if trace is None:
            trace = Trace(os.urandom(16), 0, Digest().value, Minimum())
            self._trace = create_twin(self._trace_path, encode_trace(trace))
        self._create(Meta(trace.history, 0, trace.digest))

    def _begin_after_loss(self, trace: Trace | None) -> None:
        """The record first: until the trace follows it is a foreign one, which is refused."""
        floor = Minimum() if trace is None else trace.highest
        digest = Digest()
        if floor != Minimum():
            digest.add_key(b"", floor)
        meta = Meta(os.urandom(16), 1, digest.value, floor, self._listen_s)
        self._create(meta)
        self._trace_anew(Trace(meta.history, 1, meta.digest, floor))

    def _create(self, meta: Meta) -> None:
        create_file(self._path.resolve(), self._root, meta)
        self._opened()

    def _upgrade(self, record: State, trace: Trace | None) -> None:
        """The trace first: with the digest of what is there one can tell that it is just this file that is being upgraded."""
        assert self._db is not None
        if trace is None:
            trace = Trace(os.urandom(16), 1, record.digest, highest_in(self._db, Minimum()))
            self._trace = create_twin(self._trace_path, encode_trace(trace))
        upgrade_file(self._db, Meta(trace.history, 1, record.digest))

    def _keep_after_loss(self, record: State | None, trace: Trace | None) -> None:
        """What it has still counts; what it may have forgotten lies below the floor."""
        db = self._db
        assert db is not None
        assert record is not None
        if record.history is None:
            upgrade_file(db, Meta(os.urandom(16), 1, record.digest))
        old = read_meta(db)
        floor = old.floor if trace is None else old.floor.joined(trace.highest)
        meta = Meta(os.urandom(16), old.generation + 1, old.digest, floor, self._listen_s)
        db.execute("BEGIN IMMEDIATE")
        try:
            for key_id, *low in db.execute("SELECT id, low_slot, low_source, low_target FROM keys").fetchall():
                raised = Minimum(*low).joined(floor)
                row = (raised.slot, raised.source_epoch, raised.target_epoch, key_id)
                db.execute("UPDATE keys SET low_slot = ?, low_source = ?, low_target = ? WHERE id = ?", row)
            meta = msgspec.structs.replace(meta, digest=digest_of(db, floor))
            write_meta(db, meta)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self._trace_anew(Trace(meta.history, meta.generation, meta.digest, highest_in(db, floor)))

    def _trace_anew(self, trace: Trace) -> None:
        if self._trace is not None:
            self._trace.close()
            self._trace = None
        self._trace = create_twin(self._trace_path, encode_trace(trace))


def record_at(path: Path) -> str:
    return f"slashing protection database {path}"


def _move_aside(path: Path) -> None:
    """Under another name in the same folder; nothing is ever deleted. Raises: OSError."""
    for number in range(MAX_ASIDE):
        aside = path.with_name(f"{path.name}.lost-{number}")
        if not os.path.lexists(aside):
            path.rename(aside)
            return
    raise FileExistsError(f"{path}.lost-0 to {MAX_ASIDE - 1} are all there")


_SAY_SO = "start once with --slashing-record-lost, which listens for two epochs before it signs"
_LOST = f"put that very file back, with the files beside it; if it is lost for good, {_SAY_SO}"
_IN_USE = "is in use by another process"
_STOP_THE_OTHER = "stop the other node; never run two with the same keys"


def _why_refused(verdict: Verdict) -> str:
    if verdict is Verdict.MISSING:
        return "is missing, though this node has signed with it"
    if verdict is Verdict.OLDER:
        return "is an older copy, which has forgotten what was signed since"
    if verdict is Verdict.FOREIGN:
        return "is not the one that this node has signed with last"
    if verdict is Verdict.UNTRACED:
        return "has come without its trace, so nobody can tell whether it is the newest"
    return "is not what this node has left: it was edited, or mixed from two copies"


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Of the file, and not of the moment or its permissions."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is None or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def _as_told(where: str, error: sqlite3.DatabaseError) -> UserError | DiskRefuses:
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UserError(where, _IN_USE, _STOP_THE_OTHER)
    if code is not None and code & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM):
        return DiskRefuses(f"{where} can't be opened: {error}")
    if not _is_damage(error):
        return UserError(where, f"cannot be written: {error}", "check permissions and free space")
    return UserError(where, f"is damaged: {error}", _LOST)
