"""The Ethereum networks with built-in parameters. Pure data; custom networks are passed in by the caller, nothing is registered.

The genesis fork version is the lookup key of cluster files (01 §6.3). The table is that of all Charon releases we can meet:
Holesky left v1.11 and is still needed to read older locks.

Source: specification 01 §6.3, 08 §6.1.
"""

from collections.abc import Sequence
from typing import Final

import msgspec


class Network(msgspec.Struct, frozen=True):
    """genesis_fork_version, capella_fork_version: 4 bytes. genesis_time_s: Unix seconds. slot_duration_s: seconds."""

    name: str
    chain_id: int
    genesis_fork_version: bytes
    genesis_time_s: int
    capella_fork_version: bytes
    slot_duration_s: float = 12.0


def _network(name: str, chain_id: int, genesis: str, genesis_time_s: int, capella: str, slot_s: float) -> Network:
    return Network(name, chain_id, bytes.fromhex(genesis), genesis_time_s, bytes.fromhex(capella), slot_s)


NETWORKS: Final[tuple[Network, ...]] = (
    _network("mainnet", 1, "00000000", 1606824023, "03000000", 12.0),
    _network("goerli", 5, "00001020", 1616508000, "03001020", 12.0),
    _network("gnosis", 100, "00000064", 1638993340, "03000064", 5.0),
    _network("chiado", 10200, "0000006f", 1665396300, "0300006f", 5.0),
    _network("sepolia", 11155111, "90000069", 1655733600, "90000072", 12.0),
    _network("hoodi", 560048, "10000910", 1742213400, "40000910", 12.0),
    _network("holesky", 17000, "01017000", 1696000704, "04017000", 12.0),
)

ALIASES: Final = {"prater": "goerli"}  # on the command line only (01 §6.3)


def network_by_name(name: str, extra: Sequence[Network] = ()) -> Network | None:
    """The network of that name, built-in ones first, then `extra`; None if there is none. `prater` is goerli."""
    wanted = ALIASES.get(name, name)
    return next((network for network in (*NETWORKS, *extra) if network.name == wanted), None)


def network_by_fork_version(genesis_fork_version: bytes, extra: Sequence[Network] = ()) -> Network | None:
    """The network with that genesis fork version (4 bytes), built-in ones first, then `extra`; None if there is none."""
    return next((network for network in (*NETWORKS, *extra) if network.genesis_fork_version == genesis_fork_version), None)
