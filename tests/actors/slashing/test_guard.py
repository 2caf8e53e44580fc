"""The actor: asks, restarts, cancellation, a full disk."""

import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from actors.facts import Fact
from actors.mailbox import ActorDown, Mailbox, open_actor
from actors.slashing import OnlyListening
from actors.slashing.actor import (
    AttestationEntry,
    BlockEntry,
    ExportHistory,
    Guard,
    ImportHistory,
    Listening,
    Message,
    NotRecorded,
    SlashableFault,
    SlashingGuard,
)
from actors.slashing.store import DiskRefuses, SlashingStore, open_store
from actors.twin_file import TwinFile
from charon_actors.errors import UserError
from charon_actors.slashing import Interchange, InterchangeFault

ROOT = bytes(range(32))
KEY = bytes(48)


def vote(source: int, target: int, root: int = 1) -> AttestationEntry:
    return AttestationEntry(pubkey=KEY, signing_root=bytes([root]) * 32, source_epoch=source, target_epoch=target)


async def test_a_restarted_guard_remembers(tmp_path: Path) -> None:
    for root in (1, 2):
        mailbox: Mailbox[Message] = Mailbox("slashing")
        async with open_actor(mailbox, lambda: SlashingGuard(tmp_path / "slashing.sqlite", ROOT)) as guard:
            if root == 1:
                await guard.ask(Guard((vote(1, 2),)))
            with pytest.raises(SlashableFault):
                await guard.ask(Guard((vote(1, 2, root=3),)))
            await guard.ask(Guard((vote(1, 2), BlockEntry(KEY, bytes(32), 5))))


async def test_histories_come_and_go(tmp_path: Path) -> None:
    mailbox: Mailbox[Message] = Mailbox("slashing")
    async with open_actor(mailbox, lambda: SlashingGuard(tmp_path / "slashing.sqlite", ROOT)) as guard:
        assert await guard.ask(ImportHistory(Interchange(ROOT, (vote(4, 5),)))) == 1
        with pytest.raises(InterchangeFault):
            await guard.ask(ImportHistory(Interchange(bytes(32), (vote(4, 5),))))
        exported = (await guard.ask(ExportHistory())).entries
        assert exported == (AttestationEntry(KEY, None, 4, 5),)
        with pytest.raises(SlashableFault):
            await guard.ask(Guard((vote(3, 6),)))


async def test_many_askers_one_target_one_root(tmp_path: Path) -> None:
    mailbox: Mailbox[Message] = Mailbox("slashing")
    allowed: list[int] = []

    async def ask(root: int) -> None:
        try:
            await guard.ask(Guard((vote(1, 2, root),)))
            allowed.append(root)
        except SlashableFault:
            pass

    async with (
        open_actor(mailbox, lambda: SlashingGuard(tmp_path / "slashing.sqlite", ROOT)) as guard,
        trio.open_nursery() as nursery,
    ):
        for number in range(40):
            nursery.start_soon(ask, number % 4)
    assert len(set(allowed)) == 1
    assert len(allowed) == 10


async def test_a_cancelled_asker_leaves_the_guard_whole(tmp_path: Path) -> None:
    mailbox: Mailbox[Message] = Mailbox("slashing")
    async with open_actor(mailbox, lambda: SlashingGuard(tmp_path / "slashing.sqlite", ROOT)) as guard:
        for number in range(20):
            with trio.move_on_after(0.0003 * number):
                await guard.ask(Guard((vote(number, number + 1),)))
        await guard.ask(Guard((vote(30, 31),)))
        with pytest.raises(SlashableFault):
            await guard.ask(Guard((vote(29, 32),)))


async def test_a_disk_that_refuses_is_not_a_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mailbox: Mailbox[Message] = Mailbox("slashing")
    async with open_actor(mailbox, lambda: SlashingGuard(tmp_path / "slashing.sqlite", ROOT)) as guard:
        await guard.ask(Guard((vote(1, 2),)))
        record = SlashingStore.record

        def limited(store: SlashingStore, entries: tuple[AttestationEntry, ...]) -> None:
            store._db.execute("PRAGMA max_page_count = 1")
            store._db.execute("PRAGMA query_only = ON")
            try:
                record(store, entries)
            finally:
                store._db.execute("PRAGMA query_only = OFF")

        monkeypatch.setattr(SlashingStore, "record", limited)
        with pytest.raises(NotRecorded):
            await guard.ask(Guard((vote(2, 3),)))
        monkeypatch.setattr(SlashingStore, "record", record)
        assert (await guard.ask(ExportHistory())).entries == (vote(1, 2),)
        await guard.ask(Guard((vote(2, 3, root=5),)))


