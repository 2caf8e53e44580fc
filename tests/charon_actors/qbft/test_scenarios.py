"""Scenarios that an implementation must pass, over a simulated cluster with seeds. Source: specification 06 §13.

Processes 1 to 4 of the specification are the nodes 0 to 3 here; the leader is process (instance + round) mod 4, so node 3 never
leads and every fourth round has no leader.
"""

from collections.abc import Callable
from typing import Any

import pytest

from charon_actors.qbft.machine import (
    ZERO_VALUE,
    Broadcast,
    Compare,
    Decide,
    Effect,
    Instance,
    Message,
    MessageType,
)
from charon_actors.qbft.timers import RoundTimer
from tests.charon_actors.qbft.charon_v1_10 import machine_class
from tests.charon_actors.qbft.simulation import Constant, Exponential, Network, Plan, value

PRE_PREPARE, PREPARE, COMMIT, ROUND_CHANGE, DECIDED = MessageType
Timer = Callable[[], RoundTimer]


def leader_of(instance: int) -> Callable[[int], int]:
    return lambda round_: (instance + round_) % 4 - 1


def commits_until(last_round: int) -> Any:
    return lambda message, source, target, now: message.type is COMMIT and message.round <= last_round


def offline(node: int, until: float) -> Any:
    return lambda message, source, target, now: node in (source, target) and now < until


ANY = 0
STAGGERED = {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}
EARLY = {0: 0, 1: 5.0, 2: 10.0}
CASES: list[tuple[str, int, Timer, Plan, int]] = [
    ("happy 0", 0, Constant, Plan(), 1),
    ("happy 1", 1, Exponential, Plan(), 1),
    ("no commits in round 1", 0, Constant, Plan(dropped=commits_until(1)), 2),
    ("no commits in round 1, exp", 0, Exponential, Plan(dropped=commits_until(1)), 2),
    ("no commits in rounds 1, 2; leader 1 late", 0, Constant, Plan(input_at={0: 2.0}, dropped=commits_until(2)), 3),
    ("leader 2 s late, exp", 0, Exponential, Plan(start_at={0: 2.0}), 2),
    ("leader 2 s late, const", 0, Constant, Plan(start_at={0: 2.0}), 2),
    ("very late starts, exp", 3, Exponential, Plan(start_at={0: 5.0, 1: 10.0}), 4),
    ("very late starts, const", 1, Constant, Plan(start_at={0: 5.0, 1: 10.0}), ANY),
    ("staggered starts, exp", 0, Exponential, Plan(start_at=STAGGERED), ANY),
    ("staggered starts, const", 0, Constant, Plan(start_at=STAGGERED), ANY),
    ("staggered inputs, exp", 0, Exponential, Plan(input_at=STAGGERED), ANY),
    ("staggered inputs, const", 0, Constant, Plan(input_at=STAGGERED), ANY),
    ("very late inputs, exp", 3, Exponential, Plan(input_at={0: 5.0, 1: 10.0}), 4),
    ("very late inputs, const", 1, Constant, Plan(input_at={0: 5.0, 1: 10.0}), ANY),
    ("round 1 leader without value, round 2 leader offline", 0, Constant, Plan(input_at={0: 1.0}, start_at={1: 2.0}), 3),
    ("jitter 500 to 1000 ms", 0, Exponential, Plan(delay=(0.5, 1.0)), ANY),
    ("jitter 200 to 400 ms", 0, Constant, Plan(delay=(0.2, 0.4)), ANY),
    ("10 % loss", 1, Constant, Plan(loss=0.1), ANY),
    ("30 % loss", 1, Constant, Plan(loss=0.3), ANY),
    ("fuzz", 1, Constant, Plan(liars=frozenset({0}), is_fuzz=True), 1),
    ("fuzz, leader 2 s late", 1, Constant, Plan(liars=frozenset({0}), is_fuzz=True, start_at={1: 2.0}), ANY),
    ("fuzz, leaders 10 s late", 1, Exponential, Plan(liars=frozenset({0}), is_fuzz=True, start_at={1: 10.0, 2: 10.0}), ANY),
    ("split: all equal", 0, Constant, Plan(views={0: 1, 1: 1, 2: 1, 3: 1}), 1),
    ("split: one that doesn't lead differs", 0, Constant, Plan(views={0: 1, 1: 1, 2: 1, 3: 2}), 1),
    ("split: the leader of round 1 differs", 0, Constant, Plan(views={0: 2, 1: 1, 2: 1, 3: 1}), 2),
]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("name", "instance", "timer", "plan", "round_"), CASES, ids=[case[0] for case in CASES])
def test_every_node_decides_the_same_in_the_round_expected(
    name: str, instance: int, timer: Timer, plan: Plan, round_: int, seed: int
) -> None:
    network = Network(4, leader_of(instance), timer, plan, seed)
    network.run(until=300.0)
    assert len(network.decisions) == 4, network.log[-20:]
    assert len({decide.value for decide in network.decisions.values()}) == 1
    if round_ != ANY:
        assert {decide.round for decide in network.decisions.values()} == {round_}
    if name.startswith("happy"):
        assert network.decisions[0].value == network.own_value(instance)
    if name.startswith("no commits"):
        first_prepared = next(entry for entry in network.log if " COMMIT" in f" {entry[2]}")
        assert network.decisions[0].value == value(int(first_prepared[2].split()[2]))
    if name == "split: the leader of round 1 differs":
        assert network.decisions[0].value == network.own_value(1)


