"""Encrypting and decrypting many keystores at once: each costs some 35 ms of CPU on purpose.

Threads are enough: the key derivation, which is nearly all of it, runs outside the interpreter lock (measured: all cores busy, no
CPU time lost), and secrets stay in this process. Cheap keystores of `--insecure-keys` are done by the calling thread; some 0.1 ms.

What goes on shows on stderr when it takes longer than SHOWN_AFTER_S: as a bar on a terminal, else as one line. When something ends
the work early, what runs is finished and the rest is dropped; the file at fault that is named is the first in order, not in time.

Is what was written readable? One keystore of each batch is opened again, from its bytes and with its password. That finds what is
systematic, such as a broken library; opening all of them would double the cost.

Limits: one thread a core, up to MAX_WORKERS (up to SCRYPT_WORKERS where scrypt wants 256 MiB each); WINDOW keystores in the queue.
"""

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain
from typing import Final, TypeVar

from charon_actors.crypto import (
    INSECURE_ITERATIONS,
    PBKDF2_ITERATIONS,
    KeystoreFault,
    decode_keystore,
    decrypt_keystore,
    encode_keystore,
    encrypt_keystore,
)
from charon_actors.errors import UserError
from charon_actors.files.keystore_files import PASSWORD_BYTES, Keystore

MAX_WORKERS: Final = 10  # as many as Charon uses
SCRYPT_WORKERS: Final = 4
WINDOW: Final = 4096
SHOWN_AFTER_S: Final = 0.5

Job = TypeVar("Job")
Result = TypeVar("Result")


def encrypt_all(
    shares: Sequence[bytes], *, is_insecure: bool, pubkeys: Sequence[bytes] = (), password_bytes: int = PASSWORD_BYTES
) -> list[Keystore]:
    """A keystore with a fresh random password for each 32-byte secret, in their order. is_insecure: cheap, for tests.

    pubkeys: public keys of all secrets, 48 bytes each, if they are known. Believed for cheap keystores, where deriving them would be
    nearly all of the work; those of real keystores are derived.
    """
    iterations = INSECURE_ITERATIONS if is_insecure else PBKDF2_ITERATIONS

    def encrypt(job: tuple[bytes, bytes]) -> Keystore:
        secret, pubkey = job
        password = secrets.token_hex(password_bytes)
        encrypted = encrypt_keystore(secret, password, secrets.token_bytes, iterations=iterations, pubkey=pubkey)
        return Keystore(encode_keystore(encrypted), password, is_insecure)

    known = pubkeys if is_insecure and pubkeys else [b""] * len(shares)
    jobs = list(zip(shares, known, strict=True))
    made = _map(encrypt, jobs, "Encrypting keystores", workers=1 if is_insecure else MAX_WORKERS)
    if made and decrypt_keystore(decode_keystore(made[0].content), made[0].password) != shares[0]:
        raise RuntimeError("a keystore that was just encrypted opens to another secret")
    return made


def decrypt_all(keystores: Sequence[Keystore]) -> list[bytes]:
    """The 32-byte secrets, in their order. Raises UserError that names the first file at fault."""
    workers = MAX_WORKERS
    if all(keystore.insecure for keystore in keystores):
        workers = 1
    elif any(b'"scrypt"' in keystore.content for keystore in keystores):
        workers = SCRYPT_WORKERS
    return _map(_decrypt, keystores, "Decrypting keystores", workers=workers)


def _decrypt(keystore: Keystore) -> bytes:
    try:
        return decrypt_keystore(decode_keystore(keystore.content), keystore.password)
    except KeystoreFault as fault:
        what, remedy = f"keystore decryption: {fault}", "check that file and the password beside it"
        raise UserError(keystore.path, what, remedy) from fault


def _map(worker: Callable[[Job], Result], jobs: Sequence[Job], title: str, *, workers: int) -> list[Result]:
    if workers == 1:
        return _collect(map(worker, jobs), len(jobs), title)
    with ThreadPoolExecutor(min(workers, len(os.sched_getaffinity(0)))) as pool:
        windows = (pool.map(worker, jobs[start : start + WINDOW]) for start in range(0, len(jobs), WINDOW))
        try:
            return _collect(chain.from_iterable(windows), len(jobs), title)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _collect(results: Iterable[Result], total: int, title: str) -> list[Result]:
    """All results. Shows how far they are, once that takes long enough for somebody to wonder."""
    collected: list[Result] = []
    show: Callable[[int], None] | None = None
    started = time.monotonic()
    with ExitStack() as until_done:
        for result in results:
            collected.append(result)
            if show is not None:
                show(len(collected))
            elif time.monotonic() - started > SHOWN_AFTER_S:
                show = _open_bar(until_done, title, total) if sys.stderr.isatty() else _print_line(title, total)
    return collected


def _print_line(title: str, total: int) -> Callable[[int], None]:
    print(f"{title}: {total}", file=sys.stderr, flush=True)
    return lambda done: None


def _open_bar(until_done: ExitStack, title: str, total: int) -> Callable[[int], None]:
    from rich.console import Console  # 0.1 s
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = until_done.enter_context(Progress(*columns, console=Console(stderr=True)))
    task = bar.add_task(title, total=total)
    return lambda done: bar.update(task, completed=done)
