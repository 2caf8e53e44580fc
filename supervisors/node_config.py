"""What a node must know: the settings of `charon run`, verified."""

from pathlib import Path

from actors.validator_api import Tls
from charon_actors.cluster.lock import Lock
from charon_actors.eth2.beacon_urls import NodeUrl
from charon_actors.eth2.networks import Network
from supervisors.network import NetworkConfig


class NodeConfig(NetworkConfig, frozen=True, kw_only=True):
    """What a node must know. Everything in it has been verified by whoever made it.

    network: of the lock. state_dir: where the slashing record and the node record are kept. Endpoints are `ip:port`. graffiti: none, one
    for all validators or one each in the lock's order, up to 32 bytes, 28 if graffiti_names_client. validator_api_tls: None for plain HTTP.
    allow_foreign_fee_recipient: sign blocks that pay somebody else than the lock says.
    is_slashing_record_lost: the operator says so; see actors/slashing/store.py for what that does, and doesn't.
    """

    lock: Lock
    network: Network
    state_dir: Path
    beacon_nodes: tuple[NodeUrl, ...]
    fallback_beacon_nodes: tuple[NodeUrl, ...] = ()
    beacon_headers: tuple[tuple[str, str], ...] = ()
    beacon_timeout_s: float = 2.0
    beacon_submit_timeout_s: float = 2.0
    validator_api_address: str = "127.0.0.1:3600"
    monitoring_address: str = "127.0.0.1:3620"
    graffiti: tuple[bytes, ...] = ()
    graffiti_names_client: bool = False
    validator_api_tls: Tls | None = None
    is_slashing_record_lost: bool = False
    allow_foreign_fee_recipient: bool = False

    def __repr__(self) -> str:
        return f"NodeConfig(lock={self.lock.lock_hash.hex()[:7]}, own_index={self.own_index})"
