"""Asking several beacon nodes at once: the first good answer wins. Source: specification 08 §3.1.

all nodes fail       the failure that says most is reported: a 4xx before any other status before no status, and the texts of all
a node wins          the calls to the others are cancelled (reads); submissions are another matter, see `actor.py`
the caller leaves    all calls are cancelled
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from actors.beacon.messages import BeaconFault, BeaconUnavailable
from actors.beacon.node import BeaconNode, CallFailed

T = TypeVar("T")


class AllFailed(Exception):
    """Every node that was asked has failed; at least one was."""

    def __init__(self, failures: Sequence[CallFailed]) -> None:
        super().__init__("; ".join(dict.fromkeys(str(failure) for failure in failures)))
        self.failures = tuple(failures)

    @property
    def is_fallback_worthy(self) -> bool:
        return any(failure.is_fallback_worthy for failure in self.failures)

    @property
    def most_telling(self) -> CallFailed:
        return min(self.failures, key=lambda failure: (failure.status is None, failure.status or 0))

    def as_fault(self, name: str) -> BeaconFault:
        """What the asker gets. Retryable if one of the nodes may do better a moment later."""
        telling = self.most_telling
        kind = BeaconUnavailable if any(failure.is_retryable for failure in self.failures) else BeaconFault
        return kind(telling.status, f"beacon api {name}: {self}", telling.body, telling.content_type)


async def race(
    nodes: Sequence[BeaconNode],
    attempt: Callable[[BeaconNode], Awaitable[T]],
    discard: Callable[[T], Awaitable[None]] | None = None,
) -> T:
    """Run `attempt` for every node (one at least), return the first result, cancel the others.

    discard: what to do with a result that came in the same instant as the winner's. Raises: AllFailed.
    """
    assert nodes
    if len(nodes) == 1:
        try:
            only = await attempt(nodes[0])
        except CallFailed as failure:
            raise AllFailed([failure]) from None
        nodes[0].wins.add(nodes[0])
        return only
    failures: list[CallFailed] = []
    results: list[T] = []

    async def run(node: BeaconNode) -> None:
        try:
            result = await attempt(node)
        except CallFailed as failure:
            failures.append(failure)
            return
        if not results:
            node.wins.add(node)
        results.append(result)
        nursery.cancel_scope.cancel()

    is_taken = False
    try:
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(run, node)
        is_taken = True
    finally:
        if discard is not None:
            with trio.CancelScope(shield=True):
                for late in results[1:] if is_taken else results:
                    await discard(late)
    if not results:
        raise AllFailed(failures)
    return results[0]