@pytest.mark.parametrize("seed", range(3))
def test_a_chain_split_in_halves_never_decides(seed: int) -> None:
    network = Network(4, leader_of(0), Constant, Plan(views={0: 1, 1: 1, 2: 2, 3: 2}), seed)
    network.run(until=60.0)
    assert network.decisions == {}


def test_one_seed_is_one_run() -> None:
    logs = []
    for _ in range(2):
        network = Network(4, leader_of(1), Constant, Plan(loss=0.3, liars=frozenset({0})), seed=7)
        network.run(until=60.0)
        logs.append(network.log)
    assert logs[0] == logs[1]
    assert len(logs[0]) > 10


# single instances


def machine(own_index: int = 0, leader: int = 1, *, nodes: int = 4, compare: bool = False, hardened: bool = True) -> Instance:
    """`leader` leads every round."""
    instance = machine_class(hardened)(
        nodes=nodes,
        own_index=own_index,
        leader_of=lambda _: leader,
        timer=Constant(),
        compare=compare,
    )
    instance.start(0.0)
    return instance


def fed(instance: Instance, *messages: Message) -> list[Effect]:
    return [
        effect
        for message in messages
        for effect in instance.receive(message, 0.0)
        if isinstance(effect, Broadcast | Decide | Compare)
    ]


def unprepared(source: int, round_: int) -> Message:
    return Message(ROUND_CHANGE, source, round_)


def justified_pre_prepare(round_: int, number: int, source: int = 1) -> Message:
    proof = tuple(unprepared(peer, round_) for peer in range(3))
    return Message(PRE_PREPARE, source, round_, value(number), justification=proof)


def test_pre_prepares_of_two_rounds_both_fire() -> None:
    effects = fed(machine(), justified_pre_prepare(2, 1), justified_pre_prepare(5, 2))
    assert effects == [Broadcast(PREPARE, 2, value(1)), Broadcast(PREPARE, 5, value(2))]


@pytest.mark.parametrize("round_", [1, 3])
def test_a_leader_that_proposes_twice_gets_one_prepare(round_: int) -> None:
    effects = fed(machine(), justified_pre_prepare(round_, 1), justified_pre_prepare(round_, 2))
    assert effects == [Broadcast(PREPARE, round_, value(1))]


def test_v1_10_prepares_twice_after_a_jump() -> None:
    effects = fed(machine(hardened=False), justified_pre_prepare(3, 1), justified_pre_prepare(3, 2))
    assert effects == [Broadcast(PREPARE, 3, value(1)), Broadcast(PREPARE, 3, value(2))]


def test_a_zero_value_is_not_prepared() -> None:
    assert fed(machine(), Message(PRE_PREPARE, 1, 1, ZERO_VALUE)) == []


