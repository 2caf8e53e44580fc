"""cluster-definition.json: a `Definition` from the file and back. Pure: bytes to value and back.

Reading checks form and amounts, not hashes; writing always computes the hashes anew, as Charon does.

Source: specification 01-cluster-files, section 2.
"""

import msgspec

from charon_actors.cluster.definition import (
    MAX_VALIDATORS,
    Creator,
    Definition,
    Operator,
    ValidatorAddresses,
    shared_addresses,
)
from charon_actors.cluster.deposit import check_deposit_amounts
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.foreign_json import Fields, base64_text, decode_object, encode_object, hex_or_empty
from charon_actors.cluster.hashes import with_definition_hashes
from charon_actors.cluster.schema import Schema, schema_of
from charon_actors.file_kinds import FileKind


def decode_definition(content: bytes) -> Definition:
    """The definition in a file of at most 64 MiB. Checks form and amounts, not hashes. Raises ClusterFault."""
    return definition_from_fields(decode_object(content, "cluster definition", FileKind.DEFINITION))


def encode_definition(definition: Definition) -> bytes:
    """The file, with its hashes computed anew. Raises ClusterFault for what can't be hashed."""
    return encode_object(definition_to_json(definition))


def definition_from_fields(fields: Fields) -> Definition:
    """From the object in a definition file or in a lock. Raises ClusterFault."""
    version = fields.text("version")
    schema = schema_of(version)
    if schema.bytes_are_base64:
        fields = fields.with_base64()
    fork_version = fields.hex_data("fork_version")
    if len(fork_version) != 4:
        raise ClusterFault("invalid fork version")
    num_validators = fields.number("num_validators")
    definition = Definition(
        name=fields.text("name"),
        creator=_creator(fields.object("creator")) if schema.has_creator else Creator(),
        operators=tuple(_operator(operator, schema) for operator in fields.objects("operators")),
        uuid=fields.text("uuid"),
        version=version,
        timestamp=fields.text("timestamp"),
        num_validators=num_validators,
        threshold=fields.number("threshold"),
        validators=_each_addresses(fields) if schema.has_validator_addresses else _shared_addresses(fields, num_validators),
        dkg_algorithm=fields.text("dkg_algorithm"),
        fork_version=fork_version,
        deposit_amounts_gwei=fields.quoted_numbers("deposit_amounts") if schema.has_deposit_amounts else (),
        consensus_protocol=fields.text("consensus_protocol") if schema.has_consensus_protocol else "",
        target_gas_limit=fields.number("target_gas_limit") if schema.has_gas_limit else 0,
        compounding=schema.has_gas_limit and fields.switch("compounding"),
        config_hash=fields.data("config_hash"),
        definition_hash=fields.data("definition_hash"),
    )
    if num_validators != len(definition.validators):
        raise ClusterFault("num_validators does not match validators length")
    try:
        check_deposit_amounts(definition.deposit_amounts_gwei, compounding=definition.compounding)
    except ClusterFault as error:
        raise ClusterFault(f"invalid deposit amounts: {error}") from error
    return definition


def definition_to_json(definition: Definition) -> dict[str, object]:
    """The JSON object, keys in the order of the file, hashes computed anew. Raises ClusterFault."""
    definition = with_definition_hashes(definition)
    schema = schema_of(definition.version)
    data_text = base64_text if schema.bytes_are_base64 else hex_or_empty
    operators = [
        {
            "address": operator.address,
            "enr": operator.enr,
            **({"nonce": 0} if schema.has_nonce else {}),
            "config_signature": data_text(operator.config_signature),
            "enr_signature": data_text(operator.enr_signature),
        }
        for operator in definition.operators
    ]
    written: dict[str, object] = {"name": definition.name} if definition.name else {}
    if schema.has_creator:
        creator = definition.creator
        written["creator"] = {"address": creator.address, "config_signature": data_text(creator.config_signature)}
    written |= {"operators": operators or None, "uuid": definition.uuid, "version": definition.version}
    if definition.timestamp:
        written["timestamp"] = definition.timestamp
    written |= {"num_validators": definition.num_validators, "threshold": definition.threshold}
    written |= _addresses_to_json(definition, schema)
    written |= {"dkg_algorithm": definition.dkg_algorithm, "fork_version": hex_or_empty(definition.fork_version)}
    if schema.has_deposit_amounts:
        written["deposit_amounts"] = [str(amount) for amount in definition.deposit_amounts_gwei] or None
    if schema.has_consensus_protocol:
        written["consensus_protocol"] = definition.consensus_protocol
    if schema.has_gas_limit:
        written |= {"target_gas_limit": definition.target_gas_limit, "compounding": definition.compounding}
    hashes = {"config_hash": definition.config_hash, "definition_hash": definition.definition_hash}
    return written | {name: data_text(value) for name, value in hashes.items()}


def _creator(fields: Fields) -> Creator:
    return Creator(fields.text("address"), fields.data("config_signature"))


def _operator(fields: Fields, schema: Schema) -> Operator:
    if schema.has_nonce and fields.number("nonce"):
        raise ClusterFault("non-zero operator nonce not supported")
    return Operator(fields.text("address"), fields.text("enr"), fields.data("config_signature"), fields.data("enr_signature"))


def _each_addresses(fields: Fields) -> tuple[ValidatorAddresses, ...]:
    return tuple(_addresses(validator) for validator in fields.objects("validators"))


def _shared_addresses(fields: Fields, num_validators: int) -> tuple[ValidatorAddresses, ...]:
    if not 1 <= num_validators <= MAX_VALIDATORS:  # a number that somebody wrote must not decide how much memory we take
        raise fields.fault("num_validators", f"not from 1 to {MAX_VALIDATORS}")
    return (_addresses(fields),) * num_validators


def _addresses(fields: Fields) -> ValidatorAddresses:
    return ValidatorAddresses(fields.text("fee_recipient_address"), fields.text("withdrawal_address"))


def _addresses_to_json(definition: Definition, schema: Schema) -> dict[str, object]:
    if not schema.has_validator_addresses:
        return {name: address for name, address in msgspec.structs.asdict(shared_addresses(definition)).items() if address}
    return {"validators": [msgspec.structs.asdict(validator) for validator in definition.validators]}
