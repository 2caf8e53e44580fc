"""Blocks of peers: compared with the decided one, what is refused before it costs anything, and that the event loop stays free."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from actors.off_loop import Elsewhere, OffLoop
from actors.signatures import InvalidPartial, PeerPartials, SubmitPartials
from actors.signatures.blocks import HELD_JSON_BYTES, Blocks
from charon_actors.bounded_json import BLOCK_BYTES, PEER_BLOCK
from charon_actors.crypto import verify
from charon_actors.eth2.chain import Chain, ChainFault, ForkEntry
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.proposal import MAX_TRANSACTIONS, Proposal, SignedProposal, proposal_to_wire_json
from charon_actors.eth2.ssz import EncodingFault
from charon_actors.eth2.versioned import encode_v13
from charon_actors.p2p.protobuf.core_pb2 import ParSigExMsg
from charon_actors.signatures.partial import MAX_SMALL_BYTES, Partial, read_partial
from tests.actors.signatures.rig import Node, node, tell, until
from tests.charon_actors.signatures.signed import BLOCK_DUTY, CHAIN, DUTY, SLOT, attestation, block, keys, signed_by, unsigned

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


async def make_group(this: Node, of: SignedProposal, shares: Sequence[int], chain: Chain = CHAIN) -> None:
    for share_index in shares:
        await tell(this, share_index, signed_by(share_index, of, chain=chain), duty=BLOCK_DUTY)
    await until(lambda: this.groups)
    signed = this.groups[0].signed[keys()[0]]
    assert verify(keys()[0], signed.signing_root(chain), signed.signature)


class Counting(Elsewhere):
    """Counts what is to be done with blocks elsewhere, by the function's name."""

    def __init__(self) -> None:
        super().__init__()
        self.done: Counter[str] = Counter()

    async def __call__(self, expected_ms: float, function: Any, item: Any) -> Any:
        self.done[function.__name__] += 1
        return await super().__call__(expected_ms, function, item)


def blocks_of(decided: SignedProposal | None, off_loop: OffLoop | None = None, chain: Chain = CHAIN) -> Blocks:
    async def agreed(slot: int) -> Proposal | None:
        return None if decided is None else unsigned(decided)

    return Blocks(chain, agreed, off_loop or Elsewhere(), lambda duty: False)


async def match(blocks: Blocks, *encoded: bytes, duty: Duty = BLOCK_DUTY) -> list[Partial | None]:
    found: list[Partial | None] = []
    fault: EncodingFault | None = None
    async with trio.open_nursery() as nursery:
        try:
            found = [await blocks.match(await blocks.look(each, duty), duty, nursery) for each in encoded]
        except EncodingFault as error:
            fault = error
    if fault is not None:
        raise fault
    return found


async def test_a_block_with_more_withdrawals_than_gnosis_allows_ends_nothing() -> None:
    too_many, good = block(**withdrawals(9)), block(**withdrawals(8))
    async with node(chain=GNOSIS) as this:
        send(this, 2, too_many.encode())
        with pytest.raises(InvalidPartial, match="withdrawals"):
            await this.address.ask(SubmitPartials(BLOCK_DUTY, {keys()[0]: too_many}))
        this.decide(good)
        await this.address.ask(SubmitPartials(BLOCK_DUTY, {keys()[0]: signed_by(1, good, chain=GNOSIS)}))
        await make_group(this, good, (3, 4), GNOSIS)
        assert {share_index for _, share_index, _ in this.stored} == {1, 3, 4}


@pytest.mark.parametrize("decided", [block(**withdrawals(9)), block(slot=SLOT + 1)], ids=["withdrawals", "slot"])
async def test_a_decided_block_that_nobody_can_sign_ends_nothing(decided: SignedProposal) -> None:
    async with node(chain=GNOSIS) as this:
        this.decided[SLOT] = unsigned(decided)
        for share_index in (2, 3, 4):
            send(this, share_index, decided.encode())
        await tell(this, 2, signed_by(2, attestation(2), chain=GNOSIS))
        assert [duty for duty, _, _ in this.stored] == [DUTY]
        assert this.groups == []


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


