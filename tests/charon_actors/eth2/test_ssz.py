"""The codec against hostile bytes, against itself, and against remerkleable."""

import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from remerkleable.basic import uint64, uint256
from remerkleable.bitfields import Bitlist as OracleBitlist
from remerkleable.bitfields import Bitvector as OracleBitvector
from remerkleable.byte_arrays import ByteList as OracleByteList
from remerkleable.byte_arrays import ByteVector as OracleByteVector
from remerkleable.complex import Container as OracleContainer
from remerkleable.complex import List as OracleList
from remerkleable.complex import Vector as OracleVector

from charon_actors.eth2 import containers as c
from charon_actors.eth2.duty import DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signed_data import EncodingFault, VersionedAttestation, decode_signed_data
from charon_actors.eth2.ssz import (
    BYTES32,
    UINT64,
    UINT256,
    Bitlist,
    Bitvector,
    ByteList,
    ByteVector,
    Container,
    List,
    SszFault,
    SszType,
    Vector,
)
from charon_actors.eth2.unsigned_data import decode_unsigned
from tests.charon_actors.eth2.vectors import load, raw, unhex


class OracleInner(OracleContainer):  # type: ignore[misc]
    number: uint64
    big: uint256
    text: OracleByteList[40]


class OracleOuter(OracleContainer):  # type: ignore[misc]
    root: OracleByteVector[48]
    bits: OracleBitlist[300]
    flags: OracleBitvector[12]
    inners: OracleList[OracleInner, 5]
    numbers: OracleList[uint64, 100]
    texts: OracleList[OracleByteList[2**20], 2**10]
    proof: OracleVector[OracleByteVector[32], 3]


INNER = Container("Inner", {"number": UINT64, "big": UINT256, "text": ByteList(40)})
OUTER = Container(
    "Outer",
    {
        "root": ByteVector(48),
        "bits": Bitlist(300),
        "flags": Bitvector(12),
        "inners": List(INNER, 5),
        "numbers": List(UINT64, 100),
        "texts": List(ByteList(2**20), 2**10),
        "proof": Vector(BYTES32, 3),
    },
)


