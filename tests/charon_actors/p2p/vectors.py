"""Vectors of specification 03 and small key material for the tests of this folder."""

import hashlib
import json
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[2] / "vectors" / "p2p"


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_bytes())


def counter_entropy(seed: str) -> Any:
    """Deterministic bytes, different at each call."""
    calls = 0

    def entropy(size: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{seed} {calls}".encode()).digest(size)

    return entropy
