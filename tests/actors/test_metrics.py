import re
from collections.abc import Callable, Iterator

import pytest
import trio
import trio.lowlevel
import trio.testing
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from actors import metrics as module
from actors.metrics import FAMILIES, Family, Metrics, Readiness, monitoring_app

LABELS = {"cluster_hash": "abcdef0", "cluster_peer": "happy-floor"}


def families(metrics: Metrics) -> dict[str, list[tuple[dict[str, str], float]]]:
    return {
        sample.name: [(other.labels, other.value) for other in family.samples if other.name == sample.name]
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_every_series_carries_the_constant_labels() -> None:
    metrics = Metrics(LABELS)
    metrics.count("p2p_ping_error_total", {"peer": "calm-tree"}, 2)
    metrics.gauge("p2p_ping_success", {"peer": "calm-tree"}, 1)
    metrics.observe("p2p_ping_latency_secs", {"peer": "calm-tree"}, 0.02)
    found = families(metrics)
    assert found["p2p_ping_error_total"] == [(LABELS | {"peer": "calm-tree"}, 2)]
    assert found["p2p_ping_success"] == [(LABELS | {"peer": "calm-tree"}, 1)]
    assert (LABELS | {"peer": "calm-tree", "le": "0.025"}, 1) in found["p2p_ping_latency_secs_bucket"]


def test_the_text_has_the_form_of_gos_client() -> None:
    metrics = Metrics(LABELS)
    metrics.observe("p2p_ping_latency_secs", {"peer": 'role="1.0"'}, 2)
    text = metrics.render().decode()
    assert 'le="1"' in text
    assert 'le="0.5"' in text
    assert 'le="1.0"' not in text
    assert "_created" not in text
    assert 'peer="role=\\"1.0\\""' in text


def test_families_without_labels_are_there_from_the_start() -> None:
    found = families(Metrics(LABELS))
    assert found["app_eth2_using_fallback"] == found["core_scheduler_skipped_slots_total"] == [(LABELS, 0)]


def test_two_nodes_in_one_process_do_not_share_anything() -> None:
    one, two = Metrics(LABELS), Metrics(LABELS)
    one.gauge("cluster_threshold", {}, 3)
    assert families(two)["cluster_threshold"] == [(LABELS, 0)]


def test_clear_forgets_only_the_series_with_these_labels() -> None:
    metrics = Metrics(LABELS)
    for peer, version in [("a", "v1.9.0"), ("b", "v1.10.3")]:
        metrics.gauge("app_peerinfo_version", {"peer": peer, "version": version}, 1)
    metrics.clear("app_peerinfo_version", {"peer": "a"})
    assert [labels["peer"] for labels, _ in families(metrics)["app_peerinfo_version"]] == ["b"]


def test_label_values_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SERIES_BY_PEER", 10)
    metrics = Metrics(LABELS)
    for number in range(50):
        metrics.count("p2p_ping_error_total", {"peer": str(number)})
    found = families(metrics)
    assert len(found["p2p_ping_error_total"]) == 11
    assert (LABELS | {"peer": "other"}, 40) in found["p2p_ping_error_total"]
    assert found["charon_actors_metrics_dropped_total"] == [(LABELS, 40)]


@pytest.mark.parametrize(
    ("name", "labels"), [("nonsense", {}), ("p2p_ping_error_total", {}), ("p2p_ping_success", {"peer": "a"})]
)
def test_a_metric_that_is_not_in_the_table_is_a_mistake(name: str, labels: dict[str, str]) -> None:
    with pytest.raises(KeyError):
        Metrics(LABELS).count(name, labels)


def test_the_table_has_each_family_once() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize(
    ("path", "state", "status", "body"),
    [
        ("/livez", 2, 200, b"ok"),
        ("/readyz", 0, 500, b"beacon node down"),
        ("/readyz", 1, 200, b"ok"),
        ("/nonsense", 1, 404, b"404 page not found"),
    ],
)
async def test_answers_of_the_monitoring_server(path: str, state: int, status: int, body: bytes) -> None:
    sent: list[dict[str, object]] = []

    async def send(event: dict[str, object]) -> None:
        sent.append(event)

    async def receive() -> dict[str, object]:
        raise AssertionError("the monitoring server reads no bodies")

    app = monitoring_app(Metrics(LABELS), Readiness(state, "beacon node down"))
    await app({"type": "http", "method": "GET", "path": path}, receive, send)
    assert (sent[0]["status"], sent[1]["body"]) == (status, body)


def crowded(series: int) -> Metrics:
    metrics = Metrics(LABELS)
    for number in range(series):
        metrics.observe("p2p_send_duration_seconds", {"peer": f"peer-{number}", "protocol": "/charon/x\n", "topic": '"'}, 0.01)
        metrics.count("p2p_ping_error_total", {"peer": f"peer\\{number}"}, 1.5)
    return metrics


def test_the_text_is_what_the_client_library_writes() -> None:
    """But for Go's form of bounds, and `_created`, which Go's client doesn't have."""
    metrics = crowded(20)
    theirs = generate_latest(metrics._registry)
    theirs = re.sub(rb"(?m)^(# (HELP|TYPE) )?\w+_created\b.*\n", b"", theirs)
    assert metrics.render() == re.sub(rb'le="(\d+)\.0"', rb'le="\1"', theirs)


async def test_a_big_registry_is_rendered_in_slices_and_others_have_their_turns_between_them() -> None:
    metrics, turns, is_over = crowded(600), 0, False

    async def others() -> None:
        nonlocal turns
        while not is_over:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        text = await metrics.exposition()
        is_over = True
    assert text == metrics.render()
    assert turns > 10


async def test_all_who_ask_within_a_second_share_one_rendering(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    metrics, pieces, renderings = crowded(3), Metrics._pieces, 0

    def counted(self: Metrics) -> Iterator[bytes]:
        nonlocal renderings
        renderings += 1
        return pieces(self)

    monkeypatch.setattr(Metrics, "_pieces", counted)
    for second in range(3):
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(metrics.exposition)
        assert renderings == second + 1
        await trio.sleep(module.FRESH_S)


async def test_whoever_leaves_while_rendering_leaves_it_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_S", 0)
    metrics = crowded(50)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(metrics.exposition)
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert await metrics.exposition() == metrics.render()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_bounds_what_others_can_invent(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SERIES", 5)
    monkeypatch.setattr(module, "MAX_SERIES_BY_PEER", 5)
    metrics = Metrics(LABELS)
    calls: dict[str, Callable[[str, dict[str, str], float], None]] = {
        "counter": metrics.count,
        "gauge": metrics.gauge,
        "histogram": metrics.observe,
    }
    with capture_logs() as log:
        for number in range(200):
            calls[family.kind](family.name, dict.fromkeys(family.labels, f"{number} " + 1000 * "x"), 1)
    known = metrics._series[family.name]
    assert len(known) <= 6
    assert all(len(value) <= 128 for values in known for value in values)
    assert len(log) == (1 if family.labels else 0)
    if family.labels:
        assert families(metrics)["charon_actors_metrics_dropped_total"] == [(LABELS, 195)]
        assert ((("other",) * len(family.labels)) in known) == (family.kind != "gauge")
