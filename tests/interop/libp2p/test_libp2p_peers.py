"""Our connections against js-libp2p and go-libp2p, in both directions (specification 03-p2p, section 14, checks 9, 10, 12, 13)."""

import random
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import pytest
import trio

from actors.mesh.connection import Connection
from actors.mesh.faults import HandshakeFault, PeerRefused
from actors.mesh.stream import ConnectionLost, ProtocolNotSupported, Stream, StreamFault, StreamReset
from charon_actors.crypto import k1_public_key
from charon_actors.p2p.peer_id import peer_id_of
from charon_actors.p2p.protobuf import libp2p_pb2
from tests.interop.libp2p.rig import (
    ECHO,
    IDENTIFY,
    PING,
    GoPeer,
    JsPeer,
    OurNode,
    Peer,
    PeerError,
    go_peer,
    js_peer,
    key,
    our_node,
)

pytestmark = pytest.mark.interop

PEERS = ("js", "go")
DIRECTIONS = ("we dial", "they dial")


def peer_of(kind: str) -> AbstractAsyncContextManager[Peer]:
    return js_peer() if kind == "js" else go_peer()


@asynccontextmanager
async def connected(kind: str, direction: str) -> AsyncIterator[tuple[OurNode, Peer, Connection]]:
    async with our_node() as ours, peer_of(kind) as peer:
        with trio.fail_after(60):
            if direction == "we dial":
                connection = await ours.dial(peer.address)
                if isinstance(peer, GoPeer):
                    peer.connected_to(ours.identity.peer_id)
            else:
                await peer.dial(ours.address)
                connection = await ours.arrival()
        yield ours, peer, connection


async def echo(connection: Connection, size: int) -> None:
    """Through a stream of its own. The daemon ends both directions, with a reset, on EOF: so we half-close after the answer."""
    async with await connection.open_stream([ECHO]) as stream:
        got = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bytes(size))
            while got < size:
                data = await stream.receive_some()
                assert data, f"{got} of {size} bytes came back"
                got += len(data)
        await stream.send_eof()
        with suppress(StreamReset):
            assert await stream.receive_some() == b""


async def until_no_stream_is_left(connection: Connection, peer: Peer) -> None:
    with trio.fail_after(20):
        while connection.stream_count or (isinstance(peer, JsPeer) and (await peer.call("state"))["streams"]):
            await trio.sleep(0.05)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", PEERS)
async def test_handshake_identify_ping_and_unknown_protocols(kind: str, direction: str) -> None:
    async with connected(kind, direction) as (ours, peer, connection):
        with trio.fail_after(20):
            assert connection.peer_id == peer.peer_id
            assert connection.outbound == (direction == "we dial")
            async with await connection.open_stream([IDENTIFY]) as stream:
                identify = libp2p_pb2.Identify.FromString(await stream.read_delimited(8192))
            assert ECHO in identify.protocols
            async with await connection.open_stream(["/nobody/1.0.0", PING]) as stream:
                assert stream.protocol == PING
                for number in range(3):
                    await stream.send_all(bytes([number]) * 32)
                    assert await stream.receive_some() == bytes([number]) * 32
            with pytest.raises(ProtocolNotSupported):
                await connection.open_stream(["/nobody/1.0.0"])
            if isinstance(peer, JsPeer):
                assert sorted(await peer.call("identify")) == sorted(ours.protocols)
                assert await peer.call("ping", address=str(ours.address)) >= 0
                assert await peer.call("refused", protocol="/nobody/1.0.0") == "UnsupportedProtocolError"
            elif isinstance(peer, GoPeer):
                async with await peer.open(PING) as control:
                    await control.send_all(bytes(range(32)))
                    assert await control.receive_some() == bytes(range(32))
                with pytest.raises(PeerError, match="protocol"):
                    await peer.open("/nobody/1.0.0")
            while not connection.rtt_s:
                await trio.sleep(0.01)
        await until_no_stream_is_left(connection, peer)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", PEERS)
async def test_a_thousand_streams_and_a_hundred_at_once(kind: str, direction: str) -> None:
    async with connected(kind, direction) as (_ours, peer, connection):
        with trio.fail_after(90):
            for _ in range(1000):
                await echo(connection, 100)
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(echo, connection, 100)
            await peer.echo(100, 1000, 1)
            await peer.echo(100, 100, 100)
        await until_no_stream_is_left(connection, peer)


