"""What the mesh says about its peers and relays. peer, relay: their names. Source of the numbers: specification 03 §3.2, §5.3, §6, §7."""

from actors.facts import Fact
from charon_actors.p2p.peerinfo import Judgement


class MeshFact(Fact, frozen=True):
    """Any of these."""


class ConnectionUp(MeshFact, frozen=True):
    """One more connection to a peer."""

    peer: str


class PingAnswered(MeshFact, frozen=True):
    peer: str
    rtt_s: float


class PingFailed(MeshFact, frozen=True):
    peer: str


class SendRefused(MeshFact, frozen=True):
    """A detached send was refused or failed. reason: `busy`, or how the error is called."""

    peer: str
    reason: str


class SendDone(MeshFact, frozen=True):
    """A message was written, and answered if it wants an answer."""

    peer: str
    protocol: str
    topic: str
    seconds: float


class StreamOver(MeshFact, frozen=True):
    """What went over a stream, payload only."""

    peer: str
    protocol: str
    sent_bytes: int
    received_bytes: int


class StreamRefused(MeshFact, frozen=True):
    """An incoming stream found no place."""

    peer: str


class MessageDropped(MeshFact, frozen=True):
    """A peer's message found nobody to take it in time. peer_index: in operator order."""

    peer_index: int
    protocol: str


class HandlerCrashed(MeshFact, frozen=True):
    """A handler of an incoming stream raised something that nobody expected."""

    peer: str
    protocol: str


class HandshakeEnded(MeshFact, frozen=True):
    """Inbound. result: accepted, refused, failed, silent, dropped."""

    result: str


class PeerPaused(MeshFact, frozen=True):
    """A peer beyond its credit was not read for that long."""

    peer: str
    seconds: float


class PeerCutOff(MeshFact, frozen=True):
    """reason: credit, memory, places."""

    peer: str
    reason: str


class PeerSampled(MeshFact, frozen=True):
    """Every half minute. direct, relayed: connections. streams: how many by direction and protocol."""

    peer: str
    direct: int
    relayed: int
    streams: dict[tuple[str, str], int]


class PeerInfoJudged(MeshFact, frozen=True):
    """What a peer's answer to peerinfo tells; what was not concluded is None in it."""

    peer: str
    judgement: Judgement


class RelayReserved(MeshFact, frozen=True):
    """Whether we hold a place at the relay."""

    relay: str
    is_reserved: bool


class RelaySampled(MeshFact, frozen=True):
    """Every half minute."""

    relay: str
    connections: int
