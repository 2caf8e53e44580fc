"""Openings: streams that the peer has opened and for which nothing is agreed yet. No task, no Stream: a row each.

Theory of operation. A stream costs its opener 12 bytes and would cost us a task, two parking lots and a negotiation; so there is none of
that before the protocol is agreed. The negotiation is sans-IO (`Responder`) and is fed by the connection's reader; its answers are
short and go out at once.

    what comes                       what happens
    bytes of a proposal              kept, at most a token (1024 bytes)
    a proposal that we don't speak   `na`, and the next one may come
    one that we speak                the row becomes a Stream with a handler
    anything else, an early end      reset
    nothing, for NEGOTIATION_TIMEOUT_S   reset

Limits: those of multistream (64 proposals) and yamux (512 inbound streams a connection). Source: specification 03 §11.1.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from charon_actors.p2p.connection import NEGOTIATION_TIMEOUT_S
from charon_actors.p2p.multistream import MultistreamFault, Responder
from charon_actors.p2p.yamux import NEGOTIATION_FAILED, YamuxSession

MAX_ANSWER_BYTES: Final = 65_524


class ProtocolAgreed(NamedTuple):
    """A stream has its protocol. leftover: what came behind the proposal. received_bytes, sent_bytes: of the negotiation."""

    protocol: str
    leftover: bytes
    received_bytes: int
    sent_bytes: int


class _Opening:
    __slots__ = ("received_bytes", "responder", "sent_bytes", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.responder: Responder | None = None
        self.received_bytes = self.sent_bytes = 0


class Openings:
    """Of one connection. protocols: what the peer may choose from, asked for each stream."""

    def __init__(self, session: YamuxSession, protocols: Callable[[], Sequence[str]]) -> None:
        self._session, self._protocols = session, protocols
        self._rows: dict[int, _Opening] = {}
        self.refused = 0  # proposals, of all streams

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def next_end(self) -> float | None:
        """When the oldest row's time is over."""
        return next(iter(self._rows.values())).until if self._rows else None

    def begin(self, stream_id: int, now: float) -> None:
        """The peer opened this stream."""
        self._rows[stream_id] = _Opening(now + NEGOTIATION_TIMEOUT_S)

    def feed(self, stream_id: int, data: bytes, now: float) -> ProtocolAgreed | None:
        """Bytes of a stream in a row. Credit for what was used of them is returned; the leftover has none yet."""
        row = self._rows[stream_id]
        if row.responder is None:
            row.responder = Responder(self._protocols())
            answer = row.responder.opening()
        else:
            answer = b""
        row.received_bytes += len(data)
        refused = row.responder.proposals
        try:
            answer += row.responder.receive(data)
        except MultistreamFault:
            self.end(stream_id, NEGOTIATION_FAILED)
            return None
        is_agreed = row.responder.selected is not None
        self.refused += row.responder.proposals - refused - is_agreed
        leftover = row.responder.leftover if is_agreed else b""
        self._session.consume(stream_id, len(data) - len(leftover), now)
        if len(answer) > min(MAX_ANSWER_BYTES, self._session.send_window(stream_id)) or self._session.is_flooded:
            self.end(stream_id, NEGOTIATION_FAILED)
            return None
        if answer:
            self._session.send(stream_id, answer)
            row.sent_bytes += len(answer)
        if row.responder.selected is None:
            return None
        del self._rows[stream_id]
        return ProtocolAgreed(row.responder.selected, leftover, row.received_bytes, row.sent_bytes)

    def forget(self, stream_id: int) -> bool:
        """The stream is gone. False: it was not here."""
        return self._rows.pop(stream_id, None) is not None

    def end(self, stream_id: int, code: int = 0) -> None:
        """Reset a stream that is here."""
        del self._rows[stream_id]
        self._session.reset(stream_id, code)

    def expire(self, now: float) -> None:
        """Reset those whose time is over."""
        while self._rows and (self.next_end or 0.0) <= now:
            self.end(next(iter(self._rows)), NEGOTIATION_FAILED)
