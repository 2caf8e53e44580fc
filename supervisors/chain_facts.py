"""The chain's parameters, which nobody knows before a beacon node has told them, and the actors that wait for them.

Duties, consensus, signatures and the slashing record need them; the network and the monitoring server don't. When the beacon nodes
announce other forks, those that need the forks begin a new life with them, once, late in a slot: when its duties are mostly through, and
those of the next have not begun. That is no crash: the supervisor sees nothing of it.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

import trio

from actors.beacon import LoadChain
from actors.beacon import Message as BeaconMessage
from actors.log import get_logger
from actors.mailbox import Actor, Address, Mailbox, run_incarnation
from charon_actors.errors import Retryable
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.networks import Network
from supervisors.supervisor import Body, Life, Staged

log = get_logger("app-start")

ASK_AGAIN_S: Final = 0.2
QUIET_AT: Final = 0.7  # of a slot: attestations are mostly out by then, and the next slot's duties can still be resolved

M = TypeVar("M")


class ChainFacts:
    """The chain's parameters, asked of the beacon actor once, by whoever needs them first.

    replaced: set when the beacon nodes announce other forks than `known` has; then there is a new one of both.
    """

    def __init__(self, beacon: Address[BeaconMessage], network: Network) -> None:
        self._beacon, self._network = beacon, network
        self._lock = trio.Lock()
        self._chain: Chain | None = None
        self.replaced = trio.Event()

    def replace(self, chain: Chain) -> None:
        """Whoever works with the old one starts again with this one."""
        self._chain = chain
        self.replaced.set()
        self.replaced = trio.Event()

    @property
    def known(self) -> Chain | None:
        """None until a beacon node has told it."""
        return self._chain

    async def get(self) -> Chain:
        """Waits as long as it takes. Raises: UserError (a beacon node of another network)."""
        async with self._lock:
            while self._chain is None:
                with suppress(Retryable):
                    self._chain = await self._beacon.ask(
                        LoadChain(
                            capella_fork_version=self._network.capella_fork_version,
                            genesis_fork_version=self._network.genesis_fork_version,
                        )
                    )
                    break
                await trio.sleep(ASK_AGAIN_S)
            return self._chain


def once_known(
    facts: ChainFacts,
    mailbox: Mailbox[M],
    make: Callable[[Chain], Actor[M]],
    wall_clock: Callable[[], float],
    *,
    needs_forks: bool = True,
) -> Body:
    """A body that waits for a beacon node, while mail for the actor waits in its mailbox. needs_forks: see on top."""

    async def begin_again(chain: Chain, replaced: trio.Event, life: trio.CancelScope) -> None:
        await replaced.wait()
        in_slot = (wall_clock() - chain.genesis_time_s) / chain.slot_duration_s % 1
        await trio.sleep((QUIET_AT - in_slot) % 1 * chain.slot_duration_s)
        log.info("Actor begins anew with the chain's new forks", actor=mailbox.name)
        life.cancel()

    async def body(life: Life) -> None:
        life.started()
        is_over = False
        while not is_over:
            chain, replaced = await facts.get(), facts.replaced
            async with trio.open_nursery() as nursery:
                if needs_forks:
                    nursery.start_soon(begin_again, chain, replaced, nursery.cancel_scope)
                await run_incarnation(mailbox, partial(make, chain))
                is_over = True
                nursery.cancel_scope.cancel()

    return Staged(body)
