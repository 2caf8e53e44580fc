"""Intake: the peers' unchecked messages, waiting for their turn. One queue a peer, served in turn.

Checking a message costs up to some milliseconds (2n signatures), so a peer that floods must wait behind its own messages only.
What has waited longer than the handler would have is dropped, as is what finds its peer's queue full.

Limits: QUEUED_MESSAGES and QUEUED_BYTES a peer, MAX_WAIT_S. Source: specification 06 §5 (5 s budget), §10 (spam from one peer).
"""

from collections import deque
from typing import Final

import trio

QUEUED_MESSAGES: Final = 256
QUEUED_BYTES: Final = 64 * 2**20  # two of the longest messages
MAX_WAIT_S: Final = 5.0


class Intake:
    """`put` never waits; `take` waits for the next message, the peers' turns going round."""

    def __init__(self) -> None:
        self._queues: dict[int, deque[tuple[float, bytes]]] = {}  # only peers with something queued, next turn first
        self._sizes: dict[int, int] = {}
        self._came = trio.Event()
        self.dropped = 0

    def put(self, peer_index: int, content: bytes) -> bool:
        """False if it was dropped, for this peer has too much waiting."""
        queue = self._queues.get(peer_index)
        size = self._sizes.get(peer_index, 0) + len(content)
        if queue is not None and (len(queue) >= QUEUED_MESSAGES or size > QUEUED_BYTES):
            self.dropped += 1
            return False
        self._queues.setdefault(peer_index, deque()).append((trio.current_time(), content))
        self._sizes[peer_index] = size
        self._came.set()
        return True

    async def take(self) -> tuple[int, bytes]:
        """The next message and its peer. Cancelled while waiting: nothing is lost."""
        while True:
            await trio.lowlevel.checkpoint()
            while not self._queues:
                self._came = trio.Event()
                await self._came.wait()
            peer_index, queue = next(iter(self._queues.items()))
            arrived, content = queue.popleft()
            del self._queues[peer_index]
            self._sizes[peer_index] -= len(content)
            if queue:
                self._queues[peer_index] = queue  # to the end of the round
            if trio.current_time() - arrived <= MAX_WAIT_S:
                return peer_index, content
            self.dropped += 1
