"""Duties of one kind, remembered by epoch, and when they stop being right. No I/O; the actor fetches what is missing.

An answer of a beacon node holds as long as its dependent root is the chain's. It is dropped when

    rule      the epoch that settles it has begun and it was fetched before (below)
    head      a head event names another dependent root for it
    reorg     a reorganisation goes back to an earlier epoch
    metadata  a later answer for the same epoch has another dependent root (some indices were missing, so it was asked again)
    age       it is more than KEPT_EPOCHS epochs old and another one came (who asks for an old one gets it), or MAX_EPOCHS newer ones came

Settled means: no further block can change it, short of a reorganisation. The dependent root of epoch e is the last block

    attester, proposer v2    of epoch e-2: settled when e-1 has begun
    proposer v1              of epoch e-1: settled when e has begun (07 §7.3 #1: else validator clients read everything again for ever)
    sync                     no dependent root; fetched once an epoch

A validator without duty is remembered as such. Duties are kept by (validator, slot), so that none comes twice (08 §5.2, hazard).
Source: specification 08 §5.2, 07 §7.3 #1 and #2; beacon-APIs `eventstream`, `getProposerDuties`, `getAttesterDuties`.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec

from charon_actors.eth2.beacon_api import DutyList, HeadEvent

KEPT_EPOCHS: Final = 3
MAX_EPOCHS: Final = 8
ZERO_ROOT: Final = bytes(32)


class CachedDuties(msgspec.Struct):
    """Of one epoch. asked: the validator indices that the answer is about."""

    fetched_in: int
    dependent_root: bytes
    execution_optimistic: bool
    asked: set[int]
    duties: dict[tuple[int, int], Any]


class DutiesCache:
    """settles_before: how many epochs before its own an epoch's duties are settled (1: attester, proposer v2; 0: the others)."""

    def __init__(self, settles_before: int) -> None:
        self._settles_before = settles_before
        self._entries: dict[int, CachedDuties] = {}

    def entry(self, epoch: int, current_epoch: int) -> CachedDuties | None:
        """What is known and still right."""
        entry = self._entries.get(epoch)
        if entry is None:
            return None
        settled_in = epoch - self._settles_before
        if entry.fetched_in < settled_in <= current_epoch:
            del self._entries[epoch]
            return None
        return entry

    def missing(self, epoch: int, current_epoch: int, indices: Collection[int]) -> list[int]:
        """Which of `indices` have to be asked for, in the given order, each once."""
        entry = self.entry(epoch, current_epoch)
        return [index for index in dict.fromkeys(indices) if entry is None or index not in entry.asked]

    def add(self, epoch: int, current_epoch: int, asked: Collection[int], answer: DutyList) -> bool:
        """Remember an answer. False: it contradicts what was known, which is forgotten with it; ask for everything again."""
        entry = self.entry(epoch, current_epoch)
        if entry is not None and entry.dependent_root != answer.dependent_root:
            del self._entries[epoch]
            return False
        if entry is None:
            entry = CachedDuties(current_epoch, answer.dependent_root, answer.execution_optimistic, set(), {})
            self._entries[epoch] = entry
        entry.execution_optimistic = answer.execution_optimistic
        entry.asked.update(asked)
        for duty in answer.duties:
            entry.duties[duty.validator_index, getattr(duty, "slot", 0)] = duty
        self._trim(current_epoch, epoch)
        return True

    def on_head(self, event: HeadEvent, slots_per_epoch: int) -> None:
        """Forget what the head's dependent roots contradict."""
        epoch = event.slot // slots_per_epoch
        if self._settles_before:
            self._check(epoch, event.previous_dependent_root)
            self._check(epoch + 1, event.current_dependent_root)
        else:
            self._check(epoch, event.current_dependent_root)

    def on_reorg(self, epoch: int) -> int:
        """Forget the epochs after the one in which the chains part. Returns how many there were."""
        later = [known for known in self._entries if known > epoch]
        for known in later:
            del self._entries[known]
        return len(later)

    def _check(self, epoch: int, root: bytes | None) -> None:
        entry = self._entries.get(epoch)
        if entry is not None and root is not None and entry.dependent_root not in (root, ZERO_ROOT):
            del self._entries[epoch]

    def _trim(self, current_epoch: int, added: int) -> None:
        for known in [known for known in self._entries if known < current_epoch - KEPT_EPOCHS and known != added]:
            del self._entries[known]
        while len(self._entries) > MAX_EPOCHS:
            del self._entries[next(iter(self._entries))]


def of_those_asked(answer: DutyList, indices: Sequence[int]) -> DutyList:
    """Without what nobody has asked for: it would only fill the cache."""
    asked = frozenset(indices)
    return msgspec.structs.replace(answer, duties=tuple(duty for duty in answer.duties if duty.validator_index in asked))
