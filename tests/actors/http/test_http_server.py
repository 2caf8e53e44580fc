import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import h11
import httpx
import pytest
import trio
import trio.lowlevel
import trio.testing
from structlog.testing import capture_logs

from actors.http.port import Limits
from actors.http.server import GRACEFUL_S, bind, serve, split_endpoint
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


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_clients_that_go_away_leave_nothing_open() -> None:
    """With a connection a request, or none: a probe every second must not use up the file descriptors."""
    with bind("127.0.0.1:0", "--test") as listening:
        port = listening.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, hello, listening)
            await trio.testing.wait_all_tasks_blocked(0.01)
            before = open_files()
            for request in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HT", b""):
                for _ in range(10):
                    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                        if request:
                            await stream.send_all(request)
                        if request.endswith(b"\r\n\r\n"):
                            await stream.receive_some()
            with trio.fail_after(5):
                while open_files() > before:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


async def test_stopping_finishes_the_requests_in_flight_and_takes_no_new_ones() -> None:
    began, go_on = trio.Event(), trio.Event()

    async def slowly(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        await go_on.wait()
        await hello(scope, receive, send)

    with bind("127.0.0.1:0", "--test") as listening:
        stopping, answers = trio.Event(), list[str]()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        async def ask() -> None:
            async with httpx.AsyncClient(timeout=5) as client:
                answers.append((await client.get(url)).text)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(serve, slowly, listening, stopping=stopping))
            nursery.start_soon(ask)
            await began.wait()
            stopping.set()
            await trio.testing.wait_all_tasks_blocked(0.01)
            go_on.set()
        assert answers == ["hello"]


async def test_a_request_that_never_ends_does_not_keep_the_server_from_stopping() -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep_forever()

    with bind("127.0.0.1:0", "--test") as listening:
        stopping = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(serve, endless, listening, stopping=stopping))
            async with await trio.open_tcp_stream("127.0.0.1", listening.getsockname()[1]) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                stopping.set()
                with trio.fail_after(GRACEFUL_S + 3):
                    assert await stream.receive_some() == b""


UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: "
SETTINGS = {
    "no base64": b"A",
    "a value out of range": b"AAIAAAAC",  # ENABLE_PUSH = 2
    "half a setting": b"AAIAAA",
    "right": b"AAMAAABkAAQAAP__",
}


async def exchange(port: int, request: bytes) -> bytes:
    """What the server says until it has nothing more to say."""
    received = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        with trio.move_on_after(5):
            while not received.endswith(b"hello") and (more := await stream.receive_some()):
                received += more
    return received


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
async def test_nobody_is_switched_to_http2_on_a_plain_connection(settings: bytes) -> None:
    """Nor is HTTP/2 read from settings that no parser likes: with one that did, such a request used to end the server."""
    with bind("127.0.0.1:0", "--test") as listening:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, hello, listening)
            answer = await exchange(listening.getsockname()[1], UPGRADE + settings + b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(b"hello")
            nursery.cancel_scope.cancel()


async def test_an_error_in_one_connection_ends_that_connection_only_and_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    receive_data = h11.Connection.receive_data

    def poisoned(self: h11.Connection, data: bytes) -> None:
        if b"poison" in data:
            raise ValueError("what a parser makes of it")
        receive_data(self, data)

    monkeypatch.setattr(h11.Connection, "receive_data", poisoned)
    with bind("127.0.0.1:0", "--test") as listening, capture_logs() as log:
        port = listening.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, hello, listening)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:
                assert (await client.get("/")).text == "hello"
                for _ in range(6):
                    assert await exchange(port, b"poison\r\n\r\n") == b""
                assert (await client.get("/")).text == "hello"  # on the connection that was open before
            nursery.cancel_scope.cancel()
    [line] = [entry for entry in log if entry["event"] == "Connection ended by an error"]
    assert line["error"] == "ValueError: what a parser makes of it"
    assert "exc_info" not in line


@pytest.mark.parametrize("has_ip6", [True, False])
async def test_a_port_alone_is_all_interfaces(monkeypatch: pytest.MonkeyPatch, has_ip6: bool) -> None:
    """IPv4 and IPv6 on one socket, as in Go; IPv4 where the machine has nothing else."""
    if not has_ip6:
        monkeypatch.setattr("socket.has_dualstack_ipv6", lambda: False)
    with bind(":0", "--test") as listening:
        port = listening.getsockname()[1]
        async with trio.open_nursery() as nursery, httpx.AsyncClient(timeout=5, trust_env=False) as client:
            nursery.start_soon(serve, hello, listening)
            assert (await client.get(f"http://127.0.0.1:{port}/")).text == "hello"
            if has_ip6:
                assert (await client.get(f"http://[::1]:{port}/")).text == "hello"
            nursery.cancel_scope.cancel()
        with pytest.raises(UserError, match=f"another program listens on :{port}"):
            bind(f":{port}", "--test")


