"""What ends a ceremony. There is one kind of end for a peer's fault: final, named, immediate.

A ceremony has no second chance and no majority: one peer that breaks a rule, or that cannot go on, ends it for everybody. So no
rule of this room is ever "ignored with a warning"; what a Go node logs and then waits on for ever (04 §5.3) is an abort here.
"""


class CeremonyFault(Exception):
    """The ceremony is over because of a peer (or, with `peer_index` None, because of nobody in particular).

    peer_index: operator order, from 0. reason: one sentence for the operator, never with a secret in it. The actor adds the
    peer's name and the phase, which this room does not know.
    """

    def __init__(self, peer_index: int | None, reason: str) -> None:
        super().__init__(reason if peer_index is None else f"operator {peer_index}: {reason}")
        self.peer_index, self.reason = peer_index, reason
