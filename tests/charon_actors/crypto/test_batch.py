"""Batches: whatever is mixed, each check gets the answer that it would get alone; and no arrangement of lies passes."""

import random
from collections.abc import Collection
from secrets import token_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charon_actors.crypto import G1, G2, Check, CryptoFault, generate_secret, public_key, sign, verify, verify_all
from charon_actors.crypto import group as group_module

RNG = random.Random(5)
SIGNERS = [generate_secret(RNG.randbytes) for _ in range(8)]
KEYS = [public_key(secret) for secret in SIGNERS]
MESSAGES = [RNG.randbytes(32) for _ in range(3)]
SIGNATURES = {(who, what): sign(SIGNERS[who], MESSAGES[what]) for who in range(8) for what in range(3)}
OFFSET = G2.GENERATOR * 12345
INFINITY_G1, INFINITY_G2 = G1.identity().encode(), G2.identity().encode()


def honest(who: int, what: int) -> Check:
    return Check(KEYS[who], MESSAGES[what], SIGNATURES[who, what])


def shifted(check: Check, by: G2) -> Check:
    return check._replace(signature=(G2.decode(check.signature) + by).encode())


def spoiled(check: Check, how: str) -> Check:
    return {
        "honest": check,
        "other signer": check._replace(public_key=(G1.decode(check.public_key) * 2).encode()),
        "offset": shifted(check, OFFSET),
        "negative offset": shifted(check, -OFFSET),
        "infinite signature": check._replace(signature=INFINITY_G2),
        "infinite key": check._replace(public_key=INFINITY_G1),
        "both infinite": check._replace(public_key=INFINITY_G1, signature=INFINITY_G2),
        "noise": check._replace(signature=b"\x99" * 96),
        "short": check._replace(public_key=check.public_key[:-1]),
        "empty": Check(b"", b"", b""),
    }[how]


SPOILS = ["honest"] * 12 + [
    "other signer",
    "offset",
    "negative offset",
    "infinite signature",
    "infinite key",
    "both infinite",
    "noise",
    "short",
    "empty",
]


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2), st.sampled_from(SPOILS)), max_size=24))
@settings(max_examples=60, deadline=None)
def test_each_check_gets_the_answer_it_would_get_alone(mix: list[tuple[int, int, str]]) -> None:
    checks = [spoiled(honest(who, what), how) for who, what, how in mix]
    answers = verify_all(checks, token_bytes)
    assert answers == [how == "honest" for _, _, how in mix]
    assert answers == [verify(*check) for check in checks]


@pytest.mark.parametrize("messages", [(0, 0), (0, 1)])
def test_two_lies_that_cancel_in_a_plain_sum_are_both_found(messages: tuple[int, int]) -> None:
    checks = [honest(who, 0) for who in range(6)]
    checks[1] = shifted(honest(1, messages[0]), OFFSET)
    checks[4] = shifted(honest(4, messages[1]), -OFFSET)
    assert verify_all(checks, token_bytes) == [True, False, True, True, False, True]


def test_two_swapped_signatures_of_one_message_are_both_found() -> None:
    checks = [honest(who, 0) for who in range(5)]
    checks[0], checks[3] = (
        checks[0]._replace(signature=checks[3].signature),
        checks[3]._replace(signature=checks[0].signature),
    )
    assert verify_all(checks, token_bytes) == [False, True, True, False, True]


def test_weights_that_all_are_one_would_let_the_lies_pass() -> None:
    """So the tests above do see the weights: without randomness the same lies are believed."""
    checks = [shifted(honest(0, 0), OFFSET), shifted(honest(1, 0), -OFFSET)]
    assert verify_all(checks, bytes) == [True, True]  # `bytes` as entropy: zeros, so every weight is 1


