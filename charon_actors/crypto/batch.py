"""Many BLS checks at once, and who of them lied.

Theory of operation: n signatures are checked by one product of pairings. Each check i gets a random weight rᵢ that nobody could
know when the signatures were made, and with keys of one message summed first

    Π over messages m  e(Σ rᵢ·keyᵢ, H(m))  =  e(g1, Σ rᵢ·signatureᵢ)

holds for wrong signatures only with probability 2^-127. Plain sums (all rᵢ = 1) are not an option: two signatures that are wrong
by +δ and -δ cancel, and two peers could so blame, or slip something past, a third.

If the product fails, the batch is halved until every culprit stands alone. What is calculated once is kept: weighted points, and the
pairing of each message whose checks all are in a half, so that a half of distinct messages costs products only. If a failing batch
has a good left half, the right half is bad without asking. Halving is cheap for few culprits and wasteful for many, so it has a budget:
what all checks would cost one by one. When that is spent, the rest is checked one by one. So the worst case, all signatures wrong,
costs a bit more than twice the plain way, never more.

The sums over many checks come from linear combinations, which are cheaper than their parts; the parts are calculated if it fails.

Measured: 31 checks of one message 0.35 ms each, of distinct messages 0.7 ms, one by one 1 ms; the interpreter lock is held.
Source: specification 08-beacon-node section 8.1; Bellare, Garay, Rabin: Fast batch verification (small exponents test).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import reduce
from hashlib import sha256, shake_256
from operator import mul
from typing import Final, NamedTuple

from charon_actors.crypto.faults import CryptoFault, Entropy
from charon_actors.crypto.group import (
    G1,
    G2,
    MANY_POINTS,
    P,
    Pairing,
    decode_public_key,
    g1_linear_combination,
    g2_linear_combination,
)

WEIGHT_BYTES: Final = 16  # 127 random bits; in pyblst a multiplication costs the same for any scalar

MILLER_COST: Final = 2  # in tenths of a millisecond, measured: 0.21 ms and 0.28 ms (08-beacon-node, section 8)
FINAL_COST: Final = 3
SINGLE_COST: Final = 2 * MILLER_COST + FINAL_COST


class Check(NamedTuple):
    """Did this key (48 bytes) sign this message (any bytes, mostly a 32-byte root) with this signature (96 bytes)?"""

    public_key: bytes
    message: bytes
    signature: bytes


def verify_all(checks: Sequence[Check], entropy: Entropy) -> list[bool]:
    """One answer a check, in their order; each is what `bls.verify` would answer, up to a chance of 2^-127.

    Never raises for what the checks hold: malformed, infinite and out-of-subgroup values are False, and cost the others nothing.
    Raises CryptoFault only when `entropy` returns the wrong number of bytes. Entropy must be unpredictable for the signers.
    """
    answers = [False] * len(checks)
    points = _decode(checks)
    if points:
        search = _Search(points, _weights(len(points), entropy))
        for place in search.good():
            answers[place] = True
    return answers


class _Point(NamedTuple):
    place: int  # in the caller's order
    key: G1
    message: bytes
    signature: G2


class _Search:
    def __init__(self, points: list[_Point], weights: list[int]) -> None:
        # Neighbours share a message, so that a half has half of the messages, not all of them.
        pairs = sorted(zip(points, weights, strict=True), key=lambda pair: pair[0].message)
        self._points = [point for point, _ in pairs]
        self._weights = [weight for _, weight in pairs] if len(pairs) > 1 else [1]
        self._starts = [i for i, point in enumerate(self._points) if i == 0 or point.message != self._points[i - 1].message]
        self._keys: dict[int, G1] = {}  # weighted, by index
        self._signatures: list[G2] = []  # weighted
        self._whole: dict[int, Pairing] = {}  # of all checks of a message, by the index of its first
        self._budget = SINGLE_COST * len(points)

    def good(self) -> list[int]:
        """Places of the checks that hold. A stack instead of recursion: (first, behind last, known to fail)."""
        count = len(self._points)
        if count >= MANY_POINTS:
            total = g2_linear_combination([point.signature for point in self._points], self._weights)
            if self._agrees(0, count, total):
                return [point.place for point in self._points]
        self._signatures = [_weighted(point.signature, w) for point, w in zip(self._points, self._weights, strict=True)]
        good: list[int] = []
        ranges = [(0, count, count >= MANY_POINTS)]
        while ranges:
            first, end, fails = ranges.pop()
            if not fails and self._holds(first, end):
                good.extend(point.place for point in self._points[first:end])
            elif end - first == 1:
                continue  # a culprit
            elif self._budget <= 0:
                good.extend(self._points[i].place for i in range(first, end) if self._holds(i, i + 1))
            else:
                middle = (first + end) // 2
                if self._holds(first, middle):
                    good.extend(point.place for point in self._points[first:middle])
                    ranges.append((middle, end, True))
                else:
                    ranges.append((middle, end, False))
                    ranges.append((first, middle, True))
        return good

    def _holds(self, first: int, end: int) -> bool:
        return self._agrees(first, end, sum(self._signatures[first + 1 : end], start=self._signatures[first]))

    def _agrees(self, first: int, end: int, signature: G2) -> bool:
        pairings = []
        for run in range(bisect_right(self._starts, first) - 1, bisect_left(self._starts, end)):
            start, behind = self._starts[run], self._starts[run + 1] if run + 1 < len(self._starts) else len(self._points)
            pairings.append(self._pairing(max(first, start), min(end, behind), is_whole=first <= start and behind <= end))
        self._budget -= MILLER_COST + FINAL_COST
        return reduce(mul, pairings).is_signed_by(signature)

    def _pairing(self, first: int, end: int, *, is_whole: bool) -> Pairing:
        """Of checks of one message."""
        if is_whole and first in self._whole:
            return self._whole[first]
        if end - first >= MANY_POINTS:
            key = g1_linear_combination([point.key for point in self._points[first:end]], self._weights[first:end])
        else:
            key = sum((self._key(i) for i in range(first + 1, end)), start=self._key(first))
        self._budget -= MILLER_COST
        pairing = Pairing(key, G2.hash_message(self._points[first].message))
        if is_whole:
            self._whole[first] = pairing
        return pairing

    def _key(self, index: int) -> G1:
        if index not in self._keys:
            self._keys[index] = _weighted(self._points[index].key, self._weights[index])
        return self._keys[index]


def _weighted(point: P, weight: int) -> P:
    return point if weight == 1 else point * weight


def _decode(checks: Sequence[Check]) -> list[_Point]:
    points = []
    for place, check in enumerate(checks):
        try:
            if isinstance(check.message, bytes):
                key, signature = decode_public_key(check.public_key), G2.decode(check.signature)
                points.append(_Point(place, key, check.message, signature))
        except (CryptoFault, TypeError):  # TypeError: not bytes at all, which the cache cannot hash
            continue
    return points


def _weights(count: int, entropy: Entropy) -> list[int]:
    drawn = entropy(WEIGHT_BYTES * count)
    if len(drawn) != WEIGHT_BYTES * count:
        raise CryptoFault("entropy source returned too few or too many bytes")
    # Odd, so never zero: a weight of zero would wave its signature through.
    return [int.from_bytes(drawn[i : i + WEIGHT_BYTES], "big") | 1 for i in range(0, len(drawn), WEIGHT_BYTES)]


VerifyBatch = Callable[[Sequence[Check]], Sequence[bool]]
"""One answer a check, in their order: `verify_bound`, or one that has several processes do it."""


def verify_bound(checks: Sequence[Check]) -> list[bool]:
    """`verify_all` without a source of randomness, for files: the same file always gives the same answer."""
    return verify_all(checks, _weights_bound_to(checks))


def _weights_bound_to(checks: Sequence[Check]) -> Entropy:
    """Entropy for one draw, hashed from everything that is checked: whoever chose the signatures could not know it before."""
    seed = sha256(b"charon-actors batch weights")
    for check in checks:
        for part in check:
            seed.update(len(part).to_bytes(4, "big") + part)
    return shake_256(seed.digest()).digest
