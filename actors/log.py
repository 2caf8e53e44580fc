"""Logging of the actors: through structlog where the program has set it up, silent otherwise.

structlog prints to stdout by default, which a program that embeds an actor has not asked for. So as long as nobody has called
`structlog.configure`, records go to the standard library's logger `charon_actors.<topic>`, which has no handler but a null one: a program
that sets up `logging` hears them, any other one hears nothing. Nothing global is changed here.
"""

import logging
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

ROOT: Final = "charon_actors"

logging.getLogger(ROOT).addHandler(logging.NullHandler())


class Log:
    """A logger of one topic; decides at each record where it goes. Methods: structlog's."""

    def __init__(self, topic: str, **bound: Any) -> None:
        self._topic, self._bound = topic, bound
        self._plain: Any = None
        self._structured: Any = None  # a proxy, which asks for structlog's configuration at each record

    def bind(self, **more: Any) -> "Log":
        """The same, with more in every record."""
        return Log(self._topic, **{**self._bound, **more})

    def __getattr__(self, name: str) -> Any:
        if structlog.is_configured():
            if self._structured is None:
                self._structured = structlog.get_logger(topic=self._topic, **self._bound)
            return getattr(self._structured, name)
        if self._plain is None:
            self._plain = structlog.wrap_logger(
                logging.getLogger(f"{ROOT}.{self._topic}"),
                processors=[structlog.stdlib.filter_by_level, _rendered],
                wrapper_class=structlog.stdlib.BoundLogger,
                **self._bound,
            )
        return getattr(self._plain, name)


def get_logger(topic: str) -> Log:
    """The logger of a room."""
    return Log(topic)


def _rendered(_: Any, __: str, record: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    """`Event key=value …`, and the traceback as the standard library writes it."""
    options: dict[str, Any] = {name: record.pop(name) for name in ("exc_info", "stack_info") if name in record}
    event = record.pop("event", "")
    text = " ".join([str(event), *(f"{name}={value!r}" for name, value in record.items())])
    return (text,), options
