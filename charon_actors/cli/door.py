"""The door: what the operator sees when something ends. Exit status and one line, never a traceback for a user's mistake.

    what ended it                             stderr                               exit status
    success                                   nothing                              0
    SIGINT, SIGTERM while a program runs      nothing                              0, or what the program says
    KeyboardInterrupt elsewhere               Interrupted.                         130
    UserError (alone or in groups)            Error: where: what; remedy           1
    OSError of a file: no permission, no      Error: where: what; remedy           1
    space, damaged disk, name too long
    anything else                             traceback, for a report to us        1

The line never holds line breaks or control characters: what a file or a peer put into it can't forge a second one.
"""

import errno
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Final

from charon_actors.cli.log import flush_log
from charon_actors.errors import UserError
from charon_actors.exception_groups import leaves

INTERRUPTED: Final = 130  # 128 + SIGINT, what shells expect
MAX_LINE_CHARACTERS: Final = 2000
SETTLED_AFTER_S: Final = 5.0
FLUSH_INTERVAL_S: Final = 10.0

_interrupts: Final[set[int]] = set()  # the signals that came: of the process, as its handlers are


def watch_signals() -> None:
    """SIGINT and SIGTERM raise KeyboardInterrupt, so that whoever stages files takes them away; and they are remembered.

    Importing is full of places that swallow an exception (callbacks of weak references, `except:` around optional imports): a Ctrl-C
    there would be lost, and the program that was being loaded would run.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    tell = sys.unraisablehook
    sys.unraisablehook = lambda seen: None if issubclass(seen.exc_type, KeyboardInterrupt) else tell(seen)


def _interrupt(number: int, frame: object) -> None:
    _interrupts.add(number)
    raise KeyboardInterrupt


def run_program(program: Callable[[], Awaitable[int | None]], *, stopped_status: int = 0, is_long: bool = True) -> int:
    """Run an async program under Trio until it returns or SIGINT or SIGTERM asks it to stop; its exit status.

    The first signal cancels the program, whose shielded clean-up scopes decide how long that takes; then the default
    handlers are back, so a second signal ends the process at once. `stopped_status`: what a stop by signal means (0 for a
    node; a ceremony that was interrupted has failed). is_long: worth settling memory for. Raises whatever the program raised, for
    `exit_status`; KeyboardInterrupt if a signal came before.
    """
    import trio

    from actors.descriptors import raise_limit

    if _interrupts:
        raise KeyboardInterrupt
    raise_limit()
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Trio's own care of Ctrl-C stands on this one
    status: int | None = None
    stopped = False

    async def until_signal() -> None:
        nonlocal status, stopped
        is_watching = trio.Event()
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal stopped
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    is_watching.set()
                    async for _ in signals:
                        stopped = True
                        nursery.cancel_scope.cancel()
                        return

            nursery.start_soon(watch)
            if is_long:
                nursery.start_soon(_settle_memory)
                nursery.start_soon(_say_what_the_log_left_out)
            await is_watching.wait()
            status = await program()
            nursery.cancel_scope.cancel()

    try:
        trio.run(until_signal)
    finally:
        flush_log(is_end=True)
    return stopped_status if stopped and status is None else status or 0


async def _say_what_the_log_left_out() -> None:
    """Also when nothing else is logged."""
    import trio

    while True:
        await trio.sleep(FLUSH_INTERVAL_S)
        flush_log()


async def _settle_memory() -> None:
    """Keep what a start has imported and built out of the garbage collector's later rounds.

    It is some hundred thousand objects that never go away; walking through them again and again was a tenth of a node's CPU time, in
    pauses of 30 ms. Once at the beginning, once when everything has started.
    """
    import gc

    import trio

    gc.set_threshold(10_000, 20, 20)
    gc.collect()
    gc.freeze()
    await trio.sleep(SETTLED_AFTER_S)
    gc.freeze()  # without a collection, which would take 100 ms here: a little garbage of the start may stay


def exit_status(error: BaseException) -> int:
    """Tell the operator about `error` on stderr; the process's exit status."""
    causes = list(leaves(error))
    told = [cause if isinstance(cause, UserError) else _of_the_disk(cause) for cause in causes]
    if None not in told:
        for line in dict.fromkeys(one_line(str(cause)) for cause in told):
            print(f"Error: {line}", file=sys.stderr)
        return 1
    if all(isinstance(cause, KeyboardInterrupt) for cause in causes):
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    import traceback

    traceback.print_exception(error, file=sys.stderr)
    print("Error: charon: an unexpected fault; please report the lines above", file=sys.stderr)
    return 1


_DISK: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENAMETOOLONG, errno.ELOOP}
)


def _of_the_disk(error: BaseException) -> UserError | None:
    """What an operator can put right although nobody foresaw the place: permissions, space, names. None for all others."""
    if not isinstance(error, OSError) or error.errno not in _DISK:
        return None
    where = str(error.filename) if error.filename is not None else "output"
    return UserError(where, str(error.strerror), "check the path, its permissions and the free space")


def notice(text: str) -> None:
    """One line on stderr that is no error: a warning before logging is set up."""
    print(f"Notice: {one_line(text)}", file=sys.stderr)


def one_line(text: str) -> str:
    """Printable, without line breaks or control characters, of bounded length."""
    flat = " ".join(text.split())
    shown = "".join(character if character.isprintable() else "?" for character in flat)
    if len(shown) <= MAX_LINE_CHARACTERS:
        return shown
    half = MAX_LINE_CHARACTERS // 2
    return f"{shown[:half]}…{shown[-half:]}"  # the remedy stands at the end
