"""The machine against Charon's outcomes: decide scenarios and random event sequences. Source: specification 06 §3, §15."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from charon_actors.qbft.machine import (
    Broadcast,
    Decide,
    Effect,
    Message,
    MessageType,
    faulty,
    leader,
    quorum,
)
from tests.charon_actors.qbft.charon_v1_10 import machine_class

VECTORS = Path(__file__).parents[2] / "vectors" / "core"
DECIDE = json.loads((VECTORS / "qbft_decide_scenarios.json").read_text())["scenarios"]
RANDOM = json.loads((VECTORS / "qbft_random_scenarios.json").read_text())["scenarios"]
TABLES = json.loads((VECTORS / "timers_deadlines_leaders.json").read_text())


class OneSecond:
    label = "const"

    def start(self, round_: int, now: float) -> float:
        return now + 1.0


def rotation(instance: int, nodes: int, round_: int) -> int:
    return (instance + round_) % nodes


def value(number: int) -> bytes:
    return number.to_bytes(32, "big")


def named_message(of: dict[str, Any]) -> Message:
    justification = tuple(named_message(entry) for entry in of.get("justification", []))
    return Message(MessageType[of["type"]], of["source"], of["round"], value(of["value"]), justification=justification)


def listed_message(of: list[Any]) -> Message:
    kind, source, round_, chosen, prepared_round, prepared_value, *rest = of
    justification = tuple(listed_message(entry) for entry in (rest[0] if rest else []))
    return Message(MessageType(kind), source, round_, value(chosen), prepared_round, value(prepared_value), justification)


@pytest.mark.parametrize("hardened", [True, False])
@pytest.mark.parametrize("scenario", DECIDE, ids=lambda s: s["name"])
def test_decides_what_charon_decides(scenario: dict[str, Any], hardened: bool) -> None:
    machine = machine_class(hardened)(nodes=4, own_index=0, leader_of=partial(rotation, 0, 4), timer=OneSecond())
    machine.start(0.0)
    decisions = [
        effect
        for of in scenario["messages"]
        for _ in range(of.get("repeat", 1))
        for effect in machine.receive(named_message(of), 0.0)
        if isinstance(effect, Decide)
    ]
    expected = scenario["decided"]
    if expected is None:
        assert decisions == []
    else:
        assert [(d.value, d.round, len(d.commits)) for d in decisions] == [
            (value(expected["value"]), expected["round"], expected["qcommit_len"])
        ]


def outcome(scenario: dict[str, Any], hardened: bool) -> list[list[Any]]:
    nodes = scenario["nodes"]
    machine = machine_class(hardened)(
        nodes=nodes,
        own_index=scenario["process"],
        leader_of=partial(rotation, scenario["instance"], nodes),
        timer=OneSecond(),
    )
    effects: list[Effect] = machine.start(0.0)
    for event in scenario["events"]:
        match event[0]:
            case "msg":
                effects += machine.receive(listed_message(event[1]), 0.0)
            case "input":
                effects += machine.input(value(event[1]))
            case "timeout":
                effects += machine.tick(machine.wake_at) if machine.wake_at is not None else []
            case unknown:
                raise AssertionError(unknown)
    return [line for effect in effects if (line := as_listed(effect))]


def as_listed(effect: Effect) -> list[Any]:
    match effect:
        case Broadcast(kind, round_, chosen, prepared_round, prepared_value, justification):
            number, prepared = int.from_bytes(chosen, "big"), int.from_bytes(prepared_value, "big")
            return [int(kind), round_, number, prepared_round, prepared, len(justification)]
        case Decide(chosen, _, commits):
            return ["decide", int.from_bytes(chosen, "big"), len(commits)]
        case _:
            return []


@pytest.mark.parametrize("number", range(len(RANDOM)))
def test_random_sequences_give_the_effects_of_v1_11(number: int) -> None:
    scenario = RANDOM[number]
    assert outcome(scenario, hardened=True) == scenario.get("expect_v1_11", scenario["expect_v1_10_3"])


@pytest.mark.parametrize("number", range(len(RANDOM)))
def test_random_sequences_give_the_effects_of_v1_10(number: int) -> None:
    scenario = RANDOM[number]
    assert outcome(scenario, hardened=False) == scenario["expect_v1_10_3"]


def test_the_two_rule_sets_are_told_apart_by_the_vectors() -> None:
    assert sum("expect_v1_11" in scenario for scenario in RANDOM) > 10


@pytest.mark.parametrize("row", TABLES["quorum"], ids=lambda row: str(row["nodes"]))
def test_quorum_and_faulty(row: dict[str, int]) -> None:
    assert (quorum(row["nodes"]), faulty(row["nodes"])) == (row["quorum"], row["faulty"])


@pytest.mark.parametrize("row", TABLES["leaders"], ids=str)
def test_leader(row: dict[str, int]) -> None:
    assert leader(row["slot"], row["type"], row["round"], row["nodes"]) == row["leader"]


def test_nobody_leads_where_the_signed_sum_overflows() -> None:
    assert leader(2**63 - 1, 2, 1, 4) == -2  # Go: (2^63-1 + 3) wraps to -2^63+2; % 4 = -2
