"""Which votes are possible in a slot and committee, by the fork of the slot."""

import msgspec
import pytest

from charon_actors.eth2.attestation import AttestationData, vote_index
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.forks import Fork

ELECTRA_EPOCH, SLOTS_PER_EPOCH = 10, 8
CHAIN = Chain(0.0, bytes(32), 12.0, SLOTS_PER_EPOCH, (), {Fork.DENEB: 0, Fork.ELECTRA: ELECTRA_EPOCH}, bytes(4))
ELECTRA_SLOT = ELECTRA_EPOCH * SLOTS_PER_EPOCH
COMMITTEE = 3


def vote(slot: int, index: int) -> AttestationData:
    epoch = slot // SLOTS_PER_EPOCH
    return AttestationData(slot, index, bytes(32), max(epoch - 1, 0), bytes(32), epoch, bytes(32))


@pytest.mark.parametrize(
    ("slot", "index", "other"),
    [(ELECTRA_SLOT - 1, COMMITTEE, 0), (ELECTRA_SLOT, 0, COMMITTEE), (ELECTRA_SLOT + 800, 0, 1)],
    ids=["the last slot before Electra", "the first of Electra", "later"],
)
def test_the_index_is_the_committees_until_electra(slot: int, index: int, other: int) -> None:
    assert vote(slot, index).fault(slot, COMMITTEE, CHAIN) is None
    assert vote(slot, other).fault(slot, COMMITTEE, CHAIN) == f"index {other} instead of {index}"


def test_indices_by_fork() -> None:
    assert [vote_index(COMMITTEE, fork) for fork in Fork] == [3, 3, 3, 3, 3, 0, 0]


SLOT, EPOCH = ELECTRA_SLOT + 2 * SLOTS_PER_EPOCH, ELECTRA_EPOCH + 2
POSSIBLE = vote(SLOT, 0)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"slot": SLOT + 1}, f"slot {SLOT + 1} instead of {SLOT}"),
        ({"target_epoch": EPOCH + 1}, f"target epoch {EPOCH + 1} instead of {EPOCH}"),
        ({"target_epoch": EPOCH - 1}, f"target epoch {EPOCH - 1} instead of {EPOCH}"),
        ({"source_epoch": EPOCH + 1}, f"source epoch {EPOCH + 1} is after target epoch {EPOCH}"),
        ({"source_epoch": EPOCH}, f"source epoch {EPOCH} is the target epoch, which nobody can have justified yet"),
        ({"source_epoch": 0}, None),
    ],
)
def test_slot_target_and_source(change: dict[str, int], fault: str | None) -> None:
    assert msgspec.structs.replace(POSSIBLE, **change).fault(SLOT, COMMITTEE, CHAIN) == fault


def test_only_genesis_votes_for_itself() -> None:
    assert vote(0, COMMITTEE).fault(0, COMMITTEE, CHAIN) is None
    assert vote(SLOTS_PER_EPOCH - 1, COMMITTEE).fault(SLOTS_PER_EPOCH - 1, COMMITTEE, CHAIN) is None
    itself = msgspec.structs.replace(vote(SLOTS_PER_EPOCH, COMMITTEE), source_epoch=1)
    assert itself.fault(SLOTS_PER_EPOCH, COMMITTEE, CHAIN) is not None
