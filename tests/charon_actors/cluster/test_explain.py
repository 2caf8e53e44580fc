"""Edited files: the leaf that was edited is named, with the value that it had, or at least the place."""

import copy
import json
from collections.abc import Callable, Iterator
from time import process_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from charon_actors.cluster import merkle
from charon_actors.cluster.definition_candidates import Hints
from charon_actors.cluster.definition_json import decode_definition
from charon_actors.cluster.explain import Explanation, explain, first_difference, is_original, validator_suspects
from charon_actors.cluster.hashes import with_lock_hashes
from charon_actors.cluster.lock_checks import check_lock
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.lock_repair import point_at
from charon_actors.cluster.repair import ListRoot
from charon_actors.cluster.verify import verify_lock
from charon_actors.crypto.faults import CryptoFault
from tests.charon_actors.cluster.vectors import CLUSTER, load

SIGNED = "signed-v1_11_0/cluster-lock.json"
REAL = "examples/cluster-lock-v1_10_0-dkg-holesky.json"
KEYS = load("signed-v1_11_0/keys.json")
DEFINITION = "cluster_definition"

Path = tuple[str | int, ...]


def at(document: Any, path: Path) -> Any:
    for part in path:
        document = document[part]
    return document


def with_value(document: Any, path: Path, value: Any) -> bytes:
    changed = copy.deepcopy(document)
    at(changed, path[:-1])[path[-1]] = value
    return json.dumps(changed).encode()


def leaves(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(node, dict | list) and node:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, (*path, key))
    else:
        yield path, node


def edited(value: Any) -> Any:
    """As somebody edits by hand: the other switch, one more, another last digit, the other letter case."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if value.startswith("0x") and len(value) > 4:
        return value[:-1] + ("1" if value[-1] == "0" else "0")
    if value.isdigit():
        return str(int(value) + 10**9)
    return value.swapcase() if value.swapcase() != value else f"{value}1"


def written(path: Path) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def lock_explanation(content: bytes, hints: Hints | None = None) -> Explanation:
    return explain(content, hints or Hints(), is_lock=True)


# --- every leaf ------------------------------------------------------------------------------------------------------

UNCOVERED = ("node_signatures", "signature_aggregate")  # no hash covers these
UNGUESSABLE = {"uuid"}  # random, and nowhere else in the file
REFUSED = {"cluster_definition.deposit_amounts[1]"}  # breaks the rules of amounts, so the reader names it
SIGNED_LEAVES = [
    (path, value)
    for path, value in leaves(load(SIGNED))
    if path[0] not in UNCOVERED and value is not None and written(path) not in REFUSED
]


@pytest.mark.parametrize(("path", "value"), SIGNED_LEAVES, ids=[written(path) for path, _ in SIGNED_LEAVES])
def test_each_edited_leaf_of_a_signed_lock_is_found(path: Path, value: Any) -> None:
    """With its old value where that follows from the file; signatures and ENRs can't be made up, so of them the place."""
    explanation = lock_explanation(with_value(load(SIGNED), path, edited(value)))
    if path[-1] in UNGUESSABLE:
        assert not explanation.repairs
        assert str(path[-1]) in explanation.group
    elif "signature" in str(path[-1]) or path[-1] == "enr":
        assert not explanation.repairs
        (place,) = [suspect.leaf for suspect in explanation.suspects]
        assert place.replace("enr or .enr_signature", str(path[-1])) in (written(path), written(path).removesuffix(".signature"))
    else:
        (repair,) = explanation.repairs
        assert not explanation.group
        assert repair.leaf == written(path[:-1] if path[-2:-1] == ("deposit_amounts",) else path)
        expected = json.dumps(at(load(SIGNED), path)).strip('"')
        if path[-2:-1] == ("deposit_amounts",):
            expected = json.dumps(load(SIGNED)[DEFINITION]["deposit_amounts"])
        assert repair.fits.strip('"').lower() == expected.lower()
        assert repair.stored != repair.fits


def test_deposit_amounts_are_found_as_a_list() -> None:
    document = load(SIGNED)
    (repair,) = lock_explanation(with_value(document, (DEFINITION, "deposit_amounts", 0), "31000000000")).repairs
    assert repair.leaf == "cluster_definition.deposit_amounts"
    assert json.loads(repair.fits) == document[DEFINITION]["deposit_amounts"]


