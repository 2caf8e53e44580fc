"""How often something may happen: a bucket of tokens. Pure; the clock is an argument.

A bucket holds `burst` tokens at first, gets `per_s` a second and never holds more than `burst`. So whatever goes through it happens at
most `burst + per_s * t` times in any time t. Who has no say in when it happens asks `take`, and drops what gets no token; who can wait
uses `spend`, which may run into debt, and waits for as long as it says, or asks `wait_s` first.

Limits: two numbers a bucket. A clock that steps back gives nothing and takes nothing.
"""


class Bucket:
    """burst: tokens, more than 0. per_s: tokens a second, more than 0."""

    def __init__(self, burst: float, per_s: float) -> None:
        assert burst > 0
        assert per_s > 0
        self._burst, self._per_s = burst, per_s
        self._tokens, self._at = burst, float("-inf")

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Whether it may happen now; if so, `cost` tokens are gone. now: seconds, on any one clock."""
        self._fill(now)
        if self._tokens < cost:
            return False
        self._tokens -= cost
        return True

    def spend(self, now: float, cost: float = 1.0) -> float:
        """Take `cost` tokens, there or not. Returns the seconds to wait until all of them would have been there."""
        self._fill(now)
        self._tokens -= cost
        return max(-self._tokens / self._per_s, 0.0)

    def wait_s(self, now: float, cost: float = 0.0) -> float:
        """Seconds until `cost` tokens are there, or, without a cost, until there is no debt."""
        self._fill(now)
        return max((cost - self._tokens) / self._per_s, 0.0)

    def is_full(self, now: float) -> bool:
        """Whether it is as new: nothing has gone through it lately."""
        self._fill(now)
        return self._tokens >= self._burst

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._tokens + (now - self._at) * self._per_s, self._burst)
        self._at = now
