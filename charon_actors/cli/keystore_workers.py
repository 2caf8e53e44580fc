"""Encrypting and decrypting many keystores at once: each costs some 0.1 s of CPU on purpose.

Threads are enough: the key derivation, which is nearly all of it, runs outside the interpreter lock (measured), and
secrets stay in this process. When something ends the work early, what runs is finished (some 0.1 s) and the rest is dropped.
"""

import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
WORTH_A_LINE: Final = 4  # fewer keystores than this are done in a moment

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
    except KeystoreFault as fault:  # an answer, so that the first file at fault is named, not the first to be done
        return str(fault)


def _map(worker: Callable[[Job], Result], jobs: Sequence[Job], title: str, *, is_cheap: bool) -> list[Result]:
    if is_cheap:
        return [worker(job) for job in jobs]
    with ThreadPoolExecutor(min(MAX_WORKERS, os.cpu_count() or 1)) as pool:
        try:
            return list(_with_progress(pool.map(worker, jobs), len(jobs), title))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _with_progress(results: Iterator[Result], total: int, title: str) -> Iterator[Result]:
    is_terminal = sys.stderr.isatty()
    if not is_terminal and total >= WORTH_A_LINE:
        print(f"{title}: {total}", file=sys.stderr)
    for done, result in enumerate(results, start=1):
        if is_terminal:
            print(f"\r{title}: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
        yield result
