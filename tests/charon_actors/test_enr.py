"""Node records: vectors in both profiles, what we write, and hostile bytes."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charon_actors.crypto import CryptoFault, k1_public_key, k1_sign_compact, keccak256
from charon_actors.enr import EnrFault, Record, consensus_keys, decode_enr, new_record

VECTORS = Path(__file__).parents[1] / "vectors"
GOLDEN = json.loads((VECTORS / "enr" / "golden_records.json").read_text())["records"]
CASES = json.loads((VECTORS / "enr" / "parser_cases.json").read_text())["cases"]
CHARON = json.loads((VECTORS / "cluster" / "k1-enr.json").read_text())["enr"]
PRIVATE = b"\x11" * 32
CREATED = new_record(PRIVATE).encode()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
@pytest.mark.parametrize(("strict", "column"), [(True, "expect_strict"), (False, "expect_charon_v1_10")])
def test_verdicts_of_both_profiles(case: dict[str, str], strict: bool, column: str) -> None:
    if case[column] == "ok":
        record = decode_enr(case["text"], strict=strict)
        assert record.encode() == case["text"].strip()  # never encoded anew
    else:
        with pytest.raises(EnrFault):
            decode_enr(case["text"], strict=strict)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden["origin"])
def test_golden_records_decode(golden: dict[str, Any]) -> None:
    record = decode_enr(golden["text"])
    assert record.seq == golden["seq"]
    assert {key.decode(): value.hex() for key, value in record.pairs.items()} == golden["keys"]
    assert record.signature.hex() == golden["signature"]
    assert record.node_id.hex() == golden["node_id"]
    assert record.public_key.hex() == golden["keys"]["secp256k1"]
    if "ip" in golden["keys"]:
        assert record.ip == ".".join(str(part) for part in bytes.fromhex(golden["keys"]["ip"]))
    for name in ("tcp", "udp"):
        assert getattr(record, name) == (int(golden["keys"][name], 16) if name in golden["keys"] else None)


@pytest.mark.parametrize("golden", [g for g in GOLDEN if g["private_key"]], ids=lambda golden: golden["origin"])
def test_golden_records_are_made_again_from_their_keys(golden: dict[str, Any]) -> None:
    parts = {name: int(golden["keys"][name], 16) for name in ("tcp", "udp") if name in golden["keys"]}
    ip = bytes.fromhex(golden["keys"]["ip"]) if "ip" in golden["keys"] else None
    record = new_record(bytes.fromhex(golden["private_key"]), golden["seq"], ip, **parts)
    assert record.encode() == golden["text"].rstrip("=")
    assert record == decode_enr(record.encode(), strict=True)


@pytest.mark.parametrize("case", CHARON)
def test_the_record_of_create_enr_is_charons(case: dict[str, str]) -> None:
    record = new_record(bytes.fromhex(case["private_key_file"]))
    assert record.encode() == case["enr"]
    assert (record.seq, set(record.pairs)) == (0, {b"id", b"secp256k1"})


@given(
    st.integers(1, 2**256 - 2**130),
    st.integers(0, 2**64 - 1),
    st.none() | st.ip_addresses(),
    st.none() | st.integers(1, 65535),
    st.none() | st.integers(1, 65535),
)
@settings(max_examples=60, deadline=None)
def test_what_we_write_is_read_in_both_profiles(private: int, seq: int, ip: Any, tcp: int | None, udp: int | None) -> None:
    record = new_record(private.to_bytes(32, "big"), seq, None if ip is None else str(ip), tcp, udp)
    for strict in (True, False):
        read = decode_enr(record.encode(), strict=strict)
        assert read == record
        assert dict(read.pairs) == dict(record.pairs)
    assert (record.ip, record.tcp, record.udp) == (None if ip is None else str(ip), tcp, udp)
    assert record.public_key == k1_public_key(private.to_bytes(32, "big"))


@pytest.mark.parametrize(
    "arguments",
    [{"ip": "example.org"}, {"ip": b"\1\2\3"}, {"ip": "1.2.3.4/8"}, {"tcp": 0}, {"udp": 65536}, {"seq": -1}, {"seq": 2**64}],
)
def test_records_that_cannot_be_written_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(EnrFault):
        new_record(PRIVATE, **arguments)
    with pytest.raises(CryptoFault):
        new_record(bytes(32))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("enr;abc", "missing 'enr:' prefix"),
        ("ENR:abc", "missing 'enr:' prefix"),
        ("enr:abc def", "invalid base64 encoding"),
        ("enr:", "invalid rlp encoding: input too short"),
        (CREATED[:60], "invalid rlp encoding: input too short"),
        ("enr:" + "A" * 1100, "invalid enr record, too long"),
    ],
)
def test_faults_have_charons_words(text: str, words: str) -> None:
    with pytest.raises(EnrFault) as fault:
        decode_enr(text)
    assert str(fault.value) == words


def test_white_space_and_padding_of_old_files_are_harmless_in_files_only() -> None:
    for text in (f" {CREATED}\n", f"{CREATED}\r\n", f"{CREATED}==", CREATED[:50] + "\r\n" + CREATED[50:]):
        assert decode_enr(text).public_key == k1_public_key(PRIVATE)
        with pytest.raises(EnrFault):
            decode_enr(text, strict=True)


class Encoded(bytes):
    """An element that stands in the record as it is."""


def forged(elements: list[bytes], signed: list[bytes] | None = None) -> str:
    """A record written with an RLP of the test's own (short items only), signed over `signed`."""

    def item(content: bytes) -> bytes:
        if isinstance(content, Encoded) or (len(content) == 1 and content[0] < 0x80):
            return content
        return (bytes([0x80 + len(content)]) if len(content) < 56 else b"\xb8" + bytes([len(content)])) + content

    def row(items: list[bytes]) -> bytes:
        body = b"".join(item(content) for content in items)
        return (bytes([0xC0 + len(body)]) if len(body) < 56 else b"\xf8" + bytes([len(body)])) + body

    signature = k1_sign_compact(PRIVATE, keccak256(row(signed or elements)))
    return "enr:" + base64.urlsafe_b64encode(row([signature, *elements])).rstrip(b"=").decode()


