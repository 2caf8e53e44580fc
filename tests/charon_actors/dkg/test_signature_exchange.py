"""Signature exchange and node signatures: recorded bytes and sums, early messages, and blame."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charon_actors.crypto import G2, aggregate_signatures, fast_aggregate_verify, sign, verify
from charon_actors.dkg.faults import CeremonyFault
from charon_actors.dkg.frost import ValidatorKeys
from charon_actors.dkg.node_signatures import NodeSignatures
from charon_actors.dkg.signature_exchange import SignatureExchange, decode_partials, encode_partials
from charon_actors.p2p.protobuf import core_pb2, dkg_pb2
from tests.charon_actors.dkg.vectors import counting_entropy, load

VECTOR = load("sigex.json")
FROST = load("frost_n4_t3.json")
BCAST = load("bcast.json")
LOCK_HASH = bytes.fromhex(VECTOR["lock_hash"])
SLOTS = [exchange["duty_slot"] for exchange in VECTOR["exchanges"]]
OPERATORS = 4


def keys_of(index: int) -> tuple[ValidatorKeys, ...]:
    return tuple(
        ValidatorKeys(
            bytes.fromhex(v["group_public_key"]),
            tuple(bytes.fromhex(share) for share in v["public_shares"].values()),
            bytes.fromhex(v["participants"][index]["secret_share"]),
        )
        for v in FROST["validators"][:2]
    )


def node(index: int) -> SignatureExchange:
    exchange = SignatureExchange(index, OPERATORS, SLOTS, validators=2)
    exchange.start(keys_of(index))
    return exchange


def messages_of(exchange: Any) -> list[bytes]:
    return [bytes.fromhex(v["signed_message"]) for v in exchange["validators"]]


@pytest.mark.parametrize("exchange", VECTOR["exchanges"], ids=lambda exchange: exchange["name"])
def test_recorded_exchange(exchange: Any) -> None:
    nodes = [node(index) for index in range(OPERATORS)]
    slot, messages = exchange["duty_slot"], messages_of(exchange)
    sent = [machine.sign(slot, messages) for machine in nodes]
    assert len(sent[0]) == exchange["parsigex_msg_share1_both_len"]
    decoded_slot, partials = decode_partials(0, sent[0])
    assert decoded_slot == slot
    of_first = keys_of(0)[0].group_public_key  # the map comes in any order
    assert {"0x" + k.hex(): p.hex() for k, p in partials.items()} == {
        v["pubkey"]: v["partial_signatures"]["1"] for v in exchange["validators"]
    }
    only_first = {of_first: partials[of_first]}
    assert encode_partials(slot, 1, only_first).hex() == exchange["parsigex_msg_share1_val0_only"]
    for sender in (1, 2, 3):
        assert nodes[0].receive(sender, sent[sender]) == slot
        assert nodes[0].receive(sender, sent[sender]) == slot
    assert nodes[0].missing(slot) == []
    if slot == 101:
        aggregate = nodes[0].sum_up(slot, LOCK_HASH, counting_entropy("w"))
        assert aggregate.hex() == exchange["signature_aggregate"]
        shares = [share for keys in keys_of(0) for share in keys.public_shares]
        assert fast_aggregate_verify(shares, LOCK_HASH, aggregate)
    else:
        combined = nodes[0].combine(slot, messages, entropy=counting_entropy("w"))
        assert [signature.hex() for signature in combined] == [v["aggregate"] for v in exchange["validators"]]
        for keys, message, signature in zip(keys_of(0), messages, combined, strict=True):
            assert verify(keys.group_public_key, message, signature)


def test_peers_may_be_ahead_of_us() -> None:
    exchange = VECTOR["exchanges"][1]
    early = SignatureExchange(0, OPERATORS, SLOTS, validators=2)
    for sender in (1, 2, 3):
        early.receive(sender, node(sender).sign(201, messages_of(exchange)))
    early.start(keys_of(0))
    assert early.missing(200) == [0, 1, 2, 3]
    early.sign(201, messages_of(exchange))
    assert len(early.combine(201, messages_of(exchange), counting_entropy("w"))) == 2


@pytest.mark.parametrize("culprit", [1, 3])
@pytest.mark.parametrize("validator", [0, 1])
def test_a_bad_partial_signature_is_blamed(culprit: int, validator: int) -> None:
    receiver = node(0)
    slot, messages = 200, messages_of(VECTOR["exchanges"][0])
    receiver.sign(slot, messages)
    for sender in (1, 2, 3):
        wrong = list(messages)
        if sender == culprit:
            wrong[validator] = b"\x01" * 32
        receiver.receive(sender, node(sender).sign(slot, wrong))
    with pytest.raises(CeremonyFault, match=f"invalid deposit data partial signature for validator {validator}") as caught:
        receiver.combine(slot, messages, counting_entropy("w"))
    assert caught.value.peer_index == culprit


def test_two_signatures_that_cancel_in_the_sum_are_found() -> None:
    """Peers 1 and 2 sign with each other's shares: the plain sum over the lock hash is right, and yet both are blamed."""
    receiver = node(0)
    receiver.sign(101, [LOCK_HASH] * 2)
    for sender, signer in ((1, 2), (2, 1), (3, 3)):
        signatures = {keys.group_public_key: sign(keys.secret_share, LOCK_HASH) for keys in keys_of(signer)}
        receiver.receive(sender, encode_partials(101, sender + 1, signatures))
    everything = [s for of_peer in receiver._partials[101].values() for s in of_peer.values()]
    shares = [share for keys in keys_of(0) for share in keys.public_shares]
    assert fast_aggregate_verify(shares, LOCK_HASH, aggregate_signatures(everything))
    with pytest.raises(CeremonyFault, match="invalid lock hash partial signature") as caught:
        receiver.sum_up(101, LOCK_HASH, counting_entropy("w"))
    assert caught.value.peer_index == 1


