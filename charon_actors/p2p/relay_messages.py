"""Circuit relay v2 (and DCUtR) messages: what a client says to a relay, and what a relay says to it. Sans-IO.

    on a hop stream (we open it)                          on a stop stream (the relay opens it)
    RESERVE                ->                             <-   CONNECT, source peer, limit
    <-  STATUS 100, reservation, limit                    ->   STATUS 100; from here on the stream is the pipe
    CONNECT, target peer   ->
    <-  STATUS 100, limit; from here on the pipe

A status other than 100 ends the attempt: RelayRefusal, whose text says what an operator can do about it. A reservation must
expire in the future; addresses, limit and voucher are for the log, a voucher that doesn't verify counts as a relay's fault.
`type` is always written, even 0.

Limits: MAX_MESSAGE_BYTES each. Limits of a circuit: duration in seconds (js relays write milliseconds), data in bytes for each
direction; 0 means none.
Source: specification 03 §11.6 and §11.7.
"""

import enum
from typing import Final, TypeVar

import msgspec
from google.protobuf.message import DecodeError, Message

from charon_actors.p2p.envelope import EnvelopeFault, decode_voucher
from charon_actors.p2p.protobuf import libp2p_pb2 as wire

HOP: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP: Final = "/libp2p/circuit/relay/0.2.0/stop"
DCUTR: Final = "/libp2p/dcutr"
MAX_MESSAGE_BYTES: Final = 4096
MAX_ADDRESSES: Final = 64
REFRESH_BEFORE_EXPIRY_S: Final = 120.0
RESERVE_TIMEOUT_S: Final = 60.0
HOP_OPEN_TIMEOUT_S: Final = 5.0
HOP_ANSWER_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 10.0

M = TypeVar("M", bound=Message)
_RESERVE, _CONNECT, _STATUS = 0, 1, 2
_STOP_CONNECT, _STOP_STATUS = 0, 1
_DCUTR_CONNECT, _DCUTR_SYNC = 100, 300


class Status(enum.IntEnum):
    """What a relay, or the target of a circuit, answers."""

    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


_MEANING: Final = {
    Status.RESERVATION_REFUSED: "the relay has no reservation left for our IP address; nodes that restart in a loop or run twice "
    "use them up, they come back within an hour",
    Status.RESOURCE_LIMIT_EXCEEDED: "the relay is at its limit",
    Status.PERMISSION_DENIED: "the relay does not serve us",
    Status.CONNECTION_FAILED: "the relay could not reach the peer",
    Status.NO_RESERVATION: "the peer is not connected to this relay: it is offline, or it uses other relays",
    Status.MALFORMED_MESSAGE: "the relay did not understand us",
    Status.UNEXPECTED_MESSAGE: "the relay did not expect that message",
}


class RelayFault(Exception):
    """A message of the circuit protocol that we cannot use."""


class RelayRefusal(RelayFault):
    """The relay (or the target) answered with a status other than OK; the text explains it."""

    def __init__(self, status: int) -> None:
        known = Status(status) if status in list(Status) else None
        name = known.name if known is not None else "unknown status"
        meaning = f": {_MEANING[known]}" if known in _MEANING else ""
        super().__init__(f"{name} ({status}){meaning}")
        self.status = status


class CircuitLimit(msgspec.Struct, frozen=True):
    """How long (seconds) and how much (bytes, each direction) a circuit may last; 0 is unlimited."""

    duration_s: int
    data_bytes: int


class ReservationGrant(msgspec.Struct, frozen=True):
    """What a relay granted. expire_s: unix seconds. addresses: binary multiaddrs, often none. voucher_fault: why it is no good."""

    expire_s: int
    addresses: tuple[bytes, ...]
    limit: CircuitLimit | None
    voucher_fault: str | None


class StopConnect(msgspec.Struct, frozen=True):
    """A peer wants in through the relay. `source_id` is a hint; the handshake on the pipe decides."""

    source_id: bytes
    limit: CircuitLimit | None


class HolePunch(msgspec.Struct, frozen=True):
    """A DCUtR message: CONNECT with addresses, or SYNC (none)."""

    is_sync: bool
    addresses: tuple[bytes, ...] = ()


