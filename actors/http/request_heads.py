"""What RFC 9112 asks of a server about request heads, beyond what the parser below does.

    §      request                                                 what happens
    2.3    a major version that is not 1                           505
    3.2    a method that is for proxies: CONNECT                   501
    3.2    no Host, several, or one that is no host                400; the parser refuses the first two
    3.2.1  origin-form: `/path?query`                              handed on; with a fragment, or anything else than a path: 400
    3.2.2  absolute-form: `http://host/path?query`                 handed on as its path (an empty one is `/`) and query, with the target's
                                                                   host for Host. Clients behind a forward proxy send it
    3.2.4  asterisk-form: `OPTIONS *`                              204: it asks for the server, nothing stands behind it
    6.1    Transfer-Encoding together with Content-Length          400: two lengths are how one request hides another from a proxy

Each refusal ends the connection, since what follows can't be trusted to begin where we think.
Applications behind it see origin-form only. Source: RFC 9112; RFC 9110 §7.2 (Host), §15.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import unquote

Application = Callable[[Any, Any, Any], Awaitable[None]]

_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]*)(?::[0-9]*)?")  # RFC 3986 §3.2.2, and a port
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#@]*)(/[^?#]*)?", flags=re.IGNORECASE)


def with_checked_heads(application: Application) -> Application:
    """The application, called for what the table hands on. Cancellation and errors: the application's."""

    async def checked(scope: Any, receive: Any, send: Any) -> None:
        status, target = _refusal(scope), scope["raw_path"]
        absolute = _ABSOLUTE.fullmatch(target)
        headers: list[tuple[bytes, bytes]] = []
        if status is None and target.startswith(b"/"):
            await application(scope, receive, send)
            return
        if status is None and absolute is not None and _HOST.fullmatch(absolute[1]):
            await application(_in_origin_form(scope, absolute), receive, send)
            return
        if status is None and target == b"*" and scope["method"] == "OPTIONS":
            status = 204
        else:
            headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status or 400, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    return checked


def _refusal(scope: Any) -> int | None:
    if not scope["http_version"].startswith("1."):
        return 505
    if scope["method"] == "CONNECT":
        return 501
    names = {name.lower() for name, _ in scope["headers"]}
    hosts = [value for name, value in scope["headers"] if name.lower() == b"host"]
    if any(_HOST.fullmatch(host) is None for host in hosts):
        return 400
    if {b"transfer-encoding", b"content-length"} <= names or b"#" in scope["raw_path"] + scope["query_string"]:
        return 400
    return None


def _in_origin_form(scope: Any, absolute: re.Match[bytes]) -> Any:
    host, raw_path = absolute[1], absolute[2] or b"/"
    headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"host"]
    path = unquote(raw_path.decode("ascii"))
    return {**scope, "raw_path": raw_path, "path": path, "headers": [(b"host", host), *headers]}
