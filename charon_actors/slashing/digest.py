"""A digest of all that a slashing record holds, which is kept up to date entry by entry. Pure.

Each entry and each watermark is hashed to a number; the digest is their sum modulo 2^256. So it depends on what is there and not on the
order it came in, an entry more is an addition, one that is pruned a subtraction, and a record of a million entries needn't be read to
know what it is after one more. It guards against accidents (half a file, pages of two states), not against a forger, who could write
another digest into the file as well.
"""

import struct
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from charon_actors.slashing.rules import AttestationEntry, BlockEntry, Entry, Minimum

_MODULUS: Final = 2**256
_NOTHING: Final = 2**64 - 1
_PAIR: Final = struct.Struct(">QQ").pack


class Digest:
    """A running sum. value: 32 bytes; that of an empty record is zero."""

    def __init__(self, value: bytes = bytes(32)) -> None:
        self._sum = int.from_bytes(value, "big")

    @property
    def value(self) -> bytes:
        return self._sum.to_bytes(32, "big")

    def add(self, entry: Entry) -> None:
        self._sum = (self._sum + _of_entry(entry)) % _MODULUS

    def remove(self, entry: Entry) -> None:
        self._sum = (self._sum - _of_entry(entry)) % _MODULUS

    def add_blocks(self, pubkey: bytes, rows: Iterable[tuple[bytes | None, int]]) -> None:
        """Many entries of a key, as signing root and slot: a tenth of the work."""
        total = 0
        for root, slot in rows:
            content = b"b" + slot.to_bytes(8, "big") + pubkey + (root or b"")
            total += int.from_bytes(sha256(content).digest(), "big")
        self._sum = (self._sum + total) % _MODULUS

    def add_votes(self, pubkey: bytes, rows: Iterable[tuple[bytes | None, int, int]]) -> None:
        """The same for signing roots, sources and targets."""
        total = 0
        for root, source, target in rows:
            content = b"v" + _PAIR(source, target) + pubkey + (root or b"")
            total += int.from_bytes(sha256(content).digest(), "big")
        self._sum = (self._sum + total) % _MODULUS

    def add_key(self, pubkey: bytes, watermark: Minimum) -> None:
        """A key with its watermark; the floor of the whole record has no key."""
        self._sum = (self._sum + _of_key(pubkey, watermark)) % _MODULUS

    def remove_key(self, pubkey: bytes, watermark: Minimum) -> None:
        self._sum = (self._sum - _of_key(pubkey, watermark)) % _MODULUS


def _of_entry(entry: Entry) -> int:
    match entry:
        case BlockEntry():
            head = b"b" + entry.slot.to_bytes(8, "big")
        case AttestationEntry():
            head = b"v" + entry.source_epoch.to_bytes(8, "big") + entry.target_epoch.to_bytes(8, "big")
    root = b"" if entry.signing_root is None else entry.signing_root
    return int.from_bytes(sha256(head + entry.pubkey + root).digest(), "big")


def _of_key(pubkey: bytes, watermark: Minimum) -> int:
    low = (watermark.slot, watermark.source_epoch, watermark.target_epoch)
    numbers = b"".join((_NOTHING if number is None else number).to_bytes(8, "big") for number in low)
    return int.from_bytes(sha256(b"k" + numbers + pubkey).digest(), "big")
