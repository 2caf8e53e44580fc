"""Whole ceremonies of the production actor over a mesh in memory: honest ones, and one for each way to break one.

A broken ceremony must end at every honest node with an Aborted that names the culprit, and leave no file behind.
"""

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.dkg import actor as actor_module
from actors.dkg.actor import Aborted
from actors.mailbox import ActorDown
from charon_actors.cluster.peers import peers_of
from charon_actors.dkg.ceremony import Phase, check_ceremony_definition
from charon_actors.dkg.dialect import PARTIALS_PROTOCOL, SHARES_PROTOCOL, SYNC_PROTOCOL, Dialect
from charon_actors.dkg.sync_messages import SyncReport, encode_report, sign_definition
from charon_actors.errors import UserError
from charon_actors.exception_groups import leaves
from charon_actors.files.data_directory import write_ceremony_artifacts
from charon_actors.p2p.framing import encode_fixed64
from charon_actors.p2p.protobuf import core_pb2, dkg_pb2
from tests.actors.dkg.memory_mesh import MemoryNetwork
from tests.actors.dkg.rig import Node, Rig
from tests.charon_actors.dkg.cluster import CUSTOM, definition, private_key, results_in
from tests.charon_actors.dkg.vectors import V1_10, V1_11


@pytest.mark.parametrize(
    ("operators", "threshold", "validators", "dialect", "changes"),
    [
        (3, 2, 1, V1_10, {}),
        (4, 3, 3, V1_11, {"version": "v1.11.0"}),
        (3, 3, 10, V1_10, {"deposit_amounts_gwei": (16 * 10**9, 8 * 10**9, 8 * 10**9)}),
        (4, 3, 1, V1_10, {"fork_version": CUSTOM.genesis_fork_version, "compounding": True, "target_gas_limit": 30_000_000}),
        (3, 2, 2, V1_10, {"version": "v1.6.0", "target_gas_limit": 0}),
        (3, 2, 1, V1_11, {"version": "v1.7.0", "target_gas_limit": 0}),
        (3, 2, 1, V1_10, {"version": "v1.8.0", "target_gas_limit": 0}),
        (3, 2, 1, V1_10, {"version": "v1.9.0", "target_gas_limit": 0, "consensus_protocol": "qbft"}),
    ],
)
async def test_honest_ceremonies_end_with_one_lock(
    tmp_path: Path, operators: int, threshold: int, validators: int, dialect: Dialect, changes: Any
) -> None:
    rig = Rig(tmp_path, definition(operators, threshold, validators, **changes), dialect)
    await rig.run()
    rig.check_honest()


@pytest.mark.parametrize("version", ["v1.0.0", "v1.5.0"])
def test_definitions_without_deposits_in_the_lock_are_refused(version: str) -> None:
    with pytest.raises(UserError, match=rf"only v1.6.0 and newer .* this is {version}"):
        check_ceremony_definition("definition", definition(3, 2, 1, version=version))


def test_the_largest_ceremony_has_255_operators() -> None:
    """04 §5.1: a share index is one byte."""
    check_ceremony_definition("definition", definition(255, 170, 1))
    with pytest.raises(UserError, match="too many operators for a ceremony: 256 > 255"):
        check_ceremony_definition("definition", definition(256, 171, 1))


def edit(protocol: str, source: int, kind: Any, change: Any, target: int | None = None) -> Any:
    """A tamperer that changes one node's messages of one protocol on the wire."""

    def tamper(sender: int, receiver: int, of_protocol: str, message: bytes) -> bytes:
        if (sender, of_protocol) != (source, protocol) or target not in (None, receiver):
            return message
        decoded = kind.FromString(message)
        change(decoded)
        encoded: bytes = decoded.SerializeToString()
        return encoded

    return tamper


def bump_share(message: Any) -> None:
    message.shares[0].value = (int.from_bytes(message.shares[0].value, "big") ^ 1).to_bytes(32, "big")


