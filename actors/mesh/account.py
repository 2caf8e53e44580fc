"""Account: one remote identity's credit and memory, over all its connections. The ledger keeps the accounts of a mesh.

Accepts     `pay` by the reader of each connection, `hold` by each stream; any of the mesh's children may ask for an account
Owns        credit (`charon_actors.p2p.credit`), turns, and the count of bytes that came from an identity and were not read
May touch   the connections that are entered in it: closes the heavy ones, resets the largest stream
Cancelled   while it waits for its turn: the turn goes to the next one
Restart     belongs to the Host: neither a restart of a peer's child nor a new connection gives anybody new credit

Turns. Trio runs all tasks that are ready once before it looks at the sockets again, so sixteen readers that each take a few
milliseconds would hold up everybody for their sum. So the connections of one identity take turns: one slice of SLICE_MS, then everybody
else runs, then the next one. While the account is in debt the one in front waits until it is paid. In front is whoever has used
least lately, so a connection that is used honestly is not behind one that floods.

Memory. What waits to be read, and what was read of a message that isn't whole, counts by identity. Above MEMBER_BYTES its
largest stream is reset; above TOTAL_BYTES, the largest stream of the identity that holds most. So nobody who holds less than TOTAL_BYTES
divided by the number of identities is ever touched by what the others do.

    honest: the largest message is 32 MiB (consensus, partial signatures), a ceremony's 128 MiB at most; one or two a peer at a time

Limits: the constants below, and OTHERS identities that aren't members (relays; they change their ids).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import trio

from actors.change_log import ChangeLog
from actors.facts import OnFact, unheard
from actors.log import get_logger
from actors.mesh.carriage import Carriage
from actors.mesh.facts import PeerCutOff, PeerPaused
from charon_actors.p2p.credit import (
    CUT_STRAIN_S,
    PEER_BURST_MS,
    PEER_RATE_MS,
    REFUSED_STRAIN_S,
    RELAY_BURST_MS,
    RELAY_RATE_MS,
    SLICE_MS,
    Credit,
    Use,
)
from charon_actors.p2p.peer_id import peer_name

MEMBER_BYTES: Final = 64 * 2**20
TOTAL_BYTES: Final = 256 * 2**20
OTHERS: Final = 64
SUSPECT_STRAIN_S: Final = 1.0
CALM_S: Final = 30.0
UNLIMITED_MS: Final = 1e12

log = get_logger("p2p")


class Account:
    """Made by the ledger. name: for metrics and the log."""

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        *,
        rate_ms: float = PEER_RATE_MS,
        burst_ms: float = PEER_BURST_MS,
        limit_bytes: int = MEMBER_BYTES,
    ) -> None:
        self.held_bytes = 0
        self._ledger, self._name, self._limit_bytes = ledger, name, limit_bytes
        self._is_limited = rate_ms < UNLIMITED_MS
        self._credit = Credit(trio.current_time(), rate_ms=rate_ms, burst_ms=burst_ms)
        self._use: Use[Carriage] = Use()
        self._connections: dict[Carriage, None] = {}
        self._holder: Carriage | None = None
        self._waiting: list[Carriage] = []
        self._changed = trio.Event()
        self._lines = ChangeLog(repeat_s=CALM_S, calm_s=CALM_S)

    # ---- credit ----

    async def pay(self, connection: Carriage, work: Callable[[], float]) -> None:
        """Do one slice of `work`, which returns its price in milliseconds, when it is this connection's turn and nothing is owed.

        A dear slice ends with a checkpoint, and half a dear one if this identity has several connections. Raises what `work` raises.
        Cancelled while waiting: nothing was done.
        """
        await self._wait_for_turn(connection)
        try:
            cost_ms = work()
            now = trio.current_time()
            self._credit.spend(cost_ms, now)
            self._use.add(connection, cost_ms, now)
            if cost_ms >= (SLICE_MS if len(self._connections) == 1 else SLICE_MS / 2):
                await trio.lowlevel.checkpoint()
        finally:
            self._release()

    def enter(self, connection: Carriage) -> None:
        """A connection of this identity begins to run."""
        self._connections[connection] = None

    def leave(self, connection: Carriage) -> None:
        """It ended."""
        self._connections.pop(connection, None)
        self._use.forget(connection)

    @property
    def rests_for_s(self) -> float:
        """Seconds in which no new connection from or to this identity is welcome."""
        return self._credit.rests_for_s(trio.current_time())

    def note_refused(self) -> None:
        """It came with more connections than it has places. Who only does that keeps the connections it has."""
        now = trio.current_time()
        if self._credit.strain(REFUSED_STRAIN_S, now):
            self._send_away(self._use.heavy(now) if self._credit.wait_s(now) else ())

    def is_suspect(self, connection: Carriage) -> bool:
        """Does this connection use a heavy share of an account that is in trouble?"""
        now = trio.current_time()
        return self._credit.strain_s(now) > SUSPECT_STRAIN_S and connection in self._use.heavy(now)

    @property
    def is_idle(self) -> bool:
        """Nothing is lost by forgetting this account."""
        return not self._connections and not self.held_bytes and self._credit.is_untouched(trio.current_time())

    @property
    def is_unused(self) -> bool:
        """It has no connections."""
        return not self._connections

    # ---- memory ----

    def hold(self, count: int) -> None:
        """`count` more bytes of this identity are kept (fewer, if negative)."""
        self.held_bytes += count
        self._ledger.held_bytes += count
        if count > 0:
            while self.held_bytes > self._limit_bytes and self.cut_largest():
                self._strain_by(CUT_STRAIN_S)
            self._ledger.relieve()

    def cut_largest(self) -> bool:
        """Reset the stream that holds most. False: there is none that holds anything."""
        largest = max(
            (stream for connection in self._connections for stream in connection.streams.values()),
            key=lambda stream: stream.held_bytes,
            default=None,
        )
        if largest is None or not largest.held_bytes:
            return False
        self._count_end("memory")
        if self._lines.is_due("memory", trio.current_time()):
            log.warning(
                "Peer has too many unfinished messages, the largest is dropped", peer=self._name, held_bytes=self.held_bytes
            )
        largest.connection.cut_stream(largest)
        return True

    # ---- inside ----

    async def _wait_for_turn(self, connection: Carriage) -> None:
        if self._holder is None and not self._waiting and not self._credit.wait_s(trio.current_time()):
            self._holder = connection
            return
        self._waiting.append(connection)
        self._wake()
        try:
            while True:
                changed, now = self._changed, trio.current_time()
                if self._holder is not None or self._next(now) is not connection:
                    await changed.wait()
                    continue
                wait_s = self._credit.wait_s(now)
                if not wait_s:
                    self._holder = connection
                    return
                with trio.move_on_after(wait_s):
                    await changed.wait()
                self._note_pause(trio.current_time() - now)
        finally:
            self._waiting.remove(connection)
            self._wake()

    def _next(self, now: float) -> Carriage:
        return min(self._waiting, key=lambda connection: self._use.of(connection, now))

    def _release(self) -> None:
        self._holder = None
        if self._waiting:
            self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def _note_pause(self, seconds: float) -> None:
        self._ledger.on_fact(PeerPaused(self._name, seconds))
        self._strain_by(seconds)

    def _strain_by(self, seconds: float) -> None:
        now = trio.current_time()
        if self._is_limited and self._credit.strain(seconds, now):
            self._send_away(self._use.heavy(now))

    def _send_away(self, heavy: Sequence[Carriage]) -> None:
        now = trio.current_time()
        rest_s = self._credit.rest(now)
        self._count_end("credit")
        if self._lines.is_due("credit", now):
            log.warning(
                "Peer costs too much, it gets no new connections for a while",
                peer=self._name,
                closed=len(heavy),
                rest_s=round(rest_s),
            )
        for connection in heavy:
            connection.cut_off("the peer costs too much")

    def _count_end(self, reason: str) -> None:
        self._ledger.on_fact(PeerCutOff(self._name, reason))


class Ledger:
    """All accounts of one mesh. members: peer ids of the cluster, and how they are called. is_limited: False for tools and tests."""

    def __init__(
        self,
        on_fact: OnFact = unheard,
        members: Collection[tuple[bytes, str]] = (),
        *,
        member_bytes: int = MEMBER_BYTES,
        is_limited: bool = True,
    ) -> None:
        self.on_fact = on_fact
        self.held_bytes = 0
        self._names, self._member_bytes, self._is_limited = dict(members), member_bytes, is_limited
        self._total_bytes = max(TOTAL_BYTES, 2 * member_bytes)
        self._accounts: dict[bytes, Account] = {}

    def account_of(self, peer_id: bytes) -> Account:
        """The account of an identity that has been proved, or will be dialed."""
        account = self._accounts.get(peer_id)
        if account is None:
            self._make_room()
            account = self._accounts[peer_id] = self._open(peer_id)
        return account

    def is_resting(self, peer_id: bytes) -> bool:
        """Whether no new connection from or to this identity is welcome now."""
        account = self._accounts.get(peer_id)
        return account is not None and account.rests_for_s > 0

    def relieve(self) -> None:
        """Keep the sum of all below its limit."""
        while self.held_bytes > self._total_bytes:
            if not max(self._accounts.values(), key=lambda account: account.held_bytes).cut_largest():
                return

    def _open(self, peer_id: bytes) -> Account:
        name = self._names.get(peer_id)
        rate_ms, burst_ms = (RELAY_RATE_MS, RELAY_BURST_MS) if name is None else (PEER_RATE_MS, PEER_BURST_MS)
        if not self._is_limited:
            rate_ms = burst_ms = UNLIMITED_MS
        return Account(name or peer_name(peer_id), self, rate_ms=rate_ms, burst_ms=burst_ms, limit_bytes=self._member_bytes)

    def _make_room(self) -> None:
        others = [peer_id for peer_id in self._accounts if peer_id not in self._names]
        if len(others) >= OTHERS:
            unused = [peer_id for peer_id in others if self._accounts[peer_id].is_unused]
            idle = [peer_id for peer_id in unused if self._accounts[peer_id].is_idle]
            for peer_id in (idle or unused)[:1]:
                del self._accounts[peer_id]
