"""A small OTP-style supervisor for Trio: who is started in which order, who is restarted, who is told, and when to give up.

Theory of operation. A tree is data: `Supervisor`s with `Worker`s as leaves (child specs). `run_supervisor(tree, bodies)` runs it;
`bodies` says what a worker does: an async function, called again for each life ("incarnation") of the worker.

    a child ends by        permanent          transient          temporary
    returning              restart            gone               gone
    an exception           restart            restart            gone
    a UserError            the whole tree ends with it: what only the operator can put right, no restart can
    its supervisor         stopped            stopped            stopped

    strategy       what a restart takes with it
    one_for_one    only the child
    rest_for_one   the child and all that were started after it
    one_for_all    all children of this supervisor

A temporary child that a sibling's restart takes with it is stopped like the others, but never comes back.

Order: children start one after the other, each when the one before has said that it is ready (a plain body is ready at once, a
`Staged` one calls `life.started()`); they stop in reverse order. Stopping a child: its `life.stopping` event is set, it has
`shutdown_s` to return, then it is cancelled. A supervisor that is cancelled from outside stops its children in the same order:
they are shielded from everything but their supervisor.

Restart intensity: more than `intensity` restarts within `period_s` are too many: the supervisor stops its children and raises
`GaveUp`, which for the supervisor above it is a crash of this child (escalation). A restart waits BACKOFF_FIRST_S, doubled for
each restart of the same child within the period, at most BACKOFF_MAX_S, with jitter, so that a crash loop costs nothing.

A `significant` child ends its supervisor normally when it is gone by itself (OTP's auto_shutdown, any_significant): a transient one
that returns, a temporary one that returns or crashes. Stopped with a sibling it doesn't, and a permanent one can't be significant.

Everything that happens is an event (`on_event`): metrics, log and tests listen. Nothing here logs, reads a clock but Trio's, or
draws a random number but from `jitter`. Source: OTP design principles, supervision; architecture §1.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final, Literal

import msgspec
import trio

from actors.facts import Fact
from charon_actors.errors import UserError
from charon_actors.exception_groups import leaves

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
BACKOFF_JITTER: Final = 0.2
START_LIMIT_S: Final = 300.0  # a staged child that is not ready by then has crashed

Restart = Literal["permanent", "transient", "temporary"]
Strategy = Literal["one_for_one", "rest_for_one", "one_for_all"]


class Worker(msgspec.Struct, frozen=True):
    """Child spec of a leaf. shutdown_s: how long it may take to return after `life.stopping`, before it is cancelled.

    Raises: ValueError (permanent and significant: it is never gone).
    """

    name: str
    restart: Restart = "permanent"
    shutdown_s: float = 0.0
    significant: bool = False

    def __post_init__(self) -> None:
        if self.significant and self.restart == "permanent":
            raise ValueError(f"{self.name}: a permanent child is always restarted, so it can't be significant")


class Supervisor(msgspec.Struct, frozen=True):
    """Child spec of a supervisor. intensity: restarts allowed within period_s; the next one makes it give up."""

    name: str
    strategy: Strategy
    intensity: int
    period_s: float
    children: "tuple[Worker | Supervisor, ...]"
    restart: Restart = "permanent"


class Started(Fact, frozen=True):
    path: str
    incarnation: int


class Exited(Fact, frozen=True):
    path: str


class Crashed(Fact, frozen=True):
    """restart_in_s: None when it will not be restarted."""

    path: str
    error: BaseException
    restart_in_s: float | None


class Stopped(Fact, frozen=True):
    """The supervisor ended this child; was_cancelled: it had not returned by itself."""

    path: str
    was_cancelled: bool


class GaveUpRestarting(Fact, frozen=True):
    path: str
    restarts: int
    period_s: float


Event = Started | Exited | Crashed | Stopped | GaveUpRestarting


class GaveUp(Exception):
    """A supervisor saw more restarts than its intensity allows. The last crash is its cause."""


class Life:
    """What a staged body is given: it says when it is ready, and sees when it should stop.

    stopping: set by the supervisor; from then on the body has its worker's `shutdown_s` to return.
    """

    def __init__(self, on_started: Callable[[], None] = lambda: None) -> None:
        self.stopping = trio.Event()
        self.is_started = False
        self._on_started = on_started

    def started(self) -> None:
        """The next child may start now. Idempotent."""
        self.is_started = True
        self._on_started()


class Staged:
    """A body that takes a `Life`: for workers that others must wait for, or that finish something before they stop."""

    def __init__(self, body: Callable[[Life], Awaitable[None]]) -> None:
        self._body = body

    async def __call__(self, life: Life) -> None:
        await self._body(life)


PlainBody = Callable[[], Awaitable[None]]
Body = PlainBody | Staged


def workers(tree: Supervisor) -> Iterator[Worker]:
    """All leaves, in start order."""
    for child in tree.children:
        if isinstance(child, Worker):
            yield child
        else:
            yield from workers(child)


def draw(tree: Supervisor) -> str:
    """The tree as text, for the manual and for operators."""
    return "\n".join(_lines(tree, "", ""))


def _lines(node: Worker | Supervisor, first: str, rest: str) -> Iterator[str]:
    if isinstance(node, Worker):
        yield f"{first}{node.name} ({node.restart})"
        return
    yield f"{first}{node.name} [{node.strategy}, {node.intensity} restarts in {node.period_s:g} s]"
    for number, child in enumerate(node.children, 1):
        is_last = number == len(node.children)
        yield from _lines(child, rest + ("└─ " if is_last else "├─ "), rest + ("   " if is_last else "│  "))


async def run_supervisor(
    tree: Supervisor,
    bodies: Mapping[str, Body],
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    jitter: Callable[[], float] = lambda: 0.5,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Run a tree until it is cancelled, a significant worker is gone, it gives up, or an operator's error ends it.

    bodies: one for each worker's name. on_event: must not raise. jitter: uniform numbers in [0, 1); with the default there is
    none. started: called once, when the first start of all children is through.
    Raises: ValueError (names of tree and bodies differ, or a name twice), GaveUp, UserError.
    Cancellation: stops all children in reverse order, each within its `shutdown_s`, then propagates.
    """
    names = [worker.name for worker in workers(tree)]
    if sorted(names) != sorted(bodies):
        raise ValueError(f"workers and bodies differ: {sorted(set(names) ^ set(bodies)) or 'a name stands twice'}")
    await _Running(tree, tree.name, bodies, on_event, jitter).run(started)


