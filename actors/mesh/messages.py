"""The messages of the mesh's children, and how they fail.

    to a peer child    Send (tell) · Deliver, Exchange, OpenStream, Adopt, FetchStatus (ask)
    to a relay child   OpenCircuit, Adopt (ask)

    error             Retryable   meaning
    NoConnection      yes         no connection to the peer came up within the time limit
    SendTimeout       yes         connected, but the peer did not take the message, or not answer, within the time limit
    StreamLost        yes         the stream or its connection broke on the way (a circuit that is recycled, a restart)
    PeerBusy          yes         too many sends to this peer are in flight; nothing was sent
    ProtocolRefused   no          the peer does not speak any of the protocols
    BadAnswer       no          the peer closed without an answer, or answered something too large or malformed

All are MeshFault. Source: specification 03 §5.
"""

from typing import Final

import msgspec

from actors.mailbox import Request
from actors.mesh.connection import Connection
from actors.mesh.stream import Stream
from charon_actors.errors import Retryable
from charon_actors.p2p.multiaddr import Multiaddr

SEND_TIMEOUT_S: Final = 7.0
OPEN_TIMEOUT_S: Final = 10.0
DEFAULT_ANSWER_LIMIT_BYTES: Final = 32 * 1024 * 1024


class MeshFault(Exception):
    """A send, an exchange or a stream failed; see the table on top."""


class NoConnection(MeshFault, Retryable): ...


class SendTimeout(MeshFault, Retryable): ...


class StreamLost(MeshFault, Retryable): ...


class PeerBusy(MeshFault, Retryable): ...


class ProtocolRefused(MeshFault): ...


class BadAnswer(MeshFault): ...


class CircuitFault(MeshFault, Retryable):
    """No circuit through this relay now; the text has the relay's reason."""


class SendDetached(msgspec.Struct, frozen=True):
    """One-way message, detached from the caller: 7 s, one retry after 100 ms when a circuit or stream breaks.

    protocols: in order of preference. topic: label of `p2p_send_duration_seconds`. A failure is logged (with hysteresis) and counted.
    """

    protocols: tuple[str, ...]
    message: bytes
    topic: str = ""


class Deliver(Request[None], frozen=True):
    """One-way message; answered when it is written and our side of the stream is closed.

    Raises: any MeshFault but BadAnswer. Cancellation: the stream is reset; the peer may have got the message.
    """

    protocols: tuple[str, ...]
    message: bytes
    timeout_s: float = SEND_TIMEOUT_S
    topic: str = ""


class Exchange(Request[bytes], frozen=True):
    """Request and response on one stream; answered with the response (at most `limit_bytes`).

    Raises: any MeshFault. Cancellation: the stream is reset; the peer may have handled the request.
    """

    protocols: tuple[str, ...]
    message: bytes
    timeout_s: float = SEND_TIMEOUT_S
    limit_bytes: int = DEFAULT_ANSWER_LIMIT_BYTES
    topic: str = ""


class OpenStream(Request[Stream], frozen=True):
    """A stream of one of `protocols`, negotiated; the asker owns it and must close it.

    It ends with ConnectionLost when its connection ends. Raises: NoConnection, SendTimeout, StreamLost, ProtocolRefused, PeerBusy.
    """

    protocols: tuple[str, ...]
    timeout_s: float = OPEN_TIMEOUT_S


class Adopt(Request[None], frozen=True):
    """Take over a connection that has passed handshake and gate. Unanswered, the connection stays the asker's, who closes it."""

    connection: Connection


class Circuit(msgspec.Struct, frozen=True):
    """A pipe through a relay, before any handshake. remote_address: `<relay address>/p2p/<relay id>/p2p-circuit`."""

    pipe: Stream
    is_limited: bool
    remote_address: Multiaddr


class OpenCircuit(Request[Circuit], frozen=True):
    """The raw pipe to `peer_id` through this relay; the asker owns it. Raises: CircuitFault, with what the relay said."""

    peer_id: bytes


class FetchStatus(Request["PeerStatus"], frozen=True):
    """What the child knows of its peer now."""


class ConnectionStatus(msgspec.Struct, frozen=True):
    """One connection. age_s: seconds since it came up; rtt_s: of the connection's own keepalive, None before the first."""

    remote_address: str
    is_outbound: bool
    is_limited: bool
    is_relayed: bool
    rtt_s: float | None
    age_s: float


class PeerStatus(msgspec.Struct, frozen=True):
    """A peer as seen from here; for the connectivity report (03 §12).

    dial_failures: address (with peer names) to reason, of the last round. addresses: what would be dialed directly.
    ping_rtt_s: the last ping, None while pings fail or are off.
    """

    index: int
    name: str
    connections: tuple[ConnectionStatus, ...]
    ping_rtt_s: float | None
    agent: str
    protocols: tuple[str, ...]
    addresses: tuple[str, ...]
    dial_failures: dict[str, str]
    version: str
    clock_offset_s: float | None
    nickname: str
