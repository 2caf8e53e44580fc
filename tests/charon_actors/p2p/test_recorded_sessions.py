"""Recorded sessions with real peers, replayed byte by byte (specification 03-p2p, section 14, check 5).

A Charon node (v1.10.3, dkg) in both roles, and js-libp2p as dialer. With the recorded keys our handshake and all our noise messages
come out exactly as they stood on the wire; what the peer sent decrypts to the recorded frames, and our yamux and multistream
understand all of it.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from charon_actors.p2p.connection import Upgrade
from charon_actors.p2p.framing import take_delimited, take_fixed64
from charon_actors.p2p.multistream import Initiator, NotSupported, Responder
from charon_actors.p2p.noise import NoiseSession
from charon_actors.p2p.protobuf import libp2p_pb2
from charon_actors.p2p.yamux import ACK, FIN, PING, RST, SYN, Finished, Opened, Received, YamuxSession

VECTORS = Path(__file__).parents[2] / "vectors" / "p2p"
CHARON = json.loads((VECTORS / "session_charon.json").read_bytes())
JS = json.loads((VECTORS / "session_js_to_responder.json").read_bytes())


def upgrade_with(keys: list[str], *, is_dialer: bool) -> Upgrade:
    identity, static, ephemeral = (bytes.fromhex(key) for key in keys)
    draws = iter([static, ephemeral])
    return Upgrade(identity, lambda _: next(draws), is_dialer=is_dialer, expected_peer=None)


def wire_of(session: Any, direction: str) -> bytes:
    return b"".join(bytes.fromhex(part["hex"]) for part in session["wire"] if part["dir"] == direction)


def replay(upgrade: Upgrade, incoming: bytes, cut: int) -> tuple[bytes, bytes, NoiseSession]:
    """Our bytes up to the end of the upgrade, and all that the peer sent, decrypted."""
    out, plaintext = upgrade.opening(), b""
    for start in range(0, len(incoming), cut):
        piece = incoming[start : start + cut]
        if upgrade.is_done:
            assert upgrade.session is not None
            plaintext += b"".join(upgrade.session.receive(piece))
        else:
            out += upgrade.receive(piece)
            plaintext += upgrade.early_plaintext
    assert upgrade.session is not None
    return out, plaintext, upgrade.session


@pytest.mark.parametrize("cut", [1, 13, 1000, 10**6])
@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_a_session_with_charon(role: str, cut: int) -> None:
    session, common = CHARON[role], CHARON["common"]
    keys = [common[f"own_{name}"] for name in ("identity_private_key", "noise_static_private", "noise_ephemeral_private")]
    upgrade = upgrade_with(keys, is_dialer=role == "initiator")
    out, plaintext, noise = replay(upgrade, wire_of(session, "in"), cut)
    for frame in session["yamux_frames"]:
        if frame["dir"] == "out":
            out += noise.encrypt(bytes.fromhex(frame["hex"]))
    assert out.hex() == wire_of(session, "out").hex()
    assert plaintext == b"".join(bytes.fromhex(frame["hex"]) for frame in session["yamux_frames"] if frame["dir"] == "in")


@pytest.mark.parametrize("cut", [1, 10**6])
def test_a_session_that_js_dialed(cut: int) -> None:
    names = ("identity_private_key", "noise_static_private", "noise_ephemeral_private")
    upgrade = upgrade_with([JS[f"responder_{name}"] for name in names], is_dialer=False)
    out, plaintext, _ = replay(upgrade, wire_of(JS, "in"), cut)
    assert wire_of(JS, "out").startswith(out)
    assert len(out) > 250
    assert plaintext.hex() == "".join(JS["inbound_yamux_frames"])


def behind_the_agreement(negotiation: Initiator | Responder, data: bytes) -> bytes:
    negotiation.receive(data)
    return negotiation.leftover if negotiation.selected else b""


@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_our_yamux_and_multistream_read_what_charon_wrote(role: str) -> None:
    yamux = YamuxSession(is_client=role == "initiator")
    bytes_of: defaultdict[int, bytearray] = defaultdict(bytearray)
    negotiations: dict[int, Initiator | Responder] = {}
    finished, refused = set(), []
    known = {"/ipfs/id/1.0.0", "/charon/dkg/sync/1.0.0/"}
    for frame in CHARON[role]["yamux_frames"]:
        wire = bytes.fromhex(frame["hex"])
        kind, flags, stream_id, length = wire[1], wire[3], int.from_bytes(wire[4:8], "big"), int.from_bytes(wire[8:12], "big")
        if frame["dir"] == "out":
            if flags & SYN and kind != PING:
                assert yamux.open() == stream_id
            elif flags & FIN:
                yamux.finish(stream_id)
            elif flags & RST:
                yamux.reset(stream_id, length)
            elif kind == 0:
                if stream_id not in negotiations:  # the first data frame of a stream that we opened: header and one proposal
                    proposal = wire[12 + 20 + 1 : -1].decode()
                    negotiations[stream_id] = Initiator([proposal])
                    assert negotiations[stream_id].opening() == wire[12:]
                yamux.send(stream_id, wire[12:])
            if flags & ACK == 0 and kind != PING:
                assert yamux.take_output(10**6).endswith(wire)
            continue
        for event in yamux.receive(wire):
            match event:
                case Opened(stream_id):
                    negotiations[stream_id] = Responder(known)
                case Received(stream_id, data):
                    negotiation = negotiations[stream_id]
                    if negotiation.selected is None:
                        try:
                            data = behind_the_agreement(negotiation, data)
                        except NotSupported as error:
                            refused.append(str(error))
                            continue
                    bytes_of[stream_id] += data
                    yamux.consume(stream_id, 0, 0.0)
                case Finished(stream_id):
                    finished.add(stream_id)
    protocols = {stream_id: negotiation.selected for stream_id, negotiation in negotiations.items()}
    identify_stream = next(i for i, p in protocols.items() if p == "/ipfs/id/1.0.0" and bytes_of[i])
    message = take_delimited(bytes_of[identify_stream], 8192)
    assert message is not None
    identify = libp2p_pb2.Identify.FromString(message)
    fields = CHARON[role]["identify_received"]
    assert [protocol.encode().hex() for protocol in identify.protocols] == fields["3"]
    assert identify.agent_version.encode().hex() == fields["6"][0]
    syncs = [i for i, p in protocols.items() if p == "/charon/dkg/sync/1.0.0/"]
    assert syncs
    for stream_id in syncs:
        while bytes_of[stream_id]:
            assert take_fixed64(bytes_of[stream_id]) is not None
    assert identify_stream in finished
    assert refused == (["the peer speaks none of: /no/such/1.0.0"] if role == "initiator" else [])
