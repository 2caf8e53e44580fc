"""The hash of protobuf messages: SSZ-like, without the length. Source: specification 06 §4.1; vector core/k1_and_hash.json.

The bytes are cut into chunks of 32, the last one padded with zeros, and the chunks into a binary tree of SHA-256, padded with
zero subtrees to the next power of two. Up to 32 bytes are not hashed at all, only padded: two short messages that differ in
trailing zeros collide. That is what is signed, so it must be so; never use this hash for anything else.

A megabyte takes 35 to 50 ms: 32767 times some 0.2 µs for SHA-256 itself and five times that for Python's calls; neither hashlib's
other constructors nor `copy` are faster, and threads don't help, for hashlib keeps the interpreter lock below 2 KiB. So what may be
large is hashed by `Hashing`, one aligned subtree a step, and others get their turn in between.
"""

from hashlib import sha256
from typing import Final

STEP_BYTES: Final = 2**15  # 1023 hashes: 1 to 2 ms
_STEP_HEIGHT: Final = (STEP_BYTES // 32).bit_length() - 1

_ZERO_NODES: Final = [bytes(32)]
for _ in range(40):
    _ZERO_NODES.append(sha256(_ZERO_NODES[-1] * 2).digest())


def hash_bytes(content: bytes) -> bytes:
    """32 bytes, at once: for what is small or not in a hurry."""
    return _root(_chunks(content), 0, 0)


class Hashing:
    """The same in steps: whoever needs `root` takes the next `step` while it is None. The content is kept no longer than that."""

    def __init__(self, content: bytes) -> None:
        self.root: bytes | None = None
        self._chunks = _chunks(content)
        self._subtrees: list[bytes] = []

    def step(self) -> None:
        """Hash STEP_BYTES more. After the last step it does nothing."""
        if self.root is not None:
            return
        if len(self._chunks) <= STEP_BYTES:
            self.root = _root(self._chunks, 0, 0)
        else:
            at = len(self._subtrees) * STEP_BYTES
            self._subtrees.append(_root(self._chunks[at : at + STEP_BYTES], 0, _STEP_HEIGHT))
            if at + STEP_BYTES >= len(self._chunks):
                self.root = _root(b"".join(self._subtrees), _STEP_HEIGHT, 0)
        if self.root is not None:
            self._chunks = b""


def _chunks(content: bytes) -> bytes:
    return content + bytes(-len(content) % 32) or bytes(32)


def _root(nodes: bytes, height: int, least_height: int) -> bytes:
    """The root over nodes of one height, themselves joined; it stands at `least_height` or above."""
    while len(nodes) > 32 or height < least_height:
        if len(nodes) % 64:
            nodes += _ZERO_NODES[height]
        nodes = b"".join([sha256(nodes[at : at + 64]).digest() for at in range(0, len(nodes), 64)])
        height += 1
    return nodes
