"""One table a command: its flags. From it come parsing, help, environment names and the values of configuration files.

Where a value comes from, highest first (specification 09-cli-and-config, section 2):

    1  --flag on the command line      wins if given; lists may be repeated, the first use replaces the default
    2  environment CHARON_FLAG         hyphens become underscores; empty counts as unset
    3  charon.json/toml/yaml/yml       in the working directory (config_file.py)
    4  the default of the table

How to write a command (module of its own, registered by name in main.py; Kind comes from values.py; flags that several
commands share stand in flags.py; an async program is run by cli/door.py `run_program`):

    def run(values: Values) -> int: ...           # exit status; raises UserError
    command = charon_command("dkg", "Take part in a ceremony", run, [Flag("timeout", Kind.DURATION, 120.0, "…"), *P2P],
                             example="charon dkg --timeout 5m")

Older names of a flag (`aliases`) work and warn once. Two kinds of flags are accepted, but not shown in help:

    inert      no effect any more, in Charon either      a notice when it is given
    unbuilt    this version doesn't have it yet          given as its default nothing, else a notice; or an error, where a node
                                                         without it would be another one than the operator believes to run

The same holds on the command line, in the environment and in a file. A flag that gets built is one row changed.

A `UserError` of whatever a command runs may name a flag as `--flag`, or a file that a flag names: at the command's end that becomes
the place of the flag's value (`CHARON_FLAG`, `charon.yaml:3 (flag)`), so that the floors below needn't know of sources.

Some commands take words without dashes (`arguments`, as in `charon show FILE`); those come from the command line only.
"""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from charon_actors.cli.door import notice
from charon_actors.cli.options.click_options import (
    argument_parameter,
    click_argument,
    click_options,
    flag_name,
    section_of,
)
from charon_actors.cli.options.config_file import read_config_file
from charon_actors.cli.options.examples import write_example
from charon_actors.cli.options.flag import Argument, Flag, Unbuilt, environment_name
from charon_actors.cli.options.masked import masked_value
from charon_actors.cli.options.sources import from_arguments, from_environment, from_file, is_below
from charon_actors.cli.options.values import Kind, Value, duration_text
from charon_actors.errors import UserError
from charon_actors.exception_groups import leaves

PATH_ENDINGS: Final = ("-file", "-path", "-dir")


class Values:
    """The values of one command, typed; and where each came from, for errors that lead the operator to the place."""

    def __init__(
        self,
        command: str,
        flags: Sequence[Flag],
        given: Mapping[str, tuple[str, Value]],
        arguments: Sequence[Argument] = (),
    ) -> None:
        self.command = command
        self._flags = {flag.name: flag for flag in flags}
        self._arguments = {argument.name: argument for argument in arguments}
        self._given = given  # by flag name: place, value

    def text(self, name: str) -> str:
        value: str = self._value(name, str)
        return value

    def text_of(self, name: str) -> str:
        """A value of any kind as text; for questions that don't care about kinds, not for logs."""
        return str(self._raw(name))

    def texts(self, name: str) -> tuple[str, ...]:
        value: tuple[str, ...] = self._value(name, tuple)
        return value

    def number(self, name: str) -> int:
        value: int = self._value(name, int)
        return value

    def numbers(self, name: str) -> tuple[int, ...]:
        value: tuple[int, ...] = self._value(name, tuple)
        return value

    def switch(self, name: str) -> bool:
        value: bool = self._value(name, bool)
        return value

    def seconds(self, name: str) -> float:
        return float(self._value(name, (float, int)))

    def path(self, name: str) -> Path:
        """Raises UserError for an empty text, which would mean the working directory."""
        if not self.text(name):
            raise UserError(self.where(name), "is empty", 'give a path, "." for the working directory')
        return Path(self.text(name)).expanduser()

    def is_set(self, name: str) -> bool:
        """Given by the operator, in whatever way (also when it equals the default)."""
        return name in self._given

    def where(self, name: str) -> str:
        """`--threshold`, `CHARON_THRESHOLD` or `charon.yaml:3 (threshold)`: the first word of an error about it."""
        return self._given[name][0] if name in self._given else f"--{name}"

    def name_places(self, error: BaseException) -> None:
        """In user errors that name a flag, or a file that a flag names: where that flag's value came from."""
        for cause in leaves(error):
            if isinstance(cause, UserError):
                cause.move(self._place_of(cause.where))

    def _place_of(self, where: str) -> str:
        first, space, rest = where.partition(" ")
        if first.startswith("--"):
            return self.where(first.removeprefix("--")) + space + rest
        for name, (place, value) in self._given.items():
            is_path = name in self._flags and name.endswith(PATH_ENDINGS) and isinstance(value, str)
            if is_path and not place.startswith("--") and is_below(where, str(value)):
                return f"{where} ({place})"
        return where

    def for_log(self) -> dict[str, str]:
        """All values as text, in alphabetical order, safe to log: tokens, headers and passwords in URLs are masked.

        Flags that help doesn't show are left out unless they were given.
        """
        shown = [name for name, flag in self._flags.items() if name in self._given or not flag.is_hidden]
        return {name: masked_value(self._flags[name], self._raw(name)) for name in sorted(shown)}

    def _raw(self, name: str) -> Value:
        if name in self._given:
            return self._given[name][1]
        return self._arguments[name].default if name in self._arguments else self._flags[name].default

    def _value(self, name: str, expected: Any) -> Any:
        value = self._raw(name)
        assert isinstance(value, expected), f"flag {name} of {self.command} is declared with another kind"
        return value


