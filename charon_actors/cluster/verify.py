"""Whether a definition or a lock may be trusted: hashes first, then signatures, in Charon's order. Pure.

    definition, hashes        config hash, definition hash
    definition, signatures    EIP-712 of operators (since v1.3) and creator (since v1.4); all unsigned, solo creator, or everybody
    lock, hashes              the definition's, count of validators, lock hash
    lock, signatures          the definition's; public shares lie on one polynomial of degree t-1 whose constant term is the
                              validator's key; the aggregate of all shares over the recomputed lock hash, which locks of
                              v1.0 and v1.1 may lack: then that check alone is left out (Charon stops there); builder
                              registrations, node signatures by the ENR keys over the file's lock hash (both since v1.7)

Deposit signatures are checked when deposit files are written, not here. Whether a contract wallet signed (ERC-1271) only an
execution client can tell: callers that have one pass a ContractCheck; without it such signatures are invalid (WalletFault). The
first fault found is raised as ClusterFault with the specification's text.

Source: specification 01-cluster-files, sections 4.1 and 5.1 (with the checks that v1.11 added).
"""

from collections.abc import Callable, Sequence

from charon_actors.cluster import eip712, merkle
from charon_actors.cluster.definition import Definition
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.hashes import config_hash, definition_hash, lock_hash
from charon_actors.cluster.lock import DistributedValidator, Lock
from charon_actors.cluster.peers import peers_of
from charon_actors.cluster.registration import Registration, registration_signing_root
from charon_actors.cluster.schema import Schema, schema_of
from charon_actors.crypto import (
    Check,
    CryptoFault,
    VerifyBatch,
    decode_public_key,
    ethereum_address,
    fast_aggregate_verify,
    first_off_polynomial,
    k1_recover,
    verify_bound,
)
from charon_actors.eth2.networks import Network, network_by_fork_version

PUBLIC_KEY_BYTES = 48
SIGNATURE_BYTES = 96


ContractCheck = Callable[[str, bytes, bytes], bool]
"""Does the contract at this address (text, 0x…) accept this signature (any length) of this digest (32 bytes)? ERC-1271."""


class WalletFault(ClusterFault):
    """No externally owned account made this signature. A contract wallet may have: that takes an execution client."""


def verify_definition(
    definition: Definition, networks_extra: Sequence[Network] = (), contract: ContractCheck | None = None
) -> None:
    """All checks of a definition. networks_extra: custom networks of this process. Raises ClusterFault."""
    verify_definition_hashes(definition)
    verify_definition_signatures(definition, networks_extra, contract)


def verify_lock(
    lock: Lock,
    networks_extra: Sequence[Network] = (),
    contract: ContractCheck | None = None,
    verify_batch: VerifyBatch = verify_bound,
) -> None:
    """All checks of a lock; about 0.8 ms a validator and 0.1 ms a share. Raises ClusterFault."""
    verify_lock_hashes(lock)
    _verify_lock_signatures(lock, lock.lock_hash, networks_extra, contract, verify_batch)


def verify_definition_hashes(definition: Definition) -> None:
    """Raises ClusterFault when a stored hash is not the recomputed one."""
    if config_hash(definition) != definition.config_hash:
        raise ClusterFault("invalid config hash")
    if definition_hash(definition) != definition.definition_hash:
        raise ClusterFault("invalid definition hash")


def verify_lock_hashes(lock: Lock) -> None:
    """Raises ClusterFault when a stored hash is not the recomputed one or validators are missing."""
    try:
        verify_definition_hashes(lock.definition)
    except ClusterFault as error:
        raise ClusterFault(f"invalid definition: {error}") from error
    verify_count(lock)
    if lock_hash(lock) != lock.lock_hash:
        raise ClusterFault("invalid lock hash")


