"""What one may say to the consensus actor, and how it fails."""

from typing import Protocol

import msgspec

from actors.mailbox import Request
from charon_actors.eth2.duty import Duty


class DeadlinePassed(Exception):
    """The duty is over and the cluster has not decided on it, as far as we have heard."""


class UnsupportedDuty(Exception):
    """The duties of this type don't go through consensus here."""


class Agreed(msgspec.Struct, frozen=True):
    """What the cluster has decided. unsigned_data: "0x" and 96 hex digits of the group public key to its encoding (05 §10.1).

    round: in which it was decided. proposer_index: peer index of whoever proposed the value first, which may have been in an earlier
    round; None if nothing that we have seen proves it.
    """

    unsigned_data: dict[str, bytes]
    round: int
    proposer_index: int | None


class Agree(Request[Agreed], frozen=True):
    """Take part in the consensus on `duty` and wait for what the cluster decides.

    The first one starts the instance (aggregators and sync contributions wait for a message or our own value: often there is
    nothing to do). Any number of askers may wait for a duty. A duty that began before this incarnation of the actor is only
    listened to: the answer still comes if the peers' COMMITs do (06 §10).
    Reply: use exactly this set, whatever we proposed.
    Raises: DeadlinePassed; UnsupportedDuty; ActorDown, ask again; MailboxFull.
    Cancellation: at any time; the instance goes on, for the peers count on us.
    Source: specification 06 §8 (participate).
    """

    duty: Duty


class ProposeValue(msgspec.Struct, frozen=True):
    """Our own value for `duty`; starts the instance. value: as `unsigned_data` of Agreed. Only the first one counts. Source: 06 §8."""

    duty: Duty
    value: dict[str, bytes]


class QbftReceived(msgspec.Struct, frozen=True):
    """A QBFTConsensusMsg came from a peer, unchecked. peer_index: whose connection it came over, for fairness only."""

    peer_index: int
    message: bytes


Message = Agree | ProposeValue | QbftReceived


class Broadcaster(Protocol):
    """What the actor needs of the mesh."""

    def broadcast(self, protocols: tuple[str, ...], message: bytes) -> None:
        """Send to all other peers; returns at once."""
