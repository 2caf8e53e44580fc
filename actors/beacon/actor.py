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

    kind of call    asks                                                    answer                             fallback nodes
    read            all primaries (for duties and data: the synced ones)    first good one, rest cancelled     if all failed, if worth it
    submission      all primaries, each to its own time limit               first success, or known already    likewise
    forward         all primaries                                           first 2xx, streamed                likewise

Differences from Charon, all of them from 08 §3.1 and §13: submissions are not cut off when one node was faster; a node that says it is
syncing makes the fallback nodes work; a lost event stream is always opened again; every beacon node is checked to be on the
right network before its answers count, also one that comes up later.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import structlog
import trio

from actors.beacon import messages
from actors.beacon.chain_watch import ChainWatch, KnownChain
from actors.beacon.client_tasks import ClientTasks
from actors.beacon.duties_cache import DutiesCache
from actors.beacon.events import Events
from actors.beacon.facts import CacheSeen, CallSeen
from actors.beacon.forwarding import Forwarding
from actors.beacon.justified import justified_epoch
from actors.beacon.messages import BeaconFault, BeaconUnavailable, DutiesAnswer, Message, SyncState
from actors.beacon.node import BeaconNode, CallFailed, Wins
from actors.beacon.race import AllFailed, race
from actors.beacon.validators_cache import ValidatorsCache
from actors.facts import OnFact, unheard
from actors.mailbox import Inbox, MailboxFull, Reply
from actors.off_loop import IN_THREAD_MS, JSON_BYTES_A_MS, Elsewhere, OffLoop, json_ms
from charon_actors.bounded_json import BLOCK
from charon_actors.errors import Retryable, UserError
from charon_actors.eth2 import beacon_api as api
from charon_actors.eth2.beacon_api import Answer, AnswerFault, Call, ChainEvent, DutyList, NodeUrl, Validator
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.containers import proposal_type, signed_proposal_type
from charon_actors.eth2.forks import Fork, UnknownFork, fork_from_label
from charon_actors.eth2.preset import Preset
from charon_actors.eth2.signed_data import EncodingFault, SignedProposal
from charon_actors.eth2.ssz import SszFault
from charon_actors.eth2.unsigned_data import AttestationData, AttesterDefinition, Proposal, foreign_text, pays

log = structlog.get_logger(topic="beacon")
T = TypeVar("T")

MAX_IN_FLIGHT: Final = 512
MAX_PASSED_ON: Final = 256
BLOCK_TIMEOUT_S: Final = 4.0  # blocks may take longer than the flags say (08 §13); a proposal is late after 5 s anyway
SYNC_STATUS_AGE_S: Final = 1.0
IDS_PER_CALL: Final = 500  # 08 §13
FETCHES: Final = 3  # of duties, until none is missing
LIST_BYTES_A_MS: Final = 40_000  # of JSON, read and made into duties or validators
SSZ_BYTES_A_MS: Final = 1_000_000  # checked
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


