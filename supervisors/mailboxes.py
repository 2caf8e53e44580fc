"""The mailboxes of a node's actors, and the addresses that others hold. A new actor is a line in both, and one in the tree."""

import msgspec

import actors.beacon as beacon_room
import actors.consensus as consensus_room
import actors.duties as duties_room
import actors.identity as identity_room
import actors.signatures as signatures_room
import actors.slashing as slashing_room
from actors import crypto_workers as crypto_room
from actors.mailbox import Address, Mailbox


class Addresses(msgspec.Struct, frozen=True):
    """The actors of a node, for programs that embed it."""

    identity: Address[identity_room.Message]
    crypto_workers: Address[crypto_room.Message]
    slashing: Address[slashing_room.Message]
    beacon: Address[beacon_room.Message]
    consensus: Address[consensus_room.Message]
    signatures: Address[signatures_room.Message]
    duties: Address[duties_room.Message]


class Mailboxes:
    """One an actor, under the actor's name in the tree."""

    def __init__(self) -> None:
        self.identity = Mailbox[identity_room.Message]("identity", 64)
        self.crypto_workers = Mailbox[crypto_room.Message]("crypto_workers")
        self.slashing = Mailbox[slashing_room.Message]("slashing")
        self.beacon = Mailbox[beacon_room.Message]("beacon")
        self.consensus = Mailbox[consensus_room.Message]("consensus")
        self.signatures = Mailbox[signatures_room.Message]("signatures")
        self.duties = Mailbox[duties_room.Message]("duties", 4096)

    def addresses(self) -> Addresses:
        return Addresses(**{name: getattr(self, name).address for name in Addresses.__struct_fields__})

    def close(self) -> None:
        """Whoever still waits for an answer gets ActorDown."""
        for name in Addresses.__struct_fields__:
            getattr(self, name).close()
