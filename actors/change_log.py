"""Which log lines are news, where somebody else decides how often there is something to say. Pure."""


class ChangeLog:
    """Lets a text through when it differs from the last one, and again after `repeat_s`. For what goes wrong again and again.

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
