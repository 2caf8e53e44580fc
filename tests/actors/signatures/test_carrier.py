"""What a signature doesn't cover: in whose object the group signature goes out."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.signatures import PeerPartials, SubmitPartials
from charon_actors.crypto import verify
from charon_actors.eth2.signed_data import SignedData, VersionedAttestation
from charon_actors.signatures.partial import Partial, carrier
from charon_actors.signatures.wire import encode_message
from tests.actors.signatures.rig import (
    BLOCK_DUTY,
    CHAIN,
    DUTY,
    attestation,
    block,
    keys,
    node,
    settle,
    signed_by,
    tell,
    until,
)


def without_index(signed: VersionedAttestation) -> VersionedAttestation:
    return msgspec.structs.replace(signed, validator_index=None)


async def test_our_own_object_carries_the_group_signature_whatever_a_lower_share_says() -> None:
    async with node(2) as this:
        await tell(this, 1, attestation(1, validator_index=999999))
        await this.address.ask(SubmitPartials(DUTY, {keys()[0]: attestation(2)}))
        await tell(this, 3, attestation(3))
        [group] = this.groups
        signed = group.signed[keys()[0]]
        assert signed == attestation(2).with_signature(signed.signature)
        assert verify(keys()[0], signed.signing_root(CHAIN), signed.signature)


@pytest.mark.parametrize("liar", [1, 3, 4])
async def test_without_ours_the_majority_decides(liar: int) -> None:
    async with node(2) as this:
        for share_index in (1, 3, 4):
            await tell(this, share_index, attestation(share_index, validator_index=999999 if share_index == liar else None))
        signed = this.groups[0].signed[keys()[0]]
        assert isinstance(signed, VersionedAttestation)
        assert signed.validator_index == 0


@pytest.mark.parametrize("has_client", [True, False])
async def test_blobs_of_one_peer_are_not_released(has_client: bool) -> None:
    honest, other = block(blobs=[1, 2]), block(blobs=[1, 3])
    assert honest.message == other.message
    async with node(2) as this:
        this.decide(honest)
        await tell(this, 1, signed_by(1, other), duty=BLOCK_DUTY)
        await until(lambda: len(this.stored) == 1)
        if has_client:
            await this.address.ask(SubmitPartials(BLOCK_DUTY, {keys()[0]: signed_by(2, honest)}))
        else:
            await tell(this, 4, signed_by(4, honest), duty=BLOCK_DUTY)
        await tell(this, 3, signed_by(3, honest), duty=BLOCK_DUTY)
        await until(lambda: this.groups)
        signed = this.groups[0].signed[keys()[0]]
        assert signed.with_signature(bytes(96)) == honest
        assert verify(keys()[0], signed.signing_root(CHAIN), signed.signature)


async def test_a_peer_that_passes_on_what_others_signed_can_change_nothing_in_it() -> None:
    async with node(2) as this:
        for share_index in (3, 4):
            changed = attestation(share_index, validator_index=999999)
            this.address.tell(PeerPartials(0, encode_message(DUTY, share_index, {keys()[0]: changed})))
        await settle(this)
        assert this.stored == []
        for share_index in (1, 3, 4):
            await tell(this, share_index, attestation(share_index))
        signed = this.groups[0].signed[keys()[0]]
        assert isinstance(signed, VersionedAttestation)
        assert signed.validator_index == 0


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
