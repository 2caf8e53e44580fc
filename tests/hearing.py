"""Listening to a node's facts in tests."""

from collections.abc import Callable
from typing import Any

from supervisors.node import Node


def hear(node: Node, kinds: Any, sink: Callable[[Any], None]) -> None:
    """kinds: a class of facts, or a union of such."""
    node.on_fact.append(lambda fact: sink(fact) if isinstance(fact, kinds) else None)
