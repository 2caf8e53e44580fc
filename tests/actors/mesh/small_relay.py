"""A circuit relay of one screen, for tests without js-libp2p and go-libp2p. Written from specification 03 §11.6."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from actors.mesh.connection import Connection, ConnectionLost
from actors.mesh.faults import HandshakeFault
from actors.mesh.stream import Stream, StreamFault
from actors.mesh.tcp import tune
from actors.mesh.upgrade import HostIdentity, upgrade
from charon_actors.p2p.envelope import Voucher, encode_voucher
from charon_actors.p2p.identify import IDENTIFY
from charon_actors.p2p.multiaddr import Multiaddr, tcp_multiaddr
from charon_actors.p2p.peer_id import peer_id_text
from charon_actors.p2p.protobuf import libp2p_pb2 as wire
from charon_actors.p2p.relay_messages import HOP, STOP, Status
from tests.actors.mesh.rig import START
from tests.charon_actors.p2p.vectors import counter_entropy

RESERVE, CONNECT, STATUS = 0, 1, 2


@dataclass
class SmallRelay:
    """refuse: answer every RESERVE (of `refused`, if given) with this status. life_s: of a reservation. identify: its answer there.

    reservations: who got one, in order. accepted: connections so far. attempts: (source, target, when) of every CONNECT.
    """

    private_key: bytes
    port: int = 0
    refuse: int = 0
    life_s: int = 3600
    limit_bytes: int = 1 << 25
    identify: bytes | None = None
    connections: dict[bytes, Connection] = field(default_factory=dict)
    reserved: set[bytes] = field(default_factory=set)
    reservations: list[bytes] = field(default_factory=list)
    refused: set[bytes] = field(default_factory=set)
    accepted: int = 0
    circuits: list[tuple[bytes, bytes]] = field(default_factory=list)
    attempts: list[tuple[bytes, bytes, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.identity = HostIdentity(self.private_key, counter_entropy(f"relay {self.private_key.hex()}"))

    @property
    def address(self) -> Multiaddr:
        return tcp_multiaddr("127.0.0.1", self.port)

    @property
    def entry(self) -> str:
        return f"{self.address}/p2p/{peer_id_text(self.identity.peer_id)}"

    async def serve(self, raw: trio.SocketStream) -> None:
        tune(raw.socket)
        try:
            connection = await upgrade(
                raw,
                self.identity,
                outbound=False,
                expected_peer=None,
                is_allowed=lambda peer_id: True,
                remote_address=tcp_multiaddr(*raw.socket.getpeername()[:2]),
            )
        except HandshakeFault:
            return
        self.connections[connection.peer_id] = connection
        self.accepted += 1
        try:
            await connection.run(self._on_stream, lambda: (HOP,) if self.identify is None else (HOP, IDENTIFY))
        except ConnectionLost:
            pass
        finally:
            if self.connections.get(connection.peer_id) is connection:
                del self.connections[connection.peer_id]
                self.reserved.discard(connection.peer_id)

    async def _on_stream(self, stream: Stream) -> None:
        if stream.protocol == IDENTIFY:
            await stream.write_delimited(self.identify or b"")
            return
        request = wire.HopMessage.FromString(await stream.read_delimited(4096))
        source = stream.connection.peer_id
        answer = wire.HopMessage(type=STATUS, status=Status.OK, limit=wire.Limit(duration=3600, data=self.limit_bytes))
        if request.type == RESERVE:
            if self.refuse and source in (self.refused or {source}):
                answer = wire.HopMessage(type=STATUS, status=self.refuse)
            else:
                expire = int(START + trio.current_time()) + self.life_s
                voucher = encode_voucher(self.private_key, Voucher(self.identity.peer_id, source, expire, self.identity.peer_id))
                answer.reservation.MergeFrom(wire.Reservation(expire=expire, voucher=voucher))
                self.reserved.add(source)
                self.reservations.append(source)
            await stream.write_delimited(answer.SerializeToString())
            return
        self.attempts.append((source, request.peer.id, trio.current_time()))
        target = self.connections.get(request.peer.id)
        if target is None or request.peer.id not in self.reserved:
            refusal = wire.HopMessage(type=STATUS, status=Status.NO_RESERVATION)
            await stream.write_delimited(refusal.SerializeToString())
            return
        stop = await target.open_stream((STOP,))
        wanted = wire.StopMessage(type=0, peer=wire.RelayPeer(id=source), limit=answer.limit)
        await stop.write_delimited(wanted.SerializeToString())
        reply = wire.StopMessage.FromString(await stop.read_delimited(4096))
        assert reply.status == Status.OK
        await stream.write_delimited(answer.SerializeToString())
        self.circuits.append((source, request.peer.id))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, stream, stop, nursery.cancel_scope)
                nursery.start_soon(self._copy, stop, stream, nursery.cancel_scope)
        finally:
            stop.reset()
            stream.reset()

    async def _copy(self, source: Stream, target: Stream, scope: trio.CancelScope) -> None:
        budget = self.limit_bytes
        try:
            while (data := await source.receive_some(65536)) and budget >= 0:
                budget -= len(data)
                await target.send_all(data)
        except (StreamFault, trio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def open_relay(
    private_key: bytes, port: int = 0, *, refuse: int = 0, limit_bytes: int = 1 << 25
) -> AsyncIterator[SmallRelay]:
    """A running relay; the end of the block cuts all its connections."""
    relay = SmallRelay(private_key, refuse=refuse, limit_bytes=limit_bytes)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        relay.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, relay.serve, listeners)
        yield relay
        nursery.cancel_scope.cancel()
