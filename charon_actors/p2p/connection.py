"""Upgrade: from a raw byte stream to an authenticated, multiplexed connection. Sans-IO.

Theory of operation: three negotiations behind each other, on one stream of bytes.

    stage        dialer proposes                listener                          next
    security     /multistream/1.0.0, /noise     header at once; `na` to others    noise
    noise        Noise XX, identities proven    the same                          muxer, or done when agreed early
    muxer        /yamux/1.0.0 inside noise      the same                          done

The listener speaks first (its header), the dialer does not wait for that. Bytes that already belong to yamux are handed over as
`early_plaintext`. Who may connect is not decided here: the caller looks at the proven peer id before it uses the result.

Limits: those of multistream and noise; the caller's clock ends an upgrade after HANDSHAKE_TIMEOUT_S.
Errors: MultistreamFault, NoiseFault (PeerMismatch). Source: specification 03-p2p, sections 2.1, 2.3, 11.1 and 11.2.
"""

from functools import partial
from typing import Final

from charon_actors.crypto import Entropy
from charon_actors.p2p.multistream import NOISE_PROTOCOL, YAMUX_PROTOCOL, Initiator, Responder
from charon_actors.p2p.noise import NoiseHandshake, NoiseSession
from charon_actors.p2p.peer_id import PeerId

HANDSHAKE_TIMEOUT_S: Final = 15.0  # 03 §2.3, inbound upgrade
KEEPALIVE_INTERVAL_S: Final = 30.0  # 03 §10
KEEPALIVE_ANSWER_S: Final = 10.0
NEGOTIATION_TIMEOUT_S: Final = 10.0  # of one inbound stream


class Upgrade:
    """Send `opening()`, then what each `receive` returns, until `session` is there and `is_done`.

    session: the noise channel, as soon as the peer is authenticated. early_plaintext: what the peer sent beyond the upgrade.
    """

    def __init__(self, identity_private_key: bytes, entropy: Entropy, *, is_dialer: bool, expected_peer: PeerId | None) -> None:
        self._security = self._negotiation(is_dialer, NOISE_PROTOCOL)
        self._make_noise = partial(
            NoiseHandshake, identity_private_key, entropy, is_initiator=is_dialer, expected_peer=expected_peer
        )
        self._noise: NoiseHandshake | None = None  # its keys are made when somebody is there who wants them
        self._muxer = self._negotiation(is_dialer, YAMUX_PROTOCOL)
        self._muxer_started = False
        self.is_done = False
        self.early_plaintext = b""

    @staticmethod
    def _negotiation(is_dialer: bool, protocol: str) -> Initiator | Responder:
        return Initiator([protocol]) if is_dialer else Responder((protocol,))

    @property
    def session(self) -> NoiseSession | None:
        return None if self._noise is None else self._noise.session

    def opening(self) -> bytes:
        """What to send before anything is received."""
        return self._security.opening()

    def receive(self, data: bytes | bytearray) -> bytes:
        """Take bytes of the peer; returns what to send next, often nothing. Raises: MultistreamFault, NoiseFault."""
        assert not self.is_done, "the connection takes its bytes itself now"
        reply = b""
        if self._security.selected is None:
            reply += self._security.receive(data)
            if self._security.selected is None:
                return reply
            self._noise = self._make_noise()
            reply += self._noise.opening()
            data = self._security.leftover
        assert self._noise is not None, "it begins when security is agreed"
        if self._noise.session is None:
            reply += self._noise.receive(data)
            data = b""
        session = self._noise.session
        return reply if session is None else reply + self._settle_muxer(session, session.receive(data))

    def _settle_muxer(self, session: NoiseSession, plaintexts: list[bytes]) -> bytes:
        plaintext = b"".join(plaintexts)
        if session.muxer is not None:
            self.is_done, self.early_plaintext = True, plaintext
            return b""
        reply = b"" if self._muxer_started else self._muxer.opening()
        self._muxer_started = True
        reply += self._muxer.receive(plaintext)
        if self._muxer.selected is not None:
            self.is_done, self.early_plaintext = True, self._muxer.leftover
        return session.encrypt(reply)
