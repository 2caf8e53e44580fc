"""cluster-lock.json: a `Lock` from the file and back. Pure: bytes to value and back.

Reading checks form, not hashes or signatures; writing computes the hashes anew. Source: specification 01-cluster-files, section 5.
"""

from charon_actors.cluster.definition_json import definition_from_fields, definition_to_json
from charon_actors.cluster.deposit import Deposit
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.foreign_json import Fields, base64_text, decode_object, encode_object, hex_or_empty
from charon_actors.cluster.hashes import with_lock_hashes
from charon_actors.cluster.lock import NO_DEPOSIT, NO_REGISTRATION, DistributedValidator, Lock, single_deposit
from charon_actors.cluster.registration import Registration
from charon_actors.cluster.schema import Deposits, Schema, schema_of
from charon_actors.file_kinds import FileKind


def decode_lock(content: bytes) -> Lock:
    """The lock in a file of at most 64 MiB. Checks form, not hashes or signatures. Raises ClusterFault."""
    fields = decode_object(content, "cluster lock", FileKind.LOCK)
    definition = definition_from_fields(fields.object("cluster_definition"))
    schema = schema_of(definition.version)
    if schema.bytes_are_base64:
        fields = fields.with_base64()
    return Lock(
        definition=definition,
        validators=tuple(_validator(validator, schema) for validator in fields.objects("distributed_validators")),
        signature_aggregate=fields.data("signature_aggregate"),
        lock_hash=fields.data("lock_hash"),
        node_signatures=fields.data_list("node_signatures") if schema.has_registrations else (),
    )


def encode_lock(lock: Lock) -> bytes:
    """The file, with its hashes computed anew. Raises ClusterFault for what can't be hashed."""
    return encode_object(lock_to_json(lock))


def lock_to_json(lock: Lock) -> dict[str, object]:
    """The JSON object, keys in the order of the file, hashes computed anew. Raises ClusterFault."""
    lock = with_lock_hashes(lock)
    schema = schema_of(lock.definition.version)
    data_text = base64_text if schema.bytes_are_base64 else hex_or_empty
    written: dict[str, object] = {
        "cluster_definition": definition_to_json(lock.definition),
        "distributed_validators": [_validator_to_json(validator, schema) for validator in lock.validators] or None,
        "signature_aggregate": data_text(lock.signature_aggregate),
        "lock_hash": data_text(lock.lock_hash),
    }
    if schema.has_registrations:
        written["node_signatures"] = [hex_or_empty(signature) for signature in lock.node_signatures]
    return written


def _validator(fields: Fields, schema: Schema) -> DistributedValidator:
    if schema.deposits is Deposits.NONE and fields.text("fee_recipient_address"):
        raise ClusterFault("distributed validator fee recipient not supported anymore")
    return DistributedValidator(
        public_key=fields.hex_data("distributed_public_key"),
        public_shares=fields.data_list("public_shares"),
        deposits=_deposits(fields, schema),
        registration=_registration(fields.object("builder_registration")) if schema.has_registrations else NO_REGISTRATION,
    )


def _deposits(fields: Fields, schema: Schema) -> tuple[Deposit, ...]:
    if schema.deposits is Deposits.NONE:
        return ()
    if schema.deposits is Deposits.LIST:
        return tuple(_deposit(deposit) for deposit in fields.objects("partial_deposit_data"))
    single = _deposit(fields.object("deposit_data"))
    return () if single == NO_DEPOSIT else (single,)


def _deposit(fields: Fields) -> Deposit:
    return Deposit(
        pubkey=fields.data("pubkey"),
        withdrawal_credentials=fields.data("withdrawal_credentials"),
        amount_gwei=fields.quoted_number("amount"),
        signature=fields.data("signature"),
    )


def _registration(signed: Fields) -> Registration:
    message = signed.object("message")
    return Registration(
        fee_recipient=message.data("fee_recipient"),
        gas_limit=message.number("gas_limit"),
        timestamp_s=message.number("timestamp"),
        pubkey=message.data("pubkey"),
        signature=signed.data("signature"),
    )


def _validator_to_json(validator: DistributedValidator, schema: Schema) -> dict[str, object]:
    data_text = base64_text if schema.bytes_are_base64 else hex_or_empty
    written: dict[str, object] = {"distributed_public_key": hex_or_empty(validator.public_key)}
    if validator.public_shares:
        written["public_shares"] = [data_text(share) for share in validator.public_shares]
    if schema.deposits in (Deposits.INLINED, Deposits.SINGLE):
        written["deposit_data"] = _deposit_to_json(single_deposit(validator))
    if schema.has_registrations:
        written["builder_registration"] = _registration_to_json(validator.registration)
    if schema.deposits is Deposits.LIST and validator.deposits:
        written["partial_deposit_data"] = [_deposit_to_json(deposit) for deposit in validator.deposits]
    return written


def _deposit_to_json(deposit: Deposit) -> dict[str, object]:
    return {
        "pubkey": hex_or_empty(deposit.pubkey),
        "withdrawal_credentials": hex_or_empty(deposit.withdrawal_credentials),
        "amount": str(deposit.amount_gwei),
        "signature": hex_or_empty(deposit.signature),
    }


def _registration_to_json(registration: Registration) -> dict[str, object]:
    return {
        "message": {
            "fee_recipient": hex_or_empty(registration.fee_recipient),
            "gas_limit": registration.gas_limit,
            "timestamp": registration.timestamp_s,
            "pubkey": hex_or_empty(registration.pubkey),
        },
        "signature": hex_or_empty(registration.signature),
    }
