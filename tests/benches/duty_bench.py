"""When the cluster's submissions reach the beacon node, what a node costs, how long it takes to start.

    python tests/benches/duty_bench.py [--fork fulu] [--seconds 200] [--slot-seconds 4] [--validators 4] [--log-level info]

Four nodes as processes with four bench clients (SSZ and JSON) on the bench node; needs `tests/interop/install.sh`. Run it on a quiet
machine. Prints one JSON object: milliseconds after slot start (blocks) and after a third of the slot (attestations) of the first
accepted submission, CPU in percent of a core and RSS in MB a node over the measured time, seconds from start to /readyz 200.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.interop.rig import Bench, Operators, Rig, wait_for

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_MB


def percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    if not ordered:
        return {"n": 0}
    return {
        "n": len(ordered),
        "p50": round(ordered[len(ordered) // 2]),
        "p90": round(ordered[int(len(ordered) * 0.9)]),
        "max": round(ordered[-1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fork", default="fulu")
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--slot-seconds", type=int, default=4)
    parser.add_argument("--validators", type=int, default=4)
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--keep", help="folder for the files and logs, which stay")
    options = parser.parse_args()
    folder = Path(options.keep or tempfile.mkdtemp(prefix="duty-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    with Rig(folder) as rig:
        operators = Operators(rig)
        operators.create_dkg(operators.create_enrs(), options.validators)
        operators.dkg()
        keys = operators.folders[0] / ".charon/deposit-data.json"
        bench = Bench(rig, fork=options.fork, keys=keys, slot_seconds=options.slot_seconds, count=16)
        ready = []
        for index in range(4):
            started = time.monotonic()
            operators.run(index, bench.url, "--log-level", options.log_level)
            if index < 2:  # below the quorum nobody is ready
                continue
            wait_for("readyz", partial(operators.is_ready, index), 60, 0.02)
            ready.append(round(time.monotonic() - started, 2))
        for index in range(4):
            wait_for("readyz", partial(operators.is_ready, index), 60)
            more = () if index % 2 else ("--json",)
            url = f"http://127.0.0.1:{operators.api[index]}"
            bench.client(f"vc{index}", url, operators.folders[index] / ".charon/validator_keys", *more)
        first = 8
        while time.time() < bench.genesis + first * options.slot_seconds:
            time.sleep(0.1)
        pids = [rig.processes[f"node{index}"].pid for index in range(4)]
        before, at = [cpu_s(pid) for pid in pids], time.monotonic()
        time.sleep(options.seconds)
        spent = time.monotonic() - at
        arrivals = [row for row in bench.arrivals(first) if row[2] < options.validators]
        third = options.slot_seconds * 1000 / 3
        print(
            json.dumps(
                {
                    "block_ms": percentiles([ms for kind, _, _, ms in arrivals if kind == "block"]),
                    "attestation_ms_after_third": percentiles(
                        [ms - third for kind, _, _, ms in arrivals if kind == "attestation"]
                    ),
                    "cpu_percent": [round(100 * (cpu_s(pid) - used) / spent, 1) for pid, used in zip(pids, before, strict=True)],
                    "rss_mb": [round(rss_mb(pid)) for pid in pids],
                    "ready_s": ready,
                    "rejected": bench.stats()["rejected"],
                    "load": os.getloadavg()[0],
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
