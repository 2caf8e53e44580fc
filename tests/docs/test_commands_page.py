"""docs/commands.md is what the code says."""

import subprocess
import sys
from pathlib import Path

import pytest

from charon_actors.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "commands.md"


def generate(*arguments: str, script: Path = ROOT / "docs" / "generate_commands.py") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_the_page_of_commands_is_fresh() -> None:
    done = generate("--check")
    assert (done.returncode, done.stderr) == (0, ""), "run `python docs/generate_commands.py`"


def test_a_stale_page_is_noticed_and_written_anew(tmp_path: Path) -> None:
    script = tmp_path / "generate_commands.py"
    script.write_text((ROOT / "docs" / "generate_commands.py").read_text())
    page = tmp_path / "commands.md"
    assert generate("--check", script=script).returncode == 1
    assert generate(script=script).returncode == 0
    fresh = page.read_text()
    assert generate("--check", script=script).returncode == 0
    page.write_text(fresh.replace("CHARON_LOCK_FILE", "CHARON_LOCK"))
    done = generate("--check", script=script)
    assert (done.returncode, done.stderr) == (
        1,
        "commands.md is not what the code says; run `python docs/generate_commands.py`\n",
    )


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_its_section(path: str) -> None:
    section = PAGE.read_text().split(f"\n## charon {path}\n")[1].split("\n## ")[0]
    assert f"```sh\ncharon {path}" in section
    assert "Example:" in section


def test_aliases_inert_flags_defaults_and_environment_names_are_listed() -> None:
    page = PAGE.read_text()
    assert "- `--fee-recipient-address` is now `--fee-recipient-addresses`" in page
    assert "- `--p2p-udp-address` has no effect: " in page
    assert "| `--target-gas-limit` | uint | 60000000 | `CHARON_TARGET_GAS_LIMIT` | Gas limit that builders are told |" in page
    assert "| `--threshold`, `-t` | int |" in page
