"""EIP-3076's conditions one by one, and the interchange format."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.slashing import (
    Allowed,
    AttestationEntry,
    BlockEntry,
    Conflict,
    Entry,
    Interchange,
    InterchangeFault,
    Minimum,
    Reason,
    SlashableFault,
    check,
    decode_interchange,
    encode_interchange,
)
from tests.charon_actors.slashing.naive import ListHistory

KEY = bytes.fromhex("b82e" + 45 * "00" + "f7")


def block(slot: int, root: int | None = 1) -> BlockEntry:
    return BlockEntry(KEY, None if root is None else bytes([root]) * 32, slot)


def vote(source: int, target: int, root: int | None = 1) -> AttestationEntry:
    return AttestationEntry(KEY, None if root is None else bytes([root]) * 32, source, target)


SIGNED: list[Entry] = [block(10), block(20), vote(2, 3), vote(5, 10), vote(9, 11), vote(3, 12, None), block(30, None)]


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (block(21), Allowed.RECORD),
        (block(11), Allowed.RECORD),  # between two slots
        (block(20), Allowed.REPEAT),
        (block(20, 2), Reason.DOUBLE_BLOCK),
        (block(30, 2), Reason.DOUBLE_BLOCK),  # the recorded root is unknown
        (block(10, 2), Reason.DOUBLE_BLOCK),
        (block(9), Reason.BELOW_MINIMUM),
        (block(2**63), Reason.BAD_NUMBERS),
        (block(-1), Reason.BAD_NUMBERS),
        (vote(12, 13), Allowed.RECORD),
        (vote(11, 11, 2), Reason.DOUBLE_VOTE),
        (vote(2, 3), Allowed.REPEAT),
        (vote(5, 10), Reason.SURROUNDED),  # recorded, but so is 3 to 12: never again
        (vote(5, 10, 2), Reason.DOUBLE_VOTE),
        (vote(4, 10), Reason.DOUBLE_VOTE),  # same target and root, another source
        (vote(3, 12), Reason.DOUBLE_VOTE),  # the recorded root is unknown
        (vote(4, 13), Reason.SURROUNDS),
        (vote(8, 9), Reason.SURROUNDED),
        (vote(1, 2), Reason.BELOW_MINIMUM),
        (vote(2, 2), Reason.BELOW_MINIMUM),
        (vote(13, 12), Reason.BAD_NUMBERS),
        (vote(1, 2**63), Reason.BAD_NUMBERS),
        (vote(-1, 5), Reason.BAD_NUMBERS),
    ],
)
def test_each_condition(new: Entry, expected: Allowed | Reason) -> None:
    verdict = check(ListHistory(SIGNED), new)
    assert (verdict.kind if isinstance(verdict, Conflict) else verdict) == expected


def test_an_empty_history_allows_everything_sane() -> None:
    assert check(ListHistory([]), vote(0, 0)) is Allowed.RECORD
    assert check(ListHistory([]), block(0)) is Allowed.RECORD


def test_the_watermark_stands_above_a_repeat() -> None:
    assert check(ListHistory([vote(2, 3)]), vote(2, 3)) is Allowed.REPEAT
    assert isinstance(check(ListHistory([vote(2, 3)], Minimum(target_epoch=3)), vote(2, 3)), Conflict)
    assert isinstance(check(ListHistory([block(5)], Minimum(slot=5)), block(5)), Conflict)


@pytest.mark.parametrize(
    ("new", "is_allowed"),
    [
        (vote(4, 11), False),
        (vote(5, 10), False),
        (vote(5, 11), True),
        (block(7), False),
        (block(8), True),
    ],
)
def test_the_watermark_stands_for_what_is_not_kept(new: Entry, is_allowed: bool) -> None:
    verdict = check(ListHistory([], Minimum(slot=7, source_epoch=5, target_epoch=10)), new)
    assert (verdict is Allowed.RECORD) == is_allowed


def test_the_error_names_key_kind_and_both_entries() -> None:
    verdict = check(ListHistory(SIGNED), vote(4, 13, 7))
    assert isinstance(verdict, Conflict)
    text = str(SlashableFault(verdict))
    assert text == (
        "validator b82_0f7: surrounding vote: new attestation 4 to 13, root 07070707, existing attestation 5 to 10, root 01010101"
    )


def test_interchange_round_trip() -> None:
    interchange = Interchange(bytes(32), tuple(sorted(SIGNED, key=lambda entry: isinstance(entry, AttestationEntry))))
    data = encode_interchange(interchange)
    assert decode_interchange(data) == interchange
    assert json.loads(data)["data"][0]["signed_blocks"][-1] == {"slot": "30"}


EIP_EXAMPLE = {
    "metadata": {
        "interchange_format_version": "5",
        "genesis_validators_root": "0x04700007fabc8282644aed6d1c7c9e21d38a03a0c4ba193f3afe428824b3a673",
    },
    "data": [
        {
            "pubkey": "0xb845089a1457f811bfc000588fbb4e713669be8ce060ea6be3c6ece09afc3794106c91ca73acda5e5457122d58723bed",
            "signed_blocks": [
                {"slot": "81952", "signing_root": "0x4ff6f743a43f3b4f95350831aeaf0a122a1a392922c45d804280284a69eb850b"},
                {"slot": "81951"},
            ],
            "signed_attestations": [
                {
                    "source_epoch": "2290",
                    "target_epoch": "3007",
                    "signing_root": "0x587d6a4f59a58fe24f406e0502413e77fe1babddee641fda30034ed37ecc884d",
                },
                {"source_epoch": "2290", "target_epoch": "3008"},
            ],
        }
    ],
}


def test_the_example_of_the_eip() -> None:
    interchange = decode_interchange(json.dumps(EIP_EXAMPLE).encode())
    assert len(interchange.entries) == 4
    assert json.loads(encode_interchange(interchange)) == EIP_EXAMPLE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("5"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["metadata", "data", "pubkey", "signed_blocks", "slot"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200))
def test_hostile_files_are_interchange_faults(data: bytes) -> None:
    with pytest.raises(InterchangeFault):
        decode_interchange(data)


@given(st.data())
def test_a_damaged_file_is_a_fault_or_another_file(data: st.DataObject) -> None:
    text = bytearray(json.dumps(EIP_EXAMPLE).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InterchangeFault):
        decode_interchange(bytes(text))


def test_deep_nesting_is_a_fault() -> None:
    with pytest.raises(InterchangeFault):
        decode_interchange(b"[" * 100_000)
