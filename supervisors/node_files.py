"""What a node reads of its data directory: the identity key, and a lock that was verified.

    from supervisors.node import open_node
    from supervisors.node_files import config_from

    async with open_node(config_from(".charon", beacon_nodes=["http://127.0.0.1:5052"])) as node:
        await node.ready()

The command line gives the two paths one by one; the rest is the same.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.peers import Peer, own_peer, peers_of
from charon_actors.cluster.verify import ContractCheck
from charon_actors.crypto import k1_public_key
from charon_actors.errors import UserError
from charon_actors.eth2.beacon_urls import NodeUrl, decode_node_url
from charon_actors.eth2.networks import Network, network_by_fork_version
from charon_actors.files.data_directory import load_lock
from charon_actors.files.identity import load_key_file
from supervisors.node_config import NodeConfig

KEY_FILE: Final = "charon-enr-private-key"
LOCK_FILE: Final = "cluster-lock.json"

Notice = Callable[[str], None]


class NodeFiles(NamedTuple):
    """own: which operator the key makes us."""

    lock: Lock
    private_key: bytes
    own: Peer
    network: Network


def config_from(
    directory: str | Path,
    *,
    beacon_nodes: str | Sequence[str],
    state_dir: str | Path | None = None,
    networks: Sequence[Network] = (),
    contract: ContractCheck | None = None,
    notice: Notice = lambda text: None,
    **settings: Any,
) -> NodeConfig:
    """A node's configuration from a `.charon` directory, whose lock is verified. For programs that embed a node.

    beacon_nodes: URLs, or one. state_dir: None for the directory itself. networks, contract: of `read_node_files`. notice: is told what
    an operator should know. settings: what else `NodeConfig` takes. Without `relays` and `p2p_tcp_addresses` only peers whose records
    hold an address can be reached. Nothing is written, and no lock file of the key is taken.
    Raises: UserError that names what is wrong with which file; TypeError (a setting that is unknown, or stands in the files).
    """
    folder = Path(directory)
    files = read_node_files(folder / KEY_FILE, folder / LOCK_FILE, notice, networks=networks, contract=contract)
    return NodeConfig(
        lock=files.lock,
        private_key=files.private_key,
        own_index=files.own.index,
        network=files.network,
        state_dir=folder if state_dir is None else Path(state_dir),
        beacon_nodes=decode_beacon_nodes((beacon_nodes,) if isinstance(beacon_nodes, str) else beacon_nodes, "beacon_nodes"),
        **settings,
    )


def decode_beacon_nodes(texts: Sequence[str], where: str) -> tuple[NodeUrl, ...]:
    """At least one. Raises: UserError."""
    if not texts:
        raise UserError(where, "no beacon node is given", "write for example http://127.0.0.1:5052")
    return tuple(decode_node_url(text, where) for text in texts)


def read_node_files(
    key_path: Path,
    lock_path: Path,
    notice: Notice,
    *,
    is_verified: bool = True,
    networks: Sequence[Network] = (),
    contract: ContractCheck | None = None,
) -> NodeFiles:
    """networks: besides the built-in ones. contract: asks contract wallets for their signatures. Raises: UserError."""
    key = load_key_file(key_path, notice)
    try:
        lock = load_lock(lock_path, notice, is_verified=is_verified, networks_extra=networks, contract=contract)
    except UserError as error:
        raise _unknown_network(lock_path, networks) or error from None
    try:
        own = own_peer(peers_of(lock.definition), k1_public_key(key))
    except ClusterFault as fault:
        raise UserError(
            str(key_path), f"{fault} in {lock_path}", "use the key and the lock of one and the same operator"
        ) from fault
    if len(lock.validators) != len(lock.definition.validators):  # if it wasn't verified, nobody else has said so
        raise UserError(
            str(lock_path),
            f"holds {len(lock.validators)} validators, and addresses for {len(lock.definition.validators)}",
            "restore it from a backup or another operator",
        )
    network = network_by_fork_version(lock.definition.fork_version, networks)
    if network is None:
        raise _of_unknown_network(lock_path, lock)
    return NodeFiles(lock, key, own, network)


def _unknown_network(lock_path: Path, networks: Sequence[Network]) -> UserError | None:
    """The error for a lock that can't be verified because its network is not known; None: that isn't the reason."""
    try:
        lock = decode_lock(lock_path.read_bytes())
    except (OSError, ClusterFault):
        return None
    is_known = network_by_fork_version(lock.definition.fork_version, networks) is not None
    return None if is_known else _of_unknown_network(lock_path, lock)


def _of_unknown_network(lock_path: Path, lock: Lock) -> UserError:
    version = "0x" + lock.definition.fork_version.hex()
    return UserError(str(lock_path), f"no network with fork version {version} is known", "give the --testnet flags")
