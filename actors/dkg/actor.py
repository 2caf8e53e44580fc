"""The ceremony: carries one node through key generation, from the first contact to the files on disk. Once.

Accepts     SyncReported, SignatureRequested (ask) · BroadcastReceived, SharesReceived, PartialsReceived, PeerBroke (tell)
Owns        the ceremony's machine with all its secrets, in memory only; the data directory's results, written once at the end
May touch   the mesh (PeerNetwork), threads for long calculations and keystores, the data directory. Not: connections, other actors
Mailbox     1024, policy `wait`: what a peer has sent waits in its stream, nothing is dropped
Cancelled   at any await. Nothing was written before the last phase; what was written then is whole. Peers are told, if it has begun
Restart     never: a ceremony can't be resumed, polynomials are not used twice. Its worker is `temporary`
Source      specification 04 §2, §3, §6.5, §8

Three things run side by side: the inbox, which answers peers within a moment whatever else goes on; the step reports to every peer
(`step_reports.py`); and the story (`_take_part`), which reads from top to bottom.
Long calculations run in a thread. They hold the interpreter lock, but give it away every 5 ms when the event loop wants it, so a
signature request is answered in time (04 §4: 7 s). Keystores are encrypted by threads of their own, which need no lock, as soon as
the shares are known (`keystore_threads.py`).

How it ends:

    all peers passed the last barrier              `on_finished` gets the lock; returns after the shutdown delay
    a peer broke a rule, refused us, went silent   Aborted: peer, operator number, phase, reason; the others are told why
    cancelled (SIGINT) at step 0                   nobody is told: the others go on waiting, and we may come back
    cancelled from step 1 on                       the others are told that we stopped
    cancelled after the last barrier               after our last report is out; that is the end of the delay, and no failure

After the last barrier nothing that a peer does can make a failure of it (04 §3.4).

Telling the others: for FAREWELL_S their step reports, ten a second, are answered with the reason, which ends their ceremony too. A
Go node that aborts says nothing, and its peers wait for ever (04 §8).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, assert_never

import msgspec
import trio

from actors.change_log import ChangeLog
from actors.dkg.keystore_threads import encrypt_in_threads
from actors.dkg.messages import (
    BroadcastReceived,
    Message,
    PartialsReceived,
    PeerBroke,
    SharesReceived,
    SignatureRequested,
    SyncReported,
)
from actors.dkg.sending import Deliveries, PeerNetwork
from actors.dkg.step_reports import StepReports
from actors.log import get_logger
from actors.mailbox import Inbox, Mail
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.lock_json import encode_lock
from charon_actors.cluster.peers import Peer
from charon_actors.cluster.verify import ContractCheck
from charon_actors.crypto import PBKDF2_ITERATIONS, Entropy
from charon_actors.dkg.ceremony import Ceremony, Phase
from charon_actors.dkg.dialect import (
    NODE_SIGNATURE_ID,
    PARTIALS_PROTOCOL,
    ROUND1_CAST_ID,
    ROUND2_CAST_ID,
    SHARES_PROTOCOL,
)
from charon_actors.dkg.faults import CeremonyFault
from charon_actors.dkg.signature_exchange import LOCK_HASH_SLOT, REGISTRATION_SLOT
from charon_actors.errors import UserError
from charon_actors.eth2.networks import Network
from charon_actors.exception_groups import leaves
from charon_actors.files.data_directory import write_ceremony_artifacts
from charon_actors.files.keystore_files import KEY_MANAGER_PASSWORD_BYTES, PASSWORD_BYTES, Keystore
from charon_actors.passing_errors import may_pass

ANNOUNCE_INTERVAL_S: Final = 10.0
WRITE_LIMIT_S: Final = 600.0  # for an operator to make room; the others wait at the last barrier
WRITE_AGAIN_S: Final = 1.0
FAREWELL_S: Final = 1.0
FAREWELL_FLUSH_S: Final = 0.1

NOTHING_WRITTEN: Final = "all operators stop charon and start the ceremony again; nothing was written"
RESULTS_WRITTEN: Final = (
    "the results are on disk, but not all peers have confirmed theirs: do not deposit or validate unless all operators have the "
    "same lock hash; else all remove the results and start again"
)

T = TypeVar("T")

log = get_logger("dkg")


class CeremonyOptions(msgspec.Struct, frozen=True):
    """What the operator may tune.

    timeout_s: longest silence of a peer, and with the v1.11 dialect longest wait for partial signatures. is_verified: False with
    `--no-verify`. contract: what contract wallets have said about the definition's signatures. deliver_keystores: takes the keystores
    somewhere else, by validator; True when all of them are there, then they aren't written to disk. It raises nothing.
    keystore_iterations: less than the default only in tests.
    """

    data_directory: Path
    timeout_s: float = 120.0
    shutdown_delay_s: float = 5.0
    is_verified: bool = True
    networks_extra: tuple[Network, ...] = ()
    contract: ContractCheck | None = None
    deliver_keystores: Callable[[Sequence[Keystore]], Awaitable[bool]] | None = None
    keystore_iterations: int = PBKDF2_ITERATIONS


class Aborted(UserError):
    """The ceremony is over and there are no keys. peer_index: whose fault, None for nobody's in particular."""

    def __init__(self, phase: Phase, peer: Peer | None, reason: str, *, has_written: bool) -> None:
        who = "" if peer is None else f"{peer.name} (operator {peer.index}): "
        where = f"ceremony aborted in step {phase.step}, {phase.text}"
        super().__init__(where, who + reason, RESULTS_WRITTEN if has_written else NOTHING_WRITTEN)
        self.told = f"{where}: {who}{reason}"
        self.phase, self.peer_index, self.reason = phase, None if peer is None else peer.index, reason


