"""Ranges of slots that may say too much, never too little."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.qbft.participation import (
    JOINED_SLOTS,
    RANGES,
    Participation,
    ParticipationFault,
    decode_participation,
    encode_participation,
)

KINDS = [DutyType.PROPOSER, DutyType.ATTESTER]
NEAR = st.integers(0, 400)
FAR = st.integers(0, 2**40)
DUTIES = st.lists(st.builds(Duty, NEAR | FAR, st.sampled_from(KINDS)), max_size=30)


def attester(slot: int) -> Duty:
    return Duty(slot, DutyType.ATTESTER)


@given(DUTIES)
def test_what_was_said_is_covered_for_ever_and_takes_little_room(duties: list[Duty]) -> None:
    said = Participation()
    for number, duty in enumerate(duties):
        said = said.joined_by([duty])
        assert all(said.covers(earlier) for earlier in duties[: number + 1])
        for ranges in said.ranges.values():
            assert len(ranges) <= RANGES
            assert ranges[0][0] == 0
            assert all(first <= last for first, last in ranges)
            assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))
    assert decode_participation(encode_participation(said)) == said


@given(DUTIES, st.sampled_from(KINDS))
def test_nothing_later_than_all_that_was_said_is_silenced(duties: list[Duty], kind: DutyType) -> None:
    said = Participation().joined_by(duties)
    latest = max((duty.slot for duty in duties if duty.type is kind), default=-1)
    assert not said.covers(Duty(latest + 1, kind))


def test_a_proposal_does_not_silence_the_attestation_of_its_slot() -> None:
    said = Participation().joined_by([Duty(100, DutyType.PROPOSER)])
    assert said.covers(Duty(100, DutyType.PROPOSER))
    assert said.covers(Duty(99, DutyType.PROPOSER))  # not known, so not said again
    assert not said.covers(attester(100))


def test_an_ordinary_node_has_one_range() -> None:
    said = Participation()
    for slot in range(1000, 40_000, 32):
        said = said.joined_by([attester(slot)])
    assert said.ranges == {DutyType.ATTESTER: ((0, 39_976),)}


def test_a_clock_that_was_a_day_ahead_for_a_minute_does_not_silence_the_day() -> None:
    said = Participation().joined_by([attester(1000), attester(8200), attester(8205)])
    assert not said.covers(attester(1001))
    for slot in range(1001, 8200):
        assert not said.covers(attester(slot))
        said = said.joined_by([attester(slot)])
    assert all(said.covers(attester(slot)) for slot in range(8206))
    assert not said.covers(attester(8206))


def test_many_outages_join_what_is_longest_ago() -> None:
    said = Participation()
    for slot in range(1, 10):
        said = said.joined_by([attester(slot * 1000)])
    assert len(said.ranges[DutyType.ATTESTER]) == RANGES
    assert said.ranges[DutyType.ATTESTER][-1] == (9000, 9000)
    assert JOINED_SLOTS < 1000


@given(st.binary(max_size=80))
def test_hostile_bytes_are_a_fault_or_a_participation(data: bytes) -> None:
    with contextlib.suppress(ParticipationFault):
        encode_participation(decode_participation(data))


def test_a_later_version_is_a_fault() -> None:
    with pytest.raises(ParticipationFault):
        decode_participation(b"\x02")
