"""Execution client: asks contract wallets whether a signature is theirs (ERC-1271), over JSON-RPC.

    eth_call   {from: zero address, to: wallet, input: isValidSignature(bytes32 digest, bytes signature)}   at `latest`
    valid      the answer is one ABI word that begins with the selector 0x1626ba7e

A wallet that reverts does not accept the signature. Whatever else goes wrong is not the wallet's answer: it ends the command with a
UserError that names the flag, or, where the operator bypasses verification, is a notice and counts as "not accepted".

A URL that is none is said when the command begins, and is an error only when a wallet is to be asked.

Answers are remembered: what was accepted once needs no execution client when the ceremony verifies its lock at the end.

Limits: CONNECT_TIMEOUT_S for a first `web3_clientVersion`, CALL_TIMEOUT_S a call, MAX_ANSWER_BYTES, MAX_REMEMBERED.
Source: specification 01 §4 (ERC-1271).
"""

import re
from typing import Any, Final

from charon_actors.bounded_json import SERVICE, decode_foreign_json
from charon_actors.cli.door import notice
from charon_actors.cli.options.table import Values
from charon_actors.cli.services.http_request import HttpFault, Service, exchange, masked, service_of_flag, wait_for
from charon_actors.cluster.foreign_json import encode_compact
from charon_actors.errors import UserError

FLAG: Final = "execution-client-rpc-endpoint"
EXAMPLE: Final = "http://127.0.0.1:8545"
SELECTOR: Final = bytes.fromhex("1626ba7e")  # isValidSignature(bytes32,bytes), and what it returns for yes
ZERO_ADDRESS: Final = "0x" + "00" * 20
WORD_BYTES: Final = 32
CONNECT_TIMEOUT_S: Final = 10.0
CALL_TIMEOUT_S: Final = 10.0
RETRY_S: Final = 0.5
MAX_ANSWER_BYTES: Final = SERVICE.max_bytes
MAX_REMEMBERED: Final = 4096  # 256 operators with two signatures each, and the creator: 513
REVERTED: Final = 3

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_DATA = re.compile(r"0x(?:[0-9a-fA-F]{2})*")


class RpcFault(Exception):
    """The execution client answered with an error. Its text is one line."""

    def __init__(self, text: str, *, is_revert: bool = False) -> None:
        super().__init__(text)
        self.is_revert = is_revert


class ExecutionClient:
    """A ContractCheck. is_required: False where verification is bypassed, then faults of the client are notices.

    service: None for a URL that is none.
    """

    def __init__(self, service: Service | None, where: str, *, is_required: bool = True) -> None:
        self._service, self._where, self._is_required = service, where, is_required
        self._is_connected = False
        self._accepted: set[tuple[str, bytes, bytes]] = set()

    def __repr__(self) -> str:
        return f"ExecutionClient({self._service.label if self._service else None})"

    def __call__(self, address: str, digest: bytes, signature: bytes) -> bool:
        """Whether the contract at `address` accepts `signature` of the 32-byte digest. Blocks. Raises UserError."""
        if self.remembers(address, digest, signature):
            return True
        if not _ADDRESS.fullmatch(address):
            return False
        try:
            is_accepted = wait_for(lambda: self._ask(address, digest, signature))
        except UserError as error:
            if self._is_required:
                raise
            notice(str(error))
            return False
        if is_accepted and len(self._accepted) < MAX_REMEMBERED:
            self._accepted.add((address, digest, signature))
        return is_accepted

    def remembers(self, address: str, digest: bytes, signature: bytes) -> bool:
        """A ContractCheck that asks nobody: whether the contract has accepted that before."""
        return (address, digest, signature) in self._accepted

    async def _ask(self, address: str, digest: bytes, signature: bytes) -> bool:
        if self._service is None:
            what = f"is no http or https URL, and the contract wallet {address} must be asked"
            raise UserError(self._where, what, f"write for example {EXAMPLE}")
        if not self._is_connected:
            await self._connect()
        call = {"from": ZERO_ADDRESS, "to": address, "input": "0x" + _call_data(digest, signature).hex()}
        try:
            answer = await self._call("eth_call", [call, "latest"])
        except RpcFault as fault:
            if fault.is_revert:
                return False
            raise self._failed(f"eth_call to {address}: {fault}") from None
        except HttpFault as fault:
            raise self._failed(f"eth_call to {address}: {fault}") from None
        if not isinstance(answer, str) or not _DATA.fullmatch(answer):
            raise self._failed(f"eth_call to {address}: the answer is no data")
        data = bytes.fromhex(answer[2:])
        return len(data) >= WORD_BYTES and data.startswith(SELECTOR)

    async def _connect(self) -> None:
        import trio

        reason = f"no answer within {CONNECT_TIMEOUT_S:g} s"
        with trio.move_on_after(CONNECT_TIMEOUT_S):
            while not self._is_connected:
                try:
                    await self._call("web3_clientVersion", [])
                    self._is_connected = True
                except (HttpFault, RpcFault) as fault:
                    reason = str(fault)
                    await trio.sleep(RETRY_S)
        if not self._is_connected:
            raise self._failed(f"wait for execution client to connect: eth1 client is not connected: {reason}")

    async def _call(self, method: str, params: list[Any]) -> Any:
        assert self._service is not None
        body = encode_compact({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        answer = await exchange("POST", self._service, timeout_s=CALL_TIMEOUT_S, limit_bytes=MAX_ANSWER_BYTES, body=body)
        return _result_of(answer)

    def _failed(self, what: str) -> UserError:
        assert self._service is not None
        return UserError(
            f"{self._where} ({self._service.label})", what, "check the endpoint, and that it is of the cluster's network"
        )


def execution_client(values: Values, *, is_verified: bool = True) -> ExecutionClient | None:
    """The client of `--execution-client-rpc-endpoint`; None without the flag. is_verified: False with `--no-verify`.

    Nothing is sent before the first question. A text that is no http or https URL is a notice.
    """
    if not values.text(FLAG):
        return None
    where = values.where(FLAG)
    try:
        service = service_of_flag(values, FLAG)
    except UserError:
        notice(f"{where} is no http or https URL, such as {EXAMPLE}; that matters only where a contract wallet has signed")
        service = None
    return ExecutionClient(service, where, is_required=is_verified)


def _result_of(answer: bytes) -> Any:
    """Raises RpcFault."""
    try:
        fields = decode_foreign_json(answer, SERVICE)
    except ValueError:
        raise RpcFault("the answer is no JSON") from None
    if not isinstance(fields, dict):
        raise RpcFault("the answer is no JSON object")
    error = fields.get("error")
    if error is not None:
        code, message = (error.get("code"), error.get("message")) if isinstance(error, dict) else (None, error)
        text = masked(f"error {code}: {message}", ())
        raise RpcFault(text, is_revert=code == REVERTED or "revert" in text.lower())
    return fields.get("result")


def _call_data(digest: bytes, signature: bytes) -> bytes:
    """ABI: selector, the digest, where the signature stands (after two words), its length, the signature padded to whole words."""
    words = [digest, (2 * WORD_BYTES).to_bytes(WORD_BYTES, "big"), len(signature).to_bytes(WORD_BYTES, "big")]
    return SELECTOR + b"".join(words) + signature + bytes(-len(signature) % WORD_BYTES)
