"""Which ceremony a Charon release speaks: protocol ids, message ids, steps. One row a profile; nothing else asks for the version.

    profile   bcast   sync version   steps   a restarted peer is told     an exchange of signatures takes at most
    v1.10     1.0.0   v1.10          8       nothing, its stream ends     for ever
    v1.11     2.0.0   v1.11          8       why, then its stream ends    --timeout

All nodes of a ceremony use the same row: step sync refuses another minor release (04 §3.3). Source: specification 04 §0, §2, §4.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from charon_actors.profile import Profile

SYNC_PROTOCOL: Final = "/charon/dkg/sync/1.0.0/"  # the trailing slash is part of it
SHARES_PROTOCOL: Final = "/charon/dkg/frost/2.0.0/round1/p2p"
PARTIALS_PROTOCOL: Final = "/charon/parsigex/2.0.0"

ROUND1_CAST_ID: Final = "/charon/dkg/frost/2.0.0/round1/cast"
ROUND2_CAST_ID: Final = "/charon/dkg/frost/2.0.0/round2/cast"
NODE_SIGNATURE_ID: Final = "/charon/dkg/node_sig"

TYPE_URL_PREFIX: Final = "type.googleapis.com/"
TYPE_URLS: Final[Mapping[str, str]] = {
    ROUND1_CAST_ID: TYPE_URL_PREFIX + "dkg.dkgpb.v1.FrostRound1Casts",
    ROUND2_CAST_ID: TYPE_URL_PREFIX + "dkg.dkgpb.v1.FrostRound2Casts",
    NODE_SIGNATURE_ID: TYPE_URL_PREFIX + "dkg.dkgpb.v1.MsgNodeSig",
}

# Deadlines of the wire, seconds (04 §4, §5.3, 03 §5.1).
SIGNATURE_REQUEST_S: Final = 7.0
BROADCAST_SEND_S: Final = 62.0
BROADCAST_RECEIVE_S: Final = 60.0
SEND_S: Final = 7.0
RECEIVE_S: Final = 5.0


class Dialect(msgspec.Struct, frozen=True):
    """One row of the table. bcast: version of the broadcast protocol; binds_session: whether its hash covers session and id."""

    minor: str
    bcast: str
    binds_session: bool
    tells_restarted_peer: bool
    has_exchange_timeout: bool

    @property
    def signature_protocol(self) -> str:
        return f"/charon/dkg/bcast/{self.bcast}/sig"

    @property
    def message_protocol(self) -> str:
        return f"/charon/dkg/bcast/{self.bcast}/msg"


DIALECTS: Final[Mapping[Profile, Dialect]] = {
    Profile.V1_10: Dialect(
        Profile.V1_10.minor, "1.0.0", binds_session=False, tells_restarted_peer=False, has_exchange_timeout=False
    ),
    Profile.V1_11: Dialect(
        Profile.V1_11.minor, "2.0.0", binds_session=True, tells_restarted_peer=True, has_exchange_timeout=True
    ),
}
