"""The wire against vectors made by or executed with Charon. Source: specification 06 §4, §5, §15."""

import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from charon_actors.crypto import k1_recover, k1_sign_recoverable
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.p2p.protobuf import core_pb2
from charon_actors.qbft.machine import ZERO_VALUE, Broadcast, Decide, Instance, Message, MessageType, leader
from charon_actors.qbft.merkle import hash_bytes
from charon_actors.qbft.messages import (
    MessageFault,
    Value,
    Verifier,
    decode_value,
    encode_message,
    encode_value,
    sign_message,
)
from tests.charon_actors.qbft.charon_v1_10 import machine_class
from tests.charon_actors.qbft.test_machine_vectors import OneSecond

VECTORS = Path(__file__).parents[2] / "vectors"
MESSAGES = json.loads((VECTORS / "core" / "qbft_messages.json").read_text())
CAPTURES = json.loads((VECTORS / "core" / "qbft_captures_v1_10_3.json").read_text())
HASHES = json.loads((VECTORS / "core" / "k1_and_hash.json").read_text())
PUBLIC_KEYS = [bytes.fromhex(peer["k1_public_key"]) for peer in MESSAGES["cluster"]["peers"]]
PRIVATE_KEYS = [bytes.fromhex(peer["k1_private_key"]) for peer in MESSAGES["cluster"]["peers"]]
ACCEPTED = [m for m in MESSAGES["messages"] if m["expect"] == "accept"]
REJECTED = [m for m in MESSAGES["messages"] if m["expect"] == "reject"]
UNJUSTIFIED = [m for m in MESSAGES["messages"] if m["expect"] == "unjustified"]


def values() -> dict[bytes, Value]:
    found = {}
    for name in ("value_1", "value_2"):
        content = bytes.fromhex(MESSAGES[name]["unsigned_data_set_hex"])
        hash_, value = encode_value(core_pb2.UnsignedDataSet.FromString(content).set)
        assert hash_.hex() == MESSAGES[name]["hash"]
        assert value.content == content
        found[hash_] = value
    return found


@pytest.mark.parametrize("row", HASHES["hash_proto"], ids=lambda row: row["name"])
def test_hash(row: dict[str, str]) -> None:
    content = bytes.fromhex(row["deterministic_bytes"])
    assert hash_bytes(content).hex() == row["hash"]
    if row["message"] is not None:
        parsed = getattr(core_pb2, row["message"]).FromString(content)
        assert parsed.SerializeToString(deterministic=True) == content


@pytest.mark.parametrize("row", HASHES["k1"])
def test_signature(row: dict[str, str]) -> None:
    digest, signature = bytes.fromhex(row["digest"]), bytes.fromhex(row["signature_rsv"])
    assert k1_sign_recoverable(bytes.fromhex(row["privkey"]), digest) == signature
    assert k1_recover(digest, signature).hex() == row["pubkey_compressed"]


def signed(row: dict[str, Any]) -> Message:
    """Made by our own signer from the fields that the vector spells out, justifications included."""
    return sign_message(
        PRIVATE_KEYS[row["peer_idx"]],
        Duty(row["duty"]["slot"], DutyType(row["duty"]["type"])),
        row["peer_idx"],
        Broadcast(
            MessageType(row["type"]),
            row["round"],
            bytes.fromhex(row["value_hash"]),
            row["prepared_round"],
            bytes.fromhex(row["prepared_value_hash"]),
        ),
    )


@pytest.mark.parametrize("row", ACCEPTED, ids=lambda row: row["name"])
def test_accepted_messages_decode_and_are_reproduced_byte_for_byte(row: dict[str, Any]) -> None:
    content = bytes.fromhex(row["qbft_consensus_msg_hex"])
    received = Verifier(PUBLIC_KEYS).decode(content)
    assert encode_message(received.message, received.values) == content
    if "msg" not in row:
        assert row["name"] == "recovery id 27/28 form"  # nothing that we would send
        return
    of = row["msg"]
    message = received.message
    assert str(received.duty) == f"{of['duty']['slot']}/{DutyType(of['duty']['type']).label}"
    assert (message.type, message.source, message.round) == (of["type"], of["peer_idx"], of["round"])
    assert (message.value.hex(), message.prepared_value.hex()) == (of["value_hash"], of["prepared_value_hash"])
    assert message.prepared_round == of["prepared_round"]
    assert len(message.justification) == len(row["justification"])
    assert sorted(hash_.hex() for hash_ in received.values) == sorted(row["values"])
    ours = signed(of)
    justification = tuple(signed(entry) for entry in row["justification"])
    assert encode_message(msgspec.structs.replace(ours, justification=justification), values()) == content


REASONS = {
    "value missing": "value hash is not among the values",
    "signature recovers to another peer": "signature is not the peer's",
    "unknown peer index": "no peer has this index",
    "round must be > 0": "round must be positive",
    "prepared_round must be >= 0": "prepared round must not be negative",
    "invalid type": "invalid message type",
    "invalid duty type": "invalid duty type",
    "justification duty differs": "justification is of another duty",
    "more than 2*nodes = 8": "too many values, justifications or validators",
    "more than 2*(justifications+1) = 2": "too many values",
    "required sub-message missing": "required sub-message missing",
    "signature must be 65 bytes": "signature is not the peer's",
    "recovery id must be 0,1,27,28": "signature is not the peer's",
    "type url cannot be resolved": "value of unknown type",
}


