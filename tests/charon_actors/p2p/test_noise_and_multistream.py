"""Noise and multistream-select against the vectors (specification 03-p2p, sections 11.1 and 11.2) and hostile input."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.crypto import k1_public_key, k1_sign_der, k1_verify_der
from charon_actors.p2p.connection import Upgrade
from charon_actors.p2p.multistream import (
    MAX_PROPOSALS,
    Initiator,
    MultistreamFault,
    NotSupported,
    Responder,
    encode_token,
)
from charon_actors.p2p.noise import MAX_PLAINTEXT_BYTES, TAG_BYTES, NoiseFault, NoiseHandshake, PeerMismatch
from charon_actors.p2p.peer_id import decode_peer_id, peer_id_of
from charon_actors.p2p.protobuf import libp2p_pb2

VECTORS = Path(__file__).parents[2] / "vectors" / "p2p"
KEY_1, KEY_2 = (number.to_bytes(32, "big") for number in (1, 2))
ID_1, ID_2 = (peer_id_of(k1_public_key(key)) for key in (KEY_1, KEY_2))


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_bytes())


def draws(*values: str) -> Callable[[int], bytes]:
    left: Iterator[bytes] = iter([bytes.fromhex(value) for value in values])
    return lambda _size: next(left)


def counting_entropy(start: int) -> Callable[[int], bytes]:
    state = [start]

    def entropy(size: int) -> bytes:
        state[0] += 1
        return hashlib.shake_256(str(state).encode()).digest(size)

    return entropy


# ---- signatures and noise ----


@pytest.mark.parametrize("case", load("signatures.json")["cases"], ids=lambda case: case["message"][:16])
def test_identity_signatures_are_the_low_s_ones(case: dict[str, str]) -> None:
    private, digest = bytes.fromhex(case["private_key"]), hashlib.sha256(bytes.fromhex(case["message"])).digest()
    assert k1_sign_der(private, digest).hex() == case["signature_der"]
    assert k1_verify_der(k1_public_key(private), digest, bytes.fromhex(case["signature_der"]))


def vector_pair() -> tuple[NoiseHandshake, NoiseHandshake, Any]:
    vector = load("noise_xx.json")
    sides = []
    for role in ("initiator", "responder"):
        side = vector[role]
        keys = draws(side["noise_static_private"], side["noise_ephemeral_private"])
        sides.append(NoiseHandshake(bytes.fromhex(side["identity_private_key"]), keys, is_initiator=role == "initiator"))
    return sides[0], sides[1], vector


def test_noise_handshake_and_first_messages_are_byte_equal() -> None:
    initiator, responder, vector = vector_pair()
    wire = [message["hex"] for message in vector["wire_messages_with_2_byte_length"]]
    first = initiator.opening()
    second = responder.receive(first)
    third = initiator.receive(second)
    assert responder.receive(third) == b""
    assert [first.hex(), second.hex(), third.hex()] == wire
    one, two = initiator.session, responder.session
    assert one is not None
    assert two is not None
    assert one.remote_peer_id == decode_peer_id(vector["responder"]["peer_id"])
    assert two.remote_peer_id == decode_peer_id(vector["initiator"]["peer_id"])
    assert one.muxer == two.muxer == "/yamux/1.0.0"
    for message, sender, receiver in zip(vector["transport"], (one, two), (two, one), strict=True):
        sealed = sender.encrypt(bytes.fromhex(message["plaintext"]))
        assert sealed.hex() == message["wire"]
        assert receiver.receive(sealed) == [bytes.fromhex(message["plaintext"])]


def test_a_tampered_byte_anywhere_in_the_handshake_is_noticed() -> None:
    for number in (1, 2):
        length = len(vector_pair()[2]["wire_messages_with_2_byte_length"][number]["hex"]) // 2
        for place in range(2, length, 7):
            initiator, responder, _ = vector_pair()
            message = responder.receive(initiator.opening())
            receiver = initiator
            if number == 2:
                message, receiver = initiator.receive(message), responder
            tampered = bytearray(message)
            tampered[place] ^= 1
            with pytest.raises(NoiseFault):
                receiver.receive(bytes(tampered))


def test_the_wrong_peer_is_refused_before_our_identity_is_sent() -> None:
    initiator = NoiseHandshake(KEY_1, counting_entropy(1), is_initiator=True, expected_peer=ID_1)
    responder = NoiseHandshake(KEY_2, counting_entropy(2), is_initiator=False)
    with pytest.raises(PeerMismatch):
        initiator.receive(responder.receive(initiator.opening()))


def test_a_signature_over_another_static_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = NoiseHandshake(KEY_2, counting_entropy(9), is_initiator=False)._payload()  # signed another static key
    initiator = NoiseHandshake(KEY_1, counting_entropy(1), is_initiator=True)
    responder = NoiseHandshake(KEY_2, counting_entropy(2), is_initiator=False)
    monkeypatch.setattr(responder, "_payload", lambda: genuine)
    with pytest.raises(NoiseFault, match="signature"):
        initiator.receive(responder.receive(initiator.opening()))


def test_a_key_of_low_order_is_refused() -> None:
    responder = NoiseHandshake(KEY_2, counting_entropy(2), is_initiator=False)
    with pytest.raises(NoiseFault, match="low order"):
        responder.receive(b"\x00\x20" + bytes(32))


@pytest.mark.parametrize("size", [0, 31])
@pytest.mark.parametrize("liar_is_initiator", [False, True])
def test_a_static_key_of_another_length_is_refused(size: int, liar_is_initiator: bool) -> None:
    """Sealed correctly and at the end of its message, so that the length is all that is wrong."""
    initiator = NoiseHandshake(KEY_1, counting_entropy(1), is_initiator=True)
    responder = NoiseHandshake(KEY_2, counting_entropy(2), is_initiator=False)
    liar = initiator if liar_is_initiator else responder

    class Key:
        def public_key(self) -> "Key":
            return self

        def public_bytes_raw(self) -> bytes:
            return bytes(size)

        def exchange(self, peer: object) -> bytes:
            return bytes(32)

    def without_payload(message: bytes, before: int) -> bytes:
        message = message[2 : 2 + before + size + TAG_BYTES]
        return len(message).to_bytes(2, "big") + message

    liar._static = Key()  # type: ignore[assignment]
    second = responder.receive(initiator.opening())
    if liar_is_initiator:
        victim, message = responder, without_payload(initiator.receive(second), before=0)
    else:
        victim, message = initiator, without_payload(second, before=32)
    with pytest.raises(NoiseFault, match="32 bytes"):
        victim.receive(message)


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [(["/a", "/b"], ["/b", "/a"], "/a"), (["/a"], [], None), (["/c"], ["/a"], None), (["/a"], ["/a"] * 101, None)],
)
def test_the_muxer_is_the_first_of_the_initiators_list(ours: list[str], theirs: list[str], agreed: str | None) -> None:
    initiator = NoiseHandshake(KEY_1, counting_entropy(1), is_initiator=True, muxers=ours)
    responder = NoiseHandshake(KEY_2, counting_entropy(2), is_initiator=False, muxers=theirs)
    responder.receive(initiator.receive(responder.receive(initiator.opening())))
    assert initiator.session is not None
    assert responder.session is not None
    assert initiator.session.muxer == agreed
    if len(theirs) <= 100:
        assert responder.session.muxer == agreed


@given(st.lists(st.binary(max_size=200), max_size=6), st.lists(st.integers(1, 400), min_size=1, max_size=20))
def test_noise_survives_any_cutting_of_the_wire(messages: list[bytes], cuts: list[int]) -> None:
    initiator = NoiseHandshake(KEY_1, counting_entropy(1), is_initiator=True, expected_peer=ID_2)
    responder = NoiseHandshake(KEY_2, counting_entropy(2), is_initiator=False)

    def pieces(wire: bytes) -> Iterator[bytes]:
        number = 0
        while wire:
            cut = cuts[number % len(cuts)]
            yield wire[:cut]
            wire, number = wire[cut:], number + 1

    second = b"".join(responder.receive(piece) for piece in pieces(initiator.opening()))
    third = b"".join(initiator.receive(piece) for piece in pieces(second))
    assert initiator.session is not None
    early = b"".join(initiator.session.encrypt(message) for message in messages[:1])  # right behind message 3
    responder.receive(third + early)
    assert responder.session is not None
    seen = responder.session.receive(b"")
    for message in messages[1:]:
        for piece in pieces(initiator.session.encrypt(message)):
            seen += responder.session.receive(piece)
    assert b"".join(seen) == b"".join(messages)


def test_long_plaintext_is_cut_at_65519_bytes() -> None:
    initiator = NoiseHandshake(KEY_1, counting_entropy(1), is_initiator=True)
    responder = NoiseHandshake(KEY_2, counting_entropy(2), is_initiator=False)
    responder.receive(initiator.receive(responder.receive(initiator.opening())))
    assert initiator.session is not None
    assert responder.session is not None
    seen = responder.session.receive(initiator.session.encrypt(bytes(MAX_PLAINTEXT_BYTES + 1)))
    assert [len(plaintext) for plaintext in seen] == [65519, 1]


@given(st.binary(max_size=400), st.booleans())
def test_hostile_handshake_bytes(data: bytes, is_initiator: bool) -> None:
    handshake = NoiseHandshake(KEY_1, counting_entropy(1), is_initiator=is_initiator)
    handshake.opening()
    try:
        handshake.receive(data)
    except NoiseFault:
        return
    assert handshake.session is None


@given(st.binary(max_size=300), st.booleans(), st.integers(0, 4))
def test_hostile_bytes_anywhere_in_an_upgrade(data: bytes, is_dialer: bool, honest_steps: int) -> None:
    machine = Upgrade(KEY_1, counting_entropy(1), is_dialer=is_dialer, expected_peer=None)
    other = Upgrade(KEY_2, counting_entropy(2), is_dialer=not is_dialer, expected_peer=None)
    to_other, to_machine = machine.opening(), other.opening()
    for _ in range(honest_steps):
        if not other.is_done:
            to_machine += other.receive(to_other)
        to_other = b"" if machine.is_done else machine.receive(to_machine)
        to_machine = b""
    if machine.is_done:
        return
    with suppress(MultistreamFault, NoiseFault):
        machine.receive(data)
        assert not machine.is_done


@given(st.binary(max_size=200))
def test_hostile_payload(data: bytes) -> None:
    with pytest.raises(NoiseFault):
        NoiseHandshake(KEY_1, counting_entropy(1), is_initiator=True)._check_payload(data, bytes(32))


@pytest.mark.parametrize("key_type", [0, 1, 3])
def test_other_identity_key_types_are_refused(key_type: int) -> None:
    key = libp2p_pb2.PublicKey(type=key_type, data=k1_public_key(KEY_2)).SerializeToString()
    payload = libp2p_pb2.NoisePayload(identity_key=key, identity_sig=b"x").SerializeToString()
    with pytest.raises(NoiseFault, match="secp256k1"):
        NoiseHandshake(KEY_1, counting_entropy(1), is_initiator=True)._check_payload(payload, bytes(32))


def test_a_muxer_that_is_no_utf8_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    initiator = NoiseHandshake(KEY_1, counting_entropy(1), is_initiator=True)
    responder = NoiseHandshake(KEY_2, counting_entropy(2), is_initiator=False)
    hostile = responder._payload().replace(b"/yamux", b"\xff\xfeamux")
    monkeypatch.setattr(responder, "_payload", lambda: hostile)
    initiator.receive(responder.receive(initiator.opening()))
    assert initiator.session is not None
    assert initiator.session.muxer is None


# ---- multistream ----


def test_tokens() -> None:
    for text, token in load("multistream.json")["tokens"].items():
        assert encode_token(text).hex() == token


def test_a_go_dialer_falls_back_from_tls_to_noise() -> None:
    transcript = [bytes.fromhex(step["hex"]) for step in load("multistream.json")["dialer_go_default_security_negotiation"]]
    responder = Responder({"/noise"})
    assert responder.opening() + responder.receive(transcript[0]) == transcript[1]
    assert responder.receive(transcript[2]) == transcript[3]
    assert responder.selected == "/noise"
    initiator = Initiator(["/tls/1.0.0", "/noise"])
    assert initiator.opening() == transcript[0]
    assert initiator.receive(transcript[1]) == transcript[2]
    assert initiator.receive(transcript[3] + b"more") == b""
    assert (initiator.selected, initiator.leftover) == ("/noise", b"more")


@given(st.lists(st.integers(1, 30), min_size=1))
def test_a_pipelined_message_gets_both_answers_and_its_payload_is_left_over(cuts: list[int]) -> None:
    vector = load("multistream.json")["lazy_one_way_send"]
    responder, wire, out = Responder({"/charon/parsigex/2.0.0"}), bytes.fromhex(vector["initiator"]), b""
    out += responder.opening()
    for cut in [*cuts, len(wire)]:
        out += responder.receive(wire[:cut])
        wire = wire[cut:]
    assert out.hex() == vector["responder"]
    assert responder.leftover.hex() == "030a0108"


def test_everything_refused() -> None:
    initiator = Initiator(["/a", "/b"])
    responder = Responder({"/c"})
    reply = initiator.receive(responder.opening() + responder.receive(initiator.opening()))
    with pytest.raises(NotSupported, match="/a, /b"):
        initiator.receive(responder.receive(reply))


def test_ls_and_endless_proposals_get_nothing() -> None:
    responder = Responder({"/a"})
    assert responder.receive(encode_token("/multistream/1.0.0") + encode_token("ls")) == encode_token("na")
    with pytest.raises(MultistreamFault, match="proposals"):
        responder.receive(encode_token("/b") * MAX_PROPOSALS)


@pytest.mark.parametrize("wire", ["00", "818001", "8108", "0161", "02ff0a", "036e610a", "ff" * 10])
def test_bad_tokens(wire: str) -> None:
    for side in (Initiator(["/a"]), Responder({"/a"})):
        with pytest.raises(MultistreamFault):
            side.receive(bytes.fromhex(wire))


@given(st.binary(max_size=200) | st.lists(st.sampled_from(["/multistream/1.0.0", "na", "/a", "/b", ""])).map(
    lambda texts: b"".join(map(encode_token, texts))
))  # fmt: skip
def test_hostile_multistream(data: bytes) -> None:
    for side in (Initiator(["/a", "/b"]), Responder({"/a"})):
        try:
            side.receive(data)
        except MultistreamFault:
            continue
        assert side.selected in (None, "/a", "/b")
