"""What was decided: that nothing is served but what fits the duty, and nothing else ever after (05 §7)."""

from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from actors.duties import (
    AwaitAttestationData,
    AwaitProposal,
    DecisionRefused,
    DutyEnded,
    NoDuty,
)
from actors.duties.decided import ClashingValue, DecidedValues, Words
from actors.duties.kinds import KINDS
from actors.duties.kinds.attester import by_committee
from actors.duties.kinds.proposer import only
from actors.mailbox import MailboxFull, Reply, Request
from charon_actors.eth2.chain import Chain, ForkEntry
from charon_actors.eth2.containers import proposal_type
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.proposal import MAX_TRANSACTIONS
from charon_actors.eth2.ssz import EncodingFault
from charon_actors.eth2.unsigned_data import (
    AttestationData,
    AttestationUnsigned,
    Proposal,
    WrongValue,
    check_proposal,
    decided_proposal,
    encode_unsigned,
)
from tests.actors.duties.rig import (
    ALICE,
    BOB,
    CAROL,
    SLOTS,
    Asked,
    Clock,
    Rig,
    attestation_data,
    attester,
    block,
    proposer,
    rig_of,
    settle,
    signed_attestation,
    two_attesters,
    two_attesters_and_the_next_slot,
)

ATTESTER, PROPOSER = Duty(9, DutyType.ATTESTER), Duty(9, DutyType.PROPOSER)


def key_of(pubkey: bytes) -> str:
    return "0x" + pubkey.hex()


def values_of(*values: AttestationUnsigned) -> dict[str, bytes]:
    return {key_of(value.duty.pubkey): encode_unsigned(value) for value in values}


def vote(pubkey: bytes = ALICE, committee: int = 3, *, head: int = 5, index: int = 0, **changes: Any) -> AttestationUnsigned:
    """What an honest leader has of slot 9, but for `changes` of the definition (`duty_…`) and of the data."""
    of_duty = {name.removeprefix("duty_"): value for name, value in changes.items() if name.startswith("duty_")}
    of_data = {name: value for name, value in changes.items() if not name.startswith("duty_")}
    return AttestationUnsigned(
        msgspec.structs.replace(attestation_data(9, index, head=head), **of_data),
        msgspec.structs.replace(attester(pubkey, 9, committee), **of_duty),
    )


async def outcome(rig: Rig, duty: Duty, decided: dict[str, bytes], *requests: Request[Any]) -> tuple[DutyEnded, str]:
    """How the duty ends after this decision, and the warning that was given at once; nothing may be served for `requests`."""
    waiting = [Asked() for _ in requests]
    rig.consensus.follows = False
    async with trio.open_nursery() as nursery:
        await rig.until(9.34)
        for asked, request in zip(waiting, requests, strict=True):
            nursery.start_soon(asked.ask, rig, request)
        await settle()
        with capture_logs() as entries:
            rig.consensus.decide(duty, decided)
            await settle()
        assert not any(asked.is_over for asked in waiting)
        await rig.until(9 + SLOTS + 1)
        assert [type(asked.error) for asked in waiting] == [NoDuty] * len(waiting)
    [warning] = [entry for entry in entries if entry["log_level"] == "warning"]
    assert (warning["event"], warning["duty"]) == ("The cluster's decision is refused, nothing is served", str(duty))
    assert warning["proposed_by"] == "three"
    assert rig.refused == [DecisionRefused(duty, 2)]
    [ended] = [ended for ended in rig.ended if ended.duty == duty]
    return ended, warning["reason"]


REQUESTS = AwaitAttestationData(9, 3), AwaitAttestationData(9, 4), AwaitAttestationData(9, 0)


