"""The board: facts that the mesh's children publish for one another and for readiness checks.

Each row has one writer, the child it belongs to; everybody may read. A row is an immutable value that is replaced whole, so a reader
never sees half a change. The board outlives incarnations: a child that starts writes its row anew, a child that ends clears it.

    row            writer          readers
    PeerFacts      peer child      readiness, connected_count, status
    RelayFacts     relay child     the gate (relay ids of the moment, 03 §2.1), peer children (circuits to dial), start
"""

from collections.abc import Callable

import msgspec
import trio

from actors.mailbox import Address
from actors.mesh.messages import Adopt, OpenCircuit
from charon_actors.p2p.multiaddr import Multiaddr


class PeerFacts(msgspec.Struct, frozen=True):
    """direct, relayed: connections now. is_answering: the last ping was answered (false where pings are off)."""

    direct: int = 0
    relayed: int = 0
    is_answering: bool = False


class RelayFacts(msgspec.Struct, frozen=True):
    """One configured relay.

    entry: the flag's text. peer_ids: ids that count as this relay now (two while a new one replaces the old). circuit: the address
    prefix `<relay>/p2p/<id>/p2p-circuit` while connected. is_reserved: peers can reach us there. error: why not, for the operator.
    """

    entry: str
    name: str
    peer_ids: frozenset[bytes] = frozenset()
    circuit: Multiaddr | None = None
    is_reserved: bool = False
    error: str = ""


class Board:
    """See the table on top. relays: one row and one address a relay child, in the order of the flag."""

    def __init__(self, peer_count: int, relays: tuple[RelayFacts, ...]) -> None:
        self.peers: list[PeerFacts] = [PeerFacts()] * peer_count
        self.relays: list[RelayFacts] = list(relays)
        self.relay_addresses: list[Address[OpenCircuit | Adopt]] = []
        self._changed = trio.Event()

    def publish_peer(self, index: int, facts: PeerFacts) -> None:
        if self.peers[index] != facts:
            self.peers[index] = facts
            self._announce()

    def publish_relay(self, index: int, facts: RelayFacts) -> None:
        if self.relays[index] != facts:
            self.relays[index] = facts
            self._announce()

    def relay_of(self, peer_id: bytes) -> int | None:
        """Index of the relay that has this id now."""
        return next((index for index, facts in enumerate(self.relays) if peer_id in facts.peer_ids), None)

    @property
    def connected_count(self) -> int:
        return sum(1 for facts in self.peers if facts.direct + facts.relayed > 0)

    @property
    def changed(self) -> trio.Event:
        """Set at the next change of any row; take it before you look, then wait on it."""
        return self._changed

    async def wait_until(self, predicate: Callable[[], bool]) -> None:
        """Wait until `predicate`, which reads the board, is true. Cancellation: at any time."""
        while not predicate():
            await self._changed.wait()

    def _announce(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()
