"""The life of each duty, top to bottom in one function. Where it stops is why it failed.

A new duty type is another such function. The steps wait for facts: the beacon node's answer, the decision of
consensus, the signatures of a threshold; the deadline of the duty is the cancel scope around them.

Consensus is joined before our own value is there (05 §6 "participate"): a peer that leads may propose while our beacon node is
slow, and its decision is served all the same. What fails for a moment only, also on the way to consensus, is tried again.

What was decided may come from a lying leader. It is served only if it passes, else nothing is; who proposed it is in the timeline:

    both          fits the duty (`unsigned_data.py`)
    attestation   its source is justified for our own beacon nodes (`sources.py`)
    block         its randao reveal is the group's signature, which there is only one of
    block         unless blinded, it pays the cluster's fee recipient of that validator. Not looked at: a chain of made-up blocks, a lock
                  without address, and with `allow_foreign_fee_recipient`

We don't offer a block that pays somebody else either: the beacon node is told the recipient once more, for it may have been started
since the epoch began, and asked again, once.

Refused is after the decision, not before our PREPARE: a liar that leads can always ruin its duty unnoticed, by a head or a payload that
is none, so that nothing is won; and no value is decoded before it is decided.

Source: specification 05-core-workflow §3 and §6; architecture §3.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import msgspec
import structlog
import trio

from actors.beacon import (
    BeaconFault,
    FetchAttestationData,
    ForeignFeeRecipient,
    PrepareProposers,
    ProduceBlock,
    ProposerDefinition,
    SubmitAttestations,
    SubmitProposal,
)
from actors.beacon import Message as BeaconMessage
from actors.consensus import Agree, Agreed, ProposeValue
from actors.consensus import Message as ConsensusMessage
from actors.duties.messages import BlockFetched
from actors.duties.sources import Sources
from actors.mailbox import Address
from actors.off_loop import OffLoop, json_ms
from actors.signatures import AwaitGroupSignature, DutyExpired
from actors.signatures import Message as SignaturesMessage
from charon_actors.crypto import Check
from charon_actors.errors import Retryable
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signed_data import SignedData, SignedProposal, SignedRandao, VersionedAttestation
from charon_actors.eth2.unsigned_data import (
    AttestationUnsigned,
    AttesterDefinition,
    Proposal,
    WrongValue,
    check_proposal,
    decided_attestations,
    decided_proposal,
    encode_unsigned,
    foreign_text,
    pays,
)
from charon_actors.eth2.versioned import looks_like_json

log = structlog.get_logger(topic="fetcher")

RETRY_FIRST_S: Final = 0.25  # 05 §15
RETRY_FACTOR: Final = 1.6
RETRY_MAX_S: Final = 12.0
SSZ_BYTES_A_MS: Final = 500_000  # checked, with all copies
MAX_STEPS: Final = 64
MAX_FAULTS: Final = 8

T = TypeVar("T")


class DutyContext(msgspec.Struct, frozen=True):
    """What a story may touch.

    put_attestations, put_proposal: serve what was decided. fee_recipients: as of Settings. paid: whom blocks of a validator must pay,
    20 bytes by group public key; a validator that is missing may pay anybody. verify_all: whether each signature is valid, off the
    event loop. off_loop: reads what was decided.
    """

    chain: Chain
    beacon: Address[BeaconMessage]
    consensus: Address[ConsensusMessage]
    signatures: Address[SignaturesMessage]
    put_attestations: Callable[[int, Iterable[AttestationUnsigned]], None]
    put_proposal: Callable[[int, Proposal], None]
    graffiti: Callable[[bytes], bytes]
    builder_boost: int
    fee_recipients: Mapping[bytes, str]
    paid: Mapping[bytes, bytes]
    sources: Sources
    verify_all: Callable[[Sequence[Check]], Awaitable[Sequence[bool]]]
    on_block: Callable[[BlockFetched], None]
    off_loop: OffLoop


Groups = trio.MemoryReceiveChannel[Mapping[bytes, SignedData]]


class Timeline:
    """Where a duty is, and what went wrong on the way: its failure reason is where it stopped.

    at: the current step. faults: what was tried in vain, bounded, in order. agreed: what was decided. clock: Unix seconds.
    """

    def __init__(self, duty: Duty, clock: Callable[[], float]) -> None:
        self.duty, self._clock = duty, clock
        self.at = "start"
        self.steps: list[tuple[str, float]] = []
        self.faults: list[str] = []
        self.agreed: Agreed | None = None

    def step(self, name: str) -> None:
        if self.at != "done" and len(self.steps) < MAX_STEPS:
            self.at = name
            self.steps.append((name, self._clock()))

    def since(self, unix_s: float) -> dict[str, int]:
        """Milliseconds from `unix_s` to the first entry into each step."""
        return {name: round((when - unix_s) * 1000) for name, when in reversed(self.steps)}

    def fault(self, error: BaseException) -> None:
        text = f"{self.at}: {str(error) or type(error).__name__}"
        if text not in self.faults and len(self.faults) < MAX_FAULTS:
            self.faults.append(text)


async def attest(definitions: Mapping[bytes, AttesterDefinition], on: DutyContext, timeline: Timeline) -> None:
    """Agree on what the validators of `definitions` (by group public key) attest, and serve it."""
    decided = await agree(lambda: fetch_attestations(definitions, on, timeline), on, timeline)
    read = partial(on.off_loop, reading_ms(decided), _read_attestations, (decided, timeline.duty, definitions, on.chain))
    values = await until_done(read, timeline)
    await on.sources.confirm(timeline.duty.slot, max(value.data.source_epoch for value in values))
    timeline.step("serve")
    if missing := definitions.keys() - {value.duty.pubkey for value in values}:
        timeline.fault(WrongValue(f"nothing was decided for {len(missing)} of our validators"))
    on.put_attestations(timeline.duty.slot, values)


async def propose(proposer: ProposerDefinition, on: DutyContext, timeline: Timeline) -> None:
    """Agree on the block of the validator `proposer`, and serve it."""
    decided = await agree(lambda: fetch_block(proposer, on, timeline), on, timeline)
    of = (decided, timeline.duty, proposer.pubkey, proposer.validator_index, on.chain)
    proposal = await until_done(partial(on.off_loop, reading_ms(decided), _read_proposal, of), timeline)
    due = on.paid.get(proposer.pubkey)
    if due is not None and not pays(proposal, due):
        raise WrongValue(foreign_text(proposal, due))
    await until_done(lambda: check_randao(proposal, proposer.pubkey, on), timeline)
    timeline.step("serve")
    on.put_proposal(timeline.duty.slot, proposal)


def reading_ms(decided: Mapping[str, bytes]) -> float:
    """What it costs to read what was decided; a lying leader's may be as long as consensus lets it be."""
    return sum(json_ms(each) if looks_like_json(each) else 0.015 + len(each) / SSZ_BYTES_A_MS for each in decided.values())


