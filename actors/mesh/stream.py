"""Stream: one yamux stream of a connection, as a Trio stream with whole messages on top.

Accepts     calls of one reading and one writing task at a time (a second one gets trio.BusyResourceError)
Owns        the bytes that arrived and were not read
May touch   its connection's frame queue, synchronously; it never writes to a socket and never encrypts
Cancelled   at any await, at any instant: the connection stays whole. A cancelled `send_all` may have queued a part, whole frames
            only: reset the stream then. A cancelled `receive_some` or `read_delimited` has lost nothing.
Ends        by FIN (b"" after the last byte), reset, loss of the connection: what came before is delivered first, then StreamFault

Sending waits for two things: the peer's window of this stream, and room in the connection's queue. A frame is queued only when
the window takes it whole, so what is sent as one frame is never split: Charon reads the body of a dkg/sync message with a single
read. Longer data goes in pieces of 16384 bytes, for the sake of go-yamux: each time it doubles its window it forgets to grant what
was due at that moment, half a window and whatever the last read went beyond, and a read goes at most to the end of a frame. Six
doublings with frames of 65524 bytes can leave the sender with nothing, for ever; with 16384 at least 32774 bytes are left.
Credit goes back when bytes are read; `read_delimited` reads on while it waits for the end of a message, so messages may be larger
than any window.

Source: specification 03-p2p, sections 5.2, 9 and 11.4.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Final

import trio

from actors.mesh.carriage import Carriage
from charon_actors.p2p.framing import FramingFault, encode_uvarint, take_delimited
from charon_actors.p2p.yamux import MAX_FRAME_BYTES

PIECE_BYTES: Final = 16_384


class StreamFault(trio.BrokenResourceError):
    """This stream ended otherwise than by our own close; the kinds below say how."""


class ProtocolNotSupported(StreamFault):
    """The peer speaks none of the proposed protocols."""


class StreamReset(StreamFault):
    """The stream was reset. code: the yamux error code, 0 when none was given."""

    def __init__(self, code: int, *, by_peer: bool = True) -> None:
        super().__init__(f"stream reset by {'the peer' if by_peer else 'us'}" + (f", code {code:#x}" if code else ""))
        self.code, self.by_peer = code, by_peer


class StreamEnded(StreamFault):
    """The peer finished sending in the middle of a message, or before the one that was waited for."""


class BadMessage(StreamFault):
    """The peer's length prefix is bad, or its message is over the limit."""


class ConnectionLost(StreamFault):
    """The connection under the stream is gone; the text says why."""


