"""Writes `docs/commands.md`, the page of all commands, from the tables of flags that the commands are made of.

    python docs/generate_commands.py             write the page
    python docs/generate_commands.py --check     end with 1 when the page isn't what the code says

A test runs the second one. Nothing stands in the page that isn't in the tables, so whoever changes a flag only runs the first.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from charon_actors.cli.main import COMMANDS, root
from charon_actors.cli.options.click_options import section_of
from charon_actors.cli.options.flag import Flag
from charon_actors.cli.options.table import CharonCommand, default_text

PAGE = Path(__file__).with_name("commands.md")

HEAD = """# Commands

Made by `python docs/generate_commands.py` from the code; don't edit it by hand. `charon COMMAND --help` says the same.

A flag's value comes from the command line, else from the environment (the name in the table; an empty value counts as unset), else from
`charon.json`, `.toml`, `.yaml` or `.yml` in the working directory (flag names as keys), else it is the default. Lists are comma
separated or given by repeating the flag. Durations are written like `1m30s`.
"""


def page() -> str:
    context = click.Context(root, info_name="charon")
    listed = "\n".join(f"- [`charon {path}`](#{_anchor(path)}): {lazy.summary}" for path, lazy in COMMANDS.items())
    return f"{HEAD}\n{listed}\n\n" + "\n".join(_command(path, context) for path in COMMANDS)


def _command(path: str, context: click.Context) -> str:
    command: click.Command | None = root
    for name in path.split():
        assert isinstance(command, click.Group)
        command = command.get_command(context, name)
    assert isinstance(command, CharonCommand), path
    blocks = [f"## charon {path}", _text(command.help or ""), f"```sh\n{_usage(path, command)}\n```"]
    if command.arguments:
        described = [
            (argument.shown, argument.help + (" (required)" if argument.required else "")) for argument in command.arguments
        ]
        blocks.append(_table(("argument", "meaning"), described))
    shown = [flag for flag in command.flags if not flag.is_hidden]
    for title in dict.fromkeys(section_of(flag.name) for flag in shown):
        flags = [flag for flag in shown if section_of(flag.name) == title]
        rows = [(_names(flag), flag.kind.value, _default(flag), f"`{flag.environment_name}`", flag.help) for flag in flags]
        blocks.append(f"{title}:\n\n" + _table(("flag", "type", "default", "environment", "meaning"), rows))
    blocks += [*_former_names(command), *_unbuilt(command)]
    blocks.append(f"Example:\n\n```sh\n{command.example}\n```")
    return "\n\n".join(blocks) + "\n"


def _usage(path: str, command: CharonCommand) -> str:
    arguments = [argument.shown if argument.required else f"[{argument.shown}]" for argument in command.arguments]
    return " ".join(["charon", path, *(["[flags]"] if command.flags else []), *arguments])


def _former_names(command: CharonCommand) -> Iterator[str]:
    older = [f"- `--{alias}` is now `--{flag.name}`" for flag in command.flags for alias in flag.aliases]
    inert = [f"- `--{flag.name}` has no effect: {flag.inert}" for flag in command.flags if flag.inert]
    if older or inert:
        yield "Older names, accepted with a notice:\n\n" + "\n".join([*older, *inert])


def _unbuilt(command: CharonCommand) -> Iterator[str]:
    rows = [
        (f"`--{flag.name}`", flag.kind.value, flag.unbuilt.means, "an error" if flag.unbuilt.remedy else "a notice")
        for flag in command.flags
        if flag.unbuilt is not None
    ]
    if rows:
        yield "Flags of Charon that this version doesn't have yet; given as their default they say nothing:\n\n" + _table(
            ("flag", "type", "without it", "when given"), rows
        )


def _names(flag: Flag) -> str:
    return f"`--{flag.name}`" + (f", `-{flag.short}`" if flag.short else "")


def _default(flag: Flag) -> str:
    if flag.required:
        return "**required**"
    return default_text(flag).removeprefix("default ") or ("false" if flag.default is False else "-")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


def _text(text: str) -> str:
    """Help as paragraphs; click's mark for lines that stay as they are becomes a list."""
    paragraphs = [part.split("\n") for part in text.split("\n\n")]
    return "\n\n".join("\n".join(f"- {line}" for line in p[1:]) if p[0] == "\b" else " ".join(p) for p in paragraphs)


def _anchor(path: str) -> str:
    return f"charon-{path}".replace(" ", "-")


def main(arguments: Sequence[str]) -> int:
    wanted = page()
    if "--check" in arguments:
        is_fresh = PAGE.exists() and PAGE.read_text("utf-8") == wanted
        if not is_fresh:
            print(f"{PAGE.name} is not what the code says; run `python docs/generate_commands.py`", file=sys.stderr)
        return 0 if is_fresh else 1
    PAGE.write_text(wanted, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
