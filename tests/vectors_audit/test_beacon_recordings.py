"""Everything that real Charon asked its beacon nodes in the recordings: the requests that are ours to send are the same from us, every
answer is understood, and every signed object comes back byte for byte, its group signature valid on that chain."""

import json
from collections import Counter
from typing import Any
from urllib.parse import parse_qs

import pytest

from charon_actors.beacon.blocks import decode_proposal
from charon_actors.crypto import Check, verify_all
from charon_actors.eth2 import beacon_api as api
from charon_actors.eth2 import containers
from charon_actors.eth2.attestation import AttestationData
from charon_actors.eth2.beacon_api import Answer, Call
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.event_stream import EventParser, encode_event
from charon_actors.eth2.forks import Fork, fork_from_label
from charon_actors.eth2.proposal import SignedProposal
from charon_actors.eth2.signed_data import (
    SignedAggregateAndProof,
    SignedContributionAndProof,
    SignedData,
    SignedRandao,
    SignedSyncMessage,
    SignedValidatorRegistration,
    VersionedAttestation,
)
from tests.charon_actors.dkg.vectors import counting_entropy
from tests.vectors_audit.recordings import BEACON, answer_to, body_of, chain_of, is_charons, recording

Line = dict[str, Any]


def last_number(line: Line) -> int:
    return int(line["path"].rsplit("/", 1)[1])


def query_of(line: Line) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(line["query"]).items()}


def our_call(line: Line, chain: Chain) -> Call | None:
    """The same request made by our builders from what it is about; None for calls of duties that this node doesn't perform."""
    method, path, asked = line["method"], line["path"], line["request"]
    query = query_of(line)
    fixed = {
        call.path: call for call in (api.GENESIS, api.SPEC, api.FORK_SCHEDULE, api.SYNCING, api.PEER_COUNT, api.NODE_VERSION)
    }
    if path in fixed:
        return fixed[path]
    match method, *path.split("/")[2:]:
        case "POST", "v1", "beacon", "states", state, "validators":
            return api.validators(state, asked["ids"])
        case "POST", "v1", "validator", "duties", "attester", epoch:
            return api.attester_duties(int(epoch), [int(index) for index in asked])
        case "GET", "v1", "validator", "duties", "proposer", epoch:
            return api.proposer_duties(int(epoch))
        case "POST", "v1", "validator", "duties", "sync", epoch:
            return api.sync_duties(int(epoch), [int(index) for index in asked])
        case "GET", "v1", "validator", "attestation_data":
            return api.attestation_data(int(query["slot"]), int(query["committee_index"]))
        case "GET", "v3", "validator", "blocks", slot:
            randao, graffiti = (bytes.fromhex(query[name][2:]) for name in ("randao_reveal", "graffiti"))
            return api.produce_block(int(slot), randao, graffiti, int(query["builder_boost_factor"]))
        case "POST", "v2", "beacon", "pool", "attestations":
            fork = fork_from_label(line["request_headers"]["eth-consensus-version"])
            return api.submit_attestations(fork.label, [attestation_json(fork, item) for item in asked])
        case "POST", "v2", "beacon", ("blocks" | "blinded_blocks") as kind:
            signed = signed_proposal(line, chain)
            if kind == "blinded_blocks":
                return api.submit_blinded_block(signed.fork.label, signed.to_json())
            is_json = line["request_headers"]["content-type"] == "application/json"
            return (
                api.submit_block_json(signed.fork.label, signed.to_json())
                if is_json
                else api.submit_block(signed.fork.label, signed.body)
            )
        case "POST", "v1", "validator", "prepare_beacon_proposer":
            return api.prepare_proposers([(int(item["validator_index"]), item["fee_recipient"]) for item in asked])
        case "POST", "v1", "validator", "register_validator":
            return api.register_validators(asked)
        case "GET", "v1", "events":
            return api.events(api.LISTENED_TOPICS)
    return None


def attestation(fork: Fork, item: Any) -> VersionedAttestation:
    if fork >= Fork.ELECTRA:
        return VersionedAttestation.from_single_attestation_json(fork, item)
    return VersionedAttestation.from_attestation_json(fork, item)


