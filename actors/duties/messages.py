"""What the duties actor accepts and emits. Source: specification 05 §5 to §8, 07 §5."""

import msgspec

from actors.facts import Fact
from actors.mailbox import Request
from actors.signatures import GroupSigned
from charon_actors.errors import Retryable
from charon_actors.eth2.duty import Duty
from charon_actors.eth2.unsigned_data import AttestationData, AttesterDefinition, Proposal


class NoDuty(Exception):
    """The cluster's validators have nothing to do there; asking again changes nothing."""


class NotReady(Retryable):
    """The duties of that epoch are not known yet."""


class UnknownValidator(Exception):
    """No validator of the cluster has that duty."""


class AwaitAttestationData(Request[AttestationData], frozen=True):
    """The attestation data that the cluster agreed on for a committee.

    Raises: NoDuty (no validator of ours attests in that slot, as soon as the epoch's duties are known; or the duty is over),
    ActorDown. Waits without a limit of its own until consensus decides; cancellation leaves nothing behind.
    """

    slot: int
    committee_index: int


class AwaitProposal(Request[Proposal], frozen=True):
    """The block that the cluster agreed on. Raises and waits as AwaitAttestationData."""

    slot: int


class ProposalsInHand(Request[tuple[Proposal, ...]], frozen=True):
    """The blocks that the cluster agreed on and that may still be signed; none of them while the first one is still being agreed on.

    Raises: NoDuty (no validator of ours proposes in this slot or those beside it), NotReady. Waits as ProposerOf.
    """


class ProposerOf(Request[bytes], frozen=True):
    """The group public key (48 bytes) that proposes in that slot. Raises: NoDuty, NotReady.

    While the epoch's duties are just being read, the answer waits for them, up to a third of a slot; cancellation leaves nothing behind.
    """

    slot: int


class PubkeyOfAttester(Request[bytes], frozen=True):
    """The group public key (48 bytes) of the validator that attests there. committee_index: its own, or 0.

    Raises: UnknownValidator, NotReady. Waits as ProposerOf.
    """

    slot: int
    committee_index: int
    validator_index: int


class AttesterAt(Request[AttesterDefinition], frozen=True):
    """Who attests at that position of a committee (before Electra, attestations name nobody). Raises and waits as PubkeyOfAttester."""

    slot: int
    committee_index: int
    position: int


class GroupArrived(msgspec.Struct, frozen=True):
    """A threshold has signed: broadcast it."""

    group: GroupSigned


class ChainReorganised(msgspec.Struct, frozen=True):
    """The chain was reorganised back into `epoch`: duties of later epochs may have changed."""

    epoch: int


class BlockFetched(Fact, frozen=True):
    """Our beacon node has made a block.

    fee_recipient_matches: whether it is the configured one; None if the block is blinded or from before Bellatrix, or none is configured.
    """

    is_blinded: bool
    fee_recipient_matches: bool | None


class DecisionRefused(msgspec.Struct, frozen=True):
    """What the cluster decided was not served: it contradicts the duty, or what we know. proposer_index: as of Agreed."""

    duty: Duty
    proposer_index: int | None


class DutyEnded(msgspec.Struct, frozen=True):
    """One duty's story is over, for tracker, metrics and reports.

    step: the last step it was in, one of fetch, agree, serve, collect, submit, done. latency_s: from the duty's start to the
    accepted submission, None if there was none. expected, succeeded: validators. reason: of the failure, for the operator.
    """

    duty: Duty
    step: str
    expected: int
    succeeded: int
    latency_s: float | None
    reason: str | None


Message = (
    AwaitAttestationData
    | AwaitProposal
    | ProposalsInHand
    | ProposerOf
    | PubkeyOfAttester
    | AttesterAt
    | GroupArrived
    | ChainReorganised
)
