"""Validators: the cluster's, kept for an epoch, and anybody's, looked up. Source: specification 08 §5.1, §13."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from actors.beacon import messages
from actors.beacon.facts import CacheSeen
from actors.beacon.messages import BeaconFault
from actors.facts import OnFact
from charon_actors.beacon.validators_cache import ValidatorsCache
from charon_actors.eth2.beacon_api import Validator
from charon_actors.eth2.chain import Chain

IDS_PER_CALL: Final = 500  # 08 §13

Read = Callable[[str, Sequence[str]], Awaitable[Sequence[Validator]]]


class Validators:
    """Of one incarnation. keys: group public keys of the lock, in its order. read: asks the beacon nodes, by state and ids."""

    def __init__(
        self, keys: Sequence[bytes], read: Read, chain: Callable[[], Chain], slot_now: Callable[[], int], on_fact: OnFact
    ) -> None:
        self._keys, self._read, self._chain, self._slot_now, self._on_fact = keys, read, chain, slot_now, on_fact
        self._cache, self._lock = ValidatorsCache(), trio.Lock()

    async def of_cluster(self, request: messages.ClusterValidators) -> tuple[Validator, ...]:
        wanted = request.pubkeys or self._keys
        await self._refresh()
        known = {key: self._cache.get(key) for key in wanted}
        unknown = [key for key, validator in known.items() if validator is None]
        found = await self._ask_for_validators(request.state, unknown) if unknown else ()
        return (*(validator for validator in known.values() if validator is not None), *found)

    async def _refresh(self) -> None:
        chain = self._chain()
        async with self._lock:
            slot = self._slot_now()
            states = self._cache.states_to_ask(slot, chain.slots_per_epoch)
            self._on_fact(CacheSeen("validators", "misses" if states else "hits"))
            for state in states:
                try:
                    found = await self._ask_for_validators(state, self._keys)
                except BeaconFault:
                    if state == states[-1]:
                        raise
                else:
                    self._cache.replace(slot, chain.slots_per_epoch, state, found)
                    return

    async def _ask_for_validators(self, state: str, keys: Sequence[bytes]) -> tuple[Validator, ...]:
        wanted = frozenset(keys)
        found = await self._ask_by_id(state, [f"0x{key.hex()}" for key in keys])
        return tuple(validator for validator in found if validator.pubkey in wanted)

    async def look_up(self, request: messages.LookUpValidators) -> tuple[Validator, ...]:
        return await self._ask_by_id(request.state, request.ids)

    async def _ask_by_id(self, state: str, ids: Sequence[str]) -> tuple[Validator, ...]:
        found: list[Validator] = []
        for start in range(0, len(ids), IDS_PER_CALL):
            some = ids[start : start + IDS_PER_CALL]
            found += await self._read(state, some)
        return tuple(found)

    async def active_indices(self) -> Sequence[int]:
        """Of the cluster's validators."""
        await self._refresh()
        return self._cache.active_indices()
