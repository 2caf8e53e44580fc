"""How flag values are written. The same text is understood on the command line, in the environment and in a file.

    kind        syntax                                                              value
    TEXT        as is                                                               str
    TEXTS       one CSV record; each element is trimmed; empty ones: see `Blank`    tuple[str, ...]
    NUMBER      decimal, 0x, 0o, 0b, `_` between digits; a leading zero is octal    int, 64 bits with sign
    NATURAL     the same, not negative                                              int, 64 bits
    NUMBERS     comma separated decimals                                            tuple[int, ...]
    SWITCH      1 t T true TRUE True / 0 f F false FALSE False                      bool
    DURATION    Go's form: 1h30m, 2s, 1.5s, 300ms; 0 needs no unit                  float, seconds

Limits: a value has at most MAX_VALUE_CHARACTERS. Source: specification 09-cli-and-config, section 2.
"""

import csv
import enum
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

MAX_VALUE_CHARACTERS: Final = 1 << 20
MAX_SECONDS: Final = (2**63 - 1) / 1e9  # Go counts nanoseconds in 64 bits

Value = str | int | float | bool | tuple[str, ...] | tuple[int, ...]


class ValueFault(Exception):
    """The text is no value of that kind. Says what was expected, never repeats the text."""


class Kind(enum.Enum):
    TEXT = "string"
    TEXTS = "strings"
    NUMBER = "int"
    NATURAL = "uint"
    NUMBERS = "ints"
    NATURALS = "uints"
    SWITCH = "bool"
    DURATION = "duration"

    @property
    def is_list(self) -> bool:
        return self in (Kind.TEXTS, Kind.NUMBERS, Kind.NATURALS)


class Blank(enum.Enum):
    """What an empty element of a list of texts means: `a,,b`, `,a`, `a,`."""

    REFUSED = "an error that says which one"
    DROPPED = "nothing, as if it were not there"
    KEPT = "an empty text"


def parse_value(kind: Kind, text: str) -> Value:
    """The value that `text` stands for. Raises ValueFault."""
    if len(text) > MAX_VALUE_CHARACTERS:
        raise ValueFault(f"longer than {MAX_VALUE_CHARACTERS} characters")
    return _PARSERS[kind](text)


def strip_quotes(text: str) -> str:
    """Without the pair of quotes that `docker --env-file` leaves around a value; a record of quoted elements stays."""
    text = text.strip()
    for quote in "\"'":
        if len(text) >= 2 and text[0] == text[-1] == quote and quote not in text[1:-1]:
            return text[1:-1]
    return text


def parse_texts(text: str) -> tuple[str, ...]:
    if not text.strip():
        return ()
    try:
        rows = list(csv.reader([" ".join(text.split())], strict=True, skipinitialspace=True))
    except csv.Error as error:
        raise ValueFault("expected a comma separated list, with quotes closed") from error
    if len(rows) != 1:
        raise ValueFault("expected one comma separated line")
    return tuple(element.strip() for element in rows[0])


_NUMBER = re.compile(
    r"([+-]?)(?:0[xX]((?:_?[0-9a-fA-F])+)|0[bB]((?:_?[01])+)|0[oO]?((?:_?[0-7])+)|(0|[1-9](?:_?[0-9])*))", flags=re.ASCII
)


def parse_number(text: str) -> int:
    return _in_64_bits(_whole(text), signed=True)


def parse_natural(text: str) -> int:
    if text.startswith(("-", "+")):
        raise ValueFault("expected a whole number, not negative")
    return _in_64_bits(_whole(text), signed=False)


def _whole(text: str) -> int:
    match = _NUMBER.fullmatch(text) if len(text) <= 100 else None
    if match is None:
        raise ValueFault("expected a whole number")
    sign, *digits = match.groups()
    return next(int(sign + found.replace("_", ""), base) for base, found in zip((16, 2, 8, 10), digits, strict=True) if found)


def parse_numbers(text: str) -> tuple[int, ...]:
    elements = [element.strip() for element in text.split(",")] if text.strip() else []
    if "" in elements:
        raise ValueFault(f"element {elements.index('') + 1} is empty")
    if not all(re.fullmatch(r"[+-]?[0-9]{1,19}", element) for element in elements):
        raise ValueFault("expected comma separated whole numbers")
    return tuple(_in_64_bits(int(element), signed=True) for element in elements)


def parse_naturals(text: str) -> tuple[int, ...]:
    numbers = parse_numbers(text)
    if any(number < 0 for number in numbers):
        raise ValueFault("expected comma separated whole numbers, not negative")
    return numbers


def parse_switch(text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueFault("expected true or false")


_UNIT_S: Final[Mapping[str, Decimal]] = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),  # micro sign, U+00B5
    "μs": Decimal("1e-6"),  # Greek mu, U+03BC
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
}
_DURATION_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


def parse_duration(text: str) -> float:
    """Seconds of a Go duration."""
    sign, rest = (text[0], text[1:]) if text[:1] in ("+", "-") else ("+", text)
    if rest == "0":
        return 0.0
    if not rest or len(rest) > 100 or not re.fullmatch(f"(?:{_DURATION_PART.pattern})+", rest, flags=re.ASCII):
        raise ValueFault("expected a duration such as 30s, 1m30s or 500ms")
    total = sum((Decimal(part[1]) * _UNIT_S[part[2]] for part in _DURATION_PART.finditer(rest)), Decimal(0))
    if total > MAX_SECONDS:
        raise ValueFault("the duration is too long")
    return float(-total if sign == "-" else total)


def duration_text(seconds: float) -> str:
    """`1m30s`, `2s`, `500ms`: the form in which a duration is also read."""
    if seconds != int(seconds):
        return f"{seconds * 1000:g}ms"
    parts = ((int(seconds) // 3600, "h"), (int(seconds) // 60 % 60, "m"), (int(seconds) % 60, "s"))
    return "".join(f"{amount}{unit}" for amount, unit in parts if amount) or "0s"


def _in_64_bits(number: int, *, signed: bool) -> int:
    low, high = (-(2**63), 2**63) if signed else (0, 2**64)
    if not low <= number < high:
        raise ValueFault("the number is out of range")
    return number


_PARSERS: Final[Mapping[Kind, Callable[[str], Value]]] = {
    Kind.TEXT: str,
    Kind.TEXTS: parse_texts,
    Kind.NUMBER: parse_number,
    Kind.NATURAL: parse_natural,
    Kind.NUMBERS: parse_numbers,
    Kind.NATURALS: parse_naturals,
    Kind.SWITCH: parse_switch,
    Kind.DURATION: parse_duration,
}
