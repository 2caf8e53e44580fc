"""Credit: what one remote identity may cost us. Sans-IO.

Theory of operation: everything that a peer or a relay makes us do has a price in milliseconds of the event loop (COSTS, measured, rounded
up). All connections of one identity, direct and through relays, pay from one account, which outlives them: it fills at `rate` and
holds at most `burst`. What is behind a circuit pays for the member there, once it has proved who it is; the relay pays for carrying it.

    state of the account   what its connections may do                                   how an identity leaves it
    in credit              everything, at once, SLICE_MS at a time                       it spends more than comes in
    in debt                the reader doesn't read until the debt is paid; TCP slows     time (a slice: 10 ms)
                           the sender down. Whoever has used least goes first
    strained               that went on for STRAIN_LIMIT_S: the identity rests, no new   the rest is over; the next one
                           connection from it or to it; if it is in debt, those that     is twice as long, up to MAX_REST_S,
                           used a HEAVY share are closed                                 and back to the first after FORGIVEN_S

Back-pressure comes first because it is kind: an honest peer in a burst is slowed down and loses nothing. Strain counts the seconds in
which somebody waited for credit, and falls by STRAIN_RELIEF a second while nobody does. A connection that uses little of a strained
account keeps its place: a member whose key somebody else floods with goes on working over its own connection.

    honest, per peer                                                          costs        of a second's rate
    a busy slot: 12 duties, 4 votes each, a new stream a message              100 ms a slot       8 %
    a ping a second, its stream, identify, keepalive                          2 ms a second       2 %
    DKG: a sync message every 100 ms                                          0.3 ms a second     1 %
    1000 partial signatures one by one, as some validator clients submit      1000 ms             from the burst
    a message of 32 MiB                                                       130 ms              from the burst

Limits: an account is three numbers. Source: docs/threat-model.md; specification 03 §5 (a stream a message), §11.4 (Go drops a connection whose
ping isn't answered within 10 s: far more than a slice's debt).
"""

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from charon_actors.p2p.identify import IDENTIFY_PUSH
from charon_actors.p2p.relay_messages import STOP
from charon_actors.pace import Bucket

# milliseconds of the event loop, on a core of 2024; measured with tests/attacks
READ_MS: Final = 0.04  # a wake-up of the reader, and the one of the writer that it leads to
MESSAGE_MS: Final = 0.005  # a Noise message, besides its bytes
FRAME_MS: Final = 0.006  # a yamux frame, with the answer that it may ask for
BYTE_MS: Final = 4.0 / 2**20  # decrypted, buffered, handed on
OPENED_MS: Final = 0.02  # a stream until its protocol is proposed
PROPOSAL_MS: Final = 0.05  # one that is refused
SERVED_MS: Final = 1.0  # a stream whose protocol is agreed: its task, its handler, its answer
RECEIVED_MS: Final = 0.01  # data of a stream, besides its frame and bytes: its reader wakes up
VOTED_MS: Final = 2.0  # a consensus message: decoded, its signatures checked
CIRCUIT_MS: Final = 3.0  # a circuit that a relay announces: a handshake with whoever is behind it, who has proved nothing yet
PUSHED_MS: Final = 3.0  # an identify that is pushed: up to ten parts full of addresses

CONSENSUS: Final = "/charon/consensus/qbft/2.0.0"
SLICE_MS: Final = 1.0  # what one identity may do before everybody else gets a turn
PEER_RATE_MS: Final = 100.0  # a second: 10 % of the loop
PEER_BURST_MS: Final = 1500.0
RELAY_RATE_MS: Final = 200.0  # a relay carries for several members, each of which is bounded itself
RELAY_BURST_MS: Final = 3000.0

STRAIN_LIMIT_S: Final = 15.0
STRAIN_RELIEF: Final = 0.25
HEAVY_SHARE: Final = 0.25  # of what the identity's busiest connection has used lately
REFUSED_STRAIN_S: Final = 0.5  # a connection beyond the peer's number of places; honest peers don't repeat that
CUT_STRAIN_S: Final = 1.0  # a stream that was reset because the identity holds too much; honest peers never come near that
FIRST_REST_S: Final = 30.0
MAX_REST_S: Final = 900.0
FORGIVEN_S: Final = 3600.0
USE_HALF_LIFE_S: Final = 10.0
ROUNDING_MS: Final = 1e-3  # a debt that no clock could wait for

