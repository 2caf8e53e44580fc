"""What the beacon nodes say of the chain, again and again: new forks, other networks, nodes that come back."""

from collections.abc import Iterator
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from actors.beacon import (
    BeaconFault,
    BeaconUnavailable,
    Forward,
    NodeVersion,
    OpenEvents,
    ProposerDuties,
    SyncStatus,
    chain_watch,
)
from actors.mailbox import Request
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.forks import Fork
from tests.actors.beacon.test_beacon_actor import GENESIS, LOAD, SCHEDULE, SPEC, SYNCING, beacon_of, node, proposer_answer
from tests.actors.beacon.upstream import Scripted, Upstream, chain_answers, syncing

VERSION = "/eth/v1/node/version"
OTHER_NETWORKS = ({"genesis_validators_root": "0x" + "ee" * 32}, {"genesis_time": "1600000012"})


@pytest.fixture
def log() -> Iterator[list[Any]]:
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE_INTERVAL_S", "CHAIN_INTERVAL_S", "RETRY_MOST_S"):
        monkeypatch.setattr(chain_watch, name, 0.05)


def announce(upstream: Upstream, fulu_epoch: int) -> None:
    """As after an upgrade of the beacon node."""
    events = upstream.answers["/eth/v1/events"]
    chain_answers(upstream, fulu_epoch=fulu_epoch)
    upstream.answers["/eth/v1/events"] = events


def other_network(upstream: Upstream, **changes: str) -> None:
    facts = {"genesis_time": "1600000000", "genesis_validators_root": "0x" + "ab" * 32, "genesis_fork_version": "0x00000001"}
    upstream.answers[GENESIS] = Scripted(body={"data": {**facts, **changes}})


def refused(log: list[Any]) -> list[Any]:
    return [entry for entry in log if entry["event"] == "Beacon node is on another network; it is not used"]


@pytest.mark.usefixtures("hurry")
async def test_a_fork_that_is_announced_while_we_run_is_told_once(log: list[Any]) -> None:
    bn, told = node(), list[Chain]()
    announce(bn, fulu_epoch=2**64 - 1)
    async with beacon_of([bn], on_chain=told.append) as beacon:
        assert Fork.FULU not in (await beacon.ask(LOAD)).fork_epochs
        await bn.wait_until(lambda: len(bn.saw(SCHEDULE)) > 3)
        assert not told, "what hasn't changed is not told"
        announce(bn, fulu_epoch=9)
        await bn.wait_until(lambda: bool(told))
        seen = len(bn.saw(SCHEDULE))
        await bn.wait_until(lambda: len(bn.saw(SCHEDULE)) > seen + 2)
        assert await beacon.ask(LOAD) is told[0]
    [chain] = told
    assert (chain.fork_at(8), chain.fork_at(9)) == (Fork.ELECTRA, Fork.FULU)
    assert (chain.fork_version_at(8).hex(), chain.fork_version_at(9).hex()) == ("00000001", "06000001")
    [line] = [entry for entry in log if entry["event"] == "The chain's forks have changed"]
    assert line["log_level"] == "info"
    assert "0x06000001 from epoch 9" in line["now"]
    assert "0x06000001" not in line["were"]


async def test_of_an_old_and_an_upgraded_node_the_upgraded_one_is_believed_from_the_start() -> None:
    old, upgraded = node("old"), node("upgraded")
    announce(old, fulu_epoch=2**64 - 1)
    announce(upgraded, fulu_epoch=9)
    upgraded.answers[SCHEDULE].delay_s = 0.2  # type: ignore[union-attr]
    told: list[Chain] = []
    async with beacon_of([old, upgraded], on_chain=told.append) as beacon:
        assert (await beacon.ask(LOAD)).fork_at(9) == Fork.FULU
    assert not told, "nothing has changed since"


