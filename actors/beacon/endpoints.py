"""Endpoints: what is asked of beacon nodes, one row each; the decoders are on the ground floor.

    Read        a question, answered by the first good node
    Submission  sent to every node
    DutiesRow   a question about an epoch, whose answer is kept (`duties.py`)

A new endpoint is a message in `messages.py`, its call and decoder in `charon_actors/eth2/beacon_api.py`, and a row. What needs more than a
row has a room of its own: validators, sync status, justified epochs, the chain's parameters, events and what is passed on.

Source: specification 08 §2 to §5, §13.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

import msgspec

from actors.beacon import messages
from actors.beacon.calls import list_ms
from actors.beacon.messages import BeaconFault
from actors.log import get_logger
from actors.off_loop import JSON_BYTES_A_MS, OffLoop, json_ms
from charon_actors.beacon.blocks import decode_wanted_proposal, json_of_signed
from charon_actors.eth2 import beacon_api as api
from charon_actors.eth2.beacon_api import Answer, Call, DutyList
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.signed_data import EncodingFault
from charon_actors.eth2.unsigned_data import AttestationData, Proposal, foreign_text, pays

log = get_logger("beacon")

Q = TypeVar("Q")
R = TypeVar("R")

BLOCK_TIMEOUT_S: Final = 4.0  # blocks may take longer than the flags say (08 §13); a proposal is late after 5 s anyway
SSZ_BYTES_A_MS: Final = 1_000_000  # checked


@dataclass(frozen=True)
class Read(Generic[Q, R]):
    """call: what is sent. decoder(request, chain): reads the answer, raises AnswerFault; where `expected_ms` is long it runs in another
    process, so it can be pickled. at_least_s: the time limit, where the flag's is shorter. foreign: why a good answer isn't taken; if no
    node has a better one the fault is a ForeignFeeRecipient."""

    call: Callable[[Q], Call]
    decoder: Callable[[Q, Callable[[], Chain]], Callable[[Answer], R]]
    needs_synced: bool = False
    at_least_s: float = 0.0
    expected_ms: Callable[[Answer], float] = list_ms
    foreign: Callable[[R, Q], str | None] = lambda result, request: None


class Sending(msgspec.Struct, frozen=True):
    """call: to every node. instead: for nodes that answer 415 Unsupported Media Type."""

    call: Call
    instead: Callable[[], Awaitable[Call]] | None = None


@dataclass(frozen=True)
class Submission(Generic[Q]):
    """sending(request, chain, off_loop): None if there is nothing to send. Raises: BeaconFault. at_least_s: as of Read."""

    sending: Callable[[Q, Callable[[], Chain], OffLoop], Awaitable[Sending | None]]
    at_least_s: float = 0.0


@dataclass(frozen=True)
class DutiesRow:
    """name: of the cache. spoken: in faults. metric: of the cache's numbers. lookahead: as of DutiesCache. follows_head: whether a new
    head may change the answer. needs_synced: as of Read."""

    name: str
    spoken: str
    metric: str
    lookahead: int
    call: Callable[[int, Sequence[int]], Call]
    decode: Callable[[Answer, int, Chain], DutyList]
    follows_head: bool = True
    needs_synced: bool = False


# duties

ATTESTER_DUTIES: Final = DutiesRow(
    "attester",
    "attester",
    "attester_duties",
    1,
    api.attester_duties,
    lambda answer, epoch, chain: api.decode_attester_duties(answer.body, epoch, chain.slots_per_epoch),
    needs_synced=True,
)
SYNC_DUTIES: Final = DutiesRow(
    "sync",
    "sync",
    "sync_committee_duties",
    0,
    api.sync_duties,
    lambda answer, epoch, chain: api.decode_sync_duties(answer.body),
    follows_head=False,
)


def _proposer_duties(version: int, lookahead: int) -> DutiesRow:
    return DutiesRow(
        f"proposer v{version}",
        "proposer",
        "proposer_duties",
        lookahead,
        lambda epoch, indices: api.proposer_duties(epoch, version),
        lambda answer, epoch, chain: api.decode_proposer_duties(answer.body, epoch, chain.slots_per_epoch),
    )


PROPOSER_DUTIES: Final = {1: _proposer_duties(1, 0), 2: _proposer_duties(2, 1)}


# submissions that are more than a call


async def _attestations(request: messages.SubmitAttestations, chain: Callable[[], Chain], off_loop: OffLoop) -> Sending:
    objects = []
    for attestation in request.attestations:
        try:
            objects.append(attestation.to_json())
        except EncodingFault as fault:
            log.warning("Attestation left out", fork=request.fork.label, error=str(fault))
    if not objects:
        raise BeaconFault(None, "none of the attestations has a place in a committee")
    return Sending(api.submit_attestations(request.fork.label, objects))


async def _proposal(request: messages.SubmitProposal, chain: Callable[[], Chain], off_loop: OffLoop) -> Sending:
    proposal, preset, label = request.proposal, chain().preset, request.proposal.fork.label

    async def as_json() -> msgspec.Raw:
        expected_ms = 2 * len(proposal.body) / JSON_BYTES_A_MS
        return msgspec.Raw(await off_loop(expected_ms, json_of_signed, (proposal, preset)))

    async def json_call() -> Call:
        return api.submit_block_json(label, await as_json())

    if proposal.blinded:
        return Sending(api.submit_blinded_block(label, await as_json()))
    return Sending(api.submit_block(label, proposal.body), json_call)


async def _preparations(request: messages.PrepareProposers, chain: Callable[[], Chain], off_loop: OffLoop) -> Sending | None:
    return Sending(api.prepare_proposers(request.preparations)) if request.preparations else None


async def _registrations(request: messages.RegisterValidators, chain: Callable[[], Chain], off_loop: OffLoop) -> Sending | None:
    return Sending(api.register_validators(request.registrations)) if request.registrations else None


def _attestation_data(request: messages.FetchAttestationData, chain: Chain, answer: Answer) -> AttestationData:
    return api.decode_attestation_data(answer.body, request.slot, request.committee_index, chain)


def _foreign(proposal: Proposal, request: messages.ProduceBlock) -> str | None:
    if request.fee_recipient and not pays(proposal, request.fee_recipient):
        return foreign_text(proposal, request.fee_recipient)
    return None


READS: Final[Mapping[type[Any], Read[Any, Any]]] = {
    messages.FetchAttestationData: Read[messages.FetchAttestationData, AttestationData](
        lambda request: api.attestation_data(request.slot, request.committee_index),
        lambda request, chain: partial(_attestation_data, request, chain()),
        needs_synced=True,
    ),
    messages.ProduceBlock: Read[messages.ProduceBlock, Proposal](
        lambda request: api.produce_block(request.slot, request.randao, request.graffiti, request.builder_boost),
        lambda request, chain: partial(decode_wanted_proposal, chain=chain(), slot=request.slot, randao=request.randao),
        needs_synced=True,
        at_least_s=BLOCK_TIMEOUT_S,
        expected_ms=lambda answer: len(answer.body) / SSZ_BYTES_A_MS if answer.is_ssz else json_ms(answer.body),
        foreign=_foreign,
    ),
    messages.NodeVersion: Read[messages.NodeVersion, str](
        lambda request: api.NODE_VERSION,
        lambda request, chain: lambda answer: api.decode_node_version(answer.body),
    ),
}

SUBMISSIONS: Final[Mapping[type[Any], Submission[Any]]] = {
    messages.SubmitAttestations: Submission(_attestations),
    messages.SubmitProposal: Submission(_proposal, at_least_s=BLOCK_TIMEOUT_S),
    messages.PrepareProposers: Submission(_preparations),
    messages.RegisterValidators: Submission(_registrations),
}
