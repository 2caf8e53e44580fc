"""Whatever a validator client sends through us to the beacon nodes: its own requests may fail of it, nothing else may."""

import gzip
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from actors.beacon import BeaconFault, BeaconUnavailable, FetchAttestationData, Forward, NodeVersion, OpenEvents, actor
from actors.beacon.events import MAX_STREAMS
from actors.beacon.forwarding import MAX_FORWARDS
from actors.beacon.node import MAX_CONNECTIONS, WINS_PERIOD_S, BeaconNode, Wins
from charon_actors.eth2.beacon_urls import decode_node_url
from tests.actors.beacon.test_beacon_actor import DATA, beacon_of, node
from tests.actors.beacon.upstream import Scripted, attestation_data

EVENTS = "/eth/v1/events"


@pytest.fixture(autouse=True)
def log() -> Iterator[list[Any]]:
    with capture_logs() as entries:
        yield entries


async def read(body: Any) -> bytes:
    return b"".join([chunk async for chunk in body])


async def test_header_bytes_beyond_ascii_go_on_as_they_came() -> None:
    bn = node()
    bn.answers["/x"] = Scripted(body={})
    agent = "Grüße".encode().decode("latin-1")  # how the validator API hands it over
    async with beacon_of([bn]) as beacon:
        answer = await beacon.ask(Forward("GET", "/x", b"", (("user-agent", agent), ("x-note", "\xff")), b""))
        assert answer.status == 200
        assert await beacon.ask(NodeVersion())
    [seen] = bn.saw("/x")
    assert seen.headers["user-agent"] == agent
    assert seen.headers["x-note"] == "\xff"


async def test_more_topics_than_we_look_at_are_the_beacon_nodes_to_refuse() -> None:
    bn = node()
    bn.answers[EVENTS] = lambda seen: Scripted(400, {"message": "too many"} if "head_v2" in seen.query else {})
    async with beacon_of([bn]) as beacon:
        with pytest.raises(BeaconFault, match="too many") as caught:
            await beacon.ask(OpenEvents(b"&".join([b"topics=head"] * 100 + [b"topics=head_v2"])))
        assert caught.value.status == 400
        assert await beacon.ask(NodeVersion())


@pytest.mark.parametrize("to_all", [False, True])
async def test_a_fault_of_ours_in_a_clients_request_is_an_answer_and_one_traceback(log: list[Any], to_all: bool) -> None:
    unspeakable = Forward("GET", "/\ud800", b"", (), b"", to_all)  # no request can have this path: something that must not happen
    async with beacon_of([node()]) as beacon:
        for _ in range(6):
            with pytest.raises(BeaconFault, match="a fault of this node") as caught:
                await beacon.ask(unspeakable)
            assert not isinstance(caught.value, BeaconUnavailable)
        assert await beacon.ask(NodeVersion())
    [line] = [entry for entry in log if "exc_info" in entry]
    assert isinstance(line["exc_info"], UnicodeEncodeError)


