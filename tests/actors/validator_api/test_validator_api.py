"""The validator API as a validator client meets it: keys, signatures, blocks, refusals, streams, hang-ups, hostile bytes."""

import datetime
import json
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from actors.mailbox import ActorDown
from actors.signatures import DutyExpired
from actors.validator_api import Tls, ValidatorApi
from actors.validator_api.app import SHORT_BYTES
from actors.validator_api.http import ApiError, ApiRequest, prefers_ssz
from charon_actors.bounded_json import OBJECT
from charon_actors.crypto import sign
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signed_data import SignedProposal, SignedRandao, VersionedAttestation
from charon_actors.eth2.unsigned_data import AttestationData, AttesterDefinition, Proposal
from charon_actors.validator_api.passing_on import cleaned, may_be_passed_on
from charon_actors.validator_api.share_keys import KeyShares, UnknownKey
from tests.actors.beacon.test_beacon_actor import attester_answer, head, proposer_answer, stream
from tests.actors.beacon.upstream import Scripted, Upstream, chain_answers, syncing
from tests.actors.validator_api.rig import (
    FOREIGN,
    GROUP,
    PUBSHARES,
    SHARES,
    VALIDATOR_INDEX,
    Rig,
    listen,
    rig_of,
    validators_answer,
)
from tests.vector import vector

POOL = "/eth/v2/beacon/pool/attestations"
DATA = AttestationData(41, 0, b"\x11" * 32, 4, b"\x22" * 32, 5, b"\x33" * 32)
SHARE_TEXT = "0x" + PUBSHARES[0].hex()


def node(name: str = "bn") -> Upstream:
    upstream = Upstream(name)
    chain_answers(upstream)
    for state in ("40", "head", "1"):
        upstream.answers[f"/eth/v1/beacon/states/{state}/validators"] = validators_answer
    return upstream


def message(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body["code"] == answer.status_code
    return str(body["message"])


def swapped(seen: Any) -> Scripted:
    answer = attester_answer(seen)
    for duty in answer.body["data"]:
        duty["pubkey"] = "0x" + (GROUP if duty["validator_index"] == str(VALIDATOR_INDEX) else FOREIGN).hex()
    return answer


# -- duties and keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [[7], ["7"], [], None])
async def test_attester_duties_name_our_share(body: Any) -> None:
    bn = node()
    bn.answers["/eth/v1/validator/duties/attester/5"] = swapped
    async with rig_of([bn]) as rig:
        answer = await rig.client.post("/eth/v1/validator/duties/attester/5", content=json.dumps(body))
    assert answer.status_code == 200
    assert answer.json() == {
        "dependent_root": "0x" + "0d" * 32,
        "execution_optimistic": True,
        "data": [
            {
                "pubkey": SHARE_TEXT,
                "validator_index": "7",
                "committee_index": "1",
                "committee_length": "9",
                "committees_at_slot": "2",
                "validator_committee_index": "3",
                "slot": "41",
            }
        ],
    }


async def test_duties_of_a_foreign_validator_are_refused() -> None:
    bn = node()
    bn.answers["/eth/v1/validator/duties/attester/5"] = swapped
    async with rig_of([bn]) as rig:
        answer = await rig.client.post("/eth/v1/validator/duties/attester/5", json=["9"])
        assert (answer.status_code, "validator 9 is not one of this cluster" in message(answer)) == (400, True)
        bn.answers["/eth/v1/validator/duties/attester/21"] = attester_answer
        answer = await rig.client.post("/eth/v1/validator/duties/attester/21", json=["7"])
        assert (answer.status_code, "more than one ahead" in message(answer)) == (400, True)


@pytest.mark.parametrize(("path", "root"), [("v1", "01"), ("v2", "02")])
async def test_proposer_duties_are_ours_only_and_name_our_share(path: str, root: str) -> None:
    bn = node()

    def ours(seen: Any) -> Scripted:
        answer = proposer_answer(seen)
        answer.body["data"][1]["pubkey"] = "0x" + GROUP.hex()
        return answer

    bn.answers[f"/eth/{path}/validator/duties/proposer/5"] = ours
    async with rig_of([bn]) as rig:
        answer = (await rig.client.get(f"/eth/{path}/validator/duties/proposer/5")).json()
    assert answer["data"] == [{"pubkey": SHARE_TEXT, "validator_index": "1", "slot": "41"}]
    assert answer["dependent_root"] == "0x" + root * 32


async def test_sync_duties_name_our_share() -> None:
    bn = node()
    duty = {"pubkey": "0x" + GROUP.hex(), "validator_index": "7", "validator_sync_committee_indices": ["1", "5"]}
    bn.answers["/eth/v1/validator/duties/sync/5"] = Scripted(body={"data": [duty], "execution_optimistic": False})
    async with rig_of([bn]) as rig:
        answer = (await rig.client.post("/eth/v1/validator/duties/sync/5", json=["7"])).json()
    assert answer == {"execution_optimistic": False, "data": [{**duty, "pubkey": SHARE_TEXT}]}


@pytest.mark.parametrize("how", ["get repeated", "get list", "post", "upper case"])
async def test_validators_by_share(how: str) -> None:
    bn, path = node(), "/eth/v1/beacon/states/head/validators"
    async with rig_of([bn]) as rig:
        match how:
            case "get repeated":
                answer = await rig.client.get(f"{path}?id={SHARE_TEXT}&id={SHARE_TEXT}")
            case "get list":
                answer = await rig.client.get(f"{path}?id={SHARE_TEXT},%20{SHARE_TEXT}")
            case "post":
                answer = await rig.client.post(path, json={"ids": [SHARE_TEXT], "statuses": ["active"]})
            case _:
                answer = await rig.client.get(f"{path}?id=0x{PUBSHARES[0].hex().upper()}")
        single = await rig.client.get(f"{path}/{SHARE_TEXT}")
    (found,) = answer.json()["data"]
    assert (found["index"], found["validator"]["pubkey"]) == ("7", SHARE_TEXT)
    assert single.json()["data"] == found
    asked = [seen.json["ids"] for seen in bn.seen if seen.path.endswith("/validators")]
    assert asked == [["0x" + GROUP.hex()]]  # once for all of it, and by the group's key


async def test_validators_by_index_come_from_memory_and_foreign_ones_are_refused() -> None:
    bn, path = node(), "/eth/v1/beacon/states/head/validators"
    async with rig_of([bn]) as rig:
        for _ in range(3):
            answer = await rig.client.get(f"{path}?id=7")
            assert [v["validator"]["pubkey"] for v in answer.json()["data"]] == [SHARE_TEXT]
        assert len([seen for seen in bn.seen if seen.path.endswith("/validators")]) == 1
        answer = await rig.client.get(f"{path}?id=7,99")
        assert (answer.status_code, "validator 99" in message(answer)) == (400, True)
        assert [v["index"] for v in (await rig.client.get(path)).json()["data"]] == ["7"]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (PUBSHARES[2], "key share 3 .* node that serves share 1"),
        (GROUP, "group key"),
        (FOREIGN, "unknown public key"),
    ],
    ids=["another share", "group", "foreign"],
)
async def test_a_wrong_key_is_named(key: bytes, said: str) -> None:
    import re

    async with rig_of([node()]) as rig:
        answer = await rig.client.post("/eth/v1/beacon/states/head/validators", json={"ids": ["0x" + key.hex()]})
    assert answer.status_code == 400
    assert re.search(said, message(answer))


