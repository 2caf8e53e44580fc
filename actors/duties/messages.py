"""What the duties actor accepts, but for what each kind of duty is asked (`kinds/`). Source: specification 05 §5 to §8, 07 §5."""

from typing import Any, ClassVar, TypeVar

import msgspec

from actors.mailbox import Request
from actors.signatures import GroupSigned
from charon_actors.errors import Retryable
from charon_actors.eth2.duty import DutyType

R = TypeVar("R")


class NoDuty(Exception):
    """The cluster's validators have nothing to do there; asking again changes nothing."""


class NotReady(Retryable):
    """The duties of that epoch are not known yet."""


class UnknownValidator(Exception):
    """No validator of the cluster has that duty."""


class AwaitDecided(Request[R], frozen=True):
    """What the cluster agreed on for a duty of `kind` in that slot.

    Raises: NoDuty (no validator of ours has that duty in the slot, as soon as the epoch's duties are known; or the duty is over),
    ActorDown. Waits without a limit of its own until consensus decides; cancellation leaves nothing behind.
    """

    kind: ClassVar[DutyType]
    slot: int

    @property
    def key(self) -> int:
        """Which of the values that were decided for the duty; 0 where there is only one."""
        return 0


class LookUp(Request[R], frozen=True):
    """A question about who has which duty of `kind`.

    Raises: what the subclass says, NotReady. While the epoch's duties are just being read for the first time, the answer waits for them, up
    to a third of a slot; cancellation leaves nothing behind.
    """

    kind: ClassVar[DutyType]


class LookUpSlot(LookUp[R], frozen=True):
    """About one slot."""

    slot: int


class GroupArrived(msgspec.Struct, frozen=True):
    """A threshold has signed: broadcast it."""

    group: GroupSigned


class ChainReorganised(msgspec.Struct, frozen=True):
    """The chain was reorganised back into `epoch`: duties of later epochs may have changed."""

    epoch: int


Message = AwaitDecided[Any] | LookUp[Any] | GroupArrived | ChainReorganised
