"""What a node has said in a duty stands on disk before it says it, and is not said again: not in another life, not by another clock."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from actors.consensus import Agree, Consensus, Message, ParticipationFile, ProposeValue, QbftReceived
from actors.consensus.participation import ForgetfulStore, ParticipationStore
from actors.mailbox import Address, Mailbox, open_actor
from actors.twin_file import create_twin, open_twin
from charon_actors.crypto import k1_public_key
from charon_actors.errors import UserError
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.profile import Profile
from charon_actors.qbft.machine import Broadcast, MessageType
from charon_actors.qbft.machine import Message as QbftMessage
from charon_actors.qbft.messages import Verifier, encode_message, encode_value, sign_message
from charon_actors.qbft.participation import Participation, decode_participation, encode_participation

PRIVATE_KEYS = [bytes([i + 1]) * 32 for i in range(4)]
PUBLIC_KEYS = [k1_public_key(key) for key in PRIVATE_KEYS]
CHAIN = Chain(1_700_000_000.0, bytes(32), 12.0, 32, (), {Fork.FULU: 0}, bytes(4))
SLOT = 1000
BLOCK = Duty(SLOT, DutyType.PROPOSER)  # leader of round 1: (1000 + 1 + 1) % 4 = 2
LEADER = 2
PATIENCE_S = 20.0


def value_of(text: bytes) -> dict[str, bytes]:
    return {"0x" + "ab" * 48: text * 40}


class Clock:
    """Set by the test; stands still otherwise."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class Wire:
    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.sent: list[QbftMessage] = []
        self.duties: list[Duty] = []
        self._verifier, self._before = Verifier(PUBLIC_KEYS), before

    def broadcast(self, protocols: tuple[str, ...], message: bytes) -> None:
        self._before()
        received = self._verifier.decode(message)
        self.sent.append(received.message)
        self.duties.append(received.duty)

    async def has_sent(self, count: int) -> None:
        with trio.fail_after(PATIENCE_S):
            while len(self.sent) < count:
                await trio.sleep(0.005)


@asynccontextmanager
async def life(clock: Clock, store: ParticipationStore, wire: Wire, own_index: int = LEADER) -> AsyncIterator[Address[Message]]:
    actor = Consensus(
        mesh=wire,
        own_index=own_index,
        private_key=PRIVATE_KEYS[own_index],
        public_keys=PUBLIC_KEYS,
        validators=10,
        chain=CHAIN,
        profile=Profile.V1_10,
        wall_clock=clock,
        store=store,
    )
    mailbox: Mailbox[Message] = Mailbox("consensus")
    async with open_actor(mailbox, lambda: actor) as address:
        yield address


def on_disk(path: Path) -> Participation:
    twin = open_twin_unlocked(path)
    return decode_participation(twin[32:])


def open_twin_unlocked(path: Path) -> bytes:
    """What the next life would find, without its lock."""
    copy = path.with_name("look")
    copy.write_bytes(path.read_bytes())
    twin = open_twin(copy)
    twin.close()
    return twin.content


def commits(duty: Duty, sources: Sequence[int], text: bytes) -> list[bytes]:
    named, value = encode_value(value_of(text))
    return [
        encode_message(sign_message(PRIVATE_KEYS[i], duty, i, Broadcast(MessageType.COMMIT, 1, named)), {named: value})
        for i in sources
    ]


async def settled() -> None:
    """Time for what must not happen."""
    await trio.sleep(0.4)


@pytest.mark.parametrize("back_s", [0.0, 1.0, 30.0, 3600.0])
async def test_a_clock_that_was_set_back_between_two_lives_does_not_make_a_liar(tmp_path: Path, back_s: float) -> None:
    """Before: a second PRE_PREPARE and PREPARE with another value for the same duty and round."""
    begin_s = CHAIN.slot_start_s(SLOT)
    first, second = Wire(), Wire()
    clock = Clock(begin_s - 1.0)
    async with life(clock, ParticipationFile(tmp_path / "said", bytes(32)), first) as consensus:
        await trio.sleep(0.05)
        clock.now_s = begin_s
        consensus.tell(ProposeValue(BLOCK, value_of(b"first")))
        await first.has_sent(2)
    assert [message.type for message in first.sent] == [MessageType.PRE_PREPARE, MessageType.PREPARE]
    clock = Clock(begin_s - 1.0 - back_s)
    async with life(clock, ParticipationFile(tmp_path / "said", bytes(32)), second) as consensus:
        await trio.sleep(0.05)
        clock.now_s = begin_s
        consensus.tell(ProposeValue(BLOCK, value_of(b"second")))
        await settled()
        assert second.sent == []
        # what comes later is taken part in, the attestation of the same slot to begin with
        clock.now_s = begin_s + 4.0
        attester = Duty(SLOT, DutyType.ATTESTER)
        consensus.tell(ProposeValue(attester, value_of(b"third")))
        clock.now_s = CHAIN.slot_start_s(SLOT + 4)
        consensus.tell(ProposeValue(Duty(SLOT + 4, DutyType.PROPOSER), value_of(b"fourth")))
        await second.has_sent(2)
        assert BLOCK not in second.duties


