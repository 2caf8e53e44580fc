"""Turns, debts and memory of one identity's connections, on a virtual clock."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from actors.mesh.account import MEMBER_BYTES, TOTAL_BYTES, Account, Ledger
from charon_actors.p2p.credit import PEER_BURST_MS, PEER_RATE_MS, SLICE_MS
from tests.actors.mesh.rig import Numbers

MEMBERS = [(b"three", "three"), (b"two", "two"), (b"one", "one")]


class FakeStream:
    def __init__(self, connection: "Line", held_bytes: int) -> None:
        self.connection, self.held_bytes = connection, held_bytes


class Line:
    """What an account sees of a connection."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.streams: dict[int, Any] = {}
        self.work_ms = 0.0
        self.slices: list[float] = []
        self.is_cut_off = False
        account.enter(self)  # type: ignore[arg-type]

    def hold(self, held_bytes: int) -> FakeStream:
        stream = self.streams[len(self.streams)] = FakeStream(self, held_bytes)
        self.account.hold(held_bytes)
        return stream

    def cut_stream(self, stream: FakeStream) -> None:
        held, stream.held_bytes = stream.held_bytes, 0
        self.account.hold(-held)

    def cut_off(self, reason: str) -> None:
        self.is_cut_off = True

    async def spend(self, cost_ms: float = SLICE_MS) -> None:
        await self.account.pay(self, self._work(cost_ms))  # type: ignore[arg-type]
        self.work_ms += cost_ms

    def _work(self, cost_ms: float) -> Callable[[], float]:
        def work() -> float:
            self.slices.append(trio.current_time())
            return cost_ms

        return work

    async def flood(self) -> None:
        while not self.is_cut_off:
            await self.spend()


async def test_sixteen_floods_of_one_identity_get_one_rate_and_the_honest_one_among_them_hardly_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    numbers = Numbers()
    account = Ledger(numbers.hear, MEMBERS).account_of(b"three")
    floods, honest = [Line(account) for _ in range(15)], Line(account)
    longest = 0.0
    async with trio.open_nursery() as nursery:
        for line in floods:
            nursery.start_soon(line.flood)
        for _ in range(100):  # ten seconds
            await trio.sleep(0.1)
            began = trio.current_time()
            await honest.spend(0.1)
            longest = max(longest, trio.current_time() - began)
        assert sum(line.work_ms for line in floods) <= PEER_BURST_MS + 10.1 * PEER_RATE_MS + SLICE_MS * 16
        assert longest <= 2 * SLICE_MS / PEER_RATE_MS + 0.001  # the debt of the slice before, and never fifteen of them
        while not all(line.is_cut_off for line in floods):
            await trio.sleep(0.1)
            await honest.spend(0.1)
    assert not honest.is_cut_off


async def test_who_goes_on_is_cut_off_and_rests_and_who_used_little_stays(autojump_clock: trio.testing.MockClock) -> None:
    numbers = Numbers()
    ledger = Ledger(numbers.hear, MEMBERS)
    account = ledger.account_of(b"three")
    flood, honest = Line(account), Line(account)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood.flood)
            while not flood.is_cut_off:
                await trio.sleep(0.1)
                await honest.spend(0.1)
    assert not honest.is_cut_off
    assert ledger.is_resting(b"three")
    assert not ledger.is_resting(b"two")
    assert ledger.account_of(b"three") is account  # whoever asks: a restarted child, a new connection
    assert numbers.counts["charon_actors_p2p_cut_off_total three"] == 1
    await trio.sleep(30)
    assert not ledger.is_resting(b"three")


async def test_one_slice_of_an_identity_between_two_turns_of_everybody_else() -> None:
    account = Ledger(members=MEMBERS).account_of(b"three")
    lines = [Line(account) for _ in range(5)]
    turns = done = 0

    async def work(line: Line) -> None:
        nonlocal done
        for _ in range(20):
            await line.spend(SLICE_MS)
        done += 1

    async with trio.open_nursery() as nursery:
        for line in lines:
            nursery.start_soon(work, line)
        while done < len(lines):
            await trio.lowlevel.checkpoint()
            turns += 1
            assert sum(len(line.slices) for line in lines) <= turns + 1
    assert turns >= 5 * 20


async def test_cancelled_while_it_waits_the_turn_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    account = Ledger(members=MEMBERS).account_of(b"three")
    one, other = Line(account), Line(account)
    await one.spend(PEER_BURST_MS + PEER_RATE_MS)  # a second of debt
    with trio.move_on_after(0.5) as scope:
        await one.spend()
    assert scope.cancelled_caught
    began = trio.current_time()
    await other.spend()
    assert trio.current_time() - began == pytest.approx(0.5, abs=0.01)


async def test_work_that_raises_keeps_nobody_out() -> None:
    account = Ledger(members=MEMBERS).account_of(b"three")
    one, other = Line(account), Line(account)

    def fault() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await account.pay(one, fault)  # type: ignore[arg-type]
    with trio.fail_after(1):
        await other.spend()


async def test_the_largest_stream_of_a_member_goes_when_it_holds_too_much() -> None:
    account = Ledger(members=MEMBERS).account_of(b"three")
    lines = [Line(account) for _ in range(3)]
    small = lines[0].hold(2**20)
    large = lines[1].hold(40 * 2**20)
    late = lines[2].hold(30 * 2**20)
    assert [stream.held_bytes for stream in (small, large, late)] == [2**20, 0, 30 * 2**20]
    assert account.held_bytes == 31 * 2**20 <= MEMBER_BYTES


async def test_who_holds_less_than_a_share_is_never_touched_by_what_others_do() -> None:
    ledger = Ledger(members=[(bytes([number]), f"{number}") for number in range(15)])
    lines = [Line(ledger.account_of(bytes([number]))) for number in range(15)]
    share = TOTAL_BYTES // 15
    modest = lines[0].hold(share)
    for line in lines[1:]:
        for _ in range(16):
            line.hold(4 * 2**20)
    assert modest.held_bytes == share
    assert ledger.held_bytes <= TOTAL_BYTES


async def test_a_relay_that_changes_its_identity_has_no_end_of_accounts() -> None:
    ledger = Ledger(members=MEMBERS)
    for number in range(1000):
        ledger.account_of(number.to_bytes(4, "big"))
    assert len(ledger._accounts) <= 64 + len(MEMBERS)
