"""Reading and writing JSON the way Charon's files have it.

Reading is as lenient as Charon where that can't hurt (unknown keys ignored, missing keys and null are the zero value, keys
match in any letter case) and stricter where two readers could see two files: the same key twice, bytes that are no UTF-8
and lone surrogates are refused. Every method of `Fields` raises only ClusterFault, with the path of the field. What can't be read at all
is said to be what it is (`file_kinds.py`).

Limits: MAX_JSON_BYTES, and those of `bounded_json.py`. Source: specification 01, sections 1 and 2.1.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Final

from charon_actors.bounded_json import CLUSTER_FILE, TooDeep, decode_json_file
from charon_actors.cluster.faults import ClusterFault
from charon_actors.file_kinds import MAX_FILE_BYTES, FileKind, clause, form_of, other_than, what_it_is, why_no_json

MAX_JSON_BYTES: Final = MAX_FILE_BYTES

_DECIMAL = re.compile(r"[0-9]{1,20}", flags=re.ASCII)
_UNICODE_ESCAPES: Final = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}  # as Go's encoder


def decode_object(content: bytes, what: str, kind: FileKind | None = None) -> "Fields":
    """The top-level object of a file; `what` names the file in faults, `kind` is what it must not be another than. Raises ClusterFault."""
    parsed = _parse(content, what)
    if not isinstance(parsed, dict):
        raise ClusterFault(f"{what}: no JSON object{clause(other_than(kind, parsed) or what_it_is(content))}")
    _refuse_others(parsed, what, kind)
    return Fields(parsed, "")


def decode_objects(content: bytes, what: str, kind: FileKind | None = None) -> tuple["Fields", ...]:
    """The objects in the top-level list of a file; as `decode_object`. Raises ClusterFault."""
    parsed = _parse(content, what)
    if not isinstance(parsed, list):
        raise ClusterFault(f"{what}: no JSON list{clause(other_than(kind, parsed) or what_it_is(content))}")
    _refuse_others(parsed, what, kind)
    return Fields({what: parsed}, "").objects(what)


def _refuse_others(parsed: object, what: str, kind: FileKind | None) -> None:
    other = other_than(kind, parsed) if kind is not None else ""
    if other:
        raise ClusterFault(f"{what}: another file{clause(other)}")


def _parse(content: bytes, what: str) -> Any:
    if len(content) > MAX_JSON_BYTES:
        raise ClusterFault(f"{what}: larger than {MAX_JSON_BYTES} bytes")
    try:
        return decode_json_file(content, CLUSTER_FILE, with_lower_keys=True)
    except ValueError as error:
        if isinstance(error, TooDeep) and not form_of(content):
            raise ClusterFault(f"{what}: nested too deeply") from error
        raise ClusterFault(f"{what}: no valid JSON: {why_no_json(content, error)}") from error


def encode_object(value: object, *, indent: int = 1) -> bytes:
    """Keys in the given order, LF, no newline at the end; byte for byte what Charon writes."""
    return json.dumps(value, indent=indent, ensure_ascii=False).translate(_UNICODE_ESCAPES).encode("utf-8")


def encode_compact(value: object) -> bytes:
    """On one line, without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).translate(_UNICODE_ESCAPES).encode("utf-8")


def hex_or_empty(content: bytes) -> str:
    """`0x…` in lower case; nothing is the empty text."""
    return "0x" + content.hex() if content else ""


def base64_text(content: bytes) -> str:
    """Base64 with padding, as in files before v1.2."""
    return b64encode(content).decode("ascii")


class Fields:
    """One JSON object of a foreign file, and where it stands in it."""

    def __init__(self, values: Mapping[str, Any], path: str, *, is_base64: bool = False) -> None:
        self._values, self._path, self._is_base64 = values, path, is_base64

    def text(self, name: str) -> str:
        value = self._get(name, str, "")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self.fault(name, "no valid Unicode text") from error
        return str(value)

    def number(self, name: str) -> int:
        """A plain integer from 0 to 2^64 - 1."""
        return self._in_64_bits(name, self._get(name, int, 0))

    def switch(self, name: str) -> bool:
        return bool(self._get(name, bool, False))

    def data(self, name: str) -> bytes:
        """Bytes written as hex, with or without 0x; after `with_base64` as base64."""
        return self._data(name, self._get(name, str, ""))

    def hex_data(self, name: str) -> bytes:
        """Bytes written as hex in files of all versions."""
        return self._from_hex(name, self._get(name, str, ""))

    def data_list(self, name: str) -> tuple[bytes, ...]:
        return tuple(self._data(f"{name}[{i}]", self._typed(f"{name}[{i}]", v, str)) for i, v in self._items(name))

    def with_base64(self) -> "Fields":
        """The same object, whose byte fields are base64 with padding: those of files before v1.2."""
        return Fields(self._values, self._path, is_base64=True)

    def quoted_number(self, name: str) -> int:
        """A decimal in quotes; missing is 0."""
        text = self._get(name, str, "")
        return self._quoted(name, text) if text else 0

    def quoted_numbers(self, name: str) -> tuple[int, ...]:
        return tuple(self._quoted(f"{name}[{i}]", self._typed(f"{name}[{i}]", v, str)) for i, v in self._items(name))

    def exact(self, name: str, size: int) -> bytes:
        """Bytes written as hex, exactly that many."""
        content = self.hex_data(name)
        if len(content) != size:
            raise self.fault(name, f"expected {size} bytes, not {len(content)}")
        return content

    def object(self, name: str) -> "Fields":
        return Fields(self._get(name, dict, {}), f"{self._path}{name}.", is_base64=self._is_base64)

    def objects(self, name: str) -> tuple["Fields", ...]:
        return tuple(
            Fields(
                {} if v is None else self._typed(f"{name}[{i}]", v, dict), f"{self._path}{name}[{i}].", is_base64=self._is_base64
            )
            for i, v in self._items(name)
        )

    def fault(self, name: str, what: str) -> ClusterFault:
        return ClusterFault(f"{self._path}{name}: {what}")

    def _items(self, name: str) -> list[tuple[int, Any]]:
        return list(enumerate(self._get(name, list, [])))

    def _get(self, name: str, kind: type, zero: Any) -> Any:
        value = self._values.get(name)
        return zero if value is None else self._typed(name, value, kind)

    def _typed(self, name: str, value: Any, kind: type) -> Any:
        if type(value) is not kind:  # not isinstance: true is no number
            raise self.fault(name, f"expected {_KIND_NAMES[kind]}")
        return value

    def _data(self, name: str, text: str) -> bytes:
        if not self._is_base64:
            return self._from_hex(name, text)
        try:
            return b64decode(text, validate=True)
        except ValueError as error:
            raise self.fault(name, "expected base64 with padding") from error

    def _from_hex(self, name: str, text: str) -> bytes:
        digits = text.removeprefix("0x")
        if not re.fullmatch(r"(?:[0-9a-fA-F]{2})*", digits):
            raise self.fault(name, "expected hex digits, two a byte")
        return bytes.fromhex(digits)

    def _quoted(self, name: str, text: str) -> int:
        if not _DECIMAL.fullmatch(text):
            raise self.fault(name, "expected a decimal number in quotes")
        return self._in_64_bits(name, int(text))

    def _in_64_bits(self, name: str, number: int) -> int:
        if not 0 <= number < 2**64:
            raise self.fault(name, "the number is out of range")
        return number


_KIND_NAMES: Final = {
    str: "a text",
    int: "a plain whole number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}