@pytest.mark.parametrize(
    "name", [SIGNED, REAL, "examples/cluster-lock-v1_10_0-hash-only.json", "golden/cluster_lock_v1_2_0.json"]
)
def test_nothing_is_said_about_an_intact_file(name: str) -> None:
    assert lock_explanation((CLUSTER / name).read_bytes()) == Explanation()


# --- edits that happen -----------------------------------------------------------------------------------------------


def swap(items: list[Any], i: int, j: int) -> None:
    items[i], items[j] = items[j], items[i]


def shift_time(definition: dict[str, Any]) -> None:
    """2022-…T18:19:58+02:00 becomes the same instant in UTC."""
    hours, rest = definition["timestamp"].split("T")[1][:2], definition["timestamp"].split("T")
    assert rest[1].endswith("+02:00")
    definition["timestamp"] = f"{rest[0]}T{int(hours) - 2:02d}{rest[1][2:8]}Z"


EDITS: list[tuple[str, str, str, Callable[[Any], None]]] = [
    (SIGNED, "cluster_definition.operators[1] and operators[3]", "swapped", lambda d: swap(d[DEFINITION]["operators"], 1, 3)),
    (REAL, "cluster_definition.operators[0] and operators[1]", "swapped", lambda d: swap(d[DEFINITION]["operators"], 0, 1)),
    (
        SIGNED,
        "cluster_definition.operators[3]",
        "it at place 0",
        lambda d: d[DEFINITION]["operators"].append(d[DEFINITION]["operators"].pop(0)),
    ),
    (SIGNED, "cluster_definition.validators[0] and validators[1]", "swapped", lambda d: swap(d[DEFINITION]["validators"], 0, 1)),
    (SIGNED, "distributed_validators[0] and [1]", "swapped", lambda d: swap(d["distributed_validators"], 0, 1)),
    (
        SIGNED,
        "distributed_validators[1].public_shares[0] and [2]",
        "swapped",
        lambda d: swap(d["distributed_validators"][1]["public_shares"], 0, 2),
    ),
    (
        SIGNED,
        "distributed_validators[0].partial_deposit_data",
        "ascending",
        lambda d: swap(d["distributed_validators"][0]["partial_deposit_data"], 0, 1),
    ),
    (SIGNED, "cluster_definition.version", "v1.11.0", lambda d: d[DEFINITION].update(version="v1.10.0")),
    (SIGNED, "cluster_definition.version", "v1.11.0", lambda d: d[DEFINITION].update(version="v1.99.0")),
    (SIGNED, "cluster_definition.num_validators", "2", lambda d: d[DEFINITION].update(num_validators=3)),
    (REAL, "cluster_definition.target_gas_limit", "60000000", lambda d: d[DEFINITION].update(target_gas_limit=36000000)),
    (REAL, "cluster_definition.compounding", "false", lambda d: d[DEFINITION].update(compounding=True)),
    (REAL, "cluster_definition.fork_version", "0x01017000", lambda d: d[DEFINITION].update(fork_version="0x10000910")),
    (REAL, "cluster_definition.threshold", "3", lambda d: d[DEFINITION].update(threshold=4)),
    (REAL, "cluster_definition.consensus_protocol", '""', lambda d: d[DEFINITION].update(consensus_protocol="qbft")),
    (REAL, "cluster_definition.dkg_algorithm", "default", lambda d: d[DEFINITION].update(dkg_algorithm="pedersen")),
    (SIGNED, "cluster_definition.operators[0].config_signature", "0x", lambda d: other_v(d[DEFINITION]["operators"][0])),
    ("golden/cluster_definition_v1_5_0.json", "timestamp", "+02:00", shift_time),
    ("golden/cluster_definition_v1_3_0.json", "num_validators", "2", lambda d: d.update(num_validators=7)),
    (
        "golden/cluster_definition_v1_0_0.json",
        "fee_recipient_address",
        "0x",
        lambda d: d.update(fee_recipient_address=d["fee_recipient_address"].upper().replace("0X", "0x")),
    ),
    (
        "golden/cluster_definition_v1_6_0.json",
        "operators[1].enr",
        "enr",
        lambda d: d["operators"][1].update(enr=d["operators"][1]["enr"] + "\n"),
    ),
]


