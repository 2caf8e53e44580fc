"""The schemas against every container vector: bytes, roots and JSON, both directions, and against remerkleable."""

import gzip
import re
from hashlib import sha256
from typing import Any

import pytest

from charon_actors.eth2 import containers as c
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.preset import GNOSIS, MAINNET, MINIMAL
from charon_actors.eth2.ssz import UINT64, Bitlist, Bitvector, ByteList, Container, List, SszType
from tests.charon_actors.eth2.vectors import load, raw, unhex

CONTAINERS = {item["name"]: item for item in load("eth2/ssz_roots.json")["containers"]}


def test_fulu_block_json_and_bytes() -> None:
    block = c.beacon_block(Fork.FULU)
    data, json = raw("eth2/fulu_beacon_block.ssz"), load("eth2/fulu_beacon_block.json")
    expected = CONTAINERS["fulu BeaconBlock (message of Charon golden VersionedProposal)"]
    value = block.decode(data)
    assert block.encode(value) == data
    assert block.from_json(json) == value
    assert lower(block.to_json(value)) == lower(json)
    assert block.hash_tree_root(value) == unhex(expected["hash_tree_root"])
    assert c.beacon_block_body(Fork.FULU).hash_tree_root(value["body"]) == unhex(expected["body_root"])


def test_a_blinded_block_has_the_root_of_the_full_one() -> None:
    data = raw("eth2/fulu_blinded_beacon_block.ssz")
    blinded, full = c.blinded_beacon_block(Fork.FULU), c.beacon_block(Fork.FULU)
    value = blinded.decode(data)
    assert blinded.encode(value) == data
    root = blinded.hash_tree_root(value)
    assert root == full.hash_tree_root(full.decode(raw("eth2/fulu_beacon_block.ssz")))


def test_deneb_blinded_block_json_and_bytes() -> None:
    block = c.blinded_beacon_block(Fork.DENEB)
    data = raw("eth2/deneb_blinded_beacon_block.ssz")
    value = block.decode(data)
    assert block.encode(value) == data
    assert block.from_json(load("eth2/deneb_blinded_beacon_block.json")) == value
    expected = CONTAINERS["deneb BlindedBeaconBlock (message of Charon golden VersionedSignedBlindedProposal)"]
    assert block.hash_tree_root(value) == unhex(expected["hash_tree_root"])


def test_blocks_of_real_clients() -> None:
    signed = c.signed_beacon_block(Fork.DENEB)
    mainnet = gzip.decompress(raw("eth2/deneb_mainnet_signed_block_8745080.ssz.gz"))
    value = signed.decode(mainnet)
    assert signed.encode(value) == mainnet
    name = "deneb mainnet BeaconBlock slot 8745080 (realistic size; hashing benchmark)"
    assert c.beacon_block(Fork.DENEB).hash_tree_root(value["message"]) == unhex(CONTAINERS[name]["hash_tree_root"])

    devnet = raw("eth2/deneb_devnet_signed_block.ssz")
    value = signed.decode(devnet)
    assert signed.encode(value) == devnet
    expected = next(x for x in load("eth2/signing_roots.json")["external"] if x.get("file") == "deneb_devnet_signed_block.ssz")
    assert c.beacon_block(Fork.DENEB).hash_tree_root(value["message"]) == unhex(expected["block_root"])


def primitive(text: str) -> SszType:
    kind, numbers = text.split()[0], [int(number) for number in re.findall(r"[\[,](\d+)\]", text.split()[0])]
    match kind.split("[")[0]:
        case "uint64":
            return UINT64
        case "ByteList":
            return ByteList(numbers[0])
        case "Bitlist":
            return Bitlist(numbers[0])
        case "Bitvector":
            return Bitvector(numbers[0])
    return {
        "List[uint64,2048]": List(UINT64, 2048),
        "List[ByteList[2^30],2^20]": List(ByteList(2**30), 2**20),
        "List[Withdrawal,16]": List(c.WITHDRAWAL, 16),
        "List[Withdrawal,8]": List(c.WITHDRAWAL, 8),
    }[kind]


@pytest.mark.parametrize("case", load("eth2/ssz_roots.json")["primitives"], ids=lambda case: case["type"])
def test_roots_of_primitives(case: dict[str, str]) -> None:
    schema = primitive(case["type"])
    text = case["value"]
    value: Any = schema.from_json([str(n) for n in eval(text)] if text.startswith("[") else text)
    assert schema.hash_tree_root(value) == unhex(case["hash_tree_root"])
    assert schema.decode(schema.encode(value)) == value


def test_gnosis_has_another_root_for_full_blocks_only() -> None:
    value = c.beacon_block(Fork.FULU).decode(raw("eth2/fulu_beacon_block.ssz"))
    value["body"]["execution_payload"]["withdrawals"] = value["body"]["execution_payload"]["withdrawals"][:8]
    root, gnosis_root = (c.beacon_block(Fork.FULU, False, preset).hash_tree_root(value) for preset in (MAINNET, GNOSIS))
    assert root != gnosis_root
    data = raw("eth2/fulu_blinded_beacon_block.ssz")
    roots = {
        c.blinded_beacon_block(Fork.FULU, preset).hash_tree_root(c.blinded_beacon_block(Fork.FULU, preset).decode(data))
        for preset in (MAINNET, GNOSIS)
    }
    assert len(roots) == 1


