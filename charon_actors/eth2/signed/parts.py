"""What the signed objects share: a checked signature, and reading SSZ or else JSON."""

from typing import Any, Final, TypeVar

import msgspec

from charon_actors.bounded_json import OBJECT
from charon_actors.eth2.ssz import Container, EncodingFault
from charon_actors.eth2.versioned import looks_like_json, parse_versioned_json

S = TypeVar("S", bound=msgspec.Struct)

SIGNATURE_BYTES: Final = 96


def checked(signature: bytes) -> bytes:
    if len(signature) != SIGNATURE_BYTES:
        raise ValueError(f"a signature of {len(signature)} bytes")
    return signature


def replaced(value: S, name: str, signature: bytes) -> S:
    return msgspec.structs.replace(value, **{name: checked(signature)})


def ssz_or_json(schema: Container, data: bytes) -> dict[str, Any]:
    if len(data) == schema.fixed_size:
        return schema.decode(data)
    if not looks_like_json(data):
        raise EncodingFault(f"{schema.name}: {len(data)} bytes instead of {schema.fixed_size}")
    return schema.from_json(parse_versioned_json(data, OBJECT))
