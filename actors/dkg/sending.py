"""Sending: what a ceremony tells its peers, with all the patience that a connection needs to break and come back.

A one-way message that was under way when a connection broke is lost without a trace, so what we have sent since the last barrier
is sent again on each new sync stream; receivers ignore repeats. A send that fails is tried again after RETRY_S, at that steady pace
because all operators wait for it; a refusal ends the ceremony. Limits: one send of each message a peer at a time; the messages of one
step are kept.

Source: specification 04 §4, §5.3, §6.1.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import structlog
import trio

from actors.mesh import BadAnswer, MeshFault
from charon_actors.cluster.peers import Peer
from charon_actors.dkg.bcast import Bcast
from charon_actors.dkg.dialect import BROADCAST_SEND_S, SEND_S, SIGNATURE_REQUEST_S, Dialect
from charon_actors.dkg.faults import CeremonyFault
from charon_actors.errors import Retryable

RETRY_S: Final = 0.2
DELIVERY_S: Final = 60.0  # shares and partial signatures: a connection may break and come back meanwhile
REASON_GRACE_S: Final = 1.0

T = TypeVar("T")

log = structlog.get_logger(topic="dkg")


class PeerNetwork(Protocol):
    """What a ceremony needs of the mesh; `actors.mesh.Mesh` has it."""

    async def deliver(self, peer_index: int, protocols: Sequence[str], message: bytes, timeout_s: float = ...) -> None: ...
    async def exchange(self, peer_index: int, protocols: Sequence[str], message: bytes, timeout_s: float = ...) -> bytes: ...
    async def open_stream(self, peer_index: int, protocols: Sequence[str], timeout_s: float = ...) -> Any: ...


class Deliveries:
    """To the other operators. All of it raises CeremonyFault when it cannot work, or patience is over. Cancellation: at any time."""

    def __init__(self, dialect: Dialect, bcast: Bcast, others: Sequence[Peer], network: PeerNetwork) -> None:
        self._dialect, self._bcast, self._others, self._network = dialect, bcast, others, network
        self._sent: dict[int, list[tuple[str, bytes]]] = {}
        self.forget()

    def forget(self) -> None:
        """All peers have passed the barrier: nothing of the step before is sent again."""
        self._sent = {peer.index: [] for peer in self._others}

    async def broadcast(self, message_id: str, value: bytes) -> None:
        """Reliable broadcast: everybody's signature first, then the message to everybody (04 §4)."""
        outgoing = self._bcast.open(message_id, value)

        async def request(peer: Peer) -> None:
            async def ask() -> bytes:
                return await self._network.exchange(
                    peer.index, (self._dialect.signature_protocol,), outgoing.request, timeout_s=SIGNATURE_REQUEST_S
                )

            outgoing.accept(peer.index, await self._insist(peer, ask, SIGNATURE_REQUEST_S, f"sign our broadcast of {message_id}"))

        await self._for_all(request)
        sealed = outgoing.seal()
        await self.deliver_to_all(self._dialect.message_protocol, lambda peer: sealed, BROADCAST_SEND_S)

    async def deliver_to_all(self, protocol: str, body_for: Callable[[Peer], bytes], patience_s: float = DELIVERY_S) -> None:
        async def deliver(peer: Peer) -> None:
            body = body_for(peer)
            await self._deliver(peer, protocol, body, patience_s)
            self._sent[peer.index].append((protocol, body))

        await self._for_all(deliver)

    async def send_again(self, peer: Peer) -> None:
        """What it has been sent since the last barrier."""
        for protocol, body in list(self._sent[peer.index]):
            await self._deliver(peer, protocol, body, DELIVERY_S)

    async def _deliver(self, peer: Peer, protocol: str, body: bytes, patience_s: float) -> None:
        async def send() -> None:
            await self._network.deliver(peer.index, (protocol,), body, timeout_s=timeout_s)

        timeout_s = BROADCAST_SEND_S if protocol == self._dialect.message_protocol else SEND_S
        await self._insist(peer, send, patience_s, f"take our message on {protocol}")

    async def _for_all(self, function: Callable[[Peer], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            for peer in self._others:
                nursery.start_soon(function, peer)

    async def _insist(self, peer: Peer, send: Callable[[], Awaitable[T]], patience_s: float, what: str) -> T:
        """Until it works: connections break and come back."""
        until = trio.current_time() + patience_s
        while True:
            try:
                return await send()
            except BadAnswer:
                await trio.sleep(REASON_GRACE_S)  # if it tells us why, that ends the ceremony first
                reason = f"refused to {what}: either it was told something else before (a restart?), or it has stopped"
                raise CeremonyFault(peer.index, reason) from None
            except (MeshFault, Retryable) as error:
                if not isinstance(error, Retryable):
                    raise CeremonyFault(peer.index, f"can't {what}: {error}") from None
                if trio.current_time() >= until:
                    raise CeremonyFault(peer.index, f"did not {what} within {patience_s:g} s: {error}") from None
                log.debug("Send failed, trying again", peer=peer.name, error=str(error))
            await trio.sleep(RETRY_S)
