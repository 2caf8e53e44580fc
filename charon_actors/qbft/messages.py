"""Consensus messages on the wire: signing, verifying, and what is refused. Sans-IO.

Theory of operation. A QBFTConsensusMsg is one signed QBFTMsg, the signed QBFTMsgs that justify it, and every value that any of
them names by hash, in full. What is signed is the hash of the deterministic protobuf bytes without the signature, so both hash
fields are always sent with 32 bytes, even when unused. A receiver goes by the order of the table; the first line that doesn't
hold ends it with MessageFault. Whose stream it came from doesn't matter: a message that somebody passes on is as good.

    step   what is checked
    1      size and number of parts, before anything is parsed; msg and its duty are there, and each justification's duty
    2      type 1 to 5, duty type 1 to 13, round >= 1, prepared round >= 0, peer index, signature
    3      the caller's own question about the duty (its epoch, its deadline)
    4      at most 2n justifications and 2 · (justifications + 1) values
    5      every justification as in 2, and of the same duty
    6      every value is an UnsignedDataSet or a PriorityResult that can be decoded
    7      every hash that is named, all-zero ones excepted, belongs to one of the values

The same signed message comes again and again, as itself and inside justifications, and the same value with each of them. Both are
remembered by their bytes: a signature is recovered once (50 to 100 µs), a value hashed once (20 ms a megabyte).

Limits: MESSAGE_BYTES; SIGNED_BYTES a QBFTMsg; VALIDATORS a set; PRIORITY_BYTES a PriorityResult; KNOWN_SIGNATURES and KNOWN_VALUES
remembered, the least recently used forgotten first. Source: specification 06 §4, §5. Vectors: core/qbft_messages.json,
core/qbft_captures_v1_10_3.json, live/consensus.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Final, Generic, TypeVar

import msgspec
from google.protobuf.any_pb2 import Any as ProtobufAny
from google.protobuf.message import DecodeError

from charon_actors.crypto import k1_sign_recoverable, k1_verify_recoverable
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.p2p.protobuf.core_pb2 import Duty as WireDuty
from charon_actors.p2p.protobuf.core_pb2 import PriorityResult, QBFTConsensusMsg, QBFTMsg, UnsignedDataSet
from charon_actors.qbft.machine import ZERO_VALUE, Broadcast, Message, MessageType
from charon_actors.qbft.merkle import hash_bytes

MESSAGE_BYTES: Final = 32 * 2**20  # read limit of the protocol (06 §1)
SIGNED_BYTES: Final = 1024  # a QBFTMsg has at most about 190; more would be unknown fields that we had to hash
VALIDATORS: Final = 2**16  # of one duty in one cluster
PRIORITY_BYTES: Final = 2**20  # a real one has a few kilobytes; its nesting is expensive to parse
KNOWN_SIGNATURES: Final = 8192
KNOWN_VALUES: Final = 2048
TYPE_URL_PREFIX: Final = "type.googleapis.com/"
UNSIGNED_DATA_SET: Final = "core.corepb.v1.UnsignedDataSet"
PRIORITY_RESULT: Final = "core.corepb.v1.PriorityResult"

K = TypeVar("K")
V = TypeVar("V")


class MessageFault(Exception):
    """A message that is refused, or a value that can't be used. The text names the rule, never the content."""


class Value(msgspec.Struct, frozen=True):
    """What a hash stands for. kind: full name of the protobuf message. content: its bytes, as whoever sent them ordered them."""

    kind: str
    content: bytes


