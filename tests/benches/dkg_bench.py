"""How long a whole ceremony takes: N operators as N processes of `charon dkg` on this machine, over loopback TCP.

    python tests/benches/dkg_bench.py --validators 100 --operators 4

Prints wall time (from the first start to the last exit, the shutdown delay included), CPU seconds and largest resident set of each
process, and checks that all operators wrote the same lock. Compare with Charon v1.10.3 on the same two cores: 3.3 s (V=1) and
19.5 s (V=100) wall, 8.2 CPU-s and 59 MB a node at V=100. Results are kept in docs/benchmarks.md.

On a shared machine CPU seconds grow with what the neighbours do, so one PBKDF2 (52 ms when these cores are idle) is timed before and
after: divide by how much slower it was.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.charon_actors.dkg.cluster import definition, prepare_directory  # noqa: E402

IDLE_PBKDF2_MS = 52.0


def slowness() -> float:
    """CPU time of one keystore's key derivation, against that of the idle machine."""
    start = time.process_time()
    for _ in range(3):
        PBKDF2HMAC(hashes.SHA256(), 32, b"salt" * 8, 262_144).derive(b"password")
    return (time.process_time() - start) / 3 * 1000 / IDLE_PBKDF2_MS


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def run(operators: int, validators: int, folder: Path, extra: list[str]) -> None:
    ports = free_ports(operators)
    made = definition(operators, -(-2 * operators // 3), validators, ports=ports)
    directories = [prepare_directory(folder / f"node{index}", index, made) for index in range(operators)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    warm_up = "import charon_actors.cli.main, charon_actors.cli.commands.dkg, supervisors.ceremony"
    subprocess.run([sys.executable, "-c", warm_up], env=environment, cwd=folder, check=True)
    slowness_before = slowness()
    start = time.perf_counter()
    processes = []
    for index, directory in enumerate(directories):
        command = [sys.executable, "-m", "charon_actors.cli.main", "dkg"]
        command += [f"--data-dir={directory}", f"--definition-file={directory / 'cluster-definition.json'}"]
        command += [f"--p2p-tcp-address=127.0.0.1:{ports[index]}", "--p2p-relays=", "--shutdown-delay=1s", *extra]
        log = (folder / f"node{index}.log").open("wb")
        processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment))
    ended = []
    for _ in processes:
        pid, status, usage = os.wait4(-1, 0)
        index = next(i for i, process in enumerate(processes) if process.pid == pid)
        ended.append((index, status, time.perf_counter() - start, usage))
    wall_s = time.perf_counter() - start
    for index, status, ended_s, usage in sorted(ended):
        cpu_s = usage.ru_utime + usage.ru_stime
        rss_mb = usage.ru_maxrss / 1024
        print(f"node {index}: status {status}  ended {ended_s:6.2f} s  cpu {cpu_s:6.2f} s  rss {rss_mb:6.1f} MB")
        if status:
            print((folder / f"node{index}.log").read_text()[-2000:])
    locks = {(directory / "cluster-lock.json").read_bytes() for directory in directories}
    assert len(locks) == 1, "the locks differ"
    mean_cpu_s = sum(usage.ru_utime + usage.ru_stime for *_, usage in ended) / operators
    print(f"neighbours: x{slowness_before:.2f} before, x{slowness():.2f} after")
    print(f"n={operators} V={validators}: wall {wall_s:.2f} s, cpu {mean_cpu_s:.2f} s a node (shutdown delay 1 s included)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operators", type=int, default=4)
    parser.add_argument("--validators", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the folder and print its name")
    arguments, extra = parser.parse_known_args()
    folder = Path(tempfile.mkdtemp(prefix="dkg-bench-"))
    run(arguments.operators, arguments.validators, folder, extra)
    if arguments.keep:
        print(folder)
    else:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
