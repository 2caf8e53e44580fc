"""The consensus actor: four nodes in memory, on a virtual clock. Source: specification 06 §8, §10, §13."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from actors.consensus import (
    PROTOCOL,
    Agree,
    Agreed,
    Consensus,
    ConsensusDecided,
    ConsensusFailed,
    ConsensusTimedOut,
    DeadlinePassed,
    InsufficientRoundChanges,
    Message,
    ProposeValue,
    QbftReceived,
    UnsupportedDuty,
    consensus_handler,
)
from actors.facts import Fact
from actors.mailbox import ActorDown, Mailbox, MailboxFull, Policy, open_actor
from charon_actors.crypto import k1_public_key
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.profile import Profile
from charon_actors.qbft.machine import Broadcast, MessageType
from charon_actors.qbft.messages import Verifier, encode_message, encode_value, sign_message
from charon_actors.qbft.session import Session

GENESIS = 1_700_000_000.0
SLOT_S = 12.0
PRIVATE_KEYS = [bytes([i + 1]) * 32 for i in range(7)]
PUBLIC_KEYS = [k1_public_key(key) for key in PRIVATE_KEYS]
CHAIN = Chain(GENESIS, bytes(32), SLOT_S, 32, (), {Fork.FULU: 0}, bytes(4))
SLOT = 100
ATTESTER = Duty(SLOT, DutyType.ATTESTER)  # 4 nodes: leader of round 1 is (100 + 2 + 1) % 4 = 3, of round 2 is 0
LEADER, NEXT_LEADER = 3, 0


def value_of(node: int) -> dict[str, bytes]:
    return {"0x" + f"{node:02x}" * 48: b"what node %d saw" % node * 10}


class Numbers:
    """Counts what an actor reports."""

    def __init__(self) -> None:
        self.rounds: list[tuple[str, str, int, int]] = []
        self.durations: list[float] = []
        self.timeouts = 0
        self.errors = 0
        self.insufficient: list[str] = []

    def hear(self, fact: Fact) -> None:
        match fact:
            case ConsensusDecided(kind, timer, round_, leader_index, duration_s):
                self.rounds.append((kind.label, timer, round_, leader_index))
                self.durations.append(duration_s)
            case ConsensusTimedOut():
                self.timeouts += 1
            case ConsensusFailed():
                self.errors += 1
            case InsufficientRoundChanges():
                self.insufficient.append(fact.outcome)
            case unknown:
                raise AssertionError(unknown)


class Cluster:
    """Consensus actors joined by a wire of 10 ms. `cut` nodes neither send nor receive."""

    DELAY_S = 0.01

    def __init__(self, nodes: int, nursery: trio.Nursery, clock: Callable[[], float]) -> None:
        self.nodes, self._nursery, self.clock = nodes, nursery, clock
        self.mailboxes: list[Mailbox[Message]] = [Mailbox(f"consensus {i}") for i in range(nodes)]
        self.numbers = [Numbers() for _ in range(nodes)]
        self.cut: set[int] = set()
        self.sent: list[tuple[int, bytes]] = []
        self._running: dict[int, trio.CancelScope] = {}

    def actor(self, node: int) -> Consensus:
        return Consensus(
            mesh=Link(self, node),
            own_index=node,
            private_key=PRIVATE_KEYS[node],
            public_keys=PUBLIC_KEYS[: self.nodes],
            validators=100,
            chain=CHAIN,
            profile=Profile.V1_11,
            wall_clock=self.clock,
            on_fact=self.numbers[node].hear,
        )

    async def boot(self, node: int) -> None:
        async def live(task_status: Any) -> None:
            with trio.CancelScope() as scope, self.mailboxes[node].open() as inbox:
                self._running[node] = scope
                actor = self.actor(node)
                task_status.started()
                await actor.run(inbox)

        await self._nursery.start(live)

    def crash(self, node: int) -> None:
        self._running.pop(node).cancel()

    def propose(self, node: int, duty: Duty) -> None:
        self.mailboxes[node].tell(ProposeValue(duty, value_of(node)))

    async def agree(self, node: int, duty: Duty) -> dict[str, bytes]:
        return (await self.mailboxes[node].ask(Agree(duty))).unsigned_data

    def deliver(self, sender: int, content: bytes) -> None:
        self.sent.append((sender, content))
        for node in range(self.nodes):
            if node != sender and not {node, sender} & self.cut:
                self._nursery.start_soon(self._deliver_later, sender, node, content)

    async def _deliver_later(self, sender: int, node: int, content: bytes) -> None:
        await trio.sleep(self.DELAY_S)
        self.mailboxes[node].tell(QbftReceived(sender, content))

    def sent_by(self, node: int) -> list[MessageType]:
        verifier = Verifier(PUBLIC_KEYS[: self.nodes])
        return [verifier.decode(content).message.type for sender, content in self.sent if sender == node]


class Link:
    def __init__(self, cluster: Cluster, node: int) -> None:
        self._cluster, self._node = cluster, node

    def broadcast(self, protocols: tuple[str, ...], message: bytes) -> None:
        assert protocols == (PROTOCOL,)
        self._cluster.deliver(self._node, message)


@asynccontextmanager
async def running_cluster(nodes: int = 4, down: frozenset[int] = frozenset()) -> AsyncIterator[Cluster]:
    """All actors but those in `down`, born a slot before ATTESTER's; the block begins at ATTESTER's start."""
    zero = trio.current_time()
    begin = CHAIN.slot_start_s(SLOT - 1) - zero
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nodes, nursery, lambda: begin + trio.current_time())
        for node in range(nodes):
            if node not in down:
                await cluster.boot(node)
        await trio.sleep(SLOT_S + SLOT_S / 3)
        yield cluster
        nursery.cancel_scope.cancel()


async def agreements(cluster: Cluster, nodes: list[int], duty: Duty) -> list[dict[str, bytes]]:
    found: dict[int, dict[str, bytes]] = {}

    async def ask(node: int) -> None:
        found[node] = await cluster.agree(node, duty)

    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(ask, node)
    return [found[node] for node in nodes]


async def test_four_nodes_decide_the_leaders_value_in_round_1(autojump_clock: trio.testing.MockClock) -> None:
    async with running_cluster() as cluster:
        for node in range(4):
            cluster.propose(node, ATTESTER)
        decided = await agreements(cluster, [0, 1, 2, 3], ATTESTER)
        assert decided == [value_of(LEADER)] * 4
        assert [numbers.rounds for numbers in cluster.numbers] == [[("attester", "eager_dlinear", 1, LEADER)]] * 4
        assert all(0.01 < numbers.durations[0] < 0.1 for numbers in cluster.numbers)
        assert all(numbers.errors == numbers.timeouts == 0 for numbers in cluster.numbers)
        assert await cluster.agree(1, ATTESTER) == value_of(LEADER)  # asked again: answered at once


async def test_one_node_down(autojump_clock: trio.testing.MockClock) -> None:
    async with running_cluster(down=frozenset({1})) as cluster:
        for node in (0, 2, 3):
            cluster.propose(node, ATTESTER)
        assert await agreements(cluster, [0, 2, 3], ATTESTER) == [value_of(LEADER)] * 3


async def test_leader_down_gives_round_2(autojump_clock: trio.testing.MockClock) -> None:
    async with running_cluster(down=frozenset({LEADER})) as cluster:
        for node in (0, 1, 2):
            cluster.propose(node, ATTESTER)
        began = trio.current_time()
        assert await agreements(cluster, [0, 1, 2], ATTESTER) == [value_of(NEXT_LEADER)] * 3
        assert 1.0 < trio.current_time() - began < 1.1  # round 1 ends 1 s after the duty's start
        assert cluster.numbers[1].rounds == [("attester", "eager_dlinear", 2, NEXT_LEADER)]


async def test_two_nodes_of_four_time_out_at_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    duty = Duty(SLOT + 1, DutyType.PROPOSER)
    async with running_cluster(down=frozenset({0, 1})) as cluster:
        await trio.sleep(8.0)
        cluster.propose(2, duty)
        began = cluster.clock()
        with pytest.raises(DeadlinePassed):
            await cluster.agree(2, duty)
        assert cluster.clock() == pytest.approx(CHAIN.slot_start_s(SLOT + 1) + 5.0, abs=0.01)
        assert cluster.clock() > began
        assert cluster.numbers[2].timeouts == 1
        assert cluster.numbers[2].insufficient == ["timeout"]
        with pytest.raises(DeadlinePassed):
            await cluster.agree(2, duty)


async def test_messages_may_come_before_one_takes_part(autojump_clock: trio.testing.MockClock) -> None:
    async with running_cluster(down=frozenset({1})) as cluster:  # with 1 down the quorum needs node 2
        for node in (0, 3):
            cluster.propose(node, ATTESTER)
        await trio.sleep(0.5)
        assert cluster.sent_by(2) == []
        began = trio.current_time()
        assert await cluster.agree(2, ATTESTER) == value_of(LEADER)
        assert trio.current_time() - began < 0.1
        assert cluster.numbers[2].rounds[0][2] == 1


@pytest.mark.parametrize("duty_type", [DutyType.AGGREGATOR, DutyType.SYNC_CONTRIBUTION])
async def test_asking_for_an_aggregation_starts_nothing_until_a_message_comes(
    duty_type: DutyType, autojump_clock: trio.testing.MockClock
) -> None:
    duty = Duty(SLOT, duty_type)
    async with running_cluster() as cluster:
        await trio.sleep(4.0)
        results: list[dict[str, bytes]] = []

        async def ask() -> None:
            results.append(await cluster.agree(1, duty))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(1.5)
            assert cluster.sent == []
            for node in (0, 2, 3):
                cluster.propose(node, duty)
            await trio.sleep(3.0)
            assert len(results) == 1
        assert MessageType.COMMIT in cluster.sent_by(1)


async def test_no_instance_starts_before_its_duty(autojump_clock: trio.testing.MockClock) -> None:
    duty = Duty(SLOT + 1, DutyType.ATTESTER)
    async with running_cluster() as cluster:
        for node in range(4):
            cluster.propose(node, duty)
        await trio.sleep(SLOT_S - 0.1)
        assert cluster.sent == []
        await trio.sleep(0.2)
        assert all(len(numbers.rounds) == 1 for numbers in cluster.numbers)


async def test_after_a_restart_the_duties_under_way_are_only_listened_to(autojump_clock: trio.testing.MockClock) -> None:
    async with running_cluster() as cluster:
        cluster.propose(1, ATTESTER)
        await trio.sleep(0.2)
        cluster.crash(1)
        await trio.sleep(0.2)
        await cluster.boot(1)
        before = len(cluster.sent)
        cluster.propose(1, ATTESTER)
        for node in (0, 2, 3):
            cluster.propose(node, ATTESTER)
        assert await cluster.agree(1, ATTESTER) == value_of(LEADER)
        assert [sender for sender, _ in cluster.sent[before:] if sender == 1] == []
        assert all(numbers.rounds for i, numbers in enumerate(cluster.numbers) if i != 1)
        # what begins after the restart is taken part in
        duty = Duty(SLOT + 1, DutyType.ATTESTER)
        cluster.propose(1, duty)
        await trio.sleep(SLOT_S + 1)
        assert 1 in [sender for sender, _ in cluster.sent[before:]]


@pytest.mark.parametrize(("later_s", "takes_part"), [(0.0, False), (0.2, False), (0.3, True)])
async def test_a_duty_that_begins_as_we_do_is_only_listened_to(
    later_s: float, takes_part: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """The clock may have been set back a little since an earlier life took part in it."""
    begin = CHAIN.slot_start_s(SLOT) - later_s - trio.current_time()
    async with trio.open_nursery() as nursery:
        cluster = Cluster(1, nursery, lambda: begin + trio.current_time())
        await cluster.boot(0)
        cluster.propose(0, Duty(SLOT, DutyType.PROPOSER))
        await trio.sleep(1.0)
        assert bool(cluster.sent) == takes_part
        nursery.cancel_scope.cancel()


async def test_an_asker_learns_of_a_crash_and_may_ask_again(autojump_clock: trio.testing.MockClock) -> None:
    async with running_cluster() as cluster:

        async def ask() -> None:
            with pytest.raises(ActorDown):
                await cluster.agree(1, ATTESTER)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(0.1)
            cluster.crash(1)


async def test_a_decided_instance_serves_a_node_that_was_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    async with running_cluster() as cluster:
        cluster.cut = {1}
        for node in range(4):
            cluster.propose(node, ATTESTER)
        await agreements(cluster, [0, 2, 3], ATTESTER)
        await trio.sleep(20.0)
        assert cluster.numbers[1].rounds == []
        cluster.cut = set()
        began = trio.current_time()
        assert await cluster.agree(1, ATTESTER) == value_of(LEADER)
        assert trio.current_time() - began < 1.5  # its next ROUND_CHANGE is answered


async def test_deciding_ends_with_the_deadline_and_leaves_nothing(autojump_clock: trio.testing.MockClock) -> None:
    duty = Duty(SLOT + 1, DutyType.PROPOSER)
    async with trio.open_nursery() as nursery:
        begin = CHAIN.slot_start_s(SLOT + 1) - 1.0 - trio.current_time()
        cluster = Cluster(1, nursery, lambda: begin + trio.current_time())
        actor = cluster.actor(0)
        with cluster.mailboxes[0].open() as inbox:
            nursery.start_soon(actor.run, inbox)
            cluster.propose(0, duty)
            assert await cluster.agree(0, duty) == value_of(0)
            assert list(actor._lives) == [duty]
            await trio.sleep(5.1)
            assert actor._lives == {}
            assert actor._allowance._left == [128 * 2**20]
            with pytest.raises(DeadlinePassed):
                await cluster.agree(0, duty)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("duty_type", [DutyType.INFO_SYNC, DutyType.RANDAO, DutyType.EXIT])
async def test_duties_without_unsigned_data_are_refused(duty_type: DutyType, autojump_clock: trio.testing.MockClock) -> None:
    async with running_cluster() as cluster:
        with pytest.raises(UnsupportedDuty):
            await cluster.agree(0, Duty(SLOT, duty_type))
        cluster.mailboxes[0].tell(ProposeValue(Duty(SLOT, duty_type), value_of(0)))
        await trio.sleep(1)
        assert cluster.sent == []


def signed(duty: Duty, node: int, kind: MessageType = MessageType.PREPARE, round_: int = 1, text: bytes = b"x") -> bytes:
    named, value = encode_value({"0x" + "ab" * 48: text})
    return encode_message(sign_message(PRIVATE_KEYS[node], duty, node, Broadcast(kind, round_, named)), {named: value})


@pytest.mark.parametrize(
    ("duty", "is_welcome"),
    [
        (ATTESTER, True),
        (Duty(SLOT + 64, DutyType.ATTESTER), True),
        (Duty(SLOT + 32 * 3, DutyType.ATTESTER), False),  # three epochs ahead
        (Duty(SLOT - 32, DutyType.ATTESTER), False),  # over since 3 s
        (Duty(SLOT - 1, DutyType.PROPOSER), False),
        (Duty(SLOT, DutyType.RANDAO), False),
        (Duty(0, DutyType.EXIT), False),
        (Duty(2**64 - 1, DutyType.ATTESTER), False),
    ],
)
async def test_gater_and_deadliner(duty: Duty, is_welcome: bool, autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        begin = CHAIN.slot_start_s(SLOT) + 4.0 - trio.current_time()
        cluster = Cluster(4, nursery, lambda: begin + trio.current_time())
        actor = cluster.actor(0)
        with cluster.mailboxes[0].open() as inbox:
            nursery.start_soon(actor.run, inbox)
            cluster.mailboxes[0].tell(QbftReceived(1, signed(duty, 1)))
            await trio.testing.wait_all_tasks_blocked()
            assert (duty in actor._lives) == is_welcome
            assert cluster.numbers[0].errors == (0 if is_welcome else 1)
            nursery.cancel_scope.cancel()


async def test_hostile_bytes_only_cost_a_count(autojump_clock: trio.testing.MockClock) -> None:
    async with running_cluster() as cluster:
        for content in (b"", b"\xff" * 100, b"\x0a\x00", signed(ATTESTER, 1)[:-5], bytes(1000)):
            cluster.mailboxes[0].tell(QbftReceived(1, content))
        for node in range(4):
            cluster.propose(node, ATTESTER)
        assert await cluster.agree(0, ATTESTER) == value_of(LEADER)
        assert cluster.numbers[0].errors == 5


async def test_one_instance_crashes_alone_and_goes_on_listening(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Duty(SLOT, DutyType.AGGREGATOR)
    original = Session.step

    def broken(self: Session, now: float) -> object:
        if self.duty == ATTESTER and not self.is_listening and self._own_index == 1:
            raise RuntimeError("a bug")
        return original(self, now)

    monkeypatch.setattr(Session, "step", broken)
    async with running_cluster() as cluster:
        for node in range(4):
            cluster.propose(node, ATTESTER)
        assert await agreements(cluster, [0, 1, 2, 3], ATTESTER) == [value_of(LEADER)] * 4
        assert cluster.numbers[1].errors == 1
        await trio.sleep(4.0)
        for node in range(4):
            cluster.propose(node, other)
        await agreements(cluster, [0, 1, 2, 3], other)
        assert cluster.numbers[1].rounds[0][0] == "aggregator"


async def test_a_flood_of_one_peer_neither_stops_nor_evicts_the_others(autojump_clock: trio.testing.MockClock) -> None:
    async with running_cluster(down=frozenset({1})) as cluster:
        for number in range(1000):
            cluster.mailboxes[2].tell(QbftReceived(1, signed(ATTESTER, 1, text=b"%d" % number)))
        for node in (0, 2, 3):
            cluster.propose(node, ATTESTER)
        assert await agreements(cluster, [0, 2, 3], ATTESTER) == [value_of(LEADER)] * 3


async def test_duties_that_one_peer_begins_are_limited(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.consensus.actor.SESSIONS_A_PEER", 5)
    async with running_cluster() as cluster:
        for ahead in range(8):
            cluster.mailboxes[0].tell(QbftReceived(1, signed(Duty(SLOT + 20 + ahead, DutyType.ATTESTER), 1)))
        await trio.sleep(0.1)
        assert cluster.numbers[0].errors == 3
        for node in range(4):
            cluster.propose(node, ATTESTER)
        assert await cluster.agree(0, ATTESTER) == value_of(LEADER)


async def test_an_asker_that_leaves_does_not_end_the_instance(autojump_clock: trio.testing.MockClock) -> None:
    async with running_cluster(down=frozenset({1})) as cluster:
        with trio.move_on_after(0.1):
            await cluster.agree(2, ATTESTER)
        for node in (0, 3):
            cluster.propose(node, ATTESTER)
        assert await cluster.agree(0, ATTESTER) == value_of(LEADER)  # needs node 2's vote


async def test_an_empty_proposal_is_refused_and_the_instance_lives(autojump_clock: trio.testing.MockClock) -> None:
    async with running_cluster() as cluster:
        cluster.mailboxes[0].tell(ProposeValue(ATTESTER, {}))
        for node in range(1, 4):
            cluster.propose(node, ATTESTER)
        assert await cluster.agree(0, ATTESTER) == value_of(LEADER)
        assert cluster.numbers[0].errors == 1


async def test_the_mailbox_pushes_back() -> None:
    mailbox: Mailbox[Message] = Mailbox("consensus", capacity=2)
    mailbox.tell(QbftReceived(0, b""))
    mailbox.tell(QbftReceived(0, b""))
    with pytest.raises(MailboxFull):
        mailbox.tell(QbftReceived(0, b""))


class OneMessage:
    """A stream that brings one message."""

    def __init__(self, content: bytes) -> None:
        self._content, self.limit, self.is_closed = content, 0, False

    async def read_delimited(self, limit: int) -> bytes:
        self.limit = limit
        await trio.lowlevel.checkpoint()
        return self._content

    def close(self) -> None:
        self.is_closed = True

    async def aclose(self) -> None:
        self.close()


async def test_the_handler_waits_for_room_as_long_as_its_time_lasts(autojump_clock: trio.testing.MockClock) -> None:
    mailbox: Mailbox[Message] = Mailbox("consensus", capacity=1, policy=Policy.WAIT)
    dropped: list[int] = []
    handler: Any = consensus_handler(mailbox.address, dropped.append)
    first, second, third = OneMessage(b"1"), OneMessage(b"2"), OneMessage(b"3")
    await handler(5, first)
    assert (first.limit, first.is_closed) == (32 * 2**20, True)
    began = trio.current_time()
    await handler(6, second)
    assert trio.current_time() - began == pytest.approx(5.0)
    assert (second.is_closed, dropped) == (True, [6])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handler, 7, third)
        await trio.sleep(2.0)
        with mailbox.open() as inbox:
            assert (await anext(inbox)).message == QbftReceived(5, b"1")
            assert (await anext(inbox)).message == QbftReceived(7, b"3")


async def test_round_changes_are_logged_in_plain_language(autojump_clock: trio.testing.MockClock) -> None:
    with capture_logs() as logs:
        async with running_cluster(down=frozenset({LEADER})) as cluster:
            for node in (0, 1, 2):
                cluster.propose(node, ATTESTER)
            await agreements(cluster, [0, 1, 2], ATTESTER)
    entries = [entry for entry in logs if entry["event"] == "Consensus round changed"]
    assert len(entries) == 3
    assert {entry["reason"] for entry in entries} == {"no pre-prepare, missing leader=[3]"}
    assert entries[0]["duty"] == "100/attester"
    assert (entries[0]["round"], entries[0]["new_round"], entries[0]["pre_prepare"]) == (1, 2, "___?")
    assert "did not propose" in entries[0]["hint"]


async def test_it_can_be_embedded(autojump_clock: trio.testing.MockClock) -> None:
    begin = CHAIN.slot_start_s(SLOT) - 1.0 - trio.current_time()
    async with trio.open_nursery() as nursery:
        cluster = Cluster(1, nursery, lambda: begin + trio.current_time())
        async with open_actor(cluster.mailboxes[0], lambda: cluster.actor(0)) as address:
            address.tell(ProposeValue(Duty(SLOT, DutyType.PROPOSER), value_of(0)))
            assert await address.ask(Agree(Duty(SLOT, DutyType.PROPOSER))) == Agreed(value_of(0), 1, 0)
