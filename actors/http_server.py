"""HTTP servers: an ASGI application on a socket that is bound once and survives restarts of whoever serves it.

Each incarnation serves a duplicate of the socket, so a restart never gives up the port; while nobody serves, connections wait in the
socket's backlog. What goes wrong in one connection, whatever it is, ends that connection and nothing else; of such ends one line is
logged every REPORT_INTERVAL_S. Source: architecture §1 (validator_api: restarts alone, port stays bound).
"""

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from actors.change_log import ChangeLog
from actors.request_heads import with_checked_heads
from charon_actors.errors import UserError
from charon_actors.exception_groups import leaves

if TYPE_CHECKING:
    from hypercorn.config import Config

log = structlog.get_logger(topic="http")

BACKLOG: Final = 256
GRACEFUL_S: Final = 1.0
REPORT_INTERVAL_S: Final = 60.0
EXAMPLE: Final = "127.0.0.1:3600"

Application = Callable[[Any, Any, Any], Awaitable[None]]


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


async def serve(application: Application, listening: socket.socket, *, stopping: trio.Event | None = None) -> None:
    """Serve HTTP/1.1 on `listening` until cancelled, or until `stopping` is set and the requests in flight are done.

    Cancellation: open requests are dropped. The socket stays open and bound.
    """
    from hypercorn.config import Config

    config = Config()
    config.include_server_header = False
    config.accesslog = config.errorlog = None
    config.keep_alive_timeout = 120
    await serve_connections(application, config, listening, GRACEFUL_S, stopping)


async def serve_connections(
    application: Application, config: "Config", listening: socket.socket, graceful_s: float, stopping: trio.Event | None = None
) -> None:
    """`serve` with a Hypercorn configuration of one's own, of which only what is about connections matters, and TLS.

    graceful_s: for the requests in flight once `stopping` is set.

    Hypercorn's own `serve` is not used: under Trio it keeps a connection that its client has closed until the keep-alive limit, so
    that a client with a connection a request would run us out of file descriptors; and it asks applications for ASGI's
    lifespan protocol, which ours, living as long as their actor, don't have.
    """
    from hypercorn.app_wrappers import ASGIWrapper
    from hypercorn.events import Closed
    from hypercorn.protocol.h11 import H11Protocol
    from hypercorn.trio.tcp_server import TCPServer
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import ConnectionState

    class Connection(TCPServer):
        is_client_gone = False

        async def _read_data(self) -> None:
            if isinstance(self.protocol.protocol, H11Protocol):
                self.protocol.protocol._check_protocol = _stay_with_http1  # type: ignore[assignment, method-assign]
                _skip_empty_lines(self.protocol.protocol.connection)
            await super()._read_data()
            self.is_client_gone = True
            await self.idle_task.stop()

        async def protocol_send(self, event: Any) -> None:
            if isinstance(
                event, Closed
            ):  # what a client sends behind its last request must not cut off the answer that is going out
                async with self.send_lock:
                    pass
            await super().protocol_send(event)

        async def _idle_timeout(self) -> None:  # started anew when an answer is through, also of a client that has left meanwhile
            if not self.is_client_gone:
                await super()._idle_timeout()

    context, wrapped = WorkerContext(None), ASGIWrapper(with_checked_heads(application))
    lines = ChangeLog(REPORT_INTERVAL_S, REPORT_INTERVAL_S)

    async def handle(stream: Any) -> None:
        try:
            await Connection(wrapped, config, context, ConnectionState({}), stream)
        except* Exception as group:  # what a client sends must not end the server, whatever a parser makes of it
            if lines.is_due(listening, trio.current_time()):
                errors = "; ".join(f"{type(error).__name__}: {error}"[:200] for error in leaves(group))
                log.warning("connection ended by an error", port=listening.getsockname()[1], error=errors)

    duplicate = listening.dup()
    duplicate.listen(BACKLOG)
    plain, tls = trio.SocketListener(trio.socket.from_stdlib_socket(duplicate)), config.create_ssl_context()
    listener: trio.abc.Listener[Any] = plain if tls is None else trio.SSLListener(plain, tls, https_compatible=True)
    async with listener, trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(partial(trio.serve_listeners, handle, [listener], handler_nursery=connections))
            if stopping is None:
                await trio.sleep_forever()
            else:
                await stopping.wait()
            accepting.cancel_scope.cancel()
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + graceful_s


def _skip_empty_lines(parser: Any) -> None:
    """Before a request line, where some clients send one (RFC 9112 §2.2). parser: an h11 connection."""
    from h11 import IDLE

    if "receive_data" in vars(parser):
        return

    def then_skip(method: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: bytes) -> None:
            method(*arguments)
            if parser.their_state is IDLE:
                waiting, _ = parser.trailing_data
                parser._receive_buffer.maybe_extract_at_most(len(waiting) - len(waiting.lstrip(b"\r\n")))

        return call

    parser.receive_data = then_skip(parser.receive_data)
    parser.start_next_cycle = then_skip(parser.start_next_cycle)


async def _stay_with_http1(request: object) -> None:
    """In place of Hypercorn's switch to HTTP/2 on plain connections (`Upgrade: h2c`), which Charon doesn't offer either."""
