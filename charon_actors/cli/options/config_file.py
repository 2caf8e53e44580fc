"""`charon.json`, `.toml`, `.yaml` or `.yml` in the working directory: flag values that an operator keeps.

The first that exists is used alone. Top-level keys are flag names with hyphens, in any letter case; unknown keys are
ignored, a key twice is an error, null is unset, an empty text is a value. Lists may be real lists or comma separated text.

    format   read as                                                   besides, where Charon's reader refuses the file
    JSON     RFC 8259                                                  a byte order mark, UTF-16
    TOML     TOML 1.0                                                  a byte order mark, UTF-16, old Mac line ends
    YAML     yaml_file.py says it: byte order marks and UTF-16, too    %YAML 1.2, tabs of YAML 1.2

Every scalar is the text that stands in the file (YAML's `yes` is "yes", `0123` is "0123"), so that a value means the same here and on
the command line; a number in the format's own form (`3.0`, `1e3`, YAML's `08`) is also kept as the whole number that it is, for flags
that count. Line breaks at the end of a text (a YAML block) are no part of it.

Limits: MAX_FILE_BYTES, MAX_LINES_IN_TEXTS. Source: specification 09-cli-and-config, section 2.
"""

import codecs
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from charon_actors.bounded_json import check_depth
from charon_actors.cli.door import notice
from charon_actors.errors import UserError

ENDINGS: Final = ("json", "toml", "yaml", "yml")
MAX_FILE_BYTES: Final = 256 << 10  # YAML is read at 0.1 MB a second
MAX_LINES_IN_TEXTS: Final = 20
_MARKS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class Scalar(msgspec.Struct, frozen=True):
    """text: as it stands there. number: the same as a decimal whole number, where the format says that it is one; else the text."""

    text: str
    number: str


class FileValue(NamedTuple):
    """line: of its key, from 1; 0 if unknown. value: one scalar, or a list of them."""

    line: int
    value: Scalar | tuple[Scalar, ...]


FileValues = Mapping[str, FileValue]


def read_config_file(directory: Path, names: Collection[str]) -> tuple[str, FileValues]:
    """File name and values of these flag names; ("", {}) when there is no such file. Raises UserError."""
    for ending in ENDINGS:
        path = directory / f"charon.{ending}"
        if not os.path.lexists(path):
            continue
        try:
            if not path.is_file():  # Docker makes a directory for a mount whose source is missing
                raise ValueError("is no file, or a link to none")
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
            text = decode_text(path.read_bytes())
            check_depth(text.encode("utf-8", "surrogatepass"))
            values, has_more = _READERS[ending](text, frozenset(names))
            if has_more:
                notice(f"{path.name} has more than one document; only the first one counts")
        except OSError as error:
            raise UserError(path.name, f"cannot read the file ({error.strerror})", "check its permissions") from error
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(path.name, f"read config: {reason}", "correct the file or move it away") from error
        return path.name, values
    return "", {}


def decode_text(content: bytes) -> str:
    """What an editor has written: UTF-8, or UTF-16 behind its byte order mark. Raises ValueError with the line."""
    mark, encoding = next((row for row in _MARKS if content.startswith(row[0])), (b"", "utf-8"))
    content = content.removeprefix(mark)
    if encoding == "utf-8" and b"\0" in content:
        raise ValueError("has zero bytes, so it is no UTF-8; save it as UTF-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, "replace").count("\n") + 1
        raise ValueError(f"line {line} is neither UTF-8 nor UTF-16 behind a byte order mark; save the file as UTF-8") from error


def _read_yaml(text: str, names: frozenset[str]) -> tuple[FileValues, bool]:
    """Values, and whether there are more documents, which count for nothing."""
    from charon_actors.cli.options.yaml_file import Text, read_yaml

    def scalar(found: Text | None, name: str) -> Scalar:
        if found is None:
            raise ValueError(f"an element of {name} is null")
        return _scalar(found.text, is_number=found.is_number)

    entries, has_more = read_yaml(text, names)
    values = {
        entry.key: FileValue(
            entry.line,
            tuple(scalar(element, entry.key) for element in entry.value)
            if isinstance(entry.value, list)
            else scalar(entry.value, entry.key),
        )
        for entry in entries
        if entry.value is not None
    }
    return values, has_more


class _Number(str):
    """A number of JSON or TOML, as text."""

    __slots__ = ()


def _read_json(text: str, names: frozenset[str]) -> tuple[FileValues, bool]:
    if not text.strip():
        raise ValueError("is empty; JSON begins with { and ends with }")
    parsed = json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_no_constant, object_pairs_hook=_once_each)
    return _known(parsed, names, lambda: dict(_lines_of_json(text))), False


