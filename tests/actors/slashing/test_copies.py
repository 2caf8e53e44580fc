"""What operators, disks and kills do with the record's files: the start is refused, or everything that was answered is known."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from actors.slashing.store import Listening, SlashingStore, open_store
from charon_actors.errors import UserError
from charon_actors.slashing import AttestationEntry, BlockEntry, Conflict, Reason, SlashableFault

ROOT = bytes(range(32))
KEY = bytes([1]) * 48
OTHER_KEY = bytes([2]) * 48
HERE = Path(__file__).parents[3]
NAME = "slashing-protection.sqlite"
TRACE = "slashing-protection.trace"


def vote(target: int, root: int = 1, source: int | None = None, key: bytes = KEY) -> AttestationEntry:
    return AttestationEntry(key, bytes([root]) * 32, target - 1 if source is None else source, target)


def double(target: int) -> AttestationEntry:
    return vote(target, root=9)


def signed(path: Path, targets: range) -> None:
    store = open_store(path, ROOT)
    for target in targets:
        store.record([vote(target)])
    store.close()


def refused(path: Path, words: str) -> None:
    """Said in one line, with the way out of it, and nothing was touched."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file() and not file.is_symlink()}
    with pytest.raises(UserError, match=words) as error:
        open_store(path, ROOT)
    assert "--slashing-record-lost" in str(error.value)
    assert "\n" not in str(error.value)
    after = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file() and not file.is_symlink()}
    assert after == before


def after_listening(path: Path) -> SlashingStore:
    """Started with --slashing-record-lost, and two epochs later."""
    store = open_store(path, ROOT, is_lost=True, listen_s=10)
    with pytest.raises(Listening):
        store.record([vote(10**6)])
    store.listened(10)
    return store


KILLED_AFTER = """
import os, pathlib, signal, sys
from actors.slashing.store import open_store
from charon_actors.slashing import AttestationEntry
store = open_store(pathlib.Path(sys.argv[1]), bytes(range(32)))
for target in range(1, int(sys.argv[2]) + 1):
    store.record([AttestationEntry(bytes([1]) * 48, bytes([1]) * 32, target - 1, target)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_after(path: Path, records: int) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_AFTER, str(path), str(records)], cwd=HERE, check=False)
    assert done.returncode == -signal.SIGKILL


# a link that leads nowhere


def test_a_dangling_link_is_refused_and_begins_nothing(tmp_path: Path) -> None:
    """The disk with the record isn't mounted: 60 votes would be forgotten, and a conflicting one allowed."""
    disk, data = tmp_path / "disk", tmp_path / "data"
    disk.mkdir()
    data.mkdir()
    path = data / NAME
    path.symlink_to(disk / "record.sqlite")
    with pytest.raises(UserError, match=r"is a link to .*record\.sqlite, which is not there"):
        open_store(path, ROOT)
    with pytest.raises(UserError, match="is a link to"):  # whatever the operator says in a unit file
        open_store(path, ROOT, is_lost=True)
    assert path.is_symlink()
    assert list(disk.iterdir()) == []


def test_a_record_behind_a_link_leaves_its_trace_beside_the_link(tmp_path: Path) -> None:
    disk, data = tmp_path / "disk", tmp_path / "data"
    disk.mkdir()
    data.mkdir()
    path = data / NAME
    signed(disk / NAME, range(1, 5))
    (disk / TRACE).rename(data / TRACE)
    path.symlink_to(disk / NAME)
    signed(path, range(5, 9))
    shutil.move(disk, tmp_path / "unmounted")
    with pytest.raises(UserError, match="is a link to"):
        open_store(path, ROOT)
    path.unlink()
    refused(path, "is missing, though this node has signed with it")
    path.symlink_to(disk / NAME)
    shutil.move(tmp_path / "unmounted", disk)
    store = open_store(path, ROOT)
    with pytest.raises(SlashableFault):
        store.record([double(8)])
    store.record([vote(9)])
    store.close()


# one file of several


