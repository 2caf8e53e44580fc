"""The messages of the ceremony actor: what peers send, with the sender that the transport has authenticated.

    SyncReported         a step sync message; the answer says what to write back and whether the stream ends
    SignatureRequested   a peer's broadcast wants our signature; answered with the BCastSigResponse
    BroadcastReceived    a complete broadcast
    SharesReceived       secret shares for us
    PartialsReceived     partial signatures of one exchange
    PeerBroke            a stream's frames broke a rule before there was a message

A fault of the peer fails the request with CeremonyFault (the stream closes without an answer) and ends the ceremony.
"""

import msgspec

from actors.mailbox import Request


class SyncReply(msgspec.Struct, frozen=True):
    """body: MsgSyncResponse to write, None for none. ends: close the stream then."""

    body: bytes | None
    ends: bool = False


class SyncReported(Request[SyncReply], frozen=True):
    peer_index: int
    body: bytes


class SignatureRequested(Request[bytes], frozen=True):
    """Answered at once, whatever the ceremony calculates meanwhile: the requester waits 7 s (04 §4)."""

    peer_index: int
    body: bytes


class BroadcastReceived(msgspec.Struct, frozen=True):
    peer_index: int
    body: bytes


class SharesReceived(msgspec.Struct, frozen=True):
    peer_index: int
    body: bytes

    def __repr__(self) -> str:  # the body is secret
        return f"SharesReceived(peer_index={self.peer_index})"


class PartialsReceived(msgspec.Struct, frozen=True):
    peer_index: int
    body: bytes


class PeerBroke(msgspec.Struct, frozen=True):
    peer_index: int
    reason: str


Message = SyncReported | SignatureRequested | BroadcastReceived | SharesReceived | PartialsReceived | PeerBroke
