"""What real Charon nodes proposed to one another, and what their beacon nodes made, passes the checks before anything is served."""

import gzip
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from charon_actors.beacon.blocks import decode_proposal
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.crypto import Check, verify
from charon_actors.eth2.chain import Chain, ForkEntry
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signed_data import SignedRandao
from charon_actors.eth2.unsigned_data import decided_attestations, decided_proposal, decode_unsigned, pays
from charon_actors.p2p.protobuf import core_pb2
from charon_actors.qbft.machine import MessageType
from tests.vector import ROOT
from tests.vectors_audit.recordings import BEACON, body_of, chain_of, recording

CONSENSUS = ("1.10.3-healthy", "1.10.3-round-changes", "main-healthy", "mixed-seen-by-1.10.3")
CHAIN = Chain(  # of the recordings: 8 slots an epoch, fulu from genesis on
    genesis_time_s=0.0,
    genesis_validators_root=bytes(32),
    slot_duration_s=3.0,
    slots_per_epoch=8,
    fork_schedule=(ForkEntry(0, bytes(4)),),
    fork_epochs=dict.fromkeys(Fork, 0),
    capella_fork_version=bytes(4),
)


def members(data: bytes, wanted: int) -> Iterator[bytes]:
    """The values of one length-delimited field of a protobuf message (06 §12: Charon's own archive of messages)."""
    at = 0

    def varint() -> int:
        nonlocal at
        result = shift = 0
        while True:
            byte = data[at]
            at += 1
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return result

    while at < len(data):
        tag = varint()
        size = varint()
        if tag & 7 == 2:
            if tag >> 3 == wanted:
                yield data[at : at + size]
            at += size


def proposals(name: str) -> Iterator[tuple[Duty, dict[str, bytes]]]:
    """Each PRE_PREPARE's value."""
    archive = gzip.decompress((ROOT / f"live/consensus/{name}.pb.gz").read_bytes())
    for instance in members(archive, 1):
        for sniffed in members(instance, 4):
            for raw in members(sniffed, 2):
                received = core_pb2.QBFTConsensusMsg.FromString(raw)
                if received.msg.type == MessageType.PRE_PREPARE and received.msg.duty.type in (1, 2):
                    [value] = received.values
                    duty = Duty(received.msg.duty.slot, DutyType(received.msg.duty.type))
                    yield duty, dict(core_pb2.UnsignedDataSet.FromString(value.value).set)


@pytest.mark.parametrize("name", CONSENSUS)
def test_what_real_leaders_proposed_would_be_served(name: str) -> None:
    lock = decode_lock(gzip.decompress((ROOT / f"live/consensus/{name}.cluster-lock.json.gz").read_bytes()))
    paid = {
        "0x" + validator.public_key.hex(): bytes.fromhex(addresses.fee_recipient_address[2:])
        for validator, addresses in zip(lock.validators, lock.definition.validators, strict=True)
    }
    votes, blocks = set(), 0
    for duty, value in proposals(name):
        if duty.type is DutyType.ATTESTER:
            votes |= {(vote.data.source_epoch, vote.data.target_epoch) for vote in decided_attestations(value, duty, {}, CHAIN)}
            continue
        [key] = value
        block: Any = decode_unsigned(duty.type, value[key])
        decided = decided_proposal(value, duty, bytes.fromhex(key[2:]), block.proposer_index, CHAIN)
        assert not decided.blinded
        assert pays(decided, paid[key])
        assert not pays(decided, bytes(20))
        blocks += 1
    assert blocks >= 5
    assert {target - source for source, target in votes} >= {1}
    if name == "main-healthy":
        assert {(0, 0), (0, 1), (0, 2), (2, 3)} <= votes, "the first epochs of a chain"
    if name == "mixed-seen-by-1.10.3":
        assert {(0, 5), (0, 6), (6, 7)} <= votes, "a chain that begins to finalise"


@pytest.mark.parametrize("name", BEACON)
def test_the_randao_reveals_of_real_blocks_are_the_groups(name: str) -> None:
    lines, chain = recording(name), chain_of(name)
    keys = {
        int(entry["index"]): bytes.fromhex(entry["validator"]["pubkey"][2:])
        for line in lines
        if line["path"].endswith("/validators") and line["status"] == 200
        for entry in line["response"]["data"]
    }
    checks = []
    for line in lines:
        if line["method"] != "GET" or "/v3/validator/blocks/" not in line["path"] or line["status"] != 200:
            continue
        headers = {header.lower(): text for header, text in line["response_headers"].items()}
        answer: Any = SimpleNamespace(is_ssz=True, body=body_of(line["response"]), headers=headers)
        block = decode_proposal(answer, chain)
        randao = SignedRandao(chain.epoch_of(block.slot), block.randao_reveal)
        checks.append(Check(keys[block.proposer_index], randao.signing_root(chain), randao.signature))
    assert all(verify(check.public_key, check.message, check.signature) for check in checks)
    assert len(checks) == {"bn-1.10.3-lodestar-capella": 5, "bn-main-fulu-start": 2}.get(name, 0)
