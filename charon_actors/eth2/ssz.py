"""SSZ: schema types that decode, encode, hash and translate to JSON. Sans-IO, and the only SSZ code of the node.

Theory of operation. A schema is a tree of type objects, made once; values are plain Python: int, bytes, list, and dict for
containers. Bit fields are kept as the bytes of their encoding (a bit list with its delimiter bit), because nothing here needs
single bits.

    type            value       encoding                       hash_tree_root                                      JSON
    Uint            int         little-endian                  the same, padded to 32                              "12"
    ByteVector      bytes       as is                          merkleize(chunks)                                   "0x…"
    Address         bytes (20)  as is                          as ByteVector                                       "0x…" EIP-55
    ByteList        bytes       as is                          mix_in_length(merkleize(chunks, limit))             "0x…"
    Bitvector       bytes       as is                          merkleize(chunks)                                   "0x…"
    Bitlist         bytes       with delimiter                 delimiter off, mix_in_length(…, number of bits)     "0x…"
    Vector, List    list        elements, or offsets first     merkleize(roots or packed), List: mix_in_length     […]
    Container       dict        fixed parts, then variable     merkleize(roots of the fields)                      {…}

SSZ is canonical: each value has one encoding, and `decode` refuses everything else – offsets that don't start where the
fixed part ends, that fall or point outside; lengths that don't divide; bytes left over; bits behind the end of a bit vector;
a bit list without delimiter; more elements than the limit. So equal bytes mean equal values, and an encoding that was decoded
once may stand for its value (`Container.field_bytes` reads one field of it without decoding the rest).

Limits: time and memory of `decode` and `from_json` are linear in the input; the depth is the schema's. No element has zero bytes.
Speed matters (a block of 160 kB has some 9000 hashes): plain loops over bytes and hashlib, about 5 ms a block on one core.

Source: specification 08 §7.1; consensus-specs `ssz/simple-serialize.md`.
"""

import operator
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from charon_actors.crypto import checksum_address
from charon_actors.eth2.merkle import CHUNK_BYTES, depth_of, merkleize, mix_in_length, padded_to_chunks

D = TypeVar("D", bytes, memoryview)

OFFSET_BYTES: Final = 4


class EncodingFault(ValueError):
    """Foreign bytes or JSON that are not what they should be; says where, never quotes more than a few characters."""


class SszFault(EncodingFault):
    """Bytes or JSON that are no value of a schema type."""


def hex_text(data: bytes) -> str:
    return "0x" + data.hex()


def bytes_from_hex(value: object, size: int | None = None) -> bytes:
    """The bytes of `0x…`, exactly `size` of them if given. Raises: SszFault."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise SszFault("not a 0x-hex text")
    try:
        data = bytes.fromhex(value[2:])
    except ValueError:
        raise SszFault("not a 0x-hex text") from None
    if 2 * len(data) + 2 != len(value):  # bytes.fromhex skips blanks
        raise SszFault("not a 0x-hex text")
    if size is not None and len(data) != size:
        raise SszFault(f"{len(data)} bytes instead of {size}")
    return data


def uint_from_text(value: object, bits: int = 64) -> int:
    """The unsigned integer of a decimal text. Raises: SszFault."""
    if not isinstance(value, str) or not value.isascii() or not value.isdecimal() or len(value) > 78:
        raise SszFault("not a decimal number in quotes")
    number = int(value)
    if number >> bits:
        raise SszFault(f"{value} has more than {bits} bits")
    return number


class SszType(ABC):
    """A type of the schema. `fixed_size`: bytes of every encoding, or None where that varies. Errors of all methods: SszFault."""

    fixed_size: int | None
    is_basic = False
    is_plain = False  # whatever bytes there are, if they are `fixed_size`, encode a value

    @abstractmethod
    def decode(self, data: bytes) -> Any:
        """The value whose encoding is exactly `data`."""

    def check(self, data: memoryview) -> None:
        """Whether `data` is the encoding of a value, which isn't built: nothing is copied, and what is plain is only measured."""
        if self.is_plain:
            if len(data) != self.fixed_size:
                raise SszFault(f"{len(data)} bytes instead of {self.fixed_size}")
            return
        self.decode(bytes(data))

    @abstractmethod
    def encode(self, value: Any) -> bytes: ...

    @abstractmethod
    def hash_tree_root(self, value: Any) -> bytes:
        """32 bytes. `value` is trusted to be one of this type: it was decoded, or read from JSON."""

    @abstractmethod
    def from_json(self, value: object) -> Any:
        """The value of a Beacon API JSON form, already parsed. Unknown keys of objects are ignored, as the API allows them."""

    @abstractmethod
    def to_json(self, value: Any) -> Any: ...


