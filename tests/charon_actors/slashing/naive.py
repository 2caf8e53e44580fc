"""The oracle: a list of everything that was signed, and the definition of slashable, with no thought of speed."""

from charon_actors.slashing import AttestationEntry, BlockEntry, Entry, Minimum


def conflicts(a: Entry, b: Entry) -> bool:
    """Whether signing both is slashable (phase0 `is_slashable_attestation_data`, or two blocks of a slot)."""
    if a.pubkey != b.pubkey:
        return False
    match a, b:
        case BlockEntry(), BlockEntry():
            return a.slot == b.slot and a != b
        case AttestationEntry(), AttestationEntry():
            double = a.target_epoch == b.target_epoch and a != b
            around = a.source_epoch < b.source_epoch and b.target_epoch < a.target_epoch
            within = b.source_epoch < a.source_epoch and a.target_epoch < b.target_epoch
            return double or around or within
    return False


class ListHistory:
    """A `History` over a list, for one key."""

    def __init__(self, entries: list[Entry], minimum: Minimum | None = None) -> None:
        self._blocks = [entry for entry in entries if isinstance(entry, BlockEntry)]
        self._votes = [entry for entry in entries if isinstance(entry, AttestationEntry)]
        self._minimum = minimum or Minimum()

    def minimum(self) -> Minimum:
        return self._minimum

    def blocks_at(self, slot: int) -> list[BlockEntry]:
        return [block for block in self._blocks if block.slot == slot]

    def lowest_slot(self) -> int | None:
        return min((block.slot for block in self._blocks), default=None)

    def attestations_to(self, target_epoch: int) -> list[AttestationEntry]:
        return [vote for vote in self._votes if vote.target_epoch == target_epoch]

    def surrounded_by(self, source_epoch: int, target_epoch: int) -> AttestationEntry | None:
        inner = (v for v in self._votes if v.source_epoch > source_epoch and v.target_epoch < target_epoch)
        return next(inner, None)

    def surrounding(self, source_epoch: int, target_epoch: int) -> AttestationEntry | None:
        outer = (v for v in self._votes if v.source_epoch < source_epoch and v.target_epoch > target_epoch)
        return next(outer, None)

    def lowest_source(self) -> int | None:
        return min((vote.source_epoch for vote in self._votes), default=None)

    def lowest_target(self) -> int | None:
        return min((vote.target_epoch for vote in self._votes), default=None)
