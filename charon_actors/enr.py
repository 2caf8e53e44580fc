"""Ethereum node records (EIP-778): who an operator is, and perhaps where.

A record is an RLP list `[signature, seq, key, value, …]`, as text `enr:` and base64url. The signature covers the list without
itself, so a record that somebody else signed is never encoded again: `Record.encode` gives back the text it came from.

Two profiles of reading, because a lock file that Charon loads must load here, while the network must be canonical:

    check                          files, command line (default)             network (strict)
    white space, CR, LF            stripped and skipped                      refused
    trailing `=`, unused bits      stripped, ignored                         refused
    size                           text up to 1024 characters                up to 300 bytes
    RLP not canonical, bytes after ignored                                   refused
    elements                       even, 4 or more                           even
    seq                            any bytes                                 up to 8 bytes, no leading zero
    keys                           any order, unique                         ascending, unique
    id                             v4 if present                             v4
    secp256k1                      33 or 65 bytes, on the curve              33 bytes, on the curve
    signature                      64 bytes, valid, high S passes            64 bytes, valid, low S
    list as a value                refused (Charon's fails at the signature) kept, as its encoding
    ip, ip6, ports                 not looked at, None when unusable         right size, no leading zero

Charon verifies what it would have written, not what it received. So a record whose signature is right may fail there: for its form, which
is what we call it (lists as values, RLP that isn't canonical); "invalid enr signature" is said of signatures only.

What we write is what Charon 0.14 and later write: seq 0, `id` and `secp256k1`, addresses only when asked for.
Source: specification 01-cluster-files section 1.1, 02-enr-discovery section 1; EIP-778.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import MappingProxyType
from typing import Final, NamedTuple

from charon_actors.crypto import (
    CryptoFault,
    k1_compressed,
    k1_public_key,
    k1_sign_compact,
    k1_uncompressed,
    k1_verify_compact,
    keccak256,
)
from charon_actors.file_kinds import LOOKED_AT, clause, what_it_is

MAX_RECORD_BYTES: Final = 300  # EIP-778
MAX_TEXT_CHARACTERS: Final = 1024  # of the `enr` field of a definition, 01-cluster-files section 3
PREFIX: Final = "enr:"

CONSENSUS_KEYS: Final = (
    b"eth2",
    b"attnets",
    b"syncnets",
    b"cgc",
)  # consensus-specs, p2p-interface: what no operator's record has

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+\Z")
_PORTS: Final = (b"tcp", b"udp", b"tcp6", b"udp6")


class EnrFault(Exception):
    """The text is not a record we accept. The words are Charon's where it has words for it."""


@dataclass(frozen=True)
class Record:
    """A verified record. seq: unsigned; pairs: key to value; signature: 64 bytes R ‖ S; text: with `enr:`, as received."""

    seq: int
    pairs: Mapping[bytes, bytes] = field(compare=False)
    signature: bytes
    text: str

    def encode(self) -> str:
        """The record as text, exactly as it was signed or received (without white space around it)."""
        return self.text

    @property
    def public_key(self) -> bytes:
        """33 bytes, compressed secp256k1: the operator's identity."""
        return k1_compressed(self.pairs[b"secp256k1"])

    @property
    def node_id(self) -> bytes:
        """32 bytes, the place in the discovery table: keccak256(x ‖ y)."""
        return keccak256(k1_uncompressed(self.pairs[b"secp256k1"]))

    @property
    def ip(self) -> str | None:
        """IPv4 address, or IPv6 when there is no IPv4 one, as text; None without a usable address."""
        return _address_text(self.pairs.get(b"ip"), 4) or _address_text(self.pairs.get(b"ip6"), 16)

    @property
    def tcp(self) -> int | None:
        """The TCP port that belongs to `ip`; None without a usable one."""
        return self._port(b"tcp")

    @property
    def udp(self) -> int | None:
        """The UDP port that belongs to `ip`; None without a usable one."""
        return self._port(b"udp")

    def _port(self, name: bytes) -> int | None:
        port = _port_number(self.pairs.get(name))
        if _address_text(self.pairs.get(b"ip"), 4) is None:  # an IPv6 record may leave its own port out (02, section 1.2)
            port = _port_number(self.pairs.get(name + b"6")) or port
        return port