PUBLIC = k1_public_key(PRIVATE)
GOOD = [b"", b"id", b"v4", b"secp256k1", PUBLIC]


def test_the_forge_of_these_tests_makes_good_records() -> None:
    assert forged(GOOD) == CREATED


@pytest.mark.parametrize(
    ("elements", "signed"),
    [
        ([b"", b"id", b"v4", b"secp256k1", k1_public_key(b"\x12" * 32)], None),  # signed by somebody else
        ([b"\5", b"id", b"v4", b"secp256k1", PUBLIC], GOOD),  # seq changed after signing
        ([b"", b"id", b"v4", b"secp256k1", PUBLIC, b"tcp", b"\1"], GOOD),  # a port added after signing
        ([b"", b"id", b"v4", b"secp256k1", PUBLIC, b"secp256k1", PUBLIC], None),
        ([b"", b"id", b"v5", b"secp256k1", PUBLIC], None),
        ([b"", b"id", b"v4", b"secp256k1", PUBLIC[:-1]], None),
        ([b"", b"id", b"v4", b"secp256k1", b"\2" + b"\xff" * 32], None),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_forgeries_are_refused(elements: list[bytes], signed: list[bytes] | None, strict: bool) -> None:
    with pytest.raises(EnrFault):
        decode_enr(forged(elements, signed), strict=strict)


def test_unusable_addresses_of_files_are_none() -> None:
    record = decode_enr(forged([b"", b"id", b"v4", b"ip", b"\1\2\3", b"secp256k1", PUBLIC, b"tcp", b"\0\1", b"udp", b"\1\1\1"]))
    assert (record.ip, record.tcp, record.udp) == (None, None, None)


def test_a_record_is_a_value() -> None:
    record = decode_enr(CREATED)
    assert record == decode_enr(CREATED)
    assert len({record, decode_enr(CREATED)}) == 1
    with pytest.raises(TypeError):
        record.pairs[b"ip"] = b"\1\2\3\4"  # type: ignore[index]


LIST = Encoded(b"\xc6\x84\xfc\x64\xec\x04\x80")  # as execution clients have in `eth`: [[fork hash, next]], one level less


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ([b"", b"eth", LIST, b"id", b"v4", b"secp256k1", PUBLIC], "invalid enr record, the value of b'eth' is a list, which"),
        ([Encoded(b"\x81\x05"), *GOOD[1:]], "invalid enr record, signed in an encoding that is not canonical"),
    ],
)  # fmt: skip
def test_a_record_that_is_refused_for_its_form_has_no_invalid_signature(elements: list[bytes], words: str) -> None:
    """Its operator would look for a character that was changed, and there is none."""
    with pytest.raises(EnrFault) as fault:
        decode_enr(forged(elements))
    assert str(fault.value).startswith(words)
    with pytest.raises(EnrFault, match=r"^invalid enr signature$"):  # signed by nobody: the form isn't all that is wrong
        decode_enr(forged(elements, signed=[b"\7", *elements[1:]]))


