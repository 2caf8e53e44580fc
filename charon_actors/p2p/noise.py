"""libp2p Noise: an authenticated, encrypted channel from Noise_XX_25519_ChaChaPoly_SHA256. Sans-IO.

Theory of operation: three handshake messages, then transport messages. On the wire each one is a 2-byte big-endian length ‖ body.

    initiator → responder   e                             32 bytes, empty payload
    responder → initiator   e, ee, s, es   + payload      the responder's identity
    initiator → responder   s, se          + payload      the initiator's identity
    both ways               AEAD, nonce = 4 zero bytes ‖ u64 little endian counter, no associated data

The payload is a protobuf: identity key, signature by it over "noise-libp2p-static-key:" ‖ own static X25519 key, and the
muxers one speaks. The remote's signature is verified before anything it says is used; the initiator also compares the peer id
with the one it dialed before it sends its own identity. Muxer: the first of the *initiator's* list which the responder has;
None means that multistream has to settle it inside the channel.

A counter never wraps and is never reused: each `encrypt` call advances it, so whoever calls `encrypt` must send all that it
returns, in order (one writer task a connection).

Limits: handshake messages as long as a length prefix allows (65535 bytes), transport plaintext 65519 bytes a message, 100 muxers.
Errors: NoiseFault only; PeerMismatch is one. Secrets (keys, chaining key) are in no repr and no error.
Source: specification 03-p2p, section 11.2; noiseprotocol.org rev. 34; libp2p specs, noise.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from google.protobuf.message import DecodeError

from charon_actors.crypto import Entropy, k1_public_key, k1_sign_der, k1_verify_der
from charon_actors.p2p.multistream import YAMUX_PROTOCOL
from charon_actors.p2p.peer_id import PeerId, PeerIdFault, decode_libp2p_key, encode_public_key, peer_id_of, peer_id_text
from charon_actors.p2p.protobuf import libp2p_pb2

MAX_MESSAGE_BYTES: Final = 65535
TAG_BYTES: Final = 16
MAX_PLAINTEXT_BYTES: Final = MAX_MESSAGE_BYTES - TAG_BYTES
MAX_MUXERS: Final = 100
_KEY_BYTES: Final = 32
_PROTOCOL_NAME: Final = b"Noise_XX_25519_ChaChaPoly_SHA256"  # exactly 32 bytes, so it is its own hash
_SIGNATURE_PREFIX: Final = b"noise-libp2p-static-key:"
_LAST_NONCE: Final = 2**64 - 2  # 2**64 - 1 is reserved by Noise

assert len(_PROTOCOL_NAME) == 32


class NoiseFault(Exception):
    """The handshake failed, or a message does not decrypt; the connection is of no more use."""


class PeerMismatch(NoiseFault):
    """The peer proved an identity, but not the one that was dialed."""


class NoiseSession:
    """The channel after the handshake: plaintext in, wire bytes out, and back. Not shared between writers.

    remote_peer_id: proven. muxer: agreed early, or None. The remote's early bytes are in it already: call `receive(b"")` first.
    """

    def __init__(self, send_key: bytes, receive_key: bytes, remote_peer_id: PeerId, muxer: str | None, early: bytes) -> None:
        self._send, self._receive = ChaCha20Poly1305(send_key), ChaCha20Poly1305(receive_key)
        self._sent = self._received = 0
        self._buffer, self._offset = bytes(early), 0
        self.remote_peer_id, self.muxer = remote_peer_id, muxer

    def encrypt(self, plaintext: bytes | bytearray | memoryview) -> bytes:
        """Wire bytes of `plaintext`: as few noise messages as hold it, none for nothing. Raises: NoiseFault at the last nonce."""
        out = []
        with memoryview(plaintext) as view:
            for start in range(0, len(view), MAX_PLAINTEXT_BYTES):
                if self._sent > _LAST_NONCE:
                    raise NoiseFault("the nonces of this connection are used up")
                sealed = self._send.encrypt(_nonce(self._sent), view[start : start + MAX_PLAINTEXT_BYTES], None)
                self._sent += 1
                out += [len(sealed).to_bytes(2, "big"), sealed]
        return b"".join(out)

    def receive(self, data: bytes | bytearray) -> list[bytes]:
        """Plaintexts of the noise messages that `data` completes, in order. Raises: NoiseFault, which is final."""
        self.feed(data)
        plaintexts = []
        while (plaintext := self.take()) is not None:
            plaintexts.append(plaintext)
        return plaintexts

    def feed(self, data: bytes | bytearray) -> None:
        """Keep wire bytes, to be taken one message at a time."""
        self._buffer, self._offset = self._buffer[self._offset :] + data, 0

    def take(self) -> bytes | None:
        """The plaintext of the next message, None while it isn't complete. Raises: NoiseFault, which is final."""
        buffer, start = self._buffer, self._offset + 2
        if len(buffer) < start or len(buffer) < (end := start + int.from_bytes(buffer[start - 2 : start], "big")):
            return None
        if end - start < TAG_BYTES or self._received > _LAST_NONCE:
            raise NoiseFault("a message is too short, or the nonces are used up")
        try:
            with memoryview(buffer) as view:
                plaintext = self._receive.decrypt(_nonce(self._received), view[start:end], None)
        except InvalidTag:
            raise NoiseFault("a message does not decrypt") from None
        self._received += 1
        self._offset = end
        return plaintext


