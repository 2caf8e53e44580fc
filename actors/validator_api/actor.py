"""Validator API: the HTTP server that the validator client takes for its beacon node.

Accepts     HTTP requests; no mail
Emits       RequestSeen at the end of each request, ConnectionDropped (facts)
Owns        the connections of this incarnation; the listening socket is its owner's and stays bound over restarts
May touch   the beacon, duties and signatures actors. Not: the disk, peers, keys
Cancelled   open requests are dropped, streams end; the socket stays
Restart     clients lose their connections and connect again; the socket's backlog takes them in meanwhile
Source      specification 07

The application is plain ASGI: a table of 35 rows needs no framework's routing, and importing one costs 0.1 s at each start.
"""

import socket
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from actors.beacon import Message as BeaconMessage
from actors.descriptors import validator_api_connections
from actors.duties import Message as DutiesMessage
from actors.facts import OnFact, unheard
from actors.http import Limits, serve, tls_context
from actors.mailbox import Address
from actors.off_loop import OffLoop
from actors.signatures import Message as SignaturesMessage
from actors.validator_api.app import REQUEST_TIMEOUT_S, ValidatorApiApp
from actors.validator_api.handlers import Handlers
from actors.validator_api.http import ApiRequest
from actors.validator_api.proxy import Proxy
from charon_actors.eth2.chain import Chain
from charon_actors.validator_api.share_keys import KeyShares

KEEP_ALIVE_S: Final = 75.0  # more than any client leaves between two calls of one slot
HEAD_BYTES: Final = 2**20  # a GET of validators with repeated ids has 103 bytes a key
GRACEFUL_S: Final = 1.0
# A client with 1000 validators asks some ten requests a slot, one that asks for each validator alone some hundred.
REQUESTS_RATE: Final = 500.0
REQUESTS_BURST: Final = 200
CONNECTIONS_RATE: Final = 300.0
CONNECTIONS_BURST: Final = 128


class Tls(msgspec.Struct, frozen=True):
    """PEM files (07 §1, `--vc-tls-cert-file`, `--vc-tls-key-file`)."""

    certificate_file: str
    key_file: str


class ValidatorApi:
    """One incarnation.

    listening: a bound TCP socket, listening or not; the caller closes it. chain: gives the chain once it is known; until then
    the API answers 503. version: for `node/version`, must contain `charon` and not `prysm` (07 §5.15, §7.3 #15).
    """

    def __init__(
        self,
        listening: socket.socket,
        shares: KeyShares,
        chain: Callable[[], Chain | None],
        beacon: Address[BeaconMessage],
        duties: Address[DutiesMessage],
        signatures: Address[SignaturesMessage],
        *,
        version: str,
        tls: Tls | None = None,
        on_fact: OnFact = unheard,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        off_loop: OffLoop | None = None,
    ) -> None:
        assert "charon" in version.lower()
        assert "prysm" not in version.lower()
        self._listening, self._tls, self._on_fact = listening, tls, on_fact
        self._beacon, self._request_timeout_s = beacon, request_timeout_s
        self._handlers = Handlers(shares, chain, beacon, duties, signatures, version, off_loop)

    async def run(self, stopping: trio.Event | None = None) -> None:
        """Serve until cancelled, or until `stopping` is set and the requests in flight are done, GRACEFUL_S later at most."""
        async with trio.open_nursery() as nursery:
            application: ValidatorApiApp

            def refused(request: ApiRequest) -> None:
                application.refused(request)

            proxy = Proxy(nursery, self._beacon, refused)
            application = ValidatorApiApp(self._handlers, proxy, self._on_fact, self._request_timeout_s)
            await serve_validator_api(application, self._listening, self._tls, stopping, self._on_fact)
            nursery.cancel_scope.cancel()


async def serve_validator_api(
    application: ValidatorApiApp,
    listening: socket.socket,
    tls: Tls | None,
    stopping: trio.Event | None = None,
    on_fact: OnFact = unheard,
) -> None:
    """Serve on a duplicate of `listening` until cancelled or `stopping` is set."""
    await serve(
        application,
        listening,
        stopping=stopping,
        limits=Limits(
            connections=validator_api_connections(),
            head_bytes=HEAD_BYTES,
            keep_alive_s=KEEP_ALIVE_S,
            graceful_s=GRACEFUL_S,
            requests_rate=REQUESTS_RATE,
            requests_burst=REQUESTS_BURST,
            connections_rate=CONNECTIONS_RATE,
            connections_burst=CONNECTIONS_BURST,
            pieces_rate=float("inf"),
        ),
        tls=None if tls is None else tls_context(tls.certificate_file, tls.key_file),
        name="validator_api",
        on_fact=on_fact,
    )
