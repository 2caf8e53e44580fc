"""Peer ids and peer names: how libp2p, our logs and the Grafana boards call an operator's node.

    secp256k1 key (33 bytes, compressed)
      → libp2p public key     08 02 12 21 ‖ key              protobuf {1: type 2, 2: key}
      → peer id (binary)      00 25 ‖ libp2p public key      identity multihash, 39 bytes
      → peer id (text)        base58btc, "16Uiu2HA…"; CIDv1 text ("k2k4…", "bafz…") is understood, never written
      → peer name             adjective-noun, from a polynomial hash of the text

Ids of other key types (sha256 multihash, ed25519) can be read and written, because addresses in logs may hold them; a key can
only be had from a secp256k1 id. Names are labels of all metrics, so the word tables must stay as they are, double noun included.

Limits: text of at most 128 characters. Errors: PeerIdFault only.
Source: specification 03-p2p, section 1; multiformats multihash, cid, multibase.
"""

import base64
import json
from functools import cache
from importlib import resources
from typing import Final

from charon_actors.p2p.framing import FramingFault, decode_uvarint

PeerId = bytes

PEER_ID_BYTES: Final = 39
MAX_TEXT_CHARACTERS: Final = 128
_KEY_PREFIX: Final = bytes.fromhex("08021221")  # protobuf: type 2 = secp256k1, data of 33 bytes
_ID_PREFIX: Final = bytes.fromhex("0025") + _KEY_PREFIX  # multihash: identity, 37 bytes
_IDENTITY, _SHA256 = 0x00, 0x12
_MAX_INLINE_KEY_BYTES: Final = 42  # libp2p peer ids: longer keys are hashed
_LIBP2P_KEY_CODEC: Final = 0x72

_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE36: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


class PeerIdFault(Exception):
    """Bytes or text that are no peer id, or an id whose key is not secp256k1."""


def encode_public_key(public_key: bytes) -> bytes:
    """The libp2p protobuf form (37 bytes) of a compressed secp256k1 key (33 bytes)."""
    assert len(public_key) == 33, "a compressed secp256k1 key has 33 bytes"
    return _KEY_PREFIX + public_key


def decode_libp2p_key(encoded: bytes) -> bytes:
    """The compressed secp256k1 key (33 bytes) of a libp2p public key protobuf.

    The curve is not checked here: whoever verifies a signature with the key does. Raises: PeerIdFault for other key types.
    """
    if len(encoded) != 37 or not encoded.startswith(_KEY_PREFIX) or encoded[4] not in (2, 3):
        raise PeerIdFault("the peer's key is not a secp256k1 key")
    return encoded[4:]


def peer_id_of(public_key: bytes) -> PeerId:
    """The peer id (39 bytes) of a compressed secp256k1 key (33 bytes)."""
    return b"\x00\x25" + encode_public_key(public_key)


def public_key_of(peer_id: PeerId) -> bytes:
    """The compressed secp256k1 key (33 bytes) inside a peer id. Raises: PeerIdFault for any other kind of id."""
    if len(peer_id) != PEER_ID_BYTES or not peer_id.startswith(_ID_PREFIX):
        raise PeerIdFault("the peer id holds no secp256k1 key")
    return decode_libp2p_key(peer_id[2:])


def peer_id_text(peer_id: PeerId) -> str:
    """Base58 text of a peer id."""
    return _encode_base58(peer_id)


def decode_peer_id(text: str) -> PeerId:
    """Binary form of a peer id in base58 or CIDv1 text (base58btc `z`, base32 `b`, base36 `k`).

    Raises: PeerIdFault for anything else, and for multihashes that no libp2p key can have.
    """
    if not 0 < len(text) <= MAX_TEXT_CHARACTERS:
        raise PeerIdFault(f"a peer id has 1 to {MAX_TEXT_CHARACTERS} characters, not {len(text)}")
    if text.startswith(("Qm", "1")):
        return check_peer_id(_decode_radix(text, _BASE58))
    cid = _decode_multibase(text)
    # CIDv1: version 1 ‖ codec ‖ multihash; all numbers here fit one byte.
    if len(cid) < 2 or cid[0] != 1 or cid[1] != _LIBP2P_KEY_CODEC:
        raise PeerIdFault("the CID is not a version 1 CID of a libp2p key")
    return check_peer_id(cid[2:])


def check_peer_id(peer_id: bytes) -> PeerId:
    """The same bytes, if they are an identity multihash of a short key or a sha256 multihash. Raises: PeerIdFault."""
    try:
        code = decode_uvarint(peer_id)
        length = None if code is None else decode_uvarint(peer_id, code[1])
    except FramingFault as fault:
        raise PeerIdFault(f"the peer id is no multihash: {fault}") from None
    if code is None or length is None or len(peer_id) - length[1] != length[0]:
        raise PeerIdFault("the peer id is no multihash")
    if (code[0] == _SHA256 and length[0] == 32) or (code[0] == _IDENTITY and 0 < length[0] <= _MAX_INLINE_KEY_BYTES):
        return bytes(peer_id)
    raise PeerIdFault("the peer id is neither a key nor the sha256 of one")


def peer_name(peer_id: PeerId) -> str:
    """The peer's name in logs and metrics, such as "happy-floor". Source: specification 03-p2p, section 1.1."""
    hashed, power = 0, 1
    for character in peer_id_text(peer_id).encode():
        hashed = (hashed + character * power) % 1_000_000_007
        power = (power * 59) % 1_000_000_007
    adjectives, nouns = _words()
    return f"{adjectives[hashed % len(adjectives)]}-{nouns[hashed % len(nouns)]}"


@cache
def _words() -> tuple[tuple[str, ...], tuple[str, ...]]:
    table = json.loads(resources.files("charon_actors.p2p").joinpath("peer_name_words.json").read_bytes())
    return tuple(table["adjectives"]), tuple(table["nouns"])


def decode_base58(text: str) -> bytes:
    """Bytes of base58btc text. Raises: PeerIdFault for a character outside the alphabet."""
    return _decode_radix(text, _BASE58)


def _encode_base58(data: bytes) -> str:
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = _BASE58[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def _decode_radix(text: str, alphabet: str) -> bytes:
    number = 0
    for character in text:
        digit = alphabet.find(character)
        if digit < 0:
            raise PeerIdFault("a character of the peer id is not in its alphabet")
        number = number * len(alphabet) + digit
    zeros = len(text) - len(text.lstrip(alphabet[0]))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _decode_multibase(text: str) -> bytes:
    base, digits = text[0], text[1:]
    match base:
        case "z":
            return _decode_radix(digits, _BASE58)
        case "k" | "K":
            return _decode_radix(digits.lower(), _BASE36)
        case "b" | "B":
            try:
                return base64.b32decode(digits.upper() + "=" * (-len(digits) % 8))
            except ValueError:
                raise PeerIdFault("the peer id is not base32") from None
        case _:
            raise PeerIdFault("the peer id is neither base58 nor a CID in base32, base36 or base58")
