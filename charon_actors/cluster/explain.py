"""Which leaf of a definition or a lock was edited: the evidence, in the order of its weight. Pure.

A stored hash that doesn't fit says that something was edited, not what. Operators need the leaf:

    1  another copy of the file    the first leaf that differs, with both values                        `first_difference`
    2  which hash fails            config hash: terms; definition hash only: ENRs and signatures;       `Explanation.group`
                                   lock hash only: validators
    3  one leaf that can be put    the value that makes the hash come out right: proof, not a guess     `Explanation.repairs`
       back                        (`repair.py`, `lock_repair.py`)
    4  what doesn't fit together   a signature, an ENR, a share that its neighbours contradict          `Explanation.suspects`

A repair is applied, and the next hash is looked at with it: an edited term breaks all three hashes, and one repair mends all.

Limits: MAX_SUSPECTS; a second or so for 1000 validators. Source: specification 01-cluster-files, sections 3, 5 and 12.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec
from msgspec.structs import replace

from charon_actors.cluster import eip712, merkle
from charon_actors.cluster.definition import Definition
from charon_actors.cluster.definition_candidates import Hints, Repair, shown
from charon_actors.cluster.definition_json import decode_definition
from charon_actors.cluster.deposit import deposit_signing_root
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.hashes import config_hash, definition_hash, definition_leaves, lock_hash
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.lock_repair import LockRepair
from charon_actors.cluster.registration import registration_signing_root
from charon_actors.cluster.repair import repair_config_hash, repair_definition_hash, repair_document
from charon_actors.cluster.schema import Deposits, schema_of
from charon_actors.cluster.verify import verify_definition_hashes, verify_lock_hashes, verify_public_shares
from charon_actors.crypto import Check, CryptoFault, VerifyBatch, ethereum_address, k1_recover, verify_bound
from charon_actors.enr import EnrFault, decode_enr
from charon_actors.eth2.networks import network_by_fork_version

MAX_SUSPECTS: Final = 8


class Difference(msgspec.Struct, frozen=True):
    """leaf: its path in the file. ours, theirs: the two values, as the files write them."""

    leaf: str
    ours: str
    theirs: str


class Suspect(msgspec.Struct, frozen=True):
    """leaf: its path in the file. evidence: what contradicts it. validator: its index in a lock, from 0, where it is one's leaf."""

    leaf: str
    evidence: str
    validator: int = -1


class Explanation(msgspec.Struct, frozen=True):
    """repairs: leaves that were found, in order. group: in which leaves the rest must be, "" when nothing is left. suspects: of these."""

    repairs: tuple[Repair, ...] = ()
    group: str = ""
    suspects: tuple[Suspect, ...] = ()


# --- another copy ----------------------------------------------------------------------------------------------------


def first_difference(ours: Definition | Lock, theirs: Definition | Lock) -> Difference | None:
    """The first leaf, in the order of the hashes, in which two files differ; a lock and a definition are compared as definitions.

    Not the letter case of addresses where no hash sees it. Stored hashes and signatures over them stand last.
    """
    if isinstance(ours, Lock) and isinstance(theirs, Lock):
        mine, other = dict(_lock_leaves(ours)), dict(_lock_leaves(theirs))
    else:
        mine, other = (dict(_definition_leaves(each.definition if isinstance(each, Lock) else each)) for each in (ours, theirs))
    for leaf in (*mine, *(leaf for leaf in other if leaf not in mine)):
        a, b = mine.get(leaf), other.get(leaf)
        if a != b:
            return Difference(leaf, "absent" if a is None else shown(a), "absent" if b is None else shown(b))
    return None


def is_original(copy: Definition | Lock, edited: Definition | Lock) -> bool:
    """Whether `copy` fits its hashes, and these are the ones that stand in `edited`: then what differs was edited there."""
    mine, other = (each.definition if isinstance(each, Lock) else each for each in (edited, copy))
    try:
        if isinstance(copy, Lock) and isinstance(edited, Lock):
            verify_lock_hashes(copy)
            return copy.lock_hash == edited.lock_hash
        verify_definition_hashes(other)
    except ClusterFault:
        return False
    return other.definition_hash == mine.definition_hash


