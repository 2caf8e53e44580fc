"""A cluster of machines on a virtual clock: a wire that delays, duplicates and loses, and peers that lie. One seed, one run.

Nodes are indices 0 to n-1. Whatever is sent at instant t arrives at t + delay; a node's own messages always arrive, without loss.
Liars can't forge: what they send has their own source, and what they put into justifications was really sent by its source.
"""

import heapq
from collections.abc import Callable
from itertools import count
from random import Random

import msgspec

from charon_actors.qbft.machine import (
    ZERO_VALUE,
    Broadcast,
    Compare,
    Decide,
    Effect,
    Instance,
    Message,
    MessageType,
)
from charon_actors.qbft.timers import RoundTimer
from tests.charon_actors.qbft.charon_v1_10 import machine_class


def value(number: int) -> bytes:
    return number.to_bytes(32, "big")


class Constant:
    label = "const"

    def start(self, round_: int, now: float) -> float:
        return now + 1.0


class Exponential:
    label = "exp"

    def start(self, round_: int, now: float) -> float:
        return now + 2.0 ** min(round_ - 1, 60)


class Plan(msgspec.Struct, frozen=True):
    """What goes wrong. Instants and lengths in seconds; per-node entries by index, 0 where missing."""

    start_at: dict[int, float] = {}
    input_at: dict[int, float] = {}
    delay: tuple[float, float] = (0.001, 0.005)
    loss: float = 0.0
    duplicates: float = 0.1
    calm_from: float = 1e9  # from here on the wire delays by 1 to 5 ms and loses nothing
    partition: frozenset[int] = frozenset()  # until it is calm, these hear only one another and the liars
    dropped: Callable[[Message, int, int, float], bool] = lambda message, source, target, now: False
    views: dict[int, int] = {}  # chain split: nodes with different views reject one another's values (compare on)
    liars: frozenset[int] = frozenset()
    lies_per_s: float = 10.0
    is_fuzz: bool = False  # the liars run honestly as well


