"""One connection of an HTTP port: HTTP/1.1 by h11, requests one after the other, each handed to an ASGI application.

    what a client does                       what happens
    sends nothing                            closed after `keep_alive_s`, or sooner when the port needs its place (`http_port.py`)
    sends half a head                        closed after `head_s`; too large a head is answered 431
    sends a body in crumbs                   the application's time limit decides; crumbs are gathered for CRUMB_REST_S
    sends requests ahead of their answers    answered in order; READ_BYTES are read ahead, the rest stays in the sockets' buffers
    reads its answer slowly, or not          closed when PIECE_BYTES of it have not left within `write_s`
    leaves, or closes its sending side       `http.disconnect`; whatever is sent to it afterwards raises ClientGone
    wants another protocol                   `Upgrade`, WebSocket: ignored. With TLS, ALPN offers http/1.1 only
    sends a head that parses, but can't be   as `request_heads.py` has it
    sends empty lines before a request       passed over (RFC 9112 §2.2), up to EMPTY_BYTES
    sends a body that nobody reads           read and thrown away, up to DRAIN_BYTES, else the connection ends

An application that raises is answered 500 and its connection closed, as is one that returns without an answer; one that returns in the
middle of its answer has its connection closed, so that nobody takes the answer for whole. Closing waits up to PARTING_S for the client
to read the last answer: a socket closed with input unread makes the kernel throw that answer away.

Nothing is shielded: cancelling `run` ends the connection at once, whatever the client does.

Source: RFC 9112; ASGI 3.0, HTTP connection scope; specification 07 §1.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import unquote

import h11
import trio

from actors.http.port import Limits, Port, PortPlace, Standing

READ_BYTES: Final = 64 * 1024
PIECE_BYTES: Final = 64 * 1024
SMALL_BYTES: Final = 8 * 1024
DRAIN_BYTES: Final = 256 * 1024
PARTING_S: Final = 0.5
EMPTY_BYTES: Final = 1024
CRUMB_BYTES: Final = 1024
CRUMBS_FREE: Final = 16  # heads and small bodies come in a few pieces
CRUMB_REST_S: Final = 0.01

Application = Callable[[Any, Any, Any], Awaitable[None]]
TcpStream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class ClientGone(Exception):
    """The client has left, or doesn't read."""