class NoiseHandshake:
    """One side of the handshake. Send `opening()`, then what each `receive` returns, until `session` is there.

    identity_private_key: secp256k1, 32 bytes. entropy: 32 bytes for the static key, then 32 for the ephemeral one (both fresh for
    each connection). expected_peer: the dialed id, or None. muxers: what we speak, by preference.
    """

    def __init__(
        self,
        identity_private_key: bytes,
        entropy: Entropy,
        *,
        is_initiator: bool,
        expected_peer: PeerId | None = None,
        muxers: Sequence[str] = (YAMUX_PROTOCOL,),
    ) -> None:
        self._identity = identity_private_key
        self._static = X25519PrivateKey.from_private_bytes(entropy(_KEY_BYTES))
        self._ephemeral = X25519PrivateKey.from_private_bytes(entropy(_KEY_BYTES))
        self._is_initiator, self._expected_peer, self._muxers = is_initiator, expected_peer, tuple(muxers)
        self._symmetric = _Symmetric()
        self._remote_ephemeral: X25519PublicKey | None = None
        self._buffer = bytearray()
        self.session: NoiseSession | None = None

    def opening(self) -> bytes:
        """What to send before anything is received: message 1 of the initiator, nothing of the responder."""
        if not self._is_initiator:
            return b""
        ephemeral = self._ephemeral.public_key().public_bytes_raw()
        self._symmetric.mix_hash(ephemeral)
        self._symmetric.mix_hash(b"")  # the empty payload
        return _framed(ephemeral)

    def receive(self, data: bytes | bytearray) -> bytes:
        """Take bytes of the other side; returns what to send next. Raises: NoiseFault, PeerMismatch."""
        self._buffer += data
        reply = b""
        while self.session is None and (message := self._take_message()) is not None:
            reply += self._read_as_initiator(message) if self._is_initiator else self._read_as_responder(message)
        return reply

    def _take_message(self) -> bytes | None:
        if len(self._buffer) < 2 or len(self._buffer) < (end := 2 + int.from_bytes(self._buffer[:2], "big")):
            return None
        message = bytes(self._buffer[2:end])
        del self._buffer[:end]
        return message

    def _read_as_initiator(self, message: bytes) -> bytes:  # message 2, answered with message 3
        symmetric = self._symmetric
        remote_ephemeral, rest = _split_key(message)
        symmetric.mix_hash(remote_ephemeral)
        remote_ephemeral_key = X25519PublicKey.from_public_bytes(remote_ephemeral)
        symmetric.mix_key(_agree(self._ephemeral, remote_ephemeral_key))
        sealed_static, sealed_payload = rest[: _KEY_BYTES + TAG_BYTES], rest[_KEY_BYTES + TAG_BYTES :]
        remote_static = symmetric.decrypt_and_hash(sealed_static)
        symmetric.mix_key(_agree(self._ephemeral, _public_key(remote_static)))
        peer_id, muxers = self._check_payload(symmetric.decrypt_and_hash(sealed_payload), remote_static)
        reply = symmetric.encrypt_and_hash(self._static.public_key().public_bytes_raw())
        symmetric.mix_key(_agree(self._static, remote_ephemeral_key))
        reply += symmetric.encrypt_and_hash(self._payload())
        send_key, receive_key = symmetric.split()
        self._finish(send_key, receive_key, peer_id, _first_common(self._muxers, muxers))
        return _framed(reply)

    def _read_as_responder(self, message: bytes) -> bytes:
        symmetric = self._symmetric
        if self._remote_ephemeral is None:  # message 1, answered with message 2
            remote_ephemeral, payload = _split_key(message)
            symmetric.mix_hash(remote_ephemeral)
            symmetric.mix_hash(payload)
            self._remote_ephemeral = X25519PublicKey.from_public_bytes(remote_ephemeral)
            ephemeral = self._ephemeral.public_key().public_bytes_raw()
            symmetric.mix_hash(ephemeral)
            symmetric.mix_key(_agree(self._ephemeral, self._remote_ephemeral))
            reply = ephemeral + symmetric.encrypt_and_hash(self._static.public_key().public_bytes_raw())
            symmetric.mix_key(_agree(self._static, self._remote_ephemeral))
            return _framed(reply + symmetric.encrypt_and_hash(self._payload()))
        sealed_static, sealed_payload = message[: _KEY_BYTES + TAG_BYTES], message[_KEY_BYTES + TAG_BYTES :]
        remote_static = symmetric.decrypt_and_hash(sealed_static)
        symmetric.mix_key(_agree(self._ephemeral, _public_key(remote_static)))
        peer_id, muxers = self._check_payload(symmetric.decrypt_and_hash(sealed_payload), remote_static)
        receive_key, send_key = symmetric.split()
        self._finish(send_key, receive_key, peer_id, _first_common(muxers, self._muxers))
        return b""

    def _payload(self) -> bytes:
        signed = _SIGNATURE_PREFIX + self._static.public_key().public_bytes_raw()
        return libp2p_pb2.NoisePayload(
            identity_key=encode_public_key(k1_public_key(self._identity)),
            identity_sig=k1_sign_der(self._identity, hashlib.sha256(signed).digest()),
            extensions=libp2p_pb2.NoiseExtensions(stream_muxers=self._muxers),
        ).SerializeToString()

    def _check_payload(self, payload: bytes, remote_static: bytes) -> tuple[PeerId, tuple[str, ...]]:
        """Who the remote is, proven, and its muxers."""
        try:
            message = libp2p_pb2.NoisePayload.FromString(payload)
            public_key = decode_libp2p_key(message.identity_key)
        except (DecodeError, PeerIdFault) as error:
            raise NoiseFault(f"bad handshake payload: {error}") from None
        digest = hashlib.sha256(_SIGNATURE_PREFIX + remote_static).digest()
        if not k1_verify_der(public_key, digest, message.identity_sig):
            raise NoiseFault("the identity signature of the peer is wrong")
        peer_id = peer_id_of(public_key)
        if self._expected_peer is not None and peer_id != self._expected_peer:
            raise PeerMismatch(f"the peer is {peer_id_text(peer_id)}, not {peer_id_text(self._expected_peer)}")
        muxers = tuple(message.extensions.stream_muxers)
        return peer_id, muxers if len(muxers) <= MAX_MUXERS else ()

    def _finish(self, send_key: bytes, receive_key: bytes, peer_id: PeerId, muxer: str | None) -> None:
        self.session = NoiseSession(send_key, receive_key, peer_id, muxer, bytes(self._buffer))
        self._buffer.clear()


