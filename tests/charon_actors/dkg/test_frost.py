"""FROST against the vectors of the Go library, against its negative cases, and as a law: any threshold of shares is the key."""

from itertools import combinations, permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charon_actors.crypto import G1, public_key, recover_public_key, recover_secret
from charon_actors.dkg.faults import CeremonyFault
from charon_actors.dkg.frost import Frost, ValidatorKeys, hash_to_scalar
from charon_actors.p2p.protobuf import dkg_pb2
from tests.charon_actors.dkg.vectors import load, participant, party

FILES = ["frost_n3_t2.json", "frost_n4_t3.json"]
FIXTURES = ["2-of-3-ctx-0", "3-of-3-ctx-0", "invalid-proof", "malformed-share-id"]


def deal(frosts: list[Frost]) -> None:
    """Round 1: everybody's messages reach everybody."""
    for sender, frost in enumerate(frosts):
        cast, shares = frost.round1()
        for receiver, other in enumerate(frosts):
            if receiver != sender:
                other.receive_round1_cast(sender, cast)
                other.receive_shares(sender, shares[receiver])


def run(frosts: list[Frost]) -> list[tuple[ValidatorKeys, ...]]:
    deal(frosts)
    casts = [frost.round2() for frost in frosts]
    for sender, receiver in permutations(range(len(frosts)), 2):
        frosts[receiver].receive_round2_cast(sender, casts[sender])
    return [frost.finish() for frost in frosts]


@pytest.mark.parametrize("case", load("hash_to_scalar.json")["cases"], ids=lambda case: case["message"][:16] or "empty")
def test_hash_to_scalar(case: Any) -> None:
    assert hash_to_scalar(bytes.fromhex(case["message"])) == int(case["scalar"], 16)


@pytest.mark.parametrize("file", FILES)
def test_from_the_seeds_every_value_of_the_go_library_comes_out(file: str) -> None:
    vector = load(file)
    frosts = [participant(vector, index) for index in range(vector["n"])]
    messages = [frost.round1() for frost in frosts]
    for index, (cast, shares) in enumerate(messages):
        decoded = dkg_pb2.FrostRound1Casts.FromString(cast)
        for validator, entry in zip(vector["validators"], decoded.casts, strict=True):
            expected = validator["participants"][index]
            assert entry.key.source_id == expected["id"]
            assert [commitment.hex() for commitment in entry.commitments] == expected["commitments"]
            assert (entry.wi.hex(), entry.ci.hex()) == (expected["wi"], expected["ci"])
            for receiver, text in expected["shares_sent"].items():
                sent = dkg_pb2.FrostRound1P2P.FromString(shares[int(receiver) - 1])
                entry_sent = sent.shares[validator["val_idx"]]
                assert (entry_sent.value.hex(), entry_sent.id, entry_sent.key.target_id) == (text, int(receiver), int(receiver))
    for sender, receiver in permutations(range(vector["n"]), 2):
        frosts[receiver].receive_round1_cast(sender, messages[sender].cast)
        frosts[receiver].receive_shares(sender, messages[sender].shares[receiver])
    round2 = [frost.round2() for frost in frosts]
    for sender, receiver in permutations(range(vector["n"]), 2):
        frosts[receiver].receive_round2_cast(sender, round2[sender])
    for index, frost in enumerate(frosts):
        for validator, keys in zip(vector["validators"], frost.finish(), strict=True):
            expected = validator["participants"][index]
            assert keys.secret_share.hex() == expected["secret_share"]
            assert keys.group_public_key.hex() == validator["group_public_key"]
            assert {str(i): share.hex() for i, share in enumerate(keys.public_shares, 1)} == validator["public_shares"]
            cast = dkg_pb2.FrostRound2Casts.FromString(round2[index]).casts[validator["val_idx"]]
            assert cast.vk_share.hex() == expected["round2"]["vk_share"]
            assert cast.verification_key.hex() == expected["round2"]["verification_key"]


@pytest.mark.parametrize("case", load("frost_negative.json")["cases"], ids=lambda case: case["name"])
def test_each_lie_is_found_and_its_teller_named(case: Any) -> None:
    frost = participant(load("frost_n3_t2.json"), case["receiver"] - 1, validators=[0])
    frost.round1()
    expected = case["expect"]

    def receive() -> None:
        for sender, message in case["messages_from_peers"].items():
            feed(frost, int(sender), case["receiver"], message)
        frost.round2()

    if expected == "accept":
        receive()
        return
    with pytest.raises(CeremonyFault) as caught:
        receive()
    for participant_id in (2, 3):
        if f"peer {participant_id}" in expected:
            assert caught.value.peer_index == participant_id - 1
    for words in ("proof of knowledge", "invalid share", "id is", "zero"):
        if words in expected and words != "zero":
            assert words in str(caught.value) or ("invalid share" in expected and "zero" in str(caught.value))


