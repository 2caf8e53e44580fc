"""What consensus decided, and who waits for it: the store behind the validator API's blocking requests.

One store for all kinds of duties, by kind, slot and a key that means something to the kind only (`AwaitDecided.key`). Once a value is
decided for a duty, nothing else is ever served for it; a clash is refused. Entries leave when the duty's deadline is over. Limits: the
slots until the deadline of decided values, MAX_WAITING requests a duty.

Source: specification 05 §7 (keys and conflict rules).
"""

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, Final, NamedTuple

from actors.duties.messages import NoDuty
from actors.mailbox import MailboxFull, Reply
from charon_actors.eth2.duty import Duty, DutyType

MAX_WAITING: Final = 16384

Merge = Callable[[Mapping[int, Any]], Mapping[int, Any]]


class ClashingValue(Exception):
    """Consensus decided two different things for one key; the first stays."""


class Words(NamedTuple):
    """How a kind is spoken of, see `kinds/kind.py`."""

    does: str
    called: str


class DecidedValues:
    """words: of every kind that is served."""

    def __init__(self, words: Mapping[DutyType, Words]) -> None:
        self._words = words
        self._values: dict[Duty, Mapping[int, Any]] = {}
        self._waiting: defaultdict[Duty, list[tuple[int, Reply[Any]]]] = defaultdict(list)

    @property
    def waiting(self) -> int:
        """How many requests wait, those included that were given up since the last expiry."""
        return sum(map(len, self._waiting.values()))

    def put(self, duty: Duty, merge: Merge) -> None:
        """merge: given what is stored, returns all there is now. Raises: ClashingValue of it; then what was stored stays as it was."""
        self._values[duty] = merge(self._values.get(duty, {}))
        for key, reply in self._waiting.pop(duty, []):
            self.wait_for(duty, key, reply)

    def wait_for(self, duty: Duty, key: int, reply: Reply[Any]) -> None:
        """Answer now or when it is decided. A key that a decided duty doesn't have: NoDuty."""
        values = self._values.get(duty)
        if values is None:
            waiting = self._waiting[duty]
            if len(waiting) >= MAX_WAITING:
                reply.fail(MailboxFull(f"{MAX_WAITING} requests wait for one slot"))
            else:
                waiting.append((key, reply))
        elif key in values:
            reply.send(values[key])
        else:
            reply.fail(NoDuty(f"no validator of the cluster {self._words[duty.type].does} in slot {duty.slot}, committee {key}"))

    def of(self, duty: Duty) -> Mapping[int, Any]:
        """What was decided, by key; empty before."""
        return self._values.get(duty, {})

    def expire(self, kind: DutyType, before_slot: int) -> None:
        """Forget that kind's older slots, whose waiting requests get NoDuty, and the requests that were given up."""
        for duty in [duty for duty in self._values if duty.type is kind and duty.slot < before_slot]:
            del self._values[duty]
        for duty, waiting in list(self._waiting.items()):
            if duty.type is not kind:
                continue
            if duty.slot < before_slot:
                self._fail(duty, f"{self._words[kind].called} of slot {duty.slot} is over")
                continue
            waiting[:] = [(key, reply) for key, reply in waiting if not reply.is_abandoned]
            if not waiting:
                del self._waiting[duty]

    def release(self, kind: DutyType, slots: Iterable[int], with_duty: Container[int]) -> None:
        """The duties of `slots` are known now: who waits for a slot without one gets NoDuty."""
        for slot in slots:
            if slot not in with_duty:
                self._fail(Duty(slot, kind), f"no validator of the cluster {self._words[kind].does} in slot {slot}")

    def give_up(self, duty: Duty) -> None:
        """The duty has ended without a decision: who waits for it gets NoDuty."""
        self._fail(duty, f"the cluster did not agree on {duty} in time")

    def _fail(self, duty: Duty, reason: str) -> None:
        for _, reply in self._waiting.pop(duty, []):
            reply.fail(NoDuty(reason))