class _Symmetric:
    """Noise's SymmetricState: chaining key, transcript hash, and the handshake cipher. Names are those of the Noise paper."""

    def __init__(self) -> None:
        self._chaining_key = self._hash = _PROTOCOL_NAME
        self._cipher: ChaCha20Poly1305 | None = None
        self._nonce = 0
        self.mix_hash(b"")  # empty prologue

    def mix_hash(self, data: bytes) -> None:
        self._hash = hashlib.sha256(self._hash + data).digest()

    def mix_key(self, shared: bytes) -> None:
        self._chaining_key, key = _hkdf(self._chaining_key, shared)
        self._cipher, self._nonce = ChaCha20Poly1305(key), 0

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        assert self._cipher is not None, "a key was mixed in before"
        sealed = self._cipher.encrypt(_nonce(self._nonce), plaintext, self._hash)
        self._nonce += 1
        self.mix_hash(sealed)
        return sealed

    def decrypt_and_hash(self, sealed: bytes) -> bytes:
        assert self._cipher is not None, "a key was mixed in before"
        try:
            plaintext = self._cipher.decrypt(_nonce(self._nonce), sealed, self._hash)
        except InvalidTag:
            raise NoiseFault("a handshake message does not decrypt") from None
        self._nonce += 1
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        return _hkdf(self._chaining_key, b"")


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    secret = hmac.digest(chaining_key, material, "sha256")
    first = hmac.digest(secret, b"\x01", "sha256")
    return first, hmac.digest(secret, first + b"\x02", "sha256")


def _nonce(counter: int) -> bytes:
    return b"\0\0\0\0" + counter.to_bytes(8, "little")


def _agree(private: X25519PrivateKey, public: X25519PublicKey) -> bytes:
    try:
        return private.exchange(public)
    except ValueError:  # the all-zero result of a low-order point
        raise NoiseFault("the peer sent a key of low order") from None


def _public_key(raw: bytes) -> X25519PublicKey:
    if len(raw) != _KEY_BYTES:
        raise NoiseFault("a static key has 32 bytes")
    return X25519PublicKey.from_public_bytes(raw)


def _split_key(message: bytes) -> tuple[bytes, bytes]:
    if len(message) < _KEY_BYTES:
        raise NoiseFault("a handshake message is too short")
    return message[:_KEY_BYTES], message[_KEY_BYTES:]


def _first_common(preferred: Sequence[str], other: Sequence[str]) -> str | None:
    return next((muxer for muxer in preferred if muxer in other), None)


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message
