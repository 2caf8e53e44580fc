"""How beacon nodes are given: URLs, and the headers sent to all of them. Source: specification 08 §1."""

import base64
import re
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from charon_actors.errors import UserError


class NodeUrl(msgspec.Struct, frozen=True):
    """Where a beacon node is. base: `scheme://host:port/path`, no trailing slash, no user info. authorization: a secret.

    label: what may be logged: no password, no path, no query (either can hold an access token).
    """

    base: str
    query: str
    authorization: str | None
    label: str

    def __repr__(self) -> str:
        return f"NodeUrl({self.label})"


def decode_node_url(text: str, flag: str = "--beacon-node-endpoints", example: str = "http://127.0.0.1:5052") -> NodeUrl:
    """The address in one item of `--beacon-node-endpoints`: `http://` is added if there is no scheme, a trailing slash dropped,
    user info becomes basic authorization, path and query stay (08 §1). Raises: UserError, without the text's secrets."""
    text = text.strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if host is None or parts.scheme not in ("http", "https") or any(ord(c) <= 0x20 for c in text):
        raise UserError(flag, f"an address is not a URL like {example}", "correct it") from None
    authorization = None
    if parts.username is not None or parts.password is not None:
        user_info = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(user_info.encode()).decode()
    host_port = (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "")
    base = f"{parts.scheme}://{host_port}{parts.path.rstrip('/')}"
    return NodeUrl(base, parts.query, authorization, f"{parts.scheme}://{host_port}" + ("/…" if parts.path.strip("/") else ""))


_HEADER_ITEM: Final = re.compile(r"[^=,]+=[^,]+")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def decode_header_flag(text: str) -> tuple[tuple[str, str], ...]:
    """The headers of `--beacon-node-headers`: a comma list of `name=value`, split at the first `=` (08 §1). Empty: none.

    Raises: UserError, which never shows a value.
    """
    headers = []
    for item in text.split(",") if text else ():
        name, _, value = item.partition("=")
        is_sendable = _HEADER_NAME.fullmatch(name.strip()) and value.isascii() and value.isprintable()
        if _HEADER_ITEM.fullmatch(item) is None or not is_sendable:
            raise UserError(
                "--beacon-node-headers",
                "http headers must be comma separated values formatted as header=value",
                "correct it",
            )
        headers.append((name.strip(), value.strip()))
    return tuple(headers)


# -- requests -----------------------------------------------------------------------------------------------------------------
