from functools import partial
from typing import Any

import httpx
import pytest
import trio

from actors.http_server import bind, serve, split_endpoint
from charon_actors.errors import UserError


async def hello(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"hello"})


async def test_the_port_stays_bound_while_the_server_is_restarted() -> None:
    with bind("127.0.0.1:0", "--test") as listening:
        port = listening.getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:
            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(partial(serve, hello, listening))
                    assert (await client.get("/")).text == "hello"
                    nursery.cancel_scope.cancel()
                with pytest.raises(UserError, match="another program"):
                    bind(f"127.0.0.1:{port}", "--test")


async def test_a_request_between_two_servers_waits_for_the_second() -> None:
    with bind("127.0.0.1:0", "--test") as listening:
        async with httpx.AsyncClient(timeout=5) as client, trio.open_nursery() as nursery:
            answers: list[str] = []

            async def ask() -> None:
                answers.append((await client.get(f"http://127.0.0.1:{listening.getsockname()[1]}")).text)
                nursery.cancel_scope.cancel()

            nursery.start_soon(ask)
            await trio.sleep(0.05)
            nursery.start_soon(serve, hello, listening)
    assert answers == ["hello"]


@pytest.mark.parametrize("text", ["", ":3600", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "127.0.0.1:-1", "127.0.0.1:²"])
def test_what_is_no_address_is_the_operators_error(text: str) -> None:
    with pytest.raises(UserError, match="--flag"):
        split_endpoint(text, "--flag")


@pytest.mark.parametrize("text", ["192.0.2.77:80", "no.such.host.invalid:80"])
def test_an_address_of_another_machine_is_the_operators_error(text: str) -> None:
    with pytest.raises(UserError, match="--flag"):
        bind(text, "--flag")
