"""Mesh: what the rest of the program holds of the network, and how its children are made.

    sockets = open_listen_sockets([("0.0.0.0", 3610)])
    mesh, bodies = build_mesh(MeshConfig(...), handlers, entropy=secrets.token_bytes, wall_clock=time.time, sockets=sockets)
    # each body is run by a supervisor child of the same name, each call is a new incarnation

A `Mesh` is a plain value over one Address a peer; it owns nothing, may be used from any task and outlives restarts of the children.
Peers are named by their index in the operator list. Nothing here is kept in order: two sends to one peer may arrive either way.

Source: specification 03-p2p, sections 2, 5 and 8.
"""

import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec
import trio

from actors.facts import OnFact, unheard
from actors.log import get_logger
from actors.mailbox import Address, Mailbox, run_incarnation
from actors.mesh.account import MEMBER_BYTES, Ledger
from actors.mesh.addresses import advertised_addresses
from actors.mesh.adoption import hand_over
from actors.mesh.board import Board, RelayFacts
from actors.mesh.connection import Connection
from actors.mesh.facts import SendRefused
from actors.mesh.handlers import Handlers
from actors.mesh.host import Host, MeshPeer
from actors.mesh.identify import Introduction
from actors.mesh.listener import Listener
from actors.mesh.messages import (
    DEFAULT_ANSWER_LIMIT_BYTES,
    OPEN_TIMEOUT_S,
    SEND_TIMEOUT_S,
    Deliver,
    Exchange,
    FetchStatus,
    OpenStream,
    PeerStatus,
    SendDetached,
    SendTimeout,
)
from actors.mesh.peer import Message as PeerMessage
from actors.mesh.peer import PeerActor
from actors.mesh.ping import PING
from actors.mesh.relay import Message as RelayMessage
from actors.mesh.relay import RelayClient, is_resolved_over_http
from actors.mesh.resolver import ResolveFault, check_url, decode_entry, relay_headers
from actors.mesh.stream import Stream
from actors.mesh.tcp import TcpAcceptor, TcpTransport
from actors.mesh.transport import Acceptor, Transport
from actors.mesh.upgrade import HostIdentity
from charon_actors.crypto import Entropy, k1_public_key
from charon_actors.enr import Record
from charon_actors.errors import Retryable, UserError
from charon_actors.p2p.identify import IDENTIFY, IDENTIFY_PUSH
from charon_actors.p2p.multiaddr import MAX_NAME_BYTES, Multiaddr, tcp_multiaddr
from charon_actors.p2p.peer_id import peer_id_of, peer_name
from charon_actors.p2p.peerinfo import OWN_CLIENT, PEERINFO, PeerInfo
from charon_actors.p2p.relay_messages import STOP
from charon_actors.profile import Profile

GRACE_S: Final = 1.0  # a child has this long after a request's own time limit, then the caller goes on without it
PEER_MAILBOX: Final = 1024
RELAY_MAILBOX: Final = 256
MAX_NICKNAME_BYTES: Final = 32
BUILT_IN: Final = (IDENTIFY, IDENTIFY_PUSH, PING, PEERINFO, STOP)

Body = Callable[[], Awaitable[None]]
log = get_logger("p2p")


@dataclass(frozen=True)
class MeshConfig:
    """Everything that a mesh must know, checked by `build_mesh`.

    private_key: ENR key, 32 bytes. peers: all operators, ourselves included, in the lock's order. relays: the texts of
    `--p2p-relays`. cluster_hash, cluster_uuid: for the relays' load balancer (03 §3.1). lock_hash: 32 bytes, in a DKG the definition
    hash. is_pinging, is_polling_peerinfo: false in a DKG. use_listen_port: dial from the listen port (`--p2p-disable-reuseport`).
    member_bytes: of unread and unfinished messages that one peer may have here.
    """

    private_key: bytes = field(repr=False)
    peers: tuple[MeshPeer, ...]
    own_index: int
    profile: Profile
    lock_hash: bytes
    relays: tuple[str, ...] = ()
    cluster_hash: str = ""
    cluster_uuid: str = ""
    external_ip: str = ""
    external_hostname: str = ""
    nickname: str = ""
    version: str = ""  # empty: the profile's
    git_hash: str = "unknown"
    client: str = OWN_CLIENT
    is_builder_enabled: bool = False
    is_pinging: bool = True
    is_polling_peerinfo: bool = True
    use_listen_port: bool = True
    force_direct_interval_s: float = 60.0
    member_bytes: int = MEMBER_BYTES


