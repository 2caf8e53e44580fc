"""Whole meshes in one Trio program, over real sockets on 127.0.0.1, with a supervisor of three lines."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from actors.mesh import Handlers, Mesh, MeshConfig, MeshPeer, NoEvents, build_mesh, mesh_peers, open_listen_sockets
from charon_actors.enr import new_record
from charon_actors.p2p.multiaddr import tcp_multiaddr
from charon_actors.profile import Profile
from tests.charon_actors.p2p.vectors import counter_entropy

START = 1_700_000_000.0


def key_of(number: int) -> bytes:
    return (number + 1).to_bytes(32, "big")


class Numbers(NoEvents):
    """Counts what the mesh reports; `crash_on` makes the child that reports that name to `peer` fail once."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.gauges: dict[tuple[str, str], float] = {}
        self.crash_on: tuple[str, str] | None = None

    def _crash(self, name: str, labels: Mapping[str, str]) -> None:
        if self.crash_on == (name, labels.get("peer")):
            self.crash_on = None
            raise RuntimeError("injected")

    def count(self, name: str, labels: Mapping[str, str], by: float = 1.0) -> None:
        self._crash(name, labels)
        self.counts[f"{name} {labels.get('peer', labels.get('result', ''))}"] += int(by)

    def gauge(self, name: str, labels: Mapping[str, str], value: float) -> None:
        self._crash(name, labels)
        self.gauges[name, labels.get("peer", "")] = value


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
                    events=numbers,
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
