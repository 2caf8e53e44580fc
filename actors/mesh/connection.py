"""Connection: one authenticated libp2p connection; noise and yamux over any Trio byte stream.

Accepts     `open_stream` of any task; `close` at any time; the frames that its streams queue
Owns        the raw stream, the noise session, the yamux session; one task that reads, one that writes, one that pings
May touch   nothing else: it knows neither addresses of actors nor the cluster
Cancelled   a user task may be cancelled at every await without harm: user tasks never encrypt and never write, they queue whole
            frames. Cancelling `run` aborts the connection at once.
Ends        `run` returns after `close`, raises ConnectionLost when the peer, the wire or its rules ended it
Source      specification 03-p2p, sections 2.1, 9, 10 and 11.1 to 11.4

Why these tasks (each rule was paid for, specification 03 §9):

    reader      decrypts and hands out, and never waits for whoever reads a stream: flow control is per stream. It waits for the
                credit of the peer (`account.py`): what it has read is worked through in slices, each of them paid for
    writer      alone encrypts and writes, takes many frames at once; cancelled only when the connection ends, so no nonce and no
                half frame is ever lost
    keepalive   pings every 30 s; a peer from which nothing at all comes for 10 s after a ping is gone, though TCP does not know
    openings    ends the streams for which no protocol is agreed in time; a stream gets a task when that is done (`opening.py`)

Limits: 512 inbound streams, 1024 handlers, 256 unacknowledged outbound streams, 512 KiB in the queue before senders wait, 1024
streams that we have closed and the peer has not, each for 120 s and 64 KiB; credit and memory by peer, not by connection.
"""

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import trio

from actors.mesh.account import Account
from actors.mesh.carriage import LINGER_BYTES, Carriage
from actors.mesh.opening import Openings, ProtocolAgreed
from actors.mesh.stream import (
    BadMessage,
    ConnectionLost,
    ProtocolNotSupported,
    Stream,
    StreamEnded,
    StreamFault,
    StreamReset,
)
from charon_actors.p2p.connection import (
    KEEPALIVE_ANSWER_S,
    KEEPALIVE_INTERVAL_S,
)
from charon_actors.p2p.credit import (
    BYTE_MS,
    FRAME_MS,
    MESSAGE_MS,
    OPENED_MS,
    PROPOSAL_MS,
    READ_MS,
    RECEIVED_MS,
    SLICE_MS,
    serving_cost_ms,
)
from charon_actors.p2p.multiaddr import Multiaddr
from charon_actors.p2p.multistream import Initiator, MultistreamFault, NotSupported
from charon_actors.p2p.noise import MAX_PLAINTEXT_BYTES, NoiseFault, NoiseSession
from charon_actors.p2p.peer_id import peer_name
from charon_actors.p2p.yamux import (
    GO_AWAY_NORMAL,
    MAX_UNACKNOWLEDGED,
    NEGOTIATION_FAILED,
    RESOURCE_LIMIT,
    Credited,
    Event,
    Finished,
    GoneAway,
    Killed,
    Opened,
    Ponged,
    Received,
    YamuxFault,
)

__all__ = [
    "BadMessage",
    "Connection",
    "ConnectionLost",
    "ProtocolNotSupported",
    "Stream",
    "StreamEnded",
    "StreamFault",
    "StreamReset",
]

READ_BYTES: Final = 131_072
WRITE_BYTES: Final = 4 * MAX_PLAINTEXT_BYTES  # plaintext of one socket write
WRITE_FRAMES: Final = 1024  # of one socket write: a millisecond of work, for who makes us answer many small frames
FRAMES_A_LOOK: Final = 64  # between two looks at what they have cost
WRITE_TIMEOUT_S: Final = 60.0  # for one socket write
OWN_DELAY_S: Final = 1.0
MAX_HANDLERS: Final = 1024  # a handler outlives its stream; opening and resetting in turns must not make them endless
CLOSE_TIMEOUT_S: Final = 0.5  # to send what is queued and the go-away, and to see the peer close
HANDLER_GRACE_S: Final = 5.0  # 03 §5.2: what a handler has; it may have read its message before the connection went


