"""Shamir sharing of a BLS secret, and recovery of secret, public key or signature from shares.

Theory of operation: a polynomial f of degree threshold - 1 over the scalar field hides the secret as f(0); share i is f(i),
i = 1 … total (0 would be the secret). Whatever is linear in the secret is recovered from `threshold` of its shares by Lagrange
interpolation at 0: the secret itself, the public key in G1, a signature in G2:

    value = Σ λᵢ·valueᵢ      λᵢ = Π j / (j - i)  over the other indices j, modulo CURVE_ORDER

Any threshold-sized subset gives identical bytes. Too few shares, or one wrong one, give a wrong value without any sign of it:
the caller knows the threshold and verifies a recovered signature against the group public key.

Limits: share indices 1 … 255. Coefficients are cached by index set (LAGRANGE_CACHE sets).
Source: specification 01-cluster-files section 8, 08-beacon-node section 8.2.
"""

import itertools
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from charon_actors.crypto.faults import CryptoFault, Entropy
from charon_actors.crypto.group import (
    CURVE_ORDER,
    G1,
    G2,
    decode_public_key,
    decode_scalar,
    encode_scalar,
    g1_linear_combination,
    g2_linear_combination,
    random_scalar,
    small_multiple,
)
from charon_actors.share_index import share_indices

MAX_SHARE_INDEX: Final = 255  # 04-dkg section 5.1: a participant's identifier is one byte
LAGRANGE_CACHE: Final = 1024  # index sets; 7 of 10 operators have 120, and sets that repeat every slot stay in


class Shares(NamedTuple):
    """Shares by index, 32 bytes each; and the public keys, 48 bytes, of the secret and of each share. Its repr hides secrets."""

    shares: dict[int, bytes]
    public_key: bytes
    public_shares: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"Shares({self.public_key.hex()})"


def split_secret(secret: bytes, threshold: int, total: int, entropy: Entropy) -> dict[int, bytes]:
    """Shares of the secret by share index, 1 … total, 32 bytes each; any `threshold` of them recover it.

    Raises CryptoFault for a malformed secret and unless 2 <= threshold <= total <= 255 (with 1 each share were the secret).
    """
    _, shares = _split(secret, threshold, total, entropy)
    return shares


def split_secret_openly(secret: bytes, threshold: int, total: int, entropy: Entropy) -> Shares:
    """Like `split_secret`, with the public keys: `threshold` multiplications for all of them, not one a share."""
    coefficients, shares = _split(secret, threshold, total, entropy)
    commitments = [G1.GENERATOR * coefficient for coefficient in coefficients]
    public_shares = tuple(public_polynomial_at(commitments, index).encode() for index in shares)
    return Shares(shares, commitments[0].encode(), public_shares)


def _split(secret: bytes, threshold: int, total: int, entropy: Entropy) -> tuple[list[int], dict[int, bytes]]:
    if not 2 <= threshold <= total <= MAX_SHARE_INDEX:
        raise CryptoFault(f"threshold {threshold} of {total} shares: wanted 2 <= threshold <= shares <= {MAX_SHARE_INDEX}")
    coefficients = [decode_scalar(secret), *(random_scalar(entropy) for _ in range(threshold - 1))]
    shares = {index: evaluate_polynomial(coefficients, index) for index in share_indices(total)}
    if 0 in shares.values():
        raise CryptoFault("a share came out as zero; split again")  # Probability 2^-247, or an entropy source that is none.
    return coefficients, {index: encode_scalar(share) for index, share in shares.items()}


def recover_secret(shares: Mapping[int, bytes]) -> bytes:
    """The secret, 32 bytes, from at least `threshold` shares by index. Raises CryptoFault for none or a malformed one."""
    weights = _weights(shares)
    secret = sum(weight * decode_scalar(shares[index]) for index, weight in weights.items()) % CURVE_ORDER
    if secret == 0:
        raise CryptoFault("recovered secret is zero")
    return encode_scalar(secret)


def recover_public_key(shares: Mapping[int, bytes]) -> bytes:
    """The group public key, 48 bytes, from at least `threshold` public shares by index. Raises CryptoFault, also for infinity."""
    weights = _weights(shares)
    recovered = g1_linear_combination([decode_public_key(shares[index]) for index in weights], list(weights.values()))
    if recovered.is_infinity:
        raise CryptoFault("recovered public key is infinity")
    return recovered.encode()


def recover_signature(partials: Mapping[int, bytes]) -> bytes:
    """The group signature, 96 bytes, from at least `threshold` partial signatures by share index.

    The result is not verified here: do that against the group public key. Raises CryptoFault, also for infinity.
    """
    weights = _weights(partials)
    recovered = g2_linear_combination([G2.decode(partials[index]) for index in weights], list(weights.values()))
    if recovered.is_infinity:
        raise CryptoFault("recovered signature is infinity")
    return recovered.encode()


@lru_cache(maxsize=LAGRANGE_CACHE)
def lagrange_coefficients(indices: tuple[int, ...]) -> tuple[int, ...]:
    """λ at 0 for each index, in their order. Raises CryptoFault unless they are distinct numbers from 1 to 255, one or more."""
    if not indices:
        raise CryptoFault("no shares")
    if any(type(index) is not int or not 1 <= index <= MAX_SHARE_INDEX for index in indices):
        raise CryptoFault(f"share index outside 1 … {MAX_SHARE_INDEX}")
    if len(set(indices)) != len(indices):
        raise CryptoFault("share index repeated")
    coefficients = []
    for i in indices:
        numerator = denominator = 1
        for j in indices:
            if j != i:
                numerator = numerator * j % CURVE_ORDER
                denominator = denominator * (j - i) % CURVE_ORDER
        coefficients.append(numerator * pow(denominator, -1, CURVE_ORDER) % CURVE_ORDER)
    return tuple(coefficients)


def evaluate_polynomial(coefficients: Sequence[int], x: int) -> int:
    """f(x) modulo CURVE_ORDER; the constant term stands first (Horner)."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % CURVE_ORDER
    return value


def first_off_polynomial(points: Sequence[G1], threshold: int) -> int | None:
    """Where the points f(0)·g1, f(1)·g1, … stop to lie on one polynomial of degree threshold - 1; None if they all do.

    The answer j says that points j … j + threshold don't fit together, and all before do. A function is such a polynomial on
    consecutive places exactly if its threshold-th differences vanish there; differences are additions, 1 µs each, where Lagrange
    interpolation would cost a multiplication a point. Raises CryptoFault for a threshold below 1 or too few points to tell.
    """
    if not 1 <= threshold < len(points):
        raise CryptoFault(f"threshold {threshold} with {len(points)} points")
    differences = list(points)
    for _ in range(threshold):
        differences = [after - before for before, after in itertools.pairwise(differences)]
    return next((place for place, difference in enumerate(differences) if not difference.is_infinity), None)


def public_polynomial_at(commitments: Sequence[G1], x: int) -> G1:
    """f(x)·g1 from the commitments aₖ·g1, constant term first: the public share of index x, at least 1 (Horner).

    An index has a few bits: doubling and adding beats a full multiplication tenfold.
    """
    value = commitments[-1]
    for commitment in reversed(commitments[:-1]):
        value = small_multiple(value, x) + commitment
    return value


def _weights(shares: Mapping[int, bytes]) -> dict[int, int]:
    indices = tuple(sorted(shares))
    return dict(zip(indices, lagrange_coefficients(indices), strict=True))
