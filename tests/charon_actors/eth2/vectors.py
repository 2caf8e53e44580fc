"""Where the vectors of the eth2 tests are, and how their JSON is read."""

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "vectors"


@cache
def load(name: str) -> Any:
    """The parsed JSON of `vectors/<name>`; callers don't change it."""
    return json.loads((FOLDER / name).read_text())


def raw(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))
