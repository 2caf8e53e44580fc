"""Blocks: the proposal of a validator, now and then.

The group's randao reveal goes into the block, so a threshold of validator clients must have asked for the block before it is fetched. The
reveal is a duty of its own (RANDAO), whose signature our own node takes.

We don't offer a block that pays somebody else than the lock says: the beacon node is told the recipient once more, for it may have been
started since the epoch began, and asked again, once.

Source: specification 05 §3, §6, §7; 07 §5.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar, Final

from actors.beacon import ForeignFeeRecipient, PrepareProposers, ProduceBlock, ProposerDefinition, ProposerDuties, SubmitProposal
from actors.beacon import Message as BeaconMessage
from actors.duties.decided import ClashingValue
from actors.duties.facts import BlockFetched
from actors.duties.kinds.kind import DutyKind, Known
from actors.duties.messages import AwaitDecided, LookUp, LookUpSlot, NoDuty
from actors.duties.story import DutyContext, Timeline, agree, reading_ms, until_done
from actors.log import get_logger
from actors.mailbox import Address
from actors.signatures import AwaitGroupSignature
from charon_actors.crypto import Check
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.signed_data import SignedData, SignedProposal, SignedRandao
from charon_actors.eth2.unsigned_data import (
    Proposal,
    WrongValue,
    check_proposal,
    decided_proposal,
    encode_unsigned,
    foreign_text,
    pays,
    same_message,
)

log = get_logger("fetcher")


class AwaitProposal(AwaitDecided[Proposal], frozen=True):
    """The block that the cluster agreed on."""

    kind: ClassVar[DutyType] = DutyType.PROPOSER


class ProposalsInHand(LookUp[tuple[Proposal, ...]], frozen=True):
    """The blocks that the cluster agreed on and that may still be signed; none of them while the first one is still being agreed on.

    Raises: NoDuty (no validator of ours proposes in this slot or those beside it).
    """

    kind: ClassVar[DutyType] = DutyType.PROPOSER


class ProposerOf(LookUpSlot[bytes], frozen=True):
    """The group public key (48 bytes) that proposes in that slot. Raises: NoDuty."""

    kind: ClassVar[DutyType] = DutyType.PROPOSER


async def define(beacon: Address[BeaconMessage], epoch: int, active: Mapping[int, bytes]) -> Sequence[ProposerDefinition]:
    return (await beacon.ask(ProposerDuties(epoch=epoch))).duties


async def propose(definitions: Mapping[bytes, ProposerDefinition], on: DutyContext, timeline: Timeline) -> None:
    """Agree on the block of the slot's one proposer, and serve it."""
    [proposer] = definitions.values()
    decided = await agree(lambda: fetch(proposer, on, timeline), on, timeline)
    of = (decided, timeline.duty, proposer.pubkey, proposer.validator_index, on.chain)
    proposal = await until_done(partial(on.off_loop, reading_ms(decided), _read, of), timeline)
    due = on.paid.get(proposer.pubkey)
    if due is not None and not pays(proposal, due):
        raise WrongValue(foreign_text(proposal, due))
    await until_done(lambda: check_randao(proposal, proposer.pubkey, on), timeline)
    timeline.step("serve")
    on.serve(timeline.duty, partial(only, proposal))


def _read(of: tuple[Mapping[str, bytes], Duty, bytes, int, Chain]) -> Proposal:
    return decided_proposal(*of)


def only(proposal: Proposal, stored: Mapping[int, Proposal]) -> dict[int, Proposal]:
    """What is served. Raises: ClashingValue."""
    first = stored.get(0, proposal)
    if not same_message(first, proposal):
        raise ClashingValue(f"slot {proposal.slot}: two proposals were decided")
    return {0: first}


async def check_randao(proposal: Proposal, pubkey: bytes, on: DutyContext) -> None:
    """The reveal is the signature of that group public key (48 bytes) over the epoch. Raises: WrongValue; Retryable."""
    randao = SignedRandao(on.chain.epoch_of(proposal.slot), proposal.randao_reveal)
    [is_valid] = await on.verify_all([Check(pubkey, randao.signing_root(on.chain), randao.signature)])
    if not is_valid:
        raise WrongValue("the block's randao reveal is not the group's")


