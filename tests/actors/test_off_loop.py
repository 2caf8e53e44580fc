"""Where long work is done: by what it is expected to cost."""

import os
import threading
from typing import Any

import pytest
import trio

from actors.crypto_workers import CryptoWorkers, LongWork, Message, WorkerDied
from actors.mailbox import Mailbox, open_actor
from actors.off_loop import IN_LOOP_MS, IN_THREAD_MS, Elsewhere
from charon_actors.eth2.ssz import EncodingFault
from charon_actors.eth2.unsigned_data import Proposal
from tests.charon_actors.signatures.signed import block, unsigned


def where(_: object) -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def same(item: object) -> object:
    return item


def refuse(text: str) -> None:
    raise EncodingFault(text)


def die(_: object) -> None:
    os._exit(1)


async def test_what_is_short_is_done_here_what_is_longer_in_a_thread_and_what_is_long_in_a_process() -> None:
    here = where(None)
    async with open_actor(Mailbox[Message]("crypto_workers"), lambda: CryptoWorkers(1)) as workers:

        async def process(function: Any, item: Any) -> Any:
            return await workers.ask(LongWork(function, item))

        off_loop = Elsewhere(process)
        with trio.fail_after(60):
            assert await off_loop(IN_LOOP_MS - 1, where, None) == here
            pid, thread = await off_loop(IN_LOOP_MS, where, None)
            assert (pid == here[0], thread == here[1]) == (True, False)
            pid, _ = await off_loop(IN_THREAD_MS, where, None)
            assert pid != here[0]
            decided = unsigned(block(blobs=[1, 2]))
            assert decided.slot  # a value that is remembered beside the fields
            back = await off_loop(IN_THREAD_MS, same, decided)
            assert (type(back), back) == (Proposal, decided)
            with pytest.raises(EncodingFault, match="no block"):
                await off_loop(IN_THREAD_MS, refuse, "no block")
            with pytest.raises(WorkerDied, match="die"):
                await off_loop(IN_THREAD_MS, die, None)
            assert await off_loop(IN_THREAD_MS, same, 1) == 1
    assert await Elsewhere()(1e9, same, 2) == 2, "without processes a thread does it"