@pytest.mark.parametrize("name", FIXTURES)
def test_kryptology_fixtures(name: str) -> None:
    """Each receiver of a recorded round 1 reaches the recorded verdict; a share with a foreign id is refused on top (04 §5.3)."""
    fixture = load(f"kryptology_fixtures/{name}.json")
    by_id = {p["id"]: p for p in fixture["participants"]}
    for receiver, own in by_id.items():
        frost = Frost(
            own_index=receiver - 1,
            operators=len(by_id),
            threshold=fixture["threshold"],
            validators=1,
            entropy=lambda size: b"\x07" * size,
        )
        frost.round1()
        # The fixture's own polynomial is unknown, but its share and commitments are not: put them in the place of ours.
        frost._own_shares = [int(own["own_share"], 16)]
        frost._own_commitments = [[G1.decode(bytes.fromhex(c)) for c in own["round1_bcast"]["commitments"]]]
        culprit = None
        keys = None
        try:
            for sender, p in by_id.items():
                if sender != receiver:
                    share = next(s for s in p["shares_sent"] if s["to"] == receiver)
                    feed(frost, sender, receiver, {**p["round1_bcast"], f"share_to_{receiver}": share})
            keys = dkg_pb2.FrostRound2Casts.FromString(frost.round2()).casts[0]
        except CeremonyFault as fault:
            culprit = (fault.peer_index or 0) + 1
        expected = own["expected_round2"]
        assert culprit == expected.get("culprit")
        if keys is not None:
            assert keys.vk_share.hex() == expected["vk_share"]
            assert keys.verification_key.hex() == expected["verification_key"]
            assert frost._keys[0].secret_share.hex() == expected["signing_share"]


def feed(frost: Frost, sender: int, receiver: int, message: Any) -> None:
    """Give a frost one peer's recorded messages of one validator."""
    cast = dkg_pb2.FrostRound1Casts()
    commitments = [bytes.fromhex(c) for c in message["commitments"]]
    entry = cast.casts.add(wi=bytes.fromhex(message["wi"]), ci=bytes.fromhex(message["ci"]), commitments=commitments)
    entry.key.source_id = sender
    share = message[f"share_to_{receiver}"]
    shares = dkg_pb2.FrostRound1P2P()
    share_entry = shares.shares.add(id=share["id"], value=bytes.fromhex(share["value"]))
    share_entry.key.source_id, share_entry.key.target_id = sender, receiver
    frost.receive_round1_cast(sender - 1, cast.SerializeToString())
    frost.receive_shares(sender - 1, shares.SerializeToString())


@pytest.mark.parametrize(("operators", "threshold", "validators"), [(3, 2, 1), (4, 3, 3), (7, 5, 1)])
def test_any_threshold_of_shares_is_the_group_key(operators: int, threshold: int, validators: int) -> None:
    results = run(party(operators, threshold, validators))
    for validator in range(validators):
        of_all = [result[validator] for result in results]
        assert len({keys.group_public_key for keys in of_all}) == 1
        assert len({keys.public_shares for keys in of_all}) == 1
        for chosen in combinations(range(operators), threshold):
            secret = recover_secret({index + 1: of_all[index].secret_share for index in chosen})
            assert public_key(secret) == of_all[0].group_public_key
            shares = {index + 1: of_all[0].public_shares[index] for index in chosen}
            assert recover_public_key(shares) == of_all[0].group_public_key
        for index, keys in enumerate(of_all):
            assert public_key(keys.secret_share) == keys.public_shares[index]
    assert len({keys.group_public_key for keys in results[0]}) == validators


def edited(kind: Any, body: bytes, edit: Any) -> bytes:
    message = kind.FromString(body)
    edit(message)
    encoded: bytes = message.SerializeToString()
    return encoded


