"""Mailboxes: how actors are addressed, and what happens to mail when an actor crashes, restarts or stops.

Theory of operation. A `Mailbox` belongs to an actor's place in the tree, not to one life of it. Each life ("incarnation") opens
the mailbox, reads its `Inbox` and is gone; the `Address` that others hold stays the same. Mail is in one of three states:

    state      what it is                          incarnation crashes          mailbox is closed for good
    queued     nobody has read it yet              stays, the next one reads it  ask: ActorDown · tell: forgotten, counted
    taken      read by an incarnation, no answer   ask: ActorDown                ask: ActorDown
    answered   the reply was sent                  –                             –

So an ask always ends: in the reply, in the actor's own error, in `ActorDown`, in `MailboxFull`, or in the caller's cancellation,
which leaves nothing behind (queued mail is taken out again; a taken one is marked `abandoned`, so that work for it can stop).

A mailbox is bounded. When it is full, its policy decides:

    policy        tell                                        ask
    REJECT        raises MailboxFull                          raises MailboxFull
    DROP_OLDEST   the oldest mail leaves (an ask in it: MailboxFull), counted
    WAIT          raises MailboxFull, for tell never waits;   waits for room
                  `await deliver(...)` waits for room

Everything happens in one Trio thread; there are no locks. Source: architecture §2; the words are Erlang/OTP's.
"""

import enum
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import trio

from actors.beside import beside
from charon_actors.errors import Retryable

R = TypeVar("R")
M = TypeVar("M")
MessageIn = TypeVar("MessageIn", contravariant=True)


class Policy(enum.Enum):
    """What a full mailbox does with the next message (table above)."""

    REJECT = "reject"
    DROP_OLDEST = "drop oldest"
    WAIT = "wait"


class ActorDown(Retryable):
    """The incarnation that had read the request died before it answered, or the actor has stopped. Ask again if you still can."""


class MailboxFull(Retryable):
    """The actor has more mail than its bound allows; nothing was queued."""


class Unanswered(Exception):
    """The actor read a request and went on without taking its reply: a bug of that actor."""


class Request(msgspec.Struct, Generic[R], frozen=True):
    """A message that wants an answer of type `R`: `class FetchBlock(Request[bytes], frozen=True): slot: int`."""


class Reply(Generic[R]):
    """The way back to one asker. Exactly one of `send` and `fail` counts, the first; later ones are ignored.

    `is_abandoned` is true once the asker has left (its deadline passed, it was cancelled).
    """

    __slots__ = ("_answer_scope", "_answered", "_error", "_is_abandoned", "_on_end", "_value")

    def __init__(self) -> None:
        self._answered = trio.Event()
        self._value: R | None = None
        self._error: BaseException | None = None
        self._is_abandoned = False
        self._answer_scope: trio.CancelScope | None = None
        self._on_end: Callable[[Reply[R]], None] | None = None

    @property
    def is_abandoned(self) -> bool:
        return self._is_abandoned

    @property
    def is_over(self) -> bool:
        """Answered, or nobody waits any more."""
        return self._is_abandoned or self._answered.is_set()

    def send(self, value: R) -> None:
        """Answer the asker."""
        self._finish(value, None)

    def fail(self, error: Exception) -> None:
        """Let the asker's `ask` raise `error`."""
        self._finish(None, error)

    async def answer(
        self, function: Callable[..., Awaitable[R]], *args: object, errors: tuple[type[Exception], ...] = (Retryable,)
    ) -> None:
        """Run `function(*args)` for the asker and send what it returns.

        An exception of one of the types in `errors` is the answer; any other one is the actor's own and propagates.
        Cancellation: when the asker leaves, `function` is cancelled and this returns; when the actor's own scope is cancelled,
        that propagates and the asker gets ActorDown with the end of the incarnation.
        """
        if self.is_over:
            return
        with trio.CancelScope() as self._answer_scope:
            try:
                value = await function(*args)
            except errors as error:
                self.fail(error)
            else:
                self.send(value)
        self._answer_scope = None

    async def _wait(self) -> R:
        try:
            await self._answered.wait()
        except BaseException:
            self._is_abandoned = True
            if self._answer_scope is not None:
                self._answer_scope.cancel()
            self._end()
            raise
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # R may itself be optional; _finish has set it

    def _finish(self, value: R | None, error: BaseException | None) -> None:
        if self.is_over:
            return
        self._value, self._error = value, error
        self._answered.set()
        self._end()

    def _end(self) -> None:
        if self._on_end is not None:
            self._on_end(self)
            self._on_end = None


