"""Consensus: lets the cluster agree on the unsigned data of each duty. One task a duty, so that one instance fails alone.

Accepts     Agree (ask) · ProposeValue, QbftReceived (tell)
Emits       signed consensus messages to the mesh; the facts of `facts.py`
Owns        one session a duty, from its first message or request until the duty's deadline; verified signatures by their bytes
May touch   the mesh (`broadcast`), the ground floor, the file of what it took part in (`participation.py`), in a thread. Not: sockets,
            another actor's state
Mailbox     1024, policy `wait`; the peers' messages move on at once, to be checked by a task a peer (`intake.py`)
Cancelled   every session ends; askers get ActorDown. Handlers don't await, so nothing is left half done
Restart     forgets everything but the duties that it has said something in, which stand on disk before it does. Those, those that had
            begun by then, and those that begin within BIRTH_MARGIN_S are only listened to: a node that has forgotten what it prepared
            would act like a liar. For the same reason no instance starts before its duty does, however early it is asked for
Source      specification 06-consensus-qbft §5, §8, §10, §12; 05 §4 (gater, deadliner)

A decided instance stays until the duty's deadline and answers late peers (06 §8, decided catch-up). An instance that crashes goes on
as a listener, so that its askers may still get what the others decide.

A duty's place on disk is written ahead of its start where we are asked early enough, and beside the fetching of our own value otherwise;
one write for all that want it at that moment. A clock that goes back within a life changes nothing: a duty that is over and comes again
is listened to. While the disk doesn't take it we say nothing, count the others' COMMITs (a session that is `aside`), and try again.

Whatever may take long, checking messages and hashing our own proposal, goes in steps of a few milliseconds (`_paced`).

Limits: SESSIONS in all and SESSIONS_A_PEER that one peer's messages began, ours not counted; ASKERS a duty; WARNINGS_EVERY_S a peer;
those of Intake, Session and Verifier.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal, TypeVar, assert_never

import msgspec
import trio

from actors.change_log import ChangeLog
from actors.consensus.facts import ConsensusDecided, ConsensusFailed, ConsensusTimedOut, InsufficientRoundChanges
from actors.consensus.intake import Intake
from actors.consensus.messages import (
    Agree,
    Agreed,
    Broadcaster,
    DeadlinePassed,
    Message,
    ProposeValue,
    QbftReceived,
    UnsupportedDuty,
)
from actors.consensus.participation import ForgetfulStore, ParticipationStore
from actors.facts import OnFact, unheard
from actors.log import get_logger
from actors.mailbox import Inbox, MailboxFull, Reply
from charon_actors.errors import Retryable
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import AGREED_ON, ROWS, Agreement, Duty, DutyType, deadline_s, refusal, start_s
from charon_actors.profile import Profile
from charon_actors.qbft import (
    Allowance,
    Comparison,
    Decided,
    Differs,
    MessageFault,
    Output,
    Participation,
    RoundChanged,
    Send,
    Session,
    Steps,
    Verifier,
    explain,
    round_timer,
)

T = TypeVar("T")

log = get_logger("qbft")

PROTOCOL: Final = "/charon/consensus/qbft/2.0.0"
HEARD: Final = AGREED_ON | {DutyType.INFO_SYNC}  # the priority protocol isn't spoken yet; its messages are in order
SESSIONS: Final = 1024
SESSIONS_A_PEER: Final = 256  # attester and aggregator live for an epoch: some 70 in ordinary life
ASKERS: Final = 64
WARNINGS_EVERY_S: Final = 60.0
ROUNDS_LOGGED: Final = 5  # the rounds after these only at level debug; an attester instance may run through 380
BIRTH_MARGIN_S: Final = 0.25  # the clock may have been set back since the life before (06 §10); 0.2 s of skew are a warning
MARK_AHEAD_SLOTS: Final = 1 / 12  # before its start; a restart in that time silences the duty
MARK_AGAIN_S: Final = 0.25
ASIDE_AFTER_S: Final = 0.5  # without a place on disk, which takes some milliseconds
CLOCK_GRAIN_S: Final = 1e-6  # Unix seconds as floats are no finer than 2.4e-7


class Flags(msgspec.Struct, frozen=True):
    """Feature flags that all nodes of a cluster must set alike. Source: specification 06 §6, 05 §18."""

    linear: bool = False
    eager_double_linear: bool = True
    proposal_timeout: bool = True


class LiveSession:
    """A duty's session and who waits for it."""

    def __init__(self, session: Session, start_s: float, deadline_s: float, begun_by: int | None) -> None:
        self.session, self.start_s, self.deadline_s, self.begun_by = session, start_s, deadline_s, begun_by
        self.is_asked_for = self.is_marked = False
        self.mark_due_s: float | None = None  # when its place on disk is needed; None while it isn't wanted
        self.askers: list[Reply[Agreed]] = []
        self.proposal: dict[str, bytes] | None = None
        self.wakeup = trio.Event()
        self.measured_from_s: float | None = None
        self.had_insufficient_round_changes = False


