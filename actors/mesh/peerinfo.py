"""Peer info over streams: the answer that everybody gets, and what is done with the answers of others.

The rules (order of the checks, versions, clock offset) are in `charon_actors.p2p.peerinfo`. The polling loop is the peer child's.
Source: specification 03 §6.
"""

from collections.abc import Callable

import trio

from actors.log import Log
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


class PeerInfoLog:
    """Logs problems (the same one at most every 12 s) and new nicknames of one peer."""

    def __init__(self) -> None:
        self._problems = ProblemFilter()
        self._nickname = ""

    def write(self, found: Judgement, log: Log, now: float) -> None:
        if found.nickname is not None and found.nickname != self._nickname:
            self._nickname = found.nickname
            log.info("Peer's nickname", nickname=found.nickname)
        for problem in found.problems:
            if self._problems.is_due(problem, now):
                log.warning("Peer info problem", problem=problem, version=found.version or "")
