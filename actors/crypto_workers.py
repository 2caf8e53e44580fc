"""Crypto workers: processes for BLS and keystore work, so that the event loop stays free. pyblst keeps the interpreter lock.

Accepts     VerifyAll, RecoverSignatures, LongWork (ask)
Owns        up to `workers` processes, started when first needed; each keeps its own cache of decoded public keys. One more for
            LongWork, which would keep signatures waiting
May touch   processes, through trio-parallel. Not: sockets, files, another actor's state
Mailbox     1024, policy `reject`; at most MAX_REQUESTS are being worked on, the rest waits in the mailbox
Cancelled   an asker that leaves: its queued jobs are forgotten, a running one may finish within GRACE_S, then its process is
            killed. The actor itself: the same for all, so it ends within some GRACE_S
Restart     starts with no processes; askers get ActorDown and ask again; no request changes anything, so a repeat is harmless
Source      architecture §6; specification 08-beacon-node sections 8 and 9 (measured times)

A request becomes jobs of CHUNK_CHECKS checks or CHUNK_RECOVERIES recoveries, so that a big request shares the processes with small
ones. Up to INLINE_CHECKS checks are done in the event loop itself, INLINE_SLICE at a time: handing them over would cost more.

A process that dies, or needs longer than JOB_LIMIT_S, is replaced, and its job is tried once more. If that ends the same way, the
asker gets WorkerDied: then it is the job, or the machine has no memory left.

Which way to the other cores, and when:

    crypto_workers              a node's signatures: the event loop must stay free for hours, and a process may die
    off_loop.py                 a node's long look at one message; decides by its price between the loop and LongWork here
    dkg/keystore_threads.py     keystores in a ceremony: PBKDF2 needs no interpreter lock, so threads do, and secrets stay in the process
    cli/keystore_workers.py     keystores of a command: the same threads; a pool of its own, for scrypt's memory
    cli/forked.py               a command's other long lists (dealing, verifying): children that have all of the parent's values
                                at no cost, where nothing else is running that a fork could break
"""

import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar, assert_never

import msgspec
import trio
import trio_parallel

from actors.facts import Fact, OnFact, unheard
from actors.log import get_logger
from actors.mailbox import Inbox, Request
from charon_actors.crypto import (
    Check,
    CryptoFault,
    Entropy,
    recover_signature,
    verify,
    verify_all,
)
from charon_actors.errors import Retryable

DEFAULT_WORKERS: Final = min(2, os.cpu_count() or 1)
MAX_REQUESTS: Final = 64
INLINE_CHECKS: Final = 8  # some 1 ms a check
INLINE_SLICE: Final = 4  # between slices others get their turn; the worst case, all signatures wrong, is 2.5 ms a check
INLINE_RECOVERIES: Final = 2  # some 2 ms each: Lagrange in G2 and a check
CHUNK_CHECKS: Final = 64  # 25 ms for one message, 65 ms for 64 messages
CHUNK_RECOVERIES: Final = 16
GRACE_S: Final = 1.0
JOB_LIMIT_S: Final = 60.0  # the slowest job, reading a block at the limits of its JSON, takes some seconds
IDLE_TIMEOUT_S: Final = 600.0

T = TypeVar("T")
R = TypeVar("R")

log = get_logger("crypto")


class VerifyAll(Request[list[bool]], frozen=True):
    """Ask whether each check holds; answers in their order, False for whatever is malformed.

    checks: any number; up to INLINE_CHECKS are answered without a process.
    Raises: WorkerDied, ActorDown, MailboxFull (ask again until your deadline).
    Cancellation: at any time. Source: specification 08-beacon-node, section 8.1; `charon_actors.crypto.batch`.
    """

    checks: Sequence[Check]


class Recovery(msgspec.Struct, frozen=True):
    """Partial signatures (96 bytes) of one message by share index, at least threshold; and the group's public key, 48 bytes."""

    group_public_key: bytes
    message: bytes
    partials: Mapping[int, bytes]


class RecoverSignatures(Request[list[bytes | None]], frozen=True):
    """Ask for group signatures, 96 bytes each, verified against the group public key; None where recovery or check fails.

    Raises: WorkerDied, ActorDown, MailboxFull. Cancellation: at any time. Source: specification 08-beacon-node, section 8.2.
    """

    recoveries: Sequence[Recovery]


