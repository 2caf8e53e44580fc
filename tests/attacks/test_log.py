"""A member, a client and a beacon node of a running cluster make a node say as much as they can: its log stays small."""

import io
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import structlog
import trio

import actors.consensus as consensus_room
from actors.log_lines import LEFT_OUT
from charon_actors.cli.log import flush_log, set_up_log
from charon_actors.errors import Retryable
from charon_actors.eth2.beacon_urls import decode_node_url
from charon_actors.signatures import wire
from supervisors.simnet import SimnetSettings, open_cluster
from tests.attacks.test_beacon_node import liar

NODES = 4
SENT = 2000  # of each kind
QUIET_SLOTS = 3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = list(root.handlers)
    out = io.StringIO()
    set_up_log("json", "debug", "disable", out=out)
    yield out
    structlog.reset_defaults()
    root.handlers[:] = before


async def test_nothing_that_a_healthy_cluster_says_is_left_out(tmp_path: Path, out: io.StringIO) -> None:
    settings = SimnetSettings(tmp_path, nodes=NODES, validators=NODES, slot_duration_s=2.0, seed=16)
    async with open_cluster(settings) as cluster:
        nodes = [await cluster.start(index) for index in range(NODES)]
        with trio.fail_after(60):
            for node in nodes:
                await node.ready()
        await trio.sleep(QUIET_SLOTS * 2.0)
    said = lines(out)
    assert said["Duty done"] >= NODES
    assert said[LEFT_OUT] == 0


async def test_floods_of_a_member_a_client_and_a_beacon_node_are_a_few_lines(tmp_path: Path, out: io.StringIO) -> None:
    settings = SimnetSettings(tmp_path, nodes=NODES, validators=NODES, slot_duration_s=4.0, seed=16)
    async with open_cluster(settings) as cluster, liar(cluster, "nonsense") as url:
        beacon_nodes = (*cluster.configs[0].beacon_nodes, decode_node_url(url))
        cluster.configs = (msgspec.structs.replace(cluster.configs[0], beacon_nodes=beacon_nodes), *cluster.configs[1:])
        victim, evil = await cluster.start(0, has_client=False), await cluster.start(3, has_client=False)
        with trio.fail_after(60):
            while not evil.mesh.connected_count:
                await trio.sleep(0.1)

        async def client() -> None:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{victim.validator_api_port}", trust_env=False) as http:
                for number in range(SENT):
                    await http.post("/eth/v1/beacon/pool/voluntary_exits", content=b"x" * (number % 7))

        async def member(protocol: str, message: bytes) -> None:
            for _ in range(SENT):
                try:
                    await evil.mesh.deliver(0, [protocol], message)
                except Retryable:
                    await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(client)
            nursery.start_soon(member, consensus_room.PROTOCOL, b"\xff" * 9)
            nursery.start_soon(member, wire.PROTOCOL, b"\xff" * 9)
        await trio.sleep(0.5)  # the last line is written after the last answer
        flush_log(is_end=True)
        told = [json.loads(line) for line in out.getvalue().splitlines() if LEFT_OUT in line]
        said = lines(out)
        assert "Request failed" in {line["line"] for line in told}
        assert 0 < said["Event that makes no sense"] < 300, "the events themselves have a rate"
        assert said.total() < SENT + 1000
        assert said["Request failed"] + sum(line["left_out"] for line in told if line["line"] == "Request failed") >= SENT


def lines(out: io.StringIO) -> Counter[Any]:
    return Counter(json.loads(line)["msg"] for line in out.getvalue().splitlines())
