"""The records on disk: no two conflicting entries are ever both allowed, whatever is pruned, imported or reopened."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import actors.slashing.history as store_module
from actors.slashing.store import SlashingStore, open_store
from charon_actors.errors import UserError
from charon_actors.slashing import (
    AttestationEntry,
    BlockEntry,
    Entry,
    Interchange,
    InterchangeFault,
    Reason,
    SlashableFault,
    decode_interchange,
    encode_interchange,
)
from tests.charon_actors.slashing.naive import conflicts

ROOT = bytes(range(32))
KEYS = [bytes([number]) * 48 for number in (1, 2)]


def vote(source: int, target: int, root: int = 1, key: int = 0) -> AttestationEntry:
    return AttestationEntry(KEYS[key], bytes([root]) * 32, source, target)


def block(slot: int, root: int = 1, key: int = 0) -> BlockEntry:
    return BlockEntry(KEYS[key], bytes([root]) * 32, slot)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "slashing.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SlashingStore]:
    opened = open_store(path, ROOT)
    yield opened
    opened.close()


def test_all_entries_or_none(store: SlashingStore) -> None:
    store.record([vote(1, 2)])
    with pytest.raises(SlashableFault) as fault:
        store.record([vote(1, 3, key=1), vote(1, 2, root=9)])
    assert fault.value.conflict.kind is Reason.DOUBLE_VOTE
    assert fault.value.conflict.existing == vote(1, 2)
    assert store.export().entries == (vote(1, 2),)
    store.record([vote(1, 3, key=1)])


def test_entries_of_one_request_are_checked_against_each_other(store: SlashingStore) -> None:
    with pytest.raises(SlashableFault):
        store.record([block(5), block(5, root=2)])
    store.record([block(5), block(5)])


def test_a_repeat_changes_nothing(store: SlashingStore) -> None:
    for _ in range(3):
        store.record([vote(1, 2), block(7)])
    assert store.export().entries == (block(7), vote(1, 2))


def test_reopened_records_still_count(path: Path) -> None:
    first = open_store(path, ROOT)
    first.record([vote(1, 2)])
    first.close()
    second = open_store(path, ROOT)
    with pytest.raises(SlashableFault):
        second.record([vote(1, 2, root=2)])
    second.close()


def test_records_survive_a_process_that_dies_without_closing(path: Path) -> None:
    program = f"""
