"""The flag `--definition-file`: a path, or an http(s) URL that is fetched.

Limits of a fetch: FETCH_TIMEOUT_S in all, redirects as `http_request.py` says, MAX_FETCHED_BYTES of body. What came is verified like
a file.
Source: specification 01 §11; 11 §1.
"""

from collections.abc import Sequence
from typing import Final

from charon_actors.cli.door import notice
from charon_actors.cli.options.table import Values
from charon_actors.cli.services.http_request import MAX_REDIRECTS, HttpFault, exchange, is_url, service_of, wait_for
from charon_actors.cluster.definition import Definition
from charon_actors.cluster.verify import ContractCheck
from charon_actors.errors import UserError
from charon_actors.eth2.networks import Network
from charon_actors.files.data_directory import read_definition, verified_definition

FLAG: Final = "definition-file"
FETCH_TIMEOUT_S: Final = 10.0
MAX_FETCHED_BYTES: Final = 16 << 20  # 01 §11


def supplied_definition(
    values: Values,
    *,
    is_verified: bool = True,
    can_bypass: bool,
    networks_extra: Sequence[Network],
    contract: ContractCheck | None,
) -> tuple[str, Definition]:
    """The verified definition, and its place for errors. Keywords as of `verified_definition`. Raises UserError."""
    text = values.text(FLAG)
    if is_url(text):
        place, content = fetch_definition(text, values.where(FLAG))
    else:
        path = values.path(FLAG)
        place, content = str(path), read_definition(path)
    return place, verified_definition(
        place, content, notice, is_verified=is_verified, networks_extra=networks_extra, can_bypass=can_bypass, contract=contract
    )


def fetch_definition(url: str, where: str) -> tuple[str, bytes]:
    """A place for errors, without secrets, and what stands at the URL: at most MAX_FETCHED_BYTES. Raises UserError."""
    service = service_of(url, where)
    place = f"{where} ({service.label})"

    async def fetch() -> bytes:
        return await exchange(
            "GET",
            service,
            timeout_s=FETCH_TIMEOUT_S,
            limit_bytes=MAX_FETCHED_BYTES,
            redirects=MAX_REDIRECTS,
            uses_proxy=True,
        )

    try:
        return place, wait_for(fetch)
    except HttpFault as fault:
        what = f"cannot fetch the definition: {fault}"
        raise UserError(place, what, "check the URL, or download the file and pass its path") from None
