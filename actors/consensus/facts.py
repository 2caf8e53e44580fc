"""What the consensus actor says about its work. timer: label of the round timer."""

from typing import Literal

from actors.facts import Fact
from charon_actors.eth2.duty import DutyType


class ConsensusDecided(Fact, frozen=True):
    """An instance that we took part in has a decision. duration_s: from our own proposal, or the duty's start, to the decision."""

    kind: DutyType
    timer: str
    round: int
    leader_index: int
    duration_s: float


class ConsensusTimedOut(Fact, frozen=True):
    """An instance that we took part in has reached the duty's deadline without a decision."""

    kind: DutyType
    timer: str


class ConsensusFailed(Fact, frozen=True):
    """A message was refused, could not be sent or written ahead, or an instance crashed."""


class InsufficientRoundChanges(Fact, frozen=True):
    """An instance had a round that ended without a quorum of ROUND_CHANGEs."""

    kind: DutyType
    timer: str
    outcome: Literal["decided", "timeout"]
