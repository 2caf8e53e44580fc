"""Merkle trees of SSZ: 32-byte chunks, padded to a power of two with roots of zeros. Source: consensus-specs `ssz/simple-serialize.md`."""

from hashlib import sha256
from typing import Final

CHUNK_BYTES: Final = 32
MAX_DEPTH: Final = 48


def _zero_roots() -> tuple[bytes, ...]:
    roots = [bytes(CHUNK_BYTES)]
    for _ in range(MAX_DEPTH):
        roots.append(sha256(roots[-1] * 2).digest())
    return tuple(roots)


ZERO_ROOTS: Final = _zero_roots()


def merkleize(chunks: bytes, depth: int) -> bytes:
    """The root of a binary tree of `depth` levels over 32-byte chunks (their concatenation), padded with zero chunks."""
    if not chunks:
        return ZERO_ROOTS[depth]
    hashed = sha256
    for level in range(depth):
        if len(chunks) == CHUNK_BYTES:  # nothing but zero subtrees on the right from here on
            chunks = hashed(chunks + ZERO_ROOTS[level]).digest()
            continue
        if len(chunks) % 64:
            chunks += ZERO_ROOTS[level]
        chunks = b"".join([hashed(chunks[i : i + 64]).digest() for i in range(0, len(chunks), 64)])
    return chunks


def mix_in_length(root: bytes, length: int) -> bytes:
    return sha256(root + length.to_bytes(CHUNK_BYTES, "little")).digest()


def depth_of(chunks: int) -> int:
    return (chunks - 1).bit_length()


def padded_to_chunks(data: bytes) -> bytes:
    rest = len(data) % CHUNK_BYTES
    return data + bytes(CHUNK_BYTES - rest) if rest else data