def test_key_shares() -> None:
    shares = KeyShares(2, [(GROUP, PUBSHARES)])
    assert (shares.share_of(GROUP), shares.group_of(PUBSHARES[1]), shares.share_of(FOREIGN)) == (PUBSHARES[1], GROUP, None)
    with pytest.raises(UnknownKey, match=r"key share 1 .* share 2"):
        shares.group_of(PUBSHARES[0])
    with pytest.raises(ValueError, match="no share 5"):
        KeyShares(5, [(GROUP, PUBSHARES)])


# -- attestations ----------------------------------------------------------------------------------------------------------------


def attestation(
    rig: Rig, *, share: int = 1, committee: int = 3, index: int = VALIDATOR_INDEX, data: AttestationData = DATA
) -> dict[str, Any]:
    single = {
        "committee_index": str(committee),
        "attester_index": str(index),
        "data": data.to_json(),
        "signature": "0x" + "00" * 96,
    }
    unsigned = VersionedAttestation.from_single_attestation_json(Fork.FULU, single)
    return {**single, "signature": "0x" + sign(SHARES[share], unsigned.signing_root(rig.chain)).hex()}


async def post_attestations(rig: Rig, *items: Any) -> httpx.Response:
    return await rig.client.post(POOL, json=list(items), headers={"Eth-Consensus-Version": "fulu"})


async def test_attestation_data_waits_for_the_decision_and_is_told_again() -> None:
    async with rig_of([node()]) as rig:
        rig.duties.undecided.add(41)
        answers: list[httpx.Response] = []
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                answers.append(await rig.client.get("/eth/v1/validator/attestation_data?slot=41&committee_index=0"))

            nursery.start_soon(ask)
            while not rig.duties.waiting:
                await trio.sleep(0.01)
            rig.duties.waiting[0].send(DATA)
        assert answers[0].json() == {"data": DATA.to_json()}


async def test_an_unanswered_wait_ends_with_408() -> None:
    async with rig_of([node()], request_timeout_s=0.2) as rig:
        rig.duties.undecided.add(41)
        answer = await rig.client.get("/eth/v1/validator/attestation_data?slot=41")
        assert (answer.status_code, message(answer)) == (408, "client cancelled request")
        assert rig.duties.waiting[0].is_abandoned


async def test_a_client_that_hangs_up_is_no_longer_waited_for() -> None:
    async with rig_of([node()]) as rig:
        rig.duties.undecided.add(41)
        with trio.move_on_after(0.3):
            await rig.client.get("/eth/v1/validator/attestation_data?slot=41")
        with trio.fail_after(2):
            while not (rig.duties.waiting and rig.duties.waiting[0].is_abandoned):
                await trio.sleep(0.01)
            while not rig.requests:
                await trio.sleep(0.01)
        assert rig.requests[-1].status == 0
        assert (await rig.client.get("/eth/v1/node/version")).status_code == 200


