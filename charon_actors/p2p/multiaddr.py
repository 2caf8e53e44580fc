"""Multiaddrs: self-describing network addresses, as text for people and as bytes on the wire. Sans-IO.

    /ip4/10.0.0.2/tcp/3610/p2p/16Uiu2HA…            a node
    <node>/p2p-circuit/p2p/16Uiu2HA…                another node, through the first one as relay

An address is a row of components (protocol, value). In bytes each one is uvarint(code) ‖ value, where a value of variable
length has a uvarint length before it. The table below holds the protocols that Charon nodes, their relays and test peers write;
an address with any other protocol is a fault, which the reader of a list skips over, and so is one with a name that DNS can't be
asked for (`a..b`: IDNA refuses it). `ipfs` is read as `p2p`; two spellings of one address are equal.

Limits: 1024 bytes, 2048 characters, 32 components, names of 253 bytes. Errors: MultiaddrFault only.
Source: specification 03-p2p, sections 1.1 and 2; multiformats/multiaddr, protocols.csv.
"""

import base64
import ipaddress
from collections.abc import Iterator
from typing import Final

from charon_actors.p2p.framing import FramingFault, decode_uvarint, encode_uvarint
from charon_actors.p2p.peer_id import PeerId, PeerIdFault, check_peer_id, decode_base58, decode_peer_id, peer_id_text, peer_name

MAX_MULTIADDR_BYTES: Final = 1024
MAX_MULTIADDR_CHARACTERS: Final = 2048
MAX_COMPONENTS: Final = 32
MAX_NAME_BYTES: Final = 253

_VARIABLE = -1
# name → (code, bytes of the value: fixed number, 0 = no value, -1 = length-prefixed)
_PROTOCOLS: Final[dict[str, tuple[int, int]]] = {
    "ip4": (4, 4),
    "tcp": (6, 2),
    "ip6": (41, 16),
    "ip6zone": (42, _VARIABLE),
    "dns": (53, _VARIABLE),
    "dns4": (54, _VARIABLE),
    "dns6": (55, _VARIABLE),
    "dnsaddr": (56, _VARIABLE),
    "udp": (273, 2),
    "webrtc-direct": (280, 0),
    "webrtc": (281, 0),
    "p2p-circuit": (290, 0),
    "unix": (400, _VARIABLE),
    "p2p": (421, _VARIABLE),
    "https": (443, 0),
    "tls": (448, 0),
    "sni": (449, _VARIABLE),
    "noise": (454, 0),
    "quic": (460, 0),
    "quic-v1": (461, 0),
    "webtransport": (465, 0),
    "certhash": (466, _VARIABLE),
    "ws": (477, 0),
    "wss": (478, 0),
    "http": (480, 0),
}
_NAMES: Final = {code: name for name, (code, _) in _PROTOCOLS.items()}
_HOSTS: Final = ("ip4", "ip6", "dns", "dns4", "dns6")


class MultiaddrFault(Exception):
    """Text or bytes that are no multiaddr, or one with a protocol that is not in the table."""


class Multiaddr:
    """An address as a row of (protocol name, value bytes); immutable, equal and hashed by its bytes.

    `str(address)` is the canonical text, `bytes(address)` the wire form. Make one with `decode_multiaddr` (text),
    `decode_multiaddr_bytes` or `tcp_multiaddr`; join with `+`.
    """

    __slots__ = ("_encoded", "components")

    def __init__(self, components: tuple[tuple[str, bytes], ...]) -> None:
        self.components = components
        self._encoded = b"".join(_encode_component(name, value) for name, value in components)
        if len(self._encoded) > MAX_MULTIADDR_BYTES or len(components) > MAX_COMPONENTS:
            raise MultiaddrFault(f"the address is longer than {MAX_MULTIADDR_BYTES} bytes or {MAX_COMPONENTS} components")

    def __bytes__(self) -> bytes:
        return self._encoded

    def __str__(self) -> str:
        return "".join(_component_text(name, value) for name, value in self.components)

    def __repr__(self) -> str:
        return f"Multiaddr({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Multiaddr) and self._encoded == other._encoded

    def __hash__(self) -> int:
        return hash(self._encoded)

    def __add__(self, other: "Multiaddr") -> "Multiaddr":
        return Multiaddr(self.components + other.components)

    def with_peer(self, peer_id: PeerId) -> "Multiaddr":
        """This address with `/p2p/<peer id>` behind it, unless it ends with exactly that already."""
        last = ("p2p", peer_id)
        return self if self.components[-1:] == (last,) else Multiaddr((*self.components, last))

    @property
    def has_circuit(self) -> bool:
        """Does it lead through a relay?"""
        return any(name == "p2p-circuit" for name, _ in self.components)

    @property
    def peer_id(self) -> PeerId | None:
        """Who is at the end of it, if it says so: the last component, when that is `p2p`."""
        if self.components and self.components[-1][0] == "p2p":
            return self.components[-1][1]
        return None

    @property
    def transport(self) -> "Multiaddr":
        """What stands before the first `p2p` or `p2p-circuit`: the address that a socket connects to."""
        for place, (name, _) in enumerate(self.components):
            if name in ("p2p", "p2p-circuit"):
                return Multiaddr(self.components[:place])
        return self


