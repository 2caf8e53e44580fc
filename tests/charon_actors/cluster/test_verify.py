"""Verification: the first fault of every broken lock is the one that Charon names, in Charon's order."""

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from charon_actors.cluster import eip712
from charon_actors.cluster.definition import Creator, Definition, Operator
from charon_actors.cluster.definition_json import decode_definition, encode_definition
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.hashes import config_hash, definition_hash, lock_hash, with_definition_hashes, with_lock_hashes
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.lock_checks import check_lock
from charon_actors.cluster.lock_json import decode_lock, encode_lock
from charon_actors.cluster.peers import own_peer, peers_of
from charon_actors.cluster.schema import SCHEMAS
from charon_actors.cluster.verify import (
    WalletFault,
    verify_definition,
    verify_definition_signatures,
    verify_lock,
    verify_lock_hashes,
    verify_lock_signatures,
)
from charon_actors.crypto.bls import aggregate_signatures, sign
from charon_actors.crypto.secp256k1 import k1_public_key, k1_recover, k1_sign_recoverable
from charon_actors.crypto.threshold import recover_secret
from tests.charon_actors.cluster.vectors import CLUSTER, load

CASES = load("negative-lock-cases.json")
KEYS = load("signed-v1_11_0/keys.json")
SIGNED = (CLUSTER / "signed-v1_11_0/cluster-lock.json").read_bytes()
REAL = (CLUSTER / "examples/cluster-lock-v1_10_0-dkg-holesky.json").read_bytes()


def patched(document: Any, patch: Sequence[dict[str, Any]]) -> Any:
    """JSON Patch as far as the cases use it: replace, copy (that replaces), remove."""
    document = copy.deepcopy(document)

    def at(path: str) -> tuple[Any, Any]:
        *parents, last = path.split("/")[1:]
        target = document
        for part in parents:
            target = target[int(part)] if isinstance(target, list) else target[part]
        return target, int(last) if isinstance(target, list) else last

    for step in patch:
        target, key = at(step["path"])
        if step["op"] == "remove":
            del target[key]
        elif step["op"] == "copy":
            source, source_key = at(step["from"])
            target[key] = copy.deepcopy(source[source_key])
        else:
            target[key] = step["value"]
    return document


def rehashed(lock: Lock, mode: str) -> Lock:
    definition = lock.definition
    if mode == "all":
        definition = replace(definition, config_hash=config_hash(definition))
    if mode in ("all", "definition"):
        definition = replace(definition, definition_hash=definition_hash(definition))
    lock = replace(lock, definition=definition)
    if mode != "none":
        lock = replace(lock, lock_hash=lock_hash(lock))
    if mode == "resign":
        shares = [share for validator in KEYS["validators"] for share in validator["shares_by_index"].values()]
        lock = replace(
            lock,
            signature_aggregate=aggregate_signatures([sign(bytes.fromhex(share), lock.lock_hash) for share in shares]),
            node_signatures=tuple(k1_sign_recoverable(bytes.fromhex(key), lock.lock_hash) for key in KEYS["enr_private_keys"]),
        )
    return lock


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["name"])
def test_a_broken_lock_fails_with_the_first_fault_that_charon_names(case: dict[str, Any]) -> None:
    content = json.dumps(patched(json.loads(SIGNED), case["patch"])).encode()

    def load_and_verify() -> None:
        verify_lock(rehashed(decode_lock(content), case["rehash"]))

    if case["expect_error"] is None:
        load_and_verify()
        return
    with pytest.raises(ClusterFault) as caught:
        load_and_verify()
    assert str(caught.value).startswith(case["expect_error"])


def test_no_verify_mode_can_check_signatures_of_a_lock_with_wrong_hashes() -> None:
    document = json.loads(SIGNED)
    document["cluster_definition"]["validators"] = document["cluster_definition"]["validators"][:1]
    document["cluster_definition"]["num_validators"] = 1
    lock = decode_lock(json.dumps(document).encode())
    with pytest.raises(ClusterFault):
        verify_lock_signatures(lock)


