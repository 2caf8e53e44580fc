"""Why a round ended without a decision, for the log. Source: specification 06 §12."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

_PRESENT, _MISSING, _NOT_APPLICABLE = "*", "?", "_"


class RoundReport(msgspec.Struct, frozen=True):
    """What had come in when a round was left. The sets hold the peer indices whose message of that kind was seen.

    leader: a peer index, or any other number when nobody leads the round (n < leaders, overflown slots).
    """

    nodes: int
    quorum: int
    round: int
    leader: int
    pre_prepares: frozenset[int]
    prepares: frozenset[int]
    commits: frozenset[int]
    round_changes: frozenset[int]

    def fields(self) -> dict[str, str]:
        """One string of n characters a message kind: `*` seen, `?` missing, `_` not expected of that peer."""
        in_first_round = self.round == 1
        return {
            "pre_prepare": self._stars(self.pre_prepares, lambda peer: peer == self.leader),
            "prepare": self._stars(self.prepares, lambda _: True),
            "commit": self._stars(self.commits, lambda _: True),
            "round_change": self._stars(self.round_changes, lambda _: not in_first_round),
        }

    def has_insufficient_round_changes(self) -> bool:
        return self.round > 1 and len(self.round_changes) < self.quorum

    def reason(self, names: Sequence[str] = ()) -> str:
        """The first thing that was missing, and whose it was. names: of the peers by index; without them, indices."""
        if self.has_insufficient_round_changes():
            return f"insufficient round-changes, missing peers={self._missing(self.round_changes, names)}"
        if not self.pre_prepares:
            return f"no pre-prepare, missing leader={self._named((self.leader,), names)}"
        if len(self.prepares) < self.quorum:
            return f"insufficient prepares, missing peers={self._missing(self.prepares, names)}"
        if len(self.commits) < self.quorum:
            return f"insufficient commits, missing peers={self._missing(self.commits, names)}"
        return "unknown reason"

    def _stars(self, seen: frozenset[int], is_applicable: Callable[[int], bool]) -> str:
        return "".join(
            _PRESENT if peer in seen else _MISSING if is_applicable(peer) else _NOT_APPLICABLE for peer in range(self.nodes)
        )

    def _missing(self, seen: frozenset[int], names: Sequence[str]) -> str:
        return self._named((peer for peer in range(self.nodes) if peer not in seen), names)

    @staticmethod
    def _named(peers: Iterable[int], names: Sequence[str]) -> str:
        return "[" + " ".join(names[peer] if 0 <= peer < len(names) else str(peer) for peer in peers) + "]"


REMEDIES: Final[dict[str, str]] = {
    "insufficient round-changes": "fewer than a quorum of nodes have reached this round: check that the missing peers are "
    "connected, that clocks agree and that all use the same round timer",
    "no pre-prepare": "the leader of the round did not propose: its beacon node may be slow or down",
    "insufficient prepares": "the leader's proposal did not reach enough peers in time",
    "insufficient commits": "the nodes agreed on a value but their commits came too late",
}


def remedy(reason: str) -> str:
    """What an operator may look at, in plain language; empty for unknown reasons."""
    return next((text for prefix, text in REMEDIES.items() if reason.startswith(prefix)), "")
