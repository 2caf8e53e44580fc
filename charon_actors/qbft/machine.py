"""QBFT: how n nodes agree on one 32-byte value although F of them may lie. One instance, sans-IO.

Theory of operation. Time is cut into rounds from 1; each round has a leader. The leader proposes a value (PRE_PREPARE); who finds the
proposal justified says so (PREPARE); who sees a quorum of PREPAREs locks the value (COMMIT); who sees a quorum of COMMITs decides.
When a round yields nothing in time, a node enters the next one and says what it has locked (ROUND_CHANGE); the next leader must
re-propose the value with the highest lock and prove it with the messages it has seen (justifications J1 and J2 below).

n nodes, quorum Q = ceil(2n/3), F = floor((n-1)/3). Two quorums share at least F+1 nodes, so one honest node at least (n >= 3F+1).

    message        value   carries besides                               justified, if
    PRE_PREPARE    yes     J1 or J2; nothing in round 1                  from the round's leader, value not zero, round 1 or J1 or J2
    PREPARE        yes                                                   always
    COMMIT         yes                                                   always
    ROUND_CHANGE   no      prepared round and value, the PREPAREs        nothing prepared, or Q matching PREPAREs
    DECIDED        yes     the COMMITs                                   Q matching COMMITs among them

    J1   ROUND_CHANGEs of Q sources for this round, none of which had anything prepared: any value may be proposed
    J2   ROUND_CHANGEs of Q sources for this round and Q PREPAREs of one (pr, pv): nobody had prepared later than pr, somebody
         had exactly (pr, pv), and pv is what is proposed

    rule  fires when a message arrives and                      reaction
    1     PRE_PREPARE, round >= ours                            adopt its round, restart the timer, [compare,] PREPARE
    2     Q PREPAREs of our round, same value                   lock it, COMMIT
    3     Q COMMITs of our round, same value                    decide
    4     Q ROUND_CHANGEs of our round, no J1 or J2 in them     nothing
    5     ROUND_CHANGEs of F+1 sources for later rounds         go to the lowest of them, restart the timer, ROUND_CHANGE
    6     Q ROUND_CHANGEs of our round with J1 or J2, we lead   PRE_PREPARE: the locked value, else our own once we have one
    7     DECIDED                                               decide
    (8)   the round timer fires                                 next round, restart the timer, ROUND_CHANGE

Each rule fires once for each round of the message that triggers it, until our round changes. Rules look at everything buffered,
justifications included, but only when a message arrives: PREPAREs for a later round do not fire when that round is entered.
After the decision only late ROUND_CHANGEs are answered, with DECIDED, so that laggards catch up.

Choices among equals are fixed (sources ascending, each one's messages in order of arrival), so the same events always give the
same effects. What Charon v1.10 does otherwise (it PREPAREs twice for a leader that proposes twice, answers without limit …) is a
subclass in the tests, for its vectors.

Limits: BUFFERED_MESSAGES a source, DECIDED_ANSWERS a source; rounds are int64, nothing is allocated by round.
Source: specification 06 §1 to §3, §7, §10. Vectors: core/qbft_decide_scenarios.json, core/qbft_random_scenarios.json.
"""

import enum
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from charon_actors.qbft.explain import RoundReport
from charon_actors.qbft.timers import RoundTimer

ZERO_VALUE: Final = bytes(32)  # "no value"
BUFFERED_MESSAGES: Final = 100  # a source; its newest are kept, so that spam evicts only the spammer's own (06 §1), see `receive`
DECIDED_ANSWERS: Final = 16  # a source, each for a later round than the one before (06 §3 step 3.1)
MAX_ROUND: Final = 2**63 - 1  # int64 on the wire


class MessageType(enum.IntEnum):
    """Numbers of the wire, never to be reordered."""

    PRE_PREPARE = 1
    PREPARE = 2
    COMMIT = 3
    ROUND_CHANGE = 4
    DECIDED = 5


