"""Simnet: a whole cluster in one process, over real loopback sockets, with mocks of what stands around it.

    beacon mock (HTTP)  ←  node 0 … n-1 (the production tree each)  ←  validator clients' mocks (HTTP)
                                  └── peers: TCP, Noise, yamux, QBFT, partial signatures ──┘

Keys, lock and identities are made from the seed; nothing is written but each node's records, below a directory that the caller gives.
The first slot that counts is the first after genesis that starts when every node is ready; `slots` slots later the run ends. A duty
succeeded on a node if that node handed the group's signature to the beacon mock and the mock, which verifies it, accepted.
"""

import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import trio

from actors.beside import beside
from actors.duties import DutyEnded
from actors.facts import Fact
from actors.http import bind, serve
from charon_actors.cluster.dealer import Dealt, deal
from charon_actors.cluster.definition import Creator, Definition, Operator, ValidatorAddresses
from charon_actors.cluster.hashes import with_definition_hashes
from charon_actors.cluster.threshold import default_threshold
from charon_actors.crypto import generate_secret, k1_generate, public_key
from charon_actors.enr import new_record
from charon_actors.errors import Retryable, UserError
from charon_actors.eth2.beacon_urls import decode_node_url
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import DutyType
from charon_actors.eth2.networks import Network
from charon_actors.p2p.multiaddr import tcp_multiaddr
from charon_actors.share_index import share_indices
from supervisors.node import Node, NodeConfig, open_node
from supervisors.simulation.beacon_mock import BeaconMock, BeaconSettings, chain_of
from supervisors.simulation.validator_mock import ValidatorMock

FORK_VERSION: Final = bytes.fromhex("00000001")
SLOTS_PER_EPOCH: Final = 4  # a validator attests once an epoch: short epochs show something soon
MIN_NODES, MAX_NODES = 3, 16
MAX_VALIDATORS: Final = 64
READY_LIMIT_S: Final = 60.0
LOOK_AT: Final = 0.6  # of a slot: showing the state must not delay the duties that start with the next
COUNTED: Final = {DutyType.PROPOSER: "proposer", DutyType.ATTESTER: "attester"}


class SimnetSettings(msgspec.Struct, frozen=True):
    """slots: how many count, None until cancelled. slot_duration_s: at least 0.5. state_dir: for the nodes' records."""

    state_dir: Path
    nodes: int = 4
    validators: int = 2
    slots: int | None = None
    slot_duration_s: float = 1.0
    seed: int = 0


class NodeView(msgspec.Struct):
    """One node as the run sees it. latencies_s: of accepted duties by kind, from the duty's start."""

    index: int
    name: str
    ready_s: float | None = None
    expected: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(COUNTED.values(), 0))
    succeeded: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(COUNTED.values(), 0))
    latencies_s: dict[str, list[float]] = msgspec.field(default_factory=lambda: {kind: [] for kind in COUNTED.values()})
    peers: int = 0
    rtt_ms: float | None = None
    failures: list[str] = []


class SimnetView(msgspec.Struct):
    """What is shown while it runs. slot: the chain's; counted: slots that count so far."""

    nodes: list[NodeView]
    slot: int = -1
    counted: int = 0
    refused: dict[str, int] = {}

    @property
    def is_ok(self) -> bool:
        """Every duty that was expected has succeeded on every node, and the beacon mock refused nothing."""
        return (
            self.counted > 0
            and not self.refused
            and all(node.ready_s is not None and node.expected == node.succeeded for node in self.nodes)
        )

    def report(self) -> dict[str, Any]:
        """The JSON of `--report`. Times in seconds and milliseconds as the names say; percentiles None without a sample."""
        return {
            "ok": self.is_ok,
            "slots": self.counted,
            "nodes": [
                {
                    "index": node.index,
                    "ready_s": None if node.ready_s is None else round(node.ready_s, 3),
                    "duties": {
                        kind: {"expected": node.expected[kind], "succeeded": node.succeeded[kind]} for kind in COUNTED.values()
                    },
                    "latency_ms": {
                        kind: {"p50": percentile(node.latencies_s[kind], 50), "p99": percentile(node.latencies_s[kind], 99)}
                        for kind in COUNTED.values()
                    },
                }
                for node in self.nodes
            ],
        }