def _read_attestations(
    of: tuple[Mapping[str, bytes], Duty, Mapping[bytes, AttesterDefinition], Chain],
) -> list[AttestationUnsigned]:
    return decided_attestations(*of)


def _read_proposal(of: tuple[Mapping[str, bytes], Duty, bytes, int, Chain]) -> Proposal:
    return decided_proposal(*of)


async def agree(fetch: Callable[[], Awaitable[dict[str, bytes]]], on: DutyContext, timeline: Timeline) -> dict[str, bytes]:
    """What the cluster decides. Our own value goes in as soon as `fetch` has it; a failed fetch is a peer's chance to lead."""
    duty = timeline.duty

    async def offer() -> None:
        try:
            value = await until_done(fetch, timeline)
        except (BeaconFault, DutyExpired, WrongValue) as fault:
            timeline.fault(fault)
            return

        async def tell() -> None:
            on.consensus.tell(ProposeValue(duty=duty, value=value))

        timeline.step("agree")
        await until_done(tell, timeline)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(offer)
        agreed = timeline.agreed = await until_done(lambda: on.consensus.ask(Agree(duty=duty)), timeline)
        nursery.cancel_scope.cancel()
    return agreed.unsigned_data


async def check_randao(proposal: Proposal, pubkey: bytes, on: DutyContext) -> None:
    """The reveal is the signature of that group public key (48 bytes) over the epoch. Raises: WrongValue; Retryable."""
    randao = SignedRandao(on.chain.epoch_of(proposal.slot), proposal.randao_reveal)
    [is_valid] = await on.verify_all([Check(pubkey, randao.signing_root(on.chain), randao.signature)])
    if not is_valid:
        raise WrongValue("the block's randao reveal is not the group's")


