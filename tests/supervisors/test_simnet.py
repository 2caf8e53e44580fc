"""A cluster of four over real loopback sockets, and what it does when parts of it fail. Slots of 2 s: other work shares the machine."""

import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio
import trio.lowlevel
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

import actors.mesh.listener
import actors.validator_api
from actors.duties import DutyEnded
from actors.mailbox import Address
from charon_actors.eth2.duty import DutyType
from supervisors.node import Node
from supervisors.simnet import Cluster, SimnetSettings, SimnetView, open_cluster, run_simnet
from supervisors.supervisor import Crashed, Event, GaveUp, GaveUpRestarting, Started
from tests.hearing import hear
from tests.vector import vector

NODES, VALIDATORS = 4, 4  # a validator a slot of the epoch: each slot has an attester and a proposer
PATIENCE_S = 60.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def log() -> Iterator[list[Any]]:
    """Log lines are kept: printing tracebacks for developers takes seconds, in the middle of everybody's duties."""
    with capture_logs() as entries:
        yield entries


class Poison(msgspec.Struct, frozen=True):
    """A message that no actor knows: reading it is a bug, and the actor crashes of it."""


class Seen:
    """What happens on one node from now on."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.crashes: Counter[str] = Counter()
        self.starts: Counter[str] = Counter()
        self.gave_up: list[str] = []
        self.ended: list[DutyEnded] = []
        self.connections = connections(node)
        hear(node, Event, self._event)
        hear(node, DutyEnded, self.ended.append)

    def _event(self, event: Event) -> None:
        match event:
            case Crashed(path):
                self.crashes[path.rpartition("/")[2]] += 1
            case Started(path):
                self.starts[path.rpartition("/")[2]] += 1
            case GaveUpRestarting(path):
                self.gave_up.append(path)

    def succeeded(self, after_slot: int) -> int:
        return sum(ended.duty.slot > after_slot and ended.reason is None for ended in self.ended)

    @property
    def new_connections(self) -> dict[str, float]:
        """Connections that came up since the beginning, by peer, without those that had none."""
        now = connections(self.node)
        return {peer: count - self.connections[peer] for peer, count in now.items() if count != self.connections[peer]}


def connections(node: Node) -> dict[str, float]:
    """`p2p_peer_connection_total` by peer."""
    found = {peer.name: 0.0 for peer in node.mesh.others}
    for line in node.metrics.render().decode().splitlines():
        if line.startswith("p2p_peer_connection_total{"):
            labels, value = line.rsplit(" ", 1)
            found[labels.split(',peer="')[1].split('"')[0]] = float(value)
    return found


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not is_so():
            await trio.sleep(0.02)


async def get(port: int, path: str) -> tuple[int, str]:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{port}{path}")
        return answer.status_code, answer.text


def slot_of(cluster: Cluster) -> int:
    return cluster.chain.slot_at(time.time())


def arrived(cluster: Cluster, after_slot: int) -> int:
    """Duties of slots after `after_slot` that the beacon mock has accepted, with the group's signature verified."""
    return sum(slot > after_slot for _, slot, _ in cluster.beacon.arrivals)


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[Cluster]:
    """All four are ready and have done duties."""
    settings = SimnetSettings(tmp_path, nodes=NODES, validators=VALIDATORS, slot_duration_s=2.0, seed=7)
    async with open_cluster(settings) as cluster:
        nodes = [await cluster.start(index) for index in range(NODES)]
        with trio.fail_after(PATIENCE_S):
            for node in nodes:
                await node.ready()
        await until(lambda: all(node.mesh.connected_count == NODES - 1 for node in nodes))
        first = slot_of(cluster)
        await until(lambda: arrived(cluster, first) >= 2)
        yield cluster


async def duties_go_on(cluster: Cluster, seen: Mapping[int, Seen]) -> None:
    """Each node, and the beacon mock, see duties succeed that began after now."""
    slot = slot_of(cluster)
    await until(lambda: arrived(cluster, slot) >= 2 and all(each.succeeded(slot) >= 2 for each in seen.values()))


# a crash stays where it happened


async def only_this_crashed(
    cluster: Cluster, name: str, crash: Callable[[Node], Awaitable[None] | None], *, on: int = 1, reconnects: str = ""
) -> Seen:
    """Crash `name` on one node; nothing else on any node may restart, and the only connection made anew is to `reconnects`."""
    seen = {index: Seen(node) for index, node in cluster.nodes.items()}
    hit = seen[on]
    waiting = crash(hit.node)
    if waiting is not None:
        await waiting
    await until(lambda: hit.starts[name] == 1)
    await until(lambda: all(each.node.mesh.connected_count == NODES - 1 for each in seen.values()))
    await duties_go_on(cluster, seen)
    assert hit.crashes == Counter({name: 1})
    assert hit.starts == Counter({name: 1})
    assert set(hit.new_connections) == ({reconnects} if reconnects else set())
    own = hit.node.mesh.peers[on].name
    for index, each in seen.items():
        assert not each.gave_up
        if index != on:
            assert not each.crashes
            is_other_end = each.node.mesh.peers[index].name == reconnects
            assert set(each.new_connections) == ({own} if is_other_end else set())
    assert not cluster.beacon.refused
    status, text = await get(hit.node.monitoring_port, "/metrics")
    assert status == 200
    [line] = [
        line for line in text.splitlines() if line.startswith("charon_actors_restarts_total{") and f'actor="{name}"' in line
    ]
    assert line.endswith(" 1.0"), "what the operator sees of it"
    return hit


