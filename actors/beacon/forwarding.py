"""Passing requests on: the head of the answer to whoever asked, its body behind it in pieces, never whole in memory.

    what             how                                                                                       source
    who is asked     all primaries; the first 2xx wins; if all fail and it is worth it, the fallback nodes       07 §6.1
    to_all           like that, but no request is cancelled (subnet subscriptions must reach every node)         07 §6.1
    failures         status, content type, encoding and body of the most telling one, unchanged (Charon: 500)    07 §6.1
    headers          end-to-end ones both ways; the operator's headers and credentials replace the client's      07 §6.1
    time             the flag's limit to the head of the answer, STALL_S between two pieces of the body

A body is pumped by a task of the beacon actor through a channel of CHUNKS_AHEAD pieces; a taker that stops reading for STALL_S, or
closes it, ends the upstream connection.
Limits: bodies up to INLINE_BYTES come whole with the head; MAX_FORWARDS bodies on their way at a time.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from actors.beacon.client_tasks import ClientTasks
from actors.beacon.messages import BeaconUnavailable, ByteStream, Forward, ForwardAnswer
from actors.beacon.node import HTTP_SUCCESS, BeaconNode, CallFailed
from actors.beacon.race import AllFailed, race
from actors.log import get_logger

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

log = get_logger("beacon")

INLINE_BYTES: Final = 64 * 1024
CHUNKS_AHEAD: Final = 4
STALL_S: Final = 30.0
MAX_FORWARDS: Final = 128
HOP_BY_HOP: Final = frozenset({  # RFC 9110 §7.6.1, and what each connection says for itself
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "host", "expect", "date", "server",
})  # fmt: skip


def end_to_end(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Headers without those of one connection, names in lower case."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = {token.strip().lower() for name, value in lowered if name == "connection" for token in value.split(",")}
    return [(name, value) for name, value in lowered if name not in HOP_BY_HOP and name not in named]


class Forwarding:
    """usable: primaries and fallbacks to ask now. tasks: where bodies are pumped."""

    def __init__(
        self,
        tasks: ClientTasks,
        usable: Callable[[], tuple[list[BeaconNode], list[BeaconNode]]],
        timeout_s: float,
        submit_timeout_s: float,
    ) -> None:
        self._tasks, self._usable = tasks, usable
        self._timeout_s, self._submit_timeout_s = timeout_s, submit_timeout_s
        self._bodies = 0

    async def forward(self, request: Forward) -> ForwardAnswer:
        """Raises: BeaconFault, if no node gave an answer of any kind."""
        if self._bodies >= MAX_FORWARDS:
            raise BeaconUnavailable(None, f"more than {MAX_FORWARDS} answers are on their way")
        is_read = request.method in ("GET", "HEAD", "OPTIONS")
        timeout_s = self._timeout_s if is_read else self._submit_timeout_s
        path = request.path.encode("utf-8", "surrogateescape")
        headers = [(n, v) for n, v in end_to_end(request.headers) if n not in ("content-length", "authorization")]
        if not any(name == "accept-encoding" for name, _ in headers):
            headers.append(("accept-encoding", "identity"))

        async def attempt(node: BeaconNode) -> "tuple[httpx.Response, bytes | None]":
            try:
                with trio.fail_after(timeout_s):
                    response = await node.send(request.method, path, request.query, headers, request.body)
            except trio.TooSlowError:
                raise node.failed(f"no answer within {timeout_s:g} s (http request timeout)") from None
            if response.status_code not in HTTP_SUCCESS:
                raise await node.read_error(response, timeout_s)
            return response, await _inline(node, response, timeout_s, request.method)

        failures: list[CallFailed] = []
        for nodes in self._usable():
            if not nodes:
                continue
            try:
                if request.to_all:
                    response, inline = await self._to_all(nodes, attempt)
                else:
                    response, inline = await race(nodes, attempt, _discard)
            except AllFailed as failed:
                failures += failed.failures
                if not any(failure.is_fallback_worthy for failure in failures):
                    break
            else:
                return self._answer(response, inline)
        return _refusal(failures)

    async def _to_all(
        self,
        nodes: Sequence[BeaconNode],
        attempt: "Callable[[BeaconNode], Awaitable[tuple[httpx.Response, bytes | None]]]",
    ) -> "tuple[httpx.Response, bytes | None]":
        """The first success; the others run on in the background."""
        send: trio.MemorySendChannel[tuple[httpx.Response, bytes | None] | CallFailed]
        receive: trio.MemoryReceiveChannel[tuple[httpx.Response, bytes | None] | CallFailed]
        send, receive = trio.open_memory_channel(len(nodes))  # room for all: nobody ever waits to send

        async def run(node: BeaconNode) -> None:
            try:
                outcome = await attempt(node)
            except CallFailed as failure:
                _offer(send, failure)
                return
            except Exception:
                _offer(send, node.failed("a fault of this node", retryable=False))
                raise
            if not _offer(send, outcome):
                await _discard(outcome)

        for node in nodes:
            self._tasks.start_soon(run, node)
        failures: list[CallFailed] = []
        try:
            for _ in nodes:
                outcome = await receive.receive()
                if not isinstance(outcome, CallFailed):
                    return outcome
                failures.append(outcome)
        finally:
            while True:  # whatever else has come in the meantime must be closed
                try:
                    late = receive.receive_nowait()
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
                if not isinstance(late, CallFailed):
                    with trio.CancelScope(shield=True):
                        await _discard(late)
            receive.close()
        raise AllFailed(failures)

    def _answer(self, response: "httpx.Response", inline: bytes | None) -> ForwardAnswer:
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw]
        headers = tuple(end_to_end(pairs))
        if inline is not None:
            return ForwardAnswer(response.status_code, headers, stream_of(inline))
        send, receive = trio.open_memory_channel[bytes | None](CHUNKS_AHEAD)
        source = trio.CancelScope()
        self._bodies += 1
        self._tasks.start_soon(self._pump, response, send, source)
        return ForwardAnswer(response.status_code, headers, ByteStream(receive, source))

    async def _pump(
        self, response: "httpx.Response", send: "trio.MemorySendChannel[bytes | None]", source: trio.CancelScope
    ) -> None:
        import httpx

        try:
            with source, send:
                chunks = response.aiter_raw()
                while True:
                    with trio.fail_after(STALL_S):
                        chunk = await anext(chunks, None)
                    with trio.fail_after(STALL_S):
                        await send.send(chunk)
                    if chunk is None:
                        return
        except (httpx.HTTPError, httpx.StreamError, trio.TooSlowError, trio.BrokenResourceError) as error:
            log.debug("Body not passed on to its end", reason=type(error).__name__)
        finally:
            self._bodies -= 1
            with trio.CancelScope(shield=True):
                await response.aclose()


def stream_of(body: bytes) -> ByteStream:
    """A body that is here already."""
    send, receive = trio.open_memory_channel[bytes | None](2)
    if body:
        send.send_nowait(body)
    send.send_nowait(None)
    send.close()
    return ByteStream(receive)


def _refusal(failures: Sequence[CallFailed]) -> ForwardAnswer:
    """The most telling failure as the beacon node sent it. Raises: BeaconFault, if none has a status."""
    if not failures:
        raise BeaconUnavailable(None, "no beacon node is on the right network")
    failed = AllFailed(failures)
    telling = failed.most_telling
    if telling.status is None:
        raise failed.as_fault("proxy")
    headers = [("content-type", telling.content_type), ("content-encoding", telling.content_encoding)]
    kept = [(name, value) for name, value in headers if value]
    return ForwardAnswer(telling.status, (*kept, ("content-length", str(len(telling.body)))), stream_of(telling.body))


async def _inline(node: BeaconNode, response: "httpx.Response", timeout_s: float, method: str) -> bytes | None:
    """The body, if it is known to be short; then the connection is free again. Raises: CallFailed."""
    import httpx

    length = response.headers.get("content-length", "")
    has_none = method == "HEAD" or response.status_code == 204
    if not has_none and not (length.isdecimal() and int(length) <= INLINE_BYTES):
        return None
    try:
        with trio.fail_after(timeout_s):
            return b"".join([chunk async for chunk in response.aiter_raw()])
    except (httpx.HTTPError, httpx.StreamError, trio.TooSlowError) as error:
        raise node.failed(f"broke off: {type(error).__name__}") from None
    finally:
        await response.aclose()


async def _discard(outcome: "tuple[httpx.Response, bytes | None]") -> None:
    await outcome[0].aclose()


def _offer(send: "trio.MemorySendChannel[T]", outcome: T) -> bool:
    try:
        send.send_nowait(outcome)
    except trio.BrokenResourceError:
        return False
    return True