async def test_a_bad_file_takes_the_actor_down_and_the_askers_with_it(tmp_path: Path) -> None:
    (tmp_path / "slashing.sqlite").write_bytes(b"")
    mailbox: Mailbox[Message] = Mailbox("slashing")

    async def program() -> None:
        async with open_actor(mailbox, lambda: SlashingGuard(tmp_path / "slashing.sqlite", ROOT)) as guard:
            with pytest.raises((ActorDown, trio.Cancelled)):
                await guard.ask(Guard((vote(1, 2),)))
            await trio.sleep_forever()

    with pytest.raises(UserError, match="damaged"):
        await program()


async def test_records_are_written_while_all_shared_threads_are_busy(tmp_path: Path) -> None:
    """A peer's DNS name may take as long as it likes, in one of the threads that everybody shares."""
    is_over = threading.Event()

    async def wait() -> None:
        await trio.to_thread.run_sync(is_over.wait)

    mailbox: Mailbox[Message] = Mailbox("slashing")
    async with (
        open_actor(mailbox, lambda: SlashingGuard(tmp_path / "slashing.sqlite", ROOT)) as guard,
        trio.open_nursery() as nursery,
    ):
        for _ in range(int(trio.to_thread.current_default_thread_limiter().total_tokens)):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        try:
            with trio.fail_after(10):
                await guard.ask(Guard((vote(1, 2),)))
        finally:
            is_over.set()


async def test_after_a_loss_it_listens_and_then_signs(tmp_path: Path) -> None:
    path = tmp_path / "slashing.sqlite"
    mailbox: Mailbox[Message] = Mailbox("slashing")
    async with open_actor(mailbox, lambda: SlashingGuard(path, ROOT)) as guard:
        await guard.ask(Guard((vote(1, 2),)))
    path.unlink()
    told: list[float] = []
    is_over = trio.Event()

    def on_fact(fact: Fact) -> None:
        assert isinstance(fact, OnlyListening)
        told.append(fact.left_s)
        if not fact.left_s:
            is_over.set()

    mailbox = Mailbox("slashing")
    lost = SlashingGuard(path, ROOT, is_lost=True, listen_s=0.5, on_fact=on_fact)
    async with open_actor(mailbox, lambda: lost) as guard:
        with pytest.raises(Listening):
            await guard.ask(Guard((vote(5, 6),)))
        with trio.fail_after(20):
            await is_over.wait()
        with pytest.raises(SlashableFault):
            await guard.ask(Guard((vote(1, 2, root=3),)))
        await guard.ask(Guard((vote(5, 6),)))
    assert told[0] == 0.5
    assert told[-1] == 0


async def test_a_trace_that_cannot_be_written_is_no_promise_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mailbox: Mailbox[Message] = Mailbox("slashing")
    async with open_actor(mailbox, lambda: SlashingGuard(tmp_path / "slashing.sqlite", ROOT)) as guard:
        await guard.ask(Guard((vote(1, 2),)))

        def refuse(twin: TwinFile, content: bytes) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(TwinFile, "write", refuse)
            for _ in range(3):  # a repeat, for the record itself; not for its trace
                with pytest.raises(NotRecorded):
                    await guard.ask(Guard((vote(2, 3),)))
        await guard.ask(Guard((vote(2, 3),)))


async def test_a_disk_that_is_full_at_the_start_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import actors.slashing.actor as module

    tries = 0

    def full(*args: object, **kwargs: object) -> SlashingStore:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise DiskRefuses("full")
        return open_store(tmp_path / "slashing.sqlite", ROOT)

    monkeypatch.setattr(module, "open_store", full)
    monkeypatch.setattr(module, "OPEN_AGAIN_S", 0.01)
    mailbox: Mailbox[Message] = Mailbox("slashing")
    async with open_actor(mailbox, lambda: SlashingGuard(tmp_path / "slashing.sqlite", ROOT)) as guard:
        with trio.fail_after(20):
            await guard.ask(Guard((vote(1, 2),)))
    assert tries == 4
