"""A mesh of whole nodes over loopback: everybody finds everybody, strangers stay out, a crash costs only its own connections."""

import gc
import os
from typing import Any

import pytest
import trio

from actors.mesh import (
    BadAnswer,
    Handlers,
    MeshConfig,
    NoConnection,
    ProtocolRefused,
    SendTimeout,
    StreamLost,
    build_mesh,
    mesh_peers,
    one_way,
    open_listen_sockets,
    request_response,
)
from actors.mesh.addresses import advertised_addresses
from actors.mesh.messages import MeshFault
from actors.mesh.stream import Stream
from charon_actors.crypto import k1_public_key
from charon_actors.enr import new_record
from charon_actors.errors import UserError
from charon_actors.p2p.multiaddr import decode_multiaddr
from charon_actors.p2p.peer_id import peer_id_of, peer_id_text
from charon_actors.profile import Profile
from tests.actors.mesh.rig import Node, key_of, open_nodes, peer_of

NOTE, ECHO, SLOW, SILENT, BROKEN, RAW = ("/test/note", "/test/echo", "/test/slow", "/test/silent", "/test/broken", "/test/raw")
NODE = peer_id_text(peer_id_of(k1_public_key(key_of(9))))


class Inboxes:
    """What each node's handlers got."""

    def __init__(self, count: int) -> None:
        self.channels = [trio.open_memory_channel[tuple[int, bytes]](1000) for _ in range(count)]

    def handlers(self, index: int) -> Handlers:
        async def note(peer_index: int, message: bytes) -> None:
            await self.channels[index][0].send((peer_index, message))

        async def echo(peer_index: int, message: bytes) -> bytes:
            return bytes([peer_index]) + message

        async def slow(peer_index: int, message: bytes) -> bytes:
            await trio.sleep_forever()
            return b""

        async def silent(peer_index: int, message: bytes) -> None:
            return None

        async def broken(peer_index: int, message: bytes) -> bytes:
            raise ZeroDivisionError("a bug of this handler")

        async def raw(peer_index: int, stream: Stream) -> None:
            while data := await stream.receive_some():
                await stream.send_all(data[::-1])

        return {
            NOTE: one_way(note, 1 << 20),
            ECHO: request_response(echo, 1 << 20),
            SLOW: request_response(slow, 1 << 20, timeout_s=0.3),
            SILENT: request_response(silent, 1 << 20),
            BROKEN: request_response(broken, 1 << 20),
            RAW: raw,
        }

    async def next(self, index: int) -> tuple[int, bytes]:
        with trio.fail_after(5):
            return await self.channels[index][1].receive()


async def all_connected(nodes: list[Node]) -> None:
    with trio.fail_after(10):
        for node in nodes:
            await node.connected(len(nodes) - 1)


async def test_four_nodes_find_each_other_and_talk_every_way() -> None:
    inboxes = Inboxes(4)
    async with open_nodes(4, inboxes.handlers) as nodes:
        await all_connected(nodes)
        nodes[0].mesh.broadcast([NOTE], b"hello")
        for index in (1, 2, 3):
            assert await inboxes.next(index) == (0, b"hello")
        await nodes[3].mesh.deliver(1, [NOTE], b"x" * 900_000)
        assert await inboxes.next(1) == (3, b"x" * 900_000)
        for a in range(4):
            for b in range(4):
                if a != b:
                    assert await nodes[a].mesh.exchange(b, ["/test/unknown", ECHO], b"?") == bytes([a]) + b"?"
        async with await nodes[1].mesh.open_stream(2, [RAW]) as stream:
            await stream.send_all(b"abc")
            assert await stream.receive_some() == b"cba"


async def test_two_operators_whose_keys_give_the_same_name_are_two_peers() -> None:
    namesakes = (36, 115, 1)
    async with open_nodes(3, Inboxes(3).handlers, key=lambda index: key_of(namesakes[index])) as nodes:
        assert peer_of(nodes[2], 0).name == peer_of(nodes[2], 1).name
        await all_connected(nodes)
        for a in range(3):
            for b in {0, 1, 2} - {a}:
                assert await nodes[a].mesh.exchange(b, [ECHO], b"?") == bytes([a]) + b"?"