def test_the_main_file_alone_holds_everything_that_was_answered(tmp_path: Path) -> None:
    """60 records, kill -9, and only the file that everybody thinks is the record is copied, with its trace."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    killed_after(here / NAME, 60)
    db = sqlite3.connect(f"file:{here / NAME}?mode=ro&immutable=1", uri=True)  # looks at no journal
    assert db.execute("SELECT COUNT(*) FROM votes").fetchone() == (60,)
    db.close()
    shutil.copy(here / NAME, there / NAME)
    refused(there / NAME, "without its trace")
    shutil.copy(here / TRACE, there / TRACE)
    store = open_store(there / NAME, ROOT)
    for target in range(1, 61):
        with pytest.raises(SlashableFault):
            store.record([double(target)])
    store.record([vote(61)])
    store.close()


def test_side_files_that_are_removed_take_nothing_along(tmp_path: Path) -> None:
    path = tmp_path / NAME
    killed_after(path, 60)
    for suffix in ("-wal", "-shm", "-journal"):
        (tmp_path / (NAME + suffix)).unlink(missing_ok=True)
    store = open_store(path, ROOT)
    with pytest.raises(SlashableFault) as fault:
        store.record([double(60)])
    conflict: Conflict = fault.value.conflict
    assert conflict.kind is Reason.DOUBLE_VOTE
    store.close()


@pytest.mark.parametrize("older_by", [1, 3, 7])
def test_an_older_copy_is_refused(tmp_path: Path, older_by: int) -> None:
    path, copy = tmp_path / NAME, tmp_path / "copy"
    signed(path, range(1, 11 - older_by))
    shutil.copy(path, copy)
    signed(path, range(11 - older_by, 11))
    shutil.copy(copy, path)
    refused(path, "an older copy")
    store = after_listening(path)
    with pytest.raises(SlashableFault):
        store.record([double(10)])
    with pytest.raises(SlashableFault):
        store.record([vote(10, key=OTHER_KEY)])  # it can't know whose the forgotten ones were
    with pytest.raises(SlashableFault):
        store.record([double(2)])  # what the copy has counts as well
    store.record([vote(11), BlockEntry(KEY, bytes(32), 1)])
    store.close()
    signed(path, range(12, 14))


def test_a_record_that_was_deleted_is_refused_and_the_trace_forbids_what_was_signed(tmp_path: Path) -> None:
    path = tmp_path / NAME
    signed(path, range(1, 11))
    path.unlink()
    refused(path, "is missing, though this node has signed with it")
    store = after_listening(path)
    for forgotten in (double(10), vote(11, source=2), vote(9, key=OTHER_KEY)):
        with pytest.raises(SlashableFault):
            store.record([forgotten])
    store.record([vote(11)])
    store.close()
    signed(path, range(12, 14))


@pytest.mark.parametrize("content", [b"", b"nonsense" * 2000])
def test_an_emptied_record_is_refused_and_moved_aside_only_when_it_is_lost(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / NAME
    signed(path, range(1, 11))
    path.write_bytes(content)
    refused(path, "is damaged")
    store = after_listening(path)
    assert (tmp_path / (NAME + ".lost-0")).read_bytes() == content
    with pytest.raises(SlashableFault):
        store.record([double(10)])
    store.close()


def test_an_empty_record_of_another_beginning_is_refused(tmp_path: Path) -> None:
    path = tmp_path / NAME
    signed(path, range(1, 11))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    open_store(elsewhere / NAME, ROOT).close()
    shutil.copy(elsewhere / NAME, path)
    refused(path, "not the one that this node has signed with last")


def test_a_record_that_was_edited_is_refused(tmp_path: Path) -> None:
    path = tmp_path / NAME
    signed(path, range(1, 11))
    db = sqlite3.connect(path)
    db.execute("DELETE FROM votes WHERE target = 10")
    db.commit()
    db.close()
    refused(path, "does not hold what it says it holds")


def test_a_trace_that_is_lost_or_damaged_is_refused_and_made_again(tmp_path: Path) -> None:
    path, trace = tmp_path / NAME, tmp_path / TRACE
    signed(path, range(1, 11))
    trace.unlink()
    refused(path, "without its trace")
    store = after_listening(path)
    with pytest.raises(SlashableFault):
        store.record([double(10)])
    store.close()
    trace.write_bytes(bytes(8192))
    refused(path, "its trace .* is damaged")
    after_listening(path).close()
    assert (tmp_path / (TRACE + ".lost-0")).exists()
    signed(path, range(11, 13))


def test_one_spoilt_half_of_the_trace_is_no_loss(tmp_path: Path) -> None:
    """A crash in the middle of a write."""
    path, trace = tmp_path / NAME, tmp_path / TRACE
    for half in (0, 1, 0, 1):
        signed(path, range(1, 11))
        content = bytearray(trace.read_bytes())
        content[half * 4096 + 40] ^= 0xFF
        whole = bytes(content)
        if half != int(content[8:16] < content[4096 + 8 : 4096 + 16]):  # the older half, which a write would have been in
            trace.write_bytes(whole)
            store = open_store(path, ROOT)
            with pytest.raises(SlashableFault):
                store.record([double(10)])
            store.close()


def test_both_are_gone_and_nobody_can_know_but_the_operator(tmp_path: Path) -> None:
    path = tmp_path / NAME
    signed(path, range(1, 11))
    path.unlink()
    (tmp_path / TRACE).unlink()
    store = after_listening(path)
    store.record([double(10)])  # nothing remembers it: documented, and why it listens
    store.close()


# the flag


def test_the_flag_may_stay_in_a_unit_file(tmp_path: Path) -> None:
    path = tmp_path / NAME
    signed(path, range(1, 11))
    for target in range(11, 14):  # an intact record: no effect at all
        store = open_store(path, ROOT, is_lost=True)
        assert not store.has_begun_anew
        store.record([vote(target)])
        with pytest.raises(SlashableFault):
            store.record([double(5)])
        store.close()
    path.unlink()
    store = open_store(path, ROOT, is_lost=True, listen_s=100)
    assert store.has_begun_anew
    store.listened(60)
    store.close()
    store = open_store(path, ROOT, is_lost=True, listen_s=100)
    assert not store.has_begun_anew
    assert store.listen_left_s == 40, "neither shortened nor begun anew"
    with pytest.raises(Listening):
        store.record([vote(20)])
    store.listened(40)
    store.close()
    for target in (20, 21):
        store = open_store(path, ROOT, is_lost=True, listen_s=100)
        store.record([vote(target)])
        store.close()


def test_the_flag_overrides_neither_another_chain_nor_another_program(tmp_path: Path) -> None:
    path = tmp_path / NAME
    signed(path, range(1, 3))
    with pytest.raises(UserError, match="another genesis validators root"):
        open_store(path, bytes(32), is_lost=True)
    store = open_store(path, ROOT)
    with pytest.raises(UserError, match="in use"):
        open_store(path, ROOT, is_lost=True)
    store.close()
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(UserError, match="another program"):
        open_store(path, ROOT, is_lost=True)


# the first start, and the first start of this release


def test_a_first_start_that_was_interrupted_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import actors.slashing.store as module

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / NAME
    with monkeypatch.context() as patch:
        patch.setattr(module, "create_file", killed)
        with pytest.raises(KeyboardInterrupt):
            open_store(path, ROOT)
    assert [file.name for file in tmp_path.iterdir()] == [TRACE]
    signed(path, range(1, 3))


SCHEMA_1 = """
CREATE TABLE meta (genesis_validators_root BLOB NOT NULL);
CREATE TABLE keys (
    id INTEGER PRIMARY KEY, pubkey BLOB NOT NULL UNIQUE, low_slot INTEGER, low_source INTEGER, low_target INTEGER);