async def test_a_fault_of_ours_in_a_clients_stream_ends_the_stream(log: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(event: Any) -> bytes:
        raise RuntimeError("something that must not happen")

    monkeypatch.setattr("actors.beacon.events.encode_event", broken)
    bn = node()
    bn.answers[EVENTS] = Scripted(headers={"content-type": "text/event-stream"}, chunks=[b"data: {}\n\n"], is_endless=True)
    async with beacon_of([bn]) as beacon:
        for _ in range(5):
            answer = await beacon.ask(OpenEvents(b"topics=head"))
            with pytest.raises(BeaconUnavailable):
                await read(answer.body)
        assert await beacon.ask(NodeVersion())
    assert len([entry for entry in log if "exc_info" in entry]) == 1


async def test_open_streams_leave_connections_for_duties() -> None:
    """As many as a client may have, all on one beacon node."""
    bn = node()
    bn.answers[DATA] = Scripted(body=attestation_data(41))
    bn.answers["/x"] = Scripted(body={})
    bn.answers["/big"] = Scripted(headers={"content-type": "text/plain"}, chunks=[b"x"], is_endless=True)
    async with beacon_of([bn], timeout_s=5.0) as beacon:
        bn.answers[EVENTS] = Scripted(headers={"content-type": "text/event-stream"}, chunks=[b":\n\n"], is_endless=True)
        streams = [(await beacon.ask(OpenEvents(b"topics=head"))).body for _ in range(MAX_STREAMS)]
        streams += [(await beacon.ask(Forward("GET", "/big", b"", (), b""))).body for _ in range(MAX_FORWARDS - 1)]
        assert len(streams) > MAX_CONNECTIONS
        for _ in range(3):
            assert (await beacon.ask(FetchAttestationData(41, 0))).slot == 41
        assert (await beacon.ask(Forward("GET", "/x", b"", (), b""))).status == 200
        for stream in streams:
            await stream.aclose()


async def test_requests_that_are_passed_on_leave_room_for_duties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "MAX_PASSED_ON", 3)
    monkeypatch.setattr(actor, "MAX_IN_FLIGHT", 3)
    bn = node()
    bn.answers[DATA] = Scripted(body=attestation_data(41))
    bn.answers["/slow"] = Scripted(delay_s=0.9)
    async with beacon_of([bn]) as beacon, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(beacon.ask, Forward("GET", "/slow", b"", (), b""))
        await bn.wait_until(lambda: len(bn.saw("/slow")) == 3)
        with pytest.raises(BeaconUnavailable, match="more than 3 requests"):
            await beacon.ask(Forward("GET", "/slow", b"", (), b""))
        assert (await beacon.ask(FetchAttestationData(41, 0))).slot == 41
        nursery.cancel_scope.cancel()


async def test_a_compressed_refusal_goes_on_with_its_encoding() -> None:
    bn = node()
    packed = gzip.compress(b'{"code":404,"message":"block not found"}')
    bn.answers["/x"] = Scripted(404, packed, {"content-encoding": "gzip", "content-type": "application/json"})
    async with beacon_of([bn]) as beacon:
        answer = await beacon.ask(Forward("GET", "/x", b"", (("accept-encoding", "gzip"),), b""))
        assert (answer.status, await read(answer.body)) == (404, packed)
        assert dict(answer.headers)["content-encoding"] == "gzip"
        bn.answers["/x"] = Scripted(404, b"plain", {"content-type": "text/plain"})
        answer = await beacon.ask(Forward("GET", "/x", b"", (), b""))
        assert "content-encoding" not in dict(answer.headers)
        assert await read(answer.body) == b"plain"


@pytest.mark.parametrize(
    ("path", "query", "status"), [("/x", b"id=" + b"1" * 2**16, 414), ("/" + "x" * 2**16, b"", 414), ("/x", b"\x01", 400)]
)
async def test_a_request_that_can_not_be_sent_says_nothing_of_the_beacon_nodes(
    log: list[Any], path: str, query: bytes, status: int
) -> None:
    bn, fallback = node(), node("fallback")
    async with beacon_of([bn], [fallback]) as beacon:
        answer = await beacon.ask(Forward("GET", path, query, (), b""))
        assert answer.status == status
        assert dict(answer.headers)["content-type"] == "application/json"
        assert b'"code":%d' % status in await read(answer.body)
    assert not bn.saw(path)
    assert not fallback.saw(path)
    assert not [entry for entry in log if entry["event"] == "Beacon node can not be reached"]


async def test_wins_begin_anew_with_the_first_win_after_their_period(autojump_clock: trio.testing.MockClock) -> None:
    async def admit(_: BeaconNode) -> None:
        pass

    wins = Wins()
    one, two = (BeaconNode(decode_node_url(f"http://{name}"), (), wins, admit) for name in ("one", "two"))
    for _ in range(3):
        wins.add(one)
    await trio.sleep(WINS_PERIOD_S - 1)
    wins.add(two)
    assert (wins.of(one), wins.of(two)) == (3, 1)
    await trio.sleep(2)
    assert (wins.of(one), wins.of(two)) == (3, 1), "they count until somebody wins again"
    wins.add(two)
    assert (wins.of(one), wins.of(two)) == (0, 1)