def _definition_leaves(definition: Definition) -> Iterator[tuple[str, object]]:
    schema = schema_of(definition.version)

    def address(text: str) -> str:
        return text if schema.is_legacy_hashed else text.lower()

    for name in ("uuid", "name", "version", "timestamp", "num_validators", "threshold", "dkg_algorithm", "fork_version"):
        yield name, getattr(definition, name)
    yield "operators (count)", len(definition.operators)
    for i, operator in enumerate(definition.operators):
        yield f"operators[{i}].address", address(operator.address)
        for name in ("enr", "config_signature", "enr_signature"):
            yield f"operators[{i}].{name}", getattr(operator, name)
    yield "creator.address", address(definition.creator.address)
    yield "creator.config_signature", definition.creator.config_signature
    for i, row in enumerate(definition.validators if schema.has_validator_addresses else definition.validators[:1]):
        path = f"validators[{i}]." if schema.has_validator_addresses else ""
        yield f"{path}fee_recipient_address", address(row.fee_recipient_address)
        yield f"{path}withdrawal_address", address(row.withdrawal_address)
    yield "deposit_amounts", definition.deposit_amounts_gwei
    for name in ("consensus_protocol", "target_gas_limit", "compounding", "config_hash", "definition_hash"):
        yield name, getattr(definition, name)


def _lock_leaves(lock: Lock) -> Iterator[tuple[str, object]]:
    for leaf, value in _definition_leaves(lock.definition):
        yield f"cluster_definition.{leaf}", value
    is_list = schema_of(lock.definition.version).deposits is Deposits.LIST
    yield "distributed_validators (count)", len(lock.validators)
    for i, validator in enumerate(lock.validators):
        path = f"distributed_validators[{i}]"
        yield f"{path}.distributed_public_key", validator.public_key
        for k, share in enumerate(validator.public_shares):
            yield f"{path}.public_shares[{k}]", share
        for k, deposit in enumerate(validator.deposits):
            where = f"{path}.partial_deposit_data[{k}]" if is_list else f"{path}.deposit_data"
            for name in ("pubkey", "withdrawal_credentials", "amount_gwei", "signature"):
                yield f"{where}.{name.removesuffix('_gwei')}", getattr(deposit, name)
        for name in ("fee_recipient", "gas_limit", "timestamp_s", "pubkey"):
            yield f"{path}.builder_registration.message.{name.removesuffix('_s')}", getattr(validator.registration, name)
        yield f"{path}.builder_registration.signature", validator.registration.signature
    yield "lock_hash", lock.lock_hash
    yield "signature_aggregate", lock.signature_aggregate
    for i, signature in enumerate(lock.node_signatures):
        yield f"node_signatures[{i}]", signature


# --- the file alone --------------------------------------------------------------------------------------------------


def explain(content: bytes, hints: Hints, *, is_lock: bool) -> Explanation:
    """Why the hashes of this file don't fit. Empty when they do, and for files that can't be read or hashed."""
    explanation = _explain_file(content, hints, is_lock=is_lock)
    return _with_paths_in_lock(explanation) if is_lock else explanation


def _with_paths_in_lock(explanation: Explanation) -> Explanation:
    def path(leaf: str) -> str:
        return leaf if leaf.startswith(("distributed_validators", "lock_hash")) else f"cluster_definition.{leaf}"

    return Explanation(
        tuple(replace(repair, leaf=path(repair.leaf)) for repair in explanation.repairs),
        explanation.group,
        tuple(replace(suspect, leaf=path(suspect.leaf)) for suspect in explanation.suspects),
    )


def _explain_file(content: bytes, hints: Hints, *, is_lock: bool) -> Explanation:
    repairs: list[Repair] = []
    try:
        value: Definition | Lock = decode_lock(content) if is_lock else decode_definition(content)
        is_document_tried = False
    except ClusterFault:
        found = repair_document(content, is_lock=is_lock)
        if found is None:
            return Explanation()
        repairs.append(found[0])
        value, is_document_tried = found[1], True
    try:
        return _explain(content, value, hints, repairs, is_document_tried=is_document_tried)
    except ClusterFault:  # something can't be hashed; whoever verifies says what
        return Explanation(tuple(repairs))