class Stream(trio.abc.HalfCloseableStream):
    """Made by `Connection.open_stream` and for each stream that the peer opens.

    protocol: the negotiated id. connection: where it runs. is_outbound: did we open it? sent_bytes, received_bytes: payload, with
    the multistream tokens. What it holds counts for the account of the peer (`account.py`), which may cut it off.
    """

    def __init__(self, connection: Carriage, stream_id: int, *, is_outbound: bool) -> None:
        self.connection, self.is_outbound = connection, is_outbound
        self.protocol = ""
        self.sent_bytes = self.received_bytes = 0
        self._id = stream_id
        self._buffer = bytearray()
        self._credited = 0  # bytes at the front of the buffer for which the peer has got its credit back
        self._is_reading = self._is_sending = False
        self._has_ended = self._has_sent_eof = self._is_closed = False
        self._fault: Callable[[], StreamFault] | None = None
        self._readable, self._writable = trio.lowlevel.ParkingLot(), trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Stream {self._id} {self.protocol or 'negotiating'}>"

    # ---- reading ----

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Bytes as they came, b"" once the peer has finished. Raises: StreamFault kinds, trio.ClosedResourceError."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be 1 or more")
        self._begin_reading()
        try:
            await trio.lowlevel.checkpoint()
            while not self._buffer:
                if self._raise_if_no_more_comes():
                    return b""
                await self._readable.park()
            if self._is_closed:
                raise trio.ClosedResourceError
            count = len(self._buffer) if max_bytes is None else min(max_bytes, len(self._buffer))
            data = bytes(self._buffer[:count])
            self._drop(count)
            return data
        finally:
            self._is_reading = False

    async def read_delimited(self, limit_bytes: int) -> bytes:
        """The next message behind a uvarint length, whole.

        Raises: BadMessage for a length over `limit_bytes`, before any of the body is waited for; StreamEnded when the stream ends
        first; other StreamFault kinds. Cancelled: what has come stays and is read by the next call.
        """
        return await self.read_message(take_delimited, limit_bytes)

    async def read_message(self, take: Callable[[bytearray, int], bytes | None], limit_bytes: int) -> bytes:
        """The next message in any framing: `take` is `take_delimited` or `take_fixed64`. As `read_delimited` otherwise."""
        self._begin_reading()
        try:
            await trio.lowlevel.checkpoint()
            while True:
                if self._is_closed:
                    raise trio.ClosedResourceError
                before = len(self._buffer)
                try:
                    message = take(self._buffer, limit_bytes)
                except FramingFault as fault:
                    raise BadMessage(str(fault)) from None
                if message is not None:
                    self.connection.hold(len(self._buffer) - before)
                    self._credit(before - len(self._buffer))
                    return message
                if self._raise_if_no_more_comes():
                    raise StreamEnded("the peer ended the stream before a whole message had come")
                self._credit_all()
                await self._readable.park()
        finally:
            self._is_reading = False

    # ---- writing ----

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Queue all of `data`, in frames of 16384 bytes; waits for the peer's window and for room in the connection's queue.

        Returning means queued, not delivered. Raises: StreamFault kinds, trio.ClosedResourceError (also after `send_eof`).
        Cancelled: a prefix of whole frames may have been queued.
        """
        await self._send_in_frames([data], PIECE_BYTES)

    async def write_delimited(self, body: bytes) -> None:
        """Send `body` behind its uvarint length; as one frame if it fits, else the body as one frame if that fits.

        Raises and cancellation as for `send_all`.
        """
        prefix = encode_uvarint(len(body))
        if len(prefix) + len(body) <= MAX_FRAME_BYTES:
            await self._send_in_frames([prefix + body], MAX_FRAME_BYTES)
        elif len(body) <= MAX_FRAME_BYTES:
            await self._send_in_frames([prefix, body], MAX_FRAME_BYTES)
        else:
            await self._send_in_frames([prefix + body], PIECE_BYTES)

    async def wait_send_all_might_not_block(self) -> None:
        """Until the window is open and the queue has room."""
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            self._raise_if_not_sendable()
            await self._wait_to_send(1)
        finally:
            self._is_sending = False

    async def send_eof(self) -> None:
        """Half-close: the peer reads b"" after all that was sent; reading goes on. Again: nothing happens."""
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            if self._is_closed:
                raise trio.ClosedResourceError
            if self._fault is not None:
                raise self._fault()
            if not self._has_sent_eof:
                self._has_sent_eof = True
                self.connection.queue_finish(self._id)
        finally:
            self._is_sending = False

    # ---- ending ----

    async def aclose(self) -> None:
        """Close gracefully: what was queued goes out, then FIN; nothing more is read. Cancelled: closed all the same.

        A peer that has sent more than 64 KiB which nobody read, or goes on sending, gets a reset as well.
        """
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """`aclose` without a checkpoint."""
        if not self._is_closed:
            unread_bytes = self.unread_bytes
            self._close_locally()
            self.connection.queue_close(self._id, unread_bytes, has_ended=self._has_ended or self._fault is not None)

    def reset(self, code: int = 0) -> None:
        """Kill both directions at once; the peer sees a reset with `code`. After a close too: what it still sends is cut off."""
        if not self._is_closed:
            self._close_locally()
        self.connection.queue_reset(self._id, code)

    # ---- what the connection calls, always synchronously ----

    @property
    def stream_id(self) -> int:
        """The yamux id, for logs and tests."""
        return self._id

    @property
    def is_closed(self) -> bool:
        """Was it closed or reset by us?"""
        return self._is_closed

    @property
    def unread_bytes(self) -> int:
        """Bytes that came and for which the peer has no credit back."""
        return len(self._buffer) - self._credited

    @property
    def held_bytes(self) -> int:
        """Bytes that came and were not read, or belong to a message that isn't whole."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Bytes from the peer, in order."""
        self.received_bytes += len(data)
        self._buffer += data
        self._readable.unpark_all()
        self.connection.hold(len(data))  # last: it may be this stream that has to go

    def push_back(self, data: bytes) -> None:
        """Bytes that were read too far during the negotiation; they are read again."""
        self._buffer[:0] = data
        self._credited += len(data)
        self.connection.assembling_bytes += len(data)
        self.connection.hold(len(data))

    def cut(self, fault: Callable[[], StreamFault]) -> None:
        """It holds too much: as `break_off`, and what was buffered is gone."""
        self._fault = fault
        self._drop_all()
        self.break_off(fault)

    def end(self) -> None:
        """The peer has finished sending."""
        self._has_ended = True
        self._readable.unpark_all()

    def break_off(self, fault: Callable[[], StreamFault]) -> None:
        """Reset by the peer, or the connection is gone: what was buffered can still be read."""
        if self._fault is None:
            self._fault = fault
        self._readable.unpark_all()
        self._writable.unpark_all()

    def credited(self) -> None:
        """The peer's window has grown."""
        self._writable.unpark_all()

    # ---- inside ----

    def _begin_reading(self) -> None:
        if self._is_reading:
            raise trio.BusyResourceError("another task is reading from this stream")
        self._is_reading = True

    def _begin_sending(self) -> None:
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._is_sending = True

    def _raise_if_no_more_comes(self) -> bool:
        """True: the peer has finished. False: more may come."""
        if self._is_closed:
            raise trio.ClosedResourceError
        if self._has_ended:
            return True
        if self._fault is not None:
            raise self._fault()
        return False

    def _raise_if_not_sendable(self) -> None:
        if self._is_closed or self._has_sent_eof:
            raise trio.ClosedResourceError
        if self._fault is not None:
            raise self._fault()

    async def _send_in_frames(self, parts: Sequence[bytes | bytearray | memoryview], frame_bytes: int) -> None:
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            self._raise_if_not_sendable()
            for part in parts:
                with memoryview(part) as view:
                    for start in range(0, len(view), frame_bytes):
                        chunk = view[start : start + frame_bytes]
                        await self._wait_to_send(len(chunk))
                        self.connection.queue_data(self._id, chunk)
                        self.sent_bytes += len(chunk)
        finally:
            self._is_sending = False

    async def _wait_to_send(self, count: int) -> None:
        while True:
            self._raise_if_not_sendable()
            if self.connection.send_window(self._id) < count:
                await self._writable.park()
            elif not self.connection.has_room:
                await self.connection.progress.park()
            else:
                return

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self.connection.hold(-count)
        self._credit(count)

    def _credit(self, taken: int) -> None:
        """`taken` bytes left the front of the buffer: return credit for those that have none yet."""
        already = min(taken, self._credited)
        self._credited -= already
        self.connection.assembling_bytes -= already
        self.connection.queue_credit(self._id, taken - already)

    def _credit_all(self) -> None:
        """The whole buffer is part of a message that is still coming: let the peer send on."""
        fresh = len(self._buffer) - self._credited
        self._credited += fresh
        self.connection.assembling_bytes += fresh
        self.connection.queue_credit(self._id, fresh)

    def _close_locally(self) -> None:
        self._is_closed = True
        self._drop_all()
        self._readable.unpark_all()
        self._writable.unpark_all()

    def _drop_all(self) -> None:
        self.connection.assembling_bytes -= self._credited
        self.connection.unread_bytes -= len(self._buffer) - self._credited
        self.connection.hold(-len(self._buffer))
        self._credited = 0
        self._buffer = bytearray()
