"""A member whose beacon node lies, among real nodes over real sockets: what it leads is refused, named, and leaves nothing behind.

The member runs our own program, without the checks of its own proposals: so it says in consensus whatever its beacon node makes.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from actors.http import server as http_server
from actors.slashing.actor import AttestationEntry, ExportHistory
from charon_actors.eth2.beacon_urls import decode_node_url
from charon_actors.eth2.duty import DutyType
from supervisors.node import Node
from supervisors.simnet import FORK_VERSION, SLOTS_PER_EPOCH, Cluster, SimnetSettings, make_cluster, open_cluster
from supervisors.simulation.beacon_mock import Arrival, BeaconMock, BeaconSettings

NODES, LIAR = 4, 2
HONEST = [0, 1, 3]
PATIENCE_S = 100.0  # of which a quiet machine needs a quarter; what counts are facts, not how many slots they took

pytestmark = pytest.mark.slow


class Chain(msgspec.Struct):
    """The cluster, its beacon node, and that of the liar."""

    cluster: Cluster
    honest: BeaconMock
    liars: BeaconMock

    def refused(self, index: int, kind: DutyType) -> float:
        """How often a node has refused what the liar proposed; whoever else is named is an error."""
        node, found = self.cluster.nodes[index], 0.0
        for line in node.metrics.render().decode().splitlines():
            if line.startswith("charon_actors_decisions_refused_total{"):
                assert f'peer="{node.mesh.peers[LIAR].name}"' in line, line
                if f'duty="{kind.label}"' in line:
                    found += float(line.rsplit(" ", 1)[1])
        return found

    async def all_refuse(self, kind: DutyType) -> int:
        """Wait until each honest node has refused a decision of the liar; the slot of then."""
        while not all(self.refused(index, kind) for index in HONEST):
            await trio.sleep(0.1)
        return self.cluster.chain.slot_at(time.time())

    async def accepted(self, kind: str, after_slot: int, count: int) -> list[Arrival]:
        """Wait until the chain has taken that many duties of slots after `after_slot`."""
        while len(found := [it for it in self.honest.arrivals.values() if it.kind == kind and it.slot > after_slot]) < count:
            await trio.sleep(0.1)
        return found


@asynccontextmanager
async def cluster_with_a_liar(
    tmp_path: Path, slot_s: float, lie: Callable[[BeaconMock, BeaconMock], None]
) -> AsyncIterator[Chain]:
    """All nodes are ready; the liar has a beacon mock of its own. lie: what the honest one and the liar's say."""
    settings = SimnetSettings(tmp_path, nodes=NODES, validators=4, slot_duration_s=slot_s, seed=7)
    async with open_cluster(settings) as cluster, trio.open_nursery() as nursery:
        dealt, _ = make_cluster(settings)
        liars = BeaconMock(
            BeaconSettings(
                validators=tuple(validator.public_key for validator in dealt.lock.validators),
                genesis_time_s=cluster.chain.genesis_time_s,
                slot_duration_s=slot_s,
                slots_per_epoch=SLOTS_PER_EPOCH,
                fork_version=FORK_VERSION,
            ),
            time.time,
        )
        lie(cluster.beacon, liars)
        with http_server.bind("127.0.0.1:0", "beacon mock") as listening:
            nursery.start_soon(http_server.serve, liars, listening)
            url = decode_node_url(f"http://127.0.0.1:{listening.getsockname()[1]}")
            configs = list(cluster.configs)
            configs[LIAR] = msgspec.structs.replace(configs[LIAR], beacon_nodes=(url,), allow_foreign_fee_recipient=True)
            cluster.configs = tuple(configs)
            with trio.fail_after(PATIENCE_S):
                for index in range(NODES):
                    await cluster.start(index)
                for node in list(cluster.nodes.values()):
                    await node.ready()
                yield Chain(cluster, cluster.beacon, liars)
        nursery.cancel_scope.cancel()


async def sources_on_record(node: Node) -> set[int]:
    """Of all votes that this node's share and the groups have signed."""
    entries = (await node.addresses.slashing.ask(ExportHistory())).entries
    return {entry.source_epoch for entry in entries if isinstance(entry, AttestationEntry)}


async def test_while_the_chain_does_not_finalise_a_lying_leader_ends_nobodys_attestations(tmp_path: Path) -> None:
    """Justification stays at genesis; the liar says the epoch before the vote's. Once signed, that forbids all votes of later epochs."""

    def lie(honest: BeaconMock, liars: BeaconMock) -> None:
        honest.justified = lambda epoch: 0
        liars.justified = lambda epoch: max(epoch - 1, 0)

    async with cluster_with_a_liar(tmp_path, 1.0, lie) as chain:
        slot = await chain.all_refuse(DutyType.ATTESTER)
        epoch_after = slot - slot % SLOTS_PER_EPOCH + SLOTS_PER_EPOCH
        assert len(await chain.accepted("attester", epoch_after, 4)) >= 4
        for index in HONEST:
            assert await sources_on_record(chain.cluster.nodes[index]) == {0}


async def test_a_lying_leader_collects_no_fees(tmp_path: Path) -> None:
    def lie(honest: BeaconMock, liars: BeaconMock) -> None:
        liars.pays = b"\xee" * 20

    async with cluster_with_a_liar(tmp_path, 3.0, lie) as chain:
        slot = await chain.all_refuse(DutyType.PROPOSER)
        assert len(await chain.accepted("proposer", slot, 2)) >= 2
        assert not [arrival for arrival in chain.liars.arrivals.values() if arrival.kind == "proposer"], (
            "nobody signed its blocks"
        )
