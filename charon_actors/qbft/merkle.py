"""The hash of protobuf messages: SSZ-like, without the length. Source: specification 06 §4.1; vector core/k1_and_hash.json.

The bytes are cut into chunks of 32, the last one padded with zeros, and the chunks into a binary tree of SHA-256, padded with
zero subtrees to the next power of two. Up to 32 bytes are not hashed at all, only padded: two short messages that differ in
trailing zeros collide. That is what is signed, so it must be so; never use this hash for anything else.
"""

from hashlib import sha256
from typing import Final

_ZERO_NODES: Final = [bytes(32)]
for _ in range(40):
    _ZERO_NODES.append(sha256(_ZERO_NODES[-1] * 2).digest())


def hash_bytes(content: bytes) -> bytes:
    """32 bytes. Takes about 20 ms a megabyte, so callers keep what they have hashed."""
    level = content + bytes(-len(content) % 32) or bytes(32)
    for zero_node in _ZERO_NODES:
        if len(level) == 32:
            break
        if len(level) % 64:
            level += zero_node
        level = b"".join([sha256(level[at : at + 64]).digest() for at in range(0, len(level), 64)])
    return level
