"""Relay client: keeps us reachable through one configured relay, and opens circuits to peers through it.

Accepts     OpenCircuit, Adopt (ask)
Owns        what the entry resolves to, the connections to the relay and circuits in them (`relay_links.py`), the reservation
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
from typing import Final, assert_never

import msgspec
import trio

from actors.change_log import ChangeLog
from actors.log import get_logger
from actors.mailbox import Address, Inbox, Mail
from actors.mesh.adoption import hand_over
from actors.mesh.board import RelayFacts
from actors.mesh.connection import Connection
from actors.mesh.dialer import dial, dial_address
from actors.mesh.events import wait_for_any
from actors.mesh.facts import RelayReserved, RelaySampled
from actors.mesh.faults import DialFault, describe
from actors.mesh.handlers import close_quietly
from actors.mesh.host import Host
from actors.mesh.messages import Adopt, CircuitFault, OpenCircuit
from actors.mesh.peer import Message as PeerMessage
from actors.mesh.relay_links import RELAY_ERRORS, RelayLinks, circuit_address
from actors.mesh.resolver import (
    REFRESH_S,
    RETRY_BASE_S,
    RETRY_MAX_S,
    RelayTarget,
    ResolveFault,
    check_url,
    decode_entry,
    resolve_relay,
)
from charon_actors.p2p.backoff import Backoff
from charon_actors.p2p.dial import DIAL_TIMEOUT_S, PlannedDial, plan_dials
from charon_actors.p2p.peer_id import peer_name
from charon_actors.p2p.relay_messages import (
    HOP,
    MAX_MESSAGE_BYTES,
    RESERVE_TIMEOUT_S,
    ReservationGrant,
    decode_reservation,
    encode_reserve,
    refresh_in_s,
)

RESERVE_BASE_S: Final = 1.0
RESERVE_MAX_S: Final = 120.0
SHORT_LIFE_S: Final = 5.0
CALM_S: Final = 30.0  # a relay that dies refuses us in several ways, one after the other
SAMPLE_INTERVAL_S: Final = 30.0

Message = OpenCircuit | Adopt

log = get_logger("relay")


def is_resolved_over_http(entry: str) -> bool:
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
        self._reserved_until_s = 0.0  # unix
        self._error = ""
        self._problems = ChangeLog(calm_s=CALM_S)
        self._log = log.bind(relay=entry)
        self._links = RelayLinks(host, self._log, self._publish, self._hand_to_peer)

    async def run(self, inbox: Inbox[Message]) -> None:
        """Serve until the inbox ends, the scope is cancelled or something of ours fails."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._links.begin(nursery)
                nursery.start_soon(self._follow_url if is_resolved_over_http(self._entry) else self._use_address)
                nursery.start_soon(self._stay_reserved)
                nursery.start_soon(self._sample)
                async for mail in inbox:
                    self._take(mail)
                nursery.cancel_scope.cancel()
        finally:
            self._links.close_all("this relay's actor ended")
            self._links.connections.clear()
            self._connection = None
            self._publish()

    def _take(self, mail: Mail[Message]) -> None:
        match mail.message:
            case OpenCircuit() as request:
                reply = mail.reply_to(request)
                if self._links.is_full:
                    reply.fail(CircuitFault("too many circuits are being opened"))
                else:
                    opening = partial(self._links.open_circuit, self._connection, request, reply)
                    self._nursery.start_soon(partial(reply.answer, opening, errors=(CircuitFault,)))
            case Adopt(connection) as adopt:
                adopted = mail.reply_to(adopt)
                if not adopted.is_abandoned:
                    self._links.own(connection)
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
                target = await resolve_relay(self._entry, self._headers)
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
                await wait_for_any(changed, connection.closed)
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
        self._links.own(outcome.connection)
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
        return await dial_address(self._host, planned.address, relay_id)

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
        ids = {connection.peer_id for connection in self._links.connections}
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
                circuit_address(alive) if alive is not None else None,
                is_reserved,
                self._error,
            ),
        )
        if self._target is not None:
            self._host.on_fact(RelayReserved(name, is_reserved))

    async def _sample(self) -> None:
        while True:
            if self._target is not None:
                self._host.on_fact(RelaySampled(peer_name(self._target.peer_id), len(self._links.connections)))
            await trio.sleep(SAMPLE_INTERVAL_S)

    async def _hand_to_peer(self, connection: Connection) -> bool:
        index = self._host.peer_index(connection.peer_id)
        return await hand_over(connection, self._peers[index] if index is not None else None)
