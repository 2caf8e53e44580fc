"""A mesh in memory for ceremonies: the methods of the real one, over streams without sockets; and places to do harm."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import trio
import trio.testing

from actors.mesh.messages import BadAnswer, NoConnection, ProtocolRefused, SendTimeout, StreamLost
from actors.mesh.stream import BadMessage
from charon_actors.p2p.framing import FramingFault, encode_uvarint, take_delimited

Tamper = Callable[[int, int, str, bytes], bytes | None]  # source, target, protocol, message: what arrives; None: nothing does


class EndedEarly(trio.BrokenResourceError):
    """The peer finished before a whole message had come."""


class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of a pipe, with whole messages on top."""

    def __init__(self, pipe: Any) -> None:
        self._pipe, self._buffer = pipe, bytearray()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._pipe.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._pipe.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._pipe.receive_some(max_bytes))

    async def send_eof(self) -> None:
        await self._pipe.send_eof()

    async def aclose(self) -> None:
        await self._pipe.aclose()

    def close(self) -> None:
        self._pipe.send_stream.close()
        self._pipe.receive_stream.close()

    async def write_delimited(self, body: bytes) -> None:
        await self.send_all(encode_uvarint(len(body)) + body)

    async def read_delimited(self, limit_bytes: int) -> bytes:
        while True:
            try:
                message = take_delimited(self._buffer, limit_bytes)
            except FramingFault as fault:
                raise BadMessage(str(fault)) from None
            if message is not None:
                return message
            received = await self.receive_some()
            if not received:
                raise EndedEarly("ended before a message")
            self._buffer += received


class MemoryNetwork:
    """All nodes of a ceremony. handlers: by node, then protocol. dead: nodes that nobody reaches and that reach nobody."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.handlers: dict[int, Mapping[str, Any]] = {}
        self.dead: set[int] = set()
        self.tamper: Tamper = lambda source, target, protocol, message: message
        self.streams: dict[tuple[int, int], list[MemoryStream]] = {}
        self.traffic: list[tuple[int, int, str, int]] = []

    def node(self, index: int) -> "MemoryMesh":
        return MemoryMesh(self, index)

    async def cut(self, index: int) -> None:
        """Break all streams of a node; it may open new ones."""
        for link in [link for link in self.streams if index in link]:
            for stream in self.streams.pop(link):  # new ones may come while these are closed
                await trio.aclose_forcefully(stream)

    async def connect(self, source: int, target: int, protocols: Sequence[str]) -> MemoryStream:
        await trio.lowlevel.checkpoint()
        if source in self.dead or target in self.dead or target not in self.handlers:
            raise NoConnection(f"node {target} is not there")
        protocol = next((p for p in protocols if p in self.handlers[target]), None)
        if protocol is None:
            raise ProtocolRefused(f"node {target} does not speak {protocols[0]}")
        ours, theirs = (MemoryStream(pipe) for pipe in trio.testing.memory_stream_pair())
        self.streams.setdefault((source, target), []).extend((ours, theirs))
        self._nursery.start_soon(self._handle, self.handlers[target][protocol], source, theirs)
        return ours

    async def _handle(self, handler: Callable[..., Awaitable[None]], source: int, stream: MemoryStream) -> None:
        try:
            await handler(source, stream)
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)


class MemoryMesh:
    """What one node sees of the network; `actors.mesh.Mesh` in shape."""

    def __init__(self, network: MemoryNetwork, own_index: int) -> None:
        self._network, self._own_index = network, own_index

    async def open_stream(self, peer_index: int, protocols: Sequence[str], timeout_s: float = 10.0) -> Any:
        return await self._network.connect(self._own_index, peer_index, protocols)

    async def deliver(self, peer_index: int, protocols: Sequence[str], message: bytes, timeout_s: float = 7.0) -> None:
        await self._send(peer_index, protocols, message, timeout_s, is_answered=False)

    async def exchange(self, peer_index: int, protocols: Sequence[str], message: bytes, timeout_s: float = 7.0) -> bytes:
        return await self._send(peer_index, protocols, message, timeout_s, is_answered=True)

    async def _send(
        self, peer_index: int, protocols: Sequence[str], message: bytes, timeout_s: float, *, is_answered: bool
    ) -> bytes:
        self._network.traffic.append((self._own_index, peer_index, protocols[0], len(message)))
        arriving = self._network.tamper(self._own_index, peer_index, protocols[0], message)
        if arriving is None:
            if is_answered:
                await trio.sleep(timeout_s)
                raise SendTimeout("no answer")
            return b""
        stream = await self._network.connect(self._own_index, peer_index, protocols)
        with trio.move_on_after(timeout_s):
            try:
                await stream.write_delimited(arriving)
                await stream.send_eof()
                return await stream.read_delimited(1 << 27) if is_answered else b""
            except EndedEarly as error:
                raise BadAnswer("closed without an answer") from error
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise StreamLost("cut") from error
        raise SendTimeout("no answer in time")
