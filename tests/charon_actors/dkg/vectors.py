"""The vectors of the ceremony, and participants that are made from them."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from charon_actors.dkg.dialect import DIALECTS, Dialect
from charon_actors.dkg.frost import Frost
from charon_actors.profile import Profile

FOLDER = Path(__file__).parents[2] / "vectors" / "dkg"
V1_10, V1_11 = DIALECTS[Profile.V1_10], DIALECTS[Profile.V1_11]
DIALECT_OF_BCAST: dict[str, Dialect] = {"1.0.0": V1_10, "2.0.0": V1_11}


@lru_cache
def load(name: str) -> Any:
    return json.loads((FOLDER / name).read_text())


def counting_entropy(label: str) -> Callable[[int], bytes]:
    """Reproducible bytes that never repeat: SHA-512 in counter mode. May be called from threads."""
    count = itertools.count()

    def draw(size: int) -> bytes:
        drawn = b""
        while len(drawn) < size:
            drawn += hashlib.sha512(f"{label}/{next(count)}".encode()).digest()
        return drawn[:size]

    return draw


def scripted_entropy(draws: list[bytes], label: str) -> Callable[[int], bytes]:
    """First the given draws, in order, then reproducible bytes."""
    queue: Iterator[bytes] = iter(draws)
    rest = counting_entropy(label)

    def draw(size: int) -> bytes:
        drawn = next(queue, None)
        if drawn is None:
            return rest(size)
        assert len(drawn) == size
        return drawn

    return draw


def participant(vector: Any, own_index: int, validators: list[int] | None = None) -> Frost:
    """The participant of a frost_nX_tY.json file, with its seeds."""
    chosen = vector["validators"] if validators is None else [vector["validators"][i] for i in validators]
    draws = [bytes.fromhex(seed) for validator in chosen for seed in validator["participants"][own_index]["seeds"]]
    return Frost(
        own_index=own_index,
        operators=vector["n"],
        threshold=vector["t"],
        validators=len(chosen),
        entropy=scripted_entropy(draws, f"weights/{own_index}"),
    )


def party(operators: int, threshold: int, validators: int, label: str = "party") -> list[Frost]:
    """All participants of a ceremony, with reproducible randomness."""
    return [
        Frost(
            own_index=index,
            operators=operators,
            threshold=threshold,
            validators=validators,
            entropy=counting_entropy(f"{label}/{index}"),
        )
        for index in range(operators)
    ]
