"""Everything that validator clients asked real Charon nodes in the recordings, asked of our API in the same order: duties that are built
get Charon's answers, what the client signed is accepted after verification against its share, nothing else reaches the beacon node."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from actors.beacon.node import USER_AGENT
from actors.validator_api import proxy
from charon_actors.eth2.beacon_api import decode_attester_duties
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import DutyType
from charon_actors.eth2.forks import Fork, fork_from_label
from charon_actors.eth2.proposal import Proposal, SignedProposal
from charon_actors.eth2.signed_data import SignedRandao, VersionedAttestation
from charon_actors.eth2.unsigned_data import AttestationData
from charon_actors.validator_api.passing_on import may_be_passed_on
from charon_actors.validator_api.routes import NOT_BUILT, SWALLOWED, route_for
from tests.actors.beacon.upstream import Scripted, Seen, Upstream
from tests.actors.validator_api import rig as rigs
from tests.actors.validator_api.rig import Rig, rig_of
from tests.vectors_audit.recordings import CLIENT, answer_to, body_of, chain_of, fork_schedule_of, recording

Line = dict[str, Any]
NOT_PERFORMED = {  # duties of later issues
    "/eth/v1/validator/beacon_committee_selections",
    "/eth/v2/validator/aggregate_attestation",
    "/eth/v2/validator/aggregate_and_proofs",
    "/eth/v1/validator/sync_committee_selections",
    "/eth/v1/beacon/pool/sync_committees",
    "/eth/v1/validator/sync_committee_contribution",
    "/eth/v1/validator/contribution_and_proofs",
}
DUTIES = ("attester_duties", "proposer_duties", "proposer_duties_v2", "sync_duties")


def group_of(share: str) -> str:
    """The made-up group key of a recorded share's key: the recordings hold shares only."""
    return share[:4] + share[:3:-1]


def recorded_shares(lines: list[Line]) -> dict[str, dict[str, Any]]:
    """By validator index the object that the recorded node gave its client, with its share as the key."""
    asked = (line["response"]["data"] for line in lines if line["path"].endswith("/validators") and line["status"] == 200)
    return {validator["index"]: validator for validators in asked for validator in validators}


def with_groups(value: Any, shares: set[str]) -> Any:
    """The same JSON as the beacon node must have sent it."""
    if isinstance(value, dict):
        return {key: with_groups(item, shares) for key, item in value.items()}
    if isinstance(value, list):
        return [with_groups(item, shares) for item in value]
    return group_of(value) if isinstance(value, str) and value in shares else value


class Behind:
    """The beacon node behind the API: it answers each request as the recorded node's must have."""

    def __init__(self, name: str) -> None:
        lines = recording(name)
        self.validators = recorded_shares(lines)
        self.shares = {validator["validator"]["pubkey"] for validator in self.validators.values()}
        self.duties: dict[
            str, dict[str, Any]
        ] = {}  # by path; the recorded nodes' cache left some out or gave them twice (08 §5.2)
        for line in lines:
            if "/duties/" in line["path"] and line["status"] == 200:
                self.duties.setdefault(line["path"], {}).update((str(duty), duty) for duty in line["response"]["data"])
        self.upstream = Upstream()
        spec = answer_to(lines, "/eth/v1/config/spec")
        self.upstream.answers = {
            "/eth/v1/beacon/genesis": Scripted(body=answer_to(lines, "/eth/v1/beacon/genesis")),
            "/eth/v1/config/spec": Scripted(body=spec),
            "/eth/v1/config/fork_schedule": Scripted(body={"data": fork_schedule_of(spec)}),
            "/eth/v1/events": Scripted(404),
        }

    def find(self, seen: Seen) -> Scripted:
        found = with_groups(list(self.validators.values()), self.shares)
        ids = seen.json["ids"]
        return Scripted(body={"data": [v for v in found if v["index"] in ids or v["validator"]["pubkey"] in ids]})

    def will_answer(self, line: Line) -> None:
        headers = {key: value for key, value in line["response_headers"].items() if key != "transfer-encoding"}
        if line["path"].endswith("/validators"):
            self.upstream.answers[line["path"]] = self.find
        elif "/duties/" in line["path"]:
            everything = {**line["response"], "data": list(self.duties[line["path"]].values())}
            self.upstream.answers[line["path"]] = Scripted(body=with_groups(everything, self.shares))
        else:
            self.upstream.answers[line["path"]] = Scripted(line["status"], body_of(line["response"]), headers)


