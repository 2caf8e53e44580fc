"""A partial signature and the root it is for: how it is read, which of several carries the group's. Sans-IO.

Theory of operation. The root is computed once, when the object comes in, and kept beside it; everything later (verification, finding
those that agree, the slashing record, interpolation) uses that. Whatever can't be a partial signature of the duty on this chain is an
error of the reading, of one object, before its signature is looked at.

    type        decoded and hashed         refused
    proposer    never, see `blocks.py`     another block than the cluster has decided
    others      in the event loop, < 1 ms  more bytes or values of JSON than an OBJECT has (`bounded_json.py`), another duty's

A signature doesn't cover the whole object: committee bits, the validator's index, blobs and proofs, and whether a block is blinded are
not in the root. `carrier` decides whose are taken; of a block the decided one's.

Source: specification 05 §10.1, §10.2, §11.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec

from charon_actors.bounded_json import OBJECT
from charon_actors.eth2.chain import Chain, ChainFault
from charon_actors.eth2.duty import Duty
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signed_data import (
    EncodingFault,
    SignedData,
    SignedProposal,
    VersionedAttestation,
    decode_signed_data,
)

MAX_SMALL_BYTES: Final = OBJECT.max_bytes  # an attestation with a bit for each validator of a slot, in JSON, has half of it

UNREADABLE: Final = (EncodingFault, ChainFault)
_NO_SIGNATURE: Final = bytes(96)


class Partial(msgspec.Struct, frozen=True):
    """A signed object and what its key signed, 32 bytes. separate: its signature, where many of them share one large object."""

    signed: SignedData
    signing_root: bytes
    separate: bytes | None = None

    @property
    def signature(self) -> bytes:
        """96 bytes."""
        return self.signed.signature if self.separate is None else self.separate


def read_partial(data: bytes, duty: Duty, chain: Chain) -> Partial:
    """A peer's signed object that is no block. Raises: EncodingFault, ChainFault."""
    if len(data) > MAX_SMALL_BYTES:
        raise EncodingFault(f"{len(data)} bytes for a {duty.type.label} duty")
    return with_root(decode_signed_data(duty.type, data), duty, chain)


def with_root(signed: SignedData, duty: Duty, chain: Chain) -> Partial:
    """A decoded object that is no block, once it is sure to be one of that duty. Raises: EncodingFault, ChainFault."""
    assert not isinstance(signed, SignedProposal), "blocks have a way of their own"
    if not signed.belongs_to(duty, chain):
        raise EncodingFault(f"the signed object does not belong to duty {duty}")
    return Partial(signed, signed.signing_root(chain))


def carrier(agreeing: Mapping[int, Partial], own_share_index: int) -> SignedData:
    """The object whose place the group signature takes (05 §11), among partial signatures of one root by share index.

    Ours, for it came from our own validator client. Without it what most of them have besides the root: a threshold has more than
    twice as many honest members as faulty ones. A tie goes to the lowest share. An attestation without validator index, as some
    old peers send it, only if there is no other: from Electra on it can't be broadcast.
    """
    if own_share_index in agreeing:
        return agreeing[own_share_index].signed
    objects = [agreeing[share_index].signed for share_index in sorted(agreeing)]
    if isinstance(objects[0], SignedProposal):  # all of them the decided block (`blocks.py`)
        return objects[0]
    complete = [signed for signed in objects if not (isinstance(signed, VersionedAttestation) and signed.validator_index is None)]
    objects = complete or objects
    unsigned = [signed.with_signature(_NO_SIGNATURE).encode() for signed in objects]
    counts = Counter(unsigned)
    return objects[unsigned.index(max(counts, key=counts.__getitem__))]  # the first of equals: a Counter keeps the order


def check_fork(fork: Fork, duty: Duty, chain: Chain) -> None:
    """Whether the duty's slot is in that fork. Raises: EncodingFault."""
    expected = chain.fork_at(chain.epoch_of(duty.slot))
    if fork is not expected and not chain.has_made_up_blocks:
        raise EncodingFault(f"a block of {fork.label} for duty {duty}, which is in {expected.label}")
