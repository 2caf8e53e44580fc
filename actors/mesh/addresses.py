"""Our own addresses: what we tell peers about where we listen.

Order: external ones (configured IP, then hostname, each with every listen port), then the listen addresses; one that listens on
all interfaces stands for the addresses of the interfaces of the moment. Duplicates are left out. Source: specification 03 §2.
"""

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from charon_actors.p2p.multiaddr import Multiaddr, tcp_multiaddr

_SIOCGIFADDR = 0x8915
_INET6_TABLE = Path("/proc/net/if_inet6")


def advertised_addresses(
    listening: Sequence[tuple[str, int]], external_ip: str = "", external_hostname: str = ""
) -> tuple[Multiaddr, ...]:
    """Multiaddrs to advertise for (ip, port) pairs that we listen on; see the order on top."""
    found: dict[Multiaddr, None] = {}
    for external in (external_ip, external_hostname):
        if external:
            for _, port in listening:
                found[tcp_multiaddr(external, port)] = None
    for host, port in listening:
        if ipaddress.ip_address(host).is_unspecified:
            for interface in interface_addresses(v6=":" in host):
                found[tcp_multiaddr(interface, port)] = None
        else:
            found[tcp_multiaddr(host, port)] = None
    return tuple(found)


def interface_addresses(*, v6: bool) -> list[str]:
    """IP addresses of this machine's interfaces; link-local IPv6 ones, which need a zone, are left out."""
    return list(_ip6()) if v6 else list(_ip4())


def _ip4() -> Iterator[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            except OSError:
                continue  # an interface without an IPv4 address
            yield socket.inet_ntoa(answer[20:24])


def _ip6() -> Iterator[str]:
    try:
        lines = _INET6_TABLE.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        address = ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))
        if not address.is_link_local:
            yield str(address)
