"""What a signature doesn't cover: in whose object the group signature goes out."""

import pytest

from actors.signatures import PeerPartials, SubmitPartials
from charon_actors.crypto import verify
from charon_actors.eth2.signed_data import VersionedAttestation
from charon_actors.signatures.wire import encode_partials_message
from tests.actors.signatures.rig import node, settle, tell, until
from tests.charon_actors.signatures.signed import BLOCK_DUTY, CHAIN, DUTY, attestation, block, keys, signed_by


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
            this.address.tell(PeerPartials(0, encode_partials_message(DUTY, share_index, {keys()[0]: changed})))
        await settle(this)
        assert this.stored == []
        for share_index in (1, 3, 4):
            await tell(this, share_index, attestation(share_index))
        signed = this.groups[0].signed[keys()[0]]
        assert isinstance(signed, VersionedAttestation)
        assert signed.validator_index == 0
