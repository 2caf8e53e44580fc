"""The checks of a definition and of a lock one by one, so that those after a fault are made as well. Pure.

`verify.py` decides whether a file may be trusted, and stops at the first fault. For an operator who looks for what is wrong, the
same checks are made here each on its own, in the same order (the first fault of the list is the one that `verify.py` raises):

    hashes        config hash · definition hash · count of validators · lock hash
    signatures    of operators and creator · form of the aggregate · public shares · aggregate · registrations · node signatures
    ours          deposits in the lock: Charon checks them only when it writes their files

Source: specification 01-cluster-files, sections 4.1 and 5.1.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec

from charon_actors.cluster.definition import Definition
from charon_actors.cluster.definition_candidates import Hints
from charon_actors.cluster.explain import (
    MAX_SUSPECTS,
    Suspect,
    inconsistent_shares,
    operator_suspects,
    signer_of,
    unsigned_deposits,
    unsigned_registrations,
)
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.foreign_json import hex_or_empty
from charon_actors.cluster.hashes import config_hash, definition_hash, lock_hash
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.peers import peers_of
from charon_actors.cluster.schema import schema_of
from charon_actors.cluster.verify import (
    SIGNATURE_BYTES,
    ContractCheck,
    WalletFault,
    registration_checks,
    verify_aggregate,
    verify_count,
    verify_definition_signatures,
    verify_lock_signatures,
    verify_node_signatures,
    verify_public_shares,
)
from charon_actors.crypto import VerifyBatch, verify_bound
from charon_actors.eth2.networks import Network

IN_LOCK: Final = "invalid definition: "
OF_OPERATORS: Final = "signatures of operators and creator"
PUBLIC_SHARES: Final = "public shares"
AGGREGATE: Final = "signature aggregate"
NO_AGGREGATE: Final = f"{AGGREGATE}: none, as locks of v1.0 and v1.1 may have it"
REGISTRATIONS: Final = "builder registrations"
NODE_SIGNATURES: Final = "node signatures"
DEPOSITS: Final = "deposits"


class LockCheck(msgspec.Struct, frozen=True):
    """name: what was looked at. fault: the specification's text, "" when it holds. is_hash: it compares a stored hash.

    details: further facts about the fault, one a line. is_wallet: a contract wallet may have signed, which nobody was asked.
    """

    name: str
    fault: str = ""
    details: tuple[str, ...] = ()
    is_hash: bool = False
    is_wallet: bool = False


def check_definition(
    definition: Definition, networks_extra: Sequence[Network] = (), contract: ContractCheck | None = None
) -> Iterator[LockCheck]:
    """All checks of a definition, as they are made."""
    yield from _definition_hash_checks(definition, "")
    yield _operators_check(definition, None, networks_extra, contract)


def check_lock(
    lock: Lock,
    networks_extra: Sequence[Network] = (),
    contract: ContractCheck | None = None,
    verify_batch: VerifyBatch = verify_bound,
) -> Iterator[LockCheck]:
    """All checks of a lock, as they are made; some 3 ms a validator."""
    yield from _definition_hash_checks(lock.definition, IN_LOCK)
    yield _check("count of validators", lambda: verify_count(lock))
    yield _hash_check("lock hash", "", lock.lock_hash, lambda: lock_hash(lock))
    try:
        verify_lock_signatures(lock, networks_extra, contract, verify_batch)
        checks = [LockCheck(name) for name in _signature_check_names(lock)]
    except ClusterFault as error:
        checks = list(_signature_checks(lock, networks_extra, contract))
        if not any(check.fault for check in checks):  # what verify.py refuses is refused
            checks.append(LockCheck("signatures", str(error)))
    yield from checks
    if any(validator.deposits for validator in lock.validators):
        yield _entries_check(DEPOSITS, "invalid deposit data signature", lambda: unsigned_deposits(lock, verify_batch))


def _definition_hash_checks(definition: Definition, prefix: str) -> Iterator[LockCheck]:
    yield _hash_check("config hash", prefix, definition.config_hash, lambda: config_hash(definition))
    yield _hash_check("definition hash", prefix, definition.definition_hash, lambda: definition_hash(definition))


def _operators_check(
    definition: Definition, lock: Lock | None, networks_extra: Sequence[Network], contract: ContractCheck | None
) -> LockCheck:
    hints = Hints(networks=tuple(networks_extra))
    return _check(
        _of_operators(definition),
        lambda: verify_definition_signatures(definition, networks_extra, contract),
        IN_LOCK if lock else "",
        details=lambda: operator_suspects(definition, lock, hints),
    )


def _signature_check_names(lock: Lock) -> tuple[str, ...]:
    later = (REGISTRATIONS, NODE_SIGNATURES) if schema_of(lock.definition.version).has_registrations else ()
    aggregate = AGGREGATE if lock.signature_aggregate else NO_AGGREGATE
    return (_of_operators(lock.definition), PUBLIC_SHARES, aggregate, *later)


def _of_operators(definition: Definition) -> str:
    is_signed = definition.creator.config_signature or any(each.config_signature for each in definition.operators)
    return OF_OPERATORS if is_signed else f"{OF_OPERATORS}: nobody has signed, as is usual without the launchpad"


def _signature_checks(lock: Lock, networks_extra: Sequence[Network], contract: ContractCheck | None) -> Iterator[LockCheck]:
    """01 §5.1, checks 1 to 12, each on its own."""
    schema = schema_of(lock.definition.version)
    yield _operators_check(lock.definition, lock, networks_extra, contract)
    if not lock.signature_aggregate:
        yield LockCheck(NO_AGGREGATE) if schema.may_lack_aggregate else LockCheck(AGGREGATE, "empty lock aggregate signature")
    elif len(lock.signature_aggregate) != SIGNATURE_BYTES:
        yield LockCheck(AGGREGATE, "invalid data length")
    yield _check(PUBLIC_SHARES, lambda: verify_public_shares(lock), details=lambda: inconsistent_shares(lock))
    if len(lock.signature_aggregate) == SIGNATURE_BYTES:
        yield _check(AGGREGATE, lambda: verify_aggregate(lock, lock_hash(lock)))
    if schema.has_registrations:
        registrations = _check(REGISTRATIONS, lambda: registration_checks(lock))
        what = "verify pre-generated builder registrations: verify builder registration signature: signature not verified"
        yield registrations if registrations.fault else _entries_check(REGISTRATIONS, what, lambda: unsigned_registrations(lock))
        yield _check(NODE_SIGNATURES, lambda: verify_node_signatures(lock), details=lambda: _foreign_node_signatures(lock))
    elif lock.node_signatures:
        yield LockCheck(NODE_SIGNATURES, "unexpected node signatures")


def _foreign_node_signatures(lock: Lock) -> Iterator[Suspect]:
    for i, (signature, peer) in enumerate(zip(lock.node_signatures, peers_of(lock.definition), strict=False)):
        if signer_of(lock.lock_hash, signature) != peer.public_key:
            yield Suspect(f"node_signatures[{i}]", f"isn't one of operator {i}'s identity key over the stored lock hash")


def _check(
    name: str, verify: Callable[[], object], prefix: str = "", details: Callable[[], Iterator[Suspect]] | None = None
) -> LockCheck:
    try:
        verify()
    except ClusterFault as error:
        return LockCheck(name, f"{prefix}{error}", _lines(details) if details else (), is_wallet=isinstance(error, WalletFault))
    return LockCheck(name)


def _hash_check(name: str, prefix: str, stored: bytes, recompute: Callable[[], bytes]) -> LockCheck:
    try:
        recomputed = recompute()
    except ClusterFault as error:
        return LockCheck(name, f"{prefix}{error}", is_hash=True)
    if recomputed == stored:
        return LockCheck(f"{name} 0x{stored.hex()}", is_hash=True)
    detail = f"stored {hex_or_empty(stored) or 'none'}, the content hashes to {hex_or_empty(recomputed)}"
    return LockCheck(name, f"{prefix}invalid {name}", (detail,), is_hash=True)


def _entries_check(name: str, what: str, suspects: Callable[[], Iterator[Suspect]]) -> LockCheck:
    details = _lines(suspects)
    return LockCheck(name, what if details else "", details)


def _lines(suspects: Callable[[], Iterator[Suspect]]) -> tuple[str, ...]:
    try:
        return tuple(f"{each.leaf}: {each.evidence}" for each in islice(suspects(), MAX_SUSPECTS))
    except ClusterFault as error:
        return (str(error),)
