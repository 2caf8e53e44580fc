"""What the mesh tells the metrics actor: counters, gauges, histograms, by Charon's names.

    name                                     call      labels                          histogram buckets
    p2p_ping_latency_secs                    observe   peer                            default
    p2p_ping_error_total                     count     peer
    p2p_ping_success                         gauge     peer
    p2p_peer_connection_total                count     peer
    p2p_peer_connection_types                gauge     peer, type, protocol
    p2p_relay_connection_types               gauge     peer, type, protocol
    p2p_peer_streams                         gauge     peer, direction, protocol, transport
    p2p_peer_network_receive_bytes_total     count     peer, protocol, transport
    p2p_peer_network_sent_bytes_total        count     peer, protocol, transport
    p2p_send_duration_seconds                observe   peer, protocol, topic           0.1 ms, doubled 17 times
    p2p_relay_connections                    gauge     peer (the relay's name)
    p2p_reachability_status                  gauge     (none): 0 unknown
    app_peerinfo_clock_offset_seconds        gauge     peer
    app_peerinfo_version                     gauge     peer, version
    app_peerinfo_git_commit                  gauge     peer, git_hash
    app_peerinfo_start_time_secs             gauge     peer
    app_peerinfo_index                       gauge     peer
    app_peerinfo_version_support             gauge     peer
    app_peerinfo_builder_api_enabled         gauge     peer
    app_peerinfo_nickname                    gauge     peer, peer_nickname
    app_peerinfo_dv_client                   gauge     peer, dv_client
    charon_actors_p2p_sends_refused_total    count     peer, reason                    ours: refused or failed detached sends
    charon_actors_p2p_handler_crash_total    count     peer, protocol                  ours: a handler raised something unexpected
    charon_actors_p2p_handshakes_total       count     result                          ours: inbound: accepted, refused, failed, silent …
    charon_actors_p2p_paused_seconds_total   count     peer                            ours: a peer beyond its credit was not read
    charon_actors_p2p_cut_off_total          count     peer, reason                    ours: by credit, memory, places

`clear(name, labels)` removes the series of `name` whose labels contain `labels`, before a labelled text is set anew.
Implementations must return at once and not raise: an exception is a crash of the child that reported.
Source: specification 03 §3.2, §5.3, §6, §7.
"""

from collections.abc import Mapping
from typing import Protocol


class MeshEvents(Protocol):
    """Where the mesh's numbers go; see the table on top."""

    def count(self, name: str, labels: Mapping[str, str], by: float = 1.0) -> None: ...

    def gauge(self, name: str, labels: Mapping[str, str], value: float) -> None: ...

    def observe(self, name: str, labels: Mapping[str, str], value: float) -> None: ...

    def clear(self, name: str, labels: Mapping[str, str]) -> None: ...


class NoEvents:
    """Nobody wants the numbers."""

    def count(self, name: str, labels: Mapping[str, str], by: float = 1.0) -> None:
        pass

    def gauge(self, name: str, labels: Mapping[str, str], value: float) -> None:
        pass

    def observe(self, name: str, labels: Mapping[str, str], value: float) -> None:
        pass

    def clear(self, name: str, labels: Mapping[str, str]) -> None:
        pass
