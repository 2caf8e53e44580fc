"""What the operators agree on before keys exist, as a value.

A `Definition` holds what cluster-definition.json says (`definition_json.py`): addresses as the literal texts, stored hashes as they
stand (whether they are right is `verify.py`'s business). What a version of the file lacks has the zero value here; the one pair of
addresses that files before v1.5 hold stands at every validator.

Source: specification 01-cluster-files, section 2.
"""

from typing import Final

import msgspec

from charon_actors.cluster.faults import ClusterFault

MAX_VALIDATORS: Final = 65536


class Operator(msgspec.Struct, frozen=True):
    """Address: 0x and 40 hex digits, or empty. Signatures: EIP-712, 65 bytes (v1.11: multiples), or empty."""

    address: str = ""
    enr: str = ""
    config_signature: bytes = b""
    enr_signature: bytes = b""


class Creator(msgspec.Struct, frozen=True):
    address: str = ""
    config_signature: bytes = b""


class ValidatorAddresses(msgspec.Struct, frozen=True):
    fee_recipient_address: str
    withdrawal_address: str


class Definition(msgspec.Struct, frozen=True):
    """fork_version: 4 bytes. deposit_amounts_gwei: as in the file, empty means the defaults. Hashes: 32 bytes each."""

    name: str
    creator: Creator
    operators: tuple[Operator, ...]
    uuid: str
    version: str
    timestamp: str
    num_validators: int
    threshold: int
    validators: tuple[ValidatorAddresses, ...]
    dkg_algorithm: str
    fork_version: bytes
    deposit_amounts_gwei: tuple[int, ...]
    consensus_protocol: str
    target_gas_limit: int
    compounding: bool
    config_hash: bytes = b""
    definition_hash: bytes = b""


def shared_addresses(definition: Definition) -> ValidatorAddresses:
    """The one pair of addresses of a definition before v1.5. Raises ClusterFault when validators differ."""
    pairs = set(definition.validators)
    if len(pairs) > 1:
        raise ClusterFault("multiple withdrawal or fee recipient addresses found")
    return pairs.pop() if pairs else ValidatorAddresses("", "")
