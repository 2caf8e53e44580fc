"""TCP: the transport of all Charon nodes.

Sockets are as Go's: TCP_NODELAY, keepalive after 30 s, linger 0 (a close is a RST), and with a listen address of the same family the source
port of a dial is our listen port, so that a NAT opens the way for the peer's own dial; when the kernel refuses that, any port will do.

Source: specification 03 §2, §2.3.
"""

import ipaddress
import socket
import struct
from collections.abc import Sequence
from typing import Final

import trio

from actors.mesh.faults import DialFault, describe
from actors.mesh.transport import Incoming
from charon_actors.errors import UserError
from charon_actors.p2p.dial import TCP_CONNECT_TIMEOUT_S
from charon_actors.p2p.multiaddr import Multiaddr, tcp_endpoint, tcp_multiaddr

KEEPALIVE_S: Final = 30
MAX_RESOLVED: Final = 4
BACKLOG: Final = 256


class TcpTransport:
    """listen_endpoints: ip and port of where we listen; dials leave from there."""

    name = "tcp"

    def __init__(self, listen_endpoints: Sequence[tuple[str, int]] = ()) -> None:
        self._endpoints = [(ipaddress.ip_address(host).version, (host, port)) for host, port in listen_endpoints]

    def speaks(self, address: Multiaddr) -> bool:
        return tcp_endpoint(address) is not None

    async def dial(self, address: Multiaddr) -> trio.SocketStream:
        """See `Transport`."""
        endpoint = tcp_endpoint(address)
        if endpoint is None:
            raise DialFault("not a TCP address")
        with trio.move_on_after(TCP_CONNECT_TIMEOUT_S) as limit:
            return await _connect(*endpoint, self._source_for(address))
        assert limit.cancelled_caught
        raise DialFault(f"no answer within {TCP_CONNECT_TIMEOUT_S:g} s")

    def _source_for(self, address: Multiaddr) -> tuple[str, int] | None:
        """The listen address of the same family, to dial from; None: any port."""
        version = 6 if bool(address.components) and address.components[0][0] == "ip6" else 4
        return next((endpoint for found, endpoint in self._endpoints if found == version), None)


class TcpAcceptor:
    """An `Acceptor` of a listening socket, which the caller closes."""

    def __init__(self, sock: socket.socket) -> None:
        self._listening = trio.socket.from_stdlib_socket(sock)

    async def accept(self) -> Incoming:
        while True:
            sock, remote = await self._listening.accept()
            try:
                tune(sock)
            except OSError:  # it is gone already
                sock.close()
                continue
            host, port = str(remote[0]), int(remote[1])
            return Incoming(trio.SocketStream(sock), tcp_multiaddr(host, port), (origin_of(host), port))


def origin_of(host: str) -> str:
    """The IP address; of IPv6 its /64."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        mapped = ip.ipv4_mapped
        return str(mapped) if mapped is not None else str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))
    return str(ip)


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


def tune(sock: trio.socket.SocketType | socket.socket) -> None:
    """The socket options of a libp2p connection."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)


async def _connect(host: str, port: int, source: tuple[str, int] | None) -> trio.SocketStream:
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # what `Multiaddr` lets pass is IDNA 2003; Trio asks by IDNA 2008
        raise DialFault("not a DNS name") from None
    last: Exception = DialFault("the name has no address")
    for family, _, _, _, sockaddr in found[:MAX_RESOLVED]:
        try:
            return await _connect_one(family, sockaddr, source)
        except OSError as error:
            last = error
    raise last


async def _connect_one(family: int, sockaddr: tuple[object, ...], source: tuple[str, int] | None) -> trio.SocketStream:
    if source is not None and (family == socket.AF_INET6) == (":" in source[0]):
        try:
            return await _connect_from(family, sockaddr, source)
        except OSError as error:
            if isinstance(error, ConnectionRefusedError):
                raise
    return await _connect_from(family, sockaddr, None)


async def _connect_from(family: int, sockaddr: tuple[object, ...], source: tuple[str, int] | None) -> trio.SocketStream:
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        tune(sock)
        if source is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            await sock.bind(source)
        await sock.connect(sockaddr)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


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
