"""The graffiti of a block: 32 bytes that its operator may choose. Source: specification 05 §6.1, 09 §3.2.

chosen    suffix     graffiti, padded with zeros
nothing   either     DEFAULT_GRAFFITI
text      wanted     text (28 bytes at most), `OB`, two letters for the beacon node's client, if it is a known one
text      unwanted   text (32 bytes at most)
"""

from typing import Final

from charon_actors.version import VERSION

MAX_GRAFFITI_BYTES: Final = 32
SUFFIX_BYTES: Final = 4
DEFAULT_GRAFFITI: Final = f"charon-actors/{VERSION}".encode()[:MAX_GRAFFITI_BYTES]
CLIENT_CODES: Final = {
    "teku": b"TK",
    "lighthouse": b"LH",
    "lodestar": b"LS",
    "prysm": b"PY",
    "nimbus": b"NB",
    "grandine": b"GD",
}


def client_suffix(node_version: str) -> bytes:
    """`OB` and the code of the beacon node's client. node_version: as of `/eth/v1/node/version`, "" if it isn't known."""
    return b"OB" + CLIENT_CODES.get(node_version.partition("/")[0].strip().lower(), b"")


def padded_graffiti(text: bytes, suffix: bytes) -> bytes:
    """32 bytes. text: empty for the default, which has no suffix; with `suffix` together at most 32 bytes."""
    return ((text + suffix) if text else DEFAULT_GRAFFITI)[:MAX_GRAFFITI_BYTES].ljust(MAX_GRAFFITI_BYTES, b"\0")
