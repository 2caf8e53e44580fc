"""Connections and streams over memory streams and a virtual clock: semantics, limits, cancellation (specification 03-p2p, §9, §11)."""

import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import pytest
import trio
import trio.testing

from actors.mesh.account import MEMBER_BYTES
from actors.mesh.carriage import QUEUE_MARK_BYTES
from actors.mesh.connection import MAX_HANDLERS, Connection
from actors.mesh.faults import HandshakeFault, PeerRefused
from actors.mesh.stream import (
    PIECE_BYTES,
    BadMessage,
    ConnectionLost,
    ProtocolNotSupported,
    Stream,
    StreamEnded,
    StreamFault,
    StreamReset,
)
from actors.mesh.upgrade import HostIdentity, upgrade
from charon_actors.p2p.framing import encode_delimited, encode_fixed64, encode_uvarint, take_fixed64
from charon_actors.p2p.multiaddr import decode_multiaddr
from charon_actors.p2p.multistream import encode_token
from charon_actors.p2p.noise import NoiseHandshake
from charon_actors.p2p.yamux import MAX_UNACKNOWLEDGED, MAX_WINDOW_BYTES, SYN, WINDOW_UPDATE, encode_frame

ADDRESS = decode_multiaddr("/ip4/127.0.0.1/tcp/1")
PROTOCOLS = ("/echo", "/sink", "/deaf", "/kill", "/hold", "/hungry")


def entropy_of(seed: int) -> Callable[[int], bytes]:
    source = random.Random(seed)
    return source.randbytes


def host(number: int) -> HostIdentity:
    return HostIdentity(hashlib.sha256(str(number).encode()).digest(), entropy_of(number))


class Pair(NamedTuple):
    client: Connection
    server: Connection
    raws: tuple[trio.abc.Stream, trio.abc.Stream]
    accepted: list[Stream]
    ended: dict[str, BaseException | None]
    nursery: trio.Nursery


async def behave(stream: Stream) -> None:
    match stream.protocol:
        case "/echo":
            while data := await stream.receive_some():
                await stream.send_all(data)
        case "/hungry":
            while await stream.receive_some(PIECE_BYTES - 1):
                pass
        case "/sink":
            while await stream.receive_some():
                pass
        case "/kill":
            stream.reset(0x77)
        case "/deaf" | "/hold":
            await trio.sleep_forever()


async def hold(_stream: Stream) -> None:
    await trio.sleep_forever()


async def upgraded(
    raws: tuple[trio.abc.Stream, trio.abc.Stream], is_allowed: Callable[[bytes], bool] = lambda _: True
) -> tuple[Connection, Connection]:
    one, two = host(1), host(2)
    made: dict[str, Connection] = {}

    async def client() -> None:
        made["client"] = await upgrade(
            raws[0], one, outbound=True, expected_peer=two.peer_id, is_allowed=is_allowed, remote_address=ADDRESS
        )

    async def server() -> None:
        made["server"] = await upgrade(
            raws[1], two, outbound=False, expected_peer=None, is_allowed=is_allowed, remote_address=ADDRESS
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client)
        nursery.start_soon(server)
    return made["client"], made["server"]


@asynccontextmanager
async def connected(
    raws: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
    on_stream: Callable[[Stream], Awaitable[None]] = behave,
) -> AsyncIterator[Pair]:
    raws = raws or trio.testing.memory_stream_pair()
    client, server = await upgraded(raws)
    accepted: list[Stream] = []
    ended: dict[str, BaseException | None] = {}

    async def serve(stream: Stream) -> None:
        accepted.append(stream)
        await on_stream(stream)

    async def run(name: str, connection: Connection) -> None:
        try:
            await connection.run(serve, lambda: PROTOCOLS)
            ended[name] = None
        except ConnectionLost as error:
            ended[name] = error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, "client", client)
        nursery.start_soon(run, "server", server)
        yield Pair(client, server, raws, accepted, ended, nursery)
        nursery.cancel_scope.cancel()


