"""Signature exchange: every node signs the same things with its key shares, and everybody gets everybody's. Sans-IO.

Theory of operation: an exchange is a slot; in it each operator sends each other one message with its partial signatures of all
validators. An exchange is complete when all n operators (not a threshold) have delivered: the lock needs everybody's.

    slot      what is signed                                             combined as
    101       the lock hash itself, 32 bytes                             plain sum over all validators and shares
    102       builder registration, under the builder domain             threshold signature a validator
    200 + i   deposit of the i-th amount, under the deposit domain       threshold signature a validator

    a message                                                            outcome
    malformed, of another slot or duty type, not exactly one entry a     CeremonyFault
    validator, share index not the sender's
    the same again                                                       harmless
    different from what this peer has sent for this slot                 CeremonyFault
    of a slot that we have not reached                                   kept; peers may be ahead of us
    a signature that its public share does not verify                    CeremonyFault, that names peer and validator

How `combine` and `sum_up` check. Key generation has proved that all n public shares lie on one polynomial, so n partial signatures
that interpolate to the group's signature are what was wanted: 101 aside, that signature is all that is used. It is interpolated over
all n, where the Lagrange coefficients at 0 are small, λ_j = (-1)^(j-1)·C(n, j), a few additions each; and all validators' results
are verified at once with random weights. One wrong partial signature always shows. (Several that cancel each other give the very
signature that right ones give; it is unique.) Only when that fails each one is verified against its public share, to find whom to
blame. The lock hash is different: there each signature proves that its signer has its share, and a plain sum could hide two that
cancel; so each is verified, all at once with random weights.

The signature is read from `data` (base64 in JSON), as Go does; `signature` must repeat it.

Limits: one message a peer and slot, the slots known at the start, a message at most `limit_bytes`. `combine` and `sign` are long
calculations (some ms a validator). Source: specification 04 §6.1, §6.2.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from math import comb
from typing import Final

from google.protobuf.message import DecodeError

from charon_actors.bounded_json import check_depth
from charon_actors.crypto import (
    G1,
    G2,
    Check,
    CryptoFault,
    Entropy,
    decode_public_key,
    pairings_agree,
    sign,
    small_multiple,
    verify_all,
)
from charon_actors.dkg.faults import CeremonyFault
from charon_actors.dkg.frost import ValidatorKeys
from charon_actors.p2p.protobuf import core_pb2
from charon_actors.share_index import share_index_of

LOCK_HASH_SLOT: Final = 101
REGISTRATION_SLOT: Final = 102
FIRST_DEPOSIT_SLOT: Final = 200
SIGNATURE_DUTY: Final = 3  # duty type "signature"
SIGNATURE_BYTES: Final = 96
ENTRY_BYTES: Final = 400  # 339 on the wire (04 §10), with room for encodings we do not write
BATCH: Final = 64  # partial signatures verified in one go
WEIGHT_BYTES: Final = 16
SMALL_BITS: Final = 40  # of a factor: from here on a constant-time multiplication is faster


def signature_data(signature: bytes) -> bytes:
    """What stands in `data`: a JSON text of base64."""
    return b'"' + base64.b64encode(signature) + b'"'


def encode_partials(slot: int, share_index: int, signatures: Mapping[bytes, bytes]) -> bytes:
    """A ParSigExMsg: partial signatures (96 bytes) by group public key (48 bytes)."""
    message = core_pb2.ParSigExMsg()
    message.duty.slot, message.duty.type = slot, SIGNATURE_DUTY
    for group_public_key, signature in signatures.items():
        entry = message.data_set.set["0x" + group_public_key.hex()]
        entry.data, entry.signature, entry.share_idx = signature_data(signature), signature, share_index
    return message.SerializeToString(deterministic=True)


def decode_partials(peer_index: int, body: bytes) -> tuple[int, dict[bytes, bytes]]:
    """Slot, and partial signatures by group public key. Raises CeremonyFault that names the peer."""
    try:
        message = core_pb2.ParSigExMsg.FromString(body)
    except DecodeError:
        raise CeremonyFault(peer_index, "malformed partial signatures") from None
    if not message.HasField("duty") or not message.HasField("data_set") or message.duty.type != SIGNATURE_DUTY:
        raise CeremonyFault(peer_index, "partial signatures without a duty of the ceremony")
    slot = int(message.duty.slot)
    signatures: dict[bytes, bytes] = {}
    for key, entry in message.data_set.set.items():
        group_public_key = _public_key(key)
        if group_public_key is None or group_public_key in signatures:
            raise CeremonyFault(peer_index, f"partial signatures of slot {slot}: an entry for no validator or one twice")
        if entry.share_idx != share_index_of(peer_index):
            raise CeremonyFault(peer_index, f"partial signatures of slot {slot} in the name of share {entry.share_idx}")
        signature = _signature(entry.data)
        if signature is None or (entry.signature and entry.signature != signature):
            raise CeremonyFault(peer_index, f"partial signatures of slot {slot}: an entry holds no signature")
        signatures[group_public_key] = signature
    return slot, signatures


class SignatureExchange:
    """All exchanges of one ceremony. own_index: our peer index. slots: those of this ceremony. validators: how many."""

    def __init__(self, own_index: int, operators: int, slots: Sequence[int], validators: int) -> None:
        self._own_index, self._operators, self._validators = own_index, operators, validators
        self._partials: dict[int, dict[int, dict[bytes, bytes]]] = {slot: {} for slot in slots}
        self._keys: tuple[ValidatorKeys, ...] = ()

    def __repr__(self) -> str:
        return f"SignatureExchange({sorted(self._partials)})"

    @property
    def limit_bytes(self) -> int:
        """No honest message is longer."""
        return 1024 + ENTRY_BYTES * self._validators

    def start(self, keys: Sequence[ValidatorKeys]) -> None:
        """The keys exist. Raises CeremonyFault if a peer has already sent signatures of other keys."""
        self._keys = tuple(keys)
        for slot, by_peer in self._partials.items():
            for peer_index, signatures in by_peer.items():
                self._check_validators(peer_index, slot, signatures)

    def sign(self, slot: int, messages: Sequence[bytes]) -> bytes:
        """Sign one message a validator with our shares; what to send to every peer."""
        assert self._keys, "key generation is over"
        assert len(messages) == self._validators, "one message a validator"
        pairs = zip(self._keys, messages, strict=True)
        signatures = {keys.group_public_key: sign(keys.secret_share, message) for keys, message in pairs}
        self._partials[slot][self._own_index] = signatures
        return encode_partials(slot, share_index_of(self._own_index), signatures)

    def receive(self, peer_index: int, body: bytes) -> int:
        """A peer's ParSigExMsg; its slot. Raises CeremonyFault (table on top)."""
        if len(body) > self.limit_bytes:
            raise CeremonyFault(peer_index, f"partial signatures of {len(body)} bytes")
        if not 0 <= peer_index < self._operators or peer_index == self._own_index:
            raise CeremonyFault(peer_index, "sent partial signatures, but is no peer of this ceremony")
        slot, signatures = decode_partials(peer_index, body)
        if slot not in self._partials:
            raise CeremonyFault(peer_index, f"partial signatures of slot {slot}, which this ceremony does not have")
        if len(signatures) != self._validators:
            what = f"{len(signatures)} partial signatures of slot {slot} for {self._validators} validators"
            raise CeremonyFault(peer_index, what)
        if self._keys:
            self._check_validators(peer_index, slot, signatures)
        if self._partials[slot].setdefault(peer_index, signatures) != signatures:
            raise CeremonyFault(peer_index, f"sent two different sets of partial signatures of slot {slot}")
        return slot

    def missing(self, slot: int) -> list[int]:
        """Peer indices whose signatures of this slot have not come yet."""
        return [index for index in range(self._operators) if index not in self._partials[slot]]

    def combine(self, slot: int, messages: Sequence[bytes], entropy: Entropy) -> list[bytes]:
        """Group signatures of the messages, one a validator, verified. Raises CeremonyFault that names who signed something else."""
        assert not self.missing(slot), "all operators have delivered"
        try:
            combined = [self._interpolate(slot, keys) for keys in self._keys]
        except CryptoFault:  # a point that is none
            combined = []
        if not combined or not _hold(self._keys, messages, combined, entropy):
            self._verify(slot, messages, entropy)
            raise AssertionError("no partial signature is wrong, but what they make is")
        return [signature.encode() for signature in combined]

    def sum_up(self, slot: int, message: bytes, entropy: Entropy) -> bytes:
        """The plain sum of everybody's signatures of one message with all shares: the lock's aggregate. Raises CeremonyFault.

        Each peer's signatures are verified, all at once with random weights: Σ r·signature belongs to Σ r·public share.
        """
        assert not self.missing(slot), "all operators have delivered"
        total, weighted, weighted_keys = G2.identity(), G2.identity(), G1.identity()
        weights = _weights(self._validators * self._operators, entropy)
        is_good = True
        try:
            for keys in self._keys:
                for peer_index in range(self._operators):
                    signature = G2.decode(self._partials[slot][peer_index][keys.group_public_key])
                    total = total + signature
                    if peer_index != self._own_index:
                        weight = weights.pop()
                        weighted = weighted + signature * weight
                        weighted_keys = weighted_keys + decode_public_key(keys.public_shares[peer_index]) * weight
        except CryptoFault:  # a point that is none
            is_good = False
        is_good = is_good and not (total.is_infinity or weighted.is_infinity or weighted_keys.is_infinity)
        if not is_good or not pairings_agree([(weighted_keys, G2.hash_message(message))], weighted):
            self._verify(slot, [message] * self._validators, entropy)
            raise CeremonyFault(None, "the signatures of the lock hash cancel each other; start a new ceremony")
        return total.encode()

    def _interpolate(self, slot: int, keys: ValidatorKeys) -> G2:
        """Σ (-1)^j·C(n, j+1)·signature_j over all peer indices j (j+1: the share index): the value at 0 of the polynomial through 1 … n."""
        total = G2.identity()
        for peer_index in range(self._operators):
            signature = G2.decode(self._partials[slot][peer_index][keys.group_public_key])
            multiple = _multiple(signature, comb(self._operators, share_index_of(peer_index)))
            total = total - multiple if peer_index % 2 else total + multiple
        return total

    def _verify(self, slot: int, messages: Sequence[bytes], entropy: Entropy) -> None:
        assert not self.missing(slot), "all operators have delivered"
        places: list[tuple[int, int]] = []
        checks: list[Check] = []
        for validator, (keys, message) in enumerate(zip(self._keys, messages, strict=True)):
            for peer_index in range(self._operators):
                if peer_index != self._own_index:
                    signature = self._partials[slot][peer_index][keys.group_public_key]
                    checks.append(Check(keys.public_shares[peer_index], message, signature))
                    places.append((peer_index, validator))
        for first in range(0, len(checks), BATCH):
            answers = verify_all(checks[first : first + BATCH], entropy)
            for (peer_index, validator), is_good in zip(places[first : first + BATCH], answers, strict=True):
                if not is_good:
                    raise CeremonyFault(peer_index, f"invalid {_name(slot)} partial signature for validator {validator}")

    def _check_validators(self, peer_index: int, slot: int, signatures: Mapping[bytes, bytes]) -> None:
        for validator, keys in enumerate(self._keys):
            if keys.group_public_key not in signatures:
                raise CeremonyFault(peer_index, f"no partial signature of slot {slot} for validator {validator}")


