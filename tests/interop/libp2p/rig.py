"""Independent libp2p peers as context managers: js-libp2p (Node) and the go-libp2p daemon; and a small node of our own.

`install.sh` puts the peers into a cache directory; a test that needs one which is not there is skipped with that reason.
Source: specification 03-p2p, section 13.
"""

import hashlib
import itertools
import json
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.mesh.connection import Connection, ConnectionLost
from actors.mesh.faults import HandshakeFault
from actors.mesh.stream import Stream
from actors.mesh.upgrade import HostIdentity, upgrade
from charon_actors.p2p.framing import encode_delimited, encode_uvarint, take_delimited
from charon_actors.p2p.multiaddr import Multiaddr, decode_multiaddr, decode_multiaddr_bytes, tcp_endpoint, tcp_multiaddr
from charon_actors.p2p.peer_id import PeerId, decode_peer_id, encode_public_key, peer_id_text, public_key_of
from charon_actors.p2p.protobuf import libp2p_pb2

CACHE = Path(
    os.environ.get("CHARON_LIBP2P_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "charon-actors" / "libp2p"
)
ECHO, SINK, PING, IDENTIFY = "/echo/1.0.0", "/sink/1.0.0", "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0"


def key(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


class OurNode:
    """Listens on loopback, dials, answers identify, ping, echo and sink; keeps its connections until it ends."""

    protocols = (ECHO, SINK, PING, IDENTIFY)

    def __init__(self, nursery: trio.Nursery, listener: trio.SocketListener, name: str) -> None:
        self.identity = HostIdentity(key(name), secrets.token_bytes)
        self.is_allowed: Callable[[PeerId], bool] = lambda _: True
        self.connections: list[Connection] = []
        self.ended: list[str] = []
        self.sunk_bytes = 0
        self._nursery = nursery
        self._listener = listener
        self._arrived = trio.Event()
        host, port = listener.socket.getsockname()
        self.address = tcp_multiaddr(host, port).with_peer(self.identity.peer_id)

    async def listen(self) -> None:
        while True:
            raw = await self._listener.accept()
            self._nursery.start_soon(self._accept, raw)

    async def _accept(self, raw: trio.SocketStream) -> None:
        with suppress(HandshakeFault):
            self._adopt(await self._upgrade(raw, outbound=False, expected_peer=None))

    async def dial(self, address: Multiaddr, expected_peer: PeerId | None = None) -> Connection:
        endpoint = tcp_endpoint(address)
        assert endpoint is not None
        raw = await trio.open_tcp_stream(*endpoint)
        connection = await self._upgrade(raw, outbound=True, expected_peer=expected_peer or address.peer_id)
        self._adopt(connection)
        return connection

    async def _upgrade(self, raw: trio.SocketStream, *, outbound: bool, expected_peer: PeerId | None) -> Connection:
        host, port = raw.socket.getpeername()
        return await upgrade(
            raw,
            self.identity,
            outbound=outbound,
            expected_peer=expected_peer,
            is_allowed=self.is_allowed,
            remote_address=tcp_multiaddr(host, port),
        )

    def _adopt(self, connection: Connection) -> None:
        self.connections.append(connection)
        self._nursery.start_soon(self._run, connection)
        self._arrived.set()
        self._arrived = trio.Event()

    async def _run(self, connection: Connection) -> None:
        try:
            await connection.run(self._serve, lambda: self.protocols)
            self.ended.append("closed")
        except ConnectionLost as error:
            self.ended.append(str(error))
        finally:
            self.connections.remove(connection)

    async def arrival(self) -> Connection:
        while not self.connections:
            await self._arrived.wait()
        return self.connections[-1]

    async def _serve(self, stream: Stream) -> None:
        match stream.protocol:
            case "/echo/1.0.0" | "/ipfs/ping/1.0.0":
                while data := await stream.receive_some():
                    await stream.send_all(data)
            case "/sink/1.0.0":
                while data := await stream.receive_some():
                    self.sunk_bytes += len(data)
            case "/ipfs/id/1.0.0":
                await stream.write_delimited(
                    libp2p_pb2.Identify(
                        public_key=encode_public_key(public_key_of(self.identity.peer_id)),
                        listen_addrs=[bytes(self.address.transport)],
                        protocols=self.protocols,
                        observed_addr=bytes(stream.connection.remote_address),
                        protocol_version="",
                        agent_version="charon-actors/test",
                    ).SerializeToString()
                )


@asynccontextmanager
async def our_node(name: str = "ours") -> AsyncIterator[OurNode]:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        node = OurNode(nursery, listener, name)
        nursery.start_soon(node.listen)
        yield node
        nursery.cancel_scope.cancel()


class Peer:
    """What both independent peers can do. process: to be killed or stopped."""

    name = ""
    process: trio.Process
    address: Multiaddr

    @property
    def peer_id(self) -> PeerId:
        peer_id = self.address.peer_id
        assert peer_id is not None
        return peer_id

    async def dial(self, address: Multiaddr) -> None:
        raise NotImplementedError

    async def echo(self, size: int, count: int, parallel: int) -> None:
        """Open echo streams to the one peer that is connected and check what comes back."""
        raise NotImplementedError

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


class PeerError(Exception):
    """The peer reported that it could not do it."""


class JsPeer(Peer):
    """js-libp2p, driven by JSON lines."""

    name = "js"

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._ids = itertools.count(1)
        self._answers: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._ready = trio.Event()
        self._writing = trio.Lock()

    async def read(self) -> None:
        assert self.process.stdout is not None
        buffer = b""
        async for data in self.process.stdout:
            *lines, buffer = (buffer + data).split(b"\n")
            for message in map(json.loads, lines):
                if "event" in message:
                    self.address = decode_multiaddr(message["addresses"][0])
                    self._ready.set()
                else:
                    self._answers.pop(message["id"]).send_nowait(message)

    async def wait_ready(self) -> None:
        await self._ready.wait()

    async def call(self, op: str, **arguments: object) -> Any:
        number = next(self._ids)
        self._answers[number], answer = trio.open_memory_channel[dict[str, Any]](1)
        assert self.process.stdin is not None
        async with self._writing:
            await self.process.stdin.send_all(json.dumps({"id": number, "op": op, **arguments}).encode() + b"\n")
        message = await answer.receive()
        if "error" in message:
            raise PeerError(message["error"])
        return message["ok"]

    async def dial(self, address: Multiaddr) -> None:
        await self.call("dial", address=str(address))

    async def echo(self, size: int, count: int, parallel: int) -> None:
        await self.call("echo", size=size, count=count, parallel=parallel)


@asynccontextmanager
async def js_peer(name: str = "js") -> AsyncIterator[JsPeer]:
    if shutil.which("node") is None or not (CACHE / "node_modules").is_dir() or not (CACHE / ".complete").exists():
        pytest.skip("js-libp2p is not installed: run tests/interop/libp2p/install.sh")
    for file in ("peer.mjs", "preload.cjs"):  # modules are looked up from where the script stands
        shutil.copyfile(Path(__file__).parent / file, CACHE / file)
    command = ["node", "--require", str(CACHE / "preload.cjs"), str(CACHE / "peer.mjs"), key(name).hex()]
    async with _process(command) as (process, nursery):
        peer = JsPeer(process)
        nursery.start_soon(peer.read)
        with trio.fail_after(30):
            await peer.wait_ready()
        yield peer


class GoPeer(Peer):
    """The go-libp2p daemon. Its echo handler is a TCP server of ours that the daemon calls back."""

    name = "go"

    def __init__(self, process: trio.Process, control: str) -> None:
        self.process, self._control = process, control
        self._connected: PeerId | None = None

    async def request(self, fields: bytes, stream: trio.abc.Stream | None = None) -> tuple[bytes, trio.abc.Stream]:
        """Send one control request; returns the response message and the control connection, for streams."""
        control = stream or await trio.open_unix_socket(self._control)
        await control.send_all(encode_delimited(fields))
        buffer = bytearray()
        while (message := take_delimited(buffer, 1 << 20)) is None:
            data = await control.receive_some()
            if not data:
                raise PeerError("the daemon hung up")
            buffer += data
        assert not buffer, "nothing may follow before we ask"
        if _field(message, 1) == 1:
            raise PeerError(_bytes_field(_bytes_field(message, 2) or b"", 1).decode())
        return message, control

    async def identify(self) -> None:
        message, control = await self.request(_varint(1, 0))
        await control.aclose()
        identity = _bytes_field(message, 4)
        self.address = decode_multiaddr_bytes(_bytes_field(identity, 2)).with_peer(_bytes_field(identity, 1))

    async def dial(self, address: Multiaddr) -> None:
        assert address.peer_id is not None
        connect = _bytes(1, address.peer_id) + _bytes(2, bytes(address.transport)) + _varint(3, 10)
        _, control = await self.request(_varint(1, 1) + _bytes(2, connect))
        await control.aclose()
        self._connected = address.peer_id

    def connected_to(self, peer_id: PeerId) -> None:
        self._connected = peer_id

    async def open(self, protocol: str) -> trio.abc.Stream:
        assert self._connected is not None
        opening = _bytes(1, self._connected) + _bytes(2, protocol.encode()) + _varint(3, 10)
        return (await self.request(_varint(1, 2) + _bytes(3, opening)))[1]

    async def echo(self, size: int, count: int, parallel: int) -> None:
        limiter = trio.CapacityLimiter(parallel)

        async def one() -> None:
            async with limiter, await self.open(ECHO) as stream, trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, bytes(size))
                left = size
                while left:
                    data = await stream.receive_some()
                    assert data, "the echo ended early"
                    left -= len(data)

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)

    async def handle(self, protocol: str, handler: Callable[[trio.SocketStream], Awaitable[None]], nursery: trio.Nursery) -> None:
        async def serve(stream: trio.SocketStream) -> None:
            with suppress(trio.BrokenResourceError):
                length = 0
                for shift in range(0, 63, 7):  # the stream message comes first; not one byte more may be read
                    byte = (await stream.receive_some(1) or b"\0")[0]
                    length |= (byte & 0x7F) << shift
                    if byte < 0x80:
                        break
                while length:
                    length -= len(await stream.receive_some(length) or bytes(length))
                await handler(stream)
            await stream.aclose()

        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        address = tcp_multiaddr(*listener.socket.getsockname())
        registration = _bytes(1, bytes(address)) + _bytes(2, protocol.encode()) + _varint(3, 0)
        _, control = await self.request(_varint(1, 3) + _bytes(4, registration))
        await control.aclose()