def attestation_json(fork: Fork, item: Any) -> Any:
    value = attestation(fork, item)
    return value.to_single_attestation_json() if fork >= Fork.ELECTRA else value.to_json()


def signed_proposal(line: Line, chain: Chain) -> SignedProposal:
    fork = fork_from_label(line["request_headers"]["eth-consensus-version"])
    blinded = line["path"].endswith("blinded_blocks")
    if isinstance(line["request"], str):
        return SignedProposal.from_ssz(fork, blinded, body_of(line["request"]))
    return SignedProposal.from_json(fork, blinded, line["request"])


NOT_PERFORMED = {  # duties and look-ups that this node doesn't do; the two last are of Charon's inclusion checker and start-up report
    "/eth/v1/validator/sync_committee_contribution",
    "/eth/v2/validator/aggregate_attestation",
    "/eth/v2/validator/aggregate_and_proofs",
    "/eth/v1/validator/contribution_and_proofs",
    "/eth/v1/beacon/pool/sync_committees",
    "/eth/v1/beacon/blocks/head/root",
    "/eth/v2/beacon/blocks",
    "/eth/v1/node/identity",
    "/eth/v2/node/version",
}


@pytest.mark.parametrize("name", BEACON)
def test_our_requests_are_those_of_the_recorded_node(name: str) -> None:
    chain, compared, left = chain_of(name), Counter[str](), set[str]()
    for line in filter(is_charons, recording(name)):
        call = our_call(line, chain)
        if call is None:
            left.add(line["path"].rstrip("0123456789").rstrip("/"))
            continue
        assert (call.method, call.path, call.query) == (line["method"], line["path"], line["query"])
        recorded = line["request_headers"]
        ours = {header.lower(): value for header, value in call.headers}
        assert ours == {header: value for header, value in recorded.items() if header in ours.keys() | {"accept", "content-type"}}
        assert ours.get("eth-consensus-version") == recorded.get("eth-consensus-version")
        if isinstance(line["request"], str):
            assert call.body == body_of(line["request"])
        else:
            assert (json.loads(call.body) if call.body else None) == line["request"]
        compared[call.name] += 1
    assert left <= NOT_PERFORMED
    assert {"genesis", "spec", "attester_duties", "proposer_duties", "attestation_data", "submit_attestations", "events"} <= set(
        compared
    )


