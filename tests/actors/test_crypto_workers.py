"""The crypto workers: right answers in the right order, a responsive event loop, processes that die, askers that leave."""

import hashlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from actors import crypto_workers as room
from actors.crypto_workers import (
    CryptoWorkers,
    LongWork,
    Message,
    RecoverSignatures,
    Recovery,
    VerifyAll,
    WorkerDied,
    WorkerLost,
    open_worker_pool,
)
from actors.facts import Fact
from actors.mailbox import Address, Mailbox, open_actor
from charon_actors.crypto import (
    Check,
    Entropy,
    KeystoreFault,
    generate_secret,
    public_key,
    sign,
    split_secret,
)

RNG = random.Random(11)
SECRETS = [generate_secret(RNG.randbytes) for _ in range(6)]
KEYS = [public_key(secret) for secret in SECRETS]
MESSAGES = [RNG.randbytes(32) for _ in range(4)]
SIGNATURES = {(k, m): sign(SECRETS[k], MESSAGES[m]) for k in range(6) for m in range(4)}


def some_checks(count: int, culprits: set[int]) -> list[Check]:
    return [
        Check(KEYS[i % 6], MESSAGES[i % 4], SIGNATURES[(i + (i in culprits)) % 6, i % 4]) for i in range(count)
    ]  # culprits carry their neighbour's signature


@asynccontextmanager
async def crypto_workers(workers: int = 1) -> AsyncIterator[Address[Message]]:
    async with open_actor(Mailbox[Message]("crypto_workers"), lambda: CryptoWorkers(workers)) as address:
        yield address


async def mapped(function: Callable[[Any], Any], items: Sequence[Any], *, workers: int = 2) -> list[Any]:
    async with open_worker_pool(workers) as pool:
        return await pool.map(function, items)


# What the processes of these tests do.


def double(number: int) -> int:
    return 2 * number


def die_unless(marker: Path) -> int:
    """Kills its process the first time: the second process finds the marker."""
    if marker.exists():
        return os.getpid()
    marker.touch()
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def derive(times: int) -> None:
    """Some seconds each, without the interpreter lock."""
    for _ in range(times):
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 10_000_000)


