"""A cluster of test operators: production actors over a mesh in memory, with places to stop, kill and restart them."""

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import trio

from actors.dkg import CeremonyActor, CeremonyOptions, Message, ceremony_handlers
from actors.dkg.actor import Aborted
from actors.mailbox import Mailbox, Policy, run_incarnation
from charon_actors.cluster.definition import Definition
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.peers import peers_of
from charon_actors.dkg.ceremony import Ceremony
from charon_actors.dkg.dialect import Dialect
from tests.actors.dkg.memory_mesh import MemoryNetwork
from tests.charon_actors.dkg.cluster import CUSTOM, check_results, network_of, prepare_directory, private_key, results_in
from tests.charon_actors.dkg.vectors import V1_10, counting_entropy


class Node:
    """One operator: its actor, its directory, and how its ceremony ended."""

    def __init__(self, rig: "Rig", index: int, of: Definition, dialect: Dialect) -> None:
        self.index, self.rig = index, rig
        self.directory = rig.folder / f"node{index}"
        if not self.directory.exists():
            prepare_directory(self.directory, index, of)
        self.error: BaseException | None = None
        self.lock: Lock | None = None
        self.ended_at = 0.0
        self.scope = trio.CancelScope()
        peers = peers_of(of)
        entropy = counting_entropy(f"{time.perf_counter_ns()}/{index}")
        self.ceremony = Ceremony(of, peers, index, private_key(index), network_of(of), dialect, entropy)
        self.mailbox: Mailbox[Message] = Mailbox("dkg", policy=Policy.WAIT)
        options = CeremonyOptions(
            data_directory=self.directory,
            timeout_s=rig.timeout_s,
            shutdown_delay_s=rig.shutdown_delay_s,
            networks_extra=(CUSTOM,),
            keystore_iterations=16,
        )
        self.actor = CeremonyActor(
            self.ceremony,
            peers,
            index,
            private_key(index),
            rig.network.node(index),
            options,
            entropy,
            time.time,
            on_finished=self.finished,
            nickname=f"node {index}",
        )

    def finished(self, lock: Lock) -> None:
        self.lock = lock

    async def run(self) -> None:
        self.rig.network.handlers[self.index] = ceremony_handlers(self.mailbox.address, self.ceremony, 120.0)
        with self.scope:
            try:
                await run_incarnation(self.mailbox, lambda: self.actor)
            except Exception as error:
                self.error = error
        self.mailbox.close()
        self.ended_at = trio.current_time()


class Rig:
    """A cluster of test operators."""

    def __init__(
        self, folder: Path, of: Definition, dialect: Dialect = V1_10, timeout_s: float = 20.0, shutdown_delay_s: float = 0.0
    ) -> None:
        self.folder, self.definition, self.dialect = folder, of, dialect
        self.timeout_s, self.shutdown_delay_s = timeout_s, shutdown_delay_s
        self.nodes: list[Node] = []

    async def run(
        self,
        meanwhile: Callable[["Rig"], Any] | None = None,
        definitions: dict[int, Definition] | None = None,
        dialects: dict[int, Dialect] | None = None,
        tamper: Any = None,
        limit_s: float = 60.0,
        late: Collection[int] = (),
    ) -> None:
        """Let all nodes take part until all have ended. late: those that `meanwhile` starts."""
        with trio.fail_after(limit_s):
            async with trio.open_nursery() as streams:
                self.network = MemoryNetwork(streams)
                if tamper is not None:
                    self.network.tamper = tamper
                for index in range(len(self.definition.operators)):
                    of = (definitions or {}).get(index, self.definition)
                    self.nodes.append(Node(self, index, of, (dialects or {}).get(index, self.dialect)))
                async with trio.open_nursery() as nursery:
                    for node in self.nodes:
                        if node.index not in late:
                            nursery.start_soon(node.run)
                    if meanwhile is not None:
                        nursery.start_soon(meanwhile, self)
                streams.cancel_scope.cancel()

    async def kill(self, index: int) -> None:
        """As kill -9 does: nothing is said, all connections break. The operator may start again, with a new Node."""
        self.network.dead.add(index)
        self.nodes[index].scope.cancel()
        await self.network.cut(index)
        while not self.nodes[index].ended_at:
            await trio.sleep(0.01)
        self.network.dead.discard(index)
        del self.network.handlers[index]

    def check_honest(self) -> None:
        assert [node.error for node in self.nodes] == [None] * len(self.nodes)
        check_results([node.directory for node in self.nodes], self.definition)
        assert len({node.lock.lock_hash for node in self.nodes if node.lock is not None}) == 1

    def aborted(self, index: int) -> Aborted:
        error = self.nodes[index].error
        assert isinstance(error, Aborted), error
        return error

    def check_clean(self, *indices: int) -> None:
        for index in indices or range(len(self.nodes)):
            assert results_in(self.nodes[index].directory) == []
