"""Which one leaf of a lock's validators, put back to the value that other leaves imply, makes the stored lock hash come out right. Pure.

For locks whose definition is in order (`repair.py` looks after that). Nearly all that a validator's entry holds is there twice:

    leaf                      implied by other leaves                        tried for suspects only
    lock_hash                 the shares' aggregate signature                -
    distributed_public_key    registration, deposits                         what its public shares recover to
    public_shares             -                                              swapped; the point that the others imply
    deposits                  credentials and amounts of the definition,     the other kind of credentials, absent
                              the validator's key
    builder_registration      fee recipient and gas limit of the             usual gas limits, genesis of other networks
                              definition, others' time, the key
    order of validators       swapped neighbours                             -

Where nothing was edited the implied value is the stored one, so the first search is short, whatever the number of validators.
Suspects are validators with a signature or a share that doesn't fit (`explain.validator_suspects`). A signature can't be made up:
of an edited one only the place is told.

Limits: MAX_CANDIDATES a search; shares of clusters of up to MAX_POINTS operators.
Source: specification 01-cluster-files, sections 3.3, 5, 6 and 8.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Final

from msgspec.structs import replace

from charon_actors.cluster import merkle
from charon_actors.cluster.definition import MAX_VALIDATORS, ValidatorAddresses
from charon_actors.cluster.definition_candidates import GAS_LIMITS, Forms, Hints, Repair, changed_leaf, pairs, shown
from charon_actors.cluster.deposit import amounts_to_sign, withdrawal_credentials
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.hashes import definition_leaves, lock_hash, validator_leaves
from charon_actors.cluster.lock import DistributedValidator, Lock
from charon_actors.cluster.repair import MAX_CANDIDATES, ListRoot
from charon_actors.cluster.schema import Deposits, schema_of
from charon_actors.crypto import CURVE_ORDER, CryptoFault, decode_public_key, fast_aggregate_verify, g1_linear_combination
from charon_actors.eth2.networks import NETWORKS, network_by_fork_version
from charon_actors.share_index import by_share_index, peer_index_of

MAX_POINTS: Final = 64
Entry = tuple[Repair, dict[int, DistributedValidator]]  # with the validators that it changes
_NO_ADDRESSES = ValidatorAddresses("", "")


class LockRepair:
    """A lock whose definition hash fits and whose lock hash doesn't. Each search gives the repair, None when it finds none."""

    def __init__(self, lock: Lock, hints: Hints) -> None:
        """Raises ClusterFault when the lock can't be hashed."""
        self._lock, self._schema = lock, schema_of(lock.definition.version)
        (self._definition_root,) = merkle.container(*(chunks for _, chunks in definition_leaves(lock.definition, full=True)))
        roots = [self._root(validator) for validator in lock.validators]
        self._listing = ListRoot(roots, len(roots) if self._schema.is_legacy_hashed else MAX_VALIDATORS) if roots else None
        times = Counter(each.registration.timestamp_s for each in lock.validators)
        network = network_by_fork_version(lock.definition.fork_version, hints.networks)
        self._usual_times = [time for time, _ in times.most_common(2)] + ([network.genesis_time_s] if network else [])
        self._networks = (*NETWORKS, *hints.networks)

    def by_other_leaves(self) -> Repair | None:
        """The stored hash itself, values that other leaves imply, and neighbours swapped."""
        lock = self._lock
        recomputed = lock_hash(lock)
        shares = [share for validator in lock.validators for share in validator.public_shares]
        if fast_aggregate_verify(shares, recomputed, lock.signature_aggregate):
            return Repair("lock_hash", shown(lock.lock_hash), shown(recomputed), "what all key shares signed")
        implied = (entry for index in range(len(lock.validators)) for entry in self._changes(index, is_suspect=False))
        return self._search(chain(implied, self._swapped()))

    def of_suspects(self, indices: Sequence[int]) -> Repair | None:
        """Further values, for these validators."""
        changes = (chain(self._changes(index, is_suspect=True), self._share_changes(index)) for index in indices)
        return self._search(chain.from_iterable(changes))

    def _search(self, entries: Iterable[Entry]) -> Repair | None:
        for repair, changed in islice(entries, MAX_CANDIDATES if self._listing else 0):
            assert self._listing is not None
            try:
                chunk = self._listing.changed({index: self._root(validator) for index, validator in changed.items()})
            except ClusterFault:  # a candidate that can't be hashed
                continue
            if merkle.merkle_root([self._definition_root, chunk]) == self._lock.lock_hash:
                return repair
        return None

    def _root(self, validator: DistributedValidator) -> bytes:
        return merkle.container(*validator_leaves(self._schema, validator))[0]

    def _swapped(self) -> Iterator[Entry]:
        validators = self._lock.validators
        for i, j in pairs(len(validators)):
            leaf = f"distributed_validators[{i}] and [{j}]"
            repair = Repair(leaf, "in this order", "them swapped", "the definition's addresses keep their order")
            yield repair, {i: validators[j], j: validators[i]}

    def _changes(self, index: int, *, is_suspect: bool) -> Iterator[Entry]:
        """Keys, deposits and registration of one validator."""
        validator, path = self._lock.validators[index], f"distributed_validators[{index}]"
        rows = self._lock.definition.validators
        row = rows[index] if index < len(rows) else _NO_ADDRESSES
        keys = sorted({validator.registration.pubkey, *(each.pubkey for each in validator.deposits)} - {b""})
        forms: Forms = [(key, "the key in its registration or deposits") for key in keys]
        for repair, key in changed_leaf(f"{path}.distributed_public_key", validator.public_key, forms):
            yield repair, {index: replace(validator, public_key=key)}
        yield from self._deposit_changes(index, row, is_suspect=is_suspect)
        if not self._schema.has_registrations:
            return
        registration, definition = validator.registration, self._lock.definition
        fee = _address_bytes(row.fee_recipient_address)
        values: dict[str, list[tuple[Any, str]]] = {
            "fee_recipient": [(fee, "of the definition")] if fee else [],
            "gas_limit": [(definition.target_gas_limit or GAS_LIMITS[0], "the definition's")],
            "timestamp_s": [(time, "the network's genesis, or other validators' time") for time in self._usual_times],
            "pubkey": [(validator.public_key, "the validator's key")],
        }
        if is_suspect:
            values["gas_limit"] += [(limit, "a usual one") for limit in GAS_LIMITS]
            values["timestamp_s"] += [(each.genesis_time_s, f"the genesis of {each.name}") for each in self._networks]
        for field, candidates in values.items():
            leaf = f"{path}.builder_registration.message.{field.removesuffix('_s')}"
            for repair, value in changed_leaf(leaf, getattr(registration, field), candidates):
                yield repair, {index: replace(validator, registration=replace(registration, **{field: value}))}

    def _deposit_changes(self, index: int, row: ValidatorAddresses, *, is_suspect: bool) -> Iterator[Entry]:
        validator, definition, schema = self._lock.validators[index], self._lock.definition, self._schema
        is_list, deposits = schema.deposits is Deposits.LIST, validator.deposits
        path = f"distributed_validators[{index}]." + ("partial_deposit_data" if is_list else "deposit_data")
        amounts = amounts_to_sign(schema, definition.deposit_amounts_gwei, compounding=definition.compounding)
        kinds = [definition.compounding, not definition.compounding] if is_suspect else [definition.compounding]
        has_address = bool(_address_bytes(row.withdrawal_address))
        credentials = [withdrawal_credentials(row.withdrawal_address, compounding=kind) for kind in kinds if has_address]
        for position, deposit in enumerate(deposits):
            where = f"{path}[{position}]" if is_list else path
            usual = amounts if is_suspect else amounts[position : position + 1]  # both lists are ascending
            values: dict[str, list[tuple[Any, str]]] = {
                "pubkey": [(validator.public_key, "the validator's key")],
                "withdrawal_credentials": [(each, "of the withdrawal address") for each in credentials],
                "amount_gwei": [(amount, "an amount of the definition") for amount in usual],
            }
            for field, candidates in values.items():
                for repair, value in changed_leaf(f"{where}.{field.removesuffix('_gwei')}", getattr(deposit, field), candidates):
                    changed = (*deposits[:position], replace(deposit, **{field: value}), *deposits[position + 1 :])
                    yield repair, {index: replace(validator, deposits=changed)}
        ascending = tuple(sorted(deposits, key=lambda deposit: deposit.amount_gwei))
        if ascending != deposits:
            repair = Repair(path, "in this order", "them in ascending order of amounts", "as all locks have them")
            yield repair, {index: replace(validator, deposits=ascending)}
        if deposits and is_suspect:
            yield Repair(path, "there", "it absent", "as in locks without deposits"), {index: replace(validator, deposits=())}

    def _share_changes(self, index: int) -> Iterator[Entry]:
        """The shares swapped, then each of the validator's points in turn as the others imply it."""
        validator, path = self._lock.validators[index], f"distributed_validators[{index}]"
        shares = validator.public_shares
        if len(shares) > MAX_POINTS or len(shares) != len(self._lock.definition.operators):
            return
        for i, j in pairs(len(shares)):
            swapped = tuple(shares[{i: j, j: i}.get(k, k)] for k in range(len(shares)))
            repair = Repair(f"{path}.public_shares[{i}] and [{j}]", "in this order", "them swapped", "the operators' order")
            yield repair, {index: replace(validator, public_shares=swapped)}
        points = {0: validator.public_key, **by_share_index(shares)}
        for x, stored in points.items():
            others = dict(islice(((at, point) for at, point in points.items() if at != x), self._lock.definition.threshold))
            try:
                implied = point_at(others, x)
            except CryptoFault:  # one of the others is no point
                continue
            leaf = f"{path}.public_shares[{peer_index_of(x)}]" if x else f"{path}.distributed_public_key"
            for repair, _ in changed_leaf(leaf, stored, [(implied, "on the polynomial of its other shares")]):
                shares_with = (*shares[: peer_index_of(x)], implied, *shares[x:]) if x else shares
                key = validator.public_key if x else implied
                yield repair, {index: replace(validator, public_key=key, public_shares=shares_with)}


def point_at(points: dict[int, bytes], x: int) -> bytes:
    """The public point at x of the polynomial through these (48 bytes by index; 0 is the group key). Raises CryptoFault."""
    weights = []
    for i in points:
        numerator = denominator = 1
        for j in points:
            if j != i:
                numerator = numerator * (x - j) % CURVE_ORDER
                denominator = denominator * (i - j) % CURVE_ORDER
        weights.append(numerator * pow(denominator, -1, CURVE_ORDER) % CURVE_ORDER)
    return g1_linear_combination([decode_public_key(point) for point in points.values()], weights).encode()


def _address_bytes(address: str) -> bytes:
    try:
        return merkle.address_bytes(address)
    except ClusterFault:
        return b""
