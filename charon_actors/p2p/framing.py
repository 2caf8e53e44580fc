"""Framing: where a message begins and ends inside a stream of bytes. Sans-IO.

    framing      layout                                    used by
    delimited    uvarint(length) ‖ body                    every Charon and libp2p message, except
    fixed64      int64 little endian length (> 0) ‖ body   /charon/dkg/sync/1.0.0/

uvarint: unsigned LEB128, at most 9 bytes (63 bits), shortest form only, as go-varint has it.

A length is checked against the reader's limit the moment the prefix is complete, before a single byte of the body is waited
for; the body itself is collected only as it arrives, so a peer that announces 128 MiB and sends nothing costs us nothing.

Limits: `limit_bytes` of the caller; prefixes of 9 and 8 bytes. Errors: FramingFault only.
Source: specification 03-p2p, sections 5.2 and 11.1.
"""

from typing import Final

MAX_UVARINT_BYTES: Final = 9  # multiformats/unsigned-varint: 63 bits
FIXED64_BYTES: Final = 8
MAX_DKG_SYNC_BYTES: Final = 33_554_432  # 03 §5.2


class FramingFault(Exception):
    """A length prefix that no honest peer writes, or a message over the limit."""


def encode_uvarint(value: int) -> bytes:
    """The shortest unsigned LEB128 form of `value` (0 to 2**63 - 1)."""
    assert 0 <= value < 1 << 63, "a uvarint holds 63 bits"
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_uvarint(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int] | None:
    """Value and offset behind it, or None when more bytes are needed.

    Raises: FramingFault for more than 9 bytes or a form that is not the shortest.
    """
    value = 0
    for count, byte in enumerate(bytes(data[offset : offset + MAX_UVARINT_BYTES])):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            if byte == 0 and count > 0:
                raise FramingFault("length prefix is not in its shortest form")
            return value, offset + count + 1
    if len(data) - offset >= MAX_UVARINT_BYTES:
        raise FramingFault("length prefix is longer than 9 bytes")
    return None


def encode_delimited(body: bytes) -> bytes:
    """`body` behind its uvarint length."""
    return encode_uvarint(len(body)) + body


def take_delimited(buffer: bytearray, limit_bytes: int) -> bytes | None:
    """Remove one delimited message from the front of `buffer`; None (buffer untouched) when it is not complete yet.

    Raises: FramingFault for a bad prefix, or a length over `limit_bytes` as soon as the prefix is there.
    """
    prefix = decode_uvarint(buffer)
    if prefix is None:
        return None
    return _take(buffer, prefix[1], prefix[0], limit_bytes)


def encode_fixed64(body: bytes) -> bytes:
    """`body` behind its 8-byte little-endian length, as dkg/sync writes it. The body must not be empty."""
    assert 0 < len(body) <= MAX_DKG_SYNC_BYTES, "dkg/sync bodies are 1 byte to 32 MiB"
    return len(body).to_bytes(FIXED64_BYTES, "little") + body


def take_fixed64(buffer: bytearray, limit_bytes: int = MAX_DKG_SYNC_BYTES) -> bytes | None:
    """Remove one dkg/sync message from the front of `buffer`; None (buffer untouched) when it is not complete yet.

    Raises: FramingFault for a length that is not positive or over `limit_bytes`.
    """
    if len(buffer) < FIXED64_BYTES:
        return None
    length = int.from_bytes(buffer[:FIXED64_BYTES], "little", signed=True)
    if length <= 0:
        raise FramingFault(f"message length {length} is not positive")
    return _take(buffer, FIXED64_BYTES, length, limit_bytes)


def _take(buffer: bytearray, start: int, length: int, limit_bytes: int) -> bytes | None:
    if length > limit_bytes:
        raise FramingFault(f"message of {length} bytes, the limit is {limit_bytes}")
    if len(buffer) - start < length:
        return None
    with memoryview(buffer) as view:
        body = bytes(view[start : start + length])
    del buffer[: start + length]
    return body