class CeremonyActor:
    """The one incarnation of a ceremony.

    peers: all operators. network: reaches them; its handlers (`ceremony_handlers`) are registered already. wall_clock: unix
    seconds. on_finished: called with the verified lock once all peers have it; must not raise. nickname: that peers see.
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
        nickname: str = "",
    ) -> None:
        self._ceremony, self._peers, self._network, self._options = ceremony, tuple(peers), network, options
        self._others = [peer for peer in peers if peer.index != own_index]
        self._entropy, self._wall_clock, self._on_finished = entropy, wall_clock, on_finished
        self._reports = StepReports(
            ceremony.dialect,
            ceremony.definition.definition_hash,
            private_key,
            self._others,
            network,
            nickname=nickname,
            timeout_s=options.timeout_s,
            entropy=entropy,
            wall_clock=wall_clock,
            on_change=self._wake,
            on_reconnected=self._send_again_soon,
        )
        self._phase = Phase.CONNECT
        self._has_written = self._is_finished = False
        self._changed = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._keystores: dict[int, Keystore] = {}
        self._sending = Deliveries(ceremony.dialect, ceremony.bcast, self._others, network)

    async def run(self, inbox: Inbox[Message]) -> None:
        """Take part in the ceremony. Raises Aborted; UserError when the results can't be written. See the table on top."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._read_mail, inbox)
                self._nursery.start_soon(self._reports.run)
                await self._take_part(self._nursery)
                self._nursery.cancel_scope.cancel()
        except BaseException as error:
            told, raised = self._end_of(error)
            if self._is_finished:
                if raised is None:
                    raise
                log.debug("Ignored after the end", error=str(raised))
                return
            if self._reports.has_begun or isinstance(raised, Aborted):
                await self._say_farewell(inbox, told)
            if raised is None:
                raise
            raise raised from None

    # the story

    async def _take_part(self, nursery: trio.Nursery) -> None:
        reports = self._reports
        log.info("Waiting to connect to all peers", peers=self._names(self._others))
        await self._until_complete(reports.unconnected, "to connect")
        log.info("All peers connected, starting the ceremony", peers=len(self._others))
        await self._pass_barrier(Phase.CONNECT)

        self._begin(Phase.KEYS)
        await self._generate_keys()
        nursery.start_soon(self._encrypt_keystores)
        await self._pass_barrier(Phase.KEYS)

        self._begin(Phase.DEPOSITS)
        for slot in self._ceremony.deposit_slots:
            await self._exchange(slot)
        await self._pass_barrier(Phase.DEPOSITS)

        self._begin(Phase.REGISTRATIONS)
        await self._exchange(REGISTRATION_SLOT)
        await self._pass_barrier(Phase.REGISTRATIONS)

        self._begin(Phase.LOCK_HASH)
        await self._exchange(LOCK_HASH_SLOT)
        await self._pass_barrier(Phase.LOCK_HASH)

        self._begin(Phase.NODE_SIGNATURES)
        await self._sending.broadcast(NODE_SIGNATURE_ID, self._ceremony.sign_lock_hash())
        await self._until_complete(self._ceremony.node_signatures.missing, "to sign the lock hash")
        await self._pass_barrier(Phase.NODE_SIGNATURES)

        self._begin(Phase.ARTIFACTS)
        lock = await self._write_results()
        await self._pass_barrier(Phase.ARTIFACTS)
        self._begin(Phase.SHUTDOWN)
        await self._pass_barrier(Phase.SHUTDOWN)

        self._is_finished = True
        self._on_finished(lock)
        nursery.cancel_scope.shield = True  # a stop must not keep our last report from a peer that still waits for it
        await reports.end()
        nursery.cancel_scope.shield = False
        await trio.sleep(self._options.shutdown_delay_s)

    async def _generate_keys(self) -> None:
        ceremony, frost = self._ceremony, self._ceremony.frost
        round1 = await self._calculate(ceremony.make_round1)
        await self._sending.broadcast(ROUND1_CAST_ID, round1.cast)
        await self._sending.deliver_to_all(SHARES_PROTOCOL, lambda peer: round1.shares[peer.index])
        await self._until_complete(frost.missing_round1, "to send its commitments and shares")
        round2 = await self._calculate(ceremony.make_round2)
        await self._sending.broadcast(ROUND2_CAST_ID, round2)
        await self._until_complete(frost.missing_round2, "to confirm the keys")
        await self._calculate(ceremony.finish_keys)

    async def _exchange(self, slot: int) -> None:
        """Sign with our shares, send to all, collect from all, combine."""
        partials = await self._calculate(self._ceremony.sign, slot)
        limit_s = self._options.timeout_s if self._ceremony.dialect.has_exchange_timeout else float("inf")
        with trio.move_on_after(limit_s) as scope:
            await self._sending.deliver_to_all(PARTIALS_PROTOCOL, lambda peer: partials)
            await self._until_complete(lambda: self._ceremony.exchange.missing(slot), "to send its signatures")
        if scope.cancelled_caught:
            missing = self._ceremony.exchange.missing(slot)
            reason = f"timed out waiting for peer signatures after {limit_s:g} s (see --timeout)"
            raise CeremonyFault(missing[0] if missing else None, reason)
        await self._calculate(self._ceremony.combine, slot)

    async def _write_results(self) -> Lock:
        """Verify the lock as a whole, then write everything at once."""
        ceremony, options = self._ceremony, self._options
        lock = await self._calculate(
            lambda: ceremony.complete_lock(options.networks_extra, is_verified=options.is_verified, contract=options.contract)
        )
        content = await self._calculate(encode_lock, lock)
        deposit_files = await self._calculate(ceremony.deposit_files)
        total = len(ceremony.keys)
        await self._until(
            lambda: len(self._keystores) < total,
            list,
            f"for keystores to be encrypted ({total} in all)",
        )
        keystores = [self._keystores[validator] for validator in range(total)]
        is_delivered = False
        try:
            if options.deliver_keystores is not None:
                is_delivered = await options.deliver_keystores(keystores)
        finally:  # when that is cancelled, some keystores may be there already, and nobody else has our shares: so they go to disk
            await self._write_files(() if is_delivered else keystores, content, deposit_files)
        what = "cluster lock and deposit data" if is_delivered else "keystores, cluster lock and deposit data"
        log.info(f"Wrote {what}", directory=str(options.data_directory), validators=total)
        return lock

    async def _write_files(self, keystores: Sequence[Keystore], lock: bytes, deposit_files: Mapping[str, bytes]) -> None:
        """Everything at once. keystores: none when they were delivered elsewhere. Raises UserError.

        A full disk must not cost all operators their ceremony: it is tried again for WRITE_LIMIT_S.
        """

        def write() -> None:
            write_ceremony_artifacts(self._options.data_directory, keystores=keystores, lock=lock, deposit_files=deposit_files)

        give_up_at, warnings = trio.current_time() + WRITE_LIMIT_S, ChangeLog(repeat_s=ANNOUNCE_INTERVAL_S)
        try:
            while True:
                try:
                    with trio.CancelScope(shield=True):  # once it begins, it is done or undone as a whole
                        await trio.to_thread.run_sync(write)
                    break
                except UserError as error:
                    deadline = min(give_up_at, trio.current_effective_deadline())  # cancelled: there is no time for another try
                    if not may_pass(error.__cause__) or trio.current_time() >= deadline:
                        raise
                    if warnings.is_due(error.what, trio.current_time()):
                        log.warning(
                            "Results can't be written, trying again", where=error.where, reason=error.what, hint="make room"
                        )
                await trio.sleep(WRITE_AGAIN_S)
        except UserError as error:
            if keystores:
                raise
            remedy = f"the keystores were delivered; copy lock and deposit files from another operator; {error.remedy}"
            raise UserError(error.where, error.what, remedy) from error
        self._has_written = True

    async def _encrypt_keystores(self) -> None:
        def done(validator: int, keystore: Keystore) -> None:
            self._keystores[validator] = keystore
            self._wake()

        shares = [keys.secret_share for keys in self._ceremony.keys]
        password_bytes = PASSWORD_BYTES if self._options.deliver_keystores is None else KEY_MANAGER_PASSWORD_BYTES
        iterations, entropy = self._options.keystore_iterations, self._entropy
        await encrypt_in_threads(shares, iterations, entropy, done, password_bytes=password_bytes)

    async def _pass_barrier(self, phase: Phase) -> None:
        reports = self._reports
        reports.enter(phase.step)
        await self._until(
            lambda: not reports.has_passed(phase.step), reports.missing, f"to finish step {phase.step} ({phase.text})"
        )
        self._sending.forget()

    # what peers send

    async def _read_mail(self, inbox: Inbox[Message]) -> None:
        async for mail in inbox:
            try:
                self._take(mail)
            except CeremonyFault as fault:
                if not self._is_finished:
                    raise
                log.debug("A peer's fault comes too late to matter", operator=fault.peer_index, reason=fault.reason)

    def _take(self, mail: Mail[Message]) -> None:
        match mail.message:
            case SyncReported(peer_index, body) as request:
                reply = mail.reply_to(request)
                answer, fault = self._reports.judge(peer_index, body)
                reply.send(answer)
                if fault is not None:
                    raise fault
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
            case PeerBroke(peer_index, reason):
                raise CeremonyFault(peer_index, reason)
            case unknown:
                assert_never(unknown)
        self._wake()

    def _send_again_soon(self, peer: Peer) -> None:
        assert self._nursery is not None, "reporters run inside of it"
        self._nursery.start_soon(self._sending.send_again, peer)

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

    def _end_of(self, error: BaseException) -> tuple[str, Exception | None]:
        """What to tell the peers, and what to raise instead of `error`; None: `error` itself."""
        place = f"ceremony aborted in step {self._phase.step}"
        for leaf in leaves(error):
            if isinstance(leaf, CeremonyFault):
                peer = None if leaf.peer_index is None else self._peers[leaf.peer_index]
                aborted = Aborted(self._phase, peer, leaf.reason, has_written=self._has_written)
                return aborted.told, aborted
        for leaf in leaves(error):
            if isinstance(leaf, UserError):
                return f"{place}: a node cannot write its results", leaf
        if self._reports.has_begun and not self._is_finished:
            remedy = RESULTS_WRITTEN if self._has_written else NOTHING_WRITTEN
            log.warning("Stopping in the middle of the ceremony, telling the other operators", remedy=remedy)
        return f"{place}: a node was stopped", None

    async def _say_farewell(self, inbox: Inbox[Message], text: str) -> None:
        """Answer everybody's next report with the reason, so that nobody waits for us."""
        told: set[int] = set()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + FAREWELL_S):
            async for mail in inbox:
                if isinstance(mail.message, SyncReported):
                    request = mail.message
                    mail.reply_to(request).send(self._reports.farewell_to(request.peer_index, request.body, text))
                    told.add(request.peer_index)
                elif isinstance(mail.message, SignatureRequested):
                    mail.reply_to(mail.message)  # not answered: the reason is in the answers to step reports
                if told >= {peer.index for peer in self._others}:
                    await trio.sleep(FAREWELL_FLUSH_S)
                    return