CONSENSUS = [b"\x05", b"attnets", bytes(8), b"eth2", bytes(16), b"id", b"v4", b"secp256k1", PUBLIC, b"syncnets", b"\0"]


def test_a_record_of_a_consensus_client_is_told_from_an_operators() -> None:
    assert consensus_keys(decode_enr(forged(CONSENSUS))) == "eth2, attnets, syncnets"
    assert consensus_keys(decode_enr(CREATED)) == ""
    assert consensus_keys(new_record(PRIVATE, 7, "192.0.2.1", 3610, 3630)) == ""


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("7f" * 32, "it is 64 hex digits, as a private key has (nobody else may see one)"),
        ("\ufeff" + CREATED, "it starts with a byte order mark (save it as UTF-8 without a byte order mark)"),
        ("enode://" + "7f" * 64 + "@192.0.2.1:30303", "it is an execution client's enode (give the right file)"),
        ('{"crypto": {}}', "it is a keystore"),
    ],
)
def test_what_is_no_record_is_said_to_be_what_it_is(text: str, what: str) -> None:
    with pytest.raises(EnrFault) as fault:
        decode_enr(text)
    assert str(fault.value) == f"missing 'enr:' prefix: {what}"
    with pytest.raises(EnrFault, match=r"^missing 'enr:' prefix$"):  # what the network says is nobody's mistake
        decode_enr(text, strict=True)


@given(
    st.text(max_size=200) | st.binary(max_size=320).map(lambda raw: "enr:" + base64.urlsafe_b64encode(raw).decode().rstrip("="))
)
@example("enr:" + "-" * 1000)
@example("enr:" + base64.urlsafe_b64encode(b"\xff" * 300).decode())
@example("enr:" + base64.urlsafe_b64encode(b"\xc1" * 300).decode())
@settings(max_examples=400, deadline=None)
def test_noise_ends_in_an_enr_fault(text: str) -> None:
    for strict in (True, False):
        with pytest.raises(EnrFault):
            decode_enr(text, strict=strict)


@given(st.integers(0, 118), st.integers(1, 255), st.booleans())
@settings(max_examples=200, deadline=None)
def test_no_changed_byte_passes_the_network_profile(place: int, change: int, strict: bool) -> None:
    raw = bytearray(base64.urlsafe_b64decode(CREATED[4:] + "="))
    raw[place] ^= change
    text = "enr:" + base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("=")
    try:
        record: Record | None = decode_enr(text, strict=strict)
    except EnrFault:
        record = None
    if strict:
        assert record is None
    elif record is not None:  # files: only the claimed length of things may have been written differently
        assert record.public_key == PUBLIC
        assert record.seq == 0


@pytest.mark.parametrize("other", [None, 5, b"enr:", ["enr:"]])
def test_other_types_are_faults(other: object) -> None:
    with pytest.raises(EnrFault):
        decode_enr(other)  # type: ignore[arg-type]


def test_lengths_of_the_network_have_no_leading_zero() -> None:
    raw = base64.urlsafe_b64decode(CREATED[4:] + "=")
    assert raw[:2] == b"\xf8\x75"
    text = "enr:" + base64.urlsafe_b64encode(b"\xf9\0\x75" + raw[2:]).decode().rstrip("=")
    assert decode_enr(text).public_key == PUBLIC
    with pytest.raises(EnrFault):
        decode_enr(text, strict=True)


def nested_list(depth: int, innermost: bytes = b"") -> Encoded:
    content = innermost
    for _ in range(depth):
        content = bytes([0xC0 + len(content)]) + content
    return Encoded(content)


def test_lists_as_values_are_kept_from_the_network_and_refused_in_files() -> None:
    value = nested_list(40)
    text = forged([b"", b"eth", value, b"id", b"v4", b"secp256k1", PUBLIC])
    assert decode_enr(text, strict=True).pairs[b"eth"] == value
    with pytest.raises(EnrFault):
        decode_enr(text)


@pytest.mark.parametrize("innermost", [b"\x81\x01", b"\xb8\x01\xff", b"\x85a", b"\xf8\x00"])
def test_lists_of_the_network_are_canonical_inside_too(innermost: bytes) -> None:
    with pytest.raises(EnrFault, match="invalid rlp encoding"):
        decode_enr(forged([b"", b"eth", nested_list(5, innermost), b"id", b"v4", b"secp256k1", PUBLIC]), strict=True)