async def test_both_sides_know_each_other_and_streams_work_both_ways() -> None:
    async with connected() as pair:
        assert pair.client.peer_id == host(2).peer_id
        assert pair.server.peer_id == host(1).peer_id
        for opener in (pair.client, pair.server):
            stream = await opener.open_stream(["/nobody", "/echo"])
            assert stream.protocol == "/echo"
            await stream.send_all(b"hello")
            await stream.send_eof()
            assert await stream.receive_some() == b"hello"
            assert await stream.receive_some() == b""
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert pair.client.stream_count == pair.server.stream_count == 0
        assert pair.client.unread_bytes == pair.client.assembling_bytes == 0
        assert pair.client.sent_bytes == pair.server.received_bytes > 500


@pytest.mark.parametrize("is_clogged", [False, True])
async def test_streams_are_trio_streams(is_clogged: bool, autojump_clock: trio.testing.MockClock) -> None:
    async with connected(on_stream=hold) as pair:

        async def maker() -> tuple[Stream, Stream]:
            stream = await pair.client.open_stream(["/hold"])
            while not pair.accepted:
                await trio.testing.wait_all_tasks_blocked()
            return stream, pair.accepted.pop()

        async def clogged_maker() -> tuple[Stream, Stream]:
            one, two = await maker()
            for stream in (one, two):
                await stream.send_all(bytes(stream.connection.send_window(stream.stream_id)))
                assert stream.connection.send_window(stream.stream_id) == 0
            return one, two

        await trio.testing.check_half_closeable_stream(maker, clogged_maker if is_clogged else None)


async def test_a_protocol_that_nobody_speaks() -> None:
    async with connected() as pair:
        with pytest.raises(ProtocolNotSupported, match="/nobody"):
            await pair.client.open_stream(["/nobody", "/nothing"])
        await trio.testing.wait_all_tasks_blocked()
        assert pair.client.stream_count == pair.server.stream_count == 0


async def test_a_reset_is_seen_with_its_code_after_what_came_before() -> None:
    async def on_stream(stream: Stream) -> None:
        await stream.send_all(b"last words")
        stream.reset(0x1004)

    async with connected(on_stream=on_stream) as pair:
        stream = await pair.client.open_stream(["/kill"])
        await trio.testing.wait_all_tasks_blocked()
        assert await stream.receive_some() == b"last words"
        with pytest.raises(StreamReset) as caught:
            await stream.receive_some()
        assert caught.value.code == 0x1004
        with pytest.raises(StreamReset):
            await stream.send_all(b"x")
        await stream.aclose()
        assert not pair.client.streams


async def test_messages() -> None:
    async with connected() as pair:
        stream = await pair.client.open_stream(["/echo"])
        await stream.write_delimited(b"one")
        await stream.write_delimited(b"")
        await stream.send_all(encode_fixed64(b"three"))
        assert await stream.read_delimited(3) == b"one"
        assert await stream.read_delimited(0) == b""
        assert await stream.read_message(take_fixed64, 5) == b"three"
        await stream.write_delimited(bytes(101))
        with pytest.raises(BadMessage, match="limit"):
            await stream.read_delimited(100)
        await stream.aclose()
        stream = await pair.client.open_stream(["/echo"])
        await stream.send_all(b"\x05half")
        await stream.send_eof()
        with pytest.raises(StreamEnded):
            await stream.read_delimited(100)
        await stream.aclose()


async def test_a_message_larger_than_every_window_arrives_and_leaves_no_count() -> None:
    body = random.Random(1).randbytes(3 * 2**20)
    got = []

    async def on_stream(stream: Stream) -> None:
        got.append(await stream.read_delimited(len(body)))

    async with connected(on_stream=on_stream) as pair:
        stream = await pair.client.open_stream(["/sink"])
        await stream.write_delimited(body)
        await stream.send_eof()
        assert await stream.receive_some() == b""
        assert got == [body]
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert pair.server.unread_bytes == pair.server.assembling_bytes == pair.server.stream_count == 0


