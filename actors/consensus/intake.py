"""Intake: one peer's unchecked messages, waiting for their turn, and the work that they may cause.

Each peer has an intake of its own, and a task that checks its messages one after the other in steps of some milliseconds. Trio gives
the tasks their steps in turn, so a peer that floods waits behind its own messages only, and takes no more than one task's share of
the processor. Over time it gets far less: new work, which nobody has sent before, is billed in bytes to be hashed, and a peer
whose credit is used up waits until it has come back, or is refused if that takes too long. What has waited longer than the
handler would have is refused, as is what finds the queue full.

    honest, at most                                                   bytes
    a block of 3 MB that this peer is the first to bring              3.1 MB, some five in a row
    a decision of 100 validators, all nodes' values different         35 KB a value
    a message with new signatures of all members                      2 KiB a signature

Limits: QUEUED_MESSAGES, QUEUED_BYTES, MAX_WAIT_S; CREDIT_BYTES, CREDIT_BYTES_A_SECOND, DEBT_BYTES.
Source: specification 06 §5 (5 s budget), §10 (spam from one peer).
"""

from collections import deque
from typing import Final

import trio

from charon_actors.pace import Bucket
from charon_actors.qbft import BLOCK_BYTES, MessageFault

QUEUED_MESSAGES: Final = 256
QUEUED_BYTES: Final = 64 * 2**20  # two of the longest messages
MAX_WAIT_S: Final = 5.0
CREDIT_BYTES: Final = 2 * BLOCK_BYTES  # the largest block that a lying leader has made it support, and one of its own
CREDIT_BYTES_A_SECOND: Final = 2**20  # 3 to 5 % of a core
DEBT_BYTES: Final = CREDIT_BYTES_A_SECOND  # what it may wait for: a second


class Intake:
    """`put` never waits; `take` waits for the next message, `spend` for credit. One task takes and spends."""

    def __init__(self) -> None:
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued_bytes = 0
        self._came = trio.Event()
        self._credit = Bucket(CREDIT_BYTES, CREDIT_BYTES_A_SECOND)

    def put(self, content: bytes) -> None:
        """Raises: MessageFault, if too much is waiting already."""
        size = self._queued_bytes + len(content)
        if self._queue and (len(self._queue) >= QUEUED_MESSAGES or size > QUEUED_BYTES):
            raise MessageFault("too many messages waiting")
        self._queue.append((trio.current_time(), content))
        self._queued_bytes = size
        self._came.set()

    async def take(self) -> bytes:
        """The next message. Cancelled while waiting: nothing is lost. Raises: MessageFault, if that one has waited too long."""
        await trio.lowlevel.checkpoint()
        while not self._queue:
            self._came = trio.Event()
            await self._came.wait()
        arrived, content = self._queue.popleft()
        self._queued_bytes -= len(content)
        if trio.current_time() - arrived > MAX_WAIT_S:
            raise MessageFault("message has waited too long")
        return content

    async def spend(self, cost: int) -> None:
        """Let others run, and wait until the work is paid for. Raises: MessageFault, if that takes too long; nothing is billed then."""
        now = trio.current_time()
        if self._credit.wait_s(now, cost) > DEBT_BYTES / CREDIT_BYTES_A_SECOND:
            raise MessageFault("peer causes too much work")
        await trio.sleep(self._credit.spend(now, cost))
