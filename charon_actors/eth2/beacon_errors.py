"""What the error answers of beacon nodes mean: known already, worth another try, worth a fallback node. Source: specification 08 §4."""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from charon_actors.bounded_json import ANSWER, decode_foreign_json

MAX_ERROR_TEXT: Final = 400
MAX_FAILURES: Final = 10_000

_REPEAT: Final = re.compile(r"already[ _]?known|priorattestationknown|publisherror\.duplicate|\bduplicate", re.IGNORECASE)
_RETRYABLE_TEXT: Final = ("future", "current or previous", "retryable", "syncing", "headblocknotfullyverified", "timeout")
_RETRYABLE_STATUS: Final = frozenset({408, 425, 429, 502, 503, 504})
_FALLBACK_TEXT: Final = ("timeout", "not active", "deadline exceeded", "syncing", "headblocknotfullyverified")
_FALLBACK_STATUS: Final = frozenset({502, 503, 504})


def error_text(body: bytes) -> str:
    """What a failed answer says, at most MAX_ERROR_TEXT characters, one line; never raises."""
    try:
        answer = decode_foreign_json(body, ANSWER)
    except (msgspec.DecodeError, ValueError, RecursionError):
        answer = body[: 4 * MAX_ERROR_TEXT].decode("utf-8", "replace")
    message = answer.get("message", answer) if isinstance(answer, dict) else answer
    text = message if isinstance(message, str) else repr(message)
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * MAX_ERROR_TEXT]).split())[:MAX_ERROR_TEXT]


def is_repeat(body: bytes) -> bool:
    """Whether a failed submission failed only because (every item of it) was already known to the node. Never raises.

    Three forms are known: one message; `failures`, a list with a message for each item that failed; a message with one line for
    each item under a headline (Lodestar, "Multiple errors on …").
    """
    try:
        answer = decode_foreign_json(body, ANSWER)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    if not isinstance(answer, dict):
        return False
    failures = answer.get("failures")
    if isinstance(failures, list) and failures:
        messages = [failure.get("message") if isinstance(failure, dict) else None for failure in failures[:MAX_FAILURES]]
        return len(failures) <= MAX_FAILURES and all(isinstance(m, str) and _REPEAT.search(m) for m in messages)
    message = answer.get("message")
    if not isinstance(message, str):
        return False
    lines = [line for line in message.splitlines() if line.strip()]
    if len(lines) > 1 and "multiple errors" in lines[0].lower():
        lines = lines[1:]
    return bool(lines) and all(_REPEAT.search(line) for line in lines)


def is_retryable(status: int, text: str) -> bool:
    """Whether the same call may succeed a moment later (05 §15)."""
    return status in _RETRYABLE_STATUS or _contains(text, _RETRYABLE_TEXT)


def is_fallback_worthy(status: int, text: str) -> bool:
    """Whether another node is worth asking (08 §3.1)."""
    return status in _FALLBACK_STATUS or _contains(text, _FALLBACK_TEXT)


def _contains(text: str, words: Iterable[str]) -> bool:
    lowered = text.lower()
    return any(word in lowered for word in words)
