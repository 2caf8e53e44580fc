"""The doors of a ceremony: one handler a protocol, all registered before anybody is dialed (04 §1.3).

A handler reads, asks or tells the actor, and closes; limits are those of an honest message of this ceremony's size. A peer's fault
has reached the actor by then, which ends the ceremony; the handler only closes the stream.
"""

from contextlib import suppress
from typing import Final

from actors.dkg.messages import (
    BroadcastReceived,
    Message,
    PartialsReceived,
    PeerBroke,
    SharesReceived,
    SignatureRequested,
)
from actors.dkg.sync_stream import serve_sync
from actors.mailbox import Address
from actors.mesh import PEER_ERRORS, Handler, Stream, close_quietly, one_way, request_response
from charon_actors.dkg.ceremony import Ceremony
from charon_actors.dkg.dialect import (
    BROADCAST_RECEIVE_S,
    PARTIALS_PROTOCOL,
    RECEIVE_S,
    SHARES_PROTOCOL,
    SYNC_PROTOCOL,
)
from charon_actors.dkg.faults import CeremonyFault

FAULTS: Final = (CeremonyFault,)


def ceremony_handlers(address: Address[Message], ceremony: Ceremony, timeout_s: float) -> dict[str, Handler]:
    """All handlers, by protocol. timeout_s: how long partial signatures may take to come in (`--timeout`)."""

    async def on_signature_request(peer_index: int, body: bytes) -> bytes:
        return await address.ask(SignatureRequested(peer_index, body))

    async def on_broadcast(peer_index: int, body: bytes) -> bytes:
        await address.deliver(BroadcastReceived(peer_index, body))
        return b""  # Charon closes with an empty answer here, and with none after shares and partial signatures (03 §5.2)

    async def on_shares(peer_index: int, body: bytes) -> None:
        await address.deliver(SharesReceived(peer_index, body))

    async def on_partials(peer_index: int, body: bytes) -> None:
        await address.deliver(PartialsReceived(peer_index, body))

    async def on_sync_stream(peer_index: int, stream: Stream) -> None:
        with suppress(*PEER_ERRORS):  # a broken stream comes back
            try:
                await serve_sync(address, peer_index, stream)
            except CeremonyFault as fault:
                await address.deliver(PeerBroke(peer_index, fault.reason))
        await close_quietly(stream)

    broadcast_limit, dialect = ceremony.broadcast_limit_bytes, ceremony.dialect
    return {
        SYNC_PROTOCOL: on_sync_stream,
        dialect.signature_protocol: request_response(on_signature_request, broadcast_limit, BROADCAST_RECEIVE_S, faults=FAULTS),
        dialect.message_protocol: request_response(on_broadcast, broadcast_limit, BROADCAST_RECEIVE_S, faults=FAULTS),
        SHARES_PROTOCOL: one_way(on_shares, ceremony.shares_limit_bytes, RECEIVE_S, faults=FAULTS),
        PARTIALS_PROTOCOL: one_way(on_partials, ceremony.exchange.limit_bytes, timeout_s, faults=FAULTS),
    }
