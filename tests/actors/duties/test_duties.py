"""The duties actor on a virtual clock, from the slot to the beacon node, and what the validator API is told meanwhile."""

import itertools
from typing import Any

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from actors.beacon import (
    AttesterDuties,
    BeaconFault,
    BeaconUnavailable,
    DutiesAnswer,
    FetchAttestationData,
    PrepareProposers,
    ProduceBlock,
    ProposerDefinition,
    ProposerDuties,
    SubmitAttestations,
    SubmitProposal,
)
from actors.duties import (
    AttesterAt,
    AwaitAttestationData,
    AwaitProposal,
    BlockFetched,
    DutyEnded,
    NoDuty,
    NotReady,
    ProposalsInHand,
    ProposerOf,
    PubkeyOfAttester,
    UnknownValidator,
)
from actors.mailbox import ActorDown, Reply, Request, run_incarnation
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signed_data import SignedData, SignedRandao
from charon_actors.eth2.unsigned_data import (
    AttestationData,
    AttestationUnsigned,
    AttesterDefinition,
    Proposal,
    decode_unsigned,
    encode_unsigned,
)
from tests.actors.duties.rig import (
    ALICE,
    BOB,
    CAROL,
    FEE_RECIPIENT,
    RANDAO,
    SLOT_S,
    SLOTS,
    Asked,
    Clock,
    Rig,
    attestation_data,
    attester,
    block,
    busy,
    down,
    info,
    proposer,
    rig_of,
    settle,
    signed_attestation,
    signed_block,
    two_attesters,
    two_attesters_and_the_next_slot,
)
from tests.actors.duties.test_duties_decided import decided_values

# the stories


async def test_an_attestation_from_the_duty_to_the_beacon_node(autojump_clock: Clock) -> None:
    duty = Duty(9, DutyType.ATTESTER)
    async with rig_of(two_attesters) as rig, trio.open_nursery() as nursery:
        await rig.until(9)
        waiting = Asked()
        nursery.start_soon(waiting.ask, rig, AwaitAttestationData(9, 3))
        await rig.until(9.3)
        assert not rig.consensus.joined, "an attester duty begins at a third of the slot"
        await rig.until(9.34)
        assert rig.consensus.joined[duty] == pytest.approx(rig.at(9) + SLOT_S / 3)
        assert rig.beacon.saw(FetchAttestationData) == [FetchAttestationData(9, 0)], "one request for all committees (05 §6)"
        values = {key: decode_unsigned(DutyType.ATTESTER, value) for key, value in rig.consensus.proposed[duty].items()}
        assert values == {
            "0x" + ALICE.hex(): AttestationUnsigned(attestation_data(9, head=9), attester(ALICE, 9, 3)),
            "0x" + BOB.hex(): AttestationUnsigned(attestation_data(9, head=9), attester(BOB, 9, 4)),
        }
        assert waiting.value == attestation_data(9, head=9)
        assert await rig.address.ask(AwaitAttestationData(9, 0)) == attestation_data(9, head=9), "index 0 is served as well"
        assert not rig.ended
        signed: dict[bytes, SignedData] = {ALICE: signed_attestation(9, ALICE), BOB: signed_attestation(9, BOB)}
        await rig.until(9.5)
        rig.group(9, signed)
        await settle()
        assert rig.beacon.saw(SubmitAttestations) == [SubmitAttestations(Fork.FULU, tuple(signed.values()))]  # type: ignore[arg-type]
        ended = rig.only_end
        assert (ended.duty, ended.step, ended.expected, ended.succeeded, ended.reason) == (duty, "done", 2, 2, None)
        assert ended.latency_s == pytest.approx(SLOT_S * (0.5 - 1 / 3), abs=0.01), "from the duty's start"


async def test_before_electra_each_committee_has_its_own_attestation_data(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters, last_fork=Fork.DENEB) as rig:
        await rig.until(9.4)
        assert rig.beacon.saw(FetchAttestationData) == [FetchAttestationData(9, 3), FetchAttestationData(9, 4)]
        assert (await rig.address.ask(AwaitAttestationData(9, 4))).index == 4


