"""Node signatures: each operator's identity key signs the lock hash, and the lock holds all of them. Sans-IO.

They travel by reliable broadcast as MsgNodeSig. The lock hash may not be known yet when a fast peer's signature arrives, so it is
stored first and verified when `collect` is called; form, place and sender are checked at once.
Charon's placeholder 0xdeadbeef ("no signature", operators that leave in edit ceremonies) is refused: here everybody signs.

Limits: one signature of 65 bytes an operator. Source: specification 04 §6.4.
"""

from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from charon_actors.crypto import k1_sign_recoverable, k1_verify_recoverable
from charon_actors.dkg.faults import CeremonyFault
from charon_actors.p2p.protobuf import dkg_pb2

SIGNATURE_BYTES: Final = 65


class NodeSignatures:
    """Signatures of the lock hash by operator. own_index: our peer index. public_keys: 33 bytes each, in operator order."""

    def __init__(self, own_index: int, private_key: bytes, public_keys: Sequence[bytes]) -> None:
        self._own_index, self._private_key, self._public_keys = own_index, private_key, tuple(public_keys)
        self._signatures: dict[int, bytes] = {}

    def __repr__(self) -> str:
        return f"NodeSignatures({sorted(self._signatures)})"

    def sign(self, lock_hash: bytes) -> bytes:
        """Our own MsgNodeSig, to broadcast."""
        signature = k1_sign_recoverable(self._private_key, lock_hash)
        self._signatures[self._own_index] = signature
        return dkg_pb2.MsgNodeSig(signature=signature, peer_index=self._own_index).SerializeToString()

    def check(self, peer_index: int, body: bytes) -> None:
        """What we look at before we sign the hash of a peer's broadcast. Raises CeremonyFault."""
        self._decode(peer_index, body)

    def receive(self, peer_index: int, body: bytes) -> None:
        """A peer's MsgNodeSig, from the broadcast. A repeat of the same is harmless. Raises CeremonyFault."""
        signature = self._decode(peer_index, body)
        if self._signatures.setdefault(peer_index, signature) != signature:
            raise CeremonyFault(peer_index, "sent two different node signatures")

    def missing(self) -> list[int]:
        """Peer indices whose signature has not come yet."""
        return [index for index in range(len(self._public_keys)) if index not in self._signatures]

    def collect(self, lock_hash: bytes) -> tuple[bytes, ...]:
        """All signatures in operator order, each verified. Raises CeremonyFault that names who signed something else."""
        assert not self.missing(), "all operators have signed"
        for index, key in enumerate(self._public_keys):
            if not k1_verify_recoverable(key, lock_hash, self._signatures[index]):
                raise CeremonyFault(index, "node signature does not verify: it signed another lock hash")
        return tuple(self._signatures[index] for index in range(len(self._public_keys)))

    def _decode(self, peer_index: int, body: bytes) -> bytes:
        try:
            message = dkg_pb2.MsgNodeSig.FromString(body)
        except DecodeError:
            raise CeremonyFault(peer_index, "malformed node signature") from None
        if not 0 <= peer_index < len(self._public_keys) or peer_index == self._own_index:
            raise CeremonyFault(peer_index, "sent a node signature, but is no peer of this ceremony")
        if message.peer_index != peer_index:
            raise CeremonyFault(peer_index, f"sent a node signature in the name of operator {message.peer_index}")
        if len(message.signature) != SIGNATURE_BYTES:
            raise CeremonyFault(peer_index, f"node signature of {len(message.signature)} bytes")
        return bytes(message.signature)