import os, pathlib
from actors.slashing.store import open_store
from charon_actors.slashing import AttestationEntry
store = open_store(pathlib.Path({str(path)!r}), {ROOT!r})
store.record([AttestationEntry({KEYS[0]!r}, bytes([1]) * 32, 1, 2)])
os._exit(9)
"""
    folder = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", program], cwd=folder, check=False).returncode == 9
    store = open_store(path, ROOT)
    with pytest.raises(SlashableFault):
        store.record([vote(1, 2, root=2)])
    store.close()


def test_only_the_owner_may_read_the_file(path: Path, store: SlashingStore) -> None:
    store.record([vote(1, 2)])
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_durability_settings(store: SlashingStore) -> None:
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_second_process_is_refused(path: Path, store: SlashingStore) -> None:
    with pytest.raises(UserError, match="in use by another process"):
        open_store(path, ROOT)


def test_another_chain_is_refused(path: Path, store: SlashingStore) -> None:
    store.close()
    with pytest.raises(UserError, match="another genesis validators root"):
        open_store(path, bytes(32))


@pytest.mark.parametrize("content", [b"", b"not a database, but longer than a header" * 100, b"SQLite format 3\0" + bytes(84)])
def test_a_damaged_file_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        open_store(path, ROOT)
    assert path.read_bytes() == content


def test_a_page_overwritten_in_the_middle_is_refused(path: Path) -> None:
    store = open_store(path, ROOT)
    store.record([vote(n, n + 1) for n in range(400)])
    store.close()
    data = bytearray(path.read_bytes())
    data[3 * 4096 : 4 * 4096] = os.urandom(4096)
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        open_store(path, ROOT)


def test_the_database_of_another_program_is_refused(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(UserError, match="another program"):
        open_store(path, ROOT)


def test_a_later_schema_is_refused(path: Path, store: SlashingStore) -> None:
    store._db.execute("PRAGMA user_version = 3")
    store.close()
    with pytest.raises(UserError, match="schema version 3"):
        open_store(path, ROOT)


def test_a_file_lost_beside_its_journal_is_refused(path: Path) -> None:
    path.with_name(path.name + "-wal").write_bytes(b"x")
    with pytest.raises(UserError, match="missing"):
        open_store(path, ROOT)


def test_an_interrupted_creation_is_repeated(path: Path) -> None:
    path.with_name(path.name + ".new").write_bytes(b"half")
    open_store(path, ROOT).close()


def test_pruning_bounds_the_file_and_forgets_nothing(store: SlashingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "KEPT_VOTES", 8)
    monkeypatch.setattr(store_module, "KEPT_BLOCKS", 8)
    monkeypatch.setattr(store_module, "PRUNE_SLACK", 2)
    for number in range(1, 100):
        store.record([vote(number - 1, number), block(number)])
    (votes,), (blocks,) = (store._db.execute(f"SELECT COUNT(*) FROM {t}").fetchone() for t in ("votes", "blocks"))
    assert votes <= 10
    assert blocks <= 10
    low = store._db.execute("SELECT low_slot, low_source, low_target FROM keys").fetchone()
    assert low == (99 - blocks, 98 - votes, 99 - votes), "the watermark stands right below what is kept"
    for number in range(1, 100):
        for new in (vote(number - 1, number, root=2), block(number, root=2), vote(0, 200), vote(0, number)):
            if new in store.export().entries:
                continue
            with pytest.raises(SlashableFault):
                store.record([new])
    store.record([vote(99, 100), block(100)])


def test_export_can_be_imported_and_protects_as_well(
    store: SlashingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "KEPT_VOTES", 3)
    monkeypatch.setattr(store_module, "PRUNE_SLACK", 0)
    for number in range(1, 9):
        store.record([vote(number - 1, number), block(number, key=1)])
    data = encode_interchange(store.export())
    other = open_store(tmp_path / "other.sqlite", ROOT)
    other.import_entries(decode_interchange(data))
    for new in (vote(1, 8, root=2), vote(1, 9), vote(3, 4), block(8, root=2, key=1), block(3, key=1)):
        if new in store.export().entries:
            continue
        with pytest.raises(SlashableFault):
            other.record([new])
    other.record([vote(7, 9), block(9, key=1)])
    other.close()


def test_an_import_of_another_chain_changes_nothing(store: SlashingStore) -> None:
    with pytest.raises(InterchangeFault):
        store.import_entries(Interchange(bytes(32), (vote(1, 2),)))
    assert store.export().entries == ()


def test_an_import_that_conflicts_with_itself_forbids_both(store: SlashingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "KEPT_VOTES", 1)
    monkeypatch.setattr(store_module, "PRUNE_SLACK", 1)
    bad = (vote(0, 1), vote(0, 2), vote(0, 1, root=2))
    store.import_entries(Interchange(ROOT, bad))
    store.import_entries(Interchange(ROOT, bad[:1]))
    store.import_entries(Interchange(ROOT, (vote(3, 8), vote(4, 7))))
    for new in (*bad[::2], vote(3, 8), vote(4, 7)):
        with pytest.raises(SlashableFault):
            store.record([new])


def test_a_minified_import_protects_everything_below(store: SlashingStore) -> None:
    store.record([vote(1, 2)])
    store.import_entries(Interchange(ROOT, (AttestationEntry(KEYS[0], None, 50, 60),)))
    for new in (vote(40, 70), vote(50, 60), vote(55, 59)):
        with pytest.raises(SlashableFault):
            store.record([new])
    store.record([vote(50, 61)])


VOTES = st.builds(
    lambda key, root, source, length: vote(source, source + length, root, key),
    st.integers(0, 1),
    st.integers(1, 2),
    st.integers(0, 14),
    st.integers(0, 6),
)
BLOCKS = st.builds(lambda key, root, slot: block(slot, root, key), st.integers(0, 1), st.integers(1, 2), st.integers(0, 14))


class Guarding(RuleBasedStateMachine):
    """Whatever is asked in whatever order: allowed entries never conflict, and one that is safe and newer is never refused."""

    @initialize(kept=st.integers(1, 4))
    def open(self, kept: int) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.before = (store_module.KEPT_VOTES, store_module.KEPT_BLOCKS, store_module.PRUNE_SLACK)
        store_module.KEPT_VOTES, store_module.KEPT_BLOCKS, store_module.PRUNE_SLACK = kept, kept, 1  # type: ignore[misc]
        self.path = Path(self.folder.name) / "slashing.sqlite"
        self.store = open_store(self.path, ROOT)
        self.allowed: list[Entry] = []

    @rule(entries=st.lists(VOTES | BLOCKS, min_size=1, max_size=4))
    def record(self, entries: list[Entry]) -> None:
        try:
            self.store.record(entries)
        except SlashableFault:
            is_safe = all(self._is_clearly_safe(entry, entries) for entry in entries)
            assert not is_safe, f"refused without need: {entries} after {self.allowed}"
            return
        for entry in entries:
            assert not any(conflicts(entry, other) for other in (*self.allowed, *entries)), f"allowed {entry}"
        self.allowed.extend(entries)

    def _is_clearly_safe(self, new: Entry, beside: list[Entry]) -> bool:
        for other in (*self.allowed, *(entry for entry in beside if entry is not new)):
            if other.pubkey != new.pubkey:
                continue
            match new, other:
                case BlockEntry(), BlockEntry() if new.slot <= other.slot:
                    return False
                case AttestationEntry(), AttestationEntry() if (
                    new.source_epoch < other.source_epoch or new.target_epoch <= other.target_epoch
                ):
                    return False
        return True

    @rule(entries=st.lists(VOTES | BLOCKS, min_size=1, max_size=3))
    def bring_in(self, entries: list[Entry]) -> None:
        self.store.import_entries(Interchange(ROOT, tuple(entries)))
        self.allowed.extend(entries)
        # What an import brought may conflict with itself; what is allowed later must not conflict with any of it.

    @rule()
    def crash(self) -> None:
        self.store.close()
        self.store = open_store(self.path, ROOT)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            store_module.KEPT_VOTES, store_module.KEPT_BLOCKS, store_module.PRUNE_SLACK = self.before  # type: ignore[misc]
            self.folder.cleanup()


TestGuarding = Guarding.TestCase
TestGuarding.settings = settings(max_examples=60, stateful_step_count=20, deadline=None, report_multiple_bugs=False)
