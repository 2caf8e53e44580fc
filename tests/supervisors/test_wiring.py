"""The actor inside running nodes: it is told who proposes, and its times reach the metrics."""

import time
from pathlib import Path

import trio
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from actors.signatures import PeerPartials
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.signatures.wire import encode_partials_message
from supervisors.simnet import SimnetSettings, open_cluster
from tests.actors.signatures.rig import until
from tests.charon_actors.signatures.signed import block

NODES = VALIDATORS = 3


async def test_blocks_are_read_of_proposers_only_and_verification_times_are_measured(tmp_path: Path) -> None:
    settings = SimnetSettings(tmp_path, nodes=NODES, validators=VALIDATORS, slot_duration_s=2.0, seed=7)
    async with open_cluster(settings) as cluster:
        nodes = [await cluster.start(index) for index in range(NODES)]
        with trio.fail_after(30):
            for node in nodes:
                await node.ready()
            while len({kind for kind, _, _ in cluster.beacon.arrivals}) < 2:
                await trio.sleep(0.05)
        keys = [validator.public_key for validator in nodes[0].config.lock.validators]
        with capture_logs() as logs:
            slot = cluster.chain.slot_at(time.time()) + 1
            for peer_index, key in enumerate(keys[1:], 1):  # at most one of them is that slot's proposer
                message = encode_partials_message(Duty(slot, DutyType.PROPOSER), peer_index + 1, {key: block(slot=slot)})
                nodes[0].addresses.signatures.tell(PeerPartials(peer_index, message))

            def refused() -> list[str]:
                return [line["reason"] for line in logs if "that validator does not propose" in str(line.get("reason"))]

            await until(refused)
        families = {family.name: family for family in text_string_to_metric_families(nodes[0].metrics.render().decode())}
    counts = {
        sample.labels["duty"]: sample.value
        for sample in families["core_parsigex_set_verification_seconds"].samples
        if sample.name.endswith("_count")
    }
    assert counts.keys() == {"proposer", "attester", "randao"}
    assert all(counts.values())
