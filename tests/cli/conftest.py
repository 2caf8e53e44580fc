"""A working directory of one's own, no CHARON_ environment, and `charon` as a function."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from charon_actors.cli.main import main


class Outcome(NamedTuple):
    status: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one error line. Fails when there is not exactly one, or a traceback."""
        lines = [line for line in self.stderr.splitlines() if not line.startswith("Notice: ")]
        assert self.status == 1, self
        assert len(lines) == 1, self
        assert lines[0].startswith("Error: "), self
        return lines[0].removeprefix("Error: ")


Charon = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to 127.0.0.1 go there."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def charon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Charon:
    for name in list(os.environ):
        if name.startswith("CHARON_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, **environment: str) -> Outcome:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            status = main(arguments)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


def on_a_terminal(*arguments: str, **environment: str) -> tuple[int, bytes]:
    """Status of `charon`, and what its standard output shows on a terminal, which must be short enough for a pty's buffer."""
    parent, child = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "charon_actors.cli.main", *arguments],
        stdout=child,
        env={**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    os.close(child)
    seen = b""
    try:
        while chunk := os.read(parent, 65536):
            seen += chunk
    except OSError:
        pass
    os.close(parent)
    return done.returncode, seen
