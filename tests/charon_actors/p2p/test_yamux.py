"""yamux against the vectors (specification 03-p2p, section 11.4), two machines against each other, and hostile bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from charon_actors.p2p.yamux import (
    DATA,
    FIN,
    GO_AWAY,
    INITIAL_WINDOW_BYTES,
    MAX_FRAME_BYTES,
    MAX_QUEUED_FRAMES,
    MAX_UNACKNOWLEDGED,
    MAX_WINDOW_BYTES,
    PING,
    RESOURCE_LIMIT,
    RST,
    SYN,
    WINDOW_UPDATE,
    Credited,
    Event,
    Finished,
    GoneAway,
    Killed,
    Opened,
    Ponged,
    Received,
    YamuxFault,
    YamuxSession,
    encode_frame,
)

VECTORS = Path(__file__).parents[2] / "vectors" / "p2p"
FRAMES = {frame["name"]: frame for frame in json.loads((VECTORS / "yamux_frames.json").read_bytes())["frames"]}


def server() -> YamuxSession:
    return YamuxSession(is_client=False)


def pair() -> tuple[YamuxSession, YamuxSession]:
    return YamuxSession(is_client=True), YamuxSession(is_client=False)


def open_in_both(client: YamuxSession, other: YamuxSession) -> int:
    stream_id = client.open()
    assert other.receive(client.take_output(2**20)) == [Opened(stream_id)]
    client.receive(other.take_output(2**20))
    return stream_id


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_frames_are_encoded_as_in_the_vectors(frame: dict[str, Any]) -> None:
    wire = bytes.fromhex(frame["hex"])
    length = len(wire) - 12 if frame["type"] == DATA else frame["length"]
    assert encode_frame(frame["type"], frame["flags"], frame["stream"], length, wire[12:]) == wire


def wire(name: str) -> bytes:
    return bytes.fromhex(FRAMES[name]["hex"])


def test_a_client_opens_and_is_accepted() -> None:
    client, other = pair()
    assert client.open() == 1
    syn = client.take_output(100)
    assert syn == wire("open stream 1 (client)")
    assert other.receive(syn) == [Opened(1)]
    assert other.take_output(100) == wire("ack stream 1 (server)")
    assert client.unacknowledged == 1
    assert client.receive(wire("ack that also grows the receive window (allowed by the yamux spec)")) == [Credited(1)]
    assert client.unacknowledged == 0
    assert client.send_window(1) == INITIAL_WINDOW_BYTES + 16515072
    client.send(1, b"hello")
    assert client.take_output(100) == wire("data 5 bytes")
    client.finish(1)
    assert client.take_output(100) == wire("half close (FIN)")


def test_data_may_come_with_the_syn_and_out_of_order_ids_are_new() -> None:
    other = server()
    assert other.receive(wire("data with SYN")) == [Opened(3), Received(3, b"hi")]
    assert other.receive(wire("open stream 1 (client)")) == [Opened(1)]
    with pytest.raises(YamuxFault, match="again"):
        other.receive(wire("open stream 1 (client)"))


def test_a_reset_code_is_not_credit() -> None:
    client, other = pair()
    stream_id = open_in_both(client, other)
    reset = wire("reset, code 0x1001 protocol negotiation failed (must not be added to the window)")
    assert client.receive(reset) == [Killed(stream_id, 0x1001, by_peer=True)]
    assert client.send_window(stream_id) == 0
    assert stream_id not in client
    assert client.receive(wire("data 5 bytes") + reset + wire("window update +131072")) == []  # dropped silently


def test_ping_and_go_away() -> None:
    client, other = pair()
    client.ping(7)
    assert client.take_output(100) == wire("ping request 7")
    assert other.receive(wire("ping request 7")) == []
    assert other.take_output(100) == wire("ping response 7")
    assert client.receive(wire("ping response 7")) == [Ponged(7)]
    assert client.receive(wire("go away with connection error code 0x1007 (gated)")) == [GoneAway(0x1007)]


@pytest.mark.parametrize(
    "bad",
    [
        encode_frame(WINDOW_UPDATE, SYN, 2, 0),  # parity
        encode_frame(WINDOW_UPDATE, SYN, 0, 0),
        encode_frame(DATA, 0, 0, 0),
        b"\x01" + encode_frame(PING, SYN, 0, 0)[1:],  # version
        encode_frame(4, 0, 0, 0),
        encode_frame(DATA, SYN, 1, INITIAL_WINDOW_BYTES + 1),
        encode_frame(DATA, SYN, 1, 262144, bytes(262144)) + encode_frame(DATA, 0, 1, 1),
    ],
)
def test_a_breach_ends_the_connection_with_a_go_away(bad: bytes) -> None:
    other = server()
    with pytest.raises(YamuxFault):
        other.receive(bad)
    assert other.take_output(10**6).endswith(encode_frame(GO_AWAY, 0, 0, 1))


def test_data_after_fin_kills_only_the_stream() -> None:
    other = server()
    assert other.receive(encode_frame(DATA, SYN | FIN, 1, 2, b"hi")) == [Opened(1), Received(1, b"hi"), Finished(1)]
    assert other.receive(encode_frame(DATA, 0, 1, 1, b"x")) == [Killed(1, 0x1004, by_peer=False)]
    assert len(other) == other.inbound_count == 0


def test_slots_come_back_after_local_reset_remote_reset_and_both_fins() -> None:
    client, other = pair()
    for _ in range(3):
        ids = [client.open() for _ in range(MAX_UNACKNOWLEDGED)]
        assert client.unacknowledged == MAX_UNACKNOWLEDGED
        for stream_id in ids:
            client.reset(stream_id)
        assert client.unacknowledged == len(client) == 0
    client.take_output(2**20)
    stream_id = client.open()
    other.receive(client.take_output(100))
    client.finish(stream_id)
    other.receive(client.take_output(100))
    other.finish(stream_id)
    assert client.receive(other.take_output(100)) == [Finished(stream_id)]
    assert len(client) == len(other) == other.inbound_count == client.unacknowledged == 0


def test_streams_above_the_limit_are_refused_one_by_one() -> None:
    other = YamuxSession(is_client=False, max_inbound_streams=2)
    events = other.receive(b"".join(encode_frame(DATA, SYN, stream_id, 1, b"x") for stream_id in (1, 3, 5, 7)))
    assert [event for event in events if isinstance(event, Opened)] == [Opened(1), Opened(3)]
    assert other.take_output(2**20).endswith(encode_frame(WINDOW_UPDATE, RST, 7, RESOURCE_LIMIT))
    other.reset(1)
    assert other.receive(encode_frame(WINDOW_UPDATE, SYN, 9, 0)) == [Opened(9)]


def test_a_peer_that_asks_and_does_not_read_is_cut_off() -> None:
    other = server()
    other.receive(encode_frame(PING, SYN, 0, 1) * MAX_QUEUED_FRAMES)
    with pytest.raises(YamuxFault, match="faster"):
        other.receive(encode_frame(PING, SYN, 0, 1))


def test_credit_comes_back_at_half_and_the_target_doubles_when_it_is_used_up_quickly() -> None:
    client, other = pair()
    stream_id = open_in_both(client, other)
    other.rtt_s = 1.0

    def send_and_read(count: int, now: float) -> bytes:
        for start in range(0, count, MAX_FRAME_BYTES):
            client.send(stream_id, bytes(min(MAX_FRAME_BYTES, count - start)))
        other.receive(client.take_output(2**30))
        other.consume(stream_id, count, now)
        credit = other.take_output(2**20)
        client.receive(credit)
        return credit

    assert send_and_read(131071, 0.0) == b""
    assert send_and_read(1, 0.0) == encode_frame(WINDOW_UPDATE, 0, stream_id, 131072)
    assert send_and_read(131072, 3.9) == encode_frame(WINDOW_UPDATE, 0, stream_id, 131072 + 262144)  # within 4 RTT
    assert send_and_read(262144, 7.9) == encode_frame(WINDOW_UPDATE, 0, stream_id, 262144)  # not within
    for _ in range(20):
        send_and_read(client.send_window(stream_id), 8.0)
    assert client.send_window(stream_id) == MAX_WINDOW_BYTES
    assert other._extra_window == MAX_WINDOW_BYTES - INITIAL_WINDOW_BYTES
    other.reset(stream_id)
    assert other._extra_window == 0  # the next stream may grow as far


def test_control_frames_overtake_data_and_nothing_is_split() -> None:
    client, _ = pair()
    stream_id = client.open()
    client.send(stream_id, bytes(1000))
    client.ping(1)
    assert client.take_output(30) == encode_frame(PING, SYN, 0, 1) + encode_frame(WINDOW_UPDATE, SYN, stream_id, 0)
    assert len(client.take_output(30)) == 1012
    assert client.take_output(30) == b""
    assert client.output_bytes == 0


@given(st.binary(max_size=120) | st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 15), st.integers(0, 6), st.sampled_from([0, 1, 7, 300000])), max_size=12
).map(lambda frames: b"".join(encode_frame(*frame) for frame in frames)), st.booleans())  # fmt: skip
def test_hostile_frames(data: bytes, is_client: bool) -> None:
    session = YamuxSession(is_client=is_client)
    if is_client:
        session.open()
        session.open()
    try:
        session.receive(data)
    except YamuxFault:
        return
    assert 0 <= session.unacknowledged <= 2
    assert 0 <= session.inbound_count <= len(session)


class TwoMachines(RuleBasedStateMachine):
    """Two sessions over a wire that is cut anywhere: what one side sends arrives in order, once, and both forget together."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = pair()
        self.wires = (bytearray(), bytearray())  # to side 0, to side 1
        self.sent: dict[tuple[int, int], bytes] = {}
        self.got: dict[tuple[int, int], bytes] = {}
        self.unread: dict[tuple[int, int], int] = {}
        self.alive: list[set[int]] = [set(), set()]
        self.was_reset: set[int] = set()

    @rule(side=st.integers(0, 1))
    def open(self, side: int) -> None:
        if self.sides[side].unacknowledged < 5:
            self.alive[side].add(self.sides[side].open())

    @rule(
        side=st.integers(0, 1),
        pick=st.integers(0, 9),
        size=st.sampled_from([1, 17, 5000, 65524]),
        fill=st.binary(min_size=1, max_size=1),
    )
    def send(self, side: int, pick: int, size: int, fill: bytes) -> None:
        for stream_id in sorted(self.alive[side])[pick : pick + 1]:
            if self.sides[side].send_window(stream_id) >= size:
                self.sides[side].send(stream_id, fill * size)
                self.sent[side, stream_id] = self.sent.get((side, stream_id), b"") + fill * size

    @rule(side=st.integers(0, 1), pick=st.integers(0, 9), is_reset=st.booleans())
    def end(self, side: int, pick: int, is_reset: bool) -> None:
        for stream_id in sorted(self.alive[side])[pick : pick + 1]:
            if is_reset:
                self.sides[side].reset(stream_id, 5)
                self.alive[side].discard(stream_id)
                self.was_reset.add(stream_id)
            else:
                self.sides[side].finish(stream_id)

    @rule(side=st.integers(0, 1), limit=st.integers(1, 10**6))
    def flush(self, side: int, limit: int) -> None:
        self.wires[1 - side].extend(self.sides[side].take_output(limit))

    @rule(side=st.integers(0, 1), size=st.integers(1, 200_000))
    def deliver(self, side: int, size: int) -> None:
        data = bytes(self.wires[side][:size])
        del self.wires[side][:size]
        for event in self.sides[side].receive(data):
            match event:
                case Opened(stream_id):
                    self.alive[side].add(stream_id)
                case Received(stream_id, chunk):
                    self.got[1 - side, stream_id] = self.got.get((1 - side, stream_id), b"") + chunk
                    self.unread[side, stream_id] = self.unread.get((side, stream_id), 0) + len(chunk)
                case Killed(stream_id, code, by_peer):
                    assert (code, by_peer) == (5, True)
                    self.alive[side].discard(stream_id)

    @rule(side=st.integers(0, 1), part=st.floats(0, 1))
    def read(self, side: int, part: float) -> None:
        for stream_id in self.alive[side]:
            count = int(self.unread.get((side, stream_id), 0) * part)
            self.unread[side, stream_id] = self.unread.get((side, stream_id), 0) - count
            self.sides[side].consume(stream_id, count, 0.0)

    @invariant()
    def what_arrives_was_sent(self) -> None:
        for key, data in self.got.items():
            assert self.sent[key].startswith(data)

    def teardown(self) -> None:
        for _ in range(4):
            for side in (0, 1):
                self.flush(side, 2**40)
                self.deliver(side, 2**40)
        for key, data in self.sent.items():
            if key[1] not in self.was_reset:
                assert self.got.get(key, b"") == data
        for side in (0, 1):
            for stream_id in sorted(self.alive[side]):
                self.sides[side].reset(stream_id, 5)
        for side in (0, 1, 0, 1):
            self.flush(side, 2**40)
            self.deliver(side, 2**40)
            self.read(side, 1.0)
        for session in self.sides:
            assert len(session) == session.unacknowledged == session.inbound_count == session._extra_window == 0