Instead = Callable[[], Awaitable[Call]]
SYNCED_FIRST: Final = {True: 0, None: 1, False: 2}
PASSED_ON: Final = (messages.Forward, messages.OpenEvents)
ERRORS: Final = (BeaconFault, Retryable, UserError)


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
        self._off_loop = off_loop or Elsewhere()
        self._on_event, self._on_fact = on_event, on_fact
        self._wins = Wins()
        self._primaries, self._fallbacks = (
            [BeaconNode(url, settings.headers, self._wins, self._admit) for url in urls]
            for urls in (settings.primaries, settings.fallbacks)
        )
        self._watch = ChainWatch(
            known, self._primaries, self._fallbacks, self._ask_static, settings.timeout_s, on_chain, self._best
        )
        self._cluster = frozenset(settings.cluster_keys)
        self._attester, self._sync = DutiesCache(1), DutiesCache(0)
        self._proposer = {1: DutiesCache(0), 2: DutiesCache(1)}
        self._locks: dict[tuple[str, int], trio.Lock] = {}
        self._validators, self._validators_lock = ValidatorsCache(), trio.Lock()
        self._sync_state: tuple[float, SyncState] | None = None
        self._sync_state_lock = trio.Lock()
        self._in_flight = {False: 0, True: 0}  # by whether it is passed on
        self._nursery: trio.Nursery | None = None
        self._handlers: dict[type[Any], Callable[[Any], Awaitable[Any]]] = {
            messages.LoadChain: self._watch.load,
            messages.FetchAttestationData: self._fetch_attestation_data,
            messages.JustifiedEpoch: self._justified_epoch,
            messages.ProduceBlock: self._produce_block,
            messages.AttesterDuties: self._attester_duties,
            messages.ProposerDuties: self._proposer_duties,
            messages.SyncDuties: self._sync_duties,
            messages.ClusterValidators: self._cluster_validators,
            messages.LookUpValidators: self._look_up_validators,
            messages.SubmitAttestations: self._submit_attestations,
            messages.SubmitProposal: self._submit_proposal,
            messages.PrepareProposers: self._prepare_proposers,
            messages.RegisterValidators: self._register_validators,
            messages.SyncStatus: self._sync_status,
            messages.NodeVersion: self._node_version,
        }

    async def run(self, inbox: Inbox[Message]) -> None:
        async with AsyncExitStack() as stack:
            for node in (*self._primaries, *self._fallbacks):
                await stack.enter_async_context(node.connected())
            async with trio.open_nursery() as nursery:
                self._nursery, tasks = nursery, ClientTasks(nursery)
                forwarding = Forwarding(tasks, self._usable, self._settings.timeout_s, self._settings.submit_timeout_s)
                events = Events(tasks, self._best_primaries, self._settings.timeout_s, self._on_fact)
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

    async def _ask_static(self, node: BeaconNode, call: Call, timeout_s: float) -> Answer:
        return await self._ask(node, call, timeout_s, is_admitted=True)

    async def _ask(self, node: BeaconNode, call: Call, timeout_s: float, *, is_admitted: bool = False) -> Answer:
        """This one node; not reported if another one was faster. Raises: CallFailed."""
        started = trio.current_time()
        try:
            answer = await node.call(call, timeout_s, is_admitted=is_admitted)
        except CallFailed as failure:
            self._on_fact(CallSeen(call.name, trio.current_time() - started, failure.text[:200]))
            raise
        self._on_fact(CallSeen(call.name, trio.current_time() - started, None))
        return answer

    # -- which nodes, and what became of the call ----------------------------------------------------------------------------

    def _usable(self) -> tuple[list[BeaconNode], list[BeaconNode]]:
        """Primaries and fallbacks that are on the right network."""
        good = [[node for node in nodes if not node.is_wrong_network] for nodes in (self._primaries, self._fallbacks)]
        return good[0], good[1]

    async def _admit(self, node: BeaconNode) -> None:
        await self._watch.admit(node)

    def _best_primaries(self) -> list[BeaconNode]:
        """The synced ones first, then those that don't say, then the syncing ones; by wins (08 §3.3), then as configured."""
        return sorted(self._usable()[0], key=lambda node: (SYNCED_FIRST[node.is_synced], -self._wins.of(node)))

    def _best(self) -> list[BeaconNode]:
        """All nodes on the right network, fallbacks last."""
        return [*self._best_primaries(), *self._usable()[1]]

    async def _read(
        self,
        call: Call,
        decode: Callable[[Answer], T],
        timeout_s: float | None = None,
        *,
        needs_synced: bool = False,
        expected_ms: Callable[[Answer], float] = lambda answer: min(len(answer.body) / LIST_BYTES_A_MS, IN_THREAD_MS - 1),
        accept: Callable[[T], None] = _ignore,
    ) -> T:
        """First good answer of the primaries, else of the fallbacks. Raises: BeaconFault.

        expected_ms: what `decode` costs, which may run elsewhere. accept: a last look, here; raises AnswerFault for what isn't good.
        """
        limit_s = self._settings.timeout_s if timeout_s is None else timeout_s

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
            primaries, fallbacks = self._usable()
            if needs_synced:
                primaries = await self._synced(primaries)
            try:
                if not primaries:
                    raise AllFailed([_NO_PRIMARY])
                return await race(primaries, attempt)
            except AllFailed as failed:
                fault, failures = failed.as_fault(call.name), failed
            if fallbacks and failures.is_fallback_worthy:
                if needs_synced:
                    fallbacks = await self._synced(fallbacks)
                if fallbacks:
                    by_fallback.append(True)
                    try:
                        return await race(fallbacks, attempt)
                    except AllFailed as failed:
                        raise AllFailed([*failures.failures, *failed.failures]).as_fault(call.name) from None
            raise fault

    async def _synced(self, nodes: Sequence[BeaconNode]) -> list[BeaconNode]:
        """Those that are not known to be syncing; if all are, ask them again first."""
        if nodes and all(node.is_synced is False for node in nodes):
            async with trio.open_nursery() as nursery:
                for node in nodes:
                    nursery.start_soon(self._watch.check_state, node)
        return [node for node in nodes if node.is_synced is not False]

    async def _submit(self, call: Call, timeout_s: float | None = None, *, instead: Instead | None = None) -> None:
        """Send to every primary; return at the first success, let the others go on. `instead`: for nodes that answer 415.

        Raises: BeaconFault, when all have failed (after the fallbacks were tried, if that is worth it).
        """
        limit_s = self._settings.submit_timeout_s if timeout_s is None else timeout_s
        failures: list[CallFailed] = []
        with self._seen(call) as by_fallback:
            for is_fallback, nodes in enumerate(self._usable()):
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
            if failure.status is None or not api.is_repeat(failure.body):
                outcome = failure
                log.warning("submission failed", call=call.name, node=node.label, error=failure.text)
        with suppress(trio.BrokenResourceError):  # the asker has its success, or has left
            send.send_nowait(outcome)

    # -- reads ----------------------------------------------------------------------------------------------------------------

    def _chain(self) -> Chain:
        if self._known.chain is None:
            raise BeaconUnavailable(None, "no beacon node has told the chain's parameters yet")
        return self._known.chain

    def _current_epoch(self, chain: Chain) -> int:
        return chain.epoch_of(max(chain.slot_at(self._wall_clock()), 0))

    async def _fetch_attestation_data(self, request: messages.FetchAttestationData) -> AttestationData:
        slots_per_epoch = self._chain().slots_per_epoch
        return await self._read(
            api.attestation_data(request.slot, request.committee_index),
            lambda answer: api.decode_attestation_data(answer.body, request.slot, request.committee_index, slots_per_epoch),
            needs_synced=True,
        )

    async def _justified_epoch(self, request: messages.JustifiedEpoch) -> int:
        primaries, fallbacks = [await self._synced(nodes) for nodes in self._usable()]
        limit_s = min(request.within_s, self._settings.timeout_s)
        return await justified_epoch(request, primaries, fallbacks, self._ask, self._chain().slots_per_epoch, limit_s)

    async def _produce_block(self, request: messages.ProduceBlock) -> Proposal:
        chain = self._chain()
        is_foreign = False

        def accept(proposal: Proposal) -> None:
            nonlocal is_foreign
            if request.fee_recipient and not pays(proposal, request.fee_recipient):
                is_foreign = True
                raise AnswerFault(foreign_text(proposal, request.fee_recipient))

        call = api.produce_block(request.slot, request.randao, request.graffiti, request.builder_boost)
        try:
            return await self._read(
                call,
                partial(decode_wanted_proposal, chain=chain, slot=request.slot, randao=request.randao),
                max(self._settings.timeout_s, BLOCK_TIMEOUT_S),
                needs_synced=True,
                expected_ms=lambda answer: len(answer.body) / SSZ_BYTES_A_MS if answer.is_ssz else json_ms(answer.body),
                accept=accept,
            )
        except BeaconFault as fault:
            if is_foreign:
                raise messages.ForeignFeeRecipient(fault.status, fault.text) from None
            raise

    @asynccontextmanager
    async def _alone(self, kind: str, epoch: int) -> AsyncIterator[None]:
        """One question a kind and epoch at a time: whoever comes second finds the answer in the cache."""
        lock = self._locks.setdefault((kind, epoch), trio.Lock())
        try:
            async with lock:
                yield
        finally:
            statistics = lock.statistics()
            if not statistics.locked and not statistics.tasks_waiting:
                self._locks.pop((kind, epoch), None)

    async def _attester_duties(self, request: messages.AttesterDuties) -> DutiesAnswer:
        chain, epoch = self._chain(), request.epoch

        async def fetch(indices: Sequence[int]) -> DutyList:
            return await self._read(
                api.attester_duties(epoch, indices),
                lambda answer: api.decode_attester_duties(answer.body, epoch, chain.slots_per_epoch),
                self._time_for(len(indices)),
                needs_synced=True,
            )

        return await self._duties("attester", self._attester, epoch, request.indices, fetch)

    async def _sync_duties(self, request: messages.SyncDuties) -> DutiesAnswer:
        async def fetch(indices: Sequence[int]) -> DutyList:
            call = api.sync_duties(request.epoch, indices)
            return await self._read(call, lambda answer: api.decode_sync_duties(answer.body), self._time_for(len(indices)))

        return await self._duties("sync", self._sync, request.epoch, request.indices, fetch)

    async def _duties(
        self,
        kind: str,
        cache: DutiesCache,
        epoch: int,
        indices: Sequence[int],
        fetch: Callable[[Sequence[int]], Awaitable[DutyList]],
    ) -> DutiesAnswer:
        chain = self._chain()
        if not indices:
            await self._refresh_validators()
            indices = self._validators.active_indices()
        if not indices:
            return DutiesAnswer((), bytes(32), False)
        async with self._alone(kind, epoch):
            current = self._current_epoch(chain)
            missing = cache.missing(epoch, current, indices)
            self._note_cache(cache, not missing)
            for _ in range(FETCHES):  # what was known may be dropped while the rest is asked for
                if not missing:
                    break
                answer = of_those_asked(await fetch(missing), missing)
                if not cache.add(epoch, current, missing, answer):
                    cache.add(epoch, current, indices, of_those_asked(await fetch(indices), indices))
                missing = cache.missing(epoch, current, indices)
            entry = None if missing else cache.entry(epoch, current)
        if entry is None:  # the epoch's end, or another chain, in the very moment
            raise BeaconUnavailable(None, f"{kind} duties of epoch {epoch} changed while they were asked for")
        wanted = set(indices)
        duties = tuple(duty for (index, _), duty in entry.duties.items() if index in wanted)
        return DutiesAnswer(duties, entry.dependent_root, entry.execution_optimistic)

    async def _proposer_duties(self, request: messages.ProposerDuties) -> DutiesAnswer:
        chain, epoch, cache = self._chain(), request.epoch, self._proposer[2 if request.version == 2 else 1]

        async def fetch(version: int) -> DutyList:
            return await self._read(
                api.proposer_duties(epoch, version),
                lambda answer: api.decode_proposer_duties(answer.body, epoch, chain.slots_per_epoch),
            )

        async with self._alone(f"proposer v{request.version}", epoch):
            current = self._current_epoch(chain)
            entry = cache.entry(epoch, current)
            self._note_cache(cache, entry is not None)
            if entry is None:
                try:
                    answer = await fetch(request.version)
                except BeaconFault as fault:
                    if request.version != 2 or fault.status not in (404, 405, 501):
                        raise
                    answer = await fetch(1)
                ours = tuple(duty for duty in answer.duties if duty.pubkey in self._cluster)
                cache.add(epoch, current, (), DutyList(ours, answer.dependent_root, answer.execution_optimistic))
                entry = cache.entry(epoch, current)
        if entry is None:
            raise BeaconUnavailable(None, f"proposer duties of epoch {epoch} changed while they were asked for")
        return DutiesAnswer(tuple(entry.duties.values()), entry.dependent_root, entry.execution_optimistic)

    def _note_cache(self, cache: DutiesCache, is_hit: bool) -> None:
        self._on_fact(CacheSeen(self._cache_name(cache), "hits" if is_hit else "misses"))

    def _cache_name(self, cache: DutiesCache) -> str:
        return (
            "attester_duties"
            if cache is self._attester
            else "sync_committee_duties"
            if cache is self._sync
            else "proposer_duties"
        )

    def _time_for(self, keys: int) -> float:
        return max(self._settings.timeout_s, SECONDS_PER_KEY * keys)

    async def _cluster_validators(self, request: messages.ClusterValidators) -> tuple[Validator, ...]:
        wanted = request.pubkeys or self._settings.cluster_keys
        await self._refresh_validators()
        known = {key: self._validators.get(key) for key in wanted}
        unknown = [key for key, validator in known.items() if validator is None]
        found = await self._ask_for_validators(request.state, unknown) if unknown else ()
        return (*(validator for validator in known.values() if validator is not None), *found)

    async def _refresh_validators(self) -> None:
        chain = self._chain()
        async with self._validators_lock:
            slot = chain.slot_at(self._wall_clock())
            states = self._validators.states_to_ask(slot, chain.slots_per_epoch)
            self._on_fact(CacheSeen("validators", "misses" if states else "hits"))
            for state in states:
                try:
                    found = await self._ask_for_validators(state, self._settings.cluster_keys)
                except BeaconFault:
                    if state == states[-1]:
                        raise
                else:
                    self._validators.replace(slot, chain.slots_per_epoch, state, found)
                    return

    async def _ask_for_validators(self, state: str, keys: Sequence[bytes]) -> tuple[Validator, ...]:
        wanted = frozenset(keys)
        found = await self._ask_by_id(state, [f"0x{key.hex()}" for key in keys])
        return tuple(validator for validator in found if validator.pubkey in wanted)

    async def _look_up_validators(self, request: messages.LookUpValidators) -> tuple[Validator, ...]:
        return await self._ask_by_id(request.state, request.ids)

    async def _ask_by_id(self, state: str, ids: Sequence[str]) -> tuple[Validator, ...]:
        found: list[Validator] = []
        for start in range(0, len(ids), IDS_PER_CALL):
            some = ids[start : start + IDS_PER_CALL]
            call = api.validators(state, some)
            found += await self._read(call, lambda answer: api.decode_validators(answer.body), self._time_for(len(some)))
        return tuple(found)

    async def _sync_status(self, _: messages.SyncStatus) -> SyncState:
        async with self._sync_state_lock:
            if self._sync_state is not None and trio.current_time() - self._sync_state[0] < SYNC_STATUS_AGE_S:
                return self._sync_state[1]
            state = await self._ask_sync_state()
            self._sync_state = (trio.current_time(), state)
            return state

    async def _ask_sync_state(self) -> SyncState:
        syncing: list[SyncState] = []

        async def attempt(node: BeaconNode) -> SyncState:
            try:
                answer = api.decode_syncing((await self._ask(node, api.SYNCING, self._settings.timeout_s)).body)
            except AnswerFault as fault:
                raise node.failed(str(fault), retryable=False) from None
            try:
                peers = api.decode_peer_count((await self._ask(node, api.PEER_COUNT, self._settings.timeout_s)).body)
            except (CallFailed, AnswerFault):
                peers = None
            state = SyncState(not answer.is_synced, answer.sync_distance, peers, answer.raw)
            if state.is_syncing:
                syncing.append(state)
                raise node.failed("is syncing")
            return state

        fault: BeaconFault = BeaconUnavailable(None, "no beacon node")
        for nodes in self._usable():
            if nodes:
                try:
                    return await race(nodes, attempt)
                except AllFailed as failed:
                    fault = failed.as_fault(api.SYNCING.name)
        if syncing:
            return min(syncing, key=lambda state: state.sync_distance)
        raise fault

    async def _node_version(self, _: messages.NodeVersion) -> str:
        return await self._read(api.NODE_VERSION, lambda answer: api.decode_node_version(answer.body))

    # -- submissions ----------------------------------------------------------------------------------------------------------

    async def _submit_attestations(self, request: messages.SubmitAttestations) -> None:
        objects = []
        for attestation in request.attestations:
            try:
                is_single = attestation.fork >= Fork.ELECTRA
                objects.append(attestation.to_single_attestation_json() if is_single else attestation.attestation.to_json())
            except EncodingFault as fault:
                log.warning("attestation left out", fork=request.fork.label, error=str(fault))
        if not objects:
            raise BeaconFault(None, "none of the attestations has a place in a committee")
        await self._submit(api.submit_attestations(request.fork.label, objects))

    async def _submit_proposal(self, request: messages.SubmitProposal) -> None:
        proposal, preset = request.proposal, self._chain().preset
        label = proposal.fork.label
        limit_s = max(self._settings.submit_timeout_s, BLOCK_TIMEOUT_S)

        async def as_json() -> msgspec.Raw:
            expected_ms = 2 * len(proposal.body) / JSON_BYTES_A_MS
            return msgspec.Raw(await self._off_loop(expected_ms, json_of_signed, (proposal, preset)))

        async def json_call() -> Call:
            return api.submit_block_json(label, await as_json())

        if proposal.blinded:
            await self._submit(api.submit_blinded_block(label, await as_json()), limit_s)
        else:
            await self._submit(api.submit_block(label, proposal.body), limit_s, instead=json_call)

    async def _prepare_proposers(self, request: messages.PrepareProposers) -> None:
        if request.preparations:
            await self._submit(api.prepare_proposers(request.preparations))

    async def _register_validators(self, request: messages.RegisterValidators) -> None:
        if request.registrations:
            await self._submit(api.register_validators(request.registrations))

    # -- events ---------------------------------------------------------------------------------------------------------------

    def _publish(self, event: ChainEvent) -> None:
        """Let the caches know, then the subscriber."""
        chain = self._known.chain
        if chain is not None:
            caches = (self._attester, self._sync, *self._proposer.values())
            if isinstance(event, api.HeadEvent):
                for cache in (self._attester, *self._proposer.values()):
                    cache.on_head(event, chain.slots_per_epoch)
            elif isinstance(event, api.ReorgEvent):
                epoch = (event.slot - event.depth) // chain.slots_per_epoch
                dropped = 0
                for cache in caches:
                    count = cache.on_reorg(epoch)
                    dropped += count
                    if count:
                        self._on_fact(CacheSeen(self._cache_name(cache), "invalidated_reorg", count))
                log.info("chain reorganisation", slot=event.slot, depth=event.depth, duties_dropped=dropped)
        try:
            self._on_event(event)
        except MailboxFull:
            log.warning("nobody has room for a chain event", slot=event.slot)


