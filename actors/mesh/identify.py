"""Identify over streams: asked on every new connection by both sides, answered, pushed when something of ours has changed.

The rules (parts, limits, which addresses count) are in `charon_actors.p2p.identify`; this file reads and writes the streams.
Source: specification 03 §11.5.
"""

from collections.abc import Callable, Iterable, Sequence

import trio

from actors.mesh.carriage import Carriage
from actors.mesh.connection import Connection
from actors.mesh.handlers import PEER_ERRORS, close_quietly
from actors.mesh.stream import Stream
from actors.mesh.upgrade import HostIdentity
from charon_actors.p2p.identify import (
    IDENTIFY,
    IDENTIFY_PUSH,
    IDENTIFY_TIMEOUT_S,
    MAX_PART_BYTES,
    MAX_PARTS,
    HostIdentify,
    IdentifyFault,
    decode_identify,
    encode_identify,
    told_addresses,
)
from charon_actors.p2p.multiaddr import Multiaddr


class Introduction:
    """What we say of ourselves, to each peer according to where it is.

    addresses: called each time, for interfaces come and go. wall_clock: unix seconds, the sequence number of the signed record.
    """

    def __init__(
        self,
        identity: HostIdentity,
        *,
        agent: str,
        protocols: Iterable[str],
        addresses: Callable[[], Sequence[Multiaddr]],
        wall_clock: Callable[[], float],
    ) -> None:
        self._identity, self._agent, self._addresses, self._wall_clock = identity, agent, addresses, wall_clock
        self.protocols = tuple(sorted(protocols))

    def addresses_for(self, connection: Carriage) -> tuple[Multiaddr, ...]:
        """The addresses that this connection's peer is told."""
        return told_addresses(self._addresses(), connection.remote_address)

    def parts_for(self, connection: Carriage) -> list[bytes]:
        """The parts of the identify message for this connection's peer."""
        remote = connection.remote_address
        return encode_identify(
            self._identity.private_key,
            self._identity.peer_id,
            listen=self.addresses_for(connection),
            protocols=self.protocols,
            observed=remote if not remote.has_circuit else None,
            agent=self._agent,
            sequence=int(self._wall_clock() * 1e9),
        )


async def ask_identify(connection: Connection) -> HostIdentify:
    """What the peer says of itself. 5 s. Raises: IdentifyFault, trio.TooSlowError, stream errors."""
    with trio.fail_after(IDENTIFY_TIMEOUT_S):
        stream = await connection.open_stream((IDENTIFY,))
        try:
            return await read_identify(stream)
        finally:
            stream.reset()


async def read_identify(stream: Stream) -> HostIdentify:
    """Parts until the peer closes. Raises: IdentifyFault, stream errors."""
    data = bytearray()
    limit = MAX_PARTS * (MAX_PART_BYTES + 2)
    while chunk := await stream.receive_some(limit + 1 - len(data)):
        data += chunk
        if len(data) > limit:
            raise IdentifyFault("identify is too long")
    return decode_identify(_split(data), stream.connection.peer_id)


async def serve_identify(stream: Stream, introduction: Introduction) -> None:
    """Answer one identify stream. 5 s."""
    with trio.move_on_after(IDENTIFY_TIMEOUT_S):
        try:
            for part in introduction.parts_for(stream.connection):
                await stream.write_delimited(part)
        except PEER_ERRORS:
            pass
    await close_quietly(stream)


async def push_identify(connection: Connection, introduction: Introduction) -> None:
    """Tell the peer what has changed. 5 s. Raises: trio.TooSlowError, stream errors."""
    with trio.fail_after(IDENTIFY_TIMEOUT_S):
        stream = await connection.open_stream((IDENTIFY_PUSH,))
        try:
            for part in introduction.parts_for(connection):
                await stream.write_delimited(part)
        finally:
            await close_quietly(stream)


def _split(data: bytearray) -> list[bytes]:
    from charon_actors.p2p.framing import FramingFault, take_delimited

    parts = []
    try:
        while data:
            part = take_delimited(data, MAX_PART_BYTES)
            if part is None:
                raise IdentifyFault("identify ends in the middle of a part")
            parts.append(part)
    except FramingFault as error:
        raise IdentifyFault(str(error)) from None
    return parts