async def test_a_bad_share_is_blamed_everywhere(tmp_path: Path) -> None:
    rig = Rig(tmp_path, definition(4, 3, 2))
    await rig.run(tamper=edit(SHARES_PROTOCOL, 2, dkg_pb2.FrostRound1P2P, bump_share, target=0))
    victim = rig.aborted(0)
    assert (victim.peer_index, victim.phase) == (2, Phase.KEYS)
    assert "invalid share for validator 0" in str(victim)
    assert "(operator 2)" in str(victim)
    assert "step 2, key generation" in str(victim)
    for index in (1, 2, 3):  # the others learn it from the victim, at once
        assert "peer responded with error" in rig.aborted(index).reason
        assert "invalid share for validator 0" in rig.aborted(index).reason
    rig.check_clean()
    ends = [node.ended_at for node in rig.nodes]
    assert max(ends) - min(ends) < 5


def spoil_partial(slot: int) -> Any:
    def change(message: Any) -> None:
        if message.duty.slot != slot:
            return
        entries = list(message.data_set.set.values())
        entries[0].data, entries[0].signature = entries[1].data, entries[1].signature

    return change


@pytest.mark.parametrize(("slot", "words"), [(201, "deposit data"), (102, "registration"), (101, "lock hash")])
async def test_a_bad_partial_signature_is_blamed(tmp_path: Path, slot: int, words: str) -> None:
    rig = Rig(tmp_path, definition(3, 2, 2))
    await rig.run(tamper=edit(PARTIALS_PROTOCOL, 1, core_pb2.ParSigExMsg, spoil_partial(slot)))
    for index in (0, 2):
        error = rig.aborted(index)
        assert error.peer_index == 1 or "peer responded with error" in error.reason
        assert words in str(error)
    assert any(rig.aborted(index).peer_index == 1 for index in (0, 2))
    rig.check_clean()


async def test_a_sender_that_tells_two_stories_gets_nowhere(tmp_path: Path) -> None:
    """Node 2 shows node 0 another commitment than node 1: whoever sees the second story refuses to sign."""
    rig = Rig(tmp_path, definition(3, 2, 1))
    seen: list[bytes] = []

    def tamper(source: int, target: int, protocol: str, message: bytes) -> bytes:
        if source == 2 and protocol == V1_10.signature_protocol and target == 0 and not seen:
            seen.append(message)
            request = dkg_pb2.BCastSigRequest.FromString(message)
            casts = dkg_pb2.FrostRound1Casts.FromString(request.message.value)
            casts.casts[0].wi = bytes(32)
            request.message.value = casts.SerializeToString()
            return request.SerializeToString()
        return message

    await rig.run(tamper=tamper)
    assert "invalid signature" in rig.aborted(2).reason  # node 0 signed the other story
    for index in (0, 1):
        assert rig.aborted(index).phase is Phase.KEYS
    rig.check_clean()


async def test_another_release_is_named_on_both_sides(tmp_path: Path) -> None:
    rig = Rig(tmp_path, definition(3, 2, 1))
    await rig.run(dialects={1: V1_11})
    texts = [str(rig.aborted(index)) for index in range(3)]
    assert all("mismatching charon version" in text for text in texts)
    assert rig.aborted(0).peer_index == 1 or "ceremony aborted" in texts[0]
    assert all(rig.aborted(index).phase is Phase.CONNECT for index in range(3))
    rig.check_clean()


async def test_another_definition_is_named(tmp_path: Path) -> None:
    rig = Rig(tmp_path, definition(3, 2, 1))
    await rig.run(definitions={2: definition(3, 2, 1, name="another")})
    assert all("invalid definition hash signature" in str(rig.aborted(index)) for index in range(3))
    rig.check_clean()


