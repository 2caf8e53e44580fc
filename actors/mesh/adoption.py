"""Adoption: how a connection gets from whoever shook hands to the child that owns it."""

from typing import Any, Final

import trio

from actors.mailbox import Address
from actors.mesh.connection import Connection
from actors.mesh.messages import Adopt
from charon_actors.errors import Retryable

ADOPT_TIMEOUT_S: Final = 10.0


async def hand_over(connection: Connection, to: Address[Any] | None) -> bool:
    """Let a child adopt the connection; otherwise close it. Returns whether it was adopted."""
    is_adopted = False
    try:
        if to is not None:
            with trio.move_on_after(ADOPT_TIMEOUT_S):
                await to.ask(Adopt(connection))
                is_adopted = True
    except Retryable:
        pass
    finally:
        if not is_adopted:
            connection.close("nobody adopted it")
    return is_adopted
