"""Metrics: one registry a node, and the monitoring server's answers: /metrics, /livez, /readyz.

The families are a table: name, kind, labels, buckets, as Charon's dashboards expect them (specification 10 §3). Whoever counts
calls `count`, `gauge` or `observe` with a family's name; a name or label that isn't in the table is our own mistake and raises.
Every series carries the constant labels of the cluster. There is no global registry: two nodes in one process have two.

Who invents label values (a peer its nickname, a client its paths, a beacon node its status codes) must not fill memory or scrapes. Those
who count know their values where they can, and say `other` for the rest; whatever slips through ends here:

    limit                                     beyond it
    MAX_SERIES label combinations a family    counters and histograms go on under `other` in all labels, gauges are dropped; each such
                                              call is counted in `charon_actors_metrics_dropped_total`, one line an hour names the family
    MAX_LABEL_CHARACTERS a label value        cut off

`exposition` renders at most once in FRESH_S, however many ask, and in slices of SLICE_S with SLICE_REST_S for everybody else in
between: the big registry of a big cluster takes a tenth of a second of work.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec
import trio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.utils import floatToGoString

from actors.change_log import ChangeLog
from actors.log import get_logger

log = get_logger("metrics")

MAX_SERIES: Final = 1000
MAX_SERIES_BY_PEER: Final = 4000  # peer x protocol x topic of a cluster of dozens
MAX_LABEL_CHARACTERS: Final = 128
OTHER: Final = "other"
FRESH_S: Final = 1.0
SLICE_S: Final = 0.002
SLICE_REST_S: Final = 0.004
REPORT_INTERVAL_S: Final = 3600.0
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

DEFAULT_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BEACON_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3, 5)
PARTIAL_BUCKETS: Final = (0.001, 0.01, 0.05, *BEACON_BUCKETS[3:])
VERIFICATION_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
SEND_BUCKETS: Final = tuple(0.0001 * 2**k for k in range(18))
BROADCAST_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)


Labels = Mapping[str, str]
NO_LABELS: Final[Labels] = MappingProxyType({})


class Family(msgspec.Struct, frozen=True):
    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = DEFAULT_BUCKETS


def _family(kind: Literal["counter", "gauge", "histogram"], name: str, labels: str, text: str, *buckets: float) -> Family:
    return Family(name, kind, text, tuple(labels.split()), buckets or DEFAULT_BUCKETS)


FAMILIES: Final[tuple[Family, ...]] = (
    _family("gauge", "app_version", "version", "Constant 1, labelled with the version that peers see"),
    _family("gauge", "app_git_commit", "git_hash", "Constant 1, labelled with the commit of the build"),
    _family("gauge", "app_peer_name", "peer_name", "Constant 1, labelled with this node's name"),
    _family("gauge", "app_start_time_secs", "", "Unix time at which the process started"),
    _family("gauge", "app_monitoring_readyz", "", "State of /readyz: 1 ready, otherwise the number of the reason"),
    _family("gauge", "app_beacon_node_peers", "", "Peers of the beacon node"),
    _family("gauge", "cluster_threshold", "", "Threshold of the cluster"),
    _family("gauge", "cluster_operators", "", "Operators of the cluster"),
    _family("gauge", "cluster_validators", "", "Validators of the cluster"),
    _family("gauge", "cluster_network", "network", "Constant 1, labelled with the network"),
    _family("counter", "charon_actors_restarts_total", "actor", "Crashes after which a supervisor restarted an actor"),
    _family(
        "counter",
        "charon_actors_metrics_dropped_total",
        "",
        "Values that found no series of their own because a family has too many",
    ),
    _family(
        "counter",
        "charon_actors_http_connections_dropped_total",
        "port reason",
        "Connections that had to go for a newcomer, for bytes or descriptors, or were turned away",
    ),
    _family("histogram", "app_eth2_latency_seconds", "endpoint", "Duration of requests to beacon nodes", *BEACON_BUCKETS),
    _family("counter", "app_eth2_requests_total", "endpoint", "Requests to beacon nodes"),
    _family("counter", "app_eth2_errors_total", "endpoint", "Requests to beacon nodes that failed"),
    _family(
        "counter",
        "charon_actors_beacon_events_dropped_total",
        "addr topic reason",
        "Events of a beacon node that did not count: more than a chain has (rate), or without sense (nonsense)",
    ),
    _family("gauge", "app_eth2_using_fallback", "", "1 while a fallback beacon node answers"),
    _family("counter", "app_cache_hits_total", "endpoint", "Answers from a cache"),
    _family("counter", "app_cache_misses_total", "endpoint", "Answers that were not in the cache"),
    _family("counter", "app_cache_invalidated_reorg_total", "endpoint", "Cached answers dropped because of a reorganisation"),
    _family("histogram", "p2p_ping_latency_secs", "peer", "Round trip of libp2p pings"),
    _family("counter", "p2p_ping_error_total", "peer", "Pings that failed"),
    _family("gauge", "p2p_ping_success", "peer", "1 if the last ping succeeded"),
    _family("counter", "p2p_peer_connection_total", "peer", "New connections of cluster peers"),
    _family("gauge", "p2p_peer_connection_types", "peer type protocol", "Connections of cluster peers by type"),
    _family("gauge", "p2p_relay_connection_types", "peer type protocol", "Connections of relays by type"),
    _family("gauge", "p2p_peer_streams", "peer direction protocol transport", "Open streams"),
    _family("counter", "p2p_peer_network_sent_bytes_total", "peer protocol transport", "Stream bytes sent"),
    _family("counter", "p2p_peer_network_receive_bytes_total", "peer protocol transport", "Stream bytes received"),
    _family(
        "histogram",
        "p2p_send_duration_seconds",
        "peer protocol topic",
        "Duration of sends and exchanges",
        *SEND_BUCKETS,
    ),
    _family("gauge", "p2p_reachability_status", "", "0 unknown, 1 public, 2 private"),
    _family("counter", "charon_actors_p2p_sends_refused_total", "peer reason", "Detached sends that were refused or failed"),
    _family("counter", "charon_actors_crypto_workers_lost_total", "job", "Worker processes that died or hung over a job"),
    _family("gauge", "charon_actors_mailbox_queued", "actor", "Messages that wait in an actor's mailbox"),
    _family("counter", "charon_actors_mailbox_rejected_total", "actor", "Messages that a full mailbox refused"),
    _family("counter", "charon_actors_mailbox_dropped_total", "actor", "Messages that a mailbox lost"),
    _family("counter", "charon_actors_p2p_messages_dropped_total", "peer protocol", "Messages that nobody took in time"),
    _family("counter", "charon_actors_p2p_streams_refused_total", "peer", "Incoming streams that found no place"),
    _family("counter", "charon_actors_p2p_handler_crash_total", "peer protocol", "Handlers that failed by a fault of ours"),
    _family("counter", "charon_actors_p2p_handshakes_total", "result", "Inbound handshakes by result"),
    _family(
        "counter", "charon_actors_p2p_paused_seconds_total", "peer", "Seconds in which a peer beyond its credit was not read"
    ),
    _family("counter", "charon_actors_p2p_cut_off_total", "peer reason", "Peers cut off, by credit, memory or places"),
    _family("gauge", "p2p_relay_connections", "peer", "1 while a reservation at the relay is held"),
    _family("gauge", "app_peerinfo_clock_offset_seconds", "peer", "Clock of the peer minus ours"),
    _family("gauge", "app_peerinfo_version", "peer version", "Constant 1, labelled with the peer's version"),
    _family("gauge", "app_peerinfo_git_commit", "peer git_hash", "Constant 1, labelled with the peer's commit"),
    _family("gauge", "app_peerinfo_start_time_secs", "peer", "Unix time at which the peer started"),
    _family("gauge", "app_peerinfo_index", "peer", "Index of the peer in the lock"),
    _family("gauge", "app_peerinfo_version_support", "peer", "1 if the peer's version is supported"),
    _family("gauge", "app_peerinfo_builder_api_enabled", "peer", "1 if the peer has the builder API enabled"),
    _family("gauge", "app_peerinfo_nickname", "peer peer_nickname", "Constant 1, labelled with the peer's nickname"),
    _family("gauge", "app_peerinfo_dv_client", "peer dv_client", "Constant 1, labelled with the peer's client"),
    _family("gauge", "core_scheduler_current_slot", "", "Current slot"),
    _family("gauge", "core_scheduler_current_epoch", "", "Current epoch"),
    _family("gauge", "core_scheduler_validators_active", "", "Active validators of the cluster"),
    _family("counter", "core_scheduler_skipped_slots_total", "", "Slots whose start this process missed"),
    _family("gauge", "core_fetcher_proposal_blinded", "", "Of our beacon node's last block: 1 blinded, 2 local"),
    _family(
        "gauge",
        "core_fetcher_proposal_local_mismatch_fee_recipient",
        "",
        "Fee recipient of our beacon node's last block: 0 not comparable, 1 the configured one, 2 another",
    ),
    _family(
        "counter", "charon_actors_decisions_refused_total", "duty peer", "Decisions that were not served, by who proposed them"
    ),
    _family("gauge", "core_consensus_decided_rounds", "protocol duty timer", "Round of the last decision"),
    _family("gauge", "core_consensus_decided_leader_index", "protocol duty", "Peer index of the last decided leader"),
    _family("histogram", "core_consensus_duration_seconds", "protocol duty timer", "Start to decision", *BEACON_BUCKETS),
    _family("counter", "core_consensus_timeout_total", "protocol duty timer", "Consensus instances without decision"),
    _family(
        "counter",
        "core_consensus_insufficient_round_changes_total",
        "protocol duty timer outcome",
        "Consensus instances with a round that too few peers entered",
    ),
    _family("counter", "core_consensus_error_total", "protocol", "Consensus errors"),
    _family(
        "histogram",
        "core_parsigdb_store",
        "duty peer_idx",
        "Arrival of partial signatures after their due time",
        *PARTIAL_BUCKETS,
    ),
    _family(
        "histogram",
        "core_parsigex_set_verification_seconds",
        "duty",
        "Verification of a set of partial signatures",
        *VERIFICATION_BUCKETS,
    ),
    _family("counter", "core_bcast_broadcast_total", "duty", "Duties handed to the beacon node"),
    _family(
        "histogram",
        "core_bcast_broadcast_delay_seconds",
        "duty",
        "Duty start to acceptance by the beacon node",
        *BROADCAST_BUCKETS,
    ),
    _family("counter", "core_tracker_success_duties_total", "duty", "Duties that succeeded"),
    _family("counter", "core_tracker_failed_duties_total", "duty", "Duties that failed"),
    _family("counter", "core_tracker_expect_duties_total", "duty", "Duties that were to be done"),
    _family("counter", "core_validatorapi_request_total", "endpoint content_type", "Requests of the validator client"),
    _family(
        "counter", "core_validatorapi_request_error_total", "endpoint status_code", "Requests of the validator client that failed"
    ),
    _family("histogram", "core_validatorapi_request_latency_seconds", "endpoint", "Duration of intercepted requests"),
    _family("histogram", "core_validatorapi_proxy_request_latency_seconds", "path", "Duration of passed-on requests"),
    _family("gauge", "core_validatorapi_vc_user_agent", "user_agent", "1 for the validator client seen last"),
)


class Metrics:
    """The registry of one node. constant_labels: on every series (cluster_hash, cluster_name, cluster_peer, …)."""

    def __init__(self, constant_labels: Mapping[str, str]) -> None:
        self._constant = dict(constant_labels)
        self._registry = CollectorRegistry(auto_describe=False)
        self._collectors: dict[str, Any] = {}
        self._families = {family.name: family for family in FAMILIES}
        self._series: dict[str, dict[tuple[str, ...], _Series]] = {family.name: {} for family in FAMILIES}
        self._rendering, self._text, self._stale_at = trio.Lock(), b"", float("-inf")
        self._crowded = ChangeLog(REPORT_INTERVAL_S, REPORT_INTERVAL_S)
        kinds: dict[str, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
        for family in FAMILIES:
            options = {"buckets": family.buckets} if family.kind == "histogram" else {}
            names = (*self._constant, *family.labels)
            self._collectors[family.name] = kinds[family.kind](
                family.name, family.help, labelnames=names, registry=self._registry, **options
            )
            if not family.labels:  # as Charon's: there from the start, with 0
                self._find(family.name, family.kind, NO_LABELS)

    def count(self, name: str, labels: Labels = NO_LABELS, by: float = 1) -> None:
        if (series := self._find(name, "counter", labels)) is not None:
            series.inc(by)

    def gauge(self, name: str, labels: Labels, value: float) -> None:
        if (series := self._find(name, "gauge", labels)) is not None:
            series.set(value)

    def observe(self, name: str, labels: Labels, value: float) -> None:
        if (series := self._find(name, "histogram", labels)) is not None:
            series.observe(value)

    def clear(self, name: str, labels: Labels = NO_LABELS) -> None:
        """Forget all series of a family that have these labels."""
        known = self._series[name]
        places = {label: index for index, label in enumerate(self._families[name].labels)}
        for values in [v for v in known if all(v[places[label]] == wanted for label, wanted in labels.items())]:
            self._collectors[name].remove(*self._constant.values(), *values)
            del known[values]

    def render(self) -> bytes:
        """Prometheus text exposition, in the form of Go's client: whole bounds without `.0`, no `_created` series (10 §6)."""
        return b"".join(self._pieces())

    async def exposition(self) -> bytes:
        """What `render` gives, at most FRESH_S old, made without standing in anybody's way.

        Cancellation: whoever waits for the same text makes it.
        """
        async with self._rendering:
            if trio.current_time() >= self._stale_at:
                pieces, began = list[bytes](), time.perf_counter()
                for piece in self._pieces():
                    pieces.append(piece)
                    if time.perf_counter() - began > SLICE_S:
                        await trio.sleep(SLICE_REST_S)
                        began = time.perf_counter()
                self._text, self._stale_at = b"".join(pieces), trio.current_time() + FRESH_S
            return self._text

    def _pieces(self) -> Iterator[bytes]:
        """The text, one series at a time: its values are of one moment, those of two series need not be."""
        for family in FAMILIES:
            yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n".encode()
            for values, series in list(self._series[family.name].items()):
                yield series.text({**self._constant, **dict(zip(family.labels, values, strict=True))})

    def _find(self, name: str, kind: str, labels: Labels) -> Any:
        family = self._families[name]
        if family.kind != kind or labels.keys() != set(family.labels):
            raise KeyError(f"metric {name} is a {family.kind} with labels {family.labels}, not a {kind} with {tuple(labels)}")
        values = tuple([labels[label][:MAX_LABEL_CHARACTERS] for label in family.labels])
        known = self._series[name]
        series = known.get(values)
        if series is None:
            if len(known) >= (MAX_SERIES_BY_PEER if "peer" in family.labels else MAX_SERIES):
                self._note_crowd(name)
                if kind == "gauge":
                    return None
                values = (OTHER,) * len(values)
            if values not in known:
                known[values] = _Series(self._collectors[name].labels(*self._constant.values(), *values))
            series = known[values]
        return series.child

    def _note_crowd(self, name: str) -> None:
        self.count("charon_actors_metrics_dropped_total")
        if self._crowded.is_due(name, time.monotonic()):
            log.warning("A metric has too many series; further label values are counted as `other`", metric=name)


