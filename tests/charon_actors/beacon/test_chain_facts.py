"""Beacon nodes are upgraded one after the other: which description of the chain holds."""

from collections.abc import Sequence

import msgspec
import pytest

from charon_actors.beacon.chain_facts import forks_text, is_believed, is_same_network, newest_chain
from charon_actors.eth2.chain import Chain, ForkEntry
from charon_actors.eth2.forks import FAR_FUTURE_EPOCH, Fork

OLD = Chain(
    genesis_time_s=1_600_000_000.0,
    genesis_validators_root=b"\xab" * 32,
    slot_duration_s=12.0,
    slots_per_epoch=32,
    fork_schedule=(ForkEntry(0, b"\0\0\0\1"), ForkEntry(0, b"\5\0\0\1")),
    fork_epochs={Fork.PHASE0: 0, Fork.ELECTRA: 0},
    capella_fork_version=b"\3\0\0\1",
)


def with_fulu(epoch: int) -> Chain:
    return msgspec.structs.replace(
        OLD, fork_schedule=(*OLD.fork_schedule, ForkEntry(epoch, b"\6\0\0\1")), fork_epochs={**OLD.fork_epochs, Fork.FULU: epoch}
    )


def not_scheduled() -> Chain:
    """As clients write it that list what has no epoch yet, and whose config/spec has more in it."""
    schedule = (*OLD.fork_schedule, ForkEntry(FAR_FUTURE_EPOCH, b"\6\0\0\1"))
    return msgspec.structs.replace(OLD, fork_schedule=schedule, spec={"DEPOSIT_CHAIN_ID": "1"})


NEW, PUT_OFF = with_fulu(100), with_fulu(200)


@pytest.mark.parametrize(
    ("known", "primaries", "fallbacks", "expected"),
    [
        (OLD, [OLD], [], OLD),
        (OLD, [None], [], OLD),
        (OLD, [not_scheduled()], [], OLD),
        (OLD, [NEW], [], NEW),
        (OLD, [OLD, NEW], [], NEW),
        (OLD, [NEW, OLD], [None], NEW),
        (OLD, [None], [NEW], NEW),
        (NEW, [NEW, OLD], [], NEW),
        (NEW, [None, OLD], [], NEW),  # the upgraded one has not spoken yet
        (NEW, [OLD, OLD], [], OLD),  # called off
        (OLD, [OLD], [NEW], NEW),
        (NEW, [OLD], [NEW], NEW),  # and it stays so
        (NEW, [PUT_OFF], [], PUT_OFF),
        (NEW, [NEW, PUT_OFF], [], NEW),
        (NEW, [None, PUT_OFF], [], NEW),
        (NEW, [PUT_OFF, PUT_OFF], [NEW], PUT_OFF),
        (NEW, [OLD, PUT_OFF], [], PUT_OFF),
        (NEW, [], [OLD], NEW),
    ],
)
def test_which_description_holds(
    known: Chain, primaries: Sequence[Chain | None], fallbacks: Sequence[Chain | None], expected: Chain
) -> None:
    newest = newest_chain(known, primaries, fallbacks)
    assert newest == expected
    assert newest_chain(newest, primaries, fallbacks) is newest, "the same answers change nothing again"


def test_an_old_and_a_new_node_never_make_us_go_to_and_fro() -> None:
    chain = OLD
    for told in ([OLD, None], [OLD, NEW], [OLD, NEW], [OLD, None]):
        chain = newest_chain(chain, told, [])
    assert chain == NEW


@pytest.mark.parametrize(
    "change",
    [{"genesis_time_s": 1.0}, {"genesis_validators_root": bytes(32)}, {"slot_duration_s": 5.0}, {"slots_per_epoch": 16}],
)
def test_genesis_and_slots_make_a_network_and_forks_do_not(change: dict[str, object]) -> None:
    assert is_same_network(OLD, NEW)
    assert not is_same_network(OLD, msgspec.structs.replace(OLD, **change))


def test_what_the_log_says() -> None:
    assert forks_text(NEW) == (
        "0x05000001 from epoch 0, 0x06000001 from epoch 100, phase0 from epoch 0, electra from epoch 0, fulu from epoch 100"
    )


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([NEW], True),
        ([NEW, OLD, OLD], True),  # the best one says it
        ([OLD, NEW], False),
        ([OLD, NEW, NEW], True),
        ([OLD, NEW, PUT_OFF], False),
        ([], False),
    ],
)
def test_the_best_node_or_two_are_believed(told: Sequence[Chain], expected: bool) -> None:
    assert is_believed(NEW, told) is expected
