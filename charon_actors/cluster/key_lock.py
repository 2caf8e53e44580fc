"""The private-key lock file: two programs must not act under one identity at the same time. Pure rules.

`charon-enr-private-key.lock` says who uses the key, for which cluster, and when that was last true. It is rewritten every
REWRITE_INTERVAL_S while a program runs and, as in Charon, never removed.

    found                                                            outcome
    no file                                                          go on
    at most 5 s old                                                  refuse: another instance may be running
    other non-empty lock hash, younger than 768 s (two epochs)       refuse: an edited cluster could sign twice
    anything else                                                    go on

Hashes are compared as text. Source: specification 01-cluster-files, section 1.2.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.foreign_json import decode_object, encode_compact
from charon_actors.errors import UserError

REWRITE_INTERVAL_S: Final = 1.0
FRESH_S: Final = 5.0
EDITED_CLUSTER_WAIT_S: Final = 768.0  # 2 epochs of 32 slots of 12 s

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", flags=re.ASCII)  # RFC 3339


class KeyLock(msgspec.Struct, frozen=True):
    """command: `charon run` or `charon dkg`. timestamp_s: unix seconds. cluster_lock_hash: text of the lock file, or ""."""

    command: str
    timestamp_s: float
    cluster_lock_hash: str = ""


def decode_key_lock(content: bytes) -> KeyLock:
    """Raises ClusterFault."""
    fields = decode_object(content, "private key lock file")
    return KeyLock(fields.text("command"), _seconds(fields.text("timestamp")), fields.text("cluster_lock_hash"))


def encode_key_lock(lock: KeyLock) -> bytes:
    """One line of compact JSON, time in UTC with nanoseconds as far as known."""
    moment = _EPOCH + timedelta(seconds=lock.timestamp_s)
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    content = {"command": lock.command, "timestamp": f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"}
    if lock.cluster_lock_hash:
        content["cluster_lock_hash"] = lock.cluster_lock_hash
    return encode_compact(content)


def check_key_lock(where: str, found: KeyLock | None, cluster_lock_hash: str, now: float) -> None:
    """Raises UserError when the key may still be in use. now: unix seconds. cluster_lock_hash: "" without a lock file."""
    if found is None:
        return
    age_s = now - found.timestamp_s
    if age_s < -FRESH_S:
        raise UserError(
            where,
            f"the private key lock file is dated {-age_s:.0f} s in the future",
            "check this machine's clock, then delete the file if nothing else uses the key",
        )
    if age_s <= FRESH_S:
        raise UserError(
            where,
            "private key lock file is recently updated, another charon instance may be running on your machine",
            f"stop it ({one_word(found.command)}) and try again in {FRESH_S - age_s + 1:.0f} s",
        )
    edited = found.cluster_lock_hash and found.cluster_lock_hash != cluster_lock_hash
    if edited and age_s < EDITED_CLUSTER_WAIT_S:
        raise UserError(
            where,
            "the key was used for another cluster lock less than two epochs ago",
            f"wait {EDITED_CLUSTER_WAIT_S - age_s:.0f} s, so that nothing is signed twice",
        )


def one_word(command: str) -> str:
    """A command name from a file, safe and short enough for an error line."""
    return command if re.fullmatch(r"[a-z -]{1,40}", command) else "of unknown name"


def _seconds(text: str) -> float:
    match = _TIMESTAMP.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        whole = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00"))
        return (whole - _EPOCH).total_seconds() + float(match[2] or 0)
    except (ValueError, OverflowError) as error:
        raise ClusterFault("private key lock file: no RFC 3339 timestamp") from error