async def test_hundred_exchanges_at_once() -> None:
    inboxes = Inboxes(2)
    async with open_nodes(2, inboxes.handlers) as nodes:
        await all_connected(nodes)
        answers: dict[int, bytes] = {}

        async def ask(n: int) -> None:
            answers[n] = await nodes[0].mesh.exchange(1, [ECHO], n.to_bytes(2, "big"))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for n in range(100):
                    nursery.start_soon(ask, n)
        assert answers == {n: b"\0" + n.to_bytes(2, "big") for n in range(100)}


async def test_each_way_of_failing_has_its_error() -> None:
    inboxes = Inboxes(2)
    async with open_nodes(2, inboxes.handlers, members=3) as nodes:
        with trio.fail_after(5):
            await nodes[0].connected(1)
        mesh = nodes[0].mesh
        with pytest.raises(ProtocolRefused):
            await mesh.exchange(1, ["/test/unknown"], b"")
        with pytest.raises(BadAnswer):
            await mesh.exchange(1, [SILENT], b"")
        with pytest.raises(BadAnswer):  # the handler's time is over: it closes without an answer
            await mesh.exchange(1, [SLOW], b"")
        with pytest.raises(SendTimeout):
            await mesh.exchange(1, [SLOW], b"", timeout_s=0.1)
        with pytest.raises((BadAnswer, StreamLost)):  # request over the handler's limit: it stops reading
            await mesh.exchange(1, [ECHO], bytes(1 << 21))
        with pytest.raises(BadAnswer):  # answer over ours
            await mesh.exchange(1, [ECHO], bytes(1000), limit_bytes=1000)
        with pytest.raises(NoConnection):
            await mesh.deliver(2, [NOTE], b"nobody there", timeout_s=0.2)


async def test_a_bug_in_a_handler_costs_one_stream_only() -> None:
    inboxes = Inboxes(2)
    async with open_nodes(2, inboxes.handlers) as nodes:
        await all_connected(nodes)
        with pytest.raises(MeshFault):
            await nodes[0].mesh.exchange(1, [BROKEN], b"")
        assert await nodes[0].mesh.exchange(1, [ECHO], b"!") == b"\0!"
        assert nodes[1].crashes.total() == 0
        assert nodes[1].numbers.counts[f"charon_actors_p2p_handler_crash_total {peer_of(nodes[1], 0).name}"] >= 1


async def test_a_stream_that_breaks_is_tried_once_more() -> None:
    to_break = 1

    async def flaky(peer_index: int, stream: Stream) -> None:
        nonlocal to_break
        message = await stream.read_delimited(100)
        if to_break:
            to_break -= 1
            stream.reset()
        else:
            await stream.write_delimited(message)

    inboxes = Inboxes(2)
    async with open_nodes(2, lambda index: {**inboxes.handlers(index), "/test/flaky": flaky}) as nodes:
        await all_connected(nodes)
        assert await nodes[0].mesh.exchange(1, ["/test/flaky"], b"twice") == b"twice"
        to_break = 2
        with pytest.raises(StreamLost):
            await nodes[0].mesh.exchange(1, ["/test/flaky"], b"three times")


async def test_a_request_that_is_too_early_waits_for_the_connection() -> None:
    inboxes = Inboxes(2)
    async with open_nodes(2, inboxes.handlers) as nodes:
        assert nodes[0].mesh.connected_count == 0
        assert await nodes[0].mesh.exchange(1, [ECHO], b"early") == b"\0early"


@pytest.mark.parametrize("stranger", [0, 1])
async def test_a_stranger_is_refused_whoever_dials(stranger: int) -> None:
    inboxes = Inboxes(2)
    async with open_nodes(2, inboxes.handlers, stranger=stranger) as nodes:
        honest, other = nodes[1 - stranger], nodes[stranger]
        with trio.fail_after(10):
            while True:
                status = await honest.mesh.status(stranger)
                if status.dial_failures and honest.numbers.counts["charon_actors_p2p_handshakes_total refused"]:
                    break
                await trio.sleep(0.05)
        assert honest.mesh.connected_count == 0
        await trio.sleep(1)
        assert honest.numbers.counts["charon_actors_p2p_handshakes_total refused"] <= 2, "a refused peer must not dial in a loop"
        with pytest.raises(MeshFault):
            await other.mesh.deliver(1 - stranger, [NOTE], b"let me in", timeout_s=0.5)