Body = Callable[[Values], int]


class CharonCommand(click.Command):
    """A click command whose flags all reach us as text; Charon's rules for values and sources are ours."""

    def __init__(
        self, name: str, summary: str, body: Body, flags: Sequence[Flag], example: str, arguments: Sequence[Argument] = ()
    ) -> None:
        self.flags, self.arguments, self._body, self.example = tuple(flags), tuple(arguments), body, example
        options = [option for flag in flags for option in click_options(flag, default_text(flag))]
        super().__init__(
            name,
            params=[*map(click_argument, arguments), *options],
            help=summary,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, self._spell_switches_out(args))
        except click.NoSuchOption as error:
            raise UserError(ctx.command_path, f"unknown flag: {error.option_name}", f"see `{ctx.command_path} --help`") from error
        except click.UsageError as error:
            if "unexpected extra argument" in error.message:
                self._complain_about_extra_argument(ctx, args)
            message = error.message.rstrip(".")
            raise UserError(ctx.command_path, message[:1].lower() + message[1:], f"see `{ctx.command_path} --help`") from error

    def invoke(self, ctx: click.Context) -> int:
        try:
            directory = Path.cwd()
        except OSError as error:
            raise UserError("working directory", f"is gone ({error.strerror})", "change into one that exists") from error
        values = resolve(ctx.command_path, self.flags, ctx.params, os.environ, directory, self.arguments)
        try:
            return self._body(values)
        except BaseException as error:
            values.name_places(error)
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Flags that belong together stand together; long ones have a line of their own, so that 80 columns are enough."""
        if self.arguments:
            with formatter.section("Arguments"):
                formatter.write_dl([(argument.shown, argument.help) for argument in self.arguments])
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        rows = [(section_of(flag_name(option)), record) for option in options if (record := option.get_help_record(ctx))]
        width = NARROW if max(len(record[0]) for _, record in rows) > WIDE else WIDE
        for title in dict.fromkeys(section for section, _ in rows):
            with formatter.section(title):
                formatter.write_dl([record for section, record in rows if section == title], col_max=width)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_example(formatter, self.example)
        if not self.flags:
            return
        formatter.write_paragraph()
        formatter.write_text(
            f"Each flag may also stand in the environment ({self.flags[0].environment_name}=…) or in charon.yaml, .json or "
            ".toml in the working directory; the command line wins."
        )

    def _spell_switches_out(self, args: list[str]) -> list[str]:
        """`--flag` becomes `--flag=true` for switches: click would take the next word for its value."""
        by_name = {f"--{name}": flag for flag in self.flags for name in (flag.name, *flag.aliases)}
        by_name |= {f"-{flag.short}": flag for flag in self.flags if flag.short}
        spelled: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--":
                return [*spelled, word, *words]
            flag = by_name.get(word)
            if flag is not None and flag.kind is Kind.SWITCH:
                spelled.append(f"{word}=true")
            elif flag is not None:
                spelled += [word, *(next_word for next_word in [next(words, None)] if next_word is not None)]
            else:
                spelled.append(word)
        return spelled

    def _complain_about_extra_argument(self, ctx: click.Context, args: list[str]) -> None:
        switches = {f"--{flag.name}" for flag in self.flags if flag.kind is Kind.SWITCH}
        for word, following in itertools.pairwise(args):
            if word in switches and not following.startswith("-"):
                raise UserError(ctx.command_path, f'unexpected "{following}" after {word}', f"write {word} or {word}={following}")
        values_of = {f"--{name}" for flag in self.flags for name in (flag.name, *flag.aliases)} - switches
        words = [
            word
            for before, word in zip(["", *args], args, strict=False)
            if (not word.startswith("-") or word == "-") and before not in values_of
        ]
        extra = words[len(self.arguments)] if len(words) > len(self.arguments) else ""
        if self.arguments:
            taken = " ".join(argument.shown for argument in self.arguments)
            remedy = f"besides flags it takes {taken} only, see `{ctx.command_path} --help`"
            raise UserError(ctx.command_path, f'unexpected argument "{extra}"', remedy)
        raise UserError(
            ctx.command_path,
            f'unknown command "{extra}" for "{ctx.command_path}"',
            f"it takes flags only, see `{ctx.command_path} --help`",
        )


WIDE: Final = 28  # columns of flags that fit beside their help
NARROW: Final = 6


def charon_command(
    name: str, summary: str, body: Body, flags: Sequence[Flag], *, example: str, arguments: Sequence[Argument] = ()
) -> CharonCommand:
    """A command of the table above. `example` is one line that an operator can paste."""
    names = [*(flag.name for flag in flags), *(argument.name for argument in arguments)]
    assert len(set(names)) == len(names), f"{name} declares a flag twice"
    return CharonCommand(name, summary, body, flags, example, arguments)


def resolve(
    command: str,
    flags: Sequence[Flag],
    arguments: Mapping[str, Any],
    environment: Mapping[str, str],
    directory: Path,
    positional: Sequence[Argument] = (),
) -> Values:
    """Find each flag's value in the four sources. `arguments`: texts by parameter name, as click found them.

    Raises UserError for a value of the wrong kind, naming its source, and for required flags and arguments that nobody set.
    """
    names = [name for flag in flags for name in (flag.name, *flag.aliases)]
    file_name, in_file = read_config_file(directory, names)
    given: dict[str, tuple[str, Value]] = {}
    for flag in flags:
        found = from_arguments(flag, arguments) or from_environment(flag, environment) or from_file(flag, file_name, in_file)
        if found is None:
            continue
        given[flag.name] = found
        if flag.inert:
            notice(f"{found[0]} has no effect: {flag.inert}")
        elif flag.unbuilt is not None and found[1] != flag.default:
            _tell_unbuilt(flag, flag.unbuilt, found[0])
    missing = [flag.name for flag in flags if flag.required and not given.get(flag.name, ("", ""))[1]]
    if missing:
        listed = ", ".join(f'"{name}"' for name in missing)
        remedy = f"pass --{missing[0]} or set {environment_name(missing[0])}"
        raise UserError(command, f"required flag(s) {listed} not set", remedy)
    for argument in positional:
        text = arguments.get(argument_parameter(argument.name))
        if text is not None and text.lower() in argument.choices:
            text = text.lower()
        if text is None and argument.required:
            raise UserError(command, f"missing {argument.shown}", f"say which; see `{command} --help`")
        if text is not None and argument.choices and text not in argument.choices:
            raise UserError(command, f'unknown {argument.name} "{text[:60]}"', f"choose one of {', '.join(argument.choices)}")
        if text is not None:
            given[argument.name] = (argument.shown, text)
    return Values(command, flags, given, positional)


def _tell_unbuilt(flag: Flag, unbuilt: Unbuilt, where: str) -> None:
    what = f"this version has no --{flag.name} yet; {unbuilt.means}"
    if unbuilt.remedy:
        raise UserError(where, what, unbuilt.remedy)
    notice(f"{where} has no effect: {what}")


def default_text(flag: Flag) -> str:
    """`default 1m30s`; "" for defaults that say nothing."""
    if not flag.default and flag.kind is not Kind.DURATION:
        return ""
    if isinstance(flag.default, tuple):
        return "default " + ", ".join(map(str, flag.default))
    if flag.kind is Kind.DURATION:
        return f"default {duration_text(float(flag.default))}"
    return f"default {flag.default}"
