"""What makes a kind of duty: the row that each file of this folder fills.

What is known before anybody works on it (start, deadline, agreement, where the group's signature goes) is its row in
`charon_actors/eth2/duty.py`; everything else that the duties actor does differently for one kind than for another stands here.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from actors.beacon import Message as BeaconMessage
from actors.duties.messages import LookUp
from actors.duties.story import DutyContext, Timeline
from actors.mailbox import Address
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.signed_data import SignedData


class DutyDefinition(Protocol):
    """Who has a duty and when, as the beacon node says it. pubkey: the group public key, 48 bytes."""

    @property
    def slot(self) -> int: ...

    @property
    def pubkey(self) -> bytes: ...

    @property
    def validator_index(self) -> int: ...


D = TypeVar("D", bound=DutyDefinition)


class Known(Protocol):
    """What a look-up may read."""

    def slot_now(self) -> int: ...

    def is_over(self, duty: Duty) -> bool: ...

    def definitions(self, kind: DutyType, slot: int) -> Mapping[bytes, Any]:
        """By group public key; empty when nobody of ours has the duty. Raises: NotReady."""

    def may_have(self, kind: DutyType, slot: int) -> bool:
        """Whether it is known that somebody of ours has the duty."""

    def decided(self, kind: DutyType, slot: int) -> Mapping[int, Any]:
        """What the cluster agreed on, by key; empty before it has."""


@dataclass(frozen=True)
class DutyKind(Generic[D]):
    """One kind of duty that begins with the slot clock.

    does, called: words for who asks in vain: "no validator of the cluster attests in slot 9", "the attestation duty of slot 9 is over".
    named, summary: of all its slots, in the log line about an epoch's duties.

    define(beacon, epoch, active): the definitions of an epoch. active: group public keys (48 bytes) by validator index. May say too much:
    others' and wrong pairs are left out. Raises: BeaconFault, Retryable.

    story(definitions, on, timeline): the duty's life until what was decided is served. definitions: of one slot, by group public key.
    submit(signed, on): hands over what a threshold has signed, by group public key. Raises: BeaconFault, Retryable.
    look_ups: how questions are answered, by their class. They raise NoDuty, NotReady, UnknownValidator.
    """

    duty_type: DutyType
    does: str
    called: str
    named: str
    summary: Callable[[Iterable[int]], object]
    define: Callable[[Address[BeaconMessage], int, Mapping[int, bytes]], Awaitable[Iterable[D]]]
    story: Callable[[Mapping[bytes, D], DutyContext, Timeline], Awaitable[None]]
    submit: Callable[[Mapping[bytes, SignedData], DutyContext], Awaitable[None]]
    look_ups: Mapping[type[LookUp[Any]], Callable[[Any, Known], Any]] = field(default_factory=dict)
