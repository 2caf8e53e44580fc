"""Frame queue: what the streams of one connection share, which is its frames, the credit they owe, and the count of what waits.

Accepts     calls of the connection's streams, always synchronous; `wait_for_output` by the task that writes
Owns        the bytes that streams hold, unread or part of a message that isn't whole; the streams that we have closed and the peer has not
May touch   the yamux session, the account of the peer

Those that we have closed linger: an answer that nobody reads may be small, so the peer may send 64 KiB more, and has 120 s to end its
side. Then it is reset, for its slot is needed.

Limits: 512 KiB in the queue before senders wait, 1024 lingering streams.
"""

from collections.abc import Callable
from typing import Final

import trio

from actors.mesh.account import Account
from charon_actors.p2p.yamux import RESOURCE_LIMIT, YamuxSession

QUEUE_MARK_BYTES: Final = 512 * 1024
LINGER_S: Final = 120.0  # the longest handler of a peer (03 §5.1)
LINGER_BYTES: Final = 65_536  # an answer that nobody reads may be small, as bcast's `00`; what sends on and on is cut off
MAX_LINGERING: Final = 1024


class FrameQueue:
    """Of one connection. on_gone: this stream is no longer open on our side.

    unread_bytes, assembling_bytes: of all streams; kept by them. progress: woken when the queue has room or a slot is free.
    """

    def __init__(self, session: YamuxSession, account: Account, on_gone: Callable[[int], object]) -> None:
        self.unread_bytes = self.assembling_bytes = 0
        self.progress = trio.lowlevel.ParkingLot()
        self._session, self._account, self._on_gone = session, account, on_gone
        self._filled = trio.Event()
        self._lingering: dict[int, _Lingering] = {}

    # ---- for streams ----

    @property
    def has_room(self) -> bool:
        """May user tasks queue more?"""
        return self._session.output_bytes < QUEUE_MARK_BYTES

    def hold(self, count: int) -> None:
        """`count` more bytes are kept (fewer, if negative)."""
        self._account.hold(count)

    def send_window(self, stream_id: int) -> int:
        return self._session.send_window(stream_id)

    def data(self, stream_id: int, chunk: bytes | memoryview) -> None:
        self._session.send(stream_id, chunk)
        self._filled.set()

    def credit(self, stream_id: int, count: int) -> None:
        self.unread_bytes -= count
        self._session.consume(stream_id, count, trio.current_time())
        self._filled.set()

    def finish(self, stream_id: int) -> None:
        self._session.finish(stream_id)
        self._filled.set()

    def close(self, stream_id: int, unread_bytes: int, *, has_ended: bool) -> None:
        self._on_gone(stream_id)
        self.finish(stream_id)
        if stream_id in self._session and not has_ended:
            self._lingering[stream_id] = _Lingering(trio.current_time() + LINGER_S, unread_bytes)
            if unread_bytes > LINGER_BYTES:
                self._cut_off(stream_id)
            elif len(self._lingering) > MAX_LINGERING:
                self._cut_off(next(iter(self._lingering)))

    def reset(self, stream_id: int, code: int) -> None:
        self._on_gone(stream_id)
        self._lingering.pop(stream_id, None)
        self._session.reset(stream_id, code)
        self._filled.set()
        self.progress.unpark_all()

    # ---- for the connection ----

    def fill(self) -> None:
        """Something may have been queued in the session itself: an answer, a ping."""
        self._filled.set()

    def wake_if_room(self) -> None:
        if self.has_room:
            self.progress.unpark_all()

    async def wait_for_output(self) -> None:
        """Cancellation: at any time."""
        while not self._session.output_bytes:
            self._filled = trio.Event()
            await self._filled.wait()

    def cut(self, stream_id: int) -> None:
        """It holds too much."""
        self._session.reset(stream_id, RESOURCE_LIMIT)
        self._filled.set()

    @property
    def lingering_count(self) -> int:
        """Streams that we have closed and the peer has not."""
        return len(self._lingering)

    def came_late(self, stream_id: int, count: int) -> None:
        """`count` bytes for a stream that isn't open any more: the peer gets no credit for it, and a reset if it goes on."""
        lingering = self._lingering.get(stream_id)
        if lingering is not None:
            lingering.received_bytes += count
            if lingering.received_bytes > LINGER_BYTES:
                self._cut_off(stream_id)

    def ended_by_peer(self, stream_id: int) -> None:
        self._lingering.pop(stream_id, None)

    def expire(self, now: float) -> None:
        """Cut off those whose time is over."""
        for stream_id in [key for key, lingering in self._lingering.items() if lingering.until <= now]:
            self._cut_off(stream_id)

    def _cut_off(self, stream_id: int) -> None:
        del self._lingering[stream_id]
        self._session.reset(stream_id)
        self._filled.set()


class _Lingering:
    """A stream that we have closed and the peer has not."""

    __slots__ = ("received_bytes", "until")

    def __init__(self, until: float, received_bytes: int) -> None:
        self.until, self.received_bytes = until, received_bytes