async def test_attestations_reach_the_signatures_actor_in_the_form_of_the_peers() -> None:
    async with rig_of([node()]) as rig:
        rig.duties.attesters[41, 3, 7] = GROUP
        item = attestation(rig)
        answer = await post_attestations(rig, item, item)  # the same one twice is one
    assert (answer.status_code, answer.content, "content-type" in answer.headers) == (200, b"", False)
    ((duty, partials),) = rig.signatures.accepted
    assert duty == Duty(41, DutyType.ATTESTER)
    signed = partials[GROUP]
    assert isinstance(signed, VersionedAttestation)
    assert (signed.attestation.aggregation_bits, signed.attestation.committee_bits, signed.validator_index) == (
        b"\x01",
        b"\x08" + bytes(7),
        7,
    )
    assert signed.to_single_attestation_json() == item


@pytest.mark.parametrize("fault", ["wrong share", "zero signature", "one bit", "unknown validator", "wrong committee"])
async def test_one_bad_attestation_refuses_all_of_the_request(fault: str) -> None:
    async with rig_of([node()]) as rig:
        rig.duties.attesters[41, 3, 7] = GROUP
        rig.duties.attesters[42, 3, 7] = GROUP
        good = attestation(rig)
        bad = attestation(rig, data=AttestationData(41, 0, b"\x44" * 32, 4, b"\x22" * 32, 5, b"\x33" * 32))
        match fault:
            case "wrong share":
                bad = attestation(rig, share=2)
            case "zero signature":
                bad = {**good, "signature": "0x" + "00" * 96}
            case "one bit":
                bad = {**good, "signature": good["signature"][:-1] + ("0" if good["signature"][-1] != "0" else "1")}
            case "unknown validator":
                bad = attestation(rig, index=8)
            case "wrong committee":
                bad = attestation(rig, committee=4)
        answer = await post_attestations(rig, bad)
        assert answer.status_code == 400
        if fault in ("unknown validator", "wrong committee"):
            answer = await post_attestations(rig, good, bad)
            assert answer.status_code == 400
    assert rig.signatures.accepted == []


async def test_a_request_for_several_slots_is_looked_at_as_a_whole_before_any_of_it_goes_on() -> None:
    async with rig_of([node()]) as rig:
        rig.duties.attesters[41, 3, 7] = rig.duties.attesters[42, 3, 7] = GROUP
        later = AttestationData(42, 0, b"\x11" * 32, 4, b"\x22" * 32, 5, b"\x33" * 32)
        for bad in (attestation(rig, index=8, data=later), attestation(rig, committee=4, data=later), {}):
            answer = await post_attestations(rig, attestation(rig), bad)
            assert answer.status_code == 400
            assert rig.signatures.accepted == []
        assert (await post_attestations(rig, attestation(rig), attestation(rig, data=later))).status_code == 200
    assert [duty for duty, _ in rig.signatures.accepted] == [Duty(41, DutyType.ATTESTER), Duty(42, DutyType.ATTESTER)]


async def test_two_votes_of_one_validator_are_refused_here_already() -> None:
    async with rig_of([node()]) as rig:
        rig.duties.attesters[41, 3, 7] = GROUP
        other = attestation(rig, data=AttestationData(41, 0, b"\x44" * 32, 4, b"\x22" * 32, 5, b"\x33" * 32))
        answer = await post_attestations(rig, attestation(rig), other)
        assert (answer.status_code, "two different attestations" in message(answer)) == (400, True)
    assert rig.signatures.accepted == []


async def test_attestations_before_electra_name_their_validator_by_its_bit() -> None:
    async with rig_of([node()]) as rig:
        data = AttestationData(41, 3, b"\x11" * 32, 4, b"\x22" * 32, 5, b"\x33" * 32)
        rig.duties.definitions[41, 3, 1] = AttesterDefinition(GROUP, 41, 7, 3, 9, 2, 1)
        item = {"aggregation_bits": "0x06", "data": data.to_json(), "signature": "0x" + "00" * 96}
        root = VersionedAttestation.from_attestation_json(Fork.DENEB, item).signing_root(rig.chain)
        item["signature"] = "0x" + sign(SHARES[1], root).hex()
        headers = {"Eth-Consensus-Version": "Deneb"}
        assert (await rig.client.post(POOL, json=[item], headers=headers)).status_code == 200
        for bits in ("0x04", "0x07", "0x0e", "0x01"):
            answer = await rig.client.post(POOL, json=[{**item, "aggregation_bits": bits}], headers=headers)
            assert answer.status_code == 400
    assert len(rig.signatures.accepted) == 1


async def test_too_late_is_a_success_and_a_restarting_actor_is_503() -> None:
    async with rig_of([node()]) as rig:
        rig.duties.attesters[41, 3, 7] = GROUP
        rig.signatures.refuse_with = DutyExpired("41/attester")
        assert (await post_attestations(rig, attestation(rig))).status_code == 200
        rig.signatures.refuse_with = ActorDown("signatures went down")
        assert (await post_attestations(rig, attestation(rig))).status_code == 503


