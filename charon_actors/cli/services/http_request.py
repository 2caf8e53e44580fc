"""One HTTP request of a command: limited in time and size, its failure one line that is safe to show.

    limit                     by
    the whole exchange        the caller's timeout_s: connecting, the request, redirects, the answer
    body of an answer         the caller's limit_bytes, counted as it comes, undecoded
    redirects                 MAX_REDIRECTS, where the caller allows any; from https to http none
    text of a refusal         MAX_SHOWN_CHARACTERS on one line; the request's secrets and long hex texts (keys) are masked

What an operator writes as a URL becomes a `Service`: credentials in it are sent as basic authorization and never shown. A path
may be an access token, so it isn't shown either.

Requests run under Trio. A command that is no async program calls `wait_for`.
"""

import re
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from charon_actors.cli.door import notice, one_line, run_program
from charon_actors.cli.options.table import Values
from charon_actors.errors import UserError
from charon_actors.eth2.beacon_urls import decode_node_url
from charon_actors.exception_groups import leaves

if TYPE_CHECKING:
    import httpx

JSON: Final = "application/json"
USER_AGENT: Final = "charon-actors"
HTTP_SUCCESS: Final = range(200, 300)
MAX_REDIRECTS: Final = 5
MAX_REFUSAL_BYTES: Final = 4096
MAX_SHOWN_CHARACTERS: Final = 200
MAX_CAUSES: Final = 8
LONG_PART_CHARACTERS: Final = 16
MASK: Final = "xxxxx"
EXAMPLE: Final = "https://host:port"

_LONG_HEX: Final = re.compile(r"[0-9a-fA-F]{32,}")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

T = TypeVar("T")


class HttpFault(Exception):
    """No answer with a 2xx status. Its text is one line without secrets. status: None when no whole answer came."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class Service(msgspec.Struct, frozen=True):
    """Where an operator's URL points. origin: `scheme://host:port`. path, query: as written. label: what may be shown.

    authorization: the value of that header for the URL's user info, a secret; None without user info.
    """

    origin: str
    path: str
    query: str
    authorization: str | None
    label: str

    def __repr__(self) -> str:
        return f"Service({self.label})"

    def url(self, path: str | None = None) -> str:
        """As written, or with another path."""
        return self.origin + (self.path if path is None else path) + (f"?{self.query}" if self.query else "")


def is_url(text: str) -> bool:
    """Whether it is meant as a URL, not as the path of a file."""
    return _URL.match(text) is not None


def service_of(text: str, where: str) -> Service:
    """The service at an http or https URL; warns of http. Raises UserError, without the text's secrets."""
    text = text.strip()
    if not is_url(text):
        raise UserError(where, "is no URL", f"write for example {EXAMPLE}")
    node = decode_node_url(text, where, EXAMPLE)
    parts = urlsplit(node.base)
    if parts.scheme == "http":
        notice(f"{where}: {node.label} is plain http, others can read and change what is sent; use https where you can")
    return Service(f"{parts.scheme}://{parts.netloc}", urlsplit(text).path, node.query, node.authorization, node.label)


def service_of_flag(values: Values, name: str) -> Service:
    return service_of(values.text(name), values.where(name))