async def test_each_fork_of_a_batch_is_submitted_by_itself(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        await rig.until(9.4)
        rig.group(9, {ALICE: signed_attestation(9, ALICE), BOB: signed_attestation(9, BOB, Fork.ELECTRA)})
        await settle()
        assert [(call.fork, len(call.attestations)) for call in rig.beacon.saw(SubmitAttestations)] == [
            (Fork.FULU, 1),
            (Fork.ELECTRA, 1),
        ]


async def test_a_block_from_the_randao_to_the_beacon_node(autojump_clock: Clock) -> None:
    duty = Duty(9, DutyType.PROPOSER)
    async with rig_of(proposer) as rig, trio.open_nursery() as nursery:
        await rig.until(9)
        assert rig.consensus.joined[duty] == pytest.approx(rig.at(9), abs=0.01)
        assert await rig.address.ask(ProposerOf(9)) == ALICE
        assert await rig.address.ask(ProposalsInHand()) == (), "one is just being agreed on"
        waiting = Asked()
        nursery.start_soon(waiting.ask, rig, AwaitProposal(9))
        await rig.until(9.1)
        assert not rig.beacon.saw(ProduceBlock), "no block without the group's randao"
        rig.signatures.randao(9)
        await settle()
        assert rig.beacon.saw(ProduceBlock) == [ProduceBlock(9, RANDAO, b"A".ljust(32, b"\0"), 7, FEE_RECIPIENT)]
        assert waiting.value == block(9, b"A")
        assert await rig.address.ask(ProposalsInHand()) == (block(9, b"A"),)
        rig.group(9, {ALICE: signed_block(9)}, DutyType.PROPOSER)
        await settle()
        assert rig.beacon.saw(SubmitProposal) == [SubmitProposal(signed_block(9))]
        assert (rig.only_end.step, rig.only_end.succeeded, rig.only_end.reason) == ("done", 1, None)
        await rig.until(11)
        with pytest.raises(NoDuty, match="proposes now"):
            await rig.address.ask(ProposalsInHand())


@pytest.mark.parametrize(
    ("made", "seen", "warnings"),
    [
        ({}, BlockFetched(False, True), 0),  # whatever the case of the letters in the lock
        ({"fee_recipient": b"\xee" * 20}, BlockFetched(False, False), 1),
        ({"fee_recipient": b"\xee" * 20, "blinded": True}, BlockFetched(True, None), 0),
    ],
)
async def test_where_blocks_may_pay_anybody_the_fee_recipient_of_our_beacon_nodes_block_is_only_compared(
    made: dict[str, Any], seen: BlockFetched, warnings: int, autojump_clock: Clock
) -> None:
    def lenient(rig: Rig) -> None:
        proposer(rig)
        rig.allow_foreign_fee_recipient = True

    async with rig_of(lenient) as rig:
        rig.beacon.make_block = lambda slot, graffiti, randao: block(slot, graffiti, randao, **made)
        with capture_logs() as entries:
            rig.signatures.randao(9)
            await rig.until(9.1)
        assert rig.blocks == [seen]
        warned = [entry for entry in entries if entry["log_level"] == "warning"]
        assert [(entry["fee_recipient"], entry["configured"]) for entry in warned] == [
            ("0x" + "ee" * 20, "0x" + "A1" * 20)
        ] * warnings
        assert await rig.address.ask(AwaitProposal(9)) == block(9, b"A", **made), "it only warns"


async def test_a_block_of_our_beacon_node_that_pays_somebody_else_is_not_offered(autojump_clock: Clock) -> None:
    """The beacon node is told the recipient once more, and asked again, once. A peer's block is served."""
    async with rig_of(proposer) as rig:
        rig.beacon.make_block = lambda slot, graffiti, randao: block(slot, graffiti, randao, fee_recipient=b"\xee" * 20)
        told = len(rig.beacon.saw(PrepareProposers))
        with capture_logs() as entries:
            rig.signatures.randao(9)
            await rig.until(9.3)
        assert not rig.consensus.proposed
        assert len(rig.beacon.saw(ProduceBlock)) == 2
        assert rig.beacon.saw(PrepareProposers)[told:][-1:] == [PrepareProposers(((ALICE[0], "0x" + "A1" * 20),))]
        assert set(rig.blocks) == {BlockFetched(False, False)}
        reasons = [entry["reason"] for entry in entries if entry["log_level"] == "warning"]
        assert reasons == [f"bn1: the block's fee recipient is 0x{'ee' * 20} instead of 0x{'a1' * 20}"] * 2
        rig.consensus.decide(Duty(9, DutyType.PROPOSER), {"0x" + ALICE.hex(): encode_unsigned(block(9))})
        assert await rig.address.ask(AwaitProposal(9)) == block(9)


async def test_a_beacon_node_that_had_forgotten_the_recipient_is_asked_again(autojump_clock: Clock) -> None:
    async with rig_of(proposer) as rig:
        rig.beacon.make_block = lambda slot, graffiti, randao: block(
            slot, graffiti, randao, fee_recipient=FEE_RECIPIENT if len(rig.beacon.saw(ProduceBlock)) > 1 else bytes(20)
        )
        rig.signatures.randao(9)
        await rig.until(9.1)
        assert await rig.address.ask(AwaitProposal(9)) == block(9, b"A")
        assert rig.blocks == [BlockFetched(False, False), BlockFetched(False, True)]


async def test_a_block_of_our_beacon_node_that_is_not_our_proposers_is_not_offered(autojump_clock: Clock) -> None:
    async with rig_of(proposer) as rig:
        rig.beacon.make_block = lambda slot, graffiti, randao: block(slot, graffiti, randao, index=BOB[0])
        rig.signatures.randao(9)
        await rig.until(9.1)
        assert not rig.consensus.proposed
        assert not rig.blocks
        rig.consensus.decide(Duty(9, DutyType.PROPOSER), {"0x" + ALICE.hex(): encode_unsigned(block(9, b"peer"))})
        assert await rig.address.ask(AwaitProposal(9)) == block(9, b"peer"), "a peer leads instead"


async def test_our_beacon_node_refuses_but_the_peers_decide_and_the_duty_succeeds(autojump_clock: Clock) -> None:
    def refuse(request: Any) -> None:
        if isinstance(request, FetchAttestationData):
            raise BeaconFault(400, "no data here")

    duty = Duty(9, DutyType.ATTESTER)
    async with rig_of(two_attesters) as rig:
        rig.beacon.fault = refuse
        await rig.until(9.4)
        assert duty not in rig.consensus.proposed
        assert rig.beacon.saw(FetchAttestationData) == [FetchAttestationData(9, 0)], "what repeating can't mend is not repeated"
        peers = {
            "0x" + key.hex(): encode_unsigned(AttestationUnsigned(attestation_data(9, head=5), attester(key, 9, committee)))
            for key, committee in ((ALICE, 3), (BOB, 4))
        }
        rig.consensus.decide(duty, peers)
        assert await rig.address.ask(AwaitAttestationData(9, 3)) == attestation_data(9, head=5)
        rig.group(9, {ALICE: signed_attestation(9, ALICE), BOB: signed_attestation(9, BOB)})
        await settle()
        assert (rig.only_end.step, rig.only_end.reason) == ("done", None)


async def test_a_consensus_actor_without_room_for_a_moment_costs_no_duty(autojump_clock: Clock) -> None:
    duty = Duty(9, DutyType.ATTESTER)
    async with rig_of(two_attesters) as rig:
        await rig.until(9.2)
        await rig.keep_consensus_busy()
        await rig.until(9.34)
        rig.consensus.is_awake.set()
        await rig.until(9.4)
        assert duty in rig.consensus.proposed
        assert await rig.address.ask(AwaitAttestationData(9, 3)) == attestation_data(9, head=9)


async def test_a_proposal_that_finds_no_room_takes_nothing_from_the_agreement_with_it(autojump_clock: Clock) -> None:
    duty = Duty(9, DutyType.ATTESTER)
    async with rig_of(two_attesters) as rig:
        rig.beacon.hanging.add(FetchAttestationData)
        await rig.until(9.34)
        [fetch], [agreement] = rig.beacon.kept, rig.consensus.askers[duty]
        await rig.keep_consensus_busy()
        fetch.send(attestation_data(9, head=9))
        await settle()
        assert not agreement.is_abandoned
        rig.consensus.is_awake.set()
        await rig.until(9.4)
        assert duty in rig.consensus.proposed
        assert await rig.address.ask(AwaitAttestationData(9, 3)) == attestation_data(9, head=9)


async def test_a_consensus_actor_that_restarts_is_asked_again(autojump_clock: Clock) -> None:
    duty = Duty(9, DutyType.ATTESTER)
    async with rig_of(two_attesters) as rig:
        rig.consensus.follows = False
        await rig.until(9.4)
        rig.consensus.life.cancel()
        await rig.until(9.45)
        rig.consensus.decide(duty, rig.consensus.proposed[duty])
        assert await rig.address.ask(AwaitAttestationData(9, 3)) == attestation_data(9, head=9)


async def test_a_beacon_node_that_is_down_is_asked_again_until_it_is_back(autojump_clock: Clock) -> None:
    duty = Duty(9, DutyType.ATTESTER)
    async with rig_of(two_attesters) as rig:
        back_s = rig.at(9.9)

        def down(request: Any) -> None:
            if isinstance(request, FetchAttestationData | SubmitAttestations) and rig.now() < back_s:
                raise BeaconUnavailable(None, "connection refused")

        rig.beacon.fault = down
        await rig.until(9.8)
        tries = rig.beacon.times_of(FetchAttestationData)
        gaps = [round(after - before, 2) for before, after in itertools.pairwise(tries)]
        assert gaps == [0.25, 0.4, 0.64, 1.02, 1.64], "250 ms, each time 1.6 times as long (05 §15)"
        assert duty not in rig.consensus.proposed
        await rig.until(10.4)
        assert duty in rig.consensus.proposed
        back_s = rig.at(11)
        rig.group(9, {ALICE: signed_attestation(9, ALICE), BOB: signed_attestation(9, BOB)})
        await rig.until(11.9)
        assert len(rig.beacon.saw(SubmitAttestations)) > 3
        assert (rig.only_end.step, rig.only_end.succeeded, rig.only_end.reason) == ("done", 2, None)


async def test_a_beacon_node_that_stays_down_is_asked_until_the_deadline_and_not_longer(autojump_clock: Clock) -> None:
    def down(request: Any) -> None:
        if isinstance(request, FetchAttestationData):
            raise BeaconUnavailable(None, "connection refused")

    async with rig_of(two_attesters) as rig, trio.open_nursery() as nursery:
        rig.beacon.fault = down
        waiting = Asked()
        nursery.start_soon(waiting.ask, rig, AwaitAttestationData(9, 3))
        await rig.until(9 + SLOTS)
        assert not rig.ended
        last = rig.beacon.times_of(FetchAttestationData)[-1]
        assert last > rig.at(9 + SLOTS - 1), "at most 12 s between two tries"
        await rig.until(9 + SLOTS + 1 / 12)
        ended = rig.only_end
        assert (ended.step, ended.succeeded, ended.latency_s) == ("fetch", 0, None)
        assert ended.reason == "fetch: connection refused"
        assert isinstance(waiting.error, NoDuty), "nobody waits longer than the duty"
        count = len(rig.beacon.saw(FetchAttestationData))
        await rig.until(9 + SLOTS + 3)
        assert len(rig.beacon.saw(FetchAttestationData)) == count


# group signatures nobody here has waited for


async def test_a_group_signature_of_a_duty_that_does_not_run_here_is_broadcast_all_the_same(autojump_clock: Clock) -> None:
    async with rig_of() as rig:
        rig.group(8, {CAROL: signed_attestation(8, CAROL)})
        await settle()
        assert [len(call.attestations) for call in rig.beacon.saw(SubmitAttestations)] == [1]
        ended = rig.only_end
        assert (ended.duty, ended.expected, ended.succeeded, ended.reason) == (Duty(8, DutyType.ATTESTER), 1, 1, None)


async def test_a_group_signature_with_the_beacon_node_down_is_broadcast_when_it_is_back(autojump_clock: Clock) -> None:
    async with rig_of() as rig:

        def down(request: Any) -> None:
            if isinstance(request, SubmitAttestations) and rig.now() < rig.at(12):
                raise BeaconUnavailable(None, "connection refused")

        rig.beacon.fault = down
        rig.group(8, {ALICE: signed_attestation(8, ALICE)})
        await rig.until(14)
        assert rig.only_end.succeeded == 1


async def test_group_randaos_and_group_signatures_after_the_deadline_go_nowhere(autojump_clock: Clock) -> None:
    async with rig_of(slot=20) as rig:
        rig.group(20, {ALICE: SignedRandao(2, RANDAO)}, DutyType.RANDAO)
        rig.group(11, {ALICE: signed_attestation(11)})
        rig.group(19, {ALICE: signed_block(19)}, DutyType.PROPOSER)
        await settle()
        assert not rig.ended
        assert not rig.beacon.saw(SubmitAttestations)
        assert not rig.beacon.saw(SubmitProposal)


async def test_a_group_signature_ends_a_duty_even_when_we_have_not_decided(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        rig.consensus.follows = False
        await rig.until(9.5)
        rig.group(9, {ALICE: signed_attestation(9, ALICE), BOB: signed_attestation(9, BOB)})
        await settle()
        assert (rig.only_end.step, rig.only_end.reason) == ("done", None)


async def test_one_refused_validator_keeps_no_other_from_being_broadcast(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        submitted: list[int | None] = []

        def refuse_alice(request: Any) -> None:
            if isinstance(request, SubmitAttestations):
                indices = [attestation.validator_index for attestation in request.attestations]
                if ALICE[0] in indices:
                    raise BeaconFault(400, "bad attestation")
                submitted.extend(indices)

        rig.beacon.fault = refuse_alice
        await rig.until(9.4)
        rig.group(9, {ALICE: signed_attestation(9, ALICE)})
        rig.group(9, {BOB: signed_attestation(9, BOB)})
        await rig.until(9.9)
        assert submitted == [BOB[0]]
        await rig.until(9 + SLOTS + 1)
        ended = rig.only_end
        assert (ended.expected, ended.succeeded, ended.reason) == (2, 1, "submit: bad attestation")


async def test_one_validator_twice_does_not_count_for_the_other_one(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        await rig.until(9.4)
        rig.group(9, {ALICE: signed_attestation(9, ALICE)})
        rig.group(9, {ALICE: signed_attestation(9, ALICE)})  # from a signatures actor that has been restarted
        await settle()
        assert not rig.ended
        rig.group(9, {BOB: signed_attestation(9, BOB)})
        await settle()
        assert (rig.only_end.succeeded, rig.only_end.reason) == (2, None)
        assert BOB[0] in [each.validator_index for call in rig.beacon.saw(SubmitAttestations) for each in call.attestations]


# why a duty failed


async def ends(rig: Rig) -> DutyEnded:
    await rig.until(9 + SLOTS + 1)
    return rig.only_end


async def test_reason_nobody_agrees(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        rig.consensus.follows = False
        ended = await ends(rig)
        assert (ended.step, ended.reason) == ("agree", "the peers did not agree in time")


async def test_reason_consensus_says_that_the_deadline_has_passed(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        rig.consensus.follows = False
        await rig.until(9.4)
        rig.consensus.fail(Duty(9, DutyType.ATTESTER))
        ended = await ends(rig)
        assert (ended.step, ended.reason) == ("agree", "agree: 9/attester")


async def test_reason_no_validator_client_signs(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        ended = await ends(rig)
        assert (ended.step, ended.reason) == ("serve", "no threshold of validator clients signed in time")


async def test_reason_some_validators_are_not_signed_for(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        await rig.until(9.4)
        rig.group(9, {ALICE: signed_attestation(9, ALICE)})
        ended = await ends(rig)
        assert (ended.step, ended.expected, ended.succeeded) == ("collect", 2, 1)
        assert ended.reason == "for some validators no threshold of validator clients signed in time"


async def test_reason_no_randao(autojump_clock: Clock) -> None:
    async with rig_of(proposer) as rig:
        ended = await ends(rig)
        assert (ended.step, ended.reason) == ("randao", "no threshold of validator clients asked for the block in time")


async def test_reason_the_beacon_node_takes_nothing(autojump_clock: Clock) -> None:
    def refuse(request: Any) -> None:
        if isinstance(request, SubmitProposal):
            raise BeaconFault(400, "invalid block")

    async with rig_of(proposer) as rig:
        rig.beacon.fault = refuse
        rig.signatures.randao(9)
        await rig.until(9.1)
        rig.group(9, {ALICE: signed_block(9)}, DutyType.PROPOSER)
        ended = await ends(rig)
        assert (ended.step, ended.succeeded, ended.reason) == ("submit", 0, "submit: invalid block")


async def test_reason_the_beacon_node_hangs(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        rig.beacon.hanging.add(FetchAttestationData)
        ended = await ends(rig)
        assert (ended.step, ended.reason) == ("fetch", "the beacon node did not answer in time")
        assert all(reply.is_abandoned for reply in rig.beacon.kept), "nobody works for a duty that is over"


async def test_reason_consensus_decides_rubbish(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters_and_the_next_slot) as rig:
        rig.consensus.follows = False
        await rig.until(9.4)
        rig.consensus.decide(Duty(9, DutyType.ATTESTER), {"0x" + ALICE.hex(): b"rubbish"})
        rig.consensus.follows = True
        await rig.until(10.4)
        assert await rig.address.ask(AwaitAttestationData(10, 3)) == attestation_data(10, head=9), "other duties go on"
        ended = await ends(rig)
        assert ended.succeeded == 0
        assert ended.reason is not None
        assert ended.reason.startswith("agree: ")


# the clock


async def test_missed_slots_are_never_replayed(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig:
        await rig.until(9.5)
        rig.wall += 5 * SLOT_S  # the machine slept, or its clock was wrong
        await rig.until(15.5)
        assert [slot for slot, _ in rig.slots] == [8, 9, 15] or [slot for slot, _ in rig.slots] == [8, 9, 14, 15]
        begun = {duty.slot for duty in rig.consensus.joined}
        assert begun.isdisjoint({10, 11, 12, 13})
        assert {8, 9, 15} <= begun


async def test_a_clock_set_back_starts_no_duty_twice(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig:
        await rig.until(11.5)
        rig.wall -= 2 * SLOT_S
        await rig.until(12.5)
        slots = [slot for slot, _ in rig.slots]
        assert slots == sorted(set(slots))


async def test_a_late_start_begins_with_the_current_slot(autojump_clock: Clock) -> None:
    async with rig_of(busy, slot=10.2) as rig:
        await rig.until(10.5)
        assert {duty.slot for duty in rig.consensus.joined} == {10}


async def test_nothing_happens_before_genesis(autojump_clock: Clock) -> None:
    async with rig_of(lambda rig: rig.beacon.proposers.update({0: {0: ALICE}}), slot=-2) as rig:
        await rig.until(-0.01)
        assert not rig.beacon.seen
        await rig.until(0.1)
        assert rig.consensus.joined[Duty(0, DutyType.PROPOSER)] == pytest.approx(rig.at(0), abs=0.01)


async def test_a_syncing_beacon_node_is_waited_for(autojump_clock: Clock) -> None:
    def syncing(rig: Rig) -> None:
        busy(rig)
        rig.beacon.is_syncing = True

    async with rig_of(syncing) as rig:
        await rig.until(11.2)
        assert not rig.beacon.saw(AttesterDuties)
        assert not rig.slots
        rig.beacon.is_syncing = False
        await rig.until(11.5)
        assert {duty.slot for duty in rig.consensus.joined} == {11}


@pytest.mark.parametrize("has_duty_in_last_slot", [False, True])
async def test_an_epoch_is_resolved_in_the_last_slot_of_the_one_before(
    has_duty_in_last_slot: bool, autojump_clock: Clock
) -> None:
    def first_of_next(rig: Rig) -> None:
        rig.beacon.proposers[2] = {16: BOB}
        if has_duty_in_last_slot:
            rig.beacon.proposers[1] = {15: ALICE}

    async with rig_of(first_of_next) as rig:
        await rig.until(15.4)
        with pytest.raises(NotReady):
            await rig.address.ask(ProposerOf(16))
        await rig.until(15.6)
        assert await rig.address.ask(ProposerOf(16)) == BOB
        assert [request.epoch for request in rig.beacon.saw(ProposerDuties)] == [1, 2]
        await rig.until(16.1)
        assert rig.consensus.joined[Duty(16, DutyType.PROPOSER)] == pytest.approx(rig.at(16), abs=0.01)
        assert [request.epoch for request in rig.beacon.saw(ProposerDuties)] == [1, 2], "asked once"


async def test_duties_that_cannot_be_read_are_asked_for_until_they_can_and_start_late(autojump_clock: Clock) -> None:
    async with rig_of(busy, slot=12) as rig:
        await rig.until(14.5)
        rig.beacon.fault = down
        await rig.until(17.4)
        with pytest.raises(NotReady):
            await rig.address.ask(ProposerOf(17))
        rig.beacon.fault = lambda request: None
        await rig.until(18.5)
        begun = {duty for duty in rig.consensus.joined if duty.slot >= 16}
        assert Duty(18, DutyType.PROPOSER) in begun
        assert Duty(18, DutyType.ATTESTER) in begun
        assert Duty(16, DutyType.ATTESTER) in begun, "its deadline is an epoch away"
        assert Duty(17, DutyType.PROPOSER) not in begun, "its slot is over"
        assert not {ended.duty for ended in rig.ended} & {Duty(16, DutyType.PROPOSER), Duty(17, DutyType.PROPOSER)}


async def test_only_active_validators_have_duties_also_in_their_very_first_epoch(autojump_clock: Clock) -> None:
    def mixed(rig: Rig) -> None:
        rig.beacon.validators = [info(ALICE, "pending_queued", 1), info(BOB, "exited_unslashed"), info(CAROL, "active_exiting")]
        rig.beacon.attesters[1] = [
            attester(ALICE, 9),
            attester(BOB, 9),
            AttesterDefinition(b"X" * 48, 9, CAROL[0], 3, 64, 8, 5),  # a key that isn't this index's
        ]
        rig.beacon.proposers[1] = {10: BOB, 11: CAROL}

    async with rig_of(mixed) as rig:
        await rig.until(9.4)
        assert rig.beacon.saw(AttesterDuties) == [AttesterDuties(1, (ALICE[0], CAROL[0]))]
        assert set(rig.consensus.proposed[Duty(9, DutyType.ATTESTER)]) == {"0x" + ALICE.hex()}
        with pytest.raises(NoDuty):
            await rig.address.ask(ProposerOf(10))
        assert await rig.address.ask(ProposerOf(11)) == CAROL
        assert rig.slots[-1] == (9, 2)


async def test_without_an_active_validator_nothing_is_due_and_nothing_breaks(autojump_clock: Clock) -> None:
    async with rig_of(lambda rig: rig.beacon.validators.clear()) as rig:
        await rig.until(17.1)
        assert not rig.beacon.saw(AttesterDuties)
        with pytest.raises(NoDuty):
            await rig.address.ask(ProposerOf(17))


async def test_fee_recipients_are_told_at_the_start_and_once_an_epoch(autojump_clock: Clock) -> None:
    def with_stranger(rig: Rig) -> None:
        rig.beacon.validators = [info(ALICE), info(BOB, "pending_queued", 9), info(CAROL)]

    async with rig_of(with_stranger, slot=10) as rig:
        await rig.until(25.5)
        assert rig.beacon.saw(PrepareProposers) == [PrepareProposers(((ALICE[0], "0x" + "A1" * 20),))] * 3
        assert rig.beacon.times_of(PrepareProposers) == pytest.approx([rig.at(10), rig.at(16.5), rig.at(24.5)], abs=0.01)


@pytest.mark.parametrize("fault", [BeaconUnavailable(None, "connection refused"), BeaconFault(500, "internal error")])
async def test_fee_recipients_are_told_again_while_the_beacon_node_does_not_take_them(
    autojump_clock: Clock, fault: BeaconFault
) -> None:
    away_until = 19.1

    def unreachable(rig: Rig) -> None:
        def away(request: Any) -> None:
            if isinstance(request, PrepareProposers) and rig.now() < rig.at(away_until):
                raise fault

        rig.beacon.fault = away

    with capture_logs() as entries:
        async with rig_of(unreachable, slot=16) as rig:
            await rig.until(23.9)
            told = rig.beacon.times_of(PrepareProposers)
            assert told == pytest.approx([rig.at(slot) for slot in (16, 17, 18, 19, 20)], abs=0.01), "until it is back"
            away_until = 100
            await rig.until(34.9)
            told = rig.beacon.times_of(PrepareProposers)[len(told) :]
            assert told == pytest.approx([rig.at(slot + 0.5) for slot in range(24, 35)], abs=0.01), "one task an epoch"
    assert [entry["epoch"] for entry in entries if "fee recipients" in entry["event"]] == [2, 3, 4], "said once an epoch"


async def test_an_epoch_whose_first_slot_was_missed_has_its_fee_recipients_told(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig:
        await rig.until(14.9)
        rig.wall += 2 * SLOT_S  # over the start of slot 16
        await rig.until(18.9)
        assert len(rig.beacon.saw(PrepareProposers)) == 2


async def test_a_refused_fee_recipient_stops_nothing(autojump_clock: Clock) -> None:
    def refuse(request: Any) -> None:
        if isinstance(request, PrepareProposers):
            raise BeaconFault(400, "no")

    async with rig_of(busy) as rig:
        rig.beacon.fault = refuse
        await rig.until(17.1)
        assert Duty(17, DutyType.PROPOSER) in rig.consensus.joined


# what the validator API is told


async def test_where_nothing_is_due_the_answer_comes_at_once(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        await rig.until(8.5)
        nothing: tuple[Request[Any], ...] = (AwaitAttestationData(10, 0), AwaitProposal(9), ProposerOf(9))
        for request in nothing:
            with pytest.raises(NoDuty), trio.fail_after(0.1):
                await rig.address.ask(request)
        with pytest.raises(NotReady):
            await rig.address.ask(ProposerOf(100))
        with pytest.raises(NotReady):
            await rig.address.ask(PubkeyOfAttester(100, 3, ALICE[0]))
        await rig.until(9.4)
        with pytest.raises(NoDuty):
            await rig.address.ask(AwaitAttestationData(9, 60))  # nobody of ours sits in that committee


async def test_validators_are_found_by_their_place(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        await rig.until(8.5)
        assert await rig.address.ask(PubkeyOfAttester(9, 3, ALICE[0])) == ALICE
        assert await rig.address.ask(PubkeyOfAttester(9, 0, BOB[0])) == BOB, "many clients always say committee 0"
        assert await rig.address.ask(AttesterAt(9, 4, 5)) == attester(BOB, 9, 4)
        unknown: tuple[Request[Any], ...] = (
            PubkeyOfAttester(9, 4, ALICE[0]),
            PubkeyOfAttester(9, 0, 1234),
            PubkeyOfAttester(10, 3, ALICE[0]),
            AttesterAt(9, 4, 6),
        )
        for request in unknown:
            with pytest.raises(UnknownValidator):
                await rig.address.ask(request)


def slow_start(rig: Rig) -> None:
    busy(rig)
    rig.beacon.hanging.add(ProposerDuties)


QUESTIONS: tuple[tuple[Request[Any], Any], ...] = (
    (ProposerOf(8), ALICE),
    (PubkeyOfAttester(8, 3, ALICE[0]), ALICE),
    (AttesterAt(8, 3, 5), attester(ALICE, 8)),
)


async def test_questions_in_the_first_instant_of_an_epoch_wait_until_its_duties_are_read(autojump_clock: Clock) -> None:
    async with rig_of(slow_start) as rig, trio.open_nursery() as nursery:
        waiting = [Asked() for _ in QUESTIONS]
        for asked, (question, _) in zip(waiting, QUESTIONS, strict=True):
            nursery.start_soon(asked.ask, rig, question)
        await rig.until(8.1)
        assert not any(asked.is_over for asked in waiting)
        rig.beacon.kept[0].send(DutiesAnswer((ProposerDefinition(ALICE, ALICE[0], 8),), bytes(32), False))
        await settle()
        assert [asked.value for asked in waiting] == [value for _, value in QUESTIONS]


async def test_questions_wait_for_a_third_of_a_slot_and_not_longer(autojump_clock: Clock) -> None:
    async with rig_of(slow_start) as rig, trio.open_nursery() as nursery:
        waiting = [Asked() for _ in QUESTIONS]
        await rig.until(8.2)
        for asked, (question, _) in zip(waiting, QUESTIONS, strict=True):
            nursery.start_soon(asked.ask, rig, question)
        await rig.until(8.6)
        assert all(isinstance(asked.error, NotReady) for asked in waiting)
        assert [asked.at for asked in waiting] == pytest.approx([rig.at(8.2 + 1 / 3)] * 3, abs=0.01)


async def test_no_more_than_so_many_questions_wait(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    monkeypatch.setattr("actors.duties.actor.MAX_WAITING", 2)
    async with rig_of(slow_start) as rig, trio.open_nursery() as nursery:
        waiting = [Asked() for _ in range(3)]
        for asked in waiting:
            nursery.start_soon(asked.ask, rig, ProposerOf(8))
            await settle()
        assert [type(asked.error) for asked in waiting] == [type(None), type(None), NotReady]
        nursery.cancel_scope.cancel()
    async with rig_of(slow_start) as rig:
        for _ in range(5):  # who leaves makes room
            with trio.move_on_after(0.1):
                await rig.address.ask(ProposerOf(8))
        await settle()
        patient = Asked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(patient.ask, rig, ProposerOf(8))
            await settle()
            assert not patient.is_over
            nursery.cancel_scope.cancel()


async def test_who_asks_before_the_duties_are_known_is_answered_when_they_are(autojump_clock: Clock) -> None:
    def starting(rig: Rig) -> None:
        busy(rig)
        rig.beacon.fault = down

    async with rig_of(starting) as rig, trio.open_nursery() as nursery:
        await rig.until(8.5)
        waiting = Asked()
        nursery.start_soon(waiting.ask, rig, AwaitAttestationData(10, 3))
        rig.beacon.fault = lambda request: None
        await rig.until(10.3)
        assert not waiting.is_over
        await rig.until(10.4)
        assert waiting.value == attestation_data(10, head=9)


async def test_who_waits_for_a_slot_without_duty_is_freed_when_that_is_known(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig, trio.open_nursery() as nursery:
        rig.beacon.fault = down
        await rig.until(15)
        waiting = [Asked(), Asked()]
        nursery.start_soon(waiting[0].ask, rig, AwaitAttestationData(16, 3))
        nursery.start_soon(waiting[1].ask, rig, AwaitProposal(16))
        await rig.until(16.2)
        assert not any(each.is_over for each in waiting)
        rig.beacon.fault = lambda request: None
        await rig.until(17.1)
        assert all(isinstance(each.error, NoDuty) for each in waiting)


async def test_who_waits_for_an_epoch_that_was_never_known_is_freed_with_the_next_one(autojump_clock: Clock) -> None:
    async with rig_of(busy) as rig, trio.open_nursery() as nursery:
        await rig.until(14.5)
        rig.beacon.fault = down
        waiting = [Asked(), Asked()]
        nursery.start_soon(waiting[0].ask, rig, AwaitProposal(17))
        nursery.start_soon(waiting[1].ask, rig, AwaitAttestationData(17, 3))
        await rig.until(23.9)
        assert not any(each.is_over for each in waiting)
        await rig.until(17 + SLOTS + 2)
        assert not rig.consensus.joined.keys() & {Duty(17, DutyType.PROPOSER), Duty(17, DutyType.ATTESTER)}
        rig.beacon.fault = lambda request: None
        await rig.until(17 + SLOTS + 3.1)
        assert all(isinstance(each.error, NoDuty) for each in waiting)


async def test_values_stay_until_they_expire_and_the_past_is_no_duty(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        await rig.until(9.4)
        await rig.until(9 + SLOTS)
        assert await rig.address.ask(AwaitAttestationData(9, 3)) == attestation_data(9, head=9)
        await rig.until(9 + SLOTS + 1 / 12)
        with pytest.raises(NoDuty), trio.fail_after(0.1):
            await rig.address.ask(AwaitAttestationData(9, 3))
        for slot in (9, 8, 0):
            with pytest.raises(NoDuty), trio.fail_after(0.1):
                await rig.address.ask(AwaitProposal(slot))


async def test_an_incarnation_that_dies_tells_nobody_that_there_is_no_duty(autojump_clock: Clock) -> None:
    class Bug(Exception):
        pass

    outcome = Asked()
    async with rig_of(two_attesters, runs=False) as rig, trio.open_nursery() as nursery:

        async def live() -> None:
            with trio.CancelScope() as scope:

                async def crash() -> None:
                    await rig.until(9.5)
                    scope.cancel()

                nursery.start_soon(crash)
                await run_incarnation(rig.address, rig.duties)  # type: ignore[arg-type]

        rig.consensus.follows = False
        nursery.start_soon(live)
        await rig.until(9.4)
        nursery.start_soon(outcome.ask, rig, AwaitAttestationData(9, 3))
        await rig.until(9.6)
        assert isinstance(outcome.error, ActorDown), "the validator client may repeat it"
        assert not rig.ended


async def test_an_asker_that_leaves_leaves_nothing_behind(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters) as rig:
        await rig.until(9.1)
        with trio.move_on_after(0.5):
            await rig.address.ask(AwaitAttestationData(9, 3))
        await rig.until(9.4)
        assert await rig.address.ask(AwaitAttestationData(9, 3)) == attestation_data(9, head=9)


async def test_a_decision_that_comes_after_the_peers_were_done_is_served_all_the_same(autojump_clock: Clock) -> None:
    def prepare(rig: Rig) -> None:
        rig.beacon.attesters = {1: [attester(ALICE, 9)]}
        rig.consensus.follows = False

    async with rig_of(prepare, slot=8) as rig:
        answers: list[Any] = []
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                answers.append(await rig.address.ask(AwaitAttestationData(9, 0)))

            await rig.until(9.34)
            nursery.start_soon(ask)
            await rig.until(9.4)
            rig.group(9, {ALICE: signed_attestation(9)})
            await settle()
            assert [(ended.duty.slot, ended.reason) for ended in rig.ended] == [(9, None)], "told at once, and once"
            assert not answers
            value = AttestationUnsigned(data=attestation_data(9), duty=attester(ALICE, 9))
            rig.consensus.decide(Duty(9, DutyType.ATTESTER), {"0x" + ALICE.hex(): encode_unsigned(value)})
            await settle()
        assert answers == [attestation_data(9)]
        assert await rig.address.ask(AwaitAttestationData(9, 0)) == attestation_data(9)
        await rig.until(60)
        assert len(rig.ended) == 1


async def test_requests_that_nobody_waits_for_any_more_leave_nothing_behind(autojump_clock: Clock) -> None:
    values = decided_values()
    async with rig_of(slot=8) as rig:
        for slot in (8 + 3 * SLOTS, 10**9):
            with pytest.raises(NoDuty, match="too far in the future"):
                await rig.address.ask(AwaitAttestationData(slot, 0))
            with pytest.raises(NoDuty, match="too far in the future"):
                await rig.address.ask(AwaitProposal(slot))
    waiting = [Reply[AttestationData]() for _ in range(2)]
    for reply in waiting:
        values.wait_for(Duty(20, DutyType.ATTESTER), 0, reply)
    proposal = Reply[Proposal]()
    values.wait_for(Duty(20, DutyType.PROPOSER), 0, proposal)
    with trio.move_on_after(0):
        await waiting[0]._wait()
    with trio.move_on_after(0):
        await proposal._wait()
    values.expire(DutyType.ATTESTER, 1)
    values.expire(DutyType.PROPOSER, 1)
    assert (values.waiting, waiting[1].is_over) == (1, False)


@pytest.mark.parametrize("is_known", [True, False], ids=["a duty of ours", "a duty that nobody told us of"])
async def test_groups_that_come_one_by_one_are_all_submitted(autojump_clock: Clock, is_known: bool) -> None:
    """Also when a validator that isn't in our definitions came first, and while the peers are ahead of our own agreement."""

    def prepare(rig: Rig) -> None:
        rig.beacon.attesters = {1: [attester(ALICE, 9)]} if is_known else {}
        rig.consensus.follows = False

    async with rig_of(prepare, slot=8) as rig:
        await rig.until(9.4)
        for pubkey in (BOB, ALICE, CAROL):
            rig.group(9, {pubkey: signed_attestation(9, pubkey)})
        await settle()
        submitted = [attestation for each in rig.beacon.saw(SubmitAttestations) for attestation in each.attestations]
        assert submitted == [signed_attestation(9, pubkey) for pubkey in (BOB, ALICE, CAROL)]
