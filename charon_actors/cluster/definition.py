"""cluster-definition.json: what the operators agree on before keys exist. Pure: bytes to value and back.

A `Definition` holds what the file says: addresses as the literal texts, stored hashes as they stand (whether they are right
is `verify.py`'s business). Writing always computes the hashes anew, as Charon does.

Source: specification 01-cluster-files, section 2.
"""

import msgspec

from charon_actors.cluster.deposit import check_deposit_amounts
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.foreign_json import Fields, decode_object, encode_object, hex_text
from charon_actors.cluster.schema import schema_of


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


def decode_definition(content: bytes) -> Definition:
    """The definition in a file of at most 16 MiB. Checks form and amounts, not hashes. Raises ClusterFault."""
    return definition_from_fields(decode_object(content, "cluster definition"))


def encode_definition(definition: Definition) -> bytes:
    """The file, with its hashes computed anew. Raises ClusterFault for what can't be hashed."""
    return encode_object(definition_to_json(definition))


def definition_from_fields(fields: Fields) -> Definition:
    """From the object in a definition file or in a lock. Raises ClusterFault."""
    version = fields.text("version")
    schema_of(version)
    fork_version = fields.data("fork_version")
    if len(fork_version) != 4:
        raise ClusterFault("invalid fork version")
    creator = fields.object("creator")
    definition = Definition(
        name=fields.text("name"),
        creator=Creator(creator.text("address"), creator.data("config_signature")),
        operators=tuple(
            Operator(
                operator.text("address"),
                operator.text("enr"),
                operator.data("config_signature"),
                operator.data("enr_signature"),
            )
            for operator in fields.objects("operators")
        ),
        uuid=fields.text("uuid"),
        version=version,
        timestamp=fields.text("timestamp"),
        num_validators=fields.number("num_validators"),
        threshold=fields.number("threshold"),
        validators=tuple(
            ValidatorAddresses(validator.text("fee_recipient_address"), validator.text("withdrawal_address"))
            for validator in fields.objects("validators")
        ),
        dkg_algorithm=fields.text("dkg_algorithm"),
        fork_version=fork_version,
        deposit_amounts_gwei=fields.quoted_numbers("deposit_amounts"),
        consensus_protocol=fields.text("consensus_protocol"),
        target_gas_limit=fields.number("target_gas_limit"),
        compounding=fields.switch("compounding"),
        config_hash=fields.data("config_hash"),
        definition_hash=fields.data("definition_hash"),
    )
    if definition.num_validators != len(definition.validators):
        raise ClusterFault("num_validators does not match validators length")
    try:
        check_deposit_amounts(definition.deposit_amounts_gwei, compounding=definition.compounding)
    except ClusterFault as error:
        raise ClusterFault(f"invalid deposit amounts: {error}") from error
    return definition


def definition_to_json(definition: Definition) -> dict[str, object]:
    """The JSON object, keys in the order of the file, hashes computed anew."""
    from charon_actors.cluster.hashes import with_definition_hashes

    definition = with_definition_hashes(definition)
    amounts = [str(amount) for amount in definition.deposit_amounts_gwei] or None
    return {
        **({"name": definition.name} if definition.name else {}),
        "creator": {
            "address": definition.creator.address,
            "config_signature": hex_text(definition.creator.config_signature),
        },
        "operators": [
            {
                "address": operator.address,
                "enr": operator.enr,
                "config_signature": hex_text(operator.config_signature),
                "enr_signature": hex_text(operator.enr_signature),
            }
            for operator in definition.operators
        ]
        or None,
        "uuid": definition.uuid,
        "version": definition.version,
        **({"timestamp": definition.timestamp} if definition.timestamp else {}),
        "num_validators": definition.num_validators,
        "threshold": definition.threshold,
        "validators": [
            {
                "fee_recipient_address": validator.fee_recipient_address,
                "withdrawal_address": validator.withdrawal_address,
            }
            for validator in definition.validators
        ],
        "dkg_algorithm": definition.dkg_algorithm,
        "fork_version": hex_text(definition.fork_version),
        "deposit_amounts": amounts,
        "consensus_protocol": definition.consensus_protocol,
        "target_gas_limit": definition.target_gas_limit,
        "compounding": definition.compounding,
        "config_hash": hex_text(definition.config_hash),
        "definition_hash": hex_text(definition.definition_hash),
    }
