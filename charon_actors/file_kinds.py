"""What a file is, whatever it was taken for, in words for whoever gave it. Pure.

A reader that can't go on knows at which byte its parser stopped; the operator needs to know that it was a web page. So every reader of
operators' files asks here before it says anything, and no parser's words get further than this file.

    question                                    asked by                                      function
    no JSON: what is it, or where does it end?  readers of JSON files, after their parser     `why_no_json`
    JSON: which of our files is it?             the same, after it, and `show`, `verify`      `kinds_of`
    neither: what was pasted there?             readers of ENRs, keys and passwords           `what_it_is`

Phrases continue "it …" and say in brackets what to do, where that is known. They hold nothing of the file: it may be a secret. They are
for files that were refused, or will be; that one of them fits is never a reason to refuse.

    phrase                                      from
    is empty, holds only zero bytes             the whole content
    is compressed with gzip, a zip archive, …   the first bytes: `_MAGIC`
    is text in UTF-16, UTF-32                   its byte order mark, or zeros at every other byte
    is a web page, a PEM file, an ENR, …        how the text begins, after a byte order mark
    starts with a byte order mark               the mark, when the rest is nothing of the above
    is binary                                   zeros or no UTF-8 in the first LOOKED_AT bytes
    ends in the middle, …                       where the parser stopped

Limits: LOOKED_AT bytes are looked at; how the parser stopped costs what parsing has cost. Source: specification 01, section 12.
"""

import enum
import json
import re
from collections.abc import Iterable
from typing import Final

MAX_FILE_BYTES: Final = 64 << 20  # that is read at all: a lock of 25 000 validators of four operators
LOOKED_AT: Final = 4096
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class FileKind(enum.Enum):
    """Files of a cluster. The value is what we call it."""

    LOCK = "cluster lock"
    DEFINITION = "cluster definition"
    KEYSTORE = "keystore"
    DEPOSITS = "deposit data"
    OVERRIDES = "builder registrations"
    ENR = "ENR"
    KEY = "identity key"


_BY_KEYS: Final = (  # in this order
    (FileKind.LOCK, {"cluster_definition", "distributed_validators"}),
    (FileKind.KEYSTORE, {"crypto"}),
    (FileKind.DEFINITION, {"operators", "config_hash", "num_validators"}),
)
_BY_ROW_KEYS: Final = (
    (FileKind.DEPOSITS, {"withdrawal_credentials", "deposit_data_root"}),
    (FileKind.OVERRIDES, {"v1"}),
)
_ERROR_KEYS: Final = frozenset({"error", "errors", "message"})
_BESIDE_ERRORS: Final = frozenset(
    {"code", "status", "statuscode", "success", "detail", "path", "timestamp", "requestid", "stacktraces"}
)

_UNPACK: Final = "unpack it first"
_MAGIC: Final = (
    (b"\x1f\x8b", f"is compressed with gzip ({_UNPACK})"),
    (b"PK\x03\x04", f"is a zip archive ({_UNPACK})"),
    (b"PK\x05\x06", "is an empty zip archive"),
    (b"BZh", f"is compressed with bzip2 ({_UNPACK})"),
    (b"\xfd7zXZ\x00", f"is compressed with xz ({_UNPACK})"),
    (b"\x28\xb5\x2f\xfd", f"is compressed with zstd ({_UNPACK})"),
    (b"7z\xbc\xaf\x27\x1c", f"is a 7z archive ({_UNPACK})"),
    (b"\x00\x05\x16\x07", "is a side file of macOS (delete it; the file of the same name without ._ is the real one)"),
    (b"\x00\x00\x00\x01Bud1", "is a side file of macOS (delete it)"),
    (b"SQLite format 3\x00", "is a database of SQLite"),
    (b"%PDF", "is a PDF document"),
    (b"\x89PNG", "is an image"),
    (b"\xff\xd8\xff", "is an image"),
    (b"\x7fELF", "is a program"),
)
_TAR_AT: Final = 257
_AS_UTF8: Final = "save it as UTF-8 without a byte order mark"
_DOWNLOAD: Final = "download the file itself, not the page that shows it"
_TEXT_BEGINNINGS: Final = (  # in lower case
    (r"<(!doctype\s+html|html|head|body|title|script)\b", f"is a web page ({_DOWNLOAD})"),
    (r"<", f"is XML or a web page ({_DOWNLOAD})"),
    (r"-----begin [a-z0-9 ]*private key", "is a private key in PEM (nobody else may see it; give the right file)"),
    (r"-----begin |ssh-", "is a key or certificate of another program (give the right file)"),
)
_BARE_BEGINNINGS: Final = (  # what a reader may have wanted, so that a byte order mark before it is the fault
    (r"enr:", "is an ENR"),
    (r"enode://", "is an execution client's enode (give the right file)"),
    (r"https?://\S*\s*\Z", "is a URL (give what stands there)"),
    (r"0x[0-9a-f]{64}\s*\Z", "is 0x and 64 hex digits, as a private key has (nobody else may see one)"),
    (r"[0-9a-f]{64}\s*\Z", "is 64 hex digits, as a private key has (nobody else may see one)"),
)