def new_record(
    private: bytes,
    seq: int = 0,
    ip: str | bytes | None = None,
    tcp: int | None = None,
    udp: int | None = None,
) -> Record:
    """A record signed with the node's key (32 bytes). Without addresses and seq it is what `charon create enr` prints.

    ip: text of IPv4 or IPv6, or its 4 or 16 bytes (an IPv6 address is written as ip6, tcp6, udp6). tcp, udp: 1 … 65535.
    Raises CryptoFault for the key, EnrFault for a seq, address or port that cannot be written.
    """
    pairs = {b"id": b"v4", b"secp256k1": k1_public_key(private)}
    suffix = b""
    if ip is not None:
        try:
            packed = ip_address(ip).packed
        except ValueError:
            raise EnrFault("not an IP address") from None
        suffix = b"6" if len(packed) == 16 else b""
        pairs[b"ip" + suffix] = packed
    for name, port in ((b"tcp", tcp), (b"udp", udp)):
        if port is not None:
            if not 1 <= port <= 65535:
                raise EnrFault("port outside 1 … 65535")
            pairs[name + suffix] = _encode_integer(port)
    if not 0 <= seq < 2**64:
        raise EnrFault("sequence number outside 0 … 2^64 - 1")
    elements = [_encode_integer(seq)]
    for key, value in sorted(pairs.items()):
        elements += (key, value)
    signature = k1_sign_compact(private, keccak256(_encode_list(elements)))
    raw = _encode_list([signature, *elements])
    text = PREFIX + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return Record(seq, MappingProxyType(pairs), signature, text)


def decode_enr(text: str, *, strict: bool = False) -> Record:
    """The record of a text, its signature verified. `strict` is for what the network says, see the table on top.

    Raises EnrFault, whatever the text holds.
    """
    if not _is_text(text):
        raise EnrFault(f"invalid enr record, too long{'' if strict else _mistaken(text)}")
    if not strict:
        text = text.strip()
    if not text.startswith(PREFIX):
        raise EnrFault(f"missing 'enr:' prefix{'' if strict else _mistaken(text)}")
    raw = _decode_base64(text[len(PREFIX) :], strict)
    items = _record_items(raw, strict)
    if len(items) < 4 and not strict:
        raise EnrFault("invalid enr record, too few elements")
    if len(items) % 2 or not items:
        raise EnrFault("invalid enr record, odd number of elements")
    if items[0].is_list or items[1].is_list or any(item.is_list for item in items[2::2]):
        raise EnrFault("invalid enr record, a list where bytes belong")
    signature, seq = items[0].content, items[1].content
    pairs = _pairs(items[2:], strict)
    if strict:
        _check_network_rules(seq, pairs)
    public = _public_key(pairs, strict)
    if len(signature) != 64:
        raise EnrFault("signature not 64 bytes")
    signed = _encode_header(0xC0, sum(len(item.encoding) for item in items[1:]))
    digest = keccak256(signed + b"".join(item.encoding for item in items[1:]))
    is_signed = k1_verify_compact(public, digest, signature, allow_high_s=not strict)
    if not strict and not is_signed and _is_signed_as_received(raw, public, signature):
        raise EnrFault("invalid enr record, signed in an encoding that is not canonical, which Charon does not read")
    if not is_signed:
        raise EnrFault("invalid enr signature")
    lists = [] if strict else [key.content for key, value in zip(items[2::2], items[3::2], strict=True) if value.is_list]
    if lists:  # Charon flattens them and so never finds the signed content
        raise EnrFault(f"invalid enr record, the value of {lists[0][:32]!r} is a list, which Charon does not read")
    return Record(int.from_bytes(seq, "big"), MappingProxyType(pairs), signature, text)


def consensus_keys(record: Record) -> str:
    """The keys of a consensus client's record that this one has, "eth2, attnets"; "" for one that may be an operator's."""
    return ", ".join(key.decode("ascii") for key in CONSENSUS_KEYS if key in record.pairs)


def _is_signed_as_received(raw: bytes, public: bytes, signature: bytes) -> bool:
    record, _ = _decode_item(raw, 0, False)
    _, end = _decode_item(record.content, 0, False)
    signed = record.content[end:]
    return k1_verify_compact(public, keccak256(_encode_header(0xC0, len(signed)) + signed), signature, allow_high_s=True)


def _mistaken(text: object) -> str:
    """What a text without `enr:` seems to be, to put behind the reason."""
    content = text[:LOOKED_AT].encode("utf-8", "replace") if isinstance(text, str) else b"enr:"
    return "" if content.strip()[:3].lower() == b"enr" else clause(what_it_is(content))


def _pairs(items: "Sequence[_Item]", strict: bool) -> dict[bytes, bytes]:
    pairs: dict[bytes, bytes] = {}
    last: bytes | None = None
    for key, value in zip(items[::2], items[1::2], strict=True):
        name = key.content
        if name in pairs:
            raise EnrFault(f"duplicate enr key found: {name[:32]!r}")
        if strict and last is not None and name < last:
            raise EnrFault("enr keys not in ascending order")
        last = name
        pairs[name] = value.encoding if value.is_list else value.content
    return pairs