async def test_a_crashed_peer_child_reconnects_by_itself_and_the_others_notice_nothing() -> None:
    inboxes = Inboxes(3)
    async with open_nodes(3, inboxes.handlers) as nodes:
        await all_connected(nodes)
        crashing, name = nodes[0], peer_of(nodes[0], 1).name
        untouched = f"p2p_peer_connection_total {peer_of(nodes[0], 2).name}"
        touched = f"p2p_peer_connection_total {name}"
        await trio.sleep(0.3)  # both sides may have dialed
        before = dict(crashing.numbers.counts)
        crashing.numbers.crash_on = ("p2p_ping_success", name)
        with trio.fail_after(10):
            while not (crashing.crashes[f"peer:{name}"] and crashing.numbers.counts[touched] > before[touched]):
                await trio.sleep(0.02)
            assert await crashing.mesh.exchange(1, [ECHO], b"back") == b"\0back"
        assert crashing.crashes == {f"peer:{name}": 1}
        assert crashing.numbers.counts[untouched] == before[untouched], "the other peer's connection was touched"


async def test_a_listener_crash_keeps_connections_and_port() -> None:
    inboxes = Inboxes(2)
    async with open_nodes(2, inboxes.handlers) as nodes:
        await all_connected(nodes)
        await trio.sleep(0.3)
        node = nodes[1]
        before = dict(node.numbers.counts)
        port = node.sockets[0].getsockname()[1]
        node.scopes["listener"].cancel()
        waiting = await trio.open_tcp_stream("127.0.0.1", port)  # the kernel accepts for us meanwhile
        with trio.fail_after(5):
            assert b"/multistream/1.0.0" in await waiting.receive_some()
        await waiting.aclose()
        assert await nodes[0].mesh.exchange(1, [ECHO], b"same") == b"\0same"
        key = f"p2p_peer_connection_total {peer_of(node, 0).name}"
        assert node.numbers.counts[key] == before[key]


async def test_cancelled_requests_leave_nothing_behind() -> None:
    inboxes = Inboxes(2)
    async with open_nodes(2, inboxes.handlers) as nodes:
        await all_connected(nodes)
        for n in range(60):
            with trio.move_on_after(n / 20_000):
                await nodes[0].mesh.exchange(1, [ECHO], bytes(5000))
            with trio.move_on_after(n / 20_000):
                stream = await nodes[0].mesh.open_stream(1, [RAW])
                stream.reset()
        assert await nodes[0].mesh.exchange(1, [ECHO], b"alive") == b"\0alive"
        assert nodes[0].crashes.total() == nodes[1].crashes.total() == 0


async def test_status_and_pings_tell_who_is_there() -> None:
    async with open_nodes(2) as nodes:
        await all_connected(nodes)
        board = nodes[0].mesh.board
        with trio.fail_after(5):
            await board.wait_until(lambda: board.peers[1].is_answering)
            while not (status := await nodes[0].mesh.status(1)).agent:
                await trio.sleep(0.01)
        assert status.agent == "obolnetwork-charon/v1.10.3"
        assert "/charon/peerinfo/2.0.0" in status.protocols
        assert list(status.protocols) == sorted(status.protocols)
        assert status.ping_rtt_s is not None
        assert {connection.is_relayed for connection in status.connections} == {False}
        assert nodes[0].numbers.gauges["p2p_ping_success", peer_of(nodes[0], 1).name] == 1


async def test_a_dkg_mesh_neither_pings_nor_polls_but_answers() -> None:
    async with open_nodes(2, is_pinging=False, is_polling_peerinfo=False) as nodes:
        await all_connected(nodes)
        answer = await nodes[0].mesh.exchange(1, ["/charon/peerinfo/2.0.0"], b"")
        assert b"v1.10.3" in answer
        assert ("p2p_ping_success", peer_of(nodes[0], 1).name) not in nodes[0].numbers.gauges