class Mesh:
    """The network as other actors see it. All methods may be called for any peer but ourselves."""

    def __init__(
        self, host: Host, mailboxes: Mapping[int, Mailbox[PeerMessage]], relays: Sequence[Mailbox[RelayMessage]] = ()
    ) -> None:
        self._host, self._addresses = host, {index: mailbox.address for index, mailbox in mailboxes.items()}
        self.mailboxes: tuple[Mailbox[PeerMessage] | Mailbox[RelayMessage], ...] = (*mailboxes.values(), *relays)
        self.peers, self.own_index = host.peers, host.own_index

    @property
    def others(self) -> tuple[MeshPeer, ...]:
        """All peers but ourselves."""
        return tuple(peer for peer in self.peers if peer.index != self.own_index)

    @property
    def connected_count(self) -> int:
        """Other peers with at least one connection of any kind. Ready: at least ceil(2n/3) - 1."""
        return self._host.board.connected_count

    @property
    def own_info(self) -> PeerInfo:
        """What we answer to peerinfo."""
        return self._host.own_info()

    @property
    def board(self) -> Board:
        """Facts published by the children; read only."""
        return self._host.board

    def send(self, peer_index: int, protocols: Sequence[str], message: bytes, *, topic: str = "") -> None:
        """Send one-way, detached from the caller: returns at once, 7 s, one retry. Failures are logged and counted, not raised."""
        try:
            self._addresses[peer_index].tell(SendDetached(tuple(protocols), message, topic))
        except Retryable as error:
            self._host.on_fact(SendRefused(self.peers[peer_index].name, type(error).__name__))

    def broadcast(self, protocols: Sequence[str], message: bytes, *, topic: str = "") -> None:
        """`send` to all other peers."""
        for peer in self.others:
            self.send(peer.index, protocols, message, topic=topic)

    async def deliver(
        self, peer_index: int, protocols: Sequence[str], message: bytes, timeout_s: float = SEND_TIMEOUT_S, *, topic: str = ""
    ) -> None:
        """Send one-way and wait until it is written. Raises: MeshFault, ActorDown, MailboxFull. Cancellation: at any time."""
        request = Deliver(tuple(protocols), message, timeout_s, topic)
        with _limit(timeout_s + GRACE_S, self.peers[peer_index].name):
            await self._addresses[peer_index].ask(request)

    async def exchange(
        self,
        peer_index: int,
        protocols: Sequence[str],
        message: bytes,
        timeout_s: float = SEND_TIMEOUT_S,
        *,
        limit_bytes: int = DEFAULT_ANSWER_LIMIT_BYTES,
        topic: str = "",
    ) -> bytes:
        """Request and response. Raises: MeshFault, ActorDown, MailboxFull. Cancellation: at any time."""
        request = Exchange(tuple(protocols), message, timeout_s, limit_bytes, topic)
        with _limit(timeout_s + GRACE_S, self.peers[peer_index].name):
            return await self._addresses[peer_index].ask(request)

    async def open_stream(self, peer_index: int, protocols: Sequence[str], timeout_s: float = OPEN_TIMEOUT_S) -> Stream:
        """A negotiated stream that the caller owns. Raises: MeshFault, ActorDown, MailboxFull. Cancellation: at any time."""
        with _limit(timeout_s + GRACE_S, self.peers[peer_index].name):
            return await self._addresses[peer_index].ask(OpenStream(tuple(protocols), timeout_s))

    async def status(self, peer_index: int) -> PeerStatus:
        """What we know of a peer now. Raises: ActorDown, MailboxFull."""
        return await self._addresses[peer_index].ask(FetchStatus())

    async def wait_for_relays(self, timeout_s: float = 60.0) -> None:
        """Wait until one relay is known, when relays are the only way to be reached or to reach somebody.

        Returns at once if there are none configured, or if we listen or know an address of every peer.
        Raises: UserError that names each relay and its last error.
        """
        board = self._host.board
        is_reachable = bool(self._host.is_listening)
        if not board.relays or is_reachable or all(peer.addresses for peer in self.others):
            return
        with trio.move_on_after(timeout_s):
            await board.wait_until(lambda: any(facts.peer_ids for facts in board.relays))
            return
        reasons = "; ".join(f"{facts.entry}: {facts.error or 'no answer'}" for facts in board.relays)
        raise UserError(
            "--p2p-relays", f"no relay could be found within {timeout_s:g} s ({reasons})", "check the URLs and the network"
        )


