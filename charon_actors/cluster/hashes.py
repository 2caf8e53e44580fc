"""config_hash, definition_hash and lock_hash of cluster files. Pure.

    config_hash       what operators sign: the terms, without ENRs and signatures (but with addresses)
    definition_hash   all of the definition, with the stored config_hash as its last leaf
    lock_hash         M([definition, validators]): the cluster's identity; not the aggregate, not the node signatures

`definition_leaves` gives the leaves by name, so a mismatch can be told by field. Source: specification 01, sections 3.2, 3.3.
"""

from msgspec.structs import replace

from charon_actors.cluster import merkle
from charon_actors.cluster.definition import MAX_VALIDATORS, Creator, Definition, Operator, shared_addresses
from charon_actors.cluster.deposit import Deposit
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.foreign_json import hex_or_empty
from charon_actors.cluster.lock import DistributedValidator, Lock, single_deposit
from charon_actors.cluster.registration import Registration
from charon_actors.cluster.schema import Deposits, Schema, schema_of

MAX_OPERATORS = 256
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
    schema = schema_of(lock.definition.version)
    definition = _root("definition hash", lock.definition, full=True)
    roots = [merkle.container(*validator_leaves(schema, validator)) for validator in lock.validators]
    validators = merkle.listing(roots, len(roots) if schema.is_legacy_hashed else MAX_VALIDATORS)
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
    return _legacy_leaves(definition, schema, full=full) if schema.is_legacy_hashed else _leaves(definition, schema, full=full)


def _legacy_leaves(definition: Definition, schema: Schema, *, full: bool) -> list[tuple[str, list[bytes]]]:
    """v1.0 to v1.2: texts as they stand, addresses and fork version as ASCII; no config hash."""
    addresses = shared_addresses(definition)
    operators = [
        merkle.container(*operator_leaves(schema, operator, full=True)) if full else merkle.ascii_leaf(operator.address)
        for operator in definition.operators
    ]
    leaves = [
        ("uuid", merkle.ascii_leaf(definition.uuid)),
        ("name", merkle.ascii_leaf(definition.name)),
        ("version", merkle.ascii_leaf(definition.version)),
        ("num_validators", merkle.number(definition.num_validators)),
        ("threshold", merkle.number(definition.threshold)),
        ("fee_recipient_address", merkle.ascii_leaf(addresses.fee_recipient_address)),
        ("withdrawal_address", merkle.ascii_leaf(addresses.withdrawal_address)),
        ("dkg_algorithm", merkle.ascii_leaf(definition.dkg_algorithm)),
        ("fork_version", merkle.ascii_leaf(hex_or_empty(definition.fork_version))),
        ("operators", merkle.listing(operators, len(operators))),
    ]
    if schema.hashes_timestamp or not full:
        leaves.append(("timestamp", merkle.ascii_leaf(definition.timestamp)))
    return leaves


def _leaves(definition: Definition, schema: Schema, *, full: bool) -> list[tuple[str, list[bytes]]]:
    """v1.3 and later."""
    operators = (merkle.container(*operator_leaves(schema, operator, full=full)) for operator in definition.operators)
    leaves = [
        ("uuid", merkle.text(definition.uuid, 64)),
        ("name", merkle.text(definition.name, 256)),
        ("version", merkle.text(definition.version, 16)),
        ("timestamp", merkle.text(definition.timestamp, 32)),
        ("num_validators", merkle.number(definition.num_validators)),
        ("threshold", merkle.number(definition.threshold)),
    ]
    if not schema.has_validator_addresses:
        addresses = shared_addresses(definition)
        leaves += [
            ("fee_recipient_address", _address(schema, addresses.fee_recipient_address)),
            ("withdrawal_address", _address(schema, addresses.withdrawal_address)),
        ]
    leaves += [
        ("dkg_algorithm", merkle.text(definition.dkg_algorithm, 32)),
        ("fork_version", merkle.fixed_bytes(definition.fork_version, 4)),
        ("operators", merkle.listing(operators, MAX_OPERATORS)),
    ]
    if schema.has_creator:
        leaves.append(("creator", merkle.container(*_creator_leaves(schema, definition.creator, full=full))))
    if schema.has_validator_addresses:
        validators = (
            merkle.container(_address(schema, each.fee_recipient_address), _address(schema, each.withdrawal_address))
            for each in definition.validators
        )
        leaves.append(("validators", merkle.listing(validators, MAX_VALIDATORS)))
    if schema.has_deposit_amounts:
        leaves.append(("deposit_amounts", merkle.numbers(definition.deposit_amounts_gwei, MAX_DEPOSIT_AMOUNT_CHUNKS)))
    if schema.has_consensus_protocol:
        leaves.append(("consensus_protocol", merkle.text(definition.consensus_protocol, 256)))
    if schema.has_gas_limit:
        leaves += [
            ("target_gas_limit", merkle.number(definition.target_gas_limit)),
            ("compounding", merkle.switch(definition.compounding)),
        ]
    if full:
        leaves.append(("config_hash", _config_hash(schema, definition.config_hash)))
    return leaves


