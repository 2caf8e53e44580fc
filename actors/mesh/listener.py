"""Listener: accepts connections, shakes hands, lets in only who belongs here, and hands over.

Accepts     nothing; it has no mailbox
Owns        connections until they are taken. Not the acceptors: they are opened once, outside, and stay bound over restarts
May touch   acceptors (`transport.py`); whoever takes a connection (`on_connection`)
Limits      places and pace of handshakes: `charon_actors.p2p.admission`, by address (IPv6: by /64); ACCEPTS_A_SECOND
Cancelled   handshakes end, taken connections live on with their peer's child
Restart     accepts again; connections in the kernel's queue wait meanwhile
Source      specification 03-p2p, sections 2 and 2.1

The gate looks at the peer id that the handshake has proved, never at an address: nodes of the cluster, and relays by the ids that they have
now. Whoever else comes sees a finished handshake and then a reset, as from Charon.
"""

import contextlib
import errno
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from actors.change_log import ChangeLog
from actors.log import get_logger
from actors.mesh.connection import Connection, abort_now
from actors.mesh.facts import HandshakeEnded
from actors.mesh.faults import DIAL_ERRORS, PeerRefused, describe
from actors.mesh.host import Host
from actors.mesh.tcp import origin_of
from actors.mesh.transport import Acceptor, Incoming
from actors.mesh.upgrade import upgrade
from charon_actors.p2p.admission import FIRST_BYTES_S, NEXT_BYTES_S, Admission, Place
from charon_actors.p2p.multiaddr import tcp_endpoint

ACCEPTS_A_SECOND: Final = 100.0  # whoever connects faster waits in the kernel's queue
CALM_S: Final = 10.0  # between two lines of a kind: strangers can cause them at will
REST_S: Final = 0.1  # when the process has no file descriptor left
_TRANSIENT: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)

log = get_logger("p2p")


class Listener:
    """One incarnation; see the contract on top."""

    def __init__(self, acceptors: Sequence[Acceptor], host: Host, on_connection: Callable[[Connection], Awaitable[None]]) -> None:
        """on_connection: takes it, or closes it."""
        self._acceptors, self._host, self._on_connection = acceptors, host, on_connection
        self._admission = Admission(_endpoints(host))
        self._scopes: dict[Place, trio.CancelScope] = {}
        self._lines, self._strangers = ChangeLog(calm_s=CALM_S), ChangeLog(calm_s=CALM_S)

    async def run(self) -> None:
        """Accept until cancelled."""
        async with trio.open_nursery() as nursery:
            for acceptor in self._acceptors:
                nursery.start_soon(self._accept, acceptor, nursery)
            await trio.sleep_forever()

    async def _accept(self, acceptor: Acceptor, nursery: trio.Nursery) -> None:
        next_at = trio.current_time()
        while True:
            try:
                incoming = await acceptor.accept()
            except OSError as error:
                if error.errno in _TRANSIENT:
                    if self._lines.is_due(describe(error), trio.current_time()):
                        log.warning("Cannot accept connections", error=describe(error))
                    await trio.sleep(REST_S)
                elif error.errno in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
                    raise
                continue
            place, leaving = self._admission.enter(*incoming.origin)
            if leaving is not None:
                self._scopes.pop(leaving).cancel()
                self._count("dropped")
            scope = self._scopes[place] = trio.CancelScope()
            nursery.start_soon(self._welcome, incoming, place, scope)
            next_at = max(next_at, trio.current_time() - 1) + 1 / ACCEPTS_A_SECOND
            await trio.sleep_until(next_at)

    async def _welcome(self, incoming: Incoming, place: Place, scope: trio.CancelScope) -> None:
        connection: Connection | None = None
        try:
            with scope:
                connection = await self._shake_hands(incoming, place, scope)
            if scope.cancelled_caught and place in self._scopes:
                self._count("silent")
        except PeerRefused as error:
            self._count("refused")
            if self._strangers.is_due(place.address, trio.current_time()):
                log.info("Refused a stranger", address=str(incoming.remote_address), reason=describe(error))
        except DIAL_ERRORS as error:
            self._count("failed")
            log.debug("Incoming handshake failed", address=str(incoming.remote_address), error=describe(error))
        except Exception as error:  # a bug that any stranger could use must not cost the other handshakes
            self._count("failed")
            if self._lines.is_due(type(error), trio.current_time()):
                log.exception("Incoming handshake failed unexpectedly", address=str(incoming.remote_address))
        finally:
            self._scopes.pop(place, None)
            self._admission.leave(place)
            if connection is None:
                abort_now(incoming.stream)
        if connection is not None:
            self._count("accepted")
            self._admission.remember(place.address)
            await self._on_connection(connection)

    async def _shake_hands(self, incoming: Incoming, place: Place, scope: trio.CancelScope) -> Connection:
        async def on_bytes(readings: int) -> None:
            if readings == 1:
                place.stage, scope.deadline = 1, float("inf")  # `upgrade` has its own limit
                while wait_s := self._admission.begin(place, trio.current_time()):
                    await trio.sleep(wait_s)
            scope.deadline = trio.current_time() + NEXT_BYTES_S

        scope.deadline = trio.current_time() + FIRST_BYTES_S
        connection = await upgrade(
            incoming.stream,
            self._host.identity,
            outbound=False,
            expected_peer=None,
            is_allowed=self._host.is_welcome,
            remote_address=incoming.remote_address,
            account_of=self._host.ledger.account_of,
            on_bytes=on_bytes,
        )
        scope.deadline = float("inf")
        return connection

    def _count(self, result: str) -> None:
        self._host.on_fact(HandshakeEnded(result))


def _endpoints(host: Host) -> frozenset[tuple[str, int]]:
    """Where peers listen, as far as that is known without asking DNS."""
    found = set()
    for peer in host.peers:
        for address in peer.addresses:
            endpoint = tcp_endpoint(address)
            if endpoint is not None:
                with contextlib.suppress(ValueError):
                    found.add((origin_of(endpoint[0]), endpoint[1]))
    return frozenset(found)