async def _echo(stream: trio.SocketStream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


@asynccontextmanager
async def go_peer(name: str = "go") -> AsyncIterator[GoPeer]:
    if not (CACHE / "p2pd").exists():
        pytest.skip("the go-libp2p daemon is not installed: run tests/interop/libp2p/install.sh")
    with tempfile.TemporaryDirectory() as folder:
        identity = Path(folder) / "id"
        identity.write_bytes(bytes.fromhex("08021220") + key(name))
        control = f"{folder}/control"
        command = [str(CACHE / "p2pd"), f"-listen=/unix{control}", "-hostAddrs=/ip4/127.0.0.1/tcp/0", f"-id={identity}"]
        async with _process([*command, "-natPortMap=0", "-b=0", "-dht=0", "-q"]) as (process, nursery):
            peer = GoPeer(process, control)
            with trio.fail_after(30):
                while True:
                    try:
                        await peer.identify()
                        break
                    except OSError:
                        await trio.sleep(0.05)
                await peer.handle(ECHO, _echo, nursery)
            yield peer


@asynccontextmanager
async def _process(command: list[str]) -> AsyncIterator[tuple[trio.Process, trio.Nursery]]:
    process = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1, stderr=-3)
    try:
        async with trio.open_nursery() as nursery:
            yield process, nursery
            nursery.cancel_scope.cancel()
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with trio.CancelScope(shield=True):
                    await pipe.aclose()


def _varint(number: int, value: int) -> bytes:
    return bytes([number << 3]) + encode_uvarint(value)


def _bytes(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2]) + encode_uvarint(len(value)) + value


def _fields(message: bytes) -> dict[int, int | bytes]:
    """The last value of each field; enough for the daemon's flat answers."""
    fields: dict[int, int | bytes] = {}
    buffer = bytearray(message)
    while buffer:
        tag = buffer.pop(0)
        if tag & 7 == 2:
            value = take_delimited(buffer, 1 << 20)
            assert value is not None
            fields[tag >> 3] = value
        else:
            number = shift = 0
            while True:
                byte = buffer.pop(0)
                number |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            fields[tag >> 3] = number
    return fields


def _field(message: bytes, number: int) -> int | bytes | None:
    return _fields(message).get(number)


def _bytes_field(message: bytes, number: int) -> bytes:
    value = _field(message, number)
    return value if isinstance(value, bytes) else b""


__all__ = [
    "ECHO",
    "PING",
    "SINK",
    "GoPeer",
    "JsPeer",
    "OurNode",
    "Peer",
    "PeerError",
    "decode_peer_id",
    "go_peer",
    "js_peer",
    "our_node",
    "peer_id_text",
]
