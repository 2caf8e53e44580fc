"""Envelopes, peer records and vouchers against the vectors, and against hostile bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.crypto import k1_public_key
from charon_actors.p2p.envelope import (
    PEER_RECORD_DOMAIN,
    PEER_RECORD_TYPE,
    VOUCHER_DOMAIN,
    VOUCHER_TYPE,
    EnvelopeFault,
    PeerRecord,
    Voucher,
    decode_peer_record,
    decode_voucher,
    encode_peer_record,
    encode_voucher,
    open_envelope,
)
from charon_actors.p2p.multiaddr import decode_multiaddr_bytes
from charon_actors.p2p.peer_id import peer_id_of
from tests.charon_actors.p2p.vectors import load

CASES = load("envelopes.json")
KEYS = {n: n.to_bytes(32, "big") for n in (1, 2)}
IDS = {n: peer_id_of(k1_public_key(key)) for n, key in KEYS.items()}


def test_a_peer_record_opens_and_seals_to_the_vector() -> None:
    case = CASES["peer_record"]
    envelope = bytes.fromhex(case["envelope"])
    record = decode_peer_record(envelope)
    assert record.peer_id == IDS[1]
    assert [str(decode_multiaddr_bytes(address)) for address in record.addresses] == [
        "/ip4/127.0.0.1/tcp/3610",
        "/ip4/10.0.0.2/udp/3610/quic-v1",
    ]
    assert open_envelope(envelope, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE) == (IDS[1], bytes.fromhex(case["record"]))
    assert encode_peer_record(KEYS[1], record) == envelope


def test_a_voucher_opens_and_seals_to_the_vector() -> None:
    envelope = bytes.fromhex(CASES["relay_voucher"]["envelope"])
    voucher = decode_voucher(envelope, relay_id=IDS[1], peer_id=IDS[2])
    assert voucher == Voucher(IDS[1], IDS[2], 1800000000, IDS[1])
    assert encode_voucher(KEYS[1], voucher) == envelope


def test_a_js_relays_voucher_opens() -> None:
    case = CASES["relay_voucher_from_js_libp2p"]
    assert decode_voucher(bytes.fromhex(case["envelope"]), relay_id=IDS[1], peer_id=IDS[2]).expiration == case["expiration"]


@pytest.mark.parametrize(("relay", "peer"), [(2, 2), (1, 1), (2, 1)])
def test_a_voucher_of_another_relay_or_for_another_peer_is_refused(relay: int, peer: int) -> None:
    with pytest.raises(EnvelopeFault):
        decode_voucher(bytes.fromhex(CASES["relay_voucher"]["envelope"]), relay_id=IDS[relay], peer_id=IDS[peer])


def test_a_record_that_speaks_of_another_peer_is_refused() -> None:
    with pytest.raises(EnvelopeFault):
        decode_peer_record(encode_peer_record(KEYS[1], PeerRecord(IDS[2], 1, ())))


def test_a_signature_for_one_purpose_is_worth_nothing_for_another() -> None:
    envelope = bytes.fromhex(CASES["peer_record"]["envelope"])
    with pytest.raises(EnvelopeFault):
        open_envelope(envelope, VOUCHER_DOMAIN, PEER_RECORD_TYPE)
    with pytest.raises(EnvelopeFault):
        open_envelope(envelope, PEER_RECORD_DOMAIN, VOUCHER_TYPE)


@given(st.integers(0, len(CASES["peer_record"]["envelope"]) // 2 - 1), st.integers(1, 255))
def test_every_changed_byte_is_noticed(place: int, flip: int) -> None:
    envelope = bytearray.fromhex(CASES["peer_record"]["envelope"])
    envelope[place] ^= flip
    try:
        record = decode_peer_record(bytes(envelope))
    except EnvelopeFault:
        return
    assert record == decode_peer_record(bytes.fromhex(CASES["peer_record"]["envelope"])), "a lie got through"


@given(st.binary(max_size=600))
def test_hostile_bytes_end_in_a_fault(data: bytes) -> None:
    with pytest.raises(EnvelopeFault):
        decode_peer_record(data)
    with pytest.raises(EnvelopeFault):
        decode_voucher(data, relay_id=IDS[1], peer_id=IDS[2])
