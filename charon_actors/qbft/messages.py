"""Consensus messages on the wire: signing, verifying, and what is refused. Sans-IO.

Theory of operation. A QBFTConsensusMsg is one signed QBFTMsg, the signed QBFTMsgs that justify it, and every value that any of
them names by hash, in full. What is signed is the hash of the deterministic protobuf bytes without the signature, so both hash
fields are always sent with 32 bytes, even when unused. A receiver goes by the order of the table; the first line that doesn't
hold ends it with MessageFault. Whose stream it came from doesn't matter: a message that somebody passes on is as good.

    step   what is checked
    1      size and number of parts (at most 2n justifications), before anything is parsed; msg and its duty are there
    2      type 1 to 5, duty type 1 to 13, round >= 1, prepared round >= 0, peer index, signature
    3      the caller's own question about the duty (its epoch, its deadline)
    4      no value is longer than `largest_value` of this duty
    5      every justification as in 2, and of the same duty
    6      there are at most two values for the message and for each justification
    7      every hash named by the message and its justifications, all-zero ones excepted, is that of an UnsignedDataSet or a
           PriorityResult among the values that can be decoded; an UnsignedDataSet has no JSON beyond a PEER_BLOCK's limits

The last step is the dear one, so only what members have signed gets there, and it ends as soon as it can: with the last value that
is named, or when there are too few left. Honest messages bring what they name and nothing else. The same signed message
comes again and again, as itself and inside justifications, and the same value with each of them. Both are remembered by their
bytes: a signature is recovered once (50 to 100 µs), a value hashed once (35 to 50 ms a megabyte, `merkle.py`).

A message may cost a second, so decoding goes in steps of a few milliseconds. Before each the generator yields what new work it is
about to do, in bytes to be hashed, for the caller to bill somebody or to throw the generator away; 0 is a mere chance for others to
run. When two messages bring the same new value at once, they share its hashing.

Limits: MESSAGE_BYTES; SIGNED_BYTES a QBFTMsg; `largest_value`; the cluster's validators and SPARE_VALIDATORS a set; SPARE_FIELDS
unknown ones a part; KNOWN_SIGNATURES and KNOWN_VALUES remembered, the least recently used forgotten first. Source: specification 06 §4,
§5. Vectors: core/qbft_messages.json, core/qbft_captures_v1_10_3.json, live/consensus.
"""

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Final, Generic, TypeVar

import msgspec
from google.protobuf.any_pb2 import Any as ProtobufAny
from google.protobuf.message import DecodeError

from charon_actors import bounded_json
from charon_actors.bounded_json import PEER_BLOCK, check_foreign_json
from charon_actors.crypto import k1_sign_recoverable, k1_verify_recoverable
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.versioned import MAX_SPACES, looks_like_json
from charon_actors.p2p.protobuf.core_pb2 import Duty as WireDuty
from charon_actors.p2p.protobuf.core_pb2 import PriorityResult, QBFTConsensusMsg, QBFTMsg, UnsignedDataSet
from charon_actors.qbft.machine import ZERO_VALUE, Broadcast, Message, MessageType
from charon_actors.qbft.merkle import Hashing, hash_bytes

MESSAGE_BYTES: Final = 32 * 2**20  # read limit of the protocol (06 §1)
SIGNED_BYTES: Final = 1024  # a QBFTMsg has at most about 190; more would be unknown fields that we had to hash
VALIDATORS: Final = 2**16  # of the largest cluster that a definition can describe
BLOCK_BYTES: Final = bounded_json.BLOCK_BYTES
PRIORITY_BYTES: Final = 2**20  # a real one has a few kilobytes; its nesting is expensive to parse
SPARE_FIELDS: Final = 8
SPARE_VALIDATORS: Final = 1024  # of a peer whose cluster has got more validators than our lock (06 §10)
ENTRIES_A_STEP: Final = 512  # of a set, when its parts are counted: 2 to 3 ms
KNOWN_SIGNATURES: Final = 8192
KNOWN_VALUES: Final = 8192
SIGNATURE_COST: Final = 2 * 2**10  # what takes as long to hash as a signature takes to recover
LEAST_VALUE_COST: Final = 16 * 2**10  # so that nobody can push the others' values out of KNOWN_VALUES with tiny ones
TYPE_URL_PREFIX: Final = "type.googleapis.com/"
UNSIGNED_DATA_SET: Final = "core.corepb.v1.UnsignedDataSet"
PRIORITY_RESULT: Final = "core.corepb.v1.PriorityResult"

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
Steps = Generator[int, None, T]  # yields what the next step will cost, returns the result


