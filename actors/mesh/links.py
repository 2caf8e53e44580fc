"""Links: the connections of one peer, and which of them is used.

A connection that comes up is kept (the peer counts them, and a relayed one is a spare) while there is a place for it (`places.py`), and
pays for what it makes us do (`account.py`). Streams go over the best one: not one that floods, not limited before limited, direct before
relayed, then the oldest of those on which something came within 3 s (so that a thief of the peer's key, who comes later, doesn't get our
messages instead of the peer), else the newest.

Source: specification 03 §2.4, §3.4.
"""

from collections.abc import Callable, Sequence
from typing import Final

import trio

from actors.log import Log
from actors.mesh.board import PeerFacts
from actors.mesh.carriage import Carriage
from actors.mesh.connection import Connection
from actors.mesh.facts import ConnectionUp, PeerCutOff, StreamOver
from actors.mesh.host import Host, MeshPeer
from actors.mesh.owner import Owner
from actors.mesh.places import who_leaves
from actors.mesh.stream import Stream
from charon_actors.p2p.identify import HostIdentify
from charon_actors.p2p.multiaddr import Multiaddr, named_address
from charon_actors.pace import Bucket

LINES: Final = 20  # about connections, at once: a peer that comes back over all its routes
LINES_A_SECOND: Final = 0.2  # what is left out is left to the counters
IN_USE_S: Final = 3.0  # members ping every second over the connection that they use


class Links(Owner):
    """news: the peer's connections, or what is known of it, have changed since; replaced each time. told: our addresses, as we last said
    them. on_learnt, on_identified, on_ended: for the address book, see `dialing.py`."""

    WHO = "Peer"

    def __init__(self, peer: MeshPeer, host: Host, log: Log) -> None:
        super().__init__(host, log)
        self._peer = peer
        self._account, self._lines = host.ledger.account_of(peer.peer_id), Bucket(LINES, LINES_A_SECOND)
        self._dialed: dict[Connection, Multiaddr] = {}
        self.news = trio.Event()
        self.alone_since = trio.current_time()
        self.is_answering = False
        self.identify: HostIdentify | None = None
        self.told: dict[Connection, tuple[Multiaddr, ...]] = {}
        self.on_learnt: Callable[[HostIdentify, Carriage], None] = lambda said, connection: None
        self.on_identified: Callable[[Connection], None] = lambda connection: None
        self.on_ended: Callable[[Connection, Multiaddr | None, float, str], None] = lambda connection, dialed, age_s, reason: None

    async def best(self) -> Connection:
        """The best connection, waiting for one."""
        while True:
            news = self.news
            alive = [connection for connection in self.connections if not connection.closed.is_set()]
            if alive:
                now = trio.current_time()
                return alive[max(range(len(alive)), key=lambda place: self._rank(place, alive[place], now))]
            await news.wait()

    def _rank(self, age_order: int, connection: Connection, now: float) -> tuple[bool, bool, bool, bool, int]:
        is_in_use = now - connection.last_received_at < IN_USE_S
        return (
            not self._account.is_suspect(connection),
            not connection.limited,
            not connection.relayed,
            is_in_use,
            -age_order if is_in_use else age_order,  # of those in use the oldest, else the newest
        )

    @property
    def rests_for_s(self) -> float:
        """After a flood."""
        return self._account.rests_for_s

    def add(self, connection: Connection, dialed: Multiaddr | None = None) -> None:
        """One that came up, if there is a place for it. dialed: the address; None: the peer has dialed."""
        now = trio.current_time()
        leaving = who_leaves(connection, self.connections, now)
        if leaving is not None:
            leaving.close("too many connections of this peer")
            self._host.on_fact(PeerCutOff(self._peer.name, "places"))
            if leaving is connection:
                self._account.note_refused()
                return
        if dialed is not None:
            self._dialed[connection] = dialed
        self._host.on_fact(ConnectionUp(self._peer.name))
        if self._lines.take(now):
            self._log.info(
                "Connected to peer",
                address=named_address(str(connection.remote_address)),
                direction="outbound" if connection.outbound else "inbound",
                type="relay" if connection.relayed else "direct",
            )
        self.own(connection)

    def announce(self) -> None:
        """Whoever waits for news looks again."""
        news, self.news = self.news, trio.Event()
        news.set()

    def publish(self) -> None:
        """Our row of the board."""
        relayed = sum(connection.relayed for connection in self.connections)
        facts = PeerFacts(len(self.connections) - relayed, relayed, self.is_answering)
        self._host.board.publish_peer(self._peer.index, facts)

    # of Owner

    def name_of(self, connection: Carriage) -> str:
        return self._peer.name

    def protocols(self) -> Sequence[str]:
        return self._host.protocols

    async def dispatch(self, stream: Stream) -> None:
        handler = self._host.handlers.get(stream.protocol)
        if handler is None:  # such as circuit stop, which is for relays only
            stream.reset()
        else:
            await handler(self._peer.index, stream)

    def changed(self) -> None:
        self.publish()
        self.announce()

    def will_introduce(self, connection: Connection) -> None:
        self.told[connection] = self._host.introduction.addresses_for(connection)

    def learn(self, said: HostIdentify, connection: Carriage) -> None:
        self.identify = said
        self.on_learnt(said, connection)
        self.announce()

    def identified(self, connection: Connection) -> None:
        self.on_identified(connection)

    def stream_over(self, stream: Stream) -> None:
        self._host.on_fact(StreamOver(self._peer.name, stream.protocol, stream.sent_bytes, stream.received_bytes))

    def ended(self, connection: Connection, age_s: float, reason: str) -> None:
        self.told.pop(connection, None)
        self.on_ended(connection, self._dialed.pop(connection, None), age_s, reason)
        if not self.connections:
            self.alone_since = trio.current_time()

    def log_unidentified(self, error: str) -> None:
        self._log.debug("Peer did not identify itself", error=error)

    def log_broken(self, protocol: str, error: str) -> None:
        self._log.debug("Peer broke a protocol", protocol=protocol, error=error)

    def log_end(self, connection: Connection, reason: str) -> None:
        if self._lines.take(trio.current_time()):
            self._log.info("Connection to peer ended", reason=reason, type="relay" if connection.relayed else "direct")
