"""Server-sent events, the format of `/eth/v1/events`: bytes in, events out. Sans-IO.

    line                     meaning
    `field: value`           one blank after the colon is dropped; fields: event, data; retry and id are ignored
    `: …`                    a comment
    empty                    the event is over; it counts if there was data; several data lines are joined by LF
    LF, CR LF                end a line (a lone CR, which the HTML standard allows as well, no beacon node sends)

Limits: MAX_LINE bytes without an end of line, MAX_DATA bytes an event; more raises EventFault and the stream is of no use any more.
Source: specification 08 §10, 07 §7.3 #10; HTML standard, "Server-sent events".
"""

from typing import Final

import msgspec

MAX_LINE: Final = 2**20
MAX_DATA: Final = 2**22
MAX_TOPIC: Final = 64


class EventFault(Exception):
    """The stream is not one of events, or an event is too long."""


class Event(msgspec.Struct, frozen=True):
    """One event. topic: `message` if it has none."""

    topic: str
    data: bytes


class EventParser:
    """Feed it what arrives, in pieces of any size; it returns the events that are complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._topic = ""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes. Raises: EventFault."""
        searched = len(self._buffer)
        self._buffer += chunk
        if self._buffer.find(b"\n", searched) < 0:
            if len(self._buffer) > MAX_LINE:
                raise EventFault(f"a line of more than {MAX_LINE} bytes")
            return []
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        events = []
        for line in lines:
            event = self._line(bytes(line[:-1] if line.endswith(b"\r") else line))
            if event is not None:
                events.append(event)
        if len(self._buffer) > MAX_LINE:
            raise EventFault(f"a line of more than {MAX_LINE} bytes")
        return events

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if field == b"data":
            self._data_bytes += len(value) + 1
            if self._data_bytes > MAX_DATA:
                raise EventFault(f"an event of more than {MAX_DATA} bytes")
            self._data.append(value)
        elif field == b"event":
            self._topic = value[:MAX_TOPIC].decode("ascii", "replace")
        return None

    def _dispatch(self) -> Event | None:
        topic, data, has_data = self._topic or "message", b"\n".join(self._data), bool(self._data)
        self._topic, self._data, self._data_bytes = "", [], 0
        return Event(topic, data) if has_data else None


def encode_event(event: Event) -> bytes:
    """The event as validator clients read it: `event: x`, `data: y`, with a blank (07 §7.3 #10)."""
    lines = b"".join(b"data: " + line + b"\n" for line in event.data.split(b"\n"))
    return b"event: " + event.topic.encode("ascii", "replace") + b"\n" + lines + b"\n"
