"""`charon completion bash|zsh|fish`: the script that makes a shell complete our commands, flags and files.

The script asks `charon` itself at every Tab (click's protocol, with the variable _CHARON_COMPLETE), so it never goes stale.
Source: specification 09-cli-and-config, section 1.
"""

from typing import Final

from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from charon_actors.cli.options.flag import Argument
from charon_actors.cli.options.table import Values, charon_command

SHELLS: Final[dict[str, type[ShellComplete]]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
INSTALL: Final = {
    "bash": 'put into ~/.bashrc:  eval "$(charon completion bash)"',
    "zsh": 'put into ~/.zshrc, after compinit:  eval "$(charon completion zsh)"',
    "fish": "charon completion fish > ~/.config/fish/completions/charon.fish",
}


def run(values: Values) -> int:
    from charon_actors.cli.main import root

    shell = values.text("shell")
    script = SHELLS[shell](root, {}, "charon", "_CHARON_COMPLETE")
    head = "" if shell == "zsh" else f"# {INSTALL[shell]}\n"  # zsh wants its #compdef line first
    print(head + script.source_template % script.source_vars())
    return 0


command = charon_command(
    "completion",
    "Print the script that makes a shell complete commands, flags and files after Tab.\n\n\b\n"
    + "\n".join(f"{shell}: {text}" for shell, text in INSTALL.items()),
    run,
    [],
    arguments=[Argument("shell", "The shell that is to complete", required=True, choices=tuple(SHELLS))],
    example="charon completion bash",
)
