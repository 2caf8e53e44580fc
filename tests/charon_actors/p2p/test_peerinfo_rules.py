"""Peer info: bytes, version support and the order of the judgement (03 §6)."""

from datetime import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.p2p.framing import encode_delimited
from charon_actors.p2p.peerinfo import (
    SUPPORTED_MINORS,
    PeerInfo,
    PeerInfoFault,
    ProblemFilter,
    decode_peer_info,
    decode_version,
    encode_peer_info,
    is_version_supported,
    judge_peerinfo,
)
from charon_actors.profile import Profile
from tests.charon_actors.p2p.vectors import load

CASES = load("peerinfo.json")
NOW = 1_700_000_000.0
OWN = PeerInfo("v1.10.3", bytes(32), NOW, "abcdef1", NOW - 9, False, "me", "charon-actors")
GOOD = msgspec.structs.replace(OWN, sent_at_s=NOW - 0.05, nickname="john", client="charon")


def instant(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_the_message_equals_the_vector_both_ways() -> None:
    case = CASES["message"]
    info = PeerInfo(
        version=case["charon_version"],
        lock_hash=bytes.fromhex(case["lock_hash"]),
        sent_at_s=instant(case["sent_at"]),
        git_hash=case["git_hash"],
        started_at_s=instant(case["started_at"]),
        is_builder_enabled=case["builder_api_enabled"],
        nickname=case["nickname"],
        client=case["dv_client"],
    )
    assert encode_peer_info(info).hex() == CASES["protobuf"]
    assert encode_delimited(encode_peer_info(info)).hex() == CASES["framed"]
    assert decode_peer_info(bytes.fromhex(CASES["protobuf"])) == info


@pytest.mark.parametrize("case", CASES["version_support_cases"], ids=lambda case: f"{case['peer']} in {case['supported']}")
def test_version_support_is_charons(case: dict[str, object]) -> None:
    supported = []
    for text in case["supported"]:  # type: ignore[attr-defined]
        version = decode_version(text)
        assert version is not None
        supported.append(version)
    assert is_version_supported(str(case["peer"]), tuple(supported)) is case["ok"]


def test_an_empty_message_is_legal_and_judged_as_a_problem() -> None:
    info = decode_peer_info(b"")
    assert info == PeerInfo()
    assert judge_peerinfo(info, own=OWN, now_s=NOW, rtt_s=0.1, profile=Profile.V1_10).problems != ()


def test_a_good_answer_gives_all_facts_and_no_problem() -> None:
    found = judge_peerinfo(GOOD, own=OWN, now_s=NOW, rtt_s=0.1, profile=Profile.V1_11)
    assert found.problems == ()
    assert found.clock_offset_s == pytest.approx(0.0, abs=1e-6)
    assert (found.nickname, found.version, found.is_version_supported) == ("john", "v1.10.3", True)


@pytest.mark.parametrize(("sent_at", "offset"), [(NOW + 2, 2.05), (NOW - 3, -2.95), (0.0, -3600.0), (9e18, 3600.0)])
def test_the_clock_offset_is_positive_when_the_peer_is_ahead_and_clamped(sent_at: float, offset: float) -> None:
    found = judge_peerinfo(msgspec.structs.replace(GOOD, sent_at_s=sent_at), own=OWN, now_s=NOW, rtt_s=0.1, profile=Profile.V1_11)
    assert found.clock_offset_s == pytest.approx(offset, abs=1e-6)


def test_an_unsupported_version_hides_a_wrong_lock_hash() -> None:
    old = msgspec.structs.replace(GOOD, version="v0.19.0", lock_hash=bytes([1]) * 32)
    found = judge_peerinfo(old, own=OWN, now_s=NOW, rtt_s=0.1, profile=Profile.V1_10)
    assert (found.is_version_supported, found.version, len(found.problems)) == (False, None, 1)


def test_other_clients_are_only_checked_by_old_releases() -> None:
    other = msgspec.structs.replace(GOOD, version="v0.1.0", client="other")
    assert judge_peerinfo(other, own=OWN, now_s=NOW, rtt_s=0, profile=Profile.V1_11).is_version_supported is True
    assert judge_peerinfo(other, own=OWN, now_s=NOW, rtt_s=0, profile=Profile.V1_10).is_version_supported is False


def test_wrong_lock_hash_and_builder_flag_are_both_named() -> None:
    other = msgspec.structs.replace(GOOD, lock_hash=bytes([1]) * 32, is_builder_enabled=True)
    assert len(judge_peerinfo(other, own=OWN, now_s=NOW, rtt_s=0, profile=Profile.V1_10).problems) == 2


@pytest.mark.parametrize(
    ("git_hash", "good"), [("abcdef1", True), ("unknown", True), ("ABCDEF1", False), ("abcdef12", False), ("", False)]
)
def test_git_hashes(git_hash: str, good: bool) -> None:
    found = judge_peerinfo(msgspec.structs.replace(GOOD, git_hash=git_hash), own=OWN, now_s=NOW, rtt_s=0, profile=Profile.V1_10)
    assert (found.problems == ()) is good
    assert found.nickname == "john", "step 2 comes first"


def test_supported_lists() -> None:
    assert is_version_supported("v1.11.0", SUPPORTED_MINORS[Profile.V1_10]), "newer than the newest is fine"
    assert not is_version_supported("v0.9.0", SUPPORTED_MINORS[Profile.V1_11])


def test_the_same_problem_is_logged_once_in_twelve_seconds() -> None:
    problems = ProblemFilter()
    assert [problems.is_due("x", now) for now in (0.0, 11.9, 12.0, 13.0)] == [True, False, True, False]
    assert problems.is_due("y", 13.0)


@given(st.binary(max_size=300))
def test_hostile_bytes_end_in_a_fault_or_a_printable_value(data: bytes) -> None:
    try:
        info = decode_peer_info(data)
    except PeerInfoFault:
        return
    assert (info.version + info.nickname + info.git_hash + info.client).isprintable()
    judge_peerinfo(info, own=OWN, now_s=NOW, rtt_s=0.1, profile=Profile.V1_11)