def _explain(
    content: bytes, value: Definition | Lock, hints: Hints, repairs: list[Repair], *, is_document_tried: bool
) -> Explanation:
    lock = value if isinstance(value, Lock) else None
    definition = lock.definition if lock else value
    assert isinstance(definition, Definition)
    hints = replace(hints, lock=lock) if lock else hints
    if config_hash(definition) != definition.config_hash:
        if lock is not None and lock_hash(lock) == lock.lock_hash:
            evidence = "the lock hash fits, so the file was made with this config hash"
            return Explanation(tuple(repairs), "config_hash", (Suspect("config_hash", evidence),))
        document = None if is_document_tried else repair_document(content, is_lock=lock is not None)
        if document is not None:
            return _explain(content, document[1], hints, [*repairs, document[0]], is_document_tried=True)
        mended = repair_config_hash(definition, hints)
        if mended is None:
            names = ", ".join(name for name, _ in definition_leaves(definition, full=False))
            return Explanation(tuple(repairs), f"{names} (of operators and creator the addresses)")
        repairs.append(mended[0])
        definition = mended[1]
    if definition_hash(definition) != definition.definition_hash:
        lock = replace(lock, definition=definition) if lock else None
        if lock is not None and lock_hash(lock) == lock.lock_hash:
            recomputed = definition_hash(definition)
            evidence = "what the definition hashes to; the lock hash agrees"
            repairs.append(Repair("definition_hash", shown(definition.definition_hash), shown(recomputed), evidence))
            return Explanation(tuple(repairs))
        mended = repair_definition_hash(definition, hints)
        if mended is None:
            group = "ENRs or signatures of operators or the creator, or the definition hash itself"
            return Explanation(tuple(repairs), group, tuple(islice(operator_suspects(definition, lock, hints), MAX_SUSPECTS)))
        repairs.append(mended[0])
        definition = mended[1]
    if lock is None:
        return Explanation(tuple(repairs))
    return _explain_validators(replace(lock, definition=definition), hints, repairs)


def _explain_validators(lock: Lock, hints: Hints, repairs: list[Repair]) -> Explanation:
    if lock_hash(lock) == lock.lock_hash:
        return Explanation(tuple(repairs))
    group = "distributed_validators, or the lock hash itself"
    search = LockRepair(lock, hints)
    repair = search.by_other_leaves()
    if repair is not None:
        return Explanation((*repairs, repair))
    if len(lock.validators) != lock.definition.num_validators:
        evidence = f"holds {len(lock.validators)}, num_validators says {lock.definition.num_validators}"
        return Explanation(tuple(repairs), group, (Suspect("distributed_validators", evidence),))
    suspects = list(islice(validator_suspects(lock), MAX_SUSPECTS))
    repair = search.of_suspects(sorted({suspect.validator for suspect in suspects}))
    if repair is not None:
        return Explanation((*repairs, repair))
    return Explanation(tuple(repairs), group, tuple(suspects))


def operator_suspects(definition: Definition, lock: Lock | None, hints: Hints) -> Iterator[Suspect]:
    """Operators whose ENR or signatures contradict each other, or the node signatures of the lock."""
    network = network_by_fork_version(definition.fork_version, hints.networks)
    signers = [signer_of(lock.lock_hash, signature) for signature in lock.node_signatures] if lock else []
    keys = [_enr_key(operator.enr) for operator in definition.operators]
    is_lock_hash_signed = any(signer and signer == key for signer, key in zip(signers, keys, strict=False))
    digest_of = eip712.operator_config_digest if schema_of(definition.version).has_creator else eip712.legacy_config_digest
    for i, operator in enumerate(definition.operators):
        if operator.enr and keys[i] is None:
            yield Suspect(f"operators[{i}].enr", "is no valid ENR")
            continue
        if is_lock_hash_signed and i < len(signers) and signers[i] != keys[i]:
            yield Suspect(f"operators[{i}].enr", f"node_signatures[{i}] is of another identity")
        if network is None or not operator.address or len(definition.config_hash) != 32:
            continue
        config_digest = digest_of(definition.config_hash, network.chain_id)
        for name, digest in (("config", config_digest), ("enr", eip712.enr_digest(operator.enr, network.chain_id))):
            signature: bytes = getattr(operator, f"{name}_signature")
            if len(signature) != merkle.SIGNATURE_BYTES:
                continue
            signer = signer_of(digest, signature)
            if signer is None or ethereum_address(signer).lower() != operator.address.lower():
                where = f"operators[{i}].enr or .enr_signature" if name == "enr" else f"operators[{i}].config_signature"
                yield Suspect(where, f"the signature isn't one of {operator.address}")
    creator = definition.creator
    if network is not None and creator.address and len(definition.config_hash) == 32:
        signer = signer_of(eip712.creator_config_digest(definition.config_hash, network.chain_id), creator.config_signature)
        if signer is None or ethereum_address(signer).lower() != creator.address.lower():
            yield Suspect("creator.config_signature", f"isn't one of {creator.address}")


