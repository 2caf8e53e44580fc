"""Nodes that can't reach one another directly talk through relays: reserve, circuits both ways, loss, refusal, change."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from actors.mesh import NoConnection
from actors.mesh.board import Board
from actors.mesh.connection import ProtocolNotSupported
from charon_actors.crypto import k1_public_key
from charon_actors.errors import UserError
from charon_actors.p2p.peer_id import peer_id_of
from charon_actors.p2p.relay_messages import ReservationGrant, refresh_in_s
from charon_actors.profile import Profile
from tests.actors.mesh.rig import Node, key_of, open_nodes
from tests.actors.mesh.small_relay import SmallRelay, open_relay
from tests.actors.mesh.test_mesh import ECHO, NOTE, Inboxes, all_connected
from tests.actors.mesh.test_resolver import answer, serve

NOBODY: dict[str, Any] = {"listens": lambda index: False}
RELAY_KEY = key_of(500)


async def reserved(nodes: list[Node], relay: SmallRelay) -> None:
    with trio.fail_after(10):
        for node in nodes:
            board = node.mesh.board
            await board.wait_until(partial(any_reserved, board))


def nobody_there(board: Board) -> bool:
    return board.connected_count == 0


def nobody_answers(board: Board) -> bool:
    return not any(facts.is_answering for facts in board.peers)


def any_reserved(board: Board) -> bool:
    return any(facts.is_reserved for facts in board.relays)


@pytest.mark.parametrize("profile", list(Profile))
async def test_nodes_without_ports_meet_at_the_relay(profile: Profile) -> None:
    inboxes = Inboxes(3)
    async with (
        open_relay(RELAY_KEY) as relay,
        open_nodes(3, inboxes.handlers, relays=(relay.entry,), profile=profile, **NOBODY) as nodes,
    ):
        await reserved(nodes, relay)
        await all_connected(nodes)
        nodes[0].mesh.broadcast([NOTE], b"through the relay")
        for index in (1, 2):
            assert await inboxes.next(index) == (0, b"through the relay")
        assert await nodes[2].mesh.exchange(0, [ECHO], b"x" * 700_000) == b"\2" + b"x" * 700_000
        status = await nodes[0].mesh.status(1)
        assert all(connection.is_relayed and connection.is_limited for connection in status.connections)
        assert all(connection.remote_address.endswith("/p2p-circuit") for connection in status.connections)
        if profile is Profile.V1_11:
            assert all(source < target for source, target in relay.circuits), "the peer with the smaller id dials"
        assert nodes[0].crashes.total() == 0


async def test_direct_connections_are_preferred_and_made_later() -> None:
    """Node 0 listens, but nobody knows its address before identify has told it; the minute is shortened."""
    inboxes = Inboxes(2)
    async with (
        open_relay(RELAY_KEY) as relay,
        open_nodes(
            2,
            inboxes.handlers,
            relays=(relay.entry,),
            listens=lambda index: index == 0,
            knows=lambda own, other: False,
            force_direct_interval_s=0.3,
        ) as nodes,
    ):
        await all_connected(nodes)
        with trio.fail_after(10):
            await nodes[1].mesh.board.wait_until(lambda: nodes[1].mesh.board.peers[0].direct > 0)
        assert nodes[1].mesh.board.peers[0].relayed > 0, "the relayed connection stays"
        stream = await nodes[1].mesh.open_stream(0, ["/test/raw"])
        assert not stream.connection.relayed
        stream.reset()


async def test_a_relay_may_ask_who_we_are_with_an_empty_request_but_nothing_else() -> None:
    """That is how Charon relays poll (03 §3.3). Cluster protocols are not for relays."""
    inboxes = Inboxes(1)
    async with open_relay(RELAY_KEY) as relay, open_nodes(1, inboxes.handlers, relays=(relay.entry,)) as nodes:
        await reserved(nodes, relay)
        connection = next(iter(relay.connections.values()))
        stream = await connection.open_stream(["/charon/peerinfo/2.0.0"])
        await stream.send_all(b"\0")
        assert b"v1.10.3" in await stream.read_delimited(1000)
        with pytest.raises(ProtocolNotSupported):
            await connection.open_stream([ECHO])


async def test_a_lost_relay_comes_back_and_so_do_the_circuits() -> None:
    inboxes = Inboxes(2)
    async with open_nodes_later(inboxes) as (nodes, port):
        async with open_relay(RELAY_KEY, port):
            await reserved(nodes, SmallRelay(RELAY_KEY))
            await all_connected(nodes)
        with trio.fail_after(10):
            for node in nodes:
                board = node.mesh.board
                await board.wait_until(partial(nobody_there, board))
                with trio.fail_after(3):  # not the 10 s that a ping may take
                    await board.wait_until(partial(nobody_answers, board))
        async with open_relay(RELAY_KEY, port):
            with trio.fail_after(20):
                assert await nodes[0].mesh.exchange(1, [ECHO], b"again", timeout_s=15) == b"\0again"


@asynccontextmanager
async def open_nodes_later(inboxes: Inboxes) -> AsyncIterator[tuple[list[Node], int]]:
    """Two nodes that know a relay which isn't there yet, and its port."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    relay = SmallRelay(RELAY_KEY, port)
    async with open_nodes(2, inboxes.handlers, relays=(relay.entry,), **NOBODY) as nodes:
        yield nodes, port


