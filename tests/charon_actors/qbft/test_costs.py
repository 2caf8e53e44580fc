"""What a message may cost: nothing dear before it is signed and named, each value hashed once, in steps. Source: specification 06 §5."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as ProtobufAny
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.crypto import k1_public_key
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.p2p.protobuf.core_pb2 import QBFTConsensusMsg, UnsignedDataSet
from charon_actors.qbft.machine import Broadcast, MessageType
from charon_actors.qbft.merkle import STEP_BYTES, Hashing, hash_bytes
from charon_actors.qbft.messages import (
    BLOCK_BYTES,
    LEAST_VALUE_COST,
    SIGNATURE_COST,
    SPARE_VALIDATORS,
    UNSIGNED_DATA_SET,
    MessageFault,
    ReceivedMessage,
    Steps,
    Value,
    Verifier,
    encode_message,
    encode_value,
    largest_value,
    sign_message,
)
from tests.charon_actors.qbft.test_messages_vectors import HASHES

PRIVATE_KEYS = [bytes([i + 1]) * 32 for i in range(4)]
PUBLIC_KEYS = [k1_public_key(key) for key in PRIVATE_KEYS]
ATTESTER, PROPOSER = Duty(100, DutyType.ATTESTER), Duty(100, DutyType.PROPOSER)
KEY = "0x" + "ab" * 48
VALIDATORS = 10
KIB = 2**10


def value_of(content: bytes) -> tuple[bytes, Value]:
    return encode_value({KEY: content})


def prepare(
    named: bytes, values: Sequence[Value], duty: Duty = ATTESTER, source: int = 1, signer: int | None = None, round_: int = 1
) -> bytes:
    """A PREPARE that brings any values at all."""
    key = PRIVATE_KEYS[source if signer is None else signer]
    message = sign_message(key, duty, source, Broadcast(MessageType.PREPARE, round_, named))
    wire = QBFTConsensusMsg.FromString(encode_message(message, {named: Value(UNSIGNED_DATA_SET, b"")}))
    del wire.values[:]
    wire.values.extend(ProtobufAny(type_url="type.googleapis.com/" + value.kind, value=value.content) for value in values)
    return wire.SerializeToString()


def cost_of(steps: Steps[Any]) -> tuple[list[int], object]:
    """What the steps said they would cost, zeros left out, and how it ended."""
    costs: list[int] = []
    while True:
        try:
            costs.append(next(steps))
        except StopIteration as end:
            return [cost for cost in costs if cost], end.value
        except MessageFault as fault:
            return [cost for cost in costs if cost], str(fault)


def verifier() -> Verifier:
    return Verifier(PUBLIC_KEYS, VALIDATORS)


# the hash


def by_definition(content: bytes) -> bytes:
    """06 §4.1 word by word: chunks, zero chunks up to a power of two, pairs."""
    chunks = [content[at : at + 32].ljust(32, b"\0") for at in range(0, len(content), 32)] or [bytes(32)]
    while len(chunks) & (len(chunks) - 1):
        chunks.append(bytes(32))
    while len(chunks) > 1:
        chunks = [sha256(left + right).digest() for left, right in zip(chunks[::2], chunks[1::2], strict=True)]
    return chunks[0]


def in_steps(content: bytes) -> tuple[bytes, int]:
    hashing, steps = Hashing(content), 0
    while hashing.root is None:
        hashing.step()
        steps += 1
    root = hashing.root
    hashing.step()
    assert hashing.root == root
    return root, steps


@pytest.mark.parametrize("row", HASHES["hash_proto"], ids=lambda row: row["name"])
def test_hashing_in_steps_gives_the_hash_of_the_vectors(row: dict[str, str]) -> None:
    assert in_steps(bytes.fromhex(row["deterministic_bytes"]))[0].hex() == row["hash"]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("more", [-STEP_BYTES + 1, -33, -32, -1, 0])
def test_a_step_hashes_a_bounded_part(steps: int, more: int) -> None:
    content = bytes(at * at % 251 for at in range(steps * STEP_BYTES + more))
    assert in_steps(content) == (by_definition(content), steps)
    assert hash_bytes(content) == by_definition(content)


@given(st.integers(0, 3 * STEP_BYTES), st.integers(0, 255))
def test_any_length_hashes_as_defined(length: int, byte: int) -> None:
    content = bytes([byte]) * length
    assert in_steps(content)[0] == hash_bytes(content) == by_definition(content)


# what is done before a value is hashed


def test_an_honest_message_costs_its_signature_and_its_value() -> None:
    named, value = value_of(bytes(40 * KIB))
    costs, received = cost_of(verifier().decoding(prepare(named, [value])))
    assert costs == [SIGNATURE_COST, len(value.content)]
    assert isinstance(received, ReceivedMessage)
    assert received.values == {named: value}


def test_no_value_is_touched_before_the_message_is_known_to_be_a_members_and_welcome() -> None:
    named, value = value_of(bytes(40 * KIB))
    assert cost_of(verifier().decoding(prepare(named, [value], signer=2))) == ([SIGNATURE_COST], "signature is not the peer's")
    assert cost_of(verifier().decoding(prepare(named, [value]), lambda _: "duty is over")) == ([SIGNATURE_COST], "duty is over")


def test_no_value_is_touched_before_the_justifications_are_known_to_be_members() -> None:
    named, value = value_of(bytes(40 * KIB))
    commits = [sign_message(PRIVATE_KEYS[i], ATTESTER, i, Broadcast(MessageType.COMMIT, 1, named)) for i in range(3)]
    forged = sign_message(PRIVATE_KEYS[2], ATTESTER, 3, Broadcast(MessageType.COMMIT, 1, named))
    claim = Broadcast(MessageType.DECIDED, 1, named, justification=(*commits[:2], forged))
    content = encode_message(sign_message(PRIVATE_KEYS[0], ATTESTER, 0, claim), {named: value})
    assert cost_of(verifier().decoding(content)) == ([SIGNATURE_COST] * 4, "signature is not the peer's")


@pytest.mark.parametrize("surplus", [b"unnamed", b"named"])
def test_what_comes_after_the_last_named_value_is_not_hashed(surplus: bytes) -> None:
    named, value = value_of(b"named")
    costs, received = cost_of(verifier().decoding(prepare(named, [value, value_of(surplus)[1]])))
    assert costs == [SIGNATURE_COST, LEAST_VALUE_COST]
    assert isinstance(received, ReceivedMessage)
    assert received.values == {named: value}


def test_more_values_than_the_message_could_name_are_refused_unhashed() -> None:
    named, value = value_of(b"named")
    assert cost_of(verifier().decoding(prepare(named, [value] * 3))) == ([SIGNATURE_COST], "too many values")


def test_fewer_values_than_are_named_are_refused_unhashed() -> None:
    assert cost_of(verifier().decoding(prepare(value_of(b"x")[0], []))) == (
        [SIGNATURE_COST],
        "value hash is not among the values",
    )


def test_hashing_ends_when_there_are_too_few_values_left() -> None:
    """Two hashes are named, two values come, the first of them another one: only that is hashed."""
    first, second = value_of(b"first"), value_of(b"second")
    commit = sign_message(PRIVATE_KEYS[2], ATTESTER, 2, Broadcast(MessageType.COMMIT, 1, second[0]))
    claim = sign_message(PRIVATE_KEYS[1], ATTESTER, 1, Broadcast(MessageType.DECIDED, 1, first[0], justification=(commit,)))
    for brought, hashed in (([b"third", b"first"], 1), ([b"first", b"first"], 1), ([b"first", b"second"], 2)):
        values = [value_of(text)[1] for text in brought]
        wire = QBFTConsensusMsg.FromString(encode_message(claim, dict((first, second))))
        for entry, value in zip(wire.values, values, strict=True):
            entry.value = value.content
        costs, end = cost_of(verifier().decoding(wire.SerializeToString()))
        assert costs == [SIGNATURE_COST] * 2 + [LEAST_VALUE_COST] * hashed
        assert isinstance(end, ReceivedMessage) == (hashed == 2)


# sizes


@pytest.mark.parametrize(
    ("duty_type", "validators", "most_bytes"),
    [
        (DutyType.ATTESTER, 1, 65 * KIB),
        (DutyType.ATTESTER, 1000, 1064 * KIB),
        (DutyType.AGGREGATOR, 100, 464 * KIB),
        (DutyType.SYNC_CONTRIBUTION, 100, 464 * KIB),
        (DutyType.PROPOSER, 1, BLOCK_BYTES),
        (DutyType.AGGREGATOR, 65536, BLOCK_BYTES),
        (DutyType.INFO_SYNC, 1000, 1024 * KIB),
    ],
)
def test_values_are_limited_by_what_the_duty_can_need(duty_type: DutyType, validators: int, most_bytes: int) -> None:
    assert largest_value(duty_type, validators) == most_bytes
    for size, is_too_long in ((most_bytes - 256, False), (most_bytes + 1, True)):
        content = prepare(bytes([1]) * 32, [Value(UNSIGNED_DATA_SET, bytes(size))], Duty(100, duty_type))
        with pytest.raises(MessageFault) as fault:
            Verifier(PUBLIC_KEYS, validators).decode(content)
        assert (str(fault.value) == "value is too long for its duty") == is_too_long


def test_the_worst_ordinary_values_are_within_the_limits() -> None:
    """A validator each: attestation data (232 bytes), an aggregate of a full committee, four contributions as JSON."""
    for duty_type, size in ((DutyType.ATTESTER, 232), (DutyType.AGGREGATOR, 12 + 236 + 257), (DutyType.SYNC_CONTRIBUTION, 2500)):
        for validators in (1, 100, 1000):
            data = {f"0x{number:096x}": bytes(size) for number in range(validators)}
            named, value = encode_value(data)
            assert Verifier(PUBLIC_KEYS, validators).decode(prepare(named, [value], Duty(100, duty_type))).values == {
                named: value
            }


def varint(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(content)) + content


@pytest.mark.parametrize(
    "value",
    [
        field(1, b"\x50\x00" * 10_000),  # an entry of unknown fields
        field(1, field(1, KEY.encode()) + b"\x12\x00" * 10_000),  # an entry with its value again and again
        b"\x0a\x00" * (VALIDATORS + SPARE_VALIDATORS + 1),  # more entries than validators
        b"\x50\x00" * 10_000,
        b"\x00\x00",  # field 0, which protobuf does not have
    ],
)
def test_costly_values_are_refused_before_they_are_parsed(value: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    content = prepare(bytes([1]) * 32, [Value(UNSIGNED_DATA_SET, value)], PROPOSER)
    monkeypatch.setattr(UnsignedDataSet, "FromString", None)
    with pytest.raises(MessageFault, match=r"too many|malformed"):
        verifier().decode(content)


def test_a_value_wrapped_in_thousands_of_fields_is_refused() -> None:
    content = prepare(bytes([1]) * 32, [])
    with pytest.raises(MessageFault, match="too many"):
        verifier().decode(content + field(3, b"\x12\x00" * 10_000))


# each value once


def test_what_is_known_by_its_bytes_is_neither_billed_nor_hashed_again() -> None:
    named, value = value_of(bytes(50 * KIB))
    one = verifier()
    one.decode(prepare(named, [value]))
    costs, received = cost_of(one.decoding(prepare(named, [value], source=2)))
    assert costs == [SIGNATURE_COST]
    assert isinstance(received, ReceivedMessage)
    assert received.values == {named: value}
    assert cost_of(one.decoding(prepare(named, [value], source=2)))[0] == []


def test_our_own_proposal_is_not_hashed_again_nor_is_one_of_a_peer_when_we_propose_it() -> None:
    data = {KEY: bytes(50 * KIB)}
    one = verifier()
    assert cost_of(one.encoding(data)) == ([], encode_value(data))
    named, value = encode_value(data)
    assert cost_of(one.decoding(prepare(named, [value])))[0] == [SIGNATURE_COST]
    other = verifier()
    other.decode(prepare(named, [value]))
    assert list(other.encoding(data)) == []


def test_map_order_changes_the_bytes_but_not_the_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {f"0x{number:096x}": bytes(10 * KIB) for number in range(5)}
    named, value = encode_value(data)
    backwards = b"".join(UnsignedDataSet(set={key: data[key]}).SerializeToString() for key in reversed(data))
    one = verifier()
    one.decode(prepare(named, [value]))
    monkeypatch.setattr(Hashing, "step", None)
    again = Value(UNSIGNED_DATA_SET, backwards)
    assert one.decode(prepare(named, [again], source=2)).values[named].content == backwards
    assert cost_of(one.decoding(prepare(named, [again], source=3)))[0] == [SIGNATURE_COST]


def test_large_values_are_hashed_in_steps_which_those_who_need_them_share(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Hashing] = []
    step = Hashing.step

    def counted(self: Hashing) -> None:
        hashed.append(self)
        step(self)

    monkeypatch.setattr(Hashing, "step", counted)
    named, value = value_of(bytes(10 * STEP_BYTES))
    one = verifier()
    waiting = [one.decoding(prepare(named, [value], PROPOSER, source)) for source in (1, 2, 3)]
    found: list[ReceivedMessage] = []
    while waiting:
        for steps in list(waiting):
            before = len(hashed)
            try:
                next(steps)
            except StopIteration as end:
                found.append(end.value)
                waiting.remove(steps)
            assert len(hashed) <= before + 1
    assert [received.values for received in found] == [{named: value}] * 3
    assert 11 <= len(hashed) <= 13  # who finds it finished after its turn has come does nothing
    assert len(set(hashed)) == 1


def test_a_decoding_that_is_thrown_away_harms_no_other() -> None:
    named, value = value_of(bytes(10 * STEP_BYTES))
    one = verifier()
    given_up, other = (one.decoding(prepare(named, [value], PROPOSER, source)) for source in (1, 2))
    for _ in range(6):
        next(given_up)
    given_up.close()
    end = cost_of(other)[1]
    assert isinstance(end, ReceivedMessage)
    assert end.values == {named: value}
