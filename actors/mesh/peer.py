"""Peer: owns everything between us and one other node of the cluster.

Accepts     Send (tell) · Deliver, Exchange, OpenStream, Adopt, FetchStatus (ask)
Owns        the peer's connections, dialed and adopted; its address book; ping, peerinfo and identify of this peer
May touch   sockets (through the dialer), relay children (OpenCircuit), its row of the board
Mailbox     1024, policy `reject`; of the sends at most MAX_IN_FLIGHT and MAX_IN_FLIGHT_BYTES are under way, more get PeerBusy
Cancelled   at any await: streams are reset, connections closed, nothing stays open
Restart     starts without connections: the old ones are closed with the incarnation; it dials again at once
Source      specification 03-p2p, sections 2.2 to 2.4, 3.4, 3.5, 5.3, 6, 7

Theory of operation. A connection that comes up is kept (the peer counts them, and a relayed one is a spare) while there is a place for
it (`places.py`), and pays for what it makes us do (`account.py`); streams go over the best one: not one that floods, not limited before
limited, direct before relayed, then the oldest of those on which something came within 3 s (so that a thief of the peer's key, who comes
later, doesn't get our messages instead of the peer), else the newest. One task dials whenever there is none, one dials directly every
minute while there are only relayed ones, and each send waits for a connection until its own deadline.

    address book      from ENR and configuration: for ever · from identify: while connected and 15 min after, 20 at most
    relays            every relay that we are connected to; v1.11: only the peer with the smaller id dials through relays, but when the
                      peer hasn't shown up for 30 s, the larger one does too (03 §3.4)
    when not to dial  an address that failed rests (5 s, then 5 s + n² s); a peer that identified itself clears that. One that ends
                      the connection before counts as failed: that is how a peer's gate looks from outside
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar, assert_never

import msgspec
import structlog
import trio

from actors.change_log import ChangeLog
from actors.mailbox import Inbox, Mail, Reply
from actors.mesh.board import PeerFacts
from actors.mesh.connection import Connection, ConnectionLost, MessageFault, ProtocolNotSupported, StreamEnded
from actors.mesh.dialer import DialFault, DialOutcome, describe, dial, dial_tcp
from actors.mesh.handlers import BugLog, close_quietly
from actors.mesh.host import Host, MeshPeer
from actors.mesh.identify import ask_identify, push_identify, read_identify, serve_identify
from actors.mesh.messages import (
    SEND_TIMEOUT_S,
    Adopt,
    AnswerFault,
    ConnectionStatus,
    Deliver,
    Exchange,
    FetchStatus,
    MeshFault,
    NoConnection,
    OpenCircuit,
    OpenStream,
    PeerBusy,
    PeerStatus,
    ProtocolRefused,
    Send,
    SendTimeout,
    StreamLost,
)
from actors.mesh.peerinfo import PeerInfoLog, report, serve_peerinfo
from actors.mesh.ping import (
    BACKOFF_BASE_S,
    BACKOFF_MAX_S,
    PING,
    PING_INTERVAL_S,
    PING_TIMEOUT_S,
    PingFault,
    ping_once,
    serve_ping,
)
from actors.mesh.places import who_leaves
from actors.mesh.send_log import SendLog
from actors.mesh.stream import Stream
from actors.mesh.upgrade import upgrade
from charon_actors.errors import Retryable
from charon_actors.p2p.backoff import AddressBackoff, Backoff
from charon_actors.p2p.dial import DIAL_TIMEOUT_S, RELAY_DELAY_S, PlannedDial, plan_dials
from charon_actors.p2p.framing import encode_delimited
from charon_actors.p2p.identify import IDENTIFY, IDENTIFY_PUSH, HostIdentify, IdentifyFault, kept_addresses
from charon_actors.p2p.multiaddr import Multiaddr, named_address
from charon_actors.p2p.peerinfo import (
    MAX_MESSAGE_BYTES,
    PEERINFO,
    POLL_INTERVAL_S,
    Judgement,
    PeerInfoFault,
    decode_peer_info,
    encode_peer_info,
    judge,
)
from charon_actors.p2p.relay_messages import may_route_through_relays
from charon_actors.pace import Bucket
from charon_actors.profile import Profile

LINES: Final = 20  # about connections, at once: a peer that comes back over all its routes
LINES_A_SECOND: Final = 0.2  # what is left out is left to the counters
IN_USE_S: Final = 3.0  # members ping every second over the connection that they use
MAX_IN_FLIGHT: Final = 512
MAX_IN_FLIGHT_BYTES: Final = 128 * 1024 * 1024
MAX_INBOUND_STREAMS: Final = 512
RETRY_DELAY_S: Final = 0.1
EARLY_BYTES: Final = 32_768  # larger messages wait for the agreement: they would fill the window of a stream that may be refused
SAMPLE_INTERVAL_S: Final = 30.0
LEARNT_LIFE_S: Final = 900.0
OTHER_SIDE_SHOULD_DIAL_S: Final = 30.0
IDLE_LOOK_S: Final = 5.0
SHORT_LIFE_S: Final = 5.0  # a connection that ends sooner is not dialed again at once, so that two nodes never spin
SHORT_LIFE_REST_S: Final = 1.0
RECYCLED_WITHIN_S: Final = 1.0  # a circuit at its limit is replaced sooner; after that a lost peer counts as gone
RESOURCE_LIMIT_CODE: Final = 0x1002

R = TypeVar("R")
Message = Send | Deliver | Exchange | OpenStream | Adopt | FetchStatus
STREAM_ERRORS: tuple[type[Exception], ...] = (trio.BrokenResourceError, trio.ClosedResourceError)  # StreamFault of all kinds
IDENTIFY_ERRORS: tuple[type[Exception], ...] = (*STREAM_ERRORS, IdentifyFault, trio.TooSlowError)
PUSH_ERRORS: tuple[type[Exception], ...] = (*IDENTIFY_ERRORS, OSError)  # OSError: no descriptor is left to read our interfaces

log = structlog.get_logger(topic="p2p")


class Peer:
    """One incarnation of a peer child; see the contract on top."""

    def __init__(self, peer: MeshPeer, host: Host) -> None:
        self._peer, self._host = peer, host
        self._labels = {"peer": peer.name}
        self._log = log.bind(peer=peer.name)
        self._bugs = BugLog(self._log, host.events)
        self._connections: dict[Connection, float] = {}  # -> when it came up; in that order
        self._alone_since = trio.current_time()
        self._changed = trio.Event()  # of _connections or the address book
        self._learnt: dict[Multiaddr, None] = {}
        self._backoff = AddressBackoff[Multiaddr]()
        self._dial_failures: dict[Multiaddr, str] = {}
        self._account, self._lines = host.ledger.account_of(peer.peer_id), Bucket(LINES, LINES_A_SECOND)
        self._dial_log, self._send_log, self._info_log = ChangeLog(), SendLog(), PeerInfoLog()
        self._identify: HostIdentify | None = None
        self._identified: set[Connection] = set()
        self._rest_until = 0.0
        self._told: dict[Connection, tuple[Multiaddr, ...]] = {}
        self._ping_rtt_s: float | None = None
        self._judgement = Judgement()
        self._in_flight = self._in_flight_bytes = self._inbound_streams = 0

    async def run(self, inbox: Inbox[Message]) -> None:
        """Serve until the inbox ends, the scope is cancelled or something of ours fails."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._stay_connected, self._direct_addresses)
                nursery.start_soon(self._stay_connected, self._circuits)
                nursery.start_soon(self._seek_direct)
                nursery.start_soon(self._sample)
                if self._host.is_pinging:
                    nursery.start_soon(self._ping)
                if self._host.is_polling_peerinfo:
                    nursery.start_soon(self._poll_peerinfo)
                async for mail in inbox:
                    self._take(mail)
                nursery.cancel_scope.cancel()
        finally:
            for connection in list(self._connections):
                connection.close("this peer's actor ended")
            self._host.board.publish_peer(self._peer.index, PeerFacts())

    # mail

    def _take(self, mail: Mail[Message]) -> None:
        start_soon = self._nursery.start_soon
        match mail.message:
            case Send() as send:
                if self._is_busy(len(send.message)):
                    self._refuse(send, "busy")
                else:
                    start_soon(self._send, send)
            case Deliver() as deliver:
                reply = mail.reply_to(deliver)
                if self._is_busy(len(deliver.message)):
                    reply.fail(self._busy())
                else:
                    start_soon(partial(reply.answer, self._deliver, deliver, errors=(MeshFault,)))
            case Exchange() as exchange:
                answer = mail.reply_to(exchange)
                if self._is_busy(len(exchange.message)):
                    answer.fail(self._busy())
                else:
                    start_soon(partial(answer.answer, self._exchange, exchange, errors=(MeshFault,)))
            case OpenStream() as wanted:
                opened = mail.reply_to(wanted)
                if self._is_busy(0):
                    opened.fail(self._busy())
                else:
                    start_soon(partial(opened.answer, self._open_for, wanted, opened, errors=(MeshFault,)))
            case Adopt(connection) as adopt:
                adopted = mail.reply_to(adopt)
                if not adopted.is_abandoned:
                    self._own(connection)
                    adopted.send(None)
            case FetchStatus() as request:
                mail.reply_to(request).send(self._status())
            case unknown:
                assert_never(unknown)

    def _is_busy(self, size: int) -> bool:
        return self._in_flight >= MAX_IN_FLIGHT or (
            self._in_flight_bytes > 0 and self._in_flight_bytes + size > MAX_IN_FLIGHT_BYTES
        )

    def _busy(self) -> PeerBusy:
        return PeerBusy(f"{self._peer.name}: {self._in_flight} sends are in flight")

    def _refuse(self, send: Send, reason: str) -> None:
        self._host.events.count("charon_actors_p2p_sends_refused_total", {**self._labels, "reason": reason})

    # sends

    async def _send(self, send: Send) -> None:
        try:
            await self._one_way(send.protocols, send.message, SEND_TIMEOUT_S, send.topic, retries=1)
        except MeshFault as error:
            self._refuse(send, type(error).__name__)
            news = self._send_log.add(False)
            if news == "failing" and not isinstance(error, NoConnection):
                self._log.warning("Cannot send to peer", error=str(error), protocol=send.protocols[0])
        else:
            if self._send_log.add(True) == "recovered":
                self._log.info("Sends to peer work again")

    async def _deliver(self, request: Deliver) -> None:
        await self._one_way(request.protocols, request.message, request.timeout_s, request.topic, retries=0)

    async def _one_way(self, protocols: tuple[str, ...], message: bytes, timeout_s: float, topic: str, retries: int) -> None:
        async def written(stream: Stream) -> None:
            pass

        await self._use_stream(protocols, timeout_s, message, written, topic=topic, retries=retries)

    async def _exchange(self, request: Exchange) -> bytes:
        return (await self._exchange_timed(request, may_be_early=True))[0]

    async def _exchange_timed(self, request: Exchange, *, may_be_early: bool = False) -> tuple[bytes, float]:
        """The answer and its round trip in seconds; that of an early request isn't measured right."""

        async def ask(stream: Stream) -> tuple[bytes, float]:
            start = trio.current_time()
            try:
                answer = await stream.read_delimited(request.limit_bytes)
            except (StreamEnded, MessageFault) as error:
                raise AnswerFault(f"{self._peer.name} on {stream.protocol}: {error}") from None
            return answer, trio.current_time() - start

        return await self._use_stream(
            request.protocols, request.timeout_s, request.message, ask, topic=request.topic, retries=1, may_be_early=may_be_early
        )

    async def _use_stream(
        self,
        protocols: tuple[str, ...],
        timeout_s: float,
        message: bytes,
        use: Callable[[Stream], Awaitable[R]],
        *,
        topic: str,
        retries: int,
        may_be_early: bool = True,
    ) -> R:
        """Send `message` on a stream of its own, finish our side, then `use` the stream.

        To a peer that has told that it speaks the protocol, a small message goes out together with the proposal.
        """
        size = len(message)
        deadline = trio.current_time() + timeout_s
        self._in_flight += 1
        self._in_flight_bytes += size
        try:
            while True:
                early = (
                    may_be_early
                    and size <= EARLY_BYTES
                    and len(protocols) == 1
                    and self._identify is not None
                    and protocols[0] in self._identify.protocols
                )
                may_be_early = False
                try:
                    stream = await self._open(protocols, deadline, encode_delimited(message) if early else None)
                except StreamLost:
                    if not retries:
                        raise
                    retries -= 1
                    await trio.sleep(RETRY_DELAY_S)
                    continue
                start = trio.current_time()
                is_done = False
                try:
                    with trio.fail_at(deadline):
                        if not early:
                            await stream.write_delimited(message)
                            await stream.send_eof()
                        answer = await use(stream)
                    is_done = True
                except trio.TooSlowError:
                    raise SendTimeout(f"{self._peer.name} took longer than {timeout_s:g} s on {stream.protocol}") from None
                except STREAM_ERRORS as error:
                    if not retries:
                        raise StreamLost(f"{self._peer.name} on {stream.protocol}: {describe(error)}") from None
                finally:
                    self._count_bytes(stream)
                    if not is_done:
                        stream.reset()
                if is_done:
                    labels = {**self._labels, "protocol": stream.protocol, "topic": topic}
                    self._host.events.observe("p2p_send_duration_seconds", labels, trio.current_time() - start)
                    await close_quietly(stream)
                    return answer
                retries -= 1
                await trio.sleep(RETRY_DELAY_S)
        finally:
            self._in_flight -= 1
            self._in_flight_bytes -= size

    async def _open_for(self, request: OpenStream, reply: Reply[Stream]) -> Stream:
        self._in_flight += 1
        try:
            stream = await self._open(request.protocols, trio.current_time() + request.timeout_s)
        finally:
            self._in_flight -= 1
        if reply.is_over:  # the asker left in this very instant; nobody else would close it
            stream.reset()
        return stream

    async def _open(self, protocols: tuple[str, ...], deadline: float, early: bytes | None = None) -> Stream:
        """A negotiated stream over the best connection, waiting for one.

        Raises: NoConnection, SendTimeout, ProtocolRefused; StreamLost if `early` was sent and the stream broke.
        """
        last = "no connection"
        was_connected = False
        while True:
            try:
                with trio.fail_at(deadline):
                    connection = await self._best()
                    was_connected = True
                    return await connection.open_stream(protocols, early)
            except ProtocolNotSupported:
                raise ProtocolRefused(f"{self._peer.name} does not speak {protocols[0]}") from None
            except STREAM_ERRORS as error:
                if early is not None:  # the peer may have got the message: not for us to send it again and again
                    raise StreamLost(f"{self._peer.name} on {protocols[0]}: {describe(error)}") from None
                last = describe(error)
            except trio.TooSlowError:
                kind = SendTimeout if was_connected else NoConnection
                raise kind(f"{self._peer.name}: {last}") from None
            await trio.sleep(RETRY_DELAY_S)

    async def _best(self) -> Connection:
        """The best connection, waiting for one."""
        while True:
            changed = self._changed
            alive = [connection for connection in self._connections if not connection.closed.is_set()]
            if alive:
                now = trio.current_time()
                return alive[max(range(len(alive)), key=lambda place: self._rank(place, alive[place], now))]
            await changed.wait()

    def _rank(self, age_order: int, connection: Connection, now: float) -> tuple[bool, bool, bool, bool, int]:
        is_in_use = now - connection.last_received_at < IN_USE_S
        return (
            not self._account.is_suspect(connection),
            not connection.limited,
            not connection.relayed,
            is_in_use,
            -age_order if is_in_use else age_order,  # of those in use the oldest, else the newest
        )

    # connections

    def _own(self, connection: Connection, dialed: Multiaddr | None = None) -> None:
        now = trio.current_time()
        leaving = who_leaves(connection, self._connections, now)
        if leaving is not None:
            leaving.close("too many connections of this peer")
            self._host.events.count("charon_actors_p2p_cut_off_total", {**self._labels, "reason": "places"})
            if leaving is connection:
                self._account.note_refused()
                return
        self._connections[connection] = now
        self._host.events.count("p2p_peer_connection_total", self._labels)
        if self._lines.take(now):
            self._log.info(
                "Connected to peer",
                address=named_address(str(connection.remote_address)),
                direction="outbound" if connection.outbound else "inbound",
                type="relay" if connection.relayed else "direct",
            )
        self._announce()
        self._nursery.start_soon(self._run_connection, connection, dialed)

    async def _run_connection(self, connection: Connection, dialed: Multiaddr | None) -> None:
        reason = "closed"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._introduce, connection)
                try:
                    await connection.run(self._serve, lambda: self._host.protocols)
                except ConnectionLost as error:
                    reason = describe(error)
                nursery.cancel_scope.cancel()
        finally:
            connection.close("this peer's actor let go of it")
            self._told.pop(connection, None)
            self._note_end(connection, dialed, trio.current_time() - self._connections.pop(connection), reason)
            if not self._connections:
                self._alone_since = trio.current_time()
            self._announce()
        if self._lines.take(trio.current_time()):
            self._log.info("Connection to peer ended", reason=reason, type="relay" if connection.relayed else "direct")

    def _announce(self) -> None:
        relayed = sum(connection.relayed for connection in self._connections)
        facts = PeerFacts(len(self._connections) - relayed, relayed, self._ping_rtt_s is not None)
        self._host.board.publish_peer(self._peer.index, facts)
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _introduce(self, connection: Connection) -> None:
        try:
            self._told[connection] = self._host.introduction.addresses_for(connection)
            self._learn(await ask_identify(connection), connection)
        except IDENTIFY_ERRORS as error:
            self._log.debug("Peer did not identify itself", error=describe(error))
        except Exception as error:
            self._bugs.note(self._peer.name, IDENTIFY, error)
        else:
            self._identified.add(connection)
            self._backoff.clear()
            self._dial_failures = {}
            self._dial_log.clear()

    def _note_end(self, connection: Connection, dialed: Multiaddr | None, age_s: float, reason: str) -> None:
        """A peer that does not want us ends the connection right after the handshake: that is a failed dial, not a loss."""
        now = trio.current_time()
        if connection not in self._identified:
            if dialed is not None:
                self._fail(dialed, now)
                failure = f"the peer ended the connection right after the handshake ({reason}); does its lock have our ENR?"
                self._dial_failures = {**self._dial_failures, dialed: failure}
                self._log_dial_failures(now)
        elif age_s < SHORT_LIFE_S:
            self._rest_until = now + SHORT_LIFE_REST_S
        self._identified.discard(connection)

    def _learn(self, said: HostIdentify, connection: Connection) -> None:
        self._identify = said
        self._learnt = dict.fromkeys(kept_addresses(said.listen, connection.remote_address))
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    # incoming streams

    async def _serve(self, stream: Stream) -> None:
        if self._inbound_streams >= MAX_INBOUND_STREAMS:
            stream.reset(RESOURCE_LIMIT_CODE)
            return
        self._inbound_streams += 1
        try:
            await self._dispatch(stream)
        except IDENTIFY_ERRORS as error:
            self._log.debug("Peer broke a protocol", protocol=stream.protocol, error=describe(error))
            stream.reset()
        except Retryable:
            stream.reset()
        except Exception as error:
            self._bugs.note(self._peer.name, stream.protocol, error)
            stream.reset()
        finally:
            self._inbound_streams -= 1
            self._count_bytes(stream)

    async def _dispatch(self, stream: Stream) -> None:
        match stream.protocol:
            case _ if stream.protocol == PING:
                await serve_ping(stream)
            case _ if stream.protocol == IDENTIFY:
                await serve_identify(stream, self._host.introduction)
            case _ if stream.protocol == IDENTIFY_PUSH:
                with trio.move_on_after(5):
                    self._learn(await read_identify(stream), stream.connection)
                await close_quietly(stream)
            case _ if stream.protocol == PEERINFO:
                await serve_peerinfo(stream, self._host.own_info)
            case protocol:
                handler = self._host.handlers.get(protocol)
                if handler is None:  # such as circuit stop, which is for relays only
                    stream.reset()
                else:
                    await handler(self._peer.index, stream)

    # dialing

    async def _stay_connected(self, candidates: Callable[[float], list[Multiaddr]]) -> None:
        """Dial while there is no connection. One task for direct addresses, one for circuits: neither waits for the other."""
        while True:
            changed, board_changed = self._changed, self._host.board.changed
            if self._connections:
                await changed.wait()
                continue
            now = trio.current_time()
            rest_until = max(self._rest_until, now + self._account.rests_for_s)
            if now < rest_until:
                await trio.sleep_until(rest_until)
                continue
            addresses = candidates(now)
            ready = [address for address in addresses if self._backoff.free_from(address, now) <= now]
            if ready:
                if ready[0].has_circuit and self._direct_addresses(now):
                    with trio.move_on_after(RELAY_DELAY_S):
                        await changed.wait()
                    if self._connections:
                        continue
                self._note(await self._dial(ready))
                continue
            wake_at = min((self._backoff.free_from(address, now) for address in addresses), default=now + IDLE_LOOK_S)
            with trio.move_on_at(min(wake_at, now + IDLE_LOOK_S)):
                async with trio.open_nursery() as nursery:
                    for event in (changed, board_changed):
                        nursery.start_soon(_wait_then_cancel, event, nursery.cancel_scope)

    async def _seek_direct(self) -> None:
        """Every minute: dial directly while there are only relayed connections, and tell the peer if our addresses have changed."""
        while True:
            await trio.sleep(self._host.force_direct_interval_s)
            connections = list(self._connections)
            if connections and all(connection.relayed for connection in connections):
                addresses = self._direct_addresses(trio.current_time())
                if addresses:
                    self._note(await self._dial(addresses))
            for connection in connections:
                try:
                    told = self._host.introduction.addresses_for(connection)
                    if self._told.get(connection, told) != told and not connection.closed.is_set():
                        self._told[connection] = told
                        await push_identify(connection, self._host.introduction)
                except PUSH_ERRORS as error:
                    self._log.debug("Cannot tell peer our new addresses", error=describe(error))

    def _direct_addresses(self, now: float) -> list[Multiaddr]:
        if self._learnt and not self._connections and now - self._alone_since > LEARNT_LIFE_S:
            self._learnt = {}
        return [planned.address for planned in plan_dials([*self._peer.addresses, *self._learnt])]

    def _circuits(self, now: float) -> list[Multiaddr]:
        is_ours_to_dial = self._host.profile is Profile.V1_10 or may_route_through_relays(
            self._host.identity.peer_id, self._peer.peer_id
        )
        if not is_ours_to_dial and now - self._alone_since < OTHER_SIDE_SHOULD_DIAL_S:
            return []
        return [facts.circuit for facts in self._host.board.relays if facts.circuit is not None]

    async def _dial(self, addresses: list[Multiaddr]) -> DialOutcome:
        return await dial(plan_dials(addresses), self._attempt, DIAL_TIMEOUT_S)

    def _note(self, outcome: DialOutcome) -> None:
        now = trio.current_time()
        for address in outcome.failures:
            self._fail(address, now)
        if outcome.connection is not None:
            self._own(outcome.connection, outcome.address)
            return
        self._dial_failures = {**self._dial_failures, **outcome.failures}
        self._log_dial_failures(now)

    def _fail(self, address: Multiaddr, now: float) -> None:
        self._backoff.fail(address, now, is_circuit=address.has_circuit)

    def _log_dial_failures(self, now: float) -> None:
        reasons = self._readable_failures(is_news=True)
        if reasons and not self._connections and self._dial_log.is_due(reasons, now):
            self._log.warning("Cannot connect to peer", reasons=reasons)

    def _readable_failures(self, *, is_news: bool = False) -> dict[str, str]:
        """Address to reason. is_news: without the first failure of a circuit, as the peer may reserve its place a moment later."""
        return {
            named_address(str(address)): reason
            for address, reason in list(self._dial_failures.items())[-16:]
            if not (is_news and address.has_circuit and self._backoff.failures_of(address) < 2)
        }

    async def _attempt(self, planned: PlannedDial) -> Connection:
        if planned.address.has_circuit:
            return await self._dial_circuit(planned.address)
        host = self._host
        return await dial_tcp(
            planned.address,
            host.identity,
            self._peer.peer_id,
            host.is_welcome,
            host.source_for(planned.address),
            host.ledger.account_of,
        )

    async def _dial_circuit(self, address: Multiaddr) -> Connection:
        board = self._host.board
        index = next((index for index, facts in enumerate(board.relays) if facts.circuit == address), None)
        if index is None:
            raise DialFault("we are no longer connected to this relay")
        try:
            circuit = await board.relay_addresses[index].ask(OpenCircuit(self._peer.peer_id))
        except Retryable as error:
            raise DialFault(str(error)) from None
        try:
            return await upgrade(
                circuit.pipe,
                self._host.identity,
                outbound=True,
                expected_peer=self._peer.peer_id,
                is_allowed=self._host.is_welcome,
                remote_address=circuit.remote_address,
                limited=circuit.is_limited,
                account_of=self._host.ledger.account_of,
            )
        except BaseException:
            circuit.pipe.reset()  # `upgrade` has closed it; a reset frees the relay's side, too
            raise

    # ping, peerinfo, gauges

    async def _ping(self) -> None:
        events, backoff = self._host.events, Backoff(BACKOFF_BASE_S, BACKOFF_MAX_S, self._host.entropy)
        while True:
            start, changed = trio.current_time(), self._changed
            rtt, error = await self._ping_best()
            if rtt is not None:
                backoff.reset()
                events.observe("p2p_ping_latency_secs", self._labels, rtt)
                events.gauge("p2p_ping_success", self._labels, 1)
                if self._ping_rtt_s is None:
                    self._log.info("Peer connected", rtt_ms=round(rtt * 1000, 2))
                self._set_rtt(rtt)
                await trio.sleep_until(start + PING_INTERVAL_S)
                continue
            if error is not None:
                events.count("p2p_ping_error_total", self._labels)
                events.gauge("p2p_ping_success", self._labels, 0)
                if self._ping_rtt_s is not None:
                    self._log.warning("Peer does not answer", error=error)
            self._set_rtt(None)
            with trio.move_on_after(backoff.next_delay_s()):
                await changed.wait()

    async def _ping_best(self) -> tuple[float | None, str | None]:
        """(round trip, None), (None, what went wrong) or, for an error of a circuit that is recycled, (None, None)."""
        was_answering = self._ping_rtt_s is not None
        try:
            with trio.fail_after(PING_TIMEOUT_S):
                with trio.fail_after(RECYCLED_WITHIN_S if was_answering else PING_TIMEOUT_S):
                    connection = await self._best()
                stream = await connection.open_stream((PING,))
                try:
                    rtt = await ping_once(stream, self._host.entropy)
                except BaseException:
                    stream.reset()
                    raise
                await close_quietly(stream)
                return rtt, None
        except trio.TooSlowError:
            return None, "no answer" if self._connections else "no connection"
        except PingFault as error:
            return None, str(error)
        except STREAM_ERRORS as error:
            return None, str(error) if isinstance(error, ProtocolNotSupported) else None

    def _set_rtt(self, rtt_s: float | None) -> None:
        is_news = (rtt_s is None) is not (self._ping_rtt_s is None)
        self._ping_rtt_s = rtt_s
        if is_news:
            facts = msgspec.structs.replace(self._host.board.peers[self._peer.index], is_answering=rtt_s is not None)
            self._host.board.publish_peer(self._peer.index, facts)

    async def _poll_peerinfo(self) -> None:
        while True:
            await trio.sleep(POLL_INTERVAL_S)
            own = self._host.own_info()
            request = Exchange(
                (PEERINFO,),
                encode_peer_info(msgspec.structs.replace(own, git_hash="")),  # Charon's requests leave it empty
                limit_bytes=MAX_MESSAGE_BYTES,
                topic="peerinfo",
            )
            try:
                answer, rtt = await self._exchange_timed(request)
                response = decode_peer_info(answer)
            except (MeshFault, PeerInfoFault) as error:
                if self._send_log.add(False) == "failing" and not isinstance(error, NoConnection):
                    self._log.warning("Cannot get peer info", error=str(error))
                continue
            if self._send_log.add(True) == "recovered":
                self._log.info("Sends to peer work again")
            self._judgement = judge(response, own=own, now_s=self._host.wall_clock(), rtt_s=rtt, profile=self._host.profile)
            report(self._judgement, self._peer.name, self._host.events)
            self._info_log.write(self._judgement, self._log, trio.current_time())

    async def _sample(self) -> None:
        events = self._host.events
        while True:
            for name in ("p2p_peer_connection_types", "p2p_peer_streams"):
                events.clear(name, self._labels)
            for kind, count in (
                ("direct", sum(not connection.relayed for connection in self._connections)),
                ("relay", sum(connection.relayed for connection in self._connections)),
            ):
                protocol = "tcp" if count else "none"
                events.gauge("p2p_peer_connection_types", {**self._labels, "type": kind, "protocol": protocol}, count)
            streams = Counter(
                ("Outbound" if stream.is_outbound else "Inbound", stream.protocol)
                for connection in self._connections
                for stream in connection.streams.values()
                if stream.protocol
            )
            for (direction, protocol), count in streams.items():
                labels = {**self._labels, "direction": direction, "protocol": protocol, "transport": "tcp"}
                events.gauge("p2p_peer_streams", labels, count)
            await trio.sleep(SAMPLE_INTERVAL_S)

    def _count_bytes(self, stream: Stream) -> None:
        labels = {**self._labels, "protocol": stream.protocol, "transport": "tcp"}
        self._host.events.count("p2p_peer_network_sent_bytes_total", labels, stream.sent_bytes)
        self._host.events.count("p2p_peer_network_receive_bytes_total", labels, stream.received_bytes)

    def _status(self) -> PeerStatus:
        now = trio.current_time()
        return PeerStatus(
            index=self._peer.index,
            name=self._peer.name,
            connections=tuple(
                ConnectionStatus(
                    named_address(str(connection.remote_address)),
                    connection.outbound,
                    connection.limited,
                    connection.relayed,
                    connection.rtt_s or None,
                    now - since,
                )
                for connection, since in self._connections.items()
            ),
            ping_rtt_s=self._ping_rtt_s,
            agent=self._identify.agent if self._identify else "",
            protocols=self._identify.protocols if self._identify else (),
            addresses=tuple(named_address(str(address)) for address in self._direct_addresses(now)),
            dial_failures=self._readable_failures(),
            version=self._judgement.version or "",
            clock_offset_s=self._judgement.clock_offset_s,
            nickname=self._judgement.nickname or "",
        )


async def _wait_then_cancel(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