CAST_EDITS: dict[str, Any] = {
    "no key": lambda m: m.casts[1].ClearField("key"),
    "another sender": lambda m: setattr(m.casts[1].key, "source_id", 3),
    "a target": lambda m: setattr(m.casts[1].key, "target_id", 1),
    "out of range": lambda m: setattr(m.casts[1].key, "val_idx", 3),
    "repeated": lambda m: setattr(m.casts[1].key, "val_idx", 0),
    "missing": lambda m: m.casts.pop(),
    "empty": lambda m: m.ClearField("casts"),
    "one too many": lambda m: m.casts.add().CopyFrom(m.casts[0]),
    "a commitment too many": lambda m: m.casts[1].commitments.append(m.casts[1].commitments[0]),
    "a short commitment": lambda m: m.casts[1].commitments.__setitem__(0, b"\x00" * 47),
    "a long scalar": lambda m: setattr(m.casts[1], "wi", b"\x00" + m.casts[1].wi),
    "a scalar of the order": lambda m: setattr(m.casts[1], "wi", (2**255).to_bytes(32, "big")),
}


@pytest.mark.parametrize("edit", CAST_EDITS.values(), ids=CAST_EDITS.keys())
def test_a_cast_that_is_not_exactly_what_it_must_be_is_refused_before_it_is_signed(edit: Any) -> None:
    receiver, sender, _ = party(3, 2, 3)
    receiver.round1()
    body = edited(dkg_pb2.FrostRound1Casts, sender.round1().cast, edit)
    for door in (receiver.check_round1_cast, receiver.receive_round1_cast):
        with pytest.raises(CeremonyFault) as caught:
            door(1, body)
        assert caught.value.peer_index == 1


SHARE_EDITS: dict[str, Any] = {
    "no key": lambda m: m.shares[0].ClearField("key"),
    "another sender": lambda m: setattr(m.shares[0].key, "source_id", 3),
    "for another": lambda m: setattr(m.shares[0].key, "target_id", 3),
    "id of another": lambda m: setattr(m.shares[0], "id", 3),
    "missing": lambda m: m.shares.pop(),
    "zero": lambda m: setattr(m.shares[0], "value", bytes(32)),
}


@pytest.mark.parametrize("edit", SHARE_EDITS.values(), ids=SHARE_EDITS.keys())
def test_shares_that_are_not_exactly_for_us_are_refused(edit: Any) -> None:
    receiver, sender, _ = party(3, 2, 3)
    body = edited(dkg_pb2.FrostRound1P2P, sender.round1().shares[0], edit)
    with pytest.raises(CeremonyFault) as caught:
        receiver.receive_shares(1, body)
    assert caught.value.peer_index == 1


def test_one_bad_share_among_many_validators_is_found() -> None:
    frosts = party(3, 2, 20)
    messages = [frost.round1() for frost in frosts]

    def spoil(message: Any) -> None:
        value = int.from_bytes(message.shares[13].value, "big") ^ 1
        message.shares[13].value = value.to_bytes(32, "big")

    bad = edited(dkg_pb2.FrostRound1P2P, messages[2].shares[0], spoil)
    for sender in (1, 2):
        frosts[0].receive_round1_cast(sender, messages[sender].cast)
        frosts[0].receive_shares(sender, bad if sender == 2 else messages[sender].shares[0])
    with pytest.raises(CeremonyFault, match="invalid share for validator 13") as caught:
        frosts[0].round2()
    assert caught.value.peer_index == 2


def test_errors_that_cancel_each_other_in_a_plain_sum_are_found() -> None:
    frosts = party(3, 2, 2)
    messages = [frost.round1() for frost in frosts]

    def spoil(message: Any) -> None:
        for entry, shift in zip(message.shares, (1, -1), strict=True):
            entry.value = (int.from_bytes(entry.value, "big") + shift).to_bytes(32, "big")

    frosts[0].receive_round1_cast(1, messages[1].cast)
    frosts[0].receive_shares(1, edited(dkg_pb2.FrostRound1P2P, messages[1].shares[0], spoil))
    frosts[0].receive_round1_cast(2, messages[2].cast)
    frosts[0].receive_shares(2, messages[2].shares[0])
    with pytest.raises(CeremonyFault, match="invalid share for validator 0"):
        frosts[0].round2()


@pytest.mark.parametrize("field", ["verification_key", "vk_share"])
def test_a_wrong_key_in_round_2_is_blamed(field: str) -> None:
    frosts = party(3, 2, 2)
    deal(frosts)
    casts = [frost.round2() for frost in frosts]
    lie = edited(dkg_pb2.FrostRound2Casts, casts[1], lambda m: setattr(m.casts[1], field, G1.GENERATOR.encode()))
    frosts[0].receive_round2_cast(1, lie)
    frosts[0].receive_round2_cast(2, casts[2])
    with pytest.raises(CeremonyFault, match="for validator 1") as caught:
        frosts[0].finish()
    assert caught.value.peer_index == 1


