"""Whole meshes in one Trio program, over real sockets on 127.0.0.1, with a supervisor of three lines."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from actors.facts import Fact
from actors.mesh import Handlers, Mesh, MeshConfig, MeshPeer, build_mesh, facts, mesh_peers, open_listen_sockets
from charon_actors.enr import new_record
from charon_actors.p2p.multiaddr import tcp_multiaddr
from charon_actors.profile import Profile
from tests.charon_actors.p2p.vectors import counter_entropy

START = 1_700_000_000.0


def key_of(number: int) -> bytes:
    return (number + 1).to_bytes(32, "big")


class Numbers:
    """Counts what the mesh says, under the names of the metrics; `crash_on` makes the child that says that of `peer` fail once."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.gauges: dict[tuple[str, str], float] = {}
        self.crash_on: tuple[str, str] | None = None

    def hear(self, fact: Fact) -> None:
        match fact:
            case facts.PingAnswered(peer):
                self._gauge("p2p_ping_success", peer, 1)
            case facts.PingFailed(peer):
                self._gauge("p2p_ping_success", peer, 0)
            case facts.PeerInfoJudged(peer, found):
                self._gauge("app_peerinfo_version_support", peer, float(found.is_version_supported or False))
                self._gauge("app_peerinfo_clock_offset_seconds", peer, found.clock_offset_s or 0.0)
                self._gauge("app_peerinfo_builder_api_enabled", peer, float(found.is_builder_enabled or False))
            case facts.ConnectionUp(peer):
                self.counts[f"p2p_peer_connection_total {peer}"] += 1
            case facts.HandlerCrashed(peer):
                self.counts[f"charon_actors_p2p_handler_crash_total {peer}"] += 1
            case facts.PeerCutOff(peer):
                self.counts[f"charon_actors_p2p_cut_off_total {peer}"] += 1
            case facts.HandshakeEnded(result):
                self.counts[f"charon_actors_p2p_handshakes_total {result}"] += 1

    def _gauge(self, name: str, peer: str, value: float) -> None:
        if self.crash_on == (name, peer):
            self.crash_on = None
            raise RuntimeError("injected")
        self.gauges[name, peer] = value


@dataclass
class Node:
    mesh: Mesh
    numbers: Numbers
    bodies: dict[str, Any]
    sockets: tuple[Any, ...]
    crashes: Counter[str] = field(default_factory=Counter)
    scopes: dict[str, trio.CancelScope] = field(default_factory=dict)

    async def connected(self, count: int) -> None:
        """Wait until this many peers have a connection."""
        await self.mesh.board.wait_until(lambda: self.mesh.connected_count >= count)

    async def supervise(self, name: str) -> None:
        while True:
            with trio.CancelScope() as self.scopes[name]:
                try:
                    await self.bodies[name]()
                except* RuntimeError:
                    self.crashes[name] += 1
            await trio.sleep(0.01)


@asynccontextmanager
async def open_nodes(
    count: int,
    handlers: Callable[[int], Handlers] = lambda index: {},
    *,
    members: int | None = None,
    stranger: int | None = None,
    knows: Callable[[int, int], bool] = lambda own, other: True,
    listens: Callable[[int], bool] = lambda index: True,
    runs: Callable[[int], bool] = lambda index: True,
    key: Callable[[int], bytes] = key_of,
    **config: Any,
) -> AsyncIterator[list[Node]]:
    """`count` running nodes of a cluster of `members`. stranger: this node has a key that the others don't know.

    knows: whether a node knows the address of another one from the start. runs: whether it is there at all.
    """
    sockets = [open_listen_sockets([("127.0.0.1", 0)]) if listens(index) else () for index in range(count)]
    ports = [opened[0].getsockname()[1] if opened else 0 for opened in sockets]
    members = members or count
    keys = [key(index) for index in range(members)]
    try:
        async with trio.open_nursery() as nursery:
            nodes = []
            for index in filter(runs, range(count)):
                known = list(keys)
                if index == stranger:
                    known[index] = key_of(1000)
                peers = mesh_peers(
                    [new_record(key) for key in known],
                    {i: [tcp_multiaddr("127.0.0.1", port)] for i, port in enumerate(ports) if port and knows(index, i)},
                )
                numbers = Numbers()
                mesh, bodies = build_mesh(
                    MeshConfig(
                        private_key=known[index],
                        peers=peers,
                        own_index=index,
                        **{"profile": Profile.V1_10, "lock_hash": bytes(32), **config},
                    ),
                    handlers(index),
                    entropy=counter_entropy(f"node {index}"),
                    wall_clock=lambda: START + trio.current_time(),
                    sockets=sockets[index],
                    on_fact=numbers.hear,
                )
                node = Node(mesh, numbers, bodies, sockets[index])
                nodes.append(node)
                for name in bodies:
                    nursery.start_soon(node.supervise, name)
            yield nodes
            nursery.cancel_scope.cancel()
    finally:
        for opened in sockets:
            for sock in opened:
                sock.close()


def peer_of(node: Node, index: int) -> MeshPeer:
    return node.mesh.peers[index]