def test_a_name_is_an_ipv4_address_if_it_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(family, 1, 6, "", (host, 0)) for family, host in ((10, "::1"), (2, "127.0.0.1"))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **named: rows)
    with bind("localhost:0", "--test") as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


SMALL = Limits(connections=8, head_bytes=4096, head_s=0.3, write_s=0.3, keep_alive_s=0.5, graceful_s=0.2)
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def serving(application: Any, limits: Limits = SMALL) -> AsyncIterator[int]:
    with bind("127.0.0.1:0", "--test") as listening:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(serve, application, listening, limits=limits))
            yield listening.getsockname()[1]
            nursery.cancel_scope.cancel()


async def until_closed(stream: trio.SocketStream) -> bytes:
    received = b""
    with trio.fail_after(5):
        try:
            while more := await stream.receive_some():
                received += more
        except trio.BrokenResourceError:
            pass
    return received


@pytest.mark.parametrize(
    ("sends", "answer"),
    [
        (b"", b""),
        (b"GET / HT", b""),
        (REQUEST, b"HTTP/1.1 200"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + 5000 * b"x", b"HTTP/1.1 431"),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 501"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"HTTP/1.1 505"),
    ],
)
async def test_who_sends_nothing_more_is_let_go(sends: bytes, answer: bytes) -> None:
    async with serving(hello) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        if sends:
            await stream.send_all(sends)
        received = await until_closed(stream)
        assert received[: len(answer)] == answer
        assert bool(received) == bool(answer)


async def test_who_does_not_read_is_let_go_and_what_waits_for_him_is_bounded() -> None:
    sent, is_over = 0, trio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})
                sent += 2**16
        finally:
            is_over.set()

    async with serving(endless) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(REQUEST)
        with trio.fail_after(10):
            await is_over.wait()
    assert sent < 32 * 2**20, "the kernel's buffers"


async def test_requests_ahead_of_their_answers_are_answered_in_order_one_at_a_time() -> None:
    running = most = asked = 0

    async def count(scope: Any, receive: Any, send: Any) -> None:
        nonlocal running, most, asked
        running, asked = running + 1, asked + 1
        most = max(most, running)
        body = scope["path"].encode()
        await trio.lowlevel.checkpoint()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})
        running -= 1

    async with serving(count) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"".join(b"GET /%02d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(20)))
        received = b""
        with trio.fail_after(5):
            while received.count(b"HTTP/1.1 200") < 20 or not received.endswith(b"/19"):
                received += await stream.receive_some()
    assert [part[-3:] for part in received.split(b"HTTP/1.1 200")[1:]] == [b"/%02d" % n for n in range(20)]
    assert (most, asked) == (1, 20)


async def test_a_body_that_the_application_does_not_read_does_not_hang_the_connection() -> None:
    async with serving(hello) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for size in (10, 100_000):
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
            received = b""
            with trio.fail_after(5):
                while not received.endswith(b"hello"):
                    received += await stream.receive_some()
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n" + bytes(10))
        assert (await until_closed(stream)).endswith(b"hello")


async def test_an_application_that_fails_is_told_as_500_and_one_that_stops_halfway_is_cut_off() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/":
            raise OSError("a fault of ours")
        if scope["path"] == "/half":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"hello", "more_body": True})

    with capture_logs() as log:
        await check_failures(fails)
    assert [entry["error"] for entry in log] == ["OSError: a fault of ours"]


async def check_failures(fails: Any) -> None:
    async with serving(fails) as port:
        for path, start, end in (
            (b"/", b"HTTP/1.1 500", b"\r\n\r\n"),
            (b"/none", b"HTTP/1.1 500", b""),
            (b"/half", b"HTTP/1.1 200", b"o"),
        ):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
                received = await until_closed(stream)
                assert (received.startswith(start), received.endswith(end)) == (True, True)


async def test_a_client_that_leaves_is_told_to_the_application() -> None:
    heard = list[str]()
    is_over = trio.Event()

    async def listens(scope: Any, receive: Any, send: Any) -> None:
        while not heard or heard[-1] != "http.disconnect":
            heard.append((await receive())["type"])
        is_over.set()

    async with serving(listens) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(REQUEST + b"GET /more")
            await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.fail_after(5):
            await is_over.wait()
    assert heard == ["http.request", "http.disconnect"]


async def test_kept_connections_in_use_are_not_closed_for_a_thousand_idle_ones() -> None:
    async with (
        serving(hello, Limits(connections=16, requests_rate=1e6, connections_rate=1e6)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as client,
        AsyncExitStack() as stack,
    ):
        assert (await client.get("/")).text == "hello"
        for number in range(60):
            await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            if number % 3 == 0:
                assert (await client.get("/")).text == "hello"
        [connection] = client._transport._pool.connections  # type: ignore[attr-defined]
        assert "Request Count: 21" in repr(connection), "one and the same connection all the time"