CREATE TABLE blocks (key_id INTEGER NOT NULL REFERENCES keys, slot INTEGER NOT NULL, signing_root BLOB);
CREATE TABLE votes (
    key_id INTEGER NOT NULL REFERENCES keys, target INTEGER NOT NULL, source INTEGER NOT NULL, signing_root BLOB);
CREATE INDEX blocks_by_slot ON blocks (key_id, slot);
CREATE INDEX votes_by_target ON votes (key_id, target, source);
CREATE INDEX votes_by_source ON votes (key_id, source, target);
PRAGMA application_id = 1128354640;
PRAGMA user_version = 1;
"""
EARLIER_RELEASE = (
    """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.executescript('''"""
    + SCHEMA_1
    + """''')
db.execute("INSERT INTO meta VALUES (?)", (bytes(range(32)),))
db.execute("PRAGMA locking_mode = EXCLUSIVE")
db.execute("PRAGMA journal_mode = WAL")
db.execute("INSERT INTO keys VALUES (1, ?, 7, 3, 4)", (bytes([1]) * 48,))
for target in range(5, 11):
    db.execute("INSERT INTO votes VALUES (1, ?, ?, ?)", (target, target - 1, bytes([1]) * 32))
os.kill(os.getpid(), signal.SIGKILL)
"""
)


def earlier_release(path: Path) -> None:
    """Its record, with the newest entries in a write-ahead log: it was killed."""
    subprocess.run([sys.executable, "-c", EARLIER_RELEASE, str(path)], check=False)
    assert path.with_name(path.name + "-wal").stat().st_size > 0


def test_the_record_of_an_earlier_release_is_taken_over_with_all_its_entries(tmp_path: Path) -> None:
    path = tmp_path / NAME
    earlier_release(path)
    store = open_store(path, ROOT)
    assert not path.with_name(path.name + "-wal").exists()
    assert not store.listen_left_s
    for known in (double(10), vote(4), vote(12, source=2), BlockEntry(KEY, bytes(32), 7)):
        with pytest.raises(SlashableFault):
            store.record([known])
    store.record([vote(11)])
    store.close()
    signed(path, range(12, 14))
    path.unlink()
    refused(path, "is missing")


def test_an_upgrade_that_was_interrupted_is_repeated_with_the_very_same_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import actors.slashing.store as module

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    path, copy = tmp_path / NAME, tmp_path / "copy"
    earlier_release(path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "upgrade_file", killed)
        with pytest.raises(KeyboardInterrupt):
            open_store(path, ROOT)
    shutil.copy(path, copy)
    path.unlink()
    refused(path, "is missing")
    shutil.copy(copy, path)
    signed(path, range(11, 13))
    shutil.copy(copy, path)  # from before the upgrade
    refused(path, "an older copy")


# kills at every moment

WRITES = """
import os, pathlib, sys
import actors.slashing.store
from actors.slashing.store import open_store
from charon_actors.slashing import AttestationEntry
store = open_store(pathlib.Path(sys.argv[1]), bytes(range(32)))
target = int(sys.argv[2])
print("ready", flush=True)
while True:
    target += 1
    store.record([AttestationEntry(bytes([k]) * 48, bytes([1]) * 32, target - 1, target) for k in range(1, 5)])
    os.write(1, b"%d\\n" % target)
