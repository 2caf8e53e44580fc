"""What a leaf of an edited definition may have been: the values that `repair.py` tries. Pure.

    leaf                       candidates
    texts                      trimmed, other letter case, other Unicode form, absent
    timestamp                  the same instant or the same wall clock at every offset from UTC
    num_validators             before v1.5: the length of the lock's list, 1 to MAX_SHARED_VALIDATORS
    threshold                  0 to the number of operators
    fork_version               every known network
    operators                  swapped, moved, doubled; addresses that signatures recover to, or of another operator
    creator                    the address that the signature recovers to, one of the operators', none
    fee recipients             those of the lock's registrations, of other validators, the withdrawal address
    withdrawal addresses       those of the lock's deposits, of other validators, the fee recipient
    deposit amounts            those of the lock's deposits, the defaults, in order, one less
    gas limit, compounding     that of the lock's registrations, usual ones; the other one
    ENRs, signatures           the ENR of a key at hand, padding, white space; recovery ids, swapped, absent

Values that follow from other parts of the file stand before guesses. Source: specification 01-cluster-files, sections 2 and 3.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from itertools import chain, islice
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from charon_actors.cluster import eip712, merkle
from charon_actors.cluster.definition import Definition, Operator, ValidatorAddresses
from charon_actors.cluster.deposit import DEFAULT_AMOUNTS_GWEI, DEFAULT_COMPOUNDING_AMOUNTS_GWEI, GWEI_PER_ETH, MAX_AMOUNT_GWEI
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.schema import schema_of
from charon_actors.crypto import CryptoFault, checksum_address, ethereum_address, k1_recover
from charon_actors.eth2.networks import NETWORKS, Network

GAS_LIMITS: Final = (30_000_000, 36_000_000, 45_000_000, 60_000_000)
USUAL_AMOUNTS_GWEI: Final = tuple(eth * GWEI_PER_ETH for eth in (2, 4, 16, 24, 31, 64, 2048))
MAX_SHARED_VALIDATORS: Final = 1024
MAX_PAIRS_OF: Final = 32  # of longer lists only neighbours are swapped
MAX_OPERATOR_WORK: Final = 20_000  # operators that are hashed for candidates of their list
MOST_USED: Final = 4  # addresses of other validators that are tried
MAX_SHOWN_CHARACTERS: Final = 200


class Repair(msgspec.Struct, frozen=True):
    """leaf: its path in the file. stored, fits: as the file writes them. evidence: where `fits` comes from, in a few words."""

    leaf: str
    stored: str
    fits: str
    evidence: str


class Hints(msgspec.Struct, frozen=True):
    """What else is known. lock: that of the definition. enrs: those of identity keys at hand. networks: custom ones."""

    lock: Lock | None = None
    enrs: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()


Change = tuple[Repair, str, dict[str, Any]]  # with the leaf's name, and the fields of the definition that it changes
RowChange = tuple[Repair, dict[int, ValidatorAddresses]]  # with the rows of `validators` that it changes
Forms = Iterable[tuple[Any, str]]  # values, and where each comes from


def shown(value: object) -> str:
    """A value as its file writes it, at most MAX_SHOWN_CHARACTERS."""
    if isinstance(value, bytes):
        text = "0x" + value.hex() if value else '""'
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, tuple):
        text = "[" + ", ".join(f'"{element}"' for element in value) + "]" if value else "null"
    else:
        text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:120]}…{text[-60:]}"


def changed_leaf(leaf: str, stored: object, forms: Forms) -> Iterator[tuple[Repair, Any]]:
    """A repair for each form that isn't what is stored."""
    for value, evidence in forms:
        if value != stored:
            yield Repair(leaf, shown(stored), shown(value), evidence), value


def pairs(count: int) -> Iterator[tuple[int, int]]:
    """All pairs of positions in a short list, neighbours in a long one."""
    for i in range(count):
        for j in range(i + 1, count if count <= MAX_PAIRS_OF else min(i + 2, count)):
            yield i, j


