"""The ASGI application: one request from its head to its answer. Source: specification 07 §1.1, §2.

    1 route     by the table of `routes.py`; no route: pass on, or refuse
    2 admit     before any of a body is read: whether the route can take one now (a block needs a duty, `handlers.py`), and how long
                it may be, by its kind in `bounded_json.py`, by the cluster's validators, by the block that was agreed on
    3 body      whole, at most that (413, and the connection ends), by its length if it says one; all bodies together within a budget
    4 clean     a path with empty or dot segments is answered 301
    5 type      of the body, also for GET: JSON, or SSZ where the route takes it; else 415
    6 handle    under the 10 s limit of the API; the client's leaving cancels it, wherever it waits
    7 answer    errors as {"code", "message"}; a stream piece by piece

A body that says it is short costs nothing: it is read without 2, and its connection lives on whatever becomes of it.

One task a request reads the body and then waits for the client to leave. It runs until the answer's last piece is handed to the
server: from then on nothing is cancelled, for the server then tidies up the connection.

The error of a status is decided in one place (`_error_of`): whose fault it is decides.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
import trio

from actors.beacon import BeaconFault, BeaconUnavailable, ByteStream
from actors.duties import NoDuty, UnknownValidator
from actors.facts import OnFact
from actors.log import get_logger
from actors.signatures import InvalidPartial
from actors.slashing import SlashableFault
from actors.validator_api.facts import RequestSeen
from actors.validator_api.handlers import Handlers
from actors.validator_api.http import SSZ, ApiAnswer, ApiError, ApiRequest, content_kind, error_answer
from actors.validator_api.proxy import Proxy
from charon_actors.bounded_json import BLOCK, KIB, MIB
from charon_actors.errors import Retryable
from charon_actors.validator_api import routes
from charon_actors.validator_api.passing_on import cleaned, path_label
from charon_actors.validator_api.routes import Route
from charon_actors.validator_api.share_keys import UnknownKey

log = get_logger("vapi")

REQUEST_TIMEOUT_S: Final = 10.0  # 07 §1
PASSED_ON_BYTES: Final = 16 * MIB
SHORT_BYTES: Final = 64 * KIB
BODIES_BYTES: Final = 128 * MIB  # of all requests under way; honest ones are a block and some lists
MAX_LENGTH_DIGITS: Final = 18
MAX_USER_AGENT: Final = 128
WARN_INTERVAL_S: Final = 60.0  # of one and the same warning
MAX_WARNED: Final = 256
REFUSED: Final = "A request of the validator client is refused"
NOT_ANSWERED: Final = "A request of the validator client can't be answered now"
PASSED_ON: Final = "proxy"

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class ValidatorApiApp:
    """What the HTTP server calls for each request."""

    def __init__(
        self,
        handlers: Handlers,
        proxy: Proxy,
        on_fact: OnFact,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        self._handlers, self._proxy, self._on_fact = handlers, proxy, on_fact
        self._request_timeout_s = request_timeout_s
        self._warned: dict[str, float] = {}
        self._bodies = Bodies(BODIES_BYTES)

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
        exchange = HttpExchange(receive, send, first, self._bodies)
        try:
            async with trio.open_nursery() as nursery:
                answer = await self._answer(scope, headers, first, route, found[1] if found else {}, exchange, nursery)
                await exchange.answer(answer, is_head=scope["method"] == "HEAD")
                nursery.cancel_scope.cancel()
        finally:
            exchange.forget()
            seconds = trio.current_time() - started
            endpoint, label = (route.endpoint, "") if route else (PASSED_ON, path_label(path))
            user_agent = first.get("user-agent", "").encode("latin-1")[:MAX_USER_AGENT].decode("utf-8", "ignore")
            kind = "application/octet-stream" if "octet-stream" in first.get("content-type", "") else "application/json"
            self._on_fact(RequestSeen(endpoint, label, exchange.status, seconds, kind, user_agent))
            if exchange.status >= 400:
                log.debug("Request failed", endpoint=endpoint, status=exchange.status, seconds=round(seconds, 3))

    async def _answer(
        self,
        scope: dict[str, Any],
        headers: tuple[tuple[str, str], ...],
        first: dict[str, str],
        route: Route | None,
        params: dict[str, str],
        exchange: "HttpExchange",
        nursery: trio.Nursery,
    ) -> ApiAnswer:
        method, path = scope["method"], scope["path"]
        if not path.startswith("/"):
            return error_answer(400, "the request target is not a path")
        deadline_s = self._request_timeout_s if route is None or route.has_time_limit else float("inf")
        try:
            with trio.fail_after(deadline_s):
                raw_path = scope["raw_path"].decode("ascii")
                head = ApiRequest(method, path, raw_path, scope["query_string"], first, headers, params, b"")
                body = await self._body(head, route, exchange, nursery)
                clean = cleaned(path)
                if clean != path:
                    return _moved(clean, scope["query_string"])
                if route is not None and content_kind(first) is SSZ and not route.takes_ssz:
                    raise ApiError(415, "Cannot read the supplied content type.")
                return await self._handle(msgspec.structs.replace(head, body=body), route)
        except trio.TooSlowError:
            return error_answer(408, "client cancelled request")  # Charon's words for both (07 §2)
        except Exception as error:
            return self._error_of(error, route.endpoint if route else PASSED_ON)

    async def _body(self, head: ApiRequest, route: Route | None, exchange: "HttpExchange", nursery: trio.Nursery) -> bytes:
        """Raises: whatever refuses the request before its body is read."""
        limit_bytes = PASSED_ON_BYTES
        if route is not None:
            limit_bytes = BLOCK.max_bytes if route.is_block else self._handlers.list_kind.max_bytes
            admit = self._handlers.admit_by_name.get(route.handler)
            if admit is not None and exchange.may_be_long(limit_bytes):
                limit_bytes = await admit(head)
        return await exchange.body(limit_bytes, nursery)

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
                log.error("Request failed by a fault of this node", endpoint=endpoint, exc_info=error)
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


class Bodies:
    """How many bytes of bodies there are, of all requests under way."""

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes

    def take(self, size: int) -> bool:
        """False: there is no room."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give_back(self, size: int) -> None:
        self._left += size


