"""A cluster of which the other node is js-libp2p or the go-libp2p daemon: connect, identify both ways, ping, streams, comeback."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio

from actors.mesh import MeshConfig, build_mesh, mesh_peers, open_listen_sockets
from charon_actors.enr import new_record
from charon_actors.p2p.multiaddr import Multiaddr, tcp_multiaddr
from charon_actors.profile import Profile
from tests.actors.mesh.rig import START, Node, Numbers, key_of
from tests.charon_actors.p2p.vectors import counter_entropy
from tests.interop.libp2p.rig import ECHO, JsPeer, Peer, go_peer, js_peer, key

pytestmark = pytest.mark.interop
OPENERS: dict[str, Callable[[str], AbstractAsyncContextManager[Peer]]] = {"js": js_peer, "go": go_peer}


@asynccontextmanager
async def our_mesh(other_key: bytes, address: Multiaddr | None) -> AsyncIterator[tuple[Node, Multiaddr]]:
    """Our node, the other one of a cluster of two, and where we listen."""
    sockets = open_listen_sockets([("127.0.0.1", 0)])
    peers = mesh_peers([new_record(key_of(0)), new_record(other_key)], {1: [address.transport]} if address else None)
    numbers = Numbers()
    mesh, bodies = build_mesh(
        MeshConfig(private_key=key_of(0), peers=peers, own_index=0, profile=Profile.V1_10, lock_hash=bytes(32)),
        {},
        entropy=counter_entropy("ours"),
        wall_clock=lambda: START + trio.current_time(),
        sockets=sockets,
        on_fact=numbers.hear,
    )
    node = Node(mesh, numbers, bodies, sockets)
    try:
        async with trio.open_nursery() as nursery:
            for name in bodies:
                nursery.start_soon(node.supervise, name)
            yield node, tcp_multiaddr(*sockets[0].getsockname()).with_peer(peers[0].peer_id)
            nursery.cancel_scope.cancel()
    finally:
        for sock in sockets:
            sock.close()


async def echoes(node: Node) -> bool:
    async with await node.mesh.open_stream(1, [ECHO]) as stream:
        await stream.send_all(b"hello")
        return await stream.receive_some() == b"hello"


@pytest.mark.parametrize("kind", ["js"])
async def test_we_dial_a_member_identify_and_ping_it(kind: str) -> None:
    async with OPENERS[kind]("member") as member, our_mesh(key("member"), member.address) as (node, _):
        board = node.mesh.board
        with trio.fail_after(20):
            await board.wait_until(lambda: board.peers[1].is_answering)
            assert await echoes(node)
            while not (status := await node.mesh.status(1)).protocols:
                await trio.sleep(0.02)
        assert ECHO in status.protocols
        assert status.connections[0].is_outbound
        if isinstance(member, JsPeer):
            with trio.fail_after(10):
                while not any("/charon/peerinfo/2.0.0" in known for known in (await member.call("state"))["protocols"]):
                    await trio.sleep(0.05)


@pytest.mark.parametrize("kind", ["js", "go"])
async def test_a_member_dials_us(kind: str) -> None:
    async with OPENERS[kind]("member") as member, our_mesh(key("member"), None) as (node, address):
        await member.dial(address)
        board = node.mesh.board
        with trio.fail_after(20):
            await board.wait_until(lambda: board.peers[1].is_answering)
        status = await node.mesh.status(1)
        assert [connection.is_outbound for connection in status.connections] == [False]


async def test_a_killed_member_is_noticed_and_found_again() -> None:
    async with js_peer("member") as member, our_mesh(key("member"), member.address) as (node, _):
        board = node.mesh.board
        with trio.fail_after(20):
            await board.wait_until(lambda: board.peers[1].is_answering)
            assert isinstance(member, JsPeer)
            member.process.kill()
            await board.wait_until(lambda: board.connected_count == 0)
        async with js_peer("member") as again:
            assert isinstance(again, JsPeer)
            await again.call(
                "dial", address=str(tcp_multiaddr(*node.sockets[0].getsockname()).with_peer(node.mesh.peers[0].peer_id))
            )
            with trio.fail_after(20):
                await board.wait_until(lambda: board.peers[1].is_answering)
                assert await echoes(node)


async def test_a_stranger_sees_a_reset() -> None:
    async with js_peer("stranger") as stranger, our_mesh(key("member"), None) as (node, address):
        await stranger.dial(address)  # succeeds: the gate looks after the handshake
        with trio.fail_after(10):
            while (await stranger.call("state"))["connections"]:
                await trio.sleep(0.02)
        assert node.mesh.connected_count == 0
        assert node.numbers.counts["charon_actors_p2p_handshakes_total refused"] == 1
