"""The crypto workers: right answers in the right order, a responsive event loop, processes that die, askers that leave."""

import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from actors import crypto_workers as room
from actors.crypto_workers import (
    CryptoWorkers,
    DecryptKeystores,
    EncryptKeystores,
    KeystoreToRead,
    KeystoreToWrite,
    LongWork,
    Message,
    RecoverSignatures,
    Recovery,
    VerifyAll,
    WorkerDied,
    WorkerLost,
    encrypt_keystores,
    open_worker_pool,
    run_in_workers,
)
from actors.facts import Fact
from actors.mailbox import Address, Mailbox, open_actor
from charon_actors.crypto import (
    INSECURE_ITERATIONS,
    Check,
    CryptoFault,
    Entropy,
    KeystoreFault,
    decode_keystore,
    decrypt_keystore,
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


async def test_keystores_go_both_ways_and_faults_come_back_as_they_are() -> None:
    async with crypto_workers() as address:
        files = await address.ask(
            EncryptKeystores([KeystoreToWrite(secret, f"password {i}", INSECURE_ITERATIONS) for i, secret in enumerate(SECRETS)])
        )
        to_read = [KeystoreToRead(content, f"password {i}") for i, content in enumerate(files)]
        assert await address.ask(DecryptKeystores(to_read)) == SECRETS
        with pytest.raises(KeystoreFault) as fault:
            await address.ask(DecryptKeystores([*to_read, KeystoreToRead(files[0], "another")]))
        assert fault.value.field == "crypto.checksum.message"
        with pytest.raises(CryptoFault):
            await address.ask(EncryptKeystores([KeystoreToWrite(bytes(32), "password")]))
        assert await address.ask(VerifyAll(some_checks(9, set()))) == [True] * 9  # the actor lives on


def test_messages_with_secrets_do_not_show_them() -> None:
    written = repr(EncryptKeystores([KeystoreToWrite(b"\x41" * 32, "hunter2")]))
    read = repr(DecryptKeystores([KeystoreToRead(b'{"a": 1}', "hunter2")]))
    for text in (written, read):
        assert "hunter2" not in text
        assert "AAAA" not in text


async def test_map_keeps_the_order_and_reports_progress() -> None:
    progress: list[tuple[int, int]] = []
    results = await run_in_workers(double, range(10), workers=2, on_progress=lambda *step: progress.append(step))
    assert results == [2 * number for number in range(10)]
    assert progress == [(done, 10) for done in range(1, 11)]


async def test_map_of_nothing_starts_no_process() -> None:
    assert await run_in_workers(double, []) == []


async def test_the_first_error_ends_the_map_and_arrives_bare() -> None:
    with pytest.raises(KeystoreFault, match="number three"):
        await run_in_workers(refuse, range(100), workers=2)


async def test_a_process_that_dies_is_replaced_and_its_job_done(tmp_path: Path) -> None:
    async with open_worker_pool(1) as pool:
        first = await pool.call(process_of, 0)
        second = await pool.call(die_unless, tmp_path / "marker")
        assert first != second
        assert not is_running(first)
        assert await pool.call(double, 4) == 8


async def test_a_job_that_kills_two_processes_is_given_up() -> None:
    with trio.fail_after(60), pytest.raises(WorkerDied):
        await run_in_workers(die, [1], workers=1)


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
        await run_in_workers(note_and_hang, [tmp_path], workers=1)
    assert not any(is_running(int(name)) for name in os.listdir(tmp_path))


async def test_a_cancelled_call_leaves_no_process_behind(tmp_path: Path) -> None:
    started = time.monotonic()
    async with trio.open_nursery() as nursery:

        async def hang() -> None:
            await run_in_workers(note_and_hang, [tmp_path], workers=1)

        nursery.start_soon(hang)
        pid = await noted_process(tmp_path)
        cancelled = time.monotonic()
        nursery.cancel_scope.cancel()
    assert not is_running(pid)
    assert time.monotonic() - cancelled < room.GRACE_S + 2
    assert cancelled > started


async def test_an_asker_that_leaves_takes_its_job_along_and_the_pool_stays_usable() -> None:
    slow = [KeystoreToWrite(SECRETS[0], "password", 10_000_000)] * 3  # some seconds each
    async with crypto_workers() as address:
        await address.ask(VerifyAll(some_checks(9, set())))
        with trio.move_on_after(0.3):
            await address.ask(EncryptKeystores(slow))
        with trio.fail_after(room.GRACE_S + 10):
            assert await address.ask(VerifyAll(some_checks(9, {2}))) == [i != 2 for i in range(9)]


async def test_the_actor_stops_soon_with_work_in_hand() -> None:
    slow = [KeystoreToWrite(SECRETS[0], "password", 10_000_000)] * 10
    started = time.monotonic()
    async with crypto_workers() as address, trio.open_nursery() as nursery:

        async def ask() -> None:
            await address.ask(EncryptKeystores(slow))

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
                await address.ask(EncryptKeystores([KeystoreToWrite(SECRETS[0], "password", 10_000_000)]))

            nursery.start_soon(ask)
        await trio.sleep(0.5)
        assert mailbox.statistics().taken <= 2
        assert mailbox.statistics().queued >= 3
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("count", [2, 6])
async def test_encrypt_keystores_of_the_command_line(count: int) -> None:
    progress: list[int] = []
    files = await encrypt_keystores(
        [KeystoreToWrite(SECRETS[i], "password", 10_001) for i in range(count)],
        on_progress=lambda done, total: progress.append(done),
    )
    assert [decrypt_keystore(decode_keystore(content), "password") for content in files] == SECRETS[:count]
    assert progress == list(range(1, count + 1))
