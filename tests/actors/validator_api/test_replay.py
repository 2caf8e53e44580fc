"""Every request of core/vapi_http.json against our API. Where we answer differently, DIFFERENCES says what and why it is allowed."""

import base64
import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from charon_actors.eth2.unsigned_data import AttestationData
from tests.actors.beacon.upstream import Scripted, Seen, Upstream, chain_answers
from tests.actors.validator_api.rig import GROUP, PUBSHARES, rig_of
from tests.vector import vector

CASES = vector("core/vapi_http.json")["cases"]

NOT_BUILT = "duty not performed yet: 501, never passed on"
SPECIFIC_400 = "07 §2: client faults may be 400 with a message"
PASS_ON = "07 §6.1: status, content type and body of the beacon node are passed on; no parsing of proxied answers (§10)"

# name of the case -> (status, body or None for any, why)
DIFFERENCES: dict[str, tuple[int, object, str]] = {
    "one beacon node: PUT": (200, None, "07 §6.1: all methods"),
    "one beacon node: DELETE": (200, None, "07 §6.1: all methods"),
    "one beacon node: HEAD": (200, None, "07 §6.1: all methods"),
    "one beacon node: GET json array body": (200, [1, 2], PASS_ON),
    "one beacon node: GET text body": (200, None, PASS_ON),
    "one beacon node: GET unknown version header": (200, None, PASS_ON),
    "one beacon node: GET unknown version in body": (200, None, PASS_ON),
    "one beacon node: GET 400": (400, {"code": 400}, PASS_ON),
    "one beacon node: GET 404": (404, {"code": 404}, PASS_ON),
    "one beacon node: POST 400": (400, {"code": 400}, PASS_ON),
    "one beacon node: GET 500": (500, {"code": 500}, PASS_ON),
    "one beacon node: GET 503": (503, {"code": 503}, PASS_ON),
    "one beacon node: GET slower than beacon-node-timeout (2 s)": (503, None, "07 §2: a message that says what is wrong"),
    "one beacon node plus fallback: GET 404": (404, {"code": 404}, PASS_ON),
    "one beacon node plus fallback: GET slow": (503, None, "07 §2: a message that says what is wrong"),
    "validator api: attestation_data no committee": (200, None, "07 §5.5: committee_index defaults to 0"),
    "validator api: attestation_data unknown slot": (404, None, "07 §5.5, §10: 404 at once when there is no duty"),
    "validator api: attestations v2 without version header": (400, None, SPECIFIC_400),
    "validator api: attestations v2 unknown version": (400, None, SPECIFIC_400),
    "validator api: attestations v2 empty body": (400, {"code": 400, "message": "empty request body"}, "07 §11"),
    "validator api: attestations v2 bad json": (400, {"code": 400, "message": "failed parsing json request body"}, "07 §11"),
    "validator api: attestations v2 zero signature": (400, None, SPECIFIC_400),
    "validator api: attestations v2 single form under deneb": (400, None, SPECIFIC_400),
    "validator api: aggregate_and_proofs v2 bad json": (501, None, NOT_BUILT),
    "validator api: aggregate_and_proofs v2 empty body": (501, None, NOT_BUILT),
    "validator api: aggregate_and_proofs v2 no version": (501, None, NOT_BUILT),
    "validator api: contribution_and_proofs bad json": (501, None, NOT_BUILT),
    "validator api: sync_committees bad json": (501, None, NOT_BUILT),
    "validator api: sync_committees unknown validator": (501, None, NOT_BUILT),
    "validator api: voluntary exit bad json": (501, None, NOT_BUILT),
    "validator api: voluntary exit unknown validator": (501, None, NOT_BUILT),
    "validator api: beacon_committee_selections empty array": (501, None, NOT_BUILT),
    "validator api: beacon_committee_selections bad json": (501, None, NOT_BUILT),
    "validator api: beacon_committee_selections unknown validator": (501, None, NOT_BUILT),
    "validator api: sync_committee_selections empty array": (501, None, NOT_BUILT),
    "validator api: sync contribution": (501, None, NOT_BUILT),
    "validator api: aggregate v2 missing committee": (501, None, NOT_BUILT),
    "validator api: aggregate v2 repeated root": (501, None, NOT_BUILT),
    "validator api: blocks v2 no version": (400, None, SPECIFIC_400),
    "validator api: blocks v2 bad json": (400, None, SPECIFIC_400),
    "validator api: blocks v2 bad ssz": (400, None, SPECIFIC_400),
    "validator api: blocks v2 empty body": (400, {"code": 400, "message": "empty request body"}, SPECIFIC_400),
    "validator api: blinded_blocks v2 phase0": (400, None, SPECIFIC_400),
    "validator api: blocks v3 no duty": (404, None, "07 §2: client faults may have their own status; here: no duty"),
    "validator api: validators POST bad json": (400, {"code": 400, "message": "failed parsing json request body"}, SPECIFIC_400),
    "validator api: validators POST empty ids": (200, None, "07 §5.4: the cluster's validators"),
    "validator api: validators no ids": (200, None, "07 §5.4: the cluster's validators"),
    "validator api: validators id empty": (400, None, SPECIFIC_400),
    "validator api: validators mixed": (400, None, SPECIFIC_400),
    "validator api: validators by other's share (here: share 2)": (400, None, "07 §10: 400 and a message naming both indices"),
    "validator api: validator single bad": (400, None, SPECIFIC_400),
}
OWN_VERSION = {"validator api: node version", "one beacon node: double slash"}


