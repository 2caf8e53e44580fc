"""Dialing: keeps one peer connected. Its address book, and when which address is tried.

Two tasks dial whenever there is no connection, one direct addresses and one circuits, so that neither waits for the other; a third dials
directly every minute while there are only relayed connections.

    address book      from ENR and configuration: for ever · from identify: while connected and 15 min after, 20 at most
    relays            every relay that we are connected to; v1.11: only the peer with the smaller id dials through relays, but when the
                      peer hasn't shown up for 30 s, the larger one does too (03 §3.4)
    when not to dial  an address that failed rests (5 s, then 5 s + n² s); a peer that identified itself clears that. One that ends
                      the connection before counts as failed: that is how a peer's gate looks from outside

Source: specification 03 §2.3, §3.4, §3.5.
"""

from collections.abc import Callable
from typing import Final

import trio

from actors.change_log import ChangeLog
from actors.log import Log
from actors.mesh.carriage import Carriage
from actors.mesh.connection import Connection
from actors.mesh.dialer import DialOutcome, dial, dial_address
from actors.mesh.events import wait_for_any
from actors.mesh.faults import DialFault, describe
from actors.mesh.host import Host, MeshPeer
from actors.mesh.identify import push_identify
from actors.mesh.links import Links
from actors.mesh.messages import OpenCircuit
from actors.mesh.owner import IDENTIFY_ERRORS
from actors.mesh.upgrade import upgrade
from charon_actors.errors import Retryable
from charon_actors.p2p.backoff import AddressBackoff
from charon_actors.p2p.dial import DIAL_TIMEOUT_S, RELAY_DELAY_S, PlannedDial, plan_dials
from charon_actors.p2p.identify import HostIdentify, kept_addresses
from charon_actors.p2p.multiaddr import Multiaddr, named_address
from charon_actors.p2p.relay_messages import may_route_through_relays
from charon_actors.profile import Profile

LEARNT_LIFE_S: Final = 900.0
OTHER_SIDE_SHOULD_DIAL_S: Final = 30.0
IDLE_LOOK_S: Final = 5.0
SHORT_LIFE_S: Final = 5.0  # a connection that ends sooner is not dialed again at once, so that two nodes never spin
SHORT_LIFE_REST_S: Final = 1.0
FAILURES_SHOWN: Final = 16
PUSH_ERRORS: tuple[type[Exception], ...] = (*IDENTIFY_ERRORS, OSError)  # OSError: no descriptor is left to read our interfaces


