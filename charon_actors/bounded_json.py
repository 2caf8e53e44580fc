"""JSON from others, decoded without giving them the stack. Pure.

msgspec's parser and the standard library's are recursive, and stop at the interpreter's recursion limit. That limit belongs to the program
that we run in, some libraries raise it to 100 000, and then a few kilobytes of `[[[[…` end the process. So the depth is checked first:
brackets are all that is kept of the text, and one level is taken off at a time.

Files are read more strictly than what a peer or a beacon node sends: what two readers could read as two values is refused.

Limits: MAX_DEPTH levels; brackets inside of strings count as well (nothing that a beacon node or a peer sends comes near). In files
MAX_NUMBER_CHARACTERS a number, also of unknown keys: the time to read a number grows with the square of its length; and MAX_VALUES
values: of short ones, Python needs a hundred times the memory that the file has.
"""

import json
from typing import Any, Final

import msgspec

MAX_DEPTH: Final = 64
MAX_NUMBER_CHARACTERS: Final = 100
MAX_VALUES: Final = 4_000_000  # a lock of 25 000 validators of four operators has 1 200 000
_ALL_BUT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


class TooDeep(ValueError):
    """More levels than MAX_DEPTH."""


def check_depth(text: bytes) -> None:
    """Raises: TooDeep. Linear in the text, about 1 ms for 1 MB."""
    brackets = text.translate(None, _ALL_BUT_BRACKETS)
    for _ in range(MAX_DEPTH):
        if len(brackets) <= MAX_DEPTH:
            return
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
    if len(brackets) > MAX_DEPTH:
        raise TooDeep(f"nested more than {MAX_DEPTH} levels deep")


def decode_foreign_json(text: bytes) -> Any:
    """The value. Raises: ValueError (msgspec.DecodeError, TooDeep)."""
    check_depth(text)
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise
    except (UnicodeDecodeError, RecursionError):
        raise ValueError("no UTF-8, or nested too deeply") from None


def decode_json_file(content: bytes, *, with_lower_keys: bool = False) -> Any:
    """The value that a file holds. with_lower_keys: of all objects, for files whose keys match in any letter case.

    Raises: ValueError with a reason, also for bytes that are no UTF-8, NaN and Infinity, long numbers, and a key that
    stands twice in one object, in any letter case.
    """

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        lower = {key.lower(): value for key, value in pairs}
        if len(lower) != len(pairs):
            raise ValueError("a key stands twice in one object")
        return lower if with_lower_keys else dict(pairs)

    check_depth(content)
    if sum(map(content.count, (b",", b"{", b"["))) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no UTF-8") from None
    try:
        return json.loads(
            text,
            object_pairs_hook=collect,
            parse_constant=_refuse_constant,
            parse_int=lambda number: int(_short(number)),
            parse_float=lambda number: float(_short(number)),
        )
    except RecursionError:
        raise TooDeep("nested too deeply") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _short(number: str) -> str:
    if len(number) > MAX_NUMBER_CHARACTERS:
        raise ValueError(f"a number of more than {MAX_NUMBER_CHARACTERS} characters")
    return number
