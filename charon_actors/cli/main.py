"""The command `charon`: finds the command, loads only that one, ends with a status. Source: 09-cli-and-config, section 1.

`charon enr` and `charon version` are run by scripts many times, so a command's module (and Trio, httpx and the like behind
it) is imported only when that command is called; help of a group shows the summaries of the table below.
"""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from charon_actors.cli.door import exit_status, watch_signals
from charon_actors.cli.options.examples import write_example
from charon_actors.errors import UserError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Lazy(NamedTuple):
    """A command that is still on disk: `module:attribute`, and the line that help shows for it."""

    target: str
    summary: str


COMMANDS: Final[Mapping[str, Lazy]] = {
    "create enr": Lazy("charon_actors.cli.commands.create_enr:command", "Create an identity key and its ENR"),
    "create dkg": Lazy("charon_actors.cli.commands.create_dkg:command", "Write the cluster definition for a ceremony"),
    "create cluster": Lazy("charon_actors.cli.commands.create_cluster:command", "Create a whole cluster on this machine"),
    "enr": Lazy("charon_actors.cli.commands.enr:command", "Print the ENR of the identity key"),
    "dkg": Lazy("charon_actors.cli.commands.dkg:command", "Take part in a key generation ceremony"),
    "combine": Lazy("charon_actors.cli.commands.combine:command", "Combine key shares into the validators' own keys"),
    "run": Lazy("charon_actors.cli.commands.run:command", "Run a node of the cluster"),
    "simnet": Lazy("charon_actors.cli.commands.simnet:command", "Run a whole cluster in one process, for a look"),
    "verify": Lazy("charon_actors.cli.commands.verify:command", "Check cluster files: hashes, signatures, keys"),
    "show": Lazy("charon_actors.cli.commands.show:command", "Show what a cluster file says"),
    "version": Lazy("charon_actors.cli.commands.version:command", "Print the version"),
    "completion": Lazy("charon_actors.cli.commands.completion:command", "Print the script that completes commands in a shell"),
}
# Charon's commands that this version doesn't have yet, and older names of theirs (09 §1, §9).
UNBUILT: Final = (
    *(f"alpha edit {what}" for what in ("add-validators", "recreate-private-keys", "add-operators", "remove-operators")),
    "alpha edit replace-operator",
    *(f"alpha test {what}" for what in ("peers", "beacon", "validator", "mev", "infra", "all")),
    *(f"test {what}" for what in ("peers", "beacon", "validator", "mev", "infra", "all")),
    *(f"exit {what}" for what in ("active-validator-list", "sign", "broadcast", "fetch", "delete")),
    *(f"deposit {what}" for what in ("sign", "fetch")),
    *(f"feerecipient {what}" for what in ("sign", "fetch", "list")),
    "relay",
    "bootnode",
    "unsafe run",
)
EXAMPLES: Final[Mapping[str, str]] = {"": "charon simnet --slots 20", "create ": "charon create enr"}
GROUPS: Final[Mapping[str, str]] = {"create": "Create an identity, a cluster definition or a cluster"}


class LazyGroup(click.Group):
    """A group whose commands are rows of COMMANDS. An unknown command is an error, also in a nested group."""

    def __init__(self, name: str, path: str, summary: str) -> None:
        super().__init__(name, help=summary, context_settings={"help_option_names": ["-h", "--help"]})
        self._path = path  # "" or "create "

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._summaries())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        path = self._path + cmd_name
        if path in GROUPS:
            return LazyGroup(cmd_name, f"{path} ", GROUPS[path])
        if path not in COMMANDS:
            return None
        module, attribute = COMMANDS[path].target.split(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise UserError(f"charon {path}", "this build has no such command", "install a build that has it") from error
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        command = self.get_command(ctx, args[0])
        if command is None and ctx.resilient_parsing:  # a shell asks how to go on; an error would stand in the prompt
            return args[0], None, args[1:]
        if command is None:
            unbuilt = _unbuilt(args) if not self._path else ""
            if unbuilt:
                remedy = "use Charon's own for it, the files are the same, see `charon --help` for what there is"
                raise UserError(f"charon {unbuilt}", "this version has no such command yet", remedy)
            what = f'unknown command "{args[0]}" for "{ctx.command_path}"'
            near = "".join(f"did you mean `{name}`? " for name in get_close_matches(args[0], self._summaries(), n=1))
            raise UserError(ctx.command_path, what, f"{near}see `{ctx.command_path} --help`")
        return args[0], command, args[1:]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            args = ["--help"]
        if not self._path and args[:1] == ["help"]:  # `charon help run`, as in Charon
            args = [*args[1:], "--help"]
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            remedy = f"see `{ctx.command_path} --help`"
            raise UserError(ctx.command_path, f"unknown flag: {error.option_name}", remedy) from error

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list["CompletionItem[str]"]:
        """From the table: click would import every command for its help text."""
        from click.shell_completion import CompletionItem

        names = {name: text for name, text in self._summaries().items() if name.startswith(incomplete)}
        flags = click.Command.shell_complete(self, ctx, incomplete)
        return [*(CompletionItem(name, help=text) for name, text in names.items()), *flags]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self._summaries().items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_example(formatter, EXAMPLES[self._path])
        formatter.write_paragraph()
        formatter.write_text(f"Flags and an example of each command: {ctx.command_path} COMMAND --help")

    def _summaries(self) -> dict[str, str]:
        rows = {**GROUPS, **{path: lazy.summary for path, lazy in COMMANDS.items()}}
        tails = {path.removeprefix(self._path): text for path, text in rows.items() if path.startswith(self._path)}
        return {tail: text for tail, text in tails.items() if " " not in tail}


def _unbuilt(words: Sequence[str]) -> str:
    """The command of UNBUILT that these words are, or its group when they name no command of it; "" for all others."""
    for count in range(min(3, len(words)), 0, -1):
        path = " ".join(words[:count])
        if any(command == path or command.startswith(f"{path} ") for command in UNBUILT):
            return path
    return ""


root = LazyGroup("charon", "", "charon-actors: a distributed-validator node for Ethereum.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. Nothing but that status and what was printed leaves here."""
    try:
        if arguments is None:
            watch_signals()
        status = root.main(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="charon", standalone_mode=False)
        if sys.stdout is not None:  # None: closed by whoever started us
            sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        return exit_status(KeyboardInterrupt())
    except click.ClickException as error:
        return exit_status(UserError("charon", error.format_message().rstrip("."), "see `charon --help`"))
    except SystemExit as stop:  # click's answer to a reader that has gone
        return stop.code if isinstance(stop.code, int) else 1
    except BrokenPipeError:  # the reader of our output has gone, as in `charon enr | head -c 4`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except BaseException as error:
        status = exit_status(error)
        _drop_unwritten_output()
        return status


def _drop_unwritten_output() -> None:
    """A full disk below stdout must not be reported again, without our words, when Python ends."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    sys.exit(main())
