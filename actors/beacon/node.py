"""One beacon node over HTTP: sends calls, reads bounded answers, turns every way to fail into CallFailed.

An answer that did not come whole, in time and with a 2xx status is a CallFailed, which knows whether the same call may succeed later
(`is_retryable`) and whether another node is worth asking (`is_fallback_worthy`). Nothing here decides between nodes.

Connections are kept and reused; a beacon node that closes an idle one in the instant we reuse it is asked once more on a new one
(repeated submissions are harmless: whoever repeats is told so and counts it as success). What is passed on for clients, event streams
among it, has connections of its own: however many of them are open, a call of our own finds one.

Before the first request the node is `admit`ted (is it on our network?), within the time limit of that request.

Limits: MAX_CONNECTIONS a node, MAX_PASSING_CONNECTIONS to pass on; answers by `Call.limit_bytes`, of which each HTTP chunk costs
CHUNK_COST at least; time by the caller's `timeout_s`, which spans admission, connect, request, answer.
Cancellation: at any instant; the connection in use is closed, the others stay.
Source: specification 08 §1, §2; 20 §3.1.
"""

import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from actors.log import get_logger
from charon_actors.eth2.beacon_api import JSON, MIB, Answer, Call
from charon_actors.eth2.beacon_errors import error_text, is_fallback_worthy, is_retryable
from charon_actors.eth2.beacon_urls import NodeUrl
from charon_actors.eth2.chain import Chain

if TYPE_CHECKING:
    import httpx

log = get_logger("beacon")

MAX_CONNECTIONS: Final = 64
MAX_PASSING_CONNECTIONS: Final = 256
KEEP_ALIVE_S: Final = 30.0  # shorter than any beacon node's own limit that we know of (Lodestar 72 s)
MAX_ERROR_BODY: Final = MIB
SMALL_CHUNK: Final = 1024
CHUNK_COST: Final = 16  # bytes that count for an HTTP chunk of one byte
USER_AGENT: Final = "charon-actors"
HTTP_SUCCESS: Final = range(200, 300)
WINS_PERIOD_S: Final = 60.0  # 08 §3.3


class CallFailed(Exception):
    """A call to one node failed. status: None if no answer came. body, content_type, content_encoding: of a failed answer, as sent."""

    def __init__(
        self,
        label: str,
        status: int | None,
        text: str,
        *,
        retryable: bool,
        worthy: bool,
        body: bytes = b"",
        content_type: str = "",
        content_encoding: str = "",
    ) -> None:
        super().__init__(f"{label}: {text}")
        self.status, self.text = status, text
        self.body, self.content_type, self.content_encoding = body, content_type, content_encoding
        self.is_retryable, self.is_fallback_worthy = retryable, worthy


class Wins:
    """How often each node's answer was the first good one, since the first win after the last WINS_PERIOD_S."""

    def __init__(self) -> None:
        self._counts: Counter[BeaconNode] = Counter()
        self._since = -math.inf

    def add(self, node: "BeaconNode") -> None:
        now = trio.current_time()
        if now - self._since >= WINS_PERIOD_S:
            self._counts.clear()
            self._since = now
        self._counts[node] += 1

    def of(self, node: "BeaconNode") -> int:
        return self._counts[node]