SIGNING_TYPES: dict[str, SszType] = {
    "block": c.beacon_block(Fork.FULU, False, MINIMAL),
    "blinded block": c.blinded_beacon_block(Fork.FULU, MINIMAL),
    "attestation data": c.ATTESTATION_DATA,
    "aggregate and proof": c.aggregate_and_proof(Fork.FULU, MINIMAL),
    "sync selection data": c.SYNC_AGGREGATOR_SELECTION_DATA,
    "contribution and proof": c.contribution_and_proof(MINIMAL),
    "validator registration": c.VALIDATOR_REGISTRATION,
    "voluntary exit (capella version)": c.VOLUNTARY_EXIT,
    "randao": UINT64,
    "selection proof (slot)": UINT64,
}


@pytest.mark.parametrize("item", load("lodestar-http/fulu/signing.json")["items"], ids=lambda item: item["kind"])
def test_objects_signed_on_a_minimal_chain(item: dict[str, Any]) -> None:
    if item["kind"] == "sync message (block root)":
        assert item["object_root"] == item["object"]
        return
    schema = SIGNING_TYPES[item["kind"]]
    value = schema.from_json(item["object"])
    assert schema.encode(value) == unhex(item["object_ssz"])
    assert schema.decode(unhex(item["object_ssz"])) == value
    assert schema.hash_tree_root(value) == unhex(item["object_root"])
    assert lower(schema.to_json(value)) == lower(item["object"])


SIGNED_CASES: dict[str, tuple[SszType, str]] = {
    "attestation": (c.ATTESTATION_DATA, "AttestationData"),
    "sync_committee_selection": (c.SYNC_AGGREGATOR_SELECTION_DATA, ""),
    "contribution_and_proof": (c.contribution_and_proof(), ""),
    "aggregate_and_proof_electra_fulu": (c.aggregate_and_proof(Fork.FULU), ""),
    "aggregate_and_proof_phase0_deneb": (c.aggregate_and_proof(Fork.DENEB), ""),
    "voluntary_exit_eip7044": (c.VOLUNTARY_EXIT, ""),
    "validator_registration": (c.VALIDATOR_REGISTRATION, ""),
    "deposit_message": (c.DEPOSIT_MESSAGE, ""),
}


@pytest.mark.parametrize("name", SIGNED_CASES)
def test_object_roots(name: str) -> None:
    schema, container_name = SIGNED_CASES[name]
    case = next(case for case in load("eth2/signing_roots.json")["cases"] if case["name"] == name)
    value = schema.from_json(case["object"])
    assert schema.hash_tree_root(value) == unhex(case["object_root"])
    assert schema.decode(schema.encode(value)) == value
    if container_name:
        assert sha256(schema.encode(value)).hexdigest() == CONTAINERS[container_name]["ssz_sha256"]


def test_deposit_goldens() -> None:
    external = load("eth2/signing_roots.json")["external"]
    deposits = next(item for item in external if item["name"].startswith("deposit data"))["cases"]
    for case in deposits:
        value = c.DEPOSIT_DATA.from_json(
            {
                "pubkey": "0x" + case["pubkey"],
                "withdrawal_credentials": "0x" + case["withdrawal_credentials"],
                "amount": str(case["amount"]),
                "signature": "0x" + case["signature"],
            }
        )
        assert c.DEPOSIT_DATA.hash_tree_root(value).hex() == case["deposit_data_root"]
        assert c.DEPOSIT_MESSAGE.hash_tree_root(value).hex() == case["deposit_message_root"]


def test_one_field_can_be_read_without_decoding_the_rest() -> None:
    data = raw("eth2/fulu_beacon_block.ssz")
    block = c.beacon_block(Fork.FULU)
    body, payload = c.beacon_block_body(Fork.FULU), c.execution_payload(Fork.FULU)
    payload_bytes = body.field_bytes(block.field_bytes(data, "body"), "execution_payload")
    assert payload.field_bytes(payload_bytes, "fee_recipient") == unhex("e70a05b098fdb7cfb4907e4064ccc53165a38257")


def lower(value: Any) -> Any:
    """Capitals of hex digits are a matter of taste: EIP-55 or not."""
    if isinstance(value, dict):
        return {key: lower(item) for key, item in value.items()}
    if isinstance(value, list):
        return [lower(item) for item in value]
    return value.lower() if isinstance(value, str) else value


def test_every_shape_is_named_after_its_fork() -> None:
    assert isinstance(c.proposal_type(Fork.CAPELLA, False), Container)
    assert c.proposal_type(Fork.CAPELLA, False).name == "BeaconBlock"
    assert c.proposal_type(Fork.FULU, False).name == "BlockContents"
    assert c.signed_proposal_type(Fork.FULU, True).name == "SignedBlindedBeaconBlock"