def _check_network_rules(seq: bytes, pairs: Mapping[bytes, bytes]) -> None:
    if len(seq) > 8 or seq[:1] == b"\0":
        raise EnrFault("invalid sequence number")
    if pairs.get(b"id") != b"v4":
        raise EnrFault("non-v4 identity scheme not supported")
    for name, size in ((b"ip", 4), (b"ip6", 16)):
        if name in pairs and len(pairs[name]) != size:
            raise EnrFault(f"{name.decode()}: not {size} bytes")
    for name in _PORTS:
        if name in pairs and _port_number(pairs[name]) is None and pairs[name] != b"":
            raise EnrFault(f"{name.decode()}: not a port")


def _public_key(pairs: Mapping[bytes, bytes], strict: bool) -> bytes:
    if pairs.get(b"id", b"v4") != b"v4":
        raise EnrFault("non-v4 identity scheme not supported")
    if b"secp256k1" not in pairs:
        raise EnrFault("missing secp256k1 public key")
    public = pairs[b"secp256k1"]
    try:
        if strict and len(public) != 33:
            raise EnrFault("invalid secp256k1 public key")
        return k1_compressed(public)
    except CryptoFault:
        raise EnrFault("invalid secp256k1 public key") from None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT_CHARACTERS + 8  # 8: a newline or two around it


def _decode_base64(text: str, strict: bool) -> bytes:
    if not strict:
        text = text.replace("\r", "").replace("\n", "").rstrip("=")
    if not text:
        raise EnrFault("invalid rlp encoding: input too short")
    if not _BASE64URL.match(text) or len(text) % 4 == 1:
        raise EnrFault("invalid base64 encoding")
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if strict and base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
        raise EnrFault("invalid base64 encoding")  # the unused bits of the last character are not zero
    return raw


# RLP, as far as a record needs it. `encoding` of an item is canonical even where the received one was not: that is what Charon
# verifies, and in the strict profile there is no difference.


class _Item(NamedTuple):
    is_list: bool
    content: bytes

    @property
    def encoding(self) -> bytes:
        return _encode_header(0xC0, len(self.content)) + self.content if self.is_list else _encode_bytes(self.content)


def _record_items(raw: bytes, strict: bool) -> list[_Item]:
    if strict and len(raw) > MAX_RECORD_BYTES:
        raise EnrFault("invalid enr record, longer than 300 bytes")
    record, end = _decode_item(raw, 0, strict)
    if not record.is_list:
        raise EnrFault("invalid rlp encoding: not a list")
    if strict and end != len(raw):
        raise EnrFault("invalid rlp encoding: bytes after the record")
    items = _decode_items(record.content, strict)
    if strict:  # Lists inside lists must be canonical too; a stack, for they may be nested as deep as the record is long.
        nested = [item.content for item in items if item.is_list]
        while nested:
            nested += (item.content for item in _decode_items(nested.pop(), strict) if item.is_list)
    return items


def _decode_items(content: bytes, strict: bool) -> list[_Item]:
    items, at = [], 0
    while at < len(content):
        item, at = _decode_item(content, at, strict)
        items.append(item)
    return items


def _decode_item(raw: bytes, at: int, strict: bool) -> tuple[_Item, int]:
    """The item at `at`, and where it ends."""
    if at >= len(raw):
        raise EnrFault("invalid rlp encoding: input too short")
    first = raw[at]
    at += 1
    if first < 0x80:
        return _Item(False, bytes([first])), at
    is_list = first >= 0xC0
    length = first - (0xC0 if is_list else 0x80)
    if length > 55:
        size = length - 55
        length = int.from_bytes(raw[at : at + size], "big")
        if strict and (raw[at : at + 1] == b"\0" or length <= 55):
            raise EnrFault("invalid rlp encoding: length not minimal")
        at += size
    content = raw[at : at + length]
    if at + length > len(raw):
        raise EnrFault("invalid rlp encoding: input too short")
    if strict and not is_list and length == 1 and content[0] < 0x80:
        raise EnrFault("invalid rlp encoding: byte not minimal")
    return _Item(is_list, content), at + length


def _encode_list(elements: Sequence[bytes]) -> bytes:
    content = b"".join(_encode_bytes(element) for element in elements)
    return _encode_header(0xC0, len(content)) + content


def _encode_bytes(content: bytes) -> bytes:
    if len(content) == 1 and content[0] < 0x80:
        return content
    return _encode_header(0x80, len(content)) + content


def _encode_header(offset: int, length: int) -> bytes:
    if length <= 55:
        return bytes([offset + length])
    size = _encode_integer(length)
    return bytes([offset + 55 + len(size)]) + size


def _encode_integer(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _address_text(packed: bytes | None, size: int) -> str | None:
    if packed is None or len(packed) != size:
        return None
    return str(IPv4Address(packed) if size == 4 else IPv6Address(packed))


def _port_number(encoded: bytes | None) -> int | None:
    if not encoded or len(encoded) > 2 or encoded[0] == 0:
        return None
    return int.from_bytes(encoded, "big")
