"""The definition, and the keys that the ceremony made, as a value.

A `Lock` holds what cluster-lock.json says (`lock_json.py`); whether hashes and signatures are right is `verify.py`'s business. The
cluster's identity at run time is the file's `lock_hash`, never a recomputed one. Source: specification 01-cluster-files, section 5.
"""

from typing import Final

import msgspec

from charon_actors.cluster.definition import Definition
from charon_actors.cluster.deposit import Deposit
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.registration import Registration

NO_DEPOSIT: Final = Deposit(b"", b"", 0)
NO_REGISTRATION: Final = Registration(b"", 0, 0, b"")


class DistributedValidator(msgspec.Struct, frozen=True):
    """public_key: 48 bytes on chain. public_shares: 48 bytes each, position i belongs to share index i + 1.

    Locks before v1.6 have no deposits, those before v1.7 NO_REGISTRATION.
    """

    public_key: bytes
    public_shares: tuple[bytes, ...]
    deposits: tuple[Deposit, ...] = ()  # ascending amount
    registration: Registration = NO_REGISTRATION


class Lock(msgspec.Struct, frozen=True):
    """lock_hash: 32 bytes. signature_aggregate: 96 bytes over it by all shares. node_signatures: 65 bytes an operator."""

    definition: Definition
    validators: tuple[DistributedValidator, ...]
    signature_aggregate: bytes = b""
    lock_hash: bytes = b""
    node_signatures: tuple[bytes, ...] = ()


def single_deposit(validator: DistributedValidator) -> Deposit:
    """The deposit of a validator in a lock of v1.6 or v1.7, all zero if it has none. Raises ClusterFault for several."""
    if len(validator.deposits) > 1:
        raise ClusterFault("more than one deposit in a version that holds one")
    return validator.deposits[0] if validator.deposits else NO_DEPOSIT
