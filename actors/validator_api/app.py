"""The ASGI application: one request from its head to its answer. Source: specification 07 §1.1, §2.

    1 route     by the table of `routes.py`; no route: pass on, or refuse
    2 body      whole, at most the route's limit (413, and the connection ends); chunked or with a length
    3 clean     a path with empty or dot segments is answered 301
    4 type      of the body, also for GET: JSON, or SSZ where the route takes it; else 415
    5 handle    under the 10 s limit of the API; the client's leaving cancels it, wherever it waits
    6 answer    errors as {"code", "message"}; a stream piece by piece

One task a request reads the body and then waits for the client to leave. It runs until the answer's last piece is handed to the
server: from then on nothing is cancelled, for the server then tidies up the connection.

The error of a status is decided in one place (`_error_of`): whose fault it is decides.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog
import trio

from actors.beacon import BeaconFault, BeaconUnavailable, ByteStream
from actors.duties.messages import NoDuty, UnknownValidator
from actors.signatures import InvalidPartial
from actors.slashing import SlashableFault
from actors.validator_api import routes
from actors.validator_api.handlers import Handlers
from actors.validator_api.http import SSZ, ApiAnswer, ApiError, ApiRequest, content_kind, error_answer
from actors.validator_api.key_shares import UnknownKey
from actors.validator_api.passing_on import cleaned, path_label
from actors.validator_api.proxy import Proxy
from actors.validator_api.routes import Route
from charon_actors.errors import Retryable

log = structlog.get_logger(topic="vapi")

REQUEST_TIMEOUT_S: Final = 10.0  # 07 §1
PASSED_ON_BYTES: Final = 16 * routes.MIB
MAX_USER_AGENT: Final = 128
WARN_INTERVAL_S: Final = 60.0  # of one and the same warning
MAX_WARNED: Final = 256
REFUSED: Final = "A request of the validator client is refused"
NOT_ANSWERED: Final = "A request of the validator client can't be answered now"
PASSED_ON: Final = "proxy"

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class RequestSeen(msgspec.Struct, frozen=True):
    """For metrics and readiness: one request has ended.

    endpoint: of the route, or PASSED_ON. path: of what was passed on, as `passing_on.path_label` writes it. status: 0 if the client left.
    content_type: of the request, one of two.
    """

    endpoint: str
    path: str
    status: int
    seconds: float
    content_type: str
    user_agent: str


class Application:
    """What the HTTP server calls for each request."""

    def __init__(
        self,
        handlers: Handlers,
        proxy: Proxy,
        on_request: Callable[[RequestSeen], None],
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        self._handlers, self._proxy, self._on_request = handlers, proxy, on_request
        self._request_timeout_s = request_timeout_s
        self._warned: dict[str, float] = {}

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
            return
        started = trio.current_time()
        headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"])
        first = dict(reversed(headers))
        path = scope["path"]
        found = routes.route_for(scope["method"], path)
        route = found[0] if found else None
        exchange = Exchange(receive, send, PASSED_ON_BYTES if route is None else route.limit_bytes)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exchange.read, nursery.cancel_scope)
                answer = await self._answer(scope, headers, first, route, found[1] if found else {}, exchange)
                await exchange.answer(answer, is_head=scope["method"] == "HEAD")
                nursery.cancel_scope.cancel()
        finally:
            seconds = trio.current_time() - started
            endpoint, label = (route.endpoint, "") if route else (PASSED_ON, path_label(path))
            user_agent = first.get("user-agent", "").encode("latin-1")[:MAX_USER_AGENT].decode("utf-8", "ignore")
            kind = "application/octet-stream" if "octet-stream" in first.get("content-type", "") else "application/json"
            self._on_request(RequestSeen(endpoint, label, exchange.status, seconds, kind, user_agent))
            if exchange.status >= 400:
                log.debug("request failed", endpoint=endpoint, status=exchange.status, seconds=round(seconds, 3))

    async def _answer(
        self,
        scope: dict[str, Any],
        headers: tuple[tuple[str, str], ...],
        first: dict[str, str],
        route: Route | None,
        params: dict[str, str],
        exchange: "Exchange",
    ) -> ApiAnswer:
        method, path = scope["method"], scope["path"]
        if not path.startswith("/"):
            return error_answer(400, "the request target is not a path")
        deadline_s = self._request_timeout_s if route is None or route.has_time_limit else float("inf")
        try:
            with trio.fail_after(deadline_s):
                body = await exchange.body()
                clean = cleaned(path)
                if clean != path:
                    return _moved(clean, scope["query_string"])
                if route is not None and content_kind(first) is SSZ and not route.takes_ssz:
                    raise ApiError(415, "Cannot read the supplied content type.")
                raw_path = scope["raw_path"].decode("ascii")
                request = ApiRequest(method, path, raw_path, scope["query_string"], first, headers, params, body)
                return await self._handle(request, route)
        except trio.TooSlowError:
            return error_answer(408, "client cancelled request")  # Charon's words for both (07 §2)
        except Exception as error:
            return self._error_of(error, route.endpoint if route else PASSED_ON)

    async def _handle(self, request: ApiRequest, route: Route | None) -> ApiAnswer:
        if route is None:
            return await self._proxy.pass_on(request)
        if route.handler == routes.SWALLOWED:
            return ApiAnswer()
        if route.handler == routes.RETIRED:
            self._warn("This endpoint shall not be hit", route.endpoint)
            raise ApiError(404, "NotFound")
        if route.handler == routes.NOT_BUILT:
            self._warn(
                "The validator client wants a duty that this node does not perform yet; nothing was passed on", route.endpoint
            )
            raise ApiError(501, f"{route.endpoint}: this node does not perform this duty yet")
        if route.handler == "events":
            return await self._proxy.events(request)
        return await self._handlers.by_name[route.handler](request)

    def _error_of(self, error: Exception, endpoint: str) -> ApiAnswer:
        match error:
            case ApiError():
                return error_answer(error.status, error.message)
            case UnknownKey():
                self._warn(REFUSED, endpoint, str(error))
                return error_answer(400, str(error))
            case InvalidPartial() | SlashableFault() | UnknownValidator():
                self._warn(REFUSED, endpoint, str(error))
                return error_answer(400, str(error) or type(error).__name__)
            case NoDuty():
                return error_answer(404, str(error) or "no validator of this cluster has that duty")
            case BeaconFault(status=status) if status is not None and 400 <= status < 500 and status not in (401, 403):
                return error_answer(status, error.text)
            case BeaconUnavailable():
                self._warn(NOT_ANSWERED, endpoint, error.text)
                return error_answer(503, error.text)
            case BeaconFault():
                self._warn(NOT_ANSWERED, endpoint, error.text)
                return error_answer(502, error.text)
            case Retryable():
                self._warn(NOT_ANSWERED, endpoint, str(error))
                return error_answer(503, str(error) or "not ready")
            case _:
                log.error("request failed by a fault of this node", endpoint=endpoint, exc_info=error)
                return error_answer(500, "Internal server error")

    def refused(self, request: ApiRequest) -> None:
        """Log a request that is never passed on."""
        self._warn(
            "A request that this node does not know was not passed on to the beacon node",
            f"{request.method} {request.path[:100]}",
        )

    def _warn(self, message: str, endpoint: str, reason: str = "") -> None:
        """Once a minute for one text and endpoint: clients repeat themselves every slot. message: never what a client can choose."""
        now = trio.current_time()
        key = f"{endpoint} {message} {reason}"
        if now - self._warned.get(key, -WARN_INTERVAL_S) < WARN_INTERVAL_S:
            return
        if len(self._warned) >= MAX_WARNED:
            self._warned.clear()
        self._warned[key] = now
        log.warning(message, endpoint=endpoint, **({"reason": reason} if reason else {}))


def _moved(path: str, query: bytes) -> ApiAnswer:
    if not (path.isascii() and path.isprintable()):
        return error_answer(404, "NotFound")
    return ApiAnswer(301, ((b"location", path.encode() + (b"?" + query if query else b"")),))


class Exchange:
    """One request's body coming in and answer going out. status: of the answer, 0 while there is none."""

    def __init__(self, receive: Receive, send: Send, limit_bytes: int) -> None:
        self._receive, self._send, self._limit_bytes = receive, send, limit_bytes
        self._chunks: list[bytes] = []
        self._size = 0
        self._body_is_here = trio.Event()
        self._is_complete = self._is_ending = False
        self.status = 0

    async def read(self, scope: trio.CancelScope) -> None:
        """Collect the body, then wait for the client to leave, which cancels `scope`. What is beyond the limit is thrown away."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                if not self._is_ending:
                    scope.cancel()
                return
            chunk = message.get("body", b"")
            self._size += len(chunk)
            if self._size <= self._limit_bytes:
                self._chunks.append(chunk)
            else:
                self._chunks.clear()
                self._body_is_here.set()
            if not message.get("more_body", False):
                self._is_complete = True
                self._body_is_here.set()

    async def body(self) -> bytes:
        """Raises: ApiError 413."""
        await self._body_is_here.wait()
        if self._size > self._limit_bytes:
            raise ApiError(413, f"a body of more than {self._limit_bytes} bytes")
        return b"".join(self._chunks)

    async def answer(self, answer: ApiAnswer, *, is_head: bool) -> None:
        """Send it. A stream that breaks off ends the connection, so that nobody takes it for whole."""
        body = answer.body
        headers = answer.headers
        if not self._is_complete:  # nobody will read the rest
            headers = (*headers, (b"connection", b"close"))
        self.status = answer.status
        if isinstance(body, bytes) and not is_head:
            if answer.status >= 200 and answer.status not in (204, 304) and b"content-length" not in dict(headers):
                headers = (*headers, (b"content-length", str(len(body)).encode()))
            self._is_ending = True
            await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
            return
        try:
            await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
            if isinstance(body, ByteStream):
                async for chunk in body:
                    await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        except BeaconFault as fault:
            self._is_ending = True  # the server closes the connection of an answer without an end
            log.warning("answer broke off", reason=fault.text)
            return
        finally:
            if isinstance(body, ByteStream):
                await body.aclose()
        self._is_ending = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
