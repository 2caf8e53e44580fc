"""Votes that no honest validator casts: refused before they are on the slashing record, whoever signed them."""

import msgspec
import pytest

from actors.signatures import InvalidPartial, SubmitPartials
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signed_data import VersionedAttestation
from tests.actors.signatures.rig import node, tell
from tests.charon_actors.signatures.signed import CHAIN, DUTY, SLOT, attestation, keys, signed_by, vote

EPOCH = SLOT // 8


def changed(bits: bytes) -> VersionedAttestation:
    signed = attestation(1)
    return msgspec.structs.replace(signed, attestation=msgspec.structs.replace(signed.attestation, committee_bits=bits))


def of_fork(fork: Fork) -> VersionedAttestation:
    signed = attestation(1)
    return msgspec.structs.replace(signed, attestation=msgspec.structs.replace(signed.attestation, fork=fork, committee_bits=b""))


IMPOSSIBLE = {
    "a target in the far future": attestation(1, data=vote(target=2**40, source=EPOCH - 1)),
    "the next epoch": attestation(1, data=vote(target=EPOCH + 1, source=EPOCH)),
    "the last epoch": attestation(1, data=vote(target=EPOCH - 1, source=EPOCH - 2)),
    "a source after the target": attestation(1, data=vote(source=EPOCH + 1)),
    "a source that is the target": attestation(1, data=vote(source=EPOCH)),
    "a committee where Electra has 0": attestation(1, data=msgspec.structs.replace(vote(), index=3)),
    "two committees": changed(b"\x03" + bytes(7)),
    "no committee": changed(bytes(8)),
    "the shape before Electra": of_fork(Fork.DENEB),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
async def test_an_impossible_vote_is_neither_signed_nor_recorded(name: str) -> None:
    async with node() as this:
        with pytest.raises(InvalidPartial, match="belong"):
            await this.address.ask(SubmitPartials(DUTY, {keys()[0]: IMPOSSIBLE[name]}))
        assert this.sent == []
        for share_index in (2, 3, 4):
            await tell(this, share_index, signed_by(share_index, IMPOSSIBLE[name]))
        assert this.stored == []
        assert this.groups == []
        assert await this.recorded() == set()


@pytest.mark.parametrize("source", [0, EPOCH - 1])
def test_a_source_before_the_target_is_a_vote(source: int) -> None:
    assert attestation(1, data=vote(source=source)).belongs_to(DUTY, CHAIN)


def test_before_electra_a_vote_has_no_committee_bits() -> None:
    deneb = msgspec.structs.replace(CHAIN, fork_epochs={fork: 0 for fork in Fork if fork <= Fork.DENEB})
    assert of_fork(Fork.DENEB).belongs_to(DUTY, deneb)
    assert not attestation(1).belongs_to(DUTY, deneb)


def test_which_of_the_later_forks_a_vote_names_does_not_matter() -> None:
    assert msgspec.structs.replace(
        attestation(1), attestation=msgspec.structs.replace(attestation(1).attestation, fork=Fork.ELECTRA)
    ).belongs_to(DUTY, CHAIN)