async def test_a_crash_of_one_peers_child_closes_the_connections_to_that_peer_only(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:

        def crash(node: Node) -> None:
            address: Address[Any] = node.mesh._addresses[3]
            address.tell(Poison())

        name = cluster.nodes[1].mesh.peers[3].name
        await only_this_crashed(cluster, f"peer:{name}", crash, reconnects=name)


@pytest.mark.parametrize("actor", ["beacon", "consensus", "signatures", "duties", "slashing", "identity", "crypto_workers"])
async def test_a_crash_of_an_actor_restarts_that_actor_only(tmp_path: Path, actor: str) -> None:
    async with running(tmp_path) as cluster:

        def crash(node: Node) -> None:
            address: Address[Any] = getattr(node.addresses, actor)
            address.tell(Poison())

        await only_this_crashed(cluster, actor, crash)


def bombs_in(monkeypatch: pytest.MonkeyPatch, kind: Any, port_of: Callable[[Any], int]) -> dict[int, trio.Event]:
    """For what reads no mail: setting the event of a port crashes the `kind` that serves there."""
    bombs: dict[int, trio.Event] = {}
    run = kind.run

    async def with_bomb(self: Any, *arguments: Any) -> None:
        bomb = bombs[port_of(self)] = trio.Event()

        async def explode() -> None:
            await bomb.wait()
            raise RuntimeError("injected")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(explode)
            await run(self, *arguments)
            nursery.cancel_scope.cancel()

    monkeypatch.setattr(kind, "run", with_bomb)
    return bombs


def is_ours_still(port: int) -> None:
    """Nobody serves the port now; all the same it takes connections, and no other program can have it."""
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        pass
    rival = socket.socket()
    with rival, pytest.raises(OSError, match="in use"):
        rival.bind(("127.0.0.1", port))


async def test_a_crash_of_the_validator_api_keeps_its_port_and_its_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bombs = bombs_in(monkeypatch, actors.validator_api.ValidatorApi, lambda api: int(api._listening.getsockname()[1]))
    async with running(tmp_path) as cluster:
        port = cluster.nodes[1].validator_api_port

        async def crash(node: Node) -> None:
            bombs[port].set()
            await trio.lowlevel.checkpoint()
            is_ours_still(port)
            # a client that asks meanwhile is served by the next incarnation
            status, text = await get(port, "/eth/v1/node/version")
            assert (status, "charon" in text) == (200, True)

        hit = await only_this_crashed(cluster, "validator_api", crash)
        assert hit.node.validator_api_port == port


async def test_a_crash_of_the_listener_keeps_its_port_and_all_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bombs = bombs_in(monkeypatch, actors.mesh.listener.Listener, lambda it: int(it._acceptors[0]._listening.getsockname()[1]))
    async with running(tmp_path) as cluster:
        port = cluster.nodes[1].p2p_endpoints[0][1]

        async def crash(node: Node) -> None:
            bombs[port].set()
            await trio.lowlevel.checkpoint()
            is_ours_still(port)

        await only_this_crashed(cluster, "listener", crash)
        await cluster.stop(3)  # and the next incarnation accepts: a node that comes back is let in
        await until(lambda: cluster.nodes[1].mesh.connected_count == NODES - 2)
        await cluster.start(3)
        await until(lambda: cluster.nodes[1].mesh.connected_count == NODES - 1)


async def test_a_child_that_crashes_for_ever_ends_its_node(tmp_path: Path) -> None:
    """Of the node's own children four crashes in ten minutes are too many: the node gives up, and systemd starts it again."""
    with pytest.raises(GaveUp):  # noqa: PT012
        async with running(tmp_path) as cluster:
            seen, mail = Seen(cluster.nodes[1]), cluster.nodes[1].addresses.identity
            for _ in range(4):
                mail.tell(Poison())  # type: ignore[arg-type]
            await trio.sleep(PATIENCE_S)
    assert seen.crashes["identity"] == 4
    assert seen.gave_up == ["node"]


# nodes come and go


async def test_a_node_that_stops_and_starts_again_comes_back_by_itself(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.stop(2)
        others = {index: Seen(node) for index, node in cluster.nodes.items()}
        await duties_go_on(cluster, others)
        assert all(not each.crashes for each in others.values())
        back = await cluster.start(2)
        with trio.fail_after(PATIENCE_S):
            await back.ready()
        await until(lambda: back.mesh.connected_count == NODES - 1)
        await until(lambda: all(node.mesh.connected_count == NODES - 1 for node in cluster.nodes.values()))
        await duties_go_on(cluster, {**others, 2: Seen(back)})
        assert not cluster.beacon.refused


async def test_two_of_four_sign_nothing_and_a_third_is_enough_again(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.stop(1)
        await cluster.stop(3)
        slot = slot_of(cluster)
        two = {index: Seen(node) for index, node in cluster.nodes.items()}
        await until(lambda: slot_of(cluster) >= slot + 4)
        assert arrived(cluster, slot) == 0, "no threshold, no signature"
        assert all(each.succeeded(slot) == 0 for each in two.values())
        failed = [ended for each in two.values() for ended in each.ended if ended.duty.slot > slot]
        assert failed
        assert {ended.duty.type for ended in failed} == {DutyType.PROPOSER}, "attestations may still come for an epoch"
        assert all(ended.reason == "no threshold of validator clients asked for the block in time" for ended in failed)
        await until(lambda: all(not each.node.readiness.is_ready for each in two.values()))
        assert {each.node.readiness.text for each in two.values()} == {"quorum peers not connected"}
        back = await cluster.start(3)
        with trio.fail_after(PATIENCE_S):
            await back.ready()
        await duties_go_on(cluster, {**two, 3: Seen(back)})
        assert all(not each.crashes for each in two.values())
        assert not cluster.beacon.refused


# the run and its report


async def test_a_run_counts_what_it_promises(tmp_path: Path) -> None:
    shown: list[tuple[int, int]] = []
    views: list[SimnetView] = []

    def show(view: SimnetView) -> None:
        views[:] = [view]
        shown.append((view.counted, view.slot))

    nodes: list[Node] = []
    settings = SimnetSettings(tmp_path, nodes=3, validators=2, slots=3, slot_duration_s=3.0)
    view = await run_simnet(settings, on_change=show, on_cluster=lambda cluster: nodes.extend(cluster.nodes.values()))
    report = view.report()
    assert view.is_ok, view
    assert views == [view]
    assert [counted for counted, _ in shown] == [0, 1, 2, 3, 3]
    assert report["slots"] == 3
    assert [node["duties"]["proposer"] for node in report["nodes"]] == [{"expected": 3, "succeeded": 3}] * 3
    attesters = [node["duties"]["attester"] for node in report["nodes"]]
    assert attesters[0]["expected"] >= 1, "of four slots two have an attester, and three were counted"
    assert attesters == [attesters[0]] * 3
    assert all(node["ready_s"] > 0 for node in report["nodes"])
    assert all(0 < node["latency_ms"]["proposer"]["p50"] < 3000 * 5 / 12 for node in report["nodes"])
    check_labels(nodes[0].metrics.render().decode())


def check_labels(exposition: str) -> None:
    """Dashboards and alerts name values of labels: ours are those of running Charon nodes (10 §3.2, §3.5)."""
    seen: dict[tuple[str, str], set[str]] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            for label, value in sample.labels.items():
                seen.setdefault((family.name, label), set()).add(value)
    known = vector("monitoring/metrics.json")["label_values"]
    for family_name, label, values in (
        ("app_eth2_requests", "endpoint", known["eth2_endpoint"]),
        ("app_eth2_latency_seconds", "endpoint", known["eth2_endpoint"]),
        ("app_cache_hits", "endpoint", known["cache_endpoint"]),
        ("core_validatorapi_request", "endpoint", known["validatorapi_endpoint"]),
        ("core_validatorapi_request", "content_type", ["application/json", "application/octet-stream"]),
        ("core_consensus_duration_seconds", "duty", known["duty"]),
    ):
        assert seen[family_name, label] <= set(values)
        assert seen[family_name, label]


async def test_a_beacon_node_that_takes_no_blocks_is_not_ok(tmp_path: Path) -> None:
    def refuse_blocks(cluster: Cluster) -> None:
        cluster.beacon._take_block = lambda headers, body: cluster.beacon._refuse("no blocks today")  # type: ignore[method-assign]

    settings = SimnetSettings(tmp_path, nodes=3, validators=1, slots=2, slot_duration_s=3.0)
    view = await run_simnet(settings, on_cluster=refuse_blocks)
    assert not view.is_ok
    assert view.refused["no blocks today"] >= 1
    for node in view.nodes:
        assert (node.expected["proposer"], node.succeeded["proposer"]) == (2, 0)
        assert len(node.failures) == 2
        assert all("submit: " in failure and "no blocks today" in failure for failure in node.failures)
        assert node.latencies_s["proposer"] == []


async def test_an_interruption_counts_only_what_was_over(tmp_path: Path) -> None:
    last: list[SimnetView] = []
    with trio.CancelScope() as scope:

        def show(view: SimnetView) -> None:
            last[:] = [view]
            if view.counted == 1:
                scope.cancel()  # in the first instants of the second slot

        await run_simnet(SimnetSettings(tmp_path, nodes=3, validators=1, slot_duration_s=3.0), on_change=show)
    [view] = last
    assert view.is_ok
    assert view.counted == 1
    assert [node.expected["proposer"] for node in view.nodes] == [1, 1, 1]