def test_errors_that_cancel_across_validators_are_found() -> None:
    """Peer 1 adds a point to one validator's signature and takes it from the other's: an unweighted batch would be right."""
    slot, messages = 200, messages_of(VECTOR["exchanges"][0])
    receiver = node(0)
    receiver.sign(slot, messages)
    for sender in (2, 3):
        receiver.receive(sender, node(sender).sign(slot, messages))
    error = G2.GENERATOR * 12345
    signatures = {}
    for keys, message, sign_of in zip(keys_of(1), messages, (1, -1), strict=True):
        right = G2.decode(sign(keys.secret_share, message))
        signatures[keys.group_public_key] = (right + error * sign_of).encode()
    receiver.receive(1, encode_partials(slot, 2, signatures))
    with pytest.raises(CeremonyFault, match="invalid deposit data partial signature") as caught:
        receiver.combine(slot, messages, counting_entropy("w"))
    assert caught.value.peer_index == 1


def edit_entry(message: Any, **fields: Any) -> None:
    for name, value in fields.items():
        setattr(next(iter(message.data_set.set.values())), name, value)


EDITS: dict[str, Any] = {
    "unknown slot": lambda m: setattr(m.duty, "slot", 300),
    "old slot": lambda m: setattr(m.duty, "slot", 103),
    "duty type": lambda m: setattr(m.duty, "type", 2),
    "no duty": lambda m: m.ClearField("duty"),
    "no set": lambda m: m.ClearField("data_set"),
    "share of another": lambda m: edit_entry(m, share_idx=3),
    "no json": lambda m: edit_entry(m, data=b"abc"),
    "short": lambda m: edit_entry(m, data=b'"AAAA"'),
    "two signatures": lambda m: edit_entry(m, signature=bytes(96)),
    "no validator": lambda m: m.data_set.set["0xaa"].CopyFrom(next(iter(m.data_set.set.values()))),
    "missing": lambda m: m.data_set.set.pop(next(iter(m.data_set.set))),
    "one too many": lambda m: m.data_set.set["0x" + "ab" * 48].CopyFrom(next(iter(m.data_set.set.values()))),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_malformed_messages_are_blamed_at_once(edit: Any) -> None:
    message = core_pb2.ParSigExMsg.FromString(node(1).sign(200, messages_of(VECTOR["exchanges"][0])))
    edit(message)
    with pytest.raises(CeremonyFault) as caught:
        node(0).receive(1, message.SerializeToString())
    assert caught.value.peer_index == 1


def test_signatures_of_other_keys_and_second_stories() -> None:
    messages = messages_of(VECTOR["exchanges"][0])
    ours = node(1).sign(200, messages)
    strange = core_pb2.ParSigExMsg.FromString(ours)
    first = next(iter(strange.data_set.set))
    strange.data_set.set["0x" + "ab" * 48].CopyFrom(strange.data_set.set[first])
    del strange.data_set.set[first]
    with pytest.raises(CeremonyFault, match="no partial signature of slot 200 for validator"):
        node(0).receive(1, strange.SerializeToString())
    early = SignatureExchange(0, OPERATORS, SLOTS, validators=2)
    early.receive(1, strange.SerializeToString())
    with pytest.raises(CeremonyFault, match="no partial signature of slot 200 for validator"):
        early.start(keys_of(0))
    receiver = node(0)
    receiver.receive(1, ours)
    with pytest.raises(CeremonyFault, match="two different sets"):
        receiver.receive(1, node(1).sign(200, [b"\x02" * 32] * 2))
    with pytest.raises(CeremonyFault, match="no peer"):
        receiver.receive(0, ours)
    with pytest.raises(CeremonyFault, match="bytes"):
        receiver.receive(1, bytes(receiver.limit_bytes + 1))


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_hostile_bytes_end_in_a_named_fault(body: bytes) -> None:
    signatures = NodeSignatures(0, bytes.fromhex(BCAST["operators"][0]["private_key"]), [b""] * 4)
    for door in (SignatureExchange(0, OPERATORS, SLOTS, validators=2).receive, signatures.receive):
        with pytest.raises(CeremonyFault) as caught:
            door(1, body)
        assert caught.value.peer_index == 1


def node_signatures(index: int) -> NodeSignatures:
    operators = BCAST["operators"]
    return NodeSignatures(
        index, bytes.fromhex(operators[index]["private_key"]), [bytes.fromhex(o["public_key"]) for o in operators]
    )


def test_recorded_node_signatures() -> None:
    nodes = [node_signatures(index) for index in range(OPERATORS)]
    for index, machine in enumerate(nodes):
        message = dkg_pb2.MsgNodeSig.FromString(machine.sign(LOCK_HASH))
        assert (message.signature.hex(), message.peer_index) == (VECTOR["node_signatures"][index]["signature"], index)
        if index:
            nodes[0].receive(index, message.SerializeToString())
    assert nodes[0].missing() == []
    assert [s.hex() for s in nodes[0].collect(LOCK_HASH)] == [s["signature"] for s in VECTOR["node_signatures"]]
    with pytest.raises(CeremonyFault, match="another lock hash") as caught:
        nodes[0].collect(b"\x01" * 32)
    assert caught.value.peer_index == 0


def test_node_signatures_are_the_senders_own() -> None:
    receiver = node_signatures(0)
    other = node_signatures(2).sign(LOCK_HASH)
    with pytest.raises(CeremonyFault, match="in the name of operator 2") as caught:
        receiver.receive(1, other)
    assert caught.value.peer_index == 1
    with pytest.raises(CeremonyFault, match="4 bytes"):
        receiver.check(3, dkg_pb2.MsgNodeSig(signature=bytes.fromhex("deadbeef"), peer_index=3).SerializeToString())
    receiver.receive(2, other)
    receiver.receive(2, other)
    with pytest.raises(CeremonyFault, match="two different"):
        receiver.receive(2, node_signatures(2).sign(b"\x01" * 32))
