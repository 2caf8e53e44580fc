"""The door of the consensus protocol: one message a stream, no response. Source: specification 06 §1, §5."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from actors.consensus.messages import Message, QbftReceived
from actors.mailbox import Address
from charon_actors.qbft import MESSAGE_BYTES

if TYPE_CHECKING:
    from actors.mesh import Handler


def consensus_handler(address: Address[Message], on_dropped: Callable[[int], None] = lambda peer_index: None) -> "Handler":
    """A handler for the protocol that gives each message to the consensus actor.

    While the actor's mailbox is full it waits, for as long as the handler's time lasts (5 s); then the message is dropped, and `on_dropped`
    is told the peer's index. The mailbox's policy must be WAIT.
    """

    from actors.mesh import one_way

    async def forward(peer_index: int, content: bytes) -> None:
        await address.deliver(QbftReceived(peer_index, content))

    return one_way(forward, MESSAGE_BYTES, on_dropped=on_dropped)
