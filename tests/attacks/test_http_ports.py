"""Attacks on the validator API and the monitoring port: real nodes, real sockets, clients that do what no client should.

What must hold: a validator client is answered whatever others keep open; floods of the monitoring port cost no duty; the process ends
within EXIT_S of SIGTERM, and after an end of its own, whatever clients do; the log stays short. Source: docs/threat-model.md.
"""

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import trio
from structlog.testing import capture_logs

import tests.cli.test_run as program
from actors.metrics import FRESH_S, Metrics
from charon_actors.eth2.duty import DutyType
from supervisors.simnet import SimnetSettings, open_cluster
from tests.cli.test_run import Running, beacon_node, data, dealt, free_ports, running
from tests.supervisors.test_simnet import Seen

__all__ = ["data", "dealt"]  # fixtures

NODES = 4
EXIT_S = 10.0
PATIENCE_S = 60.0
DESCRIPTORS = 1024  # what a shell and systemd give
NOT_FOUND = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"


@contextmanager
def connected(port: int, count: int, *, sends: bytes = b"") -> Iterator[list[socket.socket]]:
    """That many connections that stay open; each has sent `sends`, as much of it as the node takes."""
    with ExitStack() as stack:
        sockets = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(5)
            try:
                sock.connect(("127.0.0.1", port))
                sock.setblocking(False)
                while sends:
                    sent = sock.send(sends)
                    if sent < len(sends):
                        break
                    if len(sends) < 100_000:
                        break
            except OSError:  # full buffers, or turned away
                pass
            sockets.append(sock)
        yield sockets


async def answers(port: int, path: str, within_s: float) -> int:
    """The status of a new client's first request, which may try again as validator clients do."""
    async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
        with trio.fail_after(within_s):
            while True:
                try:
                    return (await client.get(f"http://127.0.0.1:{port}{path}")).status_code
                except httpx.HTTPError:
                    await trio.sleep(0.1)


def limit_descriptors(node: Running, soft: int, hard: int = DESCRIPTORS) -> None:
    resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def small_node(data: Path, dealt: Any, *more: str) -> AsyncIterator[Running]:
    """A node with a beacon node and few descriptors, which answers on both ports."""
    async with beacon_node(dealt) as (_, url), running(data, *more, beacon=url) as node:
        limit_descriptors(node, DESCRIPTORS)
        await node.becomes(500, "quorum peers not connected")
        yield node


# locking others out


@pytest.mark.parametrize(
    "sends",
    [b"", b"GET /eth/v1/no", b"GET /eth/v1/node/version HTTP/1.1\r\nHost: x\r\n\r\n"],
    ids=["silent", "half a head", "kept"],
)
async def test_a_thousand_idle_connections_from_the_validator_clients_own_address(data: Path, dealt: Any, sends: bytes) -> None:
    async with small_node(data, dealt) as node:
        with connected(node.ports[0], 1100, sends=sends):
            assert await answers(node.ports[0], "/eth/v1/node/version", 10) == 200
            assert await answers(node.ports[0], "/eth/v1/beacon/genesis", 10) == 200  # the node can still reach its beacon node
            assert await answers(node.ports[1], "/livez", 10) == 200
        assert not node.errors
        assert len(node.saw("connections were dropped")) <= 2


@pytest.mark.slow
async def test_event_streams_and_half_bodies_do_not_fill_the_port_for_good(data: Path, dealt: Any) -> None:
    events = b"GET /eth/v1/events?topics=head HTTP/1.1\r\nHost: x\r\n\r\n"
    body = b"POST /eth/v2/beacon/pool/attestations HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n["
    async with small_node(data, dealt) as node:
        with connected(node.ports[0], 150, sends=events) as streams, connected(node.ports[0], 900, sends=body):
            assert await answers(node.ports[0], "/eth/v1/node/version", 20) == 200
            await trio.sleep(12)
            with connected(node.ports[0], 300):
                assert await answers(node.ports[0], "/eth/v1/node/version", 10) == 200
            assert any(is_open(sock) for sock in streams), "what is in use is not closed without need"
        assert not node.errors


