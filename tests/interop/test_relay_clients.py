"""Our nodes meet through relays that nobody here wrote: js-libp2p and the go-libp2p daemon (03 §11.6; §14, checks 11 and 14)."""

from pathlib import Path
from typing import Any

import pytest
import trio

from charon_actors.errors import Retryable
from charon_actors.profile import Profile
from tests.actors.mesh.rig import Node, key_of, open_nodes
from tests.actors.mesh.test_mesh import ECHO, NOTE, Inboxes, all_connected
from tests.actors.mesh.test_resolver import answer, serve
from tests.interop.relays import KINDS, entry_of, free_port, list_of, open_relay_process

pytestmark = pytest.mark.interop
RELAY_KEY = key_of(500)
# js: as told; the go daemon does not listen to its own flag and keeps go-libp2p's default of 128 KiB a direction
NOBODY: dict[str, Any] = {"listens": lambda index: False}


async def insist(node: Node, message: bytes) -> bytes:
    """Ask again while the moment is wrong, as every user of the mesh does."""
    with trio.fail_after(30):
        while True:
            try:
                return await node.mesh.exchange(1, [ECHO], message, timeout_s=20)
            except Retryable:
                await trio.sleep(0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("profile", list(Profile))
async def test_nodes_without_ports_meet_at_the_relay(kind: str, profile: Profile, tmp_path: Path) -> None:
    inboxes, port = Inboxes(3), await free_port()
    async with (
        open_relay_process(kind, RELAY_KEY, port, tmp_path),
        open_nodes(3, inboxes.handlers, relays=(entry_of(RELAY_KEY, port),), profile=profile, **NOBODY) as nodes,
    ):
        await all_connected(nodes)
        nodes[0].mesh.broadcast([NOTE], b"through the relay")
        for index in (1, 2):
            assert await inboxes.next(index) == (0, b"through the relay")
        big = bytes(256) * (2800 if kind == "js" else 160)
        assert await nodes[2].mesh.exchange(0, [ECHO], big) == b"\2" + big
        status = await nodes[0].mesh.status(1)
        assert all(connection.is_relayed for connection in status.connections)
        assert all(facts.is_reserved for node in nodes for facts in node.mesh.board.relays)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_killed_relay_comes_back_and_so_do_the_circuits(kind: str, tmp_path: Path) -> None:
    inboxes, port = Inboxes(2), await free_port()
    async with open_nodes(2, inboxes.handlers, relays=(entry_of(RELAY_KEY, port),), **NOBODY) as nodes:
        async with open_relay_process(kind, RELAY_KEY, port, tmp_path):
            await all_connected(nodes)
        board = nodes[0].mesh.board
        with trio.fail_after(10):
            await board.wait_until(lambda: board.connected_count == 0 and not board.relays[0].is_reserved)
        async with open_relay_process(kind, RELAY_KEY, port, tmp_path):
            assert await nodes[0].mesh.exchange(1, [ECHO], b"again", timeout_s=30) == b"\0again"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_circuit_at_its_data_limit_is_reset_and_dialed_again(kind: str, tmp_path: Path) -> None:
    inboxes, port = Inboxes(2), await free_port()
    async with (
        open_relay_process(kind, RELAY_KEY, port, tmp_path, limit_bytes=400_000),
        open_nodes(2, inboxes.handlers, relays=(entry_of(RELAY_KEY, port),), **NOBODY) as nodes,
    ):
        await all_connected(nodes)
        size = 150_000 if kind == "js" else 50_000
        for _ in range(5):
            assert len(await insist(nodes[0], bytes(size))) == size + 1
        name = nodes[0].mesh.peers[1].name
        assert nodes[0].numbers.counts[f"p2p_peer_connection_total {name}"] > 1, "the limit was never reached"


async def test_when_the_url_names_another_relay_the_nodes_move(tmp_path: Path) -> None:
    """js first, then go; the old reservation stays until the new one works. The next look at the URL is asked for by a crash."""
    inboxes, ports = Inboxes(2), (await free_port(), await free_port())
    keys = (key_of(500), key_of(501))
    current = 0

    async def script(stream: trio.SocketStream, head: bytes) -> None:
        assert b"Charon-Cluster: abcdef1" in head
        await stream.send_all(answer(list_of([entry_of(keys[current], ports[current])])))

    async with (
        open_relay_process("js", keys[0], ports[0], tmp_path),
        open_relay_process("go", keys[1], ports[1], tmp_path),
        serve(script) as url,
        open_nodes(2, inboxes.handlers, relays=(url,), cluster_hash="abcdef1", cluster_uuid="u", **NOBODY) as nodes,
    ):
        await all_connected(nodes)
        assert await nodes[0].mesh.exchange(1, [ECHO], b"js", timeout_s=20) == b"\0js"
        current = 1
        for node in nodes:
            node.scopes["relay:0"].cancel()
        board = nodes[0].mesh.board
        with trio.fail_after(20):
            await board.wait_until(lambda: board.relays[0].is_reserved and str(ports[1]) in str(board.relays[0].circuit))
        assert await nodes[0].mesh.exchange(1, [ECHO], b"go", timeout_s=30) == b"\0go"
