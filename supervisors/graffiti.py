"""The graffiti of our blocks: the operator's text, and what the beacon node is (05 §6)."""

from collections.abc import Sequence
from typing import Final

import trio

from actors.beacon import BeaconFault, NodeVersion
from actors.beacon import Message as BeaconMessage
from actors.mailbox import Address
from charon_actors.errors import Retryable
from charon_actors.eth2 import graffiti

RETRY_S: Final = 1.0
CLIENT_INTERVAL_S: Final = 600.0  # 08 §2


class Graffiti:
    """texts: none, one for all, or one each in the order of `pubkeys` (48 bytes). names_client: name the beacon node behind the text."""

    def __init__(self, texts: Sequence[bytes], pubkeys: Sequence[bytes], *, names_client: bool) -> None:
        self._texts, self._names_client = texts or (b"",), names_client
        self._places = {pubkey: place for place, pubkey in enumerate(pubkeys)}
        self._suffix = graffiti.client_suffix("")

    def of(self, pubkey: bytes) -> bytes:
        """32 bytes, for the block of that group public key."""
        text = self._texts[0 if len(self._texts) == 1 else self._places[pubkey]]
        return graffiti.padded_graffiti(text, self._suffix if self._names_client else b"")

    async def watch(self, beacon: Address[BeaconMessage]) -> None:
        """Never returns: asks what the beacon node is, now and then."""
        while True:
            try:
                version = await beacon.ask(NodeVersion())
            except (BeaconFault, Retryable):
                await trio.sleep(RETRY_S)
            else:
                self._suffix = graffiti.client_suffix(version)
                await trio.sleep(CLIENT_INTERVAL_S)