_ENDS: Final = "it ends in the middle, at line {}, column {} (it was cut off: copy it again)"
_STOPS: Final = (  # what Python's parser says, and what that means
    ("Expecting ',' delimiter", "a comma or a closing bracket is missing before it"),
    ("Expecting ':' delimiter", "a colon is missing before it"),
    ("Expecting property name", "a name in double quotes belongs there, or a comma before it is one too many"),
    ("Illegal trailing comma", "a comma is one too many"),
    ("Expecting value", "a value belongs there, or a comma before it is one too many"),
    ("Extra data", "something follows after the end"),
    ("Invalid control character", "a line break or control character inside of a text"),
    ("Invalid \\", "a backslash that means nothing"),
    ("Unterminated string", "a text has no closing quotes"),
)


def form_of(content: bytes) -> str:
    """How content is no text that a reader of JSON could take: "is a web page (…)". "" for what may be JSON."""
    beginning = content[:LOOKED_AT]
    if not beginning.removeprefix(BYTE_ORDER_MARK).strip() and not content.removeprefix(BYTE_ORDER_MARK).strip():
        return "is empty"
    if not beginning.strip(b"\0") and not content.strip(b"\0"):
        return "holds only zero bytes (the disk has lost its content)"
    return form_by_beginning(content) or ("is binary, or text in another encoding than UTF-8" if _is_binary(beginning) else "")


def form_by_beginning(content: bytes) -> str:
    """The same, as far as the first bytes say it; for content that goes on."""
    beginning = content[:LOOKED_AT]
    for magic, phrase in _MAGIC:
        if beginning.startswith(magic):
            return phrase
    if beginning[_TAR_AT : _TAR_AT + 5] == b"ustar":
        return f"is a tar archive ({_UNPACK})"
    for encoding, mark in (
        ("UTF-32", b"\xff\xfe\0\0"),
        ("UTF-32", b"\0\0\xfe\xff"),
        ("UTF-16", b"\xff\xfe"),
        ("UTF-16", b"\xfe\xff"),
    ):
        if beginning.startswith(mark):
            return f"is text in {encoding} ({_AS_UTF8})"
    if _is_utf16(beginning):
        return f"is text in UTF-16 ({_AS_UTF8})"
    text = beginning.removeprefix(BYTE_ORDER_MARK).decode("utf-8", "replace").lstrip().lower()
    if phrase := _first_match(_TEXT_BEGINNINGS, text):
        return phrase
    if beginning.startswith(BYTE_ORDER_MARK):
        return f"starts with a byte order mark ({_AS_UTF8})"
    return _first_match(_BARE_BEGINNINGS, text)