@pytest.mark.parametrize(
    ("decided", "reason"),
    [
        # once signed, every honest vote is surrounded by it, for ever
        (values_of(vote(target_epoch=2**40)), "target epoch 1099511627776 instead of 1"),
        (values_of(vote(target_epoch=0, source_epoch=0)), "target epoch 0 instead of 1"),
        (values_of(vote(source_epoch=2)), "source epoch 2 is after target epoch 1"),
        (values_of(vote(source_epoch=1)), "source epoch 1 is the target epoch, which nobody can have justified yet"),
        (values_of(vote(slot=10)), "slot 10 instead of 9"),
        (values_of(vote(duty_slot=10)), "slot of the definition 10 instead of 9"),
        (values_of(vote(duty_slot=10, slot=10)), "slot of the definition 10 instead of 9"),
        (values_of(vote(index=3)), "index 3 instead of 0"),
        (values_of(vote(committee=4)), "committee 4 instead of 3"),
        (values_of(vote(duty_validator_index=1)), "validator index 1 instead of 65"),
        ({key_of(ALICE): encode_unsigned(vote(BOB, 4))}, "a definition of validator 66 under another public key"),
        ({"0x12": encode_unsigned(vote())}, "a definition of validator 65 under another public key"),
        ({}, "nothing was decided for any validator"),
        # one lie among what is right, whoever it is about: index 0 would be served from it
        (values_of(vote(), vote(BOB, 4, target_epoch=2**40)), "target epoch 1099511627776 instead of 1"),
        (values_of(vote(), vote(CAROL, 1, target_epoch=2**40)), "target epoch 1099511627776 instead of 1"),
        (values_of(vote(), vote(CAROL, 3, duty_validator_index=ALICE[0])), "two public keys for one validator"),
    ],
)
async def test_attestation_data_that_contradict_the_duty_are_not_served(
    decided: dict[str, bytes], reason: str, autojump_clock: Clock
) -> None:
    async with rig_of(two_attesters) as rig:
        ended, warned = await outcome(rig, ATTESTER, decided, *REQUESTS)
    assert warned == reason
    assert (ended.step, ended.succeeded, ended.reason) == ("agree", 0, f"agree: {reason}")


@pytest.mark.parametrize(
    ("fork", "index", "is_served"),
    [(Fork.DENEB, 3, True), (Fork.DENEB, 0, False), (Fork.DENEB, 4, False), (Fork.ELECTRA, 0, True), (Fork.ELECTRA, 3, False)],
)
async def test_before_electra_the_index_is_the_committee_then_it_is_0(
    fork: Fork, index: int, is_served: bool, autojump_clock: Clock
) -> None:
    async with rig_of(two_attesters, last_fork=fork) as rig:
        decided = values_of(vote(index=index))
        if is_served:
            rig.consensus.follows = False
            await rig.until(9.4)
            rig.consensus.decide(ATTESTER, decided)
            assert await rig.address.ask(AwaitAttestationData(9, 3)) == vote(index=index).data
        else:
            _, warned = await outcome(rig, ATTESTER, decided, *REQUESTS)
            assert warned == f"index {index} instead of {3 if fork < Fork.ELECTRA else 0}"


async def test_a_lie_about_one_duty_leaves_the_next_one_as_it_is(autojump_clock: Clock) -> None:
    async with rig_of(two_attesters_and_the_next_slot) as rig:
        rig.consensus.follows = False
        await rig.until(9.4)
        rig.consensus.decide(ATTESTER, values_of(vote(target_epoch=2**40)))
        rig.consensus.follows = True
        await rig.until(10.4)
        assert await rig.address.ask(AwaitAttestationData(10, 3)) == attestation_data(10, head=9)


async def test_of_ours_some_may_be_missing_and_validators_may_come_that_we_do_not_know(autojump_clock: Clock) -> None:
    """The leader's beacon node sees other validators as active; the decision stands (05 §7)."""
    async with rig_of(two_attesters) as rig:
        rig.consensus.follows = False
        await rig.until(9.4)
        rig.consensus.decide(ATTESTER, values_of(vote(), vote(CAROL, 7, head=6)))
        assert await rig.address.ask(AwaitAttestationData(9, 3)) == vote().data
        assert await rig.address.ask(AwaitAttestationData(9, 0)) == vote().data
        assert await rig.address.ask(AwaitAttestationData(9, 7)) == vote(head=6).data
        with pytest.raises(NoDuty):
            await rig.address.ask(AwaitAttestationData(9, 4))
        rig.group(9, {ALICE: signed_attestation(9)})
        await rig.until(9 + SLOTS + 1)
        ended = rig.only_end
        assert (ended.succeeded, ended.reason) == (1, "serve: nothing was decided for 1 of our validators")