class _Series:
    """One label combination. child: of prometheus_client. heads: its lines up to the values, which never change."""

    __slots__ = ("_heads", "child")

    def __init__(self, child: Any) -> None:
        self.child = child
        self._heads: tuple[str, ...] | None = None

    def text(self, labels: Labels) -> bytes:
        """labels: all of them."""
        [metric] = self.child.collect()
        samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
        if self._heads is None:
            self._heads = tuple([_head(sample.name, {**labels, **sample.labels}) for sample in samples])
        values: list[str] = [floatToGoString(sample.value) for sample in samples]  # type: ignore[no-untyped-call]
        lines = [head + value for head, value in zip(self._heads, values, strict=True)]
        return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def _head(name: str, labels: Labels) -> str:
    """A line up to its value, with labels in order and bounds as Go writes them."""
    bound = labels.get("le", "")
    shown = {**labels, "le": bound.removesuffix(".0")} if bound else labels
    escaped = [f'{label}="{value.translate(_ESCAPES)}"' for label, value in sorted(shown.items())]
    return f"{name}{{{','.join(escaped)}}} " if escaped else f"{name} "


_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Readiness(msgspec.Struct):
    """What /readyz answers. state: 1 is ready, others are the numbers of specification 10 §2; text: the reason."""

    state: int = 0
    text: str = "ready check uninitialised"

    @property
    def is_ready(self) -> bool:
        return self.state == 1


Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def monitoring_app(metrics: Metrics, readiness: Readiness) -> Callable[[dict[str, Any], Receive, Send], Awaitable[None]]:
    """The ASGI application of the monitoring address. Source: specification 10 §1."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status, content_type, body = 200, "text/plain; charset=utf-8", b"ok"
        match scope["path"]:
            case "/metrics":
                content_type, body = CONTENT_TYPE, await metrics.exposition()
            case "/livez":
                pass
            case "/readyz":
                if not readiness.is_ready:
                    status, body = 500, readiness.text.encode()
            case _:
                status, body = 404, b"404 page not found"
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return app
