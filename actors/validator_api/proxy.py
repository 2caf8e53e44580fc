"""Requests that are passed on to the beacon nodes, and equal ones that are asked once. Source: specification 07 §6, §7.3 #16.

The beacon node's status, content type and body go to the client unchanged, and bodies are streamed. Equal GETs of small answers
(`passing_on.COALESCED`) that come while one is under way, or within COALESCE_S after its answer, share that answer.
Limits: SHARED_MOST answers of SHARED_BYTES at a time; a request beyond them goes its own way.
"""

from collections.abc import Callable
from typing import Final

import msgspec
import trio

from actors.beacon import BeaconFault, BeaconUnavailable, Forward, ForwardAnswer, OpenEvents
from actors.beacon import Message as BeaconMessage
from actors.log import get_logger
from actors.mailbox import Address
from actors.validator_api.http import ApiAnswer, ApiError, ApiRequest, Headers
from charon_actors.errors import Retryable
from charon_actors.validator_api.passing_on import COALESCED, goes_to_all, may_be_passed_on

log = get_logger("vapi")

COALESCE_S: Final = 0.1
SHARED_MOST: Final = 128
SHARED_BYTES: Final = 2**20
NOT_SENT_ON: Final = frozenset({"authorization", "cookie", "x-http-method-override", "x-http-method", "x-method-override"})

Key = tuple[str, bytes, str, str]


class Shared(msgspec.Struct):
    """One answer for several clients. until: when it may not be handed out any more, None while it is under way."""

    done: trio.Event
    answer: ApiAnswer | None = None
    error: Exception | None = None
    until: float | None = None


class Proxy:
    """nursery: where shared requests are made, so that no client's leaving ends them. refused: called for what is never passed on."""

    def __init__(self, nursery: trio.Nursery, beacon: Address[BeaconMessage], refused: Callable[[ApiRequest], None]) -> None:
        self._nursery, self._beacon, self._refused = nursery, beacon, refused
        self._shared: dict[Key, Shared] = {}

    async def pass_on(self, request: ApiRequest) -> ApiAnswer:
        """The beacon node's answer. Raises: ApiError 501 (never passed on), BeaconFault (no beacon node answers)."""
        if not (may_be_passed_on(request.method, request.raw_path) and may_be_passed_on(request.method, request.path)):
            self._refused(request)
            raise ApiError(501, f"{request.method} {request.path[:100]} is not supported by this node and is not passed on")
        if request.method == "GET" and COALESCED.fullmatch(request.path):
            return await self._share(request)
        return _to_client(await self._beacon.ask(_forward(request)))

    async def events(self, request: ApiRequest) -> ApiAnswer:
        """A stream of events that outlives its upstream. Raises: BeaconFault."""
        return _to_client(await self._beacon.ask(OpenEvents(request.query)))

    async def _share(self, request: ApiRequest) -> ApiAnswer:
        key = (request.raw_path, request.query, request.headers.get("accept", ""), request.headers.get("accept-encoding", ""))
        shared = self._shared.get(key)
        if shared is None or (shared.until is not None and trio.current_time() >= shared.until):
            self._forget_old()
            if len(self._shared) >= SHARED_MOST:
                return _to_client(await self._beacon.ask(_forward(request)))
            shared = self._shared[key] = Shared(trio.Event())
            self._nursery.start_soon(self._ask_for, request, shared)
        await shared.done.wait()
        if shared.error is not None:
            raise shared.error
        assert shared.answer is not None
        return shared.answer

    async def _ask_for(self, request: ApiRequest, shared: Shared) -> None:
        try:
            head = await self._beacon.ask(_forward(request))
            chunks, size = [], 0
            try:
                async for chunk in head.body:
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > SHARED_BYTES:
                        raise BeaconFault(None, f"{request.path}: an answer of more than {SHARED_BYTES} bytes")
            finally:
                await head.body.aclose()
            shared.answer = ApiAnswer(head.status, _headers(head), b"".join(chunks))
        except (BeaconFault, Retryable) as error:
            shared.error = error
        finally:
            if shared.answer is None and shared.error is None:
                shared.error = BeaconUnavailable(None, "the node is stopping")
            shared.until = trio.current_time() + (COALESCE_S if shared.error is None else 0)
            shared.done.set()

    def _forget_old(self) -> None:
        now = trio.current_time()
        for key in [key for key, shared in self._shared.items() if shared.until is not None and shared.until <= now]:
            del self._shared[key]


def _forward(request: ApiRequest) -> Forward:
    headers = [(name, value) for name, value in request.all_headers if name not in NOT_SENT_ON]
    names = {name for name, _ in headers}
    if "accept" not in names:
        headers.append(("accept", "application/json"))
    if request.body and "content-type" not in names:
        headers.append(("content-type", "application/json"))
    return Forward(request.method, request.raw_path, request.query, tuple(headers), request.body, goes_to_all(request.path))


def _headers(answer: ForwardAnswer) -> Headers:
    return tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers)


def _to_client(answer: ForwardAnswer) -> ApiAnswer:
    return ApiAnswer(answer.status, _headers(answer), answer.body)