class BeaconNode:
    """A beacon node that can be called while its `connected` block is open.

    admit: raises CallFailed if this node must not be asked now. wins: shared by all nodes.
    is_synced: None while it doesn't say. is_network_checked: on our network when we last connected. is_wrong_network: never ask it again.
    chain: as it last described it, at `described_at`, which is -inf again when it was away.
    """

    def __init__(
        self,
        url: NodeUrl,
        headers: Sequence[tuple[str, str]],
        wins: Wins,
        admit: "Callable[[BeaconNode], Awaitable[None]]",
    ) -> None:
        self.label = url.label
        self.is_synced: bool | None = None
        self.is_network_checked = self.is_wrong_network = False
        self.network_lock = trio.Lock()
        self.chain: Chain | None = None
        self.described_at = -math.inf
        self.wins = wins
        self._admit = admit
        self._url = url
        self._own_headers = tuple(headers) + ((("Authorization", url.authorization),) if url.authorization else ())
        self._is_down = False
        self._client: httpx.AsyncClient | None = None
        self._passing_client: httpx.AsyncClient | None = None
        self._base: httpx.URL | None = None

    def __repr__(self) -> str:
        return f"BeaconNode({self.label})"

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Hold the connection pools open."""
        import ssl  # here, like httpx: 0.2 s that `charon enr` need not wait for

        import httpx

        self._base = httpx.URL(self._url.base)
        is_tls = self._base.scheme == "https"
        context = ssl.create_default_context() if is_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

        def open_pool(connections: int) -> httpx.AsyncClient:
            limits = httpx.Limits(
                max_connections=connections, max_keepalive_connections=MAX_CONNECTIONS, keepalive_expiry=KEEP_ALIVE_S
            )
            return httpx.AsyncClient(verify=context, limits=limits, trust_env=False, timeout=None)  # noqa: S113

        # trust_env: a proxy or netrc of the environment must not get at the beacon node's credentials.
        # timeout: Trio's, around the whole call.
        async with open_pool(MAX_CONNECTIONS) as client, open_pool(MAX_PASSING_CONNECTIONS) as passing_client:
            self._client, self._passing_client = client, passing_client
            try:
                yield
            finally:
                self._client = self._passing_client = None

    async def call(self, call: Call, timeout_s: float, *, is_admitted: bool = False) -> Answer:
        """Send `call`, read the answer. is_admitted: for the questions that admission asks itself.

        Raises: CallFailed, also for any status but 2xx.
        """
        headers = [*call.headers, ("Accept-Encoding", "identity"), ("User-Agent", USER_AGENT)]
        try:
            with trio.fail_after(timeout_s):
                if not is_admitted:
                    await self._admit(self)
                path, query = call.path.encode(), call.query.encode()
                response = await self._send(self._client, call.method, path, query, headers, call.body)
                try:
                    body = await self._read(response, call.limit_bytes)
                finally:
                    await response.aclose()
        except trio.TooSlowError:
            raise self.failed(f"no answer within {timeout_s:g} s (http request timeout)") from None
        if response.status_code not in HTTP_SUCCESS:
            raise self.refused(response, body)
        self._mark_up()
        return Answer(response.status_code, first_headers(response), body)

    async def send(
        self, method: str, path: bytes, query: bytes, headers: Sequence[tuple[str, str]], body: bytes
    ) -> "httpx.Response":
        """Pass a request on and return when the head of its answer is here, whatever its status; the caller must close it.

        Header names and values are Latin-1, as they came. The operator's headers and credentials replace those of the same name.
        Raises: CallFailed, with status 414 or 400 for a request that can't be sent.
        """
        await self._admit(self)
        return await self._send(self._passing_client, method, path, query, headers, body)

    async def _send(
        self,
        client: "httpx.AsyncClient | None",
        method: str,
        path: bytes,
        query: bytes,
        headers: Sequence[tuple[str, str]],
        body: bytes,
    ) -> "httpx.Response":
        import httpx

        assert client is not None
        assert self._base is not None
        queries = b"&".join(part for part in (self._url.query.encode(), query) if part)
        raw_path = self._base.raw_path.rstrip(b"/") + path + (b"?" + queries if queries else b"")
        own_names = {name.lower() for name, _ in self._own_headers}
        all_headers = [*((n, v) for n, v in headers if n.lower() not in own_names), *self._own_headers]
        try:
            url = self._base.copy_with(raw_path=raw_path)
            encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in all_headers]
            request = httpx.Request(method, url, headers=encoded, content=body or None)
        except (httpx.InvalidURL, ValueError) as error:
            raise self._not_sendable(error) from None
        try:
            for is_last in (False, True):
                try:
                    return await client.send(request, stream=True, follow_redirects=False)
                except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                    if is_last:
                        raise
        except httpx.LocalProtocolError as error:  # the request's fault, it says nothing of the node
            raise self.failed(f"request not sent: {str(error)[:200]}") from None
        except (httpx.HTTPError, OSError) as error:
            raise self._lost(error) from None
        raise AssertionError("the loop returns or raises")

    def _not_sendable(self, error: Exception) -> CallFailed:
        status = 414 if "too long" in str(error) else 400
        text = f"request not sent: {str(error)[:200]}"
        body = msgspec.json.encode({"code": status, "message": text})
        return CallFailed(self.label, status, text, retryable=False, worthy=False, body=body, content_type=JSON)

    async def read_error(self, response: "httpx.Response", timeout_s: float) -> CallFailed:
        """Read the rest of a failed answer that is passed on, in whatever encoding, and close it. Never raises CallFailed."""
        try:
            with trio.fail_after(timeout_s):
                body = await self._read(response, MAX_ERROR_BODY, is_passed_on=True)
        except (CallFailed, trio.TooSlowError):
            body = b""
        finally:
            await response.aclose()
        return self.refused(response, body)

    async def _read(self, response: "httpx.Response", limit_bytes: int, *, is_passed_on: bool = False) -> bytes:
        import httpx

        encoding = _encoding(response)
        if encoding and not is_passed_on:
            raise self.failed(f"answers in {encoding[:32]}, which was not asked for", retryable=False)
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in response.aiter_raw():
                size += max(len(chunk), CHUNK_COST)
                if size > limit_bytes:
                    raise self.failed(f"answers with more than {limit_bytes} bytes", retryable=False)
                chunks.append(chunk)
                if (
                    len(chunk) < SMALL_CHUNK
                ):  # thousands of them may be here already: httpcore hands them out without a checkpoint
                    await trio.lowlevel.checkpoint()
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self._lost(error) from None
        return b"".join(chunks)

    def failed(self, text: str, *, retryable: bool = True) -> CallFailed:
        """A failure without a status: lost connections and timeouts (retryable), answers that make no sense (not)."""
        return CallFailed(self.label, None, text, retryable=retryable, worthy=retryable)

    def refused(self, response: "httpx.Response", body: bytes) -> CallFailed:
        """The failure that an answer with another status than 2xx is."""
        headers, encoding = first_headers(response), _encoding(response)
        status, text = response.status_code, "" if encoding else error_text(body)
        self._mark_up()
        return CallFailed(
            self.label,
            status,
            f"{status} {text}".rstrip(),
            retryable=is_retryable(status, text),
            worthy=is_fallback_worthy(status, text),
            body=body,
            content_type=headers.get("content-type", JSON if body else ""),
            content_encoding=encoding if body else "",
        )

    def _lost(self, error: Exception) -> CallFailed:
        text = f"{type(error).__name__}: {str(error)[:200]}".rstrip(": ")
        self.is_network_checked = False  # another one may answer at this address when it comes back
        if not self._is_down:
            self._is_down = True
            log.warning("Beacon node can not be reached", node=self.label, error=text)
        return self.failed(text)

    def _mark_up(self) -> None:
        if self._is_down:
            self._is_down = False
            log.info("Beacon node answers again", node=self.label)


def first_headers(response: "httpx.Response") -> dict[str, str]:
    """Header values by lower-case name, the first one of each."""
    pairs = reversed(response.headers.raw)
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in pairs}


def _encoding(response: "httpx.Response") -> str:
    """The content's encoding; empty if it has none."""
    encoding = first_headers(response).get("content-encoding", "")
    return "" if encoding.lower() == "identity" else encoding