class MessageFault(Exception):
    """A message that is refused, or a value that can't be used. The text names the rule, never the content."""


class Value(msgspec.Struct, frozen=True):
    """What a hash stands for. kind: full name of the protobuf message. content: its bytes, as whoever sent them ordered them."""

    kind: str
    content: bytes


class ReceivedMessage(msgspec.Struct, frozen=True):
    """A message that has passed all steps. values: by their hash; exactly those that the message and its justifications name."""

    duty: Duty
    message: Message
    values: Mapping[bytes, Value]


def largest_value(duty_type: DutyType, validators: int) -> int:
    """How many bytes a value of such a duty may have in a cluster of so many validators, in the encodings of 05 §10.1."""
    match duty_type:
        case DutyType.PROPOSER:
            return BLOCK_BYTES
        case DutyType.INFO_SYNC:
            return PRIORITY_BYTES
        case DutyType.ATTESTER:
            each = 2**10  # 336 bytes with its key; as JSON 900
        case _:
            each = 4 * 2**10  # an aggregate of one committee of 2048 has 600 bytes; four contributions as JSON 2.5 KiB
    return min(64 * 2**10 + each * validators, BLOCK_BYTES)


def encode_value(unsigned_data: Mapping[str, bytes]) -> tuple[bytes, Value]:
    """Hash and value of a set of unsigned data: group public key ("0x" and 96 hex digits) to its encoding (05 §10.1)."""
    content = UnsignedDataSet(set=unsigned_data).SerializeToString(deterministic=True)
    return hash_bytes(content), Value(UNSIGNED_DATA_SET, content)


def decode_value(value: Value) -> dict[str, bytes]:
    """The set of unsigned data. Raises: MessageFault, when the value is of another kind or malformed."""
    if value.kind != UNSIGNED_DATA_SET:
        raise MessageFault("decided value is not a set of unsigned data")
    return dict(_parse(UnsignedDataSet, value.content).set)


def sign_message(private: bytes, duty: Duty, own_index: int, of: Broadcast) -> Message:
    """What the machine wants broadcast, as our signed message."""
    wire = QBFTMsg(
        type=of.type,
        duty=WireDuty(slot=duty.slot, type=duty.type),
        peer_idx=own_index,
        round=of.round,
        prepared_round=of.prepared_round,
        value_hash=of.value,
        prepared_value_hash=of.prepared_value,
    )
    wire.signature = k1_sign_recoverable(private, hash_bytes(wire.SerializeToString(deterministic=True)))
    return Message(
        of.type,
        own_index,
        of.round,
        of.value,
        of.prepared_round,
        of.prepared_value,
        of.justification,
        wire.SerializeToString(deterministic=True),
    )


def encode_message(message: Message, values: Mapping[bytes, Value]) -> bytes:
    """The QBFTConsensusMsg with the values that it names. Raises: MessageFault, if one is not among `values`."""
    wire = QBFTConsensusMsg(
        msg=QBFTMsg.FromString(message.signed),
        justification=[QBFTMsg.FromString(entry.signed) for entry in message.justification],
    )
    for named in named_values(message):
        value = values.get(named)
        if value is None:
            raise MessageFault("a value of our own message is not known")
        wire.values.append(ProtobufAny(type_url=TYPE_URL_PREFIX + value.kind, value=value.content))
    return wire.SerializeToString(deterministic=True)


def named_values(message: Message) -> list[bytes]:
    """The distinct hashes that a message and its justifications name, in order of appearance."""
    hashes = (named for part in (message, *message.justification) for named in (part.value, part.prepared_value))
    return list(dict.fromkeys(named for named in hashes if named != ZERO_VALUE))


