"""A list of work on all cores: forked children that do their share, hand the results back and end.

For offline commands, whose BLS calculations hold the interpreter lock. Children begin with everything the parent has imported and
decoded, so a start costs some milliseconds; secrets come and go through memory and pipes only. Nobody waits for work, so nobody is
left over: a child whose parent was killed ends at its next result. A signal ends children without a word; the parent speaks.

With more than one thread everything is done here: fork copies locks that other threads hold.
"""

import os
import pickle
import signal
import struct
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, BinaryIO, Final, NoReturn, TypeVar

from charon_actors.crypto import Check, verify_bound
from charon_actors.errors import UserError

MAX_CHILDREN: Final = 16
PART_CHECKS: Final = 128  # some 80 ms
_HEADER: Final = struct.Struct("<Q")

Part = TypeVar("Part")
Result = TypeVar("Result")


def forked_map(work: Callable[[Part], Result], parts: Sequence[Part]) -> Generator[Result]:
    """Like `map`, in the order of the parts. Results are pickled. Raises what `work` raised for the first such part.

    Raises UserError when a child is killed (mostly: no memory left). Closing the iterator early ends the children.
    """
    children = min(MAX_CHILDREN, len(os.sched_getaffinity(0)), len(parts))
    if children <= 1 or threading.active_count() > 1:
        yield from map(work, parts)
        return
    running: list[tuple[int, BinaryIO]] = []
    try:
        running.extend(_start(work, parts[child::children]) for child in range(children))
        for place in range(len(parts)):
            yield _receive(running[place % children][1])
    finally:
        for process, results in running:
            results.close()
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def verify_on_all_cores(checks: Sequence[Check]) -> list[bool]:
    """`verify_bound` in parts."""
    parts = [checks[first : first + PART_CHECKS] for first in range(0, len(checks), PART_CHECKS)]
    return [answer for answers in forked_map(verify_bound, parts) for answer in answers]


def _start(work: Callable[[Part], Result], parts: Sequence[Part]) -> tuple[int, BinaryIO]:
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _work(work, parts, writing)
    os.close(writing)
    return process, os.fdopen(reading, "rb")


def _work(work: Callable[[Part], Result], parts: Sequence[Part], writing: int) -> NoReturn:
    try:
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(name, signal.SIG_DFL)
        with os.fdopen(writing, "wb") as results:
            for part in parts:
                try:
                    answer = pickle.dumps((True, work(part)))
                except Exception as error:
                    answer = pickle.dumps((False, error))
                results.write(_HEADER.pack(len(answer)) + answer)
                results.flush()
    finally:
        os._exit(0)  # no clean-up of the parent's: its files, its handlers


def _receive(results: BinaryIO) -> Any:
    header = results.read(_HEADER.size)
    answer = results.read(_HEADER.unpack(header)[0]) if len(header) == _HEADER.size else b""
    if not answer:
        raise UserError("worker process", "was killed", "check that there is memory left, and try again")
    is_result, value = pickle.loads(answer)  # noqa: S301 - our own child's
    if not is_result:
        raise value
    return value
