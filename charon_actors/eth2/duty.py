"""Duties: what is known of each kind before anybody works on it. One table, and the functions that read it.

A duty is the unit of work of the whole cluster, not of one validator: a slot and a type, in text `123/attester`. The numbers go
over the wire and are hashed; only appending is allowed. Times are counted in twelfths of a slot, S/12 being the margin m.

A row says when a duty starts and ends, whether and how the nodes agree on a value first, where the group's signature goes, and whether
this node performs it. Who has the duty, its story, its submission are in the kind's file in `actors/duties/kinds`. A fork that moves
starts is one row of STARTS_SINCE.

`refusal` is the gate in front of everything that peers and validator clients send about a duty (05 §4): one that this node doesn't
perform, one that is over, and one too far ahead to be known take no memory.

Source: specification 05 §1, §2, §4 and §5 (trigger offsets). Vector: core/timers_deadlines_leaders.json.
"""

import enum
import math
from collections.abc import Set
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from charon_actors.eth2.forks import Fork
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


class Agreement(enum.Enum):
    """How an instance of consensus on the duty's value begins, if there is one."""

    NONE = enum.auto()  # everybody signs what follows from the chain
    WHEN_ASKED = enum.auto()  # when our own story asks for it
    BY_MESSAGES = enum.auto()  # when a value is offered or a peer speaks
    BY_PRIORITY = enum.auto()  # in the priority protocol's own way


class GroupGoesTo(enum.Enum):
    """Who takes what a threshold has signed."""

    BEACON_NODE = enum.auto()
    OUR_NODE = enum.auto()  # it is an ingredient of another duty: a randao reveal, a selection
    NOBODY = enum.auto()


class Row(NamedTuple):
    """start: twelfths of a slot after the slot's start. deadline: (epochs, twelfths of a slot) after it, None = never.
    signed_slots_ahead: how early it may be signed, where that is less than EPOCHS_AHEAD."""

    start: int
    agreement: Agreement
    deadline: tuple[int, int] | None
    group_goes_to: GroupGoesTo = GroupGoesTo.BEACON_NODE
    is_performed: bool = False
    signed_slots_ahead: int | None = None


MARGIN: Final = 1  # S/12, in twelfths of a slot
EPOCHS_AHEAD: Final = 2  # 05 §4
_THIRD: Final = 4
_SLOT: Final = 12
_OURS: Final = GroupGoesTo.OUR_NODE

ROWS: Final[dict[DutyType, Row]] = {
    DutyType.PROPOSER: Row(0, Agreement.WHEN_ASKED, (0, _THIRD + MARGIN), is_performed=True, signed_slots_ahead=1),
    DutyType.ATTESTER: Row(_THIRD, Agreement.WHEN_ASKED, (1, MARGIN), is_performed=True),
    DutyType.SIGNATURE: Row(0, Agreement.NONE, (0, _SLOT + MARGIN), GroupGoesTo.NOBODY),
    DutyType.EXIT: Row(0, Agreement.NONE, None),
    DutyType.BUILDER_PROPOSER: Row(0, Agreement.NONE, (0, _SLOT + MARGIN), GroupGoesTo.NOBODY),
    DutyType.BUILDER_REGISTRATION: Row(0, Agreement.NONE, None),
    DutyType.RANDAO: Row(0, Agreement.NONE, (0, _THIRD + MARGIN), _OURS, is_performed=True),
    DutyType.PREPARE_AGGREGATOR: Row(0, Agreement.NONE, (2, MARGIN), _OURS),
    DutyType.AGGREGATOR: Row(2 * _THIRD, Agreement.BY_MESSAGES, (1, MARGIN)),
    DutyType.SYNC_MESSAGE: Row(0, Agreement.NONE, (0, _SLOT + MARGIN)),
    DutyType.PREPARE_SYNC_CONTRIBUTION: Row(0, Agreement.NONE, (2, MARGIN), _OURS),
    DutyType.SYNC_CONTRIBUTION: Row(2 * _THIRD, Agreement.BY_MESSAGES, (0, _SLOT + MARGIN)),
    DutyType.INFO_SYNC: Row(0, Agreement.BY_PRIORITY, (0, _SLOT + MARGIN), GroupGoesTo.NOBODY),
}