class Verifier:
    """Decodes the messages of one cluster. public_keys: 33 bytes each, of all operators in lock order. validators: how many."""

    def __init__(self, public_keys: Sequence[bytes], validators: int = VALIDATORS) -> None:
        self._public_keys, self._validators = tuple(public_keys), validators
        self._signed: _Recent[bytes, tuple[Duty, Message]] = _Recent(KNOWN_SIGNATURES)
        self._hashings: _Recent[bytes, Hashing] = _Recent(KNOWN_VALUES)

    def decode(self, content: bytes, refusal: Callable[[Duty], str | None] = lambda _: None) -> ReceivedMessage:
        """All steps of `decoding` at once."""
        steps = self.decoding(content, refusal)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                received: ReceivedMessage = end.value
                return received

    def decoding(self, content: bytes, refusal: Callable[[Duty], str | None] = lambda _: None) -> Steps[ReceivedMessage]:
        """The message, with everything checked that the table above lists, in steps.

        refusal: says why a duty is not welcome, or None; asked once the message itself is known to be a member's.
        Raises: MessageFault, and nothing else, whatever the bytes.
        """
        nodes = len(self._public_keys)
        parts = _parts(memoryview(content), MESSAGE_BYTES, {1: 1, 2: 2 * nodes, 3: 2 * (2 * nodes + 1)})
        if not parts[1]:
            raise MessageFault("required sub-message missing: msg")
        duty, message = yield from self._verify(parts[1][0])
        reason = refusal(duty)
        if reason is not None:
            raise MessageFault(reason)
        if any(len(entry) > largest_value(duty.type, self._validators) for entry in parts[3]):
            raise MessageFault("value is too long for its duty")
        justification = []
        for entry in parts[2]:
            duty_of_entry, proof = yield from self._verify(entry)
            if duty_of_entry != duty:
                raise MessageFault("justification is of another duty")
            justification.append(proof)
        if justification:
            message = msgspec.structs.replace(message, justification=tuple(justification))
        named = named_values(message)
        if len(parts[3]) > 2 * (1 + len(justification)):
            raise MessageFault("too many values")
        values: dict[bytes, Value] = {}
        for left, entry in zip(range(len(parts[3]), 0, -1), parts[3], strict=True):
            if not 0 < len(named) - len(values) <= left:  # all are here, or not all can be
                break
            hash_, value = yield from self._value(entry)
            if hash_ in named:
                values[hash_] = value
        if len(values) < len(named):
            raise MessageFault("value hash is not among the values")
        return ReceivedMessage(duty, message, values)

    def encoding(self, unsigned_data: Mapping[str, bytes]) -> Steps[tuple[bytes, Value]]:
        """Like `encode_value`, in steps; hashes nothing that a peer has sent already: mostly all propose the same."""
        value = Value(UNSIGNED_DATA_SET, UnsignedDataSet(set=unsigned_data).SerializeToString(deterministic=True))
        return (yield from _finished(self._hashing(_key(value), value.content))), value

    def _verify(self, encoded: memoryview) -> Steps[tuple[Duty, Message]]:
        if len(encoded) > SIGNED_BYTES:
            raise MessageFault("signed message is too long")
        wire = _parse(QBFTMsg, encoded)
        signed = wire.SerializeToString(deterministic=True)
        known = self._signed.get(signed)
        if known is not None:
            return known
        if not wire.HasField("duty"):
            raise MessageFault("required sub-message missing: duty")
        if not MessageType.PRE_PREPARE <= wire.type <= MessageType.DECIDED:
            raise MessageFault("invalid message type")
        if not 1 <= wire.duty.type <= max(DutyType):
            raise MessageFault("invalid duty type")
        if wire.round < 1:
            raise MessageFault("round must be positive")
        if wire.prepared_round < 0:
            raise MessageFault("prepared round must not be negative")
        if not 0 <= wire.peer_idx < len(self._public_keys):
            raise MessageFault("no peer has this index")
        yield SIGNATURE_COST
        signature = wire.signature
        wire.ClearField("signature")
        digest = hash_bytes(wire.SerializeToString(deterministic=True))
        if not k1_verify_recoverable(self._public_keys[wire.peer_idx], digest, signature):
            raise MessageFault("signature is not the peer's")
        duty = Duty(wire.duty.slot, DutyType(wire.duty.type))
        message = Message(
            MessageType(wire.type),
            wire.peer_idx,
            wire.round,
            _hash_field(wire.value_hash),
            wire.prepared_round,
            _hash_field(wire.prepared_value_hash),
            signed=signed,
        )
        self._signed.put(signed, (duty, message))
        return duty, message

    def _value(self, encoded: memoryview) -> Steps[tuple[bytes, Value]]:
        parts = _parts(encoded, MESSAGE_BYTES, {1: 1, 2: 1})  # of an Any, which protobuf would copy once more
        type_url, content = (bytes(parts[number][0]) if parts[number] else b"" for number in (1, 2))
        value = Value(type_url.decode(errors="replace").rpartition("/")[2], content)
        key = _key(value)
        hashing = self._hashings.get(key)
        if hashing is None:
            yield max(len(content), LEAST_VALUE_COST)
            canonical = yield from self._canonical(value)
            hashing = self._hashing(key if canonical.content == content else _key(canonical), canonical.content)
            self._hashings.put(key, hashing)
        return (yield from _finished(hashing)), value

    def _hashing(self, key: bytes, canonical: bytes) -> Hashing:
        """The one that may have been begun, even finished, for another message."""
        hashing = self._hashings.get(key)
        if hashing is None:
            hashing = Hashing(canonical)
            self._hashings.put(key, hashing)
        return hashing

    def _canonical(self, value: Value) -> Steps[Value]:
        """With the deterministic bytes, which are what is hashed: map entries may come in any order."""
        if value.kind == UNSIGNED_DATA_SET:
            entries = _parts(memoryview(value.content), BLOCK_BYTES, {1: self._validators + SPARE_VALIDATORS})[1]
            for number, entry in enumerate(entries, 1):
                content = _parts(entry, BLOCK_BYTES, {1: 1, 2: 1})[2]
                if content and looks_like_json(bytes(content[0][:MAX_SPACES])):
                    yield 0
                    _check_json(bytes(content[0]))
                if number % ENTRIES_A_STEP == 0:
                    yield 0
            parsed: UnsignedDataSet | PriorityResult = _parse(UnsignedDataSet, value.content)
        elif value.kind == PRIORITY_RESULT:
            if len(value.content) > PRIORITY_BYTES:
                raise MessageFault("priority result is too long")
            parsed = _parse(PriorityResult, value.content)
        else:
            raise MessageFault("value of unknown type")
        yield 0
        return Value(value.kind, parsed.SerializeToString(deterministic=True))


