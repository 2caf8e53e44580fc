"""Dialer: turns a peer's addresses into one authenticated connection.

Theory of operation. The plan (`charon_actors.p2p.dial`) says when each address is due. Addresses are tried side by side, at most
MAX_PARALLEL_DIALS at a time; when nothing is running the next one starts at once. The first connection wins, the other attempts are
cancelled; if two win in the same instant, the second is closed. Every failed address is reported with its reason, also when the
reason is a bug of ours (that one is logged with its traceback): where a peer says it listens must not be able to end the child.

Sockets are as Go's: TCP_NODELAY, keepalive after 30 s, linger 0 (a close is a RST), and with `reuse_port` the source port is our
listen port, so that a NAT opens the way for the peer's own dial; when the kernel refuses that, any port will do.

Cancellation: at any time; nothing stays open. Source: specification 03 §2.3.
"""

import socket
import struct
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog
import trio

from actors.mesh.account import Account
from actors.mesh.connection import Connection
from actors.mesh.upgrade import HandshakeFault, HostIdentity, upgrade
from charon_actors.p2p.dial import MAX_PARALLEL_DIALS, TCP_CONNECT_TIMEOUT_S, PlannedDial
from charon_actors.p2p.multiaddr import Multiaddr, named_address, tcp_endpoint

KEEPALIVE_S = 30
MAX_RESOLVED = 4

log = structlog.get_logger(topic="p2p")


class DialFault(Exception):
    """An address could not be dialed; the text is the reason."""


DIAL_ERRORS: tuple[type[Exception], ...] = (
    DialFault,
    OSError,
    HandshakeFault,  # and PeerRefused
    trio.TooSlowError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)


class DialOutcome(msgspec.Struct, frozen=True):
    """connection: None when all addresses failed. address: where it leads, as planned. failures: address to reason.

    Cancelled attempts are not among the failures.
    """

    connection: Connection | None
    address: Multiaddr | None
    failures: dict[Multiaddr, str]


async def dial(
    plan: Sequence[PlannedDial], attempt: Callable[[PlannedDial], Awaitable[Connection]], timeout_s: float
) -> DialOutcome:
    """Try the plan; see the theory on top. `attempt` raises DialFault or one of DIAL_ERRORS."""
    waiting = list(plan)
    failures: dict[Multiaddr, str] = {}
    won: list[tuple[Connection, Multiaddr]] = []
    running = 0
    progress = trio.Event()

    async def run(planned: PlannedDial) -> None:
        nonlocal running, progress
        try:
            with trio.fail_after(planned.timeout_s):
                made = await attempt(planned)
            if won:
                made.close("another address was faster")
            else:
                won.append((made, planned.address))
        except DIAL_ERRORS as error:
            failures[planned.address] = describe(error)
        except Exception as error:
            log.exception("Dial failed unexpectedly", address=named_address(str(planned.address)))
            failures[planned.address] = f"{type(error).__name__}: {error}"
        finally:
            running -= 1
            progress.set()

    start = trio.current_time()
    try:
        with trio.move_on_after(timeout_s):
            async with trio.open_nursery() as nursery:
                while (waiting or running) and not won:
                    progress = trio.Event()
                    due = start + waiting[0].delay_s if waiting and running < MAX_PARALLEL_DIALS else float("inf")
                    if waiting and (not running or due <= trio.current_time()) and running < MAX_PARALLEL_DIALS:
                        running += 1
                        nursery.start_soon(run, waiting.pop(0))
                        continue
                    with trio.move_on_at(due):
                        await progress.wait()
                nursery.cancel_scope.cancel()
    except BaseException:
        for made, _ in won:
            made.close("the dial was cancelled")
        raise
    connection, address = won[0] if won else (None, None)
    return DialOutcome(connection, address, failures)


async def dial_tcp(
    address: Multiaddr,
    identity: HostIdentity,
    expected_peer: bytes,
    is_allowed: Callable[[bytes], bool],
    source: tuple[str, int] | None = None,
    account_of: Callable[[bytes], Account] | None = None,
) -> Connection:
    """A connection to `expected_peer` at a plain TCP address. source: local (ip, port) to dial from, where possible. is_allowed,
    account_of: as of `upgrade`.

    Raises: DialFault or one of DIAL_ERRORS.
    """
    endpoint = tcp_endpoint(address)
    if endpoint is None:
        raise DialFault("not a TCP address")
    with trio.move_on_after(TCP_CONNECT_TIMEOUT_S) as limit:
        raw = await _connect(*endpoint, source)
    if limit.cancelled_caught:
        raise DialFault(f"no answer within {TCP_CONNECT_TIMEOUT_S:g} s")
    return await upgrade(
        raw,
        identity,
        outbound=True,
        expected_peer=expected_peer,
        is_allowed=is_allowed,
        remote_address=address.transport,
        account_of=account_of,
    )


def tune(sock: trio.socket.SocketType | socket.socket) -> None:
    """The socket options of a libp2p connection."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)


def describe(error: BaseException) -> str:
    """One line for logs: what went wrong, without a traceback."""
    if isinstance(error, trio.TooSlowError):
        return "too slow"
    text = str(error) or type(error).__name__
    return (error.strerror or text) if isinstance(error, OSError) else text


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