async def test_a_peer_that_forgets_credit_when_its_window_grows_does_not_stop_us(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """go-yamux sends only the growth then. With frames of 65524 bytes this test hangs."""
    async with connected() as pair:
        session = pair.server._session
        honest = session.consume

        def forgetful(stream_id: int, count: int, now: float) -> None:
            session.rtt_s = 1e9  # the window doubles with each credit
            before, queued = session._streams[stream_id].target, len(session._control)
            honest(stream_id, count, now)
            growth = session._streams[stream_id].target - before
            if growth and len(session._control) > queued:
                session._control[-1] = encode_frame(WINDOW_UPDATE, 0, stream_id, growth)

        monkeypatch.setattr(session, "consume", forgetful)
        stream = await pair.client.open_stream(["/hungry"])
        with trio.fail_after(20):
            await stream.send_all(bytes(40 * 2**20))
        assert session._streams[stream.stream_id].target == MAX_WINDOW_BYTES
        stream.reset()


async def test_a_cancelled_read_loses_nothing() -> None:
    async with connected() as pair:
        stream = await pair.client.open_stream(["/echo"])
        wire = encode_delimited(b"whole message")
        await stream.send_all(wire[:5])
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            with trio.move_on_after(0) as scope:
                await stream.read_delimited(100)
            assert scope.cancelled_caught
        await stream.send_all(wire[5:])
        assert await stream.read_delimited(100) == b"whole message"
        stream.reset()


@pytest.mark.parametrize("size", [10, 65_520, 65_521, 65_524])
async def test_a_body_that_fits_one_frame_is_never_split(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as pair:
        stream = await pair.client.open_stream(["/deaf"])
        frames: list[int] = []
        original = pair.client.queue_data

        def spy(stream_id: int, chunk: bytes | memoryview) -> None:
            frames.append(len(chunk))
            original(stream_id, chunk)

        monkeypatch.setattr(pair.client, "queue_data", spy)
        await stream.write_delimited(bytes(size))
        prefix = len(encode_uvarint(size))
        assert frames == ([size + prefix] if size + prefix <= 65524 else [prefix, size])
        # and not when the window has room for a part of it only
        await stream.send_all(bytes(pair.client.send_window(stream.stream_id) - 10))
        frames.clear()
        with trio.move_on_after(0.01) as scope:
            await stream.write_delimited(bytes(size + 10))
        assert scope.cancelled_caught
        assert sum(frames) <= 10
        stream.reset()


async def test_a_deaf_stream_stops_its_sender_but_nobody_else() -> None:
    async with connected() as pair:
        deaf = await pair.client.open_stream(["/deaf"])
        with trio.move_on_after(0.05) as scope:
            await deaf.send_all(bytes(10**6))
        assert scope.cancelled_caught
        echo = await pair.client.open_stream(["/echo"])
        await echo.send_all(b"still here")
        assert await echo.receive_some() == b"still here"
        assert pair.server.unread_bytes <= 262144
        deaf.reset()
        echo.reset()
        await trio.testing.wait_all_tasks_blocked()


async def test_unread_data_of_many_deaf_streams_is_bounded() -> None:
    async with connected() as pair:
        streams = [await pair.client.open_stream(["/deaf"]) for _ in range(300)]
        for stream in streams:
            with suppress(StreamReset):
                await stream.send_all(bytes(4 * 65524))
            await trio.testing.wait_all_tasks_blocked()
            assert pair.server.unread_bytes == pair.server.account.held_bytes <= MEMBER_BYTES
        assert pair.server.unread_bytes > MEMBER_BYTES - 262144
        codes = []
        for stream in streams:
            try:
                await stream.send_all(b"x")
            except StreamReset as reset:
                codes.append(reset.code)
        assert codes == [0x1002] * (300 - MEMBER_BYTES // (4 * 65524))
        echo = await pair.client.open_stream(["/echo"])
        await echo.send_all(b"alive")


async def test_the_queue_is_bounded_when_the_peer_does_not_read_the_wire(
    autojump_clock: trio.testing.MockClock,
) -> None:
    raws = trio.testing.memory_stream_pair()
    async with connected(raws=raws) as pair:
        sinks = [await pair.client.open_stream(["/sink"]) for _ in range(20)]
        raws[0].send_stream.send_all_hook = trio.sleep_forever
        async with trio.open_nursery() as nursery:
            for sink in sinks:
                nursery.start_soon(sink.send_all, bytes(4 * 65524))
            await trio.testing.wait_all_tasks_blocked()
            assert pair.client._session.output_bytes < QUEUE_MARK_BYTES + 70_000
            with trio.move_on_after(1) as scope:
                await pair.client.open_stream(["/echo"])
            assert scope.cancelled_caught
            nursery.cancel_scope.cancel()


async def test_opening_and_resetting_in_turns_does_not_make_endless_handlers() -> None:
    running = 0

    async def stubborn(_stream: Stream) -> None:
        nonlocal running
        running += 1
        await trio.sleep_forever()

    async with connected(on_stream=stubborn) as pair:
        for _ in range(MAX_HANDLERS):
            (await pair.client.open_stream(["/hold"])).reset()
        for _ in range(50):
            with pytest.raises(StreamReset, match="0x1002"):
                await pair.client.open_stream(["/hold"])
        assert running == MAX_HANDLERS
        assert pair.server.stream_count == 0


async def test_cancelled_opens_give_their_slots_back() -> None:
    async with connected() as pair:
        for _ in range(2 * MAX_UNACKNOWLEDGED):
            with trio.move_on_after(0):
                await pair.client.open_stream(["/echo"])
        await trio.testing.wait_all_tasks_blocked()
        stream = await pair.client.open_stream(["/echo"])
        assert pair.client.stream_count == pair.server.stream_count == 1
        await stream.aclose()


async def test_opens_wait_for_a_peer_that_accepts_nothing_and_go_on_when_one_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with connected() as pair:
        monkeypatch.setattr(pair.server._session, "receive", lambda _data, max_frames: [])
        scopes = []

        async def open_one() -> None:
            with trio.CancelScope() as scope, suppress(trio.ClosedResourceError):
                scopes.append(scope)
                await pair.client.open_stream(["/echo"])

        for _ in range(MAX_UNACKNOWLEDGED + 10):
            pair.nursery.start_soon(open_one)
        await trio.testing.wait_all_tasks_blocked()
        assert pair.client.stream_count == MAX_UNACKNOWLEDGED
        last = max(pair.client.streams)
        next(iter(pair.client.streams.values())).reset()  # a slot is free: somebody who waits takes it
        await trio.testing.wait_all_tasks_blocked()
        assert pair.client.stream_count == MAX_UNACKNOWLEDGED
        assert max(pair.client.streams) >= last + 2
        for scope in scopes:
            scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert pair.client.stream_count == pair.client._session.unacknowledged == 0


async def test_more_opens_than_slots_get_through_as_the_peer_accepts() -> None:
    async with connected() as pair:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for _ in range(MAX_UNACKNOWLEDGED + 200):
                    nursery.start_soon(pair.client.open_stream, ["/hold"])
        assert pair.client.stream_count == MAX_UNACKNOWLEDGED + 200


async def test_random_cancellation_leaves_the_connection_whole(autojump_clock: trio.testing.MockClock) -> None:
    dice = random.Random(5)

    async def operate(connection: Connection) -> None:
        stream = await connection.open_stream([dice.choice(PROTOCOLS)])
        try:
            await stream.write_delimited(bytes(dice.randrange(100_000)))
            if dice.random() < 0.5:
                await stream.send_eof()
                while await stream.receive_some():
                    pass
            else:
                await stream.read_delimited(100_000)
        finally:
            if dice.random() < 0.5:
                stream.reset()
            else:
                await stream.aclose()

    async def worker(connection: Connection) -> None:
        for _ in range(60):
            with trio.move_on_after(dice.choice([0, 1e-9, 1])):
                # a virtual deadline passes only when all tasks sleep; counting checkpoints cancels in the middle of work
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after_checkpoints, nursery.cancel_scope, dice.randrange(40))
                    with suppress(StreamFault, trio.ClosedResourceError):
                        await operate(connection)
                    nursery.cancel_scope.cancel()

    async def cancel_after_checkpoints(scope: trio.CancelScope, count: int) -> None:
        for _ in range(count):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async with connected() as pair:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(worker, pair.client)
                nursery.start_soon(worker, pair.server)
        for connection in (pair.client, pair.server):
            stream = await connection.open_stream(["/echo"])
            await stream.write_delimited(b"alive")
            assert await stream.read_delimited(10) == b"alive"
            stream.reset()
        await trio.sleep(0.1)
        assert pair.ended == {}
        for held in [*pair.client.streams.values(), *pair.server.streams.values()]:
            assert not held.is_outbound  # a handler that never returns, of a stream that the other side closed
            held.reset()
        await trio.sleep(200)  # what was closed on one side only is cut off
        for connection in (pair.client, pair.server):
            assert connection.stream_count == connection._session.unacknowledged == len(connection._lingering) == 0
            assert connection.unread_bytes == connection.assembling_bytes == connection._session._extra_window == 0


async def test_a_frozen_peer_is_noticed_within_45_seconds(autojump_clock: trio.testing.MockClock) -> None:
    raws = trio.testing.memory_stream_pair()
    client, _server = await upgraded(raws)  # the server never runs: it reads and answers nothing
    with pytest.raises(ConnectionLost, match="silent"):
        await client.run(behave, lambda: PROTOCOLS)
    assert trio.current_time() <= 45


async def test_idle_connections_stay_and_measure_the_round_trip(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as pair:
        await trio.sleep(1000)
        assert pair.ended == {}
        assert pair.client._pings > 30


async def test_close_delivers_what_was_queued_and_then_ends_both_sides() -> None:
    got = []

    async def on_stream(stream: Stream) -> None:
        got.append(await stream.read_delimited(2**20))

    async with connected(on_stream=on_stream) as pair:
        stream = await pair.client.open_stream(["/sink"])
        await stream.write_delimited(bytes(200_000))
        pair.client.close("test is over")
        with pytest.raises(ConnectionLost, match="test is over"):
            await pair.client.open_stream(["/sink"])
        await pair.client.closed.wait()
        await pair.server.closed.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert got == [bytes(200_000)]
        assert pair.ended["client"] is None
        assert "ended the session" in str(pair.ended["server"])
        with pytest.raises(ConnectionLost, match="test is over"):
            await stream.receive_some()


async def test_a_handler_finishes_its_work_after_the_connection_is_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    done = []

    async def on_stream(stream: Stream) -> None:
        message = await stream.read_delimited(100)
        await trio.sleep(1)
        done.append(message)

    async with connected(on_stream=on_stream) as pair:
        stream = await pair.client.open_stream(["/sink"])
        await stream.write_delimited(b"read already")
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(pair.raws[0])
        await pair.server.closed.wait()
        assert not done
        await trio.sleep(2)
        assert done == [b"read already"]


async def test_a_crash_in_a_handler_ends_the_connection_with_that_error() -> None:
    async def crash(_stream: Stream) -> None:
        raise ZeroDivisionError

    client, server = await upgraded(trio.testing.memory_stream_pair())
    lost: list[str] = []

    async def run_client() -> None:
        try:
            await client.run(behave, lambda: PROTOCOLS)
        except ConnectionLost as error:
            lost.append(str(error))

    async def run_server() -> None:
        with pytest.raises(BaseExceptionGroup) as caught:
            await server.run(crash, lambda: PROTOCOLS)
        assert caught.group_contains(ZeroDivisionError)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_client)
        nursery.start_soon(run_server)
        while not lost:  # the crash comes as soon as a protocol is agreed
            with suppress(StreamFault):
                await client.open_stream(["/echo"])
    assert len(lost) == 1


async def test_a_breach_of_yamux_is_answered_with_a_go_away() -> None:
    async with connected() as pair:
        pair.client._session._ordered.append(encode_frame(WINDOW_UPDATE, SYN, 2, 0))
        pair.client._session.output_bytes += 12
        pair.client._output.set()
        await pair.server.closed.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert "broke the rules" in str(pair.ended["server"])
        assert "code 0x1" in str(pair.ended["client"])


async def test_garbage_on_the_wire_is_an_end_not_a_crash() -> None:
    async with connected() as pair:
        await trio.testing.wait_all_tasks_blocked()
        await pair.raws[0].send_all(b"\x00\x20" + bytes(32))
        await pair.server.closed.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert "decrypt" in str(pair.ended["server"])


# ---- upgrade ----


async def test_the_gate_refuses_on_either_side_and_the_raw_stream_is_closed() -> None:
    for refusing in (host(1).peer_id, host(2).peer_id):
        raws = trio.testing.memory_stream_pair()
        with pytest.raises(BaseExceptionGroup) as caught:
            await upgraded(raws, lambda peer_id, refused=refusing: peer_id != refused)  # type: ignore[misc]
        assert caught.group_contains(PeerRefused)
        for raw in raws:
            with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
                await raw.send_all(b"x")


async def test_another_peer_than_the_dialed_one() -> None:
    raws = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            with pytest.raises(HandshakeFault):
                await upgrade(
                    raws[1],
                    host(2),
                    outbound=False,
                    expected_peer=None,
                    is_allowed=lambda _: True,
                    remote_address=ADDRESS,
                )

        nursery.start_soon(listen)
        with pytest.raises(PeerRefused):
            await upgrade(
                raws[0],
                host(1),
                outbound=True,
                expected_peer=host(3).peer_id,
                is_allowed=lambda _: True,
                remote_address=ADDRESS,
            )


async def test_a_silent_peer_has_fifteen_seconds_and_hears_our_header_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    raws = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            with pytest.raises(HandshakeFault, match="15 s"):
                await upgrade(
                    raws[1],
                    host(2),
                    outbound=False,
                    expected_peer=None,
                    is_allowed=lambda _: True,
                    remote_address=ADDRESS,
                )

        nursery.start_soon(listen)
        assert await raws[0].receive_some(100) == encode_token("/multistream/1.0.0")
    assert trio.current_time() == 15


async def test_without_early_muxers_yamux_is_agreed_inside_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    original = NoiseHandshake._payload

    def payload_without_muxers(self: NoiseHandshake) -> bytes:
        self._muxers = ()
        return original(self)

    monkeypatch.setattr(NoiseHandshake, "_payload", payload_without_muxers)
    async with connected() as pair:
        stream = await pair.client.open_stream(["/echo"])
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        stream.reset()


async def test_a_pipelined_message_gets_both_answers_on_its_stream() -> None:
    got = []

    async def on_stream(stream: Stream) -> None:
        got.append(await stream.read_delimited(10))

    async with connected(on_stream=on_stream) as pair:
        stream = Stream(pair.client, pair.client._session.open(), is_outbound=True)
        pair.client._streams[stream.stream_id] = stream
        await stream.send_all(encode_token("/multistream/1.0.0") + encode_token("/sink") + encode_delimited(b"lazy"))
        await stream.send_eof()
        answer = b""
        while data := await stream.receive_some():
            answer += data
        assert answer == encode_token("/multistream/1.0.0") + encode_token("/sink")
        assert got == [b"lazy"]
        await stream.aclose()
