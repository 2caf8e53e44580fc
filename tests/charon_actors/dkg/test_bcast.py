"""Reliable broadcast: the recorded bytes of both versions, and the promise that a sender cannot tell two stories."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charon_actors.dkg.bcast import Bcast, broadcast_hash
from charon_actors.dkg.dialect import NODE_SIGNATURE_ID, ROUND1_CAST_ID, ROUND2_CAST_ID, TYPE_URLS
from charon_actors.dkg.faults import CeremonyFault
from charon_actors.p2p.protobuf import dkg_pb2
from tests.charon_actors.dkg.vectors import DIALECT_OF_BCAST, V1_10, V1_11, load

VECTOR = load("bcast.json")
PRIVATE = [bytes.fromhex(o["private_key"]) for o in VECTOR["operators"]]
PUBLIC = [bytes.fromhex(o["public_key"]) for o in VECTOR["operators"]]
SESSION = bytes.fromhex(VECTOR["session_hash"])
CASES = [(m, v) for m in VECTOR["messages"] for v in ("1.0.0", "2.0.0")]


def anything(peer_index: int, body: bytes) -> None:
    """The check of these tests: the content is not what they are about."""


def node(index: int, dialect: Any = V1_10, session: bytes = SESSION, check: Any = anything) -> Bcast:
    return Bcast(dialect, session, index, PRIVATE[index], PUBLIC, dict.fromkeys(TYPE_URLS, check))


@pytest.mark.parametrize(("message", "version"), CASES)
def test_recorded_broadcasts(message: Any, version: str) -> None:
    expected, sender = message[f"bcast_{version}"], message["sender_peer_index"]
    dialect = DIALECT_OF_BCAST[version]
    nodes = [node(index, dialect) for index in range(4)]
    inner = bytes.fromhex(message["inner"])
    assert dialect.signature_protocol == expected["sig_protocol"]
    assert dialect.message_protocol == expected["msg_protocol"]
    assert TYPE_URLS[message["msg_id"]] == message["type_url"]
    assert broadcast_hash(dialect, SESSION, message["msg_id"], message["type_url"], inner).hex() == expected["hash"]

    outgoing = nodes[sender].open(message["msg_id"], inner)
    assert outgoing.request.hex() == expected["sig_request"]
    answers = {index: nodes[index].sign(sender, outgoing.request) for index in range(4) if index != sender}
    assert [key for key in expected if key.startswith("sig_response_from_peer_")]
    for index, answer in answers.items():
        recorded = expected.get(f"sig_response_from_peer_{index}")
        assert recorded is None or answer.hex() == recorded
        outgoing.accept(index, answer)
    sealed = outgoing.seal()
    decoded = dkg_pb2.BCastMessage.FromString(sealed)
    assert [signature.hex() for signature in decoded.signatures] == expected["signatures"]
    assert len(sealed) == expected["message_len"]
    for index in answers:
        assert nodes[index].receive(sender, sealed) == (message["msg_id"], inner)
        assert nodes[index].receive(sender, sealed) == (message["msg_id"], inner)


def sealed_by(nodes: list[Bcast], sender: int, message_id: str, inner: bytes) -> bytes:
    outgoing = nodes[sender].open(message_id, inner)
    for index in list(outgoing.missing()):
        outgoing.accept(index, nodes[index].sign(sender, outgoing.request))
    return outgoing.seal()


@given(
    requests=st.lists(st.tuples(st.integers(0, 2), st.sampled_from([ROUND1_CAST_ID, NODE_SIGNATURE_ID]), st.integers(0, 2))),
    version=st.sampled_from([V1_10, V1_11]),
)
@settings(max_examples=60, deadline=None)
def test_no_two_messages_of_one_sender_are_ever_both_complete(requests: list[tuple[int, str, int]], version: Any) -> None:
    """A sender asks four nodes in any order, for whatever stories it likes; only one of them can get everybody's signature."""
    nodes = [node(index, version) for index in range(4)]
    signed: dict[tuple[str, int], set[int]] = {}
    for who, message_id, story in requests:
        inner = bytes([story])
        try:
            nodes[who].sign(3, nodes[3].open(message_id, inner).request)
        except CeremonyFault as fault:
            assert fault.peer_index == 3  # noqa: PT017
        else:
            signed.setdefault((message_id, story), set()).add(who)
    for message_id, (one, other) in product([ROUND1_CAST_ID, NODE_SIGNATURE_ID], [(0, 1), (0, 2), (1, 2)]):
        assert not signed.get((message_id, one), set()) & signed.get((message_id, other), set())


def test_a_second_story_is_refused_and_the_same_one_signed_again() -> None:
    nodes = [node(index) for index in range(4)]
    request = nodes[1].open(ROUND1_CAST_ID, b"one").request
    assert nodes[0].sign(1, request) == nodes[0].sign(1, request)
    with pytest.raises(CeremonyFault, match="two different messages") as caught:
        nodes[0].sign(1, nodes[1].open(ROUND1_CAST_ID, b"two").request)
    assert caught.value.peer_index == 1
    nodes[0].sign(1, nodes[1].open(ROUND2_CAST_ID, b"two").request)  # another id is another story
    nodes[0].sign(2, nodes[2].open(ROUND1_CAST_ID, b"two").request)  # and so is another sender's