C = TypeVar("C", bound=Hashable)

assert SLICE_MS < PEER_BURST_MS <= RELAY_BURST_MS
assert PEER_RATE_MS * 2 <= RELAY_RATE_MS


def serving_cost_ms(protocol: str) -> float:
    """Price of a stream whose protocol is agreed, besides its frames and bytes."""
    return {IDENTIFY_PUSH: PUSHED_MS, STOP: CIRCUIT_MS, CONSENSUS: VOTED_MS}.get(protocol, SERVED_MS)


class Credit:
    """The account of one identity. rate_ms, burst_ms: milliseconds of event loop a second, and at most at once. now: monotonic seconds."""

    def __init__(self, now: float, *, rate_ms: float = PEER_RATE_MS, burst_ms: float = PEER_BURST_MS) -> None:
        self._balance, self._rate_ms = Bucket(burst_ms, rate_ms), rate_ms
        self._strain_s, self._strained_at = 0.0, now
        self._rests, self._resting_until = 0, now

    def spend(self, cost_ms: float, now: float) -> None:
        """Bill what was done. The balance may go below zero; then `wait_s` says for how long nothing more is done."""
        self._balance.spend(now, cost_ms)

    def wait_s(self, now: float) -> float:
        """Seconds until the account is out of debt; 0 when it is."""
        wait_s = self._balance.wait_s(now)
        return wait_s if wait_s * self._rate_ms > ROUNDING_MS else 0.0

    def strain_s(self, now: float) -> float:
        """Seconds of waiting that count now."""
        return max(0.0, self._strain_s - STRAIN_RELIEF * max(0.0, now - self._strained_at))

    def strain(self, seconds: float, now: float) -> bool:
        """Somebody has waited for credit until `now`, or did something that counts as much. True: the limit is reached, they must go."""
        began = now - seconds
        self._strain_s = self.strain_s(max(began, self._strained_at)) + seconds
        self._strained_at = now
        return self._strain_s >= STRAIN_LIMIT_S

    def rest(self, now: float) -> float:
        """The limit was reached: no new connections for the returned number of seconds."""
        if now - self._resting_until > FORGIVEN_S:
            self._rests = 0
        length_s = min(FIRST_REST_S * (1 << self._rests), MAX_REST_S)
        self._rests = min(self._rests + 1, 16)
        self._resting_until = now + length_s
        self._strain_s, self._strained_at = 0.0, now
        return length_s

    def rests_for_s(self, now: float) -> float:
        """Seconds until new connections are welcome; 0 when they are."""
        return max(0.0, self._resting_until - now)

    def is_untouched(self, now: float) -> bool:
        """Nothing is lost by forgetting this account."""
        return self._balance.is_full(now) and (not self._rests or now - self._resting_until > FORGIVEN_S)


class Use(Generic[C]):
    """Who of one identity has used how much lately: each second counts half of what it did USE_HALF_LIFE_S before."""

    def __init__(self) -> None:
        self._used: dict[C, tuple[float, float]] = {}

    def add(self, who: C, cost_ms: float, now: float) -> None:
        self._used[who] = (self.of(who, now) + cost_ms, now)

    def of(self, who: C, now: float) -> float:
        used_ms, at = self._used.get(who, (0.0, now))
        return float(used_ms * 0.5 ** ((now - at) / USE_HALF_LIFE_S))

    def forget(self, who: C) -> None:
        self._used.pop(who, None)

    def heavy(self, now: float) -> list[C]:
        """The busiest one, and those with a HEAVY share of what it has used."""
        used = {who: self.of(who, now) for who in self._used}
        most = max(used.values(), default=0.0)
        return [who for who, used_ms in used.items() if most > 0 and used_ms >= HEAVY_SHARE * most]
