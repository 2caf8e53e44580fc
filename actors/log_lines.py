"""A structlog processor that leaves out what there is too much of, for this program's own log and for whoever embeds a node.

    from actors.log_lines import LimitLines

    limit = LimitLines()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, limit, structlog.dev.ConsoleRenderer()])
    ...
    limit.flush()  # now and then, and at the end with `is_end=True`

It stands after what adds fields and before what costs something (formatting, tracebacks). The rules are those of
`charon_actors/log_limits.py`. What was left out is a line of its own, of the same level and topic, through the same logger:

    Lines like this were left out    {"line": "Connection to peer ended", "peer": "…", "left_out": 12345, "in_s": 30.0}

It comes with the first line of any kind after its period, or with `flush`. Threads may log at the same time.
"""

import threading
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final

import structlog

from charon_actors.log_limits import LeftOut, LogLimits, line_kind

LEFT_OUT: Final = "Lines like this were left out"
LEVELS: Final = {"warn": "warning", "exception": "error", "critical": "error", "fatal": "error"}


class LimitLines:
    """clock: seconds, never stepping back. Raises (as a processor): structlog.DropEvent."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._limits, self._lock = clock, LogLimits(), threading.Lock()

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        text = str(event.get("event", ""))
        if text == LEFT_OUT:
            return event
        kind = line_kind(LEVELS.get(method, method), str(event.get("topic", "")), text, event)
        with self._lock:
            now = self._clock()
            due, is_admitted = self._limits.due(now), self._limits.admits(kind, now)
        self._tell(due)
        if not is_admitted:
            raise structlog.DropEvent
        return event

    def flush(self, *, is_end: bool = False) -> None:
        """Say what was left out and not said yet, if its period is over. is_end: in any case."""
        with self._lock:
            due = self._limits.due(self._clock(), is_end=is_end)
        self._tell(due)

    def _tell(self, due: list[LeftOut]) -> None:
        for left_out in due:
            kind = left_out.kind
            name, value = kind.subject
            subject = {name: value} if name else {}
            write = getattr(structlog.get_logger(topic=kind.topic), kind.level)
            write(LEFT_OUT, line=kind.text, **subject, left_out=left_out.lines, in_s=round(left_out.seconds, 1))