async def test_a_duty_that_comes_again_because_the_clock_went_back_within_a_life_is_only_listened_to(tmp_path: Path) -> None:
    begin_s = CHAIN.slot_start_s(SLOT)
    wire, clock = Wire(), Clock(begin_s - 60.0)
    async with life(clock, ParticipationFile(tmp_path / "said", bytes(32)), wire) as consensus:
        await trio.sleep(0.05)
        clock.now_s = begin_s
        consensus.tell(ProposeValue(BLOCK, value_of(b"first")))
        await wire.has_sent(2)
        clock.now_s = begin_s + 6.0  # the duty is over
        consensus.tell(ProposeValue(BLOCK, value_of(b"first")))
        await trio.sleep(2.0)  # its task has a look: round 1 lasts 1.5 s
        before = len(wire.sent)
        clock.now_s = begin_s + 0.5
        consensus.tell(ProposeValue(BLOCK, value_of(b"second")))
        for content in commits(BLOCK, [0, 1, 3], b"theirs"):
            consensus.tell(QbftReceived(0, content))
        with trio.fail_after(PATIENCE_S):
            assert (await consensus.ask(Agree(BLOCK))).unsigned_data == value_of(
                b"theirs"
            )  # what the others decide counts all the same
        assert len(wire.sent) == before


async def test_the_duty_stands_on_disk_before_anything_is_said(tmp_path: Path) -> None:
    path = tmp_path / "said"
    looked = []

    def look() -> None:
        looked.append(on_disk(path).covers(BLOCK))

    wire, clock = Wire(look), Clock(CHAIN.slot_start_s(SLOT) - 1.0)
    async with life(clock, ParticipationFile(path, bytes(32)), wire) as consensus:
        await trio.sleep(0.05)
        clock.now_s += 1.0
        consensus.tell(ProposeValue(BLOCK, value_of(b"first")))
        await wire.has_sent(2)
    assert looked
    assert all(looked)


class Refusing(ForgetfulStore):
    """A disk that is full until it isn't."""

    def __init__(self) -> None:
        self.is_full, self.tries = True, 0

    async def put(self, participation: Participation) -> None:
        self.tries += 1
        if self.is_full:
            raise OSError(28, "No space left on device")


async def test_a_disk_that_takes_nothing_leaves_a_listener_that_tries_again(tmp_path: Path) -> None:
    begin_s = CHAIN.slot_start_s(SLOT)
    store, wire, clock = Refusing(), Wire(), Clock(begin_s - 20.0)
    other = Duty(SLOT - 1, DutyType.ATTESTER)  # its leader is (999 + 2 + 1) % 4 = 2
    async with life(clock, store, wire) as consensus:
        await trio.sleep(0.05)
        clock.now_s = begin_s + 4.0
        consensus.tell(ProposeValue(BLOCK, value_of(b"ours")))
        consensus.tell(ProposeValue(other, value_of(b"ours")))
        await settled()
        clock.now_s = begin_s + 4.6
        consensus.tell(ProposeValue(BLOCK, value_of(b"again")))
        for content in commits(BLOCK, [0, 1, 3], b"theirs"):
            consensus.tell(QbftReceived(0, content))
        with trio.fail_after(PATIENCE_S):
            assert (await consensus.ask(Agree(BLOCK))).unsigned_data == value_of(b"theirs")  # their decision is served
        assert wire.sent == []
        assert store.tries > 1
        store.is_full = False
        await wire.has_sent(1)  # it joins what isn't decided
        assert set(wire.duties) == {other}


