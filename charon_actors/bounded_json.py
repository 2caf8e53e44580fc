"""JSON from others, bounded before anything is made of it. Pure.

Theory of operation. A value of JSON may cost Python a hundred times its text (`{}` is three characters and 64 bytes), and a parser is one
call that nothing interrupts. So whoever decodes says of which kind the text is, and what is more than an honest text of its
kind is refused by length, then by the number of its values, before an object is made. Commas and brackets are all that is counted, a
piece at a time, so a refusal costs a millisecond whatever the length. What stands in a string is counted as well: nothing that
honest clients, nodes and peers send comes near.

msgspec's parser and the standard library's are recursive, and stop at the interpreter's recursion limit. That limit belongs to the program
that we run in, some libraries raise it to 100 000, and then a few kilobytes of `[[[[…` end the process. So the depth is checked next:
brackets are all that is kept of the text, and one level is taken off at a time.

Files are read more strictly than what a peer or a beacon node sends: what two readers could read as two values is refused.

    kind              from, what                                   the longest honest one                           bytes    values
    OBJECT            peers: whatever is signed or agreed on, but   an aggregate of all 64 committees: 35 KB, 20     64 KiB   1024
                      blocks                                        values; four contributions: 3 KB, 24 values
    EVENT             beacon nodes: an event                        `head`: 500 bytes, 9 values                      64 KiB   1024
    ANSWER            beacon nodes: an answer without a list,       `config/spec`: 20 KB, 250 values; an error for   1 MiB    16 384
                      or an error                                   each of 1000 attestations: 150 KB, 3000 values
    block             anybody: see below                            6.3 MB, 20 000 values, in a mass slashing 85 000
      PEER_BLOCK        peers: no release sends one as JSON         0                                                8 MiB    131 072
      BLOCK             our beacon nodes and validator clients                                                       16 MiB   262 144
    list_of(n)        clients, beacon nodes: something of each of   an attestation: 1 KB, 16 values; a validator     64 KiB + 1024 +
                      n validators                                  of a state: 550 bytes, 15 values                 2 KiB n  128 n
    SERVICE           relays, execution clients, APIs               a list of addresses: 2 KB, 20 values             64 KiB   1024
    IMPORT            key managers: a row for each keystore         80 bytes, 3 values; 1000 keystores: 80 KB        16 MiB   262 144
    CLUSTER_FILE      files: locks, definitions, deposits           25 000 validators of four operators: 64 MB,      64 MiB   4 000 000
                                                                    1 200 000 values
    KEYSTORE          files: a keystore                             1 KB, 25 values                                  64 KiB   1024
    HISTORY           files: a slashing history, EIP-3076           100 MB a million votes, 4 000 000 values         256 MiB  16 000 000

Blocks by fork, at the most blobs of their time and with an ordinary payload of 300 KB; the Beacon API writes bytes as hex:

    fork          blobs    proofs    SSZ         JSON
    to capella    0        0         0.3 MB      0.6 MB
    deneb         6        6         1.1 MB      2.2 MB
    electra       9        9         1.5 MB      3.0 MB
    fulu          21       2688      3.2 MB      6.3 MB      the second of its blob-parameter forks

By its gas limit of 60 million a payload has up to 2800 transactions, or 1.5 MB of data, or deposits of 10 000 values. The one attester
slashing names who voted twice, which after a client's fault may be a whole slot: 2 × 32 000 indices. `BLOCK_BYTES`, which
bounds SSZ, has room for the longest payload that there may ever be (8 MiB, EIP-7934) with 60 blobs.

Limits: those of the kinds; MAX_DEPTH levels. In files MAX_NUMBER_CHARACTERS a number, also of unknown keys: the time to read a number
grows with the square of its length.
"""

import json
from typing import Any, Final

import msgspec

KIB: Final = 2**10
MIB: Final = 2**20
MAX_DEPTH: Final = 64
MAX_NUMBER_CHARACTERS: Final = 100
BLOCK_BYTES: Final = 16 * MIB  # the SSZ of a block and its blobs, between nodes and from beacon nodes
PIECE_BYTES: Final = 64 * KIB
_ALL_BUT_SIGNS: Final = bytes(set(range(256)) - set(b"[]{},"))
_ALL_BUT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


class JsonKind(msgspec.Struct, frozen=True):
    """How much JSON of one kind may have. max_values: of objects, lists and what is in them; a member's name is not counted."""

    name: str
    max_bytes: int
    max_values: int