def percentile(seconds: Sequence[float], percent: int) -> float | None:
    """Nearest rank, in milliseconds."""
    if not seconds:
        return None
    return round(sorted(seconds)[max(math.ceil(len(seconds) * percent / 100) - 1, 0)] * 1000, 1)


def make_cluster(settings: SimnetSettings) -> tuple[Dealt, list[bytes]]:
    """Lock, key shares and identity keys (32 bytes each) of the seed: the same seed, the same cluster."""
    random = Random(settings.seed)
    identity_keys = [k1_generate(random.randbytes) for _ in range(settings.nodes)]
    secrets = [generate_secret(random.randbytes) for _ in range(settings.validators)]
    address = "0x000000000000000000000000000000000000dEaD"
    definition = Definition(
        name="simnet",
        creator=Creator(),
        operators=tuple(Operator(enr=new_record(key).encode()) for key in identity_keys),
        uuid="00000000-0000-4000-8000-000000000000",
        version="v1.10.0",
        timestamp="2026-01-01T00:00:00Z",
        num_validators=settings.validators,
        threshold=default_threshold(settings.nodes),
        validators=(ValidatorAddresses(address, address),) * settings.validators,
        dkg_algorithm="default",
        fork_version=FORK_VERSION,
        deposit_amounts_gwei=(),
        consensus_protocol="",
        target_gas_limit=60_000_000,
        compounding=False,
    )
    dealt = deal(with_definition_hashes(definition), secrets, identity_keys, registered_at_s=0, entropy=random.randbytes)
    return dealt, identity_keys


class Cluster:
    """A cluster of the seed around one beacon mock. Its nodes, each with its validator client, are started and stopped one by one.

    nodes: those that run, by index. configs: of all of them; a node that is started again has the same ports and records.
    """

    def __init__(
        self,
        configs: Sequence[NodeConfig],
        beacon: BeaconMock,
        chain: Chain,
        shares: Sequence[Mapping[bytes, bytes]],
        nursery: trio.Nursery,
    ) -> None:
        self.configs, self.beacon, self.chain = tuple(configs), beacon, chain
        self.nodes: dict[int, Node] = {}
        self._shares, self._nursery = shares, nursery
        self._lives: dict[int, tuple[trio.CancelScope, trio.Event]] = {}

    async def start(self, index: int, *, has_client: bool = True) -> Node:
        """Open a node that doesn't run; it needs a while until it is ready. has_client: with its validator client's mock.

        Raises: what `open_node` raises. What ends the node later ends the cluster.
        """
        assert index not in self._lives, f"node {index} runs already"
        node: Node = await self._nursery.start(self._live, index, has_client)
        return node

    async def stop(self, index: int) -> None:
        """Stop a node as a signal would; returns when it is down."""
        scope, is_over = self._lives[index]
        scope.cancel()
        await is_over.wait()

    async def _live(self, index: int, has_client: bool, *, task_status: trio.TaskStatus[Node]) -> None:
        scope, is_over = self._lives[index] = (trio.CancelScope(), trio.Event())
        try:
            with scope:
                async with open_node(self.configs[index]) as node:
                    self.nodes[index] = node
                    task_status.started(node)
                    if has_client:
                        api = f"http://127.0.0.1:{node.validator_api_port}"
                        await ValidatorMock(api, self._shares[index], self.chain, time.time).run()
                    await trio.sleep_forever()
        finally:
            self.nodes.pop(index, None)
            del self._lives[index]
            is_over.set()


