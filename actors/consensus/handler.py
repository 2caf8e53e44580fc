"""The door of the consensus protocol: one message a stream, no response. Source: specification 06 §1, §5."""

from typing import TYPE_CHECKING, Final

import trio

from actors.consensus.messages import Message, QbftReceived
from actors.mailbox import Address, MailboxFull
from charon_actors.qbft.messages import MESSAGE_BYTES

if TYPE_CHECKING:
    from actors.mesh.handlers import Handler

RETRY_S: Final = 0.05


def consensus_handler(address: Address[Message]) -> "Handler":
    """A handler for the protocol that gives each message to the consensus actor.

    While the actor's mailbox is full it waits, for as long as the handler's time lasts (5 s), then the message is dropped.
    """

    from actors.mesh.handlers import one_way  # here, so that the actor can be used without the mesh

    async def forward(peer_index: int, content: bytes) -> None:
        while True:
            try:
                address.tell(QbftReceived(peer_index, content))
            except MailboxFull:
                await trio.sleep(RETRY_S)
            else:
                return

    return one_way(forward, MESSAGE_BYTES)
