"""What we export has the names, types, labels and buckets of a running Charon; /readyz says what it says, in the same states."""

from typing import Any

import pytest

from actors.beacon import SyncState
from actors.metrics import FAMILIES, Metrics, Readiness, monitoring_app
from charon_actors.validator_api.passing_on import path_label
from supervisors.readiness import Readings, verdict
from tests.vector import vector

SEEN = vector("live/metrics/families.json")
TABLE = vector("monitoring/metrics.json")["metrics"]
DEFAULT_BUCKETS = vector("monitoring/metrics.json")["default_buckets"]
OWN = "charon_actors_"


@pytest.mark.parametrize(
    "family", [family for family in FAMILIES if not family.name.startswith(OWN)], ids=lambda family: family.name
)
def test_families_are_those_of_charons_table(family: Any) -> None:
    theirs = TABLE[family.name]
    assert (family.kind, sorted(family.labels)) == (theirs["type"], sorted(theirs["labels"]))
    if family.kind == "histogram":
        expected = DEFAULT_BUCKETS if theirs["buckets"] == "default" else theirs["buckets"]
        assert list(family.buckets) == pytest.approx(expected)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.name in SEEN], ids=lambda family: family.name)
def test_families_are_those_of_running_nodes(family: Any) -> None:
    for theirs in SEEN[family.name].values():
        assert (family.kind, set(family.labels)) == (theirs["type"], set(theirs["labels"]))
        if "buckets" in theirs:
            assert [*family.buckets, float("inf")] == pytest.approx(
                [float(bucket.replace("+Inf", "inf")) for bucket in theirs["buckets"]]
            )


def test_most_of_what_we_export_was_seen_running() -> None:
    seen = [family.name for family in FAMILIES if family.name in SEEN]
    assert len(seen) > 40


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/eth/v1/beacon/blocks/head/root", "eth_v1_beacon_blocks_head_root"),
        ("/eth/v1/config/spec/", "eth_v1_config_spec"),
        ("/eth/v1/beacon/headers/0x" + "aB" * 32, "eth_v1_beacon_headers_{hex}"),
        ("/eth/v2/beacon/blocks/1234", "eth_v2_beacon_blocks_{n}"),
        ("/eth/v1/node/peers/16Uiu2HAmBa2XqDYQNWStDZgAqGVAVtF2qERC8uBj9MbEEFQ5c1vb", "eth_v1_node_peers_{peer_id}"),
        ("/" + "a" * 500, "other"),
    ],
)
def test_paths_that_are_passed_on_are_labelled_without_their_values(path: str, label: str) -> None:
    assert path_label(path) == label


def states() -> list[Any]:
    return list(vector("live/readyz/states.json")["states"])


@pytest.mark.parametrize("state", states(), ids=lambda state: state["body"])
async def test_readyz_answers_in_the_recorded_words(state: Any) -> None:
    sent: list[dict[str, Any]] = []

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    (row,) = [
        row for row in vector("monitoring/readyz_states.json")["states"] if state["body"] in (row.get("text"), row.get("body"))
    ]
    metrics, readiness = Metrics({"cluster_hash": "ab"}), Readiness(row["value"], state["body"])
    for path, status, body in (("/readyz", state["status"], state["body"]), ("/livez", 200, "ok")):
        sent.clear()
        await monitoring_app(metrics, readiness)({"type": "http", "path": path, "method": "GET"}, receive, send)
        assert sent[0]["status"] == status
        assert (b"content-type", b"text/plain; charset=utf-8") in sent[0]["headers"]
        assert sent[1]["body"] == body.encode()


ROWS = {row["value"]: row.get("text") or row.get("body") for row in vector("monitoring/readyz_states.json")["states"]}


@pytest.mark.parametrize(
    ("number", "status", "are_peers_missing", "is_client_missing"),
    [
        (2, None, False, False),
        (2, None, True, True),  # the first row that holds
        (3, {"is_syncing": True, "sync_distance": 400, "peers": 0}, True, True),
        (7, {"is_syncing": False, "sync_distance": 400, "peers": 0}, True, True),
        (8, {"is_syncing": False, "sync_distance": 321, "peers": 5}, True, True),
        (4, {"is_syncing": False, "sync_distance": 320, "peers": None}, True, True),
        (5, {"is_syncing": False, "sync_distance": 0, "peers": 5}, False, True),
        (1, {"is_syncing": False, "sync_distance": 0, "peers": 5}, False, False),
    ],
)
def test_states_are_told_in_charons_order_and_words(
    number: int, status: dict[str, Any] | None, are_peers_missing: bool, is_client_missing: bool
) -> None:
    look = Readings(
        None if status is None else SyncState(**status, raw={}), are_peers_missing, is_client_missing=is_client_missing
    )
    assert verdict(look) == (number, ROWS[number])


def test_the_first_state_is_the_one_before_any_check() -> None:
    assert (Readiness().state, Readiness().text) == (0, ROWS[0])
