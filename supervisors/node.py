"""The node: everything that `charon run` does, for any Trio program.

    async with open_node(config) as node:
        await node.ready()
        ...

Files are read and verified before, by whoever makes the `NodeConfig`; sockets are bound here, before anything starts, so that a taken
port is one clear error. Then the tree of `node_tree.py` starts. What the actors and the supervisors say goes to the metrics, to the
readiness watch, and to everybody in `node.on_fact`.

Limits are those of the actors. Nothing here installs signal handlers or touches global state: two nodes can live in one program.
"""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from random import Random
from socket import socket
from typing import NamedTuple

from actors.beside import beside
from actors.consensus import PROTOCOL as CONSENSUS_PROTOCOL
from actors.consensus import consensus_handler
from actors.descriptors import monitoring_connections
from actors.facts import Fact, FactStream, OnFact
from actors.http import Application, Limits, bind, serve
from actors.log import get_logger
from actors.mailbox import run_incarnation
from actors.mesh import Mesh, MessageDropped, one_way
from actors.metrics import Metrics, Readiness, monitoring_app
from actors.signatures import PeerPartials
from charon_actors.cluster.key_lock import KeyLock
from charon_actors.cluster.peers import peers_of
from charon_actors.crypto import Entropy
from charon_actors.errors import UserError
from charon_actors.exception_groups import leaves
from charon_actors.signatures import wire
from supervisors.chain_facts import ChainFacts, once_known
from supervisors.graffiti import Graffiti
from supervisors.mailboxes import Addresses, Mailboxes, sample
from supervisors.mesh_metrics import write_own_info
from supervisors.network import key_lock_body, key_lock_worker, listening, open_network
from supervisors.node_actors import RECORDS, NodeActors
from supervisors.node_config import NodeConfig
from supervisors.node_metrics import NodeMetrics, registry_of, write_constants
from supervisors.node_tree import node_tree
from supervisors.readiness import ReadinessWatch
from supervisors.supervisor import Body, Crashed, GaveUpRestarting, Life, Staged, run_supervisor

__all__ = ["RECORDS", "Addresses", "Node", "NodeConfig", "open_node"]

log = get_logger("app-start")

Clock = Callable[[], float]


class Sockets(NamedTuple):
    """Bound, before anything starts."""

    validator_api: socket
    monitoring: socket
    p2p: Sequence[socket]


class Node:
    """A running node. stream: everything that happens in it; what listens must not raise or block."""

    def __init__(
        self,
        config: NodeConfig,
        mesh: Mesh,
        addresses: Addresses,
        chain: ChainFacts,
        metrics: Metrics,
        watch: ReadinessWatch,
        sockets: Sockets,
        stream: FactStream,
    ) -> None:
        self.config, self.mesh, self.addresses, self.metrics, self.chain = config, mesh, addresses, metrics, chain
        self.stream, self._watch = stream, watch
        self.validator_api_port: int = sockets.validator_api.getsockname()[1]
        self.monitoring_port: int = sockets.monitoring.getsockname()[1]
        self.p2p_endpoints: tuple[tuple[str, int], ...] = tuple(each.getsockname()[:2] for each in sockets.p2p)

    @property
    def on_fact(self) -> list[OnFact]:
        """Its listeners; more may be appended at any time."""
        return self.stream.listeners

    @property
    def readiness(self) -> Readiness:
        """What `/readyz` says."""
        return self._watch.board

    async def ready(self) -> None:
        """Wait until /readyz would say ok for the first time. Cancellation: at any time."""
        await self._watch.ready.wait()


@asynccontextmanager
async def open_node(
    config: NodeConfig, *, wall_clock: Clock = time.time, entropy: Entropy = secrets.token_bytes
) -> AsyncIterator[Node]:
    """Run a node in the background of the block.

    Raises: UserError (a port is taken, a file is damaged, the beacon node is on another network, no relay can be found …), GaveUp; both
    cancel the block. What the block raises comes out as itself (`actors/beside.py`). Cancellation and the end of the block stop
    everything in reverse order of start, within the grace of each child.
    """
    with ExitStack() as stack:
        api_socket = stack.enter_context(bind(config.validator_api_address, "--validator-api-address"))
        monitoring_socket = stack.enter_context(bind(config.monitoring_address, "--monitoring-address", "127.0.0.1:3620"))
        sockets = Sockets(api_socket, monitoring_socket, stack.enter_context(listening(config)))
        mailboxes, stream = Mailboxes(), FactStream()
        stack.callback(mailboxes.close)
        node, bodies, network = _assemble(config, mailboxes, sockets, wall_clock, entropy, stream)
        random = Random(int.from_bytes(entropy(8), "big"))
        tree = node_tree(network, key_lock_worker(config))
        run = partial(run_supervisor, tree, bodies, on_event=partial(_tell, stream), jitter=random.random)
        sampling = partial(sample, [*mailboxes.all(), *node.mesh.mailboxes], stream)
        async with beside(run, node.mesh.wait_for_relays, sampling):
            yield node


