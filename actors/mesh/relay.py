"""Relay client: keeps us reachable through one configured relay, and opens circuits to peers through it.

Accepts     OpenCircuit, Adopt (ask)
Owns        what the entry resolves to, the connections to the relay, the reservation; incoming stop streams until adopted
May touch   HTTP (the resolver), sockets (the dialer), peer children (Adopt), its row of the board
Mailbox     256, policy `reject`; at most MAX_CIRCUITS circuits are being opened, MAX_INBOUND accepted at a time
Cancelled   at any await: connections are closed, circuits through them end with their connections
Restart     starts without a connection: circuits through this relay break, peers dial again; the relay frees our old reservation
Source      specification 03-p2p, sections 3.1 to 3.3, 11.6

Theory of operation. Two loops. The resolver asks the URL (every 2 min, after a failure with backoff 0.1 s to 5 s) and publishes a
changed target; an entry that is a multiaddr is its own target. The reservation loop:

    no target              wait for one
    connect + RESERVE      error: one warning that names the relay and the reason, backoff 1 s to 120 s, again
    reserved               wait for the first of: 2 min before it expires · no connection left · another target

Peers are dialed through the relay once it has answered our reservation, not before: the others who start with us have theirs by then.
When the URL names another relay, the old connection stays until the new one has granted a reservation; during that time both ids
pass the gate. Circuits run as streams of our connection to the relay; the connection to the peer inside one belongs to the peer's
child, the pipe under it to the stop stream's task here, which waits for its end.
"""

from functools import partial
from typing import Any, Final, assert_never

import msgspec
import structlog
import trio

from actors.change_log import ChangeLog
from actors.mailbox import Address, Inbox, Mail, Reply
from actors.mesh.board import RelayFacts
from actors.mesh.connection import Connection, ConnectionLost
from actors.mesh.dialer import DIAL_ERRORS, DialFault, describe, dial, dial_tcp
from actors.mesh.handlers import BugLog, close_quietly
from actors.mesh.host import Host
from actors.mesh.identify import ask_identify, read_identify, serve_identify
from actors.mesh.messages import Adopt, Circuit, CircuitFault, OpenCircuit
from actors.mesh.peer import Message as PeerMessage
from actors.mesh.peerinfo import serve_peerinfo
from actors.mesh.ping import PING, serve_ping
from actors.mesh.resolver import (
    REFRESH_S,
    RETRY_BASE_S,
    RETRY_MAX_S,
    RelayTarget,
    ResolveFault,
    check_url,
    decode_entry,
    resolve,
)
from actors.mesh.stream import Stream
from actors.mesh.upgrade import upgrade
from charon_actors.errors import Retryable
from charon_actors.p2p.backoff import Backoff
from charon_actors.p2p.dial import DIAL_TIMEOUT_S, PlannedDial, plan_dials
from charon_actors.p2p.identify import IDENTIFY, IDENTIFY_PUSH, IdentifyFault
from charon_actors.p2p.multiaddr import Multiaddr, decode_multiaddr
from charon_actors.p2p.peer_id import peer_name
from charon_actors.p2p.peerinfo import PEERINFO
from charon_actors.p2p.relay_messages import (
    HOP,
    HOP_ANSWER_TIMEOUT_S,
    HOP_OPEN_TIMEOUT_S,
    MAX_MESSAGE_BYTES,
    RESERVE_TIMEOUT_S,
    STOP,
    STOP_TIMEOUT_S,
    RelayFault,
    ReservationGrant,
    Status,
    decode_hop_connected,
    decode_reservation,
    decode_stop_connect,
    encode_hop_connect,
    encode_reserve,
    encode_stop_status,
    refresh_in_s,
)

MAX_CIRCUITS: Final = 64
MAX_INBOUND: Final = 64
MAX_INBOUND_STREAMS: Final = 512
RESERVE_BASE_S: Final = 1.0
RESERVE_MAX_S: Final = 120.0
SHORT_LIFE_S: Final = 5.0
CALM_S: Final = 30.0  # a relay that dies refuses us in several ways, one after the other
SAMPLE_INTERVAL_S: Final = 30.0
ADOPT_TIMEOUT_S: Final = 10.0
CIRCUIT_SUFFIX: Final = decode_multiaddr("/p2p-circuit")
RELAY_PROTOCOLS: Final = tuple(sorted((IDENTIFY, IDENTIFY_PUSH, PING, PEERINFO, STOP)))

