"""Step sync over a stream: the frames of both sides of the ping-pong.

A frame is written in one piece, so that its body travels unfragmented; it is read in whatever pieces it comes (04 §3.1).
The same stream carries report after report; only the side that opened it speaks first.

Limits: one frame at a time; bodies above 4 KiB are refused before they are read.
"""

import trio

from actors.dkg.messages import Message, SyncReported
from actors.mailbox import Address
from charon_actors.dkg.sync_messages import take_sync_frame
from charon_actors.p2p.framing import encode_fixed64


class FramedStream:
    """Frames on a stream that somebody else owns and closes. peer_index: for the errors."""

    def __init__(self, stream: trio.abc.Stream, peer_index: int) -> None:
        self._stream, self._peer_index = stream, peer_index
        self._buffer = bytearray()

    async def send(self, body: bytes) -> None:
        """Raises what the stream raises."""
        await self._stream.send_all(encode_fixed64(body))

    async def receive(self) -> bytes | None:
        """The next body, or None when the peer has closed. Raises CeremonyFault for impossible lengths, and as the stream."""
        while (body := take_sync_frame(self._peer_index, self._buffer)) is None:
            received = await self._stream.receive_some()
            if not received:
                return None
            self._buffer += received
        return body


async def serve_sync(address: Address[Message], peer_index: int, stream: trio.abc.Stream) -> None:
    """The server's side of one stream, until either side ends it. Raises as the stream and the actor do.

    When the peer just closes, nothing is lost: its step is remembered, and it may come back on another stream.
    """
    frames = FramedStream(stream, peer_index)
    while (body := await frames.receive()) is not None:
        reply = await address.ask(SyncReported(peer_index, body))
        if reply.body is not None:
            await frames.send(reply.body)
        if reply.ends:
            return
