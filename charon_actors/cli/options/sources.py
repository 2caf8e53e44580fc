"""A flag's value in one of its sources, parsed on the flag's terms, with the place that errors about it name.

    source          place                    an empty text
    command line    --flag, as it was given  a value
    environment     CHARON_FLAG              unset; so is a list of nothing but dropped elements
    file            charon.yaml:3 (flag)     a value

Older names count when the present one isn't given, and say so. Words of a fixed set are found in any letter case. What an empty element
of a list means is in the flag's `blank`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from charon_actors.cli.door import notice
from charon_actors.cli.options.click_options import flag_parameter
from charon_actors.cli.options.config_file import FileValues, Scalar
from charon_actors.cli.options.flag import Flag, environment_name
from charon_actors.cli.options.values import Blank, Kind, Value, ValueFault, parse_value, strip_quotes
from charon_actors.errors import UserError

MAX_SHOWN_CHARACTERS: Final = 60
_REMEDY: Final = "see the command's --help"

Found = tuple[str, Value]


def from_arguments(flag: Flag, arguments: Mapping[str, Any]) -> Found | None:
    """arguments: texts by parameter name, as click found them. Raises UserError, as all of these do."""
    for name in (flag.name, *flag.aliases):
        texts = arguments.get(flag_parameter(name))
        if not texts:
            continue
        where = f"--{name}"
        if name != flag.name:
            notice(f"{where} is now called --{flag.name}")
        if not flag.kind.is_list:
            return where, _parsed(flag, texts[-1], where)
        merged: list[Any] = []
        for text in texts:
            merged += _parsed(flag, text, where)  # type: ignore[arg-type]  # a list kind gives a tuple
        return where, tuple(merged)
    return None


def from_environment(flag: Flag, environment: Mapping[str, str]) -> Found | None:
    for name in (flag.name, *flag.aliases):
        where = environment_name(name)
        text = strip_quotes(environment.get(where, ""))
        if not text:
            continue
        value = _parsed(flag, text, where)
        if value == () and flag.blank is Blank.DROPPED:
            continue
        if name != flag.name:
            notice(f"{where} is now called {flag.environment_name}")
        return where, value
    return None


def from_file(flag: Flag, file_name: str, in_file: FileValues) -> Found | None:
    for name in (flag.name, *flag.aliases):
        found = in_file.get(name)
        if found is None:
            continue
        where = f"{file_name}:{found.line} ({name})" if found.line else f"{file_name} ({name})"
        is_one = isinstance(found.value, Scalar)
        scalars = (found.value,) if isinstance(found.value, Scalar) else found.value
        texts = [scalar.text if flag.kind in (Kind.TEXT, Kind.TEXTS) else scalar.number for scalar in scalars]
        if is_one:
            return where, _parsed(flag, texts[0], where)
        if not flag.kind.is_list:
            raise UserError(where, "a list stands where one value is expected", "give one value")
        if flag.kind is Kind.TEXTS:
            return where, _elements(flag, tuple(text.strip() for text in texts), where)
        return where, _parsed(flag, ",".join(texts), where)
    return None


def _parsed(flag: Flag, text: str, where: str) -> Value:
    try:
        value = parse_value(flag.kind, text)
    except ValueFault as error:
        raise UserError(where, f'invalid argument "{_shown(flag, text)}" for "--{flag.name}" flag: {error}', _REMEDY) from error
    if isinstance(value, tuple) and flag.kind is Kind.TEXTS:
        return _elements(flag, tuple(map(str, value)), where)
    return _word(flag, value, where) if flag.words and isinstance(value, str) else value


def _word(flag: Flag, text: str, where: str) -> str:
    word = flag.words.get(text.strip().lower())
    if word is not None or flag.has_more_words:
        return text if word is None else word
    known = ", ".join(dict.fromkeys(filter(None, flag.words.values())))
    what = f'invalid argument "{_shown(flag, text)}" for "--{flag.name}" flag: it is not known'
    raise UserError(where, what, f"use one of {known}")


def _elements(flag: Flag, elements: tuple[str, ...], where: str) -> tuple[str, ...]:
    if flag.blank is Blank.DROPPED:
        return tuple(filter(None, elements))
    if flag.blank is Blank.REFUSED and "" in elements:
        place = elements.index("") + 1
        what = f'invalid argument "{_shown(flag, ",".join(elements))}" for "--{flag.name}" flag: element {place} is empty'
        raise UserError(where, what, "take out the comma that has nothing before or after it")
    return elements


def _shown(flag: Flag, text: str) -> str:
    if flag.secret:
        return "…"
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "…"


def is_below(path: str, given: str) -> bool:
    """Whether a path of an error is the one that a flag was given, or lies in that directory."""
    ours = str(Path(given).expanduser())
    return bool(given) and (path == ours or path.startswith(os.path.join(ours, "")))
