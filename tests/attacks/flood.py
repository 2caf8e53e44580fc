"""A member's key in the wrong hands, in a process of its own: floods nodes over raw Noise and yamux, as fast as loopback carries.

    python -m tests.attacks.flood '{"kind": "syn_rst", "key": "<hex>", "ports": [3610], "connections": 16, "seconds": 20, …}'

Nothing of actors/ is used but for `unfinished`, so that no limit of ours slows the attacker: one thread, sockets that never block,
frames made in bulk. It reads and throws away what comes back, and dials again as soon as a connection ends.
"""

import itertools
import json
import os
import secrets
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import trio

from actors.mesh.handlers import close_quietly
from actors.mesh.upgrade import HostIdentity, upgrade
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.p2p.connection import Upgrade
from charon_actors.p2p.framing import encode_delimited, encode_uvarint
from charon_actors.p2p.identify import IDENTIFY_PUSH
from charon_actors.p2p.multiaddr import tcp_multiaddr
from charon_actors.p2p.multistream import HEADER, encode_token
from charon_actors.p2p.noise import NoiseSession
from charon_actors.p2p.protobuf import libp2p_pb2
from charon_actors.p2p.yamux import ACK, DATA, FIN, PING, RST, SYN, WINDOW_UPDATE, encode_frame
from charon_actors.qbft.machine import Broadcast, MessageType
from charon_actors.qbft.messages import encode_message, encode_value, sign_message

CONSENSUS = "/charon/consensus/qbft/2.0.0"
PARTIALS = "/charon/parsigex/2.0.0"
PING_PROTOCOL = "/ipfs/ping/1.0.0"
FRAMES = 2500
FRAME = "BBHII"
REDIALS_A_SECOND = 200
LARGE = 31 * 2**20
HEAD = encode_token(HEADER)


@dataclass
class Order:
    """What to do. ports: of the victims on 127.0.0.1. connections: to each of them."""

    kind: str
    key: str
    ports: list[int]
    connections: int
    seconds: float
    member: int = 3
    genesis_s: float = 0.0
    slot_s: float = 4.0


