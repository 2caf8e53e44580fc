"""Which one leaf of a definition, put back to a likely value, makes its stored hash come out right. Pure.

A hash says that something differs, not what. But people edit few things, in few ways, and most leaves follow from others. So
candidates are tried (`definition_candidates.py`, for locks `lock_repair.py`), and the hash decides: one that fits is no guess any
more, for nobody finds a second content for a SHA-256. One leaf a hash: of two edited terms none is found.

    hash that fails     repairs tried
    config hash         the file under another version, or with the length of its list; the hash itself; the terms
    definition hash     operators' ENRs, their order, signatures

Leaves that don't change are hashed once: a candidate costs its leaf and the few hashes above it, some 0.1 ms.
Limits: MAX_CANDIDATES of each kind. Source: specification 01-cluster-files, sections 2, 3 and 12.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from typing import Final

from msgspec.structs import replace

from charon_actors.cluster import definition_candidates as candidates
from charon_actors.cluster import merkle
from charon_actors.cluster.definition import MAX_VALIDATORS, Creator, Definition, ValidatorAddresses
from charon_actors.cluster.definition_candidates import Change, Hints, Repair, RowChange, shown
from charon_actors.cluster.definition_json import decode_definition
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.foreign_json import decode_object
from charon_actors.cluster.hashes import config_hash, definition_hash, definition_leaves
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.schema import SCHEMAS

MAX_CANDIDATES: Final = 20_000


def repair_document(content: bytes, *, is_lock: bool) -> tuple[Repair, Definition | Lock] | None:
    """For a file that can't be read as it is, or whose config hash doesn't fit: repairs that change how the rest is read.

    Another version; the length of its list for num_validators. The result's config and definition hash fit, its lock hash may not.
    """
    try:
        decode_object(content, "")
    except ClusterFault:
        return None
    document = {key.lower(): value for key, value in json.loads(content).items()}
    stored = document.get("cluster_definition") if is_lock else document
    if not isinstance(stored, dict):
        return None
    terms = {key.lower(): value for key, value in stored.items()}
    validators = terms.get("validators")
    changes = [("version", version, "a version of the schema") for version in SCHEMAS]
    if isinstance(validators, list):
        changes.append(("num_validators", len(validators), "what its list holds"))  # type: ignore[arg-type]
    for name, value, evidence in changes:
        if terms.get(name) == value:
            continue
        changed = terms | {name: value}
        try:
            value_of: Definition | Lock
            if is_lock:
                value_of = decode_lock(json.dumps(document | {"cluster_definition": changed}).encode())
            else:
                value_of = decode_definition(json.dumps(changed).encode())
            definition = value_of.definition if isinstance(value_of, Lock) else value_of
            fits = config_hash(definition) == definition.config_hash and definition_hash(definition) == definition.definition_hash
        except ClusterFault:
            continue
        if fits:
            was = terms.get(name)
            return Repair(name, shown(was) if isinstance(was, str | int) else "absent", shown(value), evidence), value_of
    return None


def repair_config_hash(definition: Definition, hints: Hints) -> tuple[Repair, Definition] | None:
    """For a definition whose config hash doesn't fit: the repair, and the definition with it. None: no single leaf found.

    Raises ClusterFault when the definition can't be hashed.
    """
    recomputed = replace(definition, config_hash=config_hash(definition))
    if definition_hash(recomputed) == definition.definition_hash:
        evidence = "what the terms hash to; the definition hash agrees"
        return Repair("config_hash", shown(definition.config_hash), shown(recomputed.config_hash), evidence), recomputed
    leaves = _Leaves(definition, full=False)
    found = leaves.search(candidates.term_changes(definition, hints))
    return found or leaves.search_rows(candidates.row_changes(definition, hints))


def repair_definition_hash(definition: Definition, hints: Hints) -> tuple[Repair, Definition] | None:
    """The same for the definition hash of a definition whose config hash fits."""
    return _Leaves(definition, full=True).search(candidates.enr_and_signature_changes(definition, hints))


class ListRoot:
    """The hash of a list of which few elements change: a branch for each, not the whole list. Elements give one chunk each."""

    def __init__(self, roots: Sequence[bytes], limit: int) -> None:
        self._count, self._levels, self._zeros = len(roots), [list(roots)], [merkle.ZERO_CHUNK]
        for height in range((limit - 1).bit_length() if limit > 1 else 0):
            level, zero = self._levels[-1], self._zeros[-1]
            padded = [*level, zero] if len(level) % 2 else level
            self._levels.append([sha256(padded[i] + padded[i + 1]).digest() for i in range(0, len(padded), 2)])
            self._zeros.append(merkle.merkle_root([], 2 << height))

    def changed(self, roots: Mapping[int, bytes]) -> bytes:
        """The list's chunk when the elements at these positions have these roots."""
        for level, zero in zip(self._levels[:-1], self._zeros, strict=False):
            parents: dict[int, bytes] = {}
            for index in roots:
                left = index & ~1
                beside = level[left + 1] if left + 1 < len(level) else zero
                parents[left >> 1] = sha256(roots.get(left, level[left]) + roots.get(left + 1, beside)).digest()
            roots = parents
        return merkle.mix(roots[0], self._count)


class _Leaves:
    """The leaves of one of a definition's two hashes, each hashed once; asked which change makes that hash fit."""

    def __init__(self, definition: Definition, *, full: bool) -> None:
        self._definition, self._full = definition, full
        self._wanted = definition.definition_hash if full else definition.config_hash
        self._chunks = dict(definition_leaves(definition, full=full))

    def search(self, changes: Iterable[Change]) -> tuple[Repair, Definition] | None:
        blank = replace(self._definition, operators=(), validators=(), creator=Creator())
        for repair, leaf, fields in islice(changes, MAX_CANDIDATES):
            try:
                chunks = dict(definition_leaves(replace(blank, **fields), full=self._full)).get(leaf)
            except ClusterFault:  # a candidate that can't be hashed, for example a name that is too long
                continue
            if chunks is not None and self._root(leaf, chunks) == self._wanted:
                return repair, replace(self._definition, **fields)
        return None

    def search_rows(self, changes: Iterable[RowChange]) -> tuple[Repair, Definition] | None:
        """Changes of the list of validators, which may be long."""
        rows, listing = self._definition.validators, None
        for repair, changed in islice(changes, MAX_CANDIDATES):
            try:
                listing = listing or ListRoot([_row_root(row) for row in rows], MAX_VALIDATORS)
                chunk = listing.changed({index: _row_root(row) for index, row in changed.items()})
            except ClusterFault:
                continue
            if self._root("validators", [chunk]) == self._wanted:
                return repair, replace(self._definition, validators=tuple(changed.get(i, row) for i, row in enumerate(rows)))
        return None

    def _root(self, leaf: str, chunks: list[bytes]) -> bytes:
        return merkle.container(*(chunks if name == leaf else old for name, old in self._chunks.items()))[0]


def _row_root(row: ValidatorAddresses) -> bytes:
    return merkle.container(merkle.address(row.fee_recipient_address), merkle.address(row.withdrawal_address))[0]
