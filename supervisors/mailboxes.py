"""The mailboxes of a node's actors, and the addresses that others hold. A new actor is a line in both, and one in the tree."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import trio

import actors.beacon as beacon_room
import actors.consensus as consensus_room
import actors.duties as duties_room
import actors.identity as identity_room
import actors.signatures as signatures_room
import actors.slashing as slashing_room
from actors import crypto_workers as crypto_room
from actors.facts import Fact, OnFact
from actors.mailbox import Address, Mailbox, Policy

SAMPLE_INTERVAL_S: Final = 10.0


class MailboxSampled(Fact, frozen=True):
    """An actor's mail: what waits, and what was refused or lost since the sample before."""

    actor: str
    queued: int
    rejected: int
    dropped: int


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
        self.consensus = Mailbox[consensus_room.Message]("consensus", policy=Policy.WAIT)
        self.signatures = Mailbox[signatures_room.Message]("signatures", policy=Policy.WAIT)
        self.duties = Mailbox[duties_room.Message]("duties", 4096)

    def addresses(self) -> Addresses:
        return Addresses(**{name: mailbox.address for name, mailbox in zip(Addresses.__struct_fields__, self.all(), strict=True)})

    def all(self) -> Sequence[Mailbox[Any]]:
        return [getattr(self, name) for name in Addresses.__struct_fields__]

    def close(self) -> None:
        """Whoever still waits for an answer gets ActorDown."""
        for mailbox in self.all():
            mailbox.close()


async def sample(mailboxes: Iterable[Mailbox[Any]], on_fact: OnFact, interval_s: float = SAMPLE_INTERVAL_S) -> None:
    """Never returns: says of each mailbox how it stands, now and again."""
    mailboxes, lost = list(mailboxes), dict[str, tuple[int, int]]()
    while True:
        for mailbox in mailboxes:
            now = mailbox.statistics()
            rejected, dropped = lost.get(mailbox.name, (0, 0))
            on_fact(MailboxSampled(mailbox.name, now.queued, now.rejected - rejected, now.dropped - dropped))
            lost[mailbox.name] = (now.rejected, now.dropped)
        await trio.sleep(interval_s)
