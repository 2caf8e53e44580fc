"""Group keys and key shares: what the validator client calls its key, and what the chain calls it. Pure.

The validator client of operator s holds share s of every validator and takes its public share for the validator's key. So what it
reads has group keys replaced by its public shares, and what it asks for by key is translated back. A share of another operator is a
mix-up of key folders, the most common mistake in setting up a cluster: the error names both share indices.

Source: specification 07 §4.
"""

from collections.abc import Iterable, Sequence

from charon_actors.share_index import by_share_index, peer_index_of


class UnknownKey(Exception):
    """Not a public share of this node. The text is for the validator client's operator."""


class KeyShares:
    """share_index: this node's, from 1. validators: (group public key, public shares in operator order), 48 bytes each."""

    def __init__(self, share_index: int, validators: Iterable[tuple[bytes, Sequence[bytes]]]) -> None:
        self.share_index = share_index
        self._share_of: dict[bytes, bytes] = {}
        self._place_of: dict[bytes, tuple[bytes, int]] = {}
        for group, shares in validators:
            if not 1 <= share_index <= len(shares):
                raise ValueError(f"a validator with {len(shares)} shares has no share {share_index}")
            self._share_of[group] = shares[peer_index_of(share_index)]
            for index, share in by_share_index(shares).items():
                self._place_of[share] = (group, index)

    @property
    def groups(self) -> tuple[bytes, ...]:
        """The group public keys, in the lock's order."""
        return tuple(self._share_of)

    def share_of(self, group: bytes) -> bytes | None:
        """This node's public share of the validator with that group key; None for a validator of others."""
        return self._share_of.get(group)

    def group_of(self, share: bytes) -> bytes:
        """The group key of the validator with that public share of this node. Raises: UnknownKey."""
        place = self._place_of.get(share)
        if place is None:
            kind = "a group key, which is not what this node's validator client has" if share in self._share_of else "unknown"
            raise UnknownKey(f"unknown public key 0x{share.hex()} ({kind})")
        group, index = place
        if index != self.share_index:
            raise UnknownKey(
                "mismatching validator client key share index:"
                f" key share {index} (0x{share.hex()}) submitted to the node that serves share {self.share_index}"
            )
        return group
