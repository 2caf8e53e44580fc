"""Who may be connected to an HTTP port, and who goes when there are too many. No I/O.

All clients may come from one address (this machine's, or a proxy's), so nobody is locked out by counting alone: when a port is full,
or one address has more than its part, a connection that does nothing makes room for the newcomer. Victims are taken from the address
that has the most connections (from the newcomer's own if that has more than its part), in this order, each time the one that has been
so for the longest:

    standing    what its client does                                            goes
    SILENT      has sent no whole head of a request, or hears its last answer   first
    UPLOADING   a request's body is not whole, for UPLOAD_REST_S and more       second
    BUSY        a request for LONG_S and more: event streams, slow readers      third, what is more than half; the rest last
    IDLE        between two requests                                            fourth
    otherwise   a request that is being answered                                never: the newcomer is turned away

A connection on which a request has arrived that nobody has looked at yet (`has_input`) isn't idle. An idle connection may still be
closed while its client's next request is on the way; clients that keep connections know that and ask again on another.

Bytes: what clients have sent and we must hold until it is whole, over all connections: HEADS_BYTES of request heads, BODIES_BYTES of
bodies, which count until they are answered. Beyond that the oldest unfinished one goes.

Pace: `Pace` lets requests, newcomers and pieces of long answers through at a rate; who comes faster waits in line, so that a flood
costs a bounded part of the event loop, and duties have the rest. Lines are as long as there are connections.

Source: docs/threat-model.md ("Whoever reaches an HTTP port").
"""

import enum
import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import trio

from charon_actors.pace import Bucket

LONG_S: Final = 12.0  # more than the 10 s that a request of the validator API may take
UPLOAD_REST_S: Final = 1.0
HEADS_BYTES: Final = 16 * 2**20
BODIES_BYTES: Final = 256 * 2**20  # one body may have 128 MiB


