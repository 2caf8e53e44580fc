"""Identify: parts, limits, signed records, and which addresses are kept (03 §2.4, §11.5)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.p2p.identify import (
    MAX_KEPT_ADDRESSES,
    SPLIT_ABOVE_BYTES,
    IdentifyFault,
    decode_identify,
    encode_identify,
    kept_addresses,
    told_addresses,
)
from charon_actors.p2p.multiaddr import Multiaddr, decode_multiaddr
from charon_actors.p2p.protobuf import libp2p_pb2 as wire
from tests.charon_actors.p2p.test_envelope import IDS, KEYS

LOOP, LAN, WAN, NAME = (
    decode_multiaddr(text)
    for text in ("/ip4/127.0.0.1/tcp/3610", "/ip4/192.168.1.2/tcp/3610", "/ip4/1.2.3.4/tcp/3610", "/dns/node.example/tcp/3610")
)
CIRCUIT = LAN.with_peer(IDS[2]) + decode_multiaddr("/p2p-circuit")
PROTOCOLS = ("/ipfs/ping/1.0.0", "/charon/parsigex/2.0.0", "charon/priority/2.0.0")


def encode(listen: list[Multiaddr]) -> list[bytes]:
    return encode_identify(
        KEYS[1], IDS[1], listen=listen, protocols=PROTOCOLS, observed=WAN, agent="obolnetwork-charon/v1.10.3", sequence=7
    )


def test_what_we_write_reads_back_with_sorted_protocols_and_a_signed_record() -> None:
    said = decode_identify(encode([LAN, WAN]), IDS[1])
    assert said.listen == (LAN, WAN)
    assert said.protocols == ("/charon/parsigex/2.0.0", "/ipfs/ping/1.0.0", "charon/priority/2.0.0")
    assert (said.observed, said.agent, said.protocol_version, said.has_signed_record) == (
        WAN,
        "obolnetwork-charon/v1.10.3",
        "",
        True,
    )


def test_the_protocol_version_is_written_although_empty() -> None:
    message = wire.Identify.FromString(encode([])[0])
    assert message.HasField("protocol_version")
    assert message.protocol_version == ""


def test_a_long_message_puts_its_record_into_a_second_part() -> None:
    many = [decode_multiaddr(f"/ip4/10.0.{n // 200}.{n % 200}/tcp/{3610 + n}") for n in range(600)]
    parts = encode(many)
    assert len(parts) == 2
    assert len(parts[0]) <= 4096, "old readers stop there"
    assert len(encode([LAN])) == 1
    assert sum(map(len, parts)) > SPLIT_ABOVE_BYTES
    assert set(decode_identify(parts, IDS[1]).listen) <= set(many)


def test_the_record_wins_over_the_list_and_a_forged_one_is_ignored() -> None:
    good = wire.Identify.FromString(encode([WAN])[0])
    listed = wire.Identify(listen_addrs=[bytes(LAN)], signed_peer_record=good.signed_peer_record)
    assert decode_identify([listed.SerializeToString()], IDS[1]).listen == (WAN,)
    said = decode_identify([listed.SerializeToString()], IDS[2])
    assert (said.listen, said.has_signed_record) == ((LAN,), False), "a record of somebody else counts for nothing"


def test_another_key_than_the_handshakes_is_refused() -> None:
    with pytest.raises(IdentifyFault):
        decode_identify(encode([LAN]), IDS[2])


@pytest.mark.parametrize("parts", [[], [b""] * 11, [bytes(8193)], [b"\xff"]])
def test_too_many_too_large_or_no_message(parts: list[bytes]) -> None:
    with pytest.raises(IdentifyFault):
        decode_identify(parts, IDS[1])


def test_an_address_that_is_none_is_skipped() -> None:
    said = decode_identify([bytes.fromhex("0a25") + IDS[1][2:] + bytes.fromhex("120400000000") + b"\x1a\x02/x"], IDS[1])
    assert (said.listen, said.protocols) == ((), ("/x",))


@pytest.mark.parametrize(
    ("seen_at", "kept"),
    [(LOOP, {LOOP, LAN, WAN, NAME}), (LAN, {LAN, WAN, NAME}), (WAN, {WAN, NAME}), (CIRCUIT, {LAN, WAN, NAME})],
)
def test_which_addresses_are_kept(seen_at: Multiaddr, kept: set[Multiaddr]) -> None:
    assert set(kept_addresses([LOOP, LAN, WAN, NAME, CIRCUIT], seen_at)) == kept


def test_no_more_than_twenty_are_kept() -> None:
    many = [decode_multiaddr(f"/ip4/1.1.1.1/tcp/{port}") for port in range(1, 100)]
    assert len(kept_addresses(many, LAN)) == MAX_KEPT_ADDRESSES == 20


def test_loopback_addresses_are_told_to_loopback_peers_only() -> None:
    assert told_addresses([LOOP, LAN], LOOP) == (LOOP, LAN)
    assert told_addresses([LOOP, LAN], LAN) == (LAN,)


NO_UTF8 = [bytes.fromhex(part) for part in ("1a02fffe", "3202fffe", "2a02fffe")]  # protocols, agent_version, protocol_version


@pytest.mark.parametrize("part", NO_UTF8)
def test_a_text_that_is_no_utf8_counts_as_not_sent(part: bytes) -> None:
    said = decode_identify([encode([LAN])[0], part], IDS[1])
    assert said.listen == (LAN,), "the rest counts"
    assert set(said.protocols) == set(PROTOCOLS)
    assert (said.agent, said.protocol_version) == ("" if part[0] == 0x32 else "obolnetwork-charon/v1.10.3", "")


def test_an_address_with_a_name_that_dns_cannot_be_asked_for_is_skipped() -> None:
    bad = bytes.fromhex("3604") + b"a..b" + bytes.fromhex("060001")
    message = wire.Identify(listen_addrs=[bad, bytes(WAN)]).SerializeToString()
    assert decode_identify([message], IDS[1]).listen == (WAN,)


FIELDS = st.tuples(st.sampled_from(range(0x0A, 0x43, 8)), st.binary(max_size=40)).map(
    lambda field: bytes([field[0], len(field[1])]) + field[1]
)


@given(st.lists(st.binary(max_size=200) | st.lists(FIELDS, max_size=5).map(b"".join), max_size=4))
def test_hostile_bytes_end_in_a_fault_or_a_bounded_value(parts: list[bytes]) -> None:
    try:
        said = decode_identify(parts, IDS[1])
    except IdentifyFault:
        return
    assert said.agent.isprintable()
    assert said.protocol_version.isprintable()
    assert all(name.isprintable() for name in said.protocols)
