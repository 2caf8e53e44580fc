"""Presets: the sizes and limits that differ between networks and change SSZ types, offsets and roots.

Charon's types have mainnet's fixed sizes, so on the wire between nodes everything is mainnet's, but for Gnosis, whose limit of
withdrawals changes the root of full blocks. The minimal preset exists for test chains.

Source: specification 08 §6.1 (presets), §7.2; 20 §2.2 (minimal); consensus-specs `presets/`.
"""

from collections.abc import Mapping
from typing import Final

import msgspec


class Preset(msgspec.Struct, frozen=True):
    """What the containers of `containers.py` depend on. The defaults are mainnet's."""

    max_committees_per_slot: int = 64
    max_validators_per_committee: int = 2048
    sync_committee_size: int = 512
    max_withdrawals: int = 16


MAINNET: Final = Preset()
GNOSIS: Final = Preset(max_withdrawals=8)
MINIMAL: Final = Preset(max_committees_per_slot=4, sync_committee_size=32, max_withdrawals=4)

SYNC_COMMITTEE_SUBNET_COUNT: Final = 4  # of every preset

_LIMIT: Final = 2**20  # nothing real is near it; bounds what a beacon node can make us build
_SPEC_KEYS: Final = {
    "max_committees_per_slot": "MAX_COMMITTEES_PER_SLOT",
    "max_validators_per_committee": "MAX_VALIDATORS_PER_COMMITTEE",
    "sync_committee_size": "SYNC_COMMITTEE_SIZE",
    "max_withdrawals": "MAX_WITHDRAWALS_PER_PAYLOAD",
}


def preset_from_spec(spec: Mapping[str, str]) -> Preset:
    """The preset of a beacon node's `config/spec`; what it does not say is mainnet's. Raises: ValueError (not a sane number)."""
    values: dict[str, int] = {}
    for field, key in _SPEC_KEYS.items():
        text = spec.get(key)
        if text is None:
            continue
        if not (text.isascii() and text.isdecimal() and len(text) <= 7 and 0 < int(text) <= _LIMIT):
            raise ValueError(f"{key} is {text[:32]!r}, not a number from 1 to {_LIMIT}")
        values[field] = int(text)
    preset = Preset(**values)
    if preset.sync_committee_size % (8 * SYNC_COMMITTEE_SUBNET_COUNT):
        raise ValueError(f"SYNC_COMMITTEE_SIZE is {preset.sync_committee_size}, not a multiple of 32")
    return preset
