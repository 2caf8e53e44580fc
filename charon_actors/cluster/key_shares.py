"""Whose key share is this? Matches keystores to a lock by public share, never by the name or the number of a file. Pure.

    lock.validators[v].public_shares[i]     belongs to validator v (from 0) and share index i + 1, that of operator i

Files get renamed, folders get copied and mixed; a public key can't lie for long. What a keystore says is its public key
(`named_public_key`) is enough to sort it without opening it; that the secret inside belongs to it is checked when it is opened.

    a folder of one operator holds        otherwise
    shares of this lock only              public key share from provided private key share not found in provided lock
    one share a validator                 multiple provided private key shares resolve to the same validator
    shares of one share index only        those of another operator are among them: a mix-up that makes nodes unusable

Source: specification 01-cluster-files, sections 5, 7.2, 8 and 10.2.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.lock import Lock
from charon_actors.crypto import CryptoFault, public_key, recover_secret
from charon_actors.errors import UserError
from charon_actors.share_index import by_share_index, peer_index_of

UNKNOWN_SHARE: Final = "secret key share not found: public key share from provided private key share not found in provided lock"


class ShareOwner(msgspec.Struct, frozen=True, order=True):
    """validator_index: position in the lock, from 0. share_index: from 1."""

    validator_index: int
    share_index: int


class ShareOwners:
    """The owners of all public shares of a lock, looked up by public share."""

    def __init__(self, lock: Lock) -> None:
        """Raises ClusterFault for a lock that has the same public share twice, so that nobody can tell whose it is."""
        self._owners: dict[bytes, ShareOwner] = {}
        for validator_index, validator in enumerate(lock.validators):
            for share_index, share in by_share_index(validator.public_shares).items():
                owner = ShareOwner(validator_index, share_index)
                if self._owners.setdefault(share, owner) is not owner:
                    first = self._owners[share].validator_index
                    raise ClusterFault(f"the same public share stands at validators {first} and {validator_index}")

    def find(self, public_share: bytes) -> ShareOwner | None:
        """Whose share that is, None for nobody of this lock. public_share: 48 bytes."""
        return self._owners.get(public_share)

    def of_one_operator(self, files: Iterable[tuple[str, bytes]]) -> dict[str, ShareOwner]:
        """The owners of the keystore files (path, public key) of one operator's folder, by path.

        Raises UserError that names the first file at fault: of another cluster, of another operator, a second one for a validator.
        """
        owners: dict[str, ShareOwner] = {}
        by_validator: dict[int, str] = {}
        for path, public_share in files:
            owner = self.find(public_share)
            if owner is None:
                what = f"{UNKNOWN_SHARE}: 0x{public_share.hex()}"
                raise UserError(path, what, "it belongs to another cluster; move it away, or take that cluster's lock")
            other = by_validator.setdefault(owner.validator_index, path)
            if other != path:
                what = f"multiple provided private key shares resolve to the same validator {owner.validator_index}: also {other}"
                raise UserError(path, what, "keep one of them, that of the folder's operator")
            first_path, first = next(iter(owners.items()), (path, owner))
            if owner.share_index != first.share_index:
                what = (
                    f"key share of share index {owner.share_index}, while {first_path} is one of share index {first.share_index}"
                )
                raise UserError(path, what, "keep the keystores of each operator in a folder of their own")
            owners[path] = owner
        return owners


def recover_group_secret(lock: Lock, validator_index: int, shares: Mapping[int, bytes]) -> bytes:
    """The validator's secret, 32 bytes, from its threshold of secret shares by share index.

    Raises ClusterFault when one is not the lock's share of that index, or the result isn't the secret of the lock's public key.
    """
    validator = lock.validators[validator_index]
    try:
        for share_index, share in shares.items():
            if public_key(share) != validator.public_shares[peer_index_of(share_index)]:
                raise ClusterFault(f"secret key share not found: share index {share_index} of validator {validator_index}")
        secret = recover_secret(shares)
        if public_key(secret) == validator.public_key:
            return secret
    except CryptoFault as fault:
        raise ClusterFault(f"validator {validator_index}: {fault}") from fault
    raise ClusterFault(f"unexpected resulting combined validator public key of validator {validator_index}")
