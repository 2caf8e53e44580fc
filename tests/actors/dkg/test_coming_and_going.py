"""Peers that leave and come back: before the start, around the last barrier, and after the end.

Before the start all clocks are virtual. Once keys are made, time is real: the calculations run in threads.
"""

import itertools
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing
from msgspec.structs import replace

from actors.dkg.step_reports import FINAL_REPORTS_S, StepReports
from actors.dkg.sync_stream import FramedStream
from actors.mesh.messages import NoConnection
from charon_actors.cluster.peers import peers_of
from charon_actors.dkg.ceremony import Phase
from charon_actors.dkg.dialect import SYNC_PROTOCOL
from charon_actors.dkg.sync_messages import SyncAnswer, SyncReport, decode_report, encode_answer, encode_report, sign_definition
from charon_actors.p2p.framing import encode_fixed64
from tests.actors.dkg.memory_mesh import MemoryMesh, MemoryNetwork, MemoryStream
from tests.actors.dkg.rig import Node, Rig
from tests.charon_actors.dkg.cluster import definition, private_key
from tests.charon_actors.dkg.vectors import V1_10, counting_entropy

OF = definition(3, 2, 1)


def report_of(index: int, step: int, *, version: str = "v1.10", shutdown: bool = False) -> bytes:
    signature = sign_definition(private_key(index), OF.definition_hash)
    return encode_report(SyncReport((1, 2), signature, version, step, shutdown=shutdown))


class Stranger:
    """A peer played by hand. serve: what its server does with a stream; without it each report gets a good answer."""

    def __init__(
        self, network: MemoryNetwork, index: int, serve: Callable[[FramedStream], Awaitable[None]] | None = None
    ) -> None:
        self.network, self.index = network, index
        self.served: list[SyncReport] = []
        self._serve = serve or self.answer_all
        network.handlers[index] = {SYNC_PROTOCOL: self._on_stream}

    async def _on_stream(self, source: int, stream: MemoryStream) -> None:
        await self._serve(FramedStream(stream, source))

    async def receive(self, frames: FramedStream) -> bool:
        body = await frames.receive()
        if body is not None:
            self.served.append(decode_report(self.index, body))
        return body is not None

    async def answer_all(self, frames: FramedStream) -> None:
        while await self.receive(frames):
            await frames.send(encode_answer(SyncAnswer((1, 2))))

    async def end_at_once(self, frames: FramedStream) -> None:
        await self.receive(frames)

    async def report(self, step: int, times: int, stream: MemoryStream | None = None) -> MemoryStream:
        """One report after the other to node 0, ten a second; the stream stays open."""
        stream = stream or await self.network.connect(self.index, 0, (SYNC_PROTOCOL,))
        frames = FramedStream(stream, 0)
        for _ in range(times):
            await frames.send(report_of(self.index, step))
            assert await frames.receive() is not None
            await trio.sleep(0.1)
        return stream


# --- before the start


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
async def test_a_peer_that_leaves_before_the_start_is_waited_for_and_nobody_ends(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str], is_killed: bool
) -> None:
    rig = Rig(tmp_path, OF, timeout_s=3.0)
    name = peers_of(OF)[1].name

    async def meanwhile(rig: Rig) -> None:
        await trio.sleep(1)
        assert rig.nodes[0].actor._reports.unconnected() == [2]
        if is_killed:
            await rig.kill(1)
        else:
            rig.nodes[1].scope.cancel()  # Ctrl-C
        await trio.sleep(12)
        assert rig.nodes[0].actor._reports.unconnected() == [1, 2]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.nodes[2].run)
            capsys.readouterr()
            await trio.sleep(12)
            assert rig.nodes[0].error is None
            assert rig.nodes[2].error is None
            assert [rig.nodes[index].actor._reports.unconnected() for index in (0, 2)] == [[1], [1]]
            waiting = [line for line in capsys.readouterr().out.splitlines() if "Waiting for peers to connect" in line]
            assert any(name in line for line in waiting)
            assert not [line for line in waiting if name not in line]
            autojump_clock.autojump_threshold, autojump_clock.rate = float("inf"), 1.0
            rig.nodes[1] = Node(rig, 1, OF, V1_10)
            await rig.nodes[1].run()

    await rig.run(meanwhile=meanwhile, late=[2])
    rig.check_honest()