def test_our_own_minority_commit_loses_to_the_quorum() -> None:
    instance = machine()
    votes = [Message(COMMIT, 0, 1, value(1)), *(Message(COMMIT, peer, 1, value(2)) for peer in (1, 2, 3))]
    (decided,) = fed(instance, *votes)
    assert isinstance(decided, Decide)
    assert decided.value == value(2)


def decided_machine() -> Instance:
    instance = machine()
    fed(instance, *(Message(COMMIT, peer, 1, value(5)) for peer in (1, 2, 3)))
    assert instance.decided is not None
    return instance


def test_after_the_decision_each_later_round_change_is_answered_once() -> None:
    rounds = [(2, 2), (2, 2), (2, 2), (3, 2), (3, 2), (2, 1), (2, 3)]
    effects = fed(decided_machine(), *(unprepared(source, round_) for source, round_ in rounds))
    assert [(effect.type, effect.value) for effect in effects if isinstance(effect, Broadcast)] == [(DECIDED, value(5))] * 3


def test_a_peer_gets_at_most_16_answers_and_we_none() -> None:
    instance = decided_machine()
    assert len(fed(instance, *(unprepared(2, round_) for round_ in range(2, 60)))) == 16
    assert len(fed(instance, *(unprepared(3, round_) for round_ in range(2, 4)))) == 2
    assert fed(instance, *(unprepared(0, round_) for round_ in range(2, 60))) == []
    assert instance.tick(1e9) == []


def test_j2_admits_round_changes_with_the_same_round_but_another_value() -> None:
    """Six nodes, quorum 4: two had (1, 7) prepared, one says (1, 8), one nothing; the PREPAREs prove (1, 7)."""
    prepares = tuple(Message(PREPARE, peer, 1, value(7)) for peer in range(4))
    changes = (
        Message(ROUND_CHANGE, 0, 2, ZERO_VALUE, 1, value(8)),
        Message(ROUND_CHANGE, 1, 2, ZERO_VALUE, 1, value(7)),
        Message(ROUND_CHANGE, 2, 2, ZERO_VALUE, 1, value(7)),
        unprepared(3, 2),
    )

    def proposal(number: int, *proof: Message) -> Message:
        return Message(PRE_PREPARE, 1, 2, value(number), justification=proof)

    assert fed(machine(nodes=6), proposal(7, *changes, *prepares)) == [Broadcast(PREPARE, 2, value(7))]
    assert fed(machine(nodes=6), proposal(8, *changes, *prepares)) == []
    later = Message(ROUND_CHANGE, 3, 2, ZERO_VALUE, 2, value(8))
    assert fed(machine(nodes=6), proposal(7, *changes[:3], later, *prepares)) == []
    assert fed(machine(nodes=6), proposal(7, changes[0], changes[3], unprepared(4, 2), unprepared(5, 2), *prepares)) == []
    assert fed(machine(nodes=6), proposal(7, *changes, *prepares, prepares[0])) == []
    assert fed(machine(nodes=6), proposal(7, *changes, *prepares[:3])) == []
    assert fed(machine(nodes=6), proposal(7, *changes[:3], *prepares)) == []


def test_only_the_newest_hundred_messages_of_a_source_count() -> None:
    instance = machine()
    fed(instance, Message(COMMIT, 2, 1, value(1)), Message(COMMIT, 3, 1, value(1)))
    fed(instance, *(Message(COMMIT, 2, 1, value(100 + number)) for number in range(100)))
    assert fed(instance, Message(COMMIT, 0, 1, value(1))) == []  # 2's vote has been pushed out by its own spam
    assert len(fed(instance, Message(COMMIT, 2, 1, value(1)))) == 1


def test_a_message_that_others_pass_on_again_and_again_pushes_out_none_of_its_source() -> None:
    def signed(kind: MessageType, source: int, justification: tuple[Message, ...] = ()) -> Message:
        return Message(kind, source, 1, value(1), justification=justification, signed=bytes([kind, source]))

    instance = machine()
    fed(instance, signed(COMMIT, 2), signed(COMMIT, 3), signed(PREPARE, 2))
    fed(instance, *(signed(PREPARE, 2, justification=(signed(PREPARE, 3),) * (number % 3)) for number in range(100)))
    effects = fed(instance, signed(COMMIT, 0))
    assert [effect.value for effect in effects if isinstance(effect, Decide)] == [value(1)]


