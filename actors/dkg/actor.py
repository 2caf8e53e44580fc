"""The ceremony: carries one node through key generation, from the first contact to the files on disk. Once.

Accepts     SyncReported, SignatureRequested (ask) · BroadcastReceived, SharesReceived, PartialsReceived (tell)
Owns        the ceremony's machine with all its secrets, in memory only; the data directory's results, written once at the end
May touch   the mesh (PeerNetwork), threads for long calculations and keystores, the data directory. Not: connections, other actors
Mailbox     1024, policy `wait`: what a peer has sent waits in its stream, nothing is dropped
Cancelled   at any await. Nothing was written before the last phase; what was written then is whole. Peers are told
Restart     never: a ceremony can't be resumed, polynomials are not used twice. Its worker is `temporary`
Source      specification 04 §2, §3, §6.5, §8

Three things run side by side: the inbox, which answers peers within a moment whatever else goes on; one reporter a peer, which
repeats our step on a stream of its own and reconnects for ever; and the story (`_take_part`), which reads from top to bottom.
Long calculations run in a thread. They hold the interpreter lock, but give it away every 5 ms when the event loop wants it, so a
signature request is answered in time (04 §4: 7 s). Keystores are encrypted by threads of their own, which need no lock, as soon as
the shares are known (`keystore_threads.py`).

How it ends:

    all peers passed the last barrier              returns the lock
    a peer broke a rule, refused us, went silent   Aborted: peer, operator number, phase, reason; the others are told why
    cancelled (SIGINT)                             the others are told that we stopped

A one-way message that was under way when a connection broke is lost without a trace, so what we have sent since the last barrier
is sent again on each new sync stream; receivers ignore repeats (04 §5.3, §6.1).

Telling the others: for FAREWELL_S their step reports, ten a second, are answered with the reason, which ends their ceremony too. A
Go node that aborts says nothing, and its peers wait for ever (04 §8).
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, assert_never

import msgspec
import structlog
import trio

from actors.dkg.keystore_threads import encrypt_keystores
from actors.dkg.messages import (
    BroadcastReceived,
    Message,
    PartialsReceived,
    SharesReceived,
    SignatureRequested,
    SyncReply,
    SyncReported,
)
from actors.dkg.sync_stream import FramedStream
from actors.mailbox import Inbox
from actors.mesh.messages import AnswerFault, MeshFault
from charon_actors.cluster.data_directory import Keystore, write_ceremony_artifacts
from charon_actors.cluster.lock import Lock, encode_lock
from charon_actors.cluster.peers import Peer
from charon_actors.crypto import Entropy
from charon_actors.crypto.keystore import PBKDF2_ITERATIONS
from charon_actors.dkg.ceremony import Ceremony, Phase
from charon_actors.dkg.dialect import (
    BROADCAST_SEND_S,
    NODE_SIGNATURE_ID,
    PARTIALS_PROTOCOL,
    ROUND1_CAST_ID,
    ROUND2_CAST_ID,
    SHARES_PROTOCOL,
    SIGNATURE_REQUEST_S,
    SYNC_PROTOCOL,
)
from charon_actors.dkg.faults import CeremonyFault
from charon_actors.dkg.signature_exchange import LOCK_HASH_SLOT, REGISTRATION_SLOT
from charon_actors.dkg.step_sync import Effect, Failed, Passed, Report, StepSync, SyncDoor
from charon_actors.dkg.sync_messages import (
    SyncAnswer,
    SyncReport,
    decode_answer,
    decode_report,
    encode_answer,
    encode_report,
    sign_definition,
)
from charon_actors.errors import Retryable, UserError
from charon_actors.eth2.networks import Network
from charon_actors.exception_groups import leaves

ANNOUNCE_INTERVAL_S: Final = 10.0
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_FACTOR: Final = 1.6
BACKOFF_MAX_S: Final = 1.0
RETRY_S: Final = 0.2
DELIVERY_S: Final = 60.0  # shares and partial signatures: a connection may break and come back meanwhile
FAREWELL_S: Final = 1.0
FAREWELL_FLUSH_S: Final = 0.1
FINAL_REPORTS_S: Final = 10.0
REASON_GRACE_S: Final = 1.0

T = TypeVar("T")

log = structlog.get_logger(topic="dkg")


class PeerStream(Protocol):
    """What a reporter needs of a stream to a peer."""

    async def send_all(self, data: bytes) -> None: ...
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...
    async def aclose(self) -> None: ...


class PeerNetwork(Protocol):
    """What a ceremony needs of the mesh; `actors.mesh.Mesh` has it."""

    async def deliver(self, peer_index: int, protocols: Sequence[str], message: bytes, timeout_s: float = ...) -> None: ...
    async def exchange(self, peer_index: int, protocols: Sequence[str], message: bytes, timeout_s: float = ...) -> bytes: ...
    async def open_stream(self, peer_index: int, protocols: Sequence[str], timeout_s: float = ...) -> Any: ...


class CeremonyOptions(msgspec.Struct, frozen=True):
    """What the operator may tune.

    timeout_s: longest silence of a peer, and with the v1.11 dialect longest wait for partial signatures. is_verified: False with
    `--no-verify`. keystore_iterations: less than the default only in tests.
    """

    data_directory: Path
    timeout_s: float = 120.0
    shutdown_delay_s: float = 5.0
    nickname: str = ""
    is_verified: bool = True
    networks_extra: tuple[Network, ...] = ()
    keystore_iterations: int = PBKDF2_ITERATIONS


class Aborted(UserError):
    """The ceremony is over and there are no keys. peer_index: whose fault, None for nobody's in particular."""

    def __init__(self, phase: Phase, peer: Peer | None, reason: str, *, has_written: bool) -> None:
        who = "" if peer is None else f"{peer.name} (operator {peer.index}): "
        remedy = "all operators stop charon and start the ceremony again; nothing was written"
        if has_written:
            remedy = (
                "the results are on disk, but not all peers have confirmed theirs: do not deposit or validate unless all "
                "operators have the same lock hash; else all remove the results and start again"
            )
        super().__init__(f"ceremony aborted in step {phase.step}, {phase.text}", who + reason, remedy)
        self.phase, self.peer_index, self.reason = phase, None if peer is None else peer.index, reason