# -- blocks ----------------------------------------------------------------------------------------------------------------------

MESSAGE = {**vector("eth2/fulu_beacon_block.json"), "slot": "41"}
BLOCK = Proposal.from_json(Fork.FULU, False, {"block": MESSAGE, "kzg_proofs": [], "blobs": []})
OTHER_MESSAGE = {**MESSAGE, "state_root": "0x" + "99" * 32}
OTHER_BLOCK = Proposal.from_json(Fork.FULU, False, {"block": OTHER_MESSAGE, "kzg_proofs": [], "blobs": []})


def randao(rig: Rig, slot: int, share: int = 1) -> str:
    root = SignedRandao(rig.chain.epoch_of(slot), bytes(96)).signing_root(rig.chain)
    return "0x" + sign(SHARES[share], root).hex()


async def test_a_block_request_hands_on_the_randao_and_answers_the_agreed_block() -> None:
    slot = BLOCK.slot
    async with rig_of([node()]) as rig:
        rig.duties.proposers[slot], rig.duties.proposals[slot] = GROUP, BLOCK
        path = f"/eth/v3/validator/blocks/{slot}?randao_reveal={randao(rig, slot)}&graffiti=0x00&builder_boost_factor=5"
        answer = await rig.client.get(path)
        as_ssz = await rig.client.get(path, headers={"Accept": "application/octet-stream;q=1,application/json;q=0.9"})
        as_json = await rig.client.get(path, headers={"Accept": "application/octet-stream;q=0.9,application/json;q=1"})
        bad = await rig.client.get(f"/eth/v3/validator/blocks/{slot}?randao_reveal={randao(rig, slot, share=2)}")
    assert answer.json() == {
        "version": "fulu",
        "execution_payload_blinded": False,
        "execution_payload_value": "1",
        "consensus_block_value": "1",
        "data": BLOCK.to_json(),
    }
    assert as_json.json() == answer.json()
    assert (as_ssz.headers["content-type"], as_ssz.content) == ("application/octet-stream", BLOCK.body)
    for one in (answer, as_ssz):
        assert one.headers["eth-consensus-version"] == "fulu"
        assert one.headers["eth-execution-payload-blinded"] == "false"
        assert one.headers["eth-execution-payload-value"] == one.headers["eth-consensus-block-value"] == "1"
    assert bad.status_code == 400
    duties = {duty for duty, _ in rig.signatures.accepted}
    assert duties == {Duty(slot, DutyType.RANDAO)}


async def test_a_block_without_duty_is_404_and_before_the_duties_are_known_503() -> None:
    async with rig_of([node()]) as rig:
        rig.duties.unresolved.add(48)
        for slot, status in ((47, 404), (48, 503)):
            answer = await rig.client.get(f"/eth/v3/validator/blocks/{slot}?randao_reveal={randao(rig, slot)}")
            assert (answer.status_code, bool(message(answer))) == (status, True)


def signed_block(rig: Rig, block: Proposal = BLOCK, share: int = 1) -> SignedProposal:
    return block.signed(sign(SHARES[share], block.signed(bytes(96)).signing_root(rig.chain)))


@pytest.mark.parametrize("form", ["ssz", "json", "v1"])
async def test_an_agreed_block_is_accepted(form: str) -> None:
    async with rig_of([node()]) as rig:
        rig.duties.proposers[BLOCK.slot], rig.duties.proposals[BLOCK.slot] = GROUP, BLOCK
        signed = signed_block(rig)
        headers = {"Eth-Consensus-Version": "fulu"}
        if form == "ssz":
            headers["Content-Type"] = "application/octet-stream"
            answer = await rig.client.post("/eth/v2/beacon/blocks", content=signed.body, headers=headers)
        else:
            path = "/eth/v1/beacon/blocks" if form == "v1" else "/eth/v2/beacon/blocks"
            answer = await rig.client.post(path, json=signed.to_json(), headers=headers)
    assert (answer.status_code, answer.content) == (200, b"")
    ((duty, partials),) = rig.signatures.accepted
    assert (duty, partials) == (Duty(BLOCK.slot, DutyType.PROPOSER), {GROUP: signed})


async def test_any_other_block_is_refused_before_its_signature_is_looked_at() -> None:
    async with rig_of([node()]) as rig:
        rig.duties.proposers[BLOCK.slot], rig.duties.proposals[BLOCK.slot] = GROUP, BLOCK
        headers = {"Eth-Consensus-Version": "fulu", "Content-Type": "application/octet-stream"}
        answer = await rig.client.post("/eth/v2/beacon/blocks", content=signed_block(rig, OTHER_BLOCK).body, headers=headers)
        assert (answer.status_code, "do not match" in message(answer)) == (400, True)
        blinded = SignedProposal(Fork.FULU, True, BLOCK.signed(bytes(96))._signed_block)
        answer = await rig.client.post("/eth/v2/beacon/blinded_blocks", content=blinded.body, headers=headers)
        assert answer.status_code == 400
        answer = await rig.client.post("/eth/v2/beacon/blocks", content=signed_block(rig, share=2).body, headers=headers)
        assert (answer.status_code, "does not verify" in message(answer)) == (400, True)
    assert rig.signatures.accepted == []


