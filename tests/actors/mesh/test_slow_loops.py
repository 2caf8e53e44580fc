"""What takes minutes, on a virtual clock over real sockets: peer info polling, waiting for the other side, idle streams (03 §3.4, §6)."""

import pytest
import trio
import trio.testing

from actors.mesh.stream import Stream
from charon_actors.profile import Profile
from tests.actors.mesh.rig import key_of, open_nodes
from tests.actors.mesh.small_relay import open_relay
from tests.actors.mesh.test_mesh import all_connected
from tests.actors.mesh.test_relay import NOBODY


@pytest.fixture
def fast_clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    autojump_clock.autojump_threshold = 0.05  # real sockets need a little real time
    return autojump_clock


async def test_a_minute_later_everybody_knows_everybody(
    fast_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_nodes(2, is_pinging=False, nickname="anna", is_builder_enabled=True) as nodes:
        await all_connected(nodes)
        await trio.sleep(65)
        gauges, name = nodes[0].numbers.gauges, nodes[0].mesh.peers[1].name
        assert gauges["app_peerinfo_version_support", name] == 1
        assert abs(gauges["app_peerinfo_clock_offset_seconds", name]) < 1
        assert gauges["app_peerinfo_builder_api_enabled", name] == 1
        status = await nodes[0].mesh.status(1)
        assert (status.nickname, status.version) == ("anna", "v1.10.3")
        assert "problem" not in capsys.readouterr().out


async def test_the_larger_id_waits_half_a_minute_before_it_dials_through_relays(fast_clock: trio.testing.MockClock) -> None:
    """v1.11: the smaller id dials (03 §3.4); we don't wait for ever for one that doesn't."""
    async with open_relay(key_of(500)) as relay, open_nodes(3, profile=Profile.V1_11, relays=(relay.entry,), **NOBODY) as nodes:
        await all_connected(nodes)
        assert all(source < target for source, target, _ in relay.attempts)
        ids = [peer.peer_id for peer in nodes[0].mesh.peers]
    assert ids == sorted(ids), "node 2 is the one that should wait"
    async with (
        open_relay(key_of(501)) as relay,
        open_nodes(3, runs=lambda index: index != 0, profile=Profile.V1_11, relays=(relay.entry,), **NOBODY) as nodes,
    ):
        start = trio.current_time()
        await trio.sleep(40)
        first = {(source, target): at - start for source, target, at in reversed(relay.attempts)}
        assert first.pop((ids[1], ids[2])) < 5
        assert set(first) == {(ids[1], ids[0]), (ids[2], ids[0])}
        assert all(29 < at < 36 for at in first.values())


async def test_idle_ping_streams_end_by_themselves(fast_clock: trio.testing.MockClock) -> None:
    """A peer that opens a ping stream and says nothing holds a task of ours for ten seconds, not for ever."""
    async with open_nodes(2, is_pinging=False) as nodes:
        await all_connected(nodes)
        stream: Stream = await nodes[0].mesh.open_stream(1, ["/ipfs/ping/1.0.0"])
        await stream.send_all(bytes(16))
        await stream.send_all(bytes(16) * 3)
        assert await stream.receive_some() is not None
        start = trio.current_time()
        received = 0
        while chunk := await stream.receive_some():
            received += len(chunk)
        assert trio.current_time() - start <= 10.5
