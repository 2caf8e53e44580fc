"""The slashing protection interchange format, version 5: how histories move between programs. Pure.

    {"metadata": {"interchange_format_version": "5", "genesis_validators_root": "0x…"},
     "data": [{"pubkey": "0x…", "signed_blocks": [{"slot": "1", "signing_root": "0x…"}],
               "signed_attestations": [{"source_epoch": "1", "target_epoch": "2", "signing_root": "0x…"}]}]}

Signing roots are optional; unknown members are ignored; one key may come several times. A file is for the chain with its root only.
Limits: MAX_INTERCHANGE_BYTES; numbers below 2^63; anything else is an InterchangeFault, and nothing of the file is used.
Source: EIP-3076, "Interchange format".
"""

from typing import Any, Final

import msgspec

from charon_actors.bounded_json import HISTORY, decode_foreign_json
from charon_actors.slashing.rules import NUMBER_LIMIT, AttestationEntry, BlockEntry, Entry

FORMAT_VERSION: Final = "5"
MAX_INTERCHANGE_BYTES: Final = HISTORY.max_bytes


class InterchangeFault(ValueError):
    """The file is not an interchange file of version 5, or holds impossible values."""


class Interchange(msgspec.Struct, frozen=True):
    """Histories of keys on the chain with that genesis validators root (32 bytes)."""

    genesis_validators_root: bytes
    entries: tuple[Entry, ...]


def decode_interchange(data: bytes) -> Interchange:
    """Raises: InterchangeFault."""
    if len(data) > MAX_INTERCHANGE_BYTES:
        raise InterchangeFault(f"{len(data)} bytes, more than {MAX_INTERCHANGE_BYTES}")
    try:
        value = decode_foreign_json(data, HISTORY)
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise InterchangeFault("not JSON") from None
    metadata = _object(_object(value).get("metadata"))
    if metadata.get("interchange_format_version") != FORMAT_VERSION:
        raise InterchangeFault(f"the interchange format version is not {FORMAT_VERSION}")
    root = _hex(metadata.get("genesis_validators_root"), 32)
    entries: list[Entry] = []
    for history in _list(value.get("data")):
        pubkey = _hex(_object(history).get("pubkey"), 48)
        entries += [_block(pubkey, _object(block)) for block in _list(history.get("signed_blocks", []))]
        entries += [_vote(pubkey, _object(vote)) for vote in _list(history.get("signed_attestations", []))]
    return Interchange(root, tuple(entries))


def _block(pubkey: bytes, value: dict[str, Any]) -> BlockEntry:
    return BlockEntry(pubkey, _signing_root(value), _number(value.get("slot")))


def _vote(pubkey: bytes, value: dict[str, Any]) -> AttestationEntry:
    epochs = _number(value.get("source_epoch")), _number(value.get("target_epoch"))
    return AttestationEntry(pubkey, _signing_root(value), *epochs)


def encode_interchange(interchange: Interchange) -> bytes:
    """JSON, keys in the order of their first entry."""
    histories: dict[bytes, dict[str, Any]] = {}
    for entry in interchange.entries:
        history = histories.get(entry.pubkey)
        if history is None:
            history = {"pubkey": _text(entry.pubkey), "signed_blocks": [], "signed_attestations": []}
            histories[entry.pubkey] = history
        root = {} if entry.signing_root is None else {"signing_root": _text(entry.signing_root)}
        match entry:
            case BlockEntry():
                history["signed_blocks"].append({"slot": str(entry.slot), **root})
            case AttestationEntry():
                epochs = {"source_epoch": str(entry.source_epoch), "target_epoch": str(entry.target_epoch)}
                history["signed_attestations"].append({**epochs, **root})
    metadata = {
        "interchange_format_version": FORMAT_VERSION,
        "genesis_validators_root": _text(interchange.genesis_validators_root),
    }
    return msgspec.json.encode({"metadata": metadata, "data": list(histories.values())})


def _text(data: bytes) -> str:
    return "0x" + data.hex()


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InterchangeFault("an object is missing")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise InterchangeFault("a list is missing")
    return value


def _number(value: object) -> int:
    if not isinstance(value, str) or not value.isascii() or not value.isdecimal() or len(value) > 19:
        raise InterchangeFault("a slot or epoch is not a decimal number in quotes")
    number = int(value)
    if number >= NUMBER_LIMIT:
        raise InterchangeFault(f"{number} is no slot or epoch")
    return number


def _signing_root(value: dict[str, Any]) -> bytes | None:
    root = value.get("signing_root")
    return None if root is None else _hex(root, 32)


def _hex(value: object, size: int) -> bytes:
    digits = value.removeprefix("0x") if isinstance(value, str) else ""  # EIP-3076 writes 0x, not everybody does
    if len(digits) != 2 * size:
        raise InterchangeFault(f"not {2 * size} hex digits, with or without 0x")
    try:
        data = bytes.fromhex(digits)
    except ValueError:
        data = b""
    if len(data) != size:
        raise InterchangeFault(f"not {2 * size} hex digits, with or without 0x")
    return data
