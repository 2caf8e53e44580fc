"""Which send results are worth a log line: a failing peer gets one warning, not one a message. Pure.

The last KEPT results of a peer are kept. A log line comes

    failing     at the first result or after a success: one warning, unless it is a dial error (the ping loop reports those)
    recovered   when the oldest of four results was a failure and the three after it were successes

Source: specification 03 §5.3.
"""

from collections import deque
from typing import Final, Literal

KEPT: Final = 4


class SendLog:
    """Results of one peer; `add` says what to log."""

    def __init__(self) -> None:
        self._results: deque[bool] = deque(maxlen=KEPT)

    def add(self, succeeded: bool) -> Literal["failing", "recovered"] | None:
        """Note a result; returns the line it deserves, if any."""
        previous = self._results[-1] if self._results else True
        self._results.append(succeeded)
        if not succeeded:
            return "failing" if previous else None
        return "recovered" if list(self._results) == [False, True, True, True] else None


class ChangeLog:
    """Lets a text through when it differs from the last one, and again after `repeat_s`. For dial failures and relay errors.

    calm_s: another text waits until that long after the last line, so that two that take turns don't fill the log.
    """

    def __init__(self, repeat_s: float = 600.0, calm_s: float = 0.0) -> None:
        self._repeat_s, self._calm_s = repeat_s, calm_s
        self._last: tuple[object, float] | None = None

    def is_due(self, what: object, now: float) -> bool:
        """Whether `what` should be logged now."""
        if self._last is not None:
            last, at = self._last
            if now - at < (self._repeat_s if last == what else self._calm_s):
                return False
        self._last = what, now
        return True

    def clear(self) -> None:
        """All is well again; the next failure is news."""
        self._last = None
