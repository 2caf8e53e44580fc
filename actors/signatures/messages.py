"""What the signatures actor is told and asked, what it answers, and what it must know. Its contract stands in `actor.py`."""

from collections.abc import Mapping
from typing import Final

import msgspec

from actors.mailbox import Reply, Request
from actors.slashing import SlashableFault
from charon_actors.errors import Retryable
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty
from charon_actors.eth2.signed_data import SignedData
from charon_actors.profile import Profile
from charon_actors.signatures.partial import Partial


class SubmitPartials(Request[None], frozen=True):
    """Our validator client signed: verify, record, store, and pass on to the peers.

    partials: by group public key (48 bytes). Returns when everything is stored and queued for the peers.
    Raises: InvalidPartial (nothing of the request was stored), SlashableFault (likewise), DutyExpired, MailboxFull, ActorDown.
    Cancellation: nothing was stored, or all of it.
    """

    duty: Duty
    partials: Mapping[bytes, SignedData]


class PeerPartials(msgspec.Struct, frozen=True):
    """A peer's ParSigExMsg as it came off the wire."""

    peer_index: int
    message: bytes


class AwaitGroupSignature(Request[SignedData], frozen=True):
    """The group's signature of a duty; answered as soon as `threshold` shares have signed the same root.

    pubkey: group public key, 48 bytes. Reply: the signed object, its signature verified against the group public key.
    Raises: DutyExpired at the duty's deadline; ActorDown, ask again; MailboxFull.
    Cancellation: at any time; the partial signatures stay, others may be waiting for them.
    """

    duty: Duty
    pubkey: bytes


class GroupSigned(msgspec.Struct, frozen=True):
    """What a threshold has signed, ready for the beacon node. signed: by group public key (48 bytes)."""

    duty: Duty
    signed: Mapping[bytes, SignedData]


class InvalidPartial(Exception):
    """A partial signature that this node doesn't accept. pubkey: the group public key (48 bytes) it was submitted for."""

    def __init__(self, pubkey: bytes, reason: str) -> None:
        super().__init__(f"validator 0x{pubkey.hex()}: {reason}")
        self.pubkey, self.reason = pubkey, reason


class DutyExpired(Exception):
    """The duty's deadline has passed."""


REFUSALS: Final = (InvalidPartial, SlashableFault, DutyExpired, Retryable)
Message = SubmitPartials | PeerPartials | AwaitGroupSignature


class ValidatorShares(msgspec.Struct, frozen=True):
    """The shares of one validator. public_shares: by share index (from 1), 48 bytes each."""

    public_shares: Mapping[int, bytes]


class Settings(msgspec.Struct, frozen=True):
    """validators: by group public key. own_share_index: from 1. threshold: from the lock, not the consensus quorum."""

    validators: Mapping[bytes, ValidatorShares]
    own_share_index: int
    threshold: int
    chain: Chain
    profile: Profile = Profile.V1_10


class Collected(msgspec.Struct):
    """Of one duty and one group public key: partial signatures by share index, who waits for the group's, and that."""

    partials: dict[int, Partial] = {}
    waiting: list[Reply[SignedData]] = []
    group: SignedData | None = None
    is_combined: bool = False
