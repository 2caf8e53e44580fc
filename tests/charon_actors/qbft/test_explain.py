"""Why a round ended, in the words and the order of specification 06 §12."""

import pytest

from charon_actors.qbft.explain import RoundReport, remedy
from charon_actors.qbft.machine import Instance, Message, MessageType, RoundChanged
from tests.charon_actors.qbft.simulation import Constant, value

NAMES = ("swift-owl", "red-fox", "tiny-elk", "calm-bee")
SOME, ALL = frozenset({0, 2}), frozenset({0, 1, 2, 3})


@pytest.mark.parametrize(
    ("round_", "pre_prepares", "prepares", "commits", "round_changes", "reason"),
    [
        (2, {1}, ALL, ALL, SOME, "insufficient round-changes, missing peers=[red-fox calm-bee]"),
        (1, set(), ALL, ALL, set(), "no pre-prepare, missing leader=[red-fox]"),
        (2, set(), ALL, ALL, ALL, "no pre-prepare, missing leader=[red-fox]"),
        (1, {1}, SOME, ALL, set(), "insufficient prepares, missing peers=[red-fox calm-bee]"),
        (1, {1}, ALL, SOME, set(), "insufficient commits, missing peers=[red-fox calm-bee]"),
        (1, {1}, ALL, ALL, set(), "unknown reason"),
    ],
)
def test_the_first_thing_that_is_missing_is_the_reason(
    round_: int,
    pre_prepares: set[int],
    prepares: frozenset[int],
    commits: frozenset[int],
    round_changes: frozenset[int],
    reason: str,
) -> None:
    report = RoundReport(4, 3, round_, 1, frozenset(pre_prepares), prepares, commits, frozenset(round_changes))
    assert report.reason(NAMES) == reason
    assert bool(remedy(reason)) == (reason != "unknown reason")


def test_fields_show_who_was_seen_who_was_missing_and_who_does_not_apply() -> None:
    machine = Instance(nodes=4, own_index=0, leader_of=lambda _: 1, timer=Constant())
    machine.start(0.0)
    for message in (
        Message(MessageType.PRE_PREPARE, 1, 1, value(1)),
        Message(MessageType.PREPARE, 0, 1, value(1)),
        Message(MessageType.PREPARE, 3, 1, value(1)),
        Message(MessageType.COMMIT, 2, 2, value(1)),  # of another round
    ):
        machine.receive(message, 0.0)
    assert machine.wake_at is not None
    changed = machine.tick(machine.wake_at)[0]
    assert isinstance(changed, RoundChanged)
    assert (changed.report.round, changed.new_round, changed.by) == (1, 2, "timeout")
    assert changed.report.fields() == {"pre_prepare": "_*__", "prepare": "*??*", "commit": "????", "round_change": "____"}
    assert changed.report.reason() == "insufficient prepares, missing peers=[1 2]"
    machine.receive(Message(MessageType.ROUND_CHANGE, 0, 2), 0.0)
    changed = machine.tick(machine.wake_at)[0]
    assert isinstance(changed, RoundChanged)
    assert changed.report.fields()["round_change"] == "*???"
    assert changed.report.fields()["commit"] == "??*?"
