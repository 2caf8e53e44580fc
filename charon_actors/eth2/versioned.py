"""How Charon wraps an SSZ object with its fork, and the JSON that may stand in its place. Pure.

    name  layout                                                       used for
    V12   version u64 ‖ offset u32 = 12 ‖ object                       aggregates, attestations without validator index
    V13   version u64 ‖ blinded u8 ‖ offset u32 = 13 ‖ object          proposals
    V20   version u64 ‖ validator index u64 ‖ offset u32 = 20 ‖ object attestations

We write the offsets as shown. A decoder takes header length <= offset <= total length for V12 and V13, exactly 20 for V20, as
Charon does. The JSON forms carry the fork's number, not its name.

Source: specification 05 §10.1.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from charon_actors.bounded_json import JsonKind, decode_foreign_json
from charon_actors.eth2.forks import Fork, UnknownFork, fork_from_number
from charon_actors.eth2.ssz import EncodingFault, uint_from_text

D = TypeVar("D", bytes, memoryview)

V12_BYTES: Final = 12
V13_BYTES: Final = 13
V20_BYTES: Final = 20
MAX_SPACES: Final = 1024


def _fork(number: int) -> Fork:
    try:
        return fork_from_number(number)
    except UnknownFork as error:
        raise EncodingFault(str(error)) from None


def _uint(data: D, start: int, size: int) -> int:
    if len(data) < start + size:
        raise EncodingFault(f"{len(data)} bytes are too few for a header")
    return int.from_bytes(data[start : start + size], "little")


def _body(data: D, header_bytes: int) -> D:
    offset = _uint(data, header_bytes - 4, 4)
    if not header_bytes <= offset <= len(data):
        raise EncodingFault(f"an offset of {offset} in {len(data)} bytes")
    return data[offset:]


def encode_v12(fork: Fork, body: bytes) -> bytes:
    return fork.to_bytes(8, "little") + V12_BYTES.to_bytes(4, "little") + body


def decode_v12(data: bytes) -> tuple[Fork, bytes]:
    """Fork and object. Raises: EncodingFault."""
    return _fork(_uint(data, 0, 8)), _body(data, V12_BYTES)


def encode_v13(fork: Fork, blinded: bool, body: bytes) -> bytes:
    return fork.to_bytes(8, "little") + bytes([blinded]) + V13_BYTES.to_bytes(4, "little") + body


def decode_v13(data: bytes) -> tuple[Fork, bool, bytes]:
    """Fork, whether blinded, and object. Raises: EncodingFault."""
    fork, blinded, body = decode_v13_view(data)
    return fork, blinded, bytes(body)


def decode_v13_view(data: bytes) -> tuple[Fork, bool, memoryview]:
    """The same without a copy of the object. Raises: EncodingFault."""
    fork, blinded = _fork(_uint(data, 0, 8)), _uint(data, 8, 1)
    if blinded > 1:
        raise EncodingFault(f"a truth value of {blinded}")
    return fork, bool(blinded), _body(memoryview(data), V13_BYTES)


def encode_v20(fork: Fork, validator_index: int, body: bytes) -> bytes:
    return fork.to_bytes(8, "little") + validator_index.to_bytes(8, "little") + V20_BYTES.to_bytes(4, "little") + body


def decode_v20(data: bytes) -> tuple[Fork, int, bytes]:
    """Fork, validator index and object. Raises: EncodingFault."""
    if _uint(data, 16, 4) != V20_BYTES:
        raise EncodingFault("not the form with a validator index")
    return _fork(_uint(data, 0, 8)), _uint(data, 8, 8), data[V20_BYTES:]


def parse_versioned_json(data: bytes, kind: JsonKind) -> Any:
    """Raises: EncodingFault (also for nesting that no parser likes, and for more than its kind may have)."""
    try:
        return decode_foreign_json(data, kind)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise EncodingFault(f"not JSON: {str(error)[:100]}") from None


def looks_like_json(data: bytes, opening: bytes = b"{") -> bool:
    """Whether the first non-space byte is one of `opening`, and not far away."""
    first = data[:MAX_SPACES].lstrip(b" \t\r\n")[:1]
    return bool(first) and first in opening


def encode_json(value: object) -> bytes:
    """Compact, keys in the order of the dict: what Go's encoder writes."""
    return msgspec.json.encode(value)


def json_member(value: object, name: str) -> Any:
    """`value[name]` of a JSON object. Raises: EncodingFault."""
    if not isinstance(value, Mapping) or name not in value:
        raise EncodingFault(f"not a JSON object with {name}")
    return value[name]


def json_fork(value: object) -> Fork:
    """The fork whose number the member `version` holds. Raises: EncodingFault."""
    number = json_member(value, "version")
    if not isinstance(number, int) or isinstance(number, bool):
        raise EncodingFault("version is not a number")
    return _fork(number)


def json_uint(value: object, name: str) -> int:
    """The uint64 in quotes of a member. Raises: EncodingFault."""
    return uint_from_text(json_member(value, name))