TestTwoMachines = TwoMachines.TestCase
TestTwoMachines.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 5), st.randoms(use_true_random=False))
def test_in_slices_the_same_happens_as_at_once(choices: list[int], max_frames: int, random: Random) -> None:
    kinds = [
        encode_frame(WINDOW_UPDATE, SYN, 1, 0),
        encode_frame(DATA, 0, 1, 5, b"hello"),
        encode_frame(DATA, FIN, 1, 300, bytes(300)),
        encode_frame(DATA, SYN, 3, 7, b"at once"),
        encode_frame(WINDOW_UPDATE, RST, 3, 9),
        encode_frame(WINDOW_UPDATE, 0, 1, 77),
        encode_frame(PING, SYN, 0, 5),
        encode_frame(DATA, 0, 9, 3, b"???"),
        encode_frame(DATA, 0, 1, 0),
    ]
    wire = b"".join(kinds[choice % len(kinds)] for choice in choices)
    whole, sliced = server(), server()

    def outcome(run: Callable[[], list[Event]]) -> tuple[list[Event], str]:
        events: list[Event] = []
        try:
            events += run()
        except YamuxFault as fault:
            return [], str(fault)
        return events, ""

    def in_slices() -> list[Event]:
        events, rest = [], wire
        while rest or sliced.has_input:
            count = random.randrange(len(rest) + 1)
            before = sliced.frames
            events += sliced.receive(rest[:count], max_frames)
            assert sliced.frames - before <= max_frames
            rest = rest[count:]
        return events

    def joined(events: list[Event]) -> list[Event]:
        """Payload is handed on as it comes: how it is cut is not part of what happened."""
        out: list[Event] = []
        for event in events:
            last = out[-1] if out else None
            if isinstance(event, Received) and isinstance(last, Received) and last.stream_id == event.stream_id:
                out[-1] = Received(event.stream_id, last.data + event.data)
            else:
                out.append(event)
        return out

    (at_once, fault), (later, late_fault) = outcome(lambda: whole.receive(wire)), outcome(in_slices)
    assert (joined(at_once), fault) == (joined(later), late_fault)
    assert whole.take_output(2**20) == sliced.take_output(2**20)
    assert whole.frames == sliced.frames
