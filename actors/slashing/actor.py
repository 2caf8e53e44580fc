"""Slashing guard: what a key is about to sign is on disk, or refused, before anything is signed or sent.

After a loss of records that the operator has owned up to (`is_lost`) it only listens for two epochs: every Guard fails with Listening.

Accepts     Guard, ImportHistory, ExportHistory (ask)
Owns        the slashing records of all shares and group keys, in a SQLite file and its trace (slashing_store.py)
May touch   those files, in a worker thread. Not: sockets, the wall clock, another actor's state
Mailbox     1024, policy `reject`: an ask that finds it full signs nothing
Cancelled   between requests; a transaction that has begun is finished first, so at worst something is recorded and not signed
Restart     opens the files again; whatever was answered before is in them. Askers get ActorDown and ask again: a repeat is allowed.
            While the disk is full, or fails, it keeps trying to open them, once in OPEN_AGAIN_S
Source      EIP-3076; architecture §4 (disk)
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, assert_never

import trio

from actors.change_log import ChangeLog
from actors.facts import OnFact, unheard
from actors.log import get_logger
from actors.mailbox import Inbox, Request
from actors.slashing.facts import OnlyListening
from actors.slashing.store import LISTEN_S, DiskRefuses, Listening, SlashingStore, open_store
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

log = get_logger("slashing")

OPEN_AGAIN_S: Final = 1.0
LISTENED_EVERY_S: Final = 30.0  # at most so much of it is listened to again after a kill

__all__ = [
    "AttestationEntry",
    "BlockEntry",
    "ExportHistory",
    "Guard",
    "ImportHistory",
    "Listening",
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
    Raises: SlashableFault (names the key, the kind, the new and the existing entry); NotRecorded; Listening; ActorDown; MailboxFull.
    After any of them nothing may be signed.
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

    is_lost: the operator says that records were lost. listen_s: two epochs of the chain. Says `OnlyListening` with how long
    nothing is signed yet, when that changes: 0 at the end, and at once where nothing was lost.
    `run` raises UserError when the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        genesis_validators_root: bytes,
        *,
        is_lost: bool = False,
        listen_s: float = LISTEN_S,
        on_fact: OnFact = unheard,
    ) -> None:
        self._path, self._root, self._is_lost, self._listen_s = path, genesis_validators_root, is_lost, listen_s
        self._on_fact = on_fact
        self._thread = trio.CapacityLimiter(1)  # the default's are shared: with DNS, which peers can make slow
        self._warnings = ChangeLog(repeat_s=60.0)

    async def run(self, inbox: Inbox[Message]) -> None:
        store = await self._open()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, store)
                async for mail in inbox:
                    match mail.message:
                        case Guard(entries) as request:
                            await mail.reply_to(request).answer(
                                self._record, store, entries, errors=(SlashableFault, NotRecorded, Listening)
                            )
                        case ImportHistory(interchange) as request:
                            await mail.reply_to(request).answer(
                                self._import, store, interchange, errors=(InterchangeFault, NotRecorded)
                            )
                        case ExportHistory() as request:
                            await mail.reply_to(request).answer(self._in_thread, store.export)
                        case unknown:
                            assert_never(unknown)
                nursery.cancel_scope.cancel()
        finally:
            store.close()

    async def _open(self) -> SlashingStore:
        while True:
            try:
                return await self._in_thread(self._opened)
            except DiskRefuses as refusal:
                if self._warnings.is_due(str(refusal), trio.current_time()):
                    log.warning("Nothing can be signed, trying again", reason=str(refusal))
            await trio.sleep(OPEN_AGAIN_S)

    def _opened(self) -> SlashingStore:
        return open_store(self._path, self._root, is_lost=self._is_lost, listen_s=self._listen_s)

    async def _listen(self, store: SlashingStore) -> None:
        """What is left of it, if anything; said at the beginning and at the end."""
        left_s = store.listen_left_s
        if left_s:
            log.warning("Slashing records were lost: nothing is signed yet, only listening", left_s=round(left_s))
        elif self._is_lost:
            log.info("--slashing-record-lost has no effect: nothing was lost")
        while left_s:
            self._on_fact(OnlyListening(left_s))
            began_s = trio.current_time()
            await trio.sleep(min(left_s, LISTENED_EVERY_S))
            try:
                await self._in_thread(store.listened, trio.current_time() - began_s)
            except sqlite3.OperationalError as error:  # then so much of it is listened to again
                if self._warnings.is_due(str(error), trio.current_time()):
                    log.warning("Slashing records could not be written, listening on", reason=str(error))
            left_s = store.listen_left_s
            if not left_s:
                log.info("Two epochs were listened to, signing again")
        self._on_fact(OnlyListening(0.0))

    async def _record(self, store: SlashingStore, entries: tuple[Entry, ...]) -> None:
        try:
            await self._in_thread(store.record, entries)
        except (sqlite3.OperationalError, OSError) as error:
            raise NotRecorded(f"the slashing records could not be written: {error}") from error

    async def _import(self, store: SlashingStore, interchange: Interchange) -> int:
        try:
            return await self._in_thread(store.import_entries, interchange)
        except (sqlite3.OperationalError, OSError) as error:
            raise NotRecorded(f"the slashing records could not be written: {error}") from error

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Not abandoned when cancelled: one transaction at a time."""
        return await trio.to_thread.run_sync(function, *args, limiter=self._thread)