def test_a_jump_goes_to_the_lowest_of_each_sources_highest_round() -> None:
    effects = fed(machine(), unprepared(1, 2), unprepared(1, 3), unprepared(2, 5))
    assert effects == [Broadcast(ROUND_CHANGE, 3)]


def prepares_of(round_: int, number: int) -> tuple[Message, ...]:
    return tuple(Message(PREPARE, peer, round_, value(number)) for peer in (1, 2, 3))


def prepared(source: int, in_round: int, number: int, round_: int = 3) -> Message:
    return Message(ROUND_CHANGE, source, round_, ZERO_VALUE, in_round, value(number), prepares_of(in_round, number))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # the higher lock wins
        ([prepared(1, 1, 7), unprepared(2, 3), prepared(3, 2, 8)], (8, [1, 2, 3])),
        # PREPAREs of round 2 seen, but nobody who claims them: no proposal may rest on them
        ([unprepared(0, 3), prepared(1, 1, 7), unprepared(2, 3)], (7, [0, 1, 2])),
    ],
)
def test_a_leader_proposes_the_highest_lock_with_a_proof_that_others_accept(
    changes: list[Message], expected: tuple[int, list[int]]
) -> None:
    instance = machine(own_index=0, leader=0)
    instance.input(value(9))
    for _ in range(2):
        assert instance.wake_at is not None
        instance.tick(instance.wake_at)
    fed(instance, *prepares_of(2, 8))
    proposals = [e for e in fed(instance, *changes) if isinstance(e, Broadcast) and e.type is PRE_PREPARE]
    assert [(e.round, e.value) for e in proposals] == [(3, value(expected[0]))]
    proof = proposals[0].justification
    assert [m.source for m in proof if m.type is ROUND_CHANGE][:3] == expected[1]
    message = Message(PRE_PREPARE, 0, 3, proposals[0].value, justification=proof)
    assert fed(machine(own_index=1, leader=0), message) == [Broadcast(PREPARE, 3, proposals[0].value)]


def new_leader_of_round_3() -> Instance:
    """Node 0, in round 3, which it leads; node 3 led round 2 and lies."""
    instance = Instance(nodes=4, own_index=0, leader_of=lambda round_: 3 if round_ == 2 else 0, timer=Constant(), compare=False)
    instance.start(0.0)
    instance.input(value(9))
    for _ in range(2):
        assert instance.wake_at is not None
        instance.tick(instance.wake_at)
    assert instance.round == 3
    return instance


def smuggled(in_round: int, number: int) -> Message:
    """The liar's proposal of round 2, as justified as it must be, with an unproven ROUND_CHANGE of round 3 beside the proof."""
    lie = Message(ROUND_CHANGE, 3, 3, ZERO_VALUE, in_round, value(number))
    return Message(PRE_PREPARE, 3, 2, value(5), justification=(*(unprepared(peer, 2) for peer in range(3)), lie))


def proposals_of(effects: list[Effect]) -> list[Broadcast]:
    return [effect for effect in effects if isinstance(effect, Broadcast) and effect.type is PRE_PREPARE]


def test_a_re_proposal_rests_on_a_quorum_of_round_changes_that_its_proof_covers() -> None:
    """The liar's counts as a source, but claims a round that no proof reaches: with two others it is no quorum."""
    instance = new_leader_of_round_3()
    assert proposals_of(fed(instance, smuggled(100, 8), prepared(1, 1, 7), unprepared(2, 3))) == []
    (proposal,) = proposals_of(fed(instance, unprepared(0, 3)))
    assert proposal.value == value(7)
    message = Message(PRE_PREPARE, 0, 3, proposal.value, justification=proposal.justification)
    assert fed(machine(own_index=1, leader=0), message) == [Broadcast(PREPARE, 3, value(7))]