async def test_too_many_transactions_are_refused_before_anything_is_decoded() -> None:
    bad, counting = block(transactions=[b""] * (MAX_TRANSACTIONS + 1)), Counting()
    blocks = blocks_of(bad, counting)
    with pytest.raises(EncodingFault, match="65537 transactions"):
        await blocks.own(bad, BLOCK_DUTY)
    with pytest.raises(EncodingFault, match="65537 transactions"):
        await match(blocks, bad.encode())
    assert counting.done.keys() == {"_sha256"}


@pytest.mark.parametrize("transactions", [[], [b""], [b"", b"x" * 40, b"yz"] * 200])
async def test_the_decided_block_has_the_root_that_the_chain_signs_whatever_form_it_comes_in(transactions: list[bytes]) -> None:
    block_ = block(transactions=transactions, blobs=[1])
    other_blobs = block(transactions=transactions, blobs=[2])
    forms = [signed_by(2, block_).encode(), proposal_to_wire_json(signed_by(2, block_)), signed_by(2, other_blobs).encode()]
    assert await match(blocks_of(block_), *forms) == 3 * [
        Partial(block_, block_.signing_root(CHAIN), signed_by(2, block_).signature)
    ]


async def test_another_block_than_the_decided_one_is_refused_whatever_form_it_comes_in() -> None:
    other = block(gas_used=1)
    for encoded in (other.encode(), proposal_to_wire_json(other)):
        with pytest.raises(EncodingFault, match="another block"):
            await match(blocks_of(block()), encoded)
    assert await match(blocks_of(None), other.encode()) == [None]


async def test_a_peers_block_is_never_decoded_and_the_decided_one_hashed_once() -> None:
    async with node(off_loop=(counting := Counting())) as this:
        send(this, 2, block(transactions=[b"x"] * MAX_TRANSACTIONS).encode())
        await this.address.ask(SubmitPartials(BLOCK_DUTY, {keys()[0]: signed_by(1, block())}))
        this.decide(block())
        await make_group(this, block(), (3, 4))
    assert counting.done["_root"] == 1
    assert counting.done.keys() == {"_root", "_sha256"}


async def test_blocks_wait_for_the_decision_and_a_peers_votes_do_not_wait_with_them() -> None:
    async with node() as this:
        for share_index in (2, 3, 4):
            await tell(this, share_index, signed_by(share_index, block()), duty=BLOCK_DUTY)
        await tell(this, 2, attestation(2))
        assert [duty for duty, _, _ in this.stored] == [DUTY]
        this.decide(block())
        await until(lambda: this.groups)


async def test_only_one_block_of_a_peer_and_slot_is_looked_at() -> None:
    async with node(off_loop=(counting := Counting())) as this:
        for variant in range(20):
            send(this, 2, block(extra_data=bytes(variant)).encode())
        for _ in range(20):
            send(this, 3, signed_by(3, block()).encode())
        this.decide(block())
        await this.address.ask(SubmitPartials(BLOCK_DUTY, {keys()[0]: signed_by(1, block())}))
        await make_group(this, block(), (4,))
        assert {share_index for _, share_index, _ in this.stored} == {1, 3, 4}
    assert counting.done["_sha256"] == 4  # of three peers and the decided one


async def test_two_duties_in_one_message_get_no_block_past_the_door() -> None:
    message = ParSigExMsg()
    message.duty.slot, message.duty.type = SLOT, DutyType.PROPOSER
    entry = message.data_set.set["0x" + keys()[0].hex()]
    entry.data, entry.signature, entry.share_idx = signed_by(2, block()).encode(), bytes(96), 2
    other = ParSigExMsg()
    other.duty.slot, other.duty.type = SLOT, DutyType.ATTESTER
    async with node() as this:
        this.decide(block())
        this.address.tell(PeerPartials(1, other.SerializeToString() + message.SerializeToString()))
        await tell(this, 3, signed_by(3, block()), duty=BLOCK_DUTY)
        await until(lambda: this.stored)
        assert this.stored == [(BLOCK_DUTY, 3, 1)]


