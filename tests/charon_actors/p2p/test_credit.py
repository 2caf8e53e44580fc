"""Credit of an identity: honest loads never wait, floods do, and who goes on rests. Loads: specification 03 §5, §10."""

import pytest

from charon_actors.p2p.credit import (
    BYTE_MS,
    FRAME_MS,
    OPENED_MS,
    PEER_BURST_MS,
    PEER_RATE_MS,
    RELAY_BURST_MS,
    RELAY_RATE_MS,
    SLICE_MS,
    Credit,
    Use,
    serving_cost_ms,
)
from charon_actors.p2p.identify import IDENTIFY_PUSH

CONSENSUS, PARTIALS = "/charon/consensus/qbft/2.0.0", "/charon/parsigex/2.0.0"
HOUR_S = 3600.0


def message_ms(size: int, protocol: str = CONSENSUS) -> float:
    """A stream with one message, as Go sends it: SYN, header and proposal, length, body, FIN."""
    frames = 5 + size // 16384
    return OPENED_MS + serving_cost_ms(protocol) + frames * FRAME_MS + size * BYTE_MS


def waits(loads: list[tuple[float, float]]) -> float:
    """The longest wait of (instant, cost) pairs."""
    credit, longest = Credit(0.0), 0.0
    for now, cost_ms in loads:
        credit.spend(cost_ms, now)
        longest = max(longest, credit.wait_s(now))
    return longest


def test_busy_slots_for_an_hour_never_wait() -> None:
    """Twelve duties a slot of 4 s, ten messages each, all in the same instant; a ping a second; 64 validators of 1 KiB each."""
    slots = [(4.0 * slot, 120 * message_ms(64 * 1024)) for slot in range(900)]
    pings = [(float(second), message_ms(64)) for second in range(3600)]
    assert waits(sorted(slots + pings)) == 0.0


def test_a_thousand_partial_signatures_one_by_one_never_wait() -> None:
    """signatures/peers.py expects that of some validator clients: at once, and again an epoch of 32 slots later."""
    assert waits([(epoch * 384.0, message_ms(400, PARTIALS)) for epoch in range(3) for _ in range(1000)]) == 0.0


@pytest.mark.parametrize("size", [16 * 2**20, 32 * 2**20, 128 * 2**20])
def test_the_largest_messages_never_wait(size: int) -> None:
    assert waits([(0.0, message_ms(size)), (0.5, message_ms(size))]) == 0.0


def test_dkg_sync_never_waits() -> None:
    """03 §5.2: a message every 100 ms, its answer the other way, for a ceremony of an hour."""
    assert waits([(tick / 10, 0.2) for tick in range(36_000)]) == 0.0


def test_a_relay_carries_two_floods_that_are_held_to_their_rate() -> None:
    credit = Credit(0.0, rate_ms=RELAY_RATE_MS, burst_ms=RELAY_BURST_MS)
    for second in range(600):
        credit.spend(2 * (PEER_RATE_MS + (PEER_BURST_MS if second == 0 else 0)), float(second))
        assert credit.wait_s(second + 1.0) == 0.0


def flood(credit: Credit, now: float, limit_s: float = HOUR_S) -> tuple[float, float]:
    """Spends all it can, slice by slice; when it is sent away, and what it has spent by then."""
    began, spent = now, 0.0
    while now - began < limit_s:
        credit.spend(SLICE_MS, now)
        spent += SLICE_MS
        wait_s = credit.wait_s(now)
        now += wait_s or SLICE_MS / 1000
        if wait_s and credit.strain(wait_s, now):
            return now, spent
    return now, spent


def test_a_flood_gets_its_burst_and_its_rate_and_is_then_sent_away() -> None:
    credit = Credit(0.0)
    ended, spent = flood(credit, 0.0)
    assert 15.0 <= ended <= 20.0
    assert spent <= PEER_BURST_MS + PEER_RATE_MS * ended + SLICE_MS


def test_each_rest_is_longer_and_good_behaviour_is_believed_after_an_hour() -> None:
    credit, now, rests = Credit(0.0), 0.0, []
    for _ in range(7):
        now, _ = flood(credit, now)
        rests.append(credit.rest(now))
        assert credit.rests_for_s(now + rests[-1] - 1.0) == pytest.approx(1.0)
        now += rests[-1]
        assert credit.rests_for_s(now) == 0.0
    assert rests == [30.0, 60.0, 120.0, 240.0, 480.0, 900.0, 900.0]
    assert not credit.is_untouched(now + HOUR_S - 10.0)
    assert credit.is_untouched(now + HOUR_S + 10.0)
    assert credit.rest(now + HOUR_S + 10.0) == 30.0


def test_a_burst_now_and_then_is_no_strain() -> None:
    """Twice the burst every minute: 15 s of waiting each time would be the limit, and it falls while nobody waits."""
    credit = Credit(0.0)
    for minute in range(60):
        for _ in range(10):
            now = minute * 60.0
            assert not credit.strain(0.5, now)


def test_who_uses_little_is_not_heavy() -> None:
    use: Use[str] = Use()
    for tick in range(100):
        use.add("flood", 10.0, tick / 10)
        use.add("another", 10.0, tick / 10)
        use.add("honest", 1.0, tick / 10)
    assert sorted(use.heavy(10.0)) == ["another", "flood"]
    use.forget("flood")
    use.forget("another")
    assert use.heavy(10.0) == ["honest"]


def test_a_push_costs_more_than_a_message() -> None:
    assert serving_cost_ms(IDENTIFY_PUSH) > serving_cost_ms(CONSENSUS)
