"""What the doors of a ceremony write back, between two real nodes: `00` after a broadcast, nothing after anything else (03 §5.2)."""

import pytest
import trio

from actors.dkg.handlers import ceremony_handlers
from actors.dkg.messages import BroadcastReceived, Message, PartialsReceived, SharesReceived
from actors.mailbox import Mailbox, Policy
from actors.mesh import BadAnswer
from charon_actors.dkg.dialect import PARTIALS_PROTOCOL, SHARES_PROTOCOL
from tests.actors.mesh.rig import open_nodes
from tests.charon_actors.dkg.test_recorded_ceremonies import FILES, ceremony_of
from tests.charon_actors.dkg.vectors import load


@pytest.mark.parametrize("file", FILES)
async def test_only_a_broadcast_is_answered_and_with_nothing_in_it(file: str) -> None:
    vector, dialect = load(file), FILES[file]
    mailbox = Mailbox[Message]("ceremony", 10, Policy.WAIT)
    handlers = ceremony_handlers(mailbox.address, ceremony_of(vector, dialect), timeout_s=5.0)
    async with open_nodes(2, lambda index: handlers if index else {}) as nodes:
        with trio.fail_after(10):
            assert await nodes[0].mesh.exchange(1, [dialect.message_protocol], b"broadcast") == b""
            for protocol in (SHARES_PROTOCOL, PARTIALS_PROTOCOL):
                with pytest.raises(BadAnswer):
                    await nodes[0].mesh.exchange(1, [protocol], protocol.encode())
            await nodes[0].mesh.deliver(1, [dialect.message_protocol], b"again")  # the answer finds nobody, as at Charon
        with mailbox.open() as inbox:
            received: list[Message] = []
            while len(received) < 4:
                received.append((await anext(inbox)).message)
    assert received == [
        BroadcastReceived(0, b"broadcast"),
        SharesReceived(0, SHARES_PROTOCOL.encode()),
        PartialsReceived(0, PARTIALS_PROTOCOL.encode()),
        BroadcastReceived(0, b"again"),
    ]
