"""Places: how many connections a peer may have with us, and who has to go for one more. Pure.

    kind      places   an honest peer's
    direct    3        each side has dialed once; a third while an old one is found dead, or by another route
    relayed   2        each side through a relay

A newcomer takes the place of the connection of its kind from which nothing has come for the longest time, if that is SILENT_S or more: a
peer that restarted must get in before we know that its old connections are dead, and one that is alive loses at most a spare
(members ping every second over the connection they use). Otherwise the newcomer goes: it never costs a connection that works.

Source: specification 03 §2.2 (libp2p keeps several connections a peer; a relayed one stays beside a direct one).
"""

from collections.abc import Iterable
from typing import Final, Protocol, TypeVar

MAX_DIRECT: Final = 3
MAX_RELAYED: Final = 2
SILENT_S: Final = 2.0


class Placed(Protocol):
    """A connection. relayed: through a circuit. last_received_at: when something came last."""

    @property
    def relayed(self) -> bool: ...

    @property
    def last_received_at(self) -> float: ...


P = TypeVar("P", bound=Placed)


def who_leaves(newcomer: P, present: Iterable[P], now: float) -> P | None:
    """None: there is room. present: without the newcomer."""
    rivals = [connection for connection in present if connection.relayed is newcomer.relayed]
    if len(rivals) < (MAX_RELAYED if newcomer.relayed else MAX_DIRECT):
        return None
    quietest = min(rivals, key=lambda connection: connection.last_received_at)
    return quietest if now - quietest.last_received_at >= SILENT_S else newcomer
