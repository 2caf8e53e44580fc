"""What a key must not sign, given what it has signed: EIP-3076's conditions as pure functions.

Theory of operation. A key's history is a set of records (`History` says what is asked of it; a database or a list may stand behind
it) and a low watermark, which stands for records that are no longer, or never were, kept. The first row that applies decides:

    verdict        block                                      attestation
    BAD_NUMBERS    slot >= 2^63                               source > target, or an epoch >= 2^63
    DOUBLE_…       another record has the same slot           another record has the same target
    SURROUNDS      –                                          source < a record's source and target > its target
    SURROUNDED     –                                          source > a record's source and target < its target
    BELOW_MINIMUM  slot <= watermark                          source < watermark or target <= watermark
    REPEAT         it is recorded: may be signed again        it is recorded: may be signed again
    BELOW_MINIMUM  slot <= the lowest record's                source < the lowest source or target <= the lowest target
    RECORD         may be signed once it is recorded          may be signed once it is recorded

A record without a signing root (from an interchange file) equals nothing, so its slot or target is taken for good. The watermark of
pruned records is the highest slot, source and target among them; whatever conflicts with a pruned record lies below it:

    double          target equal to a pruned one                    target <= watermark
    surrounds       source below a pruned one's source              source <  watermark
    is surrounded   target below a pruned one's target              target <= watermark

So with any pruning, no two conflicting entries are ever both allowed. Limits: one look-up a condition.
Source: EIP-3076 ("Conditions"); consensus-specs phase0 `is_slashable_attestation_data`.
"""

import enum
from typing import Final, Protocol

import msgspec

NUMBER_LIMIT: Final = 2**63  # what a database integer holds; a real epoch is a million times a million times smaller


class BlockEntry(msgspec.Struct, frozen=True):
    """A block to be signed. pubkey: 48 bytes, a share's or the group's; signing_root: 32 bytes, None if unknown (imports only)."""

    pubkey: bytes
    signing_root: bytes | None
    slot: int


class AttestationEntry(msgspec.Struct, frozen=True):
    """An attestation to be signed. pubkey: 48 bytes; signing_root: 32 bytes, None if unknown (imports only)."""

    pubkey: bytes
    signing_root: bytes | None
    source_epoch: int
    target_epoch: int


Entry = BlockEntry | AttestationEntry


class Reason(enum.Enum):
    """Why an entry is refused (table above)."""

    BAD_NUMBERS = "impossible numbers"
    DOUBLE_BLOCK = "double block"
    DOUBLE_VOTE = "double vote"
    SURROUNDS = "surrounding vote"
    SURROUNDED = "surrounded vote"
    BELOW_MINIMUM = "below the lowest recorded"


class Minimum(msgspec.Struct, frozen=True):
    """The watermark of records that are not kept; None where there are none."""

    slot: int | None = None
    source_epoch: int | None = None
    target_epoch: int | None = None

    def covers(self, entry: Entry) -> bool:
        """Whether `entry` may conflict with what this stands for."""
        match entry:
            case BlockEntry():
                return self.slot is not None and entry.slot <= self.slot
            case AttestationEntry():
                is_low = self.source_epoch is not None and entry.source_epoch < self.source_epoch
                return is_low or (self.target_epoch is not None and entry.target_epoch <= self.target_epoch)

    def joined(self, other: "Minimum") -> "Minimum":
        """The higher of both, number by number."""
        source = _higher(self.source_epoch, other.source_epoch)
        return Minimum(_higher(self.slot, other.slot), source, _higher(self.target_epoch, other.target_epoch))

    def raised_by(self, entry: Entry) -> "Minimum":
        """At least as high as `entry`."""
        match entry:
            case BlockEntry():
                return Minimum(_highest(self.slot, entry.slot), self.source_epoch, self.target_epoch)
            case AttestationEntry():
                source = _highest(self.source_epoch, entry.source_epoch)
                return Minimum(self.slot, source, _highest(self.target_epoch, entry.target_epoch))


def _highest(a: int | None, b: int) -> int:
    return b if a is None else max(a, b)


def _higher(a: int | None, b: int | None) -> int | None:
    return a if b is None else _highest(a, b)