class Message(msgspec.Struct, frozen=True, eq=False):
    """One message of one source, its signature already checked.

    source: peer index. value, prepared_value: 32 bytes, ZERO_VALUE for none. justification: messages of others, which carry no
    justification themselves. signed: the QBFTMsg as it was signed, for passing it on in a justification; opaque here.
    """

    type: MessageType
    source: int
    round: int
    value: bytes = ZERO_VALUE
    prepared_round: int = 0
    prepared_value: bytes = ZERO_VALUE
    justification: tuple["Message", ...] = ()
    signed: bytes = b""

    @property
    def is_unprepared(self) -> bool:
        return self.prepared_round == 0 and self.prepared_value == ZERO_VALUE


class Broadcast(msgspec.Struct, frozen=True):
    """Effect: sign this and send it to everybody, ourselves included (a later `receive`)."""

    type: MessageType
    round: int
    value: bytes = ZERO_VALUE
    prepared_round: int = 0
    prepared_value: bytes = ZERO_VALUE
    justification: tuple[Message, ...] = ()


class Decide(msgspec.Struct, frozen=True):
    """Effect, once: the cluster has decided. commits: a quorum of COMMITs for (round, value), maybe among others."""

    value: bytes
    round: int
    commits: tuple[Message, ...]


class Compare(msgspec.Struct, frozen=True):
    """Effect, only with `compare`: say by `compared` whether the leader's value agrees with what we would have proposed."""

    round: int
    value: bytes


class RoundChanged(msgspec.Struct, frozen=True):
    """Effect, for the log: we left a round. by: what made us. report: what had come in by then."""

    new_round: int
    by: str
    report: RoundReport


Effect = Broadcast | Decide | Compare | RoundChanged
_Rule = int


