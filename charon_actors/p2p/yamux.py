"""yamux: many streams over one connection. Sans-IO.

Theory of operation: a frame is a 12-byte header (big endian: version u8 = 0, type u8, flags u16, stream id u32, length u32), and only
a data frame has `length` bytes of payload behind it.

    type              length means            flags that mean something
    0 data            payload bytes           SYN opens, ACK accepts, FIN half-closes, RST kills
    1 window update   credit in bytes         the same; with RST the length is an error code, never credit
    2 ping            opaque                  SYN asks, ACK answers with the same value; stream id 0
    3 go away         connection error code   stream id 0; the session is over

The client's stream ids are odd, the server's even. Each direction of a stream has a window of 262144 bytes at the start; payload takes
from it, updates give back. We never send above the window, and a peer that does has broken the connection. Credit is returned when
half of the target is used up; the target doubles (to 16 MiB at most, within a budget of the connection) when that takes less than
four round trips, as Go and js do.

    what happens to a stream        it is forgotten, and its slot free, when
    local FIN and remote FIN        both were seen, in any order
    local reset                     at once; frames that still arrive for it are dropped silently
    remote reset                    at once

Ids of a Go peer may arrive slightly out of order (it counts first and writes later), so "reused" means: seen before, or skipped so
long ago that we no longer remember.

Output stands in two queues: control (ping, ACK, credit) overtakes; SYN, data, FIN and RST keep their order. The machine does not bound
its ordered queue in bytes: its owner stops calling `open` and `send` while `output_bytes` is above its mark. What a peer can make us
queue is bounded here (MAX_QUEUED_FRAMES).

Limits: the constants below. Errors: YamuxFault, a connection error, after which only `take_output` makes sense (a go-away waits there).
Source: specification 03-p2p, section 11.4; hashicorp/yamux spec.md; libp2p specs, yamux.
"""

import struct
from collections import deque
from typing import Final, NamedTuple

INITIAL_WINDOW_BYTES: Final = 262_144
MAX_WINDOW_BYTES: Final = 16 * 2**20
MAX_EXTRA_WINDOW_BYTES: Final = 64 * 2**20  # all streams of a connection together, above their initial windows
MAX_FRAME_BYTES: Final = 65_524  # payload; with its header one noise message and 17 bytes, as Go sends it
MAX_INBOUND_STREAMS: Final = 512
MAX_UNACKNOWLEDGED: Final = 256  # accept backlog of Go; one more would be reset
MAX_QUEUED_FRAMES: Final = 65_536
MAX_SKIPPED_IDS: Final = 256
_LARGEST: Final = 2**32 - 1

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8

# stream error codes; those of connections are one lower
NEGOTIATION_FAILED: Final = 0x1001
RESOURCE_LIMIT: Final = 0x1002
PROTOCOL_VIOLATION: Final = 0x1004
SHUTDOWN: Final = 0x1007
GO_AWAY_NORMAL, GO_AWAY_PROTOCOL = 0, 1

_HEADER: Final = struct.Struct(">BBHII")
assert _HEADER.size == 12


class YamuxFault(Exception):
    """The peer broke the rules of the session; the connection has to be closed."""


class Opened(NamedTuple):
    """The peer opened this stream; it is acknowledged already."""

    stream_id: int


class Received(NamedTuple):
    """Bytes of a stream. Give the credit back with `consume` once they are read."""

    stream_id: int
    data: bytes


class Finished(NamedTuple):
    """The peer will send no more on this stream."""

    stream_id: int


class Killed(NamedTuple):
    """The stream is gone, reset by the peer (`by_peer`) or, for a breach of its rules, by us."""

    stream_id: int
    code: int
    by_peer: bool


class Credited(NamedTuple):
    """The peer gave credit: more may be sent on this stream."""

    stream_id: int


class Ponged(NamedTuple):
    """The peer answered the ping with this value."""

    opaque: int


class GoneAway(NamedTuple):
    """The peer ended the session."""

    code: int


