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