@pytest.mark.parametrize("size", [1, 2, 3, 31, 64])
@pytest.mark.parametrize("wrong", ["none", "first", "last", "half", "all"])
def test_worst_cases_stay_within_the_promised_cost(size: int, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [honest(i % 8, i % 3) for i in range(size)]
    order = sorted(range(size), key=lambda i: checks[i].message)  # first and last as the search sees them
    culprits = {"none": [], "first": order[:1], "last": order[-1:], "half": order[::2], "all": order}[wrong]
    for i in culprits:
        checks[i] = shifted(checks[i], OFFSET)
    tests = count_pairings(monkeypatch)
    assert verify_all(checks, token_bytes) == [i not in culprits for i in range(size)]
    alone = 2 * size
    assert sum(tests) <= 3 * alone
    if wrong == "none":
        assert tests == [min(size, 3) + 1]  # three messages and the generator
    if wrong == "last":  # a good left half says that the right one is bad: one test a level
        assert len(tests) <= size.bit_length() + 1
        assert sum(tests) <= 20  # halves have half of the messages: unsorted it were 25
    if wrong == "first":
        assert len(tests) <= 2 * size.bit_length() + 1


def test_a_batch_of_distinct_messages_that_all_are_wrong_does_not_cost_its_logarithm(monkeypatch: pytest.MonkeyPatch) -> None:
    secret, size = SIGNERS[0], 64
    checks = [shifted(Check(KEYS[0], bytes([i]) * 32, sign(secret, bytes([i]) * 32)), OFFSET) for i in range(size)]
    tests = count_pairings(monkeypatch)
    assert not any(verify_all(checks, token_bytes))
    assert sum(tests) <= 3 * 2 * size  # without a budget 4.5 times


def of_distinct_messages(size: int, *, wrong: Collection[int]) -> list[Check]:
    checks = [Check(KEYS[0], bytes([i]) * 32, sign(SIGNERS[0], bytes([i]) * 32)) for i in range(size)]
    return [shifted(check, OFFSET) if i in wrong else check for i, check in enumerate(checks)]


@pytest.mark.parametrize(("wrong", "halvings"), [(7, 3), (0, 6), (4, 5)])
def test_the_pairing_of_a_message_is_calculated_once(wrong: int, halvings: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight messages and the generator; then a half costs the generator's alone. A good left half saves the test of the right one."""
    tests = count_pairings(monkeypatch)
    verify_all(of_distinct_messages(8, wrong=[wrong]), token_bytes)
    assert tests == [8 + 1] + [1] * halvings


def test_halving_ends_when_it_has_cost_what_all_cost_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 checks one by one: 64·(2·2 + 3) tenths of a millisecond. The first product takes 64·2 + 5 of them and each half 5, so 63 halves
    are asked, depth first; then the rest goes one by one: the other half of 32 and one check of the half before it."""
    tests = count_pairings(monkeypatch)
    assert not any(verify_all(of_distinct_messages(64, wrong=range(64)), token_bytes))
    assert (64 * 7 - (64 * 2 + 5)) / 5 == 63
    assert tests == [64 + 1] + [1] * (63 + 33)


def count_pairings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets the number of Miller loops of every test of a product from now on."""
    tests: list[int] = []
    loops = 0
    really_loop, really_verify = group_module.miller_loop, group_module.final_verify  # type: ignore[attr-defined]

    def loop(key: object, hashed: object) -> object:
        nonlocal loops
        loops += 1
        return really_loop(key, hashed)

    def verify(left: object, right: object) -> object:
        nonlocal loops
        tests.append(loops)
        loops = 0
        return really_verify(left, right)

    monkeypatch.setattr(group_module, "miller_loop", loop)
    monkeypatch.setattr(group_module, "final_verify", verify)
    return tests


def test_nothing_to_check() -> None:
    assert verify_all([], token_bytes) == []


def test_one_wrong_type_spoils_only_itself() -> None:
    checks = [honest(0, 0), Check([], MESSAGES[0], 5), Check(KEYS[0], None, b""), honest(1, 1)]  # type: ignore[arg-type]
    assert verify_all(checks, token_bytes) == [True, False, False, True]


def test_entropy_that_is_too_short_is_refused() -> None:
    with pytest.raises(CryptoFault):
        verify_all([honest(0, 0), honest(1, 0)], lambda count: bytes(count - 1))