def test_content_is_checked_before_it_is_signed() -> None:
    def refuse(peer_index: int, body: bytes) -> None:
        raise CeremonyFault(peer_index, "not this")

    with pytest.raises(CeremonyFault, match="not this"):
        node(0, check=refuse).sign(1, node(1).open(ROUND1_CAST_ID, b"x").request)


def test_a_message_of_an_aborted_attempt_does_not_count() -> None:
    """bcast 1.0.0 signatures are bound to nothing: a full set from before verifies, but this process has not signed it."""
    before = sealed_by([node(index) for index in range(4)], 1, ROUND1_CAST_ID, b"old")
    with pytest.raises(CeremonyFault, match="not signed in this ceremony"):
        node(0).receive(1, before)


@pytest.mark.parametrize("count", [3, 5])
def test_exactly_n_signatures(count: int) -> None:
    nodes = [node(index) for index in range(4)]
    message = dkg_pb2.BCastMessage.FromString(sealed_by(nodes, 1, ROUND1_CAST_ID, b"x"))
    signatures = (list(message.signatures) * 2)[:count]
    del message.signatures[:]
    message.signatures.extend(signatures)
    with pytest.raises(CeremonyFault, match=f"{count} signatures of 4"):
        nodes[0].receive(1, message.SerializeToString())


def test_signatures_count_in_the_place_of_their_operator_only() -> None:
    nodes = [node(index) for index in range(4)]
    message = dkg_pb2.BCastMessage.FromString(sealed_by(nodes, 1, ROUND1_CAST_ID, b"x"))
    message.signatures[2], message.signatures[3] = message.signatures[3], message.signatures[2]
    with pytest.raises(CeremonyFault, match="place of operator 2"):
        nodes[0].receive(1, message.SerializeToString())


def test_a_peer_that_answers_with_a_bad_signature_is_named() -> None:
    nodes = [node(index) for index in range(4)]
    outgoing = nodes[0].open(ROUND1_CAST_ID, b"x")
    other = nodes[0].open(ROUND1_CAST_ID, b"y")
    with pytest.raises(CeremonyFault) as caught:
        outgoing.accept(2, nodes[2].sign(0, other.request))
    assert caught.value.peer_index == 2
    assert outgoing.missing() == [1, 2, 3]
    with pytest.raises(AssertionError):
        outgoing.seal()


def test_an_answer_with_another_id_is_refused_though_its_signature_is_right() -> None:
    nodes = [node(index) for index in range(4)]
    outgoing = nodes[0].open(ROUND1_CAST_ID, b"x")
    answer = dkg_pb2.BCastSigResponse.FromString(nodes[2].sign(0, outgoing.request))
    answer.id = ROUND2_CAST_ID
    with pytest.raises(CeremonyFault, match="with another id") as caught:
        outgoing.accept(2, answer.SerializeToString())
    assert caught.value.peer_index == 2
    assert 2 in outgoing.missing()


def test_version_2_binds_session_and_id() -> None:
    request = node(1, V1_11, session=b"\x01" * 32).open(ROUND1_CAST_ID, b"x")
    elsewhere = node(2, V1_11, session=b"\x02" * 32).sign(1, request.request)
    with pytest.raises(CeremonyFault, match="invalid signature"):
        request.accept(2, elsewhere)


BAD_REQUESTS: dict[str, Any] = {
    "unknown id": lambda m: setattr(m, "id", "/charon/dkg/pedersen/1.0.0/node_pubkeys"),
    "no message": lambda m: m.ClearField("message"),
    "another type": lambda m: setattr(m.message, "type_url", TYPE_URLS[NODE_SIGNATURE_ID]),
}


@pytest.mark.parametrize("edit", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_bad_requests(edit: Any) -> None:
    request = dkg_pb2.BCastSigRequest.FromString(node(1).open(ROUND1_CAST_ID, b"x").request)
    edit(request)
    with pytest.raises(CeremonyFault) as caught:
        node(0).sign(1, request.SerializeToString())
    assert caught.value.peer_index == 1


@pytest.mark.parametrize("sender", [-1, 0, 4])
def test_only_peers_are_served(sender: int) -> None:
    with pytest.raises(CeremonyFault, match="no peer"):
        node(0).sign(sender, node(1).open(ROUND1_CAST_ID, b"x").request)


@given(body=st.binary(max_size=200))
@settings(max_examples=300)
def test_hostile_bytes_end_in_a_named_fault(body: bytes) -> None:
    bcast = node(0)
    outgoing = bcast.open(ROUND1_CAST_ID, b"x")
    for door in (bcast.sign, bcast.receive, outgoing.accept):
        with pytest.raises(CeremonyFault) as caught:
            door(1, body)
        assert caught.value.peer_index == 1


def test_secrets_do_not_show() -> None:
    assert PRIVATE[0].hex() not in repr(node(0))
