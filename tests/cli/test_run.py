"""`charon run` and everything that can be wrong around it: files, flags, ports, beacon nodes, relays.

Whatever only the operator can put right is one line on stderr and status 1, and leaves no file behind. What may pass by itself (a
beacon node or a relay that is down) is waited for, and said.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from actors.http import server as http_server
from charon_actors.cli.commands.run import FLAGS
from charon_actors.cluster.lock_json import encode_lock
from charon_actors.crypto import public_key
from supervisors.simnet import FORK_VERSION, SLOTS_PER_EPOCH, SimnetSettings, make_cluster, open_cluster
from supervisors.simulation.beacon_mock import BeaconMock, BeaconSettings
from supervisors.simulation.validator_mock import ValidatorMock
from tests.cli.conftest import Charon

CHARON = [sys.executable, "-m", "charon_actors.cli.main"]
NOBODY = "http://127.0.0.1:1"
TESTNET = (
    "--testnet-name=lab",
    "--testnet-chain-id=1337",
    "--testnet-fork-version=0x00000001",
    "--testnet-genesis-timestamp=1700000000",
)
PATIENCE_S = 60.0
VECTORS = Path(__file__).parent.parent / "vectors"


@pytest.fixture(scope="module")
def dealt() -> Any:
    """Lock and identity keys of a cluster of four, of the custom network `lab`."""
    return make_cluster(SimnetSettings(Path(), nodes=4, validators=1, seed=3))


@pytest.fixture
def data(tmp_path: Path, dealt: Any) -> Path:
    """What an operator has after the ceremony, below the working directory."""
    lock, keys = dealt
    directory = tmp_path / ".charon"
    directory.mkdir()
    (directory / "cluster-lock.json").write_bytes(encode_lock(lock.lock))
    (directory / "charon-enr-private-key").write_text(keys[0].hex())
    (directory / "charon-enr-private-key").chmod(0o600)
    return directory


def flags(*more: str, beacon: str = NOBODY, relays: str = "") -> list[str]:
    return [
        "run",
        f"--beacon-node-endpoints={beacon}",
        f"--p2p-relays={relays}",
        "--p2p-tcp-address=127.0.0.1:0",
        "--validator-api-address=127.0.0.1:0",
        "--monitoring-address=127.0.0.1:0",
        "--log-level=error",
        *TESTNET,
        *more,
    ]


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refused(charon: Charon, data: Path, arguments: list[str], **environment: str) -> str:
    """The error line of a start that fails at once and changes nothing on disk."""
    before, began = files(data.parent), time.monotonic()
    outcome = charon(*arguments, **environment)
    assert time.monotonic() - began < 10, "no silent wait"
    assert outcome.stdout == ""
    assert files(data.parent) == before
    parts = outcome.error.split(": ", 1)
    assert len(parts) == 2, "where: what"
    assert "; " in parts[1], "what; remedy"
    return outcome.error


# files


def change_json(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_the_key_file_is_missing(charon: Charon, data: Path) -> None:
    (data / "charon-enr-private-key").unlink()
    error = refused(charon, data, flags())
    assert error == ".charon/charon-enr-private-key: private key not found; create one with `charon create enr`"


def test_the_key_file_cannot_be_read(charon: Charon, data: Path) -> None:
    key = data / "charon-enr-private-key"
    if os.geteuid() == 0:  # root reads everything, but no directory
        key.unlink()
        key.mkdir()
        assert refused(charon, data, flags()).startswith(".charon/charon-enr-private-key: is a directory")
    else:
        key.chmod(0)
        assert refused(charon, data, flags()).startswith(".charon/charon-enr-private-key: ")
        key.chmod(0o600)


@pytest.mark.parametrize("content", ["", "zz" * 32, "11" * 31, "11" * 33, "00" * 32, "ff" * 32, "{}", "\0" * 64])
def test_the_key_file_is_malformed_and_its_content_is_not_shown(charon: Charon, data: Path, content: str) -> None:
    (data / "charon-enr-private-key").write_text(content)
    error = refused(charon, data, flags())
    assert error.startswith(".charon/charon-enr-private-key: ")
    assert not content or content not in error


def test_the_key_is_not_of_this_cluster(charon: Charon, data: Path) -> None:
    _, other = make_cluster(SimnetSettings(Path(), nodes=4, validators=1, seed=4))
    (data / "charon-enr-private-key").write_text(other[0].hex())
    error = refused(charon, data, flags())
    assert error.startswith(".charon/charon-enr-private-key: ")
    assert ".charon/cluster-lock.json" in error
    assert other[0].hex() not in error


def test_the_lock_is_missing(charon: Charon, data: Path) -> None:
    (data / "cluster-lock.json").unlink()
    error = refused(charon, data, flags())
    assert error.startswith(".charon/cluster-lock.json: cluster lock not found; run `charon dkg` first")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"nonsense", b"\xff\xfe", b'{"lock_hash": 3}', b"[" * 5000])
def test_the_lock_is_no_lock(charon: Charon, data: Path, content: bytes) -> None:
    (data / "cluster-lock.json").write_bytes(content)
    assert refused(charon, data, flags()).startswith(".charon/cluster-lock.json: ")


def test_the_lock_was_cut_off(charon: Charon, data: Path) -> None:
    path = data / "cluster-lock.json"
    path.write_bytes(path.read_bytes()[:-100])
    assert refused(charon, data, flags()).startswith(".charon/cluster-lock.json: ")


TAMPERED: dict[str, Callable[[Any], None]] = {
    "name": lambda lock: lock["cluster_definition"].update(name="mine"),
    "fee recipient": lambda lock: lock["cluster_definition"]["validators"][0].update(fee_recipient_address="0x" + "11" * 20),
    "threshold": lambda lock: lock["cluster_definition"].update(threshold=2),
    "lock hash": lambda lock: lock.update(lock_hash="0x" + "11" * 32),
    "signature": lambda lock: lock.update(signature_aggregate="0x" + "11" * 96),
    "shares in another order": lambda lock: lock["distributed_validators"][0]["public_shares"].reverse(),
    "a validator less": lambda lock: lock["distributed_validators"].pop(),
    "an operator less": lambda lock: lock["cluster_definition"]["operators"].pop(),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_the_lock_was_changed_by_hand(charon: Charon, data: Path, what: str) -> None:
    change_json(data / "cluster-lock.json", TAMPERED[what])
    assert refused(charon, data, flags()).startswith(".charon/cluster-lock.json: ")


def test_the_network_of_the_lock_is_not_known(charon: Charon, data: Path) -> None:
    arguments = [argument for argument in flags() if not argument.startswith("--testnet")]
    error = refused(charon, data, arguments)
    assert error.startswith(".charon/cluster-lock.json: ")
    assert "0x00000001" in error


# flags

BAD_FLAGS = {
    "--beacon-node-timeout=0s": "positive duration",
    "--beacon-node-timeout=-1s": "positive duration",
    "--beacon-node-timeout=2": "duration",
    "--beacon-node-submit-timeout=soon": "duration",
    "--beacon-node-headers=token": "header=value",
    "--beacon-node-headers=a=1,b": "header=value",
    "--beacon-node-headers=ä=1": "header=value",
    "--beacon-node-headers=a b=1": "header=value",
    "--beacon-node-headers=a:=1": "header=value",
    "--beacon-node-endpoints=ftp://127.0.0.1": "URL",
    "--beacon-node-endpoints=http://": "URL",
    "--beacon-node-endpoints=http://127.0.0.1:99999": "URL",
    "--fallback-beacon-node-endpoints=a b": "URL",
    "--graffiti=" + 29 * "g": "28 bytes",
    "--graffiti=" + 11 * "ü" + 7 * "g": "28 bytes",
    "--graffiti=a,b": "2 texts for 1 validators",
    "--vc-tls-cert-file=cert.pem": "give both files",
    "--nickname=" + 33 * "n": "32 bytes",
    "--p2p-tcp-address=:3610": "ip:port",
    "--p2p-tcp-address=3610": "ip:port",
    "--p2p-tcp-address=127.0.0.1:99999": "ip:port",
    "--p2p-tcp-address=127.0.0.1": "ip:port",
    "--p2p-tcp-address=203.0.113.1:3610": "another address",
    "--validator-api-address=3600": "ip:port",
    "--monitoring-address=": "ip:port",
    "--p2p-relays=nonsense": "multiaddr",
    "--p2p-relays=/ip4/127.0.0.1/tcp/3640": "/p2p/",
    "--p2p-external-ip=1.2.3": "IP",
    "--p2p-external-hostname=a..b": "host name",
    "--p2p-external-hostname=http://node": "host name",
    "--testnet-chain-id=0": "--testnet-chain-id",
    "--testnet-name=": "--testnet-name",
    "--testnet-name=hoodi": "built-in",
    "--testnet-fork-version=1": "fork version",
    "--testnet-genesis-timestamp=-5": "1970",
    "--testnet-capella-hard-fork=3": "fork version",
    "--log-level=loud": "warn",
    "--log-format=xml": "console",
    "--log-output-path=.": "log file",
    "--no-verify=perhaps": "true or false",
    "--nope": "unknown flag: --nope",
    "--simnet-beacon-mock": "this version has no --simnet-beacon-mock yet",
}


@pytest.mark.parametrize("flag", BAD_FLAGS)
def test_a_bad_flag_is_one_line_that_names_it(charon: Charon, data: Path, flag: str) -> None:
    arguments = flags()
    name = flag.split("=")[0]
    arguments = [argument for argument in arguments if not argument.startswith(f"{name}=")]
    error = refused(charon, data, [*arguments, flag])
    assert BAD_FLAGS[flag] in error
    assert name in error or name == "--log-output-path"


def test_validators_without_addresses_are_refused_even_with_no_verify(charon: Charon, data: Path) -> None:
    change_json(data / "cluster-lock.json", TAMPERED["a validator less"])
    assert "holds 0 validators, and addresses for 1" in charon(*flags("--no-verify")).error


def test_files_that_are_no_certificate_are_refused(charon: Charon, data: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (data.parent / name).write_text("nonsense")
    error = refused(charon, data, flags("--vc-tls-cert-file=cert.pem", "--vc-tls-key-file=key.pem"))
    assert error.startswith("cert.pem, key.pem: cannot be used for TLS")
    error = refused(charon, data, flags("--vc-tls-cert-file=none.pem", "--vc-tls-key-file=key.pem"))
    assert "No such file" in error


def test_the_data_directory_may_be_named_as_a_whole(charon: Charon, data: Path) -> None:
    data.rename(data.parent / "node0")
    assert "is longer than" in refused(charon, data, flags("--data-dir=node0", "--graffiti=" + 40 * "g"))
    assert "is longer than" in refused(charon, data, flags("--graffiti=" + 40 * "g"), CHARON_DATA_DIR="node0")
    error = refused(charon, data, flags("--data-dir=node0", "--lock-file=elsewhere.json"))
    assert error.startswith("elsewhere.json: ")


def test_what_charon_has_and_this_version_has_not_is_said_once_each(charon: Charon, data: Path) -> None:
    theirs = set(json.loads((VECTORS / "monitoring/cli_flags.json").read_text())["commands"]["run"]["flags"])
    assert theirs <= {flag.name for flag in FLAGS}
    environment = {"CHARON_BUILDER_API": "true", "CHARON_LOKI_SERVICE": "charon", "CHARON_OTLP_ADDRESS": ""}
    said = charon(*flags("--graffiti=" + 40 * "g", "--jaeger-address=x:1"), **environment).stderr.splitlines()
    notices = [line for line in said if line.startswith("Notice: ")]
    assert notices == [
        "Notice: --jaeger-address has no effect: Charon gave up this form of tracing, too",
        "Notice: CHARON_BUILDER_API has no effect: this version has no --builder-api yet; "
        "blocks are asked for as the beacon nodes make them",
    ]


def test_a_bad_value_in_the_environment_names_the_variable(charon: Charon, data: Path) -> None:
    error = refused(charon, data, flags(), CHARON_BEACON_NODE_HEADERS="token")
    assert error.startswith("CHARON_BEACON_NODE_HEADERS: ")


def test_a_beacon_node_is_needed(charon: Charon, data: Path) -> None:
    arguments = [argument for argument in flags() if not argument.startswith("--beacon-node-endpoints")]
    assert "--beacon-node-endpoints" in refused(charon, data, arguments)
    assert "--beacon-node-endpoints" in refused(charon, data, [*arguments, "--beacon-node-endpoints="])


@pytest.mark.parametrize("missing", range(4))
def test_an_incomplete_custom_network_is_refused(charon: Charon, data: Path, missing: int) -> None:
    arguments = [argument for argument in flags() if argument != TESTNET[missing]]
    assert f"the custom network lacks {TESTNET[missing].split('=')[0]}" in refused(charon, data, arguments)


def test_no_secret_of_a_flag_is_shown(charon: Charon, data: Path) -> None:
    for flag in ("--beacon-node-endpoints=http://me:hunter2@[::1", "--beacon-node-headers=Authorization: Bearer hunter2"):
        arguments = [argument for argument in flags() if not argument.startswith(flag.split("=")[0])]
        assert "hunter2" not in refused(charon, data, [*arguments, flag])


def test_a_mistake_in_a_flag_does_not_mark_the_key_as_in_use(charon: Charon, data: Path) -> None:
    arguments = [argument for argument in flags("--private-key-file-lock") if not argument.startswith("--beacon-node-endpoints")]
    refused(charon, data, [*arguments, "--beacon-node-endpoints=ftp://x"])


def test_another_instance_uses_the_key(charon: Charon, data: Path) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    (data / "charon-enr-private-key.lock").write_text(json.dumps({"command": "charon run", "timestamp": now}))
    assert "another charon instance may be running" in refused(charon, data, flags("--private-key-file-lock"))


# ports


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.parametrize("name", ["--validator-api-address", "--monitoring-address", "--p2p-tcp-address"])
def test_a_taken_port_names_flag_and_address(charon: Charon, data: Path, taken: int, name: str) -> None:
    arguments = [argument for argument in flags() if not argument.startswith(name)]
    error = refused(charon, data, [*arguments, f"{name}=127.0.0.1:{taken}"])
    assert error.startswith(name)
    assert f"127.0.0.1:{taken}" in error


# the same through a real process: what a shell, systemd or a container sees


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "--nope"], r"Error: charon run: unknown flag: --nope; see `charon run --help`"),
        (flags("--lock-file=nowhere.json"), r"Error: nowhere\.json: cluster lock not found; .*"),
        (flags("--beacon-node-timeout=0s"), r"Error: --beacon-node-timeout: .*; .*"),
    ],
)
def test_a_process_that_cannot_start_says_one_line_and_ends_with_status_one(data: Path, arguments: list[str], line: str) -> None:
    ended = subprocess.run([*CHARON, *arguments], cwd=data.parent, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert re.fullmatch(line + "\n", ended.stderr)


# a running node


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


class Running:
    """A `charon run` process. lines: of its log (stderr and stdout), so far."""

    def __init__(self, process: trio.Process, ports: list[int]) -> None:
        self.process, self.ports = process, ports
        self.lines: list[str] = []
        self.came_at: list[float] = []

    async def read(self) -> None:
        assert self.process.stdout is not None
        rest = b""
        async for chunk in self.process.stdout:
            *whole, rest = (rest + chunk).split(b"\n")
            self.lines += [line.decode() for line in whole]
            self.came_at += [trio.current_time()] * len(whole)

    def saw(self, text: str) -> list[float]:
        return [when for line, when in zip(self.lines, self.came_at, strict=True) if text in line]

    async def says(self, text: str, times: int = 1) -> None:
        with trio.fail_after(PATIENCE_S):
            while len(self.saw(text)) < times:
                assert self.process.returncode is None, self.lines
                await trio.sleep(0.02)

    async def ready_text(self) -> tuple[int, str]:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{self.ports[1]}/readyz")
            return answer.status_code, answer.text

    async def becomes(self, status: int, text: str) -> None:
        with trio.fail_after(PATIENCE_S):
            while True:
                try:
                    if await self.ready_text() == (status, text):
                        return
                except httpx.HTTPError:
                    assert self.process.returncode is None, self.lines
                await trio.sleep(0.05)

    async def ends(self, within_s: float = PATIENCE_S) -> int:
        with trio.fail_after(within_s):
            return await self.process.wait()

    @property
    def errors(self) -> list[str]:
        return [line for line in self.lines if line.startswith("Error: ") or "Traceback" in line]


@asynccontextmanager
async def running(
    data: Path, *more: str, beacon: str = NOBODY, relays: str = "", listens: bool = True, ports: list[int] | None = None
) -> AsyncIterator[Running]:
    """A node with the files below `data`. ports: of validator API, monitoring and peers, when `more` has the addresses."""
    ports = ports or free_ports(3)
    own = (
        "--log-level=info",
        "--log-format=logfmt",
        f"--validator-api-address=127.0.0.1:{ports[0]}",
        f"--monitoring-address=127.0.0.1:{ports[1]}",
        *([f"--p2p-tcp-address=127.0.0.1:{ports[2]}"] if listens else []),
    )
    given = [flag.split("=")[0] + "=" for flag in more]
    own = tuple(flag for flag in own if not given or not flag.startswith(tuple(given)))
    names = [flag.split("=")[0] + "=" for flag in (*own, "--p2p-tcp-address=", *more)]
    arguments = [flag for flag in flags(beacon=beacon, relays=relays) if not flag.startswith(tuple(names))]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            [*CHARON, *arguments, *own, *more], cwd=data.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        this = Running(process, ports)
        nursery.start_soon(this.read)
        try:
            yield this
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def beacon_node(
    dealt: Any, *, fork_version: bytes = FORK_VERSION, delay_s: float = 0.0, port: int = 0
) -> AsyncIterator[tuple[BeaconMock, str]]:
    """A beacon node of the network `lab`; with `delay_s`, one that thinks before each answer."""
    settings = BeaconSettings(
        validators=tuple(validator.public_key for validator in dealt[0].lock.validators),
        genesis_time_s=1_700_000_000.0,
        slot_duration_s=12.0,
        slots_per_epoch=SLOTS_PER_EPOCH,
        fork_version=fork_version,
    )
    mock = BeaconMock(settings, time.time)

    async def slowly(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(delay_s)
        await mock(scope, receive, send)

    with http_server.bind(f"127.0.0.1:{port}", "beacon mock") as listening:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(http_server.serve, slowly, listening)
            yield mock, f"http://127.0.0.1:{listening.getsockname()[1]}"
            nursery.cancel_scope.cancel()


def is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
            sock.listen()
        except OSError:
            return False
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_beacon_node_that_is_down_is_waited_for_and_a_signal_ends_the_wait(data: Path, number: signal.Signals) -> None:
    async with running(data) as node:
        await node.says("Waiting for a beacon node")
        assert NOBODY in next(line for line in node.lines if "Waiting for a beacon node" in line)
        await node.becomes(500, "beacon node down")
        assert not any(is_free(port) for port in node.ports)
        node.process.send_signal(number)
        assert await node.ends(within_s=5) == 0
        assert not node.errors
        assert all(is_free(port) for port in node.ports)


@pytest.mark.parametrize("is_allowed", [False, True])
async def test_fee_recipients_that_charon_would_override_are_told_about(data: Path, is_allowed: bool) -> None:
    (data / "builder_registrations_overrides.json").write_text("[]")
    async with running(data, *(["--allow-foreign-fee-recipient"] if is_allowed else [])) as node:
        await node.says("Waiting for a beacon node")
        (told,) = [line for line in node.lines if "builder_registrations_overrides.json has no effect" in line]
        assert ("blocks that pay others than the lock says are not signed" in told) is not is_allowed


@pytest.mark.slow
async def test_a_beacon_node_that_is_down_is_mentioned_every_15_s_and_used_when_it_is_up(data: Path, dealt: Any) -> None:
    [port] = free_ports(1)
    async with running(data, beacon=f"http://127.0.0.1:{port}") as node:
        await node.says("Waiting for a beacon node", times=3)
        first, second, third = node.saw("Waiting for a beacon node")[:3]
        assert 14 < second - first < 20
        assert 14 < third - second < 20
        async with beacon_node(dealt) as (mock, _):
            with http_server.bind(f"127.0.0.1:{port}", "beacon mock") as listening:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(http_server.serve, mock, listening)
                    await node.becomes(500, "quorum peers not connected")
                    nursery.cancel_scope.cancel()
        await node.becomes(500, "beacon node down")
        node.process.terminate()
        assert await node.ends(within_s=5) == 0
        assert not node.errors


async def test_a_beacon_node_of_another_network_ends_the_node_with_one_line(data: Path, dealt: Any) -> None:
    async with beacon_node(dealt, fork_version=bytes.fromhex("70000000")) as (_, url), running(data, beacon=url) as node:
        assert await node.ends() == 1
        [error] = node.errors
        assert error.startswith(f"Error: beacon node {url}: mismatch between lock file fork version")
        assert "0x00000001" in error
        assert "0x70000000" in error


async def test_a_slow_beacon_node_is_slow_and_nothing_worse(data: Path, dealt: Any) -> None:
    async with beacon_node(dealt, delay_s=0.5) as (_, url), running(data, beacon=url) as node:
        await node.becomes(500, "quorum peers not connected")
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            answer = await client.get(f"http://127.0.0.1:{node.ports[0]}/eth/v1/beacon/genesis")
        assert answer.json()["data"]["genesis_time"] == "1700000000"
        assert not node.errors


@pytest.mark.slow
async def test_a_beacon_node_slower_than_the_limit_counts_as_down(data: Path, dealt: Any) -> None:
    async with (
        beacon_node(dealt, delay_s=3.0) as (_, url),
        running(data, "--beacon-node-timeout=1s", beacon=url) as node,
    ):
        await node.says("Waiting for a beacon node")
        await node.becomes(500, "beacon node down")
        assert not node.errors


async def test_a_relay_that_is_down_does_not_keep_a_node_that_can_be_reached_from_running(data: Path) -> None:
    async with running(data, relays="http://127.0.0.1:1") as node:
        await node.says("Waiting for a beacon node")
        await node.says("http://127.0.0.1:1", times=2)  # the warning about plain http, and that it can't be reached
        node.process.terminate()
        assert await node.ends(within_s=5) == 0


@pytest.mark.slow
async def test_a_relay_that_stays_down_is_an_error_when_it_is_the_only_way(data: Path) -> None:
    async with running(data, relays="http://127.0.0.1:1", listens=False) as node:
        began = trio.current_time()
        assert await node.ends(within_s=120) == 1
        assert 55 < trio.current_time() - began < 100
        [error] = node.errors
        assert error.startswith("Error: --p2p-relays: no relay could be found within 60 s (http://127.0.0.1:1: ")


async def test_a_damaged_slashing_record_ends_the_node_with_one_line(data: Path, dealt: Any) -> None:
    (data / "slashing-protection.sqlite").write_bytes(b"not a database" * 100)
    async with beacon_node(dealt) as (_, url), running(data, beacon=url) as node:
        assert await node.ends() == 1
        [error] = node.errors
        assert "slashing-protection.sqlite" in error


async def test_a_changed_lock_runs_with_no_verify_and_says_so(data: Path) -> None:
    change_json(data / "cluster-lock.json", TAMPERED["signature"])
    async with running(data, "--no-verify") as node:
        await node.says("Notice: .charon/cluster-lock.json: ")
        await node.says("Waiting for a beacon node")


async def test_keystores_are_of_no_concern_to_a_node(data: Path) -> None:
    (data / "validator_keys").mkdir()
    (data / "validator_keys" / "keystore-0.json").write_text("nonsense")
    async with running(data) as node:
        await node.says("Waiting for a beacon node")
        assert not node.errors


async def test_the_key_lock_is_kept_fresh_while_the_node_runs(data: Path) -> None:
    path = data / "charon-enr-private-key.lock"
    async with running(data, "--private-key-file-lock") as node:
        await node.says("Waiting for a beacon node")
        first = path.read_text()
        with trio.fail_after(PATIENCE_S):
            while path.read_text() == first:
                await trio.sleep(0.1)
        ended = await trio.run_process(
            [*CHARON, *flags("--private-key-file-lock")], cwd=data.parent, capture_stdout=True, capture_stderr=True, check=False
        )
        assert ended.returncode == 1
        assert b"another charon instance may be running" in ended.stderr
        assert node.process.returncode is None


# a process among other nodes


async def successes(node: Running) -> float:
    """Duties that the node's tracker calls a success, of all kinds."""
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"http://127.0.0.1:{node.ports[1]}/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("core_tracker_success_duties_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