_NO_PRIMARY: Final = CallFailed(
    "beacon nodes", None, "none is synced and on the right network (syncing)", retryable=True, worthy=True
)
RANDAO_IN_MESSAGE: Final = slice(84, 180)  # of a BeaconBlock: after slot, proposer, two roots and the body's offset


def of_those_asked(answer: DutyList, indices: Sequence[int]) -> DutyList:
    """Without what nobody has asked for: it would only fill the cache."""
    asked = frozenset(indices)
    return msgspec.structs.replace(answer, duties=tuple(duty for duty in answer.duties if duty.validator_index in asked))


def decode_wanted_proposal(answer: Answer, *, chain: Chain, slot: int, randao: bytes) -> Proposal:
    """`decode_proposal`, and whether it is the block that was asked for. Raises: AnswerFault."""
    proposal = decode_proposal(answer, chain)
    if proposal.slot != slot:
        raise AnswerFault(f"a block of slot {proposal.slot} instead of {slot}")
    if proposal.message[RANDAO_IN_MESSAGE] != randao:
        raise AnswerFault("a block with another randao reveal than ours")
    return proposal


def json_of_signed(of: tuple[SignedProposal, Preset]) -> bytes:
    """The Beacon API's JSON of a signed block. Raises: SszFault, for one that isn't of the preset."""
    proposal, preset = of
    schema = signed_proposal_type(proposal.fork, proposal.blinded, preset)
    return msgspec.json.encode(schema.to_json(schema.decode(proposal.body)))


