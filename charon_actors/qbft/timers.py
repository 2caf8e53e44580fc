"""Round timers: when a round of QBFT ends for lack of progress.

Theory of operation. A timer is started on entering a round, and again when a justified PRE_PREPARE arrives in it. All nodes of a
cluster must use the same one, for they agree on rounds only through it.

    label           length of round r                            counted from                     second start in the same round
    eager_dlinear   r · 1 s; proposer + 0.5 s                    the duty's start, not from now   first deadline + length, once
    inc             750 + 250·r ms; proposer's first 1500 ms     now                              again from now
    linear          1 s (proposer 1.5 s), then 200·r ms          now                              again from now

`eager_dlinear` is the default. A node that enters a round by its PRE_PREPARE starts the timer only once there and so keeps the
first deadline; a deadline that is past already fires at once, so that a late node runs through the rounds it has missed.
v1.10 differs: the proposer's extra 0.5 s only in round 1 (`eager_dlinear`), and `linear` rounds of 200·r nanoseconds by mistake.

Limits: one timer remembers one round, whatever rounds it is asked for. All instants are seconds of the caller's clock (Unix).
Source: specification 06 §6. Vector: core/timers_deadlines_leaders.json.
"""

from typing import Final, Protocol

from charon_actors.eth2.duty import DutyType
from charon_actors.profile import Profile

PROPOSAL_EXTRA_S: Final = 0.5  # `proposal_timeout`, on by default: a builder's block takes longer to fetch


class RoundTimer(Protocol):
    """What the machine needs of a timer."""

    @property
    def label(self) -> str:
        """The label `timer` of the metrics (10 §3)."""

    def start(self, round_: int, now: float) -> float:
        """Start or restart the timer in `round_` (from 1, never going back); returns the instant at which it fires."""


class EagerDoubleLinear:
    """Deadlines anchored at the duty's start; the first restart in a round doubles it, further ones change nothing."""

    label = "eager_dlinear"

    def __init__(self, duty_type: DutyType, duty_start_s: float, profile: Profile, *, proposal_timeout: bool = True) -> None:
        self._duty_start_s = duty_start_s
        self._has_extra = duty_type is DutyType.PROPOSER and proposal_timeout
        self._extra_in_first_round_only = profile is Profile.V1_10
        self._round = 0

    def start(self, round_: int, now: float) -> float:
        length = float(round_)
        if self._has_extra and (round_ == 1 or not self._extra_in_first_round_only):
            length += PROPOSAL_EXTRA_S
        is_restart, self._round = round_ == self._round, round_
        return self._duty_start_s + (2 * length if is_restart else length)


class Increasing:
    """750 + 250·r ms from now."""

    label = "inc"

    def __init__(self, duty_type: DutyType, *, proposal_timeout: bool = True) -> None:
        self._is_long = duty_type is DutyType.PROPOSER and proposal_timeout

    def start(self, round_: int, now: float) -> float:
        extra = PROPOSAL_EXTRA_S if self._is_long and round_ == 1 else 0.0
        return now + 0.75 + 0.25 * round_ + extra


class Linear:
    """A long first round, then 200·r ms from now."""

    label = "linear"

    def __init__(self, duty_type: DutyType, profile: Profile, *, proposal_timeout: bool = True) -> None:
        self._is_long = duty_type is DutyType.PROPOSER and proposal_timeout
        self._step_s = 200e-9 if profile is Profile.V1_10 else 0.2

    def start(self, round_: int, now: float) -> float:
        if round_ == 1:
            return now + (1.0 + PROPOSAL_EXTRA_S if self._is_long else 1.0)
        return now + self._step_s * round_


def round_timer(
    duty_type: DutyType,
    duty_start_s: float,
    profile: Profile,
    *,
    linear: bool = False,
    eager_double_linear: bool = True,
    proposal_timeout: bool = True,
) -> RoundTimer:
    """The timer that the feature flags choose for one instance; `linear` concerns proposers only.

    duty_start_s: slot start plus the duty's offset, on the clock whose `now` the machine is given.
    """
    if linear and duty_type is DutyType.PROPOSER:
        return Linear(duty_type, profile, proposal_timeout=proposal_timeout)
    if eager_double_linear:
        return EagerDoubleLinear(duty_type, duty_start_s, profile, proposal_timeout=proposal_timeout)
    return Increasing(duty_type, proposal_timeout=proposal_timeout)
