"""Slashing guard: what a key is about to sign is on disk, or refused, before anything is signed or sent.

Accepts     Guard, ImportHistory, ExportHistory (ask)
Owns        the slashing records of all shares and group keys, in one SQLite file (slashing_store.py)
May touch   that file, in a worker thread. Not: sockets, clocks, another actor's state
Mailbox     1024, policy `reject`: an ask that finds it full signs nothing
Cancelled   between requests; a transaction that has begun is finished first, so at worst something is recorded and not signed
Restart     opens the file again; whatever was answered before is in it. Askers get ActorDown and ask again: a repeat is allowed
Source      EIP-3076; architecture §4 (disk)
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, assert_never

import trio

from actors.mailbox import Inbox, Request
from actors.slashing_store import SlashingStore, open_store
from charon_actors.errors import Retryable
from charon_actors.slashing import (
    AttestationEntry,
    BlockEntry,
    Entry,
    Interchange,
    InterchangeFault,
    SlashableFault,
)

T = TypeVar("T")

__all__ = [
    "AttestationEntry",
    "BlockEntry",
    "ExportHistory",
    "Guard",
    "ImportHistory",
    "Message",
    "NotRecorded",
    "SlashableFault",
    "SlashingGuard",
]


class NotRecorded(Retryable):
    """The disk refused the transaction (full, for instance): nothing was recorded, nothing may be signed."""


class Guard(Request[None], frozen=True):
    """Record what is to be signed: all entries, durably, or none.

    entries: of any keys, each with its signing root; the same entry again is allowed.
    Raises: SlashableFault (names the key, the kind, the new and the existing entry); NotRecorded; ActorDown; MailboxFull. After
    any of them nothing may be signed.
    Cancellation: at any time; entries may have been recorded.
    Source: EIP-3076.
    """

    entries: tuple[Entry, ...]


class ImportHistory(Request[int], frozen=True):
    """Merge the histories of an interchange file. Reply: how many entries it has.

    Raises: InterchangeFault (another chain; nothing was changed), NotRecorded, ActorDown, MailboxFull.
    """

    interchange: Interchange


class ExportHistory(Request[Interchange], frozen=True):
    """Everything that is recorded, with watermarks as entries without a signing root."""


Message = Guard | ImportHistory | ExportHistory


class SlashingGuard:
    """path: the database file, made if it is missing. genesis_validators_root: 32 bytes, of the chain that is signed for.

    `run` raises UserError when the file cannot be used; call `open_store` once before the tree starts to tell the operator.
    """

    def __init__(self, path: Path, genesis_validators_root: bytes) -> None:
        self._path, self._root = path, genesis_validators_root
        self._thread = trio.CapacityLimiter(1)  # the default's are shared: with DNS, which peers can make slow

    async def run(self, inbox: Inbox[Message]) -> None:
        store = await self._in_thread(open_store, self._path, self._root)
        try:
            async for mail in inbox:
                match mail.message:
                    case Guard(entries) as request:
                        await mail.reply_to(request).answer(self._record, store, entries, errors=(SlashableFault, NotRecorded))
                    case ImportHistory(interchange) as request:
                        await mail.reply_to(request).answer(
                            self._import, store, interchange, errors=(InterchangeFault, NotRecorded)
                        )
                    case ExportHistory() as request:
                        await mail.reply_to(request).answer(self._in_thread, store.export)
                    case unknown:
                        assert_never(unknown)
        finally:
            store.close()

    async def _record(self, store: SlashingStore, entries: tuple[Entry, ...]) -> None:
        try:
            await self._in_thread(store.record, entries)
        except sqlite3.OperationalError as error:
            raise NotRecorded(f"the slashing records could not be written: {error}") from error

    async def _import(self, store: SlashingStore, interchange: Interchange) -> int:
        try:
            return await self._in_thread(store.import_entries, interchange)
        except sqlite3.OperationalError as error:
            raise NotRecorded(f"the slashing records could not be written: {error}") from error

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Not abandoned when cancelled: one transaction at a time."""
        return await trio.to_thread.run_sync(function, *args, limiter=self._thread)
