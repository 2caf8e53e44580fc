"""Messages and frames of step sync: who says what in one line of the ping-pong. Pure.

A frame is a length of 8 bytes, little endian and signed, and a protobuf body of 1 byte to 32 MiB. Charon reads a body with one
read call, so whoever sends must hand the whole body to the muxer at once (`encode_fixed64` gives one piece for one write).
The definition is signed as libp2p signs: ECDSA over SHA-256 of the 32-byte definition hash, DER.

Limits: bodies above MAX_BODY_BYTES are refused before they are read: an honest one has some 130. Source: specification 04 §3.1.
"""

import hashlib
from typing import Final

import msgspec
from google.protobuf.message import DecodeError

from charon_actors.crypto import k1_sign_der
from charon_actors.dkg.faults import CeremonyFault
from charon_actors.p2p.framing import FIXED64_BYTES, FramingFault, take_fixed64
from charon_actors.p2p.protobuf import dkg_pb2

MAX_BODY_BYTES: Final = 4096  # the wire's limit is 32 MiB; nothing in the message can honestly be large
MAX_NICKNAME_BYTES: Final = 32
MAX_ERROR_CHARACTERS: Final = 500


class SyncReport(msgspec.Struct, frozen=True):
    """A MsgSync. timestamp: unix seconds and nanoseconds, echoed by the answer. hash_signature: DER. step: the sender's own."""

    timestamp: tuple[int, int]
    hash_signature: bytes
    version: str
    step: int
    shutdown: bool = False
    nickname: str = ""


class SyncAnswer(msgspec.Struct, frozen=True):
    """A MsgSyncResponse. error: empty when the report was accepted."""

    timestamp: tuple[int, int]
    error: str = ""


def definition_digest(definition_hash: bytes) -> bytes:
    """What a report's signature signs: SHA-256 of the definition hash."""
    return hashlib.sha256(definition_hash).digest()


def sign_definition(private_key: bytes, definition_hash: bytes) -> bytes:
    """The hash_signature of all our reports: DER, 70 to 72 bytes."""
    return k1_sign_der(private_key, definition_digest(definition_hash))


def encode_report(report: SyncReport) -> bytes:
    """Body without the frame."""
    message = dkg_pb2.MsgSync(
        hash_signature=report.hash_signature,
        shutdown=report.shutdown,
        version=report.version,
        step=report.step,
        nickname=report.nickname,
    )
    message.timestamp.seconds, message.timestamp.nanos = report.timestamp
    return message.SerializeToString()


def decode_report(peer_index: int, body: bytes) -> SyncReport:
    """Raises CeremonyFault that names the peer."""
    try:
        message = dkg_pb2.MsgSync.FromString(body)
    except DecodeError:
        raise CeremonyFault(peer_index, "malformed sync message") from None
    stamp = (message.timestamp.seconds, message.timestamp.nanos)
    return SyncReport(
        stamp, message.hash_signature, message.version, message.step, message.shutdown, message.nickname[:MAX_NICKNAME_BYTES]
    )


def encode_answer(answer: SyncAnswer) -> bytes:
    """Body without the frame."""
    message = dkg_pb2.MsgSyncResponse(error=answer.error)
    message.sync_timestamp.seconds, message.sync_timestamp.nanos = answer.timestamp
    return message.SerializeToString()


def decode_sync_answer(peer_index: int, body: bytes) -> SyncAnswer:
    """Raises CeremonyFault that names the peer."""
    try:
        message = dkg_pb2.MsgSyncResponse.FromString(body)
    except DecodeError:
        raise CeremonyFault(peer_index, "malformed sync answer") from None
    stamp = (message.sync_timestamp.seconds, message.sync_timestamp.nanos)
    return SyncAnswer(stamp, message.error[:MAX_ERROR_CHARACTERS])


def take_sync_frame(peer_index: int, buffer: bytearray) -> bytes | None:
    """Remove one body from the front of `buffer`; None when it is not complete yet. Raises CeremonyFault that names the peer."""
    try:
        return take_fixed64(buffer, MAX_BODY_BYTES)
    except FramingFault:
        length = int.from_bytes(buffer[:FIXED64_BYTES], "little", signed=True)
        raise CeremonyFault(peer_index, f"sync frame of {length} bytes") from None