def check_answer(line: Line, chain: Chain) -> str:
    """Decode one answer and compare every field that is kept with what was sent. Returns what kind of answer it was."""
    path: str = line["path"]
    raw, answer_json = body_of(line["response"]), line["response"]
    data: Any = answer_json.get("data") if isinstance(answer_json, dict) else None
    query = query_of(line)
    if path.endswith("/node/syncing"):
        assert api.decode_syncing(raw).raw == data
    elif path.endswith("/node/version"):
        assert api.decode_node_version(raw) == data["version"]
    elif path.endswith("/node/peer_count"):
        assert api.decode_peer_count(raw) == int(data["connected"])
    elif "/duties/attester/" in path:
        answer = api.decode_attester_duties(raw, last_number(line), chain.slots_per_epoch)
        assert [
            {**{key: str(getattr(duty, key)) for key in data[0] if key != "pubkey"}, "pubkey": "0x" + duty.pubkey.hex()}
            for duty in answer.duties
        ] == data
        assert "0x" + answer.dependent_root.hex() == line["response"]["dependent_root"]
    elif "/duties/proposer/" in path:
        if int(data[0]["slot"]) // chain.slots_per_epoch == last_number(line) - 1:
            with pytest.raises(
                api.AnswerFault, match="not of epoch"
            ):  # Lodestar 1.5.1 at the epoch's start: the old epoch's duties
                api.decode_proposer_duties(raw, last_number(line), chain.slots_per_epoch)
            return "proposer duties of the epoch before"
        answer = api.decode_proposer_duties(raw, last_number(line), chain.slots_per_epoch)
        assert [
            {"pubkey": "0x" + duty.pubkey.hex(), "validator_index": str(duty.validator_index), "slot": str(duty.slot)}
            for duty in answer.duties
        ] == data
    elif "/duties/sync/" in path:
        answer = api.decode_sync_duties(raw)
        assert [list(map(str, duty.positions)) for duty in answer.duties] == [
            entry["validator_sync_committee_indices"] for entry in data
        ]
    elif path.endswith("/validator/attestation_data"):
        vote = api.decode_attestation_data(raw, int(query["slot"]), int(query["committee_index"]), chain)
        assert vote.to_json() == data
    elif path.endswith("/validators"):
        assert [validator.raw for validator in api.decode_validators(raw)] == data
    elif "/v3/validator/blocks/" in path:
        proposal = decode_proposal(Answer(200, line["response_headers"], raw), chain)
        assert proposal.slot == last_number(line)
        assert proposal.randao_reveal.hex() == query["randao_reveal"][2:]
        takes_text = proposal.fork is Fork.CAPELLA  # that old node puts the parameter's characters into the block
        assert proposal.graffiti == (query["graffiti"].encode()[:32] if takes_text else bytes.fromhex(query["graffiti"][2:]))
        if isinstance(line["response"], dict):
            assert lower(proposal.to_json()) == lower(data)
        else:
            assert proposal.body == raw
    elif "/v2/beacon/blocks/" in path:
        block = containers.signed_beacon_block(fork_of(line, chain), preset=chain.preset)
        if isinstance(line["response"], dict):
            assert lower(block.to_json(block.from_json(data))) == lower(data)  # addresses: that node writes them without checksum
            raw = block.encode(block.from_json(data))
        assert block.encode(block.decode(raw)) == raw
    elif path.endswith("/aggregate_attestation"):
        schema = containers.attestation(fork_of(line, chain), chain.preset)
        assert schema.to_json(schema.from_json(data)) == data
        of_data = AttestationData.from_json(data["data"])
        assert "0x" + of_data.hash_tree_root().hex() == query["attestation_data_root"]
    elif path.endswith("/sync_committee_contribution"):
        schema = containers.sync_committee_contribution(chain.preset)
        assert schema.to_json(schema.from_json(data)) == data
    else:
        return "other"
    return path.split("/")[-2] + "/" + path.split("/")[-1] if not path[-1].isdigit() else path.split("/")[-2]


def lower(value: Any) -> Any:
    return json.dumps(value).lower()


def fork_of(line: Line, chain: Chain) -> Fork:
    label = line["response_headers"].get("eth-consensus-version") or line["response"]["version"]
    return fork_from_label(label)


@pytest.mark.parametrize("name", BEACON)
def test_every_answer_of_the_recorded_beacon_nodes_is_understood(name: str) -> None:
    chain, kinds = chain_of(name), Counter[str]()
    assert chain.slots_per_epoch == 8
    for line in recording(name):
        if line.get("status") == 200 and line["method"] != "SSE" and line["response"] is not None:
            if line["response"] == "(event stream)":
                continue
            kinds[check_answer(line, chain)] += 1
    assert len(kinds) > 8
    assert kinds["proposer duties of the epoch before"] == (6 if name == "bn-1.10.3-lodestar-capella" else 0)


@pytest.mark.parametrize("name", BEACON)
def test_every_event_of_the_recorded_streams_is_understood(name: str) -> None:
    topics = Counter[str]()
    for line in recording(name):
        if line["method"] != "SSE":
            continue
        sent = ("\n".join(line["event"]) + "\n\n").encode()
        (event,) = EventParser().feed(sent)
        assert encode_event(event) == sent
        decoded = api.decode_event(event.topic, event.data)
        assert (decoded is None) == (event.topic not in api.MINIMAL_TOPICS)
        if decoded is not None:
            fields = json.loads(event.data)
            assert decoded.slot == int(fields["slot"])
            if not isinstance(decoded, api.ReorgEvent):
                assert "0x" + decoded.root.hex() == fields["block"]
        topics[event.topic] += 1
    assert topics["head"] > 5


