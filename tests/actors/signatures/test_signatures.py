"""Partial signatures of four nodes, threshold three, with real keys: what combines, what is refused, what is never released."""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TypeVar

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.mailbox import ActorDown, Address, Request
from actors.signatures import AwaitGroupSignature, DutyExpired, InvalidPartial, PeerPartials, SubmitPartials
from actors.slashing.actor import AttestationEntry, Guard, SlashableFault
from actors.slashing.actor import Message as GuardMessage
from charon_actors.crypto import public_key, sign, verify
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.signed_data import EncodingFault, SignedRandao
from charon_actors.signatures.wire import decode_message, encode_partials_message
from tests.actors.signatures.rig import node, settle, tell
from tests.charon_actors.signatures.signed import CHAIN, DUTY, SLOT, attestation, keys

R = TypeVar("R")


def conflicting(key: bytes) -> AttestationEntry:
    """Another vote for the same target."""
    return AttestationEntry(
        pubkey=key, signing_root=b"another vote".ljust(32), source_epoch=SLOT // 8 - 1, target_epoch=SLOT // 8
    )


async def test_three_of_four_make_a_group_signature_that_the_chain_accepts_and_it_is_released_once() -> None:
    async with node() as this:
        await this.address.ask(SubmitPartials(DUTY, {keys()[0]: attestation(1)}))
        for share_index in (2, 3, 4):
            await tell(this, share_index, attestation(share_index))
        [group] = this.groups
        signed = group.signed[keys()[0]]
        assert verify(keys()[0], signed.signing_root(CHAIN), signed.signature)
        assert await this.address.ask(AwaitGroupSignature(DUTY, keys()[0])) == signed
        assert await this.recorded() == {public_key(keys()[1][1]), keys()[0]}


@pytest.mark.parametrize(
    ("heads", "combines"),
    [([0, 0, 0], True), ([0, 0, 1], False), ([0, 0, 1, 0], True), ([0, 0, 1, 1], False), ([0, 0, 0, 0], True)],
)
async def test_only_shares_that_signed_the_same_root_combine(heads: list[int], combines: bool) -> None:
    async with node() as this:
        for share_index, head in enumerate(heads, 1):
            await tell(this, share_index, attestation(share_index, head=head))
        assert len(this.groups) == combines


async def test_what_peers_get_is_what_they_accept() -> None:
    async with node(1) as sender, node(2) as receiver:
        await sender.address.ask(SubmitPartials(DUTY, {keys()[0]: attestation(1)}))
        await receiver.address.ask(SubmitPartials(DUTY, {keys()[0]: attestation(2)}))
        [message] = sender.sent
        receiver.address.tell(PeerPartials(0, message))
        await tell(receiver, 4, attestation(4))
        assert len(receiver.groups) == 1


@pytest.mark.parametrize("share_index", [1, 2])
async def test_a_signature_of_another_share_is_refused_and_nothing_leaves(share_index: int) -> None:
    async with node() as this:
        wrong = attestation(1, sign_with=3)
        with pytest.raises(InvalidPartial, match="does not verify"):
            await this.address.ask(SubmitPartials(DUTY, {keys()[0]: wrong}))
        assert this.sent == []
        for index in (2, 3):
            await tell(this, index, attestation(index))
        await tell(this, 4, attestation(4, sign_with=1))
        assert this.groups == []


async def test_a_share_that_signs_two_things_for_one_duty_is_held_to_the_first() -> None:
    async with node() as this:
        await this.address.ask(SubmitPartials(DUTY, {keys()[0]: attestation(1)}))
        await this.address.ask(SubmitPartials(DUTY, {keys()[0]: attestation(1)}))  # an equal repeat is fine
        with pytest.raises(InvalidPartial, match="something else"):
            await this.address.ask(SubmitPartials(DUTY, {keys()[0]: attestation(1, head=7)}))
        await tell(this, 2, attestation(2, head=7))
        await tell(this, 2, attestation(2))  # too late: share 2 has signed head 7
        await tell(this, 3, attestation(3))
        assert this.groups == []


async def test_nothing_slashable_leaves_neither_as_a_share_nor_as_a_group() -> None:
    async with node() as this:
        await this.guard.ask(Guard((conflicting(public_key(keys()[1][1])), conflicting(keys()[0]))))
        with pytest.raises(SlashableFault):
            await this.address.ask(SubmitPartials(DUTY, {keys()[0]: attestation(1)}))
        assert this.sent == []
        for share_index in (2, 3, 4):
            await tell(this, share_index, attestation(share_index))
        assert this.groups == []


async def test_a_bad_entry_does_not_spoil_the_others_of_a_message() -> None:
    async with node(validators=2) as this:
        for share_index in (2, 3, 4):
            message = encode_partials_message(
                DUTY,
                share_index,
                {keys(0)[0]: attestation(share_index, sign_with=1), keys(1)[0]: attestation(share_index, validator=1)},
            )
            this.address.tell(PeerPartials(share_index - 1, message))
        await settle(this)
        assert [list(group.signed) for group in this.groups] == [[keys(1)[0]]]