@pytest.mark.parametrize("dialect", [V1_10, V1_11])
async def test_a_restarted_node_ends_the_ceremony_with_its_name(tmp_path: Path, dialect: Dialect) -> None:
    rig = Rig(tmp_path, definition(3, 2, 1), dialect)
    restarted: list[Node] = []

    def tamper(source: int, target: int, protocol: str, message: bytes) -> bytes | None:
        return None if (source, protocol) == (0, PARTIALS_PROTOCOL) else message  # node 0 keeps everybody in step 3

    async def meanwhile(rig: Rig) -> None:
        while rig.nodes[1].actor._phase is not Phase.DEPOSITS:
            await trio.sleep(0.01)
        rig.network.dead.add(1)  # a kill: nothing is said
        rig.nodes[1].scope.cancel()
        await rig.network.cut(1)
        while not rig.nodes[1].ended_at:
            await trio.sleep(0.01)
        rig.network.dead.clear()
        again = Node(rig, 1, rig.definition, dialect)
        restarted.append(again)
        await again.run()

    await rig.run(meanwhile=meanwhile, tamper=tamper)
    blamed = [rig.aborted(index) for index in (0, 2)]
    assert any(error.peer_index == 1 and "restarted in the middle" in error.reason for error in blamed)
    assert all("restarted" in str(error) for error in blamed)
    assert isinstance(restarted[0].error, Aborted)
    rig.check_clean()


async def test_lost_connections_come_back_and_the_ceremony_goes_on(tmp_path: Path) -> None:
    rig = Rig(tmp_path, definition(3, 2, 1))

    async def meanwhile(rig: Rig) -> None:
        for phase in (Phase.KEYS, Phase.DEPOSITS, Phase.LOCK_HASH):
            while rig.nodes[1].actor._phase.step < phase.step:
                await trio.sleep(0.005)
            await rig.network.cut(1)

    await rig.run(meanwhile=meanwhile)
    rig.check_honest()


@pytest.mark.parametrize("protocol", [V1_10.message_protocol, SHARES_PROTOCOL, PARTIALS_PROTOCOL])
async def test_what_was_lost_with_a_connection_is_sent_again(tmp_path: Path, protocol: str) -> None:
    rig = Rig(tmp_path, definition(3, 2, 1))
    lost = trio.Event()

    def tamper(source: int, target: int, of_protocol: str, message: bytes) -> bytes | None:
        if (source, target, of_protocol) == (1, 0, protocol) and not lost.is_set():
            lost.set()
            return None
        return message

    async def meanwhile(rig: Rig) -> None:
        await lost.wait()
        await rig.network.cut(1)

    await rig.run(meanwhile=meanwhile, tamper=tamper)
    rig.check_honest()


async def test_a_peer_that_has_gone_for_good_is_given_up_by_name(tmp_path: Path) -> None:
    rig = Rig(tmp_path, definition(3, 2, 1), timeout_s=1.0)

    def tamper(source: int, target: int, protocol: str, message: bytes) -> bytes | None:
        return None if (source, protocol) == (1, PARTIALS_PROTOCOL) else message

    async def meanwhile(rig: Rig) -> None:
        while rig.nodes[1].actor._phase is not Phase.DEPOSITS:
            await trio.sleep(0.01)
        rig.network.dead.add(1)
        rig.nodes[1].scope.cancel()
        await rig.network.cut(1)

    await rig.run(meanwhile=meanwhile, tamper=tamper)
    assert any(rig.aborted(index).peer_index == 1 for index in (0, 2))
    assert any("not been heard of for 1 s" in rig.aborted(index).reason for index in (0, 2))
    rig.check_clean()


@pytest.mark.parametrize("phase", [Phase.KEYS, Phase.REGISTRATIONS, Phase.LOCK_HASH, Phase.NODE_SIGNATURES, Phase.ARTIFACTS])
async def test_a_node_killed_in_any_step_is_named_and_nothing_is_left_before_the_last(tmp_path: Path, phase: Phase) -> None:
    rig = Rig(tmp_path, definition(3, 2, 1), timeout_s=1.0)

    async def meanwhile(rig: Rig) -> None:
        while rig.nodes[1].actor._phase.step < phase.step:
            await trio.sleep(0.001)
        rig.network.dead.add(1)  # a kill: nothing is said
        rig.nodes[1].scope.cancel()
        await rig.network.cut(1)

    await rig.run(meanwhile=meanwhile)
    survivors = [rig.aborted(index) for index in (0, 2)]
    assert any(error.peer_index == 1 for error in survivors)
    for error in survivors:
        assert error.peer_index == 1 or "(operator 1)" in error.reason
        if error.phase.step < Phase.ARTIFACTS.step:
            assert "nothing was written" in str(error)
    if all(error.phase.step < Phase.ARTIFACTS.step for error in survivors):
        rig.check_clean()
    for index in (0, 2):
        if results_in(rig.nodes[index].directory):
            assert "do not deposit" in str(rig.aborted(index))


