"""The node: everything that `charon run` does, for any Trio program.

    async with open_node(config) as node:
        await node.ready()
        ...

Files are read and verified before, by whoever makes the `NodeConfig`; sockets are bound here, before anything starts, so that a taken
port is one clear error. Then the tree of `node_tree.py` starts. What needs the chain's parameters (duties, consensus, signatures,
validator API, slashing record) waits for a beacon node to tell them; the network and the monitoring server don't. When the beacon
nodes announce another fork, consensus, signatures and duties begin anew with it once, late in a slot.

Limits are those of the actors. Nothing here installs signal handlers or touches global state: two nodes can live in one program.
"""

import math
import platform
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from random import Random
from socket import socket
from typing import Any, Final

import msgspec
import structlog
import trio

import actors.beacon as beacon_room
import actors.consensus as consensus_room
import actors.duties as duties_room
import actors.identity as identity_room
import actors.signatures as signatures_room
import actors.validator_api as validator_api_room
from actors import crypto_workers
from actors.facts import Fact, OnFact
from actors.http import server as http_server
from actors.http.connection import Application
from actors.http.descriptors import monitoring_connections
from actors.http.port import Limits
from actors.mailbox import Address, Mailbox, run_incarnation
from actors.mesh import Mesh, MeshConfig, build_mesh, mesh_peers, one_way, open_listen_sockets
from actors.metrics import OTHER, Metrics, Readiness, monitoring_app
from actors.off_loop import Elsewhere
from actors.slashing import actor as slashing
from charon_actors.cluster.key_lock import KeyLock
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.peers import peers_of
from charon_actors.crypto import Check
from charon_actors.errors import Retryable, UserError
from charon_actors.eth2 import graffiti
from charon_actors.eth2.beacon_api import ChainEvent, NodeUrl, ReorgEvent
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType, start_s
from charon_actors.eth2.networks import Network
from charon_actors.eth2.unsigned_data import Proposal
from charon_actors.exception_groups import leaves
from charon_actors.p2p.multiaddr import Multiaddr
from charon_actors.profile import Profile
from charon_actors.signatures import wire
from supervisors.key_lock_keeper import keep_key_lock
from supervisors.node_metrics import NodeMetrics
from supervisors.node_tree import node_tree
from supervisors.supervisor import Body, Crashed, Event, GaveUpRestarting, Life, Staged, run_supervisor

log = structlog.get_logger(topic="app-start")

QUORUM_CHECKS: Final = 6  # 10 §2: peers are missing only after that many looks
FAR_BEHIND_SLOTS: Final = 320
EARLY_CHECK_INTERVAL_S: Final = 1.0
CLIENT_INTERVAL_S: Final = 600.0  # 08 §2
QUIET_AT: Final = 0.7  # of a slot: attestations are mostly out by then, and the next slot's duties can still be resolved
GO_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}  # the version text has Go's names (07 §5.15)
_STATUSES: Final = frozenset(int(status) for status in HTTPStatus)
SLASHING_FILE: Final = "slashing-protection.sqlite"
RECORDS: Final = (SLASHING_FILE, "slashing-protection.trace")  # never left behind when the state moves
PARTICIPATION_FILE: Final = "consensus-participation"
LISTEN_EPOCHS: Final = 2  # after a loss of records; as long as an edited cluster has to wait (01 §1.2)