class HttpExchange:
    """One request's body coming in and answer going out. status: of the answer, 0 while there is none.

    length: of the body, if the client says it.
    """

    def __init__(self, receive: Receive, send: Send, headers: Mapping[str, str], bodies: Bodies) -> None:
        self._receive, self._send, self._bodies = receive, send, bodies
        text = headers.get("content-length", "")
        self.length = int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_LENGTH_DIGITS else None
        self._is_chunked = "transfer-encoding" in headers
        self._chunks: list[bytes] = []
        self._kept = 0
        self._refusal: ApiError | None = None
        self._body_is_here = trio.Event()
        self._is_complete = self._is_ending = False
        self.status = 0

    def may_be_long(self, limit_bytes: int) -> bool:
        """Whether the body may have more than SHORT_BYTES, and isn't refused for its length anyway."""
        return self._is_chunked if self.length is None else SHORT_BYTES < self.length <= limit_bytes

    async def _read(self, limit_bytes: int, scope: trio.CancelScope) -> None:
        """Collect the body, then wait for the client to leave, which cancels `scope`. What is beyond the limit is thrown away."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                if not self._is_ending:
                    scope.cancel()
                return
            chunk = message.get("body", b"")
            if self._refusal is None:
                self._keep(chunk, limit_bytes)
            if not message.get("more_body", False):
                self._is_complete = True
                self._body_is_here.set()

    def _keep(self, chunk: bytes, limit_bytes: int) -> None:
        if self._kept + len(chunk) > limit_bytes:
            self._refuse(ApiError(413, f"a body of more than {limit_bytes} bytes"))
        elif not self._bodies.take(len(chunk)):
            self._refuse(ApiError(503, "too many long requests at once"))
        else:
            self._kept += len(chunk)
            self._chunks.append(chunk)

    def _refuse(self, refusal: ApiError) -> None:
        self._refusal = refusal
        self.forget()
        self._body_is_here.set()

    def forget(self) -> None:
        """The body isn't needed any more. Idempotent."""
        self._chunks.clear()
        self._bodies.give_back(self._kept)
        self._kept = 0

    async def body(self, limit_bytes: int, nursery: trio.Nursery) -> bytes:
        """Begin to read, in `nursery`, and wait for all of it. Raises: ApiError 413, at once for a length beyond the limit; 503."""
        if self.length is not None and self.length > limit_bytes:
            raise ApiError(413, f"a body of more than {limit_bytes} bytes")
        nursery.start_soon(self._read, limit_bytes, nursery.cancel_scope)
        await self._body_is_here.wait()
        if self._refusal is not None:
            raise self._refusal
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
            log.warning("Answer broke off", reason=fault.text)
            return
        finally:
            if isinstance(body, ByteStream):
                await body.aclose()
        self._is_ending = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
