"""ParSigExMsg: what the nodes exchange, around the signed objects. Sans-IO.

The outside of a message is read before anything inside it is decoded, so that whoever reads it can refuse by duty, share and
validator first. Entries are counted on the raw bytes: a protobuf parser makes an object of each, however many there are.

Limits: MAX_MESSAGE_BYTES; as many validators as the reader says, MAX_VALIDATORS at most.
Source: specification 05 §10, 06 §4.3 (presence).
"""

from collections.abc import Iterator, Mapping
from typing import Final

from google.protobuf.message import DecodeError

from charon_actors.eth2.duty import Duty, DutyType, not_performed
from charon_actors.eth2.signed_data import EncodingFault, SignedData
from charon_actors.p2p.framing import FramingFault, decode_uvarint
from charon_actors.p2p.protobuf.core_pb2 import Duty as WireDuty
from charon_actors.p2p.protobuf.core_pb2 import ParSigExMsg

PROTOCOL: Final = "/charon/parsigex/2.0.0"
MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024  # 05 §10: an unreleased Charon caps it here; what we send is far below
MAX_VALIDATORS: Final = 8192  # some 20 ms; a cluster of a quarter of a million validators has that many in a slot
OTHER_FIELDS: Final = 16  # duty and data set, and what a later release may add
MAX_DUTY_BYTES: Final = 64  # slot and type have 13

_DUTY, _DATA_SET, _SET = 1, 2, 1
_SKIPPED_BYTES: Final = {1: 8, 5: 4}  # by wire type


class NotPerformed(EncodingFault):
    """A duty of a type that this node doesn't perform: nobody's fault in a mixed cluster."""


def encode_partials_message(duty: Duty, share_index: int, partials: Mapping[bytes, SignedData]) -> bytes:
    """ParSigExMsg with a deterministic map order. Source: 05 §10."""
    message = ParSigExMsg()
    message.duty.slot, message.duty.type = duty.slot, duty.type
    message.data_set.SetInParent()
    for pubkey, signed in partials.items():
        entry = message.data_set.set["0x" + pubkey.hex()]
        entry.data, entry.signature, entry.share_idx = signed.encode(), signed.signature, share_index
    return message.SerializeToString(deterministic=True)


def decode_message(encoded: bytes, max_validators: int = MAX_VALIDATORS) -> tuple[Duty, int, dict[bytes, bytes]]:
    """Duty, share index, and by group public key the bytes of a signed object. One share index a message, as every Charon sends it.

    Raises: EncodingFault, also when a required sub-message is absent (06 §4.3), the duty type is unknown or a validator stands
    twice; NotPerformed.
    """
    entries = _count_entries(encoded, min(max_validators, MAX_VALIDATORS) + OTHER_FIELDS)
    message = ParSigExMsg()
    try:
        message.ParseFromString(encoded)
    except DecodeError as error:
        raise EncodingFault("ParSigExMsg: not a protobuf message") from error
    if not (message.HasField("duty") and message.HasField("data_set")):
        raise EncodingFault("ParSigExMsg: duty or data set is missing")
    try:
        duty = Duty(message.duty.slot, DutyType(message.duty.type))
    except ValueError as error:
        raise EncodingFault(f"ParSigExMsg: unknown duty type {message.duty.type}") from error
    if reason := not_performed(duty):
        raise NotPerformed(reason)
    share_indices = {entry.share_idx for entry in message.data_set.set.values()}
    if len(share_indices) != 1:
        raise EncodingFault(f"ParSigExMsg: {len(share_indices)} share indices in one message")
    partials: dict[bytes, bytes] = {}
    for key, entry in message.data_set.set.items():
        try:
            pubkey = bytes.fromhex(key.removeprefix("0x"))
        except ValueError as error:
            raise EncodingFault("ParSigExMsg: a key is not hexadecimal") from error
        if len(pubkey) != 48:
            raise EncodingFault("ParSigExMsg: a key is not a public key of 48 bytes")
        partials[pubkey] = entry.data
    if len(partials) != entries:
        raise EncodingFault("ParSigExMsg: a validator stands twice in one message")
    return duty, share_indices.pop(), partials


def peek_duty(encoded: bytes) -> Duty | None:
    """The duty of a message, before the message is parsed; None if that isn't one. What is parsed later may say another."""
    try:
        for field, start, end in _fields(encoded, 0, len(encoded), iter(range(OTHER_FIELDS))):
            if field == _DUTY and end - start <= MAX_DUTY_BYTES:
                duty = WireDuty.FromString(encoded[start:end])
                return Duty(duty.slot, DutyType(duty.type))
    except (EncodingFault, DecodeError, ValueError):
        pass
    return None


def _count_entries(encoded: bytes, max_fields: int) -> int:
    budget = iter(range(max_fields))
    return sum(
        field == _SET
        for data_set, start, end in _fields(encoded, 0, len(encoded), budget)
        if data_set == _DATA_SET
        for field, _, _ in _fields(encoded, start, end, budget)
    )


def _fields(encoded: bytes, position: int, end: int, budget: Iterator[int]) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each length-delimited field; the others are skipped."""
    while position < end:
        if next(budget, None) is None:
            raise EncodingFault("ParSigExMsg: too many validators")
        tag, position = _uvarint(encoded, position)
        match tag & 7:
            case 0:
                _, position = _uvarint(encoded, position)
            case wire_type if wire_type in _SKIPPED_BYTES:
                position += _SKIPPED_BYTES[wire_type]
            case 2:
                length, start = _uvarint(encoded, position)
                position = start + length
                yield tag >> 3, start, position
            case _:
                raise EncodingFault("ParSigExMsg: not a protobuf message")
    if position != end:
        raise EncodingFault("ParSigExMsg: a field is longer than its message")


def _uvarint(encoded: bytes, position: int) -> tuple[int, int]:
    try:
        found = decode_uvarint(encoded, position)
    except FramingFault as fault:
        raise EncodingFault(f"ParSigExMsg: {fault}") from None
    if found is None:
        raise EncodingFault("ParSigExMsg: it ends within a number")
    return found
