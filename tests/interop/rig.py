"""Processes of a test: operators with their nodes, beacon nodes, validator clients. Everything on 127.0.0.1, logs in one folder.

Nothing here sleeps and hopes: `wait_for` asks for a fact until it holds or a deadline has passed, and then says what it last saw.
"""

import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
import pytest

HERE = Path(__file__).parent
DEVNET = HERE / "devnet"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
PRESET = {"LODESTAR_PRESET": "mainnet", "PRESET_OVERRIDES": "SLOTS_PER_EPOCH=8"}
FORK_VERSION = "0x00000001"
CHAIN_ID = 1337
ADDRESS = "0x000000000000000000000000000000000000dEaD"

T = TypeVar("T")


def needs(folder: str) -> None:
    """Skip the test when a rig is not installed."""
    if not (CACHE / folder / ".complete").is_file():
        pytest.skip(f"{folder} is not installed; run tests/interop/install.sh")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def wait_for(what: str, ask: Callable[[], T | None], seconds: float, every_s: float = 0.25) -> T:
    """What `ask` returns once it is neither None nor False. Connection errors count as not yet."""
    deadline, last = time.monotonic() + seconds, "nothing"
    while time.monotonic() < deadline:
        try:
            found = ask()
            if found is not None and found is not False:
                return found
            last = repr(found)
        except (httpx.HTTPError, KeyError, OSError, json.JSONDecodeError) as error:
            last = repr(error)
        time.sleep(every_s)
    raise AssertionError(f"{what}: not within {seconds:g} s; last: {last}")