def frames(fields: list[int]) -> bytes:
    return struct.pack(">" + FRAME * (len(fields) // 5), *fields)


def same_frames(kind: int, flags: int, stream_id: int, length: int) -> Iterator[bytes]:
    block = frames([0, kind, flags, stream_id, length] * FRAMES)
    while True:
        yield block


def opened_and_reset(order: Order) -> Iterator[bytes]:
    for start in itertools.count(1, 2 * FRAMES):
        fields: list[int] = []
        for stream_id in range(start, start + FRAMES, 2):
            fields += (0, WINDOW_UPDATE, SYN, stream_id, 0, 0, WINDOW_UPDATE, RST, stream_id, 0)
        yield frames(fields)


def opened_then(kind: int, flags: int, length: int) -> Callable[[Order], Iterator[bytes]]:
    """One stream that is negotiated, then frames that mean nothing."""

    def make(order: Order) -> Iterator[bytes]:
        body = HEAD + encode_token(PING_PROTOCOL)
        yield encode_frame(DATA, SYN, 1, len(body), body)
        yield from same_frames(kind, flags, 1, length)

    return make


def streams(protocol: str, body: Callable[[Order], bytes], finish: bool = True) -> Callable[[Order], Iterator[bytes]]:
    """A stream a message, as Go sends it."""

    def make(order: Order) -> Iterator[bytes]:
        ids = itertools.count(1, 2)
        head = HEAD + encode_token(protocol)
        while True:
            block = []
            content = body(order)
            for stream_id in itertools.islice(ids, 32):
                payload = head + content
                block.append(encode_frame(DATA, SYN, stream_id, len(payload), payload))
                if finish:
                    block.append(encode_frame(WINDOW_UPDATE, FIN, stream_id, 0))
            yield b"".join(block)

    return make


def echoes(order: Order) -> Iterator[bytes]:
    body = HEAD + encode_token(PING_PROTOCOL)
    yield encode_frame(DATA, SYN, 1, len(body), body)
    while True:
        yield encode_frame(DATA, 0, 1, 32, bytes(32)) * 200


def tiny_messages(order: Order) -> Iterator[bytes]:
    while True:
        yield b""


def a_push(order: Order) -> bytes:
    addresses = [
        bytes(tcp_multiaddr(f"127.0.0.{secrets.randbelow(250) + 1}", 1024 + secrets.randbelow(60000))) for _ in range(60)
    ]
    said = libp2p_pb2.Identify(listen_addrs=addresses, protocols=[CONSENSUS, secrets.token_hex(8)], agent_version="flood")
    return encode_delimited(said.SerializeToString())


def a_vote(order: Order) -> bytes:
    slot = int((time.time() - order.genesis_s) / order.slot_s)
    named, value = encode_value({"0x" + "ab" * 48: bytes(200)})
    signed = sign_message(
        bytes.fromhex(order.key), Duty(slot, DutyType.ATTESTER), order.member, Broadcast(MessageType.PREPARE, 1, named)
    )
    return encode_delimited(encode_message(signed, {named: value}))


def junk(order: Order) -> bytes:
    return encode_delimited(os.urandom(300))


KINDS: dict[str, Callable[[Order], Iterator[bytes]]] = {
    "syn_rst": opened_and_reset,
    "pings": lambda order: same_frames(PING, SYN, 0, 7),
    "pongs": lambda order: same_frames(PING, ACK, 0, 7),
    "windows": opened_then(WINDOW_UPDATE, 0, 1),
    "empty_windows": opened_then(WINDOW_UPDATE, 0, 0),
    "empty_data": opened_then(DATA, 0, 0),
    "unknown_streams": lambda order: same_frames(DATA, 0, 99_999, 0),
    "tiny_messages": tiny_messages,
    "echoes": echoes,
    "pushes": streams(IDENTIFY_PUSH, a_push),
    "refused": streams("/nobody/speaks/this/1.0.0", lambda order: b""),
    "replays": streams(CONSENSUS, a_vote),
    "junk": streams(PARTIALS, junk),
    "redials": lambda order: iter(()),
}
ALL_KINDS = (*KINDS, "unfinished", "half_open", "half_open_8")


def shake_hands(order: Order, port: int) -> tuple[socket.socket, NoiseSession]:
    sock = socket.create_connection(("127.0.0.1", port), timeout=5)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        machine = Upgrade(bytes.fromhex(order.key), secrets.token_bytes, is_dialer=True, expected_peer=None)
        output = machine.opening()
        while True:
            sock.sendall(output)
            if machine.is_done:
                break
            data = sock.recv(65536)
            if not data:
                raise ConnectionError("closed during the handshake")
            output = machine.receive(data)
        assert machine.session is not None
        sock.setblocking(False)
        return sock, machine.session
    except BaseException:
        sock.close()
        raise


@dataclass
class Line:
    """One connection to one victim. session: None while there is none."""

    port: int
    sock: socket.socket | None = None
    session: NoiseSession | None = None
    source: Iterator[bytes] = field(default_factory=lambda: iter(()))
    pending: memoryview = field(default_factory=lambda: memoryview(b""))


class Flood:
    """All lines, turned one after the other."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.sent_bytes = self.made = self.refused = self.lost = 0
        self._selector = selectors.DefaultSelector()
        self._lines = [Line(port) for port in order.ports for _ in range(order.connections)]
        self._may_dial_at = 0.0

    def run(self) -> None:
        end = time.monotonic() + self.order.seconds
        while (now := time.monotonic()) < end:
            for line in self._lines:
                if line.sock is None and now >= self._may_dial_at:
                    self._may_dial_at = now + 1 / REDIALS_A_SECOND
                    self._dial(line)
            for key, events in self._selector.select(0.01):
                self._turn(key.data, events)

    def _dial(self, line: Line) -> None:
        try:
            line.sock, line.session = shake_hands(self.order, line.port)
        except OSError:
            self.refused += 1
            return
        self.made += 1
        line.source, line.pending = KINDS[self.order.kind](self.order), memoryview(b"")
        if self.order.kind == "redials":
            self._drop(line)
            return
        self._selector.register(line.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, line)

    def _turn(self, line: Line, events: int) -> None:
        assert line.sock is not None
        assert line.session is not None
        try:
            if events & selectors.EVENT_READ and not line.sock.recv(262_144):
                raise ConnectionError
            if events & selectors.EVENT_WRITE:
                if not line.pending:
                    plaintext = next(line.source)
                    wire = line.session.encrypt(plaintext) if plaintext else tiny(line.session)
                    line.pending = memoryview(wire)
                count = line.sock.send(line.pending)
                self.sent_bytes += count
                line.pending = line.pending[count:]
        except BlockingIOError:
            pass
        except OSError:
            self.lost += 1
            self._drop(line)

    def _drop(self, line: Line) -> None:
        if line.sock is not None:
            with suppress(KeyError, ValueError):
                self._selector.unregister(line.sock)
            line.sock.close()
        line.sock = line.session = None


def tiny(session: NoiseSession) -> bytes:
    """Noise messages of one byte each; twelve of them are a frame for a stream that doesn't exist."""
    frame = encode_frame(WINDOW_UPDATE, 0, 99_999, 0)
    return b"".join(session.encrypt(frame[place : place + 1]) for _ in range(60) for place in range(12))


def half_open(order: Order, addresses: int, places: int) -> int:
    """Connections that say nothing, `places` a victim; each that is closed is opened again."""
    end = time.monotonic() + order.seconds
    selector = selectors.DefaultSelector()
    opened = 0

    def one(port: int, number: int) -> None:
        nonlocal opened
        with suppress(OSError):
            sock = socket.create_connection(
                ("127.0.0.1", port), 2, (f"127.0.0.{2 + number % addresses}" if addresses > 1 else "127.0.0.1", 0)
            )
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, (port, number, sock))
            opened += 1

    for port in order.ports:
        for number in range(places):
            one(port, number)
    while time.monotonic() < end:
        for key, _ in selector.select(0.05):
            port, number, sock = key.data
            with suppress(OSError):
                if sock.recv(1000):
                    continue
            selector.unregister(sock)
            sock.close()
            one(port, number)
    return opened


async def unfinished(order: Order) -> int:
    """Messages of 31 MiB without their last byte, one after the other on each connection."""
    sent = 0
    identity = HostIdentity(bytes.fromhex(order.key), secrets.token_bytes)

    async def one(port: int) -> None:
        while True:
            with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError, Exception):
                await hold(port)
            await trio.sleep(0.2)

    async def hold(port: int) -> None:
        connection = await upgrade(
            await trio.open_tcp_stream("127.0.0.1", port),
            identity,
            outbound=True,
            expected_peer=None,
            is_allowed=lambda _: True,
            remote_address=tcp_multiaddr("127.0.0.1", port),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run, close_quietly, tuple)
            for _ in range(4):
                nursery.start_soon(large, connection)

    async def large(connection: Any) -> None:
        nonlocal sent
        while True:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                stream = await connection.open_stream((CONSENSUS,))
                await stream.send_all(encode_uvarint(LARGE))
                for _ in range(LARGE // 65536 - 1):
                    await stream.send_all(bytes(65536))
                    sent += 65536
                await trio.sleep(10)
            await trio.sleep(0.05)

    with trio.move_on_after(order.seconds):
        async with trio.open_nursery() as nursery:
            for port in order.ports:
                for _ in range(order.connections):
                    nursery.start_soon(one, port)
    return sent


def main(order: Order) -> dict[str, Any]:
    if order.kind == "unfinished":
        return {"sent_bytes": trio.run(unfinished, order)}
    if order.kind.startswith("half_open"):
        return {"opened": half_open(order, *((8, 256) if order.kind.endswith("8") else (1, 2 * order.connections)))}
    flood = Flood(order)
    flood.run()
    return {"sent_bytes": flood.sent_bytes, "made": flood.made, "refused": flood.refused, "lost": flood.lost}


if __name__ == "__main__":
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    sys.stdout.write(json.dumps(main(Order(**json.loads(sys.argv[1])))) + "\n")
