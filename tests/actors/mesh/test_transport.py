"""A transport of the tests' own plugs into the mesh: no socket, the same handshake, gate, streams and places."""

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from actors.mesh import Incoming, Mesh, MeshConfig, MeshFault, build_mesh, mesh_peers
from actors.mesh.faults import DialFault
from charon_actors.enr import new_record
from charon_actors.p2p.multiaddr import Multiaddr, tcp_multiaddr
from charon_actors.profile import Profile
from tests.actors.mesh.rig import key_of
from tests.actors.mesh.test_mesh import ECHO, Inboxes
from tests.charon_actors.p2p.vectors import counter_entropy

PLACES = [tcp_multiaddr("127.0.0.1", 9000 + index) for index in range(3)]


class Wire:
    """Where everybody listens, by address."""

    name = "memory"

    def __init__(self) -> None:
        self.listening: dict[Multiaddr, trio.MemorySendChannel[Incoming]] = {}
        self.streams: list[Any] = []

    def speaks(self, address: Multiaddr) -> bool:
        return address in PLACES

    async def dial(self, address: Multiaddr) -> trio.abc.Stream:
        if address not in self.listening:
            raise DialFault("nobody is there")
        ours, theirs = trio.testing.memory_stream_pair()
        self.streams += [ours, theirs]
        await self.listening[address].send(Incoming(theirs, PLACES[-1], ("127.0.0.1", len(self.streams))))
        return ours


class Door:
    def __init__(self, wire: Wire, address: Multiaddr) -> None:
        wire.listening[address], self._incoming = trio.open_memory_channel[Incoming](8)

    async def accept(self) -> Incoming:
        try:
            return await self._incoming.receive()
        except trio.EndOfChannel:
            raise OSError(errno.EBADF, "closed") from None


@asynccontextmanager
async def two_on(wire: Wire, inboxes: Inboxes) -> AsyncIterator[list[Mesh]]:
    peers = mesh_peers([new_record(key_of(index)) for index in range(2)], {index: [PLACES[index]] for index in range(2)})
    async with trio.open_nursery() as nursery:
        meshes = []
        for index in range(2):
            mesh, plain = build_mesh(
                MeshConfig(private_key=key_of(index), peers=peers, own_index=index, profile=Profile.V1_10, lock_hash=bytes(32)),
                inboxes.handlers(index),
                entropy=counter_entropy(f"node {index}"),
                wall_clock=lambda: 1_700_000_000.0 + trio.current_time(),
                transports=[wire],
                acceptors=[Door(wire, PLACES[index])],
            )
            for body in plain.values():
                nursery.start_soon(body)
            meshes.append(mesh)
        yield meshes
        nursery.cancel_scope.cancel()


async def test_two_nodes_meet_talk_and_lose_each_other_over_a_transport_of_another_kind() -> None:
    wire, inboxes = Wire(), Inboxes(2)
    async with two_on(wire, inboxes) as (one, two):
        with trio.fail_after(20):
            await one.board.wait_until(lambda: one.connected_count == 1)
            await two.board.wait_until(lambda: two.connected_count == 1)
            assert await one.exchange(1, [ECHO], b"hello") == b"\x00hello"
            wire.listening.clear()
            for stream in wire.streams:
                await trio.aclose_forcefully(stream)
            await one.board.wait_until(lambda: one.connected_count == 0)
            with pytest.raises(MeshFault):
                await one.exchange(1, [ECHO], b"hello", 2.0)
            status = await one.status(1)
    assert "nobody is there" in status.dial_failures.values()
