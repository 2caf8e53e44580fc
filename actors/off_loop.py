"""Long work on one value, away from the event loop: where it is done goes by what it is expected to cost.

    expected               where              why there
    under IN_LOOP_MS       in the event loop  a thread costs as much
    under IN_THREAD_MS     a thread           it shares the interpreter, at most 5 ms a turn; short enough to be bearable
    more                   a process          whoever shares the interpreter for a second makes each await of all others 5 ms longer

Of one `Elsewhere` one thing is in a thread at a time, and one in a process: more would only take turns. Who lets strangers cause work has
one of his own, so that others wait for one thing of his at most. Expectations are the caller's, from lengths and counts.
The work is a function that is importable by name, its argument and result can be pickled; it may raise what it likes.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

import trio

T = TypeVar("T")
R = TypeVar("R")

IN_LOOP_MS: Final = 2.0
IN_THREAD_MS: Final = 100.0  # a block of 21 blobs as JSON has 30 ms, the root of 2800 transfers (gas limit of 60 million) 60 ms
JSON_BYTES_A_MS: Final = 250_000  # parsed, its hex made bytes; likewise written
JSON_VALUES_A_MS: Final = 500

Process = Callable[[Callable[[Any], Any], Any], Awaitable[Any]]


class OffLoop(Protocol):
    """Does `function(item)` and returns what that returns, or raises. Cancelled: the result is nobody's; a thread runs on to its end."""

    async def __call__(self, expected_ms: float, function: Callable[[T], R], item: T) -> R: ...


class Elsewhere:
    """An OffLoop. process: does the call in a process, may raise Retryable; without one a thread does what a process should."""

    def __init__(self, process: Process | None = None) -> None:
        self._process, self._thread, self._turn = process, trio.CapacityLimiter(1), trio.Lock()

    async def __call__(self, expected_ms: float, function: Callable[[T], R], item: T) -> R:
        if expected_ms < IN_LOOP_MS:
            await trio.lowlevel.checkpoint()
            return function(item)
        if expected_ms < IN_THREAD_MS or self._process is None:
            return await trio.to_thread.run_sync(function, item, abandon_on_cancel=True, limiter=self._thread)
        async with self._turn:
            done: R = await self._process(function, item)
        return done


def json_ms(text: bytes) -> float:
    """What it costs to make values of this JSON: long strings, as a block's, or many short ones."""
    return len(text) / JSON_BYTES_A_MS + text.count(b",") / JSON_VALUES_A_MS
