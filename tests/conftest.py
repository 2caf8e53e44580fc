"""What no test may leave behind for the next one."""

import sys
from collections.abc import Iterator

import pytest
import structlog

from charon_actors.cli import log

RECURSION_LIMIT = sys.getrecursionlimit()


@pytest.fixture(autouse=True)
def _own_log_and_stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands that run in this process set up the log; py_ecc raises the recursion limit when it is imported."""
    sys.setrecursionlimit(RECURSION_LIMIT)
    monkeypatch.setattr(log, "_limit", None)
    structlog.configure()  # with structlog's own defaults: the actors are silent in a program that hasn't set it up
    yield
    structlog.reset_defaults()
