"""Identify: what two hosts tell one another about themselves right after they connected. Sans-IO.

    protocol            who writes     what
    /ipfs/id/1.0.0      the responder  one or more delimited parts, then closes; the opener writes nothing
    /ipfs/id/push/1.0.0 the opener     the same, when something has changed

Parts are merged like protobuf messages: the last scalar wins, lists grow. A valid signed peer record replaces the listed
addresses; an invalid one is ignored together with nothing else, and so are a text that is no UTF-8 and an address that we can't
read. The key in the message must be the one of the authenticated connection; nothing here is trusted for anything but dialing:
addresses are hints, the handshake decides who answers there.

Which of a peer's addresses are worth keeping depends on how we see the peer (03 §2.4):

    connection's remote address (a relayed one: the relay's)     kept
    loopback                                                     all
    private                                                      all but loopback
    public                                                       public only

Limits: MAX_PARTS parts of MAX_PART_BYTES; MAX_KEPT_ADDRESSES addresses, MAX_PROTOCOLS protocol names are remembered.
Source: specification 03 §2, §2.4 and §11.5.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from google.protobuf.message import DecodeError

from charon_actors.p2p.dial import Reach, reach_of
from charon_actors.p2p.envelope import EnvelopeFault, PeerRecord, decode_peer_record, encode_peer_record
from charon_actors.p2p.multiaddr import Multiaddr, MultiaddrFault, decode_multiaddr_bytes
from charon_actors.p2p.protobuf import libp2p_pb2 as wire

IDENTIFY: Final = "/ipfs/id/1.0.0"
IDENTIFY_PUSH: Final = "/ipfs/id/push/1.0.0"
IDENTIFY_TIMEOUT_S: Final = 5.0
MAX_PARTS: Final = 10
MAX_PART_BYTES: Final = 8192
MAX_OWN_BYTES: Final = 4096  # own message without the record; go-libp2p's reader of old versions stops there
SPLIT_ABOVE_BYTES: Final = 2048  # the signed record then goes into a second part
MAX_KEPT_ADDRESSES: Final = 20
MAX_PROTOCOLS: Final = 256
MAX_PROTOCOL_CHARACTERS: Final = 256
MAX_AGENT_CHARACTERS: Final = 256


class IdentifyFault(Exception):
    """A peer's identify message that we cannot use."""


class HostIdentify(msgspec.Struct, frozen=True):
    """What a host says of itself. Addresses are binary multiaddrs; `observed` is how the other side sees *us*."""

    peer_id: bytes
    listen: tuple[Multiaddr, ...]
    protocols: tuple[str, ...]
    observed: Multiaddr | None
    agent: str
    protocol_version: str
    has_signed_record: bool


def encode_identify(
    private_key: bytes,
    peer_id: bytes,
    *,
    listen: Sequence[Multiaddr],
    protocols: Iterable[str],
    observed: Multiaddr | None,
    agent: str,
    sequence: int,
) -> list[bytes]:
    """The parts of our own message, without their length prefixes.

    sequence: of the signed record; the wall clock in nanoseconds, so that a restarted node is believed. Addresses that do not fit
    are left out, last ones first.
    """
    addresses = list(listen)
    while True:
        message = wire.Identify(
            public_key=peer_id[2:],
            listen_addrs=[bytes(address) for address in addresses],
            protocols=sorted(protocols),
            protocol_version="",
            agent_version=agent,
        )
        if observed is not None:
            message.observed_addr = bytes(observed)
        if not addresses or message.ByteSize() <= MAX_OWN_BYTES:
            break
        addresses.pop()
    record = encode_peer_record(private_key, PeerRecord(peer_id, sequence, tuple(bytes(address) for address in addresses)))
    if message.ByteSize() + len(record) <= SPLIT_ABOVE_BYTES:
        message.signed_peer_record = record
        return [message.SerializeToString(deterministic=True)]
    second = wire.Identify(signed_peer_record=record)
    return [message.SerializeToString(deterministic=True), second.SerializeToString(deterministic=True)]


def decode_identify(parts: Sequence[bytes], peer_id: bytes) -> HostIdentify:
    """What the authenticated peer `peer_id` said. Raises: IdentifyFault."""
    if not 0 < len(parts) <= MAX_PARTS:
        raise IdentifyFault(f"identify in {len(parts)} parts")
    message = wire.Identify()
    for part in parts:
        if len(part) > MAX_PART_BYTES:
            raise IdentifyFault(f"identify part of {len(part)} bytes")
        try:
            message.MergeFromString(part)
        except DecodeError as error:
            raise IdentifyFault("identify is no protobuf message") from error
    if message.public_key and message.public_key != peer_id[2:]:
        raise IdentifyFault("identify names another key than the handshake")
    addresses: Sequence[bytes] = message.listen_addrs
    has_record = False
    if message.signed_peer_record:
        try:
            record = decode_peer_record(message.signed_peer_record)
        except EnvelopeFault:
            pass
        else:
            if record.peer_id == peer_id:
                addresses, has_record = record.addresses, True
    return HostIdentify(
        peer_id=peer_id,
        listen=_readable(addresses),
        protocols=tuple(
            dict.fromkeys(
                text[:MAX_PROTOCOL_CHARACTERS]
                for text in map(_text, list(message.protocols)[:MAX_PROTOCOLS])
                if text and text.isprintable()
            )
        ),
        observed=next(iter(_readable([message.observed_addr])), None),
        agent=_printable(message.agent_version),
        protocol_version=_printable(message.protocol_version),
        has_signed_record=has_record,
    )


def kept_addresses(addresses: Iterable[Multiaddr], seen_at: Multiaddr) -> tuple[Multiaddr, ...]:
    """Those of a peer's addresses that are worth dialing, seeing the peer (or its relay) at `seen_at` (table on top)."""
    allowed = {
        Reach.LOOPBACK: (Reach.LOOPBACK, Reach.PRIVATE, Reach.PUBLIC),
        Reach.PRIVATE: (Reach.PRIVATE, Reach.PUBLIC),
        Reach.PUBLIC: (Reach.PUBLIC,),
    }[reach_of(seen_at)]
    kept = [address for address in addresses if not address.has_circuit and reach_of(address) in allowed]
    return tuple(dict.fromkeys(kept))[:MAX_KEPT_ADDRESSES]


def told_addresses(addresses: Iterable[Multiaddr], remote: Multiaddr) -> tuple[Multiaddr, ...]:
    """Those of our addresses that a peer at `remote` is told: loopback ones only if the peer is on loopback itself."""
    if reach_of(remote) is Reach.LOOPBACK:
        return tuple(addresses)
    return tuple(address for address in addresses if reach_of(address) is not Reach.LOOPBACK)


def _text(value: str | bytes) -> str:
    """protobuf hands out a proto2 string that is no UTF-8 as bytes, whatever its type stubs say."""
    return value if isinstance(value, str) else ""


def _printable(value: str | bytes) -> str:
    return "".join(character for character in _text(value)[:MAX_AGENT_CHARACTERS] if character.isprintable())


def _readable(addresses: Iterable[bytes]) -> tuple[Multiaddr, ...]:
    readable = []
    for data in addresses:
        try:
            readable.append(decode_multiaddr_bytes(data))
        except MultiaddrFault:
            continue
    return tuple(dict.fromkeys(readable))