def test_a_re_proposal_rests_on_a_quorum_of_prepares() -> None:
    """Two PREPAREs of a later round and a liar who claims it: the older lock, which is proven, is proposed."""
    instance = new_leader_of_round_3()
    fed(instance, *prepares_of(2, 8)[:2])
    effects = fed(instance, smuggled(2, 8), prepared(1, 1, 7), unprepared(2, 3), unprepared(0, 3))
    assert [proposal.value for proposal in proposals_of(effects)] == [value(7)]


def test_a_comparison_of_another_round_is_void() -> None:
    instance = machine(compare=True)
    fed(instance, justified_pre_prepare(1, 1))
    assert instance.compared(2, is_equal=True) == []
    assert instance.compared(1, is_equal=True) == [Broadcast(PREPARE, 1, value(1))]


def test_the_timer_goes_on_round_after_round() -> None:
    instance = machine()
    for expected in range(2, 6):
        assert instance.wake_at is not None
        assert instance.tick(instance.wake_at - 0.001) == []
        assert Broadcast(ROUND_CHANGE, expected) in instance.tick(instance.wake_at)


def test_compare_failure_and_lateness_never_block_a_decision() -> None:
    for answer in (False, None):
        instance = machine(compare=True)
        assert fed(instance, justified_pre_prepare(1, 1)) == [Compare(1, value(1))]
        if answer is not None:
            assert instance.compared(1, is_equal=answer) == []
        (decided,) = fed(instance, *(Message(COMMIT, peer, 1, value(1)) for peer in (1, 2, 3)))
        assert isinstance(decided, Decide)
        assert instance.compared(1, is_equal=True) == []


def test_a_comparison_that_comes_after_its_round_is_void() -> None:
    instance = machine(compare=True)
    fed(instance, justified_pre_prepare(1, 1))
    assert instance.wake_at is not None
    instance.tick(instance.wake_at)
    assert instance.compared(1, is_equal=True) == []


def test_after_a_failed_comparison_the_next_leader_needs_no_justification() -> None:
    instance = machine(compare=True)
    fed(instance, justified_pre_prepare(1, 1))
    bare = Message(PRE_PREPARE, 1, 2, value(2))
    assert fed(instance, bare) == []
    instance.compared(1, is_equal=False)
    assert fed(instance, bare) == [Compare(2, value(2))]


def test_a_leader_does_not_propose_again_what_failed_its_comparison() -> None:
    instance = machine(own_index=0, leader=0, compare=True)
    instance.input(value(9))
    fed(instance, Message(PRE_PREPARE, 0, 1, value(1)))
    instance.compared(1, is_equal=False)
    fed(instance, *(Message(PREPARE, peer, 1, value(1)) for peer in (1, 2, 3)))
    assert instance.wake_at is not None
    instance.tick(instance.wake_at)
    proof = tuple(Message(PREPARE, peer, 1, value(1)) for peer in (1, 2, 3))
    effects = fed(instance, *(Message(ROUND_CHANGE, peer, 2, ZERO_VALUE, 1, value(1), proof) for peer in (1, 2, 3)))
    assert [(e.type, e.value) for e in effects if isinstance(e, Broadcast)] == [(PRE_PREPARE, value(9))]


def test_the_highest_round_of_int64_does_not_overflow() -> None:
    last = 2**63 - 1
    instance = machine(nodes=3)  # F = 0: one peer makes us jump
    effects = fed(instance, unprepared(2, last))
    assert [(e.type, e.round) for e in effects if isinstance(e, Broadcast)] == [(ROUND_CHANGE, last)]
    assert instance.wake_at is not None
    assert instance.tick(instance.wake_at) == []
    assert instance.wake_at is None


def test_sources_that_do_not_exist_are_ignored() -> None:
    instance = machine()
    assert fed(instance, Message(COMMIT, -1, 1, value(1)), Message(COMMIT, 4, 1, value(1))) == []


def test_input_counts_once_and_must_be_a_value() -> None:
    instance = machine(own_index=1, leader=1)
    assert instance.input(value(1)) == [Broadcast(PRE_PREPARE, 1, value(1))]
    assert instance.input(value(2)) == []
    for wrong in (ZERO_VALUE, b"", bytes(31) + b"\1\1"):
        with pytest.raises(ValueError):
            machine().input(wrong)
