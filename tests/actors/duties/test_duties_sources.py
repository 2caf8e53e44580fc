"""The source of a decided vote against what our own beacon nodes say: a liar's is not served, a lagging beacon node costs no duty."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from actors.beacon import FetchAttestationData, JustifiedEpoch
from actors.duties import AwaitAttestationData, DecisionRefused, NoDuty
from actors.slashing.store import open_store
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.unsigned_data import AttestationData, AttestationUnsigned, encode_unsigned
from charon_actors.slashing import AttestationEntry, SlashableFault
from tests.actors.duties.rig import ALICE, SLOTS, Asked, Clock, Rig, attestation_data, attester, down, rig_of, settle

EPOCH = 105
SLOT = EPOCH * SLOTS


def attesting(source: Callable[[int], int], *slots: int) -> Callable[[Rig], None]:
    """ALICE attests in these slots; for the beacon node, votes of an epoch go from `source`."""

    def prepare(rig: Rig) -> None:
        rig.consensus.follows = False
        rig.beacon.source = source
        for slot in slots or (SLOT,):
            rig.beacon.attesters.setdefault(slot // SLOTS, []).append(attester(ALICE, slot))

    return prepare


def stalled(epoch: int) -> int:
    return 100


def finalising(epoch: int) -> int:
    return max(epoch - 1, 0)


def decide(rig: Rig, source: int, slot: int = SLOT) -> None:
    data = msgspec.structs.replace(attestation_data(slot, head=5), source_epoch=source)
    encoded = encode_unsigned(AttestationUnsigned(data, attester(ALICE, slot)))
    rig.consensus.decide(Duty(slot, DutyType.ATTESTER), {"0x" + ALICE.hex(): encoded})


async def served(rig: Rig, slot: int = SLOT) -> tuple[AttestationData, float]:
    """What the validator client gets, and at which part of the slot."""
    asked = Asked()
    await asked.ask(rig, AwaitAttestationData(slot, 3))
    assert asked.error is None
    assert asked.at is not None
    return asked.value, (asked.at - rig.at(slot)) / 12


def silent(request: Any) -> None:
    """A beacon node that answers nothing about votes; the epoch's duties are read all the same."""
    if isinstance(request, FetchAttestationData | JustifiedEpoch):
        down(request)


def hang(rig: Rig, *kinds: type) -> None:
    rig.beacon.hanging.update(kinds)


@pytest.mark.parametrize("source", [101, EPOCH - 1])
async def test_a_later_source_than_our_beacon_node_tells_is_not_served(source: int, autojump_clock: Clock) -> None:
    """Justification is at 100, the chain doesn't finalise: the vote would be in the way of every honest one after it."""
    async with rig_of(attesting(stalled), slot=SLOT) as rig, trio.open_nursery() as nursery:
        asked = Asked()
        nursery.start_soon(asked.ask, rig, AwaitAttestationData(SLOT, 3))
        await rig.until(SLOT + 0.4)
        decide(rig, source)
        await rig.until(SLOT + 0.95)
        assert not rig.refused, "until the slot is over, our beacon node may catch up"
        await rig.until(SLOT + 1.1)
        assert rig.refused == [DecisionRefused(Duty(SLOT, DutyType.ATTESTER), 2)]
        assert 5 <= len(rig.beacon.saw(JustifiedEpoch)) <= 24
        await rig.until(SLOT + 2 * SLOTS)
        assert isinstance(asked.error, NoDuty)
        assert rig.only_end.reason == f"agree: source epoch {source} is not justified: our beacon nodes say epoch 100"


async def test_honest_votes_after_the_lie_are_allowed_by_the_slashing_record(tmp_path: Path, autojump_clock: Clock) -> None:
    """Each epoch's vote is recorded if it is served, as a validator client would have it signed."""
    slots = [SLOT + epoch * SLOTS for epoch in range(4)]
    store = open_store(tmp_path / "record.sqlite", bytes(32))

    def sign(data: AttestationData) -> None:
        store.record([AttestationEntry(ALICE, data.hash_tree_root(), data.source_epoch, data.target_epoch)])

    answers: list[Any] = []
    async with rig_of(attesting(stalled, *slots), slot=SLOT) as rig, trio.open_nursery() as nursery:
        for slot in slots:
            asked = Asked()
            nursery.start_soon(asked.ask, rig, AwaitAttestationData(slot, 3))
            await rig.until(slot + 0.4)
            decide(rig, EPOCH - 1 if slot == SLOT else 100, slot)
            await rig.until(slot + 1.5)
            answers.append(asked.value)
            if asked.value is not None:
                sign(asked.value)
        nursery.cancel_scope.cancel()
    assert [(data.source_epoch, data.target_epoch) for data in answers if data] == [(100, 106), (100, 107), (100, 108)]
    # the harm that was to be done: a later honest vote surrounds the lie
    lie = msgspec.structs.replace(attestation_data(SLOT + 4 * SLOTS), source_epoch=108)
    sign(lie)
    with pytest.raises(SlashableFault):
        sign(msgspec.structs.replace(attestation_data(SLOT + 5 * SLOTS), source_epoch=100))
    store.close()