class NodeConfig(msgspec.Struct, frozen=True):
    """What a node must know. Everything in it has been verified by whoever made it.

    private_key: ENR key, 32 bytes. network: of the lock. state_dir: where the slashing record and the node record are kept.
    Endpoints are `ip:port`; p2p_tcp_addresses may be empty: outgoing connections only. relays: texts of `--p2p-relays`.
    peer_addresses: more addresses by peer index, tried besides those of the ENRs. graffiti: none, one for all
    validators or one each in the lock's order, up to 32 bytes, 28 if graffiti_names_client. validator_api_tls: None for plain HTTP.
    key_lock: the private key's lock file, taken already and kept fresh while the node runs; None: no lock.
    allow_foreign_fee_recipient: sign blocks that pay somebody else than the lock says.
    is_slashing_record_lost: the operator says so; see actors/slashing/store.py for what that does, and doesn't.
    """

    lock: Lock
    private_key: bytes
    own_index: int
    network: Network
    state_dir: Path
    beacon_nodes: tuple[NodeUrl, ...]
    fallback_beacon_nodes: tuple[NodeUrl, ...] = ()
    beacon_headers: tuple[tuple[str, str], ...] = ()
    beacon_timeout_s: float = 2.0
    beacon_submit_timeout_s: float = 2.0
    validator_api_address: str = "127.0.0.1:3600"
    monitoring_address: str = "127.0.0.1:3620"
    p2p_tcp_addresses: tuple[str, ...] = ()
    p2p_external_ip: str = ""
    p2p_external_hostname: str = ""
    relays: tuple[str, ...] = ()
    use_listen_port: bool = True
    peer_addresses: Mapping[int, tuple[Multiaddr, ...]] = {}
    nickname: str = ""
    graffiti: tuple[bytes, ...] = ()
    graffiti_names_client: bool = False
    validator_api_tls: validator_api_room.Tls | None = None
    key_lock: Path | None = None
    is_slashing_record_lost: bool = False
    profile: Profile = Profile.V1_10
    allow_foreign_fee_recipient: bool = False

    def __repr__(self) -> str:
        return f"NodeConfig(lock={self.lock.lock_hash.hex()[:7]}, own_index={self.own_index})"


class Addresses(msgspec.Struct, frozen=True):
    """The actors of a node, for programs that embed it."""

    identity: Address[identity_room.Message]
    crypto: Address[crypto_workers.Message]
    beacon: Address[beacon_room.Message]
    consensus: Address[consensus_room.Message]
    signatures: Address[signatures_room.Message]
    duties: Address[duties_room.Message]
    slashing: Address[slashing.Message]


class Node:
    """A running node. on_fact: further listeners may be appended at any time; they must not raise or block. on_duty: of DutyEnded alone."""

    def __init__(self, config: NodeConfig, mesh: Mesh, addresses: Addresses, chain: "ChainFacts", metrics: Metrics) -> None:
        self.config, self.mesh, self.addresses, self.metrics, self.chain = config, mesh, addresses, metrics, chain
        self.readiness = Readiness()
        self.validator_api_port = self.monitoring_port = 0
        self.p2p_endpoints: tuple[tuple[str, int], ...] = ()
        self.on_duty: list[Callable[[duties_room.DutyEnded], None]] = []
        self.on_event: list[Callable[[Event], None]] = []
        self.on_fact: list[OnFact] = []
        self._ready = trio.Event()

    async def ready(self) -> None:
        """Wait until /readyz would say ok for the first time. Cancellation: at any time."""
        await self._ready.wait()

    def _set_readiness(self, state: int, text: str) -> None:
        if self.readiness.state != state:
            (log.info if state == 1 else log.warning)("Readiness changed", state=text)
        self.readiness.state, self.readiness.text = state, text
        self.metrics.gauge("app_monitoring_readyz", {}, state)
        if state == 1:
            self._ready.set()


class ChainFacts:
    """The chain's parameters, asked of the beacon actor once, by whoever needs them first.

    replaced: set when the beacon nodes announce other forks than `known` has; then there is a new one of both.
    """

    def __init__(self, beacon: Address[beacon_room.Message], network: Network) -> None:
        self._beacon, self._network = beacon, network
        self._lock = trio.Lock()
        self._chain: Chain | None = None
        self.replaced = trio.Event()

    def replace(self, chain: Chain) -> None:
        """Whoever works with the old one is to begin anew."""
        self._chain = chain
        self.replaced.set()
        self.replaced = trio.Event()

    @property
    def known(self) -> Chain | None:
        """None until a beacon node has told it."""
        return self._chain

    async def get(self) -> Chain:
        """Waits as long as it takes. Raises: UserError (a beacon node of another network)."""
        async with self._lock:
            while self._chain is None:
                with suppress(Retryable):
                    self._chain = await self._beacon.ask(
                        beacon_room.LoadChain(
                            capella_fork_version=self._network.capella_fork_version,
                            genesis_fork_version=self._network.genesis_fork_version,
                        )
                    )
                    break
                await trio.sleep(0.2)
            return self._chain