Message = OpenCircuit | Adopt
RELAY_ERRORS: tuple[type[Exception], ...] = (RelayFault, IdentifyFault, *DIAL_ERRORS)

log = structlog.get_logger(topic="relay")


def is_url(entry: str) -> bool:
    """Whether an entry of `--p2p-relays` is resolved over HTTP."""
    return entry.startswith("http")


class RelayClient:
    """One incarnation of a relay child; see the contract on top.

    index: row of the board. entry: a URL or a multiaddr. headers: of the resolving request. peers: the children to adopt connections.
    """

    def __init__(
        self,
        index: int,
        entry: str,
        headers: dict[str, str],
        host: Host,
        peers: dict[int, Address[PeerMessage]],
    ) -> None:
        self._index, self._entry, self._headers, self._host, self._peers = index, entry, headers, host, peers
        self._target: RelayTarget | None = None
        self._target_changed = trio.Event()
        self._connection: Connection | None = None  # the one with our reservation
        self._connections: list[Connection] = []
        self._reserved_until_s = 0.0  # unix
        self._error = ""
        self._problems = ChangeLog(calm_s=CALM_S)
        self._opening = self._accepting = self._inbound_streams = 0
        self._log = log.bind(relay=entry)
        self._bugs = BugLog(self._log, host.events)

    async def run(self, inbox: Inbox[Message]) -> None:
        """Serve until the inbox ends, the scope is cancelled or something of ours fails."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._follow_url if is_url(self._entry) else self._use_address)
                nursery.start_soon(self._stay_reserved)
                nursery.start_soon(self._sample)
                async for mail in inbox:
                    self._take(mail)
                nursery.cancel_scope.cancel()
        finally:
            for connection in list(self._connections):
                connection.close("this relay's actor ended")
            self._connections.clear()
            self._connection = None
            self._publish()

    def _take(self, mail: Mail[Message]) -> None:
        match mail.message:
            case OpenCircuit() as request:
                reply = mail.reply_to(request)
                if self._opening >= MAX_CIRCUITS:
                    reply.fail(CircuitFault("too many circuits are being opened"))
                else:
                    self._nursery.start_soon(partial(reply.answer, self._open_circuit, request, reply, errors=(CircuitFault,)))
            case Adopt(connection) as adopt:
                adopted = mail.reply_to(adopt)
                if not adopted.is_abandoned:
                    self._own(connection)
                    adopted.send(None)
            case unknown:
                assert_never(unknown)

    # who the relay is

    async def _use_address(self) -> None:
        self._retarget(decode_entry(self._entry))

    async def _follow_url(self) -> None:
        try:
            check_url(self._entry)
        except ResolveFault as error:
            self._fail(f"{error}; correct --p2p-relays")
            return
        backoff = Backoff(RETRY_BASE_S, RETRY_MAX_S, self._host.entropy)
        while True:
            try:
                target = await resolve(self._entry, self._headers)
            except ResolveFault as error:
                if self._target is None:
                    self._fail(f"cannot resolve: {error}")
                else:
                    self._log.debug("Cannot ask the relay's URL again, its last answer stays", error=str(error))
                await trio.sleep(backoff.next_delay_s())
                continue
            backoff.reset()
            if self._target is None or (target.peer_id, target.addresses) != (self._target.peer_id, self._target.addresses):
                if target.skipped:
                    self._log.warning("Relay lists addresses that we don't understand", skipped=target.skipped)
                self._retarget(target)
            await trio.sleep(REFRESH_S)

    def _retarget(self, target: RelayTarget) -> None:
        if self._target is not None and self._target.peer_id != target.peer_id:
            self._log.warning("Relay has a new identity", old=peer_name(self._target.peer_id), new=peer_name(target.peer_id))
        self._target = target
        self._problems.clear()
        self._publish()
        changed, self._target_changed = self._target_changed, trio.Event()
        changed.set()

    # reservation

    async def _stay_reserved(self) -> None:
        backoff = Backoff(RESERVE_BASE_S, RESERVE_MAX_S, self._host.entropy)
        while True:
            changed, target = self._target_changed, self._target
            if target is None:
                await changed.wait()
                continue
            connection: Connection | None = None
            try:
                connection = await self._connect(target)
                grant = await self._reserve(connection)
            except RELAY_ERRORS as error:
                if connection is not None:
                    self._do_without_reservation(connection)
                self._fail(describe(error))
                with trio.move_on_after(backoff.next_delay_s()):
                    await changed.wait()
                continue
            backoff.reset()
            self._succeed(connection, grant)
            reserved_at = trio.current_time()
            with trio.move_on_after(refresh_in_s(grant, self._host.wall_clock())):
                async with trio.open_nursery() as nursery:
                    for event in (changed, connection.closed):
                        nursery.start_soon(_wait_then_cancel, event, nursery.cancel_scope)
            if connection.closed.is_set():
                self._reserved_until_s = 0.0
                self._publish()
                if trio.current_time() - reserved_at < SHORT_LIFE_S:
                    await trio.sleep(RESERVE_BASE_S)  # a relay that grants and hangs up must not make us spin

    async def _connect(self, target: RelayTarget) -> Connection:
        current = self._connection
        if current is not None and not current.closed.is_set() and current.peer_id == target.peer_id:
            return current
        plan = plan_dials(target.addresses)
        if not plan:
            raise DialFault("the relay has no TCP address")
        outcome = await dial(plan, partial(self._attempt, target.peer_id), DIAL_TIMEOUT_S)
        if outcome.connection is None:
            reasons = "; ".join(sorted(f"{address}: {reason}" for address, reason in outcome.failures.items()))
            raise DialFault(f"cannot connect: {reasons or 'no answer'}")
        self._own(outcome.connection)
        return outcome.connection

    def _do_without_reservation(self, connection: Connection) -> None:
        """Circuits can be opened through a relay that grants us none; but an old one that did stays."""
        current = self._connection
        if current is None or current.closed.is_set():
            if not connection.closed.is_set():
                self._connection = connection
        elif current is not connection:
            connection.close("it grants no reservation")

    async def _attempt(self, relay_id: bytes, planned: PlannedDial) -> Connection:
        host = self._host
        return await dial_tcp(
            planned.address,
            host.identity,
            relay_id,
            host.is_welcome,
            host.source_for(planned.address),
            host.ledger.account_of,
        )

    async def _reserve(self, connection: Connection) -> ReservationGrant:
        with trio.fail_after(RESERVE_TIMEOUT_S):
            stream = await connection.open_stream((HOP,))
            try:
                await stream.write_delimited(encode_reserve())
                answer = await stream.read_delimited(MAX_MESSAGE_BYTES)
            except BaseException:
                stream.reset()
                raise
            await close_quietly(stream)
        return decode_reservation(
            answer, relay_id=connection.peer_id, own_id=self._host.identity.peer_id, now_s=self._host.wall_clock()
        )

    def _succeed(self, connection: Connection, grant: ReservationGrant) -> None:
        is_news = connection is not self._connection or self._reserved_until_s < self._host.wall_clock()
        old, self._connection = self._connection, connection
        if old is not None and old is not connection:
            old.close("another relay took its place")
        self._reserved_until_s, self._error = float(grant.expire_s), ""
        self._problems.clear()
        if grant.voucher_fault is not None:
            self._log.warning("Relay's voucher is not valid", reason=grant.voucher_fault)
        if is_news:
            limit = msgspec.structs.asdict(grant.limit) if grant.limit is not None else None
            self._log.info("Reserved a place at the relay", peer=peer_name(connection.peer_id), limit=limit)
        self._publish()

    def _fail(self, reason: str) -> None:
        self._error = reason
        if self._problems.is_due(reason, trio.current_time()):
            self._log.warning("Relay does not work, trying again", **self._name(), error=reason)
        self._publish()

    def _name(self, peer_id: bytes | None = None) -> dict[str, str]:
        """The relay's name for the log, when it is known."""
        if peer_id is None and self._target is not None:
            peer_id = self._target.peer_id
        return {} if peer_id is None else {"peer": peer_name(peer_id)}

    def _publish(self) -> None:
        ids = {connection.peer_id for connection in self._connections}
        if self._target is not None:
            ids.add(self._target.peer_id)
        old = self._host.board.relays[self._index]
        name = peer_name(self._target.peer_id) if self._target is not None else old.name
        alive = self._connection if self._connection is not None and not self._connection.closed.is_set() else None
        is_reserved = alive is not None and self._host.wall_clock() < self._reserved_until_s
        self._host.board.publish_relay(
            self._index,
            RelayFacts(
                self._entry,
                name,
                frozenset(ids),
                _circuit_address(alive) if alive is not None else None,
                is_reserved,
                self._error,
            ),
        )
        if self._target is not None:
            self._host.events.gauge("p2p_relay_connections", {"peer": name}, float(is_reserved))

    async def _sample(self) -> None:
        while True:
            if self._target is not None:
                labels = {"peer": peer_name(self._target.peer_id)}
                count = len(self._connections)
                self._host.events.clear("p2p_relay_connection_types", labels)
                protocol = "tcp" if count else "none"
                self._host.events.gauge("p2p_relay_connection_types", {**labels, "type": "direct", "protocol": protocol}, count)
            await trio.sleep(SAMPLE_INTERVAL_S)

    # connections to the relay

    def _own(self, connection: Connection) -> None:
        self._connections.append(connection)
        self._publish()
        self._nursery.start_soon(self._run_connection, connection)

    async def _run_connection(self, connection: Connection) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._introduce, connection)
                try:
                    await connection.run(self._serve, lambda: RELAY_PROTOCOLS)
                except ConnectionLost as error:
                    self._log.info("Connection to relay ended", **self._name(connection.peer_id), reason=describe(error))
                nursery.cancel_scope.cancel()
        finally:
            connection.close("this relay's actor let go of it")
            if connection in self._connections:
                self._connections.remove(connection)
            self._publish()

    async def _introduce(self, connection: Connection) -> None:
        try:
            said = await ask_identify(connection)
        except RELAY_ERRORS as error:
            self._log.debug("Relay did not identify itself", error=describe(error))
        except Exception as error:
            self._bugs.note(peer_name(connection.peer_id), IDENTIFY, error)
        else:
            self._log.debug("Relay identified itself", agent=said.agent)

    async def _serve(self, stream: Stream) -> None:
        if self._inbound_streams >= MAX_INBOUND_STREAMS:
            stream.reset()
            return
        self._inbound_streams += 1
        try:
            if stream.protocol == STOP:
                await self._accept_circuit(stream)
            elif stream.protocol == IDENTIFY:
                await serve_identify(stream, self._host.introduction)
            elif stream.protocol == IDENTIFY_PUSH:
                with trio.move_on_after(STOP_TIMEOUT_S):
                    await read_identify(stream)
                await close_quietly(stream)
            elif stream.protocol == PING:
                await serve_ping(stream)
            elif stream.protocol == PEERINFO:
                await serve_peerinfo(stream, self._host.own_info)
            else:
                stream.reset()
        except RELAY_ERRORS as error:
            self._log.debug("Relay broke a protocol", protocol=stream.protocol, error=describe(error))
            stream.reset()
        except Exception as error:
            self._bugs.note(peer_name(stream.connection.peer_id), stream.protocol, error)
            stream.reset()
        finally:
            self._inbound_streams -= 1

    # circuits

    async def _open_circuit(self, request: OpenCircuit, reply: Reply[Circuit]) -> Circuit:
        connection = self._connection
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
        return Circuit(stream, limit is not None, _circuit_address(connection))

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
                remote_address=_circuit_address(stream.connection),
                limited=wanted.limit is not None,
                account_of=self._host.ledger.account_of,
            )
        except DIAL_ERRORS as error:
            self._log.debug("Incoming circuit failed", error=describe(error))
            return None
        index = self._host.peer_index(connection.peer_id)
        return connection if await hand_over(connection, self._peers[index] if index is not None else None) else None


async def hand_over(connection: Connection, to: Address[Any] | None) -> bool:
    """Let a child adopt the connection; otherwise close it. Returns whether it was adopted."""
    is_adopted = False
    try:
        if to is not None:
            with trio.move_on_after(ADOPT_TIMEOUT_S):
                await to.ask(Adopt(connection))
                is_adopted = True
    except Retryable:
        pass
    finally:
        if not is_adopted:
            connection.close("nobody adopted it")
    return is_adopted


def _circuit_address(connection: Connection) -> Multiaddr:
    return connection.remote_address.transport.with_peer(connection.peer_id) + CIRCUIT_SUFFIX


async def _wait_then_cancel(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
