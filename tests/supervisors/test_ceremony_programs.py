"""The program `charon dkg` over real sockets: operators in one process, operators as processes, and what mistakes look like."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from structlog.testing import capture_logs

from actors.dkg import CeremonyOptions
from actors.dkg.actor import Aborted
from charon_actors.cli.main import main
from charon_actors.cluster.definition import Definition
from charon_actors.cluster.definition_json import encode_definition
from charon_actors.cluster.lock import Lock
from charon_actors.profile import Profile
from supervisors.ceremony import CeremonyConfig, ceremony_tree, run_ceremony
from supervisors.network import KEY_LOCK
from supervisors.supervisor import Worker, draw
from tests.charon_actors.dkg.cluster import (
    CUSTOM,
    check_results,
    definition,
    network_of,
    prepare_directory,
    private_key,
    results_in,
)

ROOT = Path(__file__).parent.parent.parent


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def config_of(folder: Path, index: int, of: Definition, port: int, profile: Profile = Profile.V1_10) -> CeremonyConfig:
    directory = prepare_directory(folder / f"node{index}", index, of)
    return CeremonyConfig(
        definition=of,
        private_key=private_key(index),
        own_index=index,
        network=network_of(of),
        options=CeremonyOptions(
            data_directory=directory, shutdown_delay_s=0.2, networks_extra=(CUSTOM,), keystore_iterations=16, timeout_s=30.0
        ),
        p2p_tcp_addresses=(f"127.0.0.1:{port}",),
        key_lock=directory / "charon-enr-private-key.lock",
        profile=profile,
        nickname=f"node {index}",
    )


@pytest.mark.parametrize("profile", list(Profile))
async def test_four_operators_over_loopback(tmp_path: Path, profile: Profile) -> None:
    ports = free_ports(4)
    of = definition(4, 3, 3, ports=ports, version="v1.11.0" if profile is Profile.V1_11 else "v1.10.0")
    configs = [config_of(tmp_path, index, of, port, profile) for index, port in enumerate(ports)]
    locks: list[Lock] = []

    async def take_part(config: CeremonyConfig) -> None:
        locks.append(await run_ceremony(config))

    with trio.fail_after(90), capture_logs() as log:
        async with trio.open_nursery() as nursery:
            for config in configs:
                nursery.start_soon(take_part, config)
    assert {line["nickname"] for line in log if "nickname" in line} == {config.nickname for config in configs}
    check_results([config.options.data_directory for config in configs], of)
    assert len({lock.lock_hash for lock in locks}) == 1
    key_lock = json.loads((configs[0].options.data_directory / "charon-enr-private-key.lock").read_text())
    assert key_lock["command"] == "charon dkg"


async def test_over_real_sockets_an_abort_reaches_everybody(tmp_path: Path) -> None:
    ports = free_ports(3)
    of = definition(3, 2, 1, ports=ports)
    configs = [config_of(tmp_path, index, of, port) for index, port in enumerate(ports)]
    other = replace(configs[2], profile=Profile.V1_11)
    errors: list[Exception] = []

    async def take_part(config: CeremonyConfig) -> None:
        try:
            await run_ceremony(config)
        except Aborted as error:
            errors.append(error)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for config in (*configs[:2], other):
                nursery.start_soon(take_part, config)
    assert len(errors) == 3
    assert all("mismatching charon version" in str(error) for error in errors)
    for config in configs:
        assert results_in(config.options.data_directory) == []


async def test_a_taken_port_is_one_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        of = definition(3, 2, 1)
        config = config_of(tmp_path, 0, of, taken.getsockname()[1])
        with pytest.raises(Exception, match=r"127\.0\.0\.1"):
            await run_ceremony(config)


def test_the_tree() -> None:
    tree = draw(ceremony_tree(["listener", "peer:a"], [Worker(KEY_LOCK)]))
    assert "dkg (temporary)" in tree
    assert tree.index("peer:a") < tree.index("dkg (temporary)")


def start(directory: Path, port: int, *extra: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "charon_actors.cli.main", "dkg", f"--data-dir={directory}"]
    command += [f"--definition-file={directory / 'cluster-definition.json'}", f"--p2p-tcp-address=127.0.0.1:{port}"]
    command += ["--p2p-relays=", "--shutdown-delay=500ms", *extra]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=directory.parent, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("custom", [False, True])
def test_four_processes(tmp_path: Path, custom: bool) -> None:
    ports = free_ports(4)
    changes = {"fork_version": CUSTOM.genesis_fork_version} if custom else {}
    of = definition(4, 3, 2, ports=ports, **changes)
    flags = [
        f"--testnet-name={CUSTOM.name}",
        f"--testnet-chain-id={CUSTOM.chain_id}",
        "--testnet-fork-version=0x00000001",
        f"--testnet-genesis-timestamp={CUSTOM.genesis_time_s}",
    ]
    directories = [prepare_directory(tmp_path / f"node{index}", index, of) for index in range(4)]
    processes = [start(directory, ports[index], *(flags if custom else ())) for index, directory in enumerate(directories)]
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    check_results(directories, of)
    assert len({out for out, _ in outputs}) == 1
    assert outputs[0][0].startswith(b"lock hash: 0x")


@pytest.mark.slow
def test_processes_interrupted_after_the_end_have_succeeded(tmp_path: Path) -> None:
    ports = free_ports(3)
    of = definition(3, 2, 1, ports=ports)
    directories = [prepare_directory(tmp_path / f"node{index}", index, of) for index in range(3)]
    processes = [start(directory, ports[index], "--shutdown-delay=10m") for index, directory in enumerate(directories[:2])]
    processes.append(start(directories[2], ports[2], "--shutdown-delay=10m", "--zipped"))
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"lock hash: 0x")  # at once, not after the delay
        process.send_signal(signal.SIGINT)
    outputs = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, outputs
    assert all(b"Stopping in the middle" not in errors for _, errors in outputs)
    assert len(results_in(directories[0])) > 2
    assert results_in(directories[0]) == results_in(directories[1])
    assert (directories[2] / "dkg.tar.gz").is_file()
    assert results_in(directories[2]) == []


@pytest.mark.slow
def test_an_interrupted_process_fails_and_leaves_nothing(tmp_path: Path) -> None:
    of = definition(3, 2, 1, ports=free_ports(3))
    directory = prepare_directory(tmp_path / "node0", 0, of)
    process = start(directory, free_ports(1)[0])
    assert process.stderr is not None
    for line in process.stderr:
        if b"Waiting to connect" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"Traceback" not in errors
    assert results_in(directory) == []


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return prepare_directory(tmp_path / ".charon", 0, definition(3, 2, 1))


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["dkg", "--log-level=error", *arguments]) == 1
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, errors
    return lines[0]


def test_mistakes_are_one_line(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown flag: --keymanager" in error_of(capsys, "--keymanager=x")
    assert "is not known" in error_of(capsys, "--profile=v1.9")
    assert "cannot fetch the definition" in error_of(capsys, "--definition-file=http://127.0.0.1:1/definition")
    assert "definition not found" in error_of(capsys, "--definition-file=nowhere.json")
    assert "private key file does not exist" in error_of(capsys, "--data-dir=elsewhere")
    assert "longer than 32 bytes" in error_of(capsys, "--nickname=" + "x" * 33)
    assert "not a positive duration" in error_of(capsys, "--timeout=0s")
    assert "lacks" in error_of(capsys, "--testnet-name=rig")
    assert "not a key of" not in error_of(capsys, "--testnet-name=rig")
    assert not (directory / "charon-enr-private-key.lock").exists()  # a mistake does not block the next attempt


def test_a_directory_with_results_is_refused_with_their_names(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "validator_keys").mkdir()
    (directory / "deposit-data-1eth.json").touch()
    error = error_of(capsys)
    assert "deposit-data-1eth.json" in error
    assert "validator_keys" in error


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dkg_algorithm": "pedersen"}, "not supported"),
        ({"threshold": 1}, "threshold below minimum"),
        ({"threshold": 4}, "threshold exceeds"),
        ({"fork_version": bytes.fromhex("deadbeef")}, "invalid fork version"),
        ({"operators": 256, "threshold": 171}, "too many operators for a ceremony: 256 > 255; make a new definition"),
    ],
)
def test_definitions_that_no_ceremony_can_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments: dict[str, Any] = {"operators": 3, "threshold": 2, **changes}
    prepare_directory(tmp_path / ".charon", 0, definition(validators=1, **arguments))
    assert words in error_of(capsys)


def test_a_key_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    prepare_directory(tmp_path / ".charon", 7, definition(3, 2, 1))
    assert "unknown private key provided" in error_of(capsys)


def test_a_changed_definition_is_refused(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = directory / "cluster-definition.json"
    path.write_bytes(encode_definition(definition(3, 2, 1)).replace(b'"name": "test"', b'"name": "tost"'))
    assert "invalid config hash" in error_of(capsys)


def test_a_key_in_use_is_refused(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import datetime

    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    (directory / "charon-enr-private-key.lock").write_text(f'{{"command":"charon run","timestamp":"{now}"}}')
    assert "another charon instance may be running" in error_of(capsys)
