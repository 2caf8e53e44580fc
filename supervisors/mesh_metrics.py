"""What the mesh says, as numbers. Source of names and labels: specification 03 §3.2, §5.3, §6, §7; 10 §3."""

from collections.abc import Sequence

from actors.mesh import facts
from actors.metrics import Metrics
from charon_actors.p2p.peerinfo import Judgement, PeerInfo

DV_CLIENT = "charon"  # of a node that doesn't say


def note_mesh(metrics: Metrics, fact: facts.MeshFact, names: Sequence[str]) -> None:
    """One match, as in `node_metrics.py`. names: by peer index."""
    match fact:
        case facts.ConnectionUp(peer):
            metrics.count("p2p_peer_connection_total", {"peer": peer})
        case facts.PingAnswered(peer, rtt_s):
            metrics.observe("p2p_ping_latency_secs", {"peer": peer}, rtt_s)
            metrics.gauge("p2p_ping_success", {"peer": peer}, 1)
        case facts.PingFailed(peer):
            metrics.count("p2p_ping_error_total", {"peer": peer})
            metrics.gauge("p2p_ping_success", {"peer": peer}, 0)
        case facts.SendRefused(peer, reason):
            metrics.count("charon_actors_p2p_sends_refused_total", {"peer": peer, "reason": reason})
        case facts.SendDone(peer, protocol, topic, seconds):
            labels = {"peer": peer, "protocol": protocol, "topic": topic}
            metrics.observe("p2p_send_duration_seconds", labels, seconds)
        case facts.StreamOver(peer, protocol, sent_bytes, received_bytes):
            labels = {"peer": peer, "protocol": protocol, "transport": "tcp"}
            metrics.count("p2p_peer_network_sent_bytes_total", labels, sent_bytes)
            metrics.count("p2p_peer_network_receive_bytes_total", labels, received_bytes)
        case facts.StreamRefused(peer):
            metrics.count("charon_actors_p2p_streams_refused_total", {"peer": peer})
        case facts.MessageDropped(peer_index, protocol):
            labels = {"peer": names[peer_index], "protocol": protocol}
            metrics.count("charon_actors_p2p_messages_dropped_total", labels)
        case facts.HandlerCrashed(peer, protocol):
            metrics.count("charon_actors_p2p_handler_crash_total", {"peer": peer, "protocol": protocol})
        case facts.HandshakeEnded(result):
            metrics.count("charon_actors_p2p_handshakes_total", {"result": result})
        case facts.PeerPaused(peer, seconds):
            metrics.count("charon_actors_p2p_paused_seconds_total", {"peer": peer}, seconds)
        case facts.PeerCutOff(peer, reason):
            metrics.count("charon_actors_p2p_cut_off_total", {"peer": peer, "reason": reason})
        case facts.PeerSampled():
            _sample(metrics, fact)
        case facts.PeerInfoJudged(peer, judgement):
            _judged(metrics, peer, judgement)
        case facts.RelayReserved(relay, is_reserved):
            metrics.gauge("p2p_relay_connections", {"peer": relay}, float(is_reserved))
        case facts.RelaySampled(relay, connections):
            metrics.clear("p2p_relay_connection_types", {"peer": relay})
            labels = {"peer": relay, "type": "direct", "protocol": "tcp" if connections else "none"}
            metrics.gauge("p2p_relay_connection_types", labels, connections)
        case _:
            pass


def write_own_info(metrics: Metrics, own: PeerInfo, own_index: int, names: Sequence[str]) -> None:
    """What is set at start: our own values, every peer's index, and that we don't ask others to dial us back."""
    labels = {"peer": names[own_index]}
    metrics.gauge("p2p_reachability_status", {}, 0)
    metrics.gauge("app_peerinfo_version", {**labels, "version": own.version}, 1)
    metrics.gauge("app_peerinfo_git_commit", {**labels, "git_hash": own.git_hash}, 1)
    metrics.gauge("app_peerinfo_nickname", {**labels, "peer_nickname": own.nickname}, 1)
    metrics.gauge("app_peerinfo_dv_client", {**labels, "dv_client": own.client or DV_CLIENT}, 1)
    metrics.gauge("app_peerinfo_start_time_secs", labels, own.started_at_s or 0.0)
    metrics.gauge("app_peerinfo_builder_api_enabled", labels, float(own.is_builder_enabled))
    for index, name in enumerate(names):
        metrics.gauge("app_peerinfo_index", {"peer": name}, index)


def _sample(metrics: Metrics, sampled: facts.PeerSampled) -> None:
    labels = {"peer": sampled.peer}
    for name in ("p2p_peer_connection_types", "p2p_peer_streams"):
        metrics.clear(name, labels)
    for kind, count in (("direct", sampled.direct), ("relay", sampled.relayed)):
        protocol = "tcp" if count else "none"
        metrics.gauge("p2p_peer_connection_types", {**labels, "type": kind, "protocol": protocol}, count)
    for (direction, protocol), count in sampled.streams.items():
        of_stream = {**labels, "direction": direction, "protocol": protocol, "transport": "tcp"}
        metrics.gauge("p2p_peer_streams", of_stream, count)


def _judged(metrics: Metrics, peer: str, found: Judgement) -> None:
    """Set the gauges of what was concluded; what was not stays as it was."""
    labels = {"peer": peer}
    for name, label, value in (
        ("app_peerinfo_nickname", "peer_nickname", found.nickname),
        ("app_peerinfo_dv_client", "dv_client", found.client),
        ("app_peerinfo_version", "version", found.version),
        ("app_peerinfo_git_commit", "git_hash", found.git_hash),
    ):
        if value is not None:
            metrics.clear(name, labels)
            metrics.gauge(name, {**labels, label: value}, 1)
    if found.is_version_supported is not None:
        metrics.gauge("app_peerinfo_version_support", labels, float(found.is_version_supported))
    if found.is_version_supported and found.clock_offset_s is not None:
        metrics.gauge("app_peerinfo_clock_offset_seconds", labels, found.clock_offset_s)
    if found.started_at_s is not None:
        metrics.gauge("app_peerinfo_start_time_secs", labels, found.started_at_s)
    if found.is_builder_enabled is not None:
        metrics.gauge("app_peerinfo_builder_api_enabled", labels, float(found.is_builder_enabled))