@pytest.mark.parametrize("row", REJECTED, ids=lambda row: row["name"])
def test_rejected_messages_are_refused_for_the_stated_reason(row: dict[str, Any]) -> None:
    with pytest.raises(MessageFault) as fault:
        Verifier(PUBLIC_KEYS).decode(bytes.fromhex(row["qbft_consensus_msg_hex"]))
    assert str(fault.value).startswith(REASONS[row["note"]])


def fresh_instance(duty: Duty, own_index: int, hardened: bool = True) -> Instance:
    machine = machine_class(hardened)(
        nodes=4,
        own_index=own_index,
        leader_of=partial(_leader, duty),
        timer=OneSecond(),
    )
    machine.start(0.0)
    return machine


def _leader(duty: Duty, round_: int) -> int:
    return leader(duty.slot, duty.type, round_, 4)


@pytest.mark.parametrize("row", UNJUSTIFIED, ids=lambda row: row["name"])
def test_unjustified_messages_pass_the_handler_and_change_nothing(row: dict[str, Any]) -> None:
    received = Verifier(PUBLIC_KEYS).decode(bytes.fromhex(row["qbft_consensus_msg_hex"]))
    machine = fresh_instance(received.duty, 0)
    assert machine.receive(received.message, 0.0) == []
    assert all(not messages for messages in machine._buffer)


def test_v1_10_prepares_the_zero_value() -> None:
    row = next(row for row in UNJUSTIFIED if row["name"] == "PRE_PREPARE zero value")
    received = Verifier(PUBLIC_KEYS).decode(bytes.fromhex(row["qbft_consensus_msg_hex"]))
    machine = fresh_instance(received.duty, 0, hardened=False)
    assert machine.receive(received.message, 0.0) == [Broadcast(MessageType.PREPARE, 1, ZERO_VALUE)]


@pytest.mark.parametrize("row", ACCEPTED, ids=lambda row: row["name"])
def test_accepted_messages_are_justified(row: dict[str, Any]) -> None:
    received = Verifier(PUBLIC_KEYS).decode(bytes.fromhex(row["qbft_consensus_msg_hex"]))
    machine = fresh_instance(received.duty, 0)
    machine.receive(received.message, 0.0)
    assert machine.decided is not None or any(machine._buffer)


@pytest.mark.parametrize("instance", CAPTURES["instances"], ids=lambda i: f"{i['duty']['slot']}/{i['duty']['type']}")
def test_captured_instances_verify_and_replay_to_their_decision(instance: dict[str, Any]) -> None:
    verifier = Verifier([bytes.fromhex(key) for key in CAPTURES["cluster"]["k1_public_keys_by_peer_idx"]])
    duty = Duty(instance["duty"]["slot"], DutyType(instance["duty"]["type"]))
    machine = fresh_instance(duty, instance["recorded_by_peer_idx"])
    decisions: list[Decide] = []
    known: dict[bytes, Value] = {}
    for row in instance["messages"]:
        received = verifier.decode(bytes.fromhex(row["qbft_consensus_msg_hex"]))
        assert received.duty == duty
        assert (received.message.type, received.message.source) == (row["type"], row["peer_idx"])
        known.update(received.values)
        decisions += [e for e in machine.receive(received.message, 0.0) if isinstance(e, Decide)]
    assert [(d.round, d.value.hex()) for d in decisions] == [(instance["decided"]["round"], instance["decided"]["value_hash"])]
    if duty.type is DutyType.INFO_SYNC:
        with pytest.raises(MessageFault):
            decode_value(known[decisions[0].value])
    else:
        assert all(key.startswith("0x") for key in decode_value(known[decisions[0].value]))


LIVE = ("1.10.3-healthy", "1.10.3-round-changes", "main-healthy", "mixed-seen-by-1.10.3")


def nested(content: bytes, *numbers: int) -> list[bytes]:
    """The length-delimited contents of a path of field numbers: enough protobuf to open a recording of /debug/consensus."""
    found = [content]
    for number in numbers:
        found = [part for whole in found for part in _children(whole, number)]
    return found


def _children(whole: bytes, number: int) -> list[bytes]:
    found, at = [], 0
    while at < len(whole):
        tag, at = _varint(whole, at)
        length, at = _varint(whole, at)
        if tag & 7 == 2:
            if tag >> 3 == number:
                found.append(whole[at : at + length])
            at += length
    return found


def _varint(whole: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (whole[at] & 0x7F) << shift
        at += 1
        if whole[at - 1] < 0x80:
            return number, at
        shift += 7


@pytest.mark.parametrize("name", LIVE)
def test_every_message_of_running_clusters_verifies(name: str) -> None:
    enr = pytest.importorskip("charon_actors.enr")
    folder = VECTORS / "live" / "consensus"
    lock = json.loads(gzip.decompress((folder / f"{name}.cluster-lock.json.gz").read_bytes()))
    keys = [enr.decode_enr(o["enr"]).public_key for o in lock["cluster_definition"]["operators"]]
    verifier = Verifier(keys)
    recorded = nested(gzip.decompress((folder / f"{name}.pb.gz").read_bytes()), 1, 4, 2)
    assert len(recorded) > 100
    for content in recorded:
        received = verifier.decode(content)
        if received.message.type is MessageType.PRE_PREPARE:
            assert received.message.source == leader(received.duty.slot, received.duty.type, received.message.round, len(keys))
