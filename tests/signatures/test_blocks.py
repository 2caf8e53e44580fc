"""Blocks of peers: what is refused before it costs anything, what a bad one can't do to the actor, and that the event loop stays free."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import trio

from actors.signatures import InvalidPartial, PeerPartials, SubmitPartials
from actors.signatures.partial import MAX_BLOCK_JSON_BYTES, MAX_SMALL_BYTES, Partial, read_partial, with_root
from charon_actors.crypto import verify
from charon_actors.eth2.chain import Chain, ChainFault, ForkEntry
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.proposal import MAX_TRANSACTIONS, SignedProposal, proposal_to_wire_json
from charon_actors.eth2.ssz import EncodingFault
from charon_actors.eth2.versioned import encode_v13
from charon_actors.p2p.protobuf.core_pb2 import ParSigExMsg
from tests.signatures.rig import (
    BLOCK_DUTY,
    CHAIN,
    DUTY,
    SLOT,
    Node,
    attestation,
    block,
    keys,
    node,
    signed_by,
    tell,
    until,
)

GNOSIS = msgspec.structs.replace(CHAIN, spec={"MAX_WITHDRAWALS_PER_PAYLOAD": "8"})
WITHDRAWAL = {"index": 1, "validator_index": 2, "address": bytes(20), "amount": 3}


def withdrawals(count: int) -> dict[str, Any]:
    return {"withdrawals": [WITHDRAWAL] * count}


def send(this: Node, share_index: int, *data: bytes, duty: Duty = BLOCK_DUTY) -> None:
    """An unchecked message: its entries are for validators 0, 1, …"""
    message = ParSigExMsg()
    message.duty.slot, message.duty.type = duty.slot, duty.type
    for validator, each in enumerate(data):
        entry = message.data_set.set["0x" + keys(validator)[0].hex()]
        entry.data, entry.signature, entry.share_idx = each, bytes(96), share_index
    this.address.tell(PeerPartials(share_index - 1, message.SerializeToString()))


async def make_group(this: Node, unsigned: SignedProposal, shares: Sequence[int], chain: Chain = CHAIN) -> None:
    for share_index in shares:
        await tell(this, share_index, signed_by(share_index, unsigned, chain=chain), duty=BLOCK_DUTY)
    await until(lambda: this.groups)
    signed = this.groups[0].signed[keys()[0]]
    assert verify(keys()[0], signed.signing_root(chain), signed.signature)


async def test_a_block_with_more_withdrawals_than_gnosis_allows_ends_nothing() -> None:
    too_many, good = block(**withdrawals(9)), block(**withdrawals(8))
    async with node(chain=GNOSIS) as this:
        await tell(this, 2, signed_by(2, good, chain=GNOSIS), duty=BLOCK_DUTY)
        await until(lambda: len(this.stored) == 1)
        for share_index in (3, 4, 3, 4):
            send(this, share_index, too_many.encode())
        with pytest.raises(InvalidPartial, match="withdrawals"):
            await this.address.ask(SubmitPartials(BLOCK_DUTY, {keys()[0]: too_many}))
        await make_group(this, good, (3, 4), GNOSIS)


async def test_an_attestation_of_an_epoch_that_the_schedule_does_not_cover_ends_nothing() -> None:
    chain = msgspec.structs.replace(CHAIN, fork_schedule=(ForkEntry(SLOT // 8, bytes(4)),))
    before = SLOT - 8
    async with node(chain=chain) as this:
        this.now = chain.slot_start_s(before) + 5
        early = attestation(2, slot=before)
        send(this, 2, early.encode(), duty=Duty(before, DutyType.ATTESTER))
        with pytest.raises(InvalidPartial, match="fork schedule"):
            await this.address.ask(SubmitPartials(Duty(before, DutyType.ATTESTER), {keys()[0]: early}))
        await tell(this, 2, signed_by(2, attestation(2), chain=chain))
        assert [duty for duty, _, _ in this.stored] == [DUTY]
    with pytest.raises(ChainFault):
        read_partial(early.encode(), Duty(before, DutyType.ATTESTER), chain)


def test_too_many_transactions_are_refused_before_anything_is_decoded() -> None:
    bad = block(transactions=[b""] * (MAX_TRANSACTIONS + 1))
    with pytest.raises(EncodingFault, match="65537 transactions"):
        with_root(bad, BLOCK_DUTY, CHAIN)
    with pytest.raises(EncodingFault, match="65537 transactions"):
        read_partial(bad.encode() + b"no blob", BLOCK_DUTY, CHAIN)
    with pytest.raises(EncodingFault, match="65537 transactions"):
        with_root(SignedProposal.decode(proposal_to_wire_json(bad)), BLOCK_DUTY, CHAIN)


@pytest.mark.parametrize("transactions", [[], [b""], [b"", b"x" * 40, b"yz"] * 200])
def test_ordinary_blocks_have_the_root_that_the_chain_signs(transactions: list[bytes]) -> None:
    unsigned = block(transactions=transactions, blobs=[1])
    for encoded in (unsigned.encode(), proposal_to_wire_json(unsigned)):
        assert read_partial(encoded, BLOCK_DUTY, CHAIN) == Partial(unsigned, unsigned.signing_root(CHAIN))


@pytest.mark.parametrize("fork", [Fork.PHASE0, Fork.CAPELLA, Fork.ELECTRA])
def test_another_fork_than_the_slots_is_refused_before_anything_is_decoded(fork: Fork) -> None:
    with pytest.raises(EncodingFault, match=f"a block of {fork.label}"):
        read_partial(encode_v13(fork, False, b"no block"), BLOCK_DUTY, CHAIN)


async def test_our_own_block_of_another_fork_is_refused() -> None:
    deneb = msgspec.structs.replace(CHAIN, fork_epochs={fork: 0 for fork in Fork if fork <= Fork.DENEB})
    async with node(chain=deneb) as this:
        with pytest.raises(InvalidPartial, match="a block of fulu"):
            await this.address.ask(SubmitPartials(BLOCK_DUTY, {keys()[0]: signed_by(1, block())}))
        assert this.sent == []


def test_what_is_too_long_for_its_kind_is_refused() -> None:
    with pytest.raises(EncodingFault, match="JSON"):
        read_partial(b"{" + b" " * MAX_BLOCK_JSON_BYTES, BLOCK_DUTY, CHAIN)
    with pytest.raises(EncodingFault, match="bytes for a"):
        read_partial(b" " * MAX_SMALL_BYTES + b"{", DUTY, CHAIN)


def test_a_block_whose_root_is_known_is_not_hashed_again() -> None:
    unsigned, known_root = block(), b"a root that no hash gives".ljust(32)
    known = [Partial(signed_by(2, block(blobs=[5])), known_root)]
    assert with_root(unsigned, BLOCK_DUTY, CHAIN, known).signing_root == known_root
    assert read_partial(unsigned.encode(), BLOCK_DUTY, CHAIN, known).signing_root == known_root
    assert with_root(block(gas_used=1), BLOCK_DUTY, CHAIN, known).signing_root == block(gas_used=1).signing_root(CHAIN)


async def test_only_the_proposers_block_alone_in_its_slot_is_read() -> None:
    async with node(validators=2) as this:
        this.proposer = keys(1)[0]
        send(this, 2, block().encode())  # of validator 0
        send(this, 2, block().encode(), block().encode())
        later = Duty(SLOT + 2, DutyType.PROPOSER)  # its slot hasn't begun
        send(this, 2, block(slot=later.slot).encode(), duty=later)
        for share_index in (2, 3, 4):
            await tell(this, share_index, signed_by(share_index, block(), validator=1), duty=BLOCK_DUTY, validator=1)
        await until(lambda: this.groups)
        assert list(this.groups[0].signed) == [keys(1)[0]]
        assert this.asked == [(SLOT, keys(0)[0])] + [(SLOT, keys(1)[0])] * 3
        assert {share_index for _, share_index, _ in this.stored} == {2, 3, 4}


async def test_a_hostile_block_leaves_the_event_loop_free_and_delays_only_its_sender() -> None:
    longest_s = 0.0

    async def heartbeat() -> None:
        nonlocal longest_s
        while True:
            before_s = trio.current_time()
            await trio.sleep(0.002)
            longest_s = max(longest_s, trio.current_time() - before_s)

    hostile = block(transactions=[b"x"] * MAX_TRANSACTIONS).encode()
    async with node() as this, trio.open_nursery() as nursery:
        nursery.start_soon(heartbeat)
        began_s = trio.current_time()
        send(this, 2, hostile)
        await this.address.ask(SubmitPartials(BLOCK_DUTY, {keys()[0]: signed_by(1, block())}))
        await make_group(this, block(), (3, 4))
        assert len(this.verified) == 2, "the hostile one is still being hashed"
        await until(lambda: len(this.verified) == 3)
        took_s = trio.current_time() - began_s
        nursery.cancel_scope.cancel()
    assert longest_s < took_s / 3