def verify_definition_signatures(
    definition: Definition, networks_extra: Sequence[Network] = (), contract: ContractCheck | None = None
) -> None:
    """Who signed what, by 01 §4.1. Raises ClusterFault."""
    schema, creator = schema_of(definition.version), definition.creator
    if not schema.has_operator_signatures:
        if any(operator.config_signature or operator.enr_signature for operator in definition.operators):
            raise ClusterFault("older version signatures not supported")
        return
    _check_signature_length(schema, creator.config_signature)
    network = network_by_fork_version(definition.fork_version, networks_extra)
    if network is None:
        raise ClusterFault("invalid fork version")
    config_digest = eip712.operator_config_digest if schema.has_creator else eip712.legacy_config_digest
    operator_digest = config_digest(definition.config_hash, network.chain_id)
    unsigned = 0
    for operator in definition.operators:
        if not operator.address and not operator.config_signature and not operator.enr_signature:
            unsigned += 1
            continue
        if not operator.enr_signature:
            raise ClusterFault("empty operator enr signature")
        if not operator.config_signature:
            raise ClusterFault("empty operator config signature")
        _check_signature_length(schema, operator.config_signature)
        _check_signature_length(schema, operator.enr_signature)
        if not _signed_by(operator.address, operator_digest, operator.config_signature, contract):
            raise WalletFault("invalid operator config signature")
        enr_digest = eip712.enr_digest(operator.enr, network.chain_id)
        if not _signed_by(operator.address, enr_digest, operator.enr_signature, contract):
            raise WalletFault("invalid operator enr signature")
    if 0 < unsigned < len(definition.operators):
        raise ClusterFault("some operators signed while others did not")
    if not schema.has_creator:
        if creator.config_signature:
            raise ClusterFault("unexpected creator config signature in old version")
        return
    if not creator.address and not creator.config_signature:
        if not unsigned and definition.operators:
            raise ClusterFault("operators signed while creator did not")
        return
    if not creator.config_signature:
        raise ClusterFault("empty creator config signature")
    creator_digest = eip712.creator_config_digest(definition.config_hash, network.chain_id)
    if not _signed_by(creator.address, creator_digest, creator.config_signature, contract):
        raise WalletFault("invalid creator config signature")


def verify_lock_signatures(
    lock: Lock,
    networks_extra: Sequence[Network] = (),
    contract: ContractCheck | None = None,
    verify_batch: VerifyBatch = verify_bound,
) -> None:
    """By 01 §5.1, checks 1 to 12. Raises ClusterFault."""
    _verify_lock_signatures(lock, lock_hash(lock), networks_extra, contract, verify_batch)


def _verify_lock_signatures(
    lock: Lock,
    recomputed_hash: bytes,
    networks_extra: Sequence[Network],
    contract: ContractCheck | None,
    verify_batch: VerifyBatch,
) -> None:
    schema = schema_of(lock.definition.version)
    try:
        verify_definition_signatures(lock.definition, networks_extra, contract)
    except ClusterFault as error:
        raise type(error)(f"invalid definition: {error}") from error
    is_signed = bool(lock.signature_aggregate) or not schema.may_lack_aggregate
    if is_signed and not lock.signature_aggregate:
        raise ClusterFault("empty lock aggregate signature")
    if is_signed and len(lock.signature_aggregate) != SIGNATURE_BYTES:
        raise ClusterFault("invalid data length")
    verify_public_shares(lock)
    if is_signed:
        verify_aggregate(lock, recomputed_hash)
    if schema.has_registrations:
        if not all(verify_batch(registration_checks(lock))):
            raise ClusterFault(
                "verify pre-generated builder registrations: verify builder registration signature: signature not verified"
            )
        verify_node_signatures(lock)
    elif lock.node_signatures:
        raise ClusterFault("unexpected node signatures")


def verify_count(lock: Lock) -> None:
    """As many validators as the definition says."""
    if len(lock.validators) != lock.definition.num_validators:
        raise ClusterFault("lock validators count mismatch")


def verify_aggregate(lock: Lock, recomputed_hash: bytes) -> None:
    """The sum of the signatures of all public shares over the recomputed lock hash, 32 bytes."""
    shares = [share for validator in lock.validators for share in validator.public_shares]
    if not fast_aggregate_verify(shares, recomputed_hash, lock.signature_aggregate):
        raise ClusterFault("verify lock signature aggregate: signature verification failed")