class Uint(SszType):
    is_basic = is_plain = True

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self.fixed_size: int = bits // 8

    def decode(self, data: bytes) -> int:
        if len(data) != self.fixed_size:
            raise SszFault(f"{len(data)} bytes for a uint{self._bits}")
        return int.from_bytes(data, "little")

    def encode(self, value: int) -> bytes:
        try:
            return value.to_bytes(self.fixed_size, "little")
        except OverflowError:
            raise SszFault(f"{value} is no uint{self._bits}") from None

    def hash_tree_root(self, value: int) -> bytes:
        return value.to_bytes(CHUNK_BYTES, "little")

    def from_json(self, value: object) -> int:
        return uint_from_text(value, self._bits)

    def to_json(self, value: int) -> str:
        return str(value)


class ByteVector(SszType):
    is_plain = True

    def __init__(self, size: int) -> None:
        self.fixed_size: int = size
        self._depth = depth_of((size + 31) // CHUNK_BYTES)

    def decode(self, data: bytes) -> bytes:
        if len(data) != self.fixed_size:
            raise SszFault(f"{len(data)} bytes instead of {self.fixed_size}")
        return data

    def encode(self, value: bytes) -> bytes:
        return self.decode(value)

    def hash_tree_root(self, value: bytes) -> bytes:
        return value if self.fixed_size == CHUNK_BYTES else merkleize(padded_to_chunks(value), self._depth)

    def from_json(self, value: object) -> bytes:
        return self.decode(bytes_from_hex(value))

    def to_json(self, value: bytes) -> str:
        return hex_text(value)


class ExecutionAddress(ByteVector):
    """An execution address, written with EIP-55's capitals and read in any case."""

    def __init__(self) -> None:
        super().__init__(20)

    def to_json(self, value: bytes) -> str:
        return checksum_address(hex_text(value))


class ByteList(SszType):
    fixed_size = None

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._depth = depth_of((limit + 31) // CHUNK_BYTES)

    def decode(self, data: bytes) -> bytes:
        self._check_length(len(data))
        return data

    def check(self, data: memoryview) -> None:
        self._check_length(len(data))

    def _check_length(self, length: int) -> None:
        if length > self._limit:
            raise SszFault(f"{length} bytes, more than {self._limit}")

    def encode(self, value: bytes) -> bytes:
        return self.decode(value)

    def hash_tree_root(self, value: bytes) -> bytes:
        return mix_in_length(merkleize(padded_to_chunks(value), self._depth), len(value))

    def from_json(self, value: object) -> bytes:
        return self.decode(bytes_from_hex(value))

    def to_json(self, value: bytes) -> str:
        return hex_text(value)


class Bitvector(ByteVector):
    is_plain = False

    def __init__(self, bits: int) -> None:
        super().__init__((bits + 7) // 8)
        self._last_byte_limit = 1 << ((bits - 1) % 8 + 1)

    def decode(self, data: bytes) -> bytes:
        if super().decode(data)[-1] >= self._last_byte_limit:
            raise SszFault("bits behind the end of a bit vector")
        return data


class Bitlist(SszType):
    fixed_size = None

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._depth = depth_of((limit + 255) // 256)

    def decode(self, data: bytes) -> bytes:
        if not data or not data[-1]:
            raise SszFault("a bit list without its delimiter")
        if bit_length(data) > self._limit:
            raise SszFault(f"{bit_length(data)} bits, more than {self._limit}")
        return data

    def encode(self, value: bytes) -> bytes:
        return self.decode(value)

    def hash_tree_root(self, value: bytes) -> bytes:
        bits = bit_length(value)
        last = value[-1] ^ (1 << (bits % 8))
        body = value[:-1] + bytes([last]) if bits % 8 else value[:-1]
        return mix_in_length(merkleize(padded_to_chunks(body), self._depth), bits)

    def from_json(self, value: object) -> bytes:
        return self.decode(bytes_from_hex(value))

    def to_json(self, value: bytes) -> str:
        return hex_text(value)


def bit_length(bitlist: bytes) -> int:
    """How many bits an encoded bit list has, without its delimiter."""
    return (len(bitlist) - 1) * 8 + bitlist[-1].bit_length() - 1


class _Sequence(SszType):
    """What vectors and lists share; `_check_count` tells them apart."""

    def __init__(self, element: SszType, chunks: int) -> None:
        self._element = element
        self._depth = depth_of(chunks)

    def _check_count(self, count: int) -> None:
        raise NotImplementedError

    def check(self, data: memoryview) -> None:
        size, element = self._element.fixed_size, self._element
        if size is not None:
            if len(data) % size:
                raise SszFault(f"{len(data)} bytes don't divide into elements of {size}")
            self._check_count(len(data) // size)
            if not element.is_plain:
                for start in range(0, len(data), size):
                    element.check(data[start : start + size])
            return
        starts = self._starts(data)
        if not starts:
            return
        ends = (*starts[1:], len(data))
        if any(map(operator.gt, starts, ends)):
            raise SszFault(f"offsets that go back in {len(data)} bytes")
        if isinstance(element, ByteList):
            element._check_length(max(map(operator.sub, ends, starts)))
        else:
            for start, end in zip(starts, ends, strict=True):
                element.check(data[start:end])

    def _starts(self, data: memoryview) -> tuple[int, ...]:
        """Where elements of different lengths begin."""
        if not data:
            self._check_count(0)
            return ()
        first = int.from_bytes(data[:OFFSET_BYTES], "little")
        if first % OFFSET_BYTES or not OFFSET_BYTES <= first <= len(data):
            raise SszFault(f"a first offset of {first} in {len(data)} bytes")
        self._check_count(first // OFFSET_BYTES)
        return struct.unpack(f"<{first // OFFSET_BYTES}I", data[:first])

    def decode(self, data: bytes) -> list[Any]:
        size, decode = self._element.fixed_size, self._element.decode
        if size is not None:
            if len(data) % size:
                raise SszFault(f"{len(data)} bytes don't divide into elements of {size}")
            self._check_count(len(data) // size)
            return [decode(data[i : i + size]) for i in range(0, len(data), size)]
        starts = self._starts(memoryview(data))
        return [decode(part) for part in _parts(data, starts)] if starts else []

    def encode(self, value: list[Any]) -> bytes:
        self._check_count(len(value))
        parts = [self._element.encode(element) for element in value]
        if self._element.fixed_size is not None:
            return b"".join(parts)
        return _offsets(parts, OFFSET_BYTES * len(parts)) + b"".join(parts)

    def hash_tree_root(self, value: list[Any]) -> bytes:
        if self._element.is_basic:
            return merkleize(padded_to_chunks(b"".join([self._element.encode(element) for element in value])), self._depth)
        return merkleize(b"".join([self._element.hash_tree_root(element) for element in value]), self._depth)

    def from_json(self, value: object) -> list[Any]:
        if not isinstance(value, list):
            raise SszFault("not a JSON array")
        self._check_count(len(value))
        return [self._element.from_json(element) for element in value]

    def to_json(self, value: list[Any]) -> list[Any]:
        return [self._element.to_json(element) for element in value]


class Vector(_Sequence):
    def __init__(self, element: SszType, length: int) -> None:
        assert element.fixed_size is not None, "no consensus type has a vector of variable elements"
        super().__init__(element, (length * element.fixed_size + 31) // CHUNK_BYTES if element.is_basic else length)
        self._length = length
        self.fixed_size = length * element.fixed_size
        self.is_plain = element.is_plain

    def _check_count(self, count: int) -> None:
        if count != self._length:
            raise SszFault(f"{count} elements instead of {self._length}")


class List(_Sequence):
    fixed_size = None

    def __init__(self, element: SszType, limit: int) -> None:
        assert element.fixed_size != 0, "an element without bytes would make memory unbounded"
        packed = (limit * (element.fixed_size or 0) + 31) // CHUNK_BYTES
        super().__init__(element, packed if element.is_basic else limit)
        self._limit = limit

    def _check_count(self, count: int) -> None:
        if count > self._limit:
            raise SszFault(f"{count} elements, more than {self._limit}")

    def hash_tree_root(self, value: list[Any]) -> bytes:
        return mix_in_length(super().hash_tree_root(value), len(value))


class Container(SszType):
    """name: for error messages. fields: name to type, in order; the values are dicts with exactly these keys."""

    def __init__(self, name: str, fields: Mapping[str, SszType]) -> None:
        self.name = name
        self.fields = dict(fields)
        self._depth = depth_of(len(self.fields))
        self._fixed_length = sum(OFFSET_BYTES if field.fixed_size is None else field.fixed_size for field in self.fields.values())
        is_fixed = all(field.fixed_size is not None for field in self.fields.values())
        self.fixed_size = self._fixed_length if is_fixed else None
        self.is_plain = is_fixed and all(field.is_plain for field in self.fields.values())

    def check(self, data: memoryview) -> None:
        if self.is_plain:
            super().check(data)
            return
        for (name, field), part in zip(self.fields.items(), self._split(data), strict=True):
            try:
                field.check(part)
            except SszFault as fault:
                raise self._located(name, fault) from None

    def decode(self, data: bytes) -> dict[str, Any]:
        parts = self._split(data)
        value = {}
        for (name, field), part in zip(self.fields.items(), parts, strict=True):
            try:
                value[name] = field.decode(part)
            except SszFault as fault:
                raise self._located(name, fault) from None
        return value

    def encode(self, value: Mapping[str, Any]) -> bytes:
        fixed, variable = [], []
        position = self._fixed_length
        for name, field in self.fields.items():
            try:
                part = field.encode(value[name])
            except SszFault as fault:
                raise self._located(name, fault) from None
            if field.fixed_size is None:
                fixed.append(position.to_bytes(OFFSET_BYTES, "little"))
                variable.append(part)
                position += len(part)
            else:
                fixed.append(part)
        return b"".join(fixed + variable)

    def hash_tree_root(self, value: Mapping[str, Any]) -> bytes:
        return merkleize(b"".join([field.hash_tree_root(value[name]) for name, field in self.fields.items()]), self._depth)

    def from_json(self, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise SszFault(f"{self.name}: not a JSON object")
        result = {}
        for name, field in self.fields.items():
            if name not in value:
                raise SszFault(f"{self.name}: {name} is missing")
            try:
                result[name] = field.from_json(value[name])
            except SszFault as fault:
                raise self._located(name, fault) from None
        return result

    def to_json(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return {name: field.to_json(value[name]) for name, field in self.fields.items()}

    def field_bytes(self, data: bytes, name: str) -> bytes:
        """The encoding of one field, cut out of the container's encoding; only the container's own offsets are checked."""
        return bytes(self.field_view(memoryview(data), name))

    def field_view(self, data: memoryview, name: str) -> memoryview:
        """The same without a copy."""
        return self._split(data)[list(self.fields).index(name)]

    def _located(self, name: str, fault: SszFault) -> SszFault:
        text = str(fault)
        return fault if len(text) > 200 else SszFault(f"{self.name}.{name}: {text}")

    def _split(self, data: D) -> list[D]:
        if len(data) < self._fixed_length or (self.fixed_size is not None and len(data) != self.fixed_size):
            raise SszFault(f"{self.name}: {len(data)} bytes, its fixed part has {self._fixed_length}")
        parts: list[D] = []
        offsets: list[int] = []
        places: list[int] = []
        position = 0
        for field in self.fields.values():
            size = OFFSET_BYTES if field.fixed_size is None else field.fixed_size
            part = data[position : position + size]
            position += size
            if field.fixed_size is None:
                offsets.append(int.from_bytes(part, "little"))
                places.append(len(parts))
            parts.append(part)
        if offsets:
            if offsets[0] != self._fixed_length:
                raise SszFault(f"{self.name}: a first offset of {offsets[0]} instead of {self._fixed_length}")
            for place, part in zip(places, _parts(data, offsets), strict=True):
                parts[place] = part
        return parts


def _parts(data: D, offsets: Sequence[int]) -> list[D]:
    ends = [*offsets[1:], len(data)]
    parts: list[D] = []
    for start, end in zip(offsets, ends, strict=True):
        if not start <= end <= len(data):
            raise SszFault(f"offsets {start} and {end} in {len(data)} bytes")
        parts.append(data[start:end])
    return parts


def _offsets(parts: list[bytes], position: int) -> bytes:
    offsets = []
    for part in parts:
        offsets.append(position.to_bytes(OFFSET_BYTES, "little"))
        position += len(part)
    return b"".join(offsets)


UINT64: Final = Uint(64)
UINT256: Final = Uint(256)
BYTES20: Final = ByteVector(20)
BYTES32: Final = ByteVector(32)
BYTES48: Final = ByteVector(48)
BYTES96: Final = ByteVector(96)
ADDRESS: Final = ExecutionAddress()
