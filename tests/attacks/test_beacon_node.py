"""One of a node's beacon nodes lies, as fast as loopback carries: no duty is lost, and log and memory stay small."""

import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from actors.duties import DutyEnded
from charon_actors.eth2.beacon_urls import decode_node_url
from charon_actors.eth2.duty import DutyType
from supervisors.simnet import Cluster, SimnetSettings, open_cluster
from tests.attacks import lying_beacon_node
from tests.hearing import hear

NODES = VALIDATORS = 4
PATIENCE_S = 60.0
LINES_A_SLOT = 100  # of all levels and four nodes: without an attack they say 64 (a flood of 75 s was 320 MB)
MAX_GROWTH_MIB = 100

pytestmark = pytest.mark.timeout(300)


def _keep(ended: list[tuple[int, DutyEnded]], index: int, duty: DutyEnded) -> None:
    ended.append((index, duty))


@pytest.fixture(autouse=True)
def log() -> Iterator[list[Any]]:
    with capture_logs() as entries:
        yield entries


@asynccontextmanager
async def liar(cluster: Cluster, kind: str) -> AsyncIterator[str]:
    """The URL of a beacon node that lies, beside the cluster's honest one."""
    honest_port = cluster.configs[0].beacon_nodes[0].base.rpartition(":")[2]
    chain = cluster.chain
    command = [
        sys.executable,
        lying_beacon_node.__file__,
        honest_port,
        kind,
        f"{chain.genesis_time_s}",
        f"{chain.slot_duration_s}",
    ]
    with subprocess.Popen(  # noqa: ASYNC220
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        port = int(await trio.to_thread.run_sync(process.stdout.readline))
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def rss_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def dropped(cluster: Cluster, index: int) -> float:
    lines = cluster.nodes[index].metrics.render().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("charon_actors_beacon_events_dropped_total{"))


async def lose_no_duty(tmp_path: Path, log: list[Any], kind: str, *, is_alone: bool, slots: int, slot_s: float) -> None:
    settings = SimnetSettings(tmp_path, nodes=NODES, validators=VALIDATORS, slot_duration_s=slot_s, seed=13)
    async with open_cluster(settings) as cluster, liar(cluster, kind) as url:
        honest = cluster.configs[0].beacon_nodes
        nodes = (decode_node_url(url), *(() if is_alone else honest))
        cluster.configs = (msgspec.structs.replace(cluster.configs[0], beacon_nodes=nodes), *cluster.configs[1:])
        ended: list[tuple[int, DutyEnded]] = []
        for index in range(NODES):
            node = await cluster.start(index)
            hear(node, DutyEnded, partial(_keep, ended, index))
        with trio.fail_after(PATIENCE_S):
            for node in cluster.nodes.values():
                await node.ready()
        first = cluster.chain.slot_at(time.time()) + 2
        await trio.sleep(max(cluster.chain.slot_start_s(first) - time.time(), 0))
        log.clear()
        before_mib = rss_mib()
        attestations = {(index, slot) for index in range(NODES) for slot in range(first, first + slots)}
        proposals = set(range(first, first + slots))

        def missing() -> tuple[list[tuple[int, int]], list[int]]:
            """Attestations by node and slot; proposals by slot: one node's submission is enough, on a busy machine the others' is late."""
            done = {
                (index, duty.duty.slot) for index, duty in ended if duty.reason is None and duty.duty.type is DutyType.ATTESTER
            }
            arrived = {slot for name, slot, _ in cluster.beacon.arrivals if name == "proposer"}
            return sorted(attestations - done), sorted(proposals - arrived)

        with trio.move_on_after((slots + 2) * slot_s):
            while any(missing()):
                await trio.sleep(0.2)
        assert missing() == ([], []), [f"node {index}: {duty}" for index, duty in ended if duty.reason is not None]
        assert not cluster.beacon.refused
        assert len(log) < LINES_A_SLOT * (slots + 2)
        assert rss_mib() - before_mib < MAX_GROWTH_MIB
        if kind in lying_beacon_node.FLOODS.keys() - {"comments", "one-byte-chunks", "ends-at-once"}:
            assert dropped(cluster, 0) > 100, "what was left out is counted"


@pytest.mark.slow
@pytest.mark.parametrize("is_alone", [False, True], ids=["beside-an-honest-one", "alone"])
async def test_a_flood_of_reorganisations_costs_no_duty(tmp_path: Path, log: list[Any], is_alone: bool) -> None:
    await lose_no_duty(tmp_path, log, "reorgs", is_alone=is_alone, slots=3, slot_s=4.0)


@pytest.mark.attack
@pytest.mark.parametrize("is_alone", [False, True], ids=["beside-an-honest-one", "alone"])
@pytest.mark.parametrize("kind", sorted(lying_beacon_node.FLOODS))
async def test_75_seconds_of_it(tmp_path: Path, log: list[Any], kind: str, is_alone: bool) -> None:
    await lose_no_duty(tmp_path, log, kind, is_alone=is_alone, slots=19, slot_s=4.0)
