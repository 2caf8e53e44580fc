"""config_hash, definition_hash and lock_hash of cluster files. Pure.

    config_hash       what operators sign: the terms, without ENRs and signatures (but with addresses)
    definition_hash   all of the definition, with the stored config_hash as its last leaf
    lock_hash         M([definition, validators]): the cluster's identity; not the aggregate, not the node signatures

`definition_leaves` gives the leaves by name, so a mismatch can be told by field. Source: specification 01, sections 3.2, 3.3.
"""

from msgspec.structs import replace

from charon_actors.cluster import merkle
from charon_actors.cluster.definition import Creator, Definition, Operator
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.lock import DistributedValidator, Lock
from charon_actors.cluster.schema import Schema, schema_of

MAX_OPERATORS = 256
MAX_VALIDATORS = 65536
MAX_DEPOSITS = 256
MAX_DEPOSIT_AMOUNT_CHUNKS = 64


def config_hash(definition: Definition) -> bytes:
    """32 bytes. Raises ClusterFault for values that can't be hashed (too long, no address)."""
    return _root("config hash", definition, full=False)


def definition_hash(definition: Definition) -> bytes:
    """32 bytes, over the stored `config_hash` of the definition. Raises ClusterFault."""
    return _root("definition hash", definition, full=True)


def lock_hash(lock: Lock) -> bytes:
    """32 bytes, over the stored hashes of the lock's definition. Raises ClusterFault."""
    definition = _root("definition hash", lock.definition, full=True)
    validators = merkle.listing((_validator(validator) for validator in lock.validators), MAX_VALIDATORS)
    return merkle.merkle_root([definition, *validators])


def with_definition_hashes(definition: Definition) -> Definition:
    """The same with both hashes computed."""
    definition = replace(definition, config_hash=config_hash(definition))
    return replace(definition, definition_hash=definition_hash(definition))


def with_lock_hashes(lock: Lock) -> Lock:
    """The same with all three hashes computed."""
    lock = replace(lock, definition=with_definition_hashes(lock.definition))
    return replace(lock, lock_hash=lock_hash(lock))


def definition_leaves(definition: Definition, *, full: bool) -> list[tuple[str, list[bytes]]]:
    """Name and chunks of each leaf, in order; `full`: of definition_hash, else of config_hash. Raises ClusterFault."""
    schema = schema_of(definition.version)
    leaves = [
        ("uuid", merkle.text(definition.uuid, 64)),
        ("name", merkle.text(definition.name, 256)),
        ("version", merkle.text(definition.version, 16)),
        ("timestamp", merkle.text(definition.timestamp, 32)),
        ("num_validators", merkle.number(definition.num_validators)),
        ("threshold", merkle.number(definition.threshold)),
        ("dkg_algorithm", merkle.text(definition.dkg_algorithm, 32)),
        ("fork_version", merkle.fixed_bytes(definition.fork_version, 4)),
        (
            "operators",
            merkle.listing(
                (merkle.container(*operator_leaves(schema, o, full=full)) for o in definition.operators), MAX_OPERATORS
            ),
        ),
        ("creator", merkle.container(*_creator_leaves(schema, definition.creator, full=full))),
        (
            "validators",
            merkle.listing(
                (
                    merkle.container(
                        merkle.address(validator.fee_recipient_address), merkle.address(validator.withdrawal_address)
                    )
                    for validator in definition.validators
                ),
                MAX_VALIDATORS,
            ),
        ),
        ("deposit_amounts", merkle.numbers(definition.deposit_amounts_gwei, MAX_DEPOSIT_AMOUNT_CHUNKS)),
        ("consensus_protocol", merkle.text(definition.consensus_protocol, 256)),
        ("target_gas_limit", merkle.number(definition.target_gas_limit)),
        ("compounding", merkle.switch(definition.compounding)),
    ]
    return [*leaves, ("config_hash", merkle.fixed_bytes(definition.config_hash, 32))] if full else leaves


def operator_leaves(schema: Schema, operator: Operator, *, full: bool) -> list[list[bytes]]:
    leaves = [merkle.address(operator.address)]
    if full:
        leaves += [
            merkle.text(operator.enr, 1024),
            _signature(schema, operator.config_signature),
            _signature(schema, operator.enr_signature),
        ]
    return leaves


def _creator_leaves(schema: Schema, creator: Creator, *, full: bool) -> list[list[bytes]]:
    leaves = [merkle.address(creator.address)]
    return [*leaves, _signature(schema, creator.config_signature)] if full else leaves


def _signature(schema: Schema, signature: bytes) -> list[bytes]:
    if schema.signature_pieces == 1:
        return merkle.fixed_bytes(signature, merkle.SIGNATURE_BYTES)
    return merkle.signatures(signature, schema.signature_pieces)


def _root(what: str, definition: Definition, *, full: bool) -> bytes:
    try:
        return merkle.container(*(chunks for _, chunks in definition_leaves(definition, full=full)))[0]
    except ClusterFault as error:
        raise ClusterFault(f"{what}: {error}") from error


def _validator(validator: DistributedValidator) -> list[bytes]:
    return merkle.container(*validator_leaves(validator))


def validator_leaves(validator: DistributedValidator) -> list[list[bytes]]:
    """The leaves of one validator of a lock, in order."""
    deposits = (
        merkle.container(
            merkle.fixed_bytes(deposit.pubkey, 48),
            merkle.fixed_bytes(deposit.withdrawal_credentials, 32),
            merkle.number(deposit.amount_gwei),
            merkle.fixed_bytes(deposit.signature, 96),
        )
        for deposit in validator.deposits
    )
    registration = validator.registration
    message = merkle.container(
        merkle.leaf(registration.fee_recipient),
        merkle.number(registration.gas_limit),
        merkle.number(registration.timestamp_s),
        merkle.fixed_bytes(registration.pubkey, 48),
    )
    return [
        merkle.fixed_bytes(validator.public_key, 48),
        merkle.listing((merkle.fixed_bytes(share, 48) for share in validator.public_shares), MAX_OPERATORS),
        merkle.listing(deposits, MAX_DEPOSITS),
        merkle.container(message, merkle.fixed_bytes(registration.signature, 96)),
    ]
