"""When remembered duties and validators stop being right (08 §5, 07 §7.3)."""

from charon_actors.beacon.duties_cache import MAX_EPOCHS, DutiesCache
from charon_actors.beacon.validators_cache import ValidatorsCache
from charon_actors.eth2.beacon_api import DutyList, HeadEvent, ProposerDuty, Validator

ROOT_A, ROOT_B = b"a" * 32, b"b" * 32


def duties(*places: tuple[int, int], root: bytes = ROOT_A) -> DutyList:
    return DutyList(tuple(ProposerDuty(bytes(48), index, slot) for index, slot in places), root, False)


def test_only_what_is_missing_is_asked_for() -> None:
    cache = DutiesCache(1)
    assert cache.missing(5, 5, [7, 8, 7]) == [7, 8]
    assert cache.add(5, 5, [7], duties((7, 40)))
    assert cache.missing(5, 5, [7, 8]) == [8]
    assert cache.add(5, 5, [8], duties())  # 8 has no duty: that is an answer, too
    assert cache.missing(5, 5, [7, 8]) == []


def test_no_duty_comes_twice() -> None:
    cache = DutiesCache(0)
    cache.add(5, 5, [], duties((7, 40), (7, 41)))
    cache.add(5, 5, [7], duties((7, 40)))
    entry = cache.entry(5, 5)
    assert entry is not None
    assert sorted(entry.duties) == [(7, 40), (7, 41)]


def test_proposer_duties_read_before_their_epoch_are_read_again_when_it_begins() -> None:
    v1, v2 = DutiesCache(0), DutiesCache(1)
    for cache in (v1, v2):
        cache.add(6, 5, [], duties())
        assert cache.entry(6, 5) is not None
    assert v1.entry(6, 6) is None
    assert v2.entry(6, 6) is not None  # settled when epoch 5 began


def test_attester_duties_read_too_early_are_read_again() -> None:
    cache = DutiesCache(1)
    cache.add(7, 5, [1], duties())
    assert cache.entry(7, 5) is not None
    assert cache.entry(7, 6) is None


def test_a_head_event_with_another_dependent_root_voids_the_duties_it_is_about() -> None:
    attester, proposer = DutiesCache(1), DutiesCache(0)
    for cache in (attester, proposer):
        for epoch in (5, 6):
            cache.add(epoch, 5, [1], duties())
    head = HeadEvent(41, bytes(32), current_dependent_root=ROOT_B, previous_dependent_root=ROOT_A)  # epoch 5
    attester.on_head(head, 8)
    proposer.on_head(head, 8)
    assert attester.entry(5, 5) is not None  # by the previous root
    assert attester.entry(6, 5) is None  # by the current root
    assert proposer.entry(5, 5) is None
    assert proposer.entry(6, 5) is not None
    attester.on_head(HeadEvent(41, bytes(32)), 8)
    assert attester.entry(5, 5) is not None


def test_a_reorg_voids_later_epochs_only() -> None:
    cache = DutiesCache(1)
    for epoch in (4, 5, 6):
        cache.add(epoch, 5, [1], duties())
    assert cache.on_reorg(4) == 2
    assert cache.entry(4, 5) is not None
    assert cache.entry(5, 5) is None


def test_answers_with_different_dependent_roots_are_not_mixed() -> None:
    cache = DutiesCache(1)
    cache.add(5, 5, [1], duties((1, 40)))
    assert not cache.add(5, 5, [2], duties((2, 41), root=ROOT_B))
    assert cache.missing(5, 5, [1, 2]) == [1, 2]


def test_old_epochs_leave() -> None:
    cache = DutiesCache(1)
    for epoch in range(30):
        cache.add(epoch, epoch, [1], duties())
    assert [epoch for epoch in range(30) if cache.entry(epoch, 29)] == [26, 27, 28, 29]
    for epoch in range(29, 60):
        cache.add(epoch, 29, [1], duties())
    assert len([epoch for epoch in range(100) if cache.entry(epoch, 29)]) == MAX_EPOCHS


def validator(index: int, status: str = "active_ongoing") -> Validator:
    return Validator(index, bytes([index]) * 48, status, 0, {})


def test_validators_are_read_once_an_epoch_from_its_first_slot() -> None:
    cache = ValidatorsCache()
    assert cache.states_to_ask(40, 8) == ("40", "head")
    cache.replace(40, 8, "40", [validator(1), validator(2, "pending_queued"), validator(3, "active_exiting")])
    assert cache.states_to_ask(47, 8) == ()
    assert cache.states_to_ask(48, 8) == ("48", "head")
    assert cache.active_indices() == (1, 3)


def test_a_read_that_had_to_use_head_is_repeated_in_the_next_slot_by_the_first_slot() -> None:
    cache = ValidatorsCache()
    cache.replace(40, 8, "head", [])
    assert cache.states_to_ask(40, 8) == ()
    assert cache.states_to_ask(41, 8) == ("40", "head")
    cache.replace(41, 8, "40", [])
    assert cache.states_to_ask(42, 8) == ()


def test_before_genesis_only_head_can_be_asked() -> None:
    cache = ValidatorsCache()
    assert cache.states_to_ask(-3, 8) == ("head",)
    cache.replace(-3, 8, "head", [])
    assert cache.states_to_ask(-3, 8) == ()
    assert cache.states_to_ask(-2, 8) == ("head",)
    assert cache.states_to_ask(0, 8) == ("0", "head")


def test_who_asks_for_an_old_epoch_gets_it_and_it_is_not_kept() -> None:
    cache = DutiesCache(1)
    cache.add(90, 100, [7], duties((7, 720)))
    assert cache.entry(90, 100) is not None
    cache.add(100, 100, [7], duties((7, 800)))
    assert cache.entry(90, 100) is None
