"""Duties: their numbers, names, start and deadline. One table, and the two functions that read it.

A duty is the unit of work of the whole cluster, not of one validator: a slot and a type, in text `123/attester`. The numbers go
over the wire and are hashed; only appending is allowed. Times are counted in twelfths of a slot, S/12 being the margin m.

Source: specification 05 §1, §2 and §5 (trigger offsets). Vector: core/timers_deadlines_leaders.json.
"""

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from charon_actors.profile import Profile

if TYPE_CHECKING:
    from charon_actors.eth2.chain import Chain


class DutyType(enum.IntEnum):
    """What is to be done; the value is the number on the wire."""

    PROPOSER = 1
    ATTESTER = 2
    SIGNATURE = 3
    EXIT = 4
    BUILDER_PROPOSER = 5
    BUILDER_REGISTRATION = 6
    RANDAO = 7
    PREPARE_AGGREGATOR = 8
    AGGREGATOR = 9
    SYNC_MESSAGE = 10
    PREPARE_SYNC_CONTRIBUTION = 11
    SYNC_CONTRIBUTION = 12
    INFO_SYNC = 13

    @property
    def label(self) -> str:
        """`prepare_aggregator`: the name in logs, metrics and duty texts."""
        return self.name.lower()


class Duty(msgspec.Struct, frozen=True, order=True):
    """One unit of work of the cluster. slot: uint64 (an exit's is the first slot of its epoch). Ordered by slot, then type."""

    slot: int
    type: DutyType

    def __str__(self) -> str:
        return f"{self.slot}/{self.type.label}"


class Timing(NamedTuple):
    """start: twelfths of a slot after the slot's start. deadline: (epochs, twelfths of a slot) after it, None = never."""

    start: int
    has_consensus: bool
    deadline: tuple[int, int] | None


MARGIN: Final = 1  # S/12, in twelfths of a slot
_THIRD: Final = 4
_SLOT: Final = 12

TIMINGS: Final[dict[DutyType, Timing]] = {
    DutyType.PROPOSER: Timing(0, True, (0, _THIRD + MARGIN)),
    DutyType.ATTESTER: Timing(_THIRD, True, (1, MARGIN)),
    DutyType.SIGNATURE: Timing(0, False, (0, _SLOT + MARGIN)),
    DutyType.EXIT: Timing(0, False, None),
    DutyType.BUILDER_PROPOSER: Timing(0, False, (0, _SLOT + MARGIN)),
    DutyType.BUILDER_REGISTRATION: Timing(0, False, None),
    DutyType.RANDAO: Timing(0, False, (0, _THIRD + MARGIN)),
    DutyType.PREPARE_AGGREGATOR: Timing(0, False, (2, MARGIN)),
    DutyType.AGGREGATOR: Timing(2 * _THIRD, True, (1, MARGIN)),
    DutyType.SYNC_MESSAGE: Timing(0, False, (0, _SLOT + MARGIN)),
    DutyType.PREPARE_SYNC_CONTRIBUTION: Timing(0, False, (2, MARGIN)),
    DutyType.SYNC_CONTRIBUTION: Timing(2 * _THIRD, True, (0, _SLOT + MARGIN)),
    DutyType.INFO_SYNC: Timing(0, True, (0, _SLOT + MARGIN)),
}

# What a profile does differently from the table (Δ1.10 of 05 §2).
DEADLINES_OF_PROFILE: Final[dict[tuple[Profile, DutyType], tuple[int, int]]] = {
    (Profile.V1_10, DutyType.SYNC_MESSAGE): (0, 2 * _THIRD + MARGIN),
}


def start_offset_s(duty_type: DutyType, slot_duration_s: float) -> float:
    """How long after the slot's start the duty begins, in seconds."""
    return TIMINGS[duty_type].start * slot_duration_s / 12


def has_consensus(duty_type: DutyType) -> bool:
    """Whether the nodes agree on a value before anyone signs."""
    return TIMINGS[duty_type].has_consensus


def deadline_s(duty: Duty, chain: "Chain", profile: Profile) -> float | None:
    """When the duty is over for good, in Unix seconds; None for exits and builder registrations, which never expire."""
    deadline = DEADLINES_OF_PROFILE.get((profile, duty.type), TIMINGS[duty.type].deadline)
    if deadline is None:
        return None
    epochs, twelfths = deadline
    length_s = (epochs * chain.slots_per_epoch * 12 + twelfths) * chain.slot_duration_s / 12
    return chain.slot_start_s(duty.slot) + length_s
