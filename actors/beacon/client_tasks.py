"""Work for one client each: what unexpectedly goes wrong in it ends it, and not the actor, whose other askers have duties to do.

Of such faults, which are ours, one traceback is logged every REPORT_INTERVAL_S: a client can repeat its request as often as it likes.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from actors.change_log import ChangeLog
from actors.log import get_logger

log = get_logger("beacon")

REPORT_INTERVAL_S: Final = 60.0


class ClientTasks:
    """nursery: where the tasks run; its end ends them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._lines = ChangeLog(REPORT_INTERVAL_S, REPORT_INTERVAL_S)

    def start_soon(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        self._nursery.start_soon(self._run, function, args)

    async def _run(self, function: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
        try:
            await function(*args)
        except Exception as error:
            self.report(error)

    def report(self, error: Exception) -> None:
        if self._lines.is_due(type(error), trio.current_time()):
            log.error("A client's request failed by a fault of this node", exc_info=error)
