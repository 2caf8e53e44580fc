"""Whose key share: found by public share alone, every mix-up named by its file, and secrets recovered from the right shares only."""

import json
from itertools import combinations

import pytest
from msgspec.structs import replace

from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.key_shares import ShareOwner, ShareOwners, recover_group_secret
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.errors import UserError
from tests.charon_actors.cluster.vectors import CLUSTER

LOCK = decode_lock((CLUSTER / "signed-v1_11_0/cluster-lock.json").read_bytes())
KEYS = json.loads((CLUSTER / "signed-v1_11_0/keys.json").read_text())["validators"]
SECRETS = [bytes.fromhex(validator["secret"]) for validator in KEYS]
SHARES = [{int(i): bytes.fromhex(s) for i, s in validator["shares_by_index"].items()} for validator in KEYS]
OWNERS = ShareOwners(LOCK)


def public_share(validator: int, share_index: int) -> bytes:
    return LOCK.validators[validator].public_shares[share_index - 1]


def test_every_public_share_has_its_owner_and_nothing_else_has_one() -> None:
    for validator in range(len(LOCK.validators)):
        for share_index in range(1, 5):
            assert OWNERS.find(public_share(validator, share_index)) == ShareOwner(validator, share_index)
        assert OWNERS.find(LOCK.validators[validator].public_key) is None
    assert OWNERS.find(b"") is None


def test_a_lock_with_the_same_share_twice_is_refused() -> None:
    first, second, *rest = LOCK.validators
    twice = replace(second, public_shares=(first.public_shares[2], *second.public_shares[1:]))
    with pytest.raises(ClusterFault, match="the same public share stands at validators 0 and 1"):
        ShareOwners(replace(LOCK, validators=(first, twice, *rest)))


def test_a_folder_of_one_operator_in_any_order() -> None:
    files = [("b", public_share(1, 3)), ("a", public_share(0, 3))]
    assert OWNERS.of_one_operator(files) == {"b": ShareOwner(1, 3), "a": ShareOwner(0, 3)}
    assert OWNERS.of_one_operator([]) == {}


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ([("a", public_share(0, 1)), ("b", bytes(48))], "b: secret key share not found: .* not found in provided lock: 0x00"),
        (
            [("a", public_share(0, 1)), ("b", public_share(0, 1))],
            "b: multiple provided private key shares resolve to the same validator 0: also a; keep one",
        ),
        ([("a", public_share(0, 1)), ("b", public_share(0, 2))], "b: multiple provided private key shares resolve to the same"),
        (
            [("a", public_share(0, 1)), ("b", public_share(1, 2))],
            "b: key share of share index 2, while a is one of share index 1; keep the keystores of each operator",
        ),
    ],
)
def test_mix_ups_are_named_by_file(files: list[tuple[str, bytes]], error: str) -> None:
    with pytest.raises(UserError, match=f"^{error}"):
        OWNERS.of_one_operator(files)


@pytest.mark.parametrize("validator", range(len(SECRETS)))
def test_any_threshold_of_shares_gives_the_secret(validator: int) -> None:
    for chosen in combinations(range(1, 5), 3):
        shares = {index: SHARES[validator][index] for index in chosen}
        assert recover_group_secret(LOCK, validator, shares) == SECRETS[validator]
    assert recover_group_secret(LOCK, validator, SHARES[validator]) == SECRETS[validator]


def altered(lock: Lock, **changes: object) -> Lock:
    return replace(lock, validators=(replace(lock.validators[0], **changes), *lock.validators[1:]))


@pytest.mark.parametrize(
    ("lock", "shares", "error"),
    [
        (LOCK, {1: SHARES[0][1], 2: SHARES[0][3], 3: SHARES[0][2]}, "secret key share not found: share index 2 of validator 0"),
        (LOCK, {1: SHARES[1][1], 2: SHARES[0][2], 3: SHARES[0][3]}, "secret key share not found: share index 1 of validator 0"),
        (LOCK, {1: SHARES[0][1], 2: SHARES[0][2]}, "unexpected resulting combined validator public key"),
        (LOCK, {}, "validator 0: no shares"),
        (LOCK, {1: bytes(32)}, "validator 0: scalar: zero"),
        (
            altered(LOCK, public_key=LOCK.validators[1].public_key),
            {index: SHARES[0][index] for index in (1, 2, 3)},
            "unexpected resulting combined validator public key of validator 0",
        ),
    ],
)
def test_wrong_shares_never_give_a_secret(lock: Lock, shares: dict[int, bytes], error: str) -> None:
    with pytest.raises(ClusterFault, match=error) as caught:
        recover_group_secret(lock, 0, shares)
    assert not any(share.hex() in str(caught.value) for share in shares.values())
