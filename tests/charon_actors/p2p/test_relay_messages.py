"""Circuit relay and DCUtR messages against the vectors, refusals that explain themselves, hostile bytes."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.p2p import relay_messages as relay
from charon_actors.p2p.framing import encode_delimited, take_delimited
from charon_actors.p2p.multiaddr import decode_multiaddr, decode_multiaddr_bytes
from charon_actors.p2p.peer_id import decode_peer_id
from charon_actors.p2p.relay_messages import HolePunch, RelayFault, RelayRefusal, Status
from tests.charon_actors.p2p.test_envelope import IDS
from tests.charon_actors.p2p.vectors import load

CASES = load("relay_and_dcutr_messages.json")


def body(text: str) -> bytes:
    message = take_delimited(bytearray.fromhex(text), relay.MAX_MESSAGE_BYTES)
    assert message is not None
    return message


def test_what_we_write_equals_the_vectors() -> None:
    assert encode_delimited(relay.encode_reserve()).hex() == CASES["hop_reserve"]
    target = decode_peer_id(CASES["hop_connect"]["dest_peer"])
    assert encode_delimited(relay.encode_hop_connect(target)).hex() == CASES["hop_connect"]["hex"]
    assert encode_delimited(relay.encode_stop_status(Status.OK)).hex() == CASES["stop_status_ok"]
    addresses = tuple(bytes(decode_multiaddr(text)) for text in CASES["dcutr_connect"]["addrs"])
    assert encode_delimited(relay.encode_hole_punch(HolePunch(False, addresses))).hex() == CASES["dcutr_connect"]["hex"]
    assert encode_delimited(relay.encode_hole_punch(HolePunch(True))).hex() == CASES["dcutr_sync"]


def test_what_a_relay_writes_is_understood() -> None:
    case = CASES["hop_status_reservation_ok"]
    grant = relay.decode_reservation(body(case["hex"]), relay_id=IDS[1], own_id=IDS[2], now_s=case["expire"] - 3600)
    assert (grant.expire_s, grant.voucher_fault) == (case["expire"], None)
    assert [str(decode_multiaddr_bytes(address)) for address in grant.addresses] == [case["relay_addr"]]
    assert grant.limit is not None
    assert (grant.limit.duration_s, grant.limit.data_bytes) == (3600, 33554432)
    assert relay.refresh_in_s(grant, case["expire"] - 3600) == 58 * 60
    connected = CASES["hop_status_ok_with_limit"]
    limit = relay.decode_hop_connected(body(connected["hex"]))
    assert limit is not None
    assert (limit.duration_s, limit.data_bytes) == (connected["limit_duration_s"], connected["limit_data"])
    stop = relay.decode_stop_connect(body(CASES["stop_connect"]["hex"]))
    assert stop.source_id == decode_peer_id(CASES["stop_connect"]["source_peer"])
    assert relay.decode_hole_punch(body(CASES["dcutr_sync"])) == HolePunch(True)


def test_a_voucher_of_another_relay_is_named_but_an_expired_reservation_is_refused() -> None:
    case = CASES["hop_status_reservation_ok"]
    grant = relay.decode_reservation(body(case["hex"]), relay_id=IDS[2], own_id=IDS[2], now_s=case["expire"] - 3600)
    assert grant.voucher_fault is not None
    with pytest.raises(RelayFault, match="expired"):
        relay.decode_reservation(body(case["hex"]), relay_id=IDS[1], own_id=IDS[2], now_s=case["expire"])


@pytest.mark.parametrize(
    ("name", "status", "hint"),
    [("hop_status_no_reservation", 204, "other relays"), ("hop_status_reservation_refused", 200, "restart in a loop")],
)
def test_a_refusal_says_what_to_do(name: str, status: int, hint: str) -> None:
    with pytest.raises(RelayRefusal, match=hint) as caught:
        relay.decode_hop_connected(body(CASES[name]))
    assert caught.value.status == status


def test_a_request_in_place_of_an_answer_is_a_fault() -> None:
    with pytest.raises(RelayFault):
        relay.decode_hop_connected(relay.encode_reserve())
    with pytest.raises(RelayFault):
        relay.decode_stop_connect(relay.encode_stop_status(Status.OK))


def test_the_dial_order_follows_the_raw_ids() -> None:
    cases = load("dial_order.json")["cases"]
    assert len(cases) == 6
    for case in cases:
        assert relay.may_route_through_relays(decode_peer_id(case["self"]), decode_peer_id(case["remote"])) is case["self_dials"]


@given(st.binary(max_size=200))
def test_hostile_bytes_end_in_a_fault_or_a_value(data: bytes) -> None:
    for decode in (
        relay.decode_hop_connected,
        relay.decode_stop_connect,
        relay.decode_hole_punch,
        lambda data: relay.decode_reservation(data, relay_id=IDS[1], own_id=IDS[2], now_s=0.0),
    ):
        with contextlib.suppress(RelayFault):
            decode(data)


def test_an_oversized_message_is_refused_unread() -> None:
    with pytest.raises(RelayFault):
        relay.decode_hop_connected(bytes(4097))
