"""Rows of the eth2, core and lodestar vectors that no other test reads: signed objects of other projects, single requests, sequences."""

import json
from hashlib import sha256
from typing import Any

import pytest

from charon_actors.bounded_json import ANSWER
from charon_actors.crypto import sign, verify
from charon_actors.eth2 import beacon_api as api
from charon_actors.eth2 import beacon_errors
from charon_actors.eth2 import containers as c
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signing import DomainType, builder_domain, compute_domain, compute_signing_root
from charon_actors.eth2.ssz import SszType
from charon_actors.validator_api.passing_on import may_be_passed_on
from charon_actors.validator_api.routes import route_for
from tests.vector import ROOT, vector
from tests.vectors_audit.recordings import chain_of
from tests.vectors_audit.test_beacon_recordings import NOT_PERFORMED, our_call

SIGNED = vector("eth2/signing_roots.json")
CASES = {case["name"]: case for case in SIGNED["cases"]}
EXTERNAL = {row["name"].split()[0]: row for row in SIGNED["external"]}
ROOTS = {row["name"]: row for row in vector("eth2/ssz_roots.json")["containers"]}


def raw(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def test_prysms_attestation() -> None:
    row = EXTERNAL["prysm_sign_attestation"]
    root = c.ATTESTATION_DATA.hash_tree_root(c.ATTESTATION_DATA.from_json(row["attestation_data"]))
    domain = compute_domain(DomainType.BEACON_ATTESTER, raw(row["fork_version"]), raw(row["genesis_validators_root"]))
    assert (root, domain) == (raw(row["object_root"]), raw(row["domain"]))
    assert compute_signing_root(root, domain) == raw(row["signing_root"])
    assert sign(raw(row["secret_key"]), raw(row["signing_root"])) == raw(row["signature"])


def test_tekus_registration() -> None:
    row = EXTERNAL["teku_validator_registration"]
    schema = c.VALIDATOR_REGISTRATION
    root = schema.hash_tree_root(schema.from_json(row["message"]))
    domain = builder_domain(bytes.fromhex("10000910"))
    assert (root, domain) == (raw(row["object_root"]), raw(row["domain"]))
    assert compute_signing_root(root, domain) == raw(row["signing_root"])
    assert sign(raw(row["secret_key"]), raw(row["signing_root"])) == raw(row["signature"])


def test_a_real_clients_block_is_signed_by_its_proposer() -> None:
    row = EXTERNAL["deneb"]
    block = c.signed_beacon_block(Fork.DENEB)
    value = block.decode((ROOT / "eth2" / row["file"]).read_bytes())
    message = value["message"]
    assert (message["slot"], message["proposer_index"]) == (int(row["slot"]), int(row["proposer_index"]))
    assert c.beacon_block_body(Fork.DENEB).hash_tree_root(message["body"]) == raw(row["body_root"])
    domain = compute_domain(DomainType.BEACON_PROPOSER, raw(row["fork_version"]), raw(row["genesis_validators_root"]))
    root = compute_signing_root(raw(row["block_root"]), domain)
    assert root == raw(row["signing_root"])
    assert value["signature"] == raw(row["signature"])
    assert verify(raw(row["proposer_pubkey"]), root, value["signature"])


@pytest.mark.parametrize("case", SIGNED["cases"], ids=lambda case: case["name"])
def test_the_vectors_signatures_are_reproduced(case: Any) -> None:
    assert sign(raw(SIGNED["secret_key"]), raw(case["signing_root"])) == raw(case["signature"])


INNER: dict[str, tuple[SszType, Any]] = {
    "Attestation electra": (c.attestation(Fork.FULU), CASES["aggregate_and_proof_electra_fulu"]["object"]["aggregate"]),
    "Attestation phase0": (c.attestation(Fork.DENEB), CASES["aggregate_and_proof_phase0_deneb"]["object"]["aggregate"]),
    "SyncCommitteeContribution": (c.sync_committee_contribution(), CASES["contribution_and_proof"]["object"]["contribution"]),
    "AttestationData": (c.ATTESTATION_DATA, CASES["attestation"]["object"]),
}


@pytest.mark.parametrize("name", INNER)
def test_bytes_and_roots_of_inner_objects(name: str) -> None:
    schema, value = INNER[name]
    content = schema.encode(schema.from_json(value))
    row = ROOTS[name]
    assert (len(content), sha256(content).hexdigest()) == (row["ssz_len"], row["ssz_sha256"])
    assert schema.hash_tree_root(schema.decode(content)) == raw(row["hash_tree_root"])


REQUESTS = vector("core/bn_requests.json")["requests"]


@pytest.mark.parametrize("entry", REQUESTS, ids=lambda entry: f"{entry['call']} {entry['uri'][:40]}")
def test_every_request_of_the_file_is_ours_or_of_a_duty_that_is_not_performed(entry: Any) -> None:
    path, _, query = entry["uri"].partition("?")
    body = "0x" + entry["body_hex"] if "body_hex" in entry else entry.get("body")
    headers = {name.lower(): value for name, value in entry["headers"].items()}
    if path.endswith("/pool/attestations"):
        body = body[:1]  # the second one has no validator index; test_beacon_api reads the whole
    line = {"method": entry["method"], "path": path, "query": query, "request": body, "request_headers": headers}
    call = our_call(line, chain_of("bn-main-fulu-start"))
    if call is None:
        assert path.rstrip("0123456789").rstrip("/") in NOT_PERFORMED | {"/eth/v1/beacon/pool/voluntary_exits"}
        return
    assert (call.method, call.path, call.query) == (entry["method"], path, query)
    ours = {name.lower(): value for name, value in call.headers}
    assert ours == {name: value for name, value in headers.items() if name not in ("user-agent", "x-bn-auth")}
    if "body_hex" in entry:
        assert call.body.hex() == entry["body_hex"]
    elif body is not None:
        assert api.decode_json(call.body, ANSWER) == body


@pytest.mark.parametrize("name", ["sequence_plain", "sequence_shares"])
def test_every_call_of_a_clients_epoch_has_its_place(name: str) -> None:
    for sample in vector(f"lodestar-http/{name}.json")["samples"]:
        path = sample["path"].partition("?")[0]
        if sample["method"] == "SSE":
            continue  # an event of a stream
        assert route_for(sample["method"], path) is not None or may_be_passed_on(sample["method"], path), path


def test_what_a_beacon_node_says_about_partial_signatures_is_no_repeat() -> None:
    errors = vector("lodestar-http/errors.json")
    for status, message in errors["partial_signature"].values():
        assert status >= 400
        assert not beacon_errors.is_repeat(b'{"message": ' + json.dumps(str(message)).encode() + b"}")
    assert beacon_errors.error_text(json.dumps(errors["error_body"]).encode()) == errors["error_body"]["message"]