class History(Protocol):
    """What one key has signed."""

    def minimum(self) -> Minimum:
        """The watermark."""

    def blocks_at(self, slot: int) -> list[BlockEntry]:
        """All records of that slot."""

    def lowest_slot(self) -> int | None: ...

    def attestations_to(self, target_epoch: int) -> list[AttestationEntry]:
        """All records of that target."""

    def surrounded_by(self, source_epoch: int, target_epoch: int) -> AttestationEntry | None:
        """A record with a higher source and a lower target."""

    def surrounding(self, source_epoch: int, target_epoch: int) -> AttestationEntry | None:
        """A record with a lower source and a higher target."""

    def lowest_source(self) -> int | None: ...

    def lowest_target(self) -> int | None: ...


class Conflict(msgspec.Struct, frozen=True):
    """Why `new` must not be signed. `existing` is the record it conflicts with, or the watermark or bound it lies below."""

    kind: Reason
    new: Entry
    existing: Entry | Minimum | None


class Allowed(enum.Enum):
    """What to do with an entry that may be signed."""

    RECORD = "record it first"
    REPEAT = "it is recorded already"


def short_pubkey(pubkey: bytes) -> str:
    """`b82_97f`: the form of a key in logs (05 §1)."""
    text = pubkey.hex()
    return f"{text[:3]}_{text[-3:]}"


def _describe(value: Entry | Minimum | None) -> str:
    match value:
        case BlockEntry():
            return f"block of slot {value.slot}, root {_root(value)}"
        case AttestationEntry():
            return f"attestation {value.source_epoch} to {value.target_epoch}, root {_root(value)}"
        case Minimum():
            return f"minimum slot {value.slot}, source {value.source_epoch}, target {value.target_epoch}"
        case None:
            return "nothing"


def _root(entry: Entry) -> str:
    return "unknown" if entry.signing_root is None else entry.signing_root.hex()[:8]


class SlashableFault(Exception):
    """Signing would be, or could be, slashable. Nothing of the request was recorded; none of it may be signed."""

    def __init__(self, conflict: Conflict) -> None:
        key = short_pubkey(conflict.new.pubkey)
        super().__init__(
            f"validator {key}: {conflict.kind.value}: new {_describe(conflict.new)}, existing {_describe(conflict.existing)}"
        )
        self.conflict = conflict


def check(history: History, new: Entry) -> Allowed | Conflict:
    """Whether the key with that history may sign `new`."""
    match new:
        case BlockEntry():
            return check_block(history, new)
        case AttestationEntry():
            return check_attestation(history, new)


def check_block(history: History, new: BlockEntry) -> Allowed | Conflict:
    """Whether the key with that history may sign the block (table above)."""
    if not 0 <= new.slot < NUMBER_LIMIT:
        return Conflict(Reason.BAD_NUMBERS, new, None)
    records = history.blocks_at(new.slot)
    for record in records:
        if record.signing_root is None or record != new:
            return Conflict(Reason.DOUBLE_BLOCK, new, record)
    watermark = history.minimum()
    if watermark.covers(new):
        return Conflict(Reason.BELOW_MINIMUM, new, watermark)
    if records:
        return Allowed.REPEAT
    lowest = Minimum(slot=history.lowest_slot())
    return Conflict(Reason.BELOW_MINIMUM, new, lowest) if lowest.covers(new) else Allowed.RECORD


def check_attestation(history: History, new: AttestationEntry) -> Allowed | Conflict:
    """Whether the key with that history may sign the attestation (table above)."""
    source, target = new.source_epoch, new.target_epoch
    if not 0 <= source <= target < NUMBER_LIMIT:
        return Conflict(Reason.BAD_NUMBERS, new, None)
    records = history.attestations_to(target)
    for record in records:
        if record.signing_root is None or record != new:
            return Conflict(Reason.DOUBLE_VOTE, new, record)
    inner = history.surrounded_by(source, target)
    if inner is not None:
        return Conflict(Reason.SURROUNDS, new, inner)
    outer = history.surrounding(source, target)
    if outer is not None:
        return Conflict(Reason.SURROUNDED, new, outer)
    watermark = history.minimum()
    if watermark.covers(new):
        return Conflict(Reason.BELOW_MINIMUM, new, watermark)
    if records:
        return Allowed.REPEAT
    lowest = Minimum(source_epoch=history.lowest_source(), target_epoch=history.lowest_target())
    return Conflict(Reason.BELOW_MINIMUM, new, lowest) if lowest.covers(new) else Allowed.RECORD
