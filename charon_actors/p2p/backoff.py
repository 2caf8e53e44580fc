"""How long to wait before the next try. Sans-IO: the instant and the randomness are arguments.

    Backoff          one thing that is tried again and again: delay n = min(base * 1.6^n, max), with 20 % jitter;
                     the first delay is exactly the base. Success starts over.
    AddressBackoff   one peer's addresses, each on its own: 5 s, then 5 s + 1 s * n² (n failures before), at most 5 min.
                     A circuit: 1 s, then 1 s + 1 s * n², at most 30 s; at the start of a cluster the target often has no
                     reservation yet, and Charon's 5 s are what makes its ceremonies slow to connect (03 §2.3). A late operator
                     may be one who doesn't dial us (03 §3.4), so we must notice soon that they have come.
                     Any successful connection to the peer clears all of them.

Limits: AddressBackoff remembers at most MAX_ADDRESSES addresses; the one that is free soonest is forgotten first.
Source: specification 03 §2.3 and §3.2.
"""

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from charon_actors.crypto import Entropy

FACTOR: Final = 1.6
JITTER: Final = 0.2
ADDRESS_BASE_S: Final = 5.0
CIRCUIT_BASE_S: Final = 1.0
ADDRESS_COEFFICIENT_S: Final = 1.0
ADDRESS_MAX_S: Final = 300.0
CIRCUIT_MAX_S: Final = 30.0
MAX_ADDRESSES: Final = 128

A = TypeVar("A", bound=Hashable)


def unit_random(entropy: Entropy) -> float:
    """A number in [0, 1) from the randomness that was passed in."""
    return (int.from_bytes(entropy(7)) >> 3) / (1 << 53)


class Backoff:
    """Delays between the tries of one thing. base_s, max_s: seconds."""

    def __init__(self, base_s: float, max_s: float, entropy: Entropy, *, jitter: float = JITTER) -> None:
        assert 0 < base_s <= max_s
        self._base_s, self._max_s, self._entropy, self._jitter = base_s, max_s, entropy, jitter
        self._failures = 0

    def next_delay_s(self) -> float:
        """Seconds to wait after one more failure."""
        n, self._failures = self._failures, min(self._failures + 1, 100)
        if n == 0:
            return self._base_s
        delay = min(self._base_s * FACTOR**n, self._max_s)
        return delay * (1 + self._jitter * (2 * unit_random(self._entropy) - 1))

    def reset(self) -> None:
        """It worked: the next delay is the base again."""
        self._failures = 0


class AddressBackoff(Generic[A]):
    """Which addresses of one peer may be dialed now."""

    def __init__(self) -> None:
        self._failed: dict[A, tuple[int, float]] = {}  # address -> (failures so far, free from this instant on)

    def free_from(self, address: A, now: float) -> float:
        """The instant from which the address may be dialed: `now`, or later."""
        _, free = self._failed.get(address, (0, now))
        return max(free, now)

    def failures_of(self, address: A) -> int:
        """How often in a row the address has failed."""
        failures, _ = self._failed.get(address, (0, 0.0))
        return failures

    def fail(self, address: A, now: float, *, is_circuit: bool = False) -> None:
        """A dial of the address failed."""
        base_s, max_s = (CIRCUIT_BASE_S, CIRCUIT_MAX_S) if is_circuit else (ADDRESS_BASE_S, ADDRESS_MAX_S)
        failures, _ = self._failed.pop(address, (0, 0.0))
        delay = base_s + ADDRESS_COEFFICIENT_S * failures**2
        if len(self._failed) >= MAX_ADDRESSES:
            del self._failed[min(self._failed, key=lambda known: self._failed[known][1])]
        self._failed[address] = (min(failures + 1, 100), now + min(delay, max_s))

    def clear(self) -> None:
        """A connection to the peer came up."""
        self._failed.clear()