def _hold(keys: Sequence[ValidatorKeys], messages: Sequence[bytes], signatures: Sequence[G2], entropy: Entropy) -> bool:
    """Whether each group key signed its message, but for a chance of 2^-127: Π e(r_v·key_v, H(m_v)) = e(G, Σ r_v·signature_v)."""
    weights = _weights(len(keys), entropy)
    pairs: list[tuple[G1, G2]] = []
    total = G2.identity()
    for of_validator, message, signature, weight in zip(keys, messages, signatures, weights, strict=True):
        if signature.is_infinity:
            return False
        pairs.append((decode_public_key(of_validator.group_public_key) * weight, G2.hash_message(message)))
        total = total + signature * weight
    return pairings_agree(pairs, total)


def _weights(count: int, entropy: Entropy) -> list[int]:
    """Random and odd, so that none is zero."""
    drawn = entropy(WEIGHT_BYTES * count)
    return [int.from_bytes(drawn[i * WEIGHT_BYTES : (i + 1) * WEIGHT_BYTES], "big") | 1 for i in range(count)]


def _multiple(point: G2, factor: int) -> G2:
    return small_multiple(point, factor) if factor.bit_length() <= SMALL_BITS else point * factor


def _name(slot: int) -> str:
    if slot == LOCK_HASH_SLOT:
        return "lock hash"
    return "validator registration" if slot == REGISTRATION_SLOT else "deposit data"


def _public_key(text: str) -> bytes | None:
    if len(text) != 98 or not text.startswith("0x") or text != text.lower():
        return None
    try:
        decoded = bytes.fromhex(text[2:])
    except ValueError:
        return None
    return decoded if len(decoded) == 48 else None  # white space counts for nothing in fromhex


def _signature(data: bytes) -> bytes | None:
    if len(data) > ENTRY_BYTES:
        return None
    try:
        check_depth(data)
        text = json.loads(data)
        decoded = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (ValueError, RecursionError, binascii.Error):
        return None
    return decoded if len(decoded) == SIGNATURE_BYTES else None
