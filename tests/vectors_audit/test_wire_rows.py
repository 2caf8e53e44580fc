"""Hosts' words about themselves in recorded sessions, the values of metric labels, a client's last submissions sent again."""

import json
from typing import Any

import pytest

from charon_actors.crypto import k1_public_key, verify
from charon_actors.eth2 import beacon_api as api
from charon_actors.eth2.duty import DutyType
from charon_actors.eth2.forks import Fork, fork_from_label
from charon_actors.eth2.proposal import SignedProposal
from charon_actors.eth2.signed_data import SignedData, SignedRandao, VersionedAttestation
from charon_actors.p2p.identify import HostIdentify, decode_identify
from charon_actors.p2p.peer_id import peer_id_of, peer_id_text
from charon_actors.p2p.protobuf import libp2p_pb2
from charon_actors.validator_api.routes import ROUTES
from tests.vector import ROOT, vector
from tests.vectors_audit.recordings import body_of, chain_of

CHARON = vector("p2p/session_charon.json")
JS = vector("p2p/session_js_to_responder.json")
LABELS = vector("monitoring/metrics.json")["label_values"]


def identify_of(fields: dict[str, list[str]], peer_id: bytes) -> HostIdentify:
    """A message with these fields, by number, as a host sends it."""
    message = libp2p_pb2.Identify()
    for number, values in fields.items():
        for value in values:
            content = bytes.fromhex(value)
            message.MergeFromString(bytes([int(number) << 3 | 2]) + _uvarint(len(content)) + content)
    return decode_identify([message.SerializeToString()], peer_id)


def _uvarint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128, number >> 7])


@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_what_charon_says_of_itself(role: str) -> None:
    fields = CHARON[role]["identify_received"]
    peer_id = peer_id_of(k1_public_key(bytes.fromhex(CHARON["common"]["charon_identity_private_key"])))
    said = identify_of(fields, peer_id)
    assert said.has_signed_record
    assert said.agent == bytes.fromhex(fields["6"][0]).decode() == "obolnetwork-charon/v1.10"
    assert [protocol.encode().hex() for protocol in said.protocols] == fields["3"]
    assert [bytes(address).hex() for address in said.listen] == fields["2"]
    assert said.observed is not None
    assert bytes(said.observed).hex() == fields["4"][0]


def test_what_js_libp2p_says_of_itself() -> None:
    fields = JS["identify_received_from_js_fields"]
    (key,) = fields["1"]
    peer_id = peer_id_of(bytes.fromhex(key)[4:])
    assert peer_id_text(peer_id) == JS["initiator_peer_id"]
    said = identify_of(fields, peer_id)
    assert not said.has_signed_record
    assert [protocol.encode().hex() for protocol in said.protocols] == fields["3"]
    assert said.protocol_version == "ipfs/0.1.0"


def test_duties_and_routes_are_called_what_dashboards_call_them() -> None:
    assert {duty_type.label for duty_type in DutyType} == set(LABELS["duty"])
    own = {"node_health", "node_syncing", "events"}  # answered by ourselves; Charon passes these on
    assert {route.endpoint for route in ROUTES} - own == set(LABELS["validatorapi_endpoint"])


def test_calls_of_beacon_nodes_are_called_what_dashboards_call_them() -> None:
    calls = [
        api.GENESIS,
        api.SPEC,
        api.FORK_SCHEDULE,
        api.SYNCING,
        api.PEER_COUNT,
        api.NODE_VERSION,
        api.validators("head", []),
        api.attester_duties(1, []),
        api.proposer_duties(1),
        api.sync_duties(1, []),
        api.attestation_data(1, 0),
        api.produce_block(1, bytes(96), bytes(32), 0),
        api.submit_attestations("fulu", []),
        api.submit_block("fulu", b""),
        api.submit_block_json("fulu", {}),
        api.submit_blinded_block("fulu", {}),
        api.prepare_proposers([]),
        api.register_validators([]),
    ]
    assert {call.name for call in calls} <= set(LABELS["eth2_endpoint"])


REPLAYS = [
    entry
    for line in (ROOT / "live/http/answers-main.jsonl").read_text().splitlines()
    if (entry := json.loads(line))["name"].startswith("REPLAY")
    and entry["request"]["path"] in ("/eth/v2/beacon/pool/attestations", "/eth/v2/beacon/blocks")
    and "(cut" not in str(entry["request"]["body"])
]


def signed_of(entry: Any) -> list[tuple[int, SignedData]]:
    request = entry["request"]
    fork = fork_from_label(request["headers"]["eth-consensus-version"])
    if request["path"].endswith("/blocks"):
        block = SignedProposal.from_ssz(fork, False, body_of(request["body"]))
        assert block.body == body_of(request["body"])
        return [(block.proposer_index, block), (block.proposer_index, SignedRandao(block.slot // 8, block.randao_reveal))]
    votes = [VersionedAttestation.from_single_attestation_json(fork, item) for item in request["body"]]
    assert [vote.to_single_attestation_json() for vote in votes] == request["body"]
    return [(int(vote.validator_index or 0), vote) for vote in votes]


@pytest.mark.parametrize("entry", REPLAYS, ids=lambda entry: entry["name"])
def test_a_clients_submissions_verify_against_its_shares_and_wrong_ones_do_not(entry: Any) -> None:
    """A block that the client signed holds the group's randao, whose key is not in this file."""
    chain = chain_of("vc-main-fulu")
    duties = next(
        json.loads(line)["answer"]["body"]["data"]
        for line in (ROOT / "live/http/answers-main.jsonl").read_text().splitlines()
        if '"attester duties empty list"' in line
    )
    shares = {int(duty["validator_index"]): bytes.fromhex(duty["pubkey"][2:]) for duty in duties}
    for index, signed in signed_of(entry):
        if isinstance(signed, SignedRandao):
            assert not verify(shares[index], signed.signing_root(chain), signed.signature)
            continue
        is_good = verify(shares[index], signed.signing_root(chain), signed.signature)
        assert is_good == ("wrong signature" not in entry["name"])
        assert (entry["answer"]["status"] == 200) >= is_good or "blocks" in entry["request"]["path"]
    assert chain.fork_at(17) is Fork.FULU


def test_there_are_submissions_of_both_kinds() -> None:
    assert {entry["request"]["path"].rsplit("/", 1)[1] for entry in REPLAYS} == {"attestations", "blocks"}
    assert any("wrong" in entry["name"] for entry in REPLAYS)
