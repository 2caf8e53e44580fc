"""Dial plan and backoff: order, delays, limits (03 §2.3, §3.2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.p2p.backoff import AddressBackoff, Backoff
from charon_actors.p2p.dial import Reach, plan_dials, reach_of
from charon_actors.p2p.multiaddr import decode_multiaddr
from tests.charon_actors.p2p.test_identify_rules import CIRCUIT
from tests.charon_actors.p2p.vectors import counter_entropy


@pytest.mark.parametrize(
    ("text", "reach"),
    [
        ("/ip4/127.0.0.1/tcp/1", Reach.LOOPBACK),
        ("/ip6/::1/tcp/1", Reach.LOOPBACK),
        ("/ip4/10.1.2.3/tcp/1", Reach.PRIVATE),
        ("/ip4/172.16.0.1/tcp/1", Reach.PRIVATE),
        ("/ip4/169.254.1.1/tcp/1", Reach.PRIVATE),
        ("/ip6/fe80::1/tcp/1", Reach.PRIVATE),
        ("/ip6/fd00::1/tcp/1", Reach.PRIVATE),
        ("/ip4/8.8.8.8/tcp/1", Reach.PUBLIC),
        ("/ip6/2600::1/tcp/1", Reach.PUBLIC),
        ("/dns/node.example/tcp/1", Reach.PUBLIC),
    ],
)
def test_reach(text: str, reach: Reach) -> None:
    assert reach_of(decode_multiaddr(text)) is reach


def test_groups_run_side_by_side_and_relays_wait_for_public_addresses() -> None:
    texts = [
        "/ip4/8.8.8.8/tcp/9000",
        "/ip6/2600::1/tcp/9000",
        "/ip4/8.8.8.8/tcp/80",
        "/ip4/10.0.0.1/tcp/3",
        "/ip4/10.0.0.1/tcp/2",
        "/ip4/8.8.8.8/udp/9000/quic-v1",
        "/ip4/8.8.8.8/tcp/80",
    ]
    plan = plan_dials([*map(decode_multiaddr, texts), CIRCUIT])
    assert [(dial.delay_s, dial.timeout_s, str(dial.address)) for dial in plan] == [
        (0.0, 5.0, "/ip4/10.0.0.1/tcp/2"),
        (0.0, 15.0, "/ip6/2600::1/tcp/9000"),
        (0.03, 5.0, "/ip4/10.0.0.1/tcp/3"),
        (0.25, 15.0, "/ip4/8.8.8.8/tcp/80"),
        (0.5, 15.0, "/ip4/8.8.8.8/tcp/9000"),
        (0.5, 15.0, str(CIRCUIT)),
    ]
    assert plan_dials([CIRCUIT])[0].delay_s == 0.0


def test_backoff_starts_at_exactly_the_base_and_stays_within_its_jitter() -> None:
    backoff = Backoff(1.0, 120.0, counter_entropy("backoff"))
    delays = [backoff.next_delay_s() for _ in range(30)]
    assert delays[0] == 1.0
    for n, delay in enumerate(delays[1:], 1):
        expected = min(1.6**n, 120.0)
        assert 0.8 * expected <= delay <= 1.2 * expected
    assert len(set(delays[-5:])) == 5, "jitter"
    backoff.reset()
    assert backoff.next_delay_s() == 1.0


def test_addresses_back_off_one_by_one() -> None:
    backoff = AddressBackoff[str]()
    waits = []
    for _ in range(20):
        backoff.fail("a", now=1000.0)
        waits.append(backoff.free_from("a", now=1000.0) - 1000.0)
    assert waits[:4] == [5.0, 6.0, 9.0, 14.0], "5 s, then 5 s + n² s"
    assert max(waits) == 300.0
    assert backoff.free_from("b", now=1000.0) == 1000.0
    backoff.fail("circuit", now=1000.0, is_circuit=True)
    assert backoff.free_from("circuit", now=1000.0) == 1001.0
    for _ in range(20):
        backoff.fail("circuit", now=1000.0, is_circuit=True)
    assert backoff.free_from("circuit", now=1000.0) == 1030.0, "who comes late is found soon"
    assert (backoff.failures_of("circuit"), backoff.failures_of("never failed")) == (21, 0)
    assert backoff.free_from("a", now=9000.0) == 9000.0
    backoff.clear()
    assert backoff.free_from("a", now=1000.0) == 1000.0


@given(st.lists(st.integers(0, 500), max_size=600))
def test_the_memory_of_failures_is_bounded(failures: list[int]) -> None:
    backoff = AddressBackoff[int]()
    for now, address in enumerate(failures):
        backoff.fail(address, float(now))
    assert len(backoff._failed) <= 128