@pytest.mark.parametrize("kind", PEERS)
async def test_large_messages_both_ways(kind: str) -> None:
    async with connected(kind, "we dial") as (_ours, peer, connection):
        with trio.fail_after(90):
            for size in (1, 262_144, 262_145, 2**20, 16 * 2**20):
                await echo(connection, size)
                await peer.echo(size, 1, 1)
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(echo, connection, 2**20)
                    nursery.start_soon(peer.echo, 2**20, 2, 2)
        await until_no_stream_is_left(connection, peer)
        assert connection.unread_bytes == connection.assembling_bytes == 0


@pytest.mark.parametrize("kind", PEERS)
async def test_a_killed_peer_is_noticed_and_can_come_back(kind: str) -> None:
    async with our_node() as ours:
        for _ in range(2):
            async with peer_of(kind) as peer:
                connection = await ours.dial(peer.address)
                stream = await connection.open_stream([ECHO])
                peer.signal(signal.SIGKILL)
                with trio.fail_after(5):
                    with pytest.raises(ConnectionLost):
                        await stream.receive_some()
                    await connection.closed.wait()
                    with pytest.raises(ConnectionLost):
                        await connection.open_stream([ECHO])


@pytest.mark.slow
async def test_frozen_peers_are_noticed_within_45_seconds() -> None:
    async def freeze(kind: str) -> None:
        async with connected(kind, "we dial") as (_ours, peer, connection):
            await echo(connection, 10)
            stream = await connection.open_stream([ECHO])
            peer.signal(signal.SIGSTOP)
            with trio.fail_after(45), pytest.raises(ConnectionLost, match="silent"):
                await stream.receive_some()
            await connection.closed.wait()

    async with trio.open_nursery() as nursery:
        for kind in PEERS:
            nursery.start_soon(freeze, kind)


@pytest.mark.parametrize("kind", PEERS)
async def test_wrong_identities_are_refused_both_ways(kind: str) -> None:
    async with our_node() as ours, peer_of(kind) as peer:
        stranger = peer_id_of(k1_public_key(key("somebody else")))
        with pytest.raises(PeerRefused):
            await ours.dial(peer.address.transport, expected_peer=stranger)
        with pytest.raises(PeerError):
            await peer.dial(ours.address.transport.with_peer(stranger))
        ours.is_allowed = lambda peer_id: peer_id != peer.peer_id
        with pytest.raises(HandshakeFault):
            await ours.dial(peer.address)
        with trio.fail_after(15), suppress(PeerError):  # it may see a good handshake, and then a closed socket
            await peer.dial(ours.address)
        assert not ours.connections
        ours.is_allowed = lambda _: True
        await echo(await ours.dial(peer.address), 10)


@pytest.mark.parametrize("kind", PEERS)
async def test_ten_thousand_operations_under_tiny_deadlines_leak_nothing(kind: str) -> None:
    dice = random.Random(17)
    outcomes = {"done": 0, "cancelled": 0, "fault": 0}

    async def operate(connection: Connection, longest_s: float) -> None:
        size = dice.choice([1, 100, 5000, 70_000])
        stream: Stream | None = None
        with trio.move_on_after(dice.uniform(0, longest_s)) as scope:
            try:
                stream = await connection.open_stream([ECHO])
                await stream.write_delimited(bytes(size))
                assert await stream.read_delimited(size) == bytes(size)
                await stream.aclose()
                outcomes["done"] += 1
            except StreamFault:
                outcomes["fault"] += 1
            finally:
                if stream is not None:
                    stream.reset()
        outcomes["cancelled"] += scope.cancelled_caught

    async def worker(connection: Connection, count: int) -> None:
        for number in range(count):
            await operate(connection, 0.003 if number % 20 else 5)  # on a busy machine 3 ms are never enough

    async with connected(kind, "we dial") as (ours, peer, connection):
        await echo(connection, 10)
        await until_no_stream_is_left(connection, peer)
        tasks = trio.lowlevel.current_statistics().tasks_living
        with trio.fail_after(110):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(worker, connection, 2500)
        assert sum(outcomes.values()) == 10_000
        assert outcomes["done"] > 300
        assert outcomes["cancelled"] > 1000
        assert ours.connections == [connection]
        await until_no_stream_is_left(connection, peer)
        for _ in range(300):  # more than the 256 slots that could have leaked
            await echo(connection, 10)
        await until_no_stream_is_left(connection, peer)
        assert connection._session.unacknowledged == len(connection._lingering) == 0
        assert not connection.streams
        if kind == "js":  # the daemon's handler lives in our process and has tasks of its own
            with trio.fail_after(10):
                while trio.lowlevel.current_statistics().tasks_living > tasks:
                    await trio.sleep(0.05)
