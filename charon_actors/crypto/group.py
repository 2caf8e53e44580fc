"""The groups of BLS12-381: points, scalars and their encodings. A thin typed layer over pyblst.

Theory of operation: G1 (public keys, 48 bytes compressed) and G2 (signatures, 96 bytes compressed) have the prime order
CURVE_ORDER. `decode` is the only way in for foreign bytes; it checks flags, curve and subgroup (pyblst does that) and refuses
the point at infinity unless asked (pyblst does not: it accepts it, and its pairing check of an infinite key and an infinite
signature is true). So a decoded point is always a point that may be calculated with.

    scalar    32 bytes, big endian, canonical: a value >= CURVE_ORDER is a fault
    G1, G2    48, 96 bytes, compressed with the flags of ZCash; other lengths are faults

Values are immutable, comparable and hashable. Operations cost some 75 µs (G1) or 145 µs (G2) a multiplication, whatever the
scalar (constant time); they hold the interpreter lock. Long sums belong to a worker process (actors/crypto_workers.py).

Limits: the caches of decoded public keys and of hashed messages are bounded (constants below).
Source: specification 04-dkg section 5.1, 08-beacon-node section 8; draft-irtf-cfrg-bls-signature, appendix A (encodings).
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache, reduce
from operator import mul
from typing import Final, TypeVar

from pyblst import BlstP1Element, BlstP2Element, final_verify, miller_loop

from charon_actors.crypto.faults import CryptoFault, Entropy, is_bytes_of

CURVE_ORDER: Final = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
SCALAR_BYTES: Final = 32
G1_BYTES: Final = 48
G2_BYTES: Final = 96

MANY_POINTS: Final = 64
PUBLIC_KEY_CACHE: Final = 16384  # decoded keys: 1000 validators of 10 operators, their shares and group keys; some 5 MB
MESSAGE_CACHE: Final = 1024  # hashed messages: a few signing roots a slot
MESSAGE_CACHE_MAX_BYTES: Final = 64  # longer messages are hashed each time, so that the cache's memory is bounded

SIGNATURE_DST: Final = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_"  # the suite of the consensus specifications

_GENERATOR_G1 = bytes.fromhex("97f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb")
_GENERATOR_G2 = bytes.fromhex(
    "93e02b6052719f607dacd3a088274f65596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7e"
    "024aa2b2f08f0a91260805272dc51051c6e47ad4fa403b02b4510b647ae3d1770bac0326a805bbefd48056c8c121bdb8"
)

P = TypeVar("P", "G1", "G2")


class G1:
    """A point of G1. Made by `decode`, `identity`, `GENERATOR` or arithmetic, never from coordinates."""

    __slots__ = ("_point",)
    GENERATOR: "G1"

    def __init__(self, point: BlstP1Element) -> None:
        self._point = point

    @classmethod
    def decode(cls, encoded: bytes, allow_infinity: bool = False) -> "G1":
        """48 bytes to a point of the subgroup. Raises CryptoFault; infinity only passes when allowed."""
        if not is_bytes_of(encoded, G1_BYTES):
            raise CryptoFault("G1 point: not 48 bytes")
        try:
            point = cls(BlstP1Element.uncompress(encoded))
        except ValueError:
            raise CryptoFault("G1 point: not a compressed point of the subgroup") from None
        if point.is_infinity and not allow_infinity:
            raise CryptoFault("G1 point: infinity")
        return point

    @classmethod
    def identity(cls) -> "G1":
        """The point at infinity, the neutral element of `+`."""
        return cls(BlstP1Element())

    def encode(self) -> bytes:
        """48 bytes, compressed; infinity is c0 and zeros."""
        return bytes(self._point.compress())

    @property
    def is_infinity(self) -> bool:
        return bool(self._point == BlstP1Element())

    def __add__(self, other: "G1") -> "G1":
        return G1(self._point + other._point)

    def __sub__(self, other: "G1") -> "G1":
        return G1(self._point + -other._point)

    def __neg__(self) -> "G1":
        return G1(-self._point)

    def __mul__(self, scalar: int) -> "G1":
        """Any integer; it counts modulo CURVE_ORDER."""
        return G1(self._point.scalar_mul(scalar % CURVE_ORDER))

    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, G1) and bool(self._point == other._point)

    def __hash__(self) -> int:
        return hash(self.encode())

    def __repr__(self) -> str:
        return f"G1({self.encode().hex()})"

    def __reduce__(self) -> tuple[object, ...]:  # pyblst's own objects cannot be pickled
        return (G1.decode, (self.encode(), True))


class G2:
    """A point of G2. Made by `decode`, `hash_message`, `identity`, `GENERATOR` or arithmetic."""

    __slots__ = ("_point",)
    GENERATOR: "G2"

    def __init__(self, point: BlstP2Element) -> None:
        self._point = point

    @classmethod
    def decode(cls, encoded: bytes, allow_infinity: bool = False) -> "G2":
        """96 bytes to a point of the subgroup. Raises CryptoFault; infinity only passes when allowed."""
        if not is_bytes_of(encoded, G2_BYTES):
            raise CryptoFault("G2 point: not 96 bytes")
        try:
            point = cls(BlstP2Element.uncompress(encoded))
        except ValueError:
            raise CryptoFault("G2 point: not a compressed point of the subgroup") from None
        if point.is_infinity and not allow_infinity:
            raise CryptoFault("G2 point: infinity")
        return point

    @classmethod
    def identity(cls) -> "G2":
        """The point at infinity, the neutral element of `+`."""
        return cls(BlstP2Element())

    @classmethod
    def hash_message(cls, message: bytes) -> "G2":
        """The message as a point, under the suite of the consensus layer; never infinity. Short messages are cached."""
        if len(message) <= MESSAGE_CACHE_MAX_BYTES:
            return _hash_short_message(bytes(message))
        return cls(BlstP2Element.hash_to_group(bytes(message), SIGNATURE_DST))

    def encode(self) -> bytes:
        """96 bytes, compressed; infinity is c0 and zeros."""
        return bytes(self._point.compress())

    @property
    def is_infinity(self) -> bool:
        return bool(self._point == BlstP2Element())

    def __add__(self, other: "G2") -> "G2":
        return G2(self._point + other._point)

    def __sub__(self, other: "G2") -> "G2":
        return G2(self._point + -other._point)

    def __neg__(self) -> "G2":
        return G2(-self._point)

    def __mul__(self, scalar: int) -> "G2":
        """Any integer; it counts modulo CURVE_ORDER."""
        return G2(self._point.scalar_mul(scalar % CURVE_ORDER))

    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, G2) and bool(self._point == other._point)

    def __hash__(self) -> int:
        return hash(self.encode())

    def __repr__(self) -> str:
        return f"G2({self.encode().hex()})"

    def __reduce__(self) -> tuple[object, ...]:
        return (G2.decode, (self.encode(), True))


def g1_linear_combination(points: Sequence[G1], scalars: Sequence[int]) -> G1:
    """Σ scalarᵢ·pointᵢ; infinity for none. Raises CryptoFault if the lengths differ. Not constant time for many: public scalars only."""
    return _linear_combination(points, scalars, G1.identity())


def g2_linear_combination(points: Sequence[G2], scalars: Sequence[int]) -> G2:
    """Σ scalarᵢ·pointᵢ; infinity for none. Raises CryptoFault if the lengths differ. Not constant time for many: public scalars only."""
    return _linear_combination(points, scalars, G2.identity())


def _linear_combination(points: Sequence[P], scalars: Sequence[int], identity: P) -> P:
    """Few points one by one; MANY_POINTS by buckets (Pippenger): some 40 additions a point instead of a multiplication's 90.

    A window of c bits of all scalars at a time: each point is added to the bucket of its c bits, and Σ d·bucket(d) is the sum of all
    suffix sums of the buckets.
    """
    if len(points) != len(scalars):
        raise CryptoFault(f"linear combination: {len(points)} points, {len(scalars)} scalars")
    if len(points) < MANY_POINTS:
        total = identity
        for point, scalar in zip(points, scalars, strict=True):
            total = total + (point if scalar == 1 else point * scalar)
        return total
    reduced = [scalar % CURVE_ORDER for scalar in scalars]
    width = 5 if len(points) < 4 * MANY_POINTS else 7
    bits = max(scalar.bit_length() for scalar in reduced)
    total = identity
    for shift in reversed(range(0, bits, width)):
        for _ in range(width):
            total = total + total
        buckets: list[P | None] = [None] * (1 << width)
        for point, scalar in zip(points, reduced, strict=True):
            digit = scalar >> shift & ((1 << width) - 1)
            if digit:
                filled = buckets[digit]
                buckets[digit] = point if filled is None else filled + point
        suffix = identity
        for bucket in reversed(buckets[1:]):
            if bucket is not None:
                suffix = suffix + bucket
            total = total + suffix
    return total


class Pairing:
    """e(key, hashed), or a product of such, before the final exponentiation that all share. A product costs 3 µs, a pairing 0.2 ms."""

    __slots__ = ("_value",)

    def __init__(self, key: G1, hashed: G2) -> None:
        self._value = miller_loop(key._point, hashed._point)

    def __mul__(self, other: "Pairing") -> "Pairing":
        product = Pairing.__new__(Pairing)
        product._value = self._value * other._value
        return product

    def is_signed_by(self, signature: G2) -> bool:
        """Whether it is e(generator of G1, signature)."""
        return bool(final_verify(self._value, miller_loop(G1.GENERATOR._point, signature._point)))


def pairings_agree(keys_and_hashes: Iterable[tuple[G1, G2]], signature: G2) -> bool:
    """Whether Π e(keyᵢ, hashᵢ) = e(generator of G1, signature). False for no pair. The callers have refused infinity."""
    pairings = [Pairing(key, hashed) for key, hashed in keys_and_hashes]
    return bool(pairings) and reduce(mul, pairings).is_signed_by(signature)


@lru_cache(maxsize=PUBLIC_KEY_CACHE)
def decode_public_key(encoded: bytes) -> G1:
    """Like `G1.decode`, and remembered, for the same few thousand keys come again and again. Faults are not remembered."""
    return G1.decode(encoded)


def random_scalar(entropy: Entropy) -> int:
    """A uniform scalar from 1 to CURVE_ORDER - 1 out of 48 bytes of entropy (bias below 2^-128)."""
    return int.from_bytes(_draw(entropy, 48), "big") % (CURVE_ORDER - 1) + 1


def decode_scalar(encoded: bytes, allow_zero: bool = False) -> int:
    """32 bytes, big endian, canonical. Raises CryptoFault, also for zero unless it is allowed."""
    if not is_bytes_of(encoded, SCALAR_BYTES):
        raise CryptoFault("scalar: not 32 bytes")
    scalar = int.from_bytes(encoded, "big")
    if scalar >= CURVE_ORDER:
        raise CryptoFault("scalar: not below the group's order")
    if scalar == 0 and not allow_zero:
        raise CryptoFault("scalar: zero")
    return scalar


def encode_scalar(scalar: int) -> bytes:
    """32 bytes, big endian. The scalar counts modulo CURVE_ORDER."""
    return (scalar % CURVE_ORDER).to_bytes(SCALAR_BYTES, "big")


@lru_cache(maxsize=MESSAGE_CACHE)
def _hash_short_message(message: bytes) -> G2:
    return G2(BlstP2Element.hash_to_group(message, SIGNATURE_DST))


def _draw(entropy: Entropy, count: int) -> bytes:
    drawn = entropy(count)
    if len(drawn) != count:
        raise CryptoFault("entropy source returned too few or too many bytes")
    return drawn


G1.GENERATOR = G1.decode(_GENERATOR_G1)
G2.GENERATOR = G2.decode(_GENERATOR_G2)


def small_multiple(point: P, factor: int) -> P:
    """factor·point by doubling and adding, factor at least 1: for some bits, a multiplication costs as much as 50 additions.

    Not constant time: for public factors only.
    """
    value = point
    for bit in bin(factor)[3:]:
        value = value + value
        if bit == "1":
            value = value + point
    return value
