"""How long `charon create cluster` takes: wall, CPU of all its processes, largest resident set of the biggest one.

    python tests/benches/create_cluster_bench.py                        # insecure keys, 4 nodes, 1, 100 and 1000 validators
    python tests/benches/create_cluster_bench.py --secure 1 100         # keystores at full cost

Charon v1.10.3 on the same two cores, insecure keys: 0.04, 1.15, 11.3 s wall; 50, 53, 69 MB. Keystores at full cost: some 36 CPU-ms
each on both cores. The time of one PBKDF2 (c = 262144) is printed, so that numbers of a busy machine can be read. In the minutes after
many files were deleted on the same disk, ext4 takes 20 times as long to make new ones: wait, or set TMPDIR to a tmpfs. Results are kept
in docs/benchmarks.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import PBKDF2

ROOT = Path(__file__).parents[2]
ADDRESS = "0x000000000000000000000000000000000000dEaD"


def pbkdf2_ms() -> float:
    start = time.process_time()
    for _ in range(5):
        PBKDF2(b"password", b"salt" * 8, 32, 262_144, hmac_hash_module=SHA256)
    return (time.process_time() - start) / 5 * 1000


def create(nodes: int, validators: int, folder: Path, *, is_secure: bool) -> tuple[float, float, int]:
    """Wall and CPU seconds, and the largest resident set of a process in MiB."""
    command = [sys.executable, "-m", "charon_actors.cli.main", "create", "cluster", "--name=bench", "--network=hoodi"]
    command += [f"--nodes={nodes}", f"--num-validators={validators}", *([] if is_secure else ["--insecure-keys"])]
    command += [f"--withdrawal-addresses={ADDRESS}", f"--fee-recipient-addresses={ADDRESS}"]
    cluster = folder / f"{nodes}-{validators}"
    started = time.perf_counter()
    process = subprocess.Popen([*command, f"--cluster-dir={cluster}"], stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started
    assert status == 0, "the command failed"
    return wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("validators", type=int, nargs="*", default=[1, 100, 1000])
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--secure", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="create-cluster-bench-") as temporary:  # deleted at the end: ext4 shuns fresh holes
        folder = Path(temporary)
        create(3, 1, folder, is_secure=False)  # bytecode is written, files are cached
        print(f"one PBKDF2: {pbkdf2_ms():.1f} CPU-ms, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        for validators in options.validators:
            wall_s, cpu_s, peak_mib = create(options.nodes, validators, folder, is_secure=options.secure)
            line = f"{options.nodes} nodes, {validators} validators: {wall_s:.2f} s wall, {cpu_s:.2f} CPU-s, {peak_mib} MiB"
            if options.secure:
                line += f"; {cpu_s / options.nodes / validators * 1000:.1f} CPU-ms a keystore"
            print(line)


if __name__ == "__main__":
    main()