async def test_an_outgoing_only_node_is_reached_once_it_has_dialed_in() -> None:
    inboxes = Inboxes(2)
    async with open_nodes(2, inboxes.handlers, listens=lambda index: index == 1, knows=lambda own, other: own == 0) as nodes:
        await all_connected(nodes)
        assert await nodes[1].mesh.exchange(0, [ECHO], b"hi") == b"\1hi"
        assert "listener" not in nodes[0].bodies


async def test_addresses_learnt_by_identify_bring_a_lost_connection_back() -> None:
    """Node 1 knows no address; after node 0 has dialed in and said where it listens, node 1 finds it by itself."""
    async with open_nodes(2, knows=lambda own, other: own == 0) as nodes:
        await all_connected(nodes)
        with trio.fail_after(5):
            while not (status := await nodes[1].mesh.status(0)).addresses:
                await trio.sleep(0.01)
        port = nodes[0].sockets[0].getsockname()[1]
        assert status.addresses == (f"/ip4/127.0.0.1/tcp/{port}",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"private_key": key_of(7)}, "ENR"),
        ({"nickname": "x" * 33}, "nickname"),
        ({"relays": ("/ip4/1.2.3.4/tcp/3610",)}, "p2p-relays"),
        ({"relays": ("http://",)}, "p2p-relays"),
        ({"relays": (f"/dns4/a..b/tcp/1/p2p/{NODE}",)}, "p2p-relays.* no DNS name"),
        ({"relays": ("http://xn--a/",)}, "p2p-relays"),
        ({"relays": ("http://a/\udcff",)}, "p2p-relays"),
        ({"external_hostname": ".".join(["ß" * 30] * 5)}, "p2p-external-hostname"),
        ({"external_ip": "charon.example"}, "p2p-external-ip"),
    ],
)
async def test_what_cannot_work_is_the_operators_error(change: dict[str, Any], words: str) -> None:
    own = mesh_peers([new_record(key_of(0))])
    good: dict[str, Any] = {"private_key": key_of(0), "peers": own, "own_index": 0, "profile": Profile.V1_10, "lock_hash": b""}
    build_mesh(MeshConfig(**good, relays=(f"/dns4/relay_1/tcp/1/p2p/{NODE}",)), {}, entropy=bytes, wall_clock=lambda: 0.0)
    with pytest.raises(UserError, match=words):
        build_mesh(MeshConfig(**{**good, **change}), {}, entropy=bytes, wall_clock=lambda: 0.0)


async def test_a_port_that_another_program_has_is_named() -> None:
    taken = open_listen_sockets([("127.0.0.1", 0)])
    port = taken[0].getsockname()[1]
    with pytest.raises(UserError, match=str(port)):
        open_listen_sockets([("127.0.0.1", port)])
    taken[0].close()


async def test_a_change_of_our_addresses_is_pushed_to_peers() -> None:
    async with open_nodes(2, knows=lambda own, other: own == 0, force_direct_interval_s=0.1) as nodes:
        await all_connected(nodes)
        moved = decode_multiaddr("/ip4/10.1.2.3/tcp/3610")
        with trio.fail_after(5):
            while not (await nodes[1].mesh.status(0)).addresses:
                await trio.sleep(0.01)
            nodes[0].mesh._host.introduction._addresses = lambda: [moved]
            while (await nodes[1].mesh.status(0)).addresses != (str(moved),):
                await trio.sleep(0.01)


def test_what_we_advertise() -> None:
    listening = [("127.0.0.1", 3610), ("0.0.0.0", 3611)]
    advertised = [str(address) for address in advertised_addresses(listening, "1.2.3.4", "node.example")]
    assert advertised[:5] == [
        "/ip4/1.2.3.4/tcp/3610",
        "/ip4/1.2.3.4/tcp/3611",
        "/dns/node.example/tcp/3610",
        "/dns/node.example/tcp/3611",
        "/ip4/127.0.0.1/tcp/3610",
    ]
    assert "/ip4/127.0.0.1/tcp/3611" in advertised, "all interfaces, loopback among them"
    assert not any("0.0.0.0" in text for text in advertised)
    assert advertised_addresses([]) == ()


async def test_nothing_is_left_open_after_the_end() -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    async with open_nodes(3) as nodes:
        await all_connected(nodes)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
