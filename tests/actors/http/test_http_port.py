"""Who goes when an HTTP port is full: `Port` alone, with a clock of the test's own."""

import resource
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from actors import descriptors
from actors.http import port as http_port
from actors.http.port import LONG_S, Limits, Pace, Port, PortPlace, Standing, address_of

OURS = "127.0.0.1"


class Clients:
    """A port of `most` connections and what became of its clients."""

    def __init__(self, most: int) -> None:
        self.dropped: list[str] = []
        self.closed: list[str] = []
        self.port = Port(Limits(connections=most), self.dropped.append)
        self.now = 0.0

    def come(self, name: str, address: str = OURS, *, has_input: bool = False) -> PortPlace | None:
        place = PortPlace(address, self.now, lambda: self.closed.append(name), lambda: has_input)
        is_in = self.port.admit(place, self.now)
        self.now += 1
        return place if is_in else None

    def becomes(self, place: PortPlace | None, standing: Standing, *, since: float | None = None) -> None:
        assert place is not None
        place.becomes(standing, self.now if since is None else since)
        self.now += 1


def test_silent_ones_go_first_the_oldest_before_the_others() -> None:
    clients = Clients(8)  # six of one address
    idle = clients.come("idle")
    clients.becomes(idle, Standing.IDLE)
    for name in "abcde":
        assert clients.come(name)
    for name in "xyz":
        assert clients.come(name)
    assert clients.closed == ["a", "b", "c"]
    assert clients.dropped == ["newcomer"] * 3


def test_idle_ones_go_when_nobody_is_silent_the_longest_idle_first() -> None:
    clients = Clients(4)
    places = [clients.come(name) for name in "abc"]
    for place in reversed(places):
        clients.becomes(place, Standing.IDLE)
    clients.come("new")
    assert clients.closed == ["c"]


def test_requests_that_are_being_answered_are_never_given_up() -> None:
    clients = Clients(4)
    for name in "abc":
        clients.becomes(clients.come(name), Standing.BUSY)
    assert clients.come("new") is None
    assert (clients.closed, clients.dropped) == ([], ["refused"])


def test_an_idle_connection_whose_next_request_has_arrived_is_not_idle() -> None:
    clients = Clients(4)
    for name, has_input in (("a", True), ("b", False), ("c", False)):
        clients.becomes(clients.come(name, has_input=has_input), Standing.IDLE)
    clients.come("new")
    assert clients.closed == ["b"]


def test_streams_may_have_half_of_the_port_before_idle_connections_must_go_for_them() -> None:
    clients = Clients(8)
    streams = [clients.come(name) for name in "abcd"]
    for place in streams:
        clients.becomes(place, Standing.BUSY)
    for name in "xy":
        clients.becomes(clients.come(name), Standing.IDLE)
    clients.now += LONG_S
    clients.becomes(clients.come("new"), Standing.BUSY)
    assert clients.closed == ["a"]  # four of six were streams
    clients.becomes(clients.come("newer"), Standing.BUSY)
    assert clients.closed == ["a", "x"]


def test_a_body_that_does_not_end_goes_before_an_idle_client_but_not_in_its_first_second() -> None:
    clients = Clients(4)
    clients.becomes(clients.come("idle"), Standing.IDLE)
    slow, quick = clients.come("slow"), clients.come("quick")
    clients.becomes(slow, Standing.UPLOADING)
    clients.now += http_port.UPLOAD_REST_S
    clients.becomes(quick, Standing.UPLOADING, since=clients.now)
    clients.come("new")
    assert clients.closed == ["slow"]


def test_a_stranger_cannot_take_the_places_of_another_address() -> None:
    clients = Clients(8)
    ours = clients.come("ours")
    clients.becomes(ours, Standing.IDLE, since=-1000)
    for number in range(20):
        clients.come(str(number), "203.0.113.9")
    assert "ours" not in clients.closed
    assert len(clients.closed) == 14  # six places, three quarters, are one address's


def test_half_heads_have_a_budget_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_port, "HEADS_BYTES", 1000)
    monkeypatch.setattr(http_port, "BODIES_BYTES", 5000)
    clients = Clients(16)
    places = [place for name in "abcd" if (place := clients.come(name))]
    for place in places[:3]:
        clients.port.holds(place, head_bytes=400)
    assert (clients.closed, clients.dropped) == (["a"], ["bytes"])
    for place in places:
        clients.port.leave(place)
    uploads = [place for name in "efg" if (place := clients.come(name))]
    for place, standing in zip(uploads, (Standing.BUSY, Standing.UPLOADING, Standing.UPLOADING), strict=True):
        place.standing = standing
        clients.port.holds(place, body_bytes=2000)
    assert clients.closed == ["a", "f"]  # e's body is whole and is being worked on


async def test_the_line_is_as_fast_as_it_should_be_and_nobody_overtakes(autojump_clock: trio.testing.MockClock) -> None:
    pace, came = Pace(10, 5), list[tuple[int, float]]()

    async def wait(number: int) -> None:
        await pace.turn()
        came.append((number, round(trio.current_time() - began, 3)))

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(25):
            nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
    assert [number for number, _ in came] == list(range(25))
    assert came[5][1] < 0.2
    assert came[-1][1] == pytest.approx(1.9, abs=0.11)  # 25 at 10 a second, of which 5 or 6 at once


async def test_who_leaves_the_line_costs_nobody_a_turn(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(1, 1)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(pace.turn)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await pace.turn()
    assert trio.current_time() - began <= 2


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%lo", "fe80::/64"),
    ],
)
def test_what_counts_as_one_address(host: str, address: str) -> None:
    assert address_of(host) == address


@pytest.fixture
def soft_limit() -> Iterator[int]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_ports_leave_most_descriptors_to_others(soft_limit: int) -> None:
    assert descriptors.validator_api_connections() + descriptors.monitoring_connections() <= 1024 // 3
    assert descriptors.raise_limit() == min(soft_limit, descriptors.RAISED_TO)
    assert descriptors.validator_api_connections() == descriptors.VALIDATOR_API_MOST