async def test_a_beacon_node_that_lags_in_the_first_slot_of_an_epoch_costs_no_duty(autojump_clock: Clock) -> None:
    async with rig_of(attesting(lambda epoch: epoch - 2), slot=SLOT) as rig, trio.open_nursery() as nursery:
        await rig.until(SLOT + 0.4)
        decide(rig, EPOCH - 1)

        async def catch_up() -> None:
            await rig.until(SLOT + 0.55)
            rig.beacon.source = finalising

        nursery.start_soon(catch_up)
        data, when = await served(rig)
        assert data.source_epoch == EPOCH - 1
        assert 0.55 <= when < 0.65
        assert not rig.refused


async def test_the_usual_decision_needs_no_question(autojump_clock: Clock) -> None:
    async with rig_of(attesting(finalising), slot=SLOT) as rig:
        await rig.until(SLOT + 0.4)
        decide(rig, EPOCH - 1)
        assert (await served(rig))[0].source_epoch == EPOCH - 1
        assert not rig.beacon.saw(JustifiedEpoch)


async def test_an_earlier_source_than_ours_is_in_nobodys_way(autojump_clock: Clock) -> None:
    async with rig_of(attesting(finalising), slot=SLOT) as rig:
        await rig.until(SLOT + 0.4)
        decide(rig, EPOCH - 3)
        assert (await served(rig))[0].source_epoch == EPOCH - 3


@pytest.mark.parametrize("epoch", [0, 1, 2])
async def test_in_the_first_epochs_votes_go_from_genesis(epoch: int, autojump_clock: Clock) -> None:
    """A chain justifies nothing before the end of epoch 2; until then source 0 is right, in epoch 0 also as the target."""
    slot = epoch * SLOTS + 1
    async with rig_of(attesting(lambda _: 0, slot), slot=slot) as rig:
        hang(rig, FetchAttestationData, JustifiedEpoch)
        await rig.until(slot + 0.4)
        decide(rig, 0, slot)
        assert (await served(rig, slot))[0].source_epoch == 0


async def test_within_an_epoch_a_silent_beacon_node_is_not_waited_for(autojump_clock: Clock) -> None:
    async with rig_of(attesting(stalled, SLOT, SLOT + 1), slot=SLOT) as rig:
        await rig.until(SLOT + 0.5)  # told: 100
        rig.beacon.fault = down
        await rig.until(SLOT + 1.4)
        decide(rig, 100, SLOT + 1)
        data, when = await served(rig, SLOT + 1)
        assert data.source_epoch == 100
        assert when == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("is_down", [True, False])
async def test_a_silent_beacon_node_that_said_that_the_chain_finalises_costs_no_duty(
    is_down: bool, autojump_clock: Clock
) -> None:
    slots = SLOT - SLOTS, SLOT
    async with rig_of(attesting(finalising, *slots), slot=slots[0]) as rig:
        await rig.until(slots[0] + 0.5)
        if is_down:
            rig.beacon.fault = silent
        else:
            hang(rig, FetchAttestationData, JustifiedEpoch)
        await rig.until(SLOT + 0.4)
        decide(rig, EPOCH - 1)
        data, when = await served(rig)
        assert data.source_epoch == EPOCH - 1
        assert when < 0.6, "a validator client waits a quarter of a slot"


