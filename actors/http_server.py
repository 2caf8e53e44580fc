"""HTTP servers: an ASGI application on a socket that is bound once and survives restarts of whoever serves it.

Each incarnation serves a duplicate of the socket, so a restart never gives up the port; while nobody serves, connections wait in the
socket's backlog. Source: architecture §1 (validator_api: restarts alone, port stays bound).
"""

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from charon_actors.errors import UserError

BACKLOG: Final = 256
GRACEFUL_S: Final = 1.0

Application = Callable[[Any, Any, Any], Awaitable[None]]


def split_endpoint(text: str, flag: str) -> tuple[str, int]:
    """`127.0.0.1:3600` or `[::1]:3600` as host and port. Raises: UserError naming the flag."""
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise UserError(flag, f"{text!r} is no address", "write it as ip:port, for example 127.0.0.1:3600")
    return host, int(port)


def bind(text: str, flag: str) -> socket.socket:
    """A bound, listening TCP socket for `ip:port`; port 0 takes a free one. The caller closes it. Raises: UserError."""
    host, port = split_endpoint(text, flag)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise UserError(flag, f"the host of {text} can't be found", "give an IP address of this machine") from error
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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

    Cancellation: open requests are dropped after GRACEFUL_S at most. The socket stays open and bound.
    """
    from hypercorn.config import Config
    from hypercorn.trio import serve as hypercorn_serve

    config = Config()
    config.bind = [f"fd://{os.dup(listening.fileno())}"]
    config.include_server_header = False
    config.accesslog = config.errorlog = None
    config.graceful_timeout = GRACEFUL_S
    config.shutdown_timeout = GRACEFUL_S
    config.keep_alive_timeout = 120
    config.backlog = BACKLOG
    wait: Callable[[], Awaitable[Any]] = trio.sleep_forever if stopping is None else stopping.wait
    await hypercorn_serve(_with_lifespan(application), config, shutdown_trigger=wait)


def _with_lifespan(application: Application) -> Application:
    """Hypercorn insists on ASGI's lifespan protocol; our applications live as long as their actor."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await application(scope, receive, send)
            return
        while True:
            event = await receive()
            await send({"type": f"{event['type']}.complete"})
            if event["type"] == "lifespan.shutdown":
                return

    return wrapped
