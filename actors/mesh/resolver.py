"""Resolver: asks a relay's URL who the relay is and where it listens.

    body                      becomes
    starts with `enr:`        /ip4/<ip>/tcp/<tcp>/p2p/<id> (and the QUIC address, which we don't dial)
    JSON array of strings     its multiaddrs; entries that are none are left out; all must name one peer id

The request carries the headers `Charon-Cluster` and `Cluster-Uuid`: Obol's load balancer sends all nodes of a cluster to the same
relay by them, so they are sent exactly as configured. The environment's proxy (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY) is for
the internet, and so for this question; a SOCKS proxy is a fault, and not silently passed by. The CA bundle is read in a thread, and
kept: it takes 60 ms, and the event loop has duties to run.

Limits: ATTEMPT_TIMEOUT_S an attempt, MAX_BODY_BYTES of body (counted as it comes, undecoded), MAX_ADDRESSES addresses.
Source: specification 03 §3.1.
"""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from actors.mesh.faults import describe
from charon_actors.bounded_json import SERVICE, decode_foreign_json
from charon_actors.enr import EnrFault, decode_enr
from charon_actors.exception_groups import leaves
from charon_actors.p2p.multiaddr import Multiaddr, MultiaddrFault, decode_multiaddr, tcp_multiaddr
from charon_actors.p2p.peer_id import peer_id_of

if TYPE_CHECKING:  # imported where a URL is asked: a cluster without relays need not wait for it at each start
    import ssl

    import httpx

ATTEMPT_TIMEOUT_S: Final = 10.0
MAX_BODY_BYTES: Final = 64 * 1024
MAX_ADDRESSES: Final = 64
MAX_CAUSES: Final = 8
RETRY_BASE_S: Final = 0.1
RETRY_MAX_S: Final = 5.0
REFRESH_S: Final = 120.0


class ResolveFault(Exception):
    """The URL did not lead to a relay; the text is the reason."""


class RelayTarget(msgspec.Struct, frozen=True):
    """A relay to connect to. addresses: transports only, sorted, without `/p2p/<id>`. skipped: entries that we don't understand."""

    peer_id: bytes
    addresses: tuple[Multiaddr, ...]
    skipped: tuple[str, ...] = ()


def relay_headers(cluster_hash: str, cluster_uuid: str) -> dict[str, str]:
    """The headers of a resolving request. cluster_hash: as 03 §3.1 has it for the command."""
    return {"Charon-Cluster": cluster_hash, "Cluster-Uuid": cluster_uuid}


async def resolve_relay(url: str, headers: Mapping[str, str]) -> RelayTarget:
    """Ask `url` once. Raises: ResolveFault. Cancellation: closes the connection."""
    import httpx

    try:
        with trio.fail_after(ATTEMPT_TIMEOUT_S):
            async with _client(await trio.to_thread.run_sync(_tls_context)) as client:
                return decode_relay_answer(await _fetch(client, url, headers))
    except trio.TooSlowError:
        raise ResolveFault(f"no complete answer within {ATTEMPT_TIMEOUT_S:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # ValueError: a name that IDNA refuses
        raise ResolveFault(_reason(error)) from None


@cache
def _tls_context() -> "ssl.SSLContext":
    import httpx

    return httpx.create_ssl_context()


def _client(tls: "ssl.SSLContext") -> "httpx.AsyncClient":
    import httpx

    try:
        return httpx.AsyncClient(follow_redirects=True, timeout=ATTEMPT_TIMEOUT_S, verify=tls)
    except ImportError:  # of what httpx needs for SOCKS; it looks at all the variables, whatever the URL
        raise ResolveFault(
            "the environment's proxy (ALL_PROXY, HTTPS_PROXY or HTTP_PROXY) is a SOCKS proxy, which we cannot use; "
            "name an http proxy there, or remove it"
        ) from None


def _reason(error: BaseException) -> str:
    """What the system said, where httpx only says that all attempts failed."""
    cause: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if cause is None:
            break
        refusals = [leaf for leaf in leaves(cause) if isinstance(leaf, OSError) and leaf.errno is not None]
        if refusals:
            return "; ".join(sorted({describe(refusal) for refusal in refusals}))
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def check_url(url: str) -> None:
    """Raises: ResolveFault for a text that can't be asked at all."""
    import httpx

    try:
        parsed = httpx.URL(url)
        is_http = parsed.scheme in ("http", "https") and bool(parsed.host)
        parsed.raw_host.decode().encode("idna")  # the resolver would refuse it at each try
    except (httpx.InvalidURL, UnicodeError) as error:  # UnicodeError: of IDNA, or an argument that is no UTF-8
        raise ResolveFault(f"not a URL: {error}") from None
    if not is_http:
        raise ResolveFault("not an http or https URL")


def decode_relay_answer(body: bytes) -> RelayTarget:
    """The relay that a body describes. Raises: ResolveFault."""
    try:
        text = body.decode().strip()
    except UnicodeDecodeError:
        raise ResolveFault("the answer is not text") from None
    return _from_enr(text) if text.startswith("enr:") else _from_list(text)


def decode_entry(entry: str) -> RelayTarget:
    """The relay of a configured multiaddr with `/p2p/<id>`. Raises: ResolveFault."""
    try:
        address = decode_multiaddr(entry)
    except MultiaddrFault as error:
        raise ResolveFault(str(error)) from None
    if address.peer_id is None or address.has_circuit:
        raise ResolveFault("the address must end in /p2p/<relay id>")
    return RelayTarget(address.peer_id, (address.transport,))


async def _fetch(client: "httpx.AsyncClient", url: str, headers: Mapping[str, str]) -> bytes:
    body = bytearray()
    request_headers = {**headers, "Accept-Encoding": "identity"}
    async with client.stream("GET", url, headers=request_headers) as response:
        if not response.is_success:
            raise ResolveFault(f"HTTP status {response.status_code}")
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise ResolveFault(f"the answer is larger than {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _from_enr(text: str) -> RelayTarget:
    try:
        record = decode_enr(text)
    except EnrFault as error:
        raise ResolveFault(f"the answer is no good ENR: {error}") from None
    if record.ip is None or (record.tcp is None and record.udp is None):
        raise ResolveFault("the relay's ENR needs an ip and a tcp or udp port")
    if record.tcp is None:
        raise ResolveFault("the relay's ENR has no tcp port, and we don't speak QUIC")
    return RelayTarget(peer_id_of(record.public_key), (tcp_multiaddr(str(record.ip), record.tcp),))


def _from_list(text: str) -> RelayTarget:
    try:
        entries = msgspec.convert(decode_foreign_json(text.encode(), SERVICE), list[str])
    except (ValueError, RecursionError):
        raise ResolveFault("the answer is neither an ENR nor a JSON list of multiaddrs") from None
    found: set[Multiaddr] = set()
    ids: set[bytes] = set()
    skipped: list[str] = []
    for entry in entries[:MAX_ADDRESSES]:
        try:
            target = decode_entry(entry)
        except ResolveFault:
            skipped.append(entry[:128])
        else:
            found.update(target.addresses)
            ids.add(target.peer_id)
    if not ids:
        raise ResolveFault("the answer holds no address of a relay")
    if len(ids) > 1:
        raise ResolveFault("the answer names more than one relay")
    return RelayTarget(ids.pop(), tuple(sorted(found, key=bytes)), tuple(skipped))
