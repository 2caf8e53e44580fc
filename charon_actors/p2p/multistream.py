"""multistream-select 1.0: two ends agree on the protocol that a stream of bytes will speak. Sans-IO.

Theory of operation: everything is a token, uvarint(length + 1) ‖ text ‖ newline. Each end sends the header
`/multistream/1.0.0` once, without waiting for the other. The initiator then proposes protocols one by one; the responder repeats
a proposal it speaks, which ends the negotiation, or says `na`. It is used three times: on the raw socket (security), inside
security (muxer, unless agreed early), and on each stream.

    initiator                                    responder
    header, proposal 1 (in one write)      →
                                           ←     header (unasked, at once on accept)
                                           ←     na
    proposal 2                             →
                                           ←     proposal 2     both are done; the next byte is the protocol's

A Go initiator with one proposal does not wait: header, proposal and payload arrive together, and its close waits for both
answers. So the responder answers each token the moment it has it, and whatever stands behind the accepted proposal is
`leftover`. `ls` is a proposal like any other here, and answered with `na`.

Limits: tokens of 1024 bytes, 64 proposals a negotiation. Errors: MultistreamFault, and NotSupported when all was refused.
Source: specification 03-p2p, section 11.1; libp2p specs, connections, multistream-select.
"""

from collections.abc import Collection, Sequence
from typing import Final

from charon_actors.p2p.framing import FramingFault, decode_uvarint, encode_uvarint

HEADER: Final = "/multistream/1.0.0"
NOT_AVAILABLE: Final = "na"
NOISE_PROTOCOL: Final = "/noise"
YAMUX_PROTOCOL: Final = "/yamux/1.0.0"
MAX_TOKEN_BYTES: Final = 1024
MAX_PROPOSALS: Final = 64


class MultistreamFault(Exception):
    """The other end does not speak multistream-select as it should."""


class NotSupported(MultistreamFault):
    """The other end refused every protocol that we proposed."""


def encode_token(text: str) -> bytes:
    """`text` as it stands on the wire."""
    body = text.encode() + b"\n"
    assert len(body) <= MAX_TOKEN_BYTES, "a token has at most 1024 bytes"
    return encode_uvarint(len(body)) + body


class _End:
    """What both ends share: bytes in, tokens out behind the header; bytes after the last token wanted stay in `_buffer`."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._has_header = False
        self.selected: str | None = None

    @property
    def leftover(self) -> bytes:
        return bytes(self._buffer)

    def _next_proposal_or_answer(self) -> str | None:
        token = self._take()
        if self._has_header or token is None:
            return token
        if token != HEADER:
            raise MultistreamFault("the other end does not start with the multistream header")
        self._has_header = True
        return self._take()

    def _take(self) -> str | None:
        try:
            prefix = decode_uvarint(self._buffer)
        except FramingFault as fault:
            raise MultistreamFault(f"bad token: {fault}") from None
        if prefix is None:
            return None
        length, start = prefix
        if not 1 <= length <= MAX_TOKEN_BYTES:
            raise MultistreamFault(f"a token has 1 to {MAX_TOKEN_BYTES} bytes, not {length}")
        if len(self._buffer) < start + length:
            return None
        body = bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        if body[-1:] != b"\n":
            raise MultistreamFault("a token ends with a newline")
        try:
            return body[:-1].decode()
        except UnicodeDecodeError:
            raise MultistreamFault("a token is UTF-8 text") from None


class Initiator(_End):
    """Proposes `protocols` in order of preference. Send `opening()` first, then what each `receive` returns.

    selected: the agreed protocol, None until then. leftover: bytes behind the agreement, meaningful once there is one.
    """

    def __init__(self, protocols: Sequence[str]) -> None:
        assert 0 < len(protocols) <= MAX_PROPOSALS, "propose 1 to 64 protocols"
        super().__init__()
        self._protocols = tuple(protocols)
        self._refused = 0

    def opening(self) -> bytes:
        """Header and first proposal, to be sent together."""
        return encode_token(HEADER) + encode_token(self._protocols[0])

    def receive(self, data: bytes | bytearray) -> bytes:
        """Take bytes of the responder; returns what to send next, often nothing. Raises: MultistreamFault, NotSupported."""
        self._buffer += data
        reply = b""
        while self.selected is None and (token := self._next_proposal_or_answer()) is not None:
            if token == self._protocols[self._refused]:
                self.selected = token
            elif token == NOT_AVAILABLE:
                self._refused += 1
                if self._refused == len(self._protocols):
                    raise NotSupported(f"the peer speaks none of: {', '.join(self._protocols)}")
                reply += encode_token(self._protocols[self._refused])
            else:
                raise MultistreamFault("the answer is neither our proposal nor a refusal")
        return reply


class Responder(_End):
    """Accepts the first proposal that is in `protocols`. Send `opening()` at once, then what each `receive` returns.

    selected: the agreed protocol, None until then. leftover: bytes behind the agreement, meaningful once there is one. proposals: how
    many have come.
    """

    def __init__(self, protocols: Collection[str]) -> None:
        super().__init__()
        self._protocols = protocols
        self.proposals = 0

    def opening(self) -> bytes:
        """The header; `charon test peers` waits for it without sending anything."""
        return encode_token(HEADER)

    def receive(self, data: bytes | bytearray) -> bytes:
        """Take bytes of the initiator; returns what to send next, often nothing. Raises: MultistreamFault."""
        self._buffer += data
        reply = b""
        while self.selected is None and (token := self._next_proposal_or_answer()) is not None:
            self.proposals += 1
            if self.proposals > MAX_PROPOSALS:
                raise MultistreamFault(f"more than {MAX_PROPOSALS} proposals")
            if token in self._protocols:
                self.selected = token
                reply += encode_token(token)
            else:
                reply += encode_token(NOT_AVAILABLE)
        return reply
