"""Test vectors by their path under tests/vectors."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent / "vectors"


def vector(name: str) -> Any:
    return json.loads((ROOT / name).read_text())
