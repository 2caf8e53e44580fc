"""Signed envelopes of libp2p: peer records (who says where a peer listens) and relay vouchers. Sans-IO.

An envelope is a payload with a type, signed together with a domain, so that a signature made for one purpose is worth nothing
for another:

    signature over   uvarint(len) ‖ domain ‖ uvarint(len) ‖ payload type ‖ uvarint(len) ‖ payload

    what           domain                payload type   payload
    peer record    libp2p-peer-record    03 01          {1: peer id, 2: sequence number, 3: repeated {1: multiaddr}}
    relay voucher  libp2p-relay-rsvp     03 02          {1: relay id, 2: peer id, 3: expiration, unix s}

Limits: an envelope of at most MAX_ENVELOPE_BYTES; only secp256k1 keys, the only kind that Charon nodes and relays have.
Source: specification 03 §11.5 and §11.6.
"""

import hashlib
from typing import Final

import msgspec
from google.protobuf.message import DecodeError

from charon_actors.crypto import k1_public_key, k1_sign_der, k1_verify_der
from charon_actors.p2p.framing import encode_uvarint
from charon_actors.p2p.peer_id import peer_id_of
from charon_actors.p2p.protobuf import libp2p_pb2 as wire

MAX_ENVELOPE_BYTES: Final = 8192
MAX_RECORD_ADDRESSES: Final = 64
KEY_TYPE_SECP256K1: Final = 2
PEER_RECORD_DOMAIN: Final = b"libp2p-peer-record"
PEER_RECORD_TYPE: Final = b"\x03\x01"
VOUCHER_DOMAIN: Final = b"libp2p-relay-rsvp"
VOUCHER_TYPE: Final = b"\x03\x02"


class EnvelopeFault(Exception):
    """Bytes that are no valid envelope of the expected kind, or not signed by who should have signed them."""


class PeerRecord(msgspec.Struct, frozen=True):
    """A peer's own statement of its addresses (binary multiaddrs); a higher sequence number replaces a lower one."""

    peer_id: bytes
    sequence: int
    addresses: tuple[bytes, ...]


class Voucher(msgspec.Struct, frozen=True):
    """A relay's promise to a peer; `expiration` in unix seconds. `signer` is the id of the key that signed it."""

    relay_id: bytes
    peer_id: bytes
    expiration: int
    signer: bytes


def seal(private_key: bytes, domain: bytes, payload_type: bytes, payload: bytes) -> bytes:
    """The encoded envelope around `payload`, signed with a secp256k1 key (32 bytes)."""
    envelope = wire.Envelope(
        public_key=wire.PublicKey(type=KEY_TYPE_SECP256K1, data=k1_public_key(private_key)),
        payload_type=payload_type,
        payload=payload,
        signature=k1_sign_der(private_key, _digest(domain, payload_type, payload)),
    )
    return envelope.SerializeToString(deterministic=True)


def open_envelope(data: bytes, domain: bytes, payload_type: bytes) -> tuple[bytes, bytes]:
    """(signer's peer id, payload) of a valid envelope. Raises: EnvelopeFault."""
    if len(data) > MAX_ENVELOPE_BYTES:
        raise EnvelopeFault(f"envelope of {len(data)} bytes, at most {MAX_ENVELOPE_BYTES} are allowed")
    try:
        envelope = wire.Envelope.FromString(data)
    except DecodeError as error:
        raise EnvelopeFault("envelope is no protobuf message") from error
    if envelope.payload_type != payload_type:
        raise EnvelopeFault(f"payload type {envelope.payload_type[:8].hex()}, expected {payload_type.hex()}")
    if envelope.public_key.type != KEY_TYPE_SECP256K1 or len(envelope.public_key.data) != 33:
        raise EnvelopeFault("signed by a key that is not secp256k1")
    key = envelope.public_key.data
    if not k1_verify_der(key, _digest(domain, payload_type, envelope.payload), envelope.signature):
        raise EnvelopeFault("envelope has a wrong signature")
    return peer_id_of(key), envelope.payload


def encode_peer_record(private_key: bytes, record: PeerRecord) -> bytes:
    """A signed peer record; `private_key` must be the one of `record.peer_id`."""
    message = wire.PeerRecord(
        peer_id=record.peer_id,
        seq=record.sequence,
        addresses=[wire.PeerRecordAddress(multiaddr=address) for address in record.addresses],
    )
    return seal(private_key, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, message.SerializeToString(deterministic=True))


def decode_peer_record(data: bytes) -> PeerRecord:
    """The record of a valid envelope that its own subject has signed. Raises: EnvelopeFault."""
    signer, payload = open_envelope(data, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE)
    try:
        message = wire.PeerRecord.FromString(payload)
    except DecodeError as error:
        raise EnvelopeFault("peer record is no protobuf message") from error
    if message.peer_id != signer:
        raise EnvelopeFault("peer record is signed by another peer than it speaks of")
    if len(message.addresses) > MAX_RECORD_ADDRESSES:
        raise EnvelopeFault(f"peer record with {len(message.addresses)} addresses")
    return PeerRecord(message.peer_id, message.seq, tuple(entry.multiaddr for entry in message.addresses))


def encode_voucher(private_key: bytes, voucher: Voucher) -> bytes:
    """A voucher signed with the relay's key."""
    message = wire.ReservationVoucher(relay=voucher.relay_id, peer=voucher.peer_id, expiration=voucher.expiration)
    return seal(private_key, VOUCHER_DOMAIN, VOUCHER_TYPE, message.SerializeToString(deterministic=True))


def decode_voucher(data: bytes, *, relay_id: bytes, peer_id: bytes) -> Voucher:
    """The voucher, if `relay_id` has signed it for `peer_id`. Raises: EnvelopeFault."""
    signer, payload = open_envelope(data, VOUCHER_DOMAIN, VOUCHER_TYPE)
    try:
        message = wire.ReservationVoucher.FromString(payload)
    except DecodeError as error:
        raise EnvelopeFault("voucher is no protobuf message") from error
    if signer != relay_id or message.relay != relay_id:
        raise EnvelopeFault("voucher is not from the relay that sent it")
    if message.peer != peer_id:
        raise EnvelopeFault("voucher is for another peer")
    return Voucher(message.relay, message.peer, message.expiration, signer)


def _digest(domain: bytes, payload_type: bytes, payload: bytes) -> bytes:
    hasher = hashlib.sha256()
    for part in (domain, payload_type, payload):
        hasher.update(encode_uvarint(len(part)))
        hasher.update(part)
    return hasher.digest()
