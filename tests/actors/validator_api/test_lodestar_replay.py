"""Every request that a real validator client sent (lodestar-http, two releases) against our API, bodies chunked as today's client sends
them; the beacon node behind us answers as the recorded one did."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from actors.beacon.node import USER_AGENT
from charon_actors.validator_api.passing_on import may_be_passed_on
from charon_actors.validator_api.routes import NOT_BUILT, RETIRED, SWALLOWED, route_for
from tests.actors.beacon.upstream import Scripted, Seen, Upstream, chain_answers
from tests.actors.validator_api.rig import rig_of
from tests.vector import ROOT, vector

FOLDER = ROOT / "lodestar-http"


def samples() -> list[Any]:
    found = []
    for file in sorted([*FOLDER.glob("*.json"), *FOLDER.glob("fulu/*.json")]):
        name = str(file.relative_to(FOLDER).with_suffix(""))
        entries = vector(f"lodestar-http/{name}.json")
        if not isinstance(entries, dict) or not isinstance(entries.get("samples"), list):
            continue
        for number, sample in enumerate(entries["samples"]):
            if {"path", "method", "status", "request_headers"} <= sample.keys() and not name.endswith("events"):
                found.append(pytest.param(Path(name).parts[0], sample, id=f"{name}-{number}"))
    return found


SAMPLES = samples()


def keys_in(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["pubkey"]} if isinstance(value.get("pubkey"), str) else set()
        return own.union(*map(keys_in, value.values()))
    return set().union(*map(keys_in, value)) if isinstance(value, list) else set()


ALL_KEYS = sorted(key for entry in SAMPLES for key in keys_in(entry.values[1].get("response")))


def share_of(key: bytes) -> bytes:
    return bytes([key[0]]) + key[:0:-1]


VALIDATORS = [(bytes.fromhex(key[2:]), [share_of(bytes.fromhex(key[2:]))] * 1) for key in dict.fromkeys(ALL_KEYS)]
RECORDED_VALIDATORS = {
    entry["validator"]["pubkey"]: entry
    for sample in SAMPLES
    if "/validators" in sample.values[1]["path"] and isinstance(sample.values[1].get("response"), dict)
    for entry in (lambda data: data if isinstance(data, list) else [data])(sample.values[1]["response"].get("data") or [])
    if isinstance(entry, dict) and "validator" in entry
}


def validators(seen: Seen) -> Scripted:
    ids = seen.json["ids"]
    return Scripted(body={"data": [v for key, v in RECORDED_VALIDATORS.items() if key in ids or v["index"] in ids]})


def recorded_node(sample: Any) -> Upstream:
    upstream = Upstream()
    chain_answers(upstream)
    raw = sample.get("response")
    body: Any = raw
    if raw is None or raw == "":
        body = b""
    elif isinstance(raw, str):
        body = bytes.fromhex(raw[2:]) if raw.startswith("0x") else raw.encode()
    headers = {name: value for name, value in (sample.get("response_headers") or {}).items() if name != "transfer-encoding"}
    recorded, known = Scripted(sample["status"], body, headers), upstream.answers.get("/eth/v1/beacon/genesis")
    upstream.answers[sample["path"]] = recorded
    if sample["path"] == "/eth/v1/beacon/genesis":  # another network's than the one that our node knows: for the client only
        assert isinstance(known, Scripted)
        upstream.answers[sample["path"]] = lambda seen: known if seen.headers.get("user-agent") == USER_AGENT else recorded
    for state in ("head", "8", "0"):
        upstream.answers[f"/eth/v1/beacon/states/{state}/validators"] = validators
    return upstream


def content(sample: Any) -> bytes:
    request = sample.get("request")
    if isinstance(request, str) and request.startswith("0x"):
        return bytes.fromhex(request[2:])
    return b"" if request is None else json.dumps(request).encode()


@pytest.mark.parametrize(("folder", "sample"), SAMPLES)
async def test_requests_of_a_real_client(folder: str, sample: Any) -> None:
    upstream = recorded_node(sample)
    method, path = sample["method"], sample["path"]
    found = route_for(method, path)
    async with rig_of([upstream], validators=VALIDATORS, slot=8) as rig:
        raw = content(sample)

        async def pieces() -> Any:
            for start in range(0, len(raw), 1000):
                yield raw[start : start + 1000]

        headers = {name: value for name, value in sample["request_headers"].items() if name != "transfer-encoding"}
        url = path + ("?" + sample["query"] if sample.get("query") else "")
        answer = await rig.client.request(method, url, headers=headers, content=pieces() if raw else None)
    if found is None:
        check_passed_on(sample, answer, upstream)
        return
    route = found[0]
    expected = {RETIRED: (404,), NOT_BUILT: (501,), SWALLOWED: (200,)}.get(route.handler)
    assert answer.status_code in (expected or STATUS_OF[route.handler])
    if answer.status_code >= 400:
        assert answer.json()["code"] == answer.status_code
    if expected:
        assert not upstream.saw(path)
    if route.handler.endswith("duties") and answer.status_code == 200:
        recorded = sample["response"] if isinstance(sample["response"], dict) else None
        if recorded is not None:
            ours = [{**duty, "pubkey": "0x" + share_of(bytes.fromhex(duty["pubkey"][2:])).hex()} for duty in recorded["data"]]
            assert sorted(map(str, answer.json()["data"])) == sorted(map(str, (dict(sorted_like(duty, answer)) for duty in ours)))


def sorted_like(duty: dict[str, Any], answer: httpx.Response) -> list[tuple[str, Any]]:
    names = list(answer.json()["data"][0])
    return [(name, duty[name]) for name in names]


# What a route may answer to these requests: nothing was agreed on and nobody has a duty, so 404; the old client sends no version, so 400;
# what the recorded node refused (an epoch too far ahead) stays refused; its SSZ answers to duties are not ours to read.
STATUS_OF = {
    "attester_duties": (200, 400, 502),
    "proposer_duties": (200, 502),
    "sync_duties": (200, 400, 502),
    "attestation_data": (404,),
    "submit_attestations": (400,),
    "validators": (200, 400),
    "validator": (200, 400, 404),
    "propose_block": (404,),
    "submit_block": (400, 404),
    "submit_blinded_block": (400, 404),
    "node_version": (200,),
    "node_health": (200,),
    "node_syncing": (200,),
}


def check_passed_on(sample: Any, answer: httpx.Response, upstream: Upstream) -> None:
    if not may_be_passed_on(sample["method"], sample["path"]):
        assert answer.status_code == 501
        assert not upstream.saw(sample["path"])
        return
    assert answer.status_code == sample["status"]
    (seen, *_) = [seen for seen in upstream.saw(sample["path"]) if seen.headers.get("user-agent") != USER_AGENT]
    assert seen.body == content(sample)
    for name in ("accept", "content-type", "eth-consensus-version"):
        if name in sample["request_headers"]:
            assert seen.headers[name] == sample["request_headers"][name]
    recorded = sample.get("response")
    if isinstance(recorded, dict | list):
        assert answer.json() == recorded
    for name in ("content-type", "eth-consensus-version"):
        assert answer.headers.get(name) == (sample.get("response_headers") or {}).get(name)


def test_all_of_the_recorded_endpoints_are_replayed() -> None:
    assert len(SAMPLES) > 60
    assert len(VALIDATORS) >= 8
