"""An instance that only listens: for a node that has forgotten what it may have promised.

Nothing of an instance survives a restart. A node that took part in a duty before it restarted could now prepare another value in an
old round, or say that it has nothing prepared: exactly what a liar would do (06 §10). But Q COMMITs for one round and value prove a
decision to anybody. So such a node counts COMMITs of any round, as themselves or inside justifications, and sends nothing.

Limits: BUFFERED_MESSAGES a source. Source: specification 06 §10 (restart mid-duty), §3.2 (rules 3 and 7).
"""

from collections import deque

from charon_actors.qbft.machine import BUFFERED_MESSAGES, Decide, Message, MessageType, quorum


class Observer:
    """Feed it every message; it says Decide once, when the proof is complete."""

    def __init__(self, nodes: int) -> None:
        self._quorum = quorum(nodes)
        self._commits = tuple(deque[Message](maxlen=BUFFERED_MESSAGES) for _ in range(nodes))
        self.decided: Decide | None = None

    def receive(self, message: Message) -> Decide | None:
        if self.decided is not None:
            return None
        for part in (message, *message.justification):
            if part.type is not MessageType.COMMIT or not 0 <= part.source < len(self._commits):
                continue
            known = self._commits[part.source]
            if all((m.round, m.value) != (part.round, part.value) for m in known):
                known.append(part)
            pair = (part.round, part.value)
            agreeing = [m for commits in self._commits for m in commits if (m.round, m.value) == pair]
            if len(agreeing) >= self._quorum:
                self.decided = Decide(part.value, part.round, tuple(agreeing))
                return self.decided
        return None
