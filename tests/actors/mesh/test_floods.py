"""Floods over real sockets against one node, as facts: what was started, what was kept, what was answered. Source: docs/threat-model.md."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from actors.mesh.account import MEMBER_BYTES, Account
from actors.mesh.connection import Connection, ConnectionLost
from actors.mesh.handlers import one_way
from actors.mesh.stream import Stream, StreamReset
from actors.mesh.upgrade import HostIdentity, upgrade
from charon_actors.p2p.credit import FRAME_MS, SLICE_MS
from charon_actors.p2p.framing import encode_uvarint
from charon_actors.p2p.identify import IDENTIFY
from charon_actors.p2p.multiaddr import tcp_multiaddr
from charon_actors.p2p.yamux import PING, RST, SYN, WINDOW_UPDATE, encode_frame
from tests.actors.mesh.rig import Node, key_of, open_nodes, peer_of
from tests.actors.mesh.small_relay import open_relay
from tests.actors.mesh.test_hostile_peers import echoes
from tests.actors.mesh.test_relay import RELAY_KEY, reserved
from tests.charon_actors.p2p.vectors import counter_entropy

NOTE = "/note/1.0.0"
LARGE = 31 * 2**20


@asynccontextmanager
async def members(node: Node, count: int) -> AsyncIterator[list[Connection]]:
    """That many connections with operator 1's key, as far as they are let in."""
    port = node.sockets[0].getsockname()[1]

    async def nothing(stream: Stream) -> None:
        await trio.lowlevel.checkpoint()

    async def run(connection: Connection) -> None:
        with suppress(ConnectionLost):
            await connection.run(nothing, lambda: (IDENTIFY,))

    async with trio.open_nursery() as nursery:
        made = []
        for number in range(count):
            made.append(
                await upgrade(
                    await trio.open_tcp_stream("127.0.0.1", port),
                    HostIdentity(key_of(1), counter_entropy(f"flood {number}")),
                    outbound=True,
                    expected_peer=None,
                    is_allowed=lambda _: True,
                    remote_address=tcp_multiaddr("127.0.0.1", port),
                )
            )
            nursery.start_soon(run, made[-1])
        yield made
        nursery.cancel_scope.cancel()


def raw(connection: Connection, frames: bytes) -> None:
    connection._session._queue(connection._session._ordered, frames)
    connection._output.set()


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not is_so():
            await trio.sleep(0.01)


def nobody() -> dict[str, Callable[[int, Stream], Awaitable[None]]]:
    async def take(peer_index: int, message: bytes) -> None:
        await trio.lowlevel.checkpoint()

    return {NOTE: one_way(take, 2 * LARGE, timeout_s=60.0)}


async def test_no_task_for_a_stream_before_its_protocol_is_agreed() -> None:
    async with open_nodes(1, members=2) as (node,), members(node, 1) as (connection,):
        assert await echoes(connection)
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(200):
            connection._session.open()
        assert await echoes(connection)
        assert trio.lowlevel.current_statistics().tasks_living <= before + 20


async def test_a_member_that_comes_again_and_again_has_three_connections_and_the_first_of_them_stays() -> None:
    async with open_nodes(1, members=2) as (node,), members(node, 1) as (first,):
        assert await echoes(first)
        async with members(node, 15):
            for _ in range(10):
                assert await echoes(first)
                await trio.sleep(0.05)
            assert len((await node.mesh.status(1)).connections) == 3
    assert node.numbers.counts[f"charon_actors_p2p_cut_off_total {peer_of(node, 1).name}"] >= 13


FLOODS: dict[str, Callable[[int], bytes]] = {
    "opened and reset": lambda number: (
        encode_frame(WINDOW_UPDATE, SYN, 10_001 + 2 * number, 0) + encode_frame(WINDOW_UPDATE, RST, 10_001 + 2 * number, 0)
    ),
    "pings": lambda number: encode_frame(PING, SYN, 0, number),
    "windows of nobody": lambda number: encode_frame(WINDOW_UPDATE, 0, 99_999, 1),
}