class Rig:
    """Starts processes and ends them all, whatever happens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Rig":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def start(
        self,
        name: str,
        *command: str | Path,
        env: Mapping[str, str] = {},
        cwd: Path | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=cwd or self.folder,
                env={**os.environ, **env},
                stdin=stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> int:
        process = self.processes.pop(name)
        process.send_signal(how)
        return process.wait(30)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")


def charon(*arguments: str | Path, cwd: Path, env: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "charon_actors.cli.main", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


class Operators:
    """n operators, each with a folder of their own, as on n machines.

    relays: text of `--p2p-relays`. hidden: operators that don't listen and whose ENRs hold no address.
    """

    def __init__(self, rig: Rig, count: int = 4, *, relays: str = "", hidden: Collection[int] = ()) -> None:
        self.rig, self.count, self.relays, self.hidden = rig, count, relays, hidden
        self.folders = [rig.folder / f"operator{index}" for index in range(count)]
        for folder in self.folders:
            folder.mkdir()
        ports = free_ports(3 * count)
        self.p2p, self.api, self.monitoring = ports[:count], ports[count : 2 * count], ports[2 * count :]
        self.genesis_flags = [
            *("--testnet-name", "devnet", "--testnet-chain-id", str(CHAIN_ID)),
            *("--testnet-fork-version", FORK_VERSION, "--testnet-genesis-timestamp", "1700000000"),
        ]

    def elsewhere(self, rig: Rig) -> "Operators":
        """The same operators under another rig: copies of their files, their processes and logs there."""
        others = copy.copy(self)
        others.rig = rig
        others.folders = [rig.folder / folder.name for folder in self.folders]
        for source, target in zip(self.folders, others.folders, strict=True):
            shutil.copytree(source, target)
        return others

    def create_enrs(self) -> list[str]:
        enrs = []
        for index, folder in enumerate(self.folders):
            address = () if index in self.hidden else ("--enr-address", f"127.0.0.1:{self.p2p[index]}")
            done = charon("create", "enr", *address, cwd=folder)
            assert done.returncode == 0, done.stderr
            enrs += [line for line in done.stdout.splitlines() if line.startswith("enr:")]
        assert len(enrs) == self.count
        return enrs

    def create_dkg(self, enrs: list[str], validators: int) -> None:
        done = charon(
            *("create", "dkg", "--name", "devnet cluster", "--num-validators", str(validators)),
            *("--withdrawal-addresses", ADDRESS, "--fee-recipient-addresses", ADDRESS, *self.genesis_flags),
            cwd=self.folders[0],
            env={"CHARON_OPERATOR_ENRS": ",".join(enrs)},
        )
        assert done.returncode == 0, done.stderr
        definition = (self.folders[0] / ".charon/cluster-definition.json").read_bytes()
        for folder in self.folders[1:]:
            (folder / ".charon/cluster-definition.json").write_bytes(definition)

    def p2p_flags(self, index: int) -> list[str]:
        listening = [] if index in self.hidden else ["--p2p-tcp-address", f"127.0.0.1:{self.p2p[index]}"]
        return ["--p2p-relays", self.relays, *listening]

    def start_dkg(self, *more: str) -> None:
        for index, folder in enumerate(self.folders):
            self.rig.start(
                f"dkg{index}",
                *(sys.executable, "-m", "charon_actors.cli.main", "dkg", *self.p2p_flags(index)),
                *("--shutdown-delay", "1s", *self.genesis_flags, *more),
                cwd=folder,
            )

    def dkg(self, *more: str, seconds: float = 120) -> None:
        self.start_dkg(*more)
        self.end_dkg(seconds)

    def end_dkg(self, seconds: float = 120) -> None:
        for index in range(self.count):
            process = self.rig.processes.pop(f"dkg{index}")
            assert process.wait(seconds) == 0, self.rig.log(f"dkg{index}")

    def run_flags(self, index: int, beacon: str) -> list[str]:
        return [
            *("run", "--beacon-node-endpoints", beacon, *self.p2p_flags(index)),
            *("--validator-api-address", f"127.0.0.1:{self.api[index]}"),
            *("--monitoring-address", f"127.0.0.1:{self.monitoring[index]}", *self.genesis_flags),
        ]

    def run(self, index: int, beacon: str, *more: str) -> None:
        command = [sys.executable, "-m", "charon_actors.cli.main", *self.run_flags(index, beacon), *more]
        self.rig.start(f"node{index}", *command, cwd=self.folders[index])

    def metrics(self, index: int) -> dict[str, float]:
        """Samples by name and labels, without the constant labels."""
        text = httpx.get(f"http://127.0.0.1:{self.monitoring[index]}/metrics", timeout=5).text
        found = {}
        for line in text.splitlines():
            if line.startswith("#") or not line:
                continue
            name, _, value = line.rpartition(" ")
            bare, _, labels = name.partition("{")
            kept = [
                label
                for label in labels.rstrip("}").split(",")
                if label and not label.startswith(("cluster_", "nickname", "charon_version"))
            ]
            found[bare + ("{" + ",".join(kept) + "}" if kept else "")] = float(value)
        return found

    def is_answering(self, index: int) -> bool:
        """Whether the validator API passes questions on to the beacon node."""
        return httpx.get(f"http://127.0.0.1:{self.api[index]}/eth/v1/node/syncing", timeout=5).status_code == 200

    def is_ready(self, index: int) -> bool:
        return httpx.get(f"http://127.0.0.1:{self.monitoring[index]}/readyz", timeout=5).status_code == 200


class Bench:
    """The bench node: a chain at today's forks whose every check is third-party code."""

    def __init__(self, rig: Rig, *, fork: str, keys: Path, slot_seconds: int, count: int = 16, genesis_in_s: float = 15) -> None:
        needs("devnet-bench-1.41.0")
        self.rig, self.slot_seconds = rig, slot_seconds
        [self.port] = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.genesis = int(time.time() + genesis_in_s)
        own = len(json.loads(keys.read_text()))
        rig.start(
            "bench",
            *(DEVNET / "bench/bench.sh", "--port", str(self.port), "--fork", fork, "--count", str(count), "--keys", keys),
            *("--slot-seconds", str(slot_seconds), "--time", str(self.genesis), "--fork-version", FORK_VERSION),
            *("--chain-id", str(CHAIN_ID)),
            env=PRESET,
        )
        wait_for("bench node", lambda: self.get("/eth/v1/beacon/genesis"), 60)
        rest = ("--interop", f"{own}..{count - 1}", "--label", "rest")
        rig.start("rest", DEVNET / "bench/client.sh", "--beacon", self.url, *rest, env=PRESET)

    def get(self, path: str) -> Any:
        answer = httpx.get(self.url + path, timeout=5)
        answer.raise_for_status()
        return answer.json()

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/bench/stats")
        return found

    def arrivals(self, from_slot: int) -> list[tuple[str, int, int, float]]:
        """(kind, slot, validator, ms into the slot) of the first accepted message of each kind."""
        return [tuple(row) for row in self.get(f"/bench/arrivals?from={from_slot}")]

    def client(self, name: str, url: str, keys: Path, *more: str) -> None:
        self.rig.start(
            name, DEVNET / "bench/client.sh", "--beacon", url, "--keys", keys, "--distributed", "--label", name, *more, env=PRESET
        )

    def post(self, path: str, body: Any) -> Any:
        answer = httpx.post(self.url + path, json=body, timeout=5)
        answer.raise_for_status()
        return answer.json()


