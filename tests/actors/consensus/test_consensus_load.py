"""The consensus actor under load: one peer's dear messages cost the others little. Source: specification 06 §5, §10."""

import pytest
import trio
import trio.testing

from actors.consensus import ProposeValue, QbftReceived
from actors.consensus.intake import CREDIT_BYTES, CREDIT_BYTES_A_SECOND, DEBT_BYTES, QUEUED_MESSAGES, Intake
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.qbft.machine import Broadcast, MessageType
from charon_actors.qbft.merkle import STEP_BYTES
from charon_actors.qbft.messages import MessageFault, encode_message, encode_value, sign_message
from tests.actors.consensus.test_consensus_actor import (
    ATTESTER,
    CHAIN,
    LEADER,
    PRIVATE_KEYS,
    SLOT,
    SLOT_S,
    Cluster,
    agreements,
    running_cluster,
    signed,
    value_of,
)

PROPOSER = Duty(SLOT + 1, DutyType.PROPOSER)
BLOCK = bytes(3_100_000)  # with the blobs that fit in 2026


def block(node: int, duty: Duty = PROPOSER, byte: int = 0, size: int = len(BLOCK)) -> bytes:
    named, value = encode_value({"0x" + "ab" * 48: bytes([byte]) * size})
    return encode_message(sign_message(PRIVATE_KEYS[node], duty, node, Broadcast(MessageType.PREPARE, 1, named)), {named: value})


async def test_a_block_of_one_peer_holds_up_neither_the_others_nor_the_loop(autojump_clock: trio.testing.MockClock) -> None:
    begin = CHAIN.slot_start_s(SLOT) + 4.0 - trio.current_time()
    async with trio.open_nursery() as nursery:
        cluster = Cluster(4, nursery, lambda: begin + trio.current_time())
        actor = cluster.actor(0)
        with cluster.mailboxes[0].open() as inbox:
            nursery.start_soon(actor.run, inbox)
            cluster.mailboxes[0].tell(QbftReceived(1, block(1)))
            cluster.mailboxes[0].tell(QbftReceived(2, signed(ATTESTER, 2)))
            turns = 0
            while PROPOSER not in actor._lives:
                await trio.lowlevel.checkpoint()
                turns += 1
                if turns == 30:
                    assert list(actor._lives) == [ATTESTER]
            assert turns > len(BLOCK) // STEP_BYTES
            nursery.cancel_scope.cancel()


async def test_our_own_block_is_hashed_in_turns_with_everything_else(autojump_clock: trio.testing.MockClock) -> None:
    duty = Duty(SLOT, DutyType.PROPOSER)  # a single node leads and decides at once
    begin = CHAIN.slot_start_s(SLOT) - 1.0 - trio.current_time()
    async with trio.open_nursery() as nursery:
        cluster = Cluster(1, nursery, lambda: begin + trio.current_time())
        actor = cluster.actor(0)
        with cluster.mailboxes[0].open() as inbox:
            nursery.start_soon(actor.run, inbox)
            cluster.mailboxes[0].tell(ProposeValue(duty, {"0x" + "ab" * 48: BLOCK}))
            turns = 0
            while not any(life.session.has_proposal for life in actor._lives.values()):
                await trio.lowlevel.checkpoint()
                turns += 1
            assert turns > len(BLOCK) // STEP_BYTES
            assert len((await cluster.agree(0, duty))["0x" + "ab" * 48]) == len(BLOCK)
            nursery.cancel_scope.cancel()


async def test_who_floods_with_a_message_of_another_evicts_only_what_it_has_brought(
    autojump_clock: trio.testing.MockClock,
) -> None:
    duty = Duty(SLOT + 1, DutyType.ATTESTER)
    begin = CHAIN.slot_start_s(SLOT) - trio.current_time()
    async with trio.open_nursery() as nursery:
        cluster = Cluster(4, nursery, lambda: begin + trio.current_time())
        actor = cluster.actor(0)
        with cluster.mailboxes[0].open() as inbox:
            nursery.start_soon(actor.run, inbox)
            cluster.mailboxes[0].tell(QbftReceived(1, signed(duty, 1, MessageType.COMMIT)))
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(150):
                cluster.mailboxes[0].tell(QbftReceived(3, signed(duty, 1, MessageType.PREPARE)))
            await trio.testing.wait_all_tasks_blocked()
            waiting = [message.type for _, message in actor._lives[duty].session._queue]
            assert waiting == [MessageType.COMMIT] + [MessageType.PREPARE] * 99
            nursery.cancel_scope.cancel()


