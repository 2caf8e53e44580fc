"""Where this room's vectors are. What they are: README files of `tests/vectors`."""

import json
import tarfile
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[2] / "vectors"
CLUSTER = VECTORS / "cluster"


def load(name: str) -> Any:
    return json.loads((CLUSTER / name).read_text("utf-8"))


def real_files(name: str) -> list[tuple[str, bytes]]:
    """(archive/path, content) of every file of that name in the archives that real Charon wrote."""
    found = []
    for archive in sorted((VECTORS / "live").glob("*/*.tar.gz")):
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                file = tar.extractfile(member) if member.name.rsplit("/", 1)[-1] == name else None
                if file is not None:
                    found.append((f"{archive.name}/{member.name}", file.read()))
    assert found, f"no {name} in the archives"
    return found
