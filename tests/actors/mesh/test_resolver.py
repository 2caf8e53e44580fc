"""Relay resolver against a local HTTP server (03 §3.1): good answers, and every bad one that a server can think of."""

import json
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from actors.mesh import resolver
from actors.mesh.resolver import (
    MAX_BODY_BYTES,
    ResolveFault,
    check_url,
    decode_entry,
    decode_relay_answer,
    relay_headers,
    resolve_relay,
)
from charon_actors.enr import new_record
from charon_actors.p2p.peer_id import peer_id_text
from tests.actors.mesh.rig import key_of, open_nodes
from tests.charon_actors.p2p.test_envelope import IDS

ONE, TWO = (peer_id_text(IDS[n]) for n in (1, 2))
Script = Callable[[trio.SocketStream, bytes], Awaitable[None]]


def answer(body: bytes, status: str = "200 OK", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}Connection: close\r\n\r\n".encode() + body


@asynccontextmanager
async def serve(script: Script) -> AsyncIterator[str]:
    """A server that reads one request head and does what the script says. Yields its URL."""

    async def handle(stream: trio.SocketStream) -> None:
        head = bytearray()
        async with stream:
            try:
                while b"\r\n\r\n" not in head:
                    head += await stream.receive_some() or b"\r\n\r\n"
                await script(stream, bytes(head))
            except trio.BrokenResourceError:
                pass

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/some/path"
        nursery.cancel_scope.cancel()


