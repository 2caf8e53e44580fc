"""Waiting for one of several events."""

import trio


async def wait_for_any(*events: trio.Event) -> None:
    """Until the first of them is set. Cancellation: at any time."""
    async with trio.open_nursery() as nursery:
        for event in events:
            nursery.start_soon(_wait_then_cancel, event, nursery.cancel_scope)


async def _wait_then_cancel(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
