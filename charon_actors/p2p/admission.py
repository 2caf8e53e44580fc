"""Admission: which incoming connections may shake hands, and how fast. Sans-IO.

Theory of operation. Until its handshake is over, a connection is anybody's; a place for it and the milliseconds of its handshake (some
1.5) are all it can take. Where it comes from says how welcome it is:

    rank        the connection comes from                          its handshakes are paid by
    ENDPOINT    address and port where a peer listens              that endpoint (Charon and we dial from the listen port)
    ADDRESS     an address of a peer: configured, or where one     that address, and all addresses together
                was accepted lately
    STRANGER    anywhere else                                      all strangers together

Places. A newcomer always gets one. When its own address has MAX_PER_ADDRESS, or all are taken, somebody who waits leaves: of the
lowest rank, there of those that have come least far, and there the oldest. Of MAX_PLACES strangers take at most MAX_STRANGERS; so
silent connections only ever push out silent ones, and no number of them shuts out a peer that speaks.

    stage   the connection has                        and then it has
    0       been accepted                             FIRST_BYTES_S to say something (a dialer speaks first: multistream, Noise)
    1       sent something, waits for its handshake   NEXT_BYTES_S for each further message, 15 s in all (03 §2.3)
    2       begun its handshake

Limits: the constants below. Source: docs/threat-model.md; specification 03 §2.1, §2.3.
"""

from collections import OrderedDict
from collections.abc import Hashable
from enum import IntEnum
from typing import Final

from charon_actors.pace import Bucket

MAX_PLACES: Final = 256
MAX_PER_ADDRESS: Final = 32
MAX_STRANGERS: Final = 192
FIRST_BYTES_S: Final = 3.0
NEXT_BYTES_S: Final = 5.0
MAX_REMEMBERED: Final = 256  # addresses where peers were accepted

# handshakes a second, and at once
ENDPOINT_PACE: Final = (2.0, 10.0)
ADDRESS_PACE: Final = (10.0, 50.0)
ADDRESSES_PACE: Final = (40.0, 200.0)
STRANGERS_PACE: Final = (10.0, 50.0)

assert MAX_PER_ADDRESS < MAX_STRANGERS < MAX_PLACES


class Rank(IntEnum):
    """Where a connection comes from, least welcome first."""

    STRANGER = 0
    ADDRESS = 1
    ENDPOINT = 2


class Place:
    """One connection between accept and the end of its handshake."""

    __slots__ = ("address", "payers", "rank", "stage")

    def __init__(self, address: str, rank: Rank, payers: tuple[Hashable, ...]) -> None:
        self.address, self.rank, self.payers, self.stage = address, rank, payers, 0


class Admission:
    """All places of one listener. endpoints: (address, port) where peers listen; addresses as `origin` of the listener writes them."""

    def __init__(self, endpoints: frozenset[tuple[str, int]]) -> None:
        self._endpoints, self._configured = endpoints, frozenset(address for address, _ in endpoints)
        self._remembered: OrderedDict[str, None] = OrderedDict()
        self._places: dict[Place, None] = {}  # oldest first
        self._buckets: dict[Hashable, Bucket] = {}

    def __len__(self) -> int:
        return len(self._places)

    def enter(self, address: str, port: int) -> tuple[Place, Place | None]:
        """A place for a connection that was accepted, and the one that leaves for it, if somebody has to."""
        place = self._place(address, port)
        leaving = None
        same = [other for other in self._places if other.address == address]
        strangers = [other for other in self._places if other.rank is Rank.STRANGER]
        if len(same) >= MAX_PER_ADDRESS:
            leaving = self._least(same)
        elif place.rank is Rank.STRANGER and len(strangers) >= MAX_STRANGERS:
            leaving = self._least(strangers)
        elif len(self._places) >= MAX_PLACES:
            leaving = self._least(list(self._places))
        if leaving is not None:
            del self._places[leaving]
        self._places[place] = None
        return place, leaving

    def leave(self, place: Place) -> None:
        """Its handshake is over, one way or the other. Again: nothing happens."""
        self._places.pop(place, None)

    def remember(self, address: str) -> None:
        """A peer was accepted from there."""
        self._remembered[address] = None
        self._remembered.move_to_end(address)
        if len(self._remembered) > MAX_REMEMBERED:
            forgotten, _ = self._remembered.popitem(last=False)
            self._buckets.pop(forgotten, None)

    def begin(self, place: Place, now: float) -> float:
        """May its handshake begin? 0: it has begun, and is paid for; else seconds until it is worth asking again."""
        buckets = [self._buckets.setdefault(payer, _bucket(payer)) for payer in place.payers]
        wait_s = max(bucket.wait_s(now, 1) for bucket in buckets)
        if not wait_s:
            for bucket in buckets:
                bucket.spend(now)
            place.stage = 2
        return wait_s

    def _place(self, address: str, port: int) -> Place:
        if (address, port) in self._endpoints:
            return Place(address, Rank.ENDPOINT, ((address, port),))
        if address in self._configured or address in self._remembered:
            return Place(address, Rank.ADDRESS, (address, Rank.ADDRESS))
        return Place(address, Rank.STRANGER, (Rank.STRANGER,))

    @staticmethod
    def _least(places: list[Place]) -> Place:
        return min(places, key=lambda place: (place.rank, place.stage))  # min() takes the first of equals, the oldest


def _bucket(payer: Hashable) -> Bucket:
    """Handshakes that may begin."""
    per_s, burst = _pace(payer)
    return Bucket(burst, per_s)


def _pace(payer: Hashable) -> tuple[float, float]:
    if isinstance(payer, tuple):
        return ENDPOINT_PACE
    if isinstance(payer, str):
        return ADDRESS_PACE
    return ADDRESSES_PACE if payer is Rank.ADDRESS else STRANGERS_PACE
