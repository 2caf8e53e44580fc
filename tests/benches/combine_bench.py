"""How long `charon combine` takes: the key shares of a cluster of V validators, back to V keystores at full cost.

    python tests/benches/combine_bench.py --validators 100 1000

Makes each cluster with `charon create cluster --insecure-keys` (timed as well), so that opening the shares costs little; `--secure` makes
real keystores, as operators have them. Prints wall time, CPU seconds and the largest resident set (of the process and what it started,
whichever is larger), checks that the files are there, and that each names the lock's public key.

On a shared machine CPU seconds grow with what the neighbours do, so the key derivation of one keystore (32.5 ms when these cores are idle)
is timed before and after: divide by how much slower it was. Results are kept in docs/benchmarks.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from charon_actors.crypto import encrypt_keystore  # noqa: E402

IDLE_KEYSTORE_MS = 32.5
ADDRESS = "0x000000000000000000000000000000000000dEaD"


def slowness() -> float:
    """CPU time of one keystore, against that of the idle machine."""
    start = time.process_time()
    for _ in range(5):
        encrypt_keystore(b"\x01" * 32, "password", os.urandom)
    return (time.process_time() - start) / 5 * 1000 / IDLE_KEYSTORE_MS


def charon(title: str, *arguments: str, folder: Path) -> None:
    """Run one command to its end and print what it took."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    command = [sys.executable, "-m", "charon_actors.cli.main", *arguments]
    with (folder / "log").open("wb") as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    wall_s, cpu_s = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    print(f"{title:28} wall {wall_s:7.2f} s  cpu {cpu_s:7.2f} s  rss {usage.ru_maxrss / 1024:6.1f} MB")
    if status:
        sys.exit((folder / "log").read_text()[-2000:])


def run(validators: int, nodes: int, folder: Path, *, is_secure: bool) -> None:
    title = f"V={validators} n={nodes}"
    before = slowness()
    charon("(warm-up)", "combine", "--help", folder=folder)
    create = ["create", "cluster", "--name=bench", "--network=hoodi", f"--nodes={nodes}", f"--num-validators={validators}"]
    create += [f"--fee-recipient-addresses={ADDRESS}", f"--withdrawal-addresses={ADDRESS}", "--cluster-dir=cluster"]
    charon(f"{title} create cluster", *create, *([] if is_secure else ["--insecure-keys"]), folder=folder)
    charon(f"{title} combine --dry-run", "combine", "--cluster-dir=cluster", "--output-dir=out", "--dry-run", folder=folder)
    charon(f"{title} combine", "combine", "--cluster-dir=cluster", "--output-dir=out", folder=folder)
    lock = json.loads((folder / "cluster/node0/cluster-lock.json").read_text())
    for index, validator in enumerate(lock["distributed_validators"]):
        keystore = json.loads((folder / f"out/keystore-{index}.json").read_text())
        assert "0x" + keystore["pubkey"] == validator["distributed_public_key"], index
    assert len(os.listdir(folder / "out")) == 2 * validators
    print(f"neighbours: x{before:.2f} before, x{slowness():.2f} after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--validators", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--secure", action="store_true", help="real keystores on the way in, too")
    arguments = parser.parse_args()
    for validators in arguments.validators:
        with tempfile.TemporaryDirectory(prefix="combine-bench-") as folder:
            run(validators, arguments.nodes, Path(folder), is_secure=arguments.secure)


if __name__ == "__main__":
    main()