def tcp_multiaddr(host: str, port: int) -> Multiaddr:
    """`/ip4|ip6/<host>/tcp/<port>`, or `/dns/<host>/tcp/<port>` when `host` is no IP address. An IPv6 zone is dropped."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return Multiaddr((("dns", _value_of("dns", host)), ("tcp", _value_of("tcp", str(port)))))
    return Multiaddr(((f"ip{address.version}", address.packed), ("tcp", _value_of("tcp", str(port)))))


def tcp_endpoint(address: Multiaddr) -> tuple[str, int] | None:
    """Host (IP or DNS name) and port of a plain TCP address, `/p2p/<id>` behind it allowed.

    None for relayed addresses and for every other transport (UDP, QUIC, WebSocket, TLS).
    """
    components = address.components
    if len(components) == 3 and components[2][0] == "p2p":
        components = components[:2]
    if len(components) != 2 or components[0][0] not in _HOSTS or components[1][0] != "tcp":
        return None
    host = _value_text(*components[0])
    return host, int.from_bytes(components[1][1], "big")


def ip_of(address: Multiaddr) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that it starts with; None when it starts with a name, a zone or a peer id."""
    if not address.components or address.components[0][0] not in ("ip4", "ip6"):
        return None
    return ipaddress.ip_address(address.components[0][1])


def decode_multiaddr(text: str) -> Multiaddr:
    """The address that `text` writes. Raises: MultiaddrFault."""
    if len(text) > MAX_MULTIADDR_CHARACTERS:
        raise MultiaddrFault(f"the address has more than {MAX_MULTIADDR_CHARACTERS} characters")
    if not text.startswith("/"):
        raise MultiaddrFault("a multiaddr starts with /")
    words = text.rstrip("/").split("/")[1:]
    if not words:
        raise MultiaddrFault("the address is empty")
    return Multiaddr(tuple(_components_of_words(words)))


def decode_multiaddr_bytes(encoded: bytes) -> Multiaddr:
    """The address whose wire form is `encoded`. Raises: MultiaddrFault."""
    if not 0 < len(encoded) <= MAX_MULTIADDR_BYTES:
        raise MultiaddrFault(f"an address has 1 to {MAX_MULTIADDR_BYTES} bytes, not {len(encoded)}")
    components, offset = [], 0
    while offset < len(encoded):
        code, offset = _uvarint(encoded, offset)
        name = _NAMES.get(code)
        if name is None:
            raise MultiaddrFault(f"unknown protocol number {code}")
        size = _PROTOCOLS[name][1]
        if size == _VARIABLE:
            size, offset = _uvarint(encoded, offset)
        value, offset = encoded[offset : offset + size], offset + size
        if offset > len(encoded):
            raise MultiaddrFault(f"the value of {name} is cut short")
        _check_value(name, value)
        components.append((name, value))
    return Multiaddr(tuple(components))


def named_address(text: str) -> str:
    """The form for logs: each `/p2p/<id>` becomes `/p2p/<peer name>`; an id that is not understood stays as it is.

    Text that is no multiaddr comes back unchanged. Source: specification 03-p2p, section 1.1.
    """
    try:
        address = decode_multiaddr(text)
    except MultiaddrFault:
        return text
    return "".join(
        f"/p2p/{peer_name(value)}" if name == "p2p" else _component_text(name, value) for name, value in address.components
    )


