"""What the beacon actor says about its work."""

from typing import Literal

from actors.facts import Fact


class CallSeen(Fact, frozen=True):
    """A request to the beacon nodes has ended, after the best of them has answered. error: None if it succeeded.

    by_fallback: whether a fallback had to answer; None where that says nothing, as for the regular questions after a node's state.
    """

    name: str
    seconds: float
    error: str | None
    by_fallback: bool | None = None


class CacheSeen(Fact, frozen=True):
    """What became of questions that a cache stands before. name: as the beacon nodes' endpoint is called."""

    name: str
    outcome: Literal["hits", "misses", "invalidated_reorg"]
    count: int = 1


class EventDropped(Fact, frozen=True):
    """An event of our own stream that did not count. node: its label; topic: a key of RATES."""

    node: str
    topic: str
    reason: Literal["rate", "nonsense"]