def test_the_differences_are_of_existing_cases() -> None:
    assert set(DIFFERENCES) | OWN_VERSION <= {case["name"] for case in CASES}


def fake(name: str, prefix: str = "") -> Upstream:
    """The fake beacon node that the vector describes."""
    upstream = Upstream(name)
    chain_answers(upstream)

    def status(code: int) -> Scripted:
        headers = {"X-From": name}
        if code == 503 and name == "fallback":
            return Scripted(200, {"data": "from fallback"}, headers)
        return Scripted(code, {"code": code}, headers, delay_s=0.2 if name == "bn2" else 0.0)  # so that bn1 wins

    split = Scripted(404, {"code": 404}) if name == "bn1" else Scripted(200, {"data": "slow yes"}, {"X-From": name}, delay_s=0.3)
    paths: dict[str, Scripted] = {
        "/ok": Scripted(body=b'{"data":{"x":1}}', headers={"content-type": "application/json", "X-From": name}),
        "/array": Scripted(body=[1, 2]),
        "/text": Scripted(body=b"hello", headers={"content-type": "text/plain"}),
        "/ssz": Scripted(
            body=b"\x01\x02\x03", headers={"content-type": "application/octet-stream", "eth-consensus-version": "fulu"}
        ),
        "/gloas": Scripted(body={"data": {}}, headers={"eth-consensus-version": "gloas"}),
        "/gloasbody": Scripted(body={"version": "gloas", "data": {}}),
        "/nocontent": Scripted(204),
        "/health206": Scripted(206),
        "/slow3": Scripted(body={}, delay_s=1.5),
        "/split": split,
        "/eth/v1/beacon/states/head/validators": Scripted(body={"data": []}),
        "/eth/v1/beacon/states/40/validators": Scripted(body={"data": []}),
        **{f"/s{code}": status(code) for code in (202, 400, 404, 500, 503)},
    }
    for path, script in paths.items():
        upstream.answers[prefix + path] = script
    upstream.answers[f"{prefix}/eth/v1/beacon/genesis"] = upstream.answers["/eth/v1/beacon/genesis"]
    upstream.answers.pop("/eth/v1/events", None)
    default = Scripted(body=json.dumps({"data": f"default {name}"}, separators=(",", ":")).encode())
    default.headers = {"content-type": "application/json", "X-From": name}
    upstream.default = default
    return upstream


def setup(name: str) -> tuple[list[Upstream], list[Upstream], dict[str, str]]:
    kind = name.partition(":")[0]
    if kind == "two beacon nodes":
        return [fake("bn1"), fake("bn2")], [], {}
    if kind == "one beacon node plus fallback":
        return [fake("bn1")], [fake("fallback")], {}
    if kind == "one beacon node with base path, credentials":
        return [fake("bn1", "/base")], [], {"suffix": "/base", "user_info": "user:pw@"}
    return [fake("bn1")], [], {}


def insert_keys(text: str) -> str:
    return text.replace("{share1}", "0x" + PUBSHARES[0].hex()).replace("{group}", "0x" + PUBSHARES[1].hex())


