"""What happens in a node, as numbers: one match turns facts into metrics.

The families stand in `actors/metrics.py`. A fact that is no number has no row here.
"""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

from actors.beacon import CacheSeen, CallSeen, EventDropped
from actors.consensus import PROTOCOL, ConsensusDecided, ConsensusFailed, ConsensusTimedOut, InsufficientRoundChanges
from actors.crypto_workers import WorkerLost
from actors.duties import BlockFetched, DecisionRefused, DutyEnded, SlotStarted
from actors.facts import Fact
from actors.http import ConnectionDropped
from actors.mesh import MeshFact
from actors.metrics import OTHER, Metrics
from actors.signatures import PartialsStored, PartialsVerified
from actors.validator_api import PASSED_ON, RequestSeen
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import DutyType, start_s
from charon_actors.share_index import peer_index_of
from supervisors.mailboxes import MailboxSampled
from supervisors.mesh_metrics import note_mesh
from supervisors.node_config import NodeConfig
from supervisors.readiness import BeaconPeersSeen, ReadinessChanged
from supervisors.supervisor import Crashed

_STATUSES: Final = frozenset(int(status) for status in HTTPStatus)


class NodeMetrics:
    """Listens to one node's facts. peer_names: by peer index. chain: None while it isn't known. wall_clock: Unix seconds."""

    def __init__(
        self, metrics: Metrics, peer_names: Sequence[str], chain: Callable[[], Chain | None], wall_clock: Callable[[], float]
    ) -> None:
        self._metrics, self._peer_names, self._chain, self._wall_clock = metrics, peer_names, chain, wall_clock
        self._slot: int | None = None
        self._user_agent = ""

    def note(self, fact: Fact) -> None:
        """Returns at once. Facts without a number are passed over."""
        metrics = self._metrics
        match fact:
            case CallSeen():
                self._beacon_call(fact)
            case CacheSeen(name, outcome, count):
                metrics.count(f"app_cache_{outcome}_total", {"endpoint": name}, count)
            case EventDropped(node, topic, reason):
                labels = {"addr": node, "topic": topic, "reason": reason}
                metrics.count("charon_actors_beacon_events_dropped_total", labels)
            case ConsensusDecided():
                self._consensus_decided(fact)
            case ConsensusTimedOut(kind, timer):
                labels = {"protocol": PROTOCOL, "duty": kind.label, "timer": timer}
                metrics.count("core_consensus_timeout_total", labels)
            case ConsensusFailed():
                metrics.count("core_consensus_error_total", {"protocol": PROTOCOL})
            case InsufficientRoundChanges(kind, timer, outcome):
                labels = {"protocol": PROTOCOL, "duty": kind.label, "timer": timer, "outcome": outcome}
                metrics.count("core_consensus_insufficient_round_changes_total", labels)
            case WorkerLost(job):
                metrics.count("charon_actors_crypto_workers_lost_total", {"job": job})
            case BlockFetched(is_blinded, matches):
                metrics.gauge("core_fetcher_proposal_blinded", {}, 1 if is_blinded else 2)
                mismatch = 0 if matches is None else 1 if matches else 2
                metrics.gauge("core_fetcher_proposal_local_mismatch_fee_recipient", {}, mismatch)
            case DecisionRefused(duty, proposer_index):
                peer = "unknown" if proposer_index is None else self._peer_names[proposer_index]
                metrics.count("charon_actors_decisions_refused_total", {"duty": duty.type.label, "peer": peer})
            case DutyEnded():
                self._duty_ended(fact)
            case SlotStarted():
                self._slot_started(fact)
            case ConnectionDropped(port, reason):
                metrics.count("charon_actors_http_connections_dropped_total", {"port": port, "reason": reason})
            case PartialsStored():
                self._partials_stored(fact)
            case PartialsVerified(kind, seconds):
                metrics.observe("core_parsigex_set_verification_seconds", {"duty": kind.label}, seconds)
            case RequestSeen():
                self._request_seen(fact)
            case ReadinessChanged(state):
                metrics.gauge("app_monitoring_readyz", {}, state)
            case BeaconPeersSeen(peers):
                metrics.gauge("app_beacon_node_peers", {}, peers)
            case Crashed(path):
                metrics.count("charon_actors_restarts_total", {"actor": path.rpartition("/")[2]})
            case MailboxSampled(actor, queued, rejected, dropped):
                metrics.gauge("charon_actors_mailbox_queued", {"actor": actor}, queued)
                metrics.count("charon_actors_mailbox_rejected_total", {"actor": actor}, rejected)
                metrics.count("charon_actors_mailbox_dropped_total", {"actor": actor}, dropped)
            case MeshFact():
                note_mesh(metrics, fact, self._peer_names)
            case _:
                pass

    def _beacon_call(self, call: CallSeen) -> None:
        labels = {"endpoint": call.name}
        self._metrics.count("app_eth2_requests_total", labels)
        self._metrics.observe("app_eth2_latency_seconds", labels, call.seconds)
        if call.error is not None:
            self._metrics.count("app_eth2_errors_total", labels)
        elif call.by_fallback is not None:
            self._metrics.gauge("app_eth2_using_fallback", {}, call.by_fallback)

    def _consensus_decided(self, decided: ConsensusDecided) -> None:
        labels = {"protocol": PROTOCOL, "duty": decided.kind.label}
        self._metrics.gauge("core_consensus_decided_rounds", {**labels, "timer": decided.timer}, decided.round)
        self._metrics.gauge("core_consensus_decided_leader_index", labels, decided.leader_index)
        self._metrics.observe("core_consensus_duration_seconds", {**labels, "timer": decided.timer}, decided.duration_s)

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

    def _partials_stored(self, stored: PartialsStored) -> None:
        chain = self._chain()
        assert chain is not None, "signatures are stored only of a chain that is known"
        labels = {"duty": stored.duty.type.label, "peer_idx": str(peer_index_of(stored.share_index))}
        self._metrics.observe("core_parsigdb_store", labels, max(self._wall_clock() - start_s(stored.duty, chain), 0))

    def _request_seen(self, request: RequestSeen) -> None:
        metrics, labels = self._metrics, {"endpoint": request.endpoint}
        if request.endpoint == PASSED_ON:
            metrics.observe("core_validatorapi_proxy_request_latency_seconds", {"path": request.path}, request.seconds)
        else:
            metrics.count("core_validatorapi_request_total", {**labels, "content_type": request.content_type})
            metrics.observe("core_validatorapi_request_latency_seconds", labels, request.seconds)
            if request.status >= 400:
                metrics.count("core_validatorapi_request_error_total", {**labels, "status_code": _status(request.status)})
        if request.user_agent and request.user_agent != self._user_agent:
            self._user_agent = request.user_agent
            metrics.clear("core_validatorapi_vc_user_agent")
            metrics.gauge("core_validatorapi_vc_user_agent", {"user_agent": request.user_agent}, 1)


