"""Ping: is the peer there, and how far away? `/ipfs/ping/1.0.0`.

Client: a new stream each time, so that the best connection of the moment is measured; 32 random bytes out, the same 32 back.
Server: echoes until EOF, 10 s of silence or 30 s in total; whole pings, as many as have come, for who sends many at once must not
wake us for each. A reset of a ping stream is how Go ends it: normal.

Limits: ECHOED_BYTES of buffer; the times above. Source: specification 03 §7.
"""

from typing import Final

import trio

from actors.mesh.handlers import close_quietly
from actors.mesh.stream import Stream
from charon_actors.crypto import Entropy

PING: Final = "/ipfs/ping/1.0.0"
PING_BYTES: Final = 32
ECHOED_BYTES: Final = 128 * PING_BYTES
PING_INTERVAL_S: Final = 1.0
PING_TIMEOUT_S: Final = 10.0
SERVER_IDLE_S: Final = 10.0
SERVER_TOTAL_S: Final = 30.0
BACKOFF_BASE_S: Final = 1.0
BACKOFF_MAX_S: Final = 30.0


class PingFault(Exception):
    """The peer closed the stream or echoed something else."""


async def ping_once(stream: Stream, entropy: Entropy) -> float:
    """Round trip time in seconds of one ping on a fresh ping stream; the caller closes the stream. Raises: PingFault, stream errors."""
    sent = entropy(PING_BYTES)
    start = trio.current_time()
    await stream.send_all(sent)
    echoed = bytearray()
    while len(echoed) < PING_BYTES:
        chunk = await stream.receive_some(PING_BYTES - len(echoed))
        if not chunk:
            raise PingFault("the peer closed the ping stream")
        echoed += chunk
    if echoed != sent:
        raise PingFault("the peer echoed other bytes")
    return trio.current_time() - start


async def serve_ping(stream: Stream) -> None:
    """Echo until the peer has had enough."""
    with trio.move_on_after(SERVER_TOTAL_S):
        try:
            pending = bytearray()
            while True:
                with trio.fail_after(SERVER_IDLE_S):
                    chunk = await stream.receive_some(ECHOED_BYTES)
                if not chunk:
                    break
                pending += chunk
                whole = len(pending) // PING_BYTES * PING_BYTES
                if whole:
                    await stream.send_all(bytes(pending[:whole]))
                    del pending[:whole]
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass
    await close_quietly(stream)
