"""Places and pace of incoming handshakes. The numbers of the attacks: docs/threat-model.md."""

import pytest

from charon_actors.p2p.admission import MAX_PER_ADDRESS, MAX_PLACES, Admission, Place

PEER = ("10.0.0.1", 3610)


def admission() -> Admission:
    return Admission(frozenset({PEER}))


def silent(door: Admission, address: str, count: int) -> list[Place]:
    return [door.enter(address, 40_000 + number)[0] for number in range(count)]


def shake_hands(door: Admission, address: str, port: int, now: float = 0.0) -> tuple[Place, Place | None]:
    place, leaving = door.enter(address, port)
    place.stage = 1
    assert door.begin(place, now) == 0.0
    return place, leaving


def test_thirty_two_silent_ones_of_an_address_do_not_shut_out_the_next_one_there() -> None:
    door = admission()
    first = silent(door, "10.9.9.9", 32)[0]
    place, leaving = shake_hands(door, "10.9.9.9", 5)
    assert leaving is first
    for _ in range(1000):  # and silent newcomers push out silent ones only
        assert door.enter("10.9.9.9", 6)[1] is not place
    assert len(door) == MAX_PER_ADDRESS


def test_two_hundred_and_fifty_six_from_eight_addresses_shut_out_nobody() -> None:
    door = admission()
    for number in range(8):
        silent(door, f"10.9.9.{number}", 32)
    place, leaving = shake_hands(door, "10.1.1.1", 5)
    assert leaving is None or leaving.stage == 0
    member, leaving = shake_hands(door, *PEER)
    assert leaving is None
    for number in range(2000):
        assert door.enter(f"10.8.{number % 250}.1", 6)[1] not in (place, member)
    assert len(door) <= MAX_PLACES


def test_strangers_never_push_out_a_peer() -> None:
    door = admission()
    members = silent(door, PEER[0], 20)
    gone = {door.enter(f"10.{number % 200}.{number // 200}.1", 6)[1] for number in range(5000)}
    assert gone.isdisjoint(members)


def test_an_address_where_a_peer_was_accepted_is_a_peers_for_as_long_as_it_is_remembered() -> None:
    door = admission()
    door.remember("10.2.2.2")
    members = silent(door, "10.2.2.2", 5)
    gone = {door.enter(f"10.{number % 200}.{number // 200}.1", 6)[1] for number in range(1000)}
    assert gone.isdisjoint(members)
    for number in range(256):
        door.remember(f"10.3.{number}.1")
    (late,) = silent(door, "10.2.2.2", 1)
    assert late.rank == 0


def begun(door: Admission, address: str, port: int, seconds: int) -> int:
    """How many handshakes somebody gets who tries a hundred times a second."""
    count = 0
    for tick in range(100 * seconds):
        place, _ = door.enter(address, port)
        count += door.begin(place, tick / 100) == 0.0
        door.leave(place)
    return count


@pytest.mark.parametrize(("address", "port"), [("10.9.9.9", 1), (PEER[0], 1), PEER])
def test_whoever_dials_without_end_gets_few_handshakes(address: str, port: int) -> None:
    assert 10 <= begun(admission(), address, port, 60) <= 50 + 10 * 60


def test_strangers_cost_a_peers_address_nothing_and_it_costs_a_peers_endpoint_nothing() -> None:
    door = admission()
    begun(door, "10.9.9.9", 1, 10)
    begun(door, PEER[0], 1, 10)
    shake_hands(door, "10.9.9.8", 1, now=20.0)
    shake_hands(door, *PEER, now=10.0)
