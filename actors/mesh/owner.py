"""Owner: what peer and relay children alike do with a connection: keep it, run it, introduce, serve its streams, let go of it.

    comes up    kept; a task of its own runs it until it is lost, and asks the other end to identify itself
    a stream    ping, identify, push and peerinfo are answered here; any other protocol is the subclass's to `dispatch`
    ends        closed and forgotten, whatever ended it

A bug in a handler costs that stream only: it is counted and logged, for a peer must not be able to take down more.

Limits: MAX_INBOUND_STREAMS served at a time.
Source: specification 03 §2.4, §3.3, §4.
"""

from collections.abc import Sequence
from typing import ClassVar, Final

import trio

from actors.log import Log
from actors.mesh.carriage import Carriage
from actors.mesh.connection import Connection, ConnectionLost
from actors.mesh.facts import StreamRefused
from actors.mesh.faults import describe
from actors.mesh.handlers import BugLog, close_quietly
from actors.mesh.host import Host
from actors.mesh.identify import ask_identify, read_identify, serve_identify
from actors.mesh.peerinfo import serve_peerinfo
from actors.mesh.ping import PING, serve_ping
from actors.mesh.stream import Stream
from charon_actors.errors import Retryable
from charon_actors.p2p.identify import IDENTIFY, IDENTIFY_PUSH, HostIdentify, IdentifyFault
from charon_actors.p2p.peerinfo import PEERINFO

MAX_INBOUND_STREAMS: Final = 512
PUSH_TIMEOUT_S: Final = 5.0
RESOURCE_LIMIT_CODE: Final = 0x1002

STREAM_ERRORS: tuple[type[Exception], ...] = (trio.BrokenResourceError, trio.ClosedResourceError)  # StreamFault of all kinds
IDENTIFY_ERRORS: tuple[type[Exception], ...] = (*STREAM_ERRORS, IdentifyFault, trio.TooSlowError)


class Owner:
    """A subclass says whose connections they are, and what follows from each step. name_of: in facts and the log.

    WHO: in the log. ERRORS: what the other end may cause; anything else is a bug of ours.
    """

    WHO: ClassVar[str]
    ERRORS: ClassVar[tuple[type[Exception], ...]] = IDENTIFY_ERRORS

    def __init__(self, host: Host, log: Log) -> None:
        self._host, self._log = host, log
        self._bugs = BugLog(log, host.on_fact)
        self._nursery: trio.Nursery
        self._inbound_streams = 0
        self.connections: dict[Connection, float] = {}  # -> when it came up; in that order

    def begin(self, nursery: trio.Nursery) -> None:
        """Where the tasks of its connections run."""
        self._nursery = nursery

    def own(self, connection: Connection) -> None:
        """Keep it, and run it."""
        self.connections[connection] = trio.current_time()
        self.changed()
        self._nursery.start_soon(self._run, connection)

    def close_all(self, reason: str) -> None:
        for connection in list(self.connections):
            connection.close(reason)

    # for the subclass

    def name_of(self, connection: Carriage) -> str:
        raise NotImplementedError

    def protocols(self) -> Sequence[str]:
        """What the other end may open."""
        raise NotImplementedError

    async def dispatch(self, stream: Stream) -> None:
        """Serve a stream of a protocol that isn't built in."""
        raise NotImplementedError

    def changed(self) -> None:
        """A connection has come or gone."""

    def will_introduce(self, connection: Connection) -> None:
        """The other end is about to be asked, and to ask."""

    def learn(self, said: HostIdentify, connection: Carriage) -> None:
        """The other end has said who it is, asked or not."""

    def identified(self, connection: Connection) -> None:
        """The other end has answered when asked."""

    def stream_over(self, stream: Stream) -> None:
        """A stream that was served is over."""

    def ended(self, connection: Connection, age_s: float, reason: str) -> None:
        """It is no longer among the connections."""

    # what is alike

    async def _run(self, connection: Connection) -> None:
        reason = "closed"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._introduce, connection)
                try:
                    await connection.run(self._serve, self.protocols)
                except ConnectionLost as error:
                    reason = describe(error)
                nursery.cancel_scope.cancel()
        finally:
            connection.close(f"this {self.WHO.lower()}'s actor let go of it")
            self.ended(connection, trio.current_time() - self.connections.pop(connection), reason)
            self.changed()
        self.log_end(connection, reason)

    # lines for the log: each subclass speaks of its own kind

    def log_end(self, connection: Connection, reason: str) -> None:
        raise NotImplementedError

    def log_unidentified(self, error: str) -> None:
        raise NotImplementedError

    def log_broken(self, protocol: str, error: str) -> None:
        raise NotImplementedError

    async def _introduce(self, connection: Connection) -> None:
        try:
            self.will_introduce(connection)
            self.learn(await ask_identify(connection), connection)
        except self.ERRORS as error:
            self.log_unidentified(describe(error))
        except Exception as error:
            self._bugs.note(self.name_of(connection), IDENTIFY, error)
        else:
            self.identified(connection)

    async def _serve(self, stream: Stream) -> None:
        if self._inbound_streams >= MAX_INBOUND_STREAMS:
            stream.reset(RESOURCE_LIMIT_CODE)
            self._host.on_fact(StreamRefused(self.name_of(stream.connection)))
            return
        self._inbound_streams += 1
        try:
            await self._dispatch(stream)
        except self.ERRORS as error:
            self.log_broken(stream.protocol, describe(error))
            stream.reset()
        except Retryable:
            stream.reset()
        except Exception as error:
            self._bugs.note(self.name_of(stream.connection), stream.protocol, error)
            stream.reset()
        finally:
            self._inbound_streams -= 1
            self.stream_over(stream)

    async def _dispatch(self, stream: Stream) -> None:
        match stream.protocol:
            case _ if stream.protocol == PING:
                await serve_ping(stream)
            case _ if stream.protocol == IDENTIFY:
                await serve_identify(stream, self._host.introduction)
            case _ if stream.protocol == IDENTIFY_PUSH:
                with trio.move_on_after(PUSH_TIMEOUT_S):
                    self.learn(await read_identify(stream), stream.connection)
                await close_quietly(stream)
            case _ if stream.protocol == PEERINFO:
                await serve_peerinfo(stream, self._host.own_info)
            case _:
                await self.dispatch(stream)
