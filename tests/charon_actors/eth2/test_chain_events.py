"""Which events of several beacon nodes count: a rate for each, and witnesses."""

from hypothesis import given
from hypothesis import strategies as st

from charon_actors.eth2.beacon_api import BlockEvent, ChainEvent, HeadEvent, ReorgEvent
from charon_actors.eth2.chain_events import KEPT_CLAIMS, RATES, EventIntake, Witnesses

HEAD = HeadEvent(9, b"\1" * 32, b"\2" * 32, b"\3" * 32)
REORG = ReorgEvent(100, 2)


def test_a_flood_of_one_topic_leaves_room_for_the_others_and_ends() -> None:
    intake = EventIntake()
    assert sum(intake.admits("chain_reorg", second / 1000) for second in range(75_000)) == 8 + 18  # 75 s
    assert intake.admits("head", 75.0)
    assert not intake.admits("attestation", 75.0), "nobody listens to that"


def test_what_honest_nodes_send_is_never_dropped() -> None:
    intake = EventIntake()
    for slot in range(1000):
        for topic, times in {"head": 3, "block": 3, "chain_reorg": 2}.items():
            assert all(intake.admits(topic, 12.0 * slot + n / 10) for n in range(times))
    assert all(EventIntake().admits("head", slot / 2) for slot in range(1000)), "slots of half a second"
    assert RATES["block"][0] >= 2 * 32, "an epoch that comes at once"


def test_of_one_node_everything_is_told_once() -> None:
    witnesses = Witnesses()
    assert witnesses.heard("a", REORG, "a", 0.0) == [REORG]
    assert witnesses.heard("a", REORG, "a", 1.0) == []


def test_of_several_the_best_or_a_second_one_is_believed() -> None:
    for event in (HEAD, REORG, BlockEvent(9, bytes(32))):
        witnesses = Witnesses()
        assert witnesses.heard("liar", event, "best", 0.0) == []
        assert witnesses.heard("liar", event, "best", 1.0) == [], "saying it twice makes no second witness"
        assert witnesses.heard("third", event, "best", 2.0) == [event]
        assert witnesses.heard("best", event, "best", 3.0) == []
    assert Witnesses().heard("best", HEAD, "best", 0.0) == [HEAD]


def test_clients_that_count_the_depth_differently_are_witnesses_of_each_other_and_what_goes_back_farther_holds() -> None:
    witnesses = Witnesses()
    assert witnesses.heard("a", ReorgEvent(100, 5), "best", 0.0) == []
    assert witnesses.heard("b", ReorgEvent(101, 3), "best", 1.0) == [ReorgEvent(101, 3), ReorgEvent(100, 5)]
    assert witnesses.heard("c", ReorgEvent(100, 60), "best", 1.0) == [], "far behind what the others say"


def test_an_honest_nodes_event_carries_at_most_one_of_a_liars() -> None:
    witnesses = Witnesses()
    for n in range(1000):
        assert witnesses.heard("liar", ReorgEvent(98 + n, n), "best", 0.0) == []
    assert len(witnesses.heard("best", REORG, "best", 1.0)) <= 2


def test_old_news_is_no_witness() -> None:
    witnesses = Witnesses()
    witnesses.heard("a", REORG, "best", 0.0)
    assert witnesses.heard("b", REORG, "best", 60.0) == []


def test_when_the_best_one_is_lost_its_successors_word_counts() -> None:
    witnesses = Witnesses()
    witnesses.heard("b", HEAD, "a", 0.0)
    witnesses.heard("b", REORG, "a", 1.0)
    witnesses.heard("c", ReorgEvent(500, 1), "a", 1.0)
    assert witnesses.chosen_changed("b", 2.0) == [HEAD, REORG]
    assert witnesses.chosen_changed("b", 3.0) == []
    assert witnesses.chosen_changed(None, 3.0) == []


REORGS = st.builds(ReorgEvent, st.integers(50, 120), st.integers(0, 50))


@given(st.lists(st.tuples(REORGS, st.floats(0, 10)), max_size=60))
def test_a_liar_alone_is_never_believed_whatever_it_says_and_its_memory_is_bounded(said: list[tuple[ChainEvent, float]]) -> None:
    witnesses, now = Witnesses(), 0.0
    for event, pause in said:
        now += pause
        assert witnesses.heard("liar", event, "best", now) == []
    assert all(len(claims) <= KEPT_CLAIMS for claims in witnesses._claims.values())
