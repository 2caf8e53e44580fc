"""Rows of the cluster and ENR vectors that no other test reads: networks, key files, digests that wallets signed, a dealer's polynomial."""

import json
from pathlib import Path
from typing import Any

import pytest

from charon_actors.cluster import eip712
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.crypto import (
    CURVE_ORDER,
    ethereum_address,
    k1_public_key,
    k1_recover,
    k1_sign_recoverable,
    public_key,
    recover_public_key,
    recover_secret,
)
from charon_actors.enr import decode_enr
from charon_actors.errors import UserError
from charon_actors.eth2.networks import network_by_fork_version, network_by_name
from charon_actors.eth2.signing import builder_domain, deposit_domain
from charon_actors.files.identity import load_key_file
from charon_actors.p2p.peer_id import peer_id_of, peer_id_text
from tests.vector import ROOT, vector

K1 = vector("cluster/k1-enr.json")
EIP712 = vector("cluster/eip712.json")
KEYS = vector("cluster/signed-v1_11_0/keys.json")
LOCK = decode_lock((ROOT / "cluster/signed-v1_11_0/cluster-lock.json").read_bytes())


@pytest.mark.parametrize("row", vector("cluster/networks.json"), ids=lambda row: row["name"])
def test_networks(row: Any) -> None:
    network = network_by_name(row["name"])
    assert network is not None
    assert network == network_by_fork_version(bytes.fromhex(row["genesis_fork_version"][2:]))
    assert (network.chain_id, network.genesis_time_s, network.slot_duration_s) == (
        row["chain_id"],
        row["genesis_time"],
        row["slot_seconds"],
    )
    assert network.capella_fork_version.hex() == row["capella_fork_version"][2:]
    assert deposit_domain(network.genesis_fork_version).hex() == row["deposit_domain"]
    assert builder_domain(network.genesis_fork_version).hex() == row["builder_domain"]


def test_the_recoverable_signature_of_charons_unit_test() -> None:
    row = K1["sign"]
    key, digest, signature = (bytes.fromhex(row[name]) for name in ("private_key", "digest", "signature_rsv"))
    assert k1_public_key(key).hex() == row["public_key_compressed"]
    assert k1_sign_recoverable(key, digest) == signature
    assert k1_recover(digest, signature).hex() == row["public_key_compressed"]


@pytest.mark.parametrize("form", K1["private_key_file_variants_accepted"])
def test_key_files_of_every_accepted_form(form: str, tmp_path: Path) -> None:
    path = tmp_path / "charon-enr-private-key"
    path.write_text(form.replace("<64 hex>", K1["sign"]["private_key"]).encode().decode("unicode_escape"))
    path.chmod(0o600)
    assert load_key_file(path, lambda text: None).hex() == K1["sign"]["private_key"]


@pytest.mark.parametrize("form", K1["private_key_file_variants_rejected"])
def test_key_files_of_other_forms_are_refused(form: str, tmp_path: Path) -> None:
    path = tmp_path / "charon-enr-private-key"
    path.write_text(form.replace("<64 hex>", K1["sign"]["private_key"]))
    path.chmod(0o600)
    with pytest.raises(UserError, match="malformed private key") as caught:
        load_key_file(path, lambda text: None)
    assert K1["sign"]["private_key"] not in str(caught.value)


def test_type_hashes_of_the_domains() -> None:
    assert eip712.type_hash("EIP712Domain(string name,string version,uint256 chainId)").hex() == EIP712["domain_typehash"]
    assert eip712.type_hash("EIP712Domain(string name,string version)").hex() == EIP712["domain_typehash_no_chain_id"]


@pytest.mark.parametrize("row", EIP712["from_examples"], ids=lambda row: row["file"])
def test_digests_that_operators_and_creators_really_signed(row: Any) -> None:
    file = json.loads((ROOT / "cluster/examples" / Path(row["file"]).name).read_text())
    definition = file.get("cluster_definition", file)
    config_hash, chain_id = bytes.fromhex(definition["config_hash"][2:]), row["chain_id"]
    is_legacy = row["version"] == "v1.3.0"
    digest = eip712.legacy_config_digest if is_legacy else eip712.operator_config_digest
    assert digest(config_hash, chain_id).hex() == row["operator_config_digest"]
    if "creator_config_digest" in row:
        creator = eip712.creator_config_digest(config_hash, chain_id)
        assert creator.hex() == row["creator_config_digest"]
        if signature := definition["creator"]["config_signature"]:
            signer = k1_recover(creator, bytes.fromhex(signature[2:]))
            assert ethereum_address(signer).lower() == definition["creator"]["address"].lower()
    enrs = {operator["address"].lower(): operator for operator in definition["operators"]}
    for operator in row["operators"]:
        of_file = enrs[operator["address"].lower()]
        signed = eip712.enr_digest(of_file["enr"], chain_id)
        assert signed.hex() == operator["enr_digest"]
        signer = k1_recover(signed, bytes.fromhex(of_file["enr_signature"][2:]))
        assert ethereum_address(signer).lower() == operator["address"].lower()


@pytest.mark.parametrize("index", range(len(KEYS["validators"])))
def test_shares_of_the_dealers_polynomial(index: int) -> None:
    row = KEYS["validators"][index]
    coefficients = [int(text, 16) for text in row["polynomial_coefficients_constant_first"]]
    assert len(coefficients) == KEYS["threshold"]
    assert int(KEYS["curve_order"], 16) == CURVE_ORDER
    shares = {
        int(i): sum(c * int(i) ** power for power, c in enumerate(coefficients)) % CURVE_ORDER for i in row["shares_by_index"]
    }
    secrets = {i: share.to_bytes(32) for i, share in shares.items()}
    assert {str(i): secret.hex() for i, secret in secrets.items()} == row["shares_by_index"]
    publics = {i: public_key(secret) for i, secret in secrets.items()}
    assert tuple(publics[i] for i in sorted(publics)) == LOCK.validators[index].public_shares
    some = {i: secrets[i] for i in (1, 3, 4)}
    assert recover_secret(some).hex() == row["secret"]
    assert "0x" + recover_public_key({i: publics[i] for i in some}).hex() == row["public_key"]


@pytest.mark.parametrize("row", vector("enr/golden_records.json")["records"], ids=lambda row: row["origin"][:30])
def test_peer_ids_and_sizes_of_enrs(row: Any) -> None:
    record = decode_enr(row["text"])
    assert peer_id_text(peer_id_of(record.public_key)) == row["libp2p_peer_id"]
    assert len(bytes.fromhex(row["raw"])) == row["size"]
    if not row["padded"]:
        assert record.encode() == row["text"]


def test_the_enr_of_charons_name_test() -> None:
    (row,) = [row for row in vector("p2p/peer_ids_and_names.json")["cases"] if "enr" in row]
    record = decode_enr(row["enr"])
    assert (record.ip, record.tcp, record.udp) == (row["enr_ip"], row["enr_tcp"], row["enr_udp"])
    assert record.public_key.hex() == row["pubkey_compressed"]