@pytest.mark.parametrize(
    ("duty", "signed_slot", "reason"),
    [
        (Duty(SLOT + 1, DutyType.ATTESTER), SLOT, "belong"),
        (Duty(SLOT, DutyType.PROPOSER), SLOT, "belong"),
        (Duty(SLOT + 8 * 3, DutyType.ATTESTER), SLOT + 8 * 3, "ahead"),
        (Duty(SLOT - 10, DutyType.ATTESTER), SLOT - 10, "deadline"),
        (Duty(SLOT, DutyType.AGGREGATOR), SLOT, "perform"),
    ],
)
async def test_the_gate(duty: Duty, signed_slot: int, reason: str) -> None:
    async with node() as this:
        with pytest.raises((DutyExpired, InvalidPartial), match=reason):
            await this.address.ask(SubmitPartials(duty, {keys()[0]: attestation(1, slot=signed_slot)}))
        assert this.sent == []


async def test_unknown_validators_and_shares_are_refused() -> None:
    async with node() as this:
        with pytest.raises(InvalidPartial, match="not in the lock"):
            await this.address.ask(SubmitPartials(DUTY, {keys(5)[0]: attestation(1, validator=5)}))
        await tell(this, 9, attestation(1))
        assert this.groups == []


async def test_waiting_for_a_group_signature_ends_with_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with node() as this:
        start = trio.current_time()
        base = this.now

        async def time_passes() -> None:
            while True:
                await trio.sleep(0.5)
                this.now = base + trio.current_time() - start

        async with trio.open_nursery() as nursery:
            nursery.start_soon(time_passes)
            with pytest.raises(DutyExpired):
                await this.address.ask(AwaitGroupSignature(Duty(SLOT, DutyType.RANDAO), keys()[0]))
            assert 0.9 < this.now - base < 2.1  # S/3 + S/12 after the slot's start, that is 1 s from now
            nursery.cancel_scope.cancel()


async def test_randao_of_the_right_epoch_combines() -> None:
    duty = Duty(SLOT, DutyType.RANDAO)
    async with node() as this:
        for share_index in (2, 3, 4):
            unsigned = SignedRandao(epoch=SLOT // 8, signature=bytes(96))
            signed = unsigned.with_signature(sign(keys()[1][share_index], unsigned.signing_root(CHAIN)))
            await tell(this, share_index, signed, duty=duty)
        assert [group.duty for group in this.groups] == [duty]
        assert await this.recorded() == set()


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_hostile_bytes_are_an_encoding_fault_and_nothing_else(data: bytes) -> None:
    with suppress(EncodingFault):
        decode_message(data)


@settings(max_examples=100)
@given(st.data())
def test_a_damaged_message_is_an_encoding_fault_or_decodes(data: st.DataObject) -> None:
    message = bytearray(encode_partials_message(DUTY, 2, {keys()[0]: attestation(2)}))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        duty, share_index, partials = decode_message(bytes(message))
    except EncodingFault:
        return
    assert isinstance(duty, Duty)
    assert isinstance(share_index, int)
    assert isinstance(partials, Mapping)


class Moody:
    """A slashing guard that is just being restarted when it is asked about a group's signature, so many times."""

    def __init__(self, guard: Address[GuardMessage], times: float) -> None:
        self._guard, self._times = guard, times
        self.name = guard.name

    def tell(self, message: GuardMessage) -> None:
        self._guard.tell(message)

    async def deliver(self, message: GuardMessage) -> None:
        await self._guard.deliver(message)

    async def ask(self, request: Request[R]) -> R:
        if isinstance(request, Guard) and request.entries[0].pubkey == keys()[0] and self._times > 0:
            self._times -= 1
            raise ActorDown("slashing went down with the request in hand")
        return await self._guard.ask(request)


async def test_a_slashing_guard_that_is_being_restarted_delays_a_group_signature_and_nothing_else() -> None:
    async with node(wrap=lambda guard: Moody(guard, times=2)) as this:
        await this.address.ask(SubmitPartials(DUTY, {keys()[0]: attestation(1)}))
        for share_index in (2, 3):
            await tell(this, share_index, attestation(share_index))
        with trio.fail_after(10):
            while not this.groups:
                await trio.sleep(0.02)
        assert list(this.groups[0].signed) == [keys()[0]]


async def test_a_slashing_guard_that_never_works_releases_nothing_and_a_stop_does_not_wait_for_it() -> None:
    async with node(wrap=lambda guard: Moody(guard, times=math.inf)) as this:
        for share_index in (2, 3):
            await tell(this, share_index, attestation(share_index))
        await this.address.ask(SubmitPartials(DUTY, {keys()[0]: attestation(1)}))
        await trio.sleep(0.3)
        assert not this.groups
        began = trio.current_time()
    assert trio.current_time() - began < 1


async def test_one_validator_whose_group_signed_something_slashable_keeps_no_other_from_being_released() -> None:
    async with node(validators=2) as this:
        await this.guard.ask(Guard(entries=(conflicting(keys(0)[0]),)))
        for share_index in (2, 3, 4):
            both = {keys(v)[0]: attestation(share_index, validator=v) for v in (0, 1)}
            this.address.tell(PeerPartials(share_index - 1, encode_partials_message(DUTY, share_index, both)))
            await settle(this)
        await settle(this)
        assert [list(group.signed) for group in this.groups] == [[keys(1)[0]]]
