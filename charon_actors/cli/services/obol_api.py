"""The Obol API as these commands use it: publish a definition or a lock.

    call                  request                                       path of the base URL    authorization
    publish lock          POST /lock                                    replaced                none
    publish definition    POST /definition                              appended to             Bearer: creator's config signature
    terms                 POST /termsAndConditions                      appended to             Bearer: creator's terms signature

Bodies are compact JSON. Any 2xx is success and not looked at; 409 says that the API has it already, which is success, too. A lock is
published last, when its files are safe: that it fails is a warning, and it is tried again a few times (each POST may be repeated).

Limits: DEFAULT_TIMEOUT_S or `--publish-timeout` a call with all its attempts; PUBLISH_ATTEMPTS; what `http_request.py` says.
Source: specification 11 §1; 01 §11.
"""

import enum
from typing import Final

from charon_actors.cli.options.table import Values
from charon_actors.cli.services.http_request import HttpFault, Service, exchange, service_of_flag
from charon_actors.cluster.definition import Definition
from charon_actors.cluster.definition_json import definition_to_json
from charon_actors.cluster.eip712 import TERMS_HASH, TERMS_VERSION
from charon_actors.cluster.foreign_json import encode_compact, hex_or_empty
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.lock_json import lock_to_json

DEFAULT_TIMEOUT_S: Final = 10.0
PUBLISH_ATTEMPTS: Final = 3
PUBLISH_PAUSE_S: Final = 1.0
DUPLICATE: Final = 409
SERVER_FAULTS: Final = range(500, 600)


class Style(enum.Enum):
    """What becomes of the path in `--publish-address` (`/v1`). The API answers both forms."""

    REPLACE = "replace"
    APPEND = "append"


class ObolApi:
    """The API at `--publish-address`. timeout_s: of one call, as a whole."""

    def __init__(self, service: Service, timeout_s: float) -> None:
        self.service, self._timeout_s = service, timeout_s

    def __repr__(self) -> str:
        return f"ObolApi({self.service.label})"

    async def call(
        self, method: str, path: str, style: Style, *, body: bytes = b"", bearer: str = "", limit_bytes: int = 0
    ) -> bytes:
        """The answer's body, not read with limit_bytes 0. body: JSON. Raises HttpFault. Cancellation: closes the connection."""
        return await exchange(
            method,
            self.service,
            timeout_s=self._timeout_s,
            limit_bytes=limit_bytes,
            path=self.path(path, style),
            bearer=bearer,
            body=body,
            uses_proxy=True,
        )

    def path(self, path: str, style: Style) -> str:
        return path if style is Style.REPLACE else self.service.path.rstrip("/") + path

    async def publish(self, path: str, style: Style, body: bytes, bearer: str = "") -> bool:
        """Whether it is new to the API. Raises HttpFault."""
        try:
            await self.call("POST", path, style, body=body, bearer=bearer)
        except HttpFault as fault:
            if fault.status == DUPLICATE:
                return False
            raise
        return True

    async def publish_lock(self, lock: Lock) -> bool:
        """Whether it is new to the API. Tries again while the API doesn't answer or is out of order. Raises HttpFault."""
        import trio

        body = encode_compact(lock_to_json(lock))
        last = HttpFault(f"no complete answer within {self._timeout_s:g} s")
        with trio.move_on_after(self._timeout_s):
            for attempt in range(PUBLISH_ATTEMPTS):
                if attempt:
                    await trio.sleep(PUBLISH_PAUSE_S)
                try:
                    return await self.publish("/lock", Style.REPLACE, body)
                except HttpFault as fault:
                    last = fault
                    if fault.status is not None and fault.status not in SERVER_FAULTS:
                        break
        raise last

    async def publish_definition(self, definition: Definition) -> bool:
        """Whether it is new to the API. definition: signed by its creator. Raises HttpFault (401: the terms are not signed)."""
        bearer = hex_or_empty(definition.creator.config_signature)
        return await self.publish("/definition", Style.APPEND, encode_compact(definition_to_json(definition)), bearer)

    async def accept_terms(self, address: str, fork_version: bytes, signature: bytes) -> bool:
        """Tell that `address` (EIP-55 text) accepts Obol's terms; False when the API knew. signature: 65 bytes, EIP-712.

        fork_version: 4 bytes. Raises HttpFault.
        """
        body = {
            "address": address,
            "version": TERMS_VERSION,
            "terms_and_conditions_hash": TERMS_HASH,
            "fork_version": hex_or_empty(fork_version),
        }
        return await self.publish("/termsAndConditions", Style.APPEND, encode_compact(body), hex_or_empty(signature))

    def lock_link(self, lock: Lock) -> str:
        """The dashboard of a published lock."""
        return f"{self.service.origin}/lock/0x{lock.lock_hash.hex().upper()}/launchpad"

    def definition_link(self, definition: Definition) -> str:
        """What the operators pass to `charon dkg --definition-file`."""
        return self.service.origin + self.path(f"/definition/0x{definition.config_hash.hex()}", Style.APPEND)


def obol_api(values: Values, timeout_s: float = DEFAULT_TIMEOUT_S) -> ObolApi | None:
    """The API of `--publish-address` when `--publish` is given. Raises UserError."""
    return ObolApi(service_of_flag(values, "publish-address"), timeout_s) if values.switch("publish") else None


async def try_to_publish_lock(api: ObolApi, lock: Lock) -> tuple[bool, str]:
    """Publish it; whether the API has it now, and one line that tells how it ended."""
    try:
        is_new = await api.publish_lock(lock)
    except HttpFault as fault:
        later = f"the cluster is good without; to publish it later, POST cluster-lock.json to {api.service.origin}/lock"
        return False, f"Couldn't publish lock file to Obol API: {fault}; {later}"
    told = "Published the lock file to Obol API" if is_new else "Obol API has the lock file already"
    return True, f"{told}: {api.lock_link(lock)}"
