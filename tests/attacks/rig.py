"""A cluster of four in this process, a flood from a process of its own with member 3's key, and what the others notice of it."""

import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import msgspec
import trio

from actors.mesh.ping import PING, ping_once
from supervisors.simnet import Cluster, SimnetSettings, SimnetView, run_simnet

PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
PINGS_S = 0.1
MEMBER = 3  # whose key the flood has
ROOT = Path(__file__).parent.parent.parent


class Noticed(msgspec.Struct):
    """Of nodes 0 to 2. rtts_s: pings between them during the flood. lost, expected: duties by kind. lost_of_3: of the honest node 3."""

    rtts_s: list[float] = []
    lost: dict[str, int] = {}
    lost_of_3: dict[str, int] = {}
    expected: dict[str, int] = {}
    attacker: dict[str, Any] = {}
    cpu: float = 0.0
    rss_mb: float = 0.0
    peak_rss_mb: float = 0.0
    counters: dict[str, float] = {}
    failures: list[str] = []

    def rtt_ms(self, percent: float) -> float:
        if not self.rtts_s:
            return float("inf")
        ordered = sorted(self.rtts_s)
        return 1000 * ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_MB


@asynccontextmanager
async def flood(order: dict[str, Any]) -> AsyncIterator[trio.Process]:
    """The attacker's process; killed at the end of the block."""
    async with trio.open_nursery() as nursery:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.attacks.flood", json.dumps(order)]
        run = partial(
            trio.run_process, command, stdin=b"", stdout=PIPE, env=environment, cwd=ROOT, check=False, start_new_session=True
        )
        process: trio.Process = await nursery.start(run)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            nursery.cancel_scope.cancel()


def order_for(cluster: Cluster, kind: str, connections: int, seconds: float, victims: int = 3) -> dict[str, Any]:
    ports = [int(cluster.configs[index].p2p_tcp_addresses[0].rpartition(":")[2]) for index in range(victims)]
    return {
        "kind": kind,
        "key": cluster.configs[MEMBER].private_key.hex(),
        "ports": ports,
        "connections": connections,
        "seconds": seconds,
        "genesis_s": cluster.chain.genesis_time_s,
        "slot_s": cluster.chain.slot_duration_s,
    }


async def attacked(state_dir: Path, kind: str | None, connections: int, slots: int = 6) -> Noticed:
    """Slots of 4 s with the flood through all of them; kind None: without."""
    seen = Noticed()
    settings = SimnetSettings(state_dir, nodes=4, validators=4, slots=slots, slot_duration_s=4.0, seed=7)
    views: list[SimnetView] = []
    async with trio.open_nursery() as nursery:

        def begin(cluster: Cluster) -> None:
            nursery.start_soon(_attack, cluster, kind, connections, seen, slots)

        view = await run_simnet(settings, on_change=views.append, on_cluster=begin)
        nursery.cancel_scope.cancel()
    lost: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for node in view.nodes:
        missing = {kind: node.expected[kind] - node.succeeded[kind] for kind in node.expected}
        if node.index == MEMBER:
            seen.lost_of_3 = missing
        else:
            lost.update(missing)
            seen.failures += [f"node {node.index}: {failure}" for failure in node.failures]
            expected.update(node.expected)
    seen.lost, seen.expected = dict(lost), dict(expected)
    return seen


async def _attack(cluster: Cluster, kind: str | None, connections: int, seen: Noticed, slots: int) -> None:
    for node in list(cluster.nodes.values()):
        await node.ready()
    seen.rss_mb = rss_mb()
    async with trio.open_nursery() as nursery:
        if kind is not None:
            nursery.start_soon(_flood, order_for(cluster, kind, connections, slots * 4.0 + 2), seen)
        await trio.sleep(0.5)
        for one, other in ((0, 1), (1, 2), (2, 0)):
            nursery.start_soon(_ping, cluster, one, other, seen)
        nursery.start_soon(_sample, cluster, seen)


async def _flood(order: dict[str, Any], seen: Noticed) -> None:
    async with flood(order) as process:
        assert process.stdout is not None
        said = b""
        async for chunk in process.stdout:
            said += chunk
        seen.attacker = json.loads(said)


async def _ping(cluster: Cluster, one: int, other: int, seen: Noticed) -> None:
    while True:
        began = trio.current_time()
        try:
            with trio.fail_after(10):
                stream = await cluster.nodes[one].mesh.open_stream(other, (PING,))
                try:
                    await ping_once(stream, os.urandom)
                finally:
                    stream.reset()
        except Exception:
            if len(cluster.nodes) < 4:
                return
            seen.rtts_s.append(10.0)
        else:
            seen.rtts_s.append(trio.current_time() - began)  # with the opening of the stream
        await trio.sleep(PINGS_S)


async def _sample(cluster: Cluster, seen: Noticed) -> None:
    cpu_s, began, node = time.process_time(), trio.current_time(), cluster.nodes[0]
    try:
        while True:
            await trio.sleep(0.1)
            seen.peak_rss_mb = max(seen.peak_rss_mb, rss_mb())
            seen.cpu = (time.process_time() - cpu_s) / (trio.current_time() - began)
    finally:
        for line in node.metrics.render().decode().splitlines():  # once: it takes 20 ms of everybody's time
            if line.startswith("charon_actors_p2p_"):
                name, _, value = line.rpartition(" ")
                labels = re.findall(r'(peer|reason|result)="([^"]*)"', name)
                seen.counters[" ".join([name.partition("{")[0], *(value for _, value in labels)])] = float(value)


def row(kind: str | None, connections: int, seen: Noticed) -> str:
    lost = " / ".join(f"{seen.lost.get(duty, 0)} of {seen.expected.get(duty, 0)}" for duty in ("proposer", "attester"))
    of_3 = " / ".join(str(seen.lost_of_3.get(duty, 0)) for duty in ("proposer", "attester"))
    return (
        f"| {kind or 'none'} | {connections} | {lost} | {of_3} | {seen.rtt_ms(50):.1f} / {seen.rtt_ms(99):.1f} / {seen.rtt_ms(100):.0f} |"
        f" {seen.cpu:.0%} | {seen.rss_mb:.0f} → {seen.peak_rss_mb:.0f} | {seen.attacker} |"
    )


if __name__ == "__main__":  # python -m tests.attacks.rig [--json] [--slots N] kind:connections …
    import argparse
    import logging
    import tempfile

    import structlog

    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true", help="what was noticed, as JSON, instead of rows of a table")
    parser.add_argument("--slots", type=int, default=6)
    parser.add_argument("floods", nargs="+")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with suppress(OSError):  # what else runs on the machine is not the flood: this process first, the flood as everybody
        os.setsid()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)
        Path("/proc/self/autogroup").write_text("-15")
    for text in options.floods:
        kind, _, count = text.partition(":")
        shared = "/dev/shm" if Path("/dev/shm").is_dir() else None  # nor are the other programs that write to the disk
        with tempfile.TemporaryDirectory(dir=shared) as folder:
            noticed = trio.run(attacked, Path(folder), None if kind == "none" else kind, int(count or 1), options.slots)
        said = msgspec.json.encode(noticed).decode() if options.json else row(kind, int(count or 1), noticed)
        sys.stdout.write(said + "\n")
        sys.stdout.flush()