class Connection(Carriage):
    """Made by `upgrade` (`upgrade.py`); works while `run` runs.

    rtt_s: last measured round trip, 0 before. sent_bytes, received_bytes: on the wire. closed: set when it is of no more use.
    last_received_at: when the last byte came. The rest: see `Carriage`.
    """

    def __init__(
        self,
        raw: trio.abc.Stream,
        noise: NoiseSession,
        early_plaintext: bytes,
        *,
        outbound: bool,
        remote_address: Multiaddr,
        limited: bool,
        account: Account,
    ) -> None:
        super().__init__(noise.remote_peer_id, remote_address, account, outbound=outbound, limited=limited)
        self.account = account
        self.rtt_s = 0.0
        self.sent_bytes = self.received_bytes = 0
        self.closed = trio.Event()
        self._raw, self._noise, self._early = raw, noise, early_plaintext
        self._openings = Openings(self._session, tuple)
        self._opened = trio.Event()
        self._machinery: trio.CancelScope | None = None
        self._is_closing = False
        self._reason: str | None = None  # why it was lost; None when we closed it
        self._close_reason = "closed"
        self._pings = self._serving = 0
        self._plaintext: bytes | None = None  # decrypted and not yet given to yamux
        self._slice_ms, self._is_drained = 0.0, True
        self._ping_sent_at = self.last_received_at = 0.0

    def __repr__(self) -> str:
        return f"<Connection {'to' if self.outbound else 'from'} {peer_name(self.peer_id)}>"

    # ---- what its owner calls ----

    async def run(self, on_stream: Callable[[Stream], Awaitable[None]], protocols: Callable[[], Sequence[str]]) -> None:
        """Be the connection until it ends.

        on_stream: called in a task of its own for each inbound stream, once its protocol is agreed; the stream is closed when it
        returns, reset when it raises StreamFault or trio.ClosedResourceError; any other exception ends the connection and is
        raised here. When the connection ends, handlers get 5 s for what they have already read.
        protocols: what the peer may choose from, asked for each stream.
        Returns after `close`. Raises: ConnectionLost. Cancelled: aborts at once.
        """
        assert self._machinery is None, "a connection runs once"
        self._openings = Openings(self._session, protocols)
        self.account.enter(self)
        try:
            async with trio.open_nursery() as handlers:
                async with trio.open_nursery() as machinery:
                    self._machinery = machinery.cancel_scope
                    if self.closed.is_set():
                        return
                    self.last_received_at = trio.current_time()
                    machinery.start_soon(self._read, lambda stream: handlers.start_soon(self._serve, on_stream, stream))
                    machinery.start_soon(self._write)
                    machinery.start_soon(self._keep_alive)
                    machinery.start_soon(self._expire_openings)
                self._end()
                await abort(self._raw)
                handlers.cancel_scope.deadline = trio.current_time() + HANDLER_GRACE_S
        finally:
            self._end()
            self.account.leave(self)
            await abort(self._raw)
        if self._reason is not None:
            raise ConnectionLost(self._reason)

    async def open_stream(self, protocols: Sequence[str], early: bytes | None = None) -> Stream:
        """A new stream that speaks one of `protocols`, proposed in this order.

        early: all that will ever be sent on it. It goes out right behind the proposal and is followed by FIN, without waiting for
        the agreement; that saves the message a round trip. Only for a single protocol that the peer is known to speak: behind a
        refused proposal it would be taken for the next one. Go does the same (03 §5.2).
        Waits while the peer has 256 of our streams unaccepted. Raises: ProtocolNotSupported, StreamReset, StreamEnded,
        ConnectionLost. Cancelled at any instant: the stream is reset, its slot free. Has no time limit of its own.
        """
        assert early is None or len(protocols) == 1, "an early message needs a protocol that is sure to be agreed"
        await trio.lowlevel.checkpoint()
        while True:
            if self._is_closing or self.closed.is_set():
                raise self._lost()
            if self._session.unacknowledged < MAX_UNACKNOWLEDGED and self.has_room:
                break
            await self.progress.park()
        try:
            stream = Stream(self, self._session.open(), is_outbound=True)
        except YamuxFault as fault:
            self.close(str(fault))
            raise ConnectionLost(str(fault)) from None
        self._streams[stream.stream_id] = stream
        try:
            await self._negotiate(stream, Initiator(protocols), early)
        except BaseException as error:
            stream.reset(NEGOTIATION_FAILED if isinstance(error, MultistreamFault) else 0)
            match error:
                case NotSupported():
                    raise ProtocolNotSupported(str(error)) from None
                case MultistreamFault():
                    raise StreamFault(str(error)) from None
            raise
        return stream

    def close(self, reason: str = "closed") -> None:
        """Ask the connection to end: what is queued goes out, then a go-away; `run` returns within half a second or so.

        reason: what users of its streams read in ConnectionLost. Again, or after it was lost: nothing happens.
        """
        if self._is_closing or self.closed.is_set():
            return
        self._close_reason = reason
        if self._machinery is None:  # nobody runs it: there is nobody to say goodbye either
            self._end()
            abort_now(self._raw)
            return
        self._session.go_away(GO_AWAY_NORMAL)
        self._begin_closing()

    def cut_off(self, reason: str) -> None:
        """End it at once, without a word; `run` raises ConnectionLost with the reason."""
        self._lose(reason)

    async def aclose(self) -> None:
        """`close`, and wait for the end. Cancelled: aborted."""
        self.close()
        try:
            if self._machinery is None:
                await abort(self._raw)
            await self.closed.wait()
        except trio.Cancelled:
            if self._machinery is not None:
                self._machinery.cancel()
            raise

    # ---- the tasks ----

    async def _read(self, serve: Callable[[Stream], None]) -> None:
        self._plaintext, self._early = self._early, b""
        work = partial(self._work, serve)
        cost_ms = 0.0
        try:
            while True:
                self._slice_ms, self._is_drained = cost_ms, False
                while not self._is_drained:
                    await self.account.pay(self, work)
                    self._output.set()  # answers, credit
                    if self._session.unacknowledged < MAX_UNACKNOWLEDGED and self.has_room:
                        self.progress.unpark_all()
                data = await self._raw.receive_some(READ_BYTES)
                if not data:
                    self._lose("the peer closed the connection")
                    return
                cost_ms = READ_MS + len(data) * BYTE_MS
                self.received_bytes += len(data)
                self.last_received_at = trio.current_time()
                self._noise.feed(data)
        except YamuxFault as fault:
            self._reason = self._reason or f"the peer broke the rules: {fault}"
            self._begin_closing()  # the go-away is queued
        except NoiseFault as fault:
            self._lose(str(fault))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lose(f"the connection broke: {error.__cause__ or error}")

    def _work(self, serve: Callable[[Stream], None]) -> float:
        """One slice of what has been read; its price in milliseconds."""
        cost_ms, self._slice_ms = self._slice_ms, 0.0
        session = self._session
        while cost_ms < SLICE_MS:
            plaintext = b""
            if not session.has_input:
                next_plaintext, self._plaintext = self._plaintext or self._noise.take(), None
                if next_plaintext is None:
                    self._is_drained = True
                    break
                plaintext = next_plaintext
                cost_ms += MESSAGE_MS
            before, refused = session.frames, self._openings.refused
            for event in session.receive(plaintext, max_frames=FRAMES_A_LOOK):
                cost_ms += self._handle(event, serve)
            cost_ms += FRAME_MS * (session.frames - before) + PROPOSAL_MS * (self._openings.refused - refused)
        return cost_ms

    async def _write(self) -> None:
        try:
            while True:
                if not self._session.output_bytes:
                    self._output = trio.Event()
                    await self._output.wait()
                    continue
                wire = self._noise.encrypt(self._session.take_output(WRITE_BYTES, WRITE_FRAMES))
                if self.has_room:
                    self.progress.unpark_all()
                with trio.move_on_after(WRITE_TIMEOUT_S) as scope:
                    await self._raw.send_all(wire)
                if scope.cancelled_caught:
                    self._lose(f"the peer did not read for {WRITE_TIMEOUT_S:g} s")
                    return
                self.sent_bytes += len(wire)
        except NoiseFault as fault:
            self._lose(str(fault))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lose(f"the connection broke: {error.__cause__ or error}")

    async def _keep_alive(self) -> None:
        while True:
            self._pings = (self._pings + 1) % 2**32
            self._ping_sent_at = trio.current_time()
            self._session.ping(self._pings)
            self._output.set()
            await trio.sleep(KEEPALIVE_ANSWER_S)
            if self.last_received_at < self._ping_sent_at:
                # We may be the one that stood still; the reader then finds the answer in the socket now.
                await trio.sleep(OWN_DELAY_S)
            if self.last_received_at < self._ping_sent_at:
                self._lose(f"the peer has been silent for {KEEPALIVE_ANSWER_S:g} s after a ping")
                return
            await trio.sleep(KEEPALIVE_INTERVAL_S - KEEPALIVE_ANSWER_S)
            now = trio.current_time()
            for stream_id in [key for key, lingering in self._lingering.items() if lingering.until <= now]:
                self._cut_off(stream_id)

    async def _expire_openings(self) -> None:
        while True:
            self._opened = trio.Event()
            if self._openings.next_end is None:
                await self._opened.wait()
                continue
            await trio.sleep_until(self._openings.next_end)
            self._openings.expire(trio.current_time())
            self._output.set()

    async def _serve(self, on_stream: Callable[[Stream], Awaitable[None]], stream: Stream) -> None:
        try:
            await on_stream(stream)
        except (StreamFault, trio.ClosedResourceError):
            stream.reset()
        except BaseException:
            stream.reset()
            raise
        finally:
            self._serving -= 1
            stream.close()

    async def _negotiate(self, stream: Stream, negotiation: Initiator, early: bytes | None) -> None:
        """Agree on the protocol of a stream that we opened."""
        output = negotiation.opening()
        if early is not None:
            await stream.send_all(output + early)
            await stream.send_eof()
        else:
            await stream.send_all(output)
        while negotiation.selected is None:
            data = await stream.receive_some()
            if not data:
                raise StreamEnded("the peer ended the stream before a protocol was agreed")
            output = negotiation.receive(data)
            if output:
                await stream.send_all(output)
        stream.protocol = negotiation.selected
        stream.push_back(negotiation.leftover)

    # ---- inside ----

    def _handle(self, event: Event, serve: Callable[[Stream], None]) -> float:
        """What it costs besides its frame, in milliseconds."""
        match event:
            case Received(stream_id, data):
                if stream_id in self._openings:
                    if self._serving >= MAX_HANDLERS:
                        self._openings.end(stream_id, RESOURCE_LIMIT)
                        return PROPOSAL_MS
                    agreed = self._openings.feed(stream_id, data, trio.current_time())
                    return 0.0 if agreed is None else self._begin_serving(stream_id, agreed, serve)
                stream = self._streams.get(stream_id)
                if stream is None:  # closed by us: the peer gets no credit for it, and a reset if it goes on
                    lingering = self._lingering.get(stream_id)
                    if lingering is not None:
                        lingering.received_bytes += len(data)
                        if lingering.received_bytes > LINGER_BYTES:
                            self._cut_off(stream_id)
                    return 0.0
                self.unread_bytes += len(data)
                stream.feed(data)
                return RECEIVED_MS
            case Opened(stream_id):
                self._openings.begin(stream_id, trio.current_time())
                self._opened.set()
                return OPENED_MS
            case Finished(stream_id):
                self._lingering.pop(stream_id, None)
                if stream_id in self._openings:
                    self._openings.end(stream_id)
                elif stream_id in self._streams:
                    self._streams[stream_id].end()
            case Killed(stream_id, code, by_peer):
                self._lingering.pop(stream_id, None)
                if not self._openings.forget(stream_id):
                    self._break_stream(stream_id, lambda: StreamReset(code, by_peer=by_peer))
            case Credited(stream_id):
                if stream_id in self._streams:
                    self._streams[stream_id].credited()
            case Ponged(opaque):
                if opaque == self._pings:
                    self.rtt_s = self._session.rtt_s = trio.current_time() - self._ping_sent_at
            case GoneAway(code):
                self._lose("the peer ended the session" + (f", code {code:#x}" if code else ""))
        return 0.0

    def _begin_serving(self, stream_id: int, agreed: ProtocolAgreed, serve: Callable[[Stream], None]) -> float:
        self._serving += 1
        stream = self._streams[stream_id] = Stream(self, stream_id, is_outbound=False)
        stream.protocol = agreed.protocol
        stream.sent_bytes, stream.received_bytes = agreed.sent_bytes, agreed.received_bytes - len(agreed.leftover)
        serve(stream)
        if agreed.leftover:
            self.unread_bytes += len(agreed.leftover)
            stream.feed(agreed.leftover)
        return serving_cost_ms(agreed.protocol)

    def cut_stream(self, stream: Stream) -> None:
        """For the account: this stream holds too much."""
        self._session.reset(stream.stream_id, RESOURCE_LIMIT)
        stream.cut(lambda: StreamReset(RESOURCE_LIMIT, by_peer=False))
        self._output.set()

    def _break_stream(self, stream_id: int, fault: Callable[[], StreamFault]) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.break_off(fault)

    def _lost(self) -> ConnectionLost:
        return ConnectionLost(self._reason or self._close_reason)

    def _lose(self, reason: str) -> None:
        if not self._is_closing:
            self._reason = self._reason or reason
        if self._machinery is not None:
            self._machinery.cancel()

    def _begin_closing(self) -> None:
        assert self._machinery is not None, "only a running connection says goodbye"
        self._is_closing = True
        self._machinery.deadline = trio.current_time() + CLOSE_TIMEOUT_S
        self._output.set()
        self.progress.unpark_all()

    def _end(self) -> None:
        """Of no more use: everybody who waits learns it."""
        if self.closed.is_set():
            return
        self.closed.set()
        for stream in list(self._streams.values()):
            stream.break_off(self._lost)
        self.progress.unpark_all()


async def abort(raw: trio.abc.Stream) -> None:
    with contextlib.suppress(trio.BrokenResourceError, OSError):
        await trio.aclose_forcefully(raw)


def abort_now(raw: trio.abc.Stream) -> None:
    """Close without a chance to wait. Streams that can't be closed like that are left to the garbage collector."""
    if isinstance(raw, Stream):
        raw.reset()
    elif isinstance(raw, trio.SocketStream):
        raw.socket.close()
