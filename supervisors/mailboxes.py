"""The mailboxes of a node's actors, and the addresses that others hold: one table, of which both are read.

A new actor is a row here, its factory in `node_actors.py`, its body in `node.py` and its place in `node_tree.py`. Forget one of the last
two and nothing starts: the supervisor compares them. What has a row here is sampled, and closed at the end.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar, overload

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

M = TypeVar("M")


class MailboxSampled(Fact, frozen=True):
    """An actor's mail: what waits, and what was refused or lost since the sample before."""

    actor: str
    queued: int
    rejected: int
    dropped: int


class MailboxRow(Generic[M]):
    """A mailbox of the table below: of `Mailboxes` it gives the mailbox, of `Addresses` its address."""

    def __init__(self, capacity: int = 1024, policy: Policy = Policy.REJECT) -> None:
        self._capacity, self._policy = capacity, policy
        self._name = ""

    def __set_name__(self, table: type, name: str) -> None:
        self._name = name

    def make(self) -> Mailbox[M]:
        """Named like the row."""
        return Mailbox(self._name, self._capacity, self._policy)

    @overload
    def __get__(self, of: "Mailboxes", kind: type) -> Mailbox[M]: ...

    @overload
    def __get__(self, of: "Addresses", kind: type) -> Address[M]: ...

    def __get__(self, of: "_Table", kind: type) -> Mailbox[M] | Address[M]:
        return of._by_name[self._name]


class _Table:
    """One row an actor, under the actor's name in the tree."""

    identity = MailboxRow[identity_room.Message](64)
    crypto_workers = MailboxRow[crypto_room.Message]()
    slashing = MailboxRow[slashing_room.Message]()
    beacon = MailboxRow[beacon_room.Message]()
    consensus = MailboxRow[consensus_room.Message](policy=Policy.WAIT)
    signatures = MailboxRow[signatures_room.Message](policy=Policy.WAIT)
    duties = MailboxRow[duties_room.Message](4096)

    def __init__(self, by_name: Mapping[str, Mailbox[Any]]) -> None:
        self._by_name = by_name


class Addresses(_Table):
    """The actors of a node, for programs that embed it: `node.addresses.beacon.ask(...)`."""


class Mailboxes(_Table):
    """Those that are read by the actors."""

    def __init__(self) -> None:
        super().__init__({name: row.make() for name, row in vars(_Table).items() if isinstance(row, MailboxRow)})

    def addresses(self) -> Addresses:
        return Addresses(self._by_name)

    def all(self) -> Sequence[Mailbox[Any]]:
        return list(self._by_name.values())

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