async def test_messages_that_came_while_we_stood_aside_count_when_we_join(tmp_path: Path) -> None:
    """A PRE_PREPARE of the leader must not be lost: our PREPARE answers it."""
    begin_s = CHAIN.slot_start_s(SLOT)
    store, wire, clock = Refusing(), Wire(), Clock(begin_s - 1.0)
    named, value = encode_value(value_of(b"leader's"))
    proposal = sign_message(PRIVATE_KEYS[LEADER], BLOCK, LEADER, Broadcast(MessageType.PRE_PREPARE, 1, named))
    async with life(clock, store, wire, own_index=0) as consensus, trio.open_nursery() as nursery:
        await trio.sleep(0.05)
        clock.now_s = begin_s
        nursery.start_soon(consensus.ask, Agree(BLOCK))
        await settled()
        clock.now_s = begin_s + 0.6
        consensus.tell(QbftReceived(LEADER, encode_message(proposal, {named: value})))
        await settled()
        assert wire.sent == []
        store.is_full = False
        await wire.has_sent(1)
        assert wire.sent[0].type is MessageType.PREPARE
        assert wire.sent[0].value == named
        nursery.cancel_scope.cancel()


async def test_a_file_of_another_chain_says_nothing_here(tmp_path: Path) -> None:
    path = tmp_path / "said"
    create_twin(path, bytes(32) + encode_participation(Participation().joined_by([BLOCK]))).close()
    assert (await loaded(path, bytes(32))).covers(BLOCK)
    assert not (await loaded(path, b"\x01" * 32)).covers(BLOCK)


async def loaded(path: Path, root: bytes) -> Participation:
    store = ParticipationFile(path, root)
    try:
        return await store.load()
    finally:
        store.close()


async def test_a_damaged_file_is_the_operators_to_decide_about(tmp_path: Path) -> None:
    path = tmp_path / "said"
    path.write_bytes(b"nonsense" * 2000)
    with pytest.raises(UserError, match="is damaged"):
        await loaded(path, bytes(32))
    path.unlink()
    path.symlink_to(tmp_path / "unmounted" / "said")
    with pytest.raises(UserError, match="leads nowhere"):
        await loaded(path, bytes(32))


async def test_two_nodes_of_one_directory_do_not_share_it(tmp_path: Path) -> None:
    path = tmp_path / "said"
    one = ParticipationFile(path, bytes(32))
    await one.put(Participation().joined_by([BLOCK]))
    with pytest.raises(UserError, match="in use by another process"):
        await loaded(path, bytes(32))
    one.close()
    assert (await loaded(path, bytes(32))).covers(BLOCK)


SPEAKS = """
import os, sys, pathlib, trio
sys.path.insert(0, ".")
from tests.actors.consensus.test_consensus_participation import *

class Loud(Wire):
    def broadcast(self, protocols, message):
        super().broadcast(protocols, message)
        os.write(1, b"%d\\n" % self.duties[-1].slot)

async def main():
    clock, slot, wire = Clock(CHAIN.slot_start_s(SLOT) - 1.0), SLOT, Loud()
    async with life(clock, ParticipationFile(pathlib.Path(sys.argv[1]), bytes(32)), wire) as consensus:
        await trio.sleep(0.05)
        while True:
            slot += 4  # each time the leader
            clock.now_s = CHAIN.slot_start_s(slot)
            consensus.tell(ProposeValue(Duty(slot, DutyType.PROPOSER), value_of(b"x")))
            await wire.has_sent(2 * (slot - SLOT) // 4)

trio.run(main)
"""


@pytest.mark.parametrize("said", [1, 2, 5, 17])
def test_whatever_was_said_before_a_kill_is_on_disk(tmp_path: Path, said: int) -> None:
    path = tmp_path / "said"
    process = subprocess.Popen([sys.executable, "-c", SPEAKS, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(said)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.read().splitlines()
    process.wait()
    process.stdout.close()
    slots = {int(line) for line in lines if line.strip().isdigit()}  # the log is among them
    assert slots
    assert os.path.getsize(path) == 8192
    found = on_disk(path)
    assert all(found.covers(Duty(slot, DutyType.PROPOSER)) for slot in slots)


async def test_a_peer_cannot_have_slots_marked_that_are_not_there_yet() -> None:
    """Then the slots before them would fall silent."""
    begin_s = CHAIN.slot_start_s(SLOT)
    store, wire, clock = Refusing(), Wire(), Clock(begin_s - 1.0)
    store.is_full = False
    async with life(clock, store, wire) as consensus:
        await trio.sleep(0.05)
        for slot in range(SLOT + 1, SLOT + 60):
            for kind in (DutyType.AGGREGATOR, DutyType.ATTESTER, DutyType.PROPOSER):
                for content in commits(Duty(slot, kind), [1], b"early"):
                    consensus.tell(QbftReceived(1, content))
        await settled()
        assert store.tries == 0
        clock.now_s = begin_s
        consensus.tell(ProposeValue(BLOCK, value_of(b"ours")))
        await wire.has_sent(2)
        assert store.tries == 1