# -- what never goes to a beacon node --------------------------------------------------------------------------------------------

NEVER = [
    ("POST", "/eth/v1/beacon/pool/voluntary_exits"),
    ("POST", "/eth/v1/beacon/pool/voluntary_exits/"),
    ("POST", "/eth/v1/beacon/pool/sync_committees"),
    ("POST", "/eth/v1/beacon/pool/bls_to_execution_changes"),
    ("POST", "/eth/v1/beacon/pool/payload_attestations"),
    ("POST", "/eth/v3/beacon/pool/attestations"),
    ("PUT", "/eth/v2/beacon/pool/attestations"),
    ("POST", "/ETH/V2/beacon/pool/attestations"),
    ("POST", "/eth/v2/beacon/pool/attestations/"),
    ("POST", "/eth/v2/beacon/pool/attestations;x=y"),
    ("POST", "/eth/v2/beacon/pool%2fattestations/"),
    ("POST", "/eth/v2/beacon/pool%252fattestations"),
    ("POST", "/eth/v2/beacon/x%2f..%2fpool/attestations"),
    ("POST", "/eth/v2\\beacon/pool/attestations"),
    ("POST", "/eth/v3/beacon/blocks"),
    ("POST", "/eth/v2/beacon/blocks/"),
    ("POST", "/eth/v1/beacon/execution_payload_envelope"),
    ("POST", "/eth/v1/beacon/execution_payload_envelopes"),
    ("POST", "/eth/v1/beacon/execution_payload_bids"),
    ("POST", "/eth/v1/validator/contribution_and_proofs"),
    ("POST", "/eth/v2/validator/aggregate_and_proofs"),
    ("POST", "/eth/v1/validator/aggregate_and_proofs"),
    ("POST", "/eth/v1/validator/beacon_committee_selections"),
    ("POST", "/eth/v1/validator/sync_committee_selections"),
    ("POST", "/eth/v1/validator/proposer_preferences"),
    ("POST", "/eth/v1/validator/register_validator/"),
    ("GET", "/eth/v4/validator/blocks/5"),
    ("GET", "/eth/v3/validator/blocks/5/"),
    ("GET", "/eth/v1/validator/payload_attestation_data"),
    ("GET", "/eth/v2/validator/aggregate_attestation?slot=1"),
    ("GET", "/eth/v1/validator/sync_committee_contribution?slot=1"),
    ("POST", "/eth/v1/validator/duties/ptc/1"),
    ("POST", "/eth/v4/validator/blocks/5"),
    ("GET", "/eth/v1/validator/execution_payload_envelopes/5/0x00"),
    ("GET", "/eth/v1/validator/execution_payload_bids/5/1"),
    ("POST", "/eth/v1/validator/builder_preferences"),
    ("POST", "/eth/v1alpha1/validator/block"),
    ("POST", "/eth/v1/builder/blinded_blocks"),
]


@pytest.mark.parametrize(("method", "path"), NEVER)
async def test_signing_routes_never_reach_a_beacon_node(method: str, path: str) -> None:
    bn = node()
    bn.default = Scripted(200)
    async with rig_of([bn]) as rig:
        url = httpx.URL(rig.url).copy_with(raw_path=path.encode())
        answer = await rig.client.send(httpx.Request(method, url, content=b'[{"signature":"0x00"}]'))
        if answer.status_code == 301:  # to the clean form, which is a route of ours
            assert answer.headers["location"] == POOL
        else:
            assert answer.status_code in (404, 501)
            assert message(answer)
        assert not any("signature" in seen.body.decode() for seen in bn.seen)
        assert {seen.path for seen in bn.seen} <= {"/eth/v1/events", "/eth/v1/node/syncing", "/eth/v1/beacon/genesis"}


@given(
    st.sampled_from(["POST", "PUT", "DELETE", "PATCH", "BREW"]),
    st.sampled_from(["pool/attestations", "pool/x", "blocks", "blinded_blocks", "new_thing"]),
    st.lists(st.sampled_from(["/", "/./", ";a=b/", "/%2e/", "%2F", "//"]), min_size=4, max_size=4),
    st.booleans(),
)
def test_no_spelling_of_a_submission_is_passed_on(method: str, tail: str, gaps: list[str], is_upper: bool) -> None:
    path = f"{gaps[0]}eth{gaps[1]}v2{gaps[2]}beacon{gaps[3]}{tail}"
    assert not may_be_passed_on(method, (path.upper() if is_upper else path).replace("%2E", "%2e"))


