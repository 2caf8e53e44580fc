"""BLS against vectors (spec 08 section 8), py_ecc as a second implementation, and hostile bytes."""

import pickle
import random
from itertools import combinations
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from py_ecc.bls import G2ProofOfPossession as Oracle
from py_ecc.optimized_bls12_381 import curve_order

from charon_actors.crypto import (
    CURVE_ORDER,
    G1,
    G2,
    CryptoFault,
    aggregate_signatures,
    fast_aggregate_verify,
    g1_linear_combination,
    generate_secret,
    public_key,
    recover_public_key,
    recover_secret,
    recover_signature,
    sign,
    split_secret,
    verify,
)
from charon_actors.crypto.group import decode_scalar, encode_scalar, random_scalar
from charon_actors.crypto.threshold import evaluate_polynomial, lagrange_coefficients, public_polynomial_at
from tests.charon_actors.crypto.vectors import read_vectors, unhex

BLS = read_vectors("eth2/bls.json")
THRESHOLD = BLS["threshold_3_of_4"]
MESSAGE = unhex(THRESHOLD["message"])
SECRETS = {int(i): unhex(share) for i, share in THRESHOLD["secret_shares"].items()}
PUBSHARES = {int(i): unhex(share) for i, share in THRESHOLD["public_shares"].items()}
PARTIALS = {int(i): unhex(partial) for i, partial in THRESHOLD["partial_signatures"].items()}
GROUP_KEY = unhex(THRESHOLD["group_public_key"])
GROUP_SIGNATURE = unhex(THRESHOLD["combined_signature"])
SUBSETS = [subset for size in (3, 4) for subset in combinations(SECRETS, size)]

INFINITY_G1 = b"\xc0" + bytes(47)
INFINITY_G2 = b"\xc0" + bytes(95)
INVALID = [(case["name"], unhex(case["bytes"])) for case in BLS["invalid_encodings"]]


def seeded(seed: int = 1) -> "random.Random":
    return random.Random(seed)


def test_order_is_the_curves() -> None:
    assert int(BLS["curve_order"], 16) == CURVE_ORDER == curve_order


@pytest.mark.parametrize("index", SECRETS)
def test_keys_and_signatures_are_the_vectors(index: int) -> None:
    assert public_key(SECRETS[index]) == PUBSHARES[index]
    assert sign(SECRETS[index], MESSAGE) == PARTIALS[index]
    assert verify(PUBSHARES[index], MESSAGE, PARTIALS[index])


@pytest.mark.parametrize("subset", SUBSETS)
def test_any_threshold_of_shares_recovers_the_same_bytes(subset: tuple[int, ...]) -> None:
    assert recover_secret({i: SECRETS[i] for i in subset}) == unhex(THRESHOLD["polynomial_coefficients"][0])
    assert recover_public_key({i: PUBSHARES[i] for i in subset}) == GROUP_KEY
    assert recover_signature({i: PARTIALS[i] for i in reversed(subset)}) == GROUP_SIGNATURE
    assert verify(GROUP_KEY, MESSAGE, GROUP_SIGNATURE)


@pytest.mark.parametrize("subset", list(combinations(SECRETS, 2)))
def test_one_share_less_than_the_threshold_recovers_something_else(subset: tuple[int, ...]) -> None:
    assert recover_signature({i: PARTIALS[i] for i in subset}) != GROUP_SIGNATURE


@pytest.mark.parametrize("indices", THRESHOLD["lagrange_coefficients"])
def test_lagrange_coefficients_are_the_vectors(indices: str) -> None:
    wanted = tuple(int(value, 16) for value in THRESHOLD["lagrange_coefficients"][indices])
    assert lagrange_coefficients(tuple(int(i) for i in indices.split(","))) == wanted


def test_polynomial_of_the_vector_in_the_field_and_in_the_exponent() -> None:
    coefficients = [int(value, 16) for value in THRESHOLD["polynomial_coefficients"]]
    commitments = [G1.GENERATOR * coefficient for coefficient in coefficients]
    for index, share in SECRETS.items():
        assert encode_scalar(evaluate_polynomial(coefficients, index)) == share
        assert public_polynomial_at(commitments, index).encode() == PUBSHARES[index]


@given(st.integers(2, 7), st.integers(0, 4), st.integers(0, 2**32), st.data())
@settings(max_examples=30, deadline=None)
def test_split_then_recover_from_any_subset(threshold: int, more: int, seed: int, data: st.DataObject) -> None:
    entropy = seeded(seed).randbytes
    secret = generate_secret(entropy)
    shares = split_secret(secret, threshold, threshold + more, entropy)
    assert set(shares) == set(range(1, threshold + more + 1))
    chosen = data.draw(st.permutations(sorted(shares)))[:threshold]
    assert recover_secret({i: shares[i] for i in chosen}) == secret
    assert recover_secret({i: shares[i] for i in chosen[1:]}) != secret


