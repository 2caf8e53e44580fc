"""HTTP servers: an ASGI application on a socket that is bound once and survives restarts of whoever serves it.

Each incarnation serves a duplicate of the socket, so a restart never gives up the port; while nobody serves, connections wait in the
socket's backlog. Who may be connected, and who goes when there are too many, is `http_port.py`'s; what happens on one connection is
`http_connection.py`'s. What goes wrong in one connection, whatever it is, ends that connection and nothing else.

    stopping is set      no newcomers, idle connections end, requests in flight have `graceful_s`
    that is over         every socket is closed, whatever its client does: no step of a connection is shielded
    no descriptor left   one idle connection is closed for it, the next attempt comes after ACCEPT_REST_S, doubled up to ACCEPT_REST_MOST_S

Whatever others set the pace of (connections that end by an error, that are dropped, that can't be accepted) is one line every
REPORT_INTERVAL_S with a count. Source: architecture §1 (validator_api: restarts alone, port stays bound); docs/threat-model.md.
"""

import errno
import os
import socket
import ssl
from functools import partial
from typing import Final

import trio

from actors.facts import OnFact, unheard
from actors.http.connection import Application, ClientGone, HttpConnection, TcpStream
from actors.http.facts import ConnectionDropped
from actors.http.port import Limits, Port, PortPlace, address_of
from actors.http.request_heads import with_checked_heads
from actors.log import get_logger
from charon_actors.errors import UserError
from charon_actors.exception_groups import leaves

log = get_logger("http")

BACKLOG: Final = 256
GRACEFUL_S: Final = 1.0
REPORT_INTERVAL_S: Final = 60.0
EXAMPLE: Final = "127.0.0.1:3600"
ACCEPT_REST_S: Final = 0.1
ACCEPT_REST_MOST_S: Final = 1.0
DEAD_CLIENT_S: Final = 30  # a client that acknowledges nothing for so long is gone
NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
DEFAULT_LIMITS: Final = Limits(
    connections=256,
    graceful_s=GRACEFUL_S,
    requests_rate=2000,
    requests_burst=500,
    connections_rate=2000,
    connections_burst=256,
    pieces_rate=float("inf"),
)


def split_endpoint(text: str, flag: str, example: str = EXAMPLE, *, may_be_any: bool = False) -> tuple[str, int]:
    """`127.0.0.1:3600` or `[::1]:3600` as host and port. Raises: UserError naming the flag, with an example for it.

    may_be_any: `:3600` is allowed, with an empty host, for all interfaces. Peers need an address, there Charon refuses it (03 §2).
    """
    host, colon, port = text.strip().rpartition(":")
    host = host.strip("[]")
    if not colon or (not host and not may_be_any) or not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise UserError(flag, f"{text!r} is no address", f"write it as ip:port, for example {example}")
    return host, int(port)


def bind(text: str, flag: str, example: str = EXAMPLE) -> socket.socket:
    """A bound, listening TCP socket for `ip:port`; port 0 takes a free one. The caller closes it. Raises: UserError.

    `:port` is all interfaces, IPv6 and IPv4 on one socket, as in Go; IPv4 alone on a machine without IPv6. Of a name's addresses
    it is an IPv4 one, if there is any, as in Go.
    """
    host, port = split_endpoint(text, flag, example, may_be_any=True)
    is_dual = not host and socket.has_dualstack_ipv6()
    if not host:
        host = "::" if is_dual else "0.0.0.0"  # noqa: S104 - the operator asked for all interfaces
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UserError(flag, f"the host of {text} can't be found", "give an IP address of this machine") from error
    family, kind, protocol, _, address = min(found, key=lambda row: row[0] != socket.AF_INET)
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_dual:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(flag, f"another program listens on {text}", "stop it, or choose another address") from error
        raise UserError(
            flag, f"this machine can't listen on {text} ({os.strerror(error.errno or 0)})", "choose another address"
        ) from error
    return listening


async def serve(
    application: Application,
    listening: socket.socket,
    *,
    stopping: trio.Event | None = None,
    limits: Limits = DEFAULT_LIMITS,
    tls: ssl.SSLContext | None = None,
    name: str = "http",
    on_fact: OnFact = unheard,
) -> None:
    """Serve HTTP/1.1 on `listening` until cancelled, or until `stopping` is set and the requests in flight are done.

    name: of the port, in facts.
    Cancellation: open requests are dropped. The socket stays open and bound.
    """
    for option, level, value in _SOCKET_OPTIONS:
        listening.setsockopt(level, option, value)  # inherited by accepted connections
    duplicate = listening.dup()
    duplicate.listen(BACKLOG)
    await _Server(application, duplicate, limits, tls, name, on_fact).run(stopping)


