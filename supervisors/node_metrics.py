"""What happens in a node, as numbers: one match turns facts into metrics.

The families stand in `actors/metrics.py`. A fact that is no number has no row here.
"""

from collections.abc import Sequence

from actors.duties import BlockFetched, DecisionRefused, DutyEnded, SlotStarted
from actors.facts import Fact
from actors.metrics import Metrics


class NodeMetrics:
    """Listens to one node's facts. peer_names: by peer index."""

    def __init__(self, metrics: Metrics, peer_names: Sequence[str]) -> None:
        self._metrics, self._peer_names = metrics, peer_names
        self._slot: int | None = None

    def note(self, fact: Fact) -> None:
        """Returns at once. Facts without a number are passed over."""
        match fact:
            case BlockFetched(is_blinded, matches):
                self._metrics.gauge("core_fetcher_proposal_blinded", {}, 1 if is_blinded else 2)
                mismatch = 0 if matches is None else 1 if matches else 2
                self._metrics.gauge("core_fetcher_proposal_local_mismatch_fee_recipient", {}, mismatch)
            case DecisionRefused(duty, proposer_index):
                peer = "unknown" if proposer_index is None else self._peer_names[proposer_index]
                self._metrics.count("charon_actors_decisions_refused_total", {"duty": duty.type.label, "peer": peer})
            case DutyEnded():
                self._duty_ended(fact)
            case SlotStarted():
                self._slot_started(fact)
            case _:
                pass

    def _duty_ended(self, ended: DutyEnded) -> None:
        metrics, labels = self._metrics, {"duty": ended.duty.type.label}
        metrics.count("core_tracker_expect_duties_total", labels)
        metrics.count("core_tracker_success_duties_total" if ended.reason is None else "core_tracker_failed_duties_total", labels)
        if ended.latency_s is not None:
            metrics.count("core_bcast_broadcast_total", labels)
            metrics.observe("core_bcast_broadcast_delay_seconds", labels, ended.latency_s)

    def _slot_started(self, started: SlotStarted) -> None:
        if self._slot is not None:
            self._metrics.count("core_scheduler_skipped_slots_total", by=max(started.slot - self._slot - 1, 0))
        self._slot = started.slot
        self._metrics.gauge("core_scheduler_current_slot", {}, started.slot)
        self._metrics.gauge("core_scheduler_current_epoch", {}, started.epoch)
        self._metrics.gauge("core_scheduler_validators_active", {}, started.active_validators)
