"""Outbox: messages to one peer, each on a stream of its own over the best connection, until its deadline.

To a peer that has told that it speaks the protocol, a small message goes out together with the proposal of the protocol. A message whose
stream breaks is sent once more, where the caller allows it.

Limits: MAX_IN_FLIGHT sends and MAX_IN_FLIGHT_BYTES under way.
Source: specification 03 §5.1, §5.3.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import trio

from actors.log import Log
from actors.mailbox import Reply
from actors.mesh.connection import BadMessage, ProtocolNotSupported, StreamEnded
from actors.mesh.facts import SendDone, SendRefused
from actors.mesh.faults import describe
from actors.mesh.handlers import close_quietly
from actors.mesh.host import Host, MeshPeer
from actors.mesh.links import Links
from actors.mesh.messages import (
    SEND_TIMEOUT_S,
    BadAnswer,
    Deliver,
    Exchange,
    MeshFault,
    NoConnection,
    OpenStream,
    PeerBusy,
    ProtocolRefused,
    SendDetached,
    SendTimeout,
    StreamLost,
)
from actors.mesh.owner import STREAM_ERRORS
from actors.mesh.send_log import SendLog
from actors.mesh.stream import Stream
from charon_actors.p2p.framing import encode_delimited

MAX_IN_FLIGHT: Final = 512
MAX_IN_FLIGHT_BYTES: Final = 128 * 1024 * 1024
RETRY_DELAY_S: Final = 0.1
EARLY_BYTES: Final = 32_768  # larger messages wait for the agreement: they would fill the window of a stream that may be refused

R = TypeVar("R")


class Outbox:
    """Of one incarnation. send_log: shared with whoever else exchanges messages with the peer."""

    def __init__(self, peer: MeshPeer, host: Host, links: Links, log: Log) -> None:
        self._peer, self._host, self._links, self._log = peer, host, links, log
        self.send_log = SendLog()
        self._in_flight = self._in_flight_bytes = 0

    def is_busy(self, size: int) -> bool:
        """Whether a message of that many bytes finds no place."""
        return self._in_flight >= MAX_IN_FLIGHT or (
            self._in_flight_bytes > 0 and self._in_flight_bytes + size > MAX_IN_FLIGHT_BYTES
        )

    def busy(self) -> PeerBusy:
        return PeerBusy(f"{self._peer.name}: {self._in_flight} sends are in flight")

    def refuse(self, reason: str) -> None:
        """Count a detached send that nobody hears of."""
        self._host.on_fact(SendRefused(self._peer.name, reason))

    async def send(self, send: SendDetached) -> None:
        """Detached: what goes wrong is logged and counted."""
        try:
            await self._one_way(send.protocols, send.message, SEND_TIMEOUT_S, send.topic, retries=1)
        except MeshFault as error:
            self.refuse(type(error).__name__)
            news = self.send_log.add(False)
            if news == "failing" and not isinstance(error, NoConnection):
                self._log.warning("Cannot send to peer", error=str(error), protocol=send.protocols[0])
        else:
            if self.send_log.add(True) == "recovered":
                self._log.info("Sends to peer work again")

    async def deliver(self, request: Deliver) -> None:
        """Raises: MeshFault."""
        await self._one_way(request.protocols, request.message, request.timeout_s, request.topic, retries=0)

    async def exchange(self, request: Exchange) -> bytes:
        """Raises: MeshFault."""
        return (await self.exchange_timed(request, may_be_early=True))[0]

    async def exchange_timed(self, request: Exchange, *, may_be_early: bool = False) -> tuple[bytes, float]:
        """The answer and its round trip in seconds; that of an early request isn't measured right."""

        async def ask(stream: Stream) -> tuple[bytes, float]:
            start = trio.current_time()
            try:
                answer = await stream.read_delimited(request.limit_bytes)
            except (StreamEnded, BadMessage) as error:
                raise BadAnswer(f"{self._peer.name} on {stream.protocol}: {error}") from None
            return answer, trio.current_time() - start

        return await self._use_stream(
            request.protocols, request.timeout_s, request.message, ask, topic=request.topic, retries=1, may_be_early=may_be_early
        )

    async def open_for(self, request: OpenStream, reply: Reply[Stream]) -> Stream:
        """A stream that the asker owns. Raises: MeshFault."""
        with self._place(0):
            stream = await self._open(request.protocols, trio.current_time() + request.timeout_s)
        if reply.is_over:  # the asker left in this very instant; nobody else would close it
            stream.reset()
        return stream

    @contextmanager
    def _place(self, size: int) -> Iterator[None]:
        self._in_flight += 1
        self._in_flight_bytes += size
        try:
            yield
        finally:
            self._in_flight -= 1
            self._in_flight_bytes -= size

    async def _one_way(self, protocols: tuple[str, ...], message: bytes, timeout_s: float, topic: str, retries: int) -> None:
        async def written(stream: Stream) -> None:
            pass

        await self._use_stream(protocols, timeout_s, message, written, topic=topic, retries=retries)

    async def _use_stream(
        self,
        protocols: tuple[str, ...],
        timeout_s: float,
        message: bytes,
        use: Callable[[Stream], Awaitable[R]],
        *,
        topic: str,
        retries: int,
        may_be_early: bool = True,
    ) -> R:
        """Send `message` on a stream of its own, finish our side, then `use` the stream."""
        deadline = trio.current_time() + timeout_s
        with self._place(len(message)):
            while True:
                is_early = may_be_early and self._is_known_to_speak(protocols) and len(message) <= EARLY_BYTES
                may_be_early = False
                try:
                    stream = await self._open(protocols, deadline, encode_delimited(message) if is_early else None)
                    try:
                        return await self._write(stream, deadline, None if is_early else message, use, topic)
                    except trio.TooSlowError:
                        text = f"{self._peer.name} took longer than {timeout_s:g} s on {stream.protocol}"
                        raise SendTimeout(text) from None
                except StreamLost:
                    if not retries:
                        raise
                retries -= 1
                await trio.sleep(RETRY_DELAY_S)

    def _is_known_to_speak(self, protocols: tuple[str, ...]) -> bool:
        identify = self._links.identify
        return len(protocols) == 1 and identify is not None and protocols[0] in identify.protocols

    async def _write(
        self, stream: Stream, deadline: float, message: bytes | None, use: Callable[[Stream], Awaitable[R]], topic: str
    ) -> R:
        """message: None if it went out with the proposal. Raises: StreamLost, trio.TooSlowError; the stream is reset then."""
        start = trio.current_time()
        is_done = False
        try:
            with trio.fail_at(deadline):
                if message is not None:
                    await stream.write_delimited(message)
                    await stream.send_eof()
                answer = await use(stream)
            is_done = True
        except STREAM_ERRORS as error:
            raise StreamLost(f"{self._peer.name} on {stream.protocol}: {describe(error)}") from None
        finally:
            self._links.stream_over(stream)
            if not is_done:
                stream.reset()
        self._host.on_fact(SendDone(self._peer.name, stream.protocol, topic, trio.current_time() - start))
        await close_quietly(stream)
        return answer

    async def _open(self, protocols: tuple[str, ...], deadline: float, early: bytes | None = None) -> Stream:
        """A negotiated stream over the best connection, waiting for one.

        Raises: NoConnection, SendTimeout, ProtocolRefused; StreamLost if `early` was sent and the stream broke.
        """
        last = "no connection"
        was_connected = False
        while True:
            try:
                with trio.fail_at(deadline):
                    connection = await self._links.best()
                    was_connected = True
                    return await connection.open_stream(protocols, early)
            except ProtocolNotSupported:
                raise ProtocolRefused(f"{self._peer.name} does not speak {protocols[0]}") from None
            except STREAM_ERRORS as error:
                if early is not None:  # the peer may have got the message: not for us to send it again and again
                    raise StreamLost(f"{self._peer.name} on {protocols[0]}: {describe(error)}") from None
                last = describe(error)
            except trio.TooSlowError:
                kind = SendTimeout if was_connected else NoConnection
                raise kind(f"{self._peer.name}: {last}") from None
            await trio.sleep(RETRY_DELAY_S)
