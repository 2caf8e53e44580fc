"""Versions of the cluster file schema, as data. A version is a row; code asks the row, never compares version texts.

    gate                    v1.10.0     v1.11.0     meaning
    signature_pieces        1           32          65-byte signatures that one signature field may hold (Safe wallets)
    written                 yes         yes         `create dkg` and `create cluster` can write it

Rows for older versions differ in more gates; they come with the code that reads them. Source: specification 01, sections 0, 2.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from charon_actors.cluster.faults import ClusterFault


class Schema(msgspec.Struct, frozen=True):
    """What one version of the schema holds."""

    version: str
    signature_pieces: int


SCHEMAS: Final[Mapping[str, Schema]] = {
    schema.version: schema for schema in (Schema("v1.10.0", signature_pieces=1), Schema("v1.11.0", signature_pieces=32))
}
DEFAULT_VERSION: Final = "v1.10.0"  # a v1.10.x peer cannot read v1.11.0 (01 §0)


def schema_of(version: str) -> Schema:
    """The row of a version text such as `v1.10.0`. Raises ClusterFault."""
    schema = SCHEMAS.get(version)
    if schema is None:
        known = ", ".join(SCHEMAS)
        shown = version if version.isprintable() and len(version) <= 16 else "…"
        raise ClusterFault(f"unsupported definition version {shown!r}, this build reads {known}")
    return schema
