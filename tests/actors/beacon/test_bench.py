"""The beacon actor against a chain of third-party code (the bench node): facts, duties, events, blocks, attestations."""

import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio

from actors.beacon import (
    AttesterDuties,
    BeaconFault,
    ClusterValidators,
    FetchAttestationData,
    LoadChain,
    NodeVersion,
    PrepareProposers,
    ProduceBlock,
    ProposerDuties,
    Settings,
    SubmitAttestations,
    SubmitProposal,
    SyncDuties,
    SyncStatus,
    beacon_factory,
)
from actors.beacon import Message as BeaconMessage
from actors.mailbox import Mailbox, open_actor
from charon_actors.crypto import CURVE_ORDER, public_key, sign
from charon_actors.eth2.beacon_api import ChainEvent, HeadEvent
from charon_actors.eth2.beacon_urls import decode_node_url
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signed_data import SignedRandao, VersionedAttestation
from tests.interop.rig import DEVNET, PRESET, free_ports, needs

pytestmark = pytest.mark.interop


def secret(index: int) -> bytes:
    """The public interop key of that validator."""
    digest = hashlib.sha256(index.to_bytes(32, "little")).digest()
    return (int.from_bytes(digest, "little") % CURVE_ORDER).to_bytes(32, "big")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[str]:
    needs("devnet-bench-1.41.0")
    (port,) = free_ports(1)
    command = [str(DEVNET / "bench" / "bench.sh"), "--port", str(port), "--fork", "fulu", "--count", "8", "--slot-seconds", "3"]
    with (tmp_path / "bench.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--time", str(int(time.time()) + 12)], env={**os.environ, **PRESET}, stdout=log, stderr=log
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


async def test_a_real_chain_goes_on_with_what_we_submit(bench: str) -> None:
    events: list[ChainEvent] = []
    keys = {index: secret(index) for index in range(8)}
    settings = Settings(
        primaries=(decode_node_url(bench),),
        cluster_keys=tuple(map(public_key, keys.values())),
        timeout_s=3.0,
        submit_timeout_s=3.0,
    )
    mailbox: Mailbox[BeaconMessage] = Mailbox("beacon")
    async with open_actor(mailbox, beacon_factory(settings, on_event=events.append)) as beacon:
        with trio.fail_after(60):  # it starts; we wait and say so
            chain = await beacon.ask(LoadChain(bytes.fromhex("03000001"), bytes.fromhex("00000001")))
        assert (chain.slots_per_epoch, chain.fork_at(0)) == (8, Fork.FULU)
        await trio.sleep(max(0.0, chain.genesis_time_s - time.time()))
        validators = await beacon.ask(ClusterValidators())
        assert {validator.index: validator.pubkey for validator in validators} == {i: public_key(k) for i, k in keys.items()}
        assert await beacon.ask(NodeVersion())
        assert (await beacon.ask(SyncStatus())).is_syncing is False
        await beacon.ask(PrepareProposers(((0, "0x" + "00" * 20),)))
        proposers = {duty.slot: duty for duty in (await beacon.ask(ProposerDuties(0))).duties}
        attesters = (await beacon.ask(AttesterDuties(0))).duties
        assert len(attesters) == 8
        assert (await beacon.ask(SyncDuties(0, (0, 1)))).duties
        with pytest.raises(BeaconFault) as far:
            await beacon.ask(AttesterDuties(9, (0,)))
        assert far.value.status == 400
        for slot in (2, 3):
            await trio.sleep(max(0.0, chain.slot_start_s(slot) - time.time() + 0.1))
            key = keys[proposers[slot].validator_index]
            randao = sign(key, SignedRandao(0, bytes(96)).signing_root(chain))
            proposal = await beacon.ask(ProduceBlock(slot, randao, b"ours".ljust(32, b"\0"), 0))
            assert (proposal.slot, proposal.blinded, proposal.graffiti[:4]) == (slot, False, b"ours")
            unsigned = proposal.signed(bytes(96))
            signed = unsigned.with_signature(sign(key, unsigned.signing_root(chain)))
            await beacon.ask(SubmitProposal(signed))
            await beacon.ask(SubmitProposal(signed))  # as the other nodes of a cluster do
            for duty in attesters:
                if duty.slot == slot:
                    data = await beacon.ask(FetchAttestationData(slot, 0))
                    assert data.beacon_block_root == signed.block_root(chain.preset)
                    single = {
                        "committee_index": str(duty.committee_index),
                        "attester_index": str(duty.validator_index),
                        "data": data.to_json(),
                        "signature": "0x" + "00" * 96,
                    }
                    vote = VersionedAttestation.from_single_attestation_json(Fork.FULU, single)
                    vote = vote.with_signature(sign(keys[duty.validator_index], vote.signing_root(chain)))
                    await beacon.ask(SubmitAttestations(Fork.FULU, (vote,)))
        with trio.fail_after(5):
            while {event.slot for event in events if isinstance(event, HeadEvent)} < {2, 3}:
                await trio.sleep(0.05)
    async with httpx.AsyncClient() as client:
        stats = (await client.get(bench + "/bench/stats")).json()
    assert stats["rejected"] == {}
    assert (stats["blocks"], stats["accepted"]["attestation"]) == (2, sum(duty.slot in (2, 3) for duty in attesters))
