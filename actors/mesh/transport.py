"""Transports: how bytes get from one node to another, below the handshake. What plugs in here needs no change anywhere else in the mesh.

    dial      an address → a byte stream
    listen    where we can be reached → byte streams, each with where it comes from

Everything above (security, identity, muxer, gate, places, pace) is the same for all of them. TCP is `tcp.py`.
Source: specification 03 §2, §2.3.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import trio

from charon_actors.p2p.multiaddr import Multiaddr


class Incoming(NamedTuple):
    """A byte stream that somebody opened to us. origin: who pays for its handshake (an IP address; IPv6: its /64), and its port."""

    stream: trio.abc.Stream
    remote_address: Multiaddr
    origin: tuple[str, int]


class Acceptor(Protocol):
    """A place where we listen. It is opened outside of the mesh and stays open over restarts of the listener."""

    async def accept(self) -> Incoming:
        """The next one. Raises: OSError (for a moment: again later; EBADF, EINVAL, ENOTSOCK: for good)."""


class Transport(Protocol):
    """name: the label of its connections in metrics."""

    @property
    def name(self) -> str: ...

    def speaks(self, address: Multiaddr) -> bool:
        """Whether this transport dials such an address."""

    async def dial(self, address: Multiaddr) -> trio.abc.Stream:
        """Raises: DialFault or one of DIAL_ERRORS. Cancellation: at any time; nothing stays open."""


def transport_for(transports: Sequence[Transport], address: Multiaddr) -> Transport | None:
    """The first that speaks it."""
    return next((transport for transport in transports if transport.speaks(address)), None)