class Network:
    """Build it, `run` it, look at `decisions`."""

    def __init__(
        self,
        nodes: int,
        leader_of: Callable[[int], int],
        timer: Callable[[], RoundTimer],
        plan: Plan,
        seed: int,
        hardened: bool = True,
    ) -> None:
        self.nodes, self.leader_of, self.plan, self.random = nodes, leader_of, plan, Random(seed)
        self.now = 0.0
        self.decisions: dict[int, Decide] = {}
        self.archive: list[Message] = []
        self.log: list[tuple[float, int, str]] = []
        self.machines: dict[int, Instance] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        for node in range(nodes):
            if node in plan.liars and not plan.is_fuzz:
                continue
            self.machines[node] = machine_class(hardened)(
                nodes=nodes,
                own_index=node,
                leader_of=leader_of,
                timer=timer(),
                compare=bool(plan.views),
            )
            start_at = plan.start_at.get(node, 0.0)
            self.at(start_at, lambda node=node: self._start(node))  # type: ignore[misc]
            self.at(max(start_at, plan.input_at.get(node, 0.0)), lambda node=node: self._input(node))  # type: ignore[misc]
        for liar in sorted(plan.liars):
            self.at(self.random.random() / plan.lies_per_s, lambda liar=liar: self._lie(liar))  # type: ignore[misc]

    def at(self, instant: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (instant, next(self._order), action))

    def run(self, until: float) -> None:
        """To the end, or until every node that runs the protocol has decided."""
        while self._queue and len(self.decisions) < len(self.machines):
            instant, _, action = heapq.heappop(self._queue)
            if instant > until:
                return
            self.now = instant
            action()

    def own_value(self, node: int) -> bytes:
        return value(100 * self.plan.views.get(node, 1) + node + 1)

    # nodes

    def _start(self, node: int) -> None:
        self._do(node, self.machines[node].start(self.now))

    def _input(self, node: int) -> None:
        self._do(node, self.machines[node].input(self.own_value(node)))

    def _receive(self, node: int, message: Message) -> None:
        if self.now >= self.plan.start_at.get(node, 0.0):
            self._do(node, self.machines[node].receive(message, self.now))
        else:  # the outer buffer: waits for our own start
            self.at(self.plan.start_at[node] + 1e-9, lambda: self._receive(node, message))

    def _tick(self, node: int) -> None:
        self._do(node, self.machines[node].tick(self.now))

    def _do(self, node: int, effects: list[Effect]) -> None:
        machine = self.machines[node]
        for effect in effects:
            match effect:
                case Broadcast(kind, round_, chosen, prepared_round, prepared_value, justification):
                    message = Message(kind, node, round_, chosen, prepared_round, prepared_value, justification)
                    self.log.append((self.now, node, f"{kind.name} {round_} {int.from_bytes(chosen, 'big')}"))
                    self.archive.append(message)
                    self.at(self.now, lambda message=message: self._receive(node, message))  # type: ignore[misc]
                    for target in self.machines:
                        if target != node:
                            self.send(message, target)
                case Decide() as decide:
                    assert node not in self.decisions
                    self.decisions[node] = decide
                    self.log.append((self.now, node, f"decided {decide.round} {int.from_bytes(decide.value, 'big')}"))
                case Compare(round_, chosen):
                    theirs = int.from_bytes(chosen, "big") // 100
                    is_equal = theirs == self.plan.views.get(node, 1)
                    self._do(node, machine.compared(round_, is_equal=is_equal))
                case _:
                    pass
        if machine.wake_at is not None:
            self.at(max(machine.wake_at, self.now), lambda: self._tick(node))

    def send(self, message: Message, target: int) -> None:
        plan, is_calm = self.plan, self.now >= self.plan.calm_from
        copies = 2 if self.random.random() < plan.duplicates else 1
        for _ in range(copies):
            low, high = (0.001, 0.005) if is_calm else plan.delay
            delay = self.random.uniform(low, high)
            if not is_calm and self.random.random() < plan.loss:
                continue
            if not is_calm and self._is_apart(message.source, target):
                continue
            if plan.dropped(message, message.source, target, self.now):
                continue
            self.at(self.now + delay, lambda: self._receive(target, message))

    def _is_apart(self, source: int, target: int) -> bool:
        partition, liars = self.plan.partition, self.plan.liars
        return source not in liars and (source in partition) != (target in partition)

    # liars

    def _lie(self, liar: int) -> None:
        for message, targets in self._lies(liar):
            self.archive.append(message)
            for target in targets:
                if target in self.machines and target != liar:
                    self.send(message, target)
        self.at(self.now + self.random.expovariate(self.plan.lies_per_s), lambda: self._lie(liar))

    def _lies(self, liar: int) -> list[tuple[Message, list[int]]]:
        draw = self.random
        rounds = [machine.round for machine in self.machines.values()]
        round_ = max(1, draw.choice(rounds) + draw.choice([-1, 0, 0, 0, 1, 1, 2]))
        known = sorted({m.value for m in self.archive if m.value != ZERO_VALUE} | {value(901), value(902)})
        everybody = list(self.machines)
        half = draw.sample(everybody, len(everybody) // 2)
        rest = [node for node in everybody if node not in half]
        first, second = draw.choice(known), draw.choice(known)
        match draw.randrange(6):
            case 0:  # votes twice
                kind = draw.choice([MessageType.PREPARE, MessageType.COMMIT])
                return [(Message(kind, liar, round_, first), half), (Message(kind, liar, round_, second), rest)]
            case 1:  # proposes twice, in a round that it leads if there is one near, and votes for both
                led = [r for r in range(round_, round_ + self.nodes) if self.leader_of(r) == liar] or [round_]
                if self.plan.partition:
                    half = [node for node in everybody if node in self.plan.partition]
                    rest = [node for node in everybody if node not in half]
                return [
                    (Message(kind, liar, led[0], chosen, justification=proof), targets)
                    for chosen, targets in ((first, half), (second, rest))
                    for kind, proof in (
                        (MessageType.PRE_PREPARE, self._proof(led[0])),
                        (MessageType.PREPARE, ()),
                        (MessageType.COMMIT, ()),
                    )
                ]
            case 2:  # says that it has something prepared, or nothing
                prepares = [m for m in self.archive if m.type is MessageType.PREPARE]
                if not prepares or draw.random() < 0.5:
                    return [(Message(MessageType.ROUND_CHANGE, liar, round_), everybody)]
                of = draw.choice(prepares)
                proof = {m.source: m for m in prepares if (m.round, m.value) == (of.round, of.value)}
                claim = Message(MessageType.ROUND_CHANGE, liar, round_, ZERO_VALUE, of.round, of.value, tuple(proof.values()))
                return [(claim, half if draw.random() < 0.5 else everybody)]
            case 3:  # says that it is decided
                commits = [m for m in self.archive if m.type is MessageType.COMMIT]
                picked = tuple(draw.sample(commits, min(len(commits), self.nodes)))
                chosen, at = (picked[0].value, picked[0].round) if picked else (first, round_)
                return [(Message(MessageType.DECIDED, liar, at, draw.choice([chosen, first]), justification=picked), everybody)]
            case 4:  # sends again what somebody sent long ago
                return [(draw.choice(self.archive), everybody)] if self.archive else []
            case _:  # nonsense
                kind = draw.choice(list(MessageType))
                picked = tuple(draw.sample(self.archive, min(len(self.archive), draw.randrange(6))))
                nested = tuple(msgspec.structs.replace(m, justification=()) for m in picked)
                return [
                    (Message(kind, liar, round_, first, draw.randrange(3), draw.choice([second, ZERO_VALUE]), nested), everybody)
                ]

    def _proof(self, round_: int) -> tuple[Message, ...]:
        """A random choice of real ROUND_CHANGEs, and the PREPAREs of one of them: sometimes a justification, sometimes not."""
        changes = [m for m in self.archive if m.type is MessageType.ROUND_CHANGE and m.round == round_]
        self.random.shuffle(changes)
        if self.random.random() < 0.5:
            changes = [m for m in changes if m.is_unprepared]
        prepared = [m for m in changes if m.justification]
        prepares = self.random.choice(prepared).justification if prepared else ()
        flat = [msgspec.structs.replace(m, justification=()) for m in changes[: self.nodes]]
        return (*flat, *prepares)