@asynccontextmanager
async def open_node(
    config: NodeConfig, *, wall_clock: Callable[[], float] = time.time, entropy: Callable[[int], bytes] = secrets.token_bytes
) -> AsyncIterator[Node]:
    """Run a node in the background of the block.

    Raises: UserError (a port is taken, a file is damaged, the beacon node is on another network, …), GaveUp; both end the block.
    Cancellation and the end of the block stop everything in reverse order of start, within the grace of each child.
    """
    with ExitStack() as stack:
        api_socket = stack.enter_context(http_server.bind(config.validator_api_address, "--validator-api-address"))
        monitoring_socket = stack.enter_context(
            http_server.bind(config.monitoring_address, "--monitoring-address", "127.0.0.1:3620")
        )
        endpoints = [http_server.split_endpoint(text, "--p2p-tcp-address", "0.0.0.0:3610") for text in config.p2p_tcp_addresses]
        p2p_sockets = open_listen_sockets(endpoints)
        for sock in p2p_sockets:
            stack.enter_context(sock)

        building = _Building(config, wall_clock, entropy)
        node, bodies, network = building.node(api_socket, monitoring_socket, p2p_sockets)
        node.validator_api_port = api_socket.getsockname()[1]
        node.monitoring_port = monitoring_socket.getsockname()[1]
        node.p2p_endpoints = tuple(sock.getsockname()[:2] for sock in p2p_sockets)

        def on_event(event: Event) -> None:
            _note(event, node.metrics)
            for listener in node.on_event:
                listener(event)

        tree = node_tree(network, has_key_lock=config.key_lock is not None)
        random = Random(int.from_bytes(entropy(8), "big"))
        try:
            async with trio.open_nursery() as nursery:
                run = partial(run_supervisor, tree, bodies, on_event=on_event, jitter=random.random)
                nursery.start_soon(run)
                yield node
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            operators = [error for error in leaves(group) if isinstance(error, UserError)]
            if operators:
                raise operators[0] from None
            raise
        finally:
            building.close()


