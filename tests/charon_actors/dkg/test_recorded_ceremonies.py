"""Whole recorded ceremonies with two real Charon nodes: our machine in the place of the participant whose coefficients are known.

It must produce that participant's messages byte for byte (casts, shares, signatures, partial signatures), accept everything the
Charon nodes sent, and end with their lock.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from charon_actors.cluster.definition_json import decode_definition
from charon_actors.cluster.lock_json import decode_lock, encode_lock
from charon_actors.cluster.peers import peers_of
from charon_actors.cluster.verify import verify_definition
from charon_actors.dkg.ceremony import Ceremony
from charon_actors.dkg.dialect import NODE_SIGNATURE_ID, PARTIALS_PROTOCOL, ROUND1_CAST_ID, ROUND2_CAST_ID, SHARES_PROTOCOL
from charon_actors.dkg.faults import CeremonyFault
from charon_actors.dkg.step_sync import SyncDoor
from charon_actors.dkg.sync_messages import decode_report
from charon_actors.eth2.networks import network_by_fork_version
from charon_actors.p2p.protobuf import core_pb2, dkg_pb2
from tests.charon_actors.dkg.vectors import V1_10, V1_11, counting_entropy, load

OWN = 1
FILES = {"ceremony_v1.10.3.json": V1_10, "ceremony_v1.11.json": V1_11}


def ceremony_of(vector: Any, dialect: Any) -> Ceremony:
    definition = decode_definition(json.dumps(vector["cluster_definition"]).encode())
    verify_definition(definition)
    network = network_by_fork_version(definition.fork_version)
    assert network is not None
    assert network.genesis_time_s == vector["profile"]["genesis_time"]
    key = bytes.fromhex(vector["operator_private_keys"][OWN])
    ceremony = Ceremony(definition, peers_of(definition), OWN, key, network, dialect, counting_entropy("weights"))
    scalars: Iterator[int] = iter(
        [int(scalar, 16) for validator in vector["operator_1_frost"] for scalar in (*validator["a"], validator["k"])]
    )
    ceremony.frost._random_scalar = lambda: next(scalars)  # type: ignore[method-assign]
    return ceremony


@pytest.mark.parametrize("file", FILES)
def test_the_recorded_ceremony(file: str) -> None:
    vector, dialect = load(file), FILES[file]
    ceremony = ceremony_of(vector, dialect)
    outgoing: dict[str, Any] = {}
    own: dict[Any, bytes] = {}

    def broadcast(message_id: str, inner: bytes) -> None:
        outgoing[message_id] = ceremony.bcast.open(message_id, inner)

    round1 = ceremony.make_round1()
    broadcast(ROUND1_CAST_ID, round1.cast)
    for message in vector["messages"]:
        body, peer, protocol = bytes.fromhex(message["hex"]), message["peer_index"], message["protocol"]
        is_answer = message.get("reply", False)
        if message["dir"] == "in":
            if protocol == dialect.signature_protocol and not is_answer:
                own["answer", peer] = ceremony.sign_broadcast(peer, body)
            elif protocol == dialect.signature_protocol:
                outgoing[dkg_pb2.BCastSigResponse.FromString(body).id].accept(peer, body)
            elif protocol == dialect.message_protocol:
                ceremony.receive_broadcast(peer, body)
            elif protocol == SHARES_PROTOCOL:
                ceremony.receive_shares(peer, body)
            else:
                ceremony.receive_partials(peer, body)
        elif protocol == dialect.signature_protocol and is_answer:
            assert own["answer", peer] == body
        elif protocol == dialect.signature_protocol:
            message_id = dkg_pb2.BCastSigRequest.FromString(body).id
            if message_id == ROUND2_CAST_ID and message_id not in outgoing:
                broadcast(message_id, ceremony.make_round2())
            elif message_id == NODE_SIGNATURE_ID and message_id not in outgoing:
                ceremony.combine(101)
                broadcast(message_id, ceremony.sign_lock_hash())
            assert outgoing[message_id].request == body
        elif protocol == dialect.message_protocol:
            assert outgoing[dkg_pb2.BCastMessage.FromString(body).id].seal() == body
        elif protocol == SHARES_PROTOCOL:
            assert round1.shares[peer] == body
        else:
            assert protocol == PARTIALS_PROTOCOL
            slot = core_pb2.ParSigExMsg.FromString(body).duty.slot
            if not ceremony.keys:
                ceremony.finish_keys()
            if slot not in own:
                own[slot] = sign_next(ceremony, slot)
            assert core_pb2.ParSigExMsg.FromString(own[slot]) == core_pb2.ParSigExMsg.FromString(body)
    assert [keys.secret_share.hex() for keys in ceremony.keys] == vector["operator_1_secret_shares"]
    lock = ceremony.complete_lock()
    expected = decode_lock(json.dumps(vector["cluster_lock"]).encode())
    assert lock == expected
    assert json.loads(encode_lock(lock)) == vector["cluster_lock"]
    assert "0x" + lock.lock_hash.hex() == vector["expect"]["lock_hash"]
    assert sorted(ceremony.deposit_files()) == ["deposit-data-1eth.json", "deposit-data.json"]


def sign_next(ceremony: Ceremony, slot: int) -> bytes:
    """Combine what comes before this slot in the ceremony, then sign it."""
    before = {200: (), 201: (200,), 102: (201,), 101: (102,)}[slot]
    for done in before:
        ceremony.combine(done)
    return ceremony.sign(slot)


@pytest.mark.parametrize("file", FILES)
def test_the_recorded_first_sync_message_is_let_in(file: str) -> None:
    vector, dialect = load(file), FILES[file]
    ceremony = ceremony_of(vector, dialect)
    report = decode_report(0, bytes.fromhex(vector["sync_first_message_in"]))
    keys = {peer.index: peer.public_key for peer in peers_of(ceremony.definition)}
    door = SyncDoor(dialect, ceremony.definition.definition_hash, keys)
    senders = [index for index in keys if door.refusal(index, report) is None]
    assert len(senders) == 1
    assert senders[0] != OWN
    assert report.step in (0, 1)


def test_a_recorded_message_does_not_count_in_another_attempt() -> None:
    """bcast 1.0.0 binds nothing: the whole recorded broadcast verifies, but this attempt has not signed it."""
    vector = load("ceremony_v1.10.3.json")
    ceremony = ceremony_of(vector, V1_10)
    recorded = next(m for m in vector["messages"] if m["dir"] == "in" and m["protocol"] == V1_10.message_protocol)
    with pytest.raises(CeremonyFault, match="not signed in this ceremony"):
        ceremony.receive_broadcast(recorded["peer_index"], bytes.fromhex(recorded["hex"]))
