"""The trusted dealer: what it makes is accepted by our own verification, and shares are what the lock says."""

import random
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from multiprocessing import get_context

import pytest
from msgspec.structs import replace

from charon_actors.cluster.dealer import PART_VALIDATORS, deal
from charon_actors.cluster.definition import Definition, Operator, ValidatorAddresses
from charon_actors.cluster.definition_json import decode_definition, encode_definition
from charon_actors.cluster.deposit import GWEI_PER_ETH, encode_deposit_files
from charon_actors.cluster.hashes import with_definition_hashes
from charon_actors.cluster.lock_json import decode_lock, encode_lock
from charon_actors.cluster.registration import registration_signing_root
from charon_actors.cluster.schema import SCHEMAS, schema_of
from charon_actors.cluster.verify import verify_lock
from charon_actors.crypto.bls import generate_secret, sign
from charon_actors.crypto.secp256k1 import k1_generate
from charon_actors.crypto.threshold import recover_secret
from charon_actors.enr import new_record
from tests.charon_actors.cluster.vectors import CLUSTER, load

ADDRESS = "0x000000000000000000000000000000000000dEaD"


def definition_for(keys: list[bytes], validators: int, threshold: int, **changes: object) -> Definition:
    model = decode_definition((CLUSTER / "golden/cluster_definition_v1_10_0.json").read_bytes())
    definition = replace(
        model,
        operators=tuple(Operator(enr=new_record(key).encode()) for key in keys),
        creator=type(model.creator)(),
        num_validators=validators,
        validators=(ValidatorAddresses(ADDRESS, ADDRESS),) * validators,
        threshold=threshold,
        deposit_amounts_gwei=(),
        **changes,
    )
    return with_definition_hashes(definition)


@pytest.mark.parametrize("version", list(SCHEMAS))
def test_clusters_of_every_version_verify_are_written_and_read_back(version: str) -> None:
    entropy = random.Random(5).randbytes
    keys = [k1_generate(entropy) for _ in range(4)]
    definition = decode_definition(encode_definition(definition_for(keys, 2, 3, version=version)))  # less what it can't hold
    dealt = deal(definition, [generate_secret(entropy) for _ in range(2)], keys, registered_at_s=1655733600, entropy=entropy)
    verify_lock(dealt.lock)
    assert decode_lock(encode_lock(dealt.lock)) == dealt.lock
    definition = dealt.lock.definition
    assert decode_definition(encode_definition(definition)) == definition
    files = encode_deposit_files(dealt.deposits, "sepolia", definition.fork_version)
    has_amounts = schema_of(version).has_deposit_amounts
    assert list(files) == (["deposit-data-1eth.json", "deposit-data.json"] if has_amounts else ["deposit-data.json"])


def test_parts_that_others_work_on_give_the_same_cluster() -> None:
    keys = [k1_generate(random.Random(1).randbytes) for _ in range(3)]
    definition = definition_for(keys, 2 * PART_VALIDATORS + 1, 2)
    group_secrets = [generate_secret(random.Random(v).randbytes) for v in range(definition.num_validators)]
    here = deal(definition, group_secrets, keys, registered_at_s=1, entropy=fixed)
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        there = deal(definition, group_secrets, keys, registered_at_s=1, entropy=fixed, run=pool.map)
    assert here == there
    assert len(here.lock.validators) == definition.num_validators


def fixed(count: int) -> bytes:
    """Picklable, and no entropy at all."""
    return bytes(range(1, count + 1))


@pytest.mark.parametrize("version", ["v1.10.0", "v1.11.0"])
@pytest.mark.parametrize(("nodes", "threshold", "validators"), [(3, 2, 1), (4, 3, 2), (7, 5, 1), (3, 3, 1)])
def test_a_dealt_cluster_verifies_and_any_threshold_of_shares_is_the_key(
    version: str, nodes: int, threshold: int, validators: int
) -> None:
    entropy = random.Random(7).randbytes
    keys = [k1_generate(entropy) for _ in range(nodes)]
    group_secrets = [generate_secret(entropy) for _ in range(validators)]
    definition = definition_for(keys, validators, threshold, version=version)
    dealt = deal(definition, group_secrets, keys, registered_at_s=1655733600, entropy=entropy)
    verify_lock(dealt.lock)
    verify_lock(decode_lock(encode_lock(dealt.lock)))
    assert group_secrets[0].hex() not in repr(dealt)
    for secret, shares in zip(group_secrets, dealt.shares, strict=True):
        for chosen in combinations(shares, threshold):
            assert recover_secret({index: shares[index] for index in chosen}) == secret
        too_few = dict(list(shares.items())[: threshold - 1])
        assert recover_secret(too_few) != secret
    deposits = [deposit for validator in dealt.lock.validators for deposit in validator.deposits]
    files = encode_deposit_files(deposits, "sepolia", definition.fork_version)
    assert list(files) == ["deposit-data-1eth.json", "deposit-data.json"]


def test_deposits_and_registrations_are_those_of_the_published_ceremony() -> None:
    """Same group secrets, same definition: the signatures must be the ones of the vector, byte for byte."""
    lock = decode_lock((CLUSTER / "signed-v1_11_0/cluster-lock.json").read_bytes())
    keys = load("signed-v1_11_0/keys.json")
    group_secrets = [bytes.fromhex(validator["secret"]) for validator in keys["validators"]]
    identities = [bytes.fromhex(key) for key in keys["enr_private_keys"]]
    registered_at_s = lock.validators[0].registration.timestamp_s
    dealt = deal(lock.definition, group_secrets, identities, registered_at_s=registered_at_s, entropy=random.Random(1).randbytes)
    for ours, theirs in zip(dealt.lock.validators, lock.validators, strict=True):
        assert ours.deposits == theirs.deposits
        assert ours.registration == theirs.registration
        assert ours.public_key == theirs.public_key


def test_registrations_of_the_signed_lock_are_signatures_of_the_group_key() -> None:
    lock = decode_lock((CLUSTER / "signed-v1_11_0/cluster-lock.json").read_bytes())
    secret = bytes.fromhex(load("signed-v1_11_0/keys.json")["validators"][0]["secret"])
    registration = lock.validators[0].registration
    root = registration_signing_root(registration, lock.definition.fork_version)
    assert sign(secret, root) == registration.signature


def test_compounding_clusters_get_their_own_amounts_and_credentials() -> None:
    entropy = random.Random(3).randbytes
    keys = [k1_generate(entropy) for _ in range(3)]
    definition = definition_for(keys, 1, 2, compounding=True)
    dealt = deal(definition, [generate_secret(entropy)], keys, registered_at_s=1, entropy=entropy)
    deposits = dealt.lock.validators[0].deposits
    assert [deposit.amount_gwei // GWEI_PER_ETH for deposit in deposits] == [1, 8, 32, 256]
    assert {deposit.withdrawal_credentials[0] for deposit in deposits} == {2}