def quorum(nodes: int) -> int:
    """ceil(2n/3), whatever the threshold of the lock."""
    return -(-2 * nodes // 3)


def faulty(nodes: int) -> int:
    """How many liars n nodes endure: floor((n-1)/3)."""
    return (nodes - 1) // 3


def leader(slot: int, duty_type: int, round_: int, nodes: int) -> int:
    """Peer index that proposes in this round; negative (nobody) where Go's signed 64-bit sum has overflown."""
    total = (slot + duty_type + round_ + 2**63) % 2**64 - 2**63
    return total % nodes if total >= 0 else -(-total % nodes)


class Instance:
    """One consensus instance. Call `start` once, then `receive`, `input` and `tick`; do what they return, in order.

    nodes, own_index: n and our place among them. leader_of: peer index that leads a round (any other number: nobody does).
    compare: ask for a comparison before each PREPARE (06 §7, `chain_split_halt`).
    `wake_at` is the instant of the next `tick`, None when no timer runs; one tick leaves one round, so tick until it is ahead.
    """

    def __init__(
        self,
        *,
        nodes: int,
        own_index: int,
        leader_of: Callable[[int], int],
        timer: RoundTimer,
        compare: bool = False,
    ) -> None:
        if not 0 <= own_index < nodes:
            raise ValueError(f"own index {own_index} is not among {nodes} nodes")
        self.nodes, self.own_index = nodes, own_index
        self.quorum, self.faulty = quorum(nodes), faulty(nodes)
        self.round = 1
        self.decided: Decide | None = None
        self.wake_at: float | None = None
        self._leader_of, self._timer, self._compare = leader_of, timer, compare
        self._input: bytes | None = None
        self._awaiting_input: tuple[Message, ...] | None = None  # justification of the PRE_PREPARE that waits for our input
        self._prepared_round, self._prepared_value = 0, ZERO_VALUE
        self._prepares: tuple[Message, ...] = ()
        self._comparing: Compare | None = None
        self._compare_failure_round = 0
        self._buffer: tuple[deque[Message], ...] = tuple(deque(maxlen=BUFFERED_MESSAGES) for _ in range(nodes))
        self._fired: set[tuple[_Rule, int]] = set()
        self._answers: dict[int, tuple[int, int]] = {}  # source: (highest round answered, how many)

    # events

    def start(self, now: float) -> list[Effect]:
        """Enter round 1."""
        effects = self._propose_own(()) if self._leader_of(1) == self.own_index else []
        self._restart_timer(now)
        return effects

    def input(self, value: bytes) -> list[Effect]:
        """What we propose when we lead; only the first call counts. Raises: ValueError for anything but 32 bytes not all zero."""
        if len(value) != 32 or value == ZERO_VALUE:
            raise ValueError("the input of a consensus instance is 32 bytes, not all zero")
        if self._input is not None:
            return []
        self._input = value
        justification, self._awaiting_input = self._awaiting_input, None
        if justification is None:
            return []
        return [self._pre_prepare(value, justification)]

    def receive(self, message: Message, now: float) -> list[Effect]:
        """A message came in, our own ones included. Whatever a peer sends ends in effects or in nothing.

        What is buffered already is looked at but not kept again: anybody may pass on a source's message a hundred times.
        """
        if not 0 <= message.source < self.nodes:
            return []
        if self.decided is not None:
            return self._answer_laggard(message, self.decided)
        if not self._is_justified(message):
            return []
        known = self._buffer[message.source]
        if not message.signed or all(m.signed != message.signed for m in known):
            known.append(message)
        rule, found = self._classify(message)
        if rule == 0 or (rule, message.round) in self._fired:
            return []
        self._fired.add((rule, message.round))
        match rule:
            case 1:
                return self._on_pre_prepare(message, now)
            case 2:
                self._prepared_round, self._prepared_value, self._prepares = self.round, message.value, found
                return [Broadcast(MessageType.COMMIT, self.round, message.value)]
            case 3 | 7:
                return self._decide(message, found)
            case 5:
                effects = self._enter(min(m.round for m in found), "round changes of others")
                self._restart_timer(now)
                return [*effects, self._round_change()]
            case 6:
                return self._lead(found)
            case _:
                return []

    def tick(self, now: float) -> list[Effect]:
        """If the round timer has fired: leave the round for the next one."""
        if self.wake_at is None or now < self.wake_at:
            return []
        if self.round >= MAX_ROUND:  # reached only by jumping: with F = 0 a single peer can make us
            self.wake_at = None
            return []
        effects = self._enter(self.round + 1, "timeout")
        self._restart_timer(now)
        return [*effects, self._round_change()]

    def compared(self, round_: int, *, is_equal: bool) -> list[Effect]:
        """The answer to Compare. Too late for its round, it changes nothing; so give it before you tick."""
        asked = self._comparing
        if asked is None or asked.round != round_ or self.decided is not None:
            return []
        self._comparing = None
        if is_equal:
            return [Broadcast(MessageType.PREPARE, asked.round, asked.value)]
        self._compare_failure_round = asked.round
        return []

    def report(self) -> RoundReport:
        """What has come in for the current round, justifications not counted."""
        seen: dict[MessageType, set[int]] = {kind: set() for kind in MessageType}
        for source, messages in enumerate(self._buffer):
            for message in messages:
                if message.round == self.round:
                    seen[message.type].add(source)
        return RoundReport(
            self.nodes,
            self.quorum,
            self.round,
            self._leader_of(self.round),
            frozenset(seen[MessageType.PRE_PREPARE]),
            frozenset(seen[MessageType.PREPARE]),
            frozenset(seen[MessageType.COMMIT]),
            frozenset(seen[MessageType.ROUND_CHANGE]),
        )

    # reactions

    def _on_pre_prepare(self, message: Message, now: float) -> list[Effect]:
        effects = self._enter(message.round, "pre-prepare of a later round")
        self._note_proposal(message.round)
        self._restart_timer(now)
        if not self._compare:
            return [*effects, Broadcast(MessageType.PREPARE, self.round, message.value)]
        self._comparing = Compare(message.round, message.value)
        return [*effects, self._comparing]

    def _note_proposal(self, round_: int) -> None:
        """Entering the round has cleared it; a leader that proposes twice gets one PREPARE."""
        self._fired.add((1, round_))

    def _decide(self, message: Message, commits: tuple[Message, ...]) -> list[Effect]:
        effects = self._enter(message.round, "decision")
        self.wake_at = self._comparing = None
        self.decided = Decide(message.value, message.round, commits)
        for messages in self._buffer:
            messages.clear()
        return [*effects, self.decided]

    def _lead(self, round_changes: tuple[Message, ...]) -> list[Effect]:
        prepared = _single_prepared(round_changes, self.quorum)
        if prepared is not None and prepared[0] != self._compare_failure_round:
            return [self._pre_prepare(prepared[1], round_changes)]
        return self._propose_own(round_changes)

    def _answer_laggard(self, message: Message, decided: Decide) -> list[Effect]:
        if message.type is not MessageType.ROUND_CHANGE or message.source == self.own_index:
            return []
        if not self._may_answer(message):
            return []
        return [Broadcast(MessageType.DECIDED, self.round, self._value_for_laggards(decided), justification=decided.commits)]

    def _may_answer(self, message: Message) -> bool:
        highest, count = self._answers.get(message.source, (0, 0))
        if message.round <= highest or count >= DECIDED_ANSWERS:
            return False
        self._answers[message.source] = (message.round, count + 1)
        return True

    def _value_for_laggards(self, decided: Decide) -> bytes:
        return decided.value

    def _may_be_proposed(self, value: bytes) -> bool:
        return value != ZERO_VALUE

    def _propose_own(self, justification: tuple[Message, ...]) -> list[Effect]:
        if self._input is None:
            self._awaiting_input = justification
            return []
        return [self._pre_prepare(self._input, justification)]

    def _pre_prepare(self, value: bytes, justification: tuple[Message, ...]) -> Broadcast:
        return Broadcast(MessageType.PRE_PREPARE, self.round, value, justification=justification)

    def _round_change(self) -> Broadcast:
        return Broadcast(
            MessageType.ROUND_CHANGE,
            self.round,
            prepared_round=self._prepared_round,
            prepared_value=self._prepared_value,
            justification=self._prepares,
        )

    def _enter(self, round_: int, by: str) -> list[Effect]:
        if round_ == self.round:
            return []
        effect = RoundChanged(round_, by, self.report())
        self.round = round_
        self._fired.clear()
        self._awaiting_input = self._comparing = None
        return [effect]

    def _restart_timer(self, now: float) -> None:
        self.wake_at = self._timer.start(self.round, now)

    # which rule a message fires

    def _classify(self, message: Message) -> tuple[_Rule, tuple[Message, ...]]:
        """The rule (0: none) and the messages that make it fire."""
        round_ = message.round
        match message.type:
            case MessageType.DECIDED:
                return 7, message.justification
            case MessageType.PRE_PREPARE:
                return (1 if round_ >= self.round else 0), ()
            case MessageType.PREPARE | MessageType.COMMIT:
                if round_ != self.round:
                    return 0, ()
                same = _first_by_source(
                    m for m in self._all() if m.type is message.type and m.round == round_ and m.value == message.value
                )
                rule = 2 if message.type is MessageType.PREPARE else 3
                return (rule, same) if len(same) >= self.quorum else (0, ())
            case MessageType.ROUND_CHANGE:
                if round_ > self.round:
                    return self._classify_later_round_changes()
                return self._classify_round_changes() if round_ == self.round else (0, ())

    def _classify_later_round_changes(self) -> tuple[_Rule, tuple[Message, ...]]:
        highest: dict[int, Message] = {}
        for message in self._all():
            if message.type is not MessageType.ROUND_CHANGE or message.round <= self.round:
                continue
            known = highest.get(message.source)
            if known is None or message.round > known.round:
                highest[message.source] = message
            if len(highest) == self.faulty + 1:
                return 5, tuple(highest.values())
        return 0, ()

    def _classify_round_changes(self) -> tuple[_Rule, tuple[Message, ...]]:
        everything = list(self._all())
        round_changes = [m for m in everything if m.type is MessageType.ROUND_CHANGE and m.round == self.round]
        if len({m.source for m in round_changes}) < self.quorum:
            return 0, ()
        justified = self._justified_set(round_changes, everything)
        if not justified:
            return 4, ()
        return (6, justified) if self._leader_of(self.round) == self.own_index else (0, ())

    def _justified_set(self, round_changes: list[Message], everything: list[Message]) -> tuple[Message, ...]:
        """What makes a PRE_PREPARE of this round J1 or J2 for everybody; empty if there is no such thing yet."""
        unprepared = _first_by_source(m for m in round_changes if m.is_unprepared)
        if len(unprepared) >= self.quorum:
            return unprepared
        prepares: dict[tuple[int, bytes], list[Message]] = {}
        for message in everything:
            if message.type is MessageType.PREPARE:
                prepares.setdefault((message.round, message.value), []).append(message)
        for (round_, value), candidates in sorted(prepares.items(), reverse=True):
            proof = _first_by_source(candidates)
            if len(proof) < self.quorum:
                continue
            chosen = _first_by_source(m for m in round_changes if m.prepared_round <= round_)
            if len(chosen) < self.quorum:
                continue
            if any(m.prepared_round == round_ and m.prepared_value == value for m in chosen):
                return (*chosen, *proof)
        return ()

    def _all(self) -> Iterator[Message]:
        for messages in self._buffer:
            for message in messages:
                yield message
                yield from message.justification

    # what makes a message acceptable

    def _is_justified(self, message: Message) -> bool:
        match message.type:
            case MessageType.PREPARE | MessageType.COMMIT:
                return True
            case MessageType.ROUND_CHANGE:
                return self._is_justified_round_change(message)
            case MessageType.DECIDED:
                commits = {
                    m.source
                    for m in message.justification
                    if m.type is MessageType.COMMIT and m.round == message.round and m.value == message.value
                }
                return len(commits) >= self.quorum
            case MessageType.PRE_PREPARE:
                return self._is_justified_pre_prepare(message)

    def _is_justified_round_change(self, message: Message) -> bool:
        proof = message.justification
        if not proof:
            return message.is_unprepared
        return (
            len(proof) >= self.quorum
            and len({m.source for m in proof}) == len(proof)
            and all(
                m.type is MessageType.PREPARE and m.round == message.prepared_round and m.value == message.prepared_value
                for m in proof
            )
        )

    def _is_justified_pre_prepare(self, message: Message) -> bool:
        if message.source != self._leader_of(message.round):
            return False
        if not self._may_be_proposed(message.value):
            return False
        if message.round == 1 or message.round == self._compare_failure_round + 1:
            return True
        round_changes = _first_by_source(
            m for m in message.justification if m.type is MessageType.ROUND_CHANGE and m.round == message.round
        )
        if len(round_changes) < self.quorum:
            return False
        if all(m.is_unprepared for m in round_changes):
            return True  # J1
        prepared = _single_prepared(message.justification, self.quorum)
        if prepared is None:
            return False
        round_, value = prepared
        return (  # J2
            all(m.prepared_round <= round_ for m in round_changes)
            and any(m.prepared_round == round_ and m.prepared_value == value for m in round_changes)
            and value in (ZERO_VALUE, message.value)
        )


def _first_by_source(messages: Iterable[Message]) -> tuple[Message, ...]:
    found: dict[int, Message] = {}
    for message in messages:
        found.setdefault(message.source, message)
    return tuple(found.values())


def _single_prepared(messages: Sequence[Message], needed: int) -> tuple[int, bytes] | None:
    """The one (round, value) of the PREPAREs among `messages`, if they are enough, of one pair and of distinct sources."""
    prepares = [m for m in messages if m.type is MessageType.PREPARE]
    if len(prepares) < needed or len({m.source for m in prepares}) != len(prepares):
        return None
    pairs = {(m.round, m.value) for m in prepares}
    return pairs.pop() if len(pairs) == 1 else None
