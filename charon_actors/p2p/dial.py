"""In which order and when a peer's addresses are dialed. Sans-IO.

    group                        within the group                           next dial of the group after
    private (and loopback)       IPv6 before IPv4, then the lower port      30 ms
    public (and DNS names)       the same                                   250 ms
    relayed                      as given                                   250 ms; all 500 ms later if a public address exists

The groups run side by side; the first connection that comes up wins, the rest is cancelled. We dial TCP only: QUIC, WebSocket and
other transports in a peer's list are left out.

    limit of one address    5 s private, 15 s otherwise (TCP connect alone: 5 s)
    whole dial of a peer    60 s, at most MAX_PARALLEL_DIALS at a time, MAX_ADDRESSES addresses

Source: specification 03 §2.3.
"""

import enum
from collections.abc import Iterable
from typing import Final

import msgspec

from charon_actors.p2p.multiaddr import Multiaddr, ip_of, tcp_endpoint

DIAL_TIMEOUT_S: Final = 60.0
ADDRESS_TIMEOUT_S: Final = 15.0
PRIVATE_ADDRESS_TIMEOUT_S: Final = 5.0
TCP_CONNECT_TIMEOUT_S: Final = 5.0
PUBLIC_STEP_S: Final = 0.25
PRIVATE_STEP_S: Final = 0.03
RELAY_DELAY_S: Final = 0.5
MAX_PARALLEL_DIALS: Final = 8
MAX_ADDRESSES: Final = 64


class Reach(enum.Enum):
    """From where an address can be reached. A DNS name counts as public."""

    LOOPBACK = "loopback"
    PRIVATE = "private"
    PUBLIC = "public"


class PlannedDial(msgspec.Struct, frozen=True):
    """Dial `address` `delay_s` after the start, or at once when nothing else is running; give up after `timeout_s`."""

    delay_s: float
    timeout_s: float
    address: Multiaddr


def reach_of(address: Multiaddr) -> Reach:
    """Reach of the transport part: of a relayed address, the relay's."""
    ip = ip_of(address)
    if ip is None:
        return Reach.PUBLIC
    if ip.is_loopback:
        return Reach.LOOPBACK
    if ip.is_private or ip.is_link_local or ip.is_unspecified:
        return Reach.PRIVATE
    return Reach.PUBLIC


def plan_dials(addresses: Iterable[Multiaddr]) -> list[PlannedDial]:
    """Which addresses to dial when; duplicates and transports that we don't speak are left out."""
    private, public, relayed = [], [], []
    for address in dict.fromkeys(addresses):
        if address.has_circuit:
            relayed.append(address)
        elif tcp_endpoint(address) is None:
            continue
        elif reach_of(address) is Reach.PUBLIC:
            public.append(address)
        else:
            private.append(address)
    plan = [
        *_spread(sorted(private, key=_rank), 0.0, PRIVATE_STEP_S, PRIVATE_ADDRESS_TIMEOUT_S),
        *_spread(sorted(public, key=_rank), 0.0, PUBLIC_STEP_S, ADDRESS_TIMEOUT_S),
        *_spread(relayed, RELAY_DELAY_S if public else 0.0, PUBLIC_STEP_S, ADDRESS_TIMEOUT_S),
    ]
    plan.sort(key=lambda dial: dial.delay_s)
    return plan[:MAX_ADDRESSES]


def _spread(addresses: list[Multiaddr], first_s: float, step_s: float, timeout_s: float) -> list[PlannedDial]:
    return [PlannedDial(first_s + n * step_s, timeout_s, address) for n, address in enumerate(addresses)]


def _rank(address: Multiaddr) -> tuple[bool, int]:
    endpoint = tcp_endpoint(address)
    assert endpoint is not None
    host, port = endpoint
    return ":" not in host, port
