"""Listener: accepts TCP connections, shakes hands, lets in only who belongs here, and hands over.

Accepts     nothing; it has no mailbox
Owns        connections until they are adopted. Not the sockets: they are opened once, outside, and stay bound over restarts
May touch   sockets; peer and relay children (Adopt)
Limits      places and pace of handshakes: `charon_actors.p2p.admission`, by address (IPv6: by /64); ACCEPTS_A_SECOND
Cancelled   handshakes end, adopted connections live on with their peer's child
Restart     accepts again; connections in the kernel's queue wait meanwhile
Source      specification 03-p2p, sections 2 and 2.1

The gate looks at the peer id that the handshake has proved, never at an address: nodes of the cluster, and relays by their ids of
the moment. Whoever else comes sees a finished handshake and then a reset, as from Charon.
"""

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Sequence
from typing import Final

import structlog
import trio

from actors.change_log import ChangeLog
from actors.mailbox import Address
from actors.mesh.connection import Connection
from actors.mesh.dialer import DIAL_ERRORS, describe, tune
from actors.mesh.host import Host
from actors.mesh.peer import Message as PeerMessage
from actors.mesh.relay import hand_over
from actors.mesh.upgrade import PeerRefused, upgrade
from charon_actors.errors import UserError
from charon_actors.p2p.admission import FIRST_BYTES_S, NEXT_BYTES_S, Admission, Place
from charon_actors.p2p.multiaddr import tcp_endpoint, tcp_multiaddr

ACCEPTS_A_SECOND: Final = 100.0  # whoever connects faster waits in the kernel's queue
BACKLOG: Final = 256
CALM_S: Final = 10.0  # between two lines of a kind: strangers can cause them at will
REST_S: Final = 0.1  # when the process has no file descriptor left
_TRANSIENT: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)

log = structlog.get_logger(topic="p2p")


def open_listen_sockets(endpoints: Sequence[tuple[str, int]]) -> tuple[socket.socket, ...]:
    """Bound, listening sockets for (ip, port) pairs; port 0 takes any free one. The caller closes them after the last incarnation.

    They share their port with our own dials (SO_REUSEPORT); a port that another program has is refused all the same.
    Raises: UserError.
    """
    opened: list[socket.socket] = []
    try:
        for host, port in endpoints:
            opened.append(_open(host, port))
    except BaseException:
        for sock in opened:
            sock.close()
        raise
    return tuple(opened)


class Listener:
    """One incarnation; see the contract on top."""

    def __init__(self, sockets: Sequence[socket.socket], host: Host, peers: dict[int, Address[PeerMessage]]) -> None:
        self._sockets, self._host, self._peers = sockets, host, peers
        self._admission = Admission(_endpoints(host))
        self._scopes: dict[Place, trio.CancelScope] = {}
        self._lines, self._strangers = ChangeLog(calm_s=CALM_S), ChangeLog(calm_s=CALM_S)

    async def run(self) -> None:
        """Accept until cancelled."""
        async with trio.open_nursery() as nursery:
            for sock in self._sockets:
                nursery.start_soon(self._accept, trio.socket.from_stdlib_socket(sock), nursery)
            await trio.sleep_forever()

    async def _accept(self, listening: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        next_at = trio.current_time()
        while True:
            try:
                sock, remote = await listening.accept()
            except OSError as error:
                if error.errno in _TRANSIENT:
                    if self._lines.is_due(describe(error), trio.current_time()):
                        log.warning("Cannot accept connections", error=describe(error))
                    await trio.sleep(REST_S)
                elif error.errno in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
                    raise
                continue
            place, leaving = self._admission.enter(_origin(str(remote[0])), int(remote[1]))
            if leaving is not None:
                self._scopes.pop(leaving).cancel()
                self._count("dropped")
            scope = self._scopes[place] = trio.CancelScope()
            nursery.start_soon(self._welcome, sock, (str(remote[0]), int(remote[1])), place, scope)
            next_at = max(next_at, trio.current_time() - 1) + 1 / ACCEPTS_A_SECOND
            await trio.sleep_until(next_at)

    async def _welcome(
        self, sock: trio.socket.SocketType, remote: tuple[str, int], place: Place, scope: trio.CancelScope
    ) -> None:
        connection: Connection | None = None
        try:
            with scope:
                connection = await self._shake_hands(sock, remote, place, scope)
            if scope.cancelled_caught and place in self._scopes:
                self._count("silent")
        except PeerRefused as error:
            self._count("refused")
            if self._strangers.is_due(place.address, trio.current_time()):
                log.info("Refused a stranger", address=str(tcp_multiaddr(*remote)), reason=describe(error))
        except DIAL_ERRORS as error:
            self._count("failed")
            log.debug("Incoming handshake failed", address=str(tcp_multiaddr(*remote)), error=describe(error))
        except Exception as error:  # a bug that any stranger could use must not cost the other handshakes
            self._count("failed")
            if self._lines.is_due(type(error), trio.current_time()):
                log.exception("Incoming handshake failed unexpectedly", address=str(tcp_multiaddr(*remote)))
        finally:
            self._scopes.pop(place, None)
            self._admission.leave(place)
            if connection is None:
                sock.close()
        if connection is not None:
            self._count("accepted")
            self._admission.remember(place.address)
            await self._hand_over(connection)

    async def _shake_hands(
        self, sock: trio.socket.SocketType, remote: tuple[str, int], place: Place, scope: trio.CancelScope
    ) -> Connection:
        async def on_bytes(readings: int) -> None:
            if readings == 1:
                place.stage, scope.deadline = 1, float("inf")  # `upgrade` has its own limit
                while wait_s := self._admission.begin(place, trio.current_time()):
                    await trio.sleep(wait_s)
            scope.deadline = trio.current_time() + NEXT_BYTES_S

        scope.deadline = trio.current_time() + FIRST_BYTES_S
        tune(sock)
        connection = await upgrade(
            trio.SocketStream(sock),
            self._host.identity,
            outbound=False,
            expected_peer=None,
            is_allowed=self._host.is_welcome,
            remote_address=tcp_multiaddr(*remote),
            account_of=self._host.ledger.account_of,
            on_bytes=on_bytes,
        )
        scope.deadline = float("inf")
        return connection

    async def _hand_over(self, connection: Connection) -> None:
        index = self._host.peer_index(connection.peer_id)
        relay = self._host.board.relay_of(connection.peer_id)
        if index is not None:
            await hand_over(connection, self._peers[index])
        else:
            await hand_over(connection, self._host.board.relay_addresses[relay] if relay is not None else None)

    def _count(self, result: str) -> None:
        self._host.events.count("charon_actors_p2p_handshakes_total", {"result": result})


def _endpoints(host: Host) -> frozenset[tuple[str, int]]:
    """Where peers listen, as far as that is known without asking DNS."""
    found = set()
    for peer in host.peers:
        for address in peer.addresses:
            endpoint = tcp_endpoint(address)
            if endpoint is not None:
                with contextlib.suppress(ValueError):
                    found.add((_origin(endpoint[0]), endpoint[1]))
    return frozenset(found)


def _origin(host: str) -> str:
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        mapped = ip.ipv4_mapped
        return str(mapped) if mapped is not None else str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))
    return str(ip)


def _open(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if port:  # SO_REUSEPORT would share the port with any other program of ours, a second node on the same port included
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((host, port))
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port))
            sock.listen(BACKLOG)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise UserError(
            f"--p2p-tcp-address {host}:{port}", describe(error), "stop the program that uses the port, or choose another address"
        ) from None
    return sock