def test_a_lock_of_the_older_schema_is_checked_as_strictly() -> None:
    """v1.10 of Charon checks neither duplicates nor the polynomial; we always do."""
    lock = decode_lock(REAL)
    first = lock.validators[0]
    doubled = replace(first, public_shares=(first.public_shares[0], *first.public_shares[:-1]))
    with pytest.raises(ClusterFault, match="duplicate public share"):
        verify_lock(with_lock_hashes(replace(lock, validators=(doubled, *lock.validators[1:]))))
    with pytest.raises(ClusterFault, match="invalid threshold"):
        verify_lock_signatures(replace(lock, definition=replace(lock.definition, threshold=2**64 - 1)))
    with pytest.raises(ClusterFault, match="do not reconstruct"):
        verify_lock_signatures(replace(lock, definition=replace(lock.definition, threshold=2)))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_one_changed_byte_of_the_file_never_verifies_as_something_else(data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(REAL) - 1))
    changed = bytearray(REAL)
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        lock = decode_lock(bytes(changed))
        verify_lock_hashes(lock)
    except ClusterFault:
        return
    # what the hashes don't cover: letter case, white space, both kinds of signatures over the lock, the address texts' case
    intact = decode_lock(REAL)
    assert lock.lock_hash == intact.lock_hash
    assert lock.validators == intact.validators
    assert lock.definition.operators == intact.definition.operators


def test_the_aggregate_is_checked_over_the_recomputed_hash_and_node_signatures_over_the_files() -> None:
    """With --no-verify a lock with another stored hash goes on as far as the hash that the operators signed."""
    with pytest.raises(ClusterFault, match=r"^invalid node signature$"):
        verify_lock_signatures(replace(decode_lock(SIGNED), lock_hash=bytes(32)))


def test_registrations_are_rebuilt_from_definition_and_validator_key() -> None:
    lock = decode_lock(SIGNED)
    first = lock.validators[0]
    changed = replace(first, registration=replace(first.registration, pubkey=lock.validators[1].public_key))
    verify_lock(rehashed(replace(lock, validators=(changed, *lock.validators[1:])), "resign"))


# --- signatures of a definition --------------------------------------------------------------------------------------

SIGNED_DEFINITION = decode_definition((CLUSTER / "signed-v1_11_0/cluster-definition.json").read_bytes())
BLANK = tuple(Operator(enr=operator.enr) for operator in SIGNED_DEFINITION.operators)
WALLET = bytes(31) + b"\x01"
WALLET_ADDRESS = "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"  # of private key 1, known everywhere


def solo(**changes: Any) -> Definition:
    """Creator signed, all operators blank."""
    definition = replace(SIGNED_DEFINITION, operators=BLANK, creator=Creator(address=WALLET_ADDRESS), version="v1.10.0")
    definition = replace(definition, **changes)
    definition = replace(definition, config_hash=config_hash(definition))
    digest = eip712.creator_config_digest(definition.config_hash, 560048)
    return replace(definition, creator=Creator(WALLET_ADDRESS, k1_sign_recoverable(WALLET, digest)))


def test_the_three_legal_shapes_of_signatures_are_accepted() -> None:
    verify_definition(SIGNED_DEFINITION)
    verify_definition_signatures(replace(SIGNED_DEFINITION, operators=BLANK, creator=Creator()))
    verify_definition_signatures(solo())