def term_changes(definition: Definition, hints: Hints) -> Iterator[Change]:
    """Terms that are no long lists, in the order of the leaves: what the config hash covers."""
    validators = hints.lock.validators if hints.lock else ()
    gas_limits = ((each.registration.gas_limit, "that of the lock's registrations") for each in validators[:1])
    networks = (*NETWORKS, *hints.networks)
    simple: dict[str, Forms] = {
        "uuid": _text_forms(definition.uuid),
        "name": _text_forms(definition.name),
        "timestamp": _timestamp_forms(definition.timestamp),
        "threshold": ((count, "possible with these operators") for count in range(len(definition.operators) + 1)),
        "dkg_algorithm": ((name, "an algorithm") for name in ("default", "frost", "pedersen", "")),
        "fork_version": ((each.genesis_fork_version, f"that of {each.name}") for each in networks),
        "deposit_amounts_gwei": _amount_forms(definition, hints),
        "consensus_protocol": chain([("", "automatic"), ("qbft", "a protocol")], _text_forms(definition.consensus_protocol)),
        "target_gas_limit": chain(gas_limits, ((limit, "a usual one") for limit in (*GAS_LIMITS, 0))),
        "compounding": [(not definition.compounding, "the other kind")],
    }
    for field, forms in simple.items():
        leaf = field.removesuffix("_gwei")
        for repair, value in changed_leaf(leaf, getattr(definition, field), forms):
            yield repair, leaf, {field: value}
    if not schema_of(definition.version).has_validator_addresses:
        yield from _shared_address_changes(definition, len(validators))
    yield from _creator_changes(definition, hints)
    yield from _bounded(definition, _operator_address_changes(definition, hints))


def row_changes(definition: Definition, hints: Hints) -> Iterator[RowChange]:
    """The addresses of validators, v1.5 and later: what the lock says of each, then what is near."""
    if not schema_of(definition.version).has_validator_addresses:
        return
    rows = definition.validators
    fees, withdrawals = (
        [address for address, _ in Counter(column).most_common(MOST_USED)]
        for column in ([row.fee_recipient_address for row in rows], [row.withdrawal_address for row in rows])
    )
    locked = hints.lock.validators if hints.lock else ()
    for index, (row, validator) in enumerate(zip(rows, locked, strict=False)):
        credentials = validator.deposits[0].withdrawal_credentials if validator.deposits else b""
        fee = [(_written(validator.registration.fee_recipient), "that of the lock's registration")]
        yield from _row_changes(index, row, fee, [(_written(credentials[12:]), "that of the lock's deposits")])
    for index, row in enumerate(rows):
        yield from _row_changes(
            index, row, [(row.withdrawal_address, "the withdrawal address")], [(row.fee_recipient_address, "the fee recipient")]
        )
        swapped = ValidatorAddresses(row.withdrawal_address, row.fee_recipient_address)
        yield (
            Repair(f"validators[{index}]", "its two addresses as they stand", "them swapped", "of the same validator"),
            {index: swapped},
        )
    other, zero = "that of other validators", (_written(bytes(20)), "the zero address")
    for index, row in enumerate(rows):
        yield from _row_changes(index, row, [*((a, other) for a in fees), zero], [*((a, other) for a in withdrawals), zero])
    for i, j in pairs(len(rows)):
        repair = Repair(f"validators[{i}] and validators[{j}]", "in this order", "them swapped", "neighbours in the list")
        yield repair, {i: rows[j], j: rows[i]}


def enr_and_signature_changes(definition: Definition, hints: Hints) -> Iterator[Change]:
    """What the definition hash covers and the config hash doesn't."""
    creator = definition.creator
    for repair, value in changed_leaf(
        "creator.config_signature", creator.config_signature, _signature_forms(creator.config_signature)
    ):
        yield repair, "creator", {"creator": replace(creator, config_signature=value)}
    yield from _bounded(definition, _operator_enr_changes(definition, hints))


