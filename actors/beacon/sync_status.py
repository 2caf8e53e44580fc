"""Whether a beacon node is synced: of several the synced one wins; at most SYNC_STATUS_AGE_S old. Source: specification 08 §3."""

from typing import Final

import trio

from actors.beacon import messages
from actors.beacon.calls import Calls
from actors.beacon.messages import BeaconFault, BeaconUnavailable, SyncState
from actors.beacon.node import BeaconNode, CallFailed
from actors.beacon.race import AllFailed, race
from charon_actors.eth2 import beacon_api as api
from charon_actors.eth2.beacon_api import AnswerFault

SYNC_STATUS_AGE_S: Final = 1.0


class SyncStatusOf:
    """The nodes that `calls` asks. limit_s: a request."""

    def __init__(self, calls: Calls, limit_s: float) -> None:
        self._calls, self._limit_s = calls, limit_s
        self._last: tuple[float, SyncState] | None = None
        self._lock = trio.Lock()

    async def ask(self, _: messages.SyncStatus) -> SyncState:
        """Raises: BeaconFault, when none answers."""
        async with self._lock:
            if self._last is not None and trio.current_time() - self._last[0] < SYNC_STATUS_AGE_S:
                return self._last[1]
            state = await self._ask_all()
            self._last = (trio.current_time(), state)
            return state

    async def _ask_all(self) -> SyncState:
        syncing: list[SyncState] = []

        async def attempt(node: BeaconNode) -> SyncState:
            try:
                answer = api.decode_syncing((await self._calls.ask(node, api.SYNCING, self._limit_s)).body)
            except AnswerFault as fault:
                raise node.failed(str(fault), retryable=False) from None
            try:
                peers = api.decode_peer_count((await self._calls.ask(node, api.PEER_COUNT, self._limit_s)).body)
            except (CallFailed, AnswerFault):
                peers = None
            state = SyncState(not answer.is_synced, answer.sync_distance, peers, answer.raw)
            if state.is_syncing:
                syncing.append(state)
                raise node.failed("is syncing")
            return state

        fault: BeaconFault = BeaconUnavailable(None, "no beacon node")
        for nodes in self._calls.usable():
            if nodes:
                try:
                    return await race(nodes, attempt)
                except AllFailed as failed:
                    fault = failed.as_fault(api.SYNCING.name)
        if syncing:
            return min(syncing, key=lambda state: state.sync_distance)
        raise fault