class Received(msgspec.Struct, frozen=True):
    """A message that has passed all steps. values: by their hash; exactly those that the message and its justifications name."""

    duty: Duty
    message: Message
    values: Mapping[bytes, Value]


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
    """Decodes the messages of one cluster. public_keys: 33 bytes each, of all operators in lock order."""

    def __init__(self, public_keys: Sequence[bytes]) -> None:
        self._public_keys = tuple(public_keys)
        self._signed: _Recent[bytes, tuple[Duty, Message]] = _Recent(KNOWN_SIGNATURES)
        self._hashes: _Recent[bytes, bytes] = _Recent(KNOWN_VALUES)

    def decode(self, content: bytes, refusal: Callable[[Duty], str | None] = lambda _: None) -> Received:
        """The message, with everything checked that the table above lists.

        refusal: says why a duty is not welcome, or None; asked once the message itself is known to be a member's.
        Raises: MessageFault, and nothing else, whatever the bytes.
        """
        nodes = len(self._public_keys)
        most_justifications = 2 * nodes
        _check_parts(content, MESSAGE_BYTES, {1: 1, 2: most_justifications, 3: 2 * (most_justifications + 1)}, spare=8)
        wire = _parse(QBFTConsensusMsg, content)
        if not wire.HasField("msg"):
            raise MessageFault("required sub-message missing: msg")
        duty, message = self._verify(wire.msg)
        reason = refusal(duty)
        if reason is not None:
            raise MessageFault(reason)
        if len(wire.values) > 2 * (len(wire.justification) + 1):
            raise MessageFault("too many values")
        justification = []
        for entry in wire.justification:
            duty_of_entry, proof = self._verify(entry)
            if duty_of_entry != duty:
                raise MessageFault("justification is of another duty")
            justification.append(proof)
        if justification:
            message = msgspec.structs.replace(message, justification=tuple(justification))
        values = dict(self._value(entry) for entry in wire.values)
        named = named_values(message)
        if any(entry not in values for entry in named):
            raise MessageFault("value hash is not among the values")
        return Received(duty, message, {entry: values[entry] for entry in named})

    def encode_value(self, unsigned_data: Mapping[str, bytes]) -> tuple[bytes, Value]:
        """Like the function of that name, but hashes nothing that a peer has sent already: mostly all propose the same."""
        content = UnsignedDataSet(set=unsigned_data).SerializeToString(deterministic=True)
        value = Value(UNSIGNED_DATA_SET, content)
        return self._hash(_key(value.kind, content), content), value

    def _verify(self, wire: QBFTMsg) -> tuple[Duty, Message]:
        if wire.ByteSize() > SIGNED_BYTES:
            raise MessageFault("signed message is too long")
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

    def _value(self, wire: ProtobufAny) -> tuple[bytes, Value]:
        kind = wire.type_url.rpartition("/")[2]
        value = Value(kind, wire.value)
        key = _key(kind, value.content)
        known = self._hashes.get(key)
        if known is None:
            canonical = _canonical(value)
            known = self._hash(_key(kind, canonical), canonical)
            self._hashes.put(key, known)
        return known, value

    def _hash(self, key: bytes, canonical: bytes) -> bytes:
        known = self._hashes.get(key)
        if known is None:
            known = hash_bytes(canonical)
            self._hashes.put(key, known)
        return known


def _key(kind: str, content: bytes) -> bytes:
    return sha256(kind.encode() + b"\0" + content).digest()


def _canonical(value: Value) -> bytes:
    """The deterministic bytes, which are what is hashed: map entries may come in any order."""
    if value.kind == UNSIGNED_DATA_SET:
        _check_parts(value.content, MESSAGE_BYTES, {1: VALIDATORS}, spare=8)
        return _parse(UnsignedDataSet, value.content).SerializeToString(deterministic=True)
    if value.kind == PRIORITY_RESULT:
        if len(value.content) > PRIORITY_BYTES:
            raise MessageFault("priority result is too long")
        return _parse(PriorityResult, value.content).SerializeToString(deterministic=True)
    raise MessageFault("value of unknown type")


def _hash_field(content: bytes) -> bytes:
    return content if len(content) == 32 else ZERO_VALUE


P = TypeVar("P", QBFTConsensusMsg, UnsignedDataSet, PriorityResult)


def _parse(kind: type[P], content: bytes) -> P:
    try:
        return kind.FromString(content)
    except DecodeError:
        raise MessageFault(f"not a {kind.__name__}") from None


def _check_parts(content: bytes, most_bytes: int, most: Mapping[int, int], spare: int) -> None:
    """Count the fields on the top level without parsing them: millions of empty ones fit into a message that isn't long."""
    if len(content) > most_bytes:
        raise MessageFault("message is too long")
    counts = dict.fromkeys(most, 0)
    others = 0
    for field in _fields(content):
        if field in counts:
            counts[field] += 1
            if counts[field] > most[field]:
                raise MessageFault("too many values, justifications or validators")
        else:
            others += 1
            if others > spare:
                raise MessageFault("too many unknown fields")


def _fields(content: bytes) -> Iterator[int]:
    """The field numbers of the top level, in order."""
    at, end = 0, len(content)
    while at < end:
        tag, at = _varint(content, at)
        match tag & 7:
            case 0:
                _, at = _varint(content, at)
            case 1:
                at += 8
            case 2:
                length, at = _varint(content, at)
                at += length
            case 5:
                at += 4
            case _:
                raise MessageFault("malformed protobuf")
        if at > end:
            raise MessageFault("malformed protobuf")
        yield tag >> 3


def _varint(content: bytes, at: int) -> tuple[int, int]:
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