async def test_a_peer_that_falls_silent_on_an_open_stream_is_not_connected(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """As after a power failure: nobody closes anything. The start must wait until all are there at the same moment."""
    async with trio.open_nursery() as nursery:
        rig = Rig(tmp_path, OF)
        rig.network = MemoryNetwork(nursery)
        node = Node(rig, 0, OF, V1_10)
        nursery.start_soon(node.run)
        first, second = Stranger(rig.network, 1), Stranger(rig.network, 2)
        await trio.sleep(1)
        stream = await first.report(0, 10)
        await trio.sleep(5)
        nursery.start_soon(second.report, 0, 100)
        await trio.sleep(5)
        assert node.actor._reports.unconnected() == [1]
        assert not node.actor._reports.has_begun
        await first.report(0, 1, stream)
        assert node.actor._reports.has_begun
        nursery.cancel_scope.cancel()


async def test_silence_counts_from_the_start_on(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(tmp_path, OF, timeout_s=1.0)
        rig.network = MemoryNetwork(nursery)
        node = Node(rig, 0, OF, V1_10)
        nursery.start_soon(node.run)
        first, second = Stranger(rig.network, 1), Stranger(rig.network, 2)
        await trio.sleep(1)
        await first.report(0, 1)
        await trio.sleep(1.5)
        nursery.start_soon(second.report, 0, 9)
        await trio.sleep(1.7)
        assert node.actor._reports.has_begun
        assert node.error is None  # it has just given up the peer, after 1 s; the farewell takes another
        await trio.sleep(1)
        rig.nodes = [node]
        assert rig.aborted(0).peer_index == 1
        nursery.cancel_scope.cancel()


async def test_a_stream_of_ours_that_has_ended_is_no_connection(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """The peer still reports, but it has stopped to take our reports."""
    async with trio.open_nursery() as nursery:
        rig = Rig(tmp_path, OF)
        rig.network = MemoryNetwork(nursery)
        node = Node(rig, 0, OF, V1_10)
        nursery.start_soon(node.run)
        first, second = Stranger(rig.network, 1), Stranger(rig.network, 2)
        nursery.start_soon(first.report, 0, 1000)
        await trio.sleep(3)
        assert node.actor._reports.unconnected() == [2]
        del rig.network.handlers[1]
        for stream in rig.network.streams[0, 1]:
            await trio.aclose_forcefully(stream)
        await trio.sleep(0.2)  # our next report finds out
        nursery.start_soon(second.report, 0, 1000)
        await trio.sleep(3)
        assert node.actor._reports.unconnected() == [1]
        assert not node.actor._reports.has_begun
        Stranger(rig.network, 1)
        await trio.sleep(3)
        assert node.actor._reports.has_begun
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("step", "ends"), [(1, True), (0, False)])
async def test_a_restarted_node_learns_why_v1_10_peers_do_not_answer(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, step: int, ends: bool
) -> None:
    """04 §3.3.4: they remember us at step 1 and end our streams without a word, for ever. At step 0 they may just be starting."""
    async with trio.open_nursery() as nursery:
        rig = Rig(tmp_path, OF)
        rig.network = MemoryNetwork(nursery)
        node = Node(rig, 0, OF, V1_10)
        nursery.start_soon(node.run)
        strangers = [Stranger(rig.network, index) for index in (1, 2)]
        for stranger in strangers:
            stranger._serve = stranger.end_at_once
        await trio.sleep(0.2)
        streams = [await stranger.report(step, 1) for stranger in strangers]
        told: set[int] = set()
        with trio.move_on_after(10):
            while node.error is None:
                for stranger, stream in zip(strangers, streams, strict=True):
                    frames = FramedStream(stream, 0)
                    await frames.send(report_of(stranger.index, step))
                    answer = await frames.receive()
                    if answer is None or b"restarted mid-ceremony" in answer:
                        told.add(stranger.index)
                await trio.sleep(0.1)
        assert told == ({1, 2} if ends else set())  # and so the whole cluster knows
        if ends:
            rig.nodes = [node]
            error = rig.aborted(0)
            assert error.phase is Phase.CONNECT
            assert error.peer_index in (1, 2)
            assert "has ended our streams without an answer: node restarted mid-ceremony" in str(error)
            assert "all operators must stop" in str(error)
        else:
            assert node.error is None
            assert max(len(stranger.served) for stranger in strangers) < 20  # it waits longer and longer
        nursery.cancel_scope.cancel()


# --- the last barrier


@pytest.mark.parametrize("away_s", [0.0, 1.0], ids=["cut", "away for a second"])
async def test_a_connection_that_breaks_at_the_last_barrier_is_opened_again(tmp_path: Path, away_s: float) -> None:
    rig = Rig(tmp_path, OF, timeout_s=8.0)

    async def meanwhile(rig: Rig) -> None:
        while rig.nodes[0].actor._phase is not Phase.SHUTDOWN:
            await trio.lowlevel.checkpoint()
        if away_s:
            rig.network.dead.add(0)
        await rig.network.cut(0)
        await trio.sleep(away_s)
        rig.network.dead.clear()

    await rig.run(meanwhile=meanwhile)
    rig.check_honest()


@pytest.mark.parametrize("seed", range(6))
async def test_connections_may_break_at_any_moment(tmp_path: Path, seed: int) -> None:
    rig = Rig(tmp_path, OF, timeout_s=8.0)
    random = Random(seed)

    async def meanwhile(rig: Rig) -> None:
        until = trio.current_time() + 4
        while not all(node.ended_at for node in rig.nodes) and trio.current_time() < until:
            await trio.sleep(random.random() * random.choice((0.02, 0.1, 0.4)))
            await rig.network.cut(random.randrange(3))

    await rig.run(meanwhile=meanwhile)
    rig.check_honest()


def reports_of(network: MemoryNetwork) -> StepReports:
    """Of node 0, without the actor around it."""
    return StepReports(
        V1_10,
        OF.definition_hash,
        private_key(0),
        peers_of(OF)[1:],
        network.node(0),
        nickname="",
        timeout_s=20.0,
        entropy=counting_entropy("reports"),
        wall_clock=lambda: 0.0,
        on_change=lambda: None,
        on_reconnected=lambda peer: None,
    )


async def test_the_last_report_is_repeated_until_it_is_answered(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        network = MemoryNetwork(nursery)
        reports = reports_of(network)
        Stranger(network, 2)
        nursery.start_soon(reports.run)
        await trio.sleep(3)  # nobody is at place 1 yet, so its reporter waits between two attempts
        late: list[Stranger] = []

        async def ends_three_streams(frames: FramedStream) -> None:
            (stranger,) = late
            await (stranger.end_at_once(frames) if len(stranger.served) < 3 else stranger.answer_all(frames))

        async def starts_soon() -> None:
            await trio.sleep(2)
            late.append(Stranger(network, 1, ends_three_streams))

        for index in (1, 2):
            reports.judge(index, report_of(index, 0, shutdown=True))
        nursery.start_soon(starts_soon)
        began = trio.current_time()
        await reports.end()
        assert 2 < trio.current_time() - began < 4
        assert [report.shutdown for report in late[0].served] == [True] * 4
        nursery.cancel_scope.cancel()


async def test_a_peer_that_never_takes_the_last_report_does_not_keep_us(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with trio.open_nursery() as nursery:
        network = MemoryNetwork(nursery)
        reports = reports_of(network)
        nobody, good = Stranger(network, 1), Stranger(network, 2)
        nobody._serve = nobody.end_at_once
        nursery.start_soon(reports.run)
        await trio.sleep(1)
        for index in (1, 2):
            reports.judge(index, report_of(index, 0, shutdown=True))
        began = trio.current_time()
        await reports.end()
        assert trio.current_time() - began == pytest.approx(FINAL_REPORTS_S)
        assert [report.shutdown for report in good.served].count(True) == 1
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "Not all peers have said that they are done" in line]
        assert peers_of(OF)[1].name in line
        assert peers_of(OF)[2].name not in line
        nursery.cancel_scope.cancel()


async def test_a_peer_that_refuses_a_report_at_the_end_does_not_keep_our_last_one_from_another(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        network = MemoryNetwork(nursery)
        reports = reports_of(network)
        is_ending = trio.Event()

        async def refuses(frames: FramedStream) -> None:
            """The report that is on its way when the end begins, and whatever comes after it."""
            for answered in itertools.count():
                if not await bad.receive(frames):
                    return
                if answered:
                    await is_ending.wait()
                await frames.send(encode_answer(SyncAnswer((1, 2), "a node was stopped" if answered else "")))

        async def breaks(frames: FramedStream) -> None:
            await (late.answer_all(frames) if is_ending.is_set() else late.end_at_once(frames))

        bad, late = Stranger(network, 1, refuses), Stranger(network, 2)
        late._serve = breaks
        nursery.start_soon(reports.run)
        await trio.sleep(1)
        for index in (1, 2):
            reports.judge(index, report_of(index, 0, shutdown=True))
        async with trio.open_nursery() as ending:
            ending.start_soon(reports.end)
            await trio.sleep(0.01)
            is_ending.set()
        assert any(report.shutdown for report in late.served)
        nursery.cancel_scope.cancel()


# --- the end


class Gate:
    """The mesh of a node that, while the gate is closed, can be reached but can't reach anybody with step reports."""

    def __init__(self, mesh: MemoryMesh) -> None:
        self._mesh, self.is_open = mesh, True

    async def open_stream(self, peer_index: int, protocols: Sequence[str], timeout_s: float = 10.0) -> Any:
        if not self.is_open:
            raise NoConnection("the gate is closed")
        return await self._mesh.open_stream(peer_index, protocols, timeout_s)


async def test_a_stop_after_the_end_is_the_end_of_the_delay(tmp_path: Path) -> None:
    """It comes when node 0 has passed the last barrier, but can't tell anybody yet that it has entered that step."""
    rig = Rig(tmp_path, OF, shutdown_delay_s=30.0)
    is_held = trio.Event()

    async def hold(keystores: Any) -> bool:
        await is_held.wait()
        return False

    async def meanwhile(rig: Rig) -> None:
        first, others = rig.nodes[0], rig.nodes[1:]
        rig.nodes[2].actor._options = replace(rig.nodes[2].actor._options, deliver_keystores=hold)
        gate = first.actor._reports._network = Gate(rig.network.node(0))
        while any(node.actor._reports._sync.last_step_of(0) != 7 for node in others):
            await trio.sleep(0.01)
        gate.is_open = False
        for node in others:
            for stream in rig.network.streams.pop((0, node.index)):
                await trio.aclose_forcefully(stream)
        is_held.set()
        while first.lock is None:
            await trio.sleep(0.01)
        first.scope.cancel()
        await trio.sleep(0.5)
        gate.is_open = True
        while any(node.lock is None for node in others):
            await trio.sleep(0.01)
        await trio.sleep(0.5)
        assert first.ended_at
        for node in others:
            assert not node.ended_at  # nobody has told it anything that ends its ceremony
            node.scope.cancel()

    await rig.run(meanwhile=meanwhile, limit_s=15)
    rig.check_honest()


async def test_after_the_end_no_peer_can_make_a_failure_of_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, OF, shutdown_delay_s=1.0)

    async def meanwhile(rig: Rig) -> None:
        while any(node.lock is None for node in rig.nodes):
            await trio.sleep(0.01)
        stream = await rig.network.connect(1, 0, (SYNC_PROTOCOL,))
        await stream.send_all(encode_fixed64(report_of(1, 8, version="v9.9")))

    await rig.run(meanwhile=meanwhile)
    rig.check_honest()


async def test_a_stop_with_results_on_disk_says_what_to_do_with_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rig = Rig(tmp_path, OF)
    is_held = trio.Event()

    async def hold(keystores: Any) -> bool:
        await is_held.wait()
        return False

    async def meanwhile(rig: Rig) -> None:
        options = rig.nodes[2].actor._options
        rig.nodes[2].actor._options = replace(options, deliver_keystores=hold)
        while not rig.nodes[0].actor._has_written:
            await trio.sleep(0.01)
        capsys.readouterr()
        rig.nodes[0].scope.cancel()

    await rig.run(meanwhile=meanwhile)
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "Stopping in the middle of the ceremony" in line]
    assert "the results are on disk" in line
    assert "do not deposit" in line
    assert all("a node was stopped" in rig.aborted(index).reason for index in (1, 2))