def _components_of_words(words: list[str]) -> Iterator[tuple[str, bytes]]:
    place = 0
    while place < len(words):
        name = "p2p" if words[place] == "ipfs" else words[place]
        if name not in _PROTOCOLS:
            raise MultiaddrFault(f"unknown protocol {name[:32]!r}")
        place += 1
        if _PROTOCOLS[name][1] == 0:
            yield name, b""
        elif name == "unix":  # a path takes all that is left
            yield name, _value_of(name, "/" + "/".join(words[place:]))
            place = len(words)
        elif place < len(words):
            yield name, _value_of(name, words[place])
            place += 1
        else:
            raise MultiaddrFault(f"{name} needs a value")


def _value_of(name: str, text: str) -> bytes:
    try:
        match name:
            case "ip4":
                return ipaddress.IPv4Address(text).packed
            case "ip6":
                if "%" in text:
                    raise MultiaddrFault("a zone has a component of its own, ip6zone")
                return ipaddress.IPv6Address(text).packed
            case "tcp" | "udp":
                if not (text.isascii() and text.isdigit() and len(text) <= 5):
                    raise MultiaddrFault(f"{name} port {text[:16]!r} is no number")
                return int(text).to_bytes(2, "big")
            case "p2p":
                return decode_peer_id(text)
            case "certhash":
                value = _decode_multibase(text)
            case _:
                value = text.encode()
    except (ValueError, OverflowError, PeerIdFault) as error:
        raise MultiaddrFault(f"bad value of {name}: {error}") from None
    _check_value(name, value)
    return value


def _check_value(name: str, value: bytes) -> None:
    """What bytes of variable length may be; those of fixed length are all good."""
    match name:
        case "p2p":
            try:
                check_peer_id(value)
            except PeerIdFault as error:
                raise MultiaddrFault(str(error)) from None
        case "certhash":
            if len(value) < 2:
                raise MultiaddrFault("a certhash is a multihash")
        case "dns" | "dns4" | "dns6" | "dnsaddr" | "sni" | "ip6zone" | "unix":
            try:
                text = value.decode()
            except UnicodeDecodeError:
                raise MultiaddrFault(f"the value of {name} is not UTF-8") from None
            if name == "unix":
                good = text.startswith("/") and len(text) > 1 and not text.endswith("/")
            else:
                good = 0 < len(value) <= MAX_NAME_BYTES and "/" not in text
            if not good or not text.isprintable():
                raise MultiaddrFault(f"bad value of {name}")
            if name.startswith("dns") and not _is_encodable(text):
                raise MultiaddrFault(f"bad value of {name}: no DNS name")


def _is_encodable(name: str) -> bool:
    """Whether a resolver can be asked for it. Stricter rules are the resolver's: container names have underscores."""
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False


def _encode_component(name: str, value: bytes) -> bytes:
    code, size = _PROTOCOLS[name]
    return encode_uvarint(code) + (encode_uvarint(len(value)) if size == _VARIABLE else b"") + value


def _component_text(name: str, value: bytes) -> str:
    if _PROTOCOLS[name][1] == 0:
        return f"/{name}"
    if name == "unix":
        return f"/unix{value.decode()}"
    return f"/{name}/{_value_text(name, value)}"


def _value_text(name: str, value: bytes) -> str:
    match name:
        case "ip4" | "ip6":
            return str(ipaddress.ip_address(value))
        case "tcp" | "udp":
            return str(int.from_bytes(value, "big"))
        case "p2p":
            return peer_id_text(value)
        case "certhash":
            return "u" + base64.urlsafe_b64encode(value).decode().rstrip("=")
        case _:
            return value.decode()


def _decode_multibase(text: str) -> bytes:
    digits = text[1:]
    match text[:1]:
        case "u":
            return base64.b64decode(digits + "=" * (-len(digits) % 4), altchars=b"-_", validate=True)
        case "b":
            return base64.b32decode(digits.upper() + "=" * (-len(digits) % 8))
        case "f":
            return bytes.fromhex(digits)
        case "z":
            return decode_base58(digits)
        case _:
            raise MultiaddrFault("unknown multibase prefix")


def _uvarint(encoded: bytes, offset: int) -> tuple[int, int]:
    try:
        decoded = decode_uvarint(encoded, offset)
    except FramingFault as fault:
        raise MultiaddrFault(str(fault)) from None
    if decoded is None:
        raise MultiaddrFault("the address is cut short")
    return decoded