async def fetch_attestations(
    definitions: Mapping[bytes, AttesterDefinition], on: DutyContext, timeline: Timeline
) -> dict[str, bytes]:
    """Attestation data for each validator. From Electra on one request serves all committees (05 §6, `fetch_only_commidx_0`)."""
    timeline.step("fetch")
    slot = timeline.duty.slot
    is_electra = on.chain.fork_at(on.chain.epoch_of(slot)) >= Fork.ELECTRA
    committees = {0} if is_electra else {definition.committee_index for definition in definitions.values()}
    fetched = {index: await on.beacon.ask(FetchAttestationData(slot=slot, committee_index=index)) for index in sorted(committees)}
    on.sources.heard(slot, max(data.source_epoch for data in fetched.values()))
    return {
        "0x" + pubkey.hex(): encode_unsigned(
            AttestationUnsigned(data=fetched[0 if is_electra else definition.committee_index], duty=definition)
        )
        for pubkey, definition in definitions.items()
    }


async def fetch_block(proposer: ProposerDefinition, on: DutyContext, timeline: Timeline) -> dict[str, bytes]:
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
    on.on_block(BlockFetched(is_blinded=False, fee_recipient_matches=False))


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
    on.on_block(BlockFetched(proposal.blinded, matches))


async def submit(
    groups: Groups,
    expected: int,
    on: DutyContext,
    timeline: Timeline,
    succeeded: Callable[[int], None],
    completed: Callable[[], None],
) -> None:
    """Hand over to the beacon node what thresholds have signed, batch by batch, until no more can come.

    completed: called when nothing more is expected, and again with whatever comes all the same.

    Only with the first batch the story's step becomes `submit`; until then it stays where agreement is. A batch that the beacon
    node refuses for good is a fault of its validators alone; a validator counts once, however often it comes.
    """
    accepted: set[bytes] = set()
    refused: set[bytes] = set()
    async for signed in groups:
        timeline.step("submit")
        try:
            await until_done(partial(broadcast, timeline.duty, signed, on), timeline)
        except BeaconFault as fault:
            timeline.fault(fault)
            refused |= signed.keys()
        else:
            succeeded(len(signed.keys() - accepted))
            accepted |= signed.keys()
            timeline.step("done" if len(accepted) >= expected else "submit" if refused else "collect")
        if len(accepted | refused) >= expected:
            completed()


async def broadcast(duty: Duty, signed: Mapping[bytes, SignedData], on: DutyContext) -> None:
    """Submit group-signed objects of one duty. Raises: BeaconFault, Retryable."""
    match duty.type:
        case DutyType.ATTESTER:
            by_fork: dict[Fork, list[VersionedAttestation]] = {}
            for attestation in signed.values():
                assert isinstance(attestation, VersionedAttestation), "the signatures actor has checked the type"
                by_fork.setdefault(attestation.fork, []).append(attestation)
            for fork, attestations in by_fork.items():
                await on.beacon.ask(SubmitAttestations(fork=fork, attestations=tuple(attestations)))
        case DutyType.PROPOSER:
            for proposal in signed.values():
                assert isinstance(proposal, SignedProposal), "the signatures actor has checked the type"
                await on.beacon.ask(SubmitProposal(proposal))
        case _:
            pass  # a randao is for ourselves


async def until_done(attempt: Callable[[], Awaitable[T]], timeline: Timeline) -> T:
    """Try again after errors of the moment, until the caller's deadline. Raises: BeaconFault that repeating can't mend."""
    delay_s = RETRY_FIRST_S
    while True:
        try:
            return await attempt()
        except Retryable as moment:
            timeline.fault(moment)
        await trio.sleep(delay_s)
        delay_s = min(delay_s * RETRY_FACTOR, RETRY_MAX_S)
