"""Beacon: speaks to the beacon nodes; everything that other actors want of the chain goes through it.

Accepts     the requests of `messages.py` (ask)
Emits       HeadEvent, ReorgEvent, BlockEvent to the `on_event` it was made with, each once, when the best node or a second one says it
            (`chain_events.py`); the facts of `facts.py`; to `on_chain` the chain when its forks have changed (`chain_facts.py`)
Owns        two HTTP clients, an event stream and a state (`chain_watch.py`) a beacon node; caches of duties and validators
May touch   the beacon nodes. Not: keys, peers, the disk
Mailbox     1024, policy `reject`; at most MAX_IN_FLIGHT requests are worked on, and MAX_PASSED_ON (Forward, OpenEvents)
            besides, more are answered BeaconUnavailable. What unexpectedly goes wrong in one of the latter is a BeaconFault for
            its asker: no client's input ends the actor
Cancelled   an asker that leaves cancels the HTTP calls made for it; a submission runs on to its own time limit on every node
Restart     starts with empty caches and new connections; the chain's facts survive in `KnownChain`
Source      specification 08 §2 to §5, §10; 20 §2.4

What is asked are the rows of `endpoints.py`; what becomes of a call to several nodes is `calls.py`; what is passed on for a client goes
to all primaries, and the first 2xx is streamed (`forwarding.py`).

Differences from Charon, all of them from 08 §3.1 and §13: submissions are not cut off when one node was faster; a node that says it is
syncing makes the fallback nodes work; a lost event stream is always opened again; every beacon node is checked to be on the
right network before its answers count, also one that comes up later.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

import msgspec
import trio

from actors.beacon import messages
from actors.beacon.calls import Calls
from actors.beacon.chain_watch import ChainWatch, KnownChain
from actors.beacon.client_tasks import ClientTasks
from actors.beacon.duties import KnownDuties
from actors.beacon.endpoints import READS, SUBMISSIONS, DutiesRow, Read, Submission
from actors.beacon.events import Events
from actors.beacon.forwarding import Forwarding
from actors.beacon.justified import justified_epoch
from actors.beacon.messages import BeaconFault, BeaconUnavailable, Message
from actors.beacon.node import BeaconNode, Wins
from actors.beacon.sync_status import SyncStatusOf
from actors.beacon.validators import Validators
from actors.facts import OnFact, unheard
from actors.log import get_logger
from actors.mailbox import Inbox, MailboxFull, Reply
from actors.off_loop import Elsewhere, OffLoop
from charon_actors.errors import Retryable, UserError
from charon_actors.eth2 import beacon_api as api
from charon_actors.eth2.beacon_api import AnswerFault, ChainEvent, DutyList, Validator
from charon_actors.eth2.beacon_urls import NodeUrl
from charon_actors.eth2.chain import Chain

log = get_logger("beacon")

MAX_IN_FLIGHT: Final = 512
MAX_PASSED_ON: Final = 256
SECONDS_PER_KEY: Final = 0.05  # 08 §5.1: 200 keys and more take longer than the flag allows


class Settings(msgspec.Struct, frozen=True):
    """primaries: at least one. headers: sent to every node. timeout_s, submit_timeout_s: a request (08 §1).

    cluster_keys: group public keys of the lock, in its order.
    """

    primaries: tuple[NodeUrl, ...]
    fallbacks: tuple[NodeUrl, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 2.0
    submit_timeout_s: float = 2.0
    cluster_keys: tuple[bytes, ...] = ()


PASSED_ON: Final = (messages.Forward, messages.OpenEvents)
ERRORS: Final = (BeaconFault, Retryable, UserError)

Handler = Callable[[Any], Awaitable[Any]]


def _ignore(_: object) -> None:
    pass


class Beacon:
    """One incarnation. on_event, on_chain, on_fact: called in the actor's task, must return at once; MailboxFull from
    `on_event` drops the event. off_loop: for long answers and blocks."""

    def __init__(
        self,
        settings: Settings,
        known: KnownChain,
        *,
        on_event: Callable[[ChainEvent], None] = _ignore,
        on_fact: OnFact = unheard,
        on_chain: Callable[[Chain], None] = _ignore,
        wall_clock: Callable[[], float] = time.time,
        off_loop: OffLoop | None = None,
    ) -> None:
        self._settings, self._known, self._wall_clock = settings, known, wall_clock
        self._on_event, self._on_fact, self._off_loop = on_event, on_fact, off_loop or Elsewhere()
        wins = Wins()
        self._primaries, self._fallbacks = (
            [BeaconNode(url, settings.headers, wins, self._admit) for url in urls]
            for urls in (settings.primaries, settings.fallbacks)
        )
        self._calls = Calls(self._primaries, self._fallbacks, wins, self._check_state, off_loop=self._off_loop, on_fact=on_fact)
        self._watch = ChainWatch(
            known, self._primaries, self._fallbacks, self._calls.ask_static, settings.timeout_s, on_chain, self._calls.best
        )
        keys = settings.cluster_keys
        self._validators = Validators(keys, self._read_validators, self._chain, self._slot, on_fact)
        active = self._validators.active_indices
        self._duties = KnownDuties(frozenset(keys), active, self._read_duties, self._chain, self._slot_now, on_fact)
        self._in_flight = {False: 0, True: 0}  # by whether it is passed on
        self._handlers: dict[type[Any], Handler] = {
            **{kind: partial(self._read, row) for kind, row in READS.items()},
            **{kind: partial(self._submit, row) for kind, row in SUBMISSIONS.items()},
            messages.LoadChain: self._watch.load,
            messages.JustifiedEpoch: self._justified_epoch,
            messages.AttesterDuties: self._duties.attester,
            messages.ProposerDuties: self._duties.proposer,
            messages.SyncDuties: self._duties.sync,
            messages.ClusterValidators: self._validators.of_cluster,
            messages.LookUpValidators: self._validators.look_up,
            messages.SyncStatus: SyncStatusOf(self._calls, settings.timeout_s).ask,
        }

    async def run(self, inbox: Inbox[Message]) -> None:
        async with AsyncExitStack() as stack:
            for node in (*self._primaries, *self._fallbacks):
                await stack.enter_async_context(node.connected())
            async with trio.open_nursery() as nursery:
                self._calls.begin(nursery)
                tasks = ClientTasks(nursery)
                forwarding = Forwarding(tasks, self._calls.usable, self._settings.timeout_s, self._settings.submit_timeout_s)
                events = Events(tasks, self._calls.best_primaries, self._settings.timeout_s, self._on_fact)
                self._handlers[messages.Forward] = forwarding.forward
                self._handlers[messages.OpenEvents] = events.open
                for node in (*self._primaries, *self._fallbacks):
                    nursery.start_soon(self._watch.watch, node)
                for node in self._primaries:
                    nursery.start_soon(events.listen, node, self._publish)
                async for mail in inbox:
                    reply: Reply[Any] = mail.reply_to(mail.message)
                    is_passed_on = isinstance(mail.message, PASSED_ON)
                    limit = MAX_PASSED_ON if is_passed_on else MAX_IN_FLIGHT
                    if self._in_flight[is_passed_on] >= limit:
                        reply.fail(BeaconUnavailable(None, f"more than {limit} requests are under way"))
                        continue
                    self._in_flight[is_passed_on] += 1
                    nursery.start_soon(self._answer, mail.message, reply, tasks if is_passed_on else None)
                nursery.cancel_scope.cancel()

    async def _answer(self, request: Message, reply: Reply[Any], tasks: ClientTasks | None) -> None:
        """tasks: of clients, if this is for one of them."""

        async def handle() -> Any:
            try:
                return await self._handlers[type(request)](request)
            except Exception as error:
                if tasks is None or isinstance(error, ERRORS):
                    raise
                tasks.report(error)
                raise BeaconFault(None, "the request failed by a fault of this node") from None

        try:
            await reply.answer(handle, errors=ERRORS)
        finally:
            self._in_flight[tasks is not None] -= 1

    # rows at work

    async def _read(self, row: Read[Any, Any], request: Any) -> Any:
        """Raises: BeaconFault; ForeignFeeRecipient, if that was all that was wrong with an answer."""
        is_foreign = False

        def accept(result: Any) -> None:
            nonlocal is_foreign
            if reason := row.foreign(result, request):
                is_foreign = True
                raise AnswerFault(reason)

        try:
            return await self._calls.read(
                row.call(request),
                row.decoder(request, self._chain),
                max(self._settings.timeout_s, row.at_least_s),
                needs_synced=row.needs_synced,
                expected_ms=row.expected_ms,
                accept=accept,
            )
        except BeaconFault as fault:
            if is_foreign:
                raise messages.ForeignFeeRecipient(fault.status, fault.text) from None
            raise

    async def _submit(self, row: Submission[Any], request: Any) -> None:
        sending = await row.sending(request, self._chain, self._off_loop)
        if sending is not None:
            limit_s = max(self._settings.submit_timeout_s, row.at_least_s)
            await self._calls.submit(sending.call, limit_s, instead=sending.instead)

    async def _read_duties(self, row: DutiesRow, epoch: int, indices: Sequence[int]) -> DutyList:
        chain = self._chain()
        return await self._calls.read(
            row.call(epoch, indices),
            lambda answer: row.decode(answer, epoch, chain),
            self._time_for(len(indices)),
            needs_synced=row.needs_synced,
        )

    async def _read_validators(self, state: str, ids: Sequence[str]) -> Sequence[Validator]:
        call = api.validators(state, ids)
        return await self._calls.read(call, lambda answer: api.decode_validators(answer.body), self._time_for(len(ids)))

    def _time_for(self, keys: int) -> float:
        return max(self._settings.timeout_s, SECONDS_PER_KEY * keys)

    async def _justified_epoch(self, request: messages.JustifiedEpoch) -> int:
        primaries, fallbacks = [await self._calls.synced(nodes) for nodes in self._calls.usable()]
        limit_s = min(request.within_s, self._settings.timeout_s)
        return await justified_epoch(request, primaries, fallbacks, self._calls.ask, self._chain(), limit_s)

    # what the rows and rooms are told

    async def _admit(self, node: BeaconNode) -> None:
        await self._watch.admit(node)

    async def _check_state(self, node: BeaconNode) -> None:
        await self._watch.check_state(node)

    def _chain(self) -> Chain:
        if self._known.chain is None:
            raise BeaconUnavailable(None, "no beacon node has told the chain's parameters yet")
        return self._known.chain

    def _slot(self) -> int:
        """Below 0 before genesis."""
        return self._chain().slot_at(self._wall_clock())

    def _slot_now(self) -> int:
        return max(self._slot(), 0)

    def _publish(self, event: ChainEvent) -> None:
        """Let the caches know, then the subscriber."""
        if self._known.chain is not None:
            self._duties.hear(event)
        try:
            self._on_event(event)
        except MailboxFull:
            log.warning("Nobody has room for a chain event", slot=event.slot)


def beacon_factory(
    settings: Settings,
    *,
    on_event: Callable[[ChainEvent], None] = _ignore,
    on_fact: OnFact = unheard,
    on_chain: Callable[[Chain], None] = _ignore,
    wall_clock: Callable[[], float] = time.time,
    off_loop: OffLoop | None = None,
) -> Callable[[], Beacon]:
    """What a supervisor calls for each incarnation; they share what is known of the chain."""
    known = KnownChain()
    return lambda: Beacon(
        settings,
        known,
        on_event=on_event,
        on_fact=on_fact,
        on_chain=on_chain,
        wall_clock=wall_clock,
        off_loop=off_loop,
    )
