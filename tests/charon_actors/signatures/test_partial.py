"""In whose object the group signature goes out: the rule alone."""

from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.eth2.signed_data import SignedData, VersionedAttestation
from charon_actors.signatures.partial import Partial, carrier
from tests.charon_actors.signatures.signed import attestation


def without_index(signed: VersionedAttestation) -> VersionedAttestation:
    return msgspec.structs.replace(signed, validator_index=None)


def agreeing(objects: Sequence[SignedData]) -> dict[int, Partial]:
    return {share_index: Partial(signed, bytes(32)) for share_index, signed in enumerate(objects, 1)}


@given(st.permutations(["honest"] * 4 + ["liar"] * 3), st.booleans())
def test_more_than_half_decide_in_any_order(order: list[str], do_liars_agree: bool) -> None:
    objects = [
        attestation(1, validator_index=0 if who == "honest" else 7 if do_liars_agree else 7 + place)
        for place, who in enumerate(order)
    ]
    chosen = carrier(agreeing(objects), own_share_index=9)
    assert isinstance(chosen, VersionedAttestation)
    assert chosen.validator_index == 0


@given(st.permutations([1, 2, 3]))
def test_ours_is_taken_even_alone(order: list[int]) -> None:
    objects = [attestation(1, validator_index=0 if share_index == 3 else 7) for share_index in order]
    ours = order.index(3) + 1
    assert carrier(agreeing(objects), own_share_index=ours) == objects[ours - 1]


def test_a_tie_goes_to_the_lowest_share() -> None:
    objects = [attestation(1, validator_index=index) for index in (5, 6, 6, 5)]
    assert carrier(agreeing(objects), own_share_index=9) == objects[0]
    assert carrier(dict(reversed(agreeing(objects).items())), own_share_index=9) == objects[0]


def test_an_attestation_that_names_its_validator_is_preferred() -> None:
    nameless, named = without_index(attestation(1)), attestation(1)
    assert carrier(agreeing([nameless, nameless, named]), own_share_index=9) == named
    assert carrier(agreeing([nameless, nameless]), own_share_index=9) == nameless
