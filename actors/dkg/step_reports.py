"""Step sync at work: our reports to every peer, the answers to theirs, and who has not been heard of.

The rules are `charon_actors.dkg.step_sync`; here are the streams and the clock. One reporter a peer holds one long-lived stream and
reconnects for ever (BACKOFF), for a killed peer looks like a broken connection; the machine says when to report.

    a peer's report                     answer                              the ceremony
    another release, definition         the error text                      ends
    an impossible step                  v1.11: a text; v1.10: none; ends    ends
    malformed                           none; ends                          ends
    good                                no error                            goes on
    an answer with an error                                                 ends: the peer has given up, and says why

While we stand at step 0, peers may come and go as their operators like, and nobody is given up. A peer is connected as long as it
answers us on an open stream and has reported within CONTACT_S; step 0 is left when all are connected at the same moment. One case
can't get better: v1.10 peers at step 1 that remember us there (we were restarted) end every stream of ours without a word;
after REFUSED_STREAMS in a row, over REFUSED_S at least, that is said and ends the ceremony.

From step 1 on silence counts: a peer that has not reported for ANNOUNCE_SILENCE_S is named in the log; after `timeout_s` the ceremony
ends. At the end a reporter goes on, over as many streams as it takes, until its peer has answered our last report; FINAL_REPORTS_S
is the limit for all of them.

Not an actor: the ceremony actor owns one and runs it. Source: specification 04 §3.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, assert_never

import trio

from actors.dkg.messages import SyncReply
from actors.dkg.sync_stream import FramedStream
from actors.log import get_logger
from actors.mesh import MeshFault
from charon_actors.cluster.peers import Peer
from charon_actors.crypto import Entropy
from charon_actors.dkg.dialect import SYNC_PROTOCOL, Dialect
from charon_actors.dkg.faults import CeremonyFault
from charon_actors.dkg.step_sync import RESTART_TEXT, Effect, Failed, Passed, Report, StepSync, SyncDoor
from charon_actors.dkg.sync_messages import (
    SyncAnswer,
    SyncReport,
    decode_report,
    decode_sync_answer,
    encode_answer,
    encode_report,
    sign_definition,
)
from charon_actors.errors import Retryable

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_FACTOR: Final = 1.6
BACKOFF_MAX_S: Final = 1.0
BACKOFF_JITTER: Final = 0.2
CONTACT_S: Final = 2.0  # twenty reports
REFUSED_STREAMS: Final = 5
REFUSED_S: Final = 3.0
ANNOUNCE_SILENCE_S: Final = 10.0
FINAL_REPORTS_S: Final = 10.0

log = get_logger("dkg")


class StreamOpener(Protocol):
    """The part of the mesh that reporters need."""

    async def open_stream(self, peer_index: int, protocols: Sequence[str], timeout_s: float = ...) -> Any: ...


class StepReports:
    """Both sides of step sync with all peers. others: all operators but ourselves.

    on_change: something happened that somebody may wait for. on_reconnected: what was sent to this peer before may be lost.
    """

    def __init__(
        self,
        dialect: Dialect,
        definition_hash: bytes,
        private_key: bytes,
        others: Sequence[Peer],
        network: StreamOpener,
        *,
        nickname: str,
        timeout_s: float,
        entropy: Entropy,
        wall_clock: Callable[[], float],
        on_change: Callable[[], None],
        on_reconnected: Callable[[Peer], None],
    ) -> None:
        self._dialect, self._network, self._nickname, self._timeout_s = dialect, network, nickname, timeout_s
        self._entropy, self._wall_clock = entropy, wall_clock
        self._on_change, self._on_reconnected = on_change, on_reconnected
        self._peers: Mapping[int, Peer] = {peer.index: peer for peer in others}
        self._hash_signature = sign_definition(private_key, definition_hash)
        self._door = SyncDoor(dialect, definition_hash, {index: peer.public_key for index, peer in self._peers.items()})
        self._sync = StepSync(self._peers, tells_restarted_peer=dialect.tells_restarted_peer)
        self._passed = -1
        self._is_ending, self._is_over = False, trio.Event()
        self._due = {index: trio.Event() for index in self._peers}
        self._heard_at: dict[int, float] = {}  # when a peer's report was last accepted; at step 0 only those that still report
        self._answering: set[int] = set()  # peers that have answered on the stream that is open now
        self._refused: dict[int, tuple[int, float]] = {}  # streams in a row that a peer ended unanswered, and when the first was
        self._silent: set[int] = set()
        self._has_heard_last: set[int] = set()  # peers that have answered our last report
        self._has_said_last: set[int] = set()  # peers whose last report we have

    async def run(self) -> None:
        """Report to everybody until cancelled. Raises CeremonyFault (table on top)."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick)
            for peer in self._peers.values():
                nursery.start_soon(self._report_to, peer)

    @property
    def has_begun(self) -> bool:
        """Have we left step 0? Before, peers can do without us: we may come back."""
        return self._sync.step > 0

    def enter(self, step: int) -> None:
        """We reached this step. Raises CeremonyFault."""
        if not self.has_begun:
            self._heard_at = dict.fromkeys(self._peers, trio.current_time())  # silence counts from now on
        self._apply(self._sync.enter(step, trio.current_time()))

    def has_passed(self, step: int) -> bool:
        """Has everybody entered this step?"""
        return self._passed >= step

    def missing(self) -> list[int]:
        """Peer indices that have not entered our step, as far as we know."""
        return self._sync.missing()

    def unconnected(self) -> list[int]:
        """Peer indices that at this moment don't report to us, or don't answer us. Of use at step 0."""
        return [index for index in self._peers if index not in self._heard_at or index not in self._answering]

    async def end(self) -> None:
        """Our last report says that we are done; wait a moment until everybody has it and has said the same."""
        self._is_ending = True
        for event in self._due.values():
            event.set()
        with trio.move_on_after(FINAL_REPORTS_S) as scope:
            await self._is_over.wait()
        if scope.cancelled_caught:
            told = self._has_heard_last & self._has_said_last
            names = ", ".join(peer.name for index, peer in self._peers.items() if index not in told)
            log.warning("Not all peers have said that they are done; ask their operators", peers=names)

    def _look_whether_over(self) -> None:
        if self._has_heard_last >= self._peers.keys() and self._has_said_last >= self._peers.keys():
            self._is_over.set()

    def judge(self, peer_index: int, body: bytes) -> tuple[SyncReply, CeremonyFault | None]:
        """What to answer to a peer's report, and the fault that then ends the ceremony."""
        try:
            report = decode_report(peer_index, body)
        except CeremonyFault as fault:
            return SyncReply(None, ends=True), fault
        refusal = self._door.refusal(peer_index, report)
        if refusal is not None:
            answer = SyncReply(encode_answer(SyncAnswer(report.timestamp, refusal)))
            return answer, CeremonyFault(peer_index, f"invalid sync message: {refusal}")
        effects = [] if self._is_ending else self._sync.receive(peer_index, report.step)
        for effect in effects:
            if isinstance(effect, Failed):
                told = None if effect.answer is None else encode_answer(SyncAnswer(report.timestamp, effect.answer))
                return SyncReply(told, ends=True), CeremonyFault(effect.peer_index, effect.reason)
        self._note_contact(peer_index, report)
        self._apply(effects)
        return SyncReply(encode_answer(SyncAnswer(report.timestamp)), ends=report.shutdown), None

    def farewell_to(self, peer_index: int, body: bytes, reason: str) -> SyncReply:
        """The answer to any report once our ceremony has ended: the reason, which ends the peer's as well."""
        try:
            stamp = decode_report(peer_index, body).timestamp
        except CeremonyFault:
            stamp = (0, 0)
        return SyncReply(encode_answer(SyncAnswer(stamp, reason)))

    async def _tick(self) -> None:
        while True:
            await trio.sleep_until(self._sync.wake_at)
            self._apply(self._sync.tick(trio.current_time()))
            if self.has_begun:
                self._look_for_silence()
            else:
                self._forget_who_left()
            if self._sync.wake_at <= trio.current_time():
                await trio.sleep_forever()  # the machine has failed and says nothing more

    async def _report_to(self, peer: Peer) -> None:
        """Until it has answered our last report."""
        backoff_s, is_first, has_heard_last = BACKOFF_FIRST_S, True, False
        while not has_heard_last:
            try:
                stream = await self._network.open_stream(peer.index, (SYNC_PROTOCOL,))
            except (MeshFault, Retryable) as error:
                log.debug("Cannot open the sync stream yet", peer=peer.name, error=str(error))
            else:
                if not is_first:
                    self._on_reconnected(peer)
                is_first = False
                try:
                    async with stream:
                        has_heard_last = await self._ping_pong(peer, FramedStream(stream, peer.index))
                except (trio.BrokenResourceError, trio.ClosedResourceError, MeshFault, Retryable) as error:
                    log.debug("Sync stream lost, reconnecting", peer=peer.name, error=str(error) or type(error).__name__)
            if self._is_ending or peer.index in self._answering:
                backoff_s = BACKOFF_FIRST_S
            self._answering.discard(peer.index)
            if not has_heard_last:
                await trio.sleep(backoff_s * (1 + BACKOFF_JITTER * (self._entropy(1)[0] / 127.5 - 1)))
                backoff_s = min(backoff_s * BACKOFF_FACTOR, BACKOFF_MAX_S)
        self._has_heard_last.add(peer.index)
        self._look_whether_over()

    async def _ping_pong(self, peer: Peer, frames: FramedStream) -> bool:
        """Until the peer ends the stream, or (True) has answered our last report. Raises CeremonyFault, and as the stream."""
        while True:
            is_last = self._is_ending
            self._due[peer.index] = trio.Event()
            await frames.send(self._report(shutdown=is_last))
            body = await frames.receive()
            if body is None:
                self._note_end(peer.index)
                return False
            if is_last:
                return True  # an error in it comes too late to matter
            error = decode_sync_answer(peer.index, body).error
            if error and not self._is_ending:  # later it would only keep our last report from the others
                raise CeremonyFault(peer.index, f"peer responded with error: {error}")
            if peer.index not in self._answering:
                self._answering.add(peer.index)
                self._refused.pop(peer.index, None)
                self._on_change()
            await self._due[peer.index].wait()

    def _note_end(self, peer_index: int) -> None:
        """A peer has ended our stream instead of answering. Raises CeremonyFault when it will never do anything else."""
        now = trio.current_time()
        streams, since = self._refused.get(peer_index, (0, now))
        self._refused[peer_index] = streams + 1, since
        is_ahead = peer_index in self._heard_at and (self._sync.last_step_of(peer_index) or 0) > 0
        if not self.has_begun and is_ahead and streams + 1 >= REFUSED_STREAMS and now - since >= REFUSED_S:
            raise CeremonyFault(peer_index, f"has ended our streams without an answer: {RESTART_TEXT}")

    def _report(self, *, shutdown: bool) -> bytes:
        seconds, fraction = divmod(self._wall_clock(), 1)
        return encode_report(
            SyncReport(
                timestamp=(int(seconds), int(fraction * 1e9)),
                hash_signature=self._hash_signature,
                version=self._dialect.minor,
                step=self._sync.step,
                shutdown=shutdown,
                nickname=self._nickname,
            )
        )

    def _apply(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Report(peer_index):
                    self._due[peer_index].set()
                case Passed(step):
                    self._passed = step
                    self._on_change()
                case Failed(peer_index, reason):
                    raise CeremonyFault(peer_index, reason)
                case unknown:
                    assert_never(unknown)

    def _note_contact(self, peer_index: int, report: SyncReport) -> None:
        peer = self._peers[peer_index]
        if peer_index not in self._heard_at:
            count = f"{len(self._heard_at) + 1} of {len(self._peers)}"
            nickname = {"nickname": report.nickname} if report.nickname else {}
            log.info(f"Connected to peer {count}", peer=peer.name, operator=peer_index, **nickname)
        self._heard_at[peer_index] = trio.current_time()
        if report.shutdown:
            self._has_said_last.add(peer_index)
            self._look_whether_over()
        if peer_index in self._silent:
            self._silent.discard(peer_index)
            log.info("Peer is back", peer=peer.name, operator=peer_index)

    def _forget_who_left(self) -> None:
        now = trio.current_time()
        for index in [index for index, heard_at in self._heard_at.items() if now - heard_at > CONTACT_S]:
            del self._heard_at[index]
            log.info("Peer has left before the start, waiting for it to come back", peer=self._peers[index].name, operator=index)

    def _look_for_silence(self) -> None:
        if self._is_ending:
            return
        now = trio.current_time()
        for index, peer in self._peers.items():
            silence_s = now - self._heard_at[index]
            if silence_s > self._timeout_s:
                raise CeremonyFault(index, f"has not been heard of for {self._timeout_s:g} s (see --timeout)")
            if silence_s > ANNOUNCE_SILENCE_S and index not in self._silent:
                self._silent.add(index)
                log.warning("Lost contact with a peer, reconnecting", peer=peer.name, operator=index)