class Dialing:
    """Of one incarnation."""

    def __init__(self, peer: MeshPeer, host: Host, links: Links, log: Log) -> None:
        self._peer, self._host, self._links, self._log = peer, host, links, log
        self._learnt: dict[Multiaddr, None] = {}
        self._backoff = AddressBackoff[Multiaddr]()
        self._failures: dict[Multiaddr, str] = {}
        self._failure_log = ChangeLog()
        self._identified: set[Connection] = set()
        self._rest_until = 0.0
        links.on_learnt, links.on_identified, links.on_ended = self._learn, self._note_identified, self._note_end

    async def run(self) -> None:
        """Never returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stay_connected, self.direct_addresses)
            nursery.start_soon(self._stay_connected, self._circuits)
            nursery.start_soon(self._seek_direct)

    async def _stay_connected(self, candidates: Callable[[float], list[Multiaddr]]) -> None:
        """Dial while there is no connection."""
        while True:
            news, board_changed = self._links.news, self._host.board.changed
            if self._links.connections:
                await news.wait()
                continue
            now = trio.current_time()
            rest_until = max(self._rest_until, now + self._links.rests_for_s)
            if now < rest_until:
                await trio.sleep_until(rest_until)
                continue
            addresses = candidates(now)
            ready = [address for address in addresses if self._backoff.free_from(address, now) <= now]
            if ready:
                if ready[0].has_circuit and self.direct_addresses(now):
                    with trio.move_on_after(RELAY_DELAY_S):
                        await news.wait()
                    if self._links.connections:
                        continue
                self._note(await self._dial(ready))
                continue
            wake_at = min((self._backoff.free_from(address, now) for address in addresses), default=now + IDLE_LOOK_S)
            with trio.move_on_at(min(wake_at, now + IDLE_LOOK_S)):
                await wait_for_any(news, board_changed)

    async def _seek_direct(self) -> None:
        """Every minute: dial directly while there are only relayed connections, and tell the peer if our addresses have changed."""
        while True:
            await trio.sleep(self._host.force_direct_interval_s)
            connections = list(self._links.connections)
            if connections and all(connection.relayed for connection in connections):
                addresses = self.direct_addresses(trio.current_time())
                if addresses:
                    self._note(await self._dial(addresses))
            for connection in connections:
                try:
                    told = self._host.introduction.addresses_for(connection)
                    if self._links.told.get(connection, told) != told and not connection.closed.is_set():
                        self._links.told[connection] = told
                        await push_identify(connection, self._host.introduction)
                except PUSH_ERRORS as error:
                    self._log.debug("Cannot tell peer our new addresses", error=describe(error))

    def direct_addresses(self, now: float) -> list[Multiaddr]:
        """Where the peer may be dialed without a relay."""
        is_alone = self._learnt and not self._links.connections
        if is_alone and now - self._links.alone_since > LEARNT_LIFE_S:
            self._learnt = {}
        return [planned.address for planned in plan_dials([*self._peer.addresses, *self._learnt])]

    def failures(self, *, is_news: bool = False) -> dict[str, str]:
        """Address to reason. is_news: without the first failure of a circuit, as the peer may reserve its place a moment later."""
        return {
            named_address(str(address)): reason
            for address, reason in list(self._failures.items())[-FAILURES_SHOWN:]
            if not (is_news and address.has_circuit and self._backoff.failures_of(address) < 2)
        }

    def _circuits(self, now: float) -> list[Multiaddr]:
        is_ours_to_dial = self._host.profile is Profile.V1_10 or may_route_through_relays(
            self._host.identity.peer_id, self._peer.peer_id
        )
        if not is_ours_to_dial and now - self._links.alone_since < OTHER_SIDE_SHOULD_DIAL_S:
            return []
        return [facts.circuit for facts in self._host.board.relays if facts.circuit is not None]

    # attempts, and what became of them

    async def _dial(self, addresses: list[Multiaddr]) -> DialOutcome:
        return await dial(plan_dials(addresses), self._attempt, DIAL_TIMEOUT_S)

    async def _attempt(self, planned: PlannedDial) -> Connection:
        if planned.address.has_circuit:
            return await self._dial_circuit(planned.address)
        return await dial_address(self._host, planned.address, self._peer.peer_id)

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

    def _note(self, outcome: DialOutcome) -> None:
        now = trio.current_time()
        for address in outcome.failures:
            self._fail(address, now)
        if outcome.connection is not None:
            self._links.add(outcome.connection, outcome.address)
            return
        self._failures = {**self._failures, **outcome.failures}
        self._log_failures(now)

    def _fail(self, address: Multiaddr, now: float) -> None:
        self._backoff.fail(address, now, is_circuit=address.has_circuit)

    def _log_failures(self, now: float) -> None:
        reasons = self.failures(is_news=True)
        if reasons and not self._links.connections and self._failure_log.is_due(reasons, now):
            self._log.warning("Cannot connect to peer", reasons=reasons)

    # what connections tell

    def _learn(self, said: HostIdentify, connection: Carriage) -> None:
        self._learnt = dict.fromkeys(kept_addresses(said.listen, connection.remote_address))

    def _note_identified(self, connection: Connection) -> None:
        self._identified.add(connection)
        self._backoff.clear()
        self._failures = {}
        self._failure_log.clear()

    def _note_end(self, connection: Connection, dialed: Multiaddr | None, age_s: float, reason: str) -> None:
        """A peer that does not want us ends the connection right after the handshake: that is a failed dial, not a loss."""
        now = trio.current_time()
        if connection not in self._identified:
            if dialed is not None:
                self._fail(dialed, now)
                failure = f"the peer ended the connection right after the handshake ({reason}); does its lock have our ENR?"
                self._failures = {**self._failures, dialed: failure}
                self._log_failures(now)
        elif age_s < SHORT_LIFE_S:
            self._rest_until = now + SHORT_LIFE_REST_S
        self._identified.discard(connection)
