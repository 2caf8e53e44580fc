"""Single questions put to running Charon nodes (live/http/answers-*.jsonl, core/vapi_live_simnet.json) put to our API. Where Charon says
something definite about a route that we have, we say the same; where it only says 500, we say whose fault it is."""

import json
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from actors.validator_api import proxy
from charon_actors.eth2.chain import chain_from_answers
from charon_actors.eth2.unsigned_data import AttestationData
from charon_actors.validator_api.routes import NOT_BUILT, RETIRED, SWALLOWED, route_for
from tests.actors.beacon.upstream import Scripted, Seen, Upstream, chain_answers
from tests.actors.validator_api import rig as rigs
from tests.actors.validator_api.rig import Rig, rig_of
from tests.vector import ROOT, vector
from tests.vectors_audit.recordings import body_of, fork_schedule_of
from tests.vectors_audit.test_client_recordings import group_of, with_groups

Entry = dict[str, Any]
VERSIONS = ("1.10.3", "main")


def entries(version: str) -> list[Entry]:
    lines = (ROOT / f"live/http/answers-{version}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def by_name(version: str, name: str) -> Entry:
    return next(entry for entry in entries(version) if entry["name"] == name)


FOREIGN = "0x" + "a1" * 48
ROOT_OF_CHAIN = "0x" + "00" * 32


def validator(template: Any, index: str, pubkey: str) -> Any:
    return {**template, "index": index, "validator": {**template["validator"], "pubkey": pubkey}}


# name -> what we answer instead, and why
OTHERWISE: dict[str, tuple[int, str]] = {
    "attestation data no committee": (404, "07 §5.5: committee_index defaults to 0; there is no duty in slot 1"),
    "block v3 foreign slot": (404, "07 §2: no validator of the cluster proposes there"),
    "WAIT attestation data without duty": (404, "07 §5.5, §10: 404 at once when there is no duty"),
    "WAIT attestation data past slot": (404, "07 §5.5, §10: 404 at once when there is no duty"),
    "WAIT block of a far slot": (404, "07 §2: no validator of the cluster proposes there"),
}


class Behind:
    """The recorded node's beacon node, as far as the answers show it."""

    def __init__(self, version: str) -> None:
        template = by_name(version, "validator by index")["answer"]["body"]["data"]
        shares = {
            duty["validator_index"]: duty["pubkey"]
            for duty in by_name(version, "attester duties empty list")["answer"]["body"]["data"]
        }
        self.shares = set(shares.values())
        self.validators = [validator(template, index, group_of(share)) for index, share in shares.items()]
        self.validators.append(validator(template, "5", FOREIGN))
        self.a_duty = by_name(version, "attester duties strings")["answer"]["body"]["data"][0]
        self.upstream = Upstream()
        chain_answers(self.upstream)
        self.upstream.answers["/eth/v1/beacon/genesis"] = Scripted(body=by_name(version, "genesis")["answer"]["body"])
        self.upstream.default = self.answer
        self.entry: Entry = {}

    def answer(self, seen: Seen) -> Scripted:
        answer, request = self.entry["answer"], self.entry["request"]
        if "/states/" in seen.path:
            ids = seen.json["ids"]
            return Scripted(body={"data": [v for v in self.validators if v["index"] in ids or v["validator"]["pubkey"] in ids]})
        if "/duties/" in seen.path and "5" in (request["body"] or ()):
            own = [{**self.a_duty, "pubkey": group_of(self.a_duty["pubkey"])}] if "0" in request["body"] else []
            foreign = {**self.a_duty, "validator_index": "5", "pubkey": FOREIGN, "validator_sync_committee_indices": ["1"]}
            return Scripted(body={"data": [*own, foreign], "dependent_root": ROOT_OF_CHAIN})
        if isinstance(answer["body"], str) and answer["body"].startswith("(cut"):
            return Scripted(body={"data": []})
        status = 404 if answer["status"] == 500 else answer["status"]  # Charon turns a beacon node's 404 into 500
        headers = {key: value for key, value in answer["headers"].items() if key == "content-type"}
        return Scripted(status, body_of(with_groups(answer["body"], self.shares)), headers)


async def put(rig: Rig, request: Any) -> httpx.Response:
    headers = {"Accept": "", **request["headers"]}
    url = httpx.URL(rig.url).copy_with(raw_path=request["path"].encode())
    sent = httpx.Request(request["method"], url, headers=headers, content=body_of(request["body"]) or None)
    return await rig.client.send(sent)


def expected_status(entry: Entry, handler: str) -> set[int]:
    theirs = entry["answer"]["status"]
    if handler == NOT_BUILT:
        return {415, 501} if theirs == 415 else {501}
    if handler == RETIRED:
        return {404}
    if entry["name"] in OTHERWISE:
        return {OTHERWISE[entry["name"]][0]}
    if theirs == 500:  # Charon's word for every fault of the client's and of others
        return {301, 400, 404, 405, 501, 502, 503} if handler else {404, 501}
    return {theirs}


@pytest.mark.parametrize("version", VERSIONS)
async def test_questions_are_answered_as_by_a_running_charon(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    behind = Behind(version)
    genesis = by_name(version, "genesis")["answer"]["body"]
    spec = next(a.body for path, a in behind.upstream.answers.items() if path.endswith("/spec") and isinstance(a, Scripted))
    spec = {"data": {**spec["data"], "SECONDS_PER_SLOT": "3"}}
    behind.upstream.answers["/eth/v1/config/spec"] = Scripted(body=spec)
    chain = chain_from_answers(genesis, spec, fork_schedule_of(spec), b"")
    monkeypatch.setattr(rigs, "chain_of", lambda upstream: chain)
    monkeypatch.setattr(proxy, "COALESCE_S", 0.0)
    keys = [(bytes.fromhex(group_of(share)[2:]), [bytes.fromhex(share[2:])]) for share in sorted(behind.shares)]
    slot = int(by_name(version, "syncing")["answer"]["body"]["data"]["head_slot"])
    wrong: list[str] = []
    async with rig_of([behind.upstream], validators=keys, wall_clock=lambda: chain.slot_start_s(slot) + 1.0, timeout_s=10) as rig:
        for entry in entries(version):
            request, theirs = entry["request"], entry["answer"]
            if entry["name"].startswith("REPLAY") or "(cut" in str(request["body"]):
                continue
            path = request["path"].partition("?")[0]
            behind.entry = entry
            if route_for(request["method"], path) is None or path.endswith("/events"):
                behind.upstream.answers.pop(path, None)
            behind.upstream.seen.clear()
            answer = await put(rig, request)
            found = route_for(request["method"], path)
            handler = found[0].handler if found else ""
            if answer.status_code not in expected_status(entry, handler):
                wrong.append(
                    f"{entry['name']}: {answer.status_code} {answer.text[:100]}, Charon {theirs['status']} {str(theirs['body'])[:100]}"
                )
                continue
            if answer.status_code >= 400 and request["method"] != "HEAD" and answer.status_code != 404:
                assert answer.json()["code"] == answer.status_code
            if handler in (NOT_BUILT, RETIRED, SWALLOWED):
                assert not behind.upstream.saw(path)
            is_own = handler in ("node_version", "node_syncing", "node_health")
            if answer.status_code == theirs["status"] and not is_own and not same_body(theirs["body"], answer):
                wrong.append(f"{entry['name']}: {answer.text[:200]}, Charon {str(theirs['body'])[:200]}")
    assert not wrong, "\n".join(wrong)


def without_balances(value: Any) -> Any:
    """The balances move from one answer to the next."""
    if isinstance(value, dict):
        return {key: without_balances(item) for key, item in value.items() if key not in ("balance", "effective_balance")}
    return sorted(map(without_balances, value), key=str) if isinstance(value, list) else value


def same_body(theirs: Any, answer: httpx.Response) -> bool:
    if isinstance(theirs, str):
        return theirs.startswith("(cut") or answer.text == theirs or answer.status_code == 301
    ours = answer.json()
    if answer.status_code >= 400 and isinstance(theirs, dict) and str(theirs.get("message")) in str(ours.get("message")):
        return True  # a beacon node's words, with its name before them
    return bool(without_balances(ours) == without_balances(theirs))


SIMNET = vector("core/vapi_live_simnet.json")
SIMNET_KEYS = [
    (bytes.fromhex(v["group_pubkey"][2:]), [bytes.fromhex(key[2:]) for key in v["pubshares_by_operator"]])
    for v in SIMNET["validators"]
]
SHARE_TO_GROUP = {"0x" + shares[0].hex(): "0x" + group.hex() for group, shares in SIMNET_KEYS}


def to_groups(value: Any) -> Any:
    text = json.dumps(value)
    for share, group in SHARE_TO_GROUP.items():
        text = text.replace(share, group)
    return json.loads(text)


def simnet_call(name: str) -> Any:
    return next(call for call in SIMNET["calls"] if call["name"] == name)


SIMNET_VALIDATORS = to_groups(simnet_call("validators all")["response"]["data"])


def simnet_validators(seen: Seen) -> Scripted:
    ids = seen.json["ids"]
    return Scripted(body={"data": [v for v in SIMNET_VALIDATORS if v["index"] in ids or v["validator"]["pubkey"] in ids]})


# The mock of the recorded node serves duties itself; what we answer instead, and why
SIMNET_OTHERWISE = {
    "validator by group key": (400, "07 §10: 400 and a message"),
    "validator by share of operator 2": (400, "07 §10: 400 and a message naming both indices"),
    "selections with bad signature": (501, "duty not performed yet"),
}


@pytest.mark.parametrize("call", SIMNET["calls"], ids=lambda call: call["name"])
async def test_answers_of_a_running_simnet_node(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = Upstream()
    chain_answers(upstream)
    upstream.answers["/eth/v1/beacon/genesis"] = Scripted(body=simnet_call("genesis (proxied)")["response"])
    spec = upstream.answers["/eth/v1/config/spec"]
    assert isinstance(spec, Scripted)
    spec.body["data"] |= {"SLOTS_PER_EPOCH": "16", "SECONDS_PER_SLOT": "1"}
    plain, genesis = rigs.chain_of, simnet_call("genesis (proxied)")["response"]["data"]
    facts: dict[str, Any] = {"slots_per_epoch": 16, "slot_duration_s": 1.0, "genesis_time_s": float(genesis["genesis_time"])}
    facts["genesis_validators_root"] = bytes.fromhex(genesis["genesis_validators_root"][2:])
    monkeypatch.setattr(rigs, "chain_of", lambda upstream: replace(plain(upstream), **facts))
    path, _, query = call["path"].partition("?")
    found = route_for(call["method"], path)
    if "/duties/" in path:
        asked = json.loads(call["request_body"] or "[]")
        epoch = path.rsplit("/", 1)[1]
        all_of_it = [c["response"]["data"] for c in SIMNET["calls"] if c["path"].rsplit("/", 1)[1] == epoch and "/duties/" in c["path"]
                     and c["path"].split("/")[5] == path.split("/")[5] and c["method"] == call["method"]]  # fmt: skip
        duties = [duty for data in all_of_it[:1] for duty in data if not asked or duty["validator_index"] in asked]
        upstream.answers[path] = Scripted(body=to_groups({**call["response"], "data": duties}))
    elif found is None:
        upstream.answers[path] = Scripted(call["status"], call["response"] or b"")
    slot = int(simnet_call("attestation_data again, real committee index")["response"]["data"]["slot"])
    async with rig_of([upstream], validators=SIMNET_KEYS, slot=slot, timeout_s=10) as rig:
        upstream.answers["/eth/v1/beacon/states/head/validators"] = simnet_validators
        upstream.answers[f"/eth/v1/beacon/states/{slot}/validators"] = simnet_validators
        first = rig.chain.first_slot(rig.chain.epoch_of(slot))
        upstream.answers[f"/eth/v1/beacon/states/{first}/validators"] = simnet_validators
        if path.endswith("/attestation_data"):
            rig.duties.attestations[slot, 0] = AttestationData.from_json(call["response"]["data"])
        headers = {"content-type": "application/json"} if call["request_body"] else {}
        answer = await rig.client.request(call["method"], path + ("?" + query if query else ""), headers=headers,
                                          content=call["request_body"])  # fmt: skip
    if call["name"] in SIMNET_OTHERWISE:
        assert answer.status_code == SIMNET_OTHERWISE[call["name"]][0]
        assert len(answer.json()["message"]) > 10
        return
    assert answer.status_code == call["status"]
    if path.endswith("/node/version"):
        assert "charon" in answer.json()["data"]["version"]
    elif call["name"] == "attester duties, empty list":
        assert (
            len(answer.json()["data"]) == 3
        )  # as a beacon node means it (answers-*.jsonl); the recorded node's mock gave nothing
    elif call["response"]:
        assert without_order(answer.json()) == without_order(call["response"])


def without_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_order(item) for key, item in value.items()}
    return sorted(map(without_order, value), key=str) if isinstance(value, list) else value