def why_no_json(content: bytes, error: ValueError) -> str:
    """Why a parser of JSON refused content, as a sentence: what it is, or where it stops being JSON. error: the parser's."""
    form = form_of(content)
    if form:
        return f"it {form}"
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as fault:
        line, column = _place(content[: fault.start].decode("utf-8"))
        if fault.reason == "unexpected end of data":
            return _ENDS.format(line, column)
        return f"it has no UTF-8 at line {line}, column {column} ({_AS_UTF8})"
    if not isinstance(error, json.JSONDecodeError):
        return str(error)[:120]  # ours, of bounded_json
    if text.lstrip()[:1] not in ("{", "[", '"'):
        return "it is text, but no JSON"
    rest = text[error.pos :].strip()
    is_begun_word = error.msg.startswith("Expecting value") and any(
        word.startswith(rest) for word in ("true", "false", "null", "-")
    )
    if not rest or is_begun_word or error.msg.startswith("Unterminated string"):
        return _ENDS.format(*_place(text.rstrip()))
    meaning = next((meaning for start, meaning in _STOPS if error.msg.startswith(start)), "something is wrong there")
    return f"it is no JSON from line {error.lineno}, column {error.colno} on: {meaning}"


def kinds_of(document: object) -> tuple[FileKind, ...]:
    """Which of our JSON files a parsed one could be, by its keys in any letter case; mostly one or none."""
    is_list = isinstance(document, list)
    first = next(iter(document), None) if isinstance(document, list) else document
    keys = {str(key).lower() for key in first} if isinstance(first, dict) else set()
    return tuple(kind for kind, names in (_BY_ROW_KEYS if is_list else _BY_KEYS) if keys & names)


def other_than(wanted: FileKind | None, document: object) -> str:
    """ "is a cluster lock" for JSON that is another file than the wanted one; "" when it may be that."""
    kinds = kinds_of(document)
    if wanted in kinds:
        return ""
    if kinds:
        return f"is {_with_article(kinds[0])}"
    keys = {str(key).lower() for key in document} if isinstance(document, dict) else set()
    if keys & _ERROR_KEYS and keys <= _ERROR_KEYS | _BESIDE_ERRORS:
        return "is an error that a server answered (fetch it again)"
    return ""


def what_it_is(content: bytes) -> str:
    """For readers of plain text: also what kind of JSON it seems to be. "" when there is nothing to say about it."""
    form = form_of(content)
    if form or content.lstrip()[:1] not in (b"{", b"["):
        return form
    names = {name.decode("ascii").lower() for name in re.findall(rb'"([A-Za-z_0-9]{2,30})"\s*:', content[:LOOKED_AT])}
    for kind, keys in (*_BY_KEYS, *_BY_ROW_KEYS):
        if names & keys:
            return f"is {_with_article(kind)}"
    return "is JSON"


def clause(phrase: str, before: str = ": it ", after: str = "") -> str:
    """The phrase to put behind a text, "" for none."""
    return before + phrase + after if phrase else ""


def _first_match(rows: Iterable[tuple[str, str]], text: str) -> str:
    return next((phrase for pattern, phrase in rows if re.match(pattern, text)), "")


def _with_article(kind: FileKind) -> str:
    return kind.value if kind in (FileKind.DEPOSITS, FileKind.OVERRIDES) else f"a {kind.value}"


def _is_utf16(beginning: bytes) -> bool:
    """Text in Latin letters, in UTF-16 without a mark: every other byte is zero."""
    start = beginning[: len(beginning) // 2 * 2][:256]
    halves = start[::2], start[1::2]
    return len(start) >= 4 and any(not zeros.strip(b"\0") and b"\0" not in others for zeros, others in (halves, halves[::-1]))


def _is_binary(beginning: bytes) -> bool:
    if b"\0" in beginning:
        return True
    odd = sum(byte < 9 or 13 < byte < 32 or byte > 126 for byte in beginning)
    try:
        beginning.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason != "unexpected end of data" and 3 * odd > len(beginning)
    return False


def _place(before: str) -> tuple[int, int]:
    """Line and column, from 1, of the character after this text."""
    return before.count("\n") + 1, len(before) - before.rfind("\n")