def _bounded(definition: Definition, changes: Iterator[Change]) -> Iterator[Change]:
    return islice(changes, MAX_OPERATOR_WORK // max(1, len(definition.operators)))


def _shared_address_changes(definition: Definition, locked: int) -> Iterator[Change]:
    """Before v1.5: one pair of addresses, and a number of validators that no list gives."""
    if not definition.validators:
        return
    pair = definition.validators[0]
    counts = chain(
        [(locked, "what the lock's list holds")] if locked else [],
        ((n, "a small number") for n in range(1, MAX_SHARED_VALIDATORS + 1)),
    )
    for repair, count in changed_leaf("num_validators", definition.num_validators, counts):
        yield repair, "num_validators", {"num_validators": count, "validators": (pair,) * count}
    swapped = {"fee_recipient_address": pair.withdrawal_address, "withdrawal_address": pair.fee_recipient_address}
    for leaf, other in swapped.items():
        stored = getattr(pair, leaf)
        for repair, address in changed_leaf(leaf, stored, [*_address_forms(stored), (other, "the other address"), ("", "none")]):
            yield repair, leaf, {"validators": (replace(pair, **{leaf: address}),) * definition.num_validators}


def _creator_changes(definition: Definition, hints: Hints) -> Iterator[Change]:
    creator = definition.creator
    forms = chain(
        _signers(definition, creator.config_signature, hints),
        ((each.address, "an operator's") for each in definition.operators),
        [("", "none")],
    )
    for repair, address in changed_leaf("creator.address", creator.address, forms):
        yield repair, "creator", {"creator": replace(creator, address=address)}


def _operator_address_changes(definition: Definition, hints: Hints) -> Iterator[Change]:
    operators = definition.operators
    others = [(address, "that of another operator or the creator") for address in {each.address for each in operators}]
    others.append((definition.creator.address, "the creator's"))
    for index, operator in enumerate(operators):
        forms = chain(
            _signers(definition, operator.config_signature, hints), _address_forms(operator.address), others, [("", "none")]
        )
        for repair, address in changed_leaf(f"operators[{index}].address", operator.address, forms):
            yield repair, "operators", {"operators": _with(operators, index, replace(operator, address=address))}
    yield from _order_changes(operators)


def _operator_enr_changes(definition: Definition, hints: Hints) -> Iterator[Change]:
    operators = definition.operators
    for index, operator in enumerate(operators):
        bare = "".join(operator.enr.split()).rstrip("=")
        padding = [(enr, "without white space, or padded") for enr in (bare, f"{bare}=", f"{bare}==")]
        forms: dict[str, Forms] = {
            "enr": [*padding, *((enr, "that of the identity key here") for enr in hints.enrs)],
            "config_signature": _signature_forms(operator.config_signature),
            "enr_signature": _signature_forms(operator.enr_signature),
        }
        for field, values in forms.items():
            for repair, value in changed_leaf(f"operators[{index}].{field}", getattr(operator, field), values):
                yield repair, "operators", {"operators": _with(operators, index, replace(operator, **{field: value}))}
        swapped = replace(operator, config_signature=operator.enr_signature, enr_signature=operator.config_signature)
        repair = Repair(f"operators[{index}]", "its two signatures as they stand", "them swapped", "of the same operator")
        yield repair, "operators", {"operators": _with(operators, index, swapped)}
    yield from _order_changes(operators)


def _order_changes(operators: tuple[Operator, ...]) -> Iterator[Change]:
    evidence = "the order decides who has which share"
    for i, j in pairs(len(operators)):
        swapped = _with(_with(operators, i, operators[j]), j, operators[i])
        repair = Repair(f"operators[{i}] and operators[{j}]", "in this order", "them swapped", evidence)
        yield repair, "operators", {"operators": swapped}
    for i, operator in enumerate(operators):
        rest = operators[:i] + operators[i + 1 :]
        if operator in rest:
            yield Repair(f"operators[{i}]", "there twice", "it once", "the same operator"), "operators", {"operators": rest}
        for j in range(len(operators) if len(operators) <= MAX_PAIRS_OF else 0):
            repair = Repair(f"operators[{i}]", f"at place {i}", f"it at place {j}", evidence)
            yield repair, "operators", {"operators": (*rest[:j], operator, *rest[j:])}


def _row_changes(index: int, row: ValidatorAddresses, fees: Forms, withdrawals: Forms) -> Iterator[RowChange]:
    for field, forms in (("fee_recipient_address", fees), ("withdrawal_address", withdrawals)):
        stored = getattr(row, field)
        for repair, address in changed_leaf(f"validators[{index}].{field}", stored, forms):
            if address.lower() != stored.lower():
                yield repair, {index: replace(row, **{field: address})}


def _with(operators: tuple[Operator, ...], index: int, operator: Operator) -> tuple[Operator, ...]:
    return (*operators[:index], operator, *operators[index + 1 :])


def _text_forms(text: str) -> Forms:
    return [
        (text.strip(), "without white space around it"),
        (" ".join(text.split()), "with single spaces"),
        (text.lower(), "in lower case"),
        (text.upper(), "in upper case"),
        (text.title(), "with capitals"),
        (text.capitalize(), "with a capital"),
        (text[:1].swapcase() + text[1:], "the first letter in the other case"),
        (unicodedata.normalize("NFC", text), "with composed characters"),
        (unicodedata.normalize("NFD", text), "with decomposed characters"),
        (f"{text} ", "with a space at its end"),
        (f"{text}\n", "with a line break at its end"),
        ("", "absent"),
    ]


def _timestamp_forms(text: str) -> Iterator[tuple[str, str]]:
    yield from _text_forms(text)
    try:
        moment = datetime.fromisoformat(text.strip().upper()).replace(microsecond=0)
        zones = [UTC, *(timezone(timedelta(minutes=15 * quarter)) for quarter in range(-4 * 14, 4 * 14 + 1))]
        same_instant = [moment.astimezone(zone) for zone in zones] if moment.tzinfo else []
    except (ValueError, OverflowError):  # no timestamp, or one in the year 1 or 9999
        return
    for moments, evidence in (
        (same_instant, "the same instant"),
        ([moment.replace(tzinfo=zone) for zone in zones], "the same wall clock"),
    ):
        for written in (each.isoformat() for each in moments):
            yield written, evidence
            yield written.replace("+00:00", "Z"), evidence


def _amount_forms(definition: Definition, hints: Hints) -> Iterator[tuple[tuple[int, ...], str]]:
    amounts = definition.deposit_amounts_gwei
    made = [deposit.amount_gwei for deposit in hints.lock.validators[0].deposits] if hints.lock and hints.lock.validators else []
    yield tuple(made), "those of the lock's deposits"
    for amount in made:
        for count in range(2, 33):
            yield (amount,) * count, "one of the lock's deposits, repeated"
    yield (), "none: the defaults"
    for defaults in (DEFAULT_AMOUNTS_GWEI, DEFAULT_COMPOUNDING_AMOUNTS_GWEI, (MAX_AMOUNT_GWEI,)):
        yield defaults, "the defaults, written out"
    yield tuple(sorted(amounts)), "in ascending order"
    yield tuple(sorted(amounts, reverse=True)), "in descending order"
    for index in range(len(amounts)):
        yield amounts[:index] + amounts[index + 1 :], "one less"
        for amount in dict.fromkeys((*made, *amounts, *DEFAULT_COMPOUNDING_AMOUNTS_GWEI, *USUAL_AMOUNTS_GWEI)):
            yield (*amounts[:index], amount, *amounts[index + 1 :]), "one of them usual"


def _address_forms(address: str) -> Iterator[tuple[str, str]]:
    """Other spellings; only versions that hash the text tell them apart."""
    try:
        digits = merkle.address_bytes(address.strip()).hex()
    except ClusterFault:
        return
    yield f"0x{digits}", "in lower case"
    yield checksum_address(f"0x{digits}"), "with its EIP-55 checksum"
    yield digits, "without 0x"


def _signature_forms(signature: bytes) -> Iterator[tuple[bytes, str]]:
    if len(signature) == merkle.SIGNATURE_BYTES and signature[64] in (0, 1, 27, 28):
        other = signature[64] + 27 if signature[64] < 27 else signature[64] - 27
        yield signature[:64] + bytes([other]), "the other spelling of the recovery id"
        yield signature[:64] + bytes([{0: 1, 1: 0, 27: 28, 28: 27}[signature[64]]]), "the other recovery id"
    yield b"", "none"


def _signers(definition: Definition, signature: bytes, hints: Hints) -> Iterator[tuple[str, str]]:
    """Addresses that would have made this signature of the stored config hash, on any known network."""
    for network in (*NETWORKS, *hints.networks):
        for digest_of in (eip712.operator_config_digest, eip712.creator_config_digest, eip712.legacy_config_digest):
            try:
                signer = k1_recover(digest_of(definition.config_hash, network.chain_id), signature)
            except CryptoFault:
                continue
            yield ethereum_address(signer), f"who signed the config hash, on {network.name}"


def _written(address: bytes) -> str:
    return checksum_address("0x" + address.hex()) if len(address) == 20 else ""
