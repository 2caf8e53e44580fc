"""One key's history in the slashing record: the `History` that the rules of EIP-3076 ask, as rows of a database.

Pruning: the newest KEPT_VOTES attestations and KEPT_BLOCKS blocks of a key stay; older ones go into its watermark in the same
transaction (rules.py says why that is safe). Whatever is added or pruned changes the record's digest, too.
Limits: KEPT_… rows a key plus PRUNE_SLACK. Raises of all methods: sqlite3.Error. Blocking; inside a transaction of the caller's.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from charon_actors.slashing import AttestationEntry, BlockEntry, Digest, Entry, Minimum

KEPT_VOTES: Final = 512  # more than two days of mainnet epochs
KEPT_BLOCKS: Final = 128
PRUNE_SLACK: Final = 64  # so that most transactions needn't prune


class StoredHistory:
    """The `History` of rules.py. key_id: of the row in `keys`. digest: of the record, kept up to date."""

    def __init__(self, db: sqlite3.Connection, key_id: int, pubkey: bytes, digest: Digest) -> None:
        self._db, self._key_id, self._pubkey, self._digest = db, key_id, pubkey, digest

    def minimum(self) -> Minimum:
        row = self._db.execute("SELECT low_slot, low_source, low_target FROM keys WHERE id = ?", (self._key_id,))
        return Minimum(*row.fetchone())

    def blocks_at(self, slot: int) -> list[BlockEntry]:
        return self._blocks("AND slot = ?", slot)

    def lowest_slot(self) -> int | None:
        return self._lowest("SELECT MIN(slot) FROM blocks WHERE key_id = ?")

    def attestations_to(self, target_epoch: int) -> list[AttestationEntry]:
        return self._votes("AND target = ?", target_epoch)

    def surrounded_by(self, source_epoch: int, target_epoch: int) -> AttestationEntry | None:
        found = self._votes("AND source > ? AND target < ? LIMIT 1", source_epoch, target_epoch, index="votes_by_source")
        return next(iter(found), None)

    def surrounding(self, source_epoch: int, target_epoch: int) -> AttestationEntry | None:
        found = self._votes("AND source < ? AND target > ? LIMIT 1", source_epoch, target_epoch, index="votes_by_target")
        return next(iter(found), None)

    def lowest_source(self) -> int | None:
        return self._lowest("SELECT MIN(source) FROM votes WHERE key_id = ?")

    def lowest_target(self) -> int | None:
        return self._lowest("SELECT MIN(target) FROM votes WHERE key_id = ?")

    def add(self, entry: Entry) -> None:
        self._digest.add(entry)
        match entry:
            case BlockEntry():
                row = (self._key_id, entry.slot, entry.signing_root)
                self._db.execute("INSERT INTO blocks (key_id, slot, signing_root) VALUES (?, ?, ?)", row)
            case AttestationEntry():
                vote = (self._key_id, entry.target_epoch, entry.source_epoch, entry.signing_root)
                self._db.execute("INSERT INTO votes (key_id, target, source, signing_root) VALUES (?, ?, ?, ?)", vote)

    def raise_minimum(self, entries: Iterable[Entry]) -> None:
        minimum = before = self.minimum()
        for entry in entries:
            minimum = minimum.raised_by(entry)
        if minimum != before:
            self._digest.remove_key(self._pubkey, before)
            self._digest.add_key(self._pubkey, minimum)
            row = (minimum.slot, minimum.source_epoch, minimum.target_epoch, self._key_id)
            self._db.execute("UPDATE keys SET low_slot = ?, low_source = ?, low_target = ? WHERE id = ?", row)

    def prune(self) -> None:
        """Move the oldest records into the watermark, once there are PRUNE_SLACK more than are kept."""
        (blocks,) = self._db.execute("SELECT COUNT(*) FROM blocks WHERE key_id = ?", (self._key_id,)).fetchone()
        if blocks > KEPT_BLOCKS + PRUNE_SLACK:
            cut = self._lowest(
                f"SELECT slot FROM blocks WHERE key_id = ? ORDER BY slot DESC LIMIT 1 OFFSET {KEPT_BLOCKS}"  # noqa: S608 – a constant
            )
            self._forget(self._blocks("AND slot <= ?", cut))
            self._db.execute("DELETE FROM blocks WHERE key_id = ? AND slot <= ?", (self._key_id, cut))
        (votes,) = self._db.execute("SELECT COUNT(*) FROM votes WHERE key_id = ?", (self._key_id,)).fetchone()
        if votes > KEPT_VOTES + PRUNE_SLACK:
            cut = self._lowest(
                f"SELECT target FROM votes WHERE key_id = ? ORDER BY target DESC LIMIT 1 OFFSET {KEPT_VOTES}"  # noqa: S608 – a constant
            )
            self._forget(self._votes("AND target <= ?", cut))
            self._db.execute("DELETE FROM votes WHERE key_id = ? AND target <= ?", (self._key_id, cut))

    def _forget(self, entries: Sequence[Entry]) -> None:
        self.raise_minimum(entries)
        for entry in entries:
            self._digest.remove(entry)

    def entries(self) -> list[Entry]:
        blocks: list[Entry] = list(self._blocks("ORDER BY slot"))
        votes: list[Entry] = list(self._votes("ORDER BY target"))
        minimum = self.minimum()
        if minimum.slot is not None:
            blocks.insert(0, BlockEntry(self._pubkey, None, minimum.slot))
        if minimum.source_epoch is not None and minimum.target_epoch is not None:
            votes.insert(0, AttestationEntry(self._pubkey, None, minimum.source_epoch, minimum.target_epoch))
        return [*dict.fromkeys(blocks), *dict.fromkeys(votes)]

    def _blocks(self, condition: str, *values: int | None) -> list[BlockEntry]:
        query = f"SELECT signing_root, slot FROM blocks WHERE key_id = ? {condition}"  # noqa: S608 – conditions of this file
        return [BlockEntry(self._pubkey, *row) for row in self._db.execute(query, (self._key_id, *values))]

    def _votes(self, condition: str, *values: int | None, index: str = "votes_by_target") -> list[AttestationEntry]:
        """index: the one that a new vote is near the end of; SQLite can't know, and would read the whole history."""
        query = f"SELECT signing_root, source, target FROM votes INDEXED BY {index} WHERE key_id = ? {condition}"  # noqa: S608
        return [AttestationEntry(self._pubkey, *row) for row in self._db.execute(query, (self._key_id, *values))]

    def _lowest(self, query: str) -> int | None:
        row = self._db.execute(query, (self._key_id,)).fetchone()
        return None if row is None or row[0] is None else int(row[0])