def account_of(node: Node, peer_id: bytes) -> Account:
    return node.mesh._host.ledger.account_of(peer_id)


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_is_not_read_beyond_its_credit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames worth ten seconds of credit; what the node has taken after one second, and that it pauses, are the facts."""
    monkeypatch.setattr("actors.mesh.account.PEER_BURST_MS", 100.0)
    flood = b"".join(FLOODS[kind](number) for number in range(200_000))
    async with open_nodes(1, members=2) as (node,), members(node, 1) as (connection,):
        assert await echoes(connection)
        (ours,) = account_of(node, peer_of(node, 1).peer_id)._connections
        began = trio.current_time()
        raw(connection, flood)
        await trio.sleep(1.0)
        taken, passed_s = ours._session.frames, trio.current_time() - began
        assert taken * FRAME_MS <= 100.0 + 100.0 * passed_s + 10 * SLICE_MS
        name = peer_of(node, 1).name
        assert account_of(node, peer_of(node, 1).peer_id)._credit.strain_s(trio.current_time()) > 0.1, name


async def test_unfinished_messages_of_a_member_hold_one_budget_over_all_its_connections() -> None:
    async with open_nodes(1, lambda index: nobody(), members=2) as (node,), members(node, 3) as connections:
        highest = resets = 0

        async def send(connection: Connection) -> None:
            nonlocal resets
            stream = await connection.open_stream((NOTE,))
            try:
                await stream.send_all(encode_uvarint(LARGE))
                for _ in range(LARGE // 65_536 - 1):
                    await stream.send_all(bytes(65_536))
                await trio.sleep_forever()
            except StreamReset as reset:
                resets += reset.code == 0x1002

        async with trio.open_nursery() as nursery:
            for connection in connections:
                nursery.start_soon(send, connection)
                nursery.start_soon(send, connection)
            account = account_of(node, peer_of(node, 1).peer_id)
            with trio.fail_after(30):
                while resets < 4:
                    highest = max(highest, account.held_bytes)
                    await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
        assert LARGE < highest <= MEMBER_BYTES
        for connection in connections:
            assert await echoes(connection)
    assert account.held_bytes == node.mesh._host.ledger.held_bytes == 0


async def test_half_open_connections_shut_out_no_member() -> None:
    """Issue 7: 32 from one address shut out everybody behind it, 256 from 8 addresses everybody."""
    async with open_nodes(1, members=2) as (node,):
        port = node.sockets[0].getsockname()[1]
        silent = []
        try:
            for number in range(320):
                sock = trio.socket.socket()
                silent.append(sock)
                await sock.bind((f"127.0.0.{1 + number % 9}", 0))
                await sock.connect(("127.0.0.1", port))
            for _ in range(3):
                with trio.fail_after(5):
                    async with members(node, 1) as (connection,):
                        assert await echoes(connection)
        finally:
            for sock in silent:
                sock.close()
    assert node.numbers.counts["charon_actors_p2p_handshakes_total dropped"] >= 60


async def test_a_connection_that_says_nothing_is_closed_after_three_seconds() -> None:
    async with open_nodes(1, members=2) as (node,):
        began = trio.current_time()
        stream = await trio.open_tcp_stream("127.0.0.1", node.sockets[0].getsockname()[1])
        with trio.fail_after(10), suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass
        assert 2.0 <= trio.current_time() - began <= 8.0
        await until(lambda: node.numbers.counts["charon_actors_p2p_handshakes_total silent"] == 1)


async def test_a_resting_member_gets_no_new_connection_and_keeps_the_one_it_has() -> None:
    async with open_nodes(1, members=2) as (node,), members(node, 1) as (connection,):
        assert await echoes(connection)
        account_of(node, peer_of(node, 1).peer_id)._credit.rest(trio.current_time())
        async with members(node, 1) as (late,):
            with trio.fail_after(5):
                await late.closed.wait()
        assert await echoes(connection)


async def test_a_relay_that_floods_rests_and_members_stay_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.mesh.account.RELAY_BURST_MS", 100.0)
    monkeypatch.setattr("charon_actors.p2p.credit.STRAIN_LIMIT_S", 1.0)
    async with open_relay(RELAY_KEY) as relay, open_nodes(2, relays=(relay.entry,)) as nodes:
        await reserved(nodes, relay)
        for node in nodes:
            await node.connected(1)
        connection = relay.connections[peer_of(nodes[0], 0).peer_id]
        ledger = nodes[0].mesh._host.ledger
        pings = encode_frame(PING, SYN, 0, 7) * 5000
        with trio.fail_after(60):
            while not ledger.is_resting(relay.identity.peer_id):
                if connection._session.output_bytes < 500_000:
                    raw(connection, pings)
                await trio.sleep(0.005)
            await connection.closed.wait()
        assert (await nodes[0].mesh.status(1)).connections
        async with await nodes[0].mesh.open_stream(1, ["/ipfs/ping/1.0.0"]) as stream:
            await stream.send_all(bytes(32))
            assert await stream.receive_some() == bytes(32)
