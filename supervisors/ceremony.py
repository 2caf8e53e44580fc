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
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from random import Random
from socket import socket
from typing import Final

import trio

from actors.dkg import CeremonyActor, CeremonyOptions, Message, ceremony_handlers
from actors.log import get_logger
from actors.mailbox import Mailbox, Policy, run_incarnation
from actors.mesh import MEMBER_BYTES, Mesh
from charon_actors.cluster.definition import Definition
from charon_actors.cluster.key_lock import KeyLock
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.peers import peers_of
from charon_actors.crypto import Entropy
from charon_actors.dkg.ceremony import Ceremony
from charon_actors.dkg.dialect import DIALECTS
from charon_actors.eth2.networks import Network
from charon_actors.exception_groups import leaves
from supervisors.network import NetworkConfig, key_lock_body, key_lock_worker, listening, network_supervisor, open_network
from supervisors.supervisor import Body, Crashed, Event, Supervisor, Worker, run_supervisor

COMMAND: Final = "charon dkg"

log = get_logger("dkg")


class CeremonyConfig(NetworkConfig, frozen=True, kw_only=True):
    """What a ceremony must know. Everything in it has been verified by whoever made it. network: of the definition."""

    definition: Definition
    network: Network
    options: CeremonyOptions

    def __repr__(self) -> str:
        return f"CeremonyConfig(definition={self.definition.definition_hash.hex()[:7]}, own_index={self.own_index})"


def ceremony_tree(network: Sequence[str], key_lock: Sequence[Worker]) -> Supervisor:
    """The tree of a ceremony. network: the mesh's children in start order. key_lock: see `network.py`.

    The network may crash as often as a node's: a ceremony survives a broken connection. The ceremony itself never starts again.
    """
    return Supervisor(
        "ceremony",
        "one_for_one",
        intensity=3,
        period_s=600.0,
        children=(
            *key_lock,
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
    outcome = _Outcome(on_finished)
    with listening(config) as sockets:
        mailbox: Mailbox[Message] = Mailbox("dkg", policy=Policy.WAIT)
        try:
            bodies, network = _assemble(config, sockets, mailbox, wall_clock, entropy, outcome)
            random = Random(int.from_bytes(entropy(8), "big"))
            tree = ceremony_tree(network, key_lock_worker(config))
            await run_supervisor(tree, bodies, on_event=outcome.note, jitter=random.random)
        finally:
            mailbox.close()
    if outcome.error is not None:
        raise outcome.error
    assert outcome.lock is not None, "a ceremony ends with a lock or with an error"
    return outcome.lock


def _assemble(
    config: CeremonyConfig,
    sockets: Sequence[socket],
    mailbox: Mailbox[Message],
    wall_clock: Callable[[], float],
    entropy: Entropy,
    outcome: "_Outcome",
) -> tuple[dict[str, Body], Sequence[str]]:
    """The bodies of the tree, and the names of the network's children."""
    peers = peers_of(config.definition)
    dialect = DIALECTS[config.profile]
    ceremony = Ceremony(config.definition, peers, config.own_index, config.private_key, config.network, dialect, entropy)
    mesh, network = open_network(
        config,
        peers,
        ceremony_handlers(mailbox.address, ceremony, config.options.timeout_s),
        sockets,
        lock_hash=config.definition.definition_hash,
        entropy=entropy,
        wall_clock=wall_clock,
        cluster_hash=config.definition.definition_hash.hex(),
        cluster_uuid=config.definition.uuid,
        nickname="",  # as Charon's: in a ceremony the nickname travels in the step reports (03 §6)
        is_pinging=False,
        is_polling_peerinfo=False,
        member_bytes=max(MEMBER_BYTES, 2 * ceremony.longest_messages_bytes),
    )

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
            nickname=config.nickname,
        )

    return {
        **key_lock_body(config, lambda: KeyLock(COMMAND, wall_clock())),
        **network,
        "dkg": partial(_take_part, mesh, partial(run_incarnation, mailbox, make_actor)),
    }, list(network)


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