def voter(name: str, chain: Chain, vote: VersionedAttestation) -> int:
    """The validator's index: in the vote since Electra, before that by its place in the committee."""
    if vote.validator_index is not None:
        return vote.validator_index
    bits = vote.attestation.aggregation_bits
    (place, _) = [i for i in range(8 * len(bits)) if bits[i // 8] >> i % 8 & 1]  # and the delimiter
    duties = [
        duty
        for line in recording(name)
        if "/duties/attester/" in line["path"] and line["status"] == 200
        for duty in api.decode_attester_duties(body_of(line["response"]), last_number(line), chain.slots_per_epoch).duties
    ]
    where = (vote.data.slot, vote.data.index, place)
    indices = {d.validator_index for d in duties if (d.slot, d.committee_index, d.validator_committee_index) == where}
    assert len(indices) == 1
    return int(indices.pop())


def signed_objects(name: str, chain: Chain) -> list[tuple[int, SignedData]]:
    """(validator index, object) of everything that the recorded node submitted, each read and written back."""
    found: list[tuple[int, SignedData]] = []
    for line in filter(is_charons, recording(name)):
        path, asked, headers = line["path"], line["request"], line["request_headers"]
        if line["method"] != "POST" or line["status"] != 200:
            continue
        if path.endswith("/pool/attestations"):
            fork = fork_from_label(headers["eth-consensus-version"])
            for item in asked:
                vote = attestation(fork, item)
                assert attestation_json(fork, item) == item
                found.append((voter(name, chain, vote), vote))
        elif path.endswith(("/v2/beacon/blocks", "/v2/beacon/blinded_blocks")):
            signed = signed_proposal(line, chain)
            written: Any = signed.body if isinstance(asked, str) else signed.to_json()
            assert written == (body_of(asked) if isinstance(asked, str) else asked)
            found.append((signed.proposer_index, signed))
            found.append((signed.proposer_index, SignedRandao(chain.epoch_of(signed.slot), signed.randao_reveal)))
        elif path.endswith("/pool/sync_committees"):
            for item in asked:
                message = SignedSyncMessage.from_json(item)
                assert message.to_json() == item
                found.append((int(item["validator_index"]), message))
        elif path.endswith("/aggregate_and_proofs"):
            for item in asked:
                aggregate = SignedAggregateAndProof.from_json(fork_from_label(headers["eth-consensus-version"]), item)
                assert aggregate.to_json() == item
                found.append((int(item["message"]["aggregator_index"]), aggregate))
        elif path.endswith("/contribution_and_proofs"):
            for item in asked:
                contribution = SignedContributionAndProof.from_json(item)
                assert contribution.to_json() == item
                found.append((int(item["message"]["aggregator_index"]), contribution))
    return found


@pytest.mark.parametrize("name", BEACON)
def test_every_signature_that_the_recorded_nodes_submitted_is_the_groups_on_that_chain(name: str) -> None:
    chain = chain_of(name)
    states = next(line for line in recording(name) if line["path"].endswith("/validators") and line["status"] == 200)
    keys = {validator.index: validator.pubkey for validator in api.decode_validators(body_of(states["response"]))}
    objects = signed_objects(name, chain)
    checks = [Check(keys[index], signed.signing_root(chain), signed.signature) for index, signed in objects]
    assert all(verify_all(checks, counting_entropy(name)))
    assert {VersionedAttestation, SignedSyncMessage, SignedAggregateAndProof, SignedContributionAndProof} <= {
        type(s) for _, s in objects
    }


def test_registrations_of_a_builder_cluster_verify() -> None:
    name = "bn-1.10.3-builder"
    chain = chain_of(name)
    entries = [e for line in recording(name) if line["path"].endswith("/register_validator") for e in line["request"]]
    assert len(entries) > 10
    for entry in entries:
        registration = SignedValidatorRegistration.from_json(entry)
        assert registration.to_json() == entry
        key = bytes.fromhex(entry["message"]["pubkey"][2:])
        assert verify_all([Check(key, registration.signing_root(chain), registration.signature)], counting_entropy("r")) == [True]


def test_the_recorded_chains_are_four_different_ones() -> None:
    roots = {answer_to(recording(name), "/eth/v1/beacon/genesis")["data"]["genesis_validators_root"] for name in BEACON}
    assert len(roots) == len(BEACON)
