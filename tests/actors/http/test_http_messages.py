"""RFC 9112 as raw bytes against the servers of this node: what must be accepted, and what must be refused.

A row is what a client sends, and what the application must see, or the status that must come and end the connection.
"""

from contextlib import suppress
from typing import Any, Final

import httpx
import pytest
import trio

from actors.http.server import bind, serve

CHUNKED: Final = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

ACCEPTED: Final = {  # bytes: method, raw path, query, host, body
    "3.2.1 origin-form": (b"GET /a%20b?c=d HTTP/1.1\r\nHost: x:1\r\n\r\n", ("GET", b"/a%20b", b"c=d", b"x:1", b"")),
    "3.2.1 a question mark and nothing": (b"GET /a? HTTP/1.1\r\nHost: x\r\n\r\n", ("GET", b"/a", b"", b"x", b"")),
    "3.2.2 absolute-form": (b"GET http://x:1/a%20b?c=d HTTP/1.1\r\nHost: y\r\n\r\n", ("GET", b"/a%20b", b"c=d", b"x:1", b"")),
    "3.2.2 without a path": (b"GET http://x?c HTTP/1.1\r\nHost: x\r\n\r\n", ("GET", b"/", b"c", b"x", b"")),
    "3.2.2 https and IPv6": (b"POST HTTPS://[::1]:9/a HTTP/1.1\r\nHost: x\r\n\r\n", ("POST", b"/a", b"", b"[::1]:9", b"")),
    "3.2.2 a URL in the query": (b"GET /a?b=http://y/ HTTP/1.1\r\nHost: x\r\n\r\n", ("GET", b"/a", b"b=http://y/", b"x", b"")),
    "3.2 an empty Host": (b"GET /a HTTP/1.1\r\nHost:\r\n\r\n", ("GET", b"/a", b"", b"", b"")),
    "2.2 empty lines before the request line": (b"\r\n\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n", ("GET", b"/a", b"", b"x", b"")),
    "2.2 lines that end with LF alone": (b"GET /a HTTP/1.1\nHost: x\n\n", ("GET", b"/a", b"", b"x", b"")),
    "2.3 a higher minor version": (b"GET /a HTTP/1.2\r\nHost: x\r\n\r\n", ("GET", b"/a", b"", b"x", b"")),
    "2.3 HTTP/1.0 without Host": (b"GET /a HTTP/1.0\r\n\r\n", ("GET", b"/a", b"", b"", b"")),
    "5.1 space around a value": (b"GET /a HTTP/1.1\r\nHost: \t x \t\r\n\r\n", ("GET", b"/a", b"", b"x", b"")),
    "5.2 a folded line": (b"GET /a HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n", ("GET", b"/a", b"", b"x", b"")),
    "6.2 a length": (b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", ("POST", b"/a", b"", b"x", b"abc")),
    "6.3 equal lengths": (b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc", ("POST", b"/a", b"", b"x", b"abc")),
    "7.1 chunks": (CHUNKED + b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", ("POST", b"/a", b"", b"x", b"abcd")),
    "7.1 leading zeros, upper case": (CHUNKED + b"00A\r\n0123456789\r\n000\r\n\r\n", ("POST", b"/a", b"", b"x", b"0123456789")),
    "7.1.1 chunk extensions": (CHUNKED + b'3;a="b;c";d\r\nabc\r\n0;e\r\n\r\n', ("POST", b"/a", b"", b"x", b"abc")),
    "7.1.2 trailers": (CHUNKED + b"3\r\nabc\r\n0\r\nHost: y\r\nContent-Length: 9\r\n\r\n", ("POST", b"/a", b"", b"x", b"abc")),
}  # fmt: skip

REFUSED: Final = {
    "2.2 space before the first field": (b"GET /a HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    "2.2 a bare CR": (b"GET /a HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n", 400),
    "2.3 another major version": (b"GET /a HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "2.3 the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "3 no version": (b"GET /a\r\n\r\n", 400),
    "3 space in the target": (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "3.2 no Host": (b"GET /a HTTP/1.1\r\n\r\n", 400),
    "3.2 two Hosts": (b"GET /a HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
    "3.2 a Host that is none": (b"GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "3.2.1 a fragment": (b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "3.2.1 a fragment in the query": (b"GET /a?b#c HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "3.2.1 neither path nor URL": (b"GET a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "3.2.2 credentials": (b"GET http://a:b@x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "3.2.2 another scheme": (b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "3.2.3 authority-form": (b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", 501),
    "3.2.4 an asterisk for another method": (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "5 a NUL": (b"GET /a HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", 400),
    "5.1 space before the colon": (b"GET /a HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    "6.1 both kinds of length": (CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n") + b"3\r\nabc\r\n0\r\n\r\n", 400),
    "6.1 a coding that nobody knows": (CHUNKED.replace(b"chunked", b"gzip, chunked"), 501),
    "6.3 chunked is not the last coding": (CHUNKED.replace(b"chunked", b"chunked, gzip"), 501),
    "6.3 different lengths": (b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "6.3 a length with a sign": (b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc", 400),
    "TLS where there is none": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n", 400),
}  # fmt: skip

Seen = tuple[str, bytes, bytes, bytes, bytes]


class Server:
    """Ours, with an application that notes what it is asked. Each call has a connection of its own."""

    def __init__(self, port: int) -> None:
        self.port, self.seen = port, list[Seen]()

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        host = dict(scope["headers"]).get(b"host", b"")
        self.seen.append((scope["method"], scope["raw_path"], scope["query_string"], host, body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def answers(self, request: bytes, *, until: bytes) -> bytes:
        """What comes back until `until`, or to the end of the connection if it is empty."""
        answer = b""
        with trio.fail_after(5):
            async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
                await stream.send_all(request)
                while not until or until not in answer:
                    chunk = await stream.receive_some()
                    answer += chunk
                    if not chunk:
                        break
        return answer


@pytest.fixture
def server(nursery: trio.Nursery) -> Any:
    with bind("127.0.0.1:0", "--test") as listening:
        server = Server(listening.getsockname()[1])
        nursery.start_soon(serve, server.application, listening)
        yield server


@pytest.mark.parametrize("name", ACCEPTED)
async def test_what_must_be_accepted(server: Server, name: str) -> None:
    request, seen = ACCEPTED[name]
    assert (await server.answers(request, until=b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    assert server.seen == [seen]


@pytest.mark.parametrize("name", REFUSED)
async def test_what_must_be_refused_ends_the_connection(server: Server, name: str) -> None:
    request, status = REFUSED[name]
    behind = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await server.answers(request + behind, until=b"")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert server.seen == []


async def test_asterisk_form_asks_for_the_server(server: Server) -> None:
    request = b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n" * 2
    answer = await server.answers(request + b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", until=b" 200 ")
    assert answer.count(b"HTTP/1.1 204 ") == 2
    assert [seen[1] for seen in server.seen] == [b"/a"]


async def test_requests_that_are_sent_ahead_are_answered_in_order(server: Server) -> None:
    """With an empty line behind a body, as RFC 9112 §2.2 tells of old clients."""
    post = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nz\r\n"
    answer = await server.answers(post + post + b"GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", until=b"")
    assert answer.count(b"HTTP/1.1 200 ") == 3
    assert [(seen[1], seen[4]) for seen in server.seen] == [(b"/a", b"z"), (b"/a", b"z"), (b"/b", b"")]


async def test_empty_lines_without_end_end_the_connection(server: Server) -> None:
    with suppress(trio.BrokenResourceError):
        assert await server.answers(b"\r\n" * 100_000 + b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", until=b"") == b""
    assert server.seen == []


async def test_a_client_that_takes_us_for_a_forward_proxy_or_stands_behind_one(server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}"
    async with httpx.AsyncClient(proxy=url, trust_env=False) as client:
        assert (await client.get("http://charon:3600/eth/v1/node/version?a=b")).status_code == 200
        assert (await client.post("http://charon:3600/c", content=b"d")).status_code == 200
    assert server.seen == [
        ("GET", b"/eth/v1/node/version", b"a=b", b"charon:3600", b""),
        ("POST", b"/c", b"", b"charon:3600", b"d"),
    ]


async def test_a_client_that_asks_before_it_sends_a_body(server: Server) -> None:
    with trio.fail_after(5):
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
            await stream.send_all(b"z")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
    assert server.seen[0][4] == b"z"
