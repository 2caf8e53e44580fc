"""Work in forked children: in order, with faults, without anything left over."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from charon_actors.cli.forked import forked_map, verify_on_all_cores
from charon_actors.crypto.batch import Check, verify_bound
from charon_actors.crypto.bls import generate_secret, public_key, sign
from charon_actors.errors import UserError


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    before.clear()
    before.update(children())
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # other tests may have left idle threads in this process


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def children() -> set[str]:
    """Of this process, also those that have ended and were not waited for. Other tests may have left workers that are kept on purpose."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {child for task in tasks for child in task.read_text("ascii").split()}


before: set[str] = set()


def children_left() -> bool:
    return bool(children() - before)


def test_results_come_in_order_from_children_that_end() -> None:
    results = list(forked_map(square, range(11)))
    assert [result for result, _ in results] == [number * number for number in range(11)]
    assert len({process for _, process in results} - {os.getpid()}) == 2
    assert not children_left()


@pytest.mark.parametrize("parts", [[], [3]])
def test_little_work_is_done_here(parts: list[int]) -> None:
    assert list(forked_map(square, parts)) == [(part * part, os.getpid()) for part in parts]


def test_beside_another_thread_nothing_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert {process for _, process in forked_map(square, range(4))} == {os.getpid()}
    finally:
        done.set()
        thread.join()


def test_large_results_pass() -> None:
    assert [len(result) for result in forked_map(bytes, [5_000_000] * 4)] == [5_000_000] * 4


def test_the_first_fault_is_raised_and_the_rest_is_ended() -> None:
    def work(number: int) -> int:
        if number in (3, 4):
            raise ValueError(f"part {number}")
        return number

    results = forked_map(work, range(1000))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="part 3"):
        next(results)
    assert not children_left()


def test_leaving_early_ends_the_children() -> None:
    def slow(number: int) -> int:
        time.sleep(0 if number == 0 else 60)
        return number

    started = time.monotonic()
    results = forked_map(slow, range(4))
    assert next(results) == 0
    results.close()
    assert time.monotonic() - started < 10
    assert not children_left()


@pytest.mark.parametrize("end", [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: os._exit(1)])
def test_a_child_that_dies_is_an_error_with_a_remedy(end: Callable[[], None]) -> None:
    def work(number: int) -> None:
        end()

    with pytest.raises(UserError, match=r"worker process.*memory"):
        list(forked_map(work, range(3)))
    assert not children_left()


def test_checks_on_all_cores_have_the_answers_of_one() -> None:
    secret = generate_secret(random.Random(3).randbytes)
    key = public_key(secret)
    checks = [Check(key, message, sign(secret, message)) for message in (bytes([place % 7]) * 32 for place in range(300))]
    checks[40] = checks[40]._replace(message=b"other")
    checks[299] = checks[299]._replace(signature=bytes(96))
    answers = verify_on_all_cores(checks)
    assert answers == verify_bound(checks)
    assert [place for place, is_right in enumerate(answers) if not is_right] == [40, 299]
    assert verify_on_all_cores([]) == []