async def takes_part(node: Running) -> None:
    """It becomes ready and from then on has successes."""
    await node.becomes(200, "ok")
    before = await successes(node)
    with trio.fail_after(PATIENCE_S):
        while await successes(node) < before + 2:
            await trio.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_process_that_is_killed_in_the_middle_of_its_duties_comes_back_and_signs_nothing_twice(tmp_path: Path) -> None:
    settings = SimnetSettings(tmp_path, nodes=4, validators=2, slot_duration_s=2.0, seed=21)
    dealt, keys = make_cluster(settings)
    data = tmp_path / "node3"
    async with open_cluster(settings) as cluster, trio.open_nursery() as nursery:
        (data / "cluster-lock.json").write_bytes(encode_lock(dealt.lock))
        (data / "charon-enr-private-key").write_text(keys[3].hex())
        (data / "charon-enr-private-key").chmod(0o600)
        config = cluster.configs[3]
        own = (
            "--graffiti=simnet",
            "--graffiti-disable-client-append",  # as the other nodes: the beacon mock knows one block a slot
            "--lock-file=node3/cluster-lock.json",
            "--private-key-file=node3/charon-enr-private-key",
            f"--validator-api-address={config.validator_api_address}",
            f"--monitoring-address={config.monitoring_address}",
            f"--p2p-tcp-address={config.p2p_tcp_addresses[0]}",
        )
        ports = [int(flag.rpartition(":")[2]) for flag in own[-3:]]
        url = config.beacon_nodes[0].base
        shares = {public_key(of_validator[4]): of_validator[4] for of_validator in dealt.shares}
        client = ValidatorMock(f"http://127.0.0.1:{ports[0]}", shares, cluster.chain, time.time)
        nursery.start_soon(client.run)
        for index in range(3):
            await cluster.start(index)
        for _ in range(2):
            async with running(data, *own, beacon=url, ports=ports) as node:
                await takes_part(node)
                assert not node.errors
                node.process.kill()  # in whatever it is doing
                await node.ends()
        async with running(data, *own, beacon=url, ports=ports) as node:
            await takes_part(node)
            assert not [line for line in node.lines if "slashable" in line]
            node.process.terminate()
            assert await node.ends(within_s=5) == 0
        assert not cluster.beacon.refused
        nursery.cancel_scope.cancel()