class _Building:
    """Puts the rooms together: mailboxes first, then who reads them."""

    def __init__(self, config: NodeConfig, wall_clock: Callable[[], float], entropy: Callable[[int], bytes]) -> None:
        self._config, self._clock, self._entropy = config, wall_clock, entropy
        self._peers = peers_of(config.lock.definition)
        self._node: Node
        self._numbers: NodeMetrics
        self._counted_epoch: int | None = None
        self._client_suffix = graffiti.client_suffix("")
        self._off_loop = Elsewhere(self._in_process)
        self._places = {validator.public_key: place for place, validator in enumerate(config.lock.validators)}
        self._requests_of_epoch = 0
        self._user_agent = ""
        self._was_client_there = True
        self._is_listening = False
        self._mailboxes: dict[str, Any] = {
            "identity": Mailbox[identity_room.Message]("identity", 64),
            "crypto_workers": Mailbox[crypto_workers.Message]("crypto_workers"),
            "slashing": Mailbox[slashing.Message]("slashing"),
            "beacon": Mailbox[beacon_room.Message]("beacon"),
            "consensus": Mailbox[consensus_room.Message]("consensus"),
            "signatures": Mailbox[signatures_room.Message]("signatures"),
            "duties": Mailbox[duties_room.Message]("duties", 4096),
        }

    def close(self) -> None:
        """Whoever still waits for an answer gets ActorDown."""
        for mailbox in self._mailboxes.values():
            mailbox.close()

    def node(
        self, api_socket: socket, monitoring_socket: socket, p2p_sockets: Sequence[socket]
    ) -> tuple[Node, dict[str, Body], list[str]]:
        """The node, the bodies of its tree, and the names of the network's children."""
        config, lock = self._config, self._config.lock
        mailbox = self._mailboxes
        own = self._peers[config.own_index]
        metrics = Metrics(
            {
                "cluster_hash": lock.lock_hash.hex()[:7],
                "cluster_name": lock.definition.name,
                "cluster_peer": own.name,
                "nickname": config.nickname,
                "cluster_network": config.network.name,
                "charon_version": config.profile.version_text,
            }
        )
        handlers = {
            consensus_room.PROTOCOL: consensus_room.consensus_handler(mailbox["consensus"]),
            wire.PROTOCOL: one_way(self._take_partials, wire.MAX_MESSAGE_BYTES),
        }
        mesh, network = build_mesh(
            MeshConfig(
                private_key=config.private_key,
                peers=mesh_peers([peer.enr for peer in self._peers], config.peer_addresses),
                own_index=config.own_index,
                profile=config.profile,
                lock_hash=lock.lock_hash,
                relays=config.relays,
                cluster_hash=lock.lock_hash.hex()[:7],
                cluster_uuid=lock.definition.uuid,
                external_ip=config.p2p_external_ip,
                external_hostname=config.p2p_external_hostname,
                nickname=config.nickname,
                use_listen_port=config.use_listen_port,
            ),
            handlers,
            entropy=self._entropy,
            wall_clock=self._clock,
            sockets=p2p_sockets,
            events=metrics,
        )
        addresses = Addresses(
            identity=mailbox["identity"],
            crypto=mailbox["crypto_workers"],
            beacon=mailbox["beacon"],
            consensus=mailbox["consensus"],
            signatures=mailbox["signatures"],
            duties=mailbox["duties"],
            slashing=mailbox["slashing"],
        )
        facts = ChainFacts(mailbox["beacon"], config.network)
        node = self._node = Node(config, mesh, addresses, facts, metrics)
        self._numbers = NodeMetrics(metrics, [peer.name for peer in self._peers])
        self._write_constants(metrics, own.name)
        make_beacon = beacon_room.beacon_factory(
            beacon_room.Settings(
                primaries=config.beacon_nodes,
                fallbacks=config.fallback_beacon_nodes,
                headers=config.beacon_headers,
                timeout_s=config.beacon_timeout_s,
                submit_timeout_s=config.beacon_submit_timeout_s,
                cluster_keys=tuple(validator.public_key for validator in lock.validators),
            ),
            on_event=self._chain_event,
            on_call=self._beacon_call,
            on_cache=self._beacon_cache,
            on_chain=facts.replace,
            on_dropped=self._event_dropped,
            wall_clock=self._clock,
            off_loop=self._off_loop,
        )
        application = monitoring_app(metrics, node.readiness)
        bodies: dict[str, Body] = {
            "monitoring": Staged(
                partial(_serve, application, monitoring_socket, partial(self._connection_dropped, "monitoring"))
            ),
            "identity": partial(run_incarnation, mailbox["identity"], self._identity),
            "crypto_workers": partial(run_incarnation, mailbox["crypto_workers"], crypto_workers.CryptoWorkers),
            "slashing": self._once_the_chain_is_known("slashing", self._slashing, needs_forks=False),
            "beacon": partial(run_incarnation, mailbox["beacon"], make_beacon),
            **network,
            "consensus": self._once_the_chain_is_known("consensus", self._consensus),
            "signatures": self._once_the_chain_is_known("signatures", self._signatures),
            "duties": self._once_the_chain_is_known("duties", self._duties),
            "validator_api": Staged(partial(self._validator_api, api_socket)),
            "readiness": self._watch_readiness,
        }
        if config.key_lock is not None:
            bodies["private_key_lock"] = partial(keep_key_lock, config.key_lock, self._key_lock)
        return node, bodies, list(network)

    # one body an actor

    def _key_lock(self) -> KeyLock:
        return KeyLock("charon run", self._clock(), "0x" + self._config.lock.lock_hash.hex())

    def _once_the_chain_is_known(self, name: str, make: Callable[[Chain], Any], *, needs_forks: bool = True) -> Body:
        """A body that waits for a beacon node, while mail for the actor waits in its mailbox.

        needs_forks: when the chain's forks change, it begins a new life with them, at a moment when the duties of the slot are mostly
        through and those of the next have not begun. That is no crash: the supervisor sees nothing of it.
        """
        facts = self._node.chain

        async def begin_anew(chain: Chain, replaced: trio.Event, life: trio.CancelScope) -> None:
            await replaced.wait()
            in_slot = (self._clock() - chain.genesis_time_s) / chain.slot_duration_s % 1
            await trio.sleep((QUIET_AT - in_slot) % 1 * chain.slot_duration_s)
            log.info("Actor begins anew with the chain's new forks", actor=name)
            life.cancel()

        async def body(life: Life) -> None:
            life.started()
            is_over = False
            while not is_over:
                chain, replaced = await facts.get(), facts.replaced
                async with trio.open_nursery() as nursery:
                    if needs_forks:
                        nursery.start_soon(begin_anew, chain, replaced, nursery.cancel_scope)
                    await run_incarnation(self._mailboxes[name], partial(make, chain))
                    is_over = True
                    nursery.cancel_scope.cancel()

        return Staged(body)

    def _identity(self) -> identity_room.Identity:
        config = self._config
        port = next((port for _, port in self._node.p2p_endpoints), None)
        endpoint = identity_room.Endpoint(config.p2p_external_ip or None, port if config.p2p_external_ip else None)
        return identity_room.Identity(config.private_key, config.state_dir, endpoint)

    def _slashing(self, chain: Chain) -> slashing.SlashingGuard:
        return slashing.SlashingGuard(
            self._config.state_dir / SLASHING_FILE,
            chain.genesis_validators_root,
            is_lost=self._config.is_slashing_record_lost,
            listen_s=LISTEN_EPOCHS * chain.slots_per_epoch * chain.slot_duration_s,
            on_listening=self._listening,
        )

    def _listening(self, left_s: float) -> None:
        self._is_listening = left_s > 0

    def _consensus(self, chain: Chain) -> consensus_room.Consensus:
        return consensus_room.Consensus(
            mesh=self._node.mesh,
            own_index=self._config.own_index,
            private_key=self._config.private_key,
            public_keys=[peer.public_key for peer in self._peers],
            validators=len(self._config.lock.validators),
            chain=chain,
            profile=self._config.profile,
            wall_clock=self._clock,
            metrics=ConsensusMetrics(self._node.metrics),
            peer_names=[peer.name for peer in self._peers],
            store=consensus_room.ParticipationFile(self._config.state_dir / PARTICIPATION_FILE, chain.genesis_validators_root),
        )

    def _signatures(self, chain: Chain) -> signatures_room.Signatures:
        lock = self._config.lock
        shares = {
            validator.public_key: signatures_room.Shares(dict(enumerate(validator.public_shares, 1)))
            for validator in lock.validators
        }
        return signatures_room.Signatures(
            signatures_room.Settings(
                validators=shares,
                own_share_index=self._config.own_index + 1,
                threshold=lock.definition.threshold,
                chain=chain,
                profile=self._config.profile,
            ),
            verify_all=self._verify_all,
            recover=self._recover,
            guard=self._mailboxes["slashing"],
            broadcast=self._node.mesh.broadcast,
            on_group=lambda group: self._mailboxes["duties"].tell(duties_room.GroupArrived(group)),
            wall_clock=self._clock,
            agreed_block=self._agreed_block,
            off_loop=self._off_loop,
            may_propose=self._may_propose,
            observe=partial(self._note_partials, chain),
            observe_verification=self._note_verification,
        )

    def _duties(self, chain: Chain) -> duties_room.Duties:
        lock = self._config.lock
        fee_recipients = {
            validator.public_key: addresses.fee_recipient_address
            for validator, addresses in zip(lock.validators, lock.definition.validators, strict=True)
        }
        return duties_room.Duties(
            duties_room.Settings(
                chain=chain,
                fee_recipients=fee_recipients,
                graffiti=self._graffiti,
                profile=self._config.profile,
                allow_foreign_fee_recipient=self._config.allow_foreign_fee_recipient,
                peer_names=[peer.name for peer in self._peers],
            ),
            beacon=self._mailboxes["beacon"],
            consensus=self._mailboxes["consensus"],
            signatures=self._mailboxes["signatures"],
            wall_clock=self._clock,
            on_fact=self._on_fact,
            verify_all=self._verify_all,
            off_loop=self._off_loop,
        )

    def _graffiti(self, pubkey: bytes) -> bytes:
        texts = self._config.graffiti or (b"",)
        suffix = self._client_suffix if self._config.graffiti_names_client else b""
        return graffiti.padded(texts[0 if len(texts) == 1 else self._places[pubkey]], suffix)

    async def _watch_client(self) -> None:
        """What the beacon node is, for the graffiti."""
        while True:
            try:
                version = await self._mailboxes["beacon"].ask(beacon_room.NodeVersion())
            except (beacon_room.BeaconFault, Retryable):
                await trio.sleep(EARLY_CHECK_INTERVAL_S)
            else:
                self._client_suffix = graffiti.client_suffix(version)
                await trio.sleep(CLIENT_INTERVAL_S)

    async def _validator_api(self, listening: socket, life: Life) -> None:
        life.started()
        lock, config = self._config.lock, self._config
        shares = validator_api_room.KeyShares(
            config.own_index + 1, [(validator.public_key, validator.public_shares) for validator in lock.validators]
        )
        machine = f"{GO_ARCHITECTURES.get(platform.machine(), platform.machine())}-{platform.system().lower()}"
        await validator_api_room.ValidatorApi(
            listening,
            shares,
            lambda: self._node.chain.known,
            self._mailboxes["beacon"],
            self._mailboxes["duties"],
            self._mailboxes["signatures"],
            version=f"charon-actors/charon/{config.profile.version_text}-unknown/{machine}",
            tls=config.validator_api_tls,
            off_loop=Elsewhere(self._in_process),
            on_request=self._request_seen,
            on_dropped=partial(self._connection_dropped, "validator_api"),
        ).run(life.stopping)

    async def _verify_all(self, checks: Sequence[Check]) -> Sequence[bool]:
        return await self._mailboxes["crypto_workers"].ask(crypto_workers.VerifyAll(checks)) if checks else ()

    async def _in_process(self, function: Callable[[Any], Any], item: Any) -> Any:
        return await self._mailboxes["crypto_workers"].ask(crypto_workers.LongWork(function, item))

    async def _recover(self, recoveries: Sequence[crypto_workers.Recovery]) -> Sequence[bytes | None]:
        crypto: Address[crypto_workers.Message] = self._mailboxes["crypto_workers"]
        return await crypto.ask(crypto_workers.RecoverSignatures(recoveries))

    # what comes from outside, on its way to an actor

    async def _take_partials(self, peer_index: int, message: bytes) -> None:
        await self._mailboxes["signatures"].deliver(signatures_room.PeerPartials(peer_index, message))

    async def _agreed_block(self, slot: int) -> Proposal | None:
        """The decided block of that slot, once it is; None when nobody of ours proposes there, or there will be none any more."""
        try:
            proposal: Proposal = await self._mailboxes["duties"].ask(duties_room.AwaitProposal(slot))
        except duties_room.NoDuty:
            return None
        return proposal

    async def _may_propose(self, slot: int, pubkey: bytes) -> bool:
        """Whether that validator proposes in that slot; True while its epoch's duties aren't known."""
        try:
            proposer: bytes = await self._mailboxes["duties"].ask(duties_room.ProposerOf(slot))
        except duties_room.NoDuty:
            return False
        except (duties_room.NotReady, Retryable):
            return True
        return proposer == pubkey

    def _chain_event(self, event: ChainEvent) -> None:
        chain = self._node.chain.known
        if isinstance(event, ReorgEvent) and chain is not None:
            epoch = chain.epoch_of(max(event.slot - event.depth, 0))
            self._mailboxes["duties"].tell(duties_room.ChainReorganised(epoch))

    # numbers

    def _write_constants(self, metrics: Metrics, own_name: str) -> None:
        config, definition = self._config, self._config.lock.definition
        metrics.gauge("app_version", {"version": config.profile.version_text}, 1)
        metrics.gauge("app_git_commit", {"git_hash": "unknown"}, 1)
        metrics.gauge("app_peer_name", {"peer_name": own_name}, 1)
        metrics.gauge("app_start_time_secs", {}, self._clock())
        metrics.gauge("app_monitoring_readyz", {}, 0)
        metrics.gauge("cluster_threshold", {}, definition.threshold)
        metrics.gauge("cluster_operators", {}, len(definition.operators))
        metrics.gauge("cluster_validators", {}, len(config.lock.validators))
        metrics.gauge("cluster_network", {"network": config.network.name}, 1)
        for duty_type in DutyType:
            for name in ("success", "failed", "expect"):
                metrics.count(f"core_tracker_{name}_duties_total", {"duty": duty_type.label}, 0)

    def _connection_dropped(self, port: str, reason: str) -> None:
        self._node.metrics.count("charon_actors_http_connections_dropped_total", {"port": port, "reason": reason})

    def _beacon_call(self, call: beacon_room.CallSeen) -> None:
        labels = {"endpoint": call.name}
        self._node.metrics.count("app_eth2_requests_total", labels)
        self._node.metrics.observe("app_eth2_latency_seconds", labels, call.seconds)
        if call.error is not None:
            self._node.metrics.count("app_eth2_errors_total", labels)
        elif call.by_fallback is not None:
            self._node.metrics.gauge("app_eth2_using_fallback", {}, call.by_fallback)

    def _beacon_cache(self, cache: beacon_room.CacheSeen) -> None:
        self._node.metrics.count(f"app_cache_{cache.outcome}_total", {"endpoint": cache.name}, cache.count)

    def _event_dropped(self, dropped: beacon_room.EventDropped) -> None:
        labels = {"addr": dropped.node, "topic": dropped.topic, "reason": dropped.reason}
        self._node.metrics.count("charon_actors_beacon_events_dropped_total", labels)

    def _request_seen(self, request: validator_api_room.RequestSeen) -> None:
        self._requests_of_epoch += 1
        metrics, labels = self._node.metrics, {"endpoint": request.endpoint}
        if request.endpoint == validator_api_room.PASSED_ON:
            metrics.observe("core_validatorapi_proxy_request_latency_seconds", {"path": request.path}, request.seconds)
        else:
            metrics.count("core_validatorapi_request_total", {**labels, "content_type": request.content_type})
            metrics.observe("core_validatorapi_request_latency_seconds", labels, request.seconds)
            if request.status >= 400:
                metrics.count("core_validatorapi_request_error_total", {**labels, "status_code": _status(request.status)})
        if request.user_agent and request.user_agent != self._user_agent:
            self._user_agent = request.user_agent
            metrics.clear("core_validatorapi_vc_user_agent")
            metrics.gauge("core_validatorapi_vc_user_agent", {"user_agent": request.user_agent}, 1)

    def _is_client_missing(self, epoch: int) -> bool:
        """Whether the validator client asked nothing during the whole epoch before `epoch`; assumed to be there at the start."""
        if epoch != self._counted_epoch:
            self._was_client_there = self._counted_epoch is None or self._requests_of_epoch > 0 or epoch < self._counted_epoch
            self._counted_epoch, self._requests_of_epoch = epoch, 0
        return not self._was_client_there

    def _note_partials(self, chain: Chain, duty: Duty, share_index: int, _: int) -> None:
        due_s = start_s(duty, chain)
        labels = {"duty": duty.type.label, "peer_idx": str(share_index - 1)}
        self._node.metrics.observe("core_parsigdb_store", labels, max(self._clock() - due_s, 0))

    def _on_fact(self, fact: Fact) -> None:
        self._numbers.note(fact)
        for listener in self._node.on_fact:
            listener(fact)
        if isinstance(fact, duties_room.DutyEnded):
            for on_duty in self._node.on_duty:
                on_duty(fact)

    def _note_verification(self, duty_type: DutyType, seconds: float) -> None:
        self._node.metrics.observe("core_parsigex_set_verification_seconds", {"duty": duty_type.label}, seconds)

    # readiness

    async def _watch_readiness(self) -> None:
        """Once a slot: the first row of the table in specification 10 §2 that holds. Until ready, more often."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_beacon_nodes)
            chain = await self._node.chain.get()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_client)
            await self._keep_readiness(chain)

    async def _keep_readiness(self, chain: Chain) -> None:
        peers = len(self._peers)
        needed = max(math.ceil(2 * peers / 3), self._config.lock.definition.threshold) - 1
        missing_checks = QUORUM_CHECKS
        while True:
            missing_checks = missing_checks + 1 if self._node.mesh.connected_count < needed else 0
            epoch = chain.epoch_of(max(chain.slot_at(self._clock()), 0))
            self._node._set_readiness(*await self._readiness(missing_checks >= QUORUM_CHECKS, epoch))
            ready = self._node.readiness.is_ready
            await trio.sleep(chain.slot_duration_s if ready else min(chain.slot_duration_s, 0.25))

    async def _watch_beacon_nodes(self) -> None:
        """The rows that can be told before the chain is known: an operator must not have to guess what is waited for."""
        while True:
            try:
                status = await self._mailboxes["beacon"].ask(beacon_room.SyncStatus())
            except (beacon_room.BeaconFault, Retryable):
                self._node._set_readiness(2, "beacon node down")
            else:
                if status.is_syncing:
                    self._node._set_readiness(3, "beacon node not synced")
            await trio.sleep(EARLY_CHECK_INTERVAL_S)

    async def _readiness(self, are_peers_missing: bool, epoch: int) -> tuple[int, str]:
        try:
            status = await self._mailboxes["beacon"].ask(beacon_room.SyncStatus())
        except (beacon_room.BeaconFault, Retryable):
            return 2, "beacon node down"
        if status.peers is not None:
            self._node.metrics.gauge("app_beacon_node_peers", {}, status.peers)
        if status.is_syncing:
            return 3, "beacon node not synced"
        if status.peers == 0:
            return 7, "beacon node has zero peers"
        if status.sync_distance > FAR_BEHIND_SLOTS:
            return 8, "beacon node far behind"
        if are_peers_missing:
            return 4, "quorum peers not connected"
        if self._is_listening:
            return 9, "slashing record was lost, only listening for two epochs"
        if self._is_client_missing(epoch):
            return 5, "vc not connected"
        return 1, "ok"


class ConsensusMetrics:
    """The consensus actor's numbers, in the registry's names."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def decided(self, duty_type: DutyType, timer: str, round_: int, leader_index: int, duration_s: float) -> None:
        labels = {"protocol": consensus_room.PROTOCOL, "duty": duty_type.label}
        self._metrics.gauge("core_consensus_decided_rounds", {**labels, "timer": timer}, round_)
        self._metrics.gauge("core_consensus_decided_leader_index", labels, leader_index)
        self._metrics.observe("core_consensus_duration_seconds", {**labels, "timer": timer}, duration_s)

    def timed_out(self, duty_type: DutyType, timer: str) -> None:
        labels = {"protocol": consensus_room.PROTOCOL, "duty": duty_type.label, "timer": timer}
        self._metrics.count("core_consensus_timeout_total", labels)

    def error(self) -> None:
        self._metrics.count("core_consensus_error_total", {"protocol": consensus_room.PROTOCOL})

    def insufficient_round_changes(self, duty_type: DutyType, timer: str, outcome: str) -> None:
        labels = {"protocol": consensus_room.PROTOCOL, "duty": duty_type.label, "timer": timer, "outcome": outcome}
        self._metrics.count("core_consensus_insufficient_round_changes_total", labels)


async def _serve(application: Application, listening: socket, on_dropped: Callable[[str], None], life: Life) -> None:
    life.started()
    limits = Limits(connections=monitoring_connections())
    await http_server.serve(application, listening, stopping=life.stopping, limits=limits, on_dropped=on_dropped)


def _status(status: int) -> str:
    """As a label: beacon nodes, whose answers are passed on, may invent any."""
    return str(status) if status in _STATUSES else OTHER


def _note(event: Event, metrics: Metrics) -> None:
    """Supervisor events, in log and metrics."""
    match event:
        case Crashed(path, error, restart_in_s):
            metrics.count("charon_actors_restarts_total", {"actor": path.rpartition("/")[2]})
            causes = list(leaves(error))
            if any(isinstance(cause, UserError) for cause in causes):
                return  # the door tells the operator
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
