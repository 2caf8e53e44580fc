"""The ceremony: everything that `charon dkg` does after its checks, for any Trio program.

    lock = await run_ceremony(config)

    ceremony [one_for_one]
    ├─ private_key_lock (permanent)    keeps the key's lock file fresh, so that no second instance starts
    ├─ network                         the mesh's children: listener, one a relay, one a peer
    └─ dkg (temporary, significant)    the ceremony itself: once, never again; the tree ends with it

Files are read and checked before, by whoever makes the `CeremonyConfig`; sockets are bound here, before anything starts, so that a
taken port is one clear error. All handlers are registered before anybody is dialed. `dkg` is stopped first and has time to tell its
peers why, while the network below it still runs.

Nothing here installs signal handlers or touches global state: several operators' ceremonies can run in one program.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import msgspec
import structlog
import trio

from actors.dkg import CeremonyActor, CeremonyOptions, Message, ceremony_handlers
from actors.http.server import split_endpoint
from actors.mailbox import Mailbox, Policy, run_incarnation
from actors.mesh import MEMBER_BYTES, Mesh, MeshConfig, build_mesh, mesh_peers, open_listen_sockets
from charon_actors.cluster.definition import Definition
from charon_actors.cluster.key_lock import KeyLock
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.peers import peers_of
from charon_actors.crypto import Entropy
from charon_actors.dkg.ceremony import Ceremony
from charon_actors.dkg.dialect import DIALECTS
from charon_actors.eth2.networks import Network
from charon_actors.exception_groups import leaves
from charon_actors.p2p.multiaddr import Multiaddr
from charon_actors.profile import Profile
from supervisors.key_lock_keeper import keep_key_lock
from supervisors.node_tree import network_supervisor
from supervisors.supervisor import Body, Crashed, Event, Supervisor, Worker, run_supervisor

COMMAND: Final = "charon dkg"

log = structlog.get_logger(topic="dkg")


class CeremonyConfig(msgspec.Struct, frozen=True):
    """What a ceremony must know. Everything in it has been verified by whoever made it.

    private_key: ENR key, 32 bytes. network: of the definition. p2p_tcp_addresses: `ip:port`; may be empty: outgoing only.
    relays: texts of `--p2p-relays`. peer_addresses: more addresses by peer index, tried besides those of the ENRs. key_lock: the
    private key's lock file, taken already and kept fresh; None: no lock. options: see there.
    """

    definition: Definition
    private_key: bytes
    own_index: int
    network: Network
    options: CeremonyOptions
    p2p_tcp_addresses: tuple[str, ...] = ()
    p2p_external_ip: str = ""
    p2p_external_hostname: str = ""
    relays: tuple[str, ...] = ()
    use_listen_port: bool = True
    peer_addresses: Mapping[int, tuple[Multiaddr, ...]] = {}
    key_lock: Path | None = None
    profile: Profile = Profile.V1_10

    def __repr__(self) -> str:
        return f"CeremonyConfig(definition={self.definition.definition_hash.hex()[:7]}, own_index={self.own_index})"


def ceremony_tree(network: Sequence[str], *, has_key_lock: bool) -> Supervisor:
    """The tree of a ceremony. network: the mesh's children in start order.

    The network may crash as often as a node's: a ceremony survives a broken connection. The ceremony itself never starts again.
    """
    return Supervisor(
        "ceremony",
        "one_for_one",
        intensity=3,
        period_s=600.0,
        children=(
            *((Worker("private_key_lock"),) if has_key_lock else ()),
            network_supervisor(network),
            Worker("dkg", restart="temporary", significant=True),
        ),
    )


async def run_ceremony(
    config: CeremonyConfig,
    *,
    wall_clock: Callable[[], float] = time.time,
    entropy: Entropy = secrets.token_bytes,
    on_finished: Callable[[Lock], None] = lambda lock: None,
) -> Lock:
    """Take part in a ceremony; the lock that was written. on_finished: called with it before the shutdown delay; must not raise.

    Raises: Aborted (a UserError that names peer, operator and phase), UserError (a port is taken, no relay, results can't be
    written), GaveUp. Cancellation: at any time; peers are told, and nothing was written before the last phase. Once `on_finished`
    has been called, the ceremony has succeeded, cancelled or not.
    """
    with ExitStack() as stack:
        endpoints = [split_endpoint(text, "--p2p-tcp-address", "0.0.0.0:3610") for text in config.p2p_tcp_addresses]
        sockets = open_listen_sockets(endpoints)
        for sock in sockets:
            stack.enter_context(sock)
        peers = peers_of(config.definition)
        dialect = DIALECTS[config.profile]
        ceremony = Ceremony(config.definition, peers, config.own_index, config.private_key, config.network, dialect, entropy)
        mailbox: Mailbox[Message] = Mailbox("dkg", policy=Policy.WAIT)
        stack.callback(mailbox.close)
        mesh, network = build_mesh(
            MeshConfig(
                private_key=config.private_key,
                peers=mesh_peers([peer.enr for peer in peers], config.peer_addresses),
                own_index=config.own_index,
                profile=config.profile,
                lock_hash=config.definition.definition_hash,
                relays=config.relays,
                cluster_hash=config.definition.definition_hash.hex(),
                cluster_uuid=config.definition.uuid,
                external_ip=config.p2p_external_ip,
                external_hostname=config.p2p_external_hostname,
                nickname="",  # as Charon's: in a ceremony the nickname travels in the step reports (03 §6)
                is_pinging=False,
                is_polling_peerinfo=False,
                use_listen_port=config.use_listen_port,
                member_bytes=max(MEMBER_BYTES, 2 * ceremony.longest_messages_bytes),
            ),
            ceremony_handlers(mailbox.address, ceremony, config.options.timeout_s),
            entropy=entropy,
            wall_clock=wall_clock,
            sockets=sockets,
        )
        outcome = _Outcome(on_finished)

        def make_actor() -> CeremonyActor:
            return CeremonyActor(
                ceremony,
                peers,
                config.own_index,
                config.private_key,
                mesh,
                config.options,
                entropy,
                wall_clock,
                on_finished=outcome.finished,
            )

        bodies: dict[str, Body] = dict(network)
        bodies["dkg"] = partial(_take_part, mesh, partial(run_incarnation, mailbox, make_actor))
        if config.key_lock is not None:
            bodies["private_key_lock"] = partial(keep_key_lock, config.key_lock, lambda: KeyLock(COMMAND, wall_clock()))
        tree = ceremony_tree(list(network), has_key_lock=config.key_lock is not None)
        random = Random(int.from_bytes(entropy(8), "big"))
        await run_supervisor(tree, bodies, on_event=outcome.note, jitter=random.random)
    if outcome.error is not None:
        raise outcome.error
    assert outcome.lock is not None, "a ceremony ends with a lock or with an error"
    return outcome.lock


class _Outcome:
    """How the ceremony ended. It listens to the tree: that ends normally also when the ceremony has crashed."""

    def __init__(self, on_finished: Callable[[Lock], None]) -> None:
        self._on_finished = on_finished
        self.lock: Lock | None = None
        self.error: BaseException | None = None

    def finished(self, lock: Lock) -> None:
        self.lock = lock
        self._on_finished(lock)

    def note(self, event: Event) -> None:
        if not isinstance(event, Crashed):
            return
        causes = list(leaves(event.error))
        if event.path.endswith("/dkg"):
            self.error = causes[0] if len(causes) == 1 else event.error
            return
        for leaf in causes:
            log.warning("Part of the node crashed", part=event.path, error=str(leaf) or type(leaf).__name__, exc_info=leaf)


async def _take_part(mesh: Mesh, run_actor: Callable[[], Awaitable[None]]) -> None:
    """The body of `dkg`."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mesh.wait_for_relays)
        await run_actor()
        nursery.cancel_scope.cancel()