class Lodestar:
    """A real beacon node (Lodestar 1.5.1, capella) with validator clients, and translators to today's API on both sides."""

    def __init__(self, rig: Rig, *, deposits: Path, slot_seconds: int, count: int = 16, genesis_in_s: float = 25) -> None:
        needs("devnet-lodestar-1.5.1")
        self.rig, self.slot_seconds = rig, slot_seconds
        self.port, engine, p2p, lifted = free_ports(4)
        self.url, self.lifted_url = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{lifted}"
        self.genesis = int(time.time() + genesis_in_s)
        self.proposers: dict[int, list[dict[str, str]]] = {}
        self.env = {
            **PRESET,
            **{
                "DEVNET_RUN": str(rig.folder / "chain"),
                "BEACON_PORT": str(self.port),
                "ENGINE_PORT": str(engine),
                "P2P_PORT": str(p2p),
            },
        }
        done = subprocess.run(
            [
                *(DEVNET / "genesis.sh", "--keys", deposits, "--count", str(count), "--slot-seconds", str(slot_seconds)),
                *("--fork-version", FORK_VERSION, "--chain-id", str(CHAIN_ID), "--time", str(self.genesis)),
            ],
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        rig.start("beacon", DEVNET / "beacon.sh", env=self.env)
        wait_for("beacon node", lambda: httpx.get(self.url + "/eth/v1/node/version", timeout=5).status_code == 200, 60)
        rig.start("lift-node", DEVNET / "lift.sh", "node", "--listen", str(lifted), "--to", self.url, env=self.env)
        wait_for("lift", lambda: httpx.get(self.lifted_url + "/eth/v1/node/version", timeout=5).status_code == 200, 60)
        own = len(json.loads(deposits.read_text()))
        rig.start("rest", DEVNET / "validator.sh", "rest", self.url, "interop", f"{own}..{count - 1}", env=self.env)

    def client(self, name: str, api_port: int, keys: Path) -> None:
        [lifted] = free_ports(1)
        to = ("--listen", str(lifted), "--to", f"http://127.0.0.1:{api_port}")
        self.rig.start(f"lift-{name}", DEVNET / "lift.sh", "client", *to, env=self.env)
        wait_for("lift", lambda: httpx.get(f"http://127.0.0.1:{lifted}/eth/v1/node/version", timeout=5).status_code == 200, 60)
        self.rig.start(name, DEVNET / "validator.sh", name, f"http://127.0.0.1:{lifted}", "keys", keys, env=self.env)

    def get(self, path: str) -> Any:
        answer = httpx.get(self.url + path, timeout=20)
        answer.raise_for_status()
        return answer.json()

    def finalized_epoch(self) -> int:
        return int(self.get("/eth/v1/beacon/states/head/finality_checkpoints")["data"]["finalized"]["epoch"])

    def head_epoch(self) -> int:
        return int(self.get("/eth/v1/node/syncing")["data"]["head_slot"]) // 8

    def missed_heads(self, epoch: int, own: int) -> list[int]:
        """Validators among the first `own` whose attestation of that epoch was not included in the very next slot.

        The state keeps that itself: the timely-head flag (bit 2) is only set for attestations included at distance 1.
        """
        state = self.get(f"/eth/v2/debug/beacon/states/{8 * (epoch + 2) - 1}")["data"]
        flags = state["previous_epoch_participation"]
        return [index for index in range(own) if not int(flags[index]) & 4]

    def note_duties(self) -> None:
        """Remember who proposes in this epoch: the beacon node doesn't answer about past ones."""
        epoch = int((time.time() - self.genesis) // self.slot_seconds // 8)
        if epoch >= 0 and epoch not in self.proposers:
            self.proposers[epoch] = self.get(f"/eth/v1/validator/duties/proposer/{epoch}")["data"]

    def missed_blocks(self, epoch: int, own: int) -> list[int]:
        """Slots of the epoch whose proposer is among the first `own` and that have no block."""
        missed = []
        for duty in self.proposers[epoch]:
            if int(duty["validator_index"]) < own:
                answer = httpx.get(self.url + f"/eth/v1/beacon/headers/{duty['slot']}", timeout=5)
                if answer.status_code != 200:
                    missed.append(int(duty["slot"]))
        return missed