def die(_: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def refuse(number: int) -> int:
    if number == 3:
        raise KeystoreFault("crypto.kdf", "of number three")
    return number


def note_and_hang(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(600)


def process_of(_: int) -> int:
    return os.getpid()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def noted_process(folder: Path) -> int:
    while not (names := os.listdir(folder)):
        await trio.sleep(0.02)
    return int(names[0])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("count", "culprits"), [(0, set()), (1, {0}), (8, {3, 7}), (9, {0}), (200, {0, 63, 64, 150, 199})])
async def test_answers_stand_in_the_order_of_the_checks(workers: int, count: int, culprits: set[int]) -> None:
    async with crypto_workers(workers) as address:
        with trio.fail_after(60):
            answers = await address.ask(VerifyAll(some_checks(count, culprits)))
    assert answers == [i not in culprits for i in range(count)]


async def test_a_big_batch_is_not_checked_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(*_: object) -> list[bool]:
        raise AssertionError("checked in the event loop")

    monkeypatch.setattr(room, "verify_all", here)  # of this process only: the workers import their own
    async with crypto_workers() as address:
        with trio.fail_after(60):
            assert await address.ask(VerifyAll(some_checks(room.INLINE_CHECKS + 1, {5}))) == [i != 5 for i in range(9)]


async def test_a_small_batch_lets_others_run_between_its_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    slices: list[int] = []
    really = room.verify_all  # type: ignore[attr-defined]  # the name that the actor calls

    def counting(checks: list[Check], entropy: Entropy) -> list[bool]:
        slices.append(len(checks))
        return really(checks, entropy)

    monkeypatch.setattr(room, "verify_all", counting)
    async with crypto_workers() as address:
        await address.ask(VerifyAll(some_checks(7, set())))
    assert slices == [4, 3]


async def test_recovery_answers_verified_signatures_only() -> None:
    shares = split_secret(SECRETS[0], 2, 3, RNG.randbytes)
    partials = {index: sign(share, MESSAGES[0]) for index, share in shares.items()}
    good = Recovery(KEYS[0], MESSAGES[0], {1: partials[1], 3: partials[3]})
    wrong_share = Recovery(KEYS[0], MESSAGES[0], {1: partials[1], 3: partials[2]})
    malformed = Recovery(KEYS[0], MESSAGES[0], {0: partials[1]})
    async with crypto_workers() as address:
        for repeat in (1, 20):  # in the event loop and in a process
            answers = await address.ask(RecoverSignatures([good, wrong_share, malformed][: 3 if repeat > 1 else 2] * repeat))
            assert answers[:2] == [SIGNATURES[0, 0], None]
            assert set(answers[2::3]) <= {None}


async def test_long_work_comes_back_and_so_does_its_fault_as_it_is() -> None:
    async with crypto_workers() as address:
        assert await address.ask(LongWork(double, 4)) == 8
        with pytest.raises(KeystoreFault) as fault:
            await address.ask(LongWork(refuse, 3))
        assert fault.value.field == "crypto.kdf"
        assert await address.ask(VerifyAll(some_checks(9, set()))) == [True] * 9  # the actor lives on


async def test_map_keeps_the_order() -> None:
    assert await mapped(double, range(10), workers=2) == [2 * number for number in range(10)]


async def test_map_of_nothing_starts_no_process() -> None:
    assert await mapped(double, []) == []


async def test_the_first_error_ends_the_map_and_arrives_bare() -> None:
    with pytest.raises(KeystoreFault, match="number three"):
        await mapped(refuse, range(100), workers=2)


async def test_a_process_that_dies_is_replaced_and_its_job_done(tmp_path: Path) -> None:
    async with open_worker_pool(1) as pool:
        first = await pool.call(process_of, 0)
        second = await pool.call(die_unless, tmp_path / "marker")
        assert first != second
        assert not is_running(first)
        assert await pool.call(double, 4) == 8


async def test_a_job_that_kills_two_processes_is_given_up() -> None:
    with trio.fail_after(60), pytest.raises(WorkerDied):
        await mapped(die, [1], workers=1)


async def test_a_lost_process_is_said_each_time() -> None:
    facts: list[Fact] = []
    async with open_actor(Mailbox[Message]("crypto_workers"), lambda: CryptoWorkers(1, on_fact=facts.append)) as address:
        with pytest.raises(WorkerDied):
            await address.ask(LongWork(die, 1))
    assert facts == [WorkerLost("die", 1), WorkerLost("die", 2)]


async def test_an_idle_process_that_was_killed_costs_nothing() -> None:
    async with open_worker_pool(1) as pool:
        victim = await pool.call(process_of, 0)
        os.kill(victim, signal.SIGKILL)
        assert await pool.call(double, 4) == 8


async def test_an_error_is_not_lost_when_a_dead_process_is_found_at_the_end() -> None:
    with pytest.raises(ValueError, match="of the block"):  # noqa: PT012
        async with open_worker_pool(1) as pool:
            os.kill(await pool.call(process_of, 0), signal.SIGKILL)
            await trio.sleep(0.2)
            raise ValueError("of the block")


async def test_a_process_that_hangs_is_killed_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "JOB_LIMIT_S", 3.0)
    with trio.fail_after(60), pytest.raises(WorkerDied):
        await mapped(note_and_hang, [tmp_path], workers=1)
    assert not any(is_running(int(name)) for name in os.listdir(tmp_path))


async def test_a_cancelled_call_leaves_no_process_behind(tmp_path: Path) -> None:
    started = time.monotonic()
    async with trio.open_nursery() as nursery:

        async def hang() -> None:
            await mapped(note_and_hang, [tmp_path], workers=1)

        nursery.start_soon(hang)
        pid = await noted_process(tmp_path)
        cancelled = time.monotonic()
        nursery.cancel_scope.cancel()
    assert not is_running(pid)
    assert time.monotonic() - cancelled < room.GRACE_S + 2
    assert cancelled > started


async def test_an_asker_that_leaves_takes_its_job_along_and_the_pool_stays_usable() -> None:
    async with crypto_workers() as address:
        await address.ask(VerifyAll(some_checks(9, set())))
        with trio.move_on_after(0.3):
            await address.ask(LongWork(derive, 3))
        with trio.fail_after(room.GRACE_S + 10):
            assert await address.ask(LongWork(double, 4)) == 8
            assert await address.ask(VerifyAll(some_checks(9, {2}))) == [i != 2 for i in range(9)]


async def test_the_actor_stops_soon_with_work_in_hand() -> None:
    started = time.monotonic()
    async with crypto_workers() as address, trio.open_nursery() as nursery:

        async def ask() -> None:
            await address.ask(LongWork(derive, 10))

        nursery.start_soon(ask)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert time.monotonic() - started < room.GRACE_S + 6


async def test_a_full_actor_leaves_mail_in_the_mailbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_REQUESTS", 2)
    mailbox = Mailbox[Message]("crypto_workers")
    async with open_actor(mailbox, lambda: CryptoWorkers(1)) as address, trio.open_nursery() as nursery:
        for _ in range(5):

            async def ask() -> None:
                await address.ask(LongWork(derive, 1))

            nursery.start_soon(ask)
        await trio.sleep(0.5)
        assert mailbox.statistics().taken <= 2
        assert mailbox.statistics().queued >= 3
        nursery.cancel_scope.cancel()