def encode_reserve() -> bytes:
    """The RESERVE message."""
    return wire.HopMessage(type=_RESERVE).SerializeToString(deterministic=True)


def encode_hop_connect(target_id: bytes) -> bytes:
    """Ask the relay for a circuit to `target_id`."""
    return wire.HopMessage(type=_CONNECT, peer=wire.RelayPeer(id=target_id)).SerializeToString(deterministic=True)


def decode_reservation(data: bytes, *, relay_id: bytes, own_id: bytes, now_s: float) -> ReservationGrant:
    """What the relay granted to us. Raises: RelayRefusal (a status other than OK), RelayFault."""
    message = _hop_status(data)
    if not message.HasField("reservation"):
        raise RelayFault("the relay agreed, but sent no reservation")
    reservation = message.reservation
    if reservation.expire <= now_s:
        raise RelayFault("the reservation has already expired; compare the clocks of this machine and the relay")
    voucher_fault: str | None = None
    if reservation.HasField("voucher"):
        try:
            decode_voucher(reservation.voucher, relay_id=relay_id, peer_id=own_id)
        except EnvelopeFault as error:
            voucher_fault = str(error)
    return ReservationGrant(
        expire_s=reservation.expire,
        addresses=tuple(reservation.addrs)[:MAX_ADDRESSES],
        limit=_limit(message),
        voucher_fault=voucher_fault,
    )


def decode_hop_connected(data: bytes) -> CircuitLimit | None:
    """The limit of the circuit that the relay opened; None: unlimited. Raises: RelayRefusal, RelayFault."""
    return _limit(_hop_status(data))


def decode_stop_connect(data: bytes) -> StopConnect:
    """Who wants in. Raises: RelayFault."""
    message = _parse(wire.StopMessage(), data)
    if not message.HasField("type") or message.type != _STOP_CONNECT or not message.peer.id:
        raise RelayFault("expected a CONNECT with the source's peer id")
    return StopConnect(message.peer.id, _limit(message))


def encode_stop_status(status: Status) -> bytes:
    """Our answer to a stop CONNECT."""
    return wire.StopMessage(type=_STOP_STATUS, status=status).SerializeToString(deterministic=True)


def decode_hole_punch(data: bytes) -> HolePunch:
    """A DCUtR message. Raises: RelayFault."""
    message = _parse(wire.HolePunch(), data)
    if message.type not in (_DCUTR_CONNECT, _DCUTR_SYNC):
        raise RelayFault(f"hole punching message of type {message.type}")
    return HolePunch(message.type == _DCUTR_SYNC, tuple(message.obs_addrs)[:MAX_ADDRESSES])


def encode_hole_punch(message: HolePunch) -> bytes:
    """A DCUtR message."""
    kind = _DCUTR_SYNC if message.is_sync else _DCUTR_CONNECT
    return wire.HolePunch(type=kind, obs_addrs=message.addresses).SerializeToString(deterministic=True)


def refresh_in_s(grant: ReservationGrant, now_s: float) -> float:
    """Seconds until the reservation should be renewed: two minutes before it ends, never sooner than in one."""
    return max(grant.expire_s - REFRESH_BEFORE_EXPIRY_S - now_s, 60.0)


def may_route_through_relays(own_id: bytes, remote_id: bytes) -> bool:
    """v1.11: of two peers the one with the smaller binary id dials through relays, the other waits. Source: 03 §3.4."""
    return own_id < remote_id


def _hop_status(data: bytes) -> wire.HopMessage:
    message = _parse(wire.HopMessage(), data)
    if message.type != _STATUS:
        raise RelayFault(f"expected a STATUS, the relay sent a message of type {message.type}")
    if message.status != Status.OK:
        raise RelayRefusal(message.status)
    return message


def _parse(message: M, data: bytes) -> M:
    if len(data) > MAX_MESSAGE_BYTES:
        raise RelayFault(f"circuit message of {len(data)} bytes")
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise RelayFault("circuit message is no protobuf message") from error
    return message


def _limit(message: wire.HopMessage | wire.StopMessage) -> CircuitLimit | None:
    if not message.HasField("limit"):
        return None
    return CircuitLimit(message.limit.duration, message.limit.data)
