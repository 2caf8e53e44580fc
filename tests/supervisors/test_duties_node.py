"""What a whole node's metrics say of the blocks that its beacon node makes."""

from pathlib import Path

import pytest
import trio

from supervisors.node import Node
from supervisors.simnet import SimnetSettings, open_cluster

PATIENCE_S = 60.0


def gauge(node: Node, name: str) -> float:
    [line] = [line for line in node.metrics.render().decode().splitlines() if line.startswith(name + "{")]
    return float(line.rsplit(" ", 1)[1])


@pytest.mark.slow
async def test_a_fetched_block_shows_in_the_metrics(tmp_path: Path) -> None:
    async with open_cluster(SimnetSettings(tmp_path, nodes=3, validators=1, slot_duration_s=2.0, seed=31)) as cluster:
        nodes = [await cluster.start(index) for index in range(3)]
        assert [gauge(node, "core_fetcher_proposal_blinded") for node in nodes] == [0, 0, 0], "none yet"
        with trio.fail_after(PATIENCE_S):
            while not all(gauge(node, "core_fetcher_proposal_blinded") for node in nodes):
                await trio.sleep(0.1)
        assert [gauge(node, "core_fetcher_proposal_blinded") for node in nodes] == [2, 2, 2], "local blocks"
        for node in nodes:
            assert gauge(node, "core_fetcher_proposal_local_mismatch_fee_recipient") == 1, "the configured one"
