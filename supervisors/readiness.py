"""Whether the node can do its duties, for `/readyz`: the first row of specification 10 §2 that holds.

    state   text                                     holds when
    2       beacon node down                         no beacon node answers
    3       beacon node not synced                   the best one is syncing
    7       beacon node has zero peers               it says so
    8       beacon node far behind                   more than FAR_BEHIND_SLOTS
    4       quorum peers not connected               at QUORUM_CHECKS looks, one after the other
    9       slashing record was lost, …              nothing is signed for two epochs
    5       vc not connected                         the validator client asked nothing during a whole epoch
    1       ok                                       else

Once a slot, and more often until ready. Before the chain is known the first two are told: an operator must not have to guess what is waited
for. What the validator client does and whether the slashing guard only listens are heard on the fact stream.
"""

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import trio

from actors.beacon import BeaconFault, SyncState, SyncStatus
from actors.beacon import Message as BeaconMessage
from actors.facts import Fact, OnFact
from actors.log import get_logger
from actors.mailbox import Address
from actors.metrics import Readiness
from actors.slashing import OnlyListening
from actors.validator_api import RequestSeen
from charon_actors.errors import Retryable
from charon_actors.eth2.chain import Chain
from supervisors.chain_facts import ChainFacts

log = get_logger("app-start")

QUORUM_CHECKS: Final = 6  # 10 §2: peers are missing only after that many looks
FAR_BEHIND_SLOTS: Final = 320
EARLY_CHECK_INTERVAL_S: Final = 1.0
UNREADY_INTERVAL_S: Final = 0.25


class ReadinessChanged(Fact, frozen=True):
    """state, text: of the table."""

    state: int
    text: str


class BeaconPeersSeen(Fact, frozen=True):
    """How many peers our best beacon node has."""

    peers: int


class Readings(NamedTuple):
    """What the rows are about. status: None when no beacon node answers."""

    status: SyncState | None
    are_peers_missing: bool = False
    is_listening: bool = False
    is_client_missing: bool = False


ROWS: Final[tuple[tuple[int, str, Callable[[Readings], bool]], ...]] = (
    (2, "beacon node down", lambda look: look.status is None),
    (3, "beacon node not synced", lambda look: look.status is not None and look.status.is_syncing),
    (7, "beacon node has zero peers", lambda look: look.status is not None and look.status.peers == 0),
    (8, "beacon node far behind", lambda look: look.status is not None and look.status.sync_distance > FAR_BEHIND_SLOTS),
    (4, "quorum peers not connected", lambda look: look.are_peers_missing),
    (9, "slashing record was lost, only listening for two epochs", lambda look: look.is_listening),
    (5, "vc not connected", lambda look: look.is_client_missing),
    (1, "ok", lambda look: True),
)


def verdict(look: Readings) -> tuple[int, str]:
    """State and text of the first row that holds."""
    return next((state, text) for state, text, holds in ROWS if holds(look))


class ReadinessWatch:
    """peers: operators of the cluster, ourselves included. threshold: of the lock. connected: how many other peers are.
    board: what `/readyz` answers from. ready: set when it says ok for the first time."""

    def __init__(
        self,
        facts: ChainFacts,
        beacon: Address[BeaconMessage],
        connected: Callable[[], int],
        *,
        peers: int,
        threshold: int,
        wall_clock: Callable[[], float],
        on_fact: OnFact,
    ) -> None:
        self._facts, self._beacon, self._connected, self._wall_clock, self._on_fact = (
            facts,
            beacon,
            connected,
            wall_clock,
            on_fact,
        )
        self._needed = max(math.ceil(2 * peers / 3), threshold) - 1
        self._is_listening = False
        self._requests_of_epoch = 0
        self._counted_epoch: int | None = None
        self._was_client_there = True
        self.board, self.ready = Readiness(), trio.Event()

    def hear(self, fact: Fact) -> None:
        """Of the fact stream."""
        match fact:
            case RequestSeen():
                self._requests_of_epoch += 1
            case OnlyListening(left_s):
                self._is_listening = left_s > 0
            case _:
                pass

    async def run(self) -> None:
        """Never returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_early)
            chain = await self._facts.get()
            nursery.cancel_scope.cancel()
        await self._watch(chain)

    async def _watch(self, chain: Chain) -> None:
        missing_checks = QUORUM_CHECKS
        while True:
            missing_checks = missing_checks + 1 if self._connected() < self._needed else 0
            status = await self._ask()
            if status is not None and status.peers is not None:
                self._on_fact(BeaconPeersSeen(status.peers))
            is_client_missing = self._is_client_missing(chain.epoch_of(max(chain.slot_at(self._wall_clock()), 0)))
            self._set(*verdict(Readings(status, missing_checks >= QUORUM_CHECKS, self._is_listening, is_client_missing)))
            await trio.sleep(chain.slot_duration_s if self.board.is_ready else min(chain.slot_duration_s, UNREADY_INTERVAL_S))

    async def _watch_early(self) -> None:
        while True:
            state, text = verdict(Readings(await self._ask()))
            if state in (2, 3):
                self._set(state, text)
            await trio.sleep(EARLY_CHECK_INTERVAL_S)

    async def _ask(self) -> SyncState | None:
        try:
            return await self._beacon.ask(SyncStatus())
        except (BeaconFault, Retryable):
            return None

    def _is_client_missing(self, epoch: int) -> bool:
        """Whether the validator client asked nothing during the whole epoch before `epoch`; assumed to be there at the start."""
        if epoch != self._counted_epoch:
            self._was_client_there = self._counted_epoch is None or self._requests_of_epoch > 0 or epoch < self._counted_epoch
            self._counted_epoch, self._requests_of_epoch = epoch, 0
        return not self._was_client_there

    def _set(self, state: int, text: str) -> None:
        if self.board.state != state:
            (log.info if state == 1 else log.warning)("Readiness changed", state=text)
            self._on_fact(ReadinessChanged(state, text))
        self.board.state, self.board.text = state, text
        if state == 1:
            self.ready.set()
