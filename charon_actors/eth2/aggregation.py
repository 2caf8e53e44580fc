"""Who aggregates: the selection by the aggregated selection proof. Pure.

Source: specification 08 §6.3; consensus-specs phase0 `is_aggregator`, altair `is_sync_committee_aggregator`.
"""

from hashlib import sha256
from typing import Final

TARGET_AGGREGATORS_PER_COMMITTEE: Final = 16
TARGET_AGGREGATORS_PER_SYNC_SUBCOMMITTEE: Final = 16


def _is_selected(selection_proof: bytes, modulo: int) -> bool:
    return int.from_bytes(sha256(selection_proof).digest()[:8], "little") % max(modulo, 1) == 0


def is_aggregator(selection_proof: bytes, committee_length: int, target: int = TARGET_AGGREGATORS_PER_COMMITTEE) -> bool:
    """Whether the group's proof (96 bytes) selects the validator of a committee of that length; `target` is the spec's."""
    return _is_selected(selection_proof, committee_length // target)


def is_sync_committee_aggregator(
    selection_proof: bytes,
    sync_committee_size: int = 512,
    subnets: int = 4,
    target: int = TARGET_AGGREGATORS_PER_SYNC_SUBCOMMITTEE,
) -> bool:
    """Whether the group's proof (96 bytes) selects the validator for its subcommittee; the numbers are the spec's."""
    return _is_selected(selection_proof, sync_committee_size // subnets // target)
