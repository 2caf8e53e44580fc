"""Peer info over streams: the answer that everybody gets, and what is done with the answers of others.

The rules (order of the checks, versions, clock offset) are in `charon_actors.p2p.peerinfo`. The polling loop is the peer child's.
Source: specification 03 §6.
"""

from collections.abc import Callable

import structlog
import trio

from actors.mesh.events import MeshEvents
from actors.mesh.handlers import HANDLER_TIMEOUT_S, PEER_ERRORS, close_quietly
from actors.mesh.stream import Stream
from charon_actors.p2p.peerinfo import MAX_MESSAGE_BYTES, Judgement, PeerInfo, ProblemFilter, encode_peer_info


async def serve_peerinfo(stream: Stream, own_info: Callable[[], PeerInfo]) -> None:
    """Answer one request, whatever it says: relays send an empty one."""
    with trio.move_on_after(HANDLER_TIMEOUT_S):
        try:
            await stream.read_delimited(MAX_MESSAGE_BYTES)
            await stream.write_delimited(encode_peer_info(own_info()))
        except PEER_ERRORS:
            pass
    await close_quietly(stream)


def report(found: Judgement, peer: str, events: MeshEvents) -> None:
    """Set the gauges of what was concluded; what was not stays as it was."""
    labels = {"peer": peer}

    def text(name: str, label: str, value: str | None) -> None:
        if value is not None:
            events.clear(name, labels)
            events.gauge(name, {**labels, label: value}, 1)

    text("app_peerinfo_nickname", "peer_nickname", found.nickname)
    text("app_peerinfo_dv_client", "dv_client", found.client)
    text("app_peerinfo_version", "version", found.version)
    text("app_peerinfo_git_commit", "git_hash", found.git_hash)
    if found.is_version_supported is not None:
        events.gauge("app_peerinfo_version_support", labels, float(found.is_version_supported))
    if found.is_version_supported and found.clock_offset_s is not None:
        events.gauge("app_peerinfo_clock_offset_seconds", labels, found.clock_offset_s)
    if found.started_at_s is not None:
        events.gauge("app_peerinfo_start_time_secs", labels, found.started_at_s)
    if found.is_builder_enabled is not None:
        events.gauge("app_peerinfo_builder_api_enabled", labels, float(found.is_builder_enabled))


def report_own(own: PeerInfo, own_name: str, names: tuple[str, ...], events: MeshEvents) -> None:
    """The gauges that are set at start: our own values, and every peer's index."""
    labels = {"peer": own_name}
    events.gauge("app_peerinfo_version", {**labels, "version": own.version}, 1)
    events.gauge("app_peerinfo_git_commit", {**labels, "git_hash": own.git_hash}, 1)
    events.gauge("app_peerinfo_nickname", {**labels, "peer_nickname": own.nickname}, 1)
    events.gauge("app_peerinfo_dv_client", {**labels, "dv_client": own.client or "charon"}, 1)
    events.gauge("app_peerinfo_start_time_secs", labels, own.started_at_s or 0.0)
    events.gauge("app_peerinfo_builder_api_enabled", labels, float(own.is_builder_enabled))
    for index, name in enumerate(names):
        events.gauge("app_peerinfo_index", {"peer": name}, index)


class PeerInfoLog:
    """Logs problems (the same one at most every 12 s) and new nicknames of one peer."""

    def __init__(self) -> None:
        self._problems = ProblemFilter()
        self._nickname = ""

    def write(self, found: Judgement, log: structlog.stdlib.BoundLogger, now: float) -> None:
        if found.nickname is not None and found.nickname != self._nickname:
            self._nickname = found.nickname
            log.info("Peer's nickname", nickname=found.nickname)
        for problem in found.problems:
            if self._problems.is_due(problem, now):
                log.warning("Peer info problem", problem=problem, version=found.version or "")