class _Child:
    def __init__(self, spec: Worker | Supervisor, path: str) -> None:
        self.spec, self.path = spec, path
        self.life = Life()
        self.scope = trio.CancelScope()
        self.over = trio.Event()
        self.is_running = self.is_stopping = self.was_cancelled = False
        self.error: BaseException | None = None
        self.incarnations = 0
        self.restarts: deque[float] = deque()
        self.restart_at: float | None = None


class _Running:
    """One supervisor at work. Only `run` changes state; the tasks of the children report through `_ended`."""

    def __init__(
        self,
        spec: Supervisor,
        path: str,
        bodies: Mapping[str, Body],
        on_event: Callable[[Event], None],
        jitter: Callable[[], float],
    ) -> None:
        self._spec, self._path, self._bodies, self._on_event, self._jitter = spec, path, bodies, on_event, jitter
        self._children = [_Child(child, f"{path}/{child.name}") for child in spec.children]
        self._ended: deque[_Child] = deque()
        self._something_happened = trio.Event()
        self._restarts: deque[float] = deque()

    async def run(self, started: Callable[[], None]) -> None:
        outcome: BaseException | None = None
        async with trio.open_nursery() as nursery:
            try:
                is_done = await self._start(self._children, nursery)
                started()
                while not is_done:
                    due = [child.restart_at for child in self._children if child.restart_at is not None]
                    await self._wait_until(min(due, default=trio.current_time() + 3600))
                    is_done = await self._handle_exits() or await self._start_what_is_due(nursery)
            except (Exception, BaseExceptionGroup) as error:
                outcome = error
            finally:
                with trio.CancelScope(shield=True):
                    await self._stop(self._children)
        if outcome is not None:
            raise outcome  # outside of the nursery, so that it is not wrapped

    async def _start(self, children: list[_Child], nursery: trio.Nursery) -> bool:
        """Start in order, each when the one before is ready. True: a significant worker is gone meanwhile."""
        for child in children:
            child.life, child.scope, child.over = Life(self._wake), trio.CancelScope(shield=True), trio.Event()
            child.is_running, child.is_stopping, child.was_cancelled = True, False, False
            child.error, child.restart_at = None, None
            child.incarnations += 1
            nursery.start_soon(self._live, child, name=child.path)
            limit = trio.current_time() + START_LIMIT_S
            while child.is_running and not child.life.is_started and trio.current_time() < limit:
                await self._wait_until(limit)
                if await self._handle_exits():
                    return True
            if child.is_running and not child.life.is_started:
                await self._stop([child])
                child.error = TimeoutError(f"{child.path} was not ready within {START_LIMIT_S:g} s")
                self._report_end(child)
            elif child.is_running:
                self._on_event(Started(child.path, child.incarnations))
        return False

    def _wake(self) -> None:
        self._something_happened.set()

    async def _wait_until(self, deadline: float) -> None:
        with trio.move_on_at(deadline):
            await self._something_happened.wait()
        self._something_happened = trio.Event()

    async def _live(self, child: _Child) -> None:
        try:
            with child.scope:
                if isinstance(child.spec, Supervisor):
                    nested = _Running(child.spec, child.path, self._bodies, self._on_event, self._jitter)
                    await nested.run(child.life.started)
                else:
                    body = self._bodies[child.spec.name]
                    if isinstance(body, Staged):
                        await body(child.life)
                    else:
                        child.life.started()
                        await body()
        except (Exception, BaseExceptionGroup) as error:
            if not isinstance(error, Exception):
                raise  # a KeyboardInterrupt is in the group: nobody may survive that
            child.error = error
        finally:
            child.is_running = False
            child.life.started()
            child.over.set()
            if not child.is_stopping:
                self._report_end(child)

    def _report_end(self, child: _Child) -> None:
        self._ended.append(child)
        self._wake()

    async def _handle_exits(self) -> bool:
        """Restart, forget or give up. True: a significant worker is gone, this supervisor is done."""
        while self._ended:
            child = self._ended.popleft()
            if child.error is not None:
                for leaf in leaves(child.error):
                    if isinstance(leaf, UserError):
                        self._on_event(Crashed(child.path, child.error, None))
                        raise leaf
            restarts = child.spec.restart == "permanent" or (child.spec.restart == "transient" and child.error is not None)
            if not restarts:
                self._on_event(Exited(child.path) if child.error is None else Crashed(child.path, child.error, None))
                if isinstance(child.spec, Worker) and child.spec.significant:
                    return True
                continue
            await self._plan_restart(child)
        return False

    async def _plan_restart(self, child: _Child) -> None:
        now = trio.current_time()
        for times in (self._restarts, child.restarts):
            times.append(now)
            while times[0] <= now - self._spec.period_s:
                times.popleft()
        if len(self._restarts) > self._spec.intensity:
            self._on_event(Crashed(child.path, child.error, None) if child.error else Exited(child.path))
            self._on_event(GaveUpRestarting(self._path, len(self._restarts), self._spec.period_s))
            raise GaveUp(
                f"{self._path} gave up: more than {self._spec.intensity} restarts within {self._spec.period_s:g} s, "
                f"the last of {child.spec.name}"
            ) from child.error
        backoff_s = min(BACKOFF_FIRST_S * 2 ** (len(child.restarts) - 1), BACKOFF_MAX_S)
        backoff_s *= 1 + BACKOFF_JITTER * (2 * self._jitter() - 1)
        self._on_event(Crashed(child.path, child.error, backoff_s) if child.error else Exited(child.path))
        first = self._children.index(child)
        match self._spec.strategy:
            case "one_for_one":
                together = [child]
            case "rest_for_one":
                together = self._children[first:]
            case "one_for_all":
                together = self._children
        waiting = [each for each in together if each.is_running or each.restart_at is not None or each is child]
        await self._stop(waiting)
        for each in waiting:
            if each.spec.restart != "temporary":
                each.restart_at = trio.current_time() + backoff_s

    async def _start_what_is_due(self, nursery: trio.Nursery) -> bool:
        now = trio.current_time()
        due = [child for child in self._children if child.restart_at is not None and child.restart_at <= now]
        return await self._start(due, nursery)

    async def _stop(self, children: list[_Child]) -> None:
        """Stop those that run, last first. Takes at most the sum of their `shutdown_s` and what their cleanup takes."""
        for child in reversed(children):
            child.restart_at = None
            if not child.is_running:
                continue
            child.is_stopping = True
            child.life.stopping.set()
            if isinstance(child.spec, Worker) and child.spec.shutdown_s > 0:
                with trio.move_on_after(child.spec.shutdown_s):
                    await child.over.wait()
            if child.is_running:
                child.was_cancelled = True
                child.scope.cancel()
                await child.over.wait()
            self._on_event(Stopped(child.path, child.was_cancelled))