def test_recovery_ids_of_wallets_are_accepted_in_both_spellings() -> None:
    signed = solo()
    signature = signed.creator.config_signature
    other = signature[:64] + bytes([signature[64] + 27])
    verify_definition_signatures(replace(signed, creator=Creator(WALLET_ADDRESS.lower(), other)))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"operators": (SIGNED_DEFINITION.operators[0], *BLANK[1:])}, "some operators signed while others did not"),
        ({"creator": Creator()}, "operators signed while creator did not"),
        ({"fork_version": b"\xff" * 4}, "invalid fork version"),
        ({"creator": Creator(WALLET_ADDRESS, bytes(66))}, "signature must be multiple of 65 bytes"),
        ({"creator": Creator(WALLET_ADDRESS, bytes(65 * 33))}, "signature exceeds maximum length"),
        ({"creator": Creator(WALLET_ADDRESS, bytes(130)), "version": "v1.10.0"}, "signature must be 65 bytes"),
        ({"creator": Creator(WALLET_ADDRESS, bytes(130))}, "invalid creator config signature"),
        ({"creator": Creator("7E5F4552091A69125d5DfCb7b8C2659029395Bdf", bytes(65))}, "invalid ethereum address"),
        ({"creator": Creator(WALLET_ADDRESS, bytes(65))}, "pubkey from signature"),
    ],
)
def test_other_shapes_are_refused(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(ClusterFault, match=fault):
        verify_definition_signatures(replace(SIGNED_DEFINITION, **change))


# --- older versions -------------------------------------------------------------------------------------------------


def older(version: str, **changes: Any) -> Lock:
    """A golden of that version, changed."""
    lock = decode_lock((CLUSTER / f"golden/cluster_lock_{version.replace('.', '_')}.json").read_bytes())
    return replace(lock, definition=replace(lock.definition, **changes))


@pytest.mark.parametrize("version", ["v1.0.0", "v1.1.0", "v1.2.0"])
def test_signatures_that_cannot_be_verified_are_refused_and_none_are_accepted(version: str) -> None:
    unsigned = older(version).definition
    verify_definition_signatures(replace(unsigned, fork_version=b"\xff" * 4))
    signed = replace(unsigned.operators[0], enr_signature=bytes(65))
    with pytest.raises(ClusterFault, match=r"^older version signatures not supported$"):
        verify_definition_signatures(replace(unsigned, operators=(signed, *unsigned.operators[1:])))


OF_THE_FIRST_VERSIONS = {  # written by Charon; the first has a definition hash that was changed afterwards
    "v1.0.0": "cluster-lock-v1_0_0-modified",
    "v1.1.0": "cluster-lock-000",
    "v1.2.0": "cluster-lock-002",
}


def unsigned(version: str) -> Lock:
    """A real lock without its aggregate."""
    lock = decode_lock((CLUSTER / f"examples/{OF_THE_FIRST_VERSIONS[version]}.json").read_bytes())
    return with_lock_hashes(replace(lock, definition=with_definition_hashes(lock.definition), signature_aggregate=b""))


@pytest.mark.parametrize("version", OF_THE_FIRST_VERSIONS)
def test_only_the_first_two_versions_may_lack_the_aggregate(version: str) -> None:
    lock = unsigned(version)
    if version == "v1.2.0":
        with pytest.raises(ClusterFault, match=r"^empty lock aggregate signature$"):
            verify_lock(lock)
    else:
        verify_lock(lock)
        assert [check.fault for check in check_lock(lock)] == [""] * len(list(check_lock(lock)))


INFINITY = b"\xc0" + bytes(47)
OUT_OF_SUBGROUP = bytes.fromhex("8" + "0" * 94 + "4")  # x = 4 is on the curve, of no point of the subgroup


def shares_of(lock: Lock, change: Callable[[tuple[bytes, ...]], tuple[bytes, ...]], **more: Any) -> Lock:
    first = lock.validators[0]
    changed = replace(first, public_shares=change(first.public_shares), **more)
    return with_lock_hashes(replace(lock, validators=(changed, *lock.validators[1:])))


WRONG_SHARES: dict[str, tuple[Callable[[Lock], Lock], str]] = {
    "one is missing": (lambda lock: shares_of(lock, lambda s: s[:-1]), "invalid public share count"),
    "one too many": (lambda lock: shares_of(lock, lambda s: (*s, s[0])), "invalid public share count"),
    "one twice": (lambda lock: shares_of(lock, lambda s: (s[0], *s[:-1])), "duplicate public share"),
    "the point at infinity": (lambda lock: shares_of(lock, lambda s: (INFINITY, *s[1:])), "verify share reconstruction"),
    "a point outside the subgroup": (
        lambda lock: shares_of(lock, lambda s: (OUT_OF_SUBGROUP, *s[1:])),
        "verify share reconstruction",
    ),
    "short": (lambda lock: shares_of(lock, lambda s: (s[0][:47], *s[1:])), "invalid data length"),
    "swapped": (lambda lock: shares_of(lock, lambda s: (s[1], s[0], *s[2:])), "do not reconstruct"),
    "the last is another key's": (
        lambda lock: shares_of(lock, lambda s: (*s[:-1], decode_lock(SIGNED).validators[0].public_key)),
        "extra share",
    ),
    "the key is another one": (
        lambda lock: shares_of(lock, lambda s: s, public_key=decode_lock(SIGNED).validators[0].public_key),
        "do not reconstruct",
    ),
    "all of another threshold": (
        lambda lock: with_lock_hashes(replace(lock, definition=with_definition_hashes(replace(lock.definition, threshold=2)))),
        "do not reconstruct",
    ),
    "a threshold of nobody": (
        lambda lock: with_lock_hashes(replace(lock, definition=with_definition_hashes(replace(lock.definition, threshold=5)))),
        "invalid threshold",
    ),
}


@pytest.mark.parametrize("version", ["v1.0.0", "v1.1.0"])
@pytest.mark.parametrize("name", WRONG_SHARES)
def test_the_shares_of_a_lock_that_nobody_signed_are_checked_all_the_same(name: str, version: str) -> None:
    change, fault = WRONG_SHARES[name]
    lock = change(unsigned(version))
    with pytest.raises(ClusterFault, match=fault):
        verify_lock(lock)
    [found] = [check.fault for check in check_lock(lock) if check.fault]
    assert fault in found


def test_nor_does_a_lock_that_nobody_signed_hold_one_validator_twice() -> None:
    lock = unsigned("v1.1.0")
    twice = replace(lock, validators=(lock.validators[0], *lock.validators[:-1]))
    with pytest.raises(ClusterFault, match="duplicate distributed validator public key"):
        verify_lock(with_lock_hashes(twice))


def test_nor_node_signatures_that_its_version_does_not_have() -> None:
    with pytest.raises(ClusterFault, match=r"^unexpected node signatures$"):
        verify_lock_signatures(replace(unsigned("v1.1.0"), node_signatures=(bytes(65),)))


def wallet_signed(version: str) -> Definition:
    """Operators and creator signed with one wallet, as that version has it."""
    definition = replace(SIGNED_DEFINITION, version=version)
    operators = tuple(Operator(address=WALLET_ADDRESS, enr=operator.enr) for operator in definition.operators)
    creator = Creator() if version == "v1.3.0" else Creator(WALLET_ADDRESS)
    definition = replace(definition, operators=operators, creator=creator, validators=definition.validators[:1] * 2)
    definition = replace(definition, config_hash=config_hash(definition))
    config = eip712.legacy_config_digest if version == "v1.3.0" else eip712.operator_config_digest
    config_signature = k1_sign_recoverable(WALLET, config(definition.config_hash, 560048))
    signed = tuple(
        replace(
            operator,
            config_signature=config_signature,
            enr_signature=k1_sign_recoverable(WALLET, eip712.enr_digest(operator.enr, 560048)),
        )
        for operator in operators
    )
    if version == "v1.3.0":
        return replace(definition, operators=signed)
    creator_signature = k1_sign_recoverable(WALLET, eip712.creator_config_digest(definition.config_hash, 560048))
    return replace(definition, operators=signed, creator=replace(creator, config_signature=creator_signature))


@pytest.mark.parametrize("version", [version for version, schema in SCHEMAS.items() if schema.has_operator_signatures])
def test_wallets_sign_every_version_since_v1_3(version: str) -> None:
    definition = wallet_signed(version)
    verify_definition(with_definition_hashes(definition))
    other = replace(definition.operators[1], config_signature=definition.operators[1].enr_signature)
    with pytest.raises(WalletFault, match=r"^invalid operator config signature$"):
        verify_definition_signatures(replace(definition, operators=(definition.operators[0], other, *definition.operators[2:])))


def test_the_first_signed_version_has_no_creator() -> None:
    with pytest.raises(ClusterFault, match=r"^unexpected creator config signature in old version$"):
        verify_definition_signatures(replace(wallet_signed("v1.3.0"), creator=Creator(WALLET_ADDRESS, bytes(65))))


def test_node_signatures_in_a_version_without_them_are_refused() -> None:
    lock = decode_lock((CLUSTER / "examples/cluster-lock-002.json").read_bytes())
    with pytest.raises(ClusterFault, match=r"^unexpected node signatures$"):
        verify_lock_signatures(replace(lock, node_signatures=(bytes(65),)))


@pytest.mark.parametrize(
    ("version", "change", "fault"),
    [
        ("v1.1.0", lambda d: d["cluster_definition"]["operators"][0].update(nonce=1), "non-zero operator nonce not supported"),
        ("v1.2.0", lambda d: d["cluster_definition"].update(num_validators=10**9), "num_validators: not from 1 to 65536"),
        ("v1.4.0", lambda d: d["cluster_definition"].update(num_validators=0), "num_validators: not from 1 to 65536"),
        (
            "v1.5.0",
            lambda d: d["distributed_validators"][0].update(fee_recipient_address="0x00"),
            "distributed validator fee recipient not supported anymore",
        ),
        ("v1.1.0", lambda d: d.update(lock_hash="0x000"), "lock_hash: expected base64"),
        ("v1.2.0", lambda d: d.update(lock_hash="QHP+VA=="), "lock_hash: expected hex"),
    ],
)
def test_old_files_with_what_their_version_does_not_allow_are_refused(version: str, change: Any, fault: str) -> None:
    document = json.loads((CLUSTER / f"golden/cluster_lock_{version.replace('.', '_')}.json").read_text())
    change(document)
    with pytest.raises(ClusterFault, match=fault):
        decode_lock(json.dumps(document).encode())


def test_values_that_an_old_version_cannot_hold_are_not_written() -> None:
    definition = older("v1.4.0").definition
    other = replace(definition.validators[0], withdrawal_address="0x" + "11" * 20)
    with pytest.raises(ClusterFault, match="multiple withdrawal or fee recipient addresses found"):
        encode_definition(replace(definition, validators=(definition.validators[0], other)))
    lock = older("v1.7.0")
    twice = replace(lock.validators[0], deposits=lock.validators[0].deposits * 2)
    with pytest.raises(ClusterFault, match="more than one deposit"):
        encode_lock(replace(lock, validators=(twice, *lock.validators[1:])))


# --- contract wallets ------------------------------------------------------------------------------------------------


def test_a_contract_is_asked_when_no_account_made_the_signature() -> None:
    asked: list[tuple[str, bytes, bytes]] = []

    def contract(address: str, digest: bytes, signature: bytes) -> bool:
        asked.append((address, digest, signature))
        return signature == bytes(130)

    safe = replace(SIGNED_DEFINITION, creator=Creator(WALLET_ADDRESS, bytes(130)))
    verify_definition_signatures(safe, contract=contract)
    digest = eip712.creator_config_digest(safe.config_hash, 560048)
    assert asked == [(WALLET_ADDRESS, digest, bytes(130))]
    with pytest.raises(WalletFault, match="invalid creator config signature"):
        verify_definition_signatures(replace(safe, creator=Creator(WALLET_ADDRESS, bytes(65))), contract=contract)
    with pytest.raises(WalletFault, match="invalid creator config signature"):
        verify_definition_signatures(safe)


# --- EIP-712 ---------------------------------------------------------------------------------------------------------

EIP712 = load("eip712.json")


def test_domain_separators_and_digests_are_the_published_ones() -> None:
    for chain_id, separator in EIP712["domain_separator_by_chain_id"].items():
        assert eip712.domain_separator(int(chain_id)).hex() == separator
    assert eip712.domain_separator(None).hex() == EIP712["domain_separator_no_chain_id"]
    for row in EIP712["type_strings"].values():
        assert eip712.type_hash(row["encoded"]).hex() == row["typehash"]
    unit = EIP712["charon_unit_test"]
    value = bytes.fromhex(unit["value"].removeprefix("0x"))
    assert eip712.creator_config_digest(value, unit["chain_id"]).hex() == unit["digest"]
    assert eip712.terms_digest().hex() == EIP712["terms_and_conditions"]["digest"]


def test_signatures_of_the_signed_definition_recover_to_its_keys() -> None:
    digest = eip712.operator_config_digest(SIGNED_DEFINITION.config_hash, 560048)
    for operator, key in zip(SIGNED_DEFINITION.operators, KEYS["operator_keys"], strict=True):
        public = k1_public_key(bytes.fromhex(key))
        assert k1_recover(digest, operator.config_signature) == public
        assert k1_recover(eip712.enr_digest(operator.enr, 560048), operator.enr_signature) == public


# --- peers -----------------------------------------------------------------------------------------------------------


def test_peers_are_the_operators_in_the_order_of_the_file() -> None:
    peers = peers_of(SIGNED_DEFINITION)
    assert [(peer.index, peer.share_index) for peer in peers] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    for peer, key in zip(peers, KEYS["enr_private_keys"], strict=True):
        assert own_peer(peers, k1_public_key(bytes.fromhex(key))) == peer
    with pytest.raises(ClusterFault, match="unknown private key provided"):
        own_peer(peers, k1_public_key(WALLET))


def test_the_same_operator_twice_and_bad_enrs_are_refused() -> None:
    first = SIGNED_DEFINITION.operators[0]
    with pytest.raises(ClusterFault, match="duplicate peer ids"):
        peers_of(replace(SIGNED_DEFINITION, operators=(first, first, first)))
    with pytest.raises(ClusterFault, match="operator 1: invalid ENR"):
        peers_of(replace(SIGNED_DEFINITION, operators=(first, replace(first, enr=first.enr[:-4] + "AAAA"))))


def test_any_threshold_of_the_published_shares_gives_the_secret() -> None:
    for validator in KEYS["validators"]:
        shares = {int(index): bytes.fromhex(share) for index, share in validator["shares_by_index"].items()}
        for left_out in shares:
            rest = {index: share for index, share in shares.items() if index != left_out}
            assert recover_secret(rest).hex() == validator["secret"]