@pytest.mark.parametrize(
    ("decided", "reason"),
    [
        ({key_of(ALICE): block(2**39)}, "slot 549755813888 instead of 9"),
        ({key_of(ALICE): block(9, index=BOB[0])}, "proposer index 66 instead of 65"),
        ({key_of(ALICE): block(9, fork=Fork.ELECTRA)}, "fork electra instead of fulu"),
        (
            {key_of(ALICE): block(9, fee_recipient=b"\xee" * 20)},
            f"the block's fee recipient is 0x{'ee' * 20} instead of 0x{'a1' * 20}",
        ),
        ({key_of(ALICE): block(9, randao=b"\x78" * 96)}, "the block's randao reveal is not the group's"),
        ({key_of(ALICE): block(9, randao=b"\x78" * 96, blinded=True)}, "the block's randao reveal is not the group's"),
        ({key_of(ALICE): block(9, fork=Fork.BELLATRIX, blinded=True)}, "fork bellatrix instead of fulu"),
        ({key_of(BOB): block(9)}, "1 blocks, not one of validator 65"),
        ({key_of(ALICE): block(9), key_of(BOB): block(9)}, "2 blocks, not one of validator 65"),
        ({}, "0 blocks, not one of validator 65"),
    ],
)
async def test_a_block_that_contradicts_the_duty_is_not_served(
    decided: dict[str, Proposal], reason: str, autojump_clock: Clock
) -> None:
    async with rig_of(proposer) as rig:
        encoded = {key: encode_unsigned(value) for key, value in decided.items()}
        ended, warned = await outcome(rig, PROPOSER, encoded, AwaitProposal(9))
    assert warned == reason
    assert ended.reason == f"randao: {reason}", "our validator clients had not asked for the block"


@pytest.mark.parametrize(
    ("decided", "is_lenient"),
    [
        (block(9, fee_recipient=b"\xee" * 20, blinded=True), False),  # the builder's
        (block(9, fee_recipient=b"\xee" * 20), True),
    ],
)
async def test_a_block_that_may_pay_anybody_is_served(decided: Proposal, is_lenient: bool, autojump_clock: Clock) -> None:
    def prepare(rig: Rig) -> None:
        proposer(rig)
        rig.allow_foreign_fee_recipient = is_lenient

    async with rig_of(prepare) as rig:
        await rig.until(9.1)
        rig.consensus.decide(PROPOSER, {key_of(ALICE): encode_unsigned(decided)})
        assert await rig.address.ask(AwaitProposal(9)) == decided


async def test_two_attestation_data_for_one_committee_are_not_served(autojump_clock: Clock) -> None:
    def together(rig: Rig) -> None:
        rig.beacon.attesters[1] = [attester(ALICE, 9), attester(BOB, 9)]

    async with rig_of(together) as rig:
        ended, warned = await outcome(rig, ATTESTER, values_of(vote(head=1), vote(BOB, head=2)), AwaitAttestationData(9, 3))
    assert warned == "slot 9, committee 3: two attestation data were decided"
    assert ended.reason == f"serve: {warned}"


# what was decided, and that nothing else is ever served (05 §7)


