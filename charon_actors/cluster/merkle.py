"""The hash tree of cluster files: like SSZ, with Charon's own rules about empty and short values. Pure.

    chunks(b)      32-byte pieces, the last one filled with zeros on the right; nothing gives none
    leaf(b)        nothing gives no chunk at all; up to 32 bytes give one; longer ones the root of their chunks
    merkle_root    Merkle root, filled with zero subtrees up to the next power of two of `limit` (or of the count)
    mix(r, n)      SHA-256(r || n little-endian in 32 bytes)

A leaf that gives no chunk shifts the ones after it, so values are lists of chunks here. Source: specification 01, section 3.1.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

from charon_actors.cluster.faults import ClusterFault

ZERO_CHUNK: Final = bytes(32)
SIGNATURE_BYTES: Final = 65

_ZERO_HASHES = [ZERO_CHUNK]
for _ in range(40):
    _ZERO_HASHES.append(sha256(_ZERO_HASHES[-1] * 2).digest())


def chunks(content: bytes) -> list[bytes]:
    return [content[start : start + 32].ljust(32, b"\0") for start in range(0, len(content), 32)]


def merkle_root(leaves: Sequence[bytes], limit: int | None = None) -> bytes:
    """Root of 32-byte leaves. Raises ClusterFault when there are more than `limit`."""
    bound = len(leaves) if limit is None else limit
    if len(leaves) > bound:
        raise ClusterFault(f"list too long: {len(leaves)} elements, limit {bound}")
    depth = (bound - 1).bit_length() if bound > 1 else 0
    level = list(leaves)
    if not level:
        return _ZERO_HASHES[depth]
    for height in range(depth):
        if len(level) % 2:
            level.append(_ZERO_HASHES[height])
        level = [sha256(level[i] + level[i + 1]).digest() for i in range(0, len(level), 2)]
    return level[0]


def mix(root: bytes, count: int) -> bytes:
    return sha256(root + count.to_bytes(32, "little")).digest()


def leaf(content: bytes) -> list[bytes]:
    return [merkle_root(chunks(content))] if content else []


def ascii_leaf(value: str) -> list[bytes]:
    """A text as v1.0 to v1.2 hash it: its bytes, without their count; nothing gives no chunk."""
    return leaf(value.encode("utf-8", "surrogatepass"))


def fixed_bytes(content: bytes, size: int) -> list[bytes]:
    """Filled with zeros on the left: a missing 65-byte signature is hashed like 65 zero bytes."""
    if len(content) > size:
        raise ClusterFault("bytes too long")
    return leaf(content.rjust(size, b"\0"))


def text(value: str, max_bytes: int) -> list[bytes]:
    content = value.encode("utf-8", "surrogatepass")
    if len(content) > max_bytes:
        raise ClusterFault(f"string too long: {len(content)} bytes, limit {max_bytes}")
    return [mix(merkle_root(chunks(content), (max_bytes + 31) // 32), len(content))]


def address(value: str) -> list[bytes]:
    """20 bytes written as hex; the empty text counts as 20 zero bytes."""
    return leaf(address_bytes(value) if value else bytes(20))


def address_bytes(value: str) -> bytes:
    """The 20 bytes of an address text, 0x or not. Raises ClusterFault."""
    digits = value.removeprefix("0x")
    try:
        content = bytes.fromhex(digits) if len(digits) == 40 and digits.isascii() else b""
    except ValueError:
        content = b""
    if len(content) != 20:
        raise ClusterFault("invalid ethereum address")
    return content


def number(value: int) -> list[bytes]:
    return [value.to_bytes(32, "little")]


def switch(value: bool) -> list[bytes]:
    return number(int(value))


def numbers(values: Sequence[int], limit_chunks: int) -> list[bytes]:
    """Four 64-bit numbers a chunk."""
    packed = b"".join(value.to_bytes(8, "little") for value in values)
    return [mix(merkle_root(chunks(packed), limit_chunks), len(values))]


def listing(elements: Iterable[list[bytes]], max_elements: int) -> list[bytes]:
    """The count is that of elements, even if an element gives no chunk."""
    rows = list(elements)
    return [mix(merkle_root([chunk for row in rows for chunk in row], max_elements), len(rows))]


def container(*fields: list[bytes]) -> list[bytes]:
    return [merkle_root([chunk for field in fields for chunk in field])]


def signatures(content: bytes, max_pieces: int) -> list[bytes]:
    """v1.11: some 65-byte signatures in a row."""
    if len(content) % SIGNATURE_BYTES:
        raise ClusterFault("signature not a multiple of 65 bytes")
    pieces = [content[start : start + SIGNATURE_BYTES] for start in range(0, len(content), SIGNATURE_BYTES)]
    return listing((leaf(piece) for piece in pieces), max_pieces)
