from pathlib import Path

import pytest

from actors.identity import RECORD_FILE, Endpoint, FetchRecord, Identity, Message, Readdress
from actors.mailbox import Mailbox, open_actor
from charon_actors.crypto import k1_public_key
from charon_actors.enr import decode_enr
from charon_actors.errors import UserError

KEY = bytes([7]) * 32
HOME = Endpoint("192.0.2.1", 3610)


async def test_a_moved_node_has_a_newer_record_that_outlives_restarts(tmp_path: Path) -> None:
    async with open_actor(Mailbox[Message]("identity"), lambda: Identity(KEY, tmp_path, HOME)) as address:
        first = await address.ask(FetchRecord())
        assert (first.seq, first.ip, first.tcp, first.public_key) == (1, "192.0.2.1", 3610, k1_public_key(KEY))
        assert await address.ask(Readdress(HOME)) == first, "nothing moved, nothing is signed"
        moved = await address.ask(Readdress(Endpoint("192.0.2.9", 3610)))
        assert (moved.seq, moved.ip) == (2, "192.0.2.9")
        assert decode_enr((tmp_path / RECORD_FILE).read_text()) == moved
    async with open_actor(Mailbox[Message]("identity"), lambda: Identity(KEY, tmp_path, HOME)) as address:
        assert (await address.ask(FetchRecord())).seq == 3


@pytest.mark.parametrize("content", [b"enr:nonsense", b"\xff\xfe", b"", b"x" * 10_000])
async def test_a_damaged_record_is_never_overwritten(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RECORD_FILE).write_bytes(content)
    with pytest.raises(UserError, match="not a node record"):
        async with open_actor(Mailbox[Message]("identity"), lambda: Identity(KEY, tmp_path, HOME)) as address:
            await address.ask(FetchRecord())
    assert (tmp_path / RECORD_FILE).read_bytes() == content


async def test_the_record_of_another_key_is_refused(tmp_path: Path) -> None:
    async with open_actor(Mailbox[Message]("identity"), lambda: Identity(bytes([8]) * 32, tmp_path, HOME)) as address:
        await address.ask(FetchRecord())
    with pytest.raises(UserError, match="another key"):
        async with open_actor(Mailbox[Message]("identity"), lambda: Identity(KEY, tmp_path, HOME)) as address:
            await address.ask(FetchRecord())