@pytest.mark.parametrize(("threshold", "total"), [(1, 3), (0, 3), (4, 3), (-1, 3), (2, 256)])
def test_split_refuses_impossible_thresholds(threshold: int, total: int) -> None:
    with pytest.raises(CryptoFault):
        split_secret(SECRETS[1], threshold, total, seeded().randbytes)


@pytest.mark.parametrize("indices", [(), (0, 1), (-1, 2), (1, 256), (1, 1), (1, True), ("1", 2)])
def test_recovery_refuses_indices_that_are_none(indices: tuple[int, ...]) -> None:
    with pytest.raises(CryptoFault):
        lagrange_coefficients(indices)


def test_recovery_refuses_malformed_shares_and_no_shares() -> None:
    for recover, good, bad in (
        (recover_secret, SECRETS[1], bytes(32)),
        (recover_public_key, PUBSHARES[1], INFINITY_G1),
        (recover_signature, PARTIALS[1], INFINITY_G2),
    ):
        for shares in ({}, {0: good}, {1: good, 2: bad}, {1: good, 2: good[:-1]}):
            with pytest.raises(CryptoFault):
                recover(shares)


def test_a_share_that_comes_out_as_zero_is_refused() -> None:
    """x + (r − x)·1 is zero at share 1."""
    secret = int.from_bytes(SECRETS[1], "big")
    coefficient = (CURVE_ORDER - secret - 1).to_bytes(32, "big")  # one is added to what is drawn, so that none is zero
    with pytest.raises(CryptoFault, match="a share came out as zero"):
        split_secret(SECRETS[1], 2, 3, lambda size: coefficient.rjust(size, b"\0"))


def test_recovery_refuses_what_comes_out_as_zero_or_infinity() -> None:
    """Of the shares of 2·λ₁ = λ₂: with x and −λ₁x/λ₂ the sum is nothing."""
    first, second = lagrange_coefficients((1, 2))
    share = int.from_bytes(SECRETS[1], "big")
    other = (-first * share * pow(second, -1, CURVE_ORDER)) % CURVE_ORDER
    secrets = {1: SECRETS[1], 2: other.to_bytes(32, "big")}
    with pytest.raises(CryptoFault, match="secret is zero"):
        recover_secret(secrets)
    with pytest.raises(CryptoFault, match="public key is infinity"):
        recover_public_key({index: public_key(secret) for index, secret in secrets.items()})
    with pytest.raises(CryptoFault, match="signature is infinity"):
        recover_signature({index: sign(secret, b"message") for index, secret in secrets.items()})


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_py_ecc_agrees(seed: int) -> None:
    rng = seeded(seed)
    secrets = [generate_secret(rng.randbytes) for _ in range(2)]
    message = rng.randbytes(rng.choice([0, 1, 32, 100]))
    keys = [public_key(secret) for secret in secrets]
    signatures = [sign(secret, message) for secret in secrets]
    assert keys == [Oracle.SkToPk(int.from_bytes(secret, "big")) for secret in secrets]
    assert signatures[0] == Oracle.Sign(int.from_bytes(secrets[0], "big"), message)
    assert aggregate_signatures(signatures) == Oracle.Aggregate(signatures)
    assert Oracle.Verify(keys[1], message, signatures[1])
    assert Oracle.FastAggregateVerify(keys, message, aggregate_signatures(signatures))
    assert fast_aggregate_verify(keys, message, aggregate_signatures(signatures))


def test_py_ecc_makes_the_same_key_and_signature() -> None:
    secret = generate_secret(seeded(7).randbytes)
    assert public_key(secret) == Oracle.SkToPk(int.from_bytes(secret, "big"))
    assert sign(secret, b"message") == Oracle.Sign(int.from_bytes(secret, "big"), b"message")


def test_verify_refuses_another_key_message_or_signature() -> None:
    assert not verify(PUBSHARES[2], MESSAGE, PARTIALS[1])
    assert not verify(PUBSHARES[1], MESSAGE + b"\0", PARTIALS[1])
    assert not verify(PUBSHARES[1], MESSAGE, PARTIALS[2])
    assert not verify(PUBSHARES[1], MESSAGE, (-G2.decode(PARTIALS[1])).encode())


def test_infinite_key_and_infinite_signature_do_not_verify() -> None:
    assert not verify(INFINITY_G1, MESSAGE, INFINITY_G2)  # pyblst's own pairing check says yes (08, section 8)
    assert not fast_aggregate_verify([INFINITY_G1], MESSAGE, INFINITY_G2)


def test_keys_that_cancel_each_other_do_not_verify() -> None:
    negated = (-G1.decode(PUBSHARES[1])).encode()
    assert not fast_aggregate_verify([PUBSHARES[1], negated], MESSAGE, INFINITY_G2)
    assert not fast_aggregate_verify([PUBSHARES[1], negated], MESSAGE, PARTIALS[1])
    with pytest.raises(CryptoFault):
        aggregate_signatures([PARTIALS[1], (-G2.decode(PARTIALS[1])).encode()])


