"""How fast our libp2p is beside py-libp2p 0.8.1 and go-libp2p: each dials the same go-libp2p daemons over loopback, in one run.

    tests/interop/libp2p/install.sh
    python -m venv PYLIBP2P && PYLIBP2P/bin/pip install libp2p==0.8.1
    python tests/benches/libp2p_bench.py --py-libp2p PYLIBP2P/bin/python

handshake     TCP connect to usable connection: security (noise; go → go takes TLS) and yamux; every dial goes to another daemon
round trip    a new stream, /ipfs/ping/1.0.0 agreed, 32 bytes there and back
throughput    16 MiB through an echo stream; ours only, there and back counted once

Results are kept in docs/benchmarks.md. Compare numbers of one run only.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from pathlib import Path

import trio

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.interop.libp2p.rig import ECHO, PING, GoPeer, go_peer, our_node  # noqa: E402

TARGETS = 12
Timings = dict[str, list[float]]


async def measure_ours(targets: list[GoPeer], round_trips: int) -> Timings:
    timings: Timings = {"handshake_s": [], "round_trip_s": [], "echo_16MiB_s": []}
    async with our_node("bench") as ours:
        for target in targets:
            start = time.perf_counter()
            connection = await ours.dial(target.address)
            timings["handshake_s"].append(time.perf_counter() - start)
        for _ in range(round_trips):
            start = time.perf_counter()
            stream = await connection.open_stream([PING])
            await stream.send_all(bytes(32))
            assert len(await stream.receive_some()) == 32
            timings["round_trip_s"].append(time.perf_counter() - start)
            stream.reset()
        for _ in range(3):
            start = time.perf_counter()
            size = left = 16 * 2**20
            async with await connection.open_stream([ECHO]) as stream, trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, bytes(size))
                while left:
                    left -= len(await stream.receive_some())
            timings["echo_16MiB_s"].append(time.perf_counter() - start)
    return timings


async def measure_go(targets: list[GoPeer], round_trips: int) -> Timings:
    timings: Timings = {"handshake_s": [], "round_trip_s": []}
    async with go_peer("go dialer") as dialer:
        for target in targets:
            start = time.perf_counter()
            await dialer.dial(target.address)
            timings["handshake_s"].append(time.perf_counter() - start)
        for _ in range(round_trips):
            start = time.perf_counter()
            async with await dialer.open(PING) as stream:
                await stream.send_all(bytes(32))
                assert len(await stream.receive_some()) == 32
                timings["round_trip_s"].append(time.perf_counter() - start)
    return timings


async def measure_py(python: str, targets: list[GoPeer], round_trips: int) -> Timings:
    script = str(Path(__file__).with_name("py_libp2p_dialer.py"))
    command = [python, script, str(round_trips), *(str(target.address) for target in targets)]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    if done.returncode:
        sys.exit(f"py-libp2p failed: {done.stderr.decode()[-500:]}")
    timings: Timings = json.loads(done.stdout.splitlines()[-1])
    return timings


async def main(python: str | None, round_trips: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        targets = [await stack.enter_async_context(go_peer(f"target {number}")) for number in range(TARGETS)]
        results = {
            "ours": await measure_ours(targets, round_trips),
            "go-libp2p daemon": await measure_go(targets, round_trips),
        }
        if python:
            results["py-libp2p 0.8.1"] = await measure_py(python, targets, round_trips)
    for dialer, timings in results.items():
        for name, samples in timings.items():
            samples.sort()
            p95 = samples[int(len(samples) * 0.95)]
            print(
                f"{dialer:20} {name:14} p50 {statistics.median(samples) * 1e3:8.2f} ms   p95 {p95 * 1e3:8.2f} ms   n={len(samples)}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--py-libp2p", metavar="PYTHON", help="interpreter of an environment with libp2p==0.8.1")
    parser.add_argument("--round-trips", type=int, default=500)
    arguments = parser.parse_args()
    trio.run(main, arguments.py_libp2p, arguments.round_trips)
