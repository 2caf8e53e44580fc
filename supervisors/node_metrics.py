"""What happens in a node, as numbers: one match turns facts into metrics.

The families stand in `actors/metrics.py`. A fact that is no number has no row here.
"""

from collections.abc import Sequence

from actors.duties import BlockFetched
from actors.facts import Fact
from actors.metrics import Metrics


class NodeMetrics:
    """Listens to one node's facts. peer_names: by peer index."""

    def __init__(self, metrics: Metrics, peer_names: Sequence[str]) -> None:
        self._metrics, self._peer_names = metrics, peer_names

    def note(self, fact: Fact) -> None:
        """Returns at once. Facts without a number are passed over."""
        match fact:
            case BlockFetched(is_blinded, matches):
                self._metrics.gauge("core_fetcher_proposal_blinded", {}, 1 if is_blinded else 2)
                mismatch = 0 if matches is None else 1 if matches else 2
                self._metrics.gauge("core_fetcher_proposal_local_mismatch_fee_recipient", {}, mismatch)
            case _:
                pass
