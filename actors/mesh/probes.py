"""Probes: what we ask one peer again and again, and count of it: ping every second, peerinfo every minute, a sample twice a minute.

Source: specification 03 §6, §7.
"""

from collections import Counter
from typing import Final

import msgspec
import trio

from actors.log import Log
from actors.mesh.connection import ProtocolNotSupported
from actors.mesh.facts import PeerInfoJudged, PeerSampled, PingAnswered, PingFailed
from actors.mesh.handlers import close_quietly
from actors.mesh.host import Host, MeshPeer
from actors.mesh.links import Links
from actors.mesh.messages import Exchange, MeshFault, NoConnection
from actors.mesh.outbox import Outbox
from actors.mesh.owner import STREAM_ERRORS
from actors.mesh.peerinfo import PeerInfoLog
from actors.mesh.ping import BACKOFF_BASE_S, BACKOFF_MAX_S, PING, PING_INTERVAL_S, PING_TIMEOUT_S, PingFault, ping_once
from charon_actors.p2p.backoff import Backoff
from charon_actors.p2p.peerinfo import (
    MAX_MESSAGE_BYTES,
    PEERINFO,
    POLL_INTERVAL_S,
    Judgement,
    PeerInfoFault,
    decode_peer_info,
    encode_peer_info,
    judge_peerinfo,
)

SAMPLE_INTERVAL_S: Final = 30.0
RECYCLED_WITHIN_S: Final = 1.0  # a circuit at its limit is replaced sooner; after that a lost peer counts as gone


class Probes:
    """Of one incarnation. ping_rtt_s: of the last ping; None while the peer doesn't answer. judgement: of its peerinfo."""

    def __init__(self, peer: MeshPeer, host: Host, links: Links, outbox: Outbox, log: Log) -> None:
        self._peer, self._host, self._links, self._outbox, self._log = peer, host, links, outbox, log
        self._info_log = PeerInfoLog()
        self.ping_rtt_s: float | None = None
        self.judgement = Judgement()

    async def run(self) -> None:
        """Never returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sample)
            if self._host.is_pinging:
                nursery.start_soon(self._ping)
            if self._host.is_polling_peerinfo:
                nursery.start_soon(self._poll_peerinfo)

    async def _ping(self) -> None:
        backoff = Backoff(BACKOFF_BASE_S, BACKOFF_MAX_S, self._host.entropy)
        while True:
            start, news = trio.current_time(), self._links.news
            rtt, error = await self._ping_best()
            if rtt is not None:
                backoff.reset()
                self._host.on_fact(PingAnswered(self._peer.name, rtt))
                if self.ping_rtt_s is None:
                    self._log.info("Peer connected", rtt_ms=round(rtt * 1000, 2))
                self._set_rtt(rtt)
                await trio.sleep_until(start + PING_INTERVAL_S)
                continue
            if error is not None:
                self._host.on_fact(PingFailed(self._peer.name))
                if self.ping_rtt_s is not None:
                    self._log.warning("Peer does not answer", error=error)
            self._set_rtt(None)
            with trio.move_on_after(backoff.next_delay_s()):
                await news.wait()

    async def _ping_best(self) -> tuple[float | None, str | None]:
        """(round trip, None), (None, what went wrong) or, for an error of a circuit that is recycled, (None, None)."""
        was_answering = self.ping_rtt_s is not None
        try:
            with trio.fail_after(PING_TIMEOUT_S):
                with trio.fail_after(RECYCLED_WITHIN_S if was_answering else PING_TIMEOUT_S):
                    connection = await self._links.best()
                stream = await connection.open_stream((PING,))
                try:
                    rtt = await ping_once(stream, self._host.entropy)
                except BaseException:
                    stream.reset()
                    raise
                await close_quietly(stream)
                return rtt, None
        except trio.TooSlowError:
            return None, "no answer" if self._links.connections else "no connection"
        except PingFault as error:
            return None, str(error)
        except STREAM_ERRORS as error:
            return None, str(error) if isinstance(error, ProtocolNotSupported) else None

    def _set_rtt(self, rtt_s: float | None) -> None:
        self.ping_rtt_s = rtt_s
        if self._links.is_answering is (rtt_s is None):
            self._links.is_answering = rtt_s is not None
            self._links.publish()

    async def _poll_peerinfo(self) -> None:
        while True:
            await trio.sleep(POLL_INTERVAL_S)
            own = self._host.own_info()
            request = Exchange(
                (PEERINFO,),
                encode_peer_info(msgspec.structs.replace(own, git_hash="")),  # Charon's requests leave it empty
                limit_bytes=MAX_MESSAGE_BYTES,
                topic="peerinfo",
            )
            try:
                answer, rtt = await self._outbox.exchange_timed(request)
                response = decode_peer_info(answer)
            except (MeshFault, PeerInfoFault) as error:
                if self._outbox.send_log.add(False) == "failing" and not isinstance(error, NoConnection):
                    self._log.warning("Cannot get peer info", error=str(error))
                continue
            if self._outbox.send_log.add(True) == "recovered":
                self._log.info("Sends to peer work again")
            self.judgement = judge_peerinfo(
                response, own=own, now_s=self._host.wall_clock(), rtt_s=rtt, profile=self._host.profile
            )
            self._host.on_fact(PeerInfoJudged(self._peer.name, self.judgement))
            self._info_log.write(self.judgement, self._log, trio.current_time())

    async def _sample(self) -> None:
        while True:
            connections = self._links.connections
            relayed = sum(connection.relayed for connection in connections)
            streams = Counter(
                ("Outbound" if stream.is_outbound else "Inbound", stream.protocol)
                for connection in connections
                for stream in connection.streams.values()
                if stream.protocol
            )
            self._host.on_fact(PeerSampled(self._peer.name, len(connections) - relayed, relayed, dict(streams)))
            await trio.sleep(SAMPLE_INTERVAL_S)
