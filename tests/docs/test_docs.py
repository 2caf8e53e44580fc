"""The examples in the documentation run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = [
    (path.name, number, code)
    for path in sorted((ROOT / "docs").glob("*.md"))
    if path.name != "embedding.md"  # needs a stage: test_embedding.py
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL), 1)
]


@pytest.mark.parametrize(("page", "number", "code"), EXAMPLES, ids=[f"{page}-{number}" for page, number, _ in EXAMPLES])
def test_an_example_of_the_documentation_runs(page: str, number: int, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2


@pytest.mark.slow
def test_four_operators_on_one_machine_as_the_readme_says(tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (script,) = [block for block in blocks if "for i in" in block]
    (tmp_path / "charon").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m charon_actors.cli.main "$@"\n')
    (tmp_path / "charon").chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CHARON_")}
    path = f"{tmp_path}:{clean['PATH']}"
    environment = {**clean, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-ec", script], cwd=work, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    hashes = re.findall(r"lock hash: (0x[0-9a-f]{64})", done.stdout)  # four writers: line ends may fall anywhere
    assert len(hashes) == 4, [log.read_text() for log in work.glob("op?/dkg.log")]
    assert len(set(hashes)) == 1