def test_a_malformed_cast_of_round_2_is_refused_before_it_is_signed() -> None:
    frosts = party(3, 2, 2)
    deal(frosts)
    casts = [frost.round2() for frost in frosts]
    frosts[0].check_round2_cast(1, casts[1])

    def no_entry(message: Any) -> None:
        del message.casts[1]

    def short_key(message: Any) -> None:
        message.casts[0].vk_share = message.casts[0].vk_share[:-1]

    def for_somebody(message: Any) -> None:
        message.casts[0].key.target_id = 1

    for spoil in (no_entry, short_key, for_somebody):
        with pytest.raises(CeremonyFault, match="round 2 cast") as caught:
            frosts[0].check_round2_cast(1, edited(dkg_pb2.FrostRound2Casts, casts[1], spoil))
        assert caught.value.peer_index == 1
    with pytest.raises(CeremonyFault):
        frosts[0].check_round2_cast(1, casts[2])  # another's, under one's own name


def test_a_repeat_is_harmless_and_a_second_story_is_not() -> None:
    receiver, sender, _ = party(3, 2, 1)
    other = party(3, 2, 1, label="restarted")[1]
    first, second = sender.round1(), other.round1()
    receiver.receive_round1_cast(1, first.cast)
    receiver.receive_round1_cast(1, first.cast)
    receiver.receive_shares(1, first.shares[0])
    receiver.receive_shares(1, first.shares[0])
    with pytest.raises(CeremonyFault, match="two different"):
        receiver.receive_round1_cast(1, second.cast)
    with pytest.raises(CeremonyFault, match="two different"):
        receiver.receive_shares(1, second.shares[0])


def test_polynomials_are_drawn_once_and_forgotten_after_use() -> None:
    frosts = party(3, 2, 1)
    deal(frosts)
    with pytest.raises(AssertionError):
        frosts[0].round1()
    frosts[0].round2()
    assert not frosts[0]._own_shares
    assert not frosts[0]._shares
    assert frosts[0]._keys[0].secret_share.hex() not in repr(frosts[0]._keys[0])


@given(body=st.binary(max_size=300), peer_index=st.sampled_from([0, 1, 2, 7]))
@settings(max_examples=300)
def test_hostile_bytes_end_in_a_named_fault(body: bytes, peer_index: int) -> None:
    frost = party(3, 2, 2)[0]
    for door in (frost.receive_round1_cast, frost.receive_shares, frost.receive_round2_cast):
        with pytest.raises(CeremonyFault) as caught:
            door(peer_index, body)
        assert caught.value.peer_index == peer_index


@given(position=st.integers(0, 10**6), flip=st.integers(1, 255), of_cast=st.booleans())
@settings(max_examples=150, deadline=None)
def test_no_single_changed_byte_gets_through_round_1(position: int, flip: int, of_cast: bool) -> None:
    """Whatever byte of a cast or of the shares is changed: refused, or without any meaning for the keys."""
    frosts = party(3, 2, 2)
    messages = [frost.round1() for frost in frosts]
    cast, share = messages[1].cast, messages[1].shares[0]
    original = cast if of_cast else share
    position %= len(original)
    mutated = original[:position] + bytes([original[position] ^ flip]) + original[position + 1 :]
    try:
        frosts[0].receive_round1_cast(1, mutated if of_cast else cast)
        frosts[0].receive_shares(1, share if of_cast else mutated)
        frosts[0].receive_round1_cast(2, messages[2].cast)
        frosts[0].receive_shares(2, messages[2].shares[0])
        frosts[0].round2()
    except CeremonyFault as fault:
        assert fault.peer_index == 1  # noqa: PT017
    else:  # the byte belonged to an unknown field or to a default: what was understood is the same
        reference = party(3, 2, 2)
        deal(reference)
        reference[0].round2()
        assert [keys.group_public_key for keys in reference[0]._keys] == [keys.group_public_key for keys in frosts[0]._keys]
        assert [keys.secret_share for keys in reference[0]._keys] == [keys.secret_share for keys in frosts[0]._keys]


def test_sizes_on_the_wire() -> None:
    for row in load("sizes.json")["rows"]:
        if row["V"] > 10:
            continue
        frosts = party(row["n"], row["t"], row["V"])
        messages = [frost.round1() for frost in frosts]
        assert len(messages[0].cast) == row["FrostRound1Casts"]
        assert len(messages[0].shares[1]) == row["FrostRound1P2P"]
        for sender, receiver in permutations(range(row["n"]), 2):
            frosts[receiver].receive_round1_cast(sender, messages[sender].cast)
            frosts[receiver].receive_shares(sender, messages[sender].shares[receiver])
        assert len(frosts[0].round2()) == row["FrostRound2Casts"]
