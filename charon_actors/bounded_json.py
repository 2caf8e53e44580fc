"""JSON from others, decoded without giving them the stack. Pure.

msgspec's parser and the standard library's are recursive, and stop at the interpreter's recursion limit. That limit belongs to the program
that we run in, some libraries raise it to 100 000, and then a few kilobytes of `[[[[…` end the process. So the depth is checked first:
brackets are all that is kept of the text, and one level is taken off at a time.

Limits: MAX_DEPTH levels; brackets inside of strings count as well (nothing that a beacon node or a peer sends comes near).
"""

from typing import Any, Final

import msgspec

MAX_DEPTH: Final = 64
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
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