@asynccontextmanager
async def open_cluster(settings: SimnetSettings) -> AsyncIterator[Cluster]:
    """A cluster of which no node runs yet; the chain's genesis is a second away. The end of the block stops everything.

    `slots` of the settings has no meaning here. Raises: UserError (no port is free), what ends a node, and what the block raises as itself.
    """
    dealt, identity_keys = make_cluster(settings)
    beacon_settings = BeaconSettings(
        validators=tuple(validator.public_key for validator in dealt.lock.validators),
        genesis_time_s=float(math.ceil(time.time()) + 1),
        slot_duration_s=settings.slot_duration_s,
        slots_per_epoch=SLOTS_PER_EPOCH,
        fork_version=FORK_VERSION,
    )
    beacon = BeaconMock(beacon_settings, time.time)
    with bind("127.0.0.1:0", "beacon mock") as beacon_socket:
        url = f"http://127.0.0.1:{beacon_socket.getsockname()[1]}"
        configs = _configs(settings, dealt, identity_keys, url)
        shares = [
            {public_key(of_validator[index]): of_validator[index] for of_validator in dealt.shares}
            for index in share_indices(settings.nodes)
        ]
        async with beside(partial(serve, beacon, beacon_socket)) as nursery:
            yield Cluster(configs, beacon, chain_of(beacon_settings), shares, nursery)


async def run_simnet(
    settings: SimnetSettings,
    *,
    on_change: Callable[[SimnetView], None] = lambda view: None,
    on_cluster: Callable[[Cluster], None] = lambda cluster: None,
) -> SimnetView:
    """Run a cluster for `slots` slots, or until cancelled (then the caller has what `on_change` showed last).

    on_change: at the start and after each slot; it is one and the same view. on_cluster: once, with all nodes running, for tests
    that make them misbehave.
    Raises: UserError (no port is free, the nodes aren't ready within READY_LIMIT_S).
    Cancellation: what was not over yet, of this slot and the one before, is not expected any more.
    """
    async with open_cluster(settings) as cluster:
        started_s = trio.current_time()
        nodes = [await cluster.start(index) for index in range(settings.nodes)]
        on_cluster(cluster)
        view = SimnetView([NodeView(node.config.own_index, node.mesh.peers[node.config.own_index].name) for node in nodes])
        on_change(view)
        with trio.move_on_after(READY_LIMIT_S) as limit:
            for node, seen in zip(nodes, view.nodes, strict=True):
                await node.ready()
                seen.ready_s = trio.current_time() - started_s
        if limit.cancelled_caught:
            late = "; ".join(
                f"node {node.config.own_index}: {node.readiness.text}" for node in nodes if not node.readiness.is_ready
            )
            raise UserError("simnet", f"not ready within {READY_LIMIT_S:g} s ({late})", "try fewer nodes, or a less busy machine")
        run = _Run(settings, cluster, nodes, view, on_change)
        for node, seen in zip(nodes, view.nodes, strict=True):
            node.on_fact.append(partial(run.hear, seen))
        try:
            await run.count_slots()
        finally:
            run.forget_what_is_not_over()
    return view


