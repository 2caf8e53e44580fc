"""The table of specification 10 §2 by itself: which of several rows is told, and when peers and validator client count as missing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from actors.beacon import BeaconFault, LoadChain, SyncState, SyncStatus
from actors.beacon import Message as BeaconMessage
from actors.facts import Fact
from actors.mailbox import Inbox, Mailbox, open_actor
from actors.slashing.facts import OnlyListening
from actors.validator_api.facts import RequestSeen
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.networks import network_by_name
from supervisors.chain_facts import ChainFacts
from supervisors.readiness import BeaconPeersSeen, ReadinessChanged, ReadinessWatch, Readings, verdict

SLOT_S, SLOTS = 1.0, 4
CHAIN = Chain(0.0, bytes(32), SLOT_S, SLOTS, (), {Fork.FULU: 0}, bytes(4))
REQUEST = RequestSeen("node_version", "", 200, 0.0, "application/json", "")
SYNCED = SyncState(is_syncing=False, sync_distance=0, peers=50, raw={})
ALL_WRONG = SyncState(is_syncing=True, sync_distance=321, peers=0, raw={})


@pytest.mark.parametrize(
    ("look", "expected"),
    [  # from the worst to the best: in each all that the later rows ask about is wrong as well
        (Readings(None, True, True, True), (2, "beacon node down")),
        (Readings(ALL_WRONG, True, True, True), (3, "beacon node not synced")),
        (Readings(SyncState(False, 321, 0, {}), True, True, True), (7, "beacon node has zero peers")),
        (Readings(SyncState(False, 321, 1, {}), True, True, True), (8, "beacon node far behind")),
        (Readings(SyncState(False, 320, 1, {}), True, True, True), (4, "quorum peers not connected")),
        (Readings(SYNCED, False, True, True), (9, "slashing record was lost, only listening for two epochs")),
        (Readings(SYNCED, False, False, True), (5, "vc not connected")),
        (Readings(SYNCED, False, False, False), (1, "ok")),
        (Readings(SyncState(False, 0, None, {})), (1, "ok")),  # peers that it doesn't tell are not zero
    ],
)
def test_the_first_row_that_holds_is_told(look: Readings, expected: tuple[int, str]) -> None:
    assert verdict(look) == expected


class BeaconOf:
    """A beacon actor that says what `status` is; None: no beacon node answers."""

    def __init__(self) -> None:
        self.status: SyncState | None = SYNCED

    async def run(self, inbox: Inbox[Any]) -> None:
        async for mail in inbox:
            match mail.message:
                case LoadChain() as request:
                    mail.reply_to(request).send(CHAIN)
                case SyncStatus() as request:
                    reply = mail.reply_to(request)
                    reply.send(self.status) if self.status is not None else reply.fail(BeaconFault(None, "nobody answers"))


class Stage:
    """A watch at work, whose clock begins with the chain's."""

    def __init__(self, watch: ReadinessWatch, beacon: BeaconOf, facts: list[Fact]) -> None:
        self.watch, self.beacon, self.facts = watch, beacon, facts
        self.connected = 0

    @property
    def state(self) -> int:
        return self.watch.board.state

    @property
    def states(self) -> list[int]:
        return [fact.state for fact in self.facts if isinstance(fact, ReadinessChanged)]


@asynccontextmanager
async def watching(peers: int = 4, threshold: int = 3, connected: int = 0) -> AsyncIterator[Stage]:
    beacon, facts = BeaconOf(), list[Fact]()
    hoodi = network_by_name("hoodi")
    assert hoodi is not None
    async with open_actor(Mailbox[BeaconMessage]("beacon"), lambda: beacon) as address, trio.open_nursery() as nursery:
        watch = ReadinessWatch(
            ChainFacts(address, hoodi),
            address,
            lambda: stage.connected,
            peers=peers,
            threshold=threshold,
            wall_clock=trio.current_time,
            on_fact=facts.append,
        )
        stage = Stage(watch, beacon, facts)
        stage.connected = connected
        nursery.start_soon(watch.run)
        yield stage
        nursery.cancel_scope.cancel()


async def test_a_fresh_node_lacks_peers_until_a_quorum_is_there(autojump_clock: trio.testing.MockClock) -> None:
    async with watching(connected=1) as stage:
        await trio.sleep(1.1)
        assert stage.state == 4
        stage.connected = 2  # of four operators three are a quorum, and we are one of them
        await stage.watch.ready.wait()
        assert stage.states == [4, 1]


async def test_a_threshold_above_the_quorum_is_what_is_needed(autojump_clock: trio.testing.MockClock) -> None:
    async with watching(threshold=4, connected=2) as stage:
        await trio.sleep(1.1)
        assert stage.state == 4


async def test_peers_are_missing_at_the_sixth_look_without_them_and_not_before(autojump_clock: trio.testing.MockClock) -> None:
    async with watching(connected=3) as stage:
        await stage.watch.ready.wait()
        began = trio.current_time()
        stage.connected = 0
        while stage.state == 1:
            stage.watch.hear(REQUEST)
            await trio.sleep(0.05)
        assert 5.5 * SLOT_S < trio.current_time() - began <= 6.1 * SLOT_S
        assert stage.state == 4


async def test_a_client_that_is_silent_for_an_epoch_is_missed_and_one_request_brings_it_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with watching(connected=3) as stage:
        await trio.sleep((2 * SLOTS + 0.1) * SLOT_S)  # the first epoch is given to it
        assert stage.states == [1, 5]
        stage.watch.hear(REQUEST)
        await trio.sleep((SLOTS + 0.5) * SLOT_S)
        assert stage.state == 1
        assert stage.states == [1, 5, 1]


async def test_a_guard_that_only_listens_is_said_until_it_signs(autojump_clock: trio.testing.MockClock) -> None:
    async with watching(connected=3) as stage:
        stage.watch.hear(OnlyListening(10.0))
        await trio.sleep(2)
        assert stage.state == 9
        assert not stage.watch.ready.is_set()
        stage.watch.hear(OnlyListening(0.0))
        await stage.watch.ready.wait()


async def test_a_beacon_node_that_is_down_is_said_and_its_peers_are_told_when_it_is_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with watching(connected=3) as stage:
        stage.beacon.status = None
        await trio.sleep(1.1)
        assert stage.state == 2
        assert not [fact for fact in stage.facts if isinstance(fact, BeaconPeersSeen)]
        stage.beacon.status = SYNCED
        await stage.watch.ready.wait()
        assert BeaconPeersSeen(50) in stage.facts