Event = Opened | Received | Finished | Killed | Credited | Ponged | GoneAway


class _Stream:
    __slots__ = (
        "epoch_start",
        "has_finished",
        "has_remote_finished",
        "is_acknowledged",
        "is_ours",
        "receive_window",
        "send_window",
        "target",
        "unread",
    )

    def __init__(self, is_ours: bool) -> None:
        self.is_ours, self.is_acknowledged = is_ours, not is_ours
        self.send_window = self.receive_window = self.target = INITIAL_WINDOW_BYTES
        self.unread = 0
        self.epoch_start: float | None = None
        self.has_finished = self.has_remote_finished = False


def encode_frame(kind: int, flags: int, stream_id: int, length: int, payload: bytes | bytearray | memoryview = b"") -> bytes:
    """One frame as it stands on the wire."""
    header = _HEADER.pack(0, kind, flags, stream_id, length)
    return header + payload if payload else header


class YamuxSession:
    """Both queues, all windows and ids of one connection. `is_client`: did we dial (in the sense of the security handshake)?

    rtt_s: the last measured round trip, set by the owner; 0 turns window tuning off. frames: that the peer has sent so far.
    """

    def __init__(self, *, is_client: bool, max_inbound_streams: int = MAX_INBOUND_STREAMS) -> None:
        self._is_client = is_client
        self._next_id = 1 if is_client else 2
        self._highest_remote_id = 0 if is_client else -1
        self._skipped: deque[int] = deque(maxlen=MAX_SKIPPED_IDS)
        self._streams: dict[int, _Stream] = {}
        self._max_inbound_streams = max_inbound_streams
        self._control: deque[bytes] = deque()
        self._ordered: deque[bytes] = deque()
        self._input, self._offset = b"", 0
        self._payload_left = 0
        self._payload_of = 0
        self._payload_is_last = False
        self._extra_window = 0
        self.frames = 0
        self.rtt_s = 0.0
        self.output_bytes = 0
        self.unacknowledged = 0
        self.inbound_count = 0

    # ---- what the owner asks ----

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._streams

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def is_flooded(self) -> bool:
        """The peer does not read what it makes us say: nothing more is to be queued for its sake."""
        return len(self._control) + len(self._ordered) >= MAX_QUEUED_FRAMES // 2

    def send_window(self, stream_id: int) -> int:
        """How many bytes may be sent on this stream now; 0 when it is gone or finished."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None or stream.has_finished else stream.send_window

    # ---- what the owner does ----

    def open(self) -> int:
        """Open a stream and return its id. Data may follow at once.

        The owner waits while `unacknowledged` is MAX_UNACKNOWLEDGED. Raises: YamuxFault when all ids are used up.
        """
        assert self.unacknowledged < MAX_UNACKNOWLEDGED, "the peer has not yet accepted 256 of our streams"
        if self._next_id > _LARGEST:
            raise YamuxFault("the stream ids of this connection are used up")
        stream_id, self._next_id = self._next_id, self._next_id + 2
        self._streams[stream_id] = _Stream(is_ours=True)
        self.unacknowledged += 1
        self._queue(self._ordered, encode_frame(WINDOW_UPDATE, SYN, stream_id, 0))
        return stream_id

    def send(self, stream_id: int, data: bytes | bytearray | memoryview) -> None:
        """Queue `data` as one frame. At most MAX_FRAME_BYTES and `send_window(stream_id)` bytes, and not after `finish`."""
        stream = self._streams[stream_id]
        assert not stream.has_finished, "this side has finished"
        assert 0 < len(data) <= min(MAX_FRAME_BYTES, stream.send_window), "more than one frame, or more than the window"
        stream.send_window -= len(data)
        self._queue(self._ordered, encode_frame(DATA, 0, stream_id, len(data), data))

    def finish(self, stream_id: int) -> None:
        """Half-close: no more data from us. Does nothing when that has happened, or the stream is gone."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.has_finished:
            return
        stream.has_finished = True
        self._queue(self._ordered, encode_frame(WINDOW_UPDATE, FIN, stream_id, 0))
        if stream.has_remote_finished:
            self._forget(stream_id)

    def reset(self, stream_id: int, code: int = 0) -> None:
        """Kill a stream in both directions and free its slot. Does nothing when it is gone."""
        if self._forget(stream_id):
            self._queue(self._ordered, encode_frame(WINDOW_UPDATE, RST, stream_id, code))

    def consume(self, stream_id: int, count: int, now: float) -> None:
        """The application has read `count` bytes; returns credit to the peer when it is worth a frame."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.unread -= count
        assert stream.unread >= 0, "more was read than came"
        if stream.has_remote_finished:
            return
        credit = stream.target - stream.receive_window - stream.unread
        if credit < stream.target // 2:
            return
        if stream.epoch_start is not None and now - stream.epoch_start < 4 * self.rtt_s:
            budget = MAX_EXTRA_WINDOW_BYTES - self._extra_window
            growth = max(0, min(stream.target, MAX_WINDOW_BYTES - stream.target, budget))
            self._extra_window += growth
            stream.target += growth
            credit += growth
        stream.epoch_start = now
        stream.receive_window += credit
        self._queue(self._control, encode_frame(WINDOW_UPDATE, 0, stream_id, credit))

    def ping(self, opaque: int) -> None:
        """Ask for an answer with the same 32-bit value (event Ponged)."""
        self._queue(self._control, encode_frame(PING, SYN, 0, opaque))

    def go_away(self, code: int = GO_AWAY_NORMAL) -> None:
        """Tell the peer, behind all that is queued, that the session is over."""
        self._queue(self._ordered, encode_frame(GO_AWAY, 0, 0, code))

    def take_output(self, limit_bytes: int, max_frames: int = MAX_QUEUED_FRAMES) -> bytes:
        """Remove and return whole frames, at most `limit_bytes` of them but at least one; b"" when there is none."""
        frames: list[bytes] = []
        size = 0
        for queue in (self._control, self._ordered):
            while queue and len(frames) < max_frames and (not frames or size + len(queue[0]) <= limit_bytes):
                frames.append(queue.popleft())
                size += len(frames[-1])
        self.output_bytes -= size
        return b"".join(frames)

    # ---- what the peer does ----

    @property
    def has_input(self) -> bool:
        """Is there something that `receive` was given and has not come to yet?"""
        left = len(self._input) - self._offset
        return left >= _HEADER.size or (left > 0 and self._payload_left > 0)

    def receive(self, data: bytes, max_frames: int | None = None) -> list[Event]:
        """Events in the order in which the peer caused them; payload is handed on as it comes, not frame by frame.

        max_frames: how many frames may begin now; what stands behind them is kept for the next call (`has_input`).
        Raises: YamuxFault; a go-away frame is queued then, and the events before the fault are lost with the connection.
        """
        offset = 0
        if self._input and data:
            data = self._input[self._offset :] + data
        elif self._input:
            data, offset = self._input, self._offset
        events: list[Event] = []
        end, last = len(data), None if max_frames is None else self.frames + max_frames
        try:
            while True:
                if self._payload_left:
                    if offset == end:
                        break
                    chunk = data[offset : offset + self._payload_left]
                    offset += len(chunk)
                    self._payload(chunk, events)
                elif end - offset < _HEADER.size or self.frames == last:
                    break
                else:
                    self.frames += 1
                    self._frame(events, *_HEADER.unpack_from(data, offset))
                    offset += _HEADER.size
        except YamuxFault:
            self.go_away(GO_AWAY_PROTOCOL)
            raise
        self._input, self._offset = (data, offset) if offset < end else (b"", 0)
        return events

    def _frame(self, events: list[Event], version: int, kind: int, flags: int, stream_id: int, length: int) -> None:
        if version != 0 or kind > GO_AWAY:
            raise YamuxFault(f"unknown frame: version {version}, type {kind}")
        if kind == PING:
            if flags & SYN:
                self._answer(encode_frame(PING, ACK, 0, length))
            elif flags & ACK:
                events.append(Ponged(length))
            return
        if kind == GO_AWAY:
            events.append(GoneAway(length))
            return
        if stream_id == 0:
            raise YamuxFault("stream id 0 is for pings")
        if flags & SYN:
            self._accept(stream_id, events)
        stream = self._streams.get(stream_id)
        if stream is not None and flags & ACK and not stream.is_acknowledged:
            stream.is_acknowledged = True
            self.unacknowledged -= 1
        if kind == WINDOW_UPDATE:
            if flags & RST:
                if self._forget(stream_id):
                    events.append(Killed(stream_id, length, by_peer=True))
                return
            if stream is not None:
                if length:
                    stream.send_window = min(stream.send_window + length, _LARGEST)
                    events.append(Credited(stream_id))
                if flags & FIN:
                    self._remote_finish(stream_id, stream, events)
            return
        # data
        self._payload_left, self._payload_of, self._payload_is_last = length, stream_id, bool(flags & FIN)
        if flags & RST:
            if self._forget(stream_id):
                events.append(Killed(stream_id, 0, by_peer=True))
        elif stream is not None:
            if length > stream.receive_window:
                raise YamuxFault(f"{length} bytes of data for a window of {stream.receive_window}")
            if stream.has_remote_finished and length:
                self.reset(stream_id, PROTOCOL_VIOLATION)
                events.append(Killed(stream_id, PROTOCOL_VIOLATION, by_peer=False))
                return
            stream.receive_window -= length
            if length == 0 and flags & FIN:
                self._remote_finish(stream_id, stream, events)

    def _payload(self, chunk: bytes, events: list[Event]) -> None:
        self._payload_left -= len(chunk)
        stream = self._streams.get(self._payload_of)
        if stream is None:
            return  # reset in the meantime, or never known: dropped silently
        stream.unread += len(chunk)
        events.append(Received(self._payload_of, chunk))
        if self._payload_left == 0 and self._payload_is_last:
            self._remote_finish(self._payload_of, stream, events)

    def _accept(self, stream_id: int, events: list[Event]) -> None:
        if (stream_id % 2 == 1) == self._is_client:
            raise YamuxFault(f"stream id {stream_id} is ours to give")
        if stream_id > self._highest_remote_id:
            first_skipped = max(self._highest_remote_id + 2, stream_id - 2 * MAX_SKIPPED_IDS)
            self._skipped.extend(range(first_skipped, stream_id, 2))
            self._highest_remote_id = stream_id
        elif stream_id in self._skipped:
            self._skipped.remove(stream_id)
        else:
            raise YamuxFault(f"stream id {stream_id} is used again")
        if self.inbound_count >= self._max_inbound_streams:
            self._answer(encode_frame(WINDOW_UPDATE, RST, stream_id, RESOURCE_LIMIT))
            return
        self._streams[stream_id] = _Stream(is_ours=False)
        self.inbound_count += 1
        self._answer(encode_frame(WINDOW_UPDATE, ACK, stream_id, 0))
        events.append(Opened(stream_id))

    def _remote_finish(self, stream_id: int, stream: _Stream, events: list[Event]) -> None:
        if stream.has_remote_finished:
            return
        stream.has_remote_finished = True
        events.append(Finished(stream_id))
        if stream.has_finished:
            self._forget(stream_id)

    def _forget(self, stream_id: int) -> bool:
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return False
        self.unacknowledged -= not stream.is_acknowledged
        self.inbound_count -= not stream.is_ours
        self._extra_window -= stream.target - INITIAL_WINDOW_BYTES
        return True

    def _answer(self, frame: bytes) -> None:
        """Queue what the peer made us say; it must not make us say more than it reads."""
        if len(self._control) + len(self._ordered) >= MAX_QUEUED_FRAMES:
            raise YamuxFault("the peer asks faster than it reads the answers")
        self._queue(self._control, frame)

    def _queue(self, queue: deque[bytes], frame: bytes) -> None:
        queue.append(frame)
        self.output_bytes += len(frame)