class Mail(Generic[M]):
    """One message as the actor sees it."""

    __slots__ = ("_claimed", "_reply", "message")

    def __init__(self, message: M, reply: Reply[Any] | None) -> None:
        self.message = message
        self._reply = reply
        self._claimed = False

    def reply_to(self, request: Request[R]) -> Reply[R]:
        """The reply of this mail, typed by its request; every request that an actor reads must be claimed this way.

        A request that came by `tell` has nobody to answer; its reply goes nowhere.
        """
        assert request is self.message, "a reply belongs to the request that asked for it"
        self._claimed = True
        if self._reply is None:
            self._reply = Reply()
        return self._reply


class Statistics(msgspec.Struct, frozen=True):
    """Counts since the mailbox was made, but for `queued` and `taken`, which are as of now."""

    queued: int
    taken: int
    capacity: int
    delivered: int
    rejected: int
    dropped: int
    incarnations: int


class Address(Protocol[MessageIn]):
    """What others hold of an actor. It stays valid while the actor crashes and restarts."""

    @property
    def name(self) -> str: ...

    def tell(self, message: MessageIn) -> None:
        """Queue `message` and return at once. Raises: MailboxFull (policies REJECT and WAIT); ActorDown if it stopped for good."""

    async def deliver(self, message: MessageIn) -> None:
        """Queue `message`, waiting for room under the policy WAIT; otherwise like `tell`. Cancelled while waiting: not queued."""

    async def ask(self, request: Request[R]) -> R:
        """Queue `request` and wait for its answer.

        Raises: the actor's typed error; ActorDown (its incarnation died with the request in hand, or it stopped for good);
        MailboxFull (policies REJECT and DROP_OLDEST).
        Cancellation: at any time, and nothing stays behind. There is no time limit but the caller's own cancel scope.
        """


class Inbox(Generic[M]):
    """What one incarnation reads: `async for mail in inbox`. Ends when the mailbox is closed for good."""

    def __init__(self, mailbox: "Mailbox[M]") -> None:
        self._mailbox = mailbox
        self._last: Mail[M] | None = None

    def __aiter__(self) -> "Inbox[M]":
        return self

    async def __anext__(self) -> Mail[M]:
        """The next mail. Cancelled while waiting: nothing is lost."""
        self._check_last_was_claimed()
        await trio.lowlevel.checkpoint()
        mail = await self._mailbox._take(self)
        self._last = mail
        return mail

    def _check_last_was_claimed(self) -> None:
        last, self._last = self._last, None
        if last is not None and last._reply is not None and not last._claimed:
            last._reply.fail(Unanswered(f"{self._mailbox.name} did not answer {type(last.message).__name__}"))