_SOCKET_OPTIONS: Final = (
    (socket.SO_KEEPALIVE, socket.SOL_SOCKET, 1),
    (socket.TCP_NODELAY, socket.IPPROTO_TCP, 1),
    *(((socket.TCP_USER_TIMEOUT, socket.IPPROTO_TCP, DEAD_CLIENT_S * 1000),) if hasattr(socket, "TCP_USER_TIMEOUT") else ()),
)


class _Server:
    """One incarnation on its own duplicate of the socket."""

    def __init__(
        self,
        application: Application,
        duplicate: socket.socket,
        limits: Limits,
        tls: ssl.SSLContext | None,
        name: str,
        on_fact: OnFact,
    ) -> None:
        self._application, self._tls = with_checked_heads(application), tls
        self._name, self._on_fact = name, on_fact
        self._number = duplicate.getsockname()[1]
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(duplicate))
        self._port = Port(limits, self._dropped)
        self._lines: dict[str, _Line] = {}

    async def run(self, stopping: trio.Event | None) -> None:
        async with self._listener, trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(self._accept, connections)
                await (trio.Event() if stopping is None else stopping).wait()
                accepting.cancel_scope.cancel()
            self._port.stop()
            connections.cancel_scope.deadline = trio.current_time() + self._port.limits.graceful_s

    async def _accept(self, connections: trio.Nursery) -> None:
        rest_s = ACCEPT_REST_S
        while True:
            try:
                stream = await self._listener.accept()
            except OSError as error:
                if error.errno not in NO_DESCRIPTOR:
                    raise
                self._port.spare_one(trio.current_time())
                self._say("Connections can't be accepted", error=os.strerror(error.errno or 0))
                await trio.sleep(rest_s)
                rest_s = min(2 * rest_s, ACCEPT_REST_MOST_S)
                continue
            rest_s = ACCEPT_REST_S
            try:
                peer = stream.socket.getpeername()
            except OSError:  # has left already
                await trio.aclose_forcefully(stream)
                continue
            scope = trio.CancelScope()
            place = PortPlace(address_of(peer[0]), trio.current_time(), scope.cancel, partial(_has_input, stream.socket))
            if self._port.admit(place, trio.current_time()):
                connections.start_soon(self._converse, self._wrapped(stream), place, scope)
            else:
                await trio.aclose_forcefully(stream)
            await self._port.newcomers.turn()

    def _wrapped(self, stream: trio.SocketStream) -> TcpStream:
        return stream if self._tls is None else trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)

    async def _converse(self, stream: TcpStream, place: PortPlace, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await HttpConnection(self._application, stream, self._port, place).run()
        except* Exception as group:  # what a client sends must not end the server, whatever a parser makes of it
            faults = [error for error in leaves(group) if not isinstance(error, ClientGone)]
            if faults:
                errors = "; ".join(f"{type(error).__name__}: {error}"[:200] for error in faults)
                self._say("Connection ended by an error", error=errors)
        finally:
            self._port.leave(place)

    def _dropped(self, reason: str) -> None:
        self._on_fact(ConnectionDropped(self._name, reason))
        self._say("Connections were dropped: too many clients, or too much that is unfinished", reason=reason)

    def _say(self, event: str, **facts: str) -> None:
        if (times := self._lines.setdefault(event, _Line()).due(trio.current_time())) is not None:
            log.warning(event, port=self._number, times=times, **facts)


def _has_input(socket: trio.socket.SocketType) -> bool:
    return socket.fileno() >= 0 and socket.is_readable()


class _Line:
    """One kind of log line: the first at once, then a count every REPORT_INTERVAL_S at most."""

    def __init__(self) -> None:
        self._times, self._last = 0, float("-inf")

    def due(self, now: float) -> int | None:
        """How often it happened since the last line, if it is time for one."""
        self._times += 1
        if now - self._last < REPORT_INTERVAL_S:
            return None
        times, self._times, self._last = self._times, 0, now
        return times


def tls_context(certificate_file: str, key_file: str) -> ssl.SSLContext:
    """For a server: TLS 1.2 and later, HTTP/1.1 only. Raises: OSError, ssl.SSLError (files that are no certificate and its key)."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION
    context.set_ciphers("ECDHE+AESGCM")
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate_file, key_file)
    return context
