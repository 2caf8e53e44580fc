"""One beacon node over HTTP: sends calls, reads bounded answers, turns every way to fail into CallFailed.

An answer that did not come whole, in time and with a 2xx status is a CallFailed, which knows whether the same call may succeed later
(`is_retryable`) and whether another node is worth asking (`is_fallback_worthy`). Nothing here decides between nodes.

Connections are kept and reused; a beacon node that closes an idle one in the instant we reuse it is asked once more on a new one
(repeated submissions are harmless: whoever repeats is told so and counts it as success).

Limits: MAX_CONNECTIONS a node; answers by `Call.limit_bytes`; time by the caller's `timeout_s`, which spans connect, request, answer.
Cancellation: at any instant; the connection in use is closed, the others stay.
Source: specification 08 §1, §2; 20 §3.1.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog
import trio

from charon_actors.eth2.beacon_api import (
    JSON,
    MIB,
    Answer,
    Call,
    NodeUrl,
    error_text,
    is_fallback_worthy,
    is_retryable,
)

if TYPE_CHECKING:
    import httpx

log = structlog.get_logger(topic="beacon")

MAX_CONNECTIONS: Final = 64
KEEP_ALIVE_S: Final = 30.0  # shorter than any beacon node's own limit that we know of (Lodestar 72 s)
MAX_ERROR_BODY: Final = MIB
USER_AGENT: Final = "charon-actors"
HTTP_SUCCESS: Final = range(200, 300)


class CallFailed(Exception):
    """A call to one node failed. status: None if no answer came. body, content_type: of a failed answer, as sent."""

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
    ) -> None:
        super().__init__(f"{label}: {text}")
        self.status, self.text, self.body, self.content_type = status, text, body, content_type
        self.is_retryable, self.is_fallback_worthy = retryable, worthy


class BeaconNode:
    """A beacon node that can be called while its `connected` block is open.

    is_synced: None until it was asked. is_wrong_network: never ask it again. wins: how often its answer was the first good one.
    """

    def __init__(self, url: NodeUrl, headers: Sequence[tuple[str, str]]) -> None:
        self.label = url.label
        self.is_synced: bool | None = None
        self.is_wrong_network = False
        self.wins = 0
        self._url = url
        self._own_headers = tuple(headers) + ((("Authorization", url.authorization),) if url.authorization else ())
        self._is_down = False
        self._client: httpx.AsyncClient | None = None
        self._base: httpx.URL | None = None

    def __repr__(self) -> str:
        return f"BeaconNode({self.label})"

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Hold the connection pool open."""
        import ssl  # here, like httpx: 0.2 s that `charon enr` need not wait for

        import httpx

        self._base = httpx.URL(self._url.base)
        is_tls = self._base.scheme == "https"
        context = ssl.create_default_context() if is_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        limits = httpx.Limits(
            max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS, keepalive_expiry=KEEP_ALIVE_S
        )
        # trust_env: a proxy or netrc of the environment must not get at the beacon node's credentials.
        # timeout: Trio's, around the whole call.
        async with httpx.AsyncClient(verify=context, limits=limits, trust_env=False, timeout=None) as client:  # noqa: S113
            self._client = client
            try:
                yield
            finally:
                self._client = None

    async def call(self, call: Call, timeout_s: float) -> Answer:
        """Send `call`, read the answer. Raises: CallFailed, also for any status but 2xx."""
        headers = [*call.headers, ("Accept-Encoding", "identity"), ("User-Agent", USER_AGENT)]
        try:
            with trio.fail_after(timeout_s):
                response = await self.send(call.method, call.path.encode(), call.query.encode(), headers, call.body)
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
        """Send a request and return when the head of its answer is here, whatever its status; the caller must close it.

        The operator's headers and credentials replace those of the same name. Raises: CallFailed.
        """
        import httpx

        assert self._client is not None
        assert self._base is not None
        queries = b"&".join(part for part in (self._url.query.encode(), query) if part)
        raw_path = self._base.raw_path.rstrip(b"/") + path + (b"?" + queries if queries else b"")
        own_names = {name.lower() for name, _ in self._own_headers}
        all_headers = [*((n, v) for n, v in headers if n.lower() not in own_names), *self._own_headers]
        try:
            url = self._base.copy_with(raw_path=raw_path)
            for is_last in (False, True):
                request = httpx.Request(method, url, headers=all_headers, content=body or None)
                try:
                    return await self._client.send(request, stream=True, follow_redirects=False)
                except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                    if is_last:
                        raise
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise self._lost(error) from None
        raise AssertionError("the loop returns or raises")

    async def read_error(self, response: "httpx.Response", timeout_s: float) -> CallFailed:
        """Read the rest of a failed answer and close it. Never raises CallFailed."""
        try:
            with trio.fail_after(timeout_s):
                body = await self._read(response, MAX_ERROR_BODY)
        except (CallFailed, trio.TooSlowError):
            body = b""
        finally:
            await response.aclose()
        return self.refused(response, body)

    async def _read(self, response: "httpx.Response", limit_bytes: int) -> bytes:
        import httpx

        encoding = response.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise self.failed(f"answers in {encoding[:32]}, which was not asked for", retryable=False)
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in response.aiter_raw():
                size += len(chunk)
                if size > limit_bytes:
                    raise self.failed(f"answers with more than {limit_bytes} bytes", retryable=False)
                chunks.append(chunk)
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self._lost(error) from None
        return b"".join(chunks)

    def failed(self, text: str, *, retryable: bool = True) -> CallFailed:
        """A failure without a status: lost connections and timeouts (retryable), answers that make no sense (not)."""
        return CallFailed(self.label, None, text, retryable=retryable, worthy=retryable)

    def refused(self, response: "httpx.Response", body: bytes) -> CallFailed:
        """The failure that an answer with another status than 2xx is."""
        status, text = response.status_code, error_text(body)
        self._mark_up()
        return CallFailed(
            self.label,
            status,
            f"{status} {text}".rstrip(),
            retryable=is_retryable(status, text),
            worthy=is_fallback_worthy(status, text),
            body=body,
            content_type=response.headers.get("content-type", JSON if body else ""),
        )

    def _lost(self, error: Exception) -> CallFailed:
        text = f"{type(error).__name__}: {str(error)[:200]}".rstrip(": ")
        if not self._is_down:
            self._is_down = True
            log.warning("beacon node can not be reached", node=self.label, error=text)
        return self.failed(text)

    def _mark_up(self) -> None:
        if self._is_down:
            self._is_down = False
            log.info("beacon node answers again", node=self.label)


def first_headers(response: "httpx.Response") -> dict[str, str]:
    """Header values by lower-case name, the first one of each."""
    pairs = reversed(response.headers.raw)
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in pairs}