def validator_suspects(lock: Lock) -> Iterator[Suspect]:
    """Validators of a lock whose shares, deposits or registration contradict their key. Raises ClusterFault."""
    yield from inconsistent_shares(lock)
    yield from unsigned_deposits(lock)
    yield from unsigned_registrations(lock)


def inconsistent_shares(lock: Lock) -> Iterator[Suspect]:
    """Validators whose public shares are not those of one key. Some 1 ms each."""
    for i, validator in enumerate(lock.validators):
        try:
            verify_public_shares(replace(lock, validators=(validator,)))
        except ClusterFault as error:
            yield Suspect(f"distributed_validators[{i}]", str(error).removeprefix("verify share reconstruction: "), i)


def unsigned_deposits(lock: Lock, verify_batch: VerifyBatch = verify_bound) -> Iterator[Suspect]:
    """Deposits of a lock whose signature isn't one of their validator. Some 0.7 ms each. Raises ClusterFault."""
    schema, fork_version = schema_of(lock.definition.version), lock.definition.fork_version
    entries: list[tuple[int, str, Check]] = []
    for i, validator in enumerate(lock.validators):
        for k, deposit in enumerate(validator.deposits):
            entry = f"partial_deposit_data[{k}]" if schema.deposits is Deposits.LIST else "deposit_data"
            check = Check(validator.public_key, deposit_signing_root(deposit, fork_version), deposit.signature)
            entries.append((i, entry, check))
    return _unsigned(entries, verify_batch)


def unsigned_registrations(lock: Lock, verify_batch: VerifyBatch = verify_bound) -> Iterator[Suspect]:
    """The same for builder registrations, rebuilt with the definition's fee recipient and the validator's key (01 §5.1, check 11)."""
    if not schema_of(lock.definition.version).has_registrations:
        return iter(())
    entries: list[tuple[int, str, Check]] = []
    for i, (validator, row) in enumerate(zip(lock.validators, lock.definition.validators, strict=False)):
        fee_recipient = merkle.address_bytes(row.fee_recipient_address) if row.fee_recipient_address else b""
        rebuilt = replace(validator.registration, fee_recipient=fee_recipient, pubkey=validator.public_key)
        root = registration_signing_root(rebuilt, lock.definition.fork_version)
        entries.append((i, "builder_registration", Check(validator.public_key, root, rebuilt.signature)))
    return _unsigned(entries, verify_batch)


def _unsigned(entries: Sequence[tuple[int, str, Check]], verify_batch: VerifyBatch) -> Iterator[Suspect]:
    checks = [check for _, _, check in entries]
    for (i, entry, _), is_right in zip(entries, verify_batch(checks), strict=True):
        if not is_right:
            yield Suspect(f"distributed_validators[{i}].{entry}", "its signature isn't one of the validator's key", i)


def signer_of(digest: bytes, signature: bytes) -> bytes | None:
    """The key (33 bytes) that made this signature, None if none can have."""
    try:
        return k1_recover(digest, signature)
    except CryptoFault:
        return None


def _enr_key(enr: str) -> bytes | None:
    try:
        return decode_enr(enr).public_key
    except EnrFault:
        return None
