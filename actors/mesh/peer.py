"""Peer: owns everything between us and one other node of the cluster.

Accepts     Send (tell) · Deliver, Exchange, OpenStream, Adopt, FetchStatus (ask)
Owns        the peer's connections, dialed and adopted (`links.py`); its address book (`dialing.py`); what is being sent (`outbox.py`);
            ping, peerinfo and samples (`probes.py`)
May touch   sockets (through the transports), relay children (OpenCircuit), its row of the board
Mailbox     1024, policy `reject`; of the sends at most MAX_IN_FLIGHT and MAX_IN_FLIGHT_BYTES are under way, more get PeerBusy
Cancelled   at any await: streams are reset, connections closed, nothing stays open
Restart     starts without connections: the old ones are closed with the incarnation; it dials again at once
Source      specification 03-p2p, sections 2.2 to 2.4, 3.4, 3.5, 5.3, 6, 7
"""

from functools import partial
from typing import assert_never

import trio

from actors.log import get_logger
from actors.mailbox import Inbox, Mail
from actors.mesh.board import PeerFacts
from actors.mesh.dialing import Dialing
from actors.mesh.host import Host, MeshPeer
from actors.mesh.links import Links
from actors.mesh.messages import (
    Adopt,
    ConnectionStatus,
    Deliver,
    Exchange,
    FetchStatus,
    MeshFault,
    OpenStream,
    PeerStatus,
    SendDetached,
)
from actors.mesh.outbox import Outbox
from actors.mesh.probes import Probes
from charon_actors.p2p.multiaddr import named_address

Message = SendDetached | Deliver | Exchange | OpenStream | Adopt | FetchStatus

log = get_logger("p2p")


class PeerActor:
    """One incarnation of a peer child; see the contract on top."""

    def __init__(self, peer: MeshPeer, host: Host) -> None:
        self._peer, self._host = peer, host
        bound = log.bind(peer=peer.name)
        self._links = Links(peer, host, bound)
        self._dialing = Dialing(peer, host, self._links, bound)
        self._outbox = Outbox(peer, host, self._links, bound)
        self._probes = Probes(peer, host, self._links, self._outbox, bound)
        self._nursery: trio.Nursery

    async def run(self, inbox: Inbox[Message]) -> None:
        """Serve until the inbox ends, the scope is cancelled or something of ours fails."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._links.begin(nursery)
                nursery.start_soon(self._dialing.run)
                nursery.start_soon(self._probes.run)
                async for mail in inbox:
                    self._take(mail)
                nursery.cancel_scope.cancel()
        finally:
            self._links.close_all("this peer's actor ended")
            self._host.board.publish_peer(self._peer.index, PeerFacts())

    def _take(self, mail: Mail[Message]) -> None:
        start_soon = self._nursery.start_soon
        match mail.message:
            case SendDetached() as send:
                if self._outbox.is_busy(len(send.message)):
                    self._outbox.refuse("busy")
                else:
                    start_soon(self._outbox.send, send)
            case Deliver() as deliver:
                reply = mail.reply_to(deliver)
                if self._outbox.is_busy(len(deliver.message)):
                    reply.fail(self._outbox.busy())
                else:
                    start_soon(partial(reply.answer, self._outbox.deliver, deliver, errors=(MeshFault,)))
            case Exchange() as exchange:
                answer = mail.reply_to(exchange)
                if self._outbox.is_busy(len(exchange.message)):
                    answer.fail(self._outbox.busy())
                else:
                    start_soon(partial(answer.answer, self._outbox.exchange, exchange, errors=(MeshFault,)))
            case OpenStream() as wanted:
                opened = mail.reply_to(wanted)
                if self._outbox.is_busy(0):
                    opened.fail(self._outbox.busy())
                else:
                    start_soon(partial(opened.answer, self._outbox.open_for, wanted, opened, errors=(MeshFault,)))
            case Adopt(connection) as adopt:
                adopted = mail.reply_to(adopt)
                if not adopted.is_abandoned:
                    self._links.add(connection)
                    adopted.send(None)
            case FetchStatus() as request:
                mail.reply_to(request).send(self._status())
            case unknown:
                assert_never(unknown)

    def _status(self) -> PeerStatus:
        now, identify = trio.current_time(), self._links.identify
        return PeerStatus(
            index=self._peer.index,
            name=self._peer.name,
            connections=tuple(
                ConnectionStatus(
                    named_address(str(connection.remote_address)),
                    connection.outbound,
                    connection.limited,
                    connection.relayed,
                    connection.rtt_s or None,
                    now - since,
                )
                for connection, since in self._links.connections.items()
            ),
            ping_rtt_s=self._probes.ping_rtt_s,
            agent=identify.agent if identify else "",
            protocols=identify.protocols if identify else (),
            addresses=tuple(named_address(str(address)) for address in self._dialing.direct_addresses(now)),
            dial_failures=self._dialing.failures(),
            version=self._probes.judgement.version or "",
            clock_offset_s=self._probes.judgement.clock_offset_s,
            nickname=self._probes.judgement.nickname or "",
        )
