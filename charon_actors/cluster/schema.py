"""Versions of the cluster file schema, as data. A version is a row; code asks the row, never compares version texts.

    gate                        since       meaning
    bytes_are_base64            1.0 to 1.1  hashes, signatures and shares as base64; later as 0x-hex
    has_nonce                   1.0 to 1.1  operators carry a number that is always 0
    is_legacy_hashed            1.0 to 1.2  texts hashed without length, addresses and fork version as ASCII, lists without limit
    hashes_timestamp            1.1         the definition hash covers the timestamp (the config hash always does)
    may_lack_aggregate          1.0 to 1.1  a lock without signature aggregate is accepted
    has_operator_signatures     1.3         operators sign config hash and ENR (EIP-712); older signatures can't be verified
    has_creator                 1.4         a creator signs the config hash
    has_validator_addresses     1.5         addresses of each validator; before, one pair for all
    is_padded                   1.5         missing addresses and signatures are hashed as zeros, not left out
    deposits                    1.6         INLINED (1.6), SINGLE (1.7), LIST (1.8): deposits of each validator in the lock
    has_registrations           1.7         builder registrations and node signatures in the lock
    has_deposit_amounts         1.8         partial deposits
    has_consensus_protocol      1.9
    has_gas_limit               1.10        target gas limit and compounding
    signature_pieces            1.11: 32    65-byte signatures that one signature field may hold (Safe wallets); before: 1
    is_written                  1.10, 1.11  `create dkg` and `create cluster` can write it

Source: specification 01, sections 0, 2, 3 and 5.
"""

import enum
from collections.abc import Mapping
from typing import Final

import msgspec

from charon_actors.cluster.faults import ClusterFault


class Deposits(enum.Enum):
    """How a lock of this version holds the deposits of a validator."""

    NONE = enum.auto()
    INLINED = enum.auto()  # one; its four leaves are hashed as the validator's own, a historic mistake that stays
    SINGLE = enum.auto()  # one
    LIST = enum.auto()


class Schema(msgspec.Struct, frozen=True):
    """What one version of the schema holds; the gates of the table above."""

    version: str
    bytes_are_base64: bool
    has_nonce: bool
    is_legacy_hashed: bool
    hashes_timestamp: bool
    may_lack_aggregate: bool
    has_operator_signatures: bool
    has_creator: bool
    has_validator_addresses: bool
    is_padded: bool
    deposits: Deposits
    has_registrations: bool
    has_deposit_amounts: bool
    has_consensus_protocol: bool
    has_gas_limit: bool
    signature_pieces: int
    is_written: bool


def _schema(minor: int) -> Schema:
    return Schema(
        version=f"v1.{minor}.0",
        bytes_are_base64=minor <= 1,
        has_nonce=minor <= 1,
        is_legacy_hashed=minor <= 2,
        hashes_timestamp=minor >= 1,
        may_lack_aggregate=minor <= 1,
        has_operator_signatures=minor >= 3,
        has_creator=minor >= 4,
        has_validator_addresses=minor >= 5,
        is_padded=minor >= 5,
        deposits={6: Deposits.INLINED, 7: Deposits.SINGLE}.get(minor, Deposits.LIST if minor >= 8 else Deposits.NONE),
        has_registrations=minor >= 7,
        has_deposit_amounts=minor >= 8,
        has_consensus_protocol=minor >= 9,
        has_gas_limit=minor >= 10,
        signature_pieces=32 if minor >= 11 else 1,
        is_written=minor >= 10,
    )


SCHEMAS: Final[Mapping[str, Schema]] = {schema.version: schema for schema in map(_schema, range(12))}
WRITTEN_VERSIONS: Final = tuple(version for version, schema in SCHEMAS.items() if schema.is_written)
DEFAULT_VERSION: Final = "v1.10.0"  # a v1.10.x peer cannot read v1.11.0 (01 §0)


def schema_of(version: str) -> Schema:
    """The row of a version text such as `v1.10.0`. Raises ClusterFault."""
    schema = SCHEMAS.get(version)
    if schema is None:
        shown = version if version.isprintable() and len(version) <= 16 else "…"
        oldest, *_, newest = SCHEMAS
        raise ClusterFault(f"unsupported definition version {shown!r}, this build reads {oldest} to {newest}")
    return schema
