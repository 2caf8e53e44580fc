"""Calls: what becomes of one question or submission to several beacon nodes.

    kind of call    asks                                                    answer                             fallback nodes
    read            all primaries (for duties and data: the synced ones)    first good one, rest cancelled     if all failed, if worth it
    submission      all primaries, each to its own time limit               first success, or known already    likewise

Source: specification 08 §3.1, §3.3, §13.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

import trio

from actors.beacon.facts import CallSeen
from actors.beacon.node import BeaconNode, CallFailed, Wins
from actors.beacon.race import AllFailed, race
from actors.facts import OnFact
from actors.log import get_logger
from actors.off_loop import IN_THREAD_MS, OffLoop
from charon_actors.errors import Retryable
from charon_actors.eth2.beacon_api import Answer, AnswerFault, Call
from charon_actors.eth2.beacon_errors import is_repeat

log = get_logger("beacon")
T = TypeVar("T")

LIST_BYTES_A_MS: Final = 40_000  # of JSON, read and made into duties or validators
SYNCED_FIRST: Final = {True: 0, None: 1, False: 2}
Instead = Callable[[], Awaitable[Call]]


def list_ms(answer: Answer) -> float:
    """What it costs to read a list."""
    return min(len(answer.body) / LIST_BYTES_A_MS, IN_THREAD_MS - 1)


def accept_all(_: object) -> None:
    """No last look."""


class Calls:
    """Of one incarnation. check_state: asks a node whether it is synced. begin: where submissions run on without their asker."""

    def __init__(
        self,
        primaries: Sequence[BeaconNode],
        fallbacks: Sequence[BeaconNode],
        wins: Wins,
        check_state: Callable[[BeaconNode], Awaitable[None]],
        *,
        off_loop: OffLoop,
        on_fact: OnFact,
    ) -> None:
        self._primaries, self._fallbacks, self._wins, self._check_state = primaries, fallbacks, wins, check_state
        self._off_loop, self._on_fact = off_loop, on_fact
        self._nursery: trio.Nursery | None = None

    def begin(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def usable(self) -> tuple[list[BeaconNode], list[BeaconNode]]:
        """Primaries and fallbacks that are on the right network."""
        good = [[node for node in nodes if not node.is_wrong_network] for nodes in (self._primaries, self._fallbacks)]
        return good[0], good[1]

    def best_primaries(self) -> list[BeaconNode]:
        """The synced ones first, then those that don't say, then the syncing ones; by wins (08 §3.3), then as configured."""
        return sorted(self.usable()[0], key=lambda node: (SYNCED_FIRST[node.is_synced], -self._wins.of(node)))

    def best(self) -> list[BeaconNode]:
        """All nodes on the right network, fallbacks last."""
        return [*self.best_primaries(), *self.usable()[1]]

    async def read(
        self,
        call: Call,
        decode: Callable[[Answer], T],
        limit_s: float,
        *,
        needs_synced: bool = False,
        expected_ms: Callable[[Answer], float] = list_ms,
        accept: Callable[[T], None] = accept_all,
    ) -> T:
        """First good answer of the primaries, else of the fallbacks. Raises: BeaconFault.

        expected_ms: what `decode` costs, which may run elsewhere. accept: a last look, here; raises AnswerFault for what isn't good.
        """

        async def attempt(node: BeaconNode) -> T:
            answer = await node.call(call, limit_s)
            try:
                decoded = await self._off_loop(expected_ms(answer), decode, answer)
                accept(decoded)
                return decoded
            except AnswerFault as fault:
                raise node.failed(f"{call.name}: {fault}", retryable=False) from None
            except Retryable as moment:
                raise node.failed(f"{call.name}: {moment}") from None

        with self._seen(call) as by_fallback:
            primaries, fallbacks = self.usable()
            if needs_synced:
                primaries = await self.synced(primaries)
            try:
                if not primaries:
                    raise AllFailed([_NO_PRIMARY])
                return await race(primaries, attempt)
            except AllFailed as failed:
                fault, failures = failed.as_fault(call.name), failed
            if fallbacks and failures.is_fallback_worthy:
                if needs_synced:
                    fallbacks = await self.synced(fallbacks)
                if fallbacks:
                    by_fallback.append(True)
                    try:
                        return await race(fallbacks, attempt)
                    except AllFailed as failed:
                        raise AllFailed([*failures.failures, *failed.failures]).as_fault(call.name) from None
            raise fault

    async def synced(self, nodes: Sequence[BeaconNode]) -> list[BeaconNode]:
        """Those that are not known to be syncing; if all are, asks them again first."""
        if nodes and all(node.is_synced is False for node in nodes):
            async with trio.open_nursery() as nursery:
                for node in nodes:
                    nursery.start_soon(self._check_state, node)
        return [node for node in nodes if node.is_synced is not False]

    async def submit(self, call: Call, limit_s: float, *, instead: Instead | None = None) -> None:
        """Send to every primary; return at the first success, let the others go on. `instead`: for nodes that answer 415.

        Raises: BeaconFault, when all have failed (after the fallbacks were tried, if that is worth it).
        """
        failures: list[CallFailed] = []
        with self._seen(call) as by_fallback:
            for is_fallback, nodes in enumerate(self.usable()):
                by_fallback.append(bool(is_fallback))
                if nodes:
                    failed = await self._submit_to(nodes, call, instead, limit_s)
                    if failed is None:
                        return
                    failures += failed
                if failures and not any(failure.is_fallback_worthy for failure in failures):
                    break
            raise AllFailed(failures or [_NO_PRIMARY]).as_fault(call.name)

    async def _submit_to(
        self, nodes: Sequence[BeaconNode], call: Call, instead: Instead | None, limit_s: float
    ) -> list[CallFailed] | None:
        assert self._nursery is not None
        send, receive = trio.open_memory_channel[CallFailed | None](len(nodes))  # room for all: nobody ever waits to send
        failures: list[CallFailed] = []
        with receive:
            for node in nodes:
                self._nursery.start_soon(self._submit_one, node, call, instead, limit_s, send)
            for _ in nodes:
                failure = await receive.receive()
                if failure is None:
                    return None
                failures.append(failure)
        return failures

    async def _submit_one(
        self,
        node: BeaconNode,
        call: Call,
        instead: Instead | None,
        limit_s: float,
        send: "trio.MemorySendChannel[CallFailed | None]",
    ) -> None:
        outcome: CallFailed | None = None
        try:
            try:
                await node.call(call, limit_s)
            except CallFailed as failure:
                if failure.status != 415 or instead is None:
                    raise
                await node.call(await instead(), limit_s)
            self._wins.add(node)
        except Retryable as moment:
            outcome = node.failed(f"{call.name}: {moment}")
        except CallFailed as failure:
            if failure.status is None or not is_repeat(failure.body):
                outcome = failure
                log.warning("Submission failed", call=call.name, node=node.label, error=failure.text)
        with suppress(trio.BrokenResourceError):  # the asker has its success, or has left
            send.send_nowait(outcome)

    @contextmanager
    def _seen(self, call: Call) -> Iterator[list[bool]]:
        """Report the call when the block ends; whoever asks a fallback in it says so with `True` in the list."""
        started, by_fallback = trio.current_time(), [False]
        error: str | None = "whoever asked did not wait any longer"
        try:
            yield by_fallback
            error = None
        except Exception as fault:
            error = str(fault)[:200]
            raise
        finally:
            self._on_fact(CallSeen(call.name, trio.current_time() - started, error, by_fallback[-1]))

    async def ask_static(self, node: BeaconNode, call: Call, timeout_s: float) -> Answer:
        """`ask`, of a node that isn't known to be on the right network."""
        return await self.ask(node, call, timeout_s, is_admitted=True)

    async def ask(self, node: BeaconNode, call: Call, timeout_s: float, *, is_admitted: bool = False) -> Answer:
        """This one node; not reported if another one was faster. Raises: CallFailed."""
        started = trio.current_time()
        try:
            answer = await node.call(call, timeout_s, is_admitted=is_admitted)
        except CallFailed as failure:
            self._on_fact(CallSeen(call.name, trio.current_time() - started, failure.text[:200]))
            raise
        self._on_fact(CallSeen(call.name, trio.current_time() - started, None))
        return answer


_NO_PRIMARY: Final = CallFailed(
    "beacon nodes", None, "none is synced and on the right network (syncing)", retryable=True, worthy=True
)