def says(data: bytes) -> Script:
    async def script(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(data)

    return script


async def test_a_json_list_gives_its_relay_and_the_headers_were_sent_exactly() -> None:
    heads: list[bytes] = []

    async def script(stream: trio.SocketStream, head: bytes) -> None:
        heads.append(head)
        await stream.send_all(
            answer(json.dumps([f"/ip4/1.2.3.4/tcp/3610/p2p/{ONE}", "rubbish", f"/dns/r.example/tcp/1/p2p/{ONE}"]).encode())
        )

    async with serve(script) as url:
        target = await resolve_relay(url, relay_headers("abcdef1", "the-uuid"))
    assert target.peer_id == IDS[1]
    assert {str(address) for address in target.addresses} == {"/ip4/1.2.3.4/tcp/3610", "/dns/r.example/tcp/1"}
    assert target.skipped == ("rubbish",)
    assert b"Charon-Cluster: abcdef1\r\n" in heads[0]
    assert b"Cluster-Uuid: the-uuid\r\n" in heads[0]
    assert heads[0].startswith(b"GET /some/path HTTP/1.1\r\n")


async def test_an_enr_gives_its_relay() -> None:
    record = new_record(key_of(0), ip="5.6.7.8", tcp=3610, udp=9999)
    async with serve(says(answer(record.text.encode()))) as url:
        target = await resolve_relay(url, {})
    assert (target.peer_id, [str(address) for address in target.addresses]) == (IDS[1], ["/ip4/5.6.7.8/tcp/3610"])


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (answer(b"[]"), "no address"),
        (answer(b"{}"), "neither"),
        (answer(b"[1]"), "neither"),
        (answer(b"\xff"), "not text"),
        (answer(b"enr:nonsense"), "ENR"),
        (answer(new_record(key_of(0)).text.encode()), "needs an ip"),
        (answer(json.dumps([f"/ip4/1.1.1.1/tcp/1/p2p/{ONE}", f"/ip4/1.1.1.1/tcp/1/p2p/{TWO}"]).encode()), "more than one"),
        (answer(json.dumps([f"/ip4/1.1.1.1/tcp/1/p2p/{ONE}", f"/ip4/1.1.1.1/tcp/2/p2p/{TWO}"]).encode()), "more than one"),
        (answer(b"[]", "500 Internal Server Error"), "status 500"),
        (answer(b"[]", "404 Not Found"), "status 404"),
        (answer(bytes(MAX_BODY_BYTES + 1)), "larger"),
        (answer(b"x", extra="Content-Encoding: gzip\r\n"), "neither"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[", "."),
        (b"not http at all\r\n\r\n", "."),
        (b"", "."),
    ],
)
async def test_a_bad_answer_is_a_fault_with_a_reason(response: bytes, reason: str) -> None:
    with trio.fail_after(5):
        async with serve(says(response)) as url:
            with pytest.raises(ResolveFault, match=reason):
                await resolve_relay(url, {})


async def test_an_endless_answer_is_cut_off() -> None:
    sent = 0

    async def script(stream: trio.SocketStream, head: bytes) -> None:
        nonlocal sent
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(b" " * 8192)
            sent += 8192

    with trio.fail_after(5):
        async with serve(script) as url:
            with pytest.raises(ResolveFault, match="larger"):
                await resolve_relay(url, {})
    assert sent < 16 * 1024 * 1024


async def test_a_redirect_is_followed() -> None:
    body = json.dumps([f"/ip4/1.2.3.4/tcp/3610/p2p/{ONE}"]).encode()

    async def script(stream: trio.SocketStream, head: bytes) -> None:
        is_first = head.startswith(b"GET /some/path ")
        await stream.send_all(answer(b"", "302 Found", "Location: /elsewhere\r\n") if is_first else answer(body))

    async with serve(script) as url:
        assert (await resolve_relay(url, {})).peer_id == IDS[1]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://[", "http://" + "x" * 70 + ".invalid/", "http://127.0.0.1:0/"])
async def test_nobody_listening_is_a_fault(url: str) -> None:
    with pytest.raises(ResolveFault):
        await resolve_relay(url, {})


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_reason_is_the_systems_own_not_that_all_attempts_failed(scheme: str) -> None:
    with pytest.raises(ResolveFault, match="refused"):
        await resolve_relay(f"{scheme}://127.0.0.1:9/", {})


@pytest.mark.parametrize("variable", ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"])
async def test_a_socks_proxy_is_a_fault_that_says_so(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "socks5://user:secret@127.0.0.1:9")
    with pytest.raises(ResolveFault, match=f"{variable}.* is a SOCKS proxy") as raised:
        await resolve_relay("https://relay.invalid/", {})
    assert "secret" not in str(raised.value)


async def test_a_relay_child_behind_a_socks_proxy_says_why_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    async with open_nodes(1, relays=("https://relay.invalid",)) as (node,):
        board = node.mesh.board
        with trio.fail_after(5):
            await board.wait_until(lambda: "SOCKS" in board.relays[0].error)


async def test_the_environments_http_proxy_is_used_but_not_where_no_proxy_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[bytes] = []

    async def script(stream: trio.SocketStream, head: bytes) -> None:
        lines.append(head.splitlines()[0])
        await stream.send_all(answer(json.dumps([f"/ip4/1.2.3.4/tcp/1/p2p/{ONE}"]).encode()))

    async with serve(script) as url:
        monkeypatch.setenv("HTTP_PROXY", url.removesuffix("/some/path"))
        assert (await resolve_relay("http://relay.invalid/a", {})).peer_id == IDS[1]
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        await resolve_relay(url, {})
    assert lines == [b"GET http://relay.invalid/a HTTP/1.1", b"GET /some/path HTTP/1.1"]


async def test_the_ca_bundle_is_read_once_and_not_by_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[threading.Thread] = []
    make = ssl.create_default_context

    def watched(*args: Any, **options: Any) -> ssl.SSLContext:
        readers.append(threading.current_thread())
        return make(*args, **options)

    monkeypatch.setattr(ssl, "create_default_context", watched)
    resolver._tls_context.cache_clear()
    async with serve(says(answer(json.dumps([f"/ip4/1.2.3.4/tcp/1/p2p/{ONE}"]).encode()))) as url:
        for _ in range(3):
            await resolve_relay(url, {})
    assert len(readers) == 1
    assert readers[0] is not threading.current_thread()


def test_an_address_that_dns_cannot_be_asked_for_is_left_out() -> None:
    bad, good = (f"/dns4/{name}/tcp/1/p2p/{ONE}" for name in ("a..b", "relay.example"))
    target = decode_relay_answer(json.dumps([bad, good]).encode())
    assert [str(address) for address in target.addresses] == ["/dns4/relay.example/tcp/1"]
    assert target.skipped == (bad,)


@pytest.mark.parametrize("url", ["http://", "ftp://x", "https:///path", "http://xn--a/", "http://a/\udcff", "http://a..b/"])
def test_what_is_no_url_is_noticed_at_once(url: str) -> None:
    with pytest.raises(ResolveFault):
        check_url(url)


@pytest.mark.parametrize("entry", ["/ip4/1.2.3.4/tcp/1", "", "x", f"/ip4/1.2.3.4/tcp/1/p2p/{ONE}/p2p-circuit/p2p/{TWO}"])
def test_an_address_without_the_relays_id_is_refused(entry: str) -> None:
    with pytest.raises(ResolveFault):
        decode_entry(entry)


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_hostile_bodies_end_in_a_fault(body: bytes) -> None:
    with pytest.raises(ResolveFault):
        decode_relay_answer(body)


@given(st.recursive(st.none() | st.text(max_size=10), lambda inner: st.lists(inner, max_size=3), max_leaves=20))
def test_hostile_json_ends_in_a_fault(value: object) -> None:
    with pytest.raises(ResolveFault):
        decode_relay_answer(json.dumps(value).encode())


def test_deeply_nested_json_ends_in_a_fault() -> None:
    with pytest.raises(ResolveFault):
        decode_relay_answer(b"[" * 60_000)


async def test_a_changed_answer_replaces_the_relay_and_its_new_id_passes_the_gate(autojump_clock: trio.testing.MockClock) -> None:
    """Requirement 15: the gate looks relay ids up at the moment of the check. The clock is virtual: two minutes pass at once."""
    from actors.mesh.board import Board, RelayFacts
    from actors.mesh.relay import RelayClient

    bodies = [answer(json.dumps([f"/ip4/127.0.0.1/tcp/9/p2p/{name}"]).encode()) for name in (ONE, TWO)]
    asked = 0
    autojump_clock.autojump_threshold = 0.05
    async with open_nodes(1) as nodes:
        host = nodes[0].mesh._host
        board = Board(1, (RelayFacts("x", "x"),))
        object.__setattr__(host, "board", board)

        async def script(stream: trio.SocketStream, head: bytes) -> None:
            nonlocal asked
            await stream.send_all(bodies[min(asked, 1)])
            asked += 1

        async with serve(script) as url, trio.open_nursery() as nursery:
            client = RelayClient(0, url, {}, host, {})
            nursery.start_soon(client._follow_url)
            await board.wait_until(lambda: host.is_allowed(IDS[1]))
            assert not host.is_allowed(IDS[2])
            await board.wait_until(lambda: host.is_allowed(IDS[2]))
            assert not host.is_allowed(IDS[1])
            assert asked == 2
            nursery.cancel_scope.cancel()