class HttpConnection:
    """place: ours on the port, admitted already; the caller takes it away."""

    def __init__(self, application: Application, stream: TcpStream, port: Port, place: PortPlace) -> None:
        self._application, self._stream, self._port, self._place = application, stream, port, place
        self._limits: Limits = port.limits
        self._wire = self._new_wire()
        self._sending = trio.Lock()
        self._is_gone = self._is_head = False
        self._status = 0
        self._crumbs = self._empty_bytes = 0
        self._body_bytes = 0
        self._listening: trio.CancelScope | None = None

    async def run(self) -> None:
        """Until the client leaves or must go. Raises: in a group, what the application raised, after its client was told."""
        is_tls = isinstance(self._stream, trio.SSLStream)
        try:
            if isinstance(self._stream, trio.SSLStream):
                with trio.fail_after(self._limits.handshake_s):
                    await self._stream.do_handshake()
            socket = tcp_socket(self._stream)
            fixed = {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.1"},
                "scheme": "https" if is_tls else "http",
                "root_path": "",
                "client": socket.getpeername()[:2],
                "server": socket.getsockname()[:2],
                "extensions": {},
            }
            while (request := await self._next_request()) is not None and await self._answer(request, fixed):
                pass
            await self._part()
        except (ClientGone, trio.TooSlowError, *_GONE):
            pass
        finally:
            await trio.aclose_forcefully(self._stream)

    # coming in

    async def _next_request(self) -> h11.Request | None:
        """None: the client has gone, was silent for too long, or sent what isn't HTTP and was told so."""
        if not self._wire.trailing_data[0]:
            if self._place.standing is not Standing.SILENT:  # of the first request: counted from the connection's start
                self._becomes(Standing.IDLE)
            with trio.move_on_after(self._limits.keep_alive_s):
                while self._wire.trailing_data == (b"", False):
                    await self._read()
            if not self._wire.trailing_data[0]:
                return None
        self._becomes(Standing.BUSY)
        await self._port.requests.turn()
        try:
            event = self._wire.next_event()
            if event is h11.NEED_DATA:
                self._becomes(Standing.SILENT)
                with trio.fail_after(self._limits.head_s):
                    while event is h11.NEED_DATA:
                        self._port.holds(self._place, head_bytes=len(self._wire.trailing_data[0]))
                        await self._read()
                        event = self._wire.next_event()
                self._port.holds(self._place)
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint)
            return None
        if not isinstance(event, h11.Request):
            return None
        self._crumbs = self._empty_bytes = 0
        return event

    def _new_wire(self) -> h11.Connection:
        return h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head_bytes)

    def _next_cycle(self) -> None:
        """h11 would take an empty line behind the last body for a request line."""
        self._wire.start_next_cycle()
        waiting, has_ended = self._wire.trailing_data
        rest = self._without_empty_lines(waiting)
        if len(rest) < len(waiting):
            self._wire = self._new_wire()
            for data in ([rest] if rest else []) + ([b""] if has_ended else []):
                self._wire.receive_data(data)

    def _without_empty_lines(self, data: bytes) -> bytes:
        """Raises: ClientGone, for a client that sends nothing else."""
        rest = data.lstrip(b"\r\n")
        self._empty_bytes += len(data) - len(rest)
        if self._empty_bytes > EMPTY_BYTES:
            raise ClientGone
        return rest

    async def _read(self) -> None:
        """More input for h11, which is told of the end, too."""
        data = bytes(await self._stream.receive_some(READ_BYTES))
        has_ended = not data
        if self._wire.their_state is h11.IDLE and not self._wire.trailing_data[0]:
            data = self._without_empty_lines(data)
        if data or has_ended:
            self._wire.receive_data(data)
        self._crumbs = self._crumbs + 1 if len(data) < CRUMB_BYTES else 0
        if not has_ended and self._crumbs > CRUMBS_FREE:
            await trio.sleep(CRUMB_REST_S)

    async def _receive(self) -> dict[str, Any]:
        """ASGI's `receive`: a piece of the body, or that the client has left. One caller at a time."""
        while self._wire.their_state is h11.SEND_BODY:
            if self._wire.they_are_waiting_for_100_continue and self._wire.our_state is h11.SEND_RESPONSE:
                await self._send_event(h11.InformationalResponse(status_code=100, headers=[]))
            try:
                event = self._wire.next_event()
                if event is h11.NEED_DATA:
                    await self._read()
                    continue
            except h11.RemoteProtocolError as error:
                await self._refuse(error.error_status_hint)
                break
            except _GONE:
                self._is_gone = True
                break
            if isinstance(event, h11.Data):
                self._body_bytes += len(event.data)
                self._port.holds(self._place, body_bytes=self._body_bytes)
                return {"type": "http.request", "body": bytes(event.data), "more_body": True}
            self._becomes(Standing.BUSY)
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._until_gone()
        return {"type": "http.disconnect"}

    async def _until_gone(self) -> None:
        """Wait until the client leaves or its answer is whole."""
        with trio.CancelScope() as self._listening:
            while not (self._is_answered or self._is_gone or self._wire.their_state is h11.ERROR):
                if len(self._wire.trailing_data[0]) >= READ_BYTES:
                    await trio.sleep_forever()
                try:
                    await self._read()
                except _GONE:
                    break
                if self._wire.trailing_data[1]:
                    break
        self._is_gone = self._is_gone or not self._is_answered

    # going out

    async def _answer(self, request: h11.Request, fixed: Mapping[str, Any]) -> bool:
        """Let the application answer. True: the connection may have another request."""
        path, _, query = request.target.partition(b"?")
        scope = {
            **fixed,
            "http_version": request.http_version.decode("ascii"),
            "method": request.method.decode("ascii").upper(),
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "headers": list(request.headers),
        }
        self._is_head, self._body_bytes = scope["method"] == "HEAD", 0
        has_body = any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in request.headers
        )
        self._becomes(Standing.UPLOADING if has_body else Standing.BUSY)
        try:
            await self._application(scope, self._receive, self._send)
        except ClientGone:
            raise
        except Exception as error:
            if self._wire.our_state is h11.SEND_RESPONSE and not self._is_gone:
                await self._refuse(500)
            raise ExceptionGroup("the application failed", [error]) from None  # not to be taken for the socket's own errors
        if self._wire.our_state is h11.SEND_RESPONSE and not self._is_gone:
            await self._refuse(500)
        if self._is_gone or not self._is_answered:
            return False
        if self._port.is_stopping or not await self._drain():
            return False
        self._port.holds(self._place)
        self._next_cycle()
        return True

    async def _drain(self) -> bool:
        """Read what is left of the body. False: the connection must end."""
        left = DRAIN_BYTES
        with trio.move_on_after(PARTING_S):
            while self._wire.their_state is h11.SEND_BODY and left > 0:
                try:
                    event = self._wire.next_event()
                except h11.RemoteProtocolError:
                    return False
                if event is h11.NEED_DATA:
                    await self._read()
                elif isinstance(event, h11.Data):
                    left -= len(event.data)
        return self._wire.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}

    @property
    def _is_answered(self) -> bool:
        return self._wire.our_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED, h11.SWITCHED_PROTOCOL)

    async def _send(self, message: dict[str, Any]) -> None:
        """ASGI's `send`. Raises: ClientGone."""
        if self._is_gone or self._is_answered:
            raise ClientGone
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"date", formatdate(usegmt=True).encode())]
            if self._port.is_stopping:
                headers.append((b"connection", b"close"))
            self._status = int(message["status"])
            await self._send_event(h11.Response(status_code=self._status, headers=headers))
            return
        body = message.get("body", b"")
        if body and not self._is_head and self._status not in (204, 304):
            await self._send_event(h11.Data(data=body))
        if not message.get("more_body", False):
            await self._send_event(h11.EndOfMessage())
            if self._listening is not None:
                self._listening.cancel()

    async def _refuse(self, status: int) -> None:
        """An answer without a body, the last on this connection."""
        if self._wire.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [(b"content-length", b"0"), (b"connection", b"close"), (b"date", formatdate(usegmt=True).encode())]
            await self._send_event(h11.Response(status_code=status, headers=headers))
            await self._send_event(h11.EndOfMessage())

    async def _send_event(self, event: h11.InformationalResponse | h11.Response | h11.Data | h11.EndOfMessage) -> None:
        async with self._sending:
            parts = self._wire.send_with_data_passthrough(event) or ()
            await self._write(
                parts if isinstance(event, h11.Data) else [b"".join(parts)]
            )  # a head comes line by line: one packet, not ten

    async def _write(self, parts: Iterable[bytes]) -> None:
        is_through = False
        try:
            for part in parts:
                view = memoryview(part)
                for start in range(0, len(view), PIECE_BYTES):
                    if len(view) > SMALL_BYTES:
                        await self._port.pieces.turn()
                    with trio.fail_after(self._limits.write_s):
                        await self._stream.send_all(view[start : start + PIECE_BYTES])
            is_through = True
        except (trio.TooSlowError, *_GONE):
            raise ClientGone from None
        finally:
            self._is_gone = self._is_gone or not is_through  # half a piece is out: nothing sensible can follow

    async def _part(self) -> None:
        """Let the client read its last answer."""
        if self._is_gone or self._wire.trailing_data[1]:
            return
        self._becomes(Standing.SILENT)
        if isinstance(self._stream, trio.SocketStream):
            await self._stream.send_eof()
        left = DRAIN_BYTES
        with trio.move_on_after(PARTING_S):
            while left > 0 and (data := await self._stream.receive_some(READ_BYTES)):
                left -= len(data)

    def _becomes(self, standing: Standing) -> None:
        self._place.becomes(standing, trio.current_time())


def tcp_socket(stream: TcpStream) -> trio.socket.SocketType:
    """The socket below."""
    return (stream.transport_stream if isinstance(stream, trio.SSLStream) else stream).socket