@pytest.mark.parametrize("fork", [Fork.PHASE0, Fork.CAPELLA, Fork.ELECTRA])
async def test_another_fork_than_the_slots_is_refused_before_anything_is_decoded(fork: Fork) -> None:
    with pytest.raises(EncodingFault, match=f"a block of {fork.label}"):
        await blocks_of(None).look(encode_v13(fork, False, b"no block"), BLOCK_DUTY)


async def test_our_own_block_of_another_fork_is_refused() -> None:
    deneb = msgspec.structs.replace(CHAIN, fork_epochs={fork: 0 for fork in Fork if fork <= Fork.DENEB})
    async with node(chain=deneb) as this:
        with pytest.raises(InvalidPartial, match="a block of fulu"):
            await this.address.ask(SubmitPartials(BLOCK_DUTY, {keys()[0]: signed_by(1, block())}))
        assert this.sent == []


async def test_our_own_block_that_is_not_the_decided_one_is_refused() -> None:
    async with node() as this:
        this.decide(block())
        await tell(this, 2, signed_by(2, block()), duty=BLOCK_DUTY)
        await until(lambda: this.stored)
        with pytest.raises(InvalidPartial, match="another block"):
            await this.address.ask(SubmitPartials(BLOCK_DUTY, {keys()[0]: signed_by(1, block(gas_used=1))}))
        assert this.sent == []


async def test_what_is_too_long_for_its_kind_is_refused() -> None:
    blocks = blocks_of(block())
    with pytest.raises(EncodingFault, match="as JSON"):
        await blocks.look(b"{" + b" " * PEER_BLOCK.max_bytes, BLOCK_DUTY)
    with pytest.raises(EncodingFault, match=f"a block of {BLOCK_BYTES + 13}"):
        await blocks.look(encode_v13(Fork.FULU, False, bytes(BLOCK_BYTES)), BLOCK_DUTY)
    with pytest.raises(EncodingFault, match="the decided one has"):
        await match(blocks, b"{" + b" " * 4 * len(block().body) + b" " * 65536)
    with pytest.raises(EncodingFault, match="bytes for a"):
        read_partial(b" " * MAX_SMALL_BYTES + b"{", DUTY, CHAIN)


async def test_json_that_waits_has_a_limit_for_all_peers_together() -> None:
    waiting = b"{" + b" " * (PEER_BLOCK.max_bytes - 1)

    async def undecided(slot: int) -> Proposal | None:
        await trio.sleep_forever()

    blocks = Blocks(CHAIN, undecided, Elsewhere(), lambda duty: False)
    async with trio.open_nursery() as nursery:
        look = await blocks.look(waiting, BLOCK_DUTY)
        for _ in range(HELD_JSON_BYTES // len(waiting)):
            nursery.start_soon(blocks.match, look, BLOCK_DUTY, nursery)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(EncodingFault, match="wait already"):
            await blocks.match(look, BLOCK_DUTY, nursery)
        nursery.cancel_scope.cancel()
    assert blocks._held_bytes == 0


async def test_only_the_proposers_block_alone_in_its_slot_is_read() -> None:
    async with node(validators=2) as this:
        this.proposer = keys(1)[0]
        this.decide(block())
        send(this, 2, block().encode())  # of validator 0
        send(this, 2, block().encode(), block().encode())
        later = Duty(SLOT + 2, DutyType.PROPOSER)  # its slot hasn't begun
        send(this, 2, block(slot=later.slot).encode(), duty=later)
        await this.address.ask(SubmitPartials(BLOCK_DUTY, {keys(1)[0]: signed_by(1, block(), validator=1)}))
        for share_index in (3, 4):
            await tell(this, share_index, signed_by(share_index, block(), validator=1), duty=BLOCK_DUTY, validator=1)
        await until(lambda: this.groups)
        assert list(this.groups[0].signed) == [keys(1)[0]]
        assert this.asked == [(SLOT, keys(0)[0])] + [(SLOT, keys(1)[0])] * 2
        assert {share_index for _, share_index, _ in this.stored} == {1, 3, 4}
