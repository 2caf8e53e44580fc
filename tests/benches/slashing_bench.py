"""What a duty waits for on the disk: SQLite's ways to be durable, by turns in one run, and the record and trace as the node writes them.

    python tests/benches/slashing_bench.py [--folder DIRECTORY] [--rounds 400] [--load] [--opening]

Each round does one transaction of each way, so that whatever else the disk does meets all of them alike. --load: another process writes
and syncs all the time. --opening: how long a record of 1000 validators takes to open (a minute to make). Milliseconds, wall clock.
Results are kept in docs/benchmarks.md.
"""

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from actors.slashing.history import KEPT_VOTES
from actors.slashing.store import open_store
from actors.twin_file import create_twin
from charon_actors.slashing import AttestationEntry

ROOT = bytes(32)
SCHEMA = """
CREATE TABLE meta (generation INTEGER, digest BLOB);
INSERT INTO meta VALUES (0, zeroblob(32));
CREATE TABLE votes (key_id INTEGER NOT NULL, target INTEGER NOT NULL, source INTEGER NOT NULL, signing_root BLOB);
CREATE INDEX votes_by_target ON votes (key_id, target, source);
CREATE INDEX votes_by_source ON votes (key_id, source, target);
"""
WAYS = {
    "write-ahead log, FULL (before)": ("WAL", "FULL", ""),
    "write-ahead log, FULL, checkpoint": ("WAL", "FULL", "PRAGMA wal_checkpoint(PASSIVE)"),
    "write-ahead log, FULL, truncated": ("WAL", "FULL", "PRAGMA wal_checkpoint(TRUNCATE)"),
    "rollback journal DELETE, FULL": ("DELETE", "FULL", ""),
    "rollback journal DELETE, EXTRA": ("DELETE", "EXTRA", ""),
    "rollback journal TRUNCATE, FULL": ("TRUNCATE", "FULL", ""),
    "rollback journal PERSIST, FULL": ("PERSIST", "FULL", ""),
}
LOAD = """
import os, sys
file = open(sys.argv[1], "wb", buffering=0)
while True:
    file.write(os.urandom(1 << 20))
    os.fsync(file.fileno())
    if file.tell() > 256 << 20:
        file.seek(0)
"""


def way(folder: Path, journal: str, synchronous: str, after: str, rows: int) -> Callable[[int], None]:
    db = sqlite3.connect(Path(tempfile.mkdtemp(dir=folder)) / "record.sqlite", isolation_level=None)
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute(f"PRAGMA journal_mode = {journal}")
    db.execute(f"PRAGMA synchronous = {synchronous}")
    db.executescript(SCHEMA)

    def transaction(number: int) -> None:
        db.execute("BEGIN IMMEDIATE")
        for key in range(rows):
            db.execute("INSERT INTO votes VALUES (?, ?, ?, ?)", (key, number, number - 1, os.urandom(32)))
        db.execute("UPDATE meta SET generation = ?, digest = ?", (number, os.urandom(32)))
        db.execute("COMMIT")
        if after:
            db.execute(after).fetchone()

    return transaction


def votes(keys: int, target: int) -> list[AttestationEntry]:
    return [AttestationEntry(key.to_bytes(48, "big"), bytes(32), target - 1, target) for key in range(keys)]


def store(folder: Path, keys: int) -> Callable[[int], None]:
    opened = open_store(Path(tempfile.mkdtemp(dir=folder)) / "record.sqlite", ROOT)
    return lambda number: opened.record(votes(keys, number))


def twin(folder: Path) -> Callable[[int], None]:
    file = create_twin(Path(tempfile.mkdtemp(dir=folder)) / "twin", bytes(81))
    return lambda number: file.write(number.to_bytes(8, "big") * 10)


def by_turns(title: str, works: dict[str, Callable[[int], None]], rounds: int) -> None:
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(1, rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work(number)
            taken[name].append((time.perf_counter() - start) * 1000)
    print(f"{title}: p50, p90, p99, max of {rounds}")
    for name, times in taken.items():
        times.sort()
        figures = [times[int(len(times) * part)] for part in (0.5, 0.9, 0.99)]
        print(f"  {name:36}" + " ".join(f"{figure:7.2f}" for figure in (*figures, times[-1])))


def opening(folder: Path) -> None:
    path = folder / "large.sqlite"
    keys = 2000
    large = open_store(path, ROOT)
    large._db.execute("PRAGMA synchronous = OFF")  # only to make it sooner
    for target in range(1, KEPT_VOTES + 1):
        large.record(votes(keys, target))
    large.close()
    start = time.perf_counter()
    again = open_store(path, ROOT)
    print(f"opening a record of 1000 validators ({path.stat().st_size >> 20} MiB): {time.perf_counter() - start:.1f} s")
    works: dict[str, Callable[[int], None]] = {
        "32 keys": lambda number: again.record(votes(32, 10_000 + number)),
        "1000 keys": lambda number: again.record(votes(1000, 100_000 + number)),
    }
    by_turns("record in it", works, 100)
    again.close()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--opening", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        load = subprocess.Popen([sys.executable, "-c", LOAD, str(folder / "load")]) if options.load else None
        try:
            for rows in (1, 32):
                works = {name: way(folder, *how, rows) for name, how in WAYS.items()}
                by_turns(f"{rows} rows, SQLite alone", works, options.rounds)
            works = {f"record and trace, {keys} keys": store(folder, keys) for keys in (1, 4, 32, 100)}
            works["a twin file (trace, participation)"] = twin(folder)
            by_turns("as the node writes them", works, options.rounds)
            if options.opening:
                opening(folder)
        finally:
            if load is not None:
                load.kill()
                load.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