async def test_v1_11_gives_up_waiting_for_signatures(tmp_path: Path) -> None:
    rig = Rig(tmp_path, definition(3, 2, 1), V1_11, timeout_s=1.5)

    def tamper(source: int, target: int, protocol: str, message: bytes) -> bytes | None:
        return None if (source, protocol) == (1, PARTIALS_PROTOCOL) else message

    await rig.run(tamper=tamper)
    assert any(rig.aborted(index).peer_index == 1 and "timed out" in rig.aborted(index).reason for index in (0, 2))
    rig.check_clean()


async def test_an_operator_that_stops_is_named_to_the_others(tmp_path: Path) -> None:
    rig = Rig(tmp_path, definition(3, 2, 1))

    async def meanwhile(rig: Rig) -> None:
        while rig.nodes[1].actor._phase is not Phase.DEPOSITS:
            await trio.sleep(0.01)
        rig.nodes[1].scope.cancel()

    def tamper(source: int, target: int, protocol: str, message: bytes) -> bytes | None:
        return None if (source, protocol) == (1, PARTIALS_PROTOCOL) else message

    await rig.run(meanwhile=meanwhile, tamper=tamper)
    for index in (0, 2):
        assert "a node was stopped" in rig.aborted(index).reason
    rig.check_clean()