def is_open(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        while sock.recv(2**16):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@pytest.mark.slow
async def test_a_node_without_descriptors_says_so_once_and_goes_on(data: Path, dealt: Any) -> None:
    async with small_node(data, dealt) as node:
        used = len(os.listdir(f"/proc/{node.process.pid}/fd"))
        limit_descriptors(node, used + 4)
        with connected(node.ports[1], 40):
            await trio.sleep(3)
            assert len(node.lines) - len(node.saw("Cannot")) < 40, "a line for each attempt"
            limit_descriptors(node, DESCRIPTORS)
            assert await answers(node.ports[1], "/livez", 10) == 200
        assert not node.errors
        assert 1 <= len(node.saw("Connections can't be accepted")) <= 2


# filling memory and scrapes


async def test_invented_paths_methods_agents_and_versions_leave_no_series_behind(data: Path, dealt: Any) -> None:
    async with beacon_node(dealt) as (_, url), running(data, beacon=url) as node:
        await node.becomes(500, "quorum peers not connected")
        metrics = f"http://127.0.0.1:{node.ports[1]}/metrics"
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            for path in ("/eth/v1/node/nothing", "/eth/v1/config/spec", "/eth/v9/x"):
                await client.get(f"http://127.0.0.1:{node.ports[0]}{path}")
            await trio.sleep(FRESH_S)
            before = (await client.get(metrics)).text.count("\n")
            for number in range(150):
                path = ("/eth/v1/config/x{}", "/x{}", "/eth/v1/beacon/x{}/y", "/eth/v{}/config/spec", "/lighthouse/{{x{}}}")[
                    number % 5
                ]
                await client.request(
                    f"M{number}" if number % 7 == 0 else "GET",
                    f"http://127.0.0.1:{node.ports[0]}{path.format(number + 10)}",
                    headers={"user-agent": f"client {number}", "content-type": f"application/{number}+json"},
                )
            await trio.sleep(FRESH_S)
            answer = await client.get(metrics)
        assert 'path="other"' in answer.text
        assert 'path="eth_v1_config_spec"' in answer.text
        assert answer.text.count("\n") < before + 100, "some families begin meanwhile; 150 paths would be 2000 lines"


# ending


HOSTILE = {
    "pipelines and does not read": (NOT_FOUND * 4000, NOT_FOUND * 4000),
    "half a head": (b"GET / HT", b"GET / HT"),
    "half a body": (
        b"POST /eth/v2/beacon/pool/attestations HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n[",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n[",
    ),
    "event streams": (b"GET /eth/v1/events?topics=head HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    "metrics that nobody reads": (b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 4000),
}


@contextmanager
def all_kinds_of_hostile_clients(node: Running) -> Iterator[None]:
    with ExitStack() as stack:
        for api, monitoring in HOSTILE.values():
            for port, sends in zip(node.ports[:2], (api, monitoring), strict=True):
                stack.enter_context(connected(port, 3, sends=sends))
        yield


@asynccontextmanager
async def newcomers(ports: list[int]) -> AsyncIterator[None]:
    """Somebody who connects again and again, and asks, and doesn't read."""
    sockets: list[socket.socket] = []

    async def come() -> None:
        while True:
            for port in ports:
                sock = socket.socket()
                sock.setblocking(False)
                sockets.append(sock)
                sock.connect_ex(("127.0.0.1", port))
                await trio.sleep(0.01)
                with suppress(OSError):
                    sock.send(NOT_FOUND * 1000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come)
        yield
        nursery.cancel_scope.cancel()
    for sock in sockets:
        sock.close()


async def test_the_process_ends_after_sigterm_whatever_clients_do(data: Path, dealt: Any) -> None:
    async with small_node(data, dealt) as node, newcomers(node.ports[:2]):
        with all_kinds_of_hostile_clients(node):
            await trio.sleep(1)
            node.process.terminate()
            assert await node.ends(within_s=EXIT_S) == 0
        assert not node.errors


@pytest.mark.slow
async def test_the_process_ends_after_an_operators_error_whatever_clients_do(data: Path, dealt: Any) -> None:
    [port] = free_ports(1)
    async with running(data, beacon=f"http://127.0.0.1:{port}") as node:
        await node.says("Waiting for a beacon node")
        with all_kinds_of_hostile_clients(node):
            await trio.sleep(1)
            wrong = beacon_node(dealt, fork_version=bytes.fromhex("70000000"), port=port)
            async with wrong, newcomers(node.ports[:2]):
                assert await node.ends(within_s=EXIT_S + 5) == 1  # until the beacon node is asked again
        [error] = node.errors
        assert "mismatch between lock file fork version" in error


GIVES_UP = """
import sys, trio, supervisors.readiness
async def crash(self):
    await trio.sleep(2)
    raise RuntimeError("a fault of ours")
supervisors.readiness.ReadinessWatch.run = crash
from charon_actors.cli.main import main
sys.exit(main())
"""


@pytest.mark.slow
async def test_the_process_ends_when_its_supervisor_gives_up_whatever_clients_do(
    data: Path, dealt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "CHARON", [sys.executable, "-c", GIVES_UP])
    async with beacon_node(dealt) as (_, url), running(data, beacon=url) as node:
        assert await answers(node.ports[0], "/eth/v1/node/version", PATIENCE_S) == 200
        with all_kinds_of_hostile_clients(node):
            await node.says("Supervisor gives up")
            assert await node.ends(within_s=EXIT_S) == 1


# floods against duties


class Flooded(NamedTuple):
    """What a cluster did while two of its nodes' monitoring ports were flooded. lost: why, by slot and kind, of all nodes."""

    expected: set[tuple[int, DutyType]]
    lost: dict[tuple[int, DutyType], str]
    renderings: int
    seconds: float


async def under_flood(tmp_path: Path, slots: int, monkeypatch: pytest.MonkeyPatch) -> Flooded:
    """200 scrapes a second on one node, as many readiness probes as it takes on another."""
    settings = SimnetSettings(tmp_path, nodes=NODES, validators=4, slot_duration_s=4.0, seed=7)
    renderings, pieces = [0], Metrics._pieces

    def counted(self: Metrics) -> Iterator[bytes]:
        renderings[0] += 1
        return pieces(self)

    with capture_logs():  # printing takes seconds, in the middle of everybody's duties
        async with open_cluster(settings) as cluster:
            nodes = [await cluster.start(index) for index in range(NODES)]
            with trio.fail_after(PATIENCE_S):
                for node in nodes:
                    await node.ready()
            seconds = (slots + 1) * settings.slot_duration_s
            monkeypatch.setattr(Metrics, "_pieces", counted)
            async with (
                flooding(nodes[0].monitoring_port, "/metrics", seconds, 200),
                flooding(nodes[1].monitoring_port, "/readyz", seconds, 1e6),
            ):
                await trio.sleep(1)
                seen = [Seen(node) for node in nodes]
                first = max(cluster.chain.slot_at(time.time()) + 1, 1)  # slot 0 has no proposer
                await trio.sleep(seconds - 1)
    expected = {(slot, kind) for slot in range(first, first + slots - 1) for kind in (DutyType.PROPOSER, DutyType.ATTESTER)}
    lost: dict[tuple[int, DutyType], str] = {}
    for each in seen:
        ended = {(ended.duty.slot, ended.duty.type): ended.reason for ended in each.ended}
        lost |= {key: reason for key in expected if (reason := ended.get(key, "no end")) is not None}
    return Flooded(expected, lost, renderings[0], seconds)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_floods_of_the_monitoring_port_leave_room_for_duties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where other work shares the machine a proposal may be late without any flood, so one is enough here; there used to be none."""
    flooded = await under_flood(tmp_path, 4, monkeypatch)
    assert any(kind is DutyType.PROPOSER for _, kind in flooded.expected - flooded.lost.keys()), flooded.lost
    assert flooded.renderings <= flooded.seconds + 2 + NODES, "one a second, and what this test itself reads"


@pytest.mark.attack
@pytest.mark.timeout(300)
async def test_floods_of_the_monitoring_port_lose_no_duty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The strict form, for a machine that does nothing else."""
    flooded = await under_flood(tmp_path, 30, monkeypatch)
    assert not flooded.lost


@asynccontextmanager
async def flooding(port: int, path: str, seconds: float, rate: float) -> AsyncIterator[None]:
    flood = [sys.executable, str(Path(__file__).with_name("http_flood.py")), str(port), path, "50", str(seconds), str(rate)]
    process = await trio.lowlevel.open_process(flood, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        await process.wait()