async def test_a_node_that_comes_back_is_read_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_watch, "STATE_INTERVAL_S", 0.05)
    monkeypatch.setattr(chain_watch, "RETRY_MOST_S", 0.05)
    bn, told = node(), list[Chain]()
    async with beacon_of([bn], on_chain=told.append):
        asked = len(bn.saw(SYNCING))
        await bn.wait_until(lambda: len(bn.saw(SYNCING)) > asked + 3)
        assert len(bn.saw(SCHEDULE)) == 1, "every five minutes, as long as it is there"
        bn.answers[SYNCING] = Scripted(503)
        asked = len(bn.saw(SYNCING))
        await bn.wait_until(lambda: len(bn.saw(SYNCING)) > asked + 1)
        announce(bn, fulu_epoch=9)
        await bn.wait_until(lambda: bool(told))


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("changes", OTHER_NETWORKS)
async def test_a_node_that_is_on_another_network_now_is_refused_loudly(log: list[Any], changes: dict[str, str]) -> None:
    turned, good, told = node("turned"), node("good"), list[Chain]()
    for upstream in (turned, good):
        upstream.answers[VERSION] = Scripted(body={"data": {"version": upstream.name}})
    async with beacon_of([turned, good], on_chain=told.append) as beacon:
        other_network(turned, **changes)
        await turned.wait_until(lambda: bool(refused(log)))
        turned.seen.clear()
        for _ in range(3):
            assert await beacon.ask(NodeVersion()) == "good"
        assert not turned.saw(VERSION)
    [line] = refused(log)
    assert (line["log_level"], line["node"]) == ("error", turned.url)
    assert not told


@pytest.mark.parametrize("changes", OTHER_NETWORKS)
async def test_a_fallback_on_another_network_is_found_out_before_its_answer_counts(
    log: list[Any], changes: dict[str, str]
) -> None:
    """The primary told the chain at the start, so nobody had asked the fallback."""
    bn, fallback = node(), node("fallback")
    other_network(fallback, **changes)
    bn.answers["/eth/v1/validator/duties/proposer/5"] = Scripted(503)
    fallback.answers["/eth/v1/validator/duties/proposer/5"] = proposer_answer
    async with beacon_of([bn], [fallback]) as beacon:
        assert not fallback.saw(GENESIS)
        with pytest.raises(BeaconFault, match="another network"):
            await beacon.ask(ProposerDuties(5))
    assert not fallback.saw("/eth/v1/validator/duties/proposer/5")
    assert len(refused(log)) == 1


async def test_nothing_is_passed_on_to_a_fallback_on_another_network(log: list[Any]) -> None:
    bn, fallback = node(), node("fallback")
    other_network(fallback, genesis_validators_root="0x" + "ee" * 32)
    bn.answers["/x"] = Scripted(503)
    fallback.answers["/x"] = Scripted(body={})
    async with beacon_of([bn], [fallback]) as beacon:
        assert (await beacon.ask(Forward("GET", "/x", b"", (), b""))).status == 503
    assert not fallback.saw("/x")
    assert len(refused(log)) == 1


async def test_a_fallback_that_nobody_needs_is_checked_all_the_same(log: list[Any]) -> None:
    bn, fallback = node(), node("fallback")
    other_network(fallback, genesis_validators_root="0x" + "ee" * 32)
    async with beacon_of([bn], [fallback]):
        await bn.wait_until(lambda: bool(refused(log)))  # within RETRY_MOST_S, not only when it is needed


async def test_a_primary_that_was_up_but_did_not_describe_its_chain_at_the_start_is_checked_later(log: list[Any]) -> None:
    good, other = node("good"), node("other")
    other_network(other, genesis_validators_root="0x" + "ee" * 32)
    other.answers[SPEC] = Scripted(503)
    for upstream in (good, other):
        upstream.answers[VERSION] = Scripted(body={"data": {"version": upstream.name}})
    good.answers[VERSION].delay_s = 0.3  # type: ignore[union-attr]
    async with beacon_of([good, other]) as beacon:
        assert await beacon.ask(NodeVersion()) == "good", "the faster one is on another network"
        assert not other.saw(VERSION)
    assert len(refused(log)) == 1


async def test_a_node_whose_genesis_can_not_be_had_is_not_asked_for_anything_else() -> None:
    good, mute = node("good"), node("mute")
    mute.answers[GENESIS] = Scripted(503)
    for upstream in (good, mute):
        upstream.answers[VERSION] = Scripted(body={"data": {"version": upstream.name}})
    good.answers[VERSION].delay_s = 0.2  # type: ignore[union-attr]
    async with beacon_of([good, mute]) as beacon:
        assert await beacon.ask(NodeVersion()) == "good"
        assert not mute.saw(VERSION)
        chain_answers(mute)
        mute.answers[VERSION] = Scripted(body={"data": {"version": "mute"}})
        assert await beacon.ask(NodeVersion()) == "mute"


