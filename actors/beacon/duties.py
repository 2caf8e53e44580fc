"""Duties: who has which, as the beacon nodes say it, kept for as long as the chain stays as it is.

What is kept, and until when, is `charon_actors/beacon/duties_cache.py`; which endpoint is asked, the rows in `endpoints.py`. One question a
kind and epoch at a time: whoever comes second finds the answer in the cache.

Source: specification 08 §5.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from actors.beacon import messages
from actors.beacon.endpoints import ATTESTER_DUTIES, PROPOSER_DUTIES, SYNC_DUTIES, DutiesRow
from actors.beacon.facts import CacheSeen
from actors.beacon.messages import BeaconFault, BeaconUnavailable, DutiesAnswer
from actors.facts import OnFact
from actors.log import get_logger
from charon_actors.beacon.duties_cache import DutiesCache, of_those_asked
from charon_actors.eth2.beacon_api import ChainEvent, DutyList, HeadEvent, ReorgEvent
from charon_actors.eth2.chain import Chain

log = get_logger("beacon")

FETCHES: Final = 3  # of duties, until none is missing

Read = Callable[[DutiesRow, int, Sequence[int]], Awaitable[DutyList]]


class KnownDuties:
    """Of one incarnation. active_indices: of the cluster's validators. read: asks the beacon nodes. cluster: its group public keys."""

    def __init__(
        self,
        cluster: frozenset[bytes],
        active_indices: Callable[[], Awaitable[Sequence[int]]],
        read: Read,
        chain: Callable[[], Chain],
        slot_now: Callable[[], int],
        on_fact: OnFact,
    ) -> None:
        self._cluster, self._active_indices, self._read = cluster, active_indices, read
        self._chain, self._slot_now, self._on_fact = chain, slot_now, on_fact
        self._caches = {
            row.name: (row, DutiesCache(row.lookahead)) for row in (ATTESTER_DUTIES, SYNC_DUTIES, *PROPOSER_DUTIES.values())
        }
        self._locks: dict[tuple[str, int], trio.Lock] = {}

    async def attester(self, request: messages.AttesterDuties) -> DutiesAnswer:
        return await self._of(ATTESTER_DUTIES, request.epoch, request.indices)

    async def sync(self, request: messages.SyncDuties) -> DutiesAnswer:
        return await self._of(SYNC_DUTIES, request.epoch, request.indices)

    async def _of(self, row: DutiesRow, epoch: int, indices: Sequence[int]) -> DutiesAnswer:
        """indices: none for all active ones."""
        indices = indices or await self._active_indices()
        if not indices:
            return DutiesAnswer((), bytes(32), False)
        cache = self._caches[row.name][1]
        async with self._alone(row.name, epoch):
            current = self._current_epoch()
            missing = cache.missing(epoch, current, indices)
            self._note(row, not missing)
            for _ in range(FETCHES):  # what was known may be dropped while the rest is asked for
                if not missing:
                    break
                answer = of_those_asked(await self._read(row, epoch, missing), missing)
                if not cache.add(epoch, current, missing, answer):
                    cache.add(epoch, current, indices, of_those_asked(await self._read(row, epoch, indices), indices))
                missing = cache.missing(epoch, current, indices)
            entry = None if missing else cache.entry(epoch, current)
        if entry is None:  # the epoch's end, or another chain, in the very moment
            raise BeaconUnavailable(None, f"{row.spoken} duties of epoch {epoch} changed while they were asked for")
        wanted = set(indices)
        duties = tuple(duty for (index, _), duty in entry.duties.items() if index in wanted)
        return DutiesAnswer(duties, entry.dependent_root, entry.execution_optimistic)

    async def proposer(self, request: messages.ProposerDuties) -> DutiesAnswer:
        """Version 2, where the beacon node has it, has another dependent root."""
        epoch, row = request.epoch, PROPOSER_DUTIES[2 if request.version == 2 else 1]
        cache = self._caches[row.name][1]
        async with self._alone(row.name, epoch):
            current = self._current_epoch()
            entry = cache.entry(epoch, current)
            self._note(row, entry is not None)
            if entry is None:
                try:
                    answer = await self._read(row, epoch, ())
                except BeaconFault as fault:
                    if request.version != 2 or fault.status not in (404, 405, 501):
                        raise
                    answer = await self._read(PROPOSER_DUTIES[1], epoch, ())
                ours = tuple(duty for duty in answer.duties if duty.pubkey in self._cluster)
                cache.add(epoch, current, (), DutyList(ours, answer.dependent_root, answer.execution_optimistic))
                entry = cache.entry(epoch, current)
        if entry is None:
            raise BeaconUnavailable(None, f"proposer duties of epoch {epoch} changed while they were asked for")
        return DutiesAnswer(tuple(entry.duties.values()), entry.dependent_root, entry.execution_optimistic)

    def hear(self, event: ChainEvent) -> None:
        """What the chain has become: some of what is kept may no longer hold."""
        slots_per_epoch = self._chain().slots_per_epoch
        if isinstance(event, HeadEvent):
            for row, cache in self._caches.values():
                if row.follows_head:
                    cache.on_head(event, slots_per_epoch)
        elif isinstance(event, ReorgEvent):
            epoch, dropped = (event.slot - event.depth) // slots_per_epoch, 0
            for row, cache in self._caches.values():
                count = cache.on_reorg(epoch)
                dropped += count
                if count:
                    self._on_fact(CacheSeen(row.metric, "invalidated_reorg", count))
            log.info("Chain reorganisation", slot=event.slot, depth=event.depth, duties_dropped=dropped)

    def _current_epoch(self) -> int:
        return self._chain().epoch_of(self._slot_now())

    def _note(self, row: DutiesRow, is_hit: bool) -> None:
        self._on_fact(CacheSeen(row.metric, "hits" if is_hit else "misses"))

    @asynccontextmanager
    async def _alone(self, kind: str, epoch: int) -> AsyncIterator[None]:
        lock = self._locks.setdefault((kind, epoch), trio.Lock())
        try:
            async with lock:
                yield
        finally:
            statistics = lock.statistics()
            if not statistics.locked and not statistics.tasks_waiting:
                self._locks.pop((kind, epoch), None)
