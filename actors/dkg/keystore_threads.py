"""Keystores of a ceremony: encrypted by threads of low priority, while signatures are exchanged.

A keystore is some 50 ms of key derivation, which does not hold the interpreter lock: threads do what processes would, for a tenth of
the memory and no start-up. They run at a lower priority than the event loop, which must answer peers in time even on a machine that
has less cores than nodes. They are not Trio's worker threads, which others use as well: a thread can't take back that it is nice.

Limits: one thread a core. Cancelled: threads stop after the keystore at hand; what they made is thrown away.
Source: specification 04 §6.5, 01 §7.1.
"""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import trio

from charon_actors.crypto import Entropy, encode_keystore, encrypt_keystore
from charon_actors.files.keystore_files import PASSWORD_BYTES, Keystore

NICENESS: Final = 10


async def encrypt_in_threads(
    secrets: Sequence[bytes],
    iterations: int,
    entropy: Entropy,
    on_done: Callable[[int, Keystore], None],
    *,
    password_bytes: int = PASSWORD_BYTES,
) -> None:
    """Encrypt each 32-byte secret under a password of its own; on_done(place, keystore) is called in the event loop.

    entropy: must be safe to call from threads. Returns when all are done. Raises what encryption raises.
    """
    token = trio.lowlevel.current_trio_token()
    places = iter(range(len(secrets)))
    turn, finished = threading.Lock(), trio.Event()
    is_over, errors, left = False, list[BaseException](), len(secrets)

    def done(place: int, keystore: Keystore | None, error: BaseException | None) -> None:
        nonlocal left
        left -= 1
        if error is not None:
            errors.append(error)
        elif keystore is not None and not is_over:
            on_done(place, keystore)
        if left == 0 or errors:
            finished.set()

    def work() -> None:
        with suppress(OSError, AttributeError):  # not on every system
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while not is_over:
            with turn:
                place = next(places, None)
            if place is None:
                return
            keystore, error = None, None
            try:
                password = entropy(password_bytes).hex()
                keystore = Keystore(
                    encode_keystore(encrypt_keystore(secrets[place], password, entropy, iterations=iterations)), password
                )
            except BaseException as problem:
                error = problem
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(done, place, keystore, error)

    for _ in range(min(len(os.sched_getaffinity(0)), len(secrets))):
        threading.Thread(target=work, name="dkg keystores", daemon=True).start()
    try:
        await finished.wait()
    finally:
        is_over = True
    if errors:
        raise errors[0]
