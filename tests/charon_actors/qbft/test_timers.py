"""Round timers against the tables of both Charon releases. Source: specification 06 §6."""

import json
from pathlib import Path
from typing import Any

import pytest

from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType, start_s
from charon_actors.profile import Profile
from charon_actors.qbft.timers import round_timer

TABLES = json.loads((Path(__file__).parents[2] / "vectors" / "core" / "timers_deadlines_leaders.json").read_text())
SLOT_START = 1_700_000_000.0


def duty_start(duty_type: DutyType) -> float:
    chain = Chain(SLOT_START, bytes(32), TABLES["round_timers"]["slot_duration"] / 1000, 32, (), {}, bytes(4))
    return start_s(Duty(0, duty_type), chain)


def eager_rows() -> list[Any]:
    base = TABLES["round_timers"]["eager_dlinear"]
    older = TABLES["v1_10_3"]["eager_dlinear"]
    differing = {(row["duty"], row["round"]) for row in older}
    without = TABLES["proposal_timeout_disabled"]["eager_dlinear"]
    return [
        *((Profile.V1_11, True, row) for row in base),
        *((Profile.V1_10, True, row) for row in base if (row["duty"], row["round"]) not in differing),
        *((Profile.V1_10, True, row) for row in older),
        *((profile, False, row) for profile in Profile for row in without),
    ]


@pytest.mark.parametrize(("profile", "proposal_timeout", "row"), eager_rows())
def test_eager_double_linear(profile: Profile, proposal_timeout: bool, row: dict[str, Any]) -> None:
    duty_type = DutyType[row["duty"].upper()]
    timer = round_timer(duty_type, duty_start(duty_type), profile, proposal_timeout=proposal_timeout)
    assert timer.label == "eager_dlinear"
    first = timer.start(row["round"], SLOT_START)
    assert round((first - SLOT_START) * 1000, 3) == row["first_deadline"]
    for later in (1.0, 2.0, 100.0):  # however late, however often
        assert round((timer.start(row["round"], SLOT_START + later) - SLOT_START) * 1000, 3) == row["after_justified_pre_prepare"]


@pytest.mark.parametrize(
    ("proposal_timeout", "row"),
    [
        *((True, row) for row in TABLES["round_timers"]["inc"]),
        *((False, row) for row in TABLES["proposal_timeout_disabled"]["inc"]),
    ],
)
@pytest.mark.parametrize("profile", Profile)
def test_increasing(profile: Profile, proposal_timeout: bool, row: dict[str, Any]) -> None:
    duty_type = DutyType[row["duty"].upper()]
    timer = round_timer(duty_type, duty_start(duty_type), profile, eager_double_linear=False, proposal_timeout=proposal_timeout)
    assert timer.label == "inc"
    for now in (5.0, 7.5, 8.0):  # restarts count from now
        assert round((timer.start(row["round"], now) - now) * 1000, 6) == row["timeout"]


@pytest.mark.parametrize("row", TABLES["round_timers"]["linear"])
def test_linear(row: dict[str, Any]) -> None:
    duty_type = DutyType[row["duty"].upper()]
    timer = round_timer(duty_type, 0.0, Profile.V1_11, linear=True)
    if duty_type is DutyType.PROPOSER:
        assert timer.label == "linear"
        assert round((timer.start(row["round"], 5.0) - 5.0) * 1000, 6) == row["timeout"]


@pytest.mark.parametrize("row", TABLES["v1_10_3"]["linear_nanoseconds"])
def test_linear_of_v1_10_lasts_nanoseconds(row: dict[str, Any]) -> None:
    timer = round_timer(DutyType.PROPOSER, 0.0, Profile.V1_10, linear=True)
    assert round(timer.start(row["round"], 0.0) * 1e9, 3) == row["timeout_ns"]


def test_linear_concerns_proposers_only() -> None:
    assert round_timer(DutyType.ATTESTER, 0.0, Profile.V1_11, linear=True).label == "eager_dlinear"
    assert round_timer(DutyType.ATTESTER, 0.0, Profile.V1_11, linear=True, eager_double_linear=False).label == "inc"


def test_a_round_that_is_entered_by_its_pre_prepare_keeps_the_first_deadline() -> None:
    timer = round_timer(DutyType.ATTESTER, 100.0, Profile.V1_11)
    assert timer.start(1, 100.0) == 101.0
    assert timer.start(3, 100.5) == 103.0  # jumped ahead, started once only
    assert timer.start(3, 100.6) == 106.0
    assert timer.start(4, 106.0) == 104.0  # past already: fires at once