"""


@pytest.mark.parametrize("moments", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_whatever_was_answered_before_a_kill_is_in_the_main_file_and_its_trace(tmp_path: Path, moments: int) -> None:
    """A process that only writes is killed at many moments; each time only two files go on to the next machine."""
    answered, folder = 0, tmp_path / "0"
    folder.mkdir()
    for moment in range(moments):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITES, str(folder / NAME), str(answered)], cwd=HERE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for _ in range(3 + moment % 5):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        process.wait()
        process.stdout.close()
        with_journal = open_answered(folder / NAME)
        numbers = [int(line) for line in rest.splitlines() if line.strip()]
        answered = max([answered, *numbers])
        assert with_journal >= answered
        answered = with_journal
        following = tmp_path / str(moment + 1)
        following.mkdir()
        shutil.copy(folder / NAME, following / NAME)
        shutil.copy(folder / TRACE, following / TRACE)
        folder = following


def open_answered(path: Path) -> int:
    """The highest target on record, of all four keys."""
    store = open_store(path, ROOT)
    entries = store.export().entries
    for key in range(1, 5):
        targets = {entry.target_epoch for entry in entries if isinstance(entry, AttestationEntry) and entry.pubkey[0] == key}
        assert targets == set(range(min(targets), max(targets) + 1))
    store.close()
    return max(entry.target_epoch for entry in entries if isinstance(entry, AttestationEntry))


def answered_or_damaged(path: Path) -> int | None:
    """None for a file that is refused because it is damaged."""
    try:
        return open_answered(path)
    except UserError as error:
        if "damaged" not in str(error):
            raise
        return None


def test_copies_of_the_main_file_at_every_moment_are_whole_or_refused(tmp_path: Path) -> None:
    """Copied alone, without any journal, while a transaction is on its way."""
    here = tmp_path / "here"
    here.mkdir()
    process = subprocess.Popen([sys.executable, "-c", WRITES, str(here / NAME), "0"], cwd=HERE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), True)
    assert process.stdout.readline() == b"ready\n"
    known, whole, torn = 0, 0, 0
    try:
        for number in range(40):
            known = int(process.stdout.readline())
            there = tmp_path / f"there{number}"
            there.mkdir()
            shutil.copy(here / TRACE, there / TRACE)  # the older first: no false alarm
            shutil.copy(here / NAME, there / NAME)
            found = answered_or_damaged(there / NAME)
            if found is None:
                torn += 1
            else:
                assert found >= known
                whole += 1
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert whole + torn == 40
    assert whole
