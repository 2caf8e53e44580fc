"""Carriage: what all streams of one connection share: the queue of frames, room in it, credit, and who pays for what they hold.

One object owns these, so that whoever counts something counts it in one place:

    queue       frames that wait to be written; senders wait while QUEUE_MARK_BYTES are in it
    credit      what the peer may still send on a stream, given as its bytes are taken
    counters    `unread_bytes`: received and not taken; `assembling_bytes`: of messages that are not whole yet; both by the streams
    lingering   streams that we have closed and the peer has not

Nothing here waits, and nothing is written: the connection's writer does that (`connection.py`).

Limits: MAX_LINGERING streams, each for LINGER_S and LINGER_BYTES; memory by the account.
Source: specification 03 §9, §10, §11.1 to §11.4.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import trio

from charon_actors.p2p.multiaddr import Multiaddr
from charon_actors.p2p.yamux import YamuxSession

QUEUE_MARK_BYTES: Final = 512 * 1024
LINGER_S: Final = 120.0  # the longest handler of a peer (03 §5.1)
LINGER_BYTES: Final = 65_536  # an answer that nobody reads may be small, as bcast's `00`; what sends on and on is cut off
MAX_LINGERING: Final = 1024


class Holder(Protocol):
    """Who pays."""

    def hold(self, count: int) -> None: ...


class Carriage:
    """peer_id: proven. outbound: did we dial? limited: by a relay. relayed: through a circuit. account: who pays.

    progress: woken when the queue has room or a slot is free. streams: open on our side, by yamux id.
    """

    def __init__(self, peer_id: bytes, remote_address: Multiaddr, account: Holder, *, outbound: bool, limited: bool) -> None:
        self.peer_id, self.remote_address = peer_id, remote_address
        self.outbound, self.limited, self.relayed = outbound, limited, remote_address.has_circuit
        self.unread_bytes = self.assembling_bytes = 0  # of all streams; kept by them
        self.progress = trio.lowlevel.ParkingLot()
        self._payer = account
        self._session = YamuxSession(is_client=outbound)
        self._streams: dict[int, Any] = {}
        self._lingering: dict[int, Lingering] = {}
        self._output = trio.Event()

    @property
    def streams(self) -> Mapping[int, Any]:
        """Streams that are open on our side."""
        return self._streams

    @property
    def stream_count(self) -> int:
        """All streams that hold memory here, also those that only the peer has still to end."""
        return len(self._session)

    def cut_stream(self, stream: Any) -> None:
        """For the account: this stream holds too much."""
        raise NotImplementedError

    def cut_off(self, reason: str) -> None:
        """For the account: this connection costs too much."""
        raise NotImplementedError

    # ---- what its streams call, always synchronously ----

    @property
    def has_room(self) -> bool:
        """May user tasks queue more?"""
        return self._session.output_bytes < QUEUE_MARK_BYTES

    def hold(self, count: int) -> None:
        self._payer.hold(count)

    def send_window(self, stream_id: int) -> int:
        return self._session.send_window(stream_id)

    def queue_data(self, stream_id: int, chunk: bytes | memoryview) -> None:
        self._session.send(stream_id, chunk)
        self._output.set()

    def queue_credit(self, stream_id: int, count: int) -> None:
        self.unread_bytes -= count
        self._session.consume(stream_id, count, trio.current_time())
        self._output.set()

    def queue_finish(self, stream_id: int) -> None:
        self._session.finish(stream_id)
        self._output.set()

    def queue_close(self, stream_id: int, unread_bytes: int, *, has_ended: bool) -> None:
        self._streams.pop(stream_id, None)
        self.queue_finish(stream_id)
        if stream_id in self._session and not has_ended:
            self._lingering[stream_id] = Lingering(trio.current_time() + LINGER_S, unread_bytes)
            if unread_bytes > LINGER_BYTES:
                self._cut_off(stream_id)
            elif len(self._lingering) > MAX_LINGERING:
                self._cut_off(next(iter(self._lingering)))

    def queue_reset(self, stream_id: int, code: int) -> None:
        self._streams.pop(stream_id, None)
        self._lingering.pop(stream_id, None)
        self._session.reset(stream_id, code)
        self._output.set()
        self.progress.unpark_all()

    def _cut_off(self, stream_id: int) -> None:
        """We have closed it long ago, and the peer has not: its slot is needed."""
        del self._lingering[stream_id]
        self._session.reset(stream_id)
        self._output.set()


class Lingering:
    """A stream that we have closed and the peer has not."""

    __slots__ = ("received_bytes", "until")

    def __init__(self, until: float, received_bytes: int) -> None:
        self.until, self.received_bytes = until, received_bytes
