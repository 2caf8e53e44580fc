"""What was checked, line by line as it happens; in the end the first fault as the command's error.

    on a terminal in UTF-8     otherwise     meaning
    ✓                          ok            it holds
    ✗                          FAULT         it doesn't; the command will end with status 1
    !                          warning       it holds, but somebody should look
    ·                          note          something that there is nothing to check about

Text of files is printed without control characters, and with replacements for what the output's encoding lacks.
"""

import os
import sys
from collections.abc import Iterable
from typing import Final

import click

from charon_actors.cli.door import one_line
from charon_actors.errors import UserError

_SYMBOLS: Final = {"ok": ("✓", "green"), "FAULT": ("✗", "red"), "warning": ("!", "yellow"), "note": ("·", "")}
_WORD_WIDTH: Final = 8


class VerificationReport:
    """Prints on standard output. faults: those so far, in order."""

    def __init__(self) -> None:
        self.faults: list[UserError] = []
        self.checks = 0
        self._symbols = is_utf8_terminal()
        self._colours = self._symbols and "NO_COLOR" not in os.environ

    def title(self, text: str) -> None:
        say(text)

    def ok(self, where: str, what: str) -> None:
        self.checks += 1
        self._line("ok", where, what)

    def warn(self, text: str) -> None:
        self._line("warning", "", text)

    def note(self, where: str, what: str) -> None:
        self._line("note", where, what)

    def fault(self, error: UserError, details: Iterable[str] = (), shown_where: str = "") -> None:
        """details: further lines. shown_where: the place as the other lines call it, if that is shorter."""
        self.checks += 1
        self.faults.append(error)
        self._line("FAULT", shown_where or error.where, error.what)
        for detail in details:
            say(detail, " " * (4 if self._symbols else 4 + _WORD_WIDTH))

    def end(self) -> int:
        """0 when everything holds. Raises the first fault, with the count of all."""
        if not self.faults:
            say(f"{self.checks} checks, everything holds")
            return 0
        first = self.faults[0]
        count = f"{len(self.faults)} of {self.checks} checks failed"
        raise UserError(first.where, first.what, f"{first.remedy} ({count})")

    def _line(self, kind: str, where: str, what: str) -> None:
        symbol, colour = _SYMBOLS[kind]
        text = f"{where}: {what}" if where else what
        if not self._symbols:
            say(text, f"  {kind:{_WORD_WIDTH}}")
        else:
            say(text, f"  {click.style(symbol, fg=colour) if self._colours and colour else symbol} ")


def is_utf8_terminal() -> bool:
    """Whether standard output is a terminal that shows ✓."""
    return sys.stdout is not None and sys.stdout.isatty() and _encoding().lower() in ("utf-8", "utf8")


def say(text: str, prefix: str = "") -> None:
    """One line on standard output, without control characters (but in the prefix, which is ours) and what the encoding lacks."""
    print((prefix + one_line(text)).encode(_encoding(), "replace").decode(_encoding()))


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"  # None: closed by whoever started us