@pytest.mark.parametrize(
    ("method", "path", "is_allowed"),
    [
        ("GET", "/eth/v1/beacon/pool/voluntary_exits", True),
        ("GET", "/eth/v2/beacon/blocks/head", True),
        ("POST", "/eth/v1/beacon/states/head/validator_balances", True),
        ("POST", "/eth/v1/beacon/rewards/attestations/5", True),
        ("POST", "/eth/v1/validator/liveness/5", True),
        ("POST", "/eth/v1/validator/beacon_committee_subscriptions", True),
        ("GET", "/eth/v1/config/spec", True),
        ("POST", "/lighthouse/liveness", True),
        ("GET", "/eth/v2/debug/beacon/states/head", True),
        ("POST", "/eth/v1/validator/duties/ptc/5", False),
        ("GET", "/eth/v1/../x", False),
        ("GET", "/eth/v1/x%20y", False),
    ],
)
def test_what_may_be_passed_on(method: str, path: str, is_allowed: bool) -> None:
    assert may_be_passed_on(method, path) is is_allowed


async def test_registrations_and_preparations_are_swallowed() -> None:
    bn = node()
    async with rig_of([bn]) as rig:
        for path in ("/eth/v1/validator/register_validator", "/eth/v1/validator/prepare_beacon_proposer"):
            answer = await rig.client.post(path, content=b"\xff\x00 nonsense")
            assert (answer.status_code, answer.content) == (200, b"")
            assert not bn.saw(path)


# -- passing on ------------------------------------------------------------------------------------------------------------------


async def test_chunked_bodies_are_read() -> None:
    bn, path = node(), "/eth/v1/validator/liveness/5"
    bn.answers[path] = Scripted(body={"data": []})

    async def pieces() -> Any:
        for piece in (b'["1"', b',"2"', b"]"):
            yield piece

    async with rig_of([bn]) as rig:
        assert (await rig.client.post(path, content=pieces())).status_code == 200
        rig.duties.attesters[41, 3, 7] = GROUP
        raw = json.dumps([attestation(rig)]).encode()

        async def halves() -> Any:
            yield raw[:100]
            yield raw[100:]

        answer = await rig.client.post(POOL, content=halves(), headers={"Eth-Consensus-Version": "fulu"})
        assert (answer.status_code, len(rig.signatures.accepted)) == (200, 1)
    assert bn.saw(path)[0].body == b'["1","2"]'


async def test_large_answers_are_streamed_while_they_come() -> None:
    bn, piece = node(), b"y" * 65536
    bn.answers["/eth/v2/debug/beacon/states/head"] = Scripted(
        headers={"content-type": "application/octet-stream"}, chunks=[piece] * 40, pause_s=0.01
    )
    async with rig_of([bn]) as rig, rig.client.stream("GET", "/eth/v2/debug/beacon/states/head") as answer:
        assert answer.headers["content-type"] == "application/octet-stream"
        total, early = 0, None
        async for chunk in answer.aiter_raw():
            total += len(chunk)
            early = early or len(chunk)
        assert total == 40 * len(piece)
        assert early is not None
        assert early < total


async def test_an_answer_that_breaks_off_is_not_taken_for_whole() -> None:
    bn = node()
    bn.answers["/eth/v1/beacon/blob_sidecars/1"] = Scripted(chunks=[b"x" * 70_000], breaks_off=True)
    async with rig_of([bn]) as rig:
        with pytest.raises(httpx.RemoteProtocolError):
            await rig.client.get("/eth/v1/beacon/blob_sidecars/1")


async def test_events_arrive_before_the_upstream_ends_and_outlive_it() -> None:
    one, two = node("one"), node("two")
    one.answers["/eth/v1/events"] = stream(head(1), is_endless=False)
    two.answers["/eth/v1/events"] = stream(head(2))
    async with rig_of([one, two]) as rig, rig.client.stream("GET", "/eth/v1/events?topics=head") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        received = b""
        with trio.fail_after(5):
            async for chunk in answer.aiter_raw():
                received += chunk
                if received.count(b"event: head") == 2:
                    break
        assert received == head(1) + head(2)
    assert not any("X-Forwarded" in name for seen in one.seen for name in seen.headers)


async def test_a_stream_without_events_yet_is_open_all_the_same() -> None:
    """Some beacon nodes send the head of a stream only with its first event (seen on the bench node)."""
    bn = node()
    bn.answers["/eth/v1/events"] = Scripted(
        delay_s=1.5, headers={"content-type": "text/event-stream"}, chunks=[head(1)], is_endless=True
    )
    async with rig_of([bn], timeout_s=0.3) as rig:
        started = trio.current_time()
        async with rig.client.stream("GET", "/eth/v1/events?topics=head") as answer:
            assert (answer.status_code, trio.current_time() - started < 1.2) == (200, True)
            with trio.fail_after(5):
                assert await anext(answer.aiter_raw()) == head(1)


async def test_a_client_that_leaves_its_event_stream_frees_the_upstream() -> None:
    bn = node()
    bn.answers["/eth/v1/events"] = lambda seen: (
        Scripted(503)
        if "block_gossip" in seen.query
        else Scripted(headers={"content-type": "text/event-stream"}, chunks=[head(n) for n in range(1000)], pause_s=0.02)
    )
    async with rig_of([bn]) as rig:
        async with rig.client.stream("GET", "/eth/v1/events?topics=head") as answer:
            await anext(answer.aiter_raw())
        await bn.wait_until(lambda: bn.cancelled >= 1)


