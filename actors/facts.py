"""Facts: what an actor says about itself and its work, for whoever listens. One stream a node.

Every actor is made with `on_fact` and says each thing once, as a frozen struct of its room's `facts.py`. Metrics are one listener
(`supervisors/node_metrics.py`), an embedding program may be another. A fact is something that has happened, never a question or an order:
what changes another actor's work is a message to its address.

`on_fact` is called in the task in which it happened. It returns at once and doesn't raise: an exception is a crash of whoever said it.
"""

from collections.abc import Callable

import msgspec


class Fact(msgspec.Struct, frozen=True):
    """Something that has happened. No secrets: facts are logged, recorded and shown."""


OnFact = Callable[[Fact], None]


def unheard(fact: Fact) -> None:
    """Nobody listens."""


class FactStream:
    """An `OnFact` that tells all its listeners, in the order in which they came. listeners: more may be appended at any time."""

    def __init__(self) -> None:
        self.listeners: list[OnFact] = []

    def __call__(self, fact: Fact) -> None:
        for listener in self.listeners:
            listener(fact)