OBJECT: Final = JsonKind("object", 64 * KIB, 1024)
EVENT: Final = JsonKind("event", 64 * KIB, 1024)
ANSWER: Final = JsonKind("answer", MIB, 16 * KIB)
PEER_BLOCK: Final = JsonKind("block between nodes", 8 * MIB, 128 * KIB)
BLOCK: Final = JsonKind("block", 16 * MIB, 256 * KIB)
SERVICE: Final = JsonKind("answer of a service", 64 * KIB, 1024)
IMPORT: Final = JsonKind("answer of a key manager", 16 * MIB, 256 * KIB)
CLUSTER_FILE: Final = JsonKind("file", 64 * MIB, 4_000_000)
KEYSTORE: Final = JsonKind("keystore", 64 * KIB, 1024)
HISTORY: Final = JsonKind("slashing history", 256 * MIB, 16_000_000)

assert PEER_BLOCK.max_bytes < BLOCK_BYTES, "between nodes the rarer form has no more room than the usual one"


def list_of(validators: int) -> JsonKind:
    """Something of each of so many validators: their duties, attestations, states, registrations."""
    return JsonKind("list", 64 * KIB + 2 * KIB * validators, KIB + 128 * validators)


def list_in(text: bytes) -> JsonKind:
    """The same, where the number of bytes has been held to `list_of` already: no more values than fit into so many."""
    return JsonKind("list", len(text), KIB + len(text) // 16)


class TooMuch(ValueError):
    """More bytes or values than the kind has."""


class TooDeep(ValueError):
    """More levels than MAX_DEPTH."""


def check_size(text: bytes, kind: JsonKind) -> bytes:
    """Its brackets. Raises: TooMuch. Ends with the first value too many; in what is honest linear, about 0.5 ms for 1 MB."""
    if len(text) > kind.max_bytes:
        raise TooMuch(f"{len(text)} bytes, more than a {kind.name} may have ({kind.max_bytes})")
    values, closed = 1, 0
    pieces: list[bytes] = []
    for start in range(0, len(text), PIECE_BYTES):
        signs = text[start : start + PIECE_BYTES].translate(None, _ALL_BUT_SIGNS)
        brackets = signs.replace(b",", b"")
        closing = brackets.count(b"}") + brackets.count(b"]")
        values, closed = values + len(signs) - closing, closed + closing
        if max(values, closed) > kind.max_values:
            raise TooMuch(f"more than {kind.max_values} values, more than a {kind.name} may have")
        pieces.append(brackets)
    return b"".join(pieces)


def check_depth(text: bytes) -> None:
    """Raises: TooDeep. Linear in the text, about 0.5 ms for 1 MB."""
    _check_levels(text.translate(None, _ALL_BUT_BRACKETS))


def _check_levels(brackets: bytes) -> None:
    for _ in range(MAX_DEPTH):
        if len(brackets) <= MAX_DEPTH:
            return
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
    if len(brackets) > MAX_DEPTH:
        raise TooDeep(f"nested more than {MAX_DEPTH} levels deep")


def check_foreign_json(text: bytes, kind: JsonKind) -> None:
    """For whoever decodes into a type of his own. Raises: ValueError (TooMuch, TooDeep)."""
    _check_levels(check_size(text, kind))


def decode_foreign_json(text: bytes, kind: JsonKind) -> Any:
    """The value. Raises: ValueError (msgspec.DecodeError, TooMuch, TooDeep)."""
    check_foreign_json(text, kind)
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise
    except (UnicodeDecodeError, RecursionError):
        raise ValueError("no UTF-8, or nested too deeply") from None


def decode_json_file(content: bytes, kind: JsonKind, *, with_lower_keys: bool = False) -> Any:
    """The value that a file holds. with_lower_keys: of all objects, for files whose keys match in any letter case.

    Raises: ValueError with a reason, also for bytes that are no UTF-8, NaN and Infinity, long numbers, and a key that
    stands twice in one object, in any letter case.
    """

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        lower = {key.lower(): value for key, value in pairs}
        if len(lower) != len(pairs):
            raise ValueError("a key stands twice in one object")
        return lower if with_lower_keys else dict(pairs)

    _check_levels(check_size(content, kind))
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no UTF-8") from None
    try:
        return json.loads(
            text,
            object_pairs_hook=collect,
            parse_constant=_refuse_constant,
            parse_int=lambda number: int(_short(number)),
            parse_float=lambda number: float(_short(number)),
        )
    except RecursionError:
        raise TooDeep("nested too deeply") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _short(number: str) -> str:
    if len(number) > MAX_NUMBER_CHARACTERS:
        raise ValueError(f"a number of more than {MAX_NUMBER_CHARACTERS} characters")
    return number