async def test_equal_small_gets_are_asked_once_and_a_little_later_again() -> None:
    bn, path = node(), "/eth/v1/beacon/blocks/head/root"
    bn.answers[path] = Scripted(body={"data": {"root": "0x01"}}, delay_s=0.05)
    async with rig_of([bn]) as rig:
        answers: list[httpx.Response] = []
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                answers.append(await rig.client.get(path))

            for _ in range(16):
                nursery.start_soon(ask)
        assert {answer.text for answer in answers} == {'{"data":{"root":"0x01"}}'}
        assert len(bn.saw(path)) <= 2
        await trio.sleep(0.15)
        asked = len(bn.saw(path))
        for encoding in ("gzip", "identity"):
            await rig.client.get(path, headers={"accept-encoding": encoding})
        assert len(bn.saw(path)) == asked + 2, "what one client can unpack another may not"


async def test_a_beacon_node_that_is_down_is_503_with_a_reason() -> None:
    bn = node()
    async with bn.serving():
        pass
    async with rig_of([node()]) as rig:
        bn.answers.clear()
    gone = node("gone")
    async with rig_of([gone], timeout_s=0.3) as rig:
        gone.default = Scripted(delay_s=5)
        answer = await rig.client.get("/whatever")
        assert (answer.status_code, "no answer within" in message(answer)) == (503, True)


# -- node ------------------------------------------------------------------------------------------------------------------------


async def test_health_is_that_of_the_best_node() -> None:
    one, two = node("one"), node("two")
    one.answers["/eth/v1/node/syncing"] = syncing(True, 100)
    async with rig_of([one, two]) as rig:
        assert (await rig.client.get("/eth/v1/node/health")).status_code == 200
        assert (await rig.client.get("/eth/v1/node/syncing")).json()["data"]["is_syncing"] is False
        two.answers["/eth/v1/node/syncing"] = syncing(True, 100)
        await trio.sleep(1.1)
        assert (await rig.client.get("/eth/v1/node/health")).status_code == 206
        assert (await rig.client.get("/eth/v1/node/health?syncing_status=299")).status_code == 299


async def test_while_the_node_starts_everything_is_503() -> None:
    async with rig_of([node()], is_starting=True) as rig:
        assert (await rig.client.get("/eth/v1/node/health")).status_code == 503
        answer = await rig.client.post("/eth/v1/validator/duties/attester/5", json=["7"])
        assert (answer.status_code, bool(message(answer))) == (503, True)
        assert (await rig.client.get("/eth/v1/node/version")).status_code == 200


async def test_the_port_stays_bound_over_restarts() -> None:
    async with rig_of([node()]) as rig:
        listening = listen()
        api = ValidatorApi(
            listening,
            KeyShares(1, [(GROUP, PUBSHARES)]),
            lambda: rig.chain,
            None,  # type: ignore[arg-type]  # node/version asks nobody
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            version="charon",
        )
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/eth/v1/node/version"
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(api.run)
                    assert (await client.get(url)).status_code == 200
                    nursery.cancel_scope.cancel()
                with socket.create_connection(listening.getsockname(), timeout=1) as waiting:  # into the backlog
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(api.run)
                        waiting.sendall(b"GET /eth/v1/node/version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                        assert b"200" in await trio.to_thread.run_sync(waiting.recv, 4096)
                        nursery.cancel_scope.cancel()
        listening.close()


def self_signed(folder: Path) -> Tls:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(1))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    files = Tls(str(folder / "cert.pem"), str(folder / "key.pem"))
    Path(files.certificate_file).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    Path(files.key_file).write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return files


async def test_tls(tmp_path: Path) -> None:
    tls, listening = self_signed(tmp_path), listen()
    nobody: Any = None  # node/version asks nobody
    api = ValidatorApi(listening, KeyShares(1, []), lambda: None, nobody, nobody, nobody, version="charon", tls=tls)
    trusted = ssl.create_default_context(cafile=tls.certificate_file)
    async with httpx.AsyncClient(verify=trusted, trust_env=False) as client, trio.open_nursery() as nursery:
        nursery.start_soon(api.run)
        answer = await client.get(f"https://localhost:{listening.getsockname()[1]}/eth/v1/node/version")
        assert answer.json() == {"data": {"version": "charon"}}
        trusted.set_alpn_protocols(["h2", "http/1.1"])
        wanted = await trio.open_ssl_over_tcp_stream("localhost", listening.getsockname()[1], ssl_context=trusted)
        async with wanted as stream:
            await stream.do_handshake()
            assert stream.selected_alpn_protocol() == "http/1.1", "HTTP/2 and its resets are not offered"
        nursery.cancel_scope.cancel()
    listening.close()