def _check_json(text: bytes) -> None:
    """Decided, it would be decoded by all nodes at once: what isn't an honest block's is refused while it is only proposed."""
    try:
        check_foreign_json(text, PEER_BLOCK)
    except ValueError as error:
        raise MessageFault(f"value is no good JSON: {error}") from None


def _finished(hashing: Hashing) -> Steps[bytes]:
    while hashing.root is None:
        yield 0
        hashing.step()
    return hashing.root


def _key(value: Value) -> bytes:
    return sha256(value.kind.encode() + b"\0" + value.content).digest()


def _hash_field(content: bytes) -> bytes:
    return content if len(content) == 32 else ZERO_VALUE


P = TypeVar("P", QBFTMsg, UnsignedDataSet, PriorityResult)


def _parse(kind: type[P], content: bytes | memoryview) -> P:
    try:
        return kind.FromString(bytes(content))
    except DecodeError:
        raise MessageFault(f"not a {kind.__name__}") from None


def _parts(content: memoryview, most_bytes: int, most: Mapping[int, int]) -> dict[int, list[memoryview]]:
    """The contents of the fields on the top level, by number, unparsed: millions of empty ones fit into what isn't long.

    most: which fields with length there are, and how many of each; of all others together there may be SPARE_FIELDS.
    """
    if len(content) > most_bytes:
        raise MessageFault("message is too long")
    parts: dict[int, list[memoryview]] = {number: [] for number in most}
    others = 0
    for number, part in _fields(content):
        if part is None or number not in parts:
            others += 1
            if others > SPARE_FIELDS:
                raise MessageFault("too many unknown fields")
            continue
        parts[number].append(part)
        if len(parts[number]) > most[number]:
            raise MessageFault("too many values, justifications or validators")
    return parts


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Number and content of the fields of the top level, in order; None for a field without a length."""
    at, end = 0, len(content)
    while at < end:
        tag, at = _varint(content, at)
        part = None
        if not 1 <= tag >> 3 < 2**29:
            raise MessageFault("malformed protobuf")
        match tag & 7:
            case 0:
                _, at = _varint(content, at)
            case 1:
                at += 8
            case 2:
                length, at = _varint(content, at)
                part = content[at : at + length]
                at += length
            case 5:
                at += 4
            case _:
                raise MessageFault("malformed protobuf")
        if at > end:
            raise MessageFault("malformed protobuf")
        yield tag >> 3, part


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    for byte in content[at : at + 10]:
        number |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return number, at
        shift += 7
    raise MessageFault("malformed protobuf")


class _Recent(Generic[K, V]):
    """A dictionary of the `limit` entries that were used last."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)