@pytest.mark.parametrize("comes_back", [True, False])
async def test_while_the_chain_does_not_finalise_a_silent_beacon_node_is_not_taken_for_a_yes(
    comes_back: bool, autojump_clock: Clock
) -> None:
    slots = SLOT - SLOTS, SLOT
    async with rig_of(attesting(stalled, *slots), slot=slots[0]) as rig, trio.open_nursery() as nursery:
        await rig.until(slots[0] + 0.5)
        rig.beacon.fault = silent
        await rig.until(SLOT + 0.4)
        asked = Asked()
        nursery.start_soon(asked.ask, rig, AwaitAttestationData(SLOT, 3))
        decide(rig, EPOCH - 1)
        await rig.until(SLOT + 0.8)
        assert not asked.is_over
        if comes_back:
            rig.beacon.fault, rig.beacon.source = lambda request: None, finalising
            await rig.until(SLOT + 0.9)
            assert asked.value.source_epoch == EPOCH - 1
        await rig.until(SLOT + 1.1)
        assert len(rig.refused) == (0 if comes_back else 1)
        nursery.cancel_scope.cancel()


async def test_a_slow_beacon_node_is_waited_for_where_nothing_better_is_known(autojump_clock: Clock) -> None:
    """One that takes 1.5 s for every answer: too late for our own proposals, but no reason to lose a duty."""
    slots = [SLOT + epoch * SLOTS for epoch in range(4)]
    delays = []
    async with rig_of(attesting(finalising, *slots), slot=SLOT) as rig, trio.open_nursery() as nursery:
        rig.beacon.fault = lambda request: silent(request) if isinstance(request, FetchAttestationData) else None
        hang(rig, JustifiedEpoch)

        async def answer_slowly() -> None:
            while True:
                await trio.sleep(0.1)
                asked = [(when, request) for when, request in rig.beacon.seen if isinstance(request, JustifiedEpoch)]
                if rig.beacon.kept and asked[-1][0] + 1.5 <= rig.now():
                    rig.beacon.kept.pop().send(finalising(asked[-1][1].slot // SLOTS))
                    rig.beacon.kept.clear()

        nursery.start_soon(answer_slowly)
        for slot in slots:
            await rig.until(slot + 0.4)
            decide(rig, slot // SLOTS - 1, slot)
            data, when = await served(rig, slot)
            assert data.source_epoch == slot // SLOTS - 1
            delays.append(round((when - 0.4) * 12, 1))
        nursery.cancel_scope.cancel()
    assert max(delays) <= 1.8
    assert delays[1] <= 1.6


async def test_a_beacon_node_that_has_been_down_for_long_costs_no_duty_either(autojump_clock: Clock) -> None:
    slots = SLOT, SLOT + 6 * SLOTS
    async with rig_of(attesting(finalising, *slots), slot=SLOT) as rig:
        await rig.until(SLOT + 0.5)
        rig.beacon.fault = silent
        await rig.until(slots[1] + 0.4)
        decide(rig, EPOCH + 5, slots[1])
        data, when = await served(rig, slots[1])
        assert data.source_epoch == EPOCH + 5
        assert when < 0.42, "it says at once that it is down"


async def test_a_node_that_has_heard_nothing_yet_asks_first(autojump_clock: Clock) -> None:
    async with rig_of(attesting(finalising), slot=SLOT) as rig:
        hang(rig, FetchAttestationData)
        await rig.until(SLOT + 0.4)
        decide(rig, EPOCH - 1)
        assert (await served(rig))[0].source_epoch == EPOCH - 1
        assert len(rig.beacon.saw(JustifiedEpoch)) == 1


@pytest.mark.parametrize("source", [EPOCH - 1, 101])
async def test_of_a_late_decision_the_beacon_node_is_asked_once_at_least(source: int, autojump_clock: Clock) -> None:
    said = stalled if source == 101 else finalising
    async with rig_of(attesting(said), slot=SLOT) as rig:
        hang(rig, FetchAttestationData)
        await rig.until(SLOT + 3)
        decide(rig, source)
        await rig.until(SLOT + 3.4)
        assert len(rig.refused) == (source == 101)
        assert 1 <= len(rig.beacon.saw(JustifiedEpoch)) <= 8
        if source == EPOCH - 1:
            assert (await served(rig))[0].source_epoch == source


async def test_a_refusal_names_nobody_without_a_proof(autojump_clock: Clock) -> None:
    async with rig_of(attesting(stalled), slot=SLOT) as rig:
        rig.consensus.proposer_index = None
        await rig.until(SLOT + 0.4)
        decide(rig, EPOCH - 1)
        await rig.until(SLOT + 1.1)
        await settle()
        assert rig.refused == [DecisionRefused(Duty(SLOT, DutyType.ATTESTER), None)]