class LongWork(Request[Any], frozen=True):
    """Ask for `function(item)`: importable by name; item, result and errors can be pickled. One at a time (`off_loop.py`).

    Raises: what the function raises, WorkerDied, ActorDown, MailboxFull. Cancellation: at any time.
    """

    function: Callable[[Any], Any]
    item: Any


class WorkerDied(Retryable):
    """Two worker processes in a row died or hung over the same job."""


class WorkerLost(Fact, frozen=True):
    """A process died or hung over a job and is replaced. job: the function's name. attempt: 1; 2: nobody tries again."""

    job: str
    attempt: int


Message = VerifyAll | RecoverSignatures | LongWork


class CryptoWorkers:
    """The actor.

    workers: processes at most; 0: everything in the event loop, for simulations. entropy: for batches in the event loop.
    """

    def __init__(self, workers: int = DEFAULT_WORKERS, entropy: Entropy = secrets.token_bytes, on_fact: OnFact = unheard) -> None:
        self._workers, self._entropy, self._on_fact = workers, entropy, on_fact

    async def run(self, inbox: Inbox[Message]) -> None:
        room = trio.Semaphore(MAX_REQUESTS)

        async def serve(
            answer: Callable[..., Any], *args: object, errors: tuple[type[Exception], ...] = (CryptoFault, Retryable)
        ) -> None:
            try:
                await answer(*args, errors=errors)
            finally:
                room.release()

        async with (
            open_worker_pool(self._workers, self._on_fact) as pool,
            open_worker_pool(min(self._workers, 1), self._on_fact) as long_work,
            trio.open_nursery() as nursery,
        ):
            await room.acquire()
            async for mail in inbox:
                match mail.message:
                    case VerifyAll(checks) as request:
                        nursery.start_soon(serve, mail.reply_to(request).answer, self._verify, pool, checks)
                    case RecoverSignatures(recoveries) as recover:
                        nursery.start_soon(serve, mail.reply_to(recover).answer, self._recover, pool, recoveries)
                    case LongWork(function, item) as long:
                        call = partial(serve, mail.reply_to(long).answer, long_work.call, function, item, errors=(Exception,))
                        nursery.start_soon(call)
                    case unknown:
                        assert_never(unknown)
                await room.acquire()

    async def _verify(self, pool: "WorkerPool", checks: Sequence[Check]) -> list[bool]:
        if len(checks) <= INLINE_CHECKS:
            answers: list[bool] = []
            for first in range(0, len(checks), INLINE_SLICE):
                answers += verify_all(checks[first : first + INLINE_SLICE], self._entropy)
                await trio.lowlevel.checkpoint()
            return answers
        # Checks of one message belong into one chunk: that is what makes a batch cheap.
        order = sorted(range(len(checks)), key=lambda place: checks[place].message)
        chunks = [
            [checks[place] for place in order[first : first + CHUNK_CHECKS]] for first in range(0, len(order), CHUNK_CHECKS)
        ]
        sorted_answers = [answer for chunk in await pool.map(verify_chunk, chunks) for answer in chunk]
        by_place = dict(zip(order, sorted_answers, strict=True))
        return [by_place[place] for place in range(len(checks))]

    async def _recover(self, pool: "WorkerPool", recoveries: Sequence[Recovery]) -> list[bytes | None]:
        if len(recoveries) <= INLINE_RECOVERIES:
            found: list[bytes | None] = []
            for recovery in recoveries:
                found += recover_chunk([recovery])
                await trio.lowlevel.checkpoint()
            return found
        chunks = [recoveries[i : i + CHUNK_RECOVERIES] for i in range(0, len(recoveries), CHUNK_RECOVERIES)]
        return [signature for chunk in await pool.map(recover_chunk, chunks) for signature in chunk]