class Limits(msgspec.Struct, frozen=True):
    """Of one port. address_connections: of one address (IPv6: of its /64). head_bytes: of one request. Rates are per second."""

    connections: int = 32
    head_bytes: int = 16 * 1024
    keep_alive_s: float = 120.0
    head_s: float = 5.0
    handshake_s: float = 10.0
    write_s: float = 20.0  # for PIECE_BYTES of an answer
    graceful_s: float = 1.0
    requests_rate: float = 30.0
    requests_burst: int = 20
    connections_rate: float = 30.0
    connections_burst: int = 32
    pieces_rate: float = 32.0  # of PIECE_BYTES, of answers that are longer than SMALL_BYTES
    pieces_burst: int = 64

    @property
    def address_connections(self) -> int:
        """Three quarters: all clients may well come from one address."""
        return max(self.connections * 3 // 4, 1)


class Standing(enum.Enum):
    SILENT = enum.auto()
    UPLOADING = enum.auto()
    BUSY = enum.auto()
    IDLE = enum.auto()


class PortPlace:
    """One connection's place on the port. close: ends it at once. has_input: whether something unread waits."""

    def __init__(self, address: str, now: float, close: Callable[[], None], has_input: Callable[[], bool]) -> None:
        self.address, self.since, self.close, self.has_input = address, now, close, has_input
        self.standing = Standing.SILENT
        self.head_bytes = self.body_bytes = 0
        self.is_closing = False

    def becomes(self, standing: Standing, now: float) -> None:
        self.standing, self.since = standing, now


class Port:
    """The connections of one port. on_dropped: told a reason ("newcomer", "refused", "bytes", "descriptors") each time."""

    def __init__(self, limits: Limits, on_dropped: Callable[[str], None] = lambda reason: None) -> None:
        self.limits, self._on_dropped = limits, on_dropped
        self.requests = Pace(limits.requests_rate, limits.requests_burst)
        self.newcomers = Pace(limits.connections_rate, limits.connections_burst)
        self.pieces = Pace(limits.pieces_rate, limits.pieces_burst)
        self.is_stopping = False
        self._places: dict[PortPlace, None] = {}
        self._heads_bytes = self._bodies_bytes = 0

    def __len__(self) -> int:
        return len(self._places)

    def admit(self, place: PortPlace, now: float) -> bool:
        """Make room if it must be; False: turned away."""
        counts = Counter(other.address for other in self._open())
        if counts[place.address] >= self.limits.address_connections:
            crowded = place.address
        elif counts.total() >= self.limits.connections:
            crowded = counts.most_common(1)[0][0]
        else:
            self._places[place] = None
            return True
        victim = self._victim([other for other in self._open() if other.address == crowded], now)
        if victim is None:
            self._on_dropped("refused")
            return False
        self._drop(victim, "newcomer")
        self._places[place] = None
        return True

    def leave(self, place: PortPlace) -> None:
        self.holds(place)
        del self._places[place]

    def spare_one(self, now: float) -> None:
        """The process has no descriptor left: close a connection that does nothing."""
        if (victim := self._victim(list(self._open()), now)) is not None:
            self._drop(victim, "descriptors")

    def holds(self, place: PortPlace, *, head_bytes: int = 0, body_bytes: int = 0) -> None:
        """Set what this connection's client has sent of a head and of a body. Too much in all: the oldest unfinished one goes."""
        self._heads_bytes += head_bytes - place.head_bytes
        self._bodies_bytes += body_bytes - place.body_bytes
        place.head_bytes, place.body_bytes = head_bytes, body_bytes
        if self._heads_bytes > HEADS_BYTES:
            self._drop_oldest(other for other in self._open() if other.head_bytes)
        if self._bodies_bytes > BODIES_BYTES:
            self._drop_oldest(other for other in self._open() if other.body_bytes and other.standing is Standing.UPLOADING)

    def stop(self) -> None:
        """No more requests: who has none under way goes now, the others after their answer."""
        self.is_stopping = True
        for place in self._open():
            if place.standing in (Standing.SILENT, Standing.IDLE):
                place.is_closing = True
                place.close()

    def _open(self) -> list[PortPlace]:
        return [place for place in self._places if not place.is_closing]

    def _victim(self, places: list[PortPlace], now: float) -> PortPlace | None:
        def oldest(standing: Standing, at_least_s: float = 0.0) -> list[PortPlace]:
            found = [place for place in places if place.standing is standing and now - place.since >= at_least_s]
            return sorted(found, key=lambda place: place.since)

        long = oldest(Standing.BUSY, LONG_S)
        order = [*oldest(Standing.SILENT), *oldest(Standing.UPLOADING, UPLOAD_REST_S)]
        order += long[: max(len(long) - len(places) // 2, 0)]
        order += [*oldest(Standing.IDLE), *long]
        waits = (Standing.SILENT, Standing.IDLE)
        return next((place for place in order if not (place.standing in waits and place.has_input())), None)

    def _drop_oldest(self, places: Iterable[PortPlace]) -> None:
        if (victim := min(places, key=lambda place: place.since, default=None)) is not None:
            self._drop(victim, "bytes")

    def _drop(self, place: PortPlace, reason: str) -> None:
        place.is_closing = True
        self._on_dropped(reason)
        place.close()


class Pace:
    """Lets `rate` a second through, `burst` of them at once, in the order of their coming. An infinite rate is no limit."""

    def __init__(self, rate: float, burst: int) -> None:
        self._bucket = None if rate == float("inf") else Bucket(burst + 1, rate)
        self._line = trio.Lock()

    async def turn(self) -> None:
        """Wait for one's turn. Cancellation: who leaves the line costs those behind nothing."""
        async with self._line:
            if self._bucket is None:
                await trio.lowlevel.checkpoint()
                return
            await trio.sleep(self._bucket.wait_s(trio.current_time(), 1))
            self._bucket.spend(trio.current_time())


def address_of(host: str) -> str:
    """What counts as one address: an IPv4 address, or an IPv6 network of 64 bits, which one machine may have as a whole."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)
