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

from actors import http_server
from actors.duties import DutyEnded
from actors.slashing import AttestationEntry, ExportHistory
from charon_actors.eth2.beacon_api import decode_node_url
from charon_actors.eth2.duty import DutyType
from supervisors.node import Node
from supervisors.simnet import FORK_VERSION, SLOTS_PER_EPOCH, Cluster, SimnetSettings, make_cluster, open_cluster
from supervisors.simulation.beacon_mock import BeaconMock, BeaconSettings

NODES, LIAR = 4, 2
HONEST = [0, 1, 3]
PATIENCE_S = 60.0

pytestmark = pytest.mark.slow


class Seen:
    """How the duties of the honest nodes ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[int, DutyEnded]] = []

    def of(self, kind: DutyType, from_slot: int = 0, to_slot: int = 2**40) -> list[DutyEnded]:
        return [ended for _, ended in self.ended if ended.duty.type is kind and from_slot <= ended.duty.slot < to_slot]


def leader(slot: int, kind: DutyType) -> int:
    """Of round 1. Source: specification 06 §1."""
    return (slot + kind + 1) % NODES


def refused(node: Node, kind: DutyType) -> float:
    """How often this node has refused what the liar proposed; whoever else is named is an error."""
    name = node.mesh.peers[LIAR].name
    found = 0.0
    for line in node.metrics.render().decode().splitlines():
        if line.startswith("charon_actors_decisions_refused_total{"):
            assert f'peer="{name}"' in line, line
            if f'duty="{kind.label}"' in line:
                found += float(line.rsplit(" ", 1)[1])
    return found


@asynccontextmanager
async def cluster_with_a_liar(
    tmp_path: Path, slot_s: float, lie: Callable[[BeaconMock], None], honest: Callable[[BeaconMock], None] = lambda mock: None
) -> AsyncIterator[tuple[Cluster, Seen]]:
    """All nodes are ready; the liar has a beacon mock of its own."""
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
        honest(cluster.beacon)
        lie(liars)
        with http_server.bind("127.0.0.1:0", "beacon mock") as listening:
            nursery.start_soon(http_server.serve, liars, listening)
            url = decode_node_url(f"http://127.0.0.1:{listening.getsockname()[1]}")
            configs = list(cluster.configs)
            configs[LIAR] = msgspec.structs.replace(configs[LIAR], beacon_nodes=(url,), allow_foreign_fee_recipient=True)
            cluster.configs = tuple(configs)
            seen = Seen()
            with trio.fail_after(PATIENCE_S):
                for index in range(NODES):
                    node = await cluster.start(index)
                    if index != LIAR:
                        node.on_duty.append(lambda ended, index=index: seen.ended.append((index, ended)))  # type: ignore[misc]
                for node in list(cluster.nodes.values()):
                    await node.ready()
            yield cluster, seen
        nursery.cancel_scope.cancel()


async def until_slot(cluster: Cluster, slot: int) -> None:
    await trio.sleep(max(cluster.chain.slot_start_s(slot) - time.time(), 0))


async def sources_on_record(node: Node) -> set[int]:
    """Of all votes that this node's share and the groups have signed."""
    entries = (await node.addresses.slashing.ask(ExportHistory())).entries
    return {entry.source_epoch for entry in entries if isinstance(entry, AttestationEntry)}


async def test_while_the_chain_does_not_finalise_a_lying_leader_ends_nobodys_attestations(tmp_path: Path) -> None:
    """Justification stays at genesis; the liar says the epoch before the vote's. Once signed, that forbids all votes of later epochs."""

    def stalled(mock: BeaconMock) -> None:
        mock.justified = lambda epoch: 0

    def lying(mock: BeaconMock) -> None:
        mock.justified = lambda epoch: max(epoch - 1, 0)

    async with cluster_with_a_liar(tmp_path, 1.0, lying, stalled) as (cluster, seen):
        ready = max(cluster.chain.slot_at(time.time()) + 1, 2 * SLOTS_PER_EPOCH)
        first = cluster.chain.first_slot(cluster.chain.epoch_of(ready - 1) + 1)
        end = first + 3 * SLOTS_PER_EPOCH
        await until_slot(cluster, end + 2)
        for index in HONEST:
            assert await sources_on_record(cluster.nodes[index]) == {0}
        assert sum(refused(cluster.nodes[index], DutyType.ATTESTER) for index in HONEST) >= 4, "the liar has led"
        due = [slot for slot in range(first, end) if leader(slot, DutyType.ATTESTER) != LIAR]
        accepted = {slot for kind, slot, _ in cluster.beacon.arrivals if kind == "attester"}
        assert len(due) == 9
        assert len(accepted & set(due)) >= 7, "some may be late on a busy machine"
        assert not any(
            "slashable" in reason or "surround" in reason for ended in seen.of(DutyType.ATTESTER) if (reason := ended.reason)
        )


async def test_a_lying_leader_collects_no_fees(tmp_path: Path) -> None:
    def lying(mock: BeaconMock) -> None:
        mock.pays = b"\xee" * 20

    async with cluster_with_a_liar(tmp_path, 2.0, lying) as (cluster, seen):
        first = cluster.chain.slot_at(time.time()) + 1
        end = first + 8
        await until_slot(cluster, end + 1)
        by_liar = [slot for slot in range(first, end) if leader(slot, DutyType.PROPOSER) == LIAR]
        assert len(by_liar) == 2
        for index in HONEST:
            assert refused(cluster.nodes[index], DutyType.PROPOSER) >= 1
        accepted = {slot for kind, slot, _ in cluster.beacon.arrivals if kind == "proposer"}
        assert len(accepted & (set(range(first, end)) - set(by_liar))) >= 4, "some may be late on a busy machine"
        reasons = {ended.reason for ended in seen.of(DutyType.PROPOSER, first, end) if ended.duty.slot in by_liar}
        assert any(f"fee recipient is 0x{'ee' * 20} instead of 0x{'00' * 18}dead" in (reason or "") for reason in reasons)
        assert not any("not handed out" in reason for reason in cluster.beacon.refused)
