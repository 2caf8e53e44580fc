"""The beacon actor in front of real HTTP servers: which epoch is justified just now, and blocks that pay somebody else."""

from typing import Any

import pytest
import trio

from actors.beacon import BeaconFault, BeaconUnavailable, ForeignFeeRecipient, JustifiedEpoch, ProduceBlock
from charon_actors.eth2.unsigned_data import Proposal
from tests.actors.beacon.test_beacon_actor import DATA, beacon_of, node
from tests.actors.beacon.upstream import Scripted, Upstream, attestation_data, syncing
from tests.actors.duties.rig import ALICE, FEE_RECIPIENT, RANDAO, block

FINALITY = "/eth/v1/beacon/states/head/finality_checkpoints"
SLOT = 40  # in epoch 5
ASK = JustifiedEpoch(slot=SLOT, at_least=4, within_s=0.5)


def vote_from(source: int) -> Scripted:
    answer = attestation_data(SLOT)
    answer["data"]["source"]["epoch"] = str(source)
    return Scripted(body=answer)


def finality(justified: int) -> Scripted:
    checkpoint = {"epoch": str(justified), "root": "0x" + "22" * 32}
    return Scripted(body={"data": {"previous_justified": checkpoint, "current_justified": checkpoint, "finalized": checkpoint}})


def saying(name: str, vote: int | None, head: int | None, delay_s: float = 0.0) -> Upstream:
    upstream = node(name)
    for path, script in ((DATA, None if vote is None else vote_from(vote)), (FINALITY, None if head is None else finality(head))):
        if script is not None:
            script.delay_s = delay_s
            upstream.answers[path] = script
        else:
            upstream.answers.pop(path, None)
    return upstream


@pytest.mark.parametrize(
    ("vote", "head", "latest"),
    [
        (4, 3, 4),
        (3, 4, 4),  # a client that keeps the slot's first answer, whatever it imports after it
        (3, 2, 3),
        (None, 3, 3),
        (None, 4, 4),
        (4, None, 4),
        (5, 4, 4),  # a vote from its own target is no answer
        (5, None, None),
        (None, None, None),
    ],
)
async def test_the_later_of_two_answers_holds(vote: int | None, head: int | None, latest: int | None) -> None:
    async with beacon_of([saying("bn", vote, head)]) as beacon:
        if latest is None:
            with pytest.raises(BeaconFault):
                await beacon.ask(ASK)
        else:
            assert await beacon.ask(ASK) == latest


async def test_one_node_that_is_ahead_is_enough_and_ends_the_question() -> None:
    behind, slow, ahead = saying("one", 3, 3), saying("two", 3, 3, delay_s=0.4), saying("three", 4, 4)
    async with beacon_of([behind, slow, ahead]) as beacon:
        assert await beacon.ask(ASK) == 4
        await slow.wait_until(lambda: slow.cancelled > 0)


async def test_a_node_that_is_slow_does_not_hide_what_another_says() -> None:
    async with beacon_of([saying("one", 3, 3), saying("two", 4, 4, delay_s=0.9)]) as beacon:
        assert await beacon.ask(ASK) == 3


async def test_syncing_nodes_are_not_asked_and_fallbacks_only_without_an_answer() -> None:
    primary, fallback = saying("one", 3, 3), saying("two", 4, 4)
    async with beacon_of([primary], [fallback]) as beacon:
        assert await beacon.ask(ASK) == 3
        assert not fallback.saw(FINALITY)
    primary = saying("one", 3, 3)
    primary.answers["/eth/v1/node/syncing"] = syncing(True, 10)
    async with beacon_of([primary], [fallback]) as beacon:
        await primary.wait_until(lambda: bool(primary.saw("/eth/v1/node/syncing")))
        await trio.sleep(0.05)
        assert await beacon.ask(ASK) == 4
    async with beacon_of([primary]) as beacon:
        await primary.wait_until(lambda: bool(primary.saw("/eth/v1/node/syncing")))
        await trio.sleep(0.05)
        with pytest.raises(BeaconUnavailable):
            await beacon.ask(ASK)


# whom blocks pay

BLOCKS = f"/eth/v3/validator/blocks/{SLOT}"
PRODUCE = ProduceBlock(SLOT, RANDAO, bytes(32), 0, FEE_RECIPIENT)
FOREIGN = b"\xee" * 20


def making(name: str, made: Proposal | None, delay_s: float = 0.0) -> Upstream:
    upstream = node(name)
    if made is not None:
        headers = {
            "content-type": "application/octet-stream",
            "eth-consensus-version": "fulu",
            "eth-execution-payload-blinded": str(made.blinded).lower(),
        }
        upstream.answers[BLOCKS] = Scripted(body=made.body, headers=headers, delay_s=delay_s)
    return upstream


async def test_a_block_that_pays_somebody_else_loses_against_one_that_does_not() -> None:
    right = block(SLOT, index=ALICE[0])
    async with beacon_of([making("one", block(SLOT, fee_recipient=FOREIGN)), making("two", right, delay_s=0.2)]) as beacon:
        assert await beacon.ask(PRODUCE) == right


@pytest.mark.parametrize("other", [None, block(SLOT, fee_recipient=b"\xef" * 20)])
async def test_the_beacon_node_that_pays_somebody_else_is_named(other: Proposal | None) -> None:
    first, second = making("one", block(SLOT, fee_recipient=FOREIGN)), making("two", other)
    async with beacon_of([first, second]) as beacon:
        with pytest.raises(ForeignFeeRecipient) as caught:
            await beacon.ask(PRODUCE)
        label = first.url.removeprefix("http://")
        assert label in caught.value.text
        assert f"fee recipient is 0x{FOREIGN.hex()} instead of 0x{FEE_RECIPIENT.hex()}" in caught.value.text


@pytest.mark.parametrize(
    ("made", "request_"),
    [
        (block(SLOT, fee_recipient=FOREIGN, blinded=True), PRODUCE),  # a builder's
        (block(SLOT, fee_recipient=FOREIGN), ProduceBlock(SLOT, RANDAO, bytes(32), 0)),  # nobody in particular is to be paid
        (block(SLOT), PRODUCE),
    ],
)
async def test_other_blocks_are_taken_as_before(made: Proposal, request_: Any) -> None:
    async with beacon_of([making("one", made)]) as beacon:
        assert await beacon.ask(request_) == made