def other_v(operator: dict[str, Any]) -> None:
    """Wallets write 27 and 28, our signatures 0 and 1; both verify, but the hash sees the difference."""
    signature = bytes.fromhex(operator["config_signature"][2:])
    operator["config_signature"] = (
        "0x" + (signature[:64] + bytes([signature[64] + 27 if signature[64] < 27 else signature[64] - 27])).hex()
    )


@pytest.mark.parametrize(
    ("name", "leaf", "fits", "edit"), EDITS, ids=[f"{leaf}-{number}" for number, (_, leaf, _, _) in enumerate(EDITS)]
)
def test_an_edit_that_happens_is_named_with_its_repair(name: str, leaf: str, fits: str, edit: Callable[[Any], None]) -> None:
    document = load(name)
    edit(document)
    (repair,) = explain(json.dumps(document).encode(), Hints(), is_lock="cluster_definition" in document).repairs
    assert repair.leaf == leaf
    assert fits in repair.fits


def test_a_definition_is_repaired_from_the_lock_that_came_of_it() -> None:
    """The definition alone doesn't say what an address was; the lock's deposits and registrations do."""
    lock = decode_lock((CLUSTER / SIGNED).read_bytes())
    document = load("signed-v1_11_0/cluster-definition.json")
    row = document["validators"][1]
    for field, old in list(row.items()):
        content = with_value(document, ("validators", 1, field), "0x" + "77" * 20)
        assert not explain(content, Hints(), is_lock=False).repairs
        (repair,) = explain(content, Hints(lock=lock), is_lock=False).repairs
        assert (repair.leaf, repair.fits.strip('"').lower()) == (f"validators[1].{field}", old.lower())


def test_our_own_enr_is_known_from_our_key() -> None:
    document = load("signed-v1_11_0/cluster-definition.json")
    for operator in document["operators"]:
        operator.update(address="", config_signature="", enr_signature="")
    document["creator"] = {"address": "", "config_signature": ""}
    lock = with_lock_hashes(
        replace(decode_lock((CLUSTER / SIGNED).read_bytes()), definition=decode_definition(json.dumps(document).encode()))
    )
    document.update(
        config_hash="0x" + lock.definition.config_hash.hex(), definition_hash="0x" + lock.definition.definition_hash.hex()
    )
    ours, other = document["operators"][2]["enr"], document["operators"][1]["enr"]
    content = with_value(document, ("operators", 2, "enr"), other)
    assert explain(content, Hints(), is_lock=False).group.startswith("ENRs or signatures")
    (repair,) = explain(content, Hints(enrs=(ours,)), is_lock=False).repairs
    assert (repair.leaf, repair.fits) == ("operators[2].enr", f'"{ours[:119]}…{ours[-59:]}"' if len(ours) > 198 else f'"{ours}"')


def test_two_edits_under_two_hashes_are_both_found_and_two_under_one_are_not() -> None:
    document = load(SIGNED)
    document[DEFINITION]["threshold"] = 4
    document["distributed_validators"][0]["builder_registration"]["message"]["gas_limit"] = 1
    found = lock_explanation(json.dumps(document).encode())
    assert [repair.leaf for repair in found.repairs] == [
        "cluster_definition.threshold",
        "distributed_validators[0].builder_registration.message.gas_limit",
    ]
    document[DEFINITION]["compounding"] = not document[DEFINITION]["compounding"]
    found = lock_explanation(json.dumps(document).encode())
    assert not found.repairs
    assert "threshold" in found.group


def test_a_name_that_nobody_knows_is_not_made_up() -> None:
    found = lock_explanation(with_value(load(SIGNED), (DEFINITION, "name"), "something else"))
    assert not found.repairs
    assert found.group.startswith("uuid, name, version, timestamp")


def test_a_lock_that_was_made_with_a_wrong_config_hash_is_told_so() -> None:
    """As `create cluster` of Charon makes from a definition whose operators have addresses (01 §10.1)."""
    lock = decode_lock((CLUSTER / SIGNED).read_bytes())
    document = load(SIGNED)
    document[DEFINITION]["config_hash"] = "0x" + "11" * 32
    wrong = replace(lock, definition=replace(lock.definition, config_hash=b"\x11" * 32))
    from charon_actors.cluster.hashes import definition_hash, lock_hash

    document[DEFINITION]["definition_hash"] = "0x" + definition_hash(wrong.definition).hex()
    document["lock_hash"] = "0x" + lock_hash(wrong).hex()
    (suspect,) = lock_explanation(json.dumps(document).encode()).suspects
    assert suspect.leaf == "cluster_definition.config_hash"