@st.composite
def bitlists(draw: st.DrawFn) -> bytes:
    bits = draw(st.lists(st.booleans(), max_size=300))
    number = sum(1 << i for i, bit in enumerate(bits) if bit) | 1 << len(bits)
    return number.to_bytes(len(bits) // 8 + 1, "little")


INNERS = st.fixed_dictionaries(
    {"number": st.integers(0, 2**64 - 1), "big": st.integers(0, 2**256 - 1), "text": st.binary(max_size=40)}
)
OUTERS = st.fixed_dictionaries(
    {
        "root": st.binary(min_size=48, max_size=48),
        "bits": bitlists(),
        "flags": st.integers(0, 2**12 - 1).map(lambda n: n.to_bytes(2, "little")),
        "inners": st.lists(INNERS, max_size=5),
        "numbers": st.lists(st.integers(0, 2**64 - 1), max_size=100),
        "texts": st.lists(st.binary(max_size=100), max_size=8),
        "proof": st.lists(st.binary(min_size=32, max_size=32), min_size=3, max_size=3),
    }
)


@given(OUTERS)
def test_like_remerkleable(value: dict[str, Any]) -> None:
    data = OUTER.encode(value)
    oracle = OracleOuter.decode_bytes(data)
    assert oracle.encode_bytes() == data
    assert bytes(oracle.hash_tree_root()) == OUTER.hash_tree_root(value)
    assert OUTER.decode(data) == value
    assert OUTER.from_json(json.loads(json.dumps(OUTER.to_json(value)))) == value


@given(OUTERS, st.data())
def test_what_is_accepted_is_canonical_and_remerkleable_agrees(value: dict[str, Any], draw: st.DataObject) -> None:
    data = bytearray(OUTER.encode(value))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, min(len(data) - 1, 90)))] = draw.draw(st.integers(0, 255))
    mutated = bytes(data[: draw.draw(st.sampled_from([len(data), len(data) - 1, len(data) // 2]))])
    mutated += draw.draw(st.sampled_from([b"", b"\0"]))
    try:
        OUTER.check(memoryview(mutated))
        is_good = True
    except SszFault:
        is_good = False
    try:
        decoded = OUTER.decode(mutated)
    except SszFault:
        assert not is_good
        return
    assert is_good
    assert OUTER.encode(decoded) == mutated
    assert bytes(OracleOuter.decode_bytes(mutated).hash_tree_root()) == OUTER.hash_tree_root(decoded)


@pytest.mark.parametrize(
    ("schema", "data"),
    [
        (Bitlist(8), ""),
        (Bitlist(8), "00"),
        (Bitlist(8), "0100"),
        (Bitlist(8), "0002"),
        (Bitvector(12), "0010"),
        (Bitvector(12), "00"),
        (UINT64, "00"),
        (UINT64, 9 * "00"),
        (List(UINT64, 2), 12 * "00"),
        (List(UINT64, 2), 24 * "00"),
        (Vector(BYTES32, 2), 32 * "00"),
        (ByteList(3), "00000000"),
        (List(ByteList(9), 3), "00000000"),
        (List(ByteList(9), 3), "03000000"),
        (List(ByteList(9), 3), "08000000"),
        (List(ByteList(9), 3), "060000000600"),
        (List(ByteList(9), 3), "0800000009000000"),
        (List(ByteList(9), 3), "0800000007000000"),
        (List(ByteList(9), 3), "10000000" * 4),
        (INNER, 40 * "00" + "2b000000"),
        (INNER, 40 * "00" + "2d000000" + "00"),
        (INNER, 40 * "00"),
        (c.CHECKPOINT, 41 * "00"),
    ],
)
def test_bytes_that_are_no_value(schema: SszType, data: str) -> None:
    with pytest.raises(SszFault):
        schema.decode(bytes.fromhex(data))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (UINT64, 1),
        (UINT64, "-1"),
        (UINT64, "1.0"),
        (UINT64, "٣"),
        (UINT64, str(2**64)),
        (UINT256, 79 * "1"),
        (UINT64, 5000 * "1"),
        (BYTES32, 64 * "0"),
        (BYTES32, "0x" + 63 * "0"),
        (BYTES32, "0x" + 62 * "0" + " 00"),
        (BYTES32, "0X" + 64 * "0"),
        (BYTES32, None),
        (Bitlist(8), "0x00"),
        (List(UINT64, 1), ["1", "1"]),
        (List(UINT64, 1), {"0": "1"}),
        (c.CHECKPOINT, []),
        (c.CHECKPOINT, {"epoch": "1"}),
    ],
)
def test_json_that_is_no_value(schema: SszType, value: object) -> None:
    with pytest.raises(SszFault):
        schema.from_json(value)


def test_values_that_have_no_encoding() -> None:
    with pytest.raises(SszFault):
        UINT64.encode(2**64)
    with pytest.raises(SszFault):
        UINT64.encode(-1)
    with pytest.raises(SszFault):
        c.CHECKPOINT.encode({"epoch": 1, "root": bytes(31)})
    with pytest.raises(SszFault):
        List(UINT64, 1).encode([1, 2])


def test_a_fault_says_where() -> None:
    with pytest.raises(SszFault, match=r"^AttestationData\.target: Checkpoint\.epoch: not a decimal"):
        c.ATTESTATION_DATA.from_json(
            {
                "slot": "1",
                "index": "1",
                "beacon_block_root": "0x" + 64 * "0",
                "source": {"epoch": "1", "root": "0x" + 64 * "0"},
                "target": {"epoch": 1, "root": ""},
            }
        )


BLOCKS = [
    (c.beacon_block(Fork.FULU), raw("eth2/fulu_beacon_block.ssz")),
    (c.blinded_beacon_block(Fork.DENEB), raw("eth2/deneb_blinded_beacon_block.ssz")),
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(BLOCKS), st.data())
def test_damaged_blocks_are_refused_or_canonical(case: tuple[Container, bytes], draw: st.DataObject) -> None:
    schema, block = case
    data = bytearray(block)
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.sampled_from([0, 1, 4, 100, 128, 255]))
    cut = draw.draw(st.sampled_from([len(data)] * 3 + [len(data) - 1, len(data) // 2, 3, 0]))
    mutated = bytes(data[:cut]) + draw.draw(st.sampled_from([b"", b"\1"]))
    try:
        value = schema.decode(mutated)
    except SszFault:
        return
    assert schema.encode(value) == mutated
    schema.hash_tree_root(value)


ENTRIES = [unhex(entry["wire_hex"]) for entry in load("core/core_encodings_by_fork.json")["entries"]]
DECODERS = [*((decode_signed_data, kind) for kind in DutyType), *((decode_unsigned, kind) for kind in DutyType)]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(DECODERS), st.sampled_from(ENTRIES), st.data())
def test_damaged_messages_are_refused_or_canonical(decoder: Any, wire: bytes, draw: st.DataObject) -> None:
    decode, duty_type = decoder
    data = bytearray(wire)
    for _ in range(draw.draw(st.integers(0, 3))):
        data[draw.draw(st.integers(0, min(len(data) - 1, 400)))] = draw.draw(st.integers(0, 255))
    mutated = bytes(data[: draw.draw(st.sampled_from([len(data), len(data) - 1, 20, 1, 0]))])
    try:
        value = decode(duty_type, mutated)
    except EncodingFault:
        return
    assert decode(duty_type, value.encode()) == value
    repr(value)
    if hasattr(value, "object_root") and duty_type is not DutyType.SIGNATURE:
        assert len(value.object_root()) == 32
    if isinstance(value, VersionedAttestation):
        value.attestation.committee_index  # noqa: B018 – must not raise


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["1", "0x", "0x" + 192 * "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["version", "validator_index", "attestation", "block", "blinded", "message", "signature", "epoch", "slot", "data"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(DECODERS), JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=300))
def test_hostile_messages_are_encoding_faults(decoder: Any, data: bytes) -> None:
    decode, duty_type = decoder
    try:
        value = decode(duty_type, data)
    except EncodingFault:
        return
    assert decode(duty_type, value.encode()) == value


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_json_is_an_encoding_fault(opening: bytes) -> None:
    for decode, duty_type in DECODERS:
        with pytest.raises(EncodingFault):
            decode(duty_type, opening * 200_000)


@given(JSON)
def test_hostile_submissions_are_encoding_faults(value: object) -> None:
    for fork in (Fork.DENEB, Fork.FULU):
        with pytest.raises(EncodingFault):
            VersionedAttestation.from_single_attestation_json(fork, value)
    with pytest.raises(EncodingFault):
        c.signed_proposal_type(Fork.FULU, False).from_json(value)


@pytest.mark.parametrize("starts", [(12, 20, 14), (12, 30, 30), (16, 16, 16), (12, 12, 11), (12, 13, 24)])
def test_a_check_refuses_the_offsets_that_decoding_refuses(starts: tuple[int, ...]) -> None:
    texts = List(ByteList(10), 5)
    data = struct.pack("<3I", *starts) + bytes(12)
    for read in (texts.decode, lambda content: texts.check(memoryview(content))):
        with pytest.raises(SszFault):
            read(data)
    good = texts.encode([b"", b"12", b"0123456789"])
    texts.check(memoryview(good))
