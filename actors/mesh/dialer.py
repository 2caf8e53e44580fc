"""Dialer: turns a peer's addresses into one authenticated connection.

Theory of operation. The plan (`charon_actors.p2p.dial`) says when each address is due. Addresses are tried side by side, at most
MAX_PARALLEL_DIALS at a time; when nothing is running the next one starts at once. The first connection wins, the other attempts are
cancelled; if two win in the same instant, the second is closed. Every failed address is reported with its reason, also when the
reason is a bug of ours (that one is logged with its traceback): where a peer says it listens must not be able to end the child.

Cancellation: at any time; nothing stays open. Source: specification 03 §2.3.
"""

from collections.abc import Awaitable, Callable, Sequence

import msgspec
import trio

from actors.log import get_logger
from actors.mesh.connection import Connection
from actors.mesh.faults import DIAL_ERRORS, DialFault, describe
from actors.mesh.host import Host
from actors.mesh.transport import transport_for
from actors.mesh.upgrade import upgrade
from charon_actors.p2p.dial import MAX_PARALLEL_DIALS, PlannedDial
from charon_actors.p2p.multiaddr import Multiaddr, named_address

log = get_logger("p2p")


class DialOutcome(msgspec.Struct, frozen=True):
    """connection: None when all addresses failed. address: where it leads, as planned. failures: address to reason.

    Cancelled attempts are not among the failures.
    """

    connection: Connection | None
    address: Multiaddr | None
    failures: dict[Multiaddr, str]


async def dial(
    plan: Sequence[PlannedDial], attempt: Callable[[PlannedDial], Awaitable[Connection]], timeout_s: float
) -> DialOutcome:
    """Try the plan; see the theory on top. `attempt` raises DialFault or one of DIAL_ERRORS."""
    waiting = list(plan)
    failures: dict[Multiaddr, str] = {}
    won: list[tuple[Connection, Multiaddr]] = []
    running = 0
    progress = trio.Event()

    async def run(planned: PlannedDial) -> None:
        nonlocal running, progress
        try:
            with trio.fail_after(planned.timeout_s):
                made = await attempt(planned)
            if won:
                made.close("another address was faster")
            else:
                won.append((made, planned.address))
        except DIAL_ERRORS as error:
            failures[planned.address] = describe(error)
        except Exception as error:
            log.exception("Dial failed unexpectedly", address=named_address(str(planned.address)))
            failures[planned.address] = f"{type(error).__name__}: {error}"
        finally:
            running -= 1
            progress.set()

    start = trio.current_time()
    try:
        with trio.move_on_after(timeout_s):
            async with trio.open_nursery() as nursery:
                while (waiting or running) and not won:
                    progress = trio.Event()
                    due = start + waiting[0].delay_s if waiting and running < MAX_PARALLEL_DIALS else float("inf")
                    if waiting and (not running or due <= trio.current_time()) and running < MAX_PARALLEL_DIALS:
                        running += 1
                        nursery.start_soon(run, waiting.pop(0))
                        continue
                    with trio.move_on_at(due):
                        await progress.wait()
                nursery.cancel_scope.cancel()
    except BaseException:
        for made, _ in won:
            made.close("the dial was cancelled")
        raise
    connection, address = won[0] if won else (None, None)
    return DialOutcome(connection, address, failures)


async def dial_address(host: Host, address: Multiaddr, expected_peer: bytes) -> Connection:
    """A connection to `expected_peer` at an address that one of the host's transports speaks. Raises: DialFault or one of DIAL_ERRORS."""
    transport = transport_for(host.transports, address)
    if transport is None:
        raise DialFault("no transport for such an address")
    return await upgrade(
        await transport.dial(address),
        host.identity,
        outbound=True,
        expected_peer=expected_peer,
        is_allowed=host.is_welcome,
        remote_address=address.transport,
        account_of=host.ledger.account_of,
    )
