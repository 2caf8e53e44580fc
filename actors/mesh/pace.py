"""Pace: log lines about each of many like events, where somebody else decides how many there are. Pure."""

from typing import Final

LINES: Final = 20  # at once: a peer that comes back over all its routes
LINES_A_SECOND: Final = 0.2


class LinePace:
    """Lets LINES through at once and LINES_A_SECOND after that; what is left out is left to the counters."""

    def __init__(self) -> None:
        self._left, self._at = float(LINES), 0.0

    def is_due(self, now: float) -> bool:
        """Whether to write this line."""
        self._left, self._at = min(LINES, self._left + (now - self._at) * LINES_A_SECOND), now
        if self._left < 1:
            return False
        self._left -= 1
        return True