# Forks that move starts, ascending, and the starts from then on, in twelfths of a slot. None yet: Gloas will be the first (12 §2.2).
STARTS_SINCE: Final[dict[Fork, dict[DutyType, int]]] = {}
assert list(STARTS_SINCE) == sorted(STARTS_SINCE)

# What a profile does differently from the table (Δ1.10 of 05 §2).
DEADLINES_OF_PROFILE: Final[dict[tuple[Profile, DutyType], tuple[int, int]]] = {
    (Profile.V1_10, DutyType.SYNC_MESSAGE): (0, 2 * _THIRD + MARGIN),
}

PERFORMED: Final = frozenset(kind for kind, row in ROWS.items() if row.is_performed)
AGREED_ON: Final = frozenset(kind for kind, row in ROWS.items() if row.agreement in (Agreement.WHEN_ASKED, Agreement.BY_MESSAGES))


def start_s(duty: Duty, chain: "Chain") -> float:
    """When the duty begins, in Unix seconds."""
    twelfths = ROWS[duty.type].start
    fork = chain.fork_at(chain.epoch_of(duty.slot)) if STARTS_SINCE else Fork.PHASE0
    for since, starts in STARTS_SINCE.items():
        if fork >= since:
            twelfths = starts.get(duty.type, twelfths)
    return chain.slot_start_s(duty.slot) + twelfths * chain.slot_duration_s / 12


def _length(kind: DutyType, chain: "Chain", profile: Profile) -> int | None:
    """From the slot's start to the deadline, in twelfths of a slot."""
    deadline = DEADLINES_OF_PROFILE.get((profile, kind), ROWS[kind].deadline)
    return None if deadline is None else deadline[0] * chain.slots_per_epoch * 12 + deadline[1]


def deadline_s(duty: Duty, chain: "Chain", profile: Profile) -> float | None:
    """When the duty is over for good, in Unix seconds; None for exits and builder registrations, which never expire."""
    length = _length(duty.type, chain, profile)
    return None if length is None else chain.slot_start_s(duty.slot) + length * chain.slot_duration_s / 12


def slots_until_deadline(kind: DutyType, chain: "Chain", profile: Profile) -> int:
    """How many slots after its own the duty may still be going on, rounded up; without end for what never expires."""
    length = _length(kind, chain, profile)
    return 2**64 if length is None else math.ceil(length / 12)


def is_over(duty: Duty, chain: "Chain", profile: Profile, now_s: float) -> bool:
    """Whether its deadline has passed. now_s: Unix seconds."""
    deadline = deadline_s(duty, chain, profile)
    return deadline is not None and deadline <= now_s


def not_performed(duty: Duty, kinds: Set[DutyType] = PERFORMED) -> str | None:
    """Why nothing about a duty of that type is taken in, ever; None for one of those kinds."""
    return None if duty.type in kinds else f"{duty}: this node does not perform {duty.type.label} duties"


def refusal(duty: Duty, chain: "Chain", profile: Profile, now_s: float, kinds: Set[DutyType] = PERFORMED) -> str | None:
    """Why nothing about that duty is taken in now; None if it is. now_s: Unix seconds. kinds: those that the asker works on."""
    if reason := not_performed(duty, kinds):
        return reason
    slot_now = max(chain.slot_at(now_s), 0)
    if chain.epoch_of(duty.slot) > chain.epoch_of(slot_now) + EPOCHS_AHEAD:
        return f"{duty} is too far in the future, more than {EPOCHS_AHEAD} epochs ahead"
    if is_over(duty, chain, profile, now_s):
        return f"the deadline of {duty} has passed"
    return None
