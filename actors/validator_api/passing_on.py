"""Which requests may be passed on to a beacon node, and which never. Pure.

A partial signature must not reach a beacon node, and a validator client must not get unsigned data that the cluster has not
agreed on. So in the part of the API where validator clients sign, the rule is: what isn't known to be harmless is refused with
501 (07 §3, safety note). Whatever a future fork adds there is refused until somebody writes it down here.

    path                              methods           passed on
    /eth/v*/validator/…               all               ALLOWED_VALIDATOR only (subscriptions, liveness, duties by another method)
    /eth/v*/beacon/…                  not GET, HEAD     ALLOWED_BEACON only (questions in a body); so no pool, no blocks, no envelopes
    /eth/v*/builder/…                 not GET, HEAD     nothing
    any path with a doubtful form     all               nothing (two meanings of one path: `..`, doubly escaped, backslashes)
    everything else                   all               yes

The decision is made on the path as the most lenient server would read it: unescaped, lower case, without path parameters (`;x`) and
empty segments. Source: specification 07 §3, §5, §6.1.
"""

import re
from typing import Final
from urllib.parse import unquote

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_UNESCAPES: Final = 2
MAX_LABEL_CHARACTERS: Final = 128
_VALUES: Final = (
    (re.compile(r"[0-9]+", flags=re.ASCII), "{n}"),
    (re.compile(r"0[xX][0-9a-fA-F]+"), "{hex}"),
    (re.compile(r"16Uiu2HA[1-9A-Za-z]+|12D3KooW[1-9A-Za-z]+|Qm[1-9A-Za-z]{44}"), "{peer_id}"),
)

ALLOWED_VALIDATOR: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"v1/validator/(beacon|sync)_committee_subscriptions",
        r"v1/validator/liveness/[^/]+",
        r"v1/validator/duties/(attester|sync|proposer)/[^/]+",  # intercepted; by another method the beacon node says 404 or 405
        r"v2/validator/duties/proposer/[^/]+",
    )
)
ALLOWED_BEACON: Final = tuple(
    re.compile(pattern) for pattern in (r"v1/beacon/states/[^/]+/validator(s|_balances|_identities)", r"v1/beacon/rewards/.+")
)
TO_ALL: Final = re.compile(r"v1/validator/(beacon|sync)_committee_subscriptions")

# Small answers that many validators of one client ask for at the same moment (07 §7.3 #16).
COALESCED: Final = re.compile(
    r"/eth/v[12]/(beacon/(genesis|headers(/[^/]+)?|blocks/[^/]+/root|states/[^/]+/(root|fork|finality_checkpoints))"
    r"|config/[a-z_]+|node/[a-z_]+)"
)


def path_label(path: str) -> str:
    """The path as a metric's label: parts joined by `_`, those that are values replaced (10 §3.5). At most MAX_LABEL_CHARACTERS."""
    parts = (next((name for pattern, name in _VALUES if pattern.fullmatch(part)), part) for part in path.split("/") if part)
    return "_".join(parts)[:MAX_LABEL_CHARACTERS]


def normal_path(path: str) -> str | None:
    """The path as the most lenient server reads it, without slashes at the ends; None if it is doubtful."""
    for _ in range(MAX_UNESCAPES):
        unescaped = unquote(path)
        if unescaped == path:
            break
        path = unescaped
    if "%" in path or "\\" in path or any(ord(c) < 0x21 for c in path):
        return None
    segments = [segment.partition(";")[0] for segment in path.lower().split("/")]
    if any(segment == ".." for segment in segments):
        return None
    return "/".join(segment for segment in segments if segment not in ("", "."))


def may_be_passed_on(method: str, path: str) -> bool:
    """Whether a request that no route of ours has taken may go to a beacon node. path: as sent, escaped or not."""
    normal = normal_path(path)
    if normal is None:
        return False
    if not normal.startswith("eth/"):
        return True
    rest = normal.removeprefix("eth/")
    area = rest.split("/")[1] if "/" in rest else ""
    if area == "validator":
        return any(pattern.fullmatch(rest) for pattern in ALLOWED_VALIDATOR)
    if area == "beacon" and method not in SAFE_METHODS:
        return any(pattern.fullmatch(rest) for pattern in ALLOWED_BEACON)
    return area != "builder" or method in SAFE_METHODS


def goes_to_all(path: str) -> bool:
    """Whether every beacon node must get it, not only the fastest."""
    normal = normal_path(path)
    return normal is not None and TO_ALL.fullmatch(normal.removeprefix("eth/")) is not None


def cleaned(path: str) -> str:
    """The path without empty and dot segments; a path that changes is answered 301 to this one (07 §1.1 step 1)."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment not in ("", "."):
            kept.append(segment)
    is_open = bool(kept) and segments[-1] in ("", ".", "..")
    return "/" + "/".join(kept) + ("/" if is_open else "")
