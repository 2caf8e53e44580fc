"""Who has to go when a peer comes with one more connection. Source: specification 03 §2.2."""

from typing import NamedTuple

from actors.mesh.places import MAX_DIRECT, MAX_RELAYED, who_leaves


class One(NamedTuple):
    name: str
    last_received_at: float
    relayed: bool = False


def test_both_sides_dial_and_both_relay() -> None:
    present: list[One] = []
    for relayed in (False, False, False, True, True):
        newcomer = One(f"{len(present)}", 0.0, relayed)
        assert who_leaves(newcomer, present, 0.0) is None
        present.append(newcomer)
    assert len(present) == MAX_DIRECT + MAX_RELAYED


def test_a_newcomer_costs_no_connection_that_is_alive() -> None:
    present = [One("used", 99.5), One("flood", 100.0), One("flood too", 100.0)]
    newcomer = One("new", 100.0)
    assert who_leaves(newcomer, present, 100.0) is newcomer


def test_a_peer_that_restarted_gets_in_before_its_old_connections_are_known_to_be_dead() -> None:
    present = [One("dead", 96.0), One("dead longer", 95.0), One("dead too", 97.0)]
    assert who_leaves(One("new", 100.0), present, 100.0) == present[1]


def test_a_relayed_one_never_takes_the_place_of_a_direct_one() -> None:
    present = [One("a", 0.0), One("b", 0.0), One("c", 0.0), One("r", 99.0, True), One("q", 99.0, True)]
    newcomer = One("new", 100.0, True)
    assert who_leaves(newcomer, present, 100.0) is newcomer
