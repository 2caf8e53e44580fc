"""Rows of the ceremony vectors that no other test reads: every protobuf of a FROST ceremony, the roots that are signed in it, the locks."""

import json
from typing import Any

import pytest

from charon_actors.cluster.deposit import Deposit, deposit_message_root, deposit_signing_root, withdrawal_credentials
from charon_actors.cluster.lock_json import decode_lock, encode_lock
from charon_actors.cluster.registration import Registration, registration_message_root, registration_signing_root
from charon_actors.cluster.verify import verify_lock
from charon_actors.dkg.sync_messages import SyncAnswer, decode_report, decode_sync_answer, encode_answer, encode_report
from charon_actors.p2p.peerinfo import decode_peer_info
from charon_actors.p2p.protobuf import core_pb2, dkg_pb2
from tests.actors.beacon.vector import vector

MESSAGES = [
    message
    for message in vector("dkg/proto_messages.json")["messages"]
    if "Pedersen" not in message["message"] and "PubKey" not in message["message"]
]
SIGEX = vector("dkg/sigex.json")


def plain(value: Any) -> Any:
    """The vector's way of writing a message: bytes in hex, absent numbers as 0, an Any as type and value."""
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "DESCRIPTOR"):
        return {field.name: plain_field(getattr(value, field.name)) for field in value.DESCRIPTOR.fields}
    return value


def plain_field(value: Any) -> Any:
    if hasattr(value, "items"):
        return {key: plain(item) for key, item in value.items()}
    if hasattr(value, "append") and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    return plain(value)


@pytest.mark.parametrize("row", MESSAGES, ids=lambda row: row["message"])
def test_messages_decode_to_the_listed_fields_and_encode_to_the_same_bytes(row: Any) -> None:
    package, name = row["message"].split()[0].rsplit(".", 1)
    content = bytes.fromhex(row["hex"])
    message = getattr(core_pb2 if "corepb" in package else dkg_pb2, name).FromString(content)
    assert message.SerializeToString(deterministic=True) == content
    if name == "ParSigExMsg":
        ((_, entry),) = message.data_set.set.items()
        ((_, expected),) = row["decoded"]["data_set"]["set"].items()
        assert entry.data.decode() == expected["data_text"]
        assert entry.signature.hex() == expected["signature"]
        return
    assert plain(message) == row["decoded"]


def test_all_messages_of_the_frost_ceremony_are_there() -> None:
    assert len({row["message"].split()[0] for row in MESSAGES}) == 10


def test_step_reports_through_our_own_codec() -> None:
    rows = {row["message"].rsplit(".", 1)[1]: bytes.fromhex(row["hex"]) for row in MESSAGES}
    assert encode_report(decode_report(1, rows["MsgSync"])) == rows["MsgSync"]
    assert encode_answer(decode_sync_answer(1, rows["MsgSyncResponse"])) == rows["MsgSyncResponse"]


DEPOSITS = [exchange for exchange in SIGEX["exchanges"] if "amount_gwei" in exchange]


@pytest.mark.parametrize("exchange", DEPOSITS, ids=lambda exchange: exchange["name"])
def test_deposit_roots_that_a_ceremony_signs(exchange: Any) -> None:
    credentials = withdrawal_credentials(SIGEX["withdrawal_address"], compounding=False)
    for row in exchange["validators"]:
        pubkey = bytes.fromhex(row["pubkey"][2:])
        deposit = Deposit(pubkey, credentials, int(exchange["amount_gwei"]), bytes.fromhex(row["aggregate"]))
        assert credentials.hex() == row["withdrawal_credentials"]
        assert deposit_message_root(deposit).hex() == row["deposit_message_root"]
        assert deposit_signing_root(deposit, bytes.fromhex(SIGEX["fork_version"])).hex() == row["signed_message"]


def test_registration_roots_that_a_ceremony_signs() -> None:
    (exchange,) = [exchange for exchange in SIGEX["exchanges"] if "gas_limit" in exchange]
    for row in exchange["validators"]:
        registration = Registration(
            bytes.fromhex(exchange["fee_recipient"][2:]),
            int(exchange["gas_limit"]),
            int(exchange["timestamp"]),
            bytes.fromhex(row["pubkey"][2:]),
        )
        assert registration_message_root(registration).hex() == row["registration_root"]
        assert registration_signing_root(registration, bytes.fromhex(SIGEX["fork_version"])).hex() == row["signed_message"]


@pytest.mark.parametrize("file", ["ceremony_v1.10.3.json", "ceremony_v1.11.json"])
def test_the_lock_of_a_recorded_ceremony_is_what_all_three_nodes_expected(file: str) -> None:
    recorded = vector(f"dkg/{file}")
    lock = decode_lock(json.dumps(recorded["cluster_lock"]).encode())
    verify_lock(lock)
    assert lock.lock_hash.hex() == recorded["expect"]["lock_hash"].removeprefix("0x")
    assert lock.signature_aggregate.hex() == recorded["expect"]["signature_aggregate"].removeprefix("0x")
    assert [one.hex() for one in lock.node_signatures] == [t.removeprefix("0x") for t in recorded["expect"]["node_signatures"]]
    assert json.loads(encode_lock(lock)) == recorded["cluster_lock"]
    assert (len(lock.definition.operators), len(lock.validators), lock.definition.threshold) == tuple(
        recorded["profile"][name] for name in ("n", "validators", "t")
    )


SESSION = vector("p2p/session_charon.json")


def test_what_charon_said_inside_the_recorded_session() -> None:
    initiator = SESSION["initiator"]
    info = decode_peer_info(bytes.fromhex(initiator["peerinfo_response"]))
    assert info.version == "v1.10"
    answer = decode_sync_answer(0, bytes.fromhex(initiator["sync_response"]))
    assert isinstance(answer, SyncAnswer)
    assert answer.error == ""
    assert encode_answer(answer).hex() == initiator["sync_response"]
    request = dkg_pb2.BCastSigRequest.FromString(bytes.fromhex(initiator["bcast_signature_request"]["message"]))
    response = dkg_pb2.BCastSigResponse.FromString(bytes.fromhex(initiator["bcast_signature_request"]["response"]))
    assert request.id == response.id == "/charon/dkg/node_sig"
    assert len(response.signature) == 65
