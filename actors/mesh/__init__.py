"""The mesh: authenticated connections to all other nodes of the cluster, direct and through relays.

    program
      │ build_mesh(config, handlers) → Mesh (what others hold) + bodies (what a supervisor runs)
      ├── listener          accepts, shakes hands, gates, hands over          restarts without touching a connection or the port
      ├── relay:<name>      one a relay: resolves, reserves, opens and accepts circuits
      └── peer:<name>       one a peer: owns its connections, dials, identifies, pings, sends; its crash closes only those

Everything between two of these children is a message (`messages.py`) or a published fact (`board.py`).
Source: specification 03-p2p; architecture §1.
"""

from actors.mesh.account import MEMBER_BYTES
from actors.mesh.facts import MeshFact, MessageDropped
from actors.mesh.handlers import PEER_ERRORS, Handler, Handlers, close_quietly, one_way, request_response
from actors.mesh.host import MeshPeer
from actors.mesh.mesh import Mesh, MeshConfig, build_mesh, mesh_peers
from actors.mesh.messages import (
    BadAnswer,
    MeshFault,
    NoConnection,
    PeerBusy,
    PeerStatus,
    ProtocolRefused,
    SendTimeout,
    StreamLost,
)
from actors.mesh.stream import Stream
from actors.mesh.tcp import open_listen_sockets
from actors.mesh.transport import Acceptor, Incoming, Transport

__all__ = [
    "MEMBER_BYTES",
    "PEER_ERRORS",
    "Acceptor",
    "BadAnswer",
    "Handler",
    "Handlers",
    "Incoming",
    "Mesh",
    "MeshConfig",
    "MeshFact",
    "MeshFault",
    "MeshPeer",
    "MessageDropped",
    "NoConnection",
    "PeerBusy",
    "PeerStatus",
    "ProtocolRefused",
    "SendTimeout",
    "Stream",
    "StreamLost",
    "Transport",
    "build_mesh",
    "close_quietly",
    "mesh_peers",
    "one_way",
    "open_listen_sockets",
    "request_response",
]