def test_validators_that_are_gone_are_counted() -> None:
    document = load(SIGNED)
    del document["distributed_validators"][1]
    (suspect,) = lock_explanation(json.dumps(document).encode()).suspects
    assert suspect.evidence == "holds 1, num_validators says 2"


# --- two copies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "value"), SIGNED_LEAVES[::3], ids=[written(path) for path, _ in SIGNED_LEAVES[::3]])
def test_the_first_leaf_in_which_two_copies_differ_is_named_with_both_values(path: Path, value: Any) -> None:
    ours = decode_lock((CLUSTER / SIGNED).read_bytes())
    new = {"version": "v1.10.0", "num_validators": None}.get(str(path[-1]), edited(value))
    if new is None:
        return  # can't be read
    theirs = decode_lock(with_value(load(SIGNED), path, new))
    difference = first_difference(ours, theirs)
    if path[-1] == "address" and difference is None:
        assert new.lower() == value.lower()
        return
    assert difference is not None
    assert written(path).startswith(difference.leaf)
    assert difference.ours != difference.theirs
    assert first_difference(theirs, theirs) is None
    assert is_original(ours, theirs) is (path[-1] != "lock_hash")
    assert not is_original(theirs, ours)


def test_the_letter_case_of_addresses_is_a_difference_only_where_a_hash_sees_it() -> None:
    for name, is_seen in (("golden/cluster_definition_v1_2_0.json", True), ("golden/cluster_definition_v1_4_0.json", False)):
        document = load(name)
        before = decode_definition(json.dumps(document).encode())
        document["fee_recipient_address"] = "0x" + document["fee_recipient_address"][2:].upper()
        assert (first_difference(before, decode_definition(json.dumps(document).encode())) is not None) is is_seen


def test_what_is_missing_in_one_copy_is_absent() -> None:
    lock = decode_lock((CLUSTER / SIGNED).read_bytes())
    shorter = replace(lock, node_signatures=lock.node_signatures[:3])
    difference = first_difference(lock, shorter)
    assert difference is not None
    assert (difference.leaf, difference.theirs) == ("node_signatures[3]", "absent")
    assert first_difference(lock.definition, lock) is None


# --- parts -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 70), st.data())
def test_a_list_with_changed_elements_hashes_as_if_it_were_hashed_anew(count: int, data: st.DataObject) -> None:
    roots = [bytes([index]) * 32 for index in range(count)]
    changed = data.draw(st.dictionaries(st.integers(0, count - 1), st.binary(min_size=32, max_size=32), min_size=1, max_size=4))
    anew = [changed.get(index, root) for index, root in enumerate(roots)]
    for limit in (count, 65536):
        assert [ListRoot(roots, limit).changed(changed)] == merkle.listing(([root] for root in anew), limit)


def test_points_of_a_polynomial_follow_from_each_other() -> None:
    for validator in decode_lock((CLUSTER / SIGNED).read_bytes()).validators:
        points = {0: validator.public_key, **dict(enumerate(validator.public_shares, start=1))}
        for x in points:
            others = {at: point for at, point in points.items() if at != x}
            assert point_at(dict(list(others.items())[:3]), x) == points[x]
            assert point_at(dict(list(others.items())[:2]), x) != points[x]  # threshold is 3
    with pytest.raises(CryptoFault):
        point_at({1: bytes(48), 2: bytes(48)}, 0)


def test_suspects_are_only_those_validators() -> None:
    lock = decode_lock((CLUSTER / SIGNED).read_bytes())
    assert list(validator_suspects(lock)) == []
    second = lock.validators[1]
    deposits = (replace(second.deposits[0], signature=lock.validators[0].deposits[0].signature), *second.deposits[1:])
    (suspect,) = validator_suspects(replace(lock, validators=(lock.validators[0], replace(second, deposits=deposits))))
    assert (suspect.leaf, suspect.validator) == ("distributed_validators[1].partial_deposit_data[0]", 1)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_damaged_file_breaks_the_explanation(data: st.DataObject) -> None:
    content = bytearray((CLUSTER / SIGNED).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.sampled_from(b'0123456789abcdefx"{}[],:\\ \x00\xff'))
    lock_explanation(bytes(content))
    explain(bytes(content), Hints(), is_lock=False)