def verify_public_shares(lock: Lock) -> None:
    """Each validator has one share an operator, all on one polynomial of degree t-1 with the validator's key at 0."""
    seen: set[bytes] = set()
    operators, threshold = len(lock.definition.operators), lock.definition.threshold
    for validator in lock.validators:
        if len(validator.public_shares) != operators:
            raise ClusterFault("invalid public share count")
        if len(validator.public_key) != PUBLIC_KEY_BYTES:
            raise ClusterFault("invalid data length")
        if validator.public_key in seen:
            raise ClusterFault("duplicate distributed validator public key")
        seen.add(validator.public_key)
        if any(len(share) != PUBLIC_KEY_BYTES for share in validator.public_shares):
            raise ClusterFault("parse public shares: invalid data length")
        if len(set(validator.public_shares)) != operators:
            raise ClusterFault("parse public shares: duplicate public share")
        if not 1 <= threshold <= operators:
            raise ClusterFault("verify share reconstruction: invalid threshold")
        _verify_reconstruction(validator, threshold)


def _verify_reconstruction(validator: DistributedValidator, threshold: int) -> None:
    """The key and the shares of indices 1, 2 … lie on one polynomial; with threshold = operators, only the key can be off."""
    try:
        points = [decode_public_key(key) for key in (validator.public_key, *validator.public_shares)]
    except CryptoFault as error:
        raise ClusterFault(f"verify share reconstruction: {error}") from error
    off = first_off_polynomial(points, threshold)
    if off == 0:
        raise ClusterFault("verify share reconstruction: public shares do not reconstruct distributed public key")
    if off is not None:
        raise ClusterFault("verify share reconstruction: extra share does not lie on distributed key polynomial")


def registration_checks(lock: Lock) -> list[Check]:
    """Of the builder registration of each validator, rebuilt from the definition. Raises ClusterFault when one is missing."""
    if len(lock.validators) != len(lock.definition.validators):
        raise ClusterFault("lock validators count mismatch")
    checks: list[Check] = []
    for validator, addresses in zip(lock.validators, lock.definition.validators, strict=True):
        signed = validator.registration
        if not signed.signature or not signed.fee_recipient or not signed.pubkey:
            raise ClusterFault("verify pre-generated builder registrations: missing validator registration")
        rebuilt = Registration(
            fee_recipient=merkle.address_bytes(addresses.fee_recipient_address),
            gas_limit=signed.gas_limit,
            timestamp_s=signed.timestamp_s,
            pubkey=validator.public_key,
        )
        root = registration_signing_root(rebuilt, lock.definition.fork_version)
        checks.append(Check(validator.public_key, root, signed.signature))
    return checks


def verify_node_signatures(lock: Lock) -> None:
    """Of every operator's ENR key, over the lock hash of the file."""
    if len(lock.node_signatures) != len(lock.definition.operators):
        raise ClusterFault("invalid node signature count")
    if len(lock.lock_hash) != 32:
        raise ClusterFault("invalid node signature")
    for peer, signature in zip(peers_of(lock.definition), lock.node_signatures, strict=True):
        try:
            signer = k1_recover(lock.lock_hash, signature)
        except CryptoFault as error:
            raise ClusterFault("invalid node signature") from error
        if signer != peer.public_key:
            raise ClusterFault("invalid node signature")


def _check_signature_length(schema: Schema, signature: bytes) -> None:
    if schema.signature_pieces == 1:
        if len(signature) not in (0, merkle.SIGNATURE_BYTES):
            raise ClusterFault("invalid signature length: signature must be 65 bytes")
        return
    if len(signature) % merkle.SIGNATURE_BYTES:
        raise ClusterFault("invalid signature length: signature must be multiple of 65 bytes")
    if len(signature) > schema.signature_pieces * merkle.SIGNATURE_BYTES:
        raise ClusterFault("invalid signature length: signature exceeds maximum length")


def _signed_by(address: str, digest: bytes, signature: bytes, contract: ContractCheck | None) -> bool:
    """An externally owned account signs with one 65-byte signature; all others are contract wallets'."""
    if len(address) != 42 or not address.startswith("0x"):
        raise ClusterFault("invalid ethereum address")
    try:
        if _signed_by_account(address, digest, signature):
            return True
    except ClusterFault:
        if contract is None:
            raise
    return contract is not None and contract(address, digest, signature)


def _signed_by_account(address: str, digest: bytes, signature: bytes) -> bool:
    if len(signature) != merkle.SIGNATURE_BYTES:
        return False
    if signature[64] not in (0, 1, 27, 28):
        raise WalletFault("pubkey from signature: invalid recovery id")
    try:
        signer = k1_recover(digest, signature)
    except CryptoFault as error:
        raise WalletFault(f"pubkey from signature: {error}") from error
    return ethereum_address(signer).lower() == address.lower()
