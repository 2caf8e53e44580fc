"""What we export has the names, types, labels and buckets of a running Charon; /readyz says what it says, in the same states."""

import json
from typing import Any

import pytest

from actors.metrics import FAMILIES, Metrics, Readiness, monitoring_app
from tests.beacon.vector import ROOT, vector

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
    metrics, readiness = Metrics({}), Readiness(row["value"], state["body"])
    for path, status, body in (("/readyz", state["status"], state["body"]), ("/livez", 200, "ok")):
        sent.clear()
        await monitoring_app(metrics, readiness)({"type": "http", "path": path, "method": "GET"}, receive, send)
        assert sent[0]["status"] == status
        assert (b"content-type", b"text/plain; charset=utf-8") in sent[0]["headers"]
        assert sent[1]["body"] == body.encode()


def test_the_node_has_all_texts_and_numbers() -> None:
    """Of the states that this file can't provoke without a cluster: the words stand in the node as they were recorded."""
    source = (ROOT.parent.parent / "supervisors/node.py").read_text() + (ROOT.parent.parent / "actors/metrics.py").read_text()
    for row in vector("monitoring/readyz_states.json")["states"]:
        text = row.get("text") or row.get("body")
        if text is not None:
            number = row["value"]
            assert f'{number}, "{text}"' in source or (number == 0 and json.dumps(text) in source)
