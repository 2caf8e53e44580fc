"""The examples of docs/embedding.md run as they stand: two clusters in the folder, a beacon node at the address that they name."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "embedding.md").read_text("utf-8")
EXAMPLES = re.findall(r"^## ([^\n]*)\n.*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
BURN = "0x000000000000000000000000000000000000dEaD"
URL = "http://127.0.0.1:5052"

BEACON_NODE = """
import sys, time, trio
from actors.http import server
from charon_actors.eth2.networks import network_by_name
from supervisors.simulation.beacon_mock import BeaconMock, BeaconSettings

async def main():
    hoodi = network_by_name("hoodi")
    settings = BeaconSettings((), time.time() - 100, 2.0, 8, hoodi.genesis_fork_version)
    with server.bind("127.0.0.1:0", "beacon node") as sock:
        print(sock.getsockname()[1], flush=True)
        await server.serve(BeaconMock(settings, time.time), sock)

trio.run(main)
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("embedding")
    for name in ("alpha", "beta"):
        command = [sys.executable, "-m", "charon_actors.cli.main", "create", "cluster", f"--name={name}", "--nodes=3"]
        command += ["--network=hoodi", "--num-validators=1", "--insecure-keys", f"--cluster-dir={folder / name}"]
        command += [f"--withdrawal-addresses={BURN}", f"--fee-recipient-addresses={BURN}"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    mock = subprocess.Popen([sys.executable, "-c", BEACON_NODE], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert mock.stdout is not None
    port = mock.stdout.readline().strip()
    yield folder, f"http://127.0.0.1:{port}"
    mock.terminate()
    mock.wait(10)


@pytest.mark.parametrize(("title", "code"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_an_example_runs_as_it_stands(title: str, code: str, stage: tuple[Path, str]) -> None:
    folder, url = stage
    command = [sys.executable, "-c", code.replace(URL, url)]
    done = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (done.stderr == "") == (title != "Logs"), "by default nobody hears the log"


def test_all_promised_examples_are_there() -> None:
    assert len(EXAMPLES) == 5
    assert PAGE.count("```python") == 5


def test_a_port_that_is_taken_is_one_error_that_comes_out_as_itself(stage: tuple[Path, str]) -> None:
    folder, url = stage
    [code] = [code for title, code in EXAMPLES if title == "A whole node in ten lines"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code = code.replace(URL, url).replace('"127.0.0.1:0"', f'"127.0.0.1:{taken.getsockname()[1]}"', 1)
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )
    assert done.stderr.splitlines()[-1].startswith("charon_actors.errors.UserError: --validator-api-address")
    assert "ExceptionGroup" not in done.stderr
    assert time.monotonic() - began < 30
