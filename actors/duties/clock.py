"""The slot clock: how a duty waits for its time. The wall clock may be set meanwhile, so no sleep is longer than a minute."""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from charon_actors.eth2.chain import Chain

LONGEST_SLEEP_S: Final = 60.0


class SlotClock:
    """wall_clock: Unix seconds."""

    def __init__(self, chain: Chain, wall_clock: Callable[[], float]) -> None:
        self.chain, self.wall_clock = chain, wall_clock

    def slot_now(self) -> int:
        """Not below 0."""
        return max(self.chain.slot_at(self.wall_clock()), 0)

    async def sleep_until(self, unix_s: float) -> None:
        while (left_s := unix_s - self.wall_clock()) > 0:
            await trio.sleep(min(left_s, LONGEST_SLEEP_S))

    async def in_mid_slot(self, slot: int, what: Callable[[], Awaitable[None]]) -> None:
        """What can wait doesn't compete with the slot's own duties."""
        await self.sleep_until(self.chain.slot_start_s(slot) + self.chain.slot_duration_s / 2)
        await what()