def decode_proposal(answer: Answer, chain: Chain) -> Proposal:
    """The unsigned block of an answer of `/eth/v3/validator/blocks/{slot}`, SSZ or JSON. Raises: AnswerFault."""
    try:
        if answer.is_ssz:
            fields: dict[str, Any] = {}
        else:
            fields = api.decode_object(answer.body, BLOCK)
        label = answer.headers.get(api.VERSION_HEADER.lower(), fields.get("version"))
        blinded = answer.headers.get("eth-execution-payload-blinded", fields.get("execution_payload_blinded"))
        if not isinstance(label, str) or str(blinded).lower() not in ("true", "false"):
            raise AnswerFault("the answer doesn't say its fork, or whether the block is blinded")
        fork, is_blinded = fork_from_label(label), str(blinded).lower() == "true"
        schema = proposal_type(fork, is_blinded, chain.preset)
        body = answer.body if answer.is_ssz else schema.encode(schema.from_json(fields.get("data")))
        if answer.is_ssz:
            schema.check(memoryview(body))
        return Proposal(fork, is_blinded, body)
    except (UnknownFork, SszFault, EncodingFault) as fault:
        raise AnswerFault(str(fault)) from None


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


__all__ = [
    "AttesterDefinition",
    "Beacon",
    "Settings",
    "beacon_factory",
    "decode_proposal",
]