async def test_a_refused_reservation_names_what_to_do_once(capsys: pytest.CaptureFixture[str]) -> None:
    async with open_relay(RELAY_KEY, refuse=200) as relay, open_nodes(2, relays=(relay.entry,), **NOBODY) as nodes:
        board = nodes[0].mesh.board
        with trio.fail_after(5):
            await board.wait_until(lambda: "restart in a loop" in board.relays[0].error)
        await trio.sleep(1.5)  # the second try comes after a second and says nothing new
        assert not board.relays[0].is_reserved
        with pytest.raises(NoConnection):
            await nodes[0].mesh.deliver(1, [NOTE], b"", timeout_s=0.3)
        lines = [line for line in capsys.readouterr().out.splitlines() if "Relay does not work" in line]
        assert len(lines) == 2, "one line a node"


def test_the_reservation_is_renewed_before_it_ends() -> None:
    """Two minutes of life are refreshed every minute; here the life is short and the smallest wait of a minute is what counts."""
    assert refresh_in_s(ReservationGrant(3600, (), None, None), now_s=0.0) == 3480
    assert refresh_in_s(ReservationGrant(10, (), None, None), now_s=0.0) == 60, "never a busy loop, whatever the relay grants"


async def test_a_relay_behind_a_url_is_found_and_a_new_one_takes_over() -> None:
    inboxes = Inboxes(2)
    async with open_relay(RELAY_KEY) as relay:

        async def script(stream: trio.SocketStream, head: bytes) -> None:
            await stream.send_all(answer(json.dumps([relay.entry]).encode()))

        async with (
            serve(script) as url,
            open_nodes(2, inboxes.handlers, relays=(url,), cluster_hash="abcdef1", **NOBODY) as nodes,
        ):
            await all_connected(nodes)
            assert await nodes[0].mesh.exchange(1, [ECHO], b"url") == b"\0url"
            await nodes[0].mesh.wait_for_relays(timeout_s=1)


