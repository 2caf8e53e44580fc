"""One duty's consensus as a node sees it: the machine, the values behind its hashes, our signature, our own messages. Sans-IO.

Theory of operation. Messages of a duty may come before we take part in it, so a session exists from the first of them:

    state       becomes                    what it does with messages
    waiting     running by `start`         keeps QUEUED_MESSAGES of them, and the values they name
    running     decided by a decision      feeds the machine, one message or one timeout a `step`
    decided     gone at the duty's end     only answers ROUND_CHANGEs, so that late peers catch up; keeps only the decided value
    aside       running by `start`         counts COMMITs like one that listens, and keeps all messages like one that waits
    listening   decided by a proof         only counts COMMITs, sends nothing (`observer.py`); never runs

What the machine broadcasts is signed, encoded with its values, given to the caller as Send, and comes back to the machine before
anything else does. When the queue is full, the oldest message of whoever has brought most of them leaves: not of the source, for
anybody may pass on the messages of others, and attach other justifications to them. Values are charged to the peer
whose message brought them first, against an allowance for all duties together, so that a peer can fill only its own share.

Who proposed the decided value first is told with the decision, if there is a proof: the leader of the round in which it was decided may
be an honest one that had to repeat what the leader of an earlier round had proposed (J2). Proofs are a PRE_PREPARE, which its leader has
signed, and PREPAREs of a quorum for one round, of which most are honest: they had seen one.

Limits: QUEUED_MESSAGES a session; VALUE_BYTES a peer; a proof a value; those of the machine. Source: specification 06 §5 to §8, §10.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from charon_actors.eth2.duty import Duty
from charon_actors.qbft.machine import (
    ZERO_VALUE,
    Broadcast,
    Compare,
    Decide,
    Effect,
    Instance,
    Message,
    MessageType,
    RoundChanged,
    leader,
    quorum,
)
from charon_actors.qbft.messages import (
    UNSIGNED_DATA_SET,
    MessageFault,
    ReceivedMessage,
    Value,
    decode_value,
    encode_message,
    encode_value,
    named_values,
    sign_message,
)
from charon_actors.qbft.observer import Observer
from charon_actors.qbft.timers import RoundTimer

QUEUED_MESSAGES: Final = 100  # a duty (06 §1, outer receive buffer)
VALUE_BYTES: Final = 128 * 2**20  # a peer, all live duties together; an honest one brings a few hundred kilobytes a duty

UnsignedData = dict[str, bytes]
Comparison = Callable[[Mapping[str, bytes], Mapping[str, bytes]], bool]  # (the leader's set, ours): do they agree?


class Send(msgspec.Struct, frozen=True):
    """Output: send this to all peers."""

    content: bytes


class Decided(msgspec.Struct, frozen=True):
    """Output, once: what the cluster has decided. unsigned_data: group public key text to encoding, of all validators.

    round, leader_index: in which it was decided. proposer_index: peer index of whoever proposed this value first, None without a proof.
    """

    unsigned_data: UnsignedData
    value_hash: bytes
    round: int
    leader_index: int
    proposer_index: int | None


class Differs(msgspec.Struct, frozen=True):
    """Output, for the log: the leader's proposal contradicts ours, we don't support it (06 §7)."""

    round: int


Output = Send | Decided | Differs | RoundChanged


class Allowance:
    """How many bytes of values each peer may have in memory."""

    def __init__(self, nodes: int, limit_bytes: int = VALUE_BYTES) -> None:
        self._left = [limit_bytes] * nodes

    def charge(self, peer_index: int, size: int) -> None:
        """Raises: MessageFault, when the peer has too much in memory already."""
        if size > self._left[peer_index]:
            raise MessageFault("peer has too many values in memory")
        self._left[peer_index] -= size

    def refund(self, peer_index: int, size: int) -> None:
        self._left[peer_index] += size


class Session:
    """Give it what comes in by `offer` and `propose`, then call `step` while `has_work(now)`; do what it returns, in order.

    private_key: ours, 32 bytes. timer: of this duty. is_listening: don't take part (table on top).
    compare: whether two proposals may be mistaken for one another's; without it every justified proposal is supported.
    """

    def __init__(
        self,
        duty: Duty,
        *,
        nodes: int,
        own_index: int,
        private_key: bytes,
        timer: RoundTimer,
        allowance: Allowance,
        is_listening: bool = False,
        compare: Comparison | None = None,
    ) -> None:
        self.duty, self.timer_label = duty, timer.label
        self.is_started = False
        self.decided: Decided | None = None
        self._nodes, self._own_index, self._private_key = nodes, own_index, private_key
        self._allowance, self._compare = allowance, compare
        self._machine = Instance(
            nodes=nodes, own_index=own_index, leader_of=self.leader_of, timer=timer, compare=compare is not None
        )
        self._observer = Observer(nodes) if is_listening else None
        self._queue: deque[tuple[int, Message]] = deque()  # with who brought it
        self._kept: deque[tuple[int, Message]] | None = None  # what was counted while aside
        self._own: deque[Message] = deque()
        self._values: dict[bytes, Value] = {}
        self._charges: dict[bytes, tuple[int, int]] = {}
        self._first_rounds: dict[bytes, int] = {}  # by value: the first round for which it is proven that its leader proposed it
        self._proposal: tuple[bytes, UnsignedData] | None = None
        self._asked: Compare | None = None

    def __repr__(self) -> str:
        return f"Session({self.duty}, round {self._machine.round})"

    def leader_of(self, round_: int) -> int:
        return leader(self.duty.slot, self.duty.type, round_, self._nodes)

    @property
    def is_listening(self) -> bool:
        """For good; not while aside."""
        return self._observer is not None and self._kept is None

    @property
    def is_aside(self) -> bool:
        return self._kept is not None

    @property
    def has_proposal(self) -> bool:
        return self._proposal is not None

    @property
    def has_messages(self) -> bool:
        return bool(self._queue or self._kept)

    @property
    def wake_at(self) -> float | None:
        """When there is work again if nothing comes in; None if never."""
        return self._machine.wake_at if self.is_started else None

    def offer(self, received: ReceivedMessage, carrier: int | None = None) -> None:
        """A verified message came in. carrier: whose connection brought it, without it its source. Raises: MessageFault, if refused."""
        assert received.duty == self.duty
        message = received.message
        if self.decided is not None:
            if message.type is not MessageType.ROUND_CHANGE or self.is_listening:
                return
        else:
            self._keep(message.source, received.values)
            self._note_proposal(message)
        self._queue.append((message.source if carrier is None else carrier, message))
        _evict(self._queue)

    def propose(self, unsigned_data: UnsignedData, encoded: tuple[bytes, Value] | None = None) -> list[Output]:
        """Our own value; only the first counts. Raises: MessageFault, if it is empty or too small to have a hash.

        encoded: its hash and value, from those who have made them in steps (`Verifier.encoding`).
        """
        if self._proposal is not None:
            return []
        named, value = encode_value(unsigned_data) if encoded is None else encoded
        if named == ZERO_VALUE:
            raise MessageFault("nothing to propose")
        self._proposal = (named, dict(unsigned_data))
        if self.decided is not None or self.is_listening:
            return []
        self._refund(named)
        self._values[named] = value
        outputs = self._do(self._machine.input(named))
        asked, self._asked = self._asked, None
        return outputs if asked is None else [*outputs, *self._answer(asked)]

    def step_aside(self) -> None:
        """We may not speak just now, and a decision of the others counts all the same. `start` ends it."""
        assert not self.is_started
        assert self._observer is None
        self._observer, self._kept = Observer(self._nodes), deque()

    def start(self, now: float) -> list[Output]:
        """Take part from now on. now: Unix seconds, as in the timer's anchor."""
        assert not self.is_started
        assert not self.is_listening
        if self._kept is not None:
            self._queue.extendleft(reversed(self._kept))
            self._observer = self._kept = None
            _evict(self._queue)
        self.is_started = True
        return self._do(self._machine.start(now))

    def has_work(self, now: float) -> bool:
        if self._observer is not None:
            return bool(self._queue)
        wake_at = self.wake_at
        return self.is_started and bool(self._own or self._queue or (wake_at is not None and wake_at <= now))

    def step(self, now: float) -> list[Output]:
        """Handle one thing: a message of ours, a message, or the timer. One round a step, however late we are (06 §6)."""
        if self._observer is not None:
            carrier, message = self._queue.popleft()
            if self._kept is not None:
                self._kept.append((carrier, message))
                _evict(self._kept)
            decide = self._observer.receive(message)
            if decide is None:
                return []
            self._kept = None
            return self._do([decide])
        if self._own:
            return self._do(self._machine.receive(self._own.popleft(), now))
        if self._queue:
            return self._do(self._machine.receive(self._queue.popleft()[1], now))
        return self._do(self._machine.tick(now))

    def close(self) -> None:
        """Forget everything and return what was charged. Idempotent."""
        for named in list(self._charges):
            self._refund(named)
        self._values.clear()
        self._first_rounds.clear()
        self._queue.clear()
        self._own.clear()
        self._kept = None if self._kept is None else deque()

    def _do(self, effects: list[Effect]) -> list[Output]:
        outputs: list[Output] = []
        for effect in effects:
            match effect:
                case Broadcast():
                    message = sign_message(self._private_key, self.duty, self._own_index, effect)
                    self._note_proposal(message)
                    outputs.append(Send(encode_message(message, self._values)))
                    self._own.append(message)
                case Decide():
                    outputs.append(self._decide(effect))
                case Compare():
                    outputs += self._answer(effect)
                case RoundChanged():
                    outputs.append(effect)
        return outputs

    def _decide(self, effect: Decide) -> Decided:
        needed = {effect.value, *(named for commit in effect.commits for named in named_values(commit))}
        for named in [named for named in self._values if named not in needed]:
            self._refund(named)
            del self._values[named]
        value = self._values.get(effect.value)
        if value is None:
            raise MessageFault("value of the decision is not known")
        first = 1 if effect.round == 1 else self._first_rounds.get(effect.value)
        self._first_rounds.clear()
        self.decided = Decided(
            decode_value(value),
            effect.value,
            effect.round,
            self.leader_of(effect.round),
            None if first is None else self.leader_of(first),
        )
        return self.decided

    def _note_proposal(self, message: Message) -> None:
        """Remember the first round for which this message proves that its leader proposed the value (theory on top)."""
        if message.type is not MessageType.PRE_PREPARE or message.source != self.leader_of(message.round):
            return
        if message.value not in self._values:
            return
        supporters: dict[int, set[int]] = {}
        for part in message.justification:
            if part.type is MessageType.PREPARE and part.value == message.value:
                supporters.setdefault(part.round, set()).add(part.source)
        proven = [message.round, *(round_ for round_, sources in supporters.items() if len(sources) >= quorum(self._nodes))]
        known = self._first_rounds.get(message.value)
        self._first_rounds[message.value] = min(proven if known is None else [known, *proven])

    def _answer(self, asked: Compare) -> list[Output]:
        assert self._compare is not None
        if self._proposal is None:
            self._asked = asked  # answered by `propose`; until then the round timer runs
            return []
        if self._compare(decode_value(self._values[asked.value]), self._proposal[1]):
            return self._do(self._machine.compared(asked.round, is_equal=True))
        return [Differs(asked.round), *self._do(self._machine.compared(asked.round, is_equal=False))]

    def _keep(self, peer_index: int, values: Mapping[bytes, Value]) -> None:
        if any(value.kind != UNSIGNED_DATA_SET for value in values.values()):
            raise MessageFault("value is not a set of unsigned data")
        new = {named: value for named, value in values.items() if named not in self._values}
        self._allowance.charge(peer_index, sum(len(value.content) for value in new.values()))
        for named, value in new.items():
            self._values[named] = value
            self._charges[named] = (peer_index, len(value.content))

    def _refund(self, named: bytes) -> None:
        charge = self._charges.pop(named, None)
        if charge is not None:
            self._allowance.refund(*charge)


def _evict(queue: deque[tuple[int, Message]]) -> None:
    """Back to QUEUED_MESSAGES: the oldest of whoever has brought most leave."""
    while len(queue) > QUEUED_MESSAGES:
        counts: dict[int, int] = {}
        for carrier, _ in queue:
            counts[carrier] = counts.get(carrier, 0) + 1
        loudest = max(counts, key=counts.__getitem__)
        del queue[next(at for at, (carrier, _) in enumerate(queue) if carrier == loudest)]