async def test_bodies_are_bounded() -> None:
    bn = node()
    async with rig_of([bn]) as rig:
        try:
            answer = await rig.client.post(POOL, content=b" " * (17 * 2**20), headers={"Eth-Consensus-Version": "fulu"})
            assert answer.status_code == 413
        except httpx.TransportError:
            pass  # the connection was closed under the upload
        assert (await rig.client.get("/eth/v1/node/version")).status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\xff" * 50 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /eth/v1/node/version HTTP/1.1\r\n\r\n",
        b"POST /eth/v2/beacon/blocks HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"POST /eth/v2/beacon/blocks HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /eth/v2/beacon/blocks HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"GET http://host/eth/v1/node/version HTTP/1.1\r\nhost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /eth/v1/node/version HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"GET /%ff%fe/%00 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /eth/v1/node/version HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nconnection: upgrade\r\nhttp2-settings: A\r\n\r\n",
        b"GET /x HTTP/1.1\r\nhost: x\r\nuser-agent: Gr\xc3\xbc\xc3\x9fe\r\nx-\xff: y\r\n\r\n",
        b"GET /x HTTP/1.1\r\nhost: x\r\nuser-agent: Gr\xc3\xbc\xc3\x9fe \xff\r\n\r\n",
        b"GET /x?" + b"a" * (2**17) + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /eth/v1/events?" + b"topics=head&" * 101 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /" + b"a" * (2**20) + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    ],
)
async def test_hostile_bytes_end_their_connection_and_nothing_else(raw: bytes) -> None:
    bn = node()
    async with rig_of([bn]) as rig:
        with trio.move_on_after(1):
            async with await trio.open_tcp_stream(*rig.listening.getsockname()) as hostile:
                await hostile.send_all(raw)
                await hostile.send_eof()
                try:
                    async for _ in hostile:
                        pass
                except trio.BrokenResourceError:
                    pass
        assert (await rig.client.get("/eth/v1/node/version")).status_code == 200
        assert (await rig.client.get("/eth/v1/node/syncing")).status_code == 200  # the beacon actor is there, too


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["7", "0x00", SHARE_TEXT]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["ids", "data", "slot", "signature", "committee_index", "message"]), inner, max_size=4)
    ),
    max_leaves=8,
)


async def test_hostile_bodies_are_the_clients_fault() -> None:
    bn = node()
    paths = [
        "/eth/v1/validator/duties/attester/5",
        "/eth/v1/validator/duties/sync/5",
        POOL,
        "/eth/v1/beacon/states/head/validators",
        "/eth/v2/beacon/blocks",
        "/eth/v2/beacon/blinded_blocks",
    ]
    bodies: list[bytes] = [b"[" * 100_000, b"\xff", b"{", b'{"a":' * 50_000, b"1e999", b'"' + b"a" * 10_000 + b'"']

    @given(JSON)
    def collect(value: Any) -> None:
        if len(bodies) < 60:
            bodies.append(json.dumps(value).encode())

    collect()
    bn.answers["/eth/v1/validator/duties/attester/5"] = Scripted(body={"data": []})
    bn.answers["/eth/v1/validator/duties/sync/5"] = Scripted(body={"data": []})
    async with rig_of([bn]) as rig:
        for path in paths:
            for body in bodies:
                answer = await rig.client.post(path, content=body, headers={"Eth-Consensus-Version": "fulu"})
                statuses = (200, 400) if len(body) <= SHORT_BYTES else (404,) if path.endswith("blocks") else (413,)
                assert answer.status_code in statuses, (path, body[:50], answer.text)
    assert rig.signatures.accepted == []


def test_accept() -> None:
    assert prefers_ssz("application/octet-stream;q=1,application/json;q=0.9")
    assert prefers_ssz("application/octet-stream")
    assert prefers_ssz("application/octet-stream;q=0.95,application/json;q=0.9")  # Prysm
    for accept in ("", "*/*", "application/json", "application/json;q=1,application/octet-stream;q=0.9", "text/html", ";;;q=,"):
        assert not prefers_ssz(accept)
    assert not prefers_ssz("application/octet-stream,*/*")
    assert not prefers_ssz("application/octet-stream;q=x")


@given(st.text(max_size=60), st.text(max_size=60))
def test_hostile_headers_and_queries(accept: str, query: str) -> None:
    prefers_ssz(accept)
    request = ApiRequest("GET", "/", "/", query.encode("utf-8", "replace"), {}, (), {"slot": query}, b"")
    for read in (
        lambda: request.uint_query("slot"),
        lambda: request.hex_query("x", 96),
        lambda: request.uint_param("slot"),
        lambda: request.json(OBJECT),
    ):
        with suppress(ApiError):
            read()


@given(st.lists(st.sampled_from(["a", "b", "", ".", ".."]), max_size=8))
def test_cleaned_paths_are_clean_and_stay_so(segments: list[str]) -> None:
    clean = cleaned("/" + "/".join(segments))
    assert cleaned(clean) == clean
    assert clean.startswith("/")
    assert not {".", ".."} & set(clean.split("/"))
    assert "//" not in clean


def test_cleaned_examples() -> None:  # what Go's path.Clean does, a trailing slash kept
    assert cleaned("//eth/v1/node/version") == "/eth/v1/node/version"
    assert cleaned("/a/../b/./c/") == "/b/c/"
    assert cleaned("/") == "/"
    assert cleaned("/a") == "/a"
