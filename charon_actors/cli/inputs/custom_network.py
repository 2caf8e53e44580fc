"""The four `--testnet-…` flags: a network that is not built in. Source: specification 01, section 6.3; 09, section 3.1.

Charon ignores an incomplete set silently and goes on with mainnet; that costs somebody money some day, so here it is an
error. So is a custom network with the name or the fork version of a built-in one: lookups would find the wrong one.
"""

import re

from charon_actors.cli.options.table import Values
from charon_actors.errors import UserError
from charon_actors.eth2.networks import NETWORKS, Network, network_by_fork_version, network_by_name

_NAMES = ("testnet-name", "testnet-chain-id", "testnet-fork-version", "testnet-genesis-timestamp")
CAPELLA_FLAG = "testnet-capella-hard-fork"


def custom_networks(values: Values, *, has_capella: bool = False) -> tuple[Network, ...]:
    """The custom network of the flags, or none. Raises UserError.

    has_capella: the command declares `--testnet-capella-hard-fork`; when it is not given, the network's capella_fork_version is
    empty, and voluntary exits can't be signed.
    """
    missing = [name for name in _NAMES if not values.is_set(name) or values.text_of(name) in ("", "0")]
    if len(missing) == len(_NAMES):
        if has_capella and values.text(CAPELLA_FLAG):
            raise UserError(values.where(CAPELLA_FLAG), "there is no custom network", f"also give --{_NAMES[0]} and so on")
        return ()
    if missing:
        names = ", ".join(f"--{name}" for name in missing)
        given = [name for name in (*missing, *_NAMES) if values.is_set(name)]  # first what is given, but empty
        where = values.where(given[0])
        raise UserError(where, f"the custom network lacks {names}", "give all four flags, or none")
    network = Network(
        name=values.text("testnet-name"),
        chain_id=values.number("testnet-chain-id"),
        genesis_fork_version=_fork_version(values, "testnet-fork-version"),
        genesis_time_s=values.number("testnet-genesis-timestamp"),
        capella_fork_version=_fork_version(values, CAPELLA_FLAG) if has_capella and values.text(CAPELLA_FLAG) else b"",
    )
    if network.genesis_time_s < 0:
        raise UserError(values.where("testnet-genesis-timestamp"), "is before 1970", "give unix seconds")
    if network_by_name(network.name) is not None:
        raise UserError(values.where("testnet-name"), "is the name of a built-in network", "choose another name")
    if network_by_fork_version(network.genesis_fork_version) is not None:
        raise UserError(
            values.where("testnet-fork-version"), "is the fork version of a built-in network", "check the network's config"
        )
    return (network,)


def chosen_network(values: Values) -> Network:
    """The network of `--network`, or the custom one when it is given. Raises UserError."""
    extra = custom_networks(values)
    if extra:
        return extra[0]
    network = network_by_name(values.text("network"))
    if network is None:
        names = ", ".join(network.name for network in NETWORKS)
        raise UserError(values.where("network"), "invalid network specified", f"choose one of {names}, or --testnet-…")
    return network


def _fork_version(values: Values, name: str) -> bytes:
    text = values.text(name)
    if not re.fullmatch(r"0x[0-9a-f]{8}", text):
        raise UserError(values.where(name), "invalid fork version", "write 0x and 8 lower-case hex digits")
    return bytes.fromhex(text[2:])