class CeremonyActor:
    """The one incarnation of a ceremony.

    peers: all operators. network: reaches them; its handlers (`ceremony_handlers`) are registered already. wall_clock: unix
    seconds. on_finished: called with the verified lock once all peers have it.
    """

    def __init__(
        self,
        ceremony: Ceremony,
        peers: Sequence[Peer],
        own_index: int,
        private_key: bytes,
        network: PeerNetwork,
        options: CeremonyOptions,
        entropy: Entropy,
        wall_clock: Callable[[], float],
        on_finished: Callable[[Lock], None] = lambda lock: None,
    ) -> None:
        self._ceremony, self._peers, self._network, self._options = ceremony, tuple(peers), network, options
        self._others = [peer for peer in peers if peer.index != own_index]
        self._entropy, self._wall_clock, self._on_finished = entropy, wall_clock, on_finished
        self._hash_signature = sign_definition(private_key, ceremony.definition.definition_hash)
        others = {peer.index: peer for peer in self._others}
        dialect = ceremony.dialect
        self._door = SyncDoor(dialect, ceremony.definition.definition_hash, {i: p.public_key for i, p in others.items()})
        self._sync = StepSync(others, tells_restarted_peer=dialect.tells_restarted_peer)
        self._phase = Phase.CONNECT
        self._passed = -1
        self._has_written = False
        self._is_ending = False
        self._changed = trio.Event()
        self._due = {index: trio.Event() for index in others}
        self._heard_at: dict[int, float] = {}  # when a peer's report was last accepted
        self._accepted: set[int] = set()  # peers that have accepted our reports
        self._has_heard_last: set[int] = set()  # peers that have our last report, or can't be told
        self._has_said_last: set[int] = set()  # peers whose last report we have
        self._silent: set[int] = set()
        self._sent: dict[int, dict[str, list[bytes]]] = {index: {} for index in others}  # since the last barrier, by protocol
        self._keystores: dict[int, Keystore] = {}

    async def run(self, inbox: Inbox[Message]) -> None:
        """Take part in the ceremony. Raises Aborted; UserError when the results can't be written. See the table on top."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_mail, inbox)
                nursery.start_soon(self._repeat_reports)
                for peer in self._others:
                    nursery.start_soon(self._report_to, peer, nursery)
                await self._take_part(nursery)
                nursery.cancel_scope.cancel()
        except BaseException as error:
            faults = [leaf for leaf in leaves(error) if isinstance(leaf, CeremonyFault)]
            user_errors = [leaf for leaf in leaves(error) if isinstance(leaf, UserError)]
            aborted = self._aborted(faults[0]) if faults else None
            told = aborted.args[0] if aborted is not None else f"ceremony aborted in step {self._phase.step}: a node was stopped"
            await self._say_farewell(inbox, told)
            if aborted is not None:
                raise aborted from None
            if user_errors:
                raise user_errors[0] from None
            raise

    # the story

    async def _take_part(self, nursery: trio.Nursery) -> None:
        ceremony = self._ceremony
        log.info("Waiting to connect to all peers", peers=self._names(self._others))
        await self._until(lambda: self._passed < 0, self._unheard, "to connect")
        await self._until(
            lambda: len(self._accepted) < len(self._others),
            lambda: [peer.index for peer in self._others if peer.index not in self._accepted],
            "to accept our connection",
        )
        log.info("All peers connected, starting the ceremony", peers=len(self._others))
        await self._pass_barrier(Phase.CONNECT)

        self._begin(Phase.KEYS)
        round1 = await self._calculate(ceremony.make_round1)
        await self._broadcast(ROUND1_CAST_ID, round1.cast)
        await self._deliver_to_all(SHARES_PROTOCOL, lambda peer: round1.shares[peer.index])
        await self._until_complete(ceremony.frost.missing_round1, "to send its commitments and shares")
        round2 = await self._calculate(ceremony.make_round2)
        await self._broadcast(ROUND2_CAST_ID, round2)
        await self._until_complete(ceremony.frost.missing_round2, "to confirm the keys")
        await self._calculate(ceremony.finish_keys)
        nursery.start_soon(self._encrypt_keystores)
        await self._pass_barrier(Phase.KEYS)

        self._begin(Phase.DEPOSITS)
        for slot in ceremony.deposit_slots:
            await self._exchange(slot)
        await self._pass_barrier(Phase.DEPOSITS)

        self._begin(Phase.REGISTRATIONS)
        await self._exchange(REGISTRATION_SLOT)
        await self._pass_barrier(Phase.REGISTRATIONS)

        self._begin(Phase.LOCK_HASH)
        await self._exchange(LOCK_HASH_SLOT)
        await self._pass_barrier(Phase.LOCK_HASH)

        self._begin(Phase.NODE_SIGNATURES)
        await self._broadcast(NODE_SIGNATURE_ID, ceremony.sign_lock_hash())
        await self._until_complete(ceremony.node_signatures.missing, "to sign the lock hash")
        await self._pass_barrier(Phase.NODE_SIGNATURES)

        self._begin(Phase.ARTIFACTS)
        lock = await self._write_results()
        await self._pass_barrier(Phase.ARTIFACTS)
        self._begin(Phase.SHUTDOWN)
        await self._pass_barrier(Phase.SHUTDOWN)

        self._on_finished(lock)
        await self._end_reports()
        await trio.sleep(self._options.shutdown_delay_s)

    async def _exchange(self, slot: int) -> None:
        """Sign with our shares, send to all, collect from all, combine."""
        partials = await self._calculate(self._ceremony.sign, slot)
        limit_s = self._options.timeout_s if self._ceremony.dialect.has_exchange_timeout else float("inf")
        with trio.move_on_after(limit_s) as scope:
            await self._deliver_to_all(PARTIALS_PROTOCOL, lambda peer: partials)
            await self._until_complete(lambda: self._ceremony.exchange.missing(slot), "to send its signatures")
        if scope.cancelled_caught:
            missing = self._ceremony.exchange.missing(slot)
            reason = f"timed out waiting for peer signatures after {limit_s:g} s (see --timeout)"
            raise CeremonyFault(missing[0] if missing else None, reason)
        await self._calculate(self._ceremony.combine, slot)

    async def _write_results(self) -> Lock:
        """Verify the lock as a whole, then write everything at once."""
        ceremony, options = self._ceremony, self._options
        lock = await self._calculate(lambda: ceremony.complete_lock(options.networks_extra, is_verified=options.is_verified))
        content = await self._calculate(encode_lock, lock)
        deposit_files = await self._calculate(ceremony.deposit_files)
        total = len(ceremony.keys)
        await self._until(
            lambda: len(self._keystores) < total,
            list,
            f"for keystores to be encrypted ({total} in all)",
        )
        keystores = [self._keystores[validator] for validator in range(total)]

        def write() -> None:
            write_ceremony_artifacts(options.data_directory, keystores=keystores, lock=content, deposit_files=deposit_files)

        with trio.CancelScope(shield=True):  # once it begins, it is done or undone as a whole
            await trio.to_thread.run_sync(write)
        self._has_written = True
        log.info("Wrote keystores, cluster lock and deposit data", directory=str(options.data_directory), validators=total)
        return lock

    async def _encrypt_keystores(self) -> None:
        def done(validator: int, keystore: Keystore) -> None:
            self._keystores[validator] = keystore
            self._wake()

        shares = [keys.secret_share for keys in self._ceremony.keys]
        await encrypt_keystores(shares, self._options.keystore_iterations, self._entropy, done)

    # sending

    async def _broadcast(self, message_id: str, value: bytes) -> None:
        """Reliable broadcast: everybody's signature first, then the message to everybody (04 §4)."""
        dialect = self._ceremony.dialect
        outgoing = self._ceremony.bcast.open(message_id, value)

        async def request(peer: Peer) -> None:
            async def ask() -> bytes:
                return await self._network.exchange(
                    peer.index, (dialect.signature_protocol,), outgoing.request, timeout_s=SIGNATURE_REQUEST_S
                )

            outgoing.accept(peer.index, await self._insist(peer, ask, SIGNATURE_REQUEST_S, f"sign our broadcast of {message_id}"))

        await self._for_all(request)
        sealed = outgoing.seal()
        await self._deliver_to_all(dialect.message_protocol, lambda peer: sealed, BROADCAST_SEND_S)

    async def _deliver_to_all(self, protocol: str, body_for: Callable[[Peer], bytes], patience_s: float = DELIVERY_S) -> None:
        async def deliver(peer: Peer) -> None:
            body = body_for(peer)
            await self._deliver(peer, protocol, body, patience_s)
            self._sent[peer.index].setdefault(protocol, []).append(body)

        await self._for_all(deliver)

    async def _deliver(self, peer: Peer, protocol: str, body: bytes, patience_s: float) -> None:
        async def send() -> None:
            await self._network.deliver(peer.index, (protocol,), body)

        await self._insist(peer, send, patience_s, f"take our message on {protocol}")

    async def _send_again(self, peer: Peer) -> None:
        for protocol, bodies in list(self._sent[peer.index].items()):
            for body in list(bodies):
                await self._deliver(peer, protocol, body, DELIVERY_S)

    async def _for_all(self, function: Callable[[Peer], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            for peer in self._others:
                nursery.start_soon(function, peer)

    async def _insist(self, peer: Peer, send: Callable[[], Awaitable[T]], patience_s: float, what: str) -> T:
        """Until it works: connections break and come back. Raises CeremonyFault when it can't work or patience is over."""
        until = trio.current_time() + patience_s
        while True:
            try:
                return await send()
            except AnswerFault:
                await trio.sleep(REASON_GRACE_S)  # if it tells us why, that ends the ceremony first
                reason = f"refused to {what}: either it was told something else before (a restart?), or it has stopped"
                raise CeremonyFault(peer.index, reason) from None
            except (MeshFault, Retryable) as error:
                if not isinstance(error, Retryable):
                    raise CeremonyFault(peer.index, f"can't {what}: {error}") from None
                if trio.current_time() >= until:
                    raise CeremonyFault(peer.index, f"did not {what} within {patience_s:g} s: {error}") from None
                log.debug("Send failed, trying again", peer=peer.name, error=str(error))
            await trio.sleep(RETRY_S)

    # step sync: our reports

    async def _pass_barrier(self, phase: Phase) -> None:
        self._apply(self._sync.enter(phase.step, trio.current_time()))
        await self._until(lambda: self._passed < phase.step, self._sync.missing, f"to finish step {phase.step} ({phase.text})")
        self._sent = {peer.index: {} for peer in self._others}

    async def _repeat_reports(self) -> None:
        while True:
            await trio.sleep_until(self._sync.wake_at)
            self._apply(self._sync.tick(trio.current_time()))
            self._look_for_silence()
            if self._sync.wake_at <= trio.current_time():
                await trio.sleep_forever()  # the machine has failed and says nothing more

    async def _report_to(self, peer: Peer, nursery: trio.Nursery) -> None:
        """Our side of the ping-pong with one peer, over as many streams as it takes."""
        backoff_s, is_first = BACKOFF_FIRST_S, True
        while not self._is_ending:
            try:
                stream = await self._network.open_stream(peer.index, (SYNC_PROTOCOL,))
            except (MeshFault, Retryable) as error:
                log.debug("Cannot open the sync stream yet", peer=peer.name, error=str(error))
                await trio.sleep(backoff_s * (0.9 + 0.2 * self._entropy(1)[0] / 255))
                backoff_s = min(backoff_s * BACKOFF_FACTOR, BACKOFF_MAX_S)
                continue
            try:
                async with stream:
                    backoff_s = BACKOFF_FIRST_S
                    if not is_first:
                        nursery.start_soon(self._send_again, peer)
                    is_first = False
                    await self._ping_pong(peer, FramedStream(stream, peer.index))
            except (trio.BrokenResourceError, trio.ClosedResourceError, MeshFault, Retryable) as error:
                log.debug("Sync stream lost, reconnecting", peer=peer.name, error=str(error) or type(error).__name__)
            await trio.sleep(backoff_s)
        self._has_heard_last.add(peer.index)
        self._wake()

    async def _ping_pong(self, peer: Peer, frames: FramedStream) -> None:
        while True:
            is_last = self._is_ending
            self._due[peer.index] = trio.Event()
            await frames.send(self._report(shutdown=is_last))
            body = await frames.receive()
            if body is None or is_last:
                return
            error = decode_answer(peer.index, body).error
            if error:
                raise CeremonyFault(peer.index, f"peer responded with error: {error}")
            if peer.index not in self._accepted:
                self._accepted.add(peer.index)
                self._wake()
            await self._due[peer.index].wait()

    def _report(self, *, shutdown: bool) -> bytes:
        seconds, fraction = divmod(self._wall_clock(), 1)
        return encode_report(
            SyncReport(
                timestamp=(int(seconds), int(fraction * 1e9)),
                hash_signature=self._hash_signature,
                version=self._ceremony.dialect.minor,
                step=self._sync.step,
                shutdown=shutdown,
                nickname=self._options.nickname,
            )
        )

    async def _end_reports(self) -> None:
        """The last report says that we are done; wait a moment until everybody has it and has said the same."""
        self._is_ending = True
        for event in self._due.values():
            event.set()
        everybody = {peer.index for peer in self._others}
        with trio.move_on_after(FINAL_REPORTS_S):
            while not (self._has_heard_last >= everybody and self._has_said_last >= everybody):
                await self._wait_for_change()

    def _apply(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Report(peer_index):
                    self._due[peer_index].set()
                case Passed(step):
                    self._passed = step
                    self._wake()
                case Failed(peer_index, reason):
                    raise CeremonyFault(peer_index, reason)
                case unknown:
                    assert_never(unknown)

    def _look_for_silence(self) -> None:
        """Say when a peer has not reported for a while; give up when it stays silent for too long."""
        if self._phase is Phase.CONNECT or self._is_ending:
            return
        now = trio.current_time()
        for peer in self._others:
            silence_s = now - self._heard_at.get(peer.index, now)
            if silence_s > self._options.timeout_s:
                raise CeremonyFault(peer.index, f"has not been heard of for {self._options.timeout_s:g} s (see --timeout)")
            if silence_s > ANNOUNCE_INTERVAL_S and peer.index not in self._silent:
                self._silent.add(peer.index)
                log.warning("Lost contact with a peer, reconnecting", peer=peer.name, operator=peer.index)

    # what peers send

    async def _read_mail(self, inbox: Inbox[Message]) -> None:
        async for mail in inbox:
            match mail.message:
                case SyncReported(peer_index, body) as request:
                    reply = mail.reply_to(request)
                    answer, effects = self._judge(peer_index, body)
                    reply.send(answer)
                    self._apply(effects)
                case SignatureRequested(peer_index, body) as signature_request:
                    # A refusal is left without an answer: the sender learns the reason from its next step report.
                    signature_reply = mail.reply_to(signature_request)
                    signature_reply.send(self._ceremony.sign_broadcast(peer_index, body))
                case BroadcastReceived(peer_index, body):
                    self._ceremony.receive_broadcast(peer_index, body)
                case SharesReceived(peer_index, body):
                    self._ceremony.receive_shares(peer_index, body)
                case PartialsReceived(peer_index, body):
                    self._ceremony.receive_partials(peer_index, body)
                case unknown:
                    assert_never(unknown)
            self._wake()

    def _judge(self, peer_index: int, body: bytes) -> tuple[SyncReply, list[Effect]]:
        try:
            report = decode_report(peer_index, body)
        except CeremonyFault as fault:
            return SyncReply(None, ends=True), [Failed(peer_index, fault.reason)]
        refusal = self._door.refusal(peer_index, report)
        if refusal is not None:
            answer = encode_answer(SyncAnswer(report.timestamp, refusal))
            return SyncReply(answer), [Failed(peer_index, f"invalid sync message: {refusal}")]
        if self._is_ending:
            effects: list[Effect] = []
        else:
            effects = self._sync.receive(peer_index, report.step)
        for effect in effects:
            if isinstance(effect, Failed):
                told = None if effect.answer is None else encode_answer(SyncAnswer(report.timestamp, effect.answer))
                return SyncReply(told, ends=True), effects
        self._note_contact(peer_index, report)
        return SyncReply(encode_answer(SyncAnswer(report.timestamp)), ends=report.shutdown), effects

    def _note_contact(self, peer_index: int, report: SyncReport) -> None:
        if peer_index not in self._heard_at:
            count = f"{len(self._heard_at) + 1} of {len(self._others)}"
            nickname = {"nickname": report.nickname} if report.nickname else {}
            log.info(f"Connected to peer {count}", peer=self._peers[peer_index].name, operator=peer_index, **nickname)
        self._heard_at[peer_index] = trio.current_time()
        if report.shutdown:
            self._has_said_last.add(peer_index)
        if peer_index in self._silent:
            self._silent.discard(peer_index)
            log.info("Peer is back", peer=self._peers[peer_index].name, operator=peer_index)

    # waiting

    def _begin(self, phase: Phase) -> None:
        self._phase = phase
        log.info(f"Step {phase.step} of {Phase.SHUTDOWN.step}: {phase.text}")

    async def _until_complete(self, missing: Callable[[], list[int]], what: str) -> None:
        await self._until(lambda: bool(missing()), missing, what)

    async def _until(self, is_waiting: Callable[[], bool], missing: Callable[[], list[int]], what: str) -> None:
        """Until it is no longer true; says every ANNOUNCE_INTERVAL_S what for, and who is missing."""
        announce_at = trio.current_time() + ANNOUNCE_INTERVAL_S
        while is_waiting():
            with trio.move_on_at(announce_at) as scope:
                await self._wait_for_change()
            if scope.cancelled_caught:
                announce_at += ANNOUNCE_INTERVAL_S
                waited_for = self._names([self._peers[index] for index in missing()])
                log.info(f"Waiting for peers {what}" if waited_for else f"Waiting {what}", peers=waited_for)

    def _unheard(self) -> list[int]:
        return [peer.index for peer in self._others if peer.index not in self._heard_at]

    async def _wait_for_change(self) -> None:
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _calculate(self, function: Callable[..., T], *args: Any) -> T:
        """A long calculation, in a thread, so that the inbox is read meanwhile. When cancelled, its result is thrown away."""
        return await trio.to_thread.run_sync(
            function,
            *args,
            abandon_on_cancel=True,  # type: ignore[call-arg,unused-ignore]  # there are outdated stubs about
        )

    # the end

    def _names(self, peers: Sequence[Peer]) -> str:
        return ", ".join(f"{peer.name} ({peer.index})" for peer in peers)

    def _aborted(self, fault: CeremonyFault) -> Aborted:
        peer = None if fault.peer_index is None else self._peers[fault.peer_index]
        return Aborted(self._phase, peer, fault.reason, has_written=self._has_written)

    async def _say_farewell(self, inbox: Inbox[Message], text: str) -> None:
        """Answer everybody's next report with the reason, so that nobody waits for us."""
        told: set[int] = set()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + FAREWELL_S):
            async for mail in inbox:
                if isinstance(mail.message, SyncReported):
                    request = mail.message
                    try:
                        stamp = decode_report(request.peer_index, request.body).timestamp
                    except CeremonyFault:
                        stamp = (0, 0)
                    mail.reply_to(request).send(SyncReply(encode_answer(SyncAnswer(stamp, text))))
                    told.add(request.peer_index)
                elif isinstance(mail.message, SignatureRequested):
                    mail.reply_to(mail.message)  # not answered: the reason is in the answers to step reports
                if told >= {peer.index for peer in self._others}:
                    await trio.sleep(FAREWELL_FLUSH_S)
                    return