def operator_leaves(schema: Schema, operator: Operator, *, full: bool) -> list[list[bytes]]:
    """The leaves of one operator, in order."""
    if schema.is_legacy_hashed:
        leaves = [merkle.ascii_leaf(operator.address)]
        if full:
            nonce = [merkle.number(0)] if schema.has_nonce else []
            leaves += [merkle.ascii_leaf(operator.enr), *nonce]
    else:
        leaves = [_address(schema, operator.address)]
        if full:
            leaves.append(merkle.text(operator.enr, 1024))
    if full:
        leaves += [_signature(schema, operator.config_signature), _signature(schema, operator.enr_signature)]
    return leaves


def _creator_leaves(schema: Schema, creator: Creator, *, full: bool) -> list[list[bytes]]:
    leaves = [_address(schema, creator.address)]
    return [*leaves, _signature(schema, creator.config_signature)] if full else leaves


def _address(schema: Schema, address: str) -> list[bytes]:
    if not address and not schema.is_padded:
        return []
    return merkle.address(address)


def _signature(schema: Schema, signature: bytes) -> list[bytes]:
    if schema.signature_pieces > 1:
        return merkle.signatures(signature, schema.signature_pieces)
    return merkle.fixed_bytes(signature, merkle.SIGNATURE_BYTES) if schema.is_padded else merkle.leaf(signature)


def _config_hash(schema: Schema, content: bytes) -> list[bytes]:
    is_filled = schema.is_padded and schema.signature_pieces == 1  # v1.11 hashes it as it is again
    return merkle.fixed_bytes(content, 32) if is_filled else merkle.leaf(content)


def _root(what: str, definition: Definition, *, full: bool) -> bytes:
    try:
        return merkle.container(*(chunks for _, chunks in definition_leaves(definition, full=full)))[0]
    except ClusterFault as error:
        raise ClusterFault(f"{what}: {error}") from error


def validator_leaves(schema: Schema, validator: DistributedValidator) -> list[list[bytes]]:
    """The leaves of one validator of a lock, in order. Raises ClusterFault."""
    if schema.is_legacy_hashed:
        shares = [merkle.leaf(share) for share in validator.public_shares]
        return [merkle.ascii_leaf(hex_or_empty(validator.public_key)), merkle.listing(shares, len(shares))]
    public_key = merkle.fixed_bytes(validator.public_key, 48) if schema.is_padded else merkle.leaf(validator.public_key)
    leaves = [public_key, merkle.listing((merkle.fixed_bytes(share, 48) for share in validator.public_shares), MAX_OPERATORS)]
    if schema.deposits is Deposits.INLINED:
        leaves += _deposit_leaves(single_deposit(validator))
    elif schema.deposits is Deposits.SINGLE:
        leaves.append(merkle.container(*_deposit_leaves(single_deposit(validator))))
    elif schema.deposits is Deposits.LIST:
        deposits = (merkle.container(*_deposit_leaves(deposit)) for deposit in validator.deposits)
        leaves.append(merkle.listing(deposits, MAX_DEPOSITS))
    if schema.has_registrations:
        leaves.append(_registration(validator.registration))
    return leaves


def _deposit_leaves(deposit: Deposit) -> list[list[bytes]]:
    return [
        merkle.fixed_bytes(deposit.pubkey, 48),
        merkle.fixed_bytes(deposit.withdrawal_credentials, 32),
        merkle.number(deposit.amount_gwei),
        merkle.fixed_bytes(deposit.signature, 96),
    ]


def _registration(registration: Registration) -> list[bytes]:
    message = merkle.container(
        merkle.leaf(registration.fee_recipient),
        merkle.number(registration.gas_limit),
        merkle.number(registration.timestamp_s),
        merkle.fixed_bytes(registration.pubkey, 48),
    )
    return merkle.container(message, merkle.fixed_bytes(registration.signature, 96))