def _no_constant(name: str) -> str:
    raise ValueError(f"{name} is no JSON")


def _lines_of_json(text: str) -> Iterator[tuple[str, int]]:
    """Line of each key of the top level, in a text that has been read already."""
    decoder = json.JSONDecoder(strict=True)
    place, line, counted = text.index("{") + 1, 1, 0
    while True:
        place = _next(text, place, ",")
        if text[place] == "}":
            return
        line, counted = line + text.count("\n", counted, place), place
        key, place = decoder.raw_decode(text, place)
        yield key.lower(), line
        _, place = decoder.raw_decode(text, _next(text, place, ":"))


def _next(text: str, place: int, skipped: str) -> int:
    while text[place] in " \t\r\n" + skipped:
        place += 1
    return place


def _read_toml(text: str, names: frozenset[str]) -> tuple[FileValues, bool]:
    import tomllib

    text = text.replace("\r\n", "\n").replace("\r", "\n")
    parsed = tomllib.loads(text)
    _once_each(list(parsed.items()))
    return _known(parsed, names, lambda: dict(_lines_of_toml(text, names))), False


def _lines_of_toml(text: str, names: frozenset[str]) -> Iterator[tuple[str, int]]:
    """Line of each key of the top level: tomllib doesn't tell. The first line that begins like it, and isn't inside of a text.

    Lines inside of texts are looked at MAX_LINES_IN_TEXTS times, since each look reads the file up to there.
    """
    import tomllib

    lines = text.split("\n")
    found: set[str] = set()
    left = MAX_LINES_IN_TEXTS
    for number, line in enumerate(lines, 1):
        key = re.match(r"""[ \t]*(?:"([\w-]+)"|'([\w-]+)'|([\w-]+))[ \t]*=""", line)
        name = next(filter(None, key.groups()), "").lower() if key else ""
        if name not in names or name in found or not left:
            continue
        try:
            tomllib.loads("\n".join(lines[: number - 1]))
        except tomllib.TOMLDecodeError:
            left -= 1
            continue
        found.add(name)
        yield name, number


def _known(parsed: object, names: frozenset[str], lines: Callable[[], dict[str, int]]) -> FileValues:
    if parsed is None:
        return {}
    if not isinstance(parsed, dict):
        raise ValueError("the top level is no mapping of flag names to values")
    of_names = {key.lower(): value for key, value in parsed.items() if key.lower() in names and value is not None}
    line_of = lines() if of_names else {}
    return {name: FileValue(line_of.get(name, 0), _typed(name, value)) for name, value in of_names.items()}


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two values for one flag: whoever wrote the file means one of them, and we don't know which."""
    seen: set[str] = set()
    for key, _ in pairs:
        if key.lower() in seen:
            raise ValueError(f"{key} stands twice")
        seen.add(key.lower())
    return dict(pairs)


def _typed(name: str, value: object) -> Scalar | tuple[Scalar, ...]:
    if isinstance(value, list):
        return tuple(_of_value(name, element) for element in value)
    return _of_value(name, value)


def _of_value(name: str, value: object) -> Scalar:
    if isinstance(value, bool):
        return _scalar("true" if value else "false", is_number=False)
    if isinstance(value, dict | list) or value is None:
        raise ValueError(f"the value of {name} is neither text nor a list of texts")
    return _scalar(str(value), is_number=isinstance(value, _Number | int | float))


def _scalar(text: str, *, is_number: bool) -> Scalar:
    if not text.isascii():  # JSON may write half a surrogate pair, which no file name and no log can hold
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = text.rstrip("\r\n")
    return Scalar(text, whole_number(text) if is_number else text)


_BASES: Final = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|([0-9]+))")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")
_MAX_EXACT: Final = 1 << 53


def whole_number(text: str) -> str:
    """The decimal form of a number that is whole, as YAML, JSON and TOML write numbers; else the text itself.

    With Go's octals: 010 is 8, and 08, which can't be one, is 8 as well.
    """
    plain = text.replace("_", "") if len(text) <= 100 and text[:1] != "_" else ""
    match = _BASES.fullmatch(plain)
    if match:
        sign, *digits = match.groups()
        return next(str(int(sign + found, base)) for found, base in zip(digits, (16, 2, 8, 10), strict=True) if found)
    number = float(plain) if _FLOAT.fullmatch(plain) else 0.5
    return str(int(number)) if number.is_integer() and abs(number) <= _MAX_EXACT else text


_READERS: Final[Mapping[str, Callable[[str, frozenset[str]], tuple[FileValues, bool]]]] = {
    "json": _read_json,
    "toml": _read_toml,
    "yaml": _read_yaml,
    "yml": _read_yaml,
}
