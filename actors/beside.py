"""Work in the background of a caller's block, and whose error comes out of it: never a group where there is one error to tell.

    what fails                                            what the caller gets
    the block                                             its error, as it was raised
    the background                                        the block is cancelled; the background's error
    the background, then the block while it is cancelled  the background's error: the block's is its consequence
    the block with a `Retryable`, and the background      the background's error: `ActorDown` is how the block was told of it
    the block, then the background while it is stopped    the block's error
    several of the background                             the operator's (`UserError`) if there is one, otherwise the group

Where two have failed, the error that comes out has the other one in a note. `KeyboardInterrupt` and `SystemExit` of the block always come
out. Cancellation from outside passes through.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from charon_actors.errors import Retryable, UserError
from charon_actors.exception_groups import leaves


@asynccontextmanager
async def beside(*background: Callable[[], Awaitable[None]]) -> AsyncIterator[trio.Nursery]:
    """These run while the block runs, and are cancelled at its end. Raises: see the table on top."""
    of_block: BaseException | None = None
    of_background: BaseException | None = None
    is_consequence = False
    try:
        async with trio.open_nursery() as nursery:
            for each in background:
                nursery.start_soon(each)
            try:
                yield nursery
            except BaseException as error:
                if any(isinstance(leaf, trio.Cancelled) for leaf in leaves(error)):
                    raise  # it belongs to a scope, which may be outside
                of_block, is_consequence = error, nursery.cancel_scope.cancel_called or isinstance(error, Retryable)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        of_background = _most_telling(group)
    first: BaseException | None
    second: BaseException | None
    if of_block is None or of_background is None:
        first, second = of_block or of_background, None
    elif is_consequence and isinstance(of_block, Exception):
        first, second = of_background, of_block
    else:
        first, second = of_block, of_background
    if first is not None:
        if second is not None and not isinstance(second, trio.Cancelled):
            first.add_note(f"Besides: {type(second).__name__}: {second}")
        raise first


def _most_telling(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What the operator can put right, else the only error, else all of them."""
    found = list(leaves(group))
    return next((error for error in found if isinstance(error, UserError)), found[0] if len(found) == 1 else group)
