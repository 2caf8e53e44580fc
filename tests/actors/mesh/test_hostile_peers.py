"""What a peer of the cluster, a relay or a stranger does wrong costs that exchange, and never the child that serves it.

The supervisor of the rig counts RuntimeErrors and lets everything else through: a crash of any other kind fails the test.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio

from actors.mesh import ProtocolRefused, StreamLost
from actors.mesh.connection import Connection, ConnectionLost, Stream
from actors.mesh.handlers import close_quietly
from actors.mesh.outbox import EARLY_BYTES
from actors.mesh.upgrade import HostIdentity, upgrade
from charon_actors.p2p.framing import encode_delimited
from charon_actors.p2p.identify import IDENTIFY, IDENTIFY_PUSH
from charon_actors.p2p.multiaddr import tcp_multiaddr
from charon_actors.p2p.peer_id import peer_name
from charon_actors.p2p.peerinfo import PEERINFO
from charon_actors.p2p.protobuf import libp2p_pb2 as wire
from tests.actors.mesh.rig import Node, key_of, open_nodes, peer_of
from tests.actors.mesh.small_relay import open_relay
from tests.actors.mesh.test_mesh import NOTE, Inboxes
from tests.actors.mesh.test_relay import RELAY_KEY, reserved
from tests.charon_actors.p2p.test_identify_rules import NO_UTF8
from tests.charon_actors.p2p.vectors import counter_entropy


@asynccontextmanager
async def operator_1(
    node: Node, parts: Sequence[bytes] = (), protocols: Callable[[], Sequence[str]] = lambda: (IDENTIFY,)
) -> AsyncIterator[Connection]:
    """The other operator's key in the wrong hands, connected. parts: what it answers to identify."""

    async def answer(stream: Stream) -> None:
        for part in parts:
            await stream.send_all(encode_delimited(part))
        await close_quietly(stream)

    async def run() -> None:
        with suppress(ConnectionLost):
            await connection.run(answer, protocols)

    port = node.sockets[0].getsockname()[1]
    connection = await upgrade(
        await trio.open_tcp_stream("127.0.0.1", port),
        HostIdentity(key_of(1), counter_entropy("operator 1")),
        outbound=True,
        expected_peer=None,
        is_allowed=lambda peer_id: True,
        remote_address=tcp_multiaddr("127.0.0.1", port),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        with trio.fail_after(5):
            await node.connected(1)
            yield connection
        nursery.cancel_scope.cancel()


async def echoes(connection: Connection) -> bool:
    """Is the child on the other side still there?"""
    async with await connection.open_stream(["/ipfs/ping/1.0.0"]) as stream:
        await stream.send_all(bytes(32))
        return await stream.receive_some() == bytes(32)


@pytest.mark.parametrize("part", NO_UTF8)
async def test_an_identify_that_is_no_utf8(part: bytes) -> None:
    async with open_nodes(1, members=2) as (node,), operator_1(node, [part, b"\x1a\x04/any"]) as connection:
        while "/any" not in (await node.mesh.status(1)).protocols:
            await trio.sleep(0.01)
        async with await connection.open_stream([IDENTIFY_PUSH]) as stream:
            await stream.send_all(encode_delimited(part) + encode_delimited(b"\x1a\x05/more"))
            await stream.send_eof()
            assert await stream.receive_some() == b""
        status = await node.mesh.status(1)
        assert (status.protocols, status.agent) == (("/more",), "")
        assert await echoes(connection)


@pytest.mark.parametrize("part", NO_UTF8)
async def test_a_relays_identify_that_is_no_utf8(part: bytes) -> None:
    async with open_relay(RELAY_KEY) as relay:
        relay.identify = part
        async with open_nodes(1, relays=(relay.entry,)) as nodes:
            await reserved(nodes, relay)
            (connection,) = relay.connections.values()
            async with await connection.open_stream([IDENTIFY_PUSH]) as stream:
                await stream.send_all(encode_delimited(part))
                await stream.send_eof()
                assert await stream.receive_some() == b""
            assert await echoes(connection)
            assert relay.accepted == 1


async def test_an_address_that_dns_cannot_be_asked_for_is_not_dialed() -> None:
    bad = bytes.fromhex("3604") + b"a..b" + bytes.fromhex("060001")
    said = wire.Identify(listen_addrs=[bad, bytes(tcp_multiaddr("☃.example", 1))]).SerializeToString()
    async with open_nodes(1, members=2) as (node,):
        async with operator_1(node, [said]):
            while not (await node.mesh.status(1)).addresses:
                await trio.sleep(0.01)
        with trio.fail_after(5):
            while not (status := await node.mesh.status(1)).dial_failures:
                await trio.sleep(0.01)
    assert status.dial_failures == {"/dns/☃.example/tcp/1": "not a DNS name"}


class Bug:
    """In the place of a function of ours: fails `count` times."""

    def __init__(self, count: int, then: Any = None) -> None:
        self.count, self.then = count, then

    async def __call__(self, *args: Any, **options: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if self.count:
            self.count -= 1
            raise ZeroDivisionError("a bug of ours")
        return await self.then(*args, **options)


async def test_a_bug_in_identify_costs_no_connection_and_one_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("actors.mesh.owner.ask_identify", Bug(1))
    monkeypatch.setattr("actors.mesh.owner.read_identify", Bug(20))
    async with open_nodes(1, members=2) as (node,), operator_1(node) as connection:
        for _ in range(20):
            async with await connection.open_stream([IDENTIFY_PUSH]) as stream:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
        assert await echoes(connection)
    assert node.numbers.counts[f"charon_actors_p2p_handler_crash_total {peer_of(node, 1).name}"] == 21
    assert capsys.readouterr().out.count("Handler failed") == 1


async def test_a_bug_that_a_relay_finds_costs_no_connection_and_one_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("actors.mesh.owner.ask_identify", Bug(1))
    monkeypatch.setattr("actors.mesh.owner.serve_peerinfo", Bug(20))
    async with open_relay(RELAY_KEY) as relay, open_nodes(1, relays=(relay.entry,)) as nodes:
        await reserved(nodes, relay)
        (connection,) = relay.connections.values()
        for _ in range(20):
            async with await connection.open_stream([PEERINFO]) as stream:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
        assert await echoes(connection)
        assert relay.accepted == 1
    name = peer_name(relay.identity.peer_id)
    assert nodes[0].numbers.counts[f"charon_actors_p2p_handler_crash_total {name}"] == 21
    assert capsys.readouterr().out.count("Handler failed") == 1


async def test_a_bug_in_a_handshake_costs_that_handshake_and_one_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("actors.mesh.listener.upgrade", Bug(5, upgrade))
    async with open_nodes(1, members=2) as (node,):
        for _ in range(5):
            stranger = await trio.open_tcp_stream("127.0.0.1", node.sockets[0].getsockname()[1])
            with trio.fail_after(5), suppress(trio.BrokenResourceError):  # the socket's linger is 0: a reset
                assert await stranger.receive_some() == b""
        async with operator_1(node) as connection:
            assert await echoes(connection)
    assert node.numbers.counts["charon_actors_p2p_handshakes_total failed"] == 5
    assert capsys.readouterr().out.count("Incoming handshake failed unexpectedly") == 1


async def test_a_stranger_that_comes_again_and_again_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    async with open_nodes(1, members=2) as (node,):
        for _ in range(5):
            port = node.sockets[0].getsockname()[1]
            stranger = await upgrade(
                await trio.open_tcp_stream("127.0.0.1", port),
                HostIdentity(key_of(900), counter_entropy("stranger")),
                outbound=True,
                expected_peer=None,
                is_allowed=lambda peer_id: True,
                remote_address=tcp_multiaddr("127.0.0.1", port),
            )
            with trio.fail_after(5), pytest.raises(ConnectionLost):
                await stranger.run(close_quietly, lambda: ())
    assert node.numbers.counts["charon_actors_p2p_handshakes_total refused"] == 5
    assert capsys.readouterr().out.count("Refused a stranger") == 1


@pytest.mark.parametrize("size", [EARLY_BYTES, EARLY_BYTES + 1])
async def test_only_a_small_message_leaves_together_with_the_proposal(size: int) -> None:
    """The peer says that it speaks the protocol and then refuses it: what has come by then was sent before the agreement."""
    said = wire.Identify(protocols=[NOTE]).SerializeToString()
    async with open_nodes(1, Inboxes(1).handlers, members=2) as (node,), operator_1(node, [said]) as connection:
        while NOTE not in (await node.mesh.status(1)).protocols:
            await trio.sleep(0.01)
        before = connection.received_bytes
        with pytest.raises((ProtocolRefused, StreamLost)):  # what follows a refused proposal is taken for the next one
            await node.mesh.deliver(1, [NOTE], bytes(size))
        await trio.sleep(0.05)
        received = connection.received_bytes - before
        assert (received > EARLY_BYTES) is (size <= EARLY_BYTES), received