async def exchange(
    method: str,
    service: Service,
    *,
    timeout_s: float,
    limit_bytes: int,
    path: str | None = None,
    bearer: str = "",
    body: bytes = b"",
    redirects: int = 0,
    secrets: Sequence[str] = (),
    uses_proxy: bool = False,
) -> bytes:
    """The body of a 2xx answer; with limit_bytes 0 it is not read.

    path: instead of the service's. bearer: a token, takes the place of credentials in the URL. body: JSON. secrets: texts of the
    request that an answer may repeat. uses_proxy: the environment's proxy is for the internet, not for an operator's own services.
    Raises HttpFault. Cancellation: closes the connection.
    """
    import httpx
    import trio

    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    authorization = f"Bearer {bearer}" if bearer else service.authorization
    if authorization:
        headers["Authorization"] = authorization
    if body:
        headers["Content-Type"] = JSON
    try:
        with trio.fail_after(timeout_s):
            # no timeout of its own: Trio's is around the whole
            async with httpx.AsyncClient(timeout=None, trust_env=uses_proxy) as client:  # noqa: S113
                request = client.build_request(method, service.url(path), headers=headers, content=body or None)
                return await _send(client, request, limit_bytes, redirects, [bearer, *secrets, *_access_tokens(service)])
    except trio.TooSlowError:
        raise HttpFault(f"no complete answer within {timeout_s:g} s") from None
    except ImportError:  # of what httpx needs for SOCKS
        raise HttpFault("the environment's proxy is a SOCKS proxy, which can't be used; name an http proxy, or none") from None
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        httpx.StreamError,
        OSError,
        ValueError,
    ) as error:  # ValueError: IDNA refuses a name
        raise HttpFault(_reason(error)) from None


async def _send(
    client: "httpx.AsyncClient", request: "httpx.Request", limit_bytes: int, redirects: int, secrets: Sequence[str]
) -> bytes:
    for _ in range(redirects + 1):
        response = await client.send(request, stream=True)
        try:
            following = response.next_request if redirects else None
            if following is None:
                return await _read(response, limit_bytes, secrets)
        finally:
            await response.aclose()
        if request.url.scheme == "https" and following.url.scheme != "https":
            raise HttpFault("redirects from https to http")
        request = following
    raise HttpFault(f"more than {redirects} redirects")


async def _read(response: "httpx.Response", limit_bytes: int, secrets: Sequence[str]) -> bytes:
    is_success = response.status_code in HTTP_SUCCESS
    if is_success and not limit_bytes:
        return b""
    limit = limit_bytes if is_success else MAX_REFUSAL_BYTES
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            break
    if not is_success:
        said = masked(bytes(body[:MAX_REFUSAL_BYTES]).decode("utf-8", "replace"), secrets)
        raise HttpFault(f"http status {response.status_code} {said}".rstrip(), response.status_code)
    if len(body) > limit:
        raise HttpFault(f"the answer is larger than {limit} bytes")
    return bytes(body)


def masked(text: str, secrets: Sequence[str]) -> str:
    """A text of somebody else's, as it may be shown: one line of MAX_SHOWN_CHARACTERS without `secrets` and long hex texts."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, MASK)
    return one_line(_LONG_HEX.sub(MASK, text))[:MAX_SHOWN_CHARACTERS]


def _access_tokens(service: Service) -> list[str]:
    """What may be secret in a URL: credentials, and whatever is long in path and query."""
    parts = [part for part in re.split(r"[/?&=]", service.url()) if len(part) >= LONG_PART_CHARACTERS]
    return [*parts, (service.authorization or "").removeprefix("Basic ")]


def _reason(error: BaseException) -> str:
    """What the system said, where httpx only says that all attempts failed."""
    cause: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if cause is None:
            break
        said = {leaf.strerror for leaf in leaves(cause) if isinstance(leaf, OSError) and leaf.strerror}
        if said:
            return "; ".join(sorted(said))
        cause = cause.__cause__ or cause.__context__
    return one_line(str(error))[:MAX_SHOWN_CHARACTERS] or type(error).__name__


def wait_for(function: Callable[[], Awaitable[T]]) -> T:
    """What an async function returns, where nothing is async; what it raises is raised. SIGINT and SIGTERM cancel it."""
    if threading.current_thread() is not threading.main_thread():  # signals are for the main thread
        import trio

        return trio.run(function)
    returned: list[T] = []
    raised: list[Exception] = []

    async def program() -> None:
        try:
            returned.append(await function())
        except Exception as error:
            raised.append(error)

    run_program(program, is_long=False)
    if raised:
        raise raised[0]
    if not returned:
        raise KeyboardInterrupt
    return returned[0]