class Answer(Reply[Any]):
    """A reply that only remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Any] = []

    def send(self, value: Any) -> None:
        self.given.append(value)

    def fail(self, error: Exception) -> None:
        self.given.append(error)


def decided_attestation(committee: int, head: int, target: int = 0) -> AttestationUnsigned:
    return AttestationUnsigned(attestation_data(9, head=head, target=target), attester(ALICE, 9, committee))


def decided_values() -> DecidedValues:
    return DecidedValues({kind.duty_type: Words(kind.does, kind.called) for kind in KINDS.values()})


def served(values: DecidedValues, committee: int) -> Any:
    answer = Answer()
    values.wait_for(ATTESTER, committee, answer)
    return answer.given[0] if answer.given else None


@pytest.mark.parametrize(
    ("second", "clashes"),
    [
        (decided_attestation(3, head=1), False),  # the same again
        (decided_attestation(3, head=2), True),  # another head for the same committee
        (decided_attestation(4, head=2), False),  # heads of two committees may differ (before Electra)
        (decided_attestation(4, head=1, target=2), True),  # source and target may not
    ],
)
def test_a_second_decision_may_not_contradict_the_first(second: AttestationUnsigned, clashes: bool) -> None:
    values = decided_values()
    values.put(ATTESTER, partial(by_committee, [decided_attestation(3, head=1)], 9))
    if clashes:
        with pytest.raises(ClashingValue):
            values.put(ATTESTER, partial(by_committee, [decided_attestation(5, head=1), second], 9))
        assert isinstance(served(values, 5), NoDuty), "nothing of a clashing set is stored"
    else:
        values.put(ATTESTER, partial(by_committee, [second], 9))
    assert served(values, 3) == attestation_data(9, head=1)
    assert served(values, 0) == attestation_data(9, head=1), "the first one stays under index 0"


def test_committee_0_clashes_as_any_other() -> None:
    values = decided_values()
    with pytest.raises(ClashingValue):
        values.put(ATTESTER, partial(by_committee, [decided_attestation(0, head=1), decided_attestation(0, head=2)], 9))
    values.put(ATTESTER, partial(by_committee, [decided_attestation(3, head=1)], 9))
    with pytest.raises(ClashingValue):
        values.put(ATTESTER, partial(by_committee, [decided_attestation(0, head=2)], 9))
    assert served(values, 0) == attestation_data(9, head=1), "what was served once stays"


@given(st.permutations([decided_attestation(committee, head=committee) for committee in (2, 3, 5)]), st.booleans())
def test_all_nodes_serve_the_same_for_index_0_whatever_the_order_of_their_sets(
    values: list[AttestationUnsigned], has_committee_0: bool
) -> None:
    store = decided_values()
    store.put(ATTESTER, partial(by_committee, [*values, decided_attestation(0, head=9)] if has_committee_0 else values, 9))
    assert served(store, 0) == attestation_data(9, head=9 if has_committee_0 else 2)


@given(
    st.lists(
        st.lists(st.builds(decided_attestation, st.integers(0, 3), st.integers(0, 2), st.integers(0, 1)), max_size=4), max_size=6
    )
)
def test_no_committee_is_ever_served_two_things_and_no_two_targets(sets: list[list[AttestationUnsigned]]) -> None:
    values, seen = decided_values(), dict[int, AttestationData]()
    waiting = {committee: Answer() for committee in range(5)}
    for committee, answer in waiting.items():
        values.wait_for(ATTESTER, committee, answer)
    for some in sets:
        with suppress(ClashingValue):
            values.put(ATTESTER, partial(by_committee, some, 9))
        for committee in range(5):
            now = served(values, committee)
            if isinstance(now, AttestationData):
                assert seen.setdefault(committee, now) == now
    assert len({data.target_root for data in seen.values()}) <= 1
    for committee, answer in waiting.items():
        assert len(answer.given) <= 1
        if answer.given and isinstance(answer.given[0], AttestationData):
            assert answer.given[0] == seen[committee]


def test_of_two_blocks_for_one_slot_the_first_stays() -> None:
    values, early, late = decided_values(), Answer(), Answer()
    values.wait_for(PROPOSER, 0, early)
    values.put(PROPOSER, partial(only, block(9, b"one")))
    values.put(PROPOSER, partial(only, block(9, b"one")))
    with pytest.raises(ClashingValue):
        values.put(PROPOSER, partial(only, block(9, b"two")))
    values.wait_for(PROPOSER, 0, late)
    assert early.given == late.given == [block(9, b"one")]


def test_too_many_requests_for_one_slot_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.duties.decided.MAX_WAITING", 2)
    values, answers = decided_values(), [Answer() for _ in range(3)]
    for answer in answers:
        values.wait_for(PROPOSER, 0, answer)
    assert [len(answer.given) for answer in answers] == [0, 0, 1]
    assert isinstance(answers[2].given[0], MailboxFull)


CHAIN = Chain(
    genesis_time_s=0.0,
    genesis_validators_root=bytes(32),
    slot_duration_s=12.0,
    slots_per_epoch=SLOTS,
    fork_schedule=(ForkEntry(0, bytes(4)),),
    fork_epochs=dict.fromkeys(Fork, 0) | {Fork.FULU: 2**40},
    capella_fork_version=bytes(4),
)


def test_blocks_of_charons_beacon_mock_may_have_any_proposer_and_fork() -> None:
    mock = msgspec.structs.replace(CHAIN, spec={"CONFIG_NAME": "charon-simnet"})
    with pytest.raises(WrongValue, match="fork"):
        check_proposal(block(9), PROPOSER, 77, CHAIN)
    check_proposal(block(9), PROPOSER, 77, mock)
    with pytest.raises(WrongValue, match="slot"):
        check_proposal(block(8), PROPOSER, 77, mock)


def test_a_decided_block_with_a_million_transactions_costs_nothing() -> None:
    schema = proposal_type(Fork.FULU, False)
    value = schema.decode(block(9).body)
    value["block"]["body"]["execution_payload"]["transactions"] = [b""] * (MAX_TRANSACTIONS + 1)
    hostile = encode_unsigned(Proposal(Fork.FULU, False, schema.encode(value)))
    with pytest.raises(EncodingFault, match="65537 transactions"):
        decided_proposal({key_of(ALICE): hostile}, PROPOSER, ALICE, ALICE[0], CHAIN)