async def fetch(proposer: ProposerDefinition, on: DutyContext, timeline: Timeline) -> dict[str, bytes]:
    """An unsigned block with the group's randao, once a threshold of validator clients has asked for the block."""
    slot, pubkey = timeline.duty.slot, proposer.pubkey
    timeline.step("randao")
    randao = await on.signatures.ask(AwaitGroupSignature(duty=Duty(slot, DutyType.RANDAO), pubkey=pubkey))
    assert isinstance(randao, SignedRandao), "the signatures actor has checked the type"
    timeline.step("fetch")
    request = ProduceBlock(
        slot=slot,
        randao=randao.signature,
        graffiti=on.graffiti(pubkey),
        builder_boost=on.builder_boost,
        fee_recipient=on.paid.get(pubkey, b""),
    )
    try:
        proposal = await on.beacon.ask(request)
    except ForeignFeeRecipient as fault:
        warn_of_foreign_fee_recipient(slot, fault, on)
        await on.beacon.ask(PrepareProposers(preparations=((proposer.validator_index, on.fee_recipients[pubkey]),)))
        try:
            proposal = await on.beacon.ask(request)
        except ForeignFeeRecipient as again:
            warn_of_foreign_fee_recipient(slot, again, on)
            raise
    check_proposal(proposal, timeline.duty, proposer.validator_index, on.chain)
    compare_fee_recipient(proposal, on.fee_recipients.get(pubkey, ""), on)
    return {"0x" + pubkey.hex(): encode_unsigned(proposal)}


def warn_of_foreign_fee_recipient(slot: int, fault: ForeignFeeRecipient, on: DutyContext) -> None:
    """The text names the beacon nodes and their recipients."""
    log.warning(
        "A beacon node pays the fees of our block to somebody else: it is not proposed",
        slot=slot,
        reason=fault.text,
        hint="make its fee recipient the cluster's; see --allow-foreign-fee-recipient",
    )
    on.on_fact(BlockFetched(is_blinded=False, fee_recipient_matches=False))


def compare_fee_recipient(proposal: Proposal, configured: str, on: DutyContext) -> None:
    """Warn when a block of our beacon node pays somebody else (05 §6). A builder's block pays the builder."""
    matches = None
    if not proposal.blinded and configured and (recipient := proposal.fee_recipient) is not None:
        paid = "0x" + recipient.hex()
        matches = paid == configured.lower()
        if not matches:
            log.warning(
                "The block's fee recipient is not the configured one",
                slot=proposal.slot,
                fee_recipient=paid,
                configured=configured,
            )
    on.on_fact(BlockFetched(proposal.blinded, matches))


async def submit(signed: Mapping[bytes, SignedData], on: DutyContext) -> None:
    for proposal in signed.values():
        assert isinstance(proposal, SignedProposal), "the signatures actor has checked the type"
        await on.beacon.ask(SubmitProposal(proposal))


def _proposer_of(asked: ProposerOf, known: Known) -> bytes:
    for pubkey in known.definitions(asked.kind, asked.slot):
        return pubkey
    raise NoDuty(f"no validator of the cluster proposes in slot {asked.slot}")


def _in_hand(asked: ProposalsInHand, known: Known) -> tuple[Proposal, ...]:
    now = known.slot_now()
    slots = [slot for slot in (now - 1, now, now + 1) if slot >= 0 and not known.is_over(Duty(slot, asked.kind))]
    found = tuple(proposal for slot in slots for proposal in known.decided(asked.kind, slot).values())
    if not found and not any(known.may_have(asked.kind, slot) for slot in slots):
        known.definitions(asked.kind, now)
        raise NoDuty("no validator of the cluster proposes now")
    return found


PROPOSER: Final = DutyKind(
    DutyType.PROPOSER,
    does="proposes",
    called="the proposal",
    named="proposals",
    summary=sorted,
    define=define,
    story=propose,
    submit=submit,
    look_ups={ProposerOf: _proposer_of, ProposalsInHand: _in_hand},
)
