"""What the duties actor says about its work."""

from actors.facts import Fact
from charon_actors.eth2.duty import Duty


class SlotStarted(Fact, frozen=True):
    """The slot clock has reached a slot. active_validators: of the cluster, as last read."""

    slot: int
    epoch: int
    active_validators: int


class BlockFetched(Fact, frozen=True):
    """Our beacon node has made a block.

    fee_recipient_matches: whether it is the configured one; None if the block is blinded or from before Bellatrix, or none is configured.
    """

    is_blinded: bool
    fee_recipient_matches: bool | None


class DecisionRefused(Fact, frozen=True):
    """What the cluster decided was not served: it contradicts the duty, or what we know. proposer_index: as of Agreed."""

    duty: Duty
    proposer_index: int | None


class DutyEnded(Fact, frozen=True):
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
