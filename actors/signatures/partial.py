"""A partial signature and the root it is for: how it is read, which of several carries the group's. Sans-IO.

Theory of operation. The root is computed once, when the object comes in, and kept beside it; everything later (verification, finding
those that agree, the slashing record, interpolation) uses that. Whatever can't be a partial signature of the duty on this chain is an
error of the reading, of one object, before its signature is looked at.

    type        decoded and hashed         refused
    proposer    in a worker thread         another fork than the slot's, another slot, too many transactions, JSON that is too long,
                                           more withdrawals than the chain's preset has
    others      in the event loop, < 1 ms  more than MAX_SMALL_BYTES, another duty's

A block costs up to 2 s of a core: too much for the event loop, harmless in a thread. Its root is not computed again when a
partial signature that was accepted already has the same block.

A signature doesn't cover the whole object: committee bits, the validator's index, blobs and proofs, and whether a block is blinded are
not in the root. `carrier` decides whose are taken.

Source: specification 05 §10.1, §10.2, §11.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from charon_actors.eth2 import containers
from charon_actors.eth2.chain import Chain, ChainFault
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signed_data import (
    EncodingFault,
    SignedData,
    SignedProposal,
    VersionedAttestation,
    decode_signed_data,
    same_message,
)
from charon_actors.eth2.signing import DomainType
from charon_actors.eth2.versioned import decode_v13, looks_like_json

MAX_SMALL_BYTES: Final = 64 * 1024  # an attestation with a bit for each validator of a slot, in JSON, has half of it
MAX_BLOCK_JSON_BYTES: Final = 1024 * 1024  # no release sends blocks as JSON; a parser holds the interpreter while it works

UNREADABLE: Final = (EncodingFault, ChainFault)
_NO_SIGNATURE: Final = bytes(96)


class Partial(msgspec.Struct, frozen=True):
    """A signed object and what its key signed, 32 bytes."""

    signed: SignedData
    signing_root: bytes


def read_partial(data: bytes, duty: Duty, chain: Chain, known: Iterable[Partial] = ()) -> Partial:
    """A peer's signed object. known: accepted ones of the same duty. Blocks are for a thread. Raises: EncodingFault, ChainFault."""
    if duty.type is DutyType.PROPOSER:
        return with_root(_read_block(data, duty, chain), duty, chain, known)
    if len(data) > MAX_SMALL_BYTES:
        raise EncodingFault(f"{len(data)} bytes for a {duty.type.label} duty")
    return with_root(decode_signed_data(duty.type, data), duty, chain)


def with_root(signed: SignedData, duty: Duty, chain: Chain, known: Iterable[Partial] = ()) -> Partial:
    """A decoded object, once it is sure to be one of that duty. Blocks are for a thread. Raises: EncodingFault, ChainFault."""
    if not signed.belongs_to(duty, chain):
        raise EncodingFault(f"the signed object does not belong to duty {duty}")
    if not isinstance(signed, SignedProposal):
        return Partial(signed, signed.signing_root(chain))
    _check_fork(signed.fork, duty, chain)
    for other in known:
        if isinstance(other.signed, SignedProposal) and same_message(other.signed, signed):
            return Partial(signed, other.signing_root)
    signed.check_transactions()
    block = containers.beacon_block(signed.fork, signed.blinded, chain.preset)
    root = block.hash_tree_root(block.decode(signed.message))  # not `block_root`, whose cache would keep what peers send
    return Partial(signed, chain.signing_root(root, DomainType.BEACON_PROPOSER, chain.epoch_of(duty.slot)))


def carrier(agreeing: Mapping[int, Partial], own_share_index: int) -> SignedData:
    """The object whose place the group signature takes (05 §11), among partial signatures of one root by share index.

    Ours, for it came from our own validator client. Without it what most of them have besides the root: a threshold has more than
    twice as many honest members as faulty ones. A tie goes to the lowest share. An attestation without validator index, as some
    old peers send it, only if there is no other: from Electra on it can't be broadcast.
    """
    if own_share_index in agreeing:
        return agreeing[own_share_index].signed
    objects = [agreeing[share_index].signed for share_index in sorted(agreeing)]
    complete = [signed for signed in objects if not (isinstance(signed, VersionedAttestation) and signed.validator_index is None)]
    objects = complete or objects
    unsigned = [signed.with_signature(_NO_SIGNATURE).encode() for signed in objects]
    counts = Counter(unsigned)
    return objects[unsigned.index(max(counts, key=counts.__getitem__))]  # the first of equals: a Counter keeps the order


def _read_block(data: bytes, duty: Duty, chain: Chain) -> SignedProposal:
    if looks_like_json(data):
        if len(data) > MAX_BLOCK_JSON_BYTES:
            raise EncodingFault(f"a block of {len(data)} bytes as JSON")
        return SignedProposal.decode(data)
    fork, blinded, body = decode_v13(data)
    _check_fork(fork, duty, chain)
    return SignedProposal.from_ssz(fork, blinded, body)


def _check_fork(fork: Fork, duty: Duty, chain: Chain) -> None:
    expected = chain.fork_at(chain.epoch_of(duty.slot))
    if fork is not expected and not chain.has_made_up_blocks:
        raise EncodingFault(f"a block of {fork.label} for duty {duty}, which is in {expected.label}")
