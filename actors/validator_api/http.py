"""Requests and answers of the validator API as values, and the parts of HTTP that its routes need. No I/O.

Error texts are Charon's where it has one (07 §2): validator clients and their operators know them.
Source: specification 07 §1.1, §2; 20 §3.1 (Accept).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from actors.beacon import ByteStream
from charon_actors.bounded_json import JsonKind, decode_foreign_json

JSON: Final = b"application/json"
SSZ: Final = b"application/octet-stream"
MAX_QUERY_FIELDS: Final = 20_000  # validators by key, one field each
PARSE_FAILED: Final = "failed parsing json request body"

Headers = tuple[tuple[bytes, bytes], ...]


class ApiError(Exception):
    """The request fails with this status; the message goes to the validator client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class ApiRequest(msgspec.Struct, frozen=True):
    """params: from the path. headers: names in lower case, first value of each. raw_path: as sent, still escaped."""

    method: str
    path: str
    raw_path: str
    query: bytes
    headers: Mapping[str, str]
    all_headers: tuple[tuple[str, str], ...]
    params: Mapping[str, str]
    body: bytes

    @property
    def is_ssz(self) -> bool:
        """Whether the body is SSZ, by the rule of `content_kind`."""
        return content_kind(self.headers) is SSZ

    def uint_param(self, name: str) -> int:
        """A path parameter. Raises: ApiError."""
        return _uint(name, self.params[name])

    def uint_query(self, name: str, default: int | None = None) -> int:
        """A query parameter. Raises: ApiError."""
        values = [value for key, value in self.query_fields() if key == name]
        if not values or values[0] == "":
            if default is None:
                raise ApiError(400, f"missing query parameter {name}")
            return default
        return _uint(name, values[0])

    def hex_query(self, name: str, size: int) -> bytes:
        """`size` bytes as hex, with or without 0x; must be there once. Raises: ApiError."""
        values = [value for key, value in self.query_fields() if key == name]
        if len(values) != 1:
            raise ApiError(400, f"missing 0x-hex query parameter {name}")
        digits = values[0].removeprefix("0x")
        if len(digits) % 2 or re.fullmatch("[0-9a-fA-F]*", digits) is None:
            raise ApiError(400, f"invalid 0x-hex query parameter {name} [{values[0][:256]}]")
        if len(digits) != 2 * size:
            raise ApiError(400, f"invalid length for 0x-hex query parameter {name}, expect {size} bytes")
        return bytes.fromhex(digits)

    def query_fields(self) -> list[tuple[str, str]]:
        """Raises: ApiError."""
        try:
            return parse_qsl(self.query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
        except ValueError:
            raise ApiError(400, f"more than {MAX_QUERY_FIELDS} query parameters") from None

    def json(self, kind: JsonKind) -> Any:
        """The parsed body. Raises: ApiError."""
        if not self.body:
            raise ApiError(400, "empty request body")
        return parse_request_json(self.body, kind)


class ApiAnswer(msgspec.Struct, frozen=True):
    """body: bytes, or a stream that the sender must close."""

    status: int = 200
    headers: Headers = ()
    body: bytes | ByteStream = b""


def parse_request_json(body: bytes, kind: JsonKind) -> Any:
    """Raises: ApiError."""
    try:
        return decode_foreign_json(body, kind)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise ApiError(400, PARSE_FAILED) from None


def json_answer(value: object, headers: Headers = (), status: int = 200) -> ApiAnswer:
    return ApiAnswer(status, ((b"content-type", JSON), *headers), msgspec.json.encode(value))


def error_answer(status: int, message: str) -> ApiAnswer:
    return json_answer({"code": status, "message": message}, status=status)


def content_kind(headers: Mapping[str, str]) -> bytes:
    """JSON or SSZ: what the body is taken for (07 §1.1 step 3). Raises: ApiError 415."""
    value = headers.get("content-type", "")
    lowered = value.lower()
    if not value or "application/json" in lowered:
        return JSON
    if "application/octet-stream" in lowered:
        return SSZ
    raise ApiError(415, f"unsupported media type {value[:100]}")


def prefers_ssz(accept: str) -> bool:
    """Whether an Accept header ranks octet-stream above JSON. Equal ranks, no header and `*/*` mean JSON, the API's default."""
    ssz_q, json_q = 0.0, 0.0
    for item in accept.lower().split(",")[:32]:
        kind, *parameters = (part.strip() for part in item.split(";"))
        q = _quality(parameters)
        if kind == "application/octet-stream":
            ssz_q = max(ssz_q, q)
        elif kind in ("application/json", "application/*", "*/*"):
            json_q = max(json_q, q)
    return ssz_q > json_q


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return min(max(float(parameter[2:8]), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0


def _uint(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 20 and int(text) < 2**64):
        raise ApiError(400, f"invalid uint path parameter {name} [{text[:256]}]")
    return int(text)
