"""Peer info: what nodes tell one another about version, cluster, clock; and what we conclude from it. Sans-IO.

The judgement follows the order of 03 §6; a step that fails ends it, what was concluded before stays:

    step   check                                          outcome when it fails
    1      sent_at and started_at are there               problem, stop
    2      nickname                                       (fact: changed or not)
    3      git_hash is 7 lower-case hex or `unknown`      problem, stop
    4      clock offset = sent_at - (now - rtt/2)         (fact; positive: the peer's clock is ahead; clamped to ±1 h)
    5      version is supported                           `is_version_supported` false, problem, stop
    6      dv_client, version, hash, start, builder       (facts)
    7      same lock hash; same builder flag              problems

Version support: a version newer (major.minor) than our newest is fine; any other must be in our list. From v1.11 on clients other
than `charon` are not checked. Nothing found here closes a connection or stops a duty.

Limits: MAX_MESSAGE_BYTES (Charon v1.11's limit); texts of a peer are cut to MAX_TEXT_CHARACTERS printable characters before they
reach a log or a metric label.
Source: specification 03 §6.
"""

import re
from typing import Final

import msgspec
from google.protobuf.message import DecodeError

from charon_actors.p2p.protobuf import peerinfo_pb2 as wire
from charon_actors.profile import Profile

PEERINFO: Final = "/charon/peerinfo/2.0.0"
POLL_INTERVAL_S: Final = 60.0
PROBLEM_INTERVAL_S: Final = 12.0  # the same problem of a peer is logged at most this often
MAX_MESSAGE_BYTES: Final = 1 << 20
MAX_TEXT_CHARACTERS: Final = 128
MAX_OFFSET_S: Final = 3600.0
OWN_CLIENT: Final = "charon-actors"
SUPPORTED_MINORS: Final = {
    Profile.V1_10: tuple((1, minor) for minor in range(11)),
    Profile.V1_11: tuple((1, minor) for minor in range(12)),
}
_VERSION = re.compile(r"v(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:-(.+))?", re.ASCII)
_GIT_HASH = re.compile(r"[0-9a-f]{7}", re.ASCII)


class PeerInfoFault(Exception):
    """Bytes that are no peer info message."""


class PeerInfo(msgspec.Struct, frozen=True):
    """One message. sent_at_s, started_at_s: unix seconds, None when absent. lock_hash: 32 bytes; in a DKG the definition hash."""

    version: str = ""
    lock_hash: bytes = b""
    sent_at_s: float | None = None
    git_hash: str = ""
    started_at_s: float | None = None
    is_builder_enabled: bool = False
    nickname: str = ""
    client: str = ""


class Judgement(msgspec.Struct, frozen=True):
    """What a response tells. None: not concluded, because an earlier step failed. problems: for the log, in order."""

    nickname: str | None = None
    clock_offset_s: float | None = None
    is_version_supported: bool | None = None
    client: str | None = None
    version: str | None = None
    git_hash: str | None = None
    started_at_s: float | None = None
    is_builder_enabled: bool | None = None
    problems: tuple[str, ...] = ()


def encode_peer_info(info: PeerInfo) -> bytes:
    """The message as Charon writes it."""
    message = wire.PeerInfo(
        charon_version=info.version,
        lock_hash=info.lock_hash,
        git_hash=info.git_hash,
        builder_api_enabled=info.is_builder_enabled,
        nickname=info.nickname,
        dv_client=info.client,
    )
    for field, instant in ((message.sent_at, info.sent_at_s), (message.started_at, info.started_at_s)):
        if instant is not None:
            nanoseconds = round(instant * 1_000_000) * 1000
            field.seconds, field.nanos = divmod(nanoseconds, 1_000_000_000)
            field.SetInParent()
    return message.SerializeToString(deterministic=True)


def decode_peer_info(data: bytes) -> PeerInfo:
    """A peer's message, texts cut to what is safe to print. An empty message is legal. Raises: PeerInfoFault."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise PeerInfoFault(f"peer info of {len(data)} bytes")
    try:
        message = wire.PeerInfo.FromString(data)
    except DecodeError as error:
        raise PeerInfoFault("peer info is no protobuf message") from error
    return PeerInfo(
        version=_printable(message.charon_version),
        lock_hash=message.lock_hash,
        sent_at_s=message.sent_at.seconds + message.sent_at.nanos / 1e9 if message.HasField("sent_at") else None,
        git_hash=_printable(message.git_hash),
        started_at_s=(message.started_at.seconds + message.started_at.nanos / 1e9 if message.HasField("started_at") else None),
        is_builder_enabled=message.builder_api_enabled,
        nickname=_printable(message.nickname),
        client=_printable(message.dv_client),
    )


def decode_version(text: str) -> tuple[int, int] | None:
    """(major, minor) of a version text, or None."""
    match = _VERSION.fullmatch(text)
    return None if match is None else (int(match[1]), int(match[2]))


def is_version_supported(text: str, supported: tuple[tuple[int, int], ...]) -> bool:
    """Whether a peer with this version text is one that we can work with."""
    version = decode_version(text)
    return version is not None and (version > max(supported) or version in supported)


def judge_peerinfo(response: PeerInfo, *, own: PeerInfo, now_s: float, rtt_s: float, profile: Profile) -> Judgement:
    """What the peer's answer means. now_s: unix seconds when it arrived; rtt_s: seconds from request to answer."""
    if response.sent_at_s is None or response.started_at_s is None:
        return Judgement(problems=("peer info without its times",))
    found = Judgement(nickname=response.nickname)
    if _GIT_HASH.fullmatch(response.git_hash) is None and response.git_hash != "unknown":
        return _with_problem(found, f"peer info with a wrong git hash {response.git_hash!r}")
    offset = response.sent_at_s - (now_s - rtt_s / 2)
    client = response.client or "charon"
    found = msgspec.structs.replace(found, clock_offset_s=max(-MAX_OFFSET_S, min(MAX_OFFSET_S, offset)), client=client)
    is_checked = profile is Profile.V1_10 or client == "charon"
    if is_checked and not is_version_supported(response.version, SUPPORTED_MINORS[profile]):
        found = msgspec.structs.replace(found, is_version_supported=False)
        return _with_problem(found, f"peer runs unsupported version {response.version!r}; upgrade one of the two nodes")
    found = msgspec.structs.replace(
        found,
        is_version_supported=True,
        version=response.version or "unknown",
        git_hash=response.git_hash or "unknown",
        started_at_s=response.started_at_s,
        is_builder_enabled=response.is_builder_enabled,
    )
    if response.lock_hash != own.lock_hash:
        found = _with_problem(found, "peer has another cluster lock; compare the files cluster-lock.json of both operators")
    if response.is_builder_enabled != own.is_builder_enabled:
        found = _with_problem(found, "peer has another setting of the builder API; it must be equal on all nodes")
    return found


class ProblemFilter:
    """Lets the same problem of a peer through once in PROBLEM_INTERVAL_S. Remembers as many problems as `judge` has."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def is_due(self, problem: str, now: float) -> bool:
        """Whether to log it now."""
        if now - self._last.get(problem, -PROBLEM_INTERVAL_S) < PROBLEM_INTERVAL_S:
            return False
        if len(self._last) >= 16:
            self._last.clear()
        self._last[problem] = now
        return True


def _with_problem(found: Judgement, problem: str) -> Judgement:
    return msgspec.structs.replace(found, problems=(*found.problems, problem))


def _printable(text: str) -> str:
    return "".join(character for character in text[:MAX_TEXT_CHARACTERS] if character.isprintable())
