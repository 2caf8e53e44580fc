"""Encrypting and decrypting many keystores at once, in processes: each costs some 0.1 s of CPU on purpose.

Secrets go through pipes between our own processes, never through arguments or files.
"""

import multiprocessing
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Final, TypeVar

from charon_actors.cluster.data_directory import Keystore
from charon_actors.crypto.faults import KeystoreFault
from charon_actors.crypto.keystore import (
    INSECURE_ITERATIONS,
    PBKDF2_ITERATIONS,
    decode_keystore,
    decrypt_keystore,
    encode_keystore,
    encrypt_keystore,
)
from charon_actors.errors import UserError

MAX_WORKERS: Final = 10  # as many as Charon uses
WORTH_PROCESSES: Final = 4  # fewer keystores than this are done before a pool has started

Job = TypeVar("Job")
Result = TypeVar("Result")


def encrypt_all(shares: Sequence[bytes], *, is_insecure: bool) -> list[Keystore]:
    """A keystore with a fresh random password for each 32-byte secret, in their order. is_insecure: cheap, for tests."""
    worker = _encrypt_cheaply if is_insecure else _encrypt
    return _map(worker, shares, "Encrypting keystores", is_cheap=is_insecure)


def decrypt_all(keystores: Sequence[Keystore]) -> list[bytes]:
    """The 32-byte secrets, in their order. Raises UserError that names the first file at fault."""
    is_cheap = all(keystore.insecure for keystore in keystores)
    secrets_or_faults = _map(_decrypt, keystores, "Decrypting keystores", is_cheap=is_cheap)
    opened: list[bytes] = []
    for keystore, found in zip(keystores, secrets_or_faults, strict=True):
        if isinstance(found, str):
            raise UserError(keystore.path, f"keystore decryption: {found}", "check that file and the password beside it")
        opened.append(found)
    return opened


def _encrypt(secret: bytes) -> Keystore:
    return _keystore(secret, PBKDF2_ITERATIONS, is_insecure=False)


def _encrypt_cheaply(secret: bytes) -> Keystore:
    return _keystore(secret, INSECURE_ITERATIONS, is_insecure=True)


def _keystore(secret: bytes, iterations: int, *, is_insecure: bool) -> Keystore:
    password = secrets.token_hex(16)
    content = encode_keystore(encrypt_keystore(secret, password, secrets.token_bytes, iterations=iterations))
    return Keystore(content, password, is_insecure)


def _decrypt(keystore: Keystore) -> bytes | str:
    try:
        return decrypt_keystore(decode_keystore(keystore.content), keystore.password)
    except KeystoreFault as fault:  # as text: exceptions with own constructors don't cross processes
        return str(fault)


def _map(worker: Callable[[Job], Result], jobs: Sequence[Job], title: str, *, is_cheap: bool) -> list[Result]:
    if is_cheap or len(jobs) < WORTH_PROCESSES:
        return list(_with_progress(map(worker, jobs), len(jobs), title))
    workers = min(MAX_WORKERS, len(jobs), os.cpu_count() or 1)
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_signals_to_parent) as pool:
        try:
            return list(_with_progress(pool.map(worker, jobs, chunksize=1), len(jobs), title))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _leave_signals_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; one of us tells the operator


def _with_progress(results: Iterator[Result], total: int, title: str) -> Iterator[Result]:
    is_terminal = sys.stderr.isatty()
    if not is_terminal and total >= WORTH_PROCESSES:
        print(f"{title}: {total}", file=sys.stderr)
    for done, result in enumerate(results, start=1):
        if is_terminal:
            print(f"\r{title}: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
        yield result
