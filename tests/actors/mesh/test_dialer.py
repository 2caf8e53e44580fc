"""The dialer: the first connection wins, the rest is cancelled, nothing is left open; and the log rules of sends."""

from typing import Any, cast

import pytest
import trio
import trio.testing

from actors.change_log import ChangeLog
from actors.mesh.connection import Connection
from actors.mesh.dialer import DialOutcome, dial
from actors.mesh.faults import DialFault
from actors.mesh.send_log import SendLog
from actors.mesh.tcp import TcpTransport
from charon_actors.p2p.dial import MAX_PARALLEL_DIALS, PlannedDial, plan_dials
from charon_actors.p2p.multiaddr import Multiaddr, decode_multiaddr


class Fake:
    """Stands in for a connection: only whether it was closed matters here."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def close(self, reason: str) -> None:
        self.reasons.append(reason)


def private(count: int) -> list[Multiaddr]:
    return [decode_multiaddr(f"/ip4/10.0.0.1/tcp/{port}") for port in range(1, count + 1)]


class Net:
    """What each port does: seconds until it answers, or None for a refusal. Notes when each attempt began and how it ended."""

    def __init__(self, ports: dict[int, float | None]) -> None:
        self.ports, self.began, self.made = ports, {}, {}  # type: ignore[var-annotated]
        self.running = self.most = self.cancelled = 0

    async def attempt(self, planned: PlannedDial) -> Connection:
        port = int(str(planned.address).rsplit("/", 1)[1])
        self.began[port] = trio.current_time()
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            delay = self.ports[port]
            if delay is None:
                await trio.lowlevel.checkpoint()
                raise DialFault("refused")
            await trio.sleep(delay)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        self.made[port] = Fake()
        return cast(Connection, self.made[port])


async def test_the_first_to_answer_wins_and_the_others_are_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    net = Net({1: 4.0, 2: 0.1, 3: 1.0})
    outcome = await dial(plan_dials(private(3)), net.attempt, 60.0)
    assert outcome.connection is cast(Any, net.made[2])
    assert str(outcome.address) == "/ip4/10.0.0.1/tcp/2"
    assert (net.cancelled, outcome.failures) == (2, {})


async def test_a_refusal_starts_the_next_one_at_once(autojump_clock: trio.testing.MockClock) -> None:
    net = Net({1: None, 2: None, 3: 0.0})
    outcome = await dial(plan_dials(private(3)), net.attempt, 60.0)
    assert outcome.connection is not None
    assert set(net.began.values()) == {0.0}
    assert list(outcome.failures.values()) == ["refused", "refused"]


async def test_at_most_eight_at_a_time_and_each_has_its_limit(autojump_clock: trio.testing.MockClock) -> None:
    net = Net(dict.fromkeys(range(1, 21), 1000.0))
    outcome = await dial(plan_dials(private(20)), net.attempt, 60.0)
    assert outcome.connection is None
    assert net.most == MAX_PARALLEL_DIALS
    assert len(outcome.failures) == 20
    assert trio.current_time() == pytest.approx(15.0, abs=1.0), "three rounds of 5 s"


async def test_the_whole_dial_has_a_limit(autojump_clock: trio.testing.MockClock) -> None:
    net = Net({1: 1000.0})
    assert (await dial(plan_dials(private(1)), net.attempt, 2.0)).connection is None
    assert trio.current_time() == 2.0


async def test_two_winners_in_one_instant_leave_one_connection(autojump_clock: trio.testing.MockClock) -> None:
    net = Net({1: 0.06, 2: 0.03})  # both answer at 0.06
    outcome = await dial(plan_dials(private(2)), net.attempt, 60.0)
    assert outcome.connection is not None
    others = [fake for fake in net.made.values() if fake is not outcome.connection]
    assert all(fake.reasons for fake in others)


async def test_cancelled_at_any_instant_it_leaves_nothing_open(autojump_clock: trio.testing.MockClock) -> None:
    for n in range(40):
        net = Net({1: 0.02, 2: 0.02, 3: 0.02})
        outcome: DialOutcome | None = None
        with trio.move_on_after(n / 1000):
            outcome = await dial(plan_dials(private(3)), net.attempt, 60.0)
        kept = outcome.connection if outcome is not None else None
        assert all(fake.reasons for fake in net.made.values() if fake is not kept)
        assert net.running == 0


@pytest.mark.parametrize("name", ["☃.example", "a..b", "x" * 64])
async def test_a_name_that_cannot_be_asked_for_is_that_addresss_failure(name: str) -> None:
    """☃ is good enough for IDNA 2003, and so for a multiaddr; the others are put together past its check."""
    address = Multiaddr((("dns4", name.encode()), ("tcp", b"\0\1")))

    async def attempt(planned: PlannedDial) -> Connection:
        await TcpTransport().dial(planned.address)
        raise AssertionError("there is no such place")

    outcome = await dial(plan_dials([address]), attempt, timeout_s=5.0)
    assert outcome.failures == {address: "not a DNS name"}


async def test_a_bug_is_that_addresss_failure_and_leaves_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    async def attempt(planned: PlannedDial) -> Connection:
        await trio.lowlevel.checkpoint()
        if str(planned.address).endswith("/1"):
            raise ZeroDivisionError("a bug of ours")
        return cast(Connection, Fake())

    outcome = await dial(plan_dials(private(2)), attempt, 5.0)
    assert outcome.connection is not None
    assert list(outcome.failures.values()) == ["ZeroDivisionError: a bug of ours"]
    printed = capsys.readouterr().out
    assert "Dial failed unexpectedly" in printed
    assert "ZeroDivisionError" in printed


def test_one_warning_for_a_failing_peer_and_one_line_when_it_is_back() -> None:
    results = [True, False, False, True, False, True, True, True, True]
    log = SendLog()
    assert [log.add(result) for result in results] == [None, "failing", None, None, "failing", None, None, "recovered", None]


def test_the_first_failure_is_news() -> None:
    assert SendLog().add(False) == "failing"


def test_the_same_text_is_news_again_after_ten_minutes() -> None:
    log = ChangeLog()
    assert [log.is_due(what, now) for what, now in (("a", 0), ("a", 599), ("b", 600), ("b", 1199), ("b", 1200))] == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_two_reasons_that_take_turns_do_not_fill_the_log() -> None:
    log = ChangeLog(repeat_s=600.0, calm_s=30.0)
    assert [log.is_due(what, now=now) for now, what in enumerate("ababab")] == [True, *[False] * 5]
    assert log.is_due("b", now=30.0)
    assert not log.is_due("b", now=629.0)
    assert log.is_due("b", now=630.0)
    log.clear()
    assert log.is_due("a", now=631.0)