@pytest.mark.parametrize(("name", "encoded"), INVALID)
def test_invalid_points_are_refused_everywhere(name: str, encoded: bytes) -> None:
    point = G1 if len(encoded) == 48 else G2
    with pytest.raises(CryptoFault):
        point.decode(encoded)
    assert not verify(encoded, MESSAGE, PARTIALS[1])
    assert not verify(PUBSHARES[1], MESSAGE, encoded)
    with pytest.raises(CryptoFault):
        aggregate_signatures([PARTIALS[1], encoded])


def test_infinity_is_decoded_only_when_allowed() -> None:
    assert G1.decode(INFINITY_G1, allow_infinity=True).is_infinity
    assert G2.decode(INFINITY_G2, allow_infinity=True).is_infinity
    with pytest.raises(CryptoFault):
        G1.decode(unhex(BLS["invalid_encodings"][0]["bytes"]), allow_infinity=True)  # out of subgroup is never allowed


def test_fast_aggregate_verify_wants_exactly_these_keys() -> None:
    keys, aggregate = list(PUBSHARES.values()), aggregate_signatures(list(PARTIALS.values()))
    assert fast_aggregate_verify(keys, MESSAGE, aggregate)
    assert not fast_aggregate_verify(keys[1:], MESSAGE, aggregate)
    assert not fast_aggregate_verify([], MESSAGE, aggregate)
    with pytest.raises(CryptoFault):
        aggregate_signatures([])


@pytest.mark.parametrize("secret", [bytes(32), CURVE_ORDER.to_bytes(32, "big"), b"\xff" * 32, b"\1" * 31, b"\1" * 33, b""])
def test_secrets_outside_the_field_are_refused(secret: bytes) -> None:
    for use in (public_key, lambda s: sign(s, MESSAGE), decode_scalar, lambda s: split_secret(s, 2, 3, seeded().randbytes)):
        with pytest.raises(CryptoFault):
            use(secret)


def test_random_scalars_fill_the_field_and_are_never_zero() -> None:
    assert random_scalar(bytes) == 1  # `bytes(48)` is all zeros: the lowest draw
    assert 1 <= random_scalar(lambda count: b"\xff" * count) < CURVE_ORDER
    with pytest.raises(CryptoFault):
        random_scalar(lambda count: bytes(count - 1))


@given(st.binary(max_size=100), st.binary(max_size=40), st.binary(max_size=100))
@example(INFINITY_G1, b"", INFINITY_G2)
@settings(max_examples=200, deadline=None)
def test_verify_never_raises_and_believes_no_noise(key: bytes, message: bytes, signature: bytes) -> None:
    assert verify(key, message, signature) is False
    assert verify(PUBSHARES[1], message, signature) is False
    assert verify(key, MESSAGE, PARTIALS[1]) is False


@given(st.integers(0, 8 * 96 - 1))
@settings(max_examples=60, deadline=None)
def test_any_flipped_bit_of_a_signature_is_noticed(bit: int) -> None:
    flipped = bytearray(PARTIALS[1])
    flipped[bit // 8] ^= 1 << bit % 8
    assert not verify(PUBSHARES[1], MESSAGE, bytes(flipped))


@pytest.mark.parametrize("wrong", [None, 5, "text", [], {}, bytearray(PUBSHARES[1])])
def test_verify_of_other_types_is_false(wrong: object) -> None:
    assert not verify(wrong, MESSAGE, PARTIALS[1])  # type: ignore[arg-type]
    assert not verify(PUBSHARES[1], wrong, PARTIALS[1])  # type: ignore[arg-type]
    assert not verify(PUBSHARES[1], MESSAGE, wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("group", [G1, G2])
def test_group_laws(group: Any) -> None:
    g = group.GENERATOR
    assert g + g == g * 2 == 2 * g
    assert (g - g).is_infinity
    assert g + -g == group.identity()
    assert g + group.identity() == g
    assert (g * CURVE_ORDER).is_infinity
    assert g * (CURVE_ORDER + 3) == g * 3
    assert g * -1 == -g
    assert group.decode((g * 5).encode()) == g * 5
    assert pickle.loads(pickle.dumps(g * 7)) == g * 7
    assert hash(g * 7) == hash(group.decode((g * 7).encode()))
    assert g * 2 != g


def test_linear_combination() -> None:
    g = G1.GENERATOR
    assert g1_linear_combination([g, g * 2, g * 3], [1, 10, 100]) == g * 321
    assert g1_linear_combination([], []).is_infinity
    with pytest.raises(CryptoFault):
        g1_linear_combination([g], [1, 2])