class Consensus:
    """One incarnation.

    own_index: our place among `public_keys` (33 bytes each, lock order). private_key: ours, 32 bytes. wall_clock: Unix seconds.
    validators: how many the cluster has, which limits what values may weigh.
    profile: which release's round timers the cluster uses. compare: chain_split_halt, for attesters. peer_names: for the log.
    store: what it has said something in; closed with the incarnation. Without one, only this life is known.
    """

    def __init__(
        self,
        *,
        mesh: Broadcaster,
        own_index: int,
        private_key: bytes,
        public_keys: Sequence[bytes],
        validators: int,
        chain: Chain,
        profile: Profile,
        wall_clock: Callable[[], float],
        on_fact: OnFact = unheard,
        flags: Flags | None = None,
        compare: Comparison | None = None,
        peer_names: Sequence[str] = (),
        store: ParticipationStore | None = None,
    ) -> None:
        self._mesh, self._own_index, self._private_key = mesh, own_index, private_key
        self._nodes, self._chain, self._profile, self._wall_clock = len(public_keys), chain, profile, wall_clock
        self._on_fact = on_fact
        self._flags = Flags() if flags is None else flags
        self._compare, self._peer_names = compare, peer_names
        self._verifier = Verifier(public_keys, validators)
        self._allowance = Allowance(self._nodes)
        self._intakes = [Intake() for _ in public_keys]  # by peer index
        self._lives: dict[Duty, LiveSession] = {}
        self._warned_at: dict[int, float] = {}
        self._store = ForgetfulStore() if store is None else store
        self._said = Participation()
        self._mark_wanted = trio.Event()
        self._born_s = wall_clock()

    async def run(self, inbox: Inbox[Message]) -> None:
        try:
            self._said = await self._store.load()
            await self._run(inbox)
        finally:
            self._store.close()

    async def _run(self, inbox: Inbox[Message]) -> None:
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._write_marks)
            for peer_index, intake in enumerate(self._intakes):
                self._nursery.start_soon(self._check_messages, peer_index, intake)
            async for mail in inbox:
                match mail.message:
                    case Agree(duty) as request:
                        self._agree(duty, mail.reply_to(request))
                    case ProposeValue(duty, value):
                        self._propose(duty, value)
                    case QbftReceived(peer_index, message):
                        self._receive(peer_index, message)
                    case unknown:
                        assert_never(unknown)
            self._nursery.cancel_scope.cancel()

    # requests of our own node

    def _agree(self, duty: Duty, reply: Reply[Agreed]) -> None:
        if duty.type not in AGREED_ON:
            reply.fail(UnsupportedDuty(f"{duty}: this type of duty has no consensus on unsigned data"))
            return
        life = self._life_of(duty)
        if life is None:
            reply.fail(DeadlinePassed(f"{duty}: its deadline has passed"))
            return
        life.is_asked_for = True
        if life.session.decided is not None:
            reply.send(_agreed(life.session.decided))
            return
        life.askers = [asker for asker in life.askers if not asker.is_over]
        if len(life.askers) >= ASKERS:
            reply.fail(MailboxFull(f"{duty}: {ASKERS} askers wait already"))
            return
        life.askers.append(reply)
        life.wakeup.set()

    def _propose(self, duty: Duty, value: dict[str, bytes]) -> None:
        life = self._life_of(duty) if duty.type in AGREED_ON else None
        if life is None:
            log.warning("Proposal comes too late or for a duty without consensus", duty=str(duty))
            return
        if life.proposal is not None:
            log.warning("A second proposal for a duty is ignored", duty=str(duty))
            return
        life.proposal, life.measured_from_s = value, self._wall_clock()
        life.wakeup.set()

    # messages of peers

    def _receive(self, peer_index: int, message: bytes) -> None:
        try:
            self._intakes[peer_index].put(message)
        except MessageFault as fault:
            self._refuse(peer_index, str(fault))

    async def _check_messages(self, peer_index: int, intake: Intake) -> None:
        while True:
            try:
                received = await _paced(self._verifier.decoding(await intake.take(), self._refusal), intake.spend)
                if received.duty.type is DutyType.INFO_SYNC:
                    continue
                life = self._life_of(received.duty, begun_by=peer_index)
                if life is None:
                    raise MessageFault("duty is over")
                life.session.offer(received, peer_index)
                life.wakeup.set()
            except MessageFault as fault:
                self._refuse(peer_index, str(fault))

    def _refusal(self, duty: Duty) -> str | None:
        """Why messages about this duty aren't welcome: the gater and the deadliner."""
        return refusal(duty, self._chain, self._profile, self._wall_clock(), HEARD)

    def _refuse(self, peer_index: int, reason: str) -> None:
        self._on_fact(ConsensusFailed())
        now = trio.current_time()
        if now - self._warned_at.get(peer_index, -WARNINGS_EVERY_S) >= WARNINGS_EVERY_S:
            self._warned_at[peer_index] = now
            log.warning("Consensus message refused", peer=self._name(peer_index), reason=reason)

    def _name(self, peer_index: int) -> str:
        return self._peer_names[peer_index] if 0 <= peer_index < len(self._peer_names) else str(peer_index)

    # sessions

    def _life_of(self, duty: Duty, begun_by: int | None = None) -> LiveSession | None:
        """The duty's life, begun if there is none yet; None when the duty is over. Raises: MessageFault at a peer's limit."""
        life = self._lives.get(duty)
        if life is not None:
            return life
        deadline = deadline_s(duty, self._chain, self._profile)
        if deadline is None or deadline <= self._wall_clock():
            return None
        if begun_by is not None:
            counts = [other.begun_by for other in self._lives.values() if other.begun_by is not None]
            if len(counts) >= SESSIONS or counts.count(begun_by) >= SESSIONS_A_PEER:
                raise MessageFault("too many duties at once")
        begins_s = start_s(duty, self._chain)
        is_listening = begins_s < self._born_s + BIRTH_MARGIN_S or self._said.covers(duty)
        if is_listening:
            log.info("Duty began before we did, or we have taken part in it: listening only", duty=str(duty))
        life = LiveSession(self._session(duty, begins_s, is_listening=is_listening), begins_s, deadline, begun_by)
        self._lives[duty] = life
        self._nursery.start_soon(self._live, life, name=f"consensus {duty}")
        return life

    def _session(self, duty: Duty, start_s: float, *, is_listening: bool) -> Session:
        timer = round_timer(
            duty.type,
            start_s,
            self._profile,
            linear=self._flags.linear,
            eager_double_linear=self._flags.eager_double_linear,
            proposal_timeout=self._flags.proposal_timeout,
        )
        return Session(
            duty,
            nodes=self._nodes,
            own_index=self._own_index,
            private_key=self._private_key,
            timer=timer,
            allowance=self._allowance,
            is_listening=is_listening,
            compare=self._compare if duty.type is DutyType.ATTESTER else None,
        )

    async def _live(self, life: LiveSession) -> None:
        """A duty's task: until its deadline, whatever happens inside."""
        try:
            while self._wall_clock() < life.deadline_s:
                try:
                    await self._run_session(life)
                except Exception:
                    self._on_fact(ConsensusFailed())
                    log.exception("Consensus instance crashed, listening from now on", duty=str(life.session.duty))
                    life.session.close()
                    life.session = self._session(life.session.duty, life.start_s, is_listening=True)
        finally:
            self._end(life)

    async def _run_session(self, life: LiveSession) -> None:
        session = life.session
        while (now := self._wall_clock()) < life.deadline_s:
            life.wakeup = trio.Event()
            if life.proposal is not None and not session.has_proposal:
                await self._offer_proposal(life, life.proposal)
                continue
            self._want_mark(life, now)
            if life.is_marked and self._may_start(life, now):
                if life.measured_from_s is None:
                    life.measured_from_s = now
                self._do(life, session.start(now))
            if self._has_waited_for_mark(life, now):
                log.warning("No place on disk for a duty: listening until there is", duty=str(session.duty))
                session.step_aside()
            if session.has_work(now + CLOCK_GRAIN_S):
                self._do(life, session.step(now + CLOCK_GRAIN_S))
                await trio.lowlevel.checkpoint()
                continue
            until = [life.deadline_s]
            if session.wake_at is not None:
                until.append(session.wake_at)
            if not session.is_started:
                until += [moment for moment in self._moments(life) if moment > now]
            with trio.move_on_after(max(min(until) - now, CLOCK_GRAIN_S)):
                await life.wakeup.wait()

    async def _offer_proposal(self, life: LiveSession, proposal: dict[str, bytes]) -> None:
        encoded = await _paced(self._verifier.encoding(proposal), trio.sleep)
        try:
            self._do(life, life.session.propose(proposal, encoded))
        except MessageFault as fault:
            life.proposal = None
            self._on_fact(ConsensusFailed())
            log.error("Our own value cannot be proposed", duty=str(life.session.duty), reason=str(fault))

    # what stands on disk before we say anything

    @property
    def _ahead_s(self) -> float:
        return self._chain.slot_duration_s * MARK_AHEAD_SLOTS

    def _moments(self, life: LiveSession) -> tuple[float, ...]:
        """When to look at a duty that has not started."""
        moments = (life.start_s - self._ahead_s, life.start_s)
        return moments if life.mark_due_s is None else (*moments, life.mark_due_s + ASIDE_AFTER_S)

    def _want_mark(self, life: LiveSession, now: float) -> None:
        if life.mark_due_s is None and self._may_start(life, now + self._ahead_s):
            life.mark_due_s = max(now, life.start_s)
            self._mark_wanted.set()

    def _has_waited_for_mark(self, life: LiveSession, now: float) -> bool:
        session = life.session
        if life.mark_due_s is None or life.is_marked or session.is_aside or session.is_listening:
            return False
        return now + CLOCK_GRAIN_S >= life.mark_due_s + ASIDE_AFTER_S

    async def _write_marks(self) -> None:
        """One write for all that want it; what fails is tried again for those that still do."""
        warnings = ChangeLog(repeat_s=WARNINGS_EVERY_S)
        while True:
            wanting = [life for life in self._lives.values() if life.mark_due_s is not None and not life.is_marked]
            if not wanting:
                self._mark_wanted = trio.Event()
                await self._mark_wanted.wait()
                continue
            said = self._said.joined_by(life.session.duty for life in wanting)
            try:
                if said != self._said:
                    await self._store.put(said)
            except OSError as error:
                self._on_fact(ConsensusFailed())
                if warnings.is_due(str(error), trio.current_time()):
                    log.warning("What we take part in can't be written, listening only, trying again", reason=str(error))
                await trio.sleep(MARK_AGAIN_S)
                continue
            self._said = said
            for life in wanting:
                life.is_marked = True
                life.wakeup.set()

    def _may_start(self, life: LiveSession, now: float) -> bool:
        session = life.session
        if session.is_started or session.is_listening or now + CLOCK_GRAIN_S < life.start_s:
            return False
        if ROWS[session.duty.type].agreement is Agreement.BY_MESSAGES:
            return session.has_proposal or session.has_messages
        return session.has_proposal or life.is_asked_for

    def _end(self, life: LiveSession) -> None:
        session = life.session
        del self._lives[session.duty]
        if session.is_started and session.decided is None and self._wall_clock() >= life.deadline_s:
            self._on_fact(ConsensusTimedOut(session.duty.type, session.timer_label))
            self._count_insufficient(life, "timeout")
            log.warning("Consensus timeout: the duty's deadline has passed without a decision", duty=str(session.duty))
        session.close()
        for reply in life.askers:
            if self._wall_clock() >= life.deadline_s:
                reply.fail(DeadlinePassed(f"{session.duty}: no decision before its deadline"))

    # what sessions want done

    def _do(self, life: LiveSession, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case Send(content):
                    self._broadcast(content)
                case Decided():
                    self._on_decided(life, output)
                case RoundChanged():
                    self._on_round_changed(life, output)
                case Differs(round_):
                    log.warning(
                        "The leader's proposal contradicts ours, we do not support it", duty=str(life.session.duty), round=round_
                    )
                case unknown:
                    assert_never(unknown)

    def _broadcast(self, content: bytes) -> None:
        try:
            self._mesh.broadcast((PROTOCOL,), content)
        except Retryable as error:  # like a lost packet: the next round tries again
            self._on_fact(ConsensusFailed())
            log.warning("Consensus message could not be sent", reason=str(error))

    def _on_decided(self, life: LiveSession, decided: Decided) -> None:
        session = life.session
        for reply in life.askers:
            reply.send(_agreed(decided))
        life.askers.clear()
        if session.is_started:
            began_s = life.start_s if life.measured_from_s is None else life.measured_from_s
            duration_s = max(0.0, self._wall_clock() - began_s)
            self._on_fact(
                ConsensusDecided(session.duty.type, session.timer_label, decided.round, decided.leader_index, duration_s)
            )
            self._count_insufficient(life, "decided")
        log.debug(
            "Consensus decided",
            duty=str(session.duty),
            round=decided.round,
            leader=self._name(decided.leader_index),
            value_hash=decided.value_hash.hex(),
        )

    def _count_insufficient(self, life: LiveSession, outcome: Literal["decided", "timeout"]) -> None:
        if life.had_insufficient_round_changes:
            self._on_fact(InsufficientRoundChanges(life.session.duty.type, life.session.timer_label, outcome))

    def _on_round_changed(self, life: LiveSession, change: RoundChanged) -> None:
        report = change.report
        is_timeout = change.by == "timeout"
        if is_timeout and report.has_insufficient_round_changes():
            life.had_insufficient_round_changes = True
        if change.by == "decision":
            return
        reason = report.reason(self._peer_names) if is_timeout else change.by
        write = log.info if report.round <= ROUNDS_LOGGED else log.debug
        write(
            "Consensus round changed",
            duty=str(life.session.duty),
            round=report.round,
            new_round=change.new_round,
            reason=reason,
            hint=explain.remedy(reason),
            **report.fields(),
        )


def _agreed(decided: Decided) -> Agreed:
    """Each asker has a copy of its own."""
    return Agreed(dict(decided.unsigned_data), decided.round, decided.proposer_index)


async def _paced(steps: Steps[T], spend: Callable[[int], Awaitable[None]]) -> T:
    """The result of `steps`, each of them paid for. Cancelled: what was worked out so far may be used by others."""
    while True:
        try:
            cost = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await spend(cost)