def registry_of(config: NodeConfig, own_name: str) -> Metrics:
    """The node's registry, every series under the cluster's labels."""
    lock = config.lock
    return Metrics(
        {
            "cluster_hash": lock.lock_hash.hex()[:7],
            "cluster_name": lock.definition.name,
            "cluster_peer": own_name,
            "nickname": config.nickname,
            "cluster_network": config.network.name,
            "charon_version": config.profile.version_text,
        }
    )


def write_constants(metrics: Metrics, config: NodeConfig, own_name: str, now_s: float) -> None:
    """What never changes while the node runs, and the zeros that dashboards divide by."""
    definition = config.lock.definition
    metrics.gauge("app_version", {"version": config.profile.version_text}, 1)
    metrics.gauge("app_git_commit", {"git_hash": "unknown"}, 1)
    metrics.gauge("app_peer_name", {"peer_name": own_name}, 1)
    metrics.gauge("app_start_time_secs", {}, now_s)
    metrics.gauge("app_monitoring_readyz", {}, 0)
    metrics.gauge("cluster_threshold", {}, definition.threshold)
    metrics.gauge("cluster_operators", {}, len(definition.operators))
    metrics.gauge("cluster_validators", {}, len(config.lock.validators))
    metrics.gauge("cluster_network", {"network": config.network.name}, 1)
    for duty_type in DutyType:
        for name in ("success", "failed", "expect"):
            metrics.count(f"core_tracker_{name}_duties_total", {"duty": duty_type.label}, 0)


def _status(status: int) -> str:
    """As a label: beacon nodes, whose answers are passed on, may invent any."""
    return str(status) if status in _STATUSES else OTHER
