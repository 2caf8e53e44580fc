"""Crypto workers: processes for BLS and keystore work, so that the event loop stays free. pyblst keeps the interpreter lock.

Accepts     VerifyAll, RecoverSignatures, EncryptKeystores, DecryptKeystores, LongWork (ask)
Owns        up to `workers` processes, started when first needed; each keeps its own cache of decoded public keys. One more for
            LongWork, which would keep signatures waiting
May touch   processes, through trio-parallel. Not: sockets, files, another actor's state
Mailbox     1024, policy `reject`; at most MAX_REQUESTS are being worked on, the rest waits in the mailbox
Cancelled   an asker that leaves: its queued jobs are forgotten, a running one may finish within GRACE_S, then its process is
            killed. The actor itself: the same for all, so it ends within some GRACE_S
Restart     starts with no processes; askers get ActorDown and ask again; no request changes anything, so a repeat is harmless
Source      architecture §6; specification 08-beacon-node sections 8 and 9 (measured times)

A request becomes jobs of CHUNK_CHECKS checks or one keystore, so that a big request shares the processes with small ones. Up to
INLINE_CHECKS checks are done in the event loop itself, INLINE_SLICE at a time: handing them over would cost more.

A process that dies, or needs longer than JOB_LIMIT_S, is replaced, and its job is tried once more. If that ends the same way, the
asker gets WorkerDied: then it is the job, or the machine has no memory left.

`run_in_workers` is the same without an actor, for programs that have a list of work and nothing else to do (`charon create
cluster`, a ceremony). Secrets and passwords go to the processes through pipes, never through arguments, files or logs.
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
    PBKDF2_ITERATIONS,
    Check,
    CryptoFault,
    Entropy,
    decode_keystore,
    decrypt_keystore,
    encode_keystore,
    encrypt_keystore,
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
JOB_LIMIT_S: Final = 60.0  # the slowest job, decrypting a keystore at the limits of its parameters, takes some 10 s
IDLE_TIMEOUT_S: Final = 600.0
FEW_KEYSTORES: Final = 4  # starting a process takes as long as encrypting some ten

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


class KeystoreToWrite(msgspec.Struct, frozen=True):
    """A secret (32 bytes) and the password it shall be under. Its representation shows neither."""

    secret: bytes
    password: str
    iterations: int = PBKDF2_ITERATIONS

    def __repr__(self) -> str:
        return "KeystoreToWrite(…)"


class KeystoreToRead(msgspec.Struct, frozen=True):
    """A keystore file and its password. Its representation shows neither."""

    content: bytes
    password: str

    def __repr__(self) -> str:
        return "KeystoreToRead(…)"


class EncryptKeystores(Request[list[bytes]], frozen=True):
    """Ask for keystore files, in the order of the secrets. Some 60 ms each.

    Raises: CryptoFault (malformed secret, unusable password), WorkerDied, ActorDown, MailboxFull.
    Cancellation: at any time; nothing was written anywhere. Source: specification 01-cluster-files, section 7.1.
    """

    keystores: Sequence[KeystoreToWrite]


class DecryptKeystores(Request[list[bytes]], frozen=True):
    """Ask for the secrets (32 bytes) inside keystore files, in their order.

    Raises: KeystoreFault of the first that cannot be read, WorkerDied, ActorDown, MailboxFull. Cancellation: at any time.
    """

    keystores: Sequence[KeystoreToRead]


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


Message = VerifyAll | RecoverSignatures | EncryptKeystores | DecryptKeystores | LongWork


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
                    case EncryptKeystores(to_write) as encrypt:
                        nursery.start_soon(serve, mail.reply_to(encrypt).answer, pool.map, encrypt_one, to_write)
                    case DecryptKeystores(to_read) as decrypt:
                        nursery.start_soon(serve, mail.reply_to(decrypt).answer, pool.map, decrypt_one, to_read)
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


async def encrypt_keystores(
    keystores: Sequence[KeystoreToWrite],
    *,
    workers: int = DEFAULT_WORKERS,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[bytes]:
    """Keystore files in the order of the secrets, made by processes of their own (a few or cheap ones by a thread).

    on_progress(done, total) is called after each. Raises and is cancelled like `run_in_workers`.
    """
    if len(keystores) > FEW_KEYSTORES and any(keystore.iterations > 10_000 for keystore in keystores):
        return await run_in_workers(encrypt_one, keystores, workers=workers, on_progress=on_progress)
    files = []
    for keystore in keystores:
        files.append(await trio.to_thread.run_sync(encrypt_one, keystore))
        if on_progress is not None:
            on_progress(len(files), len(keystores))
    return files


async def run_in_workers(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int = DEFAULT_WORKERS,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[R]:
    """`[function(item) for item in items]`, each call in one of `workers` processes, which end with this call.

    function: importable by name (not a lambda or a method); items, results and errors can be pickled. It runs again for an item
    whose process died. on_progress(done, total): called in the event loop after each item, in any order of items.
    Raises: the first error of a call, as it is; WorkerDied. Then, and when cancelled, no process is left (within GRACE_S).
    """
    async with open_worker_pool(workers) as pool:
        return await pool.map(function, items, on_progress=on_progress)


class WorkerPool:
    """Some worker processes inside an `open_worker_pool` block. Calls wait for a free process in the order in which they came."""

    def __init__(self, context: trio_parallel.WorkerContext | None, workers: int, on_fact: OnFact = unheard) -> None:
        self._context, self._limiter, self._on_fact = context, trio.CapacityLimiter(workers), on_fact

    async def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[R]:
        """See `run_in_workers`. Holds at most one waiting call a process, so others get their turn between two items."""
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
                if on_progress is not None:
                    on_progress(len(results), len(items))

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


def encrypt_one(keystore: KeystoreToWrite) -> bytes:
    """One keystore file."""
    return encode_keystore(
        encrypt_keystore(keystore.secret, keystore.password, secrets.token_bytes, iterations=keystore.iterations)
    )


def decrypt_one(keystore: KeystoreToRead) -> bytes:
    """The secret of one keystore file."""
    return decrypt_keystore(decode_keystore(keystore.content), keystore.password)