async def test_after_a_lost_connection_the_network_is_asked_for_before_the_next_answer_counts(log: list[Any]) -> None:
    """The beacon node's operator has started it anew, with another network's flag; the regular look would come 30 s later."""
    bn = node()
    async with beacon_of([bn]) as beacon:
        assert await beacon.ask(NodeVersion()) == "Fake/v1"
        bn.answers[VERSION] = Scripted(breaks_off=True, headers={"content-length": "5"})
        with pytest.raises(BeaconUnavailable):
            await beacon.ask(NodeVersion())
        chain_answers(bn)
        other_network(bn, genesis_validators_root="0x" + "ee" * 32)
        seen = len(bn.saw(VERSION))
        with pytest.raises(BeaconFault, match="another network"):
            await beacon.ask(NodeVersion())
        assert len(bn.saw(VERSION)) == seen
    assert len(refused(log)) == 1


async def test_the_network_is_asked_for_once_however_many_calls_wait_for_it() -> None:
    good, late = node("good"), node("late")
    late.answers[SPEC] = Scripted(503)
    async with beacon_of([good, late]) as beacon:
        before = len(late.saw(GENESIS))
        late.answers[VERSION] = Scripted(body={"data": {"version": "late"}})
        good.answers[VERSION] = Scripted(404)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(beacon.ask, NodeVersion())
        assert len(late.saw(VERSION)) == 20
        assert len(late.saw(GENESIS)) <= before + 2  # the check, and perhaps the regular look


async def test_with_no_node_on_the_right_network_everything_is_unavailable(log: list[Any], hurry: None) -> None:
    bn = node()
    async with beacon_of([bn]) as beacon:
        other_network(bn, genesis_validators_root="0x" + "ee" * 32)
        await bn.wait_until(lambda: bool(refused(log)))
        requests: list[Request[Any]] = [
            NodeVersion(),
            SyncStatus(),
            OpenEvents(b"topics=head"),
            Forward("GET", "/x", b"", (), b""),
        ]
        for request in requests:
            with pytest.raises(BeaconUnavailable):
                await beacon.ask(request)


async def test_event_streams_come_from_a_synced_node() -> None:
    behind, synced = node("behind"), node("synced")
    behind.answers[SYNCING] = syncing(True, 400)
    stream = Scripted(headers={"content-type": "text/event-stream"}, chunks=[b"event: head\ndata: {}\n\n"], is_endless=True)
    async with beacon_of([behind, synced]) as beacon:
        await behind.wait_until(lambda: bool(behind.saw(SYNCING) and synced.saw(SYNCING)))
        synced.answers[VERSION] = Scripted(404)
        for _ in range(3):
            await beacon.ask(NodeVersion())  # the one that is behind wins
        behind.answers["/eth/v1/events"] = synced.answers["/eth/v1/events"] = stream
        answer = await beacon.ask(OpenEvents(b"topics=head&client"))
        assert [seen for seen in synced.saw("/eth/v1/events") if "client" in seen.query]
        await answer.body.aclose()
    assert not [seen for seen in behind.saw("/eth/v1/events") if "client" in seen.query]


@pytest.mark.usefixtures("hurry")
async def test_forks_that_one_of_three_invents_are_not_followed_and_two_are(log: list[Any]) -> None:
    honest, other, liar = node("honest"), node("other"), node("liar")
    for upstream in (honest, other, liar):
        announce(upstream, fulu_epoch=2**64 - 1)
    told: list[Chain] = []
    async with beacon_of([honest, other, liar], on_chain=told.append) as beacon:
        for epoch in (9, 10, 11, 12):
            announce(liar, fulu_epoch=epoch)
            seen = len(liar.saw(SCHEDULE))
            await liar.wait_until(lambda seen=seen: len(liar.saw(SCHEDULE)) > seen + 2)  # type: ignore[misc]
        assert not told
        assert Fork.FULU not in (await beacon.ask(LOAD)).fork_epochs
        announce(other, fulu_epoch=12)
        await other.wait_until(lambda: bool(told))
    [chain] = told
    assert chain.fork_at(12) == Fork.FULU
    doubts = [entry for entry in log if "alone announces other forks" in entry["event"]]
    assert doubts


@pytest.mark.usefixtures("hurry")
async def test_forks_that_change_without_end_are_followed_three_times_an_hour() -> None:
    bn, told = node(), list[Chain]()
    async with beacon_of([bn], on_chain=told.append):
        for epoch in range(100, 112):
            announce(bn, fulu_epoch=epoch)
            seen = len(bn.saw(SCHEDULE))
            await bn.wait_until(lambda seen=seen: len(bn.saw(SCHEDULE)) > seen + 2)  # type: ignore[misc]
    assert 1 <= len(told) <= 3
