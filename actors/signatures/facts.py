"""What the signatures actor says about its work."""

from actors.facts import Fact
from charon_actors.eth2.duty import Duty, DutyType


class PartialsStored(Fact, frozen=True):
    """A share's partial signatures of a duty are in, or came when they were needed no more. share_index: from 1."""

    duty: Duty
    share_index: int
    validators: int


class PartialsVerified(Fact, frozen=True):
    """A set of a peer went through verification."""

    kind: DutyType
    seconds: float
