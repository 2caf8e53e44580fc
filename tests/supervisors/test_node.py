"""A node among others: each row of its readiness table provoked, its ports, what it takes and leaves when it starts and stops."""

import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from actors.beacon import SyncStatus, chain_watch
from actors.duties import NotReady, ProposerOf
from actors.mailbox import ActorDown
from charon_actors.errors import UserError
from charon_actors.eth2.beacon_urls import decode_node_url
from supervisors.chain_facts import QUIET_AT
from supervisors.mailboxes import MailboxSampled
from supervisors.network import KEY_LOCK
from supervisors.node import Node, NodeConfig, open_node
from supervisors.node_tree import node_tree
from supervisors.simnet import Cluster, SimnetSettings, open_cluster
from supervisors.supervisor import Event, Started, Stopped, Supervisor, Worker, workers
from tests.hearing import hear

PATIENCE_S = 40.0


@pytest.fixture(autouse=True)
def log() -> Iterator[list[Any]]:
    with capture_logs() as entries:
        yield entries


@asynccontextmanager
async def cluster_of(tmp_path: Path, *, nodes: int = 3, slot_s: float = 0.5) -> AsyncIterator[Cluster]:
    """A cluster of which nothing runs but the beacon mock. Slots too short for duties: here only readiness is looked at."""
    async with open_cluster(SimnetSettings(tmp_path, nodes=nodes, validators=1, slot_duration_s=slot_s, seed=11)) as cluster:
        yield cluster


async def get(port: int, path: str) -> tuple[int, str]:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{port}{path}")
        return answer.status_code, answer.text


async def becomes(node: Node, state: int, text: str) -> None:
    """Wait for a row of the table, as gauge and as answer."""
    with trio.fail_after(PATIENCE_S):
        while node.readiness.state != state:
            await trio.sleep(0.02)
    assert await get(node.monitoring_port, "/readyz") == (200 if state == 1 else 500, text)
    with trio.fail_after(PATIENCE_S):
        while await gauge_of_readiness(node) != f"{state}.0":  # rendered once a second
            await trio.sleep(0.1)


async def gauge_of_readiness(node: Node) -> str:
    _, metrics = await get(node.monitoring_port, "/metrics")
    [line] = [line for line in metrics.splitlines() if line.startswith("app_monitoring_readyz{")]
    return line.rpartition(" ")[2]


# readiness (10 §2)


