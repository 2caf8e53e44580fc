"""Step sync: the promise under a lossy wire, the recorded rules and frames, and what a wrong peer is told."""

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charon_actors.dkg.faults import CeremonyFault
from charon_actors.dkg.step_sync import BARRIER_TEXT, Effect, Failed, Passed, Report, StepSync, SyncDoor
from charon_actors.dkg.sync_messages import (
    SyncAnswer,
    SyncReport,
    decode_report,
    decode_sync_answer,
    definition_digest,
    encode_answer,
    encode_report,
    sign_definition,
    take_sync_frame,
)
from charon_actors.p2p.framing import encode_fixed64
from tests.charon_actors.dkg.vectors import V1_10, V1_11, load

VECTOR = load("sync.json")
HASH = bytes.fromhex(VECTOR["definition_hash"])
STAMP = (VECTOR["timestamp"]["seconds"], VECTOR["timestamp"]["nanos"])
NODES, LAST_STEP = 4, 8
LINKS = list(permutations(range(NODES), 2))


@given(st.lists(st.tuples(st.sampled_from(LINKS), st.booleans()), max_size=300))
@settings(deadline=None)
def test_nobody_leaves_a_step_before_all_entered_it_and_all_arrive(chaos: list[tuple[tuple[int, int], bool]]) -> None:
    nodes = [StepSync(set(range(NODES)) - {me}) for me in range(NODES)]
    at = [0] * NODES
    wire: dict[tuple[int, int], int] = {}  # one report in flight a link, as in the real ping-pong

    def do(me: int, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Report(peer_index, step):
                    wire.setdefault((me, peer_index), step)
                case Passed(step):
                    assert min(at) >= step, "a node left a step that another has not entered"
                    if step < LAST_STEP:
                        at[me] = step + 1
                        do(me, nodes[me].enter(step + 1, now=nodes[me].wake_at))
                case Failed():
                    raise AssertionError(f"node {me} blames an honest peer: {effect}")

    for (source, target), lost in [*chaos, *((link, False) for link in LINKS * 40)]:  # chaos first, then a fair wire
        do(source, nodes[source].tick(nodes[source].wake_at))
        step = wire.pop((source, target))
        if not lost:
            do(target, nodes[target].receive(source, step))
    assert at == [LAST_STEP] * NODES


def test_reports_are_rarer_only_while_there_is_work_to_do() -> None:
    machine = StepSync([1])
    machine.receive(1, 0)
    assert machine.tick(now=1.0) == [Report(1, 0)]
    assert machine.wake_at == pytest.approx(1.1)  # step 0: whoever has come may leave again
    machine.enter(1, now=2.0)
    assert machine.wake_at == pytest.approx(2.1)  # at the barrier
    machine.receive(1, 1)
    machine.tick(now=3.0)
    assert machine.wake_at == pytest.approx(3.5)


@pytest.mark.parametrize("lie", [[2], [-1], [0, 2], [0, 1, 0], [0, 1, 4]])
def test_a_lying_peer_is_blamed_once_and_then_there_is_silence(lie: list[int]) -> None:
    machine = StepSync([1])
    effects = [effect for step in lie for effect in machine.receive(1, step)]
    assert [type(effect) for effect in effects if not isinstance(effect, Passed)] == [Failed]
    assert machine.receive(1, lie[-1]) == machine.tick(now=9.0) == []


@pytest.mark.parametrize("rule", VECTOR["step_rules"], ids=lambda rule: f"{rule['last']}-{rule['reported']}")
def test_recorded_step_rules(rule: Any) -> None:
    machine = StepSync([1, 2])  # peer 2 never comes, so that no barrier has a say
    machine._step = rule["last"] or 0
    for step in range((rule["last"] or 0) + 1) if rule["last"] is not None else ():
        assert not machine.receive(1, step)
    effects = machine.receive(1, rule["reported"])
    failed = [effect for effect in effects if isinstance(effect, Failed)]
    if rule["ok"]:
        assert not [effect for effect in failed if BARRIER_TEXT not in effect.reason]
    else:
        assert [effect.peer_index for effect in failed] == [1]
        assert rule["error"] in failed[0].reason


@pytest.mark.parametrize("rule", VECTOR["barrier_rules"], ids=lambda rule: rule["result"])
def test_recorded_barrier_rules(rule: Any) -> None:
    machine = StepSync(range(3))
    machine._step = rule["local"]
    machine._last = {peer: rule["peers"][peer] if peer < len(rule["peers"]) else None for peer in range(3)}
    effects = machine._barrier()
    if rule["result"] == "pass":
        assert effects == [Passed(rule["local"])]
    elif rule["result"].startswith("wait"):
        assert effects == []
        assert machine.missing()
    else:
        assert rule["result"].removeprefix("error: ") in effects[0].reason  # type: ignore[union-attr]


@pytest.mark.parametrize("rule", VECTOR["version_rules"], ids=lambda rule: rule["theirs"])
def test_recorded_version_rules(rule: Any) -> None:
    operator = VECTOR["operators"][1]
    door = SyncDoor(V1_10, HASH, {1: bytes.fromhex(operator["public_key"])})
    assert rule["mine"] == V1_10.minor
    report = SyncReport(STAMP, bytes.fromhex(operator["hash_signature_der"]), rule["theirs"], 0)
    assert (door.refusal(1, report) is None) == rule["ok"]


def test_what_a_stranger_is_told() -> None:
    keys = {o["index"]: bytes.fromhex(o["public_key"]) for o in VECTOR["operators"]}
    signatures = {o["index"]: bytes.fromhex(o["hash_signature_der"]) for o in VECTOR["operators"]}
    door = SyncDoor(V1_11, HASH, keys)
    told = door.refusal(1, SyncReport(STAMP, signatures[1], "v1.10", 0))
    assert told == "mismatching charon version; expect=v1.11, got=v1.10"
    assert door.refusal(1, SyncReport(STAMP, signatures[1], "dev", 0)) == "parse peer version: invalid version string"
    assert door.refusal(1, SyncReport(STAMP, signatures[2], "v1.11", 0)) == "invalid definition hash signature"
    other = SyncDoor(V1_11, b"\x01" * 32, keys)
    assert other.refusal(1, SyncReport(STAMP, signatures[1], "v1.11", 0)) == "invalid definition hash signature"
    assert door.refusal(1, SyncReport(STAMP, signatures[1], "v1.11.0-rc3", 0)) is None
    assert door.refusal(1, SyncReport(STAMP, signatures[1], "v1.11.0-rc3", 0)) is None
    assert door.refusal(1, SyncReport(STAMP, signatures[2], "v1.11", 0)) == "invalid definition hash signature"


def test_only_v1_11_tells_a_restarted_peer() -> None:
    for dialect in (V1_10, V1_11):
        machine = StepSync([1], tells_restarted_peer=dialect.tells_restarted_peer)
        machine.receive(1, 1)
        (failed,) = machine.receive(1, 0)
        assert isinstance(failed, Failed)
        assert "restarted" in failed.reason
        assert (failed.answer is not None) == (dialect is V1_11)


@pytest.mark.parametrize("operator", VECTOR["operators"], ids=lambda operator: str(operator["index"]))
def test_recorded_signatures(operator: Any) -> None:
    assert definition_digest(HASH).hex() == VECTOR["digest"]
    assert sign_definition(bytes.fromhex(operator["private_key"]), HASH).hex() == operator["hash_signature_der"]


@pytest.mark.parametrize("message", VECTOR["messages"], ids=lambda message: message["name"])
def test_recorded_messages_both_ways(message: Any) -> None:
    body = bytes.fromhex(message["proto"])
    assert encode_fixed64(body).hex() == message["frame"]
    assert take_sync_frame(1, bytearray.fromhex(message["frame"])) == body
    if message["type"] == "MsgSync":
        report = decode_report(1, body)
        assert report.timestamp == STAMP
        assert encode_report(report) == body
    else:
        answer = decode_sync_answer(1, body)
        assert encode_answer(answer) == body
        assert answer == SyncAnswer(STAMP, answer.error)


@pytest.mark.parametrize("length", [0, -1, 1 << 25, (1 << 63) - 1])
def test_frames_of_impossible_length(length: int) -> None:
    with pytest.raises(CeremonyFault):
        take_sync_frame(1, bytearray(length.to_bytes(8, "little", signed=True)))


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_hostile_bytes_end_in_a_named_fault_or_are_echoed(body: bytes) -> None:
    for decode, encode in ((decode_report, encode_report), (decode_sync_answer, encode_answer)):
        try:
            decoded: Any = decode(1, body)
        except CeremonyFault as fault:
            assert fault.peer_index == 1  # noqa: PT017
        else:
            assert decode(1, encode(decoded)) == decoded


@given(st.text(max_size=40))
def test_no_version_text_gets_in_by_surprise(text: str) -> None:
    operator = VECTOR["operators"][1]
    door = SyncDoor(V1_10, HASH, {1: bytes.fromhex(operator["public_key"])})
    refusal = door.refusal(1, SyncReport(STAMP, bytes.fromhex(operator["hash_signature_der"]), text, 0))
    assert refusal is not None or text.startswith("v1.10")