def test_all_checks_of_an_intact_lock_hold_and_are_the_ones_of_the_table() -> None:
    names = [check.name.split(" 0x")[0] for check in check_lock(decode_lock((CLUSTER / SIGNED).read_bytes()))]
    hashes = ["config hash", "definition hash", "count of validators", "lock hash"]
    signatures = ["signatures of operators and creator", "public shares", "signature aggregate"]
    assert names == [*hashes, *signatures, "builder registrations", "node signatures", "deposits"]
    lock = decode_lock((CLUSTER / SIGNED).read_bytes())
    verify_lock(lock)
    assert not any(check.fault for check in check_lock(lock))


def test_each_check_after_a_fault_is_made_and_tells_its_own_fault_only() -> None:
    lock = decode_lock((CLUSTER / SIGNED).read_bytes())
    foreign = replace(lock, node_signatures=(lock.node_signatures[1], *lock.node_signatures[1:]))
    (check,) = [check for check in check_lock(foreign) if check.fault]
    assert (check.name, check.fault) == ("node signatures", "invalid node signature")
    assert check.details == ("node_signatures[0]: isn't one of operator 0's identity key over the stored lock hash",)
    first = lock.validators[0]
    deposits = (replace(first.deposits[0], signature=first.deposits[1].signature), *first.deposits[1:])
    edited_lock = replace(lock, validators=(replace(first, deposits=deposits), *lock.validators[1:]))
    faults = {check.name: check.fault for check in check_lock(edited_lock) if check.fault}
    assert faults == {
        "lock hash": "invalid lock hash",
        "signature aggregate": "verify lock signature aggregate: signature verification failed",
        "deposits": "invalid deposit data signature",
    }


def test_node_signatures_tell_whose_enr_was_replaced_where_nobody_signed_for_it() -> None:
    document = load(REAL)
    operators = document[DEFINITION]["operators"]
    operators[1]["enr"] = load(SIGNED)[DEFINITION]["operators"][1]["enr"]
    suspects = lock_explanation(json.dumps(document).encode()).suspects
    assert [suspect.leaf for suspect in suspects] == ["cluster_definition.operators[1].enr"]
    assert "node_signatures[1] is of another identity" in suspects[0].evidence


def test_a_copy_with_another_hash_is_not_the_original() -> None:
    lock, other = decode_lock((CLUSTER / SIGNED).read_bytes()), decode_lock((CLUSTER / REAL).read_bytes())
    renamed = replace(lock, definition=replace(lock.definition, name="other"))
    assert is_original(lock, renamed)
    assert is_original(lock.definition, renamed)
    assert not is_original(renamed, lock)
    assert not is_original(other, renamed)
    assert not is_original(other.definition, renamed.definition)
    assert not is_original(with_lock_hashes(renamed), renamed)


def _shared_of_many(document: Any) -> None:
    document.update(num_validators=65536, name="edited")


def _many_operators(document: Any) -> None:
    document.update(operators=document["operators"] * 1000, name="edited")


def _many_rows(document: Any) -> None:
    document.update(validators=document["validators"] * 2000, num_validators=4000, name="edited")


def _many_shares(document: Any) -> None:
    document["distributed_validators"][0]["public_shares"] *= 5000


def _large_threshold(document: Any) -> None:
    document["cluster_definition"].update(threshold=2**63)
    document["distributed_validators"][0]["public_shares"] *= 100


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("golden/cluster_definition_v1_0_0.json", _shared_of_many),
        ("golden/cluster_definition_v1_1_0.json", _many_operators),
        ("golden/cluster_definition_v1_8_0.json", _many_rows),
        ("golden/cluster_lock_v1_2_0.json", _many_shares),
        (SIGNED, _large_threshold),
    ],
)
def test_files_that_are_made_to_cost_time_are_explained_in_seconds(name: str, edit: Callable[[Any], None]) -> None:
    document = load(name)
    edit(document)
    started = process_time()
    explain(json.dumps(document).encode(), Hints(), is_lock="cluster_definition" in document)
    assert process_time() - started < 10
