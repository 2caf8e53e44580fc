"""Reliable broadcast: all sign a message's hash before anybody acts on it, so a sender cannot tell two stories. Sans-IO.

Theory of operation: the sender asks every peer to sign the hash of its message, adds its own signature, and sends the message
with all n signatures to everybody. A receiver acts on a message only with n good signatures, its own among them; and a node
signs at most one hash a (sender, message id). So two different messages of one sender can't both be complete.

    a signature request is answered when                                     otherwise
    the sender is an operator and the id is one of this ceremony             CeremonyFault, no answer
    the message is of the id's type and its content passes the id's check    same
    its hash is the first from this sender for this id, or the same again    same: "two different messages"

    a message is passed on when                                              otherwise
    id, type as above; we have signed this very hash for this sender         CeremonyFault
    it has exactly n signatures, each verifies for the operator at its place same

Stricter than Charon: content is checked before signing, and a message must match what we signed in this process. With version
1.0.0, whose hash covers neither session nor id, that is what keeps a message of an aborted ceremony out.

    version   hash to sign
    1.0.0     SHA-256(type_url ‖ value)
    2.0.0     SHA-256(len ‖ field for session hash, id, type_url, value), len 8 bytes big endian

`value` is hashed as received, never encoded again: Go writes repeated entries in random order.
Limits: one pinned hash a (sender, id); a message at most MAX_MESSAGE_BYTES. Source: specification 04 §4.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from google.protobuf.message import DecodeError

from charon_actors.crypto import k1_sign_recoverable, k1_verify_recoverable
from charon_actors.dkg.dialect import TYPE_URLS, Dialect
from charon_actors.dkg.faults import CeremonyFault
from charon_actors.p2p.protobuf import dkg_pb2

MAX_MESSAGE_BYTES: Final = 128 << 20

Check = Callable[[int, bytes], None]  # (sender's peer index, inner message): returns, or raises CeremonyFault


def broadcast_hash(dialect: Dialect, session_hash: bytes, message_id: str, type_url: str, value: bytes) -> bytes:
    """The 32 bytes that all operators sign."""
    if not dialect.binds_session:
        return hashlib.sha256(type_url.encode() + value).digest()
    fields = (session_hash, message_id.encode(), type_url.encode(), value)
    return hashlib.sha256(b"".join(len(field).to_bytes(8, "big") + field for field in fields)).digest()


class Outgoing:
    """A message of ours on its way: `request` for every peer, their answers to `accept`, then `seal` for every peer."""

    def __init__(self, bcast: "Bcast", message_id: str, value: bytes) -> None:
        self._bcast, self._id, self._value = bcast, message_id, value
        self._type_url = TYPE_URLS[message_id]
        self._hash = broadcast_hash(bcast.dialect, bcast.session_hash, message_id, self._type_url, value)
        self._signatures = {bcast.own_index: k1_sign_recoverable(bcast.private_key, self._hash)}
        request = dkg_pb2.BCastSigRequest(id=message_id)
        request.message.type_url, request.message.value = self._type_url, value
        self.request: Final[bytes] = request.SerializeToString()

    def accept(self, peer_index: int, response: bytes) -> None:
        """The peer's BCastSigResponse. Raises CeremonyFault unless it holds the peer's signature of our hash."""
        try:
            answer = dkg_pb2.BCastSigResponse.FromString(response)
        except DecodeError:
            raise CeremonyFault(peer_index, f"malformed answer to our signature request for {self._id}") from None
        if answer.id != self._id:
            raise CeremonyFault(peer_index, f"answered our signature request for {self._id} with another id")
        if not k1_verify_recoverable(self._bcast.public_keys[peer_index], self._hash, answer.signature):
            raise CeremonyFault(peer_index, f"answered our signature request for {self._id} with an invalid signature")
        self._signatures[peer_index] = answer.signature

    def missing(self) -> list[int]:
        """Peer indices that have not signed yet."""
        return [index for index in range(len(self._bcast.public_keys)) if index not in self._signatures]

    def seal(self) -> bytes:
        """The BCastMessage, once nobody is missing."""
        assert not self.missing(), "all operators have signed"
        signatures = [self._signatures[index] for index in range(len(self._signatures))]
        message = dkg_pb2.BCastMessage(id=self._id, signatures=signatures)
        message.message.type_url, message.message.value = self._type_url, self._value
        return message.SerializeToString()


class Bcast:
    """One node's part in all broadcasts of a ceremony.

    session_hash: 32 bytes, the definition hash. private_key: 32 bytes, secp256k1. public_keys: 33 bytes each, in operator order.
    checks: for each message id of the ceremony what its content must pass.
    """

    def __init__(
        self,
        dialect: Dialect,
        session_hash: bytes,
        own_index: int,
        private_key: bytes,
        public_keys: Sequence[bytes],
        checks: Mapping[str, Check],
    ) -> None:
        self.dialect, self.session_hash, self.own_index = dialect, session_hash, own_index
        self.private_key, self.public_keys = private_key, tuple(public_keys)
        self._checks = dict(checks)
        self._pinned: dict[tuple[int, str], bytes] = {}

    def __repr__(self) -> str:
        return f"Bcast({self.dialect.bcast})"

    def open(self, message_id: str, value: bytes) -> Outgoing:
        """Begin to broadcast a message of ours (encoded, without the Any around it)."""
        return Outgoing(self, message_id, value)

    def sign(self, peer_index: int, request: bytes) -> bytes:
        """Our BCastSigResponse to a peer's BCastSigRequest. Raises CeremonyFault (table on top)."""
        try:
            asked = dkg_pb2.BCastSigRequest.FromString(request)
        except DecodeError:
            raise CeremonyFault(peer_index, "malformed signature request") from None
        digest = self._checked(peer_index, asked)
        if self._pinned.setdefault((peer_index, asked.id), digest) != digest:
            what = f"asked us to sign two different messages for {asked.id}: it was restarted, or it tells different stories"
            raise CeremonyFault(peer_index, what)
        signature = k1_sign_recoverable(self.private_key, digest)
        return dkg_pb2.BCastSigResponse(id=asked.id, signature=signature).SerializeToString()

    def receive(self, peer_index: int, body: bytes) -> tuple[str, bytes]:
        """Id and inner message of a peer's BCastMessage. Raises CeremonyFault (table on top). Repeats are passed on again."""
        try:
            message = dkg_pb2.BCastMessage.FromString(body)
        except DecodeError:
            raise CeremonyFault(peer_index, "malformed broadcast") from None
        digest = self._checked(peer_index, message)
        if self._pinned.get((peer_index, message.id)) != digest:
            raise CeremonyFault(peer_index, f"broadcast a message for {message.id} that we have not signed in this ceremony")
        if len(message.signatures) != len(self.public_keys):
            what = f"{len(message.signatures)} signatures of {len(self.public_keys)} operators"
            raise CeremonyFault(peer_index, f"broadcast for {message.id} has {what}")
        for signer, (key, signature) in enumerate(zip(self.public_keys, message.signatures, strict=True)):
            if not k1_verify_recoverable(key, digest, signature):
                what = f"broadcast for {message.id} has an invalid signature in the place of operator {signer}"
                raise CeremonyFault(peer_index, what)
        return message.id, message.message.value

    def _checked(self, peer_index: int, message: Any) -> bytes:
        """The hash of what a request or message holds, after all checks of its content."""
        if not 0 <= peer_index < len(self.public_keys) or peer_index == self.own_index:
            raise CeremonyFault(peer_index, "sent a broadcast, but is no peer of this ceremony")
        if message.id not in self._checks:
            raise CeremonyFault(peer_index, f"broadcast with the unknown id {message.id[:80]!r}")
        if not message.HasField("message"):
            raise CeremonyFault(peer_index, f"broadcast for {message.id} without a message")
        type_url, value = message.message.type_url, message.message.value
        if type_url != TYPE_URLS[message.id]:
            raise CeremonyFault(peer_index, f"broadcast for {message.id} of the type {type_url[:80]!r}")
        self._checks[message.id](peer_index, value)
        return broadcast_hash(self.dialect, self.session_hash, message.id, type_url, value)
