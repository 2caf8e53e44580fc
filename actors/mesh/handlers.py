"""Handlers of incoming streams: the two shapes that all Charon protocols but one have.

    shape              reads                writes                                             then
    one_way            one message          nothing                                            closes
    request_response   one message          one message (`00` for b"", nothing for None)       closes

Theory of operation. A handler gets the peer's index and a stream that is already negotiated. The time limit runs from the start of
the stream and bounds reading and handling together. Whatever goes wrong, nothing is sent and the stream is *closed*, not reset: the
requester sees EOF, as from Charon. Errors of the peer (a bad length, too large, too late, a reset) and the `…Fault`s named by the
application are swallowed; anything else is a bug of ours: the peer child, or the relay's, logs it with its traceback, counts it and
closes this one stream, for a peer must not be able to take down more than its own stream.

Limits: `limit_bytes` a message, refused before the body is read; `timeout_s`; a traceback every BUG_CALM_S, for who has found a bug
can repeat it.
Source: specification 03 §5.2.
"""

from collections.abc import Awaitable, Callable, Mapping

import trio

from actors.change_log import ChangeLog
from actors.facts import OnFact
from actors.log import Log
from actors.mesh.facts import HandlerCrashed
from actors.mesh.stream import Stream
from charon_actors.errors import Retryable

Handler = Callable[[int, Stream], Awaitable[None]]
Handlers = Mapping[str, Handler]

HANDLER_TIMEOUT_S = 5.0
BUG_CALM_S = 10.0
PEER_ERRORS: tuple[type[Exception], ...] = (
    Retryable,
    trio.BrokenResourceError,  # StreamFault of all kinds: reset, ended, bad message, connection lost
    trio.ClosedResourceError,
)


def one_way(
    on_message: Callable[[int, bytes], Awaitable[None]],
    limit_bytes: int,
    timeout_s: float = HANDLER_TIMEOUT_S,
    *,
    faults: tuple[type[Exception], ...] = (),
    on_dropped: Callable[[int], None] = lambda peer_index: None,
) -> Handler:
    """A handler that gives each message to `on_message(peer_index, message)`.

    faults: exception types of `on_message` that mean "the peer's message is bad"; they end the stream silently. on_dropped: told the peer's
    index for each whole message that found nobody to take it in time.
    """

    async def handle(peer_index: int, stream: Stream) -> None:
        is_read = is_taken = False
        with trio.move_on_after(timeout_s):
            try:
                message = await stream.read_delimited(limit_bytes)
                is_read = True
                await on_message(peer_index, message)
                is_taken = True
            except faults:
                is_taken = True
            except PEER_ERRORS:
                pass
        if is_read and not is_taken:
            on_dropped(peer_index)
        await close_quietly(stream)

    return handle


def request_response(
    on_request: Callable[[int, bytes], Awaitable[bytes | None]],
    limit_bytes: int,
    timeout_s: float = HANDLER_TIMEOUT_S,
    *,
    faults: tuple[type[Exception], ...] = (),
) -> Handler:
    """A handler that answers each request with what `on_request(peer_index, request)` returns (None: closes without an answer)."""

    async def handle(peer_index: int, stream: Stream) -> None:
        with trio.move_on_after(timeout_s):
            try:
                response = await on_request(peer_index, await stream.read_delimited(limit_bytes))
                if response is not None:
                    await stream.write_delimited(response)
            except (*PEER_ERRORS, *faults):
                pass
        await close_quietly(stream)

    return handle


async def close_quietly(stream: Stream) -> None:
    """Close both directions; a stream that is already gone is closed enough."""
    stream.close()
    await trio.lowlevel.checkpoint()


class BugLog:
    """What a child does with an exception that nobody expected: counted each time, logged with its traceback when it is news."""

    def __init__(self, log: Log, on_fact: OnFact) -> None:
        self._log, self._on_fact, self._lines = log, on_fact, ChangeLog(calm_s=BUG_CALM_S)

    def note(self, peer: str, protocol: str, error: Exception) -> None:
        """Call it where `error` is caught. peer: the name of who was at the other end."""
        if self._lines.is_due((protocol, type(error)), trio.current_time()):
            self._log.exception("Handler failed", peer=peer, protocol=protocol)
        self._on_fact(HandlerCrashed(peer, protocol))
