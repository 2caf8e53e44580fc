"""Whatever an operator does with one of the two files, in whatever order: a start is refused, or everything answered is known.

Both at once can't be noticed by anybody (docs/files/data-directory.md says so): that is the one thing that is not done here.
"""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import actors.slashing.history as store_module
from actors.slashing.store import SlashingStore, open_store
from actors.twin_file import TwinFile
from charon_actors.errors import UserError
from charon_actors.slashing import AttestationEntry, SlashableFault

ROOT = bytes(range(32))
KEYS = [bytes([number]) * 48 for number in (1, 2)]
LISTEN_S = 10.0


def vote(key: int, target: int, root: int = 1) -> AttestationEntry:
    return AttestationEntry(KEYS[key], bytes([root]) * 32, target - 1, target)


class Operating(RuleBasedStateMachine):
    @initialize(kept=st.integers(1, 6))
    def begin(self, kept: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.limits = (store_module.KEPT_VOTES, store_module.PRUNE_SLACK)
        store_module.KEPT_VOTES, store_module.PRUNE_SLACK = kept, 1  # type: ignore[misc]
        self.main = Path(self.folder.name) / "record.sqlite"
        self.files = [self.main, self.main.with_suffix(".trace")]
        self.copies: list[tuple[bytes, bytes]] = []
        self.answered: set[tuple[int, int]] = set()
        self.target = 1
        self.touched: int | None = None  # which of the files isn't as the node left it
        self.left: tuple[bytes, bytes] | None = None  # as the node left them
        self.store: SlashingStore | None = None
        self._open(is_lost=False)

    # the node

    def _open(self, *, is_lost: bool) -> None:
        self.store = open_store(self.main, ROOT, is_lost=is_lost, listen_s=LISTEN_S)
        self.touched, self.left = None, None
        if self.store.listen_left_s:
            self.store.listened(LISTEN_S)

    @precondition(lambda self: self.store is not None)
    @rule(key=st.integers(0, 1), step=st.integers(1, 3))
    def sign(self, key: int, step: int) -> None:
        assert self.store is not None
        self.target += step
        self.store.record([vote(key, self.target)])  # newer than all others: never refused
        self.answered.add((key, self.target))

    @precondition(lambda self: self.store is not None)
    @rule(key=st.integers(0, 1))
    def is_killed_before_the_trace_is_written(self, key: int) -> None:
        assert self.store is not None
        self.target += 1
        write = TwinFile.write
        TwinFile.write = _dies  # type: ignore[method-assign, assignment]
        try:
            self.store.record([vote(key, self.target)])
        except OSError:
            pass
        finally:
            TwinFile.write = write  # type: ignore[method-assign]
        self.stop()
        self._open(is_lost=False)

    @precondition(lambda self: self.store is not None)
    @rule()
    def a_full_disk_keeps_the_trace_from_being_written(self) -> None:
        assert self.store is not None
        self.target += 1
        write = TwinFile.write
        TwinFile.write = _dies  # type: ignore[method-assign, assignment]
        try:
            self.store.record([vote(0, self.target)])
        except OSError:
            pass
        finally:
            TwinFile.write = write  # type: ignore[method-assign]
        self.store.record([vote(0, self.target)])  # a repeat: now it is answered
        self.answered.add((0, self.target))

    @precondition(lambda self: self.store is not None)
    @rule()
    def stop(self) -> None:
        assert self.store is not None
        self.store.close()
        self.store = None
        self.left = self._contents()

    @precondition(lambda self: self.store is None)
    @rule(is_lost=st.booleans())
    def start(self, is_lost: bool) -> None:
        try:
            self._open(is_lost=is_lost)
        except UserError as error:
            if self.touched is None or is_lost:
                raise AssertionError("refused though nothing was touched, or though it was said to be lost") from error

    # the operator

    def _contents(self) -> tuple[bytes, bytes]:
        main, trace = self.files
        return main.read_bytes(), trace.read_bytes()

    @precondition(lambda self: self.store is None and self.touched is None)
    @rule()
    def copy(self) -> None:
        self.copies.append(self._contents())

    @precondition(lambda self: self.store is None)
    @rule(which=st.integers(0, 1), how=st.sampled_from(["old", "delete", "empty", "cut", "garbage"]), data=st.data())
    def touch(self, which: int, how: str, data: st.DataObject) -> None:
        if self.touched not in (None, which):
            return
        self.touched, path = which, self.files[which]
        match how:
            case "old" if self.copies:
                path.write_bytes(data.draw(st.sampled_from(self.copies))[which])
            case "old":
                self.touched = None if self.left == self._safe_contents() else which
            case "delete":
                path.unlink(missing_ok=True)
            case "empty":
                path.write_bytes(b"")
            case "cut":
                assert self.left is not None
                path.write_bytes(self.left[which][: len(self.left[which]) // 2])
            case _:
                assert self.left is not None
                content = bytearray(self.left[which])
                at = data.draw(st.integers(0, max(len(content) - 200, 0)))
                content[at : at + 200] = bytes(200)
                path.write_bytes(content)

    def _safe_contents(self) -> tuple[bytes, bytes] | None:
        return self._contents() if all(path.exists() for path in self.files) else None

    @precondition(lambda self: self.store is None and self.touched is not None)
    @rule()
    def put_back(self) -> None:
        assert self.left is not None
        for path, content in zip(self.files, self.left, strict=True):
            path.write_bytes(content)
        self.touched = None
        self._open(is_lost=False)  # always starts

    @invariant()
    def nothing_answered_is_forgotten(self) -> None:
        if getattr(self, "store", None) is None:
            return
        assert self.store is not None
        for key, target in self.answered:
            try:
                self.store.record([vote(key, target, root=2)])
            except SlashableFault:
                continue
            raise AssertionError(f"a second vote for target {target} is allowed")

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            if self.store is not None:
                self.store.close()
            store_module.KEPT_VOTES, store_module.PRUNE_SLACK = self.limits  # type: ignore[misc]
            shutil.rmtree(self.folder.name, ignore_errors=True)


def _dies(twin: TwinFile, content: bytes) -> None:
    raise OSError(28, "No space left on device")


TestOperating = Operating.TestCase
TestOperating.settings = settings(max_examples=60, stateful_step_count=25, deadline=None, report_multiple_bugs=False)