async def test_a_node_without_peers_is_never_ready_however_fresh_it_is(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as cluster:
        node = await cluster.start(0)
        assert (node.readiness.state, node.readiness.text) == (0, "ready check uninitialised")
        await becomes(node, 4, "quorum peers not connected")
        assert await get(node.monitoring_port, "/livez") == (200, "ok")


async def test_a_beacon_node_that_is_down_at_the_start_is_said_before_the_chain_is_known(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as cluster:
        cluster.beacon.health.is_down = True
        node = await cluster.start(0, has_client=False)
        await becomes(node, 2, "beacon node down")
        assert node.chain.known is None
        cluster.beacon.health.is_down, cluster.beacon.health.is_syncing = False, True
        await becomes(node, 3, "beacon node not synced")


@pytest.mark.slow
async def test_each_row_in_its_order(tmp_path: Path) -> None:
    """What is wrong with the beacon node comes before peers, peers come before the validator client."""
    async with cluster_of(tmp_path) as cluster:
        health = cluster.beacon.health
        node = await cluster.start(0)
        await becomes(node, 4, "quorum peers not connected")
        health.sync_distance = 321
        await becomes(node, 8, "beacon node far behind")
        health.peers = 0
        await becomes(node, 7, "beacon node has zero peers")
        health.is_syncing = True
        await becomes(node, 3, "beacon node not synced")
        health.is_down = True
        await becomes(node, 2, "beacon node down")
        health.is_down = health.is_syncing = False
        health.sync_distance, health.peers = 320, 1
        await becomes(node, 4, "quorum peers not connected")
        with trio.move_on_after(0):
            await node.ready()
        assert not node._watch.ready.is_set()
        await cluster.start(1)
        await becomes(node, 1, "ok")  # of three operators two are a quorum, and we are one of them
        await node.ready()
        await cluster.stop(1)
        await becomes(node, 4, "quorum peers not connected")


@pytest.mark.slow
async def test_peers_that_are_away_for_a_moment_change_nothing(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, slot_s=2.0) as cluster:
        node, _ = await cluster.start(0), await cluster.start(1)
        await becomes(node, 1, "ok")
        states: set[int] = set()
        await cluster.stop(1)
        await trio.sleep(3)  # two looks without a peer; six are needed
        states.add(node.readiness.state)
        await cluster.start(1)
        with trio.fail_after(PATIENCE_S):
            while node.mesh.connected_count < 1:
                states.add(node.readiness.state)
                await trio.sleep(0.05)
        assert states == {1}


@pytest.mark.slow
async def test_a_validator_client_that_is_silent_for_an_epoch_is_missed(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as cluster:
        node, _ = await cluster.start(0, has_client=False), await cluster.start(1)
        await becomes(node, 1, "ok")  # assumed to be there at the start
        await becomes(node, 5, "vc not connected")
        await get(node.validator_api_port, "/eth/v1/node/version")
        await becomes(node, 1, "ok")


async def test_the_end_of_the_monitoring_api_is_404(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as cluster:
        node = await cluster.start(0, has_client=False)
        assert (await get(node.monitoring_port, "/"))[0] == 404


# starting


def config_of(cluster: Cluster, **changes: Any) -> NodeConfig:
    return msgspec.structs.replace(cluster.configs[0], **changes)


async def refusal(config: NodeConfig) -> UserError:
    """The error with which a node doesn't start, or ends at once."""
    with pytest.raises(UserError) as caught, trio.fail_after(PATIENCE_S):
        async with open_node(config):
            await trio.sleep_forever()
    return caught.value


@pytest.mark.parametrize(
    ("field", "flag"),
    [
        ("validator_api_address", "--validator-api-address"),
        ("monitoring_address", "--monitoring-address"),
        ("p2p_tcp_addresses", "--p2p-tcp-address"),
    ],
)
async def test_a_taken_port_is_an_error_before_anything_starts_and_the_others_are_free_again(
    tmp_path: Path, field: str, flag: str
) -> None:
    async with cluster_of(tmp_path) as cluster:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            error = await refusal(config_of(cluster, **{field: (address,) if field == "p2p_tcp_addresses" else address}))
            assert str(error).startswith(flag)
            assert address in str(error)
            assert not list(cluster.configs[0].state_dir.iterdir()), "nothing was written"
        node = await cluster.start(0, has_client=False)  # all three ports can be had
        assert node.readiness.state == 0


async def test_a_beacon_node_of_another_network_ends_the_node(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as cluster:
        network = msgspec.structs.replace(cluster.configs[0].network, genesis_fork_version=b"\x70\0\0\0")
        error = await refusal(config_of(cluster, network=network))
        assert "mismatch between lock file fork version" in str(error)


async def test_a_slashing_record_that_is_no_database_ends_the_node(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as cluster:
        (cluster.configs[0].state_dir / "slashing-protection.sqlite").write_bytes(b"nonsense" * 1000)
        assert "slashing-protection.sqlite" in str(await refusal(cluster.configs[0]))


async def test_a_slashing_record_of_another_chain_ends_the_node(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    async with cluster_of(tmp_path / "one") as cluster:
        node = await cluster.start(0, has_client=False)
        with trio.fail_after(PATIENCE_S):
            while not (cluster.configs[0].state_dir / "slashing-protection.sqlite").exists():
                await trio.sleep(0.02)
            await node.chain.get()
        await cluster.stop(0)
        other = cluster.beacon._answer

        def another_chain(method: str, path: list[str], *rest: Any) -> Any:
            answer = other(method, path, *rest)
            if path == ["eth", "v1", "beacon", "genesis"]:
                answer["data"]["genesis_validators_root"] = "0x" + "42" * 32
            return answer

        cluster.beacon._answer = another_chain  # type: ignore[method-assign, assignment]
        assert "slashing-protection.sqlite" in str(await refusal(cluster.configs[0]))


async def test_a_relay_that_makes_no_sense_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as cluster:
        assert str(await refusal(config_of(cluster, relays=("nonsense",)))).startswith("--p2p-relays nonsense: ")
        assert not list(cluster.configs[0].state_dir.iterdir())


async def test_one_of_two_beacon_nodes_is_enough(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as cluster:
        down = decode_node_url("http://127.0.0.1:1")
        async with open_node(config_of(cluster, beacon_nodes=(down, *cluster.configs[0].beacon_nodes))) as node:
            with trio.fail_after(PATIENCE_S):
                await node.chain.get()
        async with open_node(
            config_of(cluster, beacon_nodes=(down,), fallback_beacon_nodes=cluster.configs[0].beacon_nodes)
        ) as node:
            with trio.fail_after(PATIENCE_S):
                await node.chain.get()


# a fork is announced while the node runs


async def test_the_duty_path_begins_anew_with_a_fork_that_is_announced_and_nothing_crashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[Any]
) -> None:
    for name in ("STATE_INTERVAL_S", "CHAIN_INTERVAL_S", "RETRY_MOST_S"):
        monkeypatch.setattr(chain_watch, name, 0.05)
    events: list[Event] = []
    async with cluster_of(tmp_path, slot_s=2.0) as cluster:
        node = await cluster.start(0)
        hear(node, Event, events.append)
        duty_path = [node.addresses.consensus, node.addresses.signatures, node.addresses.duties]
        others = [node.addresses.slashing, node.addresses.beacon, node.addresses.crypto_workers, node.addresses.identity]

        def lives(addresses: list[Any]) -> list[int]:
            return [mailbox.statistics().incarnations for mailbox in addresses]

        before = await node.chain.get()
        with trio.fail_after(PATIENCE_S):
            while lives([*duty_path, *others]) != [1] * 7:
                await trio.sleep(0.02)
        plain = cluster.beacon._answer

        def upgraded(method: str, path: list[str], *rest: Any) -> Any:
            answer = plain(method, path, *rest)
            if path == ["eth", "v1", "config", "fork_schedule"]:
                entry = {"previous_version": "0x06000001", "current_version": "0x07000001", "epoch": "1000000"}
                answer["data"].append(entry)
            return answer

        cluster.beacon._answer = upgraded  # type: ignore[method-assign, assignment]
        with trio.fail_after(PATIENCE_S):
            while lives(duty_path) != [2] * 3:
                await trio.sleep(0.02)
        in_slot = (time.time() - before.genesis_time_s) / before.slot_duration_s % 1
        assert QUIET_AT <= in_slot < 0.95, "after the attestations, before the next slot"
        await trio.sleep(before.slot_duration_s)
        after = await node.chain.get()
        assert lives([*duty_path, *others]) == [2] * 3 + [1] * 4, "once, and only who needs the forks"
        with trio.fail_after(PATIENCE_S), pytest.raises(NotReady):  # the new life of the slot clock answers
            await node.addresses.duties.ask(ProposerOf(10**9))
    assert after.fork_version_at(1_000_000).hex() == "07000001"
    assert before.fork_version_at(1_000_000).hex() == "06000001"
    assert not [event for event in events if not isinstance(event, Started | Stopped)]
    begun = [entry for entry in log if entry["event"] == "Actor begins anew with the chain's new forks"]
    assert sorted(entry["actor"] for entry in begun) == ["consensus", "duties", "signatures"]


# stopping


async def test_a_node_stops_in_reverse_order_at_once_and_whoever_asks_it_still_is_told(tmp_path: Path) -> None:
    events: list[Event] = []
    async with cluster_of(tmp_path) as cluster:
        async with open_node(cluster.configs[0]) as node:
            hear(node, Event, events.append)
            with trio.fail_after(PATIENCE_S):
                await node.chain.get()
            beacon = node.addresses.beacon
            before = trio.current_time()
        assert trio.current_time() - before < 2, "no child is waited for that has nothing to finish"
        with pytest.raises(ActorDown):
            await beacon.ask(SyncStatus())
        started = [event.path for event in events if isinstance(event, Started)]
        stopped = [event.path for event in events if isinstance(event, Stopped)]
        leaf_starts = [path for path in started if path not in ("node/network", "node/duty_path")]
        leaf_stops = [path for path in stopped if path not in ("node/network", "node/duty_path")]
        assert leaf_stops == leaf_starts[::-1]
        node = await cluster.start(0, has_client=False)
        assert node.monitoring_port == int(cluster.configs[0].monitoring_address.rpartition(":")[2])


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_no_task_and_no_file_is_left_after_many_starts(tmp_path: Path) -> None:
    async with cluster_of(tmp_path) as cluster:
        files, tasks = 0, 0
        for number in range(12):
            async with open_node(cluster.configs[0]):
                await trio.sleep(0.02 * number)  # stopped in ever later phases of its start
            if number == 1:  # what is made once is there now
                await trio.sleep(0.5)
                files, tasks = open_files(), trio.lowlevel.current_statistics().tasks_living
        with trio.fail_after(PATIENCE_S):  # the beacon mock hears of the last connections' end a moment later
            while open_files() > files or trio.lowlevel.current_statistics().tasks_living > tasks:
                await trio.sleep(0.05)


# the tree


def test_every_actor_of_the_duty_path_restarts_alone() -> None:
    tree = node_tree(["listener", "relay:0", "peer:a", "peer:b"], [Worker(KEY_LOCK)])

    def all_alone(supervisor: Supervisor) -> bool:
        return supervisor.strategy == "one_for_one" and all(
            all_alone(child) for child in supervisor.children if isinstance(child, Supervisor)
        )

    assert all_alone(tree)
    names = [worker.name for worker in workers(tree)]
    assert len(set(names)) == len(names)
    assert all(worker.restart == "permanent" for worker in workers(tree))
    assert names.index("validator_api") > max(names.index(name) for name in ("consensus", "signatures", "duties", "beacon"))
    assert names[0] == "private_key_lock"


def test_many_peers_may_crash_more_often_than_one() -> None:
    def network(count: int) -> Supervisor:
        [found] = [child for child in node_tree([f"peer:{n}" for n in range(count)]).children if child.name == "network"]
        assert isinstance(found, Supervisor)
        return found

    assert network(8).intensity == 8 * network(1).intensity
    assert all(isinstance(child, Worker) for child in network(3).children)


# errors of a program that embeds a node


class OfTheBlock(Exception):
    pass


@pytest.mark.parametrize("error", [OfTheBlock("mine"), KeyboardInterrupt(), ExceptionGroup("two", [OfTheBlock(), OfTheBlock()])])
async def test_what_the_block_raises_comes_out_as_itself(tmp_path: Path, error: BaseException) -> None:
    async with cluster_of(tmp_path) as cluster:
        with pytest.raises(type(error)) as caught:
            async with open_node(cluster.configs[0]):
                raise error
    assert caught.value is error


async def test_every_mailbox_of_the_tree_is_sampled(tmp_path: Path) -> None:
    without = {"monitoring", "listener", "validator_api", "graffiti", "readiness"}  # nobody writes to them
    sampled: set[str] = set()
    started: set[str] = set()
    async with cluster_of(tmp_path) as cluster, open_node(config_of(cluster, relays=("http://127.0.0.1:1",))) as node:
        hear(node, MailboxSampled, lambda fact: sampled.add(fact.actor))
        hear(node, Started, lambda fact: started.add(fact.path.rpartition("/")[2]))
        with trio.fail_after(PATIENCE_S):
            while "readiness" not in started:
                await trio.sleep(0.02)
    assert sampled == started - without - {"network", "duty_path"}
    assert {"relay:0", "duties"} < sampled
