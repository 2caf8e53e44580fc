"""The operator's disk: full for seconds, not mounted, restored from yesterday, and a clock that steps. On running nodes."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from actors.consensus import PROTOCOL
from actors.identity import Endpoint, FetchRecord, Identity
from actors.identity import Message as IdentityMessage
from actors.mailbox import Mailbox, open_actor
from actors.mesh import Mesh
from actors.slashing.actor import AttestationEntry, Guard, NotRecorded, SlashableFault
from charon_actors.cli.log import set_up_log
from charon_actors.cluster.peers import peers_of
from charon_actors.errors import UserError
from charon_actors.eth2.duty import Duty
from charon_actors.files.data_directory import read_key_lock, take_key_lock
from charon_actors.qbft.messages import Verifier
from supervisors.node import NodeConfig, open_node
from supervisors.node_actors import SLASHING_FILE
from supervisors.simnet import SimnetSettings, open_cluster
from supervisors.supervisor import Event, Started, Stopped
from tests.hearing import hear

PATIENCE_S = 40.0
KEY = bytes([7]) * 48


@pytest.fixture(autouse=True)
def log() -> Iterator[list[Any]]:
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("needs to mount a small tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class Filling:
    """Not a byte is left on the disk inside the block."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "somebody-elses-file"

    def __enter__(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    def __exit__(self, *error: object) -> None:
        self._path.unlink()


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not is_so():
            await trio.sleep(0.02)


async def refusal(config: NodeConfig) -> str:
    with pytest.raises(UserError) as caught, trio.fail_after(PATIENCE_S):
        async with open_node(config):
            await trio.sleep_forever()
    return str(caught.value)


def vote(target: int, root: int = 1) -> AttestationEntry:
    return AttestationEntry(KEY, bytes([root]) * 32, target - 1, target)


@pytest.mark.slow
async def test_a_full_disk_ends_neither_the_node_nor_its_record(tmp_path: Path, small_disk: Path) -> None:
    """Three seconds were enough to end a node with the key lock."""
    async with open_cluster(SimnetSettings(tmp_path, nodes=3, validators=1, slot_duration_s=0.5, seed=5)) as cluster:
        key = small_disk / "charon-enr-private-key"
        key.write_text("not read here")
        lock = take_key_lock(key, "charon run", "0xab", time.time())
        config = msgspec.structs.replace(cluster.configs[0], state_dir=small_disk, key_lock=lock)
        events: list[Event] = []
        async with open_node(config) as node:
            hear(node, Event, events.append)
            guard = node.addresses.slashing
            with trio.fail_after(PATIENCE_S):
                await guard.ask(Guard((vote(1),)))
            refused, target = 0, 1
            with Filling(small_disk):
                began = trio.current_time()
                while trio.current_time() < began + 3.5:
                    target += 1
                    many = tuple(msgspec.structs.replace(vote(target), pubkey=bytes([k]) * 48) for k in range(200))
                    with trio.fail_after(PATIENCE_S):
                        try:
                            await guard.ask(Guard((vote(target), *many)))
                        except NotRecorded:
                            refused += 1
                    await trio.sleep(0.05)
            assert refused, "the disk was really full"
            freed_s = time.time()
            with trio.fail_after(PATIENCE_S):
                await guard.ask(Guard((vote(target + 1),)))
                with pytest.raises(SlashableFault):
                    await guard.ask(Guard((vote(target + 1, root=2),)))

            def is_fresh() -> bool:
                found = read_key_lock(lock)
                return found is not None and found.timestamp_s > freed_s

            await until(is_fresh)
        assert [event for event in events if not isinstance(event, Started | Stopped)] == [], "nothing crashed, nothing restarted"
        async with open_node(config) as node:  # and what is there is whole
            with trio.fail_after(PATIENCE_S), pytest.raises(SlashableFault):
                await node.addresses.slashing.ask(Guard((vote(1, root=2),)))


async def test_a_node_record_waits_for_room(small_disk: Path) -> None:
    mailbox: Mailbox[IdentityMessage] = Mailbox("identity")
    with Filling(small_disk):
        actor = Identity(b"\x01" * 32, small_disk, Endpoint("192.0.2.1", 3610))
        async with open_actor(mailbox, lambda: actor) as identity:
            with trio.move_on_after(0.3) as scope:
                await identity.ask(FetchRecord())
            assert scope.cancelled_caught, "nobody is told of a record that isn't on disk"
            Filling(small_disk).__exit__()
            with trio.fail_after(PATIENCE_S):
                record = await identity.ask(FetchRecord())
            (small_disk / "somebody-elses-file").touch()
    assert record.seq == 1
    assert (small_disk / "node-record.enr").read_text() == record.encode()


def test_a_log_file_on_a_full_disk_loses_lines_and_says_so(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import structlog

    path = small_disk / "charon.log"
    try:
        set_up_log("console", "error", "disable", str(path))
        logger = structlog.get_logger(topic="test")
        logger.info("before")
        with Filling(small_disk):
            for number in range(300):
                logger.info("x" * 100, number=number)
        logger.info("after")
        logger.info("and again")
    finally:
        structlog.reset_defaults()
    text = path.read_text()
    assert "before" in text
    assert "may be missing here" in text
    assert "and again" in text
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert told.count("can't be written") == 1


@pytest.mark.slow
async def test_a_record_that_is_gone_is_refused_and_the_flag_listens_for_two_epochs(tmp_path: Path) -> None:
    async with open_cluster(SimnetSettings(tmp_path, nodes=3, validators=1, slot_duration_s=1.0, seed=6)) as cluster:
        config = cluster.configs[0]
        record = config.state_dir / SLASHING_FILE
        async with open_node(config) as node:
            with trio.fail_after(PATIENCE_S):
                await node.addresses.slashing.ask(Guard((vote(10),)))
        record.rename(tmp_path / "away")
        assert "is missing, though this node has signed with it" in await refusal(config)
        record.symlink_to(tmp_path / "unmounted" / "record")
        assert "which is not there" in await refusal(config)
        record.unlink()
        lost = msgspec.structs.replace(config, is_slashing_record_lost=True)
        await cluster.start(1)
        async with open_node(lost) as node:  # two epochs of simnet are 8 s
            await until(lambda: node.readiness.state == 9)
            began = trio.current_time()
            with pytest.raises(Exception, match="records were lost"):
                await node.addresses.slashing.ask(Guard((vote(20),)))
            await until(lambda: node.readiness.state not in (0, 9))
            assert trio.current_time() - began > 4
            with pytest.raises(SlashableFault):
                await node.addresses.slashing.ask(Guard((vote(10, root=2),)))
            await node.addresses.slashing.ask(Guard((vote(20),)))
        async with open_node(lost) as node:  # it may stay in the unit file
            with trio.fail_after(PATIENCE_S):
                await node.addresses.slashing.ask(Guard((vote(21),)))


@pytest.mark.slow
@pytest.mark.parametrize("back_s", [4.0])
async def test_a_node_says_nothing_again_after_its_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back_s: float
) -> None:
    """Two lives of node 0 among two others; what it says in consensus is written down at the mesh."""
    said: list[set[Duty]] = []
    async with open_cluster(SimnetSettings(tmp_path, nodes=3, validators=4, slot_duration_s=1.0, seed=7)) as cluster:
        broadcast = Mesh.broadcast
        verifier = Verifier([peer.public_key for peer in peers_of(cluster.configs[0].lock.definition)])

        def listening(mesh: Mesh, protocols: Sequence[str], message: bytes, **rest: Any) -> None:
            if tuple(protocols) == (PROTOCOL,) and mesh.own_index == 0:
                said[-1].add(verifier.decode(message).duty)
            broadcast(mesh, protocols, message, **rest)

        monkeypatch.setattr(Mesh, "broadcast", listening)
        for index in (1, 2):
            await cluster.start(index)
        for life in (0, 1):
            said.append(set())
            clock = time.time if life == 0 else lambda: time.time() - back_s
            async with open_node(cluster.configs[0], wall_clock=clock):
                await trio.sleep(7.0)
    first, second = said
    assert first, "it took part"
    assert first.isdisjoint(second)


def test_the_disk_of_this_test_is_really_small(small_disk: Path) -> None:
    with Filling(small_disk):
        assert os.statvfs(small_disk).f_bavail == 0
