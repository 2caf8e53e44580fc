"""Flags that several commands share, each written down once. Source: specification 09-cli-and-config, section 3.1."""

from typing import Final

from charon_actors.cli.options.flag import Flag
from charon_actors.cli.options.values import Blank, Kind
from charon_actors.cluster.schema import DEFAULT_VERSION, WRITTEN_VERSIONS
from charon_actors.eth2.networks import ALIASES, NETWORKS

RUN_RELAYS: Final = ("https://0.relay.obol.tech", "https://1.relay.obol.tech", "https://2.relay.obol.dev")
CEREMONY_RELAYS: Final = ("https://4.relay.obol.dev",)


def words(*known: str, **meanings: str) -> dict[str, str]:
    """For `Flag.words`: words that mean themselves, and others that mean one of them."""
    return {**{word: word for word in known}, **meanings}


# Charon's levels above error are for its own crashes, which are error lines here.
LEVEL_WORDS: Final = words("debug", "info", "warn", "error", warning="warn", dpanic="error", panic="error", fatal="error") | {
    "": "info"
}
PROTOCOL_WORDS: Final = words("", "qbft")

LOG: Final = (
    Flag(
        "log-format",
        Kind.TEXT,
        "console",
        "How log lines look: console, logfmt or json",
        words=words("console", "logfmt", "json"),
    ),
    Flag("log-level", Kind.TEXT, "info", "Least level that is logged: debug, info, warn or error", words=LEVEL_WORDS),
    Flag(
        "log-color",
        Kind.TEXT,
        "auto",
        "Colour in the log: auto (on terminals), force or disable",
        words=words("auto", "force", "disable"),
    ),
    Flag("log-output-path", Kind.TEXT, "", "Additional log file, at level debug"),
)


def p2p(relays: tuple[str, ...]) -> tuple[Flag, ...]:
    """The flags of the peer-to-peer network; `relays` differ between `run` and ceremonies."""
    return (
        Flag("p2p-tcp-address", Kind.TEXTS, (), "ip:port to listen on for peers; empty means outgoing connections only"),
        Flag("p2p-udp-address", Kind.TEXTS, (), "", inert="this build speaks TCP with its peers, not QUIC", blank=Blank.DROPPED),
        Flag("p2p-external-ip", Kind.TEXT, "", "IP address that peers are told"),
        Flag("p2p-external-hostname", Kind.TEXT, "", "DNS name that peers are told"),
        Flag("p2p-relays", Kind.TEXTS, relays, "Relay URLs or multiaddrs", aliases=("p2p-bootnodes",), blank=Blank.DROPPED),
        Flag("p2p-disable-reuseport", Kind.SWITCH, False, "Do not set SO_REUSEPORT on outgoing connections"),
        *(Flag(name, Kind.TEXT, "", "", inert=why) for name, why in _FORMER_P2P.items()),
    )


_FORMER_P2P: Final = {
    "p2p-bootnode-relay": "relays are always used when they are needed",
    "p2p-bootnodes-from-lockfile": "peers are always known from the lock",
    "p2p-allowlist": "only operators of the cluster and relays may connect",
    "p2p-denylist": "only operators of the cluster and relays may connect",
}

PRIVATE_KEY_FILE: Final = Flag("private-key-file", Kind.TEXT, ".charon/charon-enr-private-key", "File of the identity key")
LOCK_FILE: Final = Flag("lock-file", Kind.TEXT, ".charon/cluster-lock.json", "File of the cluster lock")
DATA_DIR: Final = Flag("data-dir", Kind.TEXT, ".charon", "Directory of the identity key and the cluster's files")
NO_VERIFY: Final = Flag(
    "no-verify", Kind.SWITCH, False, "Go on although the cluster's hashes or signatures are wrong; at your own risk"
)

TESTNET: Final = (
    Flag("testnet-name", Kind.TEXT, "", "Name of a custom network; give all --testnet flags together"),
    Flag("testnet-chain-id", Kind.NATURAL, 0, "Chain id of the custom network"),
    Flag("testnet-fork-version", Kind.TEXT, "", "Genesis fork version of the custom network, 0x and 8 hex digits"),
    Flag("testnet-genesis-timestamp", Kind.NUMBER, 0, "Genesis time of the custom network, unix seconds"),
)
TESTNET_CAPELLA: Final = Flag(
    "testnet-capella-hard-fork", Kind.TEXT, "", "Capella fork version of the custom network, 0x and 8 hex digits"
)

ENR_ADDRESS: Final = Flag(
    "enr-address", Kind.TEXT, "", "ip:port at which peers can reach this node, written into the ENR; then no relay is needed"
)
FORMER_ENR: Final = tuple(
    Flag(name, Kind.TEXT, "", "", inert="an ENR holds the key only, peers learn addresses from each other")
    for name in ("p2p-external-ip", "p2p-external-hostname", "p2p-tcp-address", "p2p-udp-address")
)
EXECUTION_CLIENT: Final = Flag(
    "execution-client-rpc-endpoint",
    Kind.TEXT,
    "",
    "URL of an execution client, which verifies the signatures of operators with contract wallets",
    secret=True,  # such URLs often end in an access token
)

PUBLISH_ADDRESS: Final = Flag("publish-address", Kind.TEXT, "https://api.obol.tech/v1", "URL of the Obol API")
PUBLISH_TIMEOUT: Final = Flag("publish-timeout", Kind.DURATION, 60.0, "Time limit for publishing")

# What a new cluster is: shared by `create dkg` and `create cluster` (09 §3.4, §3.5).
TERMS: Final = (
    Flag("name", Kind.TEXT, "", "Name of the cluster"),
    Flag(
        "network",
        Kind.TEXT,
        "mainnet",
        "Ethereum network: mainnet, hoodi, sepolia, gnosis, chiado, holesky or goerli",
        words=words(*(network.name for network in NETWORKS), *ALIASES),
        has_more_words=True,
    ),
    Flag(
        "fee-recipient-addresses",
        Kind.TEXTS,
        (),
        "Addresses that receive fees: one for all validators, or one each",
        aliases=("fee-recipient-address",),
    ),
    Flag(
        "withdrawal-addresses",
        Kind.TEXTS,
        (),
        "Addresses that receive stake and rewards, EIP-55: one for all validators, or one each",
        aliases=("withdrawal-address",),
    ),
    Flag("deposit-amounts", Kind.NUMBERS, (), "Partial deposits in whole ETH, together at least 32"),
    Flag("compounding", Kind.SWITCH, False, "Make compounding validators (0x02 withdrawal credentials)"),
    Flag("target-gas-limit", Kind.NATURAL, 60_000_000, "Gas limit that builders are told"),
    Flag(
        "consensus-protocol",
        Kind.TEXT,
        "",
        "Preferred consensus protocol: qbft, or empty",
        words=PROTOCOL_WORDS,
        has_more_words=True,
    ),
    Flag(
        "schema-version",
        Kind.TEXT,
        DEFAULT_VERSION,
        "Version of the files: v1.10.0, or v1.11.0 that needs Charon v1.11",
        words=words(*WRITTEN_VERSIONS),
        has_more_words=True,
    ),
    *TESTNET,
)