class _Run:
    """Counts what is expected and what succeeded, slot by slot."""

    def __init__(
        self,
        settings: SimnetSettings,
        cluster: Cluster,
        nodes: Sequence[Node],
        view: SimnetView,
        on_change: Callable[[SimnetView], None],
    ) -> None:
        self._settings, self._beacon, self._chain = settings, cluster.beacon, cluster.chain
        self._nodes, self._view, self._on_change = nodes, view, on_change
        self._open: dict[tuple[int, int, str], int] = {}  # validators by node, slot and kind of duty
        self._is_complete = False
        self._all_ended = trio.Event()

    def hear(self, seen: NodeView, fact: Fact) -> None:
        if isinstance(fact, DutyEnded):
            self.duty_ended(seen, fact)

    def duty_ended(self, seen: NodeView, ended: DutyEnded) -> None:
        kind = COUNTED.get(ended.duty.type)
        key = (seen.index, ended.duty.slot, kind or "")
        if kind is None or key not in self._open:
            return
        del self._open[key]
        seen.succeeded[kind] += ended.succeeded
        if ended.latency_s is not None:
            seen.latencies_s[kind].append(ended.latency_s)
        if ended.reason is not None:
            seen.failures.append(f"{ended.duty}: {ended.reason}")
        if not self._open:
            self._all_ended.set()

    async def count_slots(self) -> None:
        slot = max(self._chain.slot_at(time.time()) + 1, 1)
        while self._settings.slots is None or self._view.counted < self._settings.slots:
            await trio.sleep(max(self._chain.slot_start_s(slot) - time.time() - 0.001, 0))
            for kind, _ in self._beacon.expected(slot):
                for seen in self._view.nodes:
                    seen.expected[kind] += 1
                    key = (seen.index, slot, kind)
                    self._open[key] = self._open.get(key, 0) + 1
            await trio.sleep(max(self._chain.slot_start_s(slot) + LOOK_AT * self._settings.slot_duration_s - time.time(), 0))
            self._view.counted += 1
            await self._look(slot)
            slot += 1
        # the duties of the last slot may take until their deadline; an attester's is an epoch away: two slots are enough
        with trio.move_on_after(max(2 * self._settings.slot_duration_s, 2)):
            while self._open:
                self._all_ended = trio.Event()
                await self._all_ended.wait()
        await self._look(slot - 1)
        self._is_complete = True

    def forget_what_is_not_over(self) -> None:
        """After an interruption: a duty that had no time to succeed has not failed."""
        if self._is_complete:
            return
        now_in = self._chain.slot_at(time.time())
        for (index, slot, kind), validators in self._open.items():
            if slot >= now_in - 1:
                self._view.nodes[index].expected[kind] -= validators

    async def _look(self, slot: int) -> None:
        self._view.slot = slot
        self._view.refused = dict(self._beacon.refused)
        for node, seen in zip(self._nodes, self._view.nodes, strict=True):
            seen.peers = node.mesh.connected_count
            rtts = []
            for peer in node.mesh.others:
                with suppress(Retryable):  # a peer's child that is just being restarted
                    rtt_s = (await node.mesh.status(peer.index)).ping_rtt_s
                    rtts += [] if rtt_s is None else [rtt_s]
            seen.rtt_ms = round(1000 * sum(rtts) / len(rtts), 2) if rtts else None
        self._on_change(self._view)


def _configs(settings: SimnetSettings, dealt: Dealt, identity_keys: Sequence[bytes], beacon_url: str) -> list[NodeConfig]:
    free = _free_ports(3 * settings.nodes)
    ports, api_ports, monitoring_ports = (free[kind::3] for kind in range(3))
    network = Network("simnet", 0, FORK_VERSION, 0, bytes([3]) + FORK_VERSION[1:], settings.slot_duration_s)
    addresses = {index: (tcp_multiaddr("127.0.0.1", port),) for index, port in enumerate(ports)}
    configs = []
    for index, key in enumerate(identity_keys):
        state_dir = settings.state_dir / f"node{index}"
        state_dir.mkdir(mode=0o700, exist_ok=True)
        configs.append(
            NodeConfig(
                lock=dealt.lock,
                private_key=key,
                own_index=index,
                network=network,
                state_dir=state_dir,
                beacon_nodes=(decode_node_url(beacon_url),),
                validator_api_address=f"127.0.0.1:{api_ports[index]}",
                monitoring_address=f"127.0.0.1:{monitoring_ports[index]}",
                p2p_tcp_addresses=(f"127.0.0.1:{ports[index]}",),
                peer_addresses={other: found for other, found in addresses.items() if other != index},
                graffiti=(b"simnet",),
            )
        )
    return configs


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago: each node must know the others' before they are bound."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


__all__ = [
    "MAX_NODES",
    "MAX_VALIDATORS",
    "MIN_NODES",
    "Cluster",
    "NodeView",
    "SimnetSettings",
    "SimnetView",
    "open_cluster",
    "run_simnet",
]
