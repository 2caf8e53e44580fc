"""cluster-lock.json: the definition, and the keys that the ceremony made. Pure: bytes to value and back.

A `Lock` holds what the file says; whether hashes and signatures are right is `verify.py`'s business. The cluster's identity at
run time is the file's `lock_hash`, never a recomputed one. Source: specification 01-cluster-files, section 5.
"""

import msgspec

from charon_actors.cluster.definition import Definition, definition_from_fields, definition_to_json
from charon_actors.cluster.deposit import Deposit
from charon_actors.cluster.foreign_json import Fields, decode_object, encode_object, hex_text
from charon_actors.cluster.registration import Registration


class DistributedValidator(msgspec.Struct, frozen=True):
    """public_key: 48 bytes on chain. public_shares: 48 bytes each, position i belongs to share index i + 1."""

    public_key: bytes
    public_shares: tuple[bytes, ...]
    deposits: tuple[Deposit, ...]  # ascending amount
    registration: Registration


class Lock(msgspec.Struct, frozen=True):
    """lock_hash: 32 bytes. signature_aggregate: 96 bytes over it by all shares. node_signatures: 65 bytes an operator."""

    definition: Definition
    validators: tuple[DistributedValidator, ...]
    signature_aggregate: bytes = b""
    lock_hash: bytes = b""
    node_signatures: tuple[bytes, ...] = ()


def decode_lock(content: bytes) -> Lock:
    """The lock in a file of at most 16 MiB. Checks form, not hashes or signatures. Raises ClusterFault."""
    fields = decode_object(content, "cluster lock")
    return Lock(
        definition=definition_from_fields(fields.object("cluster_definition")),
        validators=tuple(_validator(validator) for validator in fields.objects("distributed_validators")),
        signature_aggregate=fields.data("signature_aggregate"),
        lock_hash=fields.data("lock_hash"),
        node_signatures=fields.data_list("node_signatures"),
    )


def encode_lock(lock: Lock) -> bytes:
    """The file, with its hashes computed anew. Raises ClusterFault for what can't be hashed."""
    return encode_object(lock_to_json(lock))


def lock_to_json(lock: Lock) -> dict[str, object]:
    """The JSON object, keys in the order of the file, hashes computed anew."""
    from charon_actors.cluster.hashes import with_lock_hashes

    lock = with_lock_hashes(lock)
    return {
        "cluster_definition": definition_to_json(lock.definition),
        "distributed_validators": [_validator_to_json(validator) for validator in lock.validators] or None,
        "signature_aggregate": hex_text(lock.signature_aggregate),
        "lock_hash": hex_text(lock.lock_hash),
        "node_signatures": [hex_text(signature) for signature in lock.node_signatures],
    }


def _validator(fields: Fields) -> DistributedValidator:
    signed = fields.object("builder_registration")
    message = signed.object("message")
    return DistributedValidator(
        public_key=fields.data("distributed_public_key"),
        public_shares=fields.data_list("public_shares"),
        deposits=tuple(
            Deposit(
                pubkey=deposit.data("pubkey"),
                withdrawal_credentials=deposit.data("withdrawal_credentials"),
                amount_gwei=deposit.quoted_number("amount"),
                signature=deposit.data("signature"),
            )
            for deposit in fields.objects("partial_deposit_data")
        ),
        registration=Registration(
            fee_recipient=message.data("fee_recipient"),
            gas_limit=message.number("gas_limit"),
            timestamp_s=message.number("timestamp"),
            pubkey=message.data("pubkey"),
            signature=signed.data("signature"),
        ),
    )


def _validator_to_json(validator: DistributedValidator) -> dict[str, object]:
    shares = [hex_text(share) for share in validator.public_shares]
    deposits = [
        {
            "pubkey": hex_text(deposit.pubkey),
            "withdrawal_credentials": hex_text(deposit.withdrawal_credentials),
            "amount": str(deposit.amount_gwei),
            "signature": hex_text(deposit.signature),
        }
        for deposit in validator.deposits
    ]
    return {
        "distributed_public_key": hex_text(validator.public_key),
        **({"public_shares": shares} if shares else {}),
        "builder_registration": {
            "message": {
                "fee_recipient": hex_text(validator.registration.fee_recipient),
                "gas_limit": validator.registration.gas_limit,
                "timestamp": validator.registration.timestamp_s,
                "pubkey": hex_text(validator.registration.pubkey),
            },
            "signature": hex_text(validator.registration.signature),
        },
        **({"partial_deposit_data": deposits} if deposits else {}),
    }