def _assemble(
    config: NodeConfig, mailboxes: Mailboxes, sockets: Sockets, wall_clock: Clock, entropy: Entropy, stream: FactStream
) -> tuple[Node, Mapping[str, Body], Sequence[str]]:
    """The node, the bodies of its tree, and the names of the network's children."""
    lock, peers = config.lock, peers_of(config.lock.definition)
    chain = ChainFacts(mailboxes.beacon, config.network)
    metrics = registry_of(config, peers[config.own_index].name)
    write_constants(metrics, config, peers[config.own_index].name, wall_clock())
    handlers = {
        CONSENSUS_PROTOCOL: consensus_handler(
            mailboxes.consensus, lambda index: stream(MessageDropped(index, CONSENSUS_PROTOCOL))
        ),
        wire.PROTOCOL: one_way(
            partial(_take_partials, mailboxes),
            wire.MAX_MESSAGE_BYTES,
            on_dropped=lambda index: stream(MessageDropped(index, wire.PROTOCOL)),
        ),
    }
    mesh, network = open_network(
        config,
        peers,
        handlers,
        sockets.p2p,
        lock_hash=lock.lock_hash,
        entropy=entropy,
        wall_clock=wall_clock,
        on_fact=stream,
        cluster_hash=lock.lock_hash.hex()[:7],
        cluster_uuid=lock.definition.uuid,
        nickname=config.nickname,
    )
    names = [peer.name for peer in peers]
    write_own_info(metrics, mesh.own_info, config.own_index, names)
    watch = ReadinessWatch(
        chain,
        mailboxes.beacon,
        lambda: mesh.connected_count,
        peers=len(peers),
        threshold=lock.definition.threshold,
        wall_clock=wall_clock,
        on_fact=stream,
    )
    stream.listeners += [NodeMetrics(metrics, names, lambda: chain.known, wall_clock).note, watch.hear]
    node = Node(config, mesh, mailboxes.addresses(), chain, metrics, watch, sockets, stream)
    return node, _bodies(node, mailboxes, sockets, watch, network, wall_clock), list(network)


def _bodies(
    node: Node,
    mailboxes: Mailboxes,
    sockets: Sockets,
    watch: ReadinessWatch,
    network: Mapping[str, Body],
    wall_clock: Clock,
) -> dict[str, Body]:
    config, chain, lock = node.config, node.chain, node.config.lock
    pubkeys = [validator.public_key for validator in lock.validators]
    graffiti = Graffiti(config.graffiti, pubkeys, names_client=config.graffiti_names_client)
    actors = NodeActors(
        config,
        mailboxes,
        chain=chain,
        mesh=node.mesh,
        graffiti=graffiti,
        listening_port=node.p2p_endpoints[0][1] if node.p2p_endpoints else None,
        wall_clock=wall_clock,
        on_fact=node.stream,
    )
    return {
        **key_lock_body(config, lambda: KeyLock("charon run", wall_clock(), "0x" + lock.lock_hash.hex())),
        "monitoring": Staged(partial(_serve, monitoring_app(node.metrics, watch.board), sockets.monitoring, node.stream)),
        "identity": partial(run_incarnation, mailboxes.identity, actors.identity),
        "crypto_workers": partial(run_incarnation, mailboxes.crypto_workers, actors.crypto_workers),
        "slashing": once_known(chain, mailboxes.slashing, actors.slashing, wall_clock, needs_forks=False),
        "beacon": partial(run_incarnation, mailboxes.beacon, actors.make_beacon),
        **network,
        "consensus": once_known(chain, mailboxes.consensus, actors.consensus, wall_clock),
        "signatures": once_known(chain, mailboxes.signatures, actors.signatures, wall_clock),
        "duties": once_known(chain, mailboxes.duties, actors.duties, wall_clock),
        "validator_api": Staged(partial(actors.validator_api, sockets.validator_api)),
        "graffiti": partial(graffiti.watch, mailboxes.beacon),
        "readiness": watch.run,
    }


async def _take_partials(mailboxes: Mailboxes, peer_index: int, message: bytes) -> None:
    await mailboxes.signatures.deliver(PeerPartials(peer_index, message))


async def _serve(application: Application, listening: socket, on_fact: OnFact, life: Life) -> None:
    life.started()
    limits = Limits(connections=monitoring_connections())
    await serve(application, listening, stopping=life.stopping, limits=limits, name="monitoring", on_fact=on_fact)


def _tell(on_fact: OnFact, event: Fact) -> None:
    """Supervisor events, in the log and to whoever listens."""
    on_fact(event)
    match event:
        case Crashed(path, error, restart_in_s):
            causes = list(leaves(error))
            if any(isinstance(cause, UserError) for cause in causes):
                return  # whoever runs the node tells the operator
            log.error(
                "Actor crashed",
                actor=path,
                restart_in_s=None if restart_in_s is None else round(restart_in_s, 2),
                error="; ".join(f"{type(cause).__name__}: {cause}" for cause in causes),
                exc_info=error,
            )
        case GaveUpRestarting(path, restarts, period_s):
            log.error("Supervisor gives up", supervisor=path, restarts=restarts, period_s=period_s)
        case _:
            pass
