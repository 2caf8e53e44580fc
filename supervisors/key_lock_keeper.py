"""Keeps the private key's lock file fresh while a program runs: that is how another instance sees that the key is in use (01 §1.2).

    what it meets                                          what it does
    the file as it left it, or none                        rewrites it, every REWRITE_INTERVAL_S
    a disk that is full, fails, or is read-only            warns, at most every WARN_INTERVAL_S, and tries again
    something that another program has written             ends, with a UserError that names it

The last can happen only when the file grew old meanwhile (the disk was full, the machine slept), so that another instance took it for
left behind. It looks before it writes, so the one that was there before goes, and the newcomer sees nothing of it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from actors.change_log import ChangeLog
from actors.log import get_logger
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.key_lock import REWRITE_INTERVAL_S, KeyLock, decode_key_lock, encode_key_lock, one_word
from charon_actors.errors import UserError
from charon_actors.files.data_directory import replace_key_lock

log = get_logger("app-start")

WARN_INTERVAL_S: Final = 60.0
MAX_BYTES: Final = 4096


async def keep_key_lock(path: Path, make: Callable[[], KeyLock]) -> None:
    """Never returns. path: taken already. make: what to write now. Raises: UserError (another program holds the lock)."""
    thread = trio.CapacityLimiter(1)  # the default's are shared: with DNS, which peers can make slow
    warnings = ChangeLog(repeat_s=WARN_INTERVAL_S)
    written: bytes | None = None
    while True:
        content = encode_key_lock(make())
        try:
            # abandoned when cancelled: a disk that hangs must not keep the program from ending
            await trio.to_thread.run_sync(_rewrite, path, written, content, limiter=thread, abandon_on_cancel=True)
        except OSError as error:
            if warnings.is_due(error.errno, trio.current_time()):
                log.warning(
                    "The private key's lock file can't be written, trying again",
                    file=str(path),
                    reason=error.strerror,
                    hint="make room; until then another instance may take the key for unused",
                )
        else:
            written = content
            warnings.clear()
        await trio.sleep(REWRITE_INTERVAL_S)


def _rewrite(path: Path, written: bytes | None, content: bytes) -> None:
    if written is not None:
        try:
            with path.open("rb") as file:
                found = file.read(MAX_BYTES)
        except FileNotFoundError:
            found = written  # somebody has deleted it: no sign of another program
        if found != written:
            raise UserError(
                str(path),
                f"another program ({_name_of(found)}) has taken the private key while this one could not keep its lock fresh",
                "find out which of the two is to run; never run two with the same key",
            )
    replace_key_lock(path, content)


def _name_of(content: bytes) -> str:
    try:
        return one_word(decode_key_lock(content).command)
    except ClusterFault:
        return "of unknown name"
