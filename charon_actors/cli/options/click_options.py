"""Flags and arguments as click has them: their spellings, the titles they stand under, and what a shell completes after them.

All values reach us as texts, under parameter names of their own (`flag_data_dir`, `argument_path`), so that `options.resolve` can
tell which spelling was used. Files and directories complete after flags that end in -file, -path, -dir, and for arguments.
"""

from typing import TYPE_CHECKING, Final

import click

from charon_actors.cli.options.flag import Argument, Flag
from charon_actors.cli.options.values import Kind

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

SECTIONS: Final = {
    "beacon-node": "Beacon node",
    "fallback-beacon-node": "Beacon node",
    "p2p": "Peers",
    "testnet": "Custom network",
    "log": "Log",
}


def section_of(flag_name: str) -> str:
    """The title under which help and the page of all commands show a flag."""
    return next((title for prefix, title in SECTIONS.items() if flag_name.startswith(f"{prefix}-")), "Flags")


def flag_name(option: click.Option) -> str:
    """`data-dir` of the option of that flag."""
    return (option.name or "").removeprefix("flag_").replace("_", "-")


class _Option(click.Option):
    """An option whose switch form shows no value: `--verbose`, not `--verbose <bool>`, which would be refused.

    In the shell's completion, too: what follows a switch is the command's argument. Files complete where a path belongs.
    """

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record and (record[0].removesuffix(f" <{Kind.SWITCH.value}>"), record[1])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list["CompletionItem[str]"]:
        from click.shell_completion import CompletionItem

        if self.metavar == f"<{Kind.SWITCH.value}>":
            waiting = [p for p in ctx.command.params if isinstance(p, click.Argument) and not ctx.params.get(p.name or "")]
            return waiting[0].shell_complete(ctx, incomplete) if waiting else []
        for ending, kind in (("-file", "file"), ("-path", "file"), ("-dir", "dir"), ("-directory", "dir")):
            if flag_name(self).endswith(ending):
                return [CompletionItem(incomplete, type=kind)]
        return []


def click_argument(argument: Argument) -> click.Argument:
    """An argument that click never calls missing: `resolve` does, in our words."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list["CompletionItem[str]"]:
        from click.shell_completion import CompletionItem

        if not argument.choices:
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(choice) for choice in argument.choices if choice.startswith(incomplete)]

    return click.Argument(
        [argument_parameter(argument.name)],
        required=False,
        type=click.UNPROCESSED,
        metavar=argument.shown if argument.required else f"[{argument.shown}]",
        shell_complete=complete,
    )


def click_options(flag: Flag, default_text: str) -> list[click.Option]:
    """The flag itself, and each older spelling as a hidden option of its own, so that we know which one was used."""
    note = "required" if flag.required else default_text
    spellings = [[*([f"-{flag.short}"] if flag.short else []), f"--{flag.name}", flag_parameter(flag.name)]]
    spellings += [[f"--{name}", flag_parameter(name)] for name in flag.aliases]
    return [
        _Option(
            declarations,
            multiple=True,
            type=click.UNPROCESSED,
            metavar=f"<{flag.kind.value}>",
            help=flag.help.rstrip(".") + (f"  [{note}]" if note else ""),
            hidden=flag.is_hidden or position > 0,
        )
        for position, declarations in enumerate(spellings)
    ]


def flag_parameter(flag_name: str) -> str:
    return "flag_" + flag_name.replace("-", "_")


def argument_parameter(name: str) -> str:
    return "argument_" + name
