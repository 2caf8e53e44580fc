"""The network part of a program: what node, ceremony and relay configure alike, how its sockets are bound, what its tree looks like.

Sockets are bound before anything starts, so that a taken port is one clear error. The key's lock file, if there is one, is kept fresh by
a child of its own, the first to start.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from socket import socket
from typing import Any, Final

import msgspec

from actors.facts import OnFact, unheard
from actors.http import split_endpoint
from actors.mesh import Handlers, Mesh, MeshConfig, build_mesh, mesh_peers, open_listen_sockets
from charon_actors.cluster.key_lock import KeyLock
from charon_actors.cluster.peers import Peer
from charon_actors.crypto import Entropy
from charon_actors.p2p.multiaddr import Multiaddr
from charon_actors.profile import Profile
from supervisors.key_lock_keeper import keep_key_lock
from supervisors.supervisor import Body, PlainBody, Supervisor, Worker

KEY_LOCK: Final = "private_key_lock"
NETWORK_PERIOD_S: Final = 60.0


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a program must know to speak to its peers.

    private_key: ENR key, 32 bytes. own_index: among the operators. p2p_tcp_addresses: `ip:port`; may be empty: outgoing connections
    only. relays: texts of `--p2p-relays`. peer_addresses: more addresses by peer index, tried besides those of the ENRs. key_lock: the
    private key's lock file, taken already and kept fresh while the program runs; None: no lock.
    """

    private_key: bytes
    own_index: int
    p2p_tcp_addresses: tuple[str, ...] = ()
    p2p_external_ip: str = ""
    p2p_external_hostname: str = ""
    relays: tuple[str, ...] = ()
    use_listen_port: bool = True
    peer_addresses: Mapping[int, tuple[Multiaddr, ...]] = {}
    nickname: str = ""
    key_lock: Path | None = None
    profile: Profile = Profile.V1_10


@contextmanager
def listening(config: NetworkConfig) -> Iterator[Sequence[socket]]:
    """The bound sockets, closed at the end of the block. Raises: UserError (an address is malformed or taken)."""
    with ExitStack() as stack:
        endpoints = [split_endpoint(text, "--p2p-tcp-address", "0.0.0.0:3610") for text in config.p2p_tcp_addresses]
        sockets = open_listen_sockets(endpoints)
        for sock in sockets:
            stack.enter_context(sock)
        yield sockets


def open_network(
    config: NetworkConfig,
    peers: Sequence[Peer],
    handlers: Handlers,
    sockets: Sequence[socket],
    *,
    lock_hash: bytes,
    entropy: Entropy,
    wall_clock: Callable[[], float],
    on_fact: OnFact = unheard,
    **mesh: Any,
) -> tuple[Mesh, dict[str, PlainBody]]:
    """The mesh and its children's bodies by name, in start order. mesh: what else `MeshConfig` takes. Raises: UserError."""
    mesh_config = MeshConfig(
        private_key=config.private_key,
        peers=mesh_peers([peer.enr for peer in peers], config.peer_addresses),
        own_index=config.own_index,
        profile=config.profile,
        lock_hash=lock_hash,
        relays=config.relays,
        external_ip=config.p2p_external_ip,
        external_hostname=config.p2p_external_hostname,
        use_listen_port=config.use_listen_port,
        **mesh,
    )
    return build_mesh(mesh_config, handlers, entropy=entropy, wall_clock=wall_clock, sockets=sockets, on_fact=on_fact)


def key_lock_body(config: NetworkConfig, make: Callable[[], KeyLock]) -> dict[str, Body]:
    """The body that keeps the key's lock file fresh; none without a lock."""
    return {} if config.key_lock is None else {KEY_LOCK: partial(keep_key_lock, config.key_lock, make)}


def key_lock_worker(config: NetworkConfig) -> tuple[Worker, ...]:
    """Its place in the tree: first, so that it stops last."""
    return () if config.key_lock is None else (Worker(KEY_LOCK),)


def network_supervisor(names: Sequence[str]) -> Supervisor:
    """Of the mesh's children, in start order. Five crashes a minute for each of them, all together, before it gives up."""
    return Supervisor(
        "network",
        "one_for_one",
        intensity=5 * max(len(names), 1),
        period_s=NETWORK_PERIOD_S,
        children=tuple(Worker(name) for name in names),
    )
