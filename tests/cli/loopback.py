"""A real HTTP server on 127.0.0.1 that keeps what it is asked and answers as a test wants."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from typing import Any, NamedTuple


class Asked(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes


class Reply(NamedTuple):
    """parts: the body, which ends with the connection; an endless iterator ends when the client has gone."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012
    parts: Iterator[bytes] | None = None


class Loopback:
    """`answer(asked)` decides about every request. released: set when the test ends, for answers that are to hang."""

    def __init__(self, answer: Callable[[Asked], Reply], context: SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self.answer = answer
        self.released = threading.Event()
        of_test = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                length = int(self.headers.get("content-length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, self.rfile.read(length))
                of_test.asked.append(asked)
                reply = of_test.answer(asked)
                try:
                    self.send_response(reply.status)
                    for name, value in reply.headers.items():
                        self.send_header(name, value)
                    if reply.parts is None:
                        self.send_header("content-length", str(len(reply.body)))
                    self.end_headers()
                    for part in reply.parts or [reply.body]:
                        self.wfile.write(part)
                        self.wfile.flush()
                except OSError:
                    return

            do_GET = do_POST = do_DELETE = handle_any

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that doesn't like our certificate has gone."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"{'http' if context is None else 'https'}://{self.host}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def hang(self, asked: Asked) -> Reply:
        self.released.wait(60)
        return Reply()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def loopback(answer: Callable[[Asked], Reply] = lambda asked: Reply(), context: SSLContext | None = None) -> Iterator[Loopback]:
    server = Loopback(answer, context)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def hanging() -> Iterator[Loopback]:
    """A server that takes requests and says nothing."""
    with loopback() as server:
        server.answer = server.hang
        yield server
