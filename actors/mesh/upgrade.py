"""Upgrade: from a raw byte stream to a connection: security, identity, muxer, gate. The rules are in `charon_actors.p2p.connection`.

Limits: HANDSHAKE_TIMEOUT_S in all; what the caller's `on_bytes` sets. Cancelled, or failed: the raw stream is closed.
Source: specification 03-p2p, sections 2.1 and 2.3.
"""

from collections.abc import Awaitable, Callable

import trio

from actors.mesh.account import Account, Ledger
from actors.mesh.connection import READ_BYTES, Connection, abort
from actors.mesh.faults import HandshakeFault, PeerRefused
from charon_actors.crypto import Entropy, k1_public_key
from charon_actors.p2p.connection import HANDSHAKE_TIMEOUT_S, Upgrade
from charon_actors.p2p.multiaddr import Multiaddr
from charon_actors.p2p.multistream import MultistreamFault
from charon_actors.p2p.noise import NoiseFault, PeerMismatch
from charon_actors.p2p.peer_id import PeerId, peer_id_of, peer_name


class HostIdentity:
    """What a handshake needs of us: the secp256k1 key (32 bytes), the peer id made from it, and a source of randomness."""

    def __init__(self, private_key: bytes, entropy: Entropy) -> None:
        self.private_key, self.entropy = private_key, entropy
        self.peer_id = peer_id_of(k1_public_key(private_key))

    def __repr__(self) -> str:  # the key stays out of logs
        return f"HostIdentity({peer_name(self.peer_id)})"


async def upgrade(
    raw: trio.abc.Stream,
    identity: HostIdentity,
    *,
    outbound: bool,
    expected_peer: PeerId | None,
    is_allowed: Callable[[PeerId], bool],
    remote_address: Multiaddr,
    limited: bool = False,
    account_of: Callable[[PeerId], Account] | None = None,
    on_bytes: Callable[[int], Awaitable[None]] | None = None,
) -> Connection:
    """Authenticate the other end of `raw`, agree on yamux, and return the connection; the caller then runs it.

    outbound: did we dial (for circuits: open)? expected_peer: the dialed id. is_allowed: the gate, asked once with the proven id.
    account_of: who pays for what the peer does; None: nobody counts, for tools. on_bytes: called with the number of each reading (from
    1) when bytes have come, before anything is done with them; it may wait, and it may raise HandshakeFault.
    Raises: PeerRefused, HandshakeFault (also after 15 s). Whatever is raised, cancellation too: `raw` is closed.
    """
    machine = Upgrade(identity.private_key, identity.entropy, is_dialer=outbound, expected_peer=expected_peer)
    try:
        with trio.move_on_after(HANDSHAKE_TIMEOUT_S) as scope:
            received, sent = await _shake_hands(raw, machine, is_allowed, on_bytes)
        if scope.cancelled_caught:
            raise HandshakeFault(f"no handshake within {HANDSHAKE_TIMEOUT_S:g} s")
    except BaseException as error:
        await abort(raw)
        match error:
            case PeerMismatch():
                raise PeerRefused(str(error)) from None
            case NoiseFault() | MultistreamFault():
                raise HandshakeFault(str(error)) from None
            case trio.BrokenResourceError() | trio.ClosedResourceError():
                raise HandshakeFault("the peer broke the connection during the handshake") from None
        raise
    assert machine.session is not None, "an upgrade is done after the handshake"
    connection = Connection(
        raw,
        machine.session,
        machine.early_plaintext,
        outbound=outbound,
        remote_address=remote_address,
        limited=limited,
        account=(account_of or Ledger(is_limited=False).account_of)(machine.session.remote_peer_id),
    )
    connection.received_bytes, connection.sent_bytes = received, sent
    return connection


async def _shake_hands(
    raw: trio.abc.Stream,
    machine: Upgrade,
    is_allowed: Callable[[PeerId], bool],
    on_bytes: Callable[[int], Awaitable[None]] | None,
) -> tuple[int, int]:
    """Until the machine is done. How many bytes were received and sent."""
    received = sent = readings = 0
    output = machine.opening()
    while True:
        if output:
            await raw.send_all(output)
            sent += len(output)
        if machine.is_done:
            return received, sent
        data = await raw.receive_some(READ_BYTES)
        if not data:
            raise HandshakeFault("the peer closed the connection during the handshake")
        received, readings = received + len(data), readings + 1
        if on_bytes is not None:
            await on_bytes(readings)
        output = machine.receive(data)
        if machine.session is not None and not is_allowed(machine.session.remote_peer_id):
            raise PeerRefused(f"{peer_name(machine.session.remote_peer_id)} is not a peer of ours, or rests after a flood")