async def test_the_old_relay_stays_until_the_new_one_has_granted_a_reservation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.mesh.relay.REFRESH_S", 0.1)
    inboxes = Inboxes(2)
    async with open_relay(RELAY_KEY) as old, open_relay(key_of(501), refuse=201) as new:
        current = old

        async def script(stream: trio.SocketStream, head: bytes) -> None:
            await stream.send_all(answer(json.dumps([current.entry]).encode()))

        async with serve(script) as url, open_nodes(2, inboxes.handlers, relays=(url,), **NOBODY) as nodes:
            await reserved(nodes, old)
            await all_connected(nodes)
            current = new
            boards = [node.mesh.board for node in nodes]
            with trio.fail_after(10):
                for board in boards:
                    await board.wait_until(lambda board=board: "RESOURCE_LIMIT" in board.relays[0].error)  # type: ignore[misc]
                    assert board.relays[0].is_reserved
                    assert len(board.relays[0].peer_ids) == 2, "both pass the gate meanwhile"
            assert await nodes[0].mesh.exchange(1, [ECHO], b"old") == b"\0old"
            assert len(old.reservations) == 2
            with trio.fail_after(10):
                while new.connections:
                    await trio.sleep(0.01)
            new.refuse = 0
            with trio.fail_after(10):
                for board in boards:
                    await board.wait_until(lambda board=board: str(new.port) in str(board.relays[0].circuit))  # type: ignore[misc]
            assert await nodes[0].mesh.exchange(1, [ECHO], b"new", timeout_s=15) == b"\0new"
            with trio.fail_after(10):
                while old.connections:
                    await trio.sleep(0.01)


async def test_a_node_without_a_reservation_can_still_dial_others() -> None:
    inboxes = Inboxes(2)
    async with open_relay(RELAY_KEY, refuse=200) as relay:
        relay.refused = {peer_id_of(k1_public_key(key_of(0)))}
        async with open_nodes(2, inboxes.handlers, relays=(relay.entry,), **NOBODY) as nodes:
            await all_connected(nodes)
            assert await nodes[1].mesh.exchange(0, [ECHO], b"back") == b"\1back"
            assert not nodes[0].mesh.board.relays[0].is_reserved
            assert relay.accepted == 2, "no second connection because of the refusal"


async def test_start_without_any_relay_says_which_one_and_why() -> None:
    async with open_nodes(2, relays=("http://127.0.0.1:9/relay",), **NOBODY) as nodes:
        with pytest.raises(UserError, match=r"http://127.0.0.1:9/relay: cannot resolve"):
            await nodes[0].mesh.wait_for_relays(timeout_s=0.5)
    async with open_nodes(2, relays=("http://127.0.0.1:9/relay",)) as nodes:
        await nodes[0].mesh.wait_for_relays(timeout_s=0.5)  # listens: relays are not the only way


async def test_a_stranger_does_not_get_in_through_the_relay() -> None:
    async with open_relay(RELAY_KEY) as relay, open_nodes(2, stranger=1, relays=(relay.entry,), **NOBODY) as nodes:
        await reserved(nodes, relay)
        with trio.fail_after(10):
            while not (await nodes[1].mesh.status(0)).dial_failures:
                await trio.sleep(0.05)
        assert nodes[0].mesh.connected_count == 0


async def test_a_crashed_relay_child_costs_only_its_circuits_and_they_come_back() -> None:
    inboxes = Inboxes(2)
    async with open_relay(RELAY_KEY) as relay, open_nodes(2, inboxes.handlers, relays=(relay.entry,), **NOBODY) as nodes:
        await all_connected(nodes)
        nodes[0].scopes["relay:0"].cancel()
        with trio.fail_after(15):
            await nodes[0].mesh.board.wait_until(lambda: nodes[0].mesh.connected_count == 0)
            assert await nodes[0].mesh.exchange(1, [ECHO], b"back", timeout_s=12) == b"\0back"


async def test_a_circuit_that_reaches_its_limit_is_replaced() -> None:
    inboxes = Inboxes(2)
    async with (
        open_relay(RELAY_KEY, limit_bytes=300_000) as relay,
        open_nodes(2, inboxes.handlers, relays=(relay.entry,), **NOBODY) as nodes,
    ):
        await all_connected(nodes)
        for _ in range(4):  # each crosses the limit together with the one before
            with trio.fail_after(15):
                assert len(await nodes[0].mesh.exchange(1, [ECHO], bytes(100_000), timeout_s=12)) == 100_001
        assert len(relay.circuits) >= 2
