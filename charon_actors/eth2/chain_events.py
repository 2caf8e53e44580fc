"""Which events of several beacon nodes count. Sans-IO; the clock is an argument.

A beacon node sends as many events as it likes, and may lie. Two rules stand before what it says is believed.

The rate, for each node and topic, before anything is decoded. What exceeds it is dropped, and counted by whoever asks `EventIntake`:

    topic         burst   a second   an honest node
    head          32      4          one a slot, some more while forks compete, a burst after it was out of step
    chain_reorg   8       1/4        none for days; a few a slot while forks compete
    block         64      4          as head; what it imports while it catches up may be dropped, nobody waits for it

The witnesses. An event is told once, when

    rule      who says it
    chosen    the node that is the best of those listened to (so with one node: that one)
    second    a second node: the same event; for a reorganisation one that goes as far back, or all but SLACK_SLOTS (clients count
              the depth from the old head or from the new one)

within CLAIM_S of each other. So a node that lies alone is heard by nobody while it is not the best one; if it is, by the rate. When the
best one's stream breaks off, what its successor has said within CLAIM_S counts.

Limits: KEPT_CLAIMS a node and kind of event, KEPT_TOLD events that were told. Source: specification 08 §10.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Final

from charon_actors.eth2.beacon_api import ChainEvent, ReorgEvent
from charon_actors.pace import Bucket

RATES: Final = {"head": (32.0, 4.0), "chain_reorg": (8.0, 0.25), "block": (64.0, 4.0)}  # burst, a second
CLAIM_S: Final = 24.0  # two slots of mainnet: a node that is further behind is no witness
SLACK_SLOTS: Final = 8
KEPT_CLAIMS: Final = 16
KEPT_TOLD: Final = 64


class EventIntake:
    """The rates of one beacon node's stream."""

    def __init__(self) -> None:
        self._buckets = {topic: Bucket(*rate) for topic, rate in RATES.items()}

    def admits(self, topic: str, now: float) -> bool:
        """Whether an event of the topic is worth decoding. False also for topics without a rate: nobody listens to them."""
        bucket = self._buckets.get(topic)
        return bucket is not None and bucket.take(now)


class Witnesses:
    """What the nodes have said lately, and what of it was told. Nodes are named by anything that can be compared."""

    def __init__(self) -> None:
        self._claims: dict[tuple[Hashable, type[ChainEvent]], deque[tuple[float, ChainEvent]]] = {}
        self._told: OrderedDict[ChainEvent, None] = OrderedDict()

    def heard(self, node: Hashable, event: ChainEvent, chosen: Hashable, now: float) -> list[ChainEvent]:
        """`node` says `event`; `chosen` is the best node that is listened to. Returns what is to be told now, in order."""
        claims = self._claims.setdefault((node, type(event)), deque(maxlen=KEPT_CLAIMS))
        claims.append((now, event))
        seconded = [claim for claim in self._others(node, event, now) if agrees(claim, event)]
        if node != chosen and not seconded:
            return []
        farthest = min(seconded, key=goes_back_to, default=event)  # one of them: a liar may have said as many as it likes
        return [each for each in dict.fromkeys((event, farthest)) if self._is_new(each)]

    def chosen_changed(self, chosen: Hashable, now: float) -> list[ChainEvent]:
        """Another node is the best one now: what it has said lately and was not told."""
        said = [claim for (node, _), claims in self._claims.items() if node == chosen for claim in claims]
        return [event for at, event in sorted(said, key=lambda claim: claim[0]) if now - at <= CLAIM_S and self._is_new(event)]

    def _others(self, node: Hashable, event: ChainEvent, now: float) -> list[ChainEvent]:
        return [
            claim
            for (other, kind), claims in self._claims.items()
            if other != node and kind is type(event)
            for at, claim in claims
            if now - at <= CLAIM_S
        ]

    def _is_new(self, event: ChainEvent) -> bool:
        if event in self._told:
            return False
        self._told[event] = None
        if len(self._told) > KEPT_TOLD:
            self._told.popitem(last=False)
        return True


def goes_back_to(event: ChainEvent) -> int:
    """The slot from which on the chain may be another one."""
    return event.slot - event.depth if isinstance(event, ReorgEvent) else event.slot


def agrees(one: ChainEvent, other: ChainEvent) -> bool:
    """Whether two nodes' events can be about the same thing."""
    if isinstance(one, ReorgEvent) and isinstance(other, ReorgEvent):
        return abs(goes_back_to(one) - goes_back_to(other)) <= SLACK_SLOTS
    return one == other