@contextmanager
def _limit(seconds: float, name: str) -> Iterator[None]:
    """For a child that is down and takes no mail: its requests have time limits of their own."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise SendTimeout(f"{name}: nobody took the request within {seconds:g} s")


def mesh_peers(records: Sequence[Record], extra: Mapping[int, Sequence[Multiaddr]] | None = None) -> tuple[MeshPeer, ...]:
    """The peers of a cluster from its operators' ENRs, in order. extra: more addresses by peer index, tried besides the ENR's."""
    peers = []
    for index, record in enumerate(records):
        peer_id = peer_id_of(record.public_key)
        addresses = list((extra or {}).get(index, ()))
        if record.ip is not None and record.tcp is not None:
            addresses.append(tcp_multiaddr(record.ip, record.tcp))
        peers.append(MeshPeer(index, peer_id, peer_name(peer_id), record.public_key, tuple(dict.fromkeys(addresses))))
    return tuple(peers)


def build_mesh(
    config: MeshConfig,
    handlers: Handlers,
    *,
    entropy: Entropy,
    wall_clock: Callable[[], float],
    sockets: Sequence[socket.socket] = (),
    on_fact: OnFact = unheard,
    transports: Sequence[Transport] = (),
    acceptors: Sequence[Acceptor] = (),
) -> tuple[Mesh, dict[str, Body]]:
    """The mesh and its children's bodies by name, in start order: `listener`, `relay:<n>`, `peer:<name>`.

    handlers: Charon protocols that we serve to peers; identify, ping, peerinfo and circuit stop are built in. wall_clock: unix
    seconds. sockets: of `open_listen_sockets`; empty: outgoing only. transports, acceptors: more than TCP's, tried before it.
    Must be called inside trio.run. Raises: UserError for a configuration that can't work.
    """
    _check(config, handlers)
    endpoints = tuple((str(sock.getsockname()[0]), int(sock.getsockname()[1])) for sock in sockets)
    tcp = TcpTransport(endpoints if config.use_listen_port else ())
    acceptors = (*acceptors, *map(TcpAcceptor, sockets))
    host = _host(config, handlers, entropy, wall_clock, endpoints, (*transports, tcp), on_fact, is_listening=bool(acceptors))
    mailboxes = {
        peer.index: Mailbox[PeerMessage](_child_name(peer, config.peers), PEER_MAILBOX)
        for peer in config.peers
        if peer.index != config.own_index
    }
    addresses: dict[int, Address[PeerMessage]] = {index: mailbox.address for index, mailbox in mailboxes.items()}
    bodies: dict[str, Body] = {}
    if acceptors:
        bodies["listener"] = lambda: Listener(acceptors, host, partial(_to_its_owner, host, addresses)).run()
    headers = relay_headers(config.cluster_hash, config.cluster_uuid)
    relays: list[Mailbox[RelayMessage]] = []
    for index, entry in enumerate(config.relays):
        relay_mailbox = Mailbox[RelayMessage](f"relay:{index}", RELAY_MAILBOX)
        relays.append(relay_mailbox)
        host.board.relay_addresses.append(relay_mailbox.address)
        make_relay = partial(RelayClient, index, entry, headers, host, addresses)
        bodies[f"relay:{index}"] = partial(run_incarnation, relay_mailbox, make_relay)
    for index, mailbox in mailboxes.items():
        bodies[mailbox.name] = partial(run_incarnation, mailbox, partial(PeerActor, config.peers[index], host))
    return Mesh(host, mailboxes, relays), bodies


async def _to_its_owner(host: Host, peers: Mapping[int, Address[PeerMessage]], connection: Connection) -> None:
    """What the listener let in goes to the peer's child, or the relay's."""
    index, relay = host.peer_index(connection.peer_id), host.board.relay_of(connection.peer_id)
    if index is not None:
        await hand_over(connection, peers[index])
    else:
        await hand_over(connection, host.board.relay_addresses[relay] if relay is not None else None)


def _host(
    config: MeshConfig,
    handlers: Handlers,
    entropy: Entropy,
    wall_clock: Callable[[], float],
    endpoints: tuple[tuple[str, int], ...],
    transports: tuple[Transport, ...],
    on_fact: OnFact,
    *,
    is_listening: bool,
) -> Host:
    identity = HostIdentity(config.private_key, entropy)
    started_at = wall_clock()
    info = PeerInfo(
        version=config.version or config.profile.version_text,
        lock_hash=config.lock_hash,
        sent_at_s=started_at,
        git_hash=config.git_hash,
        started_at_s=started_at,
        is_builder_enabled=config.is_builder_enabled,
        nickname=config.nickname,
        client=config.client,
    )
    return Host(
        identity=identity,
        own_index=config.own_index,
        peers=config.peers,
        handlers=dict(handlers),
        introduction=Introduction(
            identity,
            agent=f"obolnetwork-charon/{info.version}",
            protocols=[*handlers, *BUILT_IN],
            addresses=partial(advertised_addresses, endpoints, config.external_ip, config.external_hostname),
            wall_clock=wall_clock,
        ),
        board=Board(len(config.peers), tuple(RelayFacts(entry, f"relay {index}") for index, entry in enumerate(config.relays))),
        ledger=Ledger(on_fact, [(peer.peer_id, peer.name) for peer in config.peers], member_bytes=config.member_bytes),
        on_fact=on_fact,
        transports=transports,
        profile=config.profile,
        own_info=lambda: msgspec.structs.replace(info, sent_at_s=wall_clock()),
        is_pinging=config.is_pinging,
        is_polling_peerinfo=config.is_polling_peerinfo,
        entropy=entropy,
        wall_clock=wall_clock,
        is_listening=is_listening,
        force_direct_interval_s=config.force_direct_interval_s,
    )


def _child_name(peer: MeshPeer, peers: Sequence[MeshPeer]) -> str:
    """There are 7056 names: in one cluster of sixteen in sixty, two operators share one."""
    is_shared = sum(other.name == peer.name for other in peers) > 1
    return f"peer:{peer.name}-{peer.index}" if is_shared else f"peer:{peer.name}"


def _check(config: MeshConfig, handlers: Handlers) -> None:
    own = config.peers[config.own_index]
    if k1_public_key(config.private_key) != own.public_key:
        raise UserError(
            "charon-enr-private-key",
            "the key is not the one of this operator's ENR",
            "use the key that the cluster was made with",
        )
    if len({peer.peer_id for peer in config.peers}) != len(config.peers):
        raise UserError("cluster", "two operators have the same ENR key", "each operator needs a key of their own")
    if len(config.nickname.encode()) > MAX_NICKNAME_BYTES:
        raise UserError("--nickname", f"it is longer than {MAX_NICKNAME_BYTES} bytes", "choose a shorter one")
    if config.external_ip:
        try:
            ipaddress.ip_address(config.external_ip)
        except ValueError:
            raise UserError(
                "--p2p-external-ip", f"{config.external_ip!r} is no IP address", "give an IPv4 or IPv6 address"
            ) from None
    if config.external_hostname and not is_hostname(config.external_hostname):
        raise UserError("--p2p-external-hostname", f"{config.external_hostname!r} is no host name", "give a DNS name")
    taken = set(handlers) & set(BUILT_IN)
    assert not taken, f"these protocols are built in: {taken}"
    for entry in config.relays:
        try:
            if is_resolved_over_http(entry):
                check_url(entry)
                if entry.startswith("http:"):
                    log.warning("Relay is asked over plain http, anybody on the way can change the answer", relay=entry)
            else:
                decode_entry(entry)
        except ResolveFault as error:
            raise UserError(f"--p2p-relays {entry}", str(error), "give a URL or a multiaddr with /p2p/<relay id>") from None


def is_hostname(text: str) -> bool:
    """Whether DNS could know it: labels of letters, digits and hyphens, up to 63 bytes each after IDNA, 253 in all (09 §4)."""
    try:
        encoded = text.removesuffix(".").encode("idna").decode("ascii")
    except UnicodeError:
        return False
    return max(len(encoded), len(text.encode())) <= MAX_NAME_BYTES and all(
        re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?", label) for label in encoded.split(".")
    )
