"""What an attack does to a process: how long the event loop stood still, how much memory it took."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

BEAT_S = 0.002
MIB = 2**20


def resident_mib() -> float:
    """Of this process, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def report(text: str) -> None:
    """For whoever reads along: pytest -s."""
    sys.stdout.write(text + "\n")


class Pulse:
    """longest_s: the largest gap between two beats. most_mib: of resident memory, more than at the start."""

    def __init__(self) -> None:
        self.longest_s, self.most_mib, self._before_mib = 0.0, 0.0, resident_mib()

    async def beat(self) -> None:
        while True:
            before_s = trio.current_time()
            await trio.sleep(BEAT_S)
            self.longest_s = max(self.longest_s, trio.current_time() - before_s)
            self.most_mib = max(self.most_mib, resident_mib() - self._before_mib)

    def __str__(self) -> str:
        return f"stood still {1000 * self.longest_s:.0f} ms, {self.most_mib:.0f} MiB"


@asynccontextmanager
async def pulse() -> AsyncIterator[Pulse]:
    """Measures while the block runs, and prints what it has seen (pytest -s)."""
    measured = Pulse()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(measured.beat)
        yield measured
        await trio.sleep(2 * BEAT_S)  # a standstill that has just ended is a beat that is late
        nursery.cancel_scope.cancel()
    report(str(measured))
