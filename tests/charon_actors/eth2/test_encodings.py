"""Every signed and unsigned value of every fork, byte for byte as Charon prints it, both directions."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.bounded_json import BLOCK
from charon_actors.crypto import verify
from charon_actors.eth2.chain import Chain, ForkEntry
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.proposal import Proposal, SignedProposal, cut_signed, cut_signed_json, cut_wire_json, same_message
from charon_actors.eth2.signed_data import (
    EncodingFault,
    SignedVoluntaryExit,
    VersionedAttestation,
    decode_signed_data,
    encode_signed_data_json,
)
from charon_actors.eth2.unsigned_data import decode_unsigned, encode_unsigned, encode_unsigned_json
from charon_actors.p2p.protobuf.core_pb2 import ParSigExMsg
from tests.charon_actors.eth2.vectors import FOLDER, load, raw, unhex

ENTRIES = load("core/core_encodings_by_fork.json")["entries"]
DUTY_OF_TYPE = {
    "VersionedAttestation": DutyType.ATTESTER,
    "VersionedAggregatedAttestation": DutyType.AGGREGATOR,
    "VersionedSignedAggregateAndProof": DutyType.AGGREGATOR,
    "VersionedSignedProposal": DutyType.PROPOSER,
    "VersionedProposal": DutyType.PROPOSER,
    "SignedVoluntaryExit": DutyType.EXIT,
    "SignedSyncMessage": DutyType.SYNC_MESSAGE,
    "SignedSyncContributionAndProof": DutyType.SYNC_CONTRIBUTION,
    "BeaconCommitteeSelection": DutyType.PREPARE_AGGREGATOR,
    "SyncCommitteeSelection": DutyType.PREPARE_SYNC_CONTRIBUTION,
    "SignedRandao": DutyType.RANDAO,
    "Signature": DutyType.SIGNATURE,
    "AttestationData": DutyType.ATTESTER,
    "SyncContribution": DutyType.SYNC_CONTRIBUTION,
    "SyncContributions": DutyType.SYNC_CONTRIBUTION,
}
MAINNET = Chain(
    genesis_time_s=1606824023.0,
    genesis_validators_root=unhex("4b363db94e286120d76eb905340fdd4e54bfe9f06bf33ff6cf5ad27f511bfe95"),
    slot_duration_s=12.0,
    slots_per_epoch=32,
    fork_schedule=(ForkEntry(0, bytes(4)), ForkEntry(411392, unhex("06000000"))),
    fork_epochs={Fork.PHASE0: 0, Fork.FULU: 411392},
    capella_fork_version=unhex("03000000"),
)


def test_the_file_has_all_sixty_two_objects() -> None:
    assert len(ENTRIES) == 62


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e['type']}-{e.get('version', '')}-{e.get('blinded', '')}")
def test_wire_and_json_of_every_type_and_fork(entry: dict[str, Any]) -> None:
    name, _, rest = entry["type"].partition(" ")
    duty_type, wire = DUTY_OF_TYPE[name], unhex(entry["wire_hex"])
    json_bytes = json.dumps(entry["json"], separators=(",", ":")).encode()
    if rest.startswith("(unsigned"):
        value = decode_unsigned(duty_type, wire)
        assert encode_unsigned(value) == wire
        assert encode_unsigned_json(value) == json_bytes
        assert decode_unsigned(duty_type, json_bytes) == value
    else:
        signed: Any = decode_signed_data(duty_type, wire)
        assert signed.encode() == wire
        assert encode_signed_data_json(signed) == json_bytes
        assert decode_signed_data(duty_type, json_bytes) == signed
        value = signed
        other = signed.with_signature(bytes(96))
        assert other.signature == bytes(96)
        assert other.with_signature(signed.signature) == signed
    if isinstance(value, SignedProposal):
        cut = (value.signature, value.message)
        found, message = cut_signed(value.fork, value.blinded, value.body)
        assert (found, bytes(message)) == cut
        place = value.body.index(value.signature) - 4  # of the message's offset
        with pytest.raises(EncodingFault):
            cut_signed(value.fork, value.blinded, value.body[:place] + bytes([101]) + value.body[place + 1 :])
        beacon_api = json.dumps(entry["json"]["block"]).encode()
        assert cut_signed_json(value.fork, value.blinded, beacon_api, BLOCK) == cut
        assert cut_wire_json(json_bytes) == (value.fork, value.blinded, *cut)
    if "message_root" in entry:
        root = value.block_root() if isinstance(value, Proposal) else value.object_root()  # type: ignore[union-attr]
        assert root.hex() == entry["message_root"]
    if "validator_index" in entry:
        assert isinstance(value, VersionedAttestation)
        assert value.validator_index == entry["validator_index"]


@pytest.mark.parametrize("item", load("core/core_type_goldens.json")["items"], ids=lambda item: item["type"])
def test_goldens_of_core_types(item: dict[str, Any]) -> None:
    if item["role"].startswith("internal"):
        return  # never leaves a node
    decode: Any = decode_unsigned if item["role"].startswith("unsigned") else decode_signed_data
    duty_type = DutyType(item["duty_type"])
    json_bytes = json.dumps(item["json"], separators=(",", ":")).encode()
    if item["type"] == "Signature":  # fuzzed to eight bytes; a signature has 96
        with pytest.raises(EncodingFault):
            decode(duty_type, json_bytes)
        return
    value = decode(duty_type, json_bytes)
    if "ssz_hex" in item:
        ssz = unhex(item["ssz_hex"])
        assert decode(duty_type, ssz) == value
        assert (value.encode_ssz() if isinstance(value, SignedVoluntaryExit) else value.encode()) == ssz
    if item["wire_encoding_sent_by_charon"] == "json":
        assert value.encode() == json_bytes


@pytest.mark.parametrize(
    ("name", "duty_type", "is_signed"),
    [
        ("VersionedAggregatedAttestation", DutyType.AGGREGATOR, False),
        ("VersionedAttestation", DutyType.ATTESTER, True),
        ("VersionedSignedAggregateAndProof", DutyType.AGGREGATOR, True),
    ],
)
def test_charon_goldens(name: str, duty_type: DutyType, is_signed: bool) -> None:
    ssz = raw(f"eth2/charon_{name}.ssz.golden")
    ssz = ssz if ssz[0] in range(7) else bytes.fromhex(ssz.decode().strip())
    json_bytes = (FOLDER / f"eth2/charon_{name}.json.golden").read_bytes()
    decode: Any = decode_signed_data if is_signed else decode_unsigned
    assert decode(duty_type, ssz) == decode(duty_type, json_bytes)
    assert decode(duty_type, ssz).encode() == ssz


@pytest.mark.parametrize("message", load("core/parsigex_messages.json")["messages"], ids=lambda m: m["duty"]["name"])
def test_partial_signatures_of_peers_verify(message: dict[str, Any]) -> None:
    cluster = load("core/parsigex_messages.json")["cluster"]
    validator = cluster["validators"][message["validator"]]
    wire = ParSigExMsg.FromString(unhex(message["parsigexmsg_hex"]))
    (entry,) = wire.data_set.set.values()
    duty = Duty(wire.duty.slot, DutyType(wire.duty.type))
    signed = decode_signed_data(duty.type, entry.data)
    assert signed.encode() == entry.data
    assert signed.signature == entry.signature
    assert signed.belongs_to(duty, MAINNET)
    assert not signed.belongs_to(Duty(duty.slot, DutyType.INFO_SYNC), MAINNET)
    assert signed.object_root().hex() == message["message_root"]
    signing_root = signed.signing_root(MAINNET)
    assert signing_root.hex() == message["signing_root"]
    shares = {int(index): unhex(text) for index, text in validator["pubshares"].items()}
    assert verify(shares[entry.share_idx], signing_root, signed.signature)
    group = signed.with_signature(unhex(message["aggregate_signature"]))
    assert verify(unhex(validator["group_pubkey"]), group.signing_root(MAINNET), group.signature)
    assert not verify(shares[entry.share_idx], group.signing_root(MAINNET), group.signature)


def test_a_message_with_several_validators_decodes() -> None:
    text = load("core/parsigex_messages.json")["multi_validator_message"]["parsigexmsg_hex"]
    wire = ParSigExMsg.FromString(unhex(text))
    decoded = [decode_signed_data(DutyType(wire.duty.type), entry.data) for entry in wire.data_set.set.values()]
    assert len(decoded) > 1


@pytest.mark.parametrize("duty_type", [DutyType.BUILDER_PROPOSER, DutyType.INFO_SYNC])
def test_types_that_sign_nothing_are_refused(duty_type: DutyType) -> None:
    with pytest.raises(EncodingFault):
        decode_signed_data(duty_type, b"{}")


def test_unsigned_and_signed_proposals_carry_the_same_message() -> None:
    full = Proposal.decode(
        unhex(next(e for e in ENTRIES if e["type"].startswith("VersionedP") and e["version"] == "fulu")["wire_hex"])
    )
    signed = full.signed(bytes(range(96)))
    assert signed.signature == bytes(range(96))
    assert same_message(full, signed)
    assert SignedProposal.from_ssz(signed.fork, signed.blinded, signed.body) == signed
    assert SignedProposal.from_json(signed.fork, signed.blinded, signed.to_json()) == signed
    assert Proposal.from_json(full.fork, full.blinded, full.to_json()) == full
    for place in (0, 16, 100):  # slot, parent root, randao
        other = bytearray(full.body)
        other[full.body.index(full.message) + place] ^= 1
        assert not same_message(Proposal.from_ssz(full.fork, False, bytes(other)), signed)


def test_fields_of_a_proposal() -> None:
    for name, blinded in (("fulu_beacon_block", False), ("fulu_blinded_beacon_block", True)):
        block = raw(f"eth2/{name}.ssz")
        contents = (12).to_bytes(4, "little") + 2 * (12 + len(block)).to_bytes(4, "little") + block
        proposal = Proposal.from_ssz(Fork.FULU, blinded, block if blinded else contents)
        value = load("eth2/fulu_beacon_block.json")
        assert proposal.message == block
        assert proposal.slot == int(value["slot"])
        assert proposal.proposer_index == int(value["proposer_index"])
        assert proposal.graffiti == unhex(value["body"]["graffiti"])
        assert proposal.randao_reveal == unhex(value["body"]["randao_reveal"])
        assert proposal.fee_recipient == unhex(value["body"]["execution_payload"]["fee_recipient"])
        assert proposal.block_root().hex() == "f7251cae23410c7454437e8e52dc16d1b4fbec965288923a0daad08659c2be86"


def test_there_are_no_blinded_blocks_before_bellatrix() -> None:
    with pytest.raises(EncodingFault):
        Proposal.from_ssz(Fork.ALTAIR, True, b"")


SINGLE = load("eth2/api_examples.json")["POST /eth/v2/beacon/pool/attestations (electra+)"]["request"][0]


def test_a_single_attestation_becomes_the_inner_form_and_back() -> None:
    attestation = VersionedAttestation.from_single_attestation_json(Fork.FULU, SINGLE)
    assert attestation.validator_index == int(SINGLE["attester_index"])
    assert attestation.attestation.aggregation_bits == b"\x01"
    assert attestation.attestation.committee_bits == bytes([2, 0, 0, 0, 0, 0, 0, 0])
    assert attestation.to_single_attestation_json() == SINGLE
    assert decode_signed_data(DutyType.ATTESTER, attestation.encode()) == attestation


@pytest.mark.parametrize("index", ["64", "18446744073709551615", "-1", 1, None])
def test_a_committee_that_cannot_be_is_refused(index: object) -> None:
    with pytest.raises(EncodingFault):
        VersionedAttestation.from_single_attestation_json(Fork.FULU, {**SINGLE, "committee_index": index})


@pytest.mark.parametrize("bits", [bytes(8), b"\x03" + bytes(7)])
def test_without_exactly_one_committee_bit_there_is_no_single_attestation(bits: bytes) -> None:
    attestation = VersionedAttestation.from_single_attestation_json(Fork.ELECTRA, SINGLE)
    wire = attestation.encode()
    odd = decode_signed_data(DutyType.ATTESTER, wire[:-9] + bits + wire[-1:])
    assert isinstance(odd, VersionedAttestation)
    with pytest.raises(EncodingFault):
        odd.to_single_attestation_json()


def test_a_v12_attestation_of_slot_20_is_not_taken_for_v20() -> None:
    entry = next(
        e for e in ENTRIES if e["type"] == "VersionedAttestation" and "validator_index" not in e and e["version"] == "deneb"
    )
    wire = bytearray(unhex(entry["wire_hex"]))
    wire[16:24] = (20).to_bytes(8, "little")
    value = decode_signed_data(DutyType.ATTESTER, bytes(wire))
    assert isinstance(value, VersionedAttestation)
    assert (value.data.slot, value.validator_index, value.encode()) == (20, None, bytes(wire))


def test_a_bare_phase0_aggregate_is_understood() -> None:
    entry = next(e for e in ENTRIES if e["type"] == "VersionedSignedAggregateAndProof" and e["version"] == "phase0")
    wire = unhex(entry["wire_hex"])
    assert decode_signed_data(DutyType.AGGREGATOR, wire[12:]).encode() == wire


@pytest.mark.parametrize("blinded", [False, True])
@given(st.sampled_from([fork for fork in Fork if fork >= Fork.BELLATRIX]), st.binary(max_size=300), st.integers(0, 300))
def test_cutting_a_signed_block_out_of_hostile_bytes_raises_nothing_else(
    blinded: bool, fork: Fork, noise: bytes, at: int
) -> None:
    entry = next(
        e for e in ENTRIES if e["type"] == "VersionedSignedProposal" and e["version"] == "deneb" and e["blinded"] == blinded
    )
    good = unhex(entry["wire_hex"])[13:]
    for body in (noise, good[:at] + noise + good[at + len(noise) :]):
        try:
            signature, message = cut_signed(fork, blinded, body)
        except EncodingFault:
            continue
        assert len(signature) == 96
        assert bytes(message) in body
    for text in (noise, b'{"signed_block":' + noise + b"}", b'{"version":6,"block":' + noise + b"}"):
        with pytest.raises(EncodingFault):
            cut_signed_json(fork, blinded, text, BLOCK)
        with pytest.raises(EncodingFault):
            cut_wire_json(text)
