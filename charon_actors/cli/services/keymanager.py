"""Key manager: pushes keystores into a validator client over the Keymanager API, instead of writing them to disk.

    POST <URL>/eth/v1/keystores     Authorization: Bearer <token>     {"keystores":["<json>",…],"passwords":["…",…]}

Any 2xx is success, unless the answer says of a keystore that it was not imported (its `status` is `error`): such a share would be
lost. What an answer says besides that isn't looked at. Before the long work that makes the keys, `dial` checks that somebody listens.

Limits: DIAL_TIMEOUT_S; TIMEOUT_PER_KEY_S a keystore for the whole request; MAX_ANSWER_BYTES. Redirects are not followed.
Source: specification 01 §7.3; 11 §11; Keymanager API.
"""

import socket
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from charon_actors.bounded_json import IMPORT, decode_foreign_json
from charon_actors.cli.door import one_line
from charon_actors.cli.options.table import Values
from charon_actors.cli.services.http_request import HttpFault, Service, exchange, masked, service_of
from charon_actors.cluster.foreign_json import encode_compact
from charon_actors.errors import UserError
from charon_actors.files.keystore_files import Keystore

PATH: Final = "/eth/v1/keystores"
DIAL_TIMEOUT_S: Final = 2.0
TIMEOUT_PER_KEY_S: Final = 2.0
MAX_ANSWER_BYTES: Final = IMPORT.max_bytes
IMPORTED: Final = ("imported", "duplicate")
DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class KeyManager:
    """One validator client's key manager. where: the flag, for errors. token: a secret."""

    def __init__(self, service: Service, where: str, token: str) -> None:
        self.service, self.where, self._token = service, where, token

    def __repr__(self) -> str:
        return f"KeyManager({self.service.label})"

    def dial(self) -> None:
        """Whether somebody listens there. Blocks for up to DIAL_TIMEOUT_S an address of the name. Raises UserError."""
        parts = urlsplit(self.service.origin)
        try:
            socket.create_connection((parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]), DIAL_TIMEOUT_S).close()
        except (OSError, ValueError) as error:  # ValueError: no name that can be looked up
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            what = f"cannot reach the key manager at {self.service.label}: {one_line(reason)}"
            raise UserError(self.where, what, "start it, or correct the address") from None

    async def push(self, keystores: Sequence[Keystore]) -> None:
        """Import all of them in one request. Raises HttpFault: then some of them may be there. Cancellation: the same."""
        passwords = [keystore.password for keystore in keystores]
        content = {"keystores": [keystore.content.decode() for keystore in keystores], "passwords": passwords}
        answer = await exchange(
            "POST",
            self.service,
            timeout_s=TIMEOUT_PER_KEY_S * len(keystores),
            limit_bytes=MAX_ANSWER_BYTES,
            path=self.service.path.rstrip("/") + PATH,
            bearer=self._token,
            body=encode_compact(content),
            secrets=passwords,
        )
        refused = _refused(answer, passwords)
        if refused:
            raise HttpFault(
                f"it did not import {len(refused)} of {len(keystores)} keystores, the first one because: {refused[0]}"
            )


def key_managers(values: Values, addresses: Sequence[str], tokens: Sequence[str], flag: str, token_flag: str) -> list[KeyManager]:
    """The key managers of two flags with as many elements each. Raises UserError, which never shows a token."""
    if len(addresses) != len(tokens):
        what = f"number of --{flag} does not match number of --{token_flag}, please fix configuration flags"
        raise UserError(values.where(flag), what, f"{len(addresses)} addresses and {len(tokens)} tokens are given")
    for place, token in enumerate(tokens, 1):
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            what = f"element {place}: a token is empty or has characters that no header can hold"
            raise UserError(values.where(token_flag), what, "correct it")
    where = values.where(flag)
    return [KeyManager(service_of(address, where), where, token) for address, token in zip(addresses, tokens, strict=True)]


def _refused(answer: bytes, passwords: Sequence[str]) -> list[str]:
    """Why keystores were not imported, as far as the answer says so."""
    try:
        rows = decode_foreign_json(answer, IMPORT)["data"]
    except (ValueError, TypeError, LookupError):
        return []
    if not isinstance(rows, list):
        return []
    refused = [row for row in rows if isinstance(row, dict) and row.get("status") not in (None, *IMPORTED)]
    return [masked(str(row.get("message")), passwords) for row in refused]