async def test_waiting_is_never_silent(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = Rig(tmp_path, definition(3, 2, 1))

    async def meanwhile(rig: Rig) -> None:
        rig.network.dead.add(2)
        await trio.sleep(35)
        for node in rig.nodes:
            node.scope.cancel()

    await rig.run(meanwhile=meanwhile)
    lines = [line for line in capsys.readouterr().out.splitlines() if "Waiting for peers to connect" in line]
    missing = peers_of(rig.definition)[2].name
    assert len([line for line in lines if missing in line]) >= 6  # two nodes, 35 s


async def test_a_signature_request_is_answered_while_the_node_calculates(tmp_path: Path) -> None:
    """04 §4: the requester waits 7 s. Ours must not wait for our own arithmetic."""
    rig = Rig(tmp_path, definition(3, 2, 60))
    slowest = 0.0

    async def meanwhile(rig: Rig) -> None:
        nonlocal slowest
        value = dkg_pb2.MsgNodeSig(signature=bytes(65), peer_index=1).SerializeToString()
        request = rig.nodes[1].ceremony.bcast.open("/charon/dkg/node_sig", value).request
        while rig.nodes[0].actor._phase is not Phase.KEYS:
            await trio.sleep(0.001)
        while rig.nodes[0].actor._phase.step < Phase.REGISTRATIONS.step:
            began = trio.current_time()
            await rig.network.node(1).exchange(0, (V1_10.signature_protocol,), request)
            slowest = max(slowest, trio.current_time() - began)
            await trio.sleep(0.02)
        for node in rig.nodes:
            node.scope.cancel()

    await rig.run(meanwhile=meanwhile)
    assert 0 < slowest < 2


async def test_results_that_cannot_be_written_are_the_operators_to_know(tmp_path: Path) -> None:
    rig = Rig(tmp_path, definition(3, 2, 1))

    async def meanwhile(rig: Rig) -> None:
        while rig.nodes[1].actor._phase is not Phase.DEPOSITS:
            await trio.sleep(0.001)
        (rig.nodes[1].directory / "cluster-lock.json").write_text("in the way")

    await rig.run(meanwhile=meanwhile)
    assert "already exists" in str(rig.nodes[1].error)
    assert not isinstance(rig.nodes[1].error, Aborted)
    assert results_in(rig.nodes[1].directory) == ["cluster-lock.json"]
    for index in (0, 2):
        assert rig.aborted(index).phase is Phase.ARTIFACTS


HANDLED = (SYNC_PROTOCOL, V1_10.signature_protocol, V1_10.message_protocol, SHARES_PROTOCOL, PARTIALS_PROTOCOL)


@given(protocol=st.sampled_from(HANDLED), body=st.binary(max_size=120), is_framed=st.booleans(), sender=st.sampled_from([1, 2]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_hostile_bytes_into_every_handler(
    tmp_path_factory: pytest.TempPathFactory, protocol: str, body: bytes, is_framed: bool, sender: int
) -> None:
    """The node ends with the sender's name, or goes on as if nothing had come; it never fails in any other way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(actor_module, "FAREWELL_S", 0.01)
        await hostile(tmp_path_factory, protocol, body, is_framed, sender)


async def hostile(tmp_path_factory: pytest.TempPathFactory, protocol: str, body: bytes, is_framed: bool, sender: int) -> None:
    rig = Rig(tmp_path_factory.mktemp("hostile"), definition(3, 2, 1))
    async with trio.open_nursery() as nursery:
        rig.network = MemoryNetwork(nursery)
        node = Node(rig, 0, rig.definition, V1_10)
        nursery.start_soon(node.run)
        while 0 not in rig.network.handlers:
            await trio.lowlevel.checkpoint()
        stream = await rig.network.connect(sender, 0, (protocol,))
        if not is_framed:
            await stream.send_all(body or b"\0")
        elif protocol == SYNC_PROTOCOL:
            await stream.send_all(len(body).to_bytes(8, "little") + body)
        else:
            await stream.write_delimited(body)
        await stream.send_eof()
        with trio.move_on_after(0.2):
            while await stream.receive_some():
                pass
        await trio.testing.wait_all_tasks_blocked(0.001)
        nursery.cancel_scope.cancel()
    for leaf in leaves(node.error) if node.error is not None else ():
        assert isinstance(leaf, Aborted | ActorDown | trio.Cancelled)
        if isinstance(leaf, Aborted):
            assert leaf.peer_index == sender


async def test_a_sync_message_that_comes_in_pieces_is_read(tmp_path: Path) -> None:
    rig = Rig(tmp_path, definition(3, 2, 1))
    async with trio.open_nursery() as nursery:
        rig.network = MemoryNetwork(nursery)
        node = Node(rig, 0, rig.definition, V1_10)
        nursery.start_soon(node.run)
        while 0 not in rig.network.handlers:
            await trio.lowlevel.checkpoint()
        signature = sign_definition(private_key(1), rig.definition.definition_hash)
        frame = encode_fixed64(encode_report(SyncReport((1, 2), signature, "v1.10.9-xyz", 0, nickname="x")))
        stream = await rig.network.connect(1, 0, (SYNC_PROTOCOL,))
        for _ in range(2):
            for position in range(len(frame)):
                await stream.send_all(frame[position : position + 1])
            answer = b""
            while len(answer) < 8 or len(answer) < 8 + int.from_bytes(answer[:8], "little"):
                answer += await stream.receive_some()
            assert dkg_pb2.MsgSyncResponse.FromString(answer[8:]).error == ""
        assert node.actor._reports._heard_at.keys() == {1}
        nursery.cancel_scope.cancel()


async def test_a_disk_that_is_full_when_the_results_are_written_costs_nobody_the_ceremony(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = 0

    def full(*args: Any, **kwargs: Any) -> None:
        nonlocal refused
        if refused < 3:
            refused += 1
            error = OSError(28, "No space left on device")
            raise UserError("the data directory", "cannot write (No space left on device)", "make room") from error
        write_ceremony_artifacts(*args, **kwargs)

    monkeypatch.setattr(actor_module, "write_ceremony_artifacts", full)
    monkeypatch.setattr(actor_module, "WRITE_AGAIN_S", 0.05)
    rig = Rig(tmp_path, definition(3, 2, 1))
    await rig.run()
    rig.check_honest()
    assert refused == 3