def agreed(line: Line) -> Proposal:
    answer = line["response"]
    return Proposal.from_json(fork_from_label(answer["version"]), answer["execution_payload_blinded"], answer["data"])


def know_duties(rig: Rig, lines: list[Line], chain: Chain) -> None:
    """What the duties actor would know: who attests where, what the cluster agreed on."""
    for line in lines:
        path = line["path"]
        if line.get("status") != 200:
            continue
        if "/duties/attester/" in path:
            epoch = int(path.rsplit("/", 1)[1])
            for duty in decode_attester_duties(body_of(line["response"]), epoch, chain.slots_per_epoch).duties:
                group = bytes.fromhex(group_of("0x" + duty.pubkey.hex())[2:])
                known = type(duty)(**{**{name: getattr(duty, name) for name in duty.__struct_fields__}, "pubkey": group})
                rig.duties.attesters[duty.slot, duty.committee_index, duty.validator_index] = group
                rig.duties.definitions[duty.slot, duty.committee_index, duty.validator_committee_index] = known
        elif path.endswith("/attestation_data"):
            data = AttestationData.from_json(line["response"]["data"])
            rig.duties.attestations[data.slot, data.index] = data
        elif "/v3/validator/blocks/" in path:
            proposal = agreed(line)
            rig.duties.proposals[proposal.slot] = proposal
    indices = {int(index): v["validator"]["pubkey"] for index, v in recorded_shares(lines).items()}
    for slot, proposal in rig.duties.proposals.items():
        rig.duties.proposers[slot] = bytes.fromhex(group_of(indices[proposal.proposer_index])[2:])


def pieces_of(line: Line) -> Any:
    raw = body_of(line["request"])

    async def pieces() -> Any:
        for start in range(0, len(raw), 1000):
            yield raw[start : start + 1000]

    return pieces() if line["request_headers"].get("transfer-encoding") == "chunked" else raw or None


async def ask(rig: Rig, line: Line) -> httpx.Response:
    headers = {key: value for key, value in line["request_headers"].items() if key != "transfer-encoding"}
    url = line["path"] + ("?" + line["query"] if line["query"] else "")
    return await rig.client.request(line["method"], url, headers=headers, content=pieces_of(line))


def requests_of(name: str) -> Iterator[Line]:
    return (line for line in recording(name) if line["method"] != "SSE" and line["response"] != "(event stream)")


def in_order(duties: Any) -> list[str]:
    return sorted(str(sorted(duty.items())) for duty in duties)


def check(handler: str, line: Line, answer: httpx.Response, behind: Behind) -> None:
    recorded = line["response"]
    assert answer.status_code == 200, answer.text
    if handler in DUTIES:
        ours, theirs, asked = answer.json(), recorded, line["request"]
        everything = behind.duties[line["path"]].values()
        cluster = [
            duty for duty in everything if duty["pubkey"] in behind.shares and (not asked or duty["validator_index"] in asked)
        ]
        assert {str(duty) for duty in theirs["data"] if duty["pubkey"] in behind.shares} <= {str(duty) for duty in cluster}
        assert in_order(ours.pop("data")) == in_order(cluster)
        assert ours == {key: value for key, value in theirs.items() if key != "data"}
    elif handler == "validators":
        ours, theirs = answer.json(), recorded
        assert in_order(ours.pop("data")) == in_order(theirs["data"])
        assert ours == {key: value for key, value in theirs.items() if key != "data"}
    elif handler in ("attestation_data", "propose_block"):
        assert answer.json() == recorded
        for header in (
            "eth-consensus-version",
            "eth-execution-payload-blinded",
            "eth-execution-payload-value",
            "eth-consensus-block-value",
        ):
            assert answer.headers.get(header) == line["response_headers"].get(header)
    else:
        assert answer.content == b""


