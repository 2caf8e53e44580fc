"""Peer ids, names, multiaddrs and framing against the vectors (specification 03-p2p, sections 1, 2 and 5.2) and hostile input."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.p2p.framing import (
    FramingFault,
    decode_uvarint,
    encode_delimited,
    encode_fixed64,
    encode_uvarint,
    take_delimited,
    take_fixed64,
)
from charon_actors.p2p.multiaddr import (
    MultiaddrFault,
    decode_multiaddr,
    decode_multiaddr_bytes,
    named_address,
    tcp_endpoint,
    tcp_multiaddr,
)
from charon_actors.p2p.peer_id import (
    PeerIdFault,
    _words,
    check_peer_id,
    decode_peer_id,
    peer_id_of,
    peer_id_text,
    peer_name,
    public_key_of,
)

VECTORS = Path(__file__).parents[2] / "vectors" / "p2p"
NODE_1 = "16Uiu2HAm3cuhhRL2msUuLF62KRSfneFDx94RsuouyW25Ho42cFMq"
NODE_2 = "16Uiu2HAm8kegYGp6XeybmZAuNcnLosyjsRwZ44yLgfEuqLqYL9zt"


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_bytes())


@pytest.mark.parametrize("case", load("peer_ids_and_names.json")["cases"], ids=lambda case: case["name"])
def test_keys_ids_and_names(case: dict[str, Any]) -> None:
    peer_id = bytes.fromhex(case["peer_id_bytes"])
    assert decode_peer_id(case["peer_id_base58"]) == peer_id
    assert peer_id_text(peer_id) == case["peer_id_base58"]
    assert peer_name(peer_id) == case["name"]
    if "pubkey_compressed" in case:
        assert peer_id_of(bytes.fromhex(case["pubkey_compressed"])) == peer_id
        assert public_key_of(peer_id).hex() == case["pubkey_compressed"]


def test_a_circuit_has_the_relays_transport_and_the_targets_id() -> None:
    circuit = decode_multiaddr(f"/ip4/127.0.0.1/tcp/80/p2p/{NODE_1}/p2p-circuit/p2p/{NODE_2}")
    assert circuit.transport == tcp_multiaddr("127.0.0.1", 80)
    assert circuit.peer_id == decode_peer_id(NODE_2)
    assert circuit.has_circuit


def test_word_tables_are_charons() -> None:
    table = load("peer_name_words.json")
    assert _words() == (tuple(table["adjectives"]), tuple(table["nouns"]))


def test_a_hashed_id_has_no_key() -> None:
    with pytest.raises(PeerIdFault):
        public_key_of(decode_peer_id("QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC"))


@pytest.mark.parametrize("case", load("named_addrs.json")["cases"], ids=lambda case: case["in"])
def test_named_addresses(case: dict[str, str]) -> None:
    assert named_address(case["in"]) == case["out"]


def test_an_unparsable_id_stays_in_the_log() -> None:
    assert named_address("/ip4/1.2.3.4/tcp/1/p2p/nobody") == "/ip4/1.2.3.4/tcp/1/p2p/nobody"


@pytest.mark.parametrize("case", load("multiaddrs.json")["cases"], ids=lambda case: case["text"])
def test_multiaddr_bytes(case: dict[str, str]) -> None:
    address = decode_multiaddr(case["text"])
    assert bytes(address).hex() == case["bytes"]
    assert decode_multiaddr_bytes(bytes.fromhex(case["bytes"])) == address
    assert str(address) == case["text"]


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("/ip4/127.0.0.1/tcp/3610", ("127.0.0.1", 3610)),
        ("/ip6/::1/tcp/3610", ("::1", 3610)),
        (f"/dns4/a.example/tcp/1/p2p/{NODE_1}", ("a.example", 1)),
        ("/ip4/127.0.0.1/tcp/80/ws", None),
        ("/ip4/127.0.0.1/udp/80/quic-v1", None),
        (f"/ip4/127.0.0.1/tcp/80/p2p/{NODE_1}/p2p-circuit", None),
        ("/ip4/127.0.0.1/tcp/1/tcp/2", None),
    ],
)
def test_tcp_endpoints(text: str, endpoint: tuple[str, int] | None) -> None:
    assert tcp_endpoint(decode_multiaddr(text)) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "ip4/1.2.3.4",
        "/ip4",
        "/ip4/1.2.3",
        "/tcp/65536",
        "/tcp/-1",
        "/tcp/+1",
        "/what/1",
        "/p2p/16Uiu2HAm3cuhh",
        "/dns//tcp/1",
        "/ip6/::1%eth0/tcp/1",
        "/unix",
        "/tcp/1" * 33,
        "/dns/" + "a" * 254,
        "/dns4/a..b/tcp/1",
        "/dns6/" + "a" * 64 + ".example/tcp/1",
        "/dnsaddr/.",
        "/dns/" + ".".join(["ß" * 30] * 5),
    ],
)
def test_bad_multiaddrs(text: str) -> None:
    with pytest.raises(MultiaddrFault):
        decode_multiaddr(text)


@pytest.mark.parametrize("name", ["relay_1", "node.example.", "xn--bcher-kva.example", "bücher.example", "_a.b-", "localhost"])
def test_names_that_a_resolver_may_know(name: str) -> None:
    assert tcp_endpoint(decode_multiaddr(f"/dns4/{name}/tcp/1")) == (name, 1)


@given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda tail: bytes.fromhex("a50327002508021221") + tail))
def test_hostile_multiaddr_bytes_fault_or_round_trip(data: bytes) -> None:
    try:
        address = decode_multiaddr_bytes(data)
    except MultiaddrFault:
        return
    assert bytes(address) == data
    assert bytes(decode_multiaddr(str(address))) == data


@given(st.text(max_size=60) | st.text(alphabet="/ip4tcpudns0123456789:.bzuk%", max_size=60).map(lambda text: f"/{text}"))
def test_hostile_multiaddr_text_faults_or_round_trips(text: str) -> None:
    try:
        address = decode_multiaddr(text)
    except MultiaddrFault:
        return
    assert decode_multiaddr_bytes(bytes(address)) == address == decode_multiaddr(str(address))


@given(st.text(max_size=140) | st.text(alphabet="Q1mzkbKB23456789abcdefghij", min_size=1, max_size=140))
def test_hostile_peer_id_text(text: str) -> None:
    try:
        peer_id = decode_peer_id(text)
    except PeerIdFault:
        return
    assert check_peer_id(peer_id) == peer_id


@given(st.binary(max_size=60))
def test_hostile_peer_id_bytes(data: bytes) -> None:
    try:
        assert check_peer_id(data) == data
        assert decode_peer_id(peer_id_text(data)) == data
    except PeerIdFault:
        pass


def test_length_prefixes() -> None:
    for case in load("framing.json")["varint_delimited"]:
        prefix = bytes.fromhex(case["prefix"])
        assert encode_uvarint(case["payload_len"]) == prefix
        assert decode_uvarint(prefix) == (case["payload_len"], len(prefix))
    for case in load("framing.json")["dkg_sync_fixed64_le"]:
        if case["payload_len"] < 1000:
            assert encode_fixed64(bytes(case["payload_len"]))[:8].hex() == case["prefix"]
        with pytest.raises(FramingFault, match="limit"):
            take_fixed64(bytearray.fromhex(case["prefix"]), case["payload_len"] - 1)
        assert take_fixed64(bytearray.fromhex(case["prefix"])) is None
    for size in load("framing.json")["dkg_sync_rejected_sizes"]:
        with pytest.raises(FramingFault):
            take_fixed64(bytearray(size.to_bytes(8, "little", signed=True)))


@pytest.mark.parametrize("data", ["8000", "ff" * 9, "80" * 9, "80808000"])
def test_bad_uvarints(data: str) -> None:
    with pytest.raises(FramingFault):
        decode_uvarint(bytes.fromhex(data))


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_messages_come_out_as_they_went_in_however_they_are_cut(bodies: list[bytes], data: st.DataObject) -> None:
    wire, buffer, seen = b"".join(map(encode_delimited, bodies)), bytearray(), []
    while wire:
        cut = data.draw(st.integers(1, len(wire)))
        buffer += wire[:cut]
        wire = wire[cut:]
        while (body := take_delimited(buffer, 300)) is not None:
            seen.append(body)
    assert seen == bodies
    assert not buffer


@given(st.binary(max_size=40), st.integers(0, 64))
def test_hostile_framing(data: bytes, limit: int) -> None:
    for take in (take_delimited, take_fixed64):
        buffer = bytearray(data)
        try:
            body = take(buffer, limit)
        except FramingFault:
            continue
        assert body is None or len(body) <= limit


def test_a_length_over_the_limit_is_refused_before_the_body() -> None:
    with pytest.raises(FramingFault):
        take_delimited(bytearray(encode_uvarint(2**40)), 128 * 2**20)
