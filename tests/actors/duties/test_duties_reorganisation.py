"""A reorganisation: the duties that were known hold until the new ones are there, and what has begun goes on."""

import pytest
import trio

from actors.beacon import (
    ClusterValidators,
    DutiesAnswer,
    ProposerDefinition,
    ProposerDuties,
)
from actors.duties import (
    AttesterAt,
    AwaitAttestationData,
    ChainReorganised,
    NoDuty,
    ProposerOf,
    PubkeyOfAttester,
)
from charon_actors.eth2.duty import Duty, DutyType
from tests.actors.duties.rig import (
    ALICE,
    BOB,
    SLOT_S,
    SLOTS,
    Asked,
    Clock,
    Rig,
    attestation_data,
    attester,
    busy,
    down,
    info,
    rig_of,
    settle,
    signed_attestation,
)


async def test_a_reorganisation_has_later_epochs_read_again(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig:
        await rig.until(15.6)
        assert await rig.address.ask(ProposerOf(16)) == ALICE
        rig.beacon.proposers[2] = {16: BOB}
        rig.beacon.attesters[2] = []
        rig.address.tell(ChainReorganised(1))
        await rig.until(16.5)
        assert await rig.address.ask(ProposerOf(16)) == BOB
        with pytest.raises(NoDuty):
            await rig.address.ask(AwaitAttestationData(16, 3))
        assert await rig.address.ask(ProposerOf(15)) == ALICE, "the epoch that the reorganisation began in stays"


async def test_a_reorganisation_in_the_middle_of_an_epoch_has_the_rest_read_again(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig:
        await rig.until(18.1)
        rig.beacon.proposers[2] = dict.fromkeys(range(16, 24), BOB)
        rig.address.tell(ChainReorganised(1))
        await rig.until(19.1)
        assert await rig.address.ask(ProposerOf(19)) == BOB
        assert {duty.slot for duty in rig.consensus.joined} == set(range(8, 20)), "no slot is left out or begun twice"


async def test_a_reorganisation_while_duties_are_being_read_is_not_overtaken_by_the_old_answer(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig:
        await rig.until(15.4)
        rig.beacon.hanging.add(ProposerDuties)
        await rig.until(15.6)
        [late] = rig.beacon.kept
        rig.beacon.hanging.clear()
        rig.address.tell(ChainReorganised(1))
        rig.beacon.proposers[2] = {16: BOB}
        rig.beacon.attesters[2] = []
        await settle()
        late.send(DutiesAnswer((ProposerDefinition(ALICE, ALICE[0], 16),), bytes(32), False))  # of the chain before
        await rig.until(16.1)
        assert await rig.address.ask(ProposerOf(16)) == BOB


def moved(rig: Rig) -> None:
    """What the beacon node says after the reorganisation: Bob proposes, Alice attests in slot 20 only."""
    rig.beacon.proposers[2] = dict.fromkeys(range(16, 24), BOB)
    rig.beacon.attesters[2] = [attester(ALICE, 20)]


async def test_what_was_known_holds_until_the_new_duties_are_there_and_these_hold_at_once(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig:
        await rig.until(16.3)
        rig.beacon.hanging.add(ProposerDuties)
        rig.address.tell(ChainReorganised(1))  # depth 1, seen in the epoch's first slot
        await rig.until(16.4)
        with trio.fail_after(0.01):
            assert await rig.address.ask(ProposerOf(17)) == ALICE
            assert await rig.address.ask(PubkeyOfAttester(16, 3, ALICE[0])) == ALICE
            assert await rig.address.ask(AttesterAt(16, 3, 5)) == attester(ALICE, 16)
        [new] = rig.beacon.kept
        new.send(DutiesAnswer((ProposerDefinition(BOB, BOB[0], 17),), bytes(32), False))
        await settle()
        assert await rig.address.ask(ProposerOf(17)) == BOB
        with pytest.raises(NoDuty):
            await rig.address.ask(ProposerOf(18))


async def test_with_the_beacon_node_away_the_old_duties_are_done(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig:
        await rig.until(16.3)
        rig.beacon.fault = lambda request: down(request) if isinstance(request, ProposerDuties) else None
        moved(rig)
        rig.address.tell(ChainReorganised(1))
        await rig.until(18.5)
        assert {Duty(slot, kind) for slot in (17, 18) for kind in (DutyType.PROPOSER, DutyType.ATTESTER)} <= set(
            rig.consensus.joined
        )
        rig.beacon.fault = lambda request: None
        await rig.until(18.7)
        assert await rig.address.ask(ProposerOf(19)) == BOB


async def test_what_has_begun_goes_on_as_it_began(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig, trio.open_nursery() as nursery:
        await rig.until(16.5)
        rig.consensus.follows = False
        await rig.until(17.1)
        waiting = Asked()
        nursery.start_soon(waiting.ask, rig, AwaitAttestationData(17, 3))
        await rig.until(17.4)
        moved(rig)
        rig.address.tell(ChainReorganised(1))
        await settle()
        assert await rig.address.ask(ProposerOf(18)) == BOB, "the new duties are there"
        duty = Duty(17, DutyType.ATTESTER)
        rig.consensus.decide(duty, rig.consensus.proposed[duty])
        await settle()
        assert waiting.value == attestation_data(17, head=9)
        assert await rig.address.ask(PubkeyOfAttester(17, 3, ALICE[0])) == ALICE
        assert await rig.address.ask(PubkeyOfAttester(16, 3, ALICE[0])) == ALICE, "submissions may come late"
        assert await rig.address.ask(ProposerOf(17)) == ALICE
        rig.group(17, {ALICE: signed_attestation(17)})
        await settle()
        assert duty in [ended.duty for ended in rig.ended if ended.reason is None]


async def test_a_duty_that_only_the_new_chain_has_begins_in_the_slot_that_runs_and_no_finished_one_again(
    autojump_clock: Clock,
) -> None:
    def attesting(rig: Rig) -> None:
        rig.beacon.attesters[2] = [attester(ALICE, 17)]

    async with rig_of(attesting) as rig:
        await rig.until(17.4)
        rig.group(17, {ALICE: signed_attestation(17)})
        await rig.until(17.5)
        assert rig.only_end.reason is None
        rig.beacon.proposers[2] = {17: BOB, 18: BOB}
        rig.wall -= SLOT_S / 4  # so that it isn't too late for a proposal
        rig.address.tell(ChainReorganised(1))
        await settle()
        assert Duty(17, DutyType.PROPOSER) in rig.consensus.joined
        await rig.until(17 + SLOTS + 1)
        assert [ended.duty for ended in rig.ended].count(Duty(17, DutyType.ATTESTER)) == 1


async def test_many_reorganisations_are_not_as_many_questions(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig:
        await rig.until(16.3)
        rig.beacon.seen.clear()
        rig.beacon.hanging.add(ClusterValidators)
        for _ in range(100):
            rig.address.tell(ChainReorganised(1))
        await settle()
        moved(rig)
        rig.beacon.hanging.clear()
        for reply in rig.beacon.kept:
            reply.send((info(ALICE), info(BOB)))
        await settle()
        assert len(rig.beacon.saw(ProposerDuties)) <= 2, "one for the chain that was, one for the chain that is"
        assert await rig.address.ask(ProposerOf(17)) == BOB


async def test_a_beacon_node_that_follows_a_reorganisation_late_is_asked_once_more(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig:
        await rig.until(16.1)
        rig.address.tell(ChainReorganised(1))
        await rig.until(16.3)  # what was read at once was of the old chain
        rig.beacon.proposers[2] = dict.fromkeys(range(16, 24), BOB)
        await rig.until(17.4)
        assert await rig.address.ask(ProposerOf(20)) == ALICE
        await rig.until(17.6)
        assert await rig.address.ask(ProposerOf(20)) == BOB


async def test_reorganisations_without_end_cost_no_duty_and_few_questions(autojump_clock: Clock) -> None:
    """Ten a second, for three epochs; the beacon node needs longer for an answer than it takes to the next one."""
    async with rig_of(busy) as rig, trio.open_nursery() as nursery:

        async def go_on() -> None:
            epoch = 0
            while True:
                rig.address.tell(ChainReorganised(epoch % 4))
                epoch += 1
                await trio.sleep(0.1)

        async def be_slow() -> None:
            while True:
                await trio.sleep(0.25)
                rig.beacon.hanging.clear()
                for reply in rig.beacon.kept:
                    reply.send((info(ALICE), info(BOB)))
                rig.beacon.kept.clear()
                rig.beacon.hanging.add(ClusterValidators)

        await rig.until(8.5)
        rig.beacon.seen.clear()
        nursery.start_soon(go_on)
        nursery.start_soon(be_slow)
        await rig.until(31.9)
        nursery.cancel_scope.cancel()
    joined = {Duty(slot, kind) for slot in range(9, 32) for kind in (DutyType.PROPOSER, DutyType.ATTESTER)}
    assert joined <= set(rig.consensus.joined)
    late = {str(duty): rig.consensus.joined[duty] - rig.at(duty.slot) for duty in joined if duty.type is DutyType.PROPOSER}
    assert max(late.values()) < SLOT_S / 3, late
    assert len(rig.beacon.saw(ProposerDuties)) < 24 * 2 * 5, "two readings a slot, each with a few tries"