class WorkerPool:
    """Some worker processes inside an `open_worker_pool` block. Calls wait for a free process in the order in which they came."""

    def __init__(self, context: trio_parallel.WorkerContext | None, workers: int, on_fact: OnFact = unheard) -> None:
        self._context, self._limiter, self._on_fact = context, trio.CapacityLimiter(workers), on_fact

    async def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
    ) -> list[R]:
        """`[function(item) for item in items]`. Holds at most one waiting call a process, so others get their turn between two items.

        function: importable by name (not a lambda or a method); items, results and errors can be pickled. It runs again for an item
        whose process died. Raises: the first error of a call, as it is; WorkerDied.
        """
        results: dict[int, R] = {}
        errors: list[Exception] = []
        places = iter(range(len(items)))

        async def work() -> None:
            for place in places:
                try:
                    results[place] = await self.call(function, items[place])
                except Exception as error:
                    errors.append(error)
                    nursery.cancel_scope.cancel()
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(min(int(self._limiter.total_tokens), len(items))):
                nursery.start_soon(work)
        if errors:
            raise errors[0]
        return [results[place] for place in range(len(items))]

    async def call(self, function: Callable[[T], R], item: T) -> R:
        """function(item) in a process; a process that dies or hangs is replaced and the call repeated once, then WorkerDied."""
        if self._context is None:
            await trio.lowlevel.checkpoint()
            return function(item)
        for attempt in (1, 2):
            async with self._limiter:
                outcome = await self._run_once(self._context, function, item)
            if outcome is not None:
                if outcome.error is not None:
                    raise outcome.error
                return outcome.value  # type: ignore[no-any-return]  # set by _run_once, of function's type
            self._on_fact(WorkerLost(_name(function), attempt))
            log.warning("Crypto worker process died or hung", job=_name(function), attempt=attempt)
        raise WorkerDied(f"worker processes died or hung over {_name(function)} twice")

    async def _run_once(self, context: trio_parallel.WorkerContext, function: Callable[[T], R], item: T) -> "_Outcome | None":
        """None: the process died, or was killed for taking longer than JOB_LIMIT_S."""
        outcome: _Outcome | None = None

        async def end_the_patience() -> None:
            try:
                await trio.sleep_forever()
            finally:
                patience.deadline = min(patience.deadline, trio.current_time() + GRACE_S)

        async with trio.open_nursery() as nursery:
            # Shielded, so that a job that is nearly done does not cost its process. The watcher stands outside the shield:
            # whoever cancels us wakes it, and it leaves the job GRACE_S.
            patience = trio.CancelScope(shield=True, deadline=trio.current_time() + JOB_LIMIT_S)
            nursery.start_soon(end_the_patience)
            with patience:
                try:
                    value = await context.run_sync(function, item, kill_on_cancel=True, limiter=trio.CapacityLimiter(1))
                    outcome = _Outcome(value, None)
                except trio_parallel.BrokenWorkerError:
                    pass
                except Exception as error:
                    outcome = _Outcome(None, error)
            nursery.cancel_scope.cancel()
        return outcome


def _name(function: Callable[..., object]) -> str:
    while isinstance(function, partial):
        function = function.func
    return function.__name__


class _Outcome(msgspec.Struct):
    value: Any
    error: Exception | None


@asynccontextmanager
async def open_worker_pool(workers: int = DEFAULT_WORKERS, on_fact: OnFact = unheard) -> AsyncIterator[WorkerPool]:
    """A pool of up to `workers` processes for the block; all of them have ended after it. Processes start when first needed.

    With 0 workers the calls run in the event loop: for simulations, whose clock does not wait for processes.
    """
    if workers == 0:
        yield WorkerPool(None, 1)
        return
    raised: BaseException | None = None
    try:
        async with trio_parallel.open_worker_context(idle_timeout=IDLE_TIMEOUT_S, grace_period=GRACE_S) as context:
            try:
                yield WorkerPool(context, workers, on_fact)
            except BaseException as error:
                raised = error
                raise
    except trio_parallel.BrokenWorkerError:  # at the closing: some process had died, or did not end in time and was killed
        if raised is not None:
            raise raised from None
        log.debug("A crypto worker process did not end by itself")


# What the processes do. Importable by name, without state.


def verify_chunk(checks: Sequence[Check]) -> list[bool]:
    """Check a batch, with weights of the process's own randomness."""
    return verify_all(checks, secrets.token_bytes)


def recover_chunk(recoveries: Sequence[Recovery]) -> list[bytes | None]:
    """Recover and verify; see RecoverSignatures."""
    found: list[bytes | None] = []
    for recovery in recoveries:
        try:
            signature = recover_signature(recovery.partials)
        except CryptoFault:
            found.append(None)
            continue
        found.append(signature if verify(recovery.group_public_key, recovery.message, signature) else None)
    return found