async def test_a_peer_whose_credit_is_used_up_is_refused_and_the_others_decide(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.consensus.intake.CREDIT_BYTES", 2**20)
    monkeypatch.setattr("actors.consensus.intake.CREDIT_BYTES_A_SECOND", 2**10)
    monkeypatch.setattr("actors.consensus.intake.DEBT_BYTES", 2**10)
    async with running_cluster() as cluster:
        for byte in range(6):
            cluster.mailboxes[0].tell(QbftReceived(1, block(1, byte=byte, size=2**18)))
        for node in range(4):
            cluster.propose(node, ATTESTER)
        assert await cluster.agree(0, ATTESTER) == value_of(LEADER)
        await trio.sleep(1.0)
        assert cluster.numbers[0].errors >= 3  # its votes on ATTESTER bring what others have brought, and cost little
        errors = cluster.numbers[0].errors
        cluster.mailboxes[0].tell(QbftReceived(2, block(2, byte=7, size=2**18)))
        await trio.sleep(1.0)
        assert cluster.numbers[0].errors == errors
        await trio.sleep(SLOT_S)
        for node in range(4):
            cluster.propose(node, Duty(SLOT + 1, DutyType.ATTESTER))
        assert len(await agreements(cluster, [0, 1, 2, 3], Duty(SLOT + 1, DutyType.ATTESTER))) == 4
        assert cluster.numbers[0].errors == errors


async def test_intake_refuses_what_is_too_much_or_too_old(autojump_clock: trio.testing.MockClock) -> None:
    intake = Intake()
    for number in range(QUEUED_MESSAGES):
        intake.put(b"%d" % number)
    with pytest.raises(MessageFault, match="too many"):
        intake.put(b"too much")
    assert [await intake.take() for _ in range(2)] == [b"0", b"1"]
    intake.put(b"room again")
    await trio.sleep(6.0)
    intake.put(b"fresh")
    for _ in range(QUEUED_MESSAGES - 1):
        with pytest.raises(MessageFault, match="too long"):
            await intake.take()
    assert await intake.take() == b"fresh"
    with trio.move_on_after(1.0):
        pytest.fail(f"nothing came: {await intake.take()!r}")
    intake.put(b"not lost")
    assert await intake.take() == b"not lost"


async def test_intake_limits_bytes_but_takes_one_of_the_longest() -> None:
    intake = Intake()
    long = bytes(40 * 2**20)
    intake.put(long)
    with pytest.raises(MessageFault, match="too many"):
        intake.put(long)
    assert await intake.take() == long
    intake.put(b"short")
    intake.put(long)


async def test_credit_is_used_up_waited_for_and_comes_back(autojump_clock: trio.testing.MockClock) -> None:
    intake, began = Intake(), trio.current_time()

    def elapsed() -> float:
        return trio.current_time() - began

    await trio.sleep(1000.0)  # being quiet for long earns no more than the whole credit
    began = trio.current_time()
    await intake.spend(CREDIT_BYTES)
    assert elapsed() == 0.0
    await intake.spend(CREDIT_BYTES_A_SECOND // 2)
    assert elapsed() == pytest.approx(0.5)
    with pytest.raises(MessageFault, match="too much work"):
        await intake.spend(DEBT_BYTES + 1)
    await intake.spend(0)  # the next step of work that is paid for
    assert elapsed() == pytest.approx(0.5)
    await intake.spend(DEBT_BYTES)
    assert elapsed() == pytest.approx(1.5)
    await trio.sleep(2.0)
    await intake.spend(2 * CREDIT_BYTES_A_SECOND)
    assert elapsed() == pytest.approx(3.5)


async def test_who_gives_up_waiting_for_credit_has_spent_it(autojump_clock: trio.testing.MockClock) -> None:
    intake, began = Intake(), trio.current_time()
    await intake.spend(CREDIT_BYTES)
    with trio.move_on_after(0.25):
        await intake.spend(DEBT_BYTES)
    await intake.spend(1)
    assert trio.current_time() - began == pytest.approx(1.0, abs=0.01)
