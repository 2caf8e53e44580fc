"""The completion script in real shells: commands, flags after dashes, files where a path belongs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from charon_actors.cli.commands.completion import SHELLS
from charon_actors.cli.main import COMMANDS, GROUPS
from tests.cli.conftest import Charon

BASH = """
eval "$(charon completion bash)"
compopt() {{ echo "compopt:$2"; }}
COMP_WORDS=({words}); COMP_CWORD={position}; COMPREPLY=()
_charon_completion charon
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """`charon` on the PATH, as it is after an installation."""
    program = tmp_path / "bin" / "charon"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m charon_actors.cli.main "$@"\n')
    program.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CHARON_", "_CHARON"))}
    path = f"{program.parent}:{clean['PATH']}"
    return {**clean, "PATH": path, "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path)}


def complete(environment: dict[str, str], *words: str) -> list[str]:
    """What bash offers after `charon` and these words; the last one is incomplete."""
    quoted = " ".join(f"'{word}'" for word in ("charon", *words))
    script = BASH.format(words=quoted, position=len(words))
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
def test_bash_completes_commands_flags_choices_and_files(environment: dict[str, str]) -> None:
    roots = {path.split()[0] for path in COMMANDS} | set(GROUPS)
    assert set(complete(environment, "")) == roots
    assert complete(environment, "com") == ["combine", "completion"]
    assert set(complete(environment, "create", "")) == {"enr", "dkg", "cluster"}
    assert complete(environment, "create", "cluster", "--nod") == ["--nodes"]
    assert {"--json", "--verbose", "--help"} <= set(complete(environment, "show", "--"))
    assert complete(environment, "completion", "z") == ["zsh"]
    assert complete(environment, "show", "") == ["compopt:default"]  # file names
    assert complete(environment, "show", "--json", "") == ["compopt:default"]  # a switch takes no value
    assert complete(environment, "enr", "--data-dir", "") == ["compopt:dirnames"]
    assert complete(environment, "enr", "--enr-address", "") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
def test_nonsense_completes_to_nothing_and_is_silent(environment: dict[str, str]) -> None:
    assert complete(environment, "enr", "--nope", "x", "") == []
    assert complete(environment, "nope", "--ver") == []
    assert complete(environment, "completion", "bash", "zsh", "") == []


@pytest.mark.parametrize(("shell", "check"), [("bash", ["-n"]), ("zsh", ["-n"]), ("fish", ["--no-execute"])])
def test_the_script_is_one_of_its_shell(charon: Charon, tmp_path: Path, shell: str, check: list[str]) -> None:
    outcome = charon("completion", shell)
    assert outcome.status == 0
    assert f"_CHARON_COMPLETE={shell}_complete" in outcome.stdout
    script = tmp_path / "script"
    script.write_text(outcome.stdout)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not here, so its script was printed only")
    done = subprocess.run([shell, *check, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_shell_is_one_line(charon: Charon) -> None:
    assert charon("completion", "tcsh").error == f'charon completion: unknown shell "tcsh"; choose one of {", ".join(SHELLS)}'
    assert charon("completion").error.startswith("charon completion: missing bash|zsh|fish")


def test_completing_commands_imports_none_of_them(environment: dict[str, str]) -> None:
    """Else every Tab costs half a second."""
    script = (
        "import sys; from charon_actors.cli.main import main; main([]);"
        "loaded = ('trio', 'httpx', 'rich', 'charon_actors.cli.commands.run', 'charon_actors.cli.commands.show');"
        "print([name for name in sys.modules if name in loaded])"
    )
    asked = {**environment, "_CHARON_COMPLETE": "bash_complete", "COMP_WORDS": "charon s", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=asked, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "plain,show" in done.stdout
