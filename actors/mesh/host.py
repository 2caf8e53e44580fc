"""What all children of one mesh share: who we are, whom we let in, what we serve. Nothing here changes but the board and the ledger."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from actors.facts import OnFact
from actors.mesh.account import Ledger
from actors.mesh.board import Board
from actors.mesh.handlers import Handler
from actors.mesh.identify import Introduction
from actors.mesh.transport import Transport
from actors.mesh.upgrade import HostIdentity
from charon_actors.crypto import Entropy
from charon_actors.p2p.multiaddr import Multiaddr
from charon_actors.p2p.peerinfo import PeerInfo
from charon_actors.profile import Profile


@dataclass(frozen=True)
class MeshPeer:
    """A node of the cluster. index: place in the operator list, from 0. addresses: from its ENR and the configuration."""

    index: int
    peer_id: bytes
    name: str
    public_key: bytes
    addresses: tuple[Multiaddr, ...] = ()


@dataclass(frozen=True)
class Host:
    """Handed to every child; see the fields' comments."""

    identity: HostIdentity
    own_index: int
    peers: tuple[MeshPeer, ...]
    handlers: Mapping[str, Handler]  # for peers of the cluster; relays are served built-in protocols only
    introduction: Introduction
    board: Board
    ledger: Ledger
    on_fact: OnFact
    transports: tuple[Transport, ...]
    profile: Profile
    own_info: Callable[[], PeerInfo]  # what peerinfo answers, with the present time
    is_pinging: bool
    is_polling_peerinfo: bool
    entropy: Entropy = field(repr=False)
    wall_clock: Callable[[], float]  # unix seconds
    is_listening: bool
    force_direct_interval_s: float = 60.0

    def is_allowed(self, peer_id: bytes) -> bool:
        """The gate (03 §2.1): nodes of the cluster but ourselves, and relays by the ids that they have now."""
        return self.peer_index(peer_id) is not None or self.board.relay_of(peer_id) is not None

    def is_welcome(self, peer_id: bytes) -> bool:
        """The gate for a new connection: allowed, and not resting after a flood."""
        return self.is_allowed(peer_id) and not self.ledger.is_resting(peer_id)

    def peer_index(self, peer_id: bytes) -> int | None:
        """Index of another node of the cluster with this id."""
        return next((peer.index for peer in self.peers if peer.peer_id == peer_id and peer.index != self.own_index), None)

    @property
    def protocols(self) -> Sequence[str]:
        """All protocols that a peer of the cluster may open, sorted."""
        return self.introduction.protocols