class Mailbox(Generic[M]):
    """A place for mail with a bound and a policy; see the table on top.

    name: of the actor, in errors and logs. capacity: queued messages, at least one; mail that was taken does not count.
    """

    def __init__(self, name: str, capacity: int = 1024, policy: Policy = Policy.REJECT) -> None:
        if capacity < 1:
            raise ValueError(f"mailbox {name}: capacity must be at least 1")
        self.name = name
        self._capacity, self._policy = capacity, policy
        self._queue: deque[Mail[M]] = deque()
        self._taken: set[Reply[Any]] = set()
        self._reader: Inbox[M] | None = None
        self._is_closed = False
        self._mail_came = trio.lowlevel.ParkingLot()
        self._room_came = trio.lowlevel.ParkingLot()
        self._delivered = self._rejected = self._dropped = self._incarnations = 0

    @property
    def address(self) -> Address[M]:
        return self

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def statistics(self) -> Statistics:
        return Statistics(
            len(self._queue),
            len(self._taken),
            self._capacity,
            self._delivered,
            self._rejected,
            self._dropped,
            self._incarnations,
        )

    # the side of the askers

    def tell(self, message: M) -> None:
        self._put(Mail(message, None))

    async def deliver(self, message: M) -> None:
        await self._wait_for_room()
        self._put(Mail(message, None))

    async def ask(self, request: Request[R]) -> R:
        await self._wait_for_room()
        reply: Reply[R] = Reply()
        mail: Mail[Any] = Mail(request, reply)
        self._put(mail)
        try:
            return await reply._wait()
        except BaseException:
            if reply.is_abandoned:
                self._take_back(mail)
            raise

    async def _wait_for_room(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._policy is Policy.WAIT and len(self._queue) >= self._capacity and not self._is_closed:
            await self._room_came.park()

    def _put(self, mail: Mail[M]) -> None:
        if self._is_closed:
            raise ActorDown(f"{self.name} has stopped")
        if len(self._queue) >= self._capacity:
            if self._policy is not Policy.DROP_OLDEST:
                self._rejected += 1
                raise MailboxFull(f"{self.name} has {self._capacity} messages waiting")
            oldest = self._queue.popleft()
            self._dropped += 1
            if oldest._reply is not None:
                oldest._reply.fail(MailboxFull(f"{self.name} has more than {self._capacity} messages waiting"))
        self._queue.append(mail)
        self._mail_came.unpark()

    def _take_back(self, mail: Mail[M]) -> None:
        try:
            self._queue.remove(mail)
        except ValueError:
            return
        self._room_came.unpark()

    # the side of the incarnations

    @contextmanager
    def open(self) -> Iterator[Inbox[M]]:
        """Begin an incarnation. At the end of the block, whatever it took and did not answer fails with ActorDown."""
        assert self._reader is None, f"{self.name} is already running"
        if self._is_closed:
            raise ActorDown(f"{self.name} has stopped")
        self._incarnations += 1
        inbox = self._reader = Inbox(self)
        try:
            yield inbox
        finally:
            self._reader = None
            self._fail_taken()

    def close(self) -> None:
        """Stop for good: every asker gets ActorDown, now and from now on. Idempotent."""
        self._is_closed = True
        queued, self._queue = self._queue, deque()
        for mail in queued:
            if mail._reply is None:
                self._dropped += 1
            else:
                mail._reply.fail(ActorDown(f"{self.name} has stopped"))
        self._fail_taken()
        self._mail_came.unpark_all()
        self._room_came.unpark_all()

    async def _take(self, inbox: Inbox[M]) -> Mail[M]:
        while True:
            assert self._reader is inbox, f"{self.name}: an inbox outlived its incarnation"
            if self._queue:
                break
            if self._is_closed:
                raise StopAsyncIteration
            await self._mail_came.park()
        mail = self._queue.popleft()
        self._delivered += 1
        self._room_came.unpark()
        if mail._reply is not None:
            self._taken.add(mail._reply)
            mail._reply._on_end = self._taken.discard
        return mail

    def _fail_taken(self) -> None:
        for reply in list(self._taken):
            reply.fail(ActorDown(f"{self.name} went down with the request in hand"))


class Actor(Protocol[M]):
    """State and behaviour of one incarnation."""

    async def run(self, inbox: Inbox[M]) -> None:
        """Handle mail until the inbox ends, the scope is cancelled or something unexpected is raised."""


async def run_incarnation(mailbox: Mailbox[M], factory: Callable[[], Actor[M]]) -> None:
    """One life of an actor: open its mailbox, make it, run it. What a supervisor starts again after a crash."""
    with mailbox.open() as inbox:
        await factory().run(inbox)


@asynccontextmanager
async def open_actor(mailbox: Mailbox[M], factory: Callable[[], Actor[M]]) -> AsyncIterator[Address[M]]:
    """Run one incarnation in the background of the block, without a supervisor, and stop it for good at the end.

    Raises: whatever the actor raises, which cancels the block; what the block raises, as itself (`beside.py`).
    """
    async with beside(partial(run_incarnation, mailbox, factory)):
        try:
            yield mailbox.address
        finally:
            mailbox.close()