@pytest.mark.parametrize("name", CLIENT)
async def test_a_recorded_client_is_served_as_by_charon(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, chain, behind = recording(name), chain_of(name), Behind(name)
    monkeypatch.setattr(rigs, "chain_of", lambda upstream: chain)
    monkeypatch.setattr(proxy, "COALESCE_S", 0.0)  # the replay is faster than the client was
    keys = [(bytes.fromhex(group_of(share)[2:]), [bytes.fromhex(share[2:])]) for share in sorted(behind.shares)]
    served = Counter[str]()
    now = [chain.genesis_time_s]
    prefers_ssz: list[tuple[Line, httpx.Response]] = []
    async with rig_of([behind.upstream], validators=keys, wall_clock=lambda: now[0], timeout_s=10) as rig:
        know_duties(rig, lines, chain)
        for line in requests_of(name):
            now[0] = chain.genesis_time_s + line["t"]
            behind.will_answer(line)
            behind.upstream.seen.clear()
            answer = await ask(rig, line)
            found = route_for(line["method"], line["path"])
            handler = found[0].handler if found else "passed on"
            served[handler] += 1
            if handler == "passed on":
                assert may_be_passed_on(line["method"], line["path"])
                assert (answer.status_code, answer.content) == (line["status"], body_of(line["response"]))
                theirs = [seen for seen in behind.upstream.saw(line["path"]) if seen.headers["user-agent"] != USER_AGENT]
                assert [seen.body for seen in theirs] == [body_of(line["request"])]
                continue
            if handler not in (*DUTIES, "validators"):
                assert not behind.upstream.saw(line["path"])
            if handler == NOT_BUILT:
                assert answer.status_code == 501
                assert line["path"] in NOT_PERFORMED
            elif handler == SWALLOWED:
                assert (answer.status_code, answer.content) == (200, b"")
            elif handler == "propose_block" and "octet-stream" in line["request_headers"]["accept"]:
                prefers_ssz.append((line, answer))
                check(handler, line, await ask(rig, {**line, "request_headers": {"accept": "application/json"}}), behind)
            else:
                check(handler, line, answer, behind)
        accepted = rig.signatures.accepted
    for line, answer in prefers_ssz:  # 07 §5.7: we answer in the form that the client prefers, Charon always in JSON
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.content == agreed(line).body
    check_accepted(name, lines, [signed for duty, partials in accepted for signed in partials.values()])
    assert {duty.type for duty, _ in accepted} >= {DutyType.ATTESTER}
    assert served["attester_duties"] > 3
    assert served["submit_attestations"] > 3


def check_accepted(name: str, lines: list[Line], accepted: list[Any]) -> None:
    """Every object that the client signed is there, as it was sent."""
    votes = [signed for signed in accepted if isinstance(signed, VersionedAttestation)]
    sent = [item for line in lines if line["path"].endswith("/v2/beacon/pool/attestations") for item in line["request"]]
    assert [vote.to_single_attestation_json() if vote.fork >= Fork.ELECTRA else vote.to_json() for vote in votes] == sent
    blocks = [signed for signed in accepted if isinstance(signed, SignedProposal)]
    published = [line for line in lines if line["path"].endswith(("/v2/beacon/blocks", "/v2/beacon/blinded_blocks"))]
    assert len(blocks) == len(published)
    for block, line in zip(blocks, published, strict=True):
        if isinstance(line["request"], str):
            assert block.body == body_of(line["request"])
        else:
            assert json.dumps(block.to_json()).lower() == json.dumps(line["request"]).lower()  # addresses: without checksum there
    randaos = {(signed.epoch, "0x" + signed.signature.hex()) for signed in accepted if isinstance(signed, SignedRandao)}
    queries = {line["query"].split("randao_reveal=")[1][:194] for line in lines if "/v3/validator/blocks/" in line["path"]}
    assert {signature for _, signature in randaos} == queries
