"""Relay links: our connections to one relay, and the circuits inside them.

Circuits run as streams of our connection to the relay; the connection to the peer inside one belongs to the peer's child, the pipe under it
to the stop stream's task here, which waits for its end.

Limits: MAX_CIRCUITS being opened, MAX_INBOUND accepted at a time.
Source: specification 03 §3.1, §3.3, §11.6.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from actors.log import Log
from actors.mailbox import Reply
from actors.mesh.carriage import Carriage
from actors.mesh.connection import Connection
from actors.mesh.faults import DIAL_ERRORS, describe
from actors.mesh.host import Host
from actors.mesh.messages import Circuit, CircuitFault, OpenCircuit
from actors.mesh.owner import Owner
from actors.mesh.ping import PING
from actors.mesh.stream import Stream
from actors.mesh.upgrade import upgrade
from charon_actors.p2p.identify import IDENTIFY, IDENTIFY_PUSH, HostIdentify, IdentifyFault
from charon_actors.p2p.multiaddr import Multiaddr, decode_multiaddr
from charon_actors.p2p.peer_id import peer_name
from charon_actors.p2p.peerinfo import PEERINFO
from charon_actors.p2p.relay_messages import (
    HOP,
    HOP_ANSWER_TIMEOUT_S,
    HOP_OPEN_TIMEOUT_S,
    MAX_MESSAGE_BYTES,
    STOP,
    STOP_TIMEOUT_S,
    RelayFault,
    Status,
    decode_hop_connected,
    decode_stop_connect,
    encode_hop_connect,
    encode_stop_status,
)

MAX_CIRCUITS: Final = 64
MAX_INBOUND: Final = 64
CIRCUIT_SUFFIX: Final = decode_multiaddr("/p2p-circuit")
RELAY_PROTOCOLS: Final = tuple(sorted((IDENTIFY, IDENTIFY_PUSH, PING, PEERINFO, STOP)))
RELAY_ERRORS: tuple[type[Exception], ...] = (RelayFault, IdentifyFault, *DIAL_ERRORS)


class RelayLinks(Owner):
    """on_changed: a connection has come or gone. on_peer: takes a connection to a peer that came through the relay; whether it did."""

    WHO = "Relay"
    ERRORS = RELAY_ERRORS

    def __init__(
        self,
        host: Host,
        log: Log,
        on_changed: Callable[[], None],
        on_peer: Callable[[Connection], Awaitable[bool]],
    ) -> None:
        super().__init__(host, log)
        self._on_changed, self._on_peer = on_changed, on_peer
        self._opening = self._accepting = 0

    @property
    def is_full(self) -> bool:
        """Whether no more circuits may be opened now."""
        return self._opening >= MAX_CIRCUITS

    # of Owner

    def name_of(self, connection: Carriage) -> str:
        return peer_name(connection.peer_id)

    def protocols(self) -> Sequence[str]:
        return RELAY_PROTOCOLS

    def changed(self) -> None:
        self._on_changed()

    def learn(self, said: HostIdentify, connection: Carriage) -> None:
        self._log.debug("Relay identified itself", agent=said.agent)

    def log_unidentified(self, error: str) -> None:
        self._log.debug("Relay did not identify itself", error=error)

    def log_broken(self, protocol: str, error: str) -> None:
        self._log.debug("Relay broke a protocol", protocol=protocol, error=error)

    def log_end(self, connection: Connection, reason: str) -> None:
        self._log.info("Connection to relay ended", peer=self.name_of(connection), reason=reason)

    async def dispatch(self, stream: Stream) -> None:
        if stream.protocol == STOP:
            await self._accept_circuit(stream)
        else:
            stream.reset()

    # circuits

    async def open_circuit(self, connection: Connection | None, request: OpenCircuit, reply: Reply[Circuit]) -> Circuit:
        """connection: to the relay. Raises: CircuitFault."""
        if connection is None or connection.closed.is_set():
            raise CircuitFault("we are not connected to the relay")
        self._opening += 1
        try:
            with trio.fail_after(HOP_OPEN_TIMEOUT_S):
                stream = await connection.open_stream((HOP,))
            try:
                with trio.fail_after(HOP_ANSWER_TIMEOUT_S):
                    await stream.write_delimited(encode_hop_connect(request.peer_id))
                    limit = decode_hop_connected(await stream.read_delimited(MAX_MESSAGE_BYTES))
            except BaseException:
                stream.reset()
                raise
        except RELAY_ERRORS as error:
            raise CircuitFault(describe(error)) from None
        finally:
            self._opening -= 1
        if reply.is_over:  # the asker left in this very instant
            stream.reset()
        return Circuit(stream, limit is not None, circuit_address(connection))

    async def _accept_circuit(self, stream: Stream) -> None:
        if self._accepting >= MAX_INBOUND:
            stream.reset()
            return
        self._accepting += 1
        try:
            connection = await self._shake_hands(stream)
        finally:
            self._accepting -= 1
        if connection is not None:
            await connection.closed.wait()  # the pipe lives as long as this task

    async def _shake_hands(self, stream: Stream) -> Connection | None:
        with trio.fail_after(STOP_TIMEOUT_S):
            wanted = decode_stop_connect(await stream.read_delimited(MAX_MESSAGE_BYTES))
            await stream.write_delimited(encode_stop_status(Status.OK))
        try:
            connection = await upgrade(
                stream,
                self._host.identity,
                outbound=False,
                expected_peer=None,
                is_allowed=lambda peer_id: self._host.peer_index(peer_id) is not None and self._host.is_welcome(peer_id),
                remote_address=circuit_address(stream.connection),
                limited=wanted.limit is not None,
                account_of=self._host.ledger.account_of,
            )
        except DIAL_ERRORS as error:
            self._log.debug("Incoming circuit failed", error=describe(error))
            return None
        return connection if await self._on_peer(connection) else None


def circuit_address(connection: Carriage) -> Multiaddr:
    """Where peers are reached through the relay at the other end."""
    return connection.remote_address.transport.with_peer(connection.peer_id) + CIRCUIT_SUFFIX