def body_of(request: dict[str, Any]) -> bytes:
    if "body_hex" in request:
        return bytes.fromhex(request["body_hex"])
    return (request.get("body") or "").encode("latin-1")


SLOT_5 = AttestationData(5, 0, bytes(32), 0, bytes(32), 0, bytes(32))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
async def test_our_answer_is_charons_or_a_better_one(case: dict[str, Any]) -> None:
    name, request = case["name"], case["request"]
    primaries, fallbacks, where = setup(name)
    async with rig_of(
        primaries, fallbacks, timeout_s=0.6, suffix=where.get("suffix", ""), user_info=where.get("user_info", "")
    ) as rig:
        rig.duties.attestations[5, 0] = SLOT_5
        rig.duties.attesters[5, 3, 7] = GROUP
        headers = [(key, value) for key, value in (request.get("headers") or {}).items()]
        if not any(key == "Accept" for key, _ in headers):
            headers.append(("Accept", ""))  # httpx would send */*
        url = httpx.URL(rig.url).copy_with(raw_path=insert_keys(request["path"]).encode())
        sent = httpx.Request(request["method"], url, headers=headers, content=body_of(request) or None)
        answer = await rig.client.send(sent, follow_redirects=True)
    if name in DIFFERENCES:
        status, body, _ = DIFFERENCES[name]
        assert answer.status_code == status
        if body is not None:
            assert answer.json() == body
        elif status >= 400:
            assert answer.json()["code"] == status
            assert len(answer.json()["message"]) > 10
    else:
        assert answer.status_code == case["status"]
        if name in OWN_VERSION:
            assert "charon" in answer.json()["data"]["version"]
        elif "body_hex" in case or answer.headers.get("content-type") == "application/octet-stream":
            assert answer.content
        else:
            assert answer.text == case["response_body"]
        for header, value in (case.get("response_headers") or {}).items():
            assert answer.headers.get(header) == value
        if not answer.content and not case["response_headers"]:
            assert "content-type" not in answer.headers
    check_upstream(case, answer, primaries + fallbacks)


def check_upstream(case: dict[str, Any], answer: httpx.Response, upstreams: list[Upstream]) -> None:
    """What the beacon nodes saw of the request, for requests that are passed on."""
    ours = {upstream.name: of_this_request(case, upstream) for upstream in upstreams}
    if answer.status_code == 501:
        assert not any(ours.values())
        return
    if "states/" in case["request"]["path"] or (case["name"].startswith("validator api: ") and not case.get("beacon_nodes_saw")):
        return  # the caches ask in their own way
    for expected in case.get("beacon_nodes_saw") or []:
        if expected["uri"].startswith("/xxxxx"):  # 07 §6.2, known defect: the real URL here
            expected = {**expected, "uri": "/base" + expected["uri"].removeprefix("/xxxxx")}
            expected["headers"] = {**expected["headers"], "Authorization": "Basic " + base64.b64encode(b"user:pw").decode()}
        if expected["uri"] == "/eth/v1/node/health":
            continue  # intercepted here (07 §7.3 #9)
        seen = next(iter(ours[expected["bn"]]))
        assert seen.method == expected["method"]
        path, query = urlsplit(expected["uri"]).path, urlsplit(expected["uri"]).query
        assert (seen.path, sorted(parse_qsl(seen.query))) == (path, sorted(parse_qsl(query)))
        assert seen.headers["x-bn-auth"] == "secret"  # the operator's header wins, also for POST
        assert seen.headers.get("authorization") == expected["headers"].get("Authorization")
        if seen.method == "POST":
            assert seen.headers["content-type"] == expected["headers"]["Content-Type"]
            assert seen.headers.get("eth-consensus-version") == expected["headers"].get("Eth-Consensus-Version")
            assert seen.body == body_of(case["request"])


def of_this_request(case: dict[str, Any], upstream: Upstream) -> list[Seen]:
    path = urlsplit(case["request"]["path"]).path
    if path.endswith("/node/version") or "validators" in path:
        return []
    seen = [seen for seen in upstream.seen if seen.path.removeprefix("/base") == path]
    return [one for one in seen if "topics=chain_reorg" not in one.query]  # that is our own listener
