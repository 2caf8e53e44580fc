"""FROST key generation of a whole batch of validators, as one participant runs it. Sans-IO.

Theory of operation: for each validator every participant i deals a random polynomial f of degree threshold - 1. It shows the
commitments A_k = a_k·G to all (round 1 cast, with a proof that it knows a_0) and f(j) to participant j alone (share). The
validator's secret is the sum of all f(0), which nobody knows; the share of participant i is the sum of all f(i). The V
validators are independent and only share messages.

    call             needs                                   gives
    round1           –                                       our cast for all, our shares by peer
    receive_*        the transport's word for the sender     –, or CeremonyFault
    round2           a cast and shares of every peer         our round 2 cast; all checks of the table below
    finish           a round 2 cast of every peer            the keys

    what a peer can get wrong                                     found in           as
    a message that does not parse, an entry that is not           receive_*          malformed …, entry …
    its own, missing, repeated or out of range
    a scalar >= r, a challenge or a share of zero                 receive_*          … not canonical, … zero
    a point off the curve or out of the subgroup, or infinity     round2             commitment …
    the proof of knowledge of a_0: hash(j, A_0, w·G - c·A_0) = c  round2             proof of knowledge
    the share: f(i)·G = Σ i^k·A_k                                 round2             invalid share
    the group key and its own public share                        finish             round 2 …

Share checks are done a peer at a time with random weights ρ_v of 128 bits: Σ ρ_v·f_v(i) · G = Σ ρ_v·(Σ_k i^k·A_vk), so a wrong
share passes with probability 2^-128; the validator is searched for only after a peer has failed. Public shares of all
participants are calculated from the commitments and compared with what their owners say: a Go node takes them unchecked.

The context byte of the proof is always 0 and the proof is bound to the participant only, not to the ceremony: so polynomials
and nonces are drawn here once, live in this object only, and `round2` forgets them.

Limits: 255 participants; a message holds exactly `validators` entries. round1, round2 and finish are long calculations (some ms a
validator) that may run in another thread while receive_* are called; everything else is quick.
Source: specification 04 §5; RFC 9380 §5 (hash_to_field); Pedersen 1991 with the proof of FROST (Komlo, Goldberg), figure 1.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from google.protobuf.message import DecodeError

from charon_actors.crypto import (
    CURVE_ORDER,
    G1,
    CryptoFault,
    Entropy,
    evaluate_polynomial,
    g1_linear_combination,
    public_polynomial_at,
)
from charon_actors.dkg.faults import CeremonyFault
from charon_actors.p2p.protobuf import dkg_pb2
from charon_actors.share_index import peer_index_of, share_index_of, share_indices

CONTEXT: Final = 0  # 04 §5.1: Charon's context never parses as a number
HASH_DST: Final = b"BLS12381_XMD:SHA-256_SSWU_RO_"
SEED_BYTES: Final = 64
SCALAR_BYTES: Final = 32
POINT_BYTES: Final = 48
WEIGHT_BYTES: Final = 16
MAX_PARTICIPANTS: Final = 255


class ValidatorKeys(msgspec.Struct, frozen=True):
    """Keys of one validator: the group's and the public shares (48 bytes, in operator order), and our own secret share."""

    group_public_key: bytes
    public_shares: tuple[bytes, ...]
    secret_share: bytes

    def __repr__(self) -> str:  # the secret must not get into a log
        return f"ValidatorKeys({self.group_public_key.hex()})"

    __str__ = __repr__


class Round1(NamedTuple):
    """cast: FrostRound1Casts for the broadcast. shares: FrostRound1P2P by peer index, each for that peer's eyes only."""

    cast: bytes
    shares: Mapping[int, bytes]

    def __repr__(self) -> str:
        return "Round1(…)"


class _Cast(NamedTuple):  # of one validator in a round 1 cast, not yet decoded to points
    w: int
    c: int
    commitments: tuple[bytes, ...]


def hash_to_scalar(message: bytes) -> int:
    """RFC 9380 hash_to_field with p = CURVE_ORDER, 48 bytes, one element (04 §5.1)."""
    dst = HASH_DST + bytes([len(HASH_DST)])
    first = hashlib.sha256(bytes(64) + message + b"\x00\x30\x00" + dst).digest()
    block1 = hashlib.sha256(first + b"\x01" + dst).digest()
    mixed = (int.from_bytes(first, "big") ^ int.from_bytes(block1, "big")).to_bytes(32, "big")
    block2 = hashlib.sha256(mixed + b"\x02" + dst).digest()
    return int.from_bytes(block1 + block2[:16], "big") % CURVE_ORDER


class Frost:
    """One participant of one ceremony; see the table on top for the order of calls.

    own_index: our peer index. entropy: cryptographic; 64 bytes are drawn for each coefficient and nonce.
    Raises ValueError for parameters that no ceremony has.
    """

    def __init__(self, *, own_index: int, operators: int, threshold: int, validators: int, entropy: Entropy) -> None:
        if not (1 <= threshold <= operators <= MAX_PARTICIPANTS and 0 <= own_index < operators and validators >= 1):
            raise ValueError("no such ceremony: threshold, operators or validators out of range")
        self._own = share_index_of(own_index)
        self._peers = tuple(share_index_of(index) for index in range(operators) if index != own_index)
        self._operators, self._threshold, self._validators = operators, threshold, validators
        self._entropy = entropy
        self._own_shares: list[int] = []
        self._own_commitments: list[list[G1]] = []
        self._casts: dict[int, list[_Cast]] = {}
        self._shares: dict[int, list[int]] = {}
        self._round2_casts: dict[int, list[tuple[bytes, bytes]]] = {}
        self._keys: list[ValidatorKeys] = []

    def round1(self) -> Round1:
        """Draw the polynomials; our cast, and our shares by peer index. Once."""
        assert not self._own_commitments, "polynomials are drawn once and never used twice"
        cast = dkg_pb2.FrostRound1Casts()
        shares = {participant: dkg_pb2.FrostRound1P2P() for participant in self._peers}
        for validator in range(self._validators):
            coefficients = [self._random_scalar() for _ in range(self._threshold)]
            commitments = [G1.GENERATOR * coefficient for coefficient in coefficients]
            encoded = [commitment.encode() for commitment in commitments]
            nonce = self._random_scalar()
            c = _challenge(self._own, encoded[0], (G1.GENERATOR * nonce).encode())
            w = (nonce + coefficients[0] * c) % CURVE_ORDER
            entry = cast.casts.add(wi=_scalar_bytes(w), ci=_scalar_bytes(c), commitments=encoded)
            entry.key.val_idx, entry.key.source_id, entry.key.target_id = validator, self._own, 0
            for participant in self._peers:
                value = _scalar_bytes(evaluate_polynomial(coefficients, participant))
                share = shares[participant].shares.add(id=participant, value=value)
                share.key.val_idx, share.key.source_id, share.key.target_id = validator, self._own, participant
            self._own_shares.append(evaluate_polynomial(coefficients, self._own))
            self._own_commitments.append(commitments)
        return Round1(
            cast.SerializeToString(),
            {peer_index_of(participant): message.SerializeToString() for participant, message in shares.items()},
        )

    def check_round1_cast(self, peer_index: int, body: bytes) -> None:
        """Everything about a peer's cast that needs no curve arithmetic: what we look at before we sign its hash."""
        self._decode_cast(peer_index, body)

    def receive_round1_cast(self, peer_index: int, body: bytes) -> None:
        """A peer's FrostRound1Casts, from the broadcast. A repeat of the same is harmless. Raises CeremonyFault."""
        self._keep(self._casts, peer_index, self._decode_cast(peer_index, body), "round 1 cast")

    def receive_shares(self, peer_index: int, body: bytes) -> None:
        """A peer's FrostRound1P2P for us. A repeat of the same is harmless. Raises CeremonyFault."""
        message = _parse(dkg_pb2.FrostRound1P2P(), body, peer_index, "shares")
        shares: dict[int, int] = {}
        for entry in message.shares:
            index = self._entry_index(peer_index, entry, self._own, shares, "share")
            if entry.id != self._own:
                raise CeremonyFault(peer_index, f"share of validator {index}: id is {entry.id}, not ours ({self._own})")
            shares[index] = _scalar(peer_index, entry.value, f"share of validator {index}")
        self._keep(self._shares, peer_index, self._complete(peer_index, shares, "share"), "shares")

    def missing_round1(self) -> list[int]:
        """Peer indices whose cast or shares have not come yet."""
        return [peer_index_of(peer) for peer in self._peers if peer not in self._casts or peer not in self._shares]

    def round2(self) -> bytes:
        """Check every cast and share, make the keys, forget what was secret but our shares. Our FrostRound2Casts."""
        assert self._own_commitments, "round 1 comes first"
        assert not self._keys, "round 2 is calculated once"
        assert not self.missing_round1(), "round 1 is complete"
        commitments = {peer: self._checked_commitments(peer) for peer in self._peers}
        for peer in self._peers:
            self._check_shares(peer, commitments[peer])
        cast = dkg_pb2.FrostRound2Casts()
        for validator in range(self._validators):
            dealt = [self._own_commitments[validator], *(commitments[peer][validator] for peer in self._peers)]
            keys = self._make_keys(validator, dealt)
            entry = cast.casts.add(verification_key=keys.group_public_key, vk_share=keys.public_shares[peer_index_of(self._own)])
            entry.key.val_idx, entry.key.source_id, entry.key.target_id = validator, self._own, 0
            self._keys.append(keys)
        self._casts, self._shares, self._own_shares = {}, {}, []
        return cast.SerializeToString()

    def check_round2_cast(self, peer_index: int, body: bytes) -> None:
        """What we look at before we sign the hash of a peer's round 2 cast."""
        self._decode_round2_cast(peer_index, body)

    def receive_round2_cast(self, peer_index: int, body: bytes) -> None:
        """A peer's FrostRound2Casts, from the broadcast; may come while our own `round2` runs. Raises CeremonyFault."""
        self._keep(self._round2_casts, peer_index, self._decode_round2_cast(peer_index, body), "round 2 cast")

    def missing_round2(self) -> list[int]:
        """Peer indices whose round 2 cast has not come yet."""
        return [peer_index_of(peer) for peer in self._peers if peer not in self._round2_casts]

    def finish(self) -> tuple[ValidatorKeys, ...]:
        """The keys of all validators, in their order, after all peers have said the same as we calculated."""
        assert self._keys, "round 2 has been calculated"
        assert not self.missing_round2(), "round 2 is complete"
        for peer in self._peers:
            for validator, (group_key, public_share) in enumerate(self._round2_casts[peer]):
                ours = self._keys[validator]
                if group_key != ours.group_public_key:
                    raise CeremonyFault(peer_index_of(peer), f"round 2: another group public key for validator {validator}")
                if public_share != ours.public_shares[peer_index_of(peer)]:
                    raise CeremonyFault(peer_index_of(peer), f"round 2: wrong public share for validator {validator}")
        return tuple(self._keys)

    # round 1: decoding

    def _decode_cast(self, peer_index: int, body: bytes) -> list[_Cast]:
        message = _parse(dkg_pb2.FrostRound1Casts(), body, peer_index, "round 1 cast")
        casts: dict[int, _Cast] = {}
        for entry in message.casts:
            index = self._entry_index(peer_index, entry, 0, casts, "round 1 cast")
            commitments = tuple(entry.commitments)
            if len(commitments) != self._threshold:
                what = f"{len(commitments)} commitments for validator {index}, the threshold is {self._threshold}"
                raise CeremonyFault(peer_index, f"round 1 cast: {what}")
            if any(len(commitment) != POINT_BYTES for commitment in commitments):
                raise CeremonyFault(peer_index, f"round 1 cast: a commitment for validator {index} is not {POINT_BYTES} bytes")
            w = _scalar(peer_index, entry.wi, f"proof of validator {index}", allow_zero=True)
            c = _scalar(peer_index, entry.ci, f"challenge of validator {index}")
            casts[index] = _Cast(w, c, commitments)
        return self._complete(peer_index, casts, "round 1 cast")

    def _decode_round2_cast(self, peer_index: int, body: bytes) -> list[tuple[bytes, bytes]]:
        message = _parse(dkg_pb2.FrostRound2Casts(), body, peer_index, "round 2 cast")
        casts: dict[int, tuple[bytes, bytes]] = {}
        for entry in message.casts:
            index = self._entry_index(peer_index, entry, 0, casts, "round 2 cast")
            if len(entry.verification_key) != POINT_BYTES or len(entry.vk_share) != POINT_BYTES:
                raise CeremonyFault(peer_index, f"round 2 cast: a key of validator {index} is not {POINT_BYTES} bytes")
            casts[index] = (entry.verification_key, entry.vk_share)
        return self._complete(peer_index, casts, "round 2 cast")

    def _entry_index(self, peer_index: int, entry: Any, target: int, seen: Mapping[int, object], what: str) -> int:
        """The validator index of an entry that is the sender's own, for the right receiver, in range and new."""
        if not entry.HasField("key"):
            raise CeremonyFault(peer_index, f"{what}: an entry has no key")
        index = int(entry.key.val_idx)
        if entry.key.source_id != share_index_of(peer_index):
            raise CeremonyFault(peer_index, f"{what}: an entry says it comes from participant {entry.key.source_id}")
        if entry.key.target_id != target:
            raise CeremonyFault(peer_index, f"{what}: an entry is for participant {entry.key.target_id}, not {target}")
        if index >= self._validators:
            raise CeremonyFault(peer_index, f"{what}: an entry for validator {index} of {self._validators}")
        if index in seen:
            raise CeremonyFault(peer_index, f"{what}: two entries for validator {index}")
        return index

    def _complete(self, peer_index: int, entries: dict[int, Any], what: str) -> list[Any]:
        for validator in range(self._validators):
            if validator not in entries:
                raise CeremonyFault(peer_index, f"{what}: no entry for validator {validator}")
        return [entries[validator] for validator in range(self._validators)]

    def _keep(self, kept: dict[int, Any], peer_index: int, value: object, what: str) -> None:
        participant = share_index_of(peer_index)
        if participant not in self._peers:
            raise CeremonyFault(peer_index, f"sent its {what}, but is no peer of this ceremony")
        if self._keys and kept is not self._round2_casts:
            return  # round 2 has been calculated: what counts is in already, the broadcast refuses anything different
        if kept.setdefault(participant, value) != value:
            raise CeremonyFault(peer_index, f"sent two different {what}")

    # round 2: checking

    def _checked_commitments(self, participant: int) -> list[list[G1]]:
        peer_index = peer_index_of(participant)
        checked = []
        for validator, cast in enumerate(self._casts[participant]):
            try:
                commitments = [G1.decode(commitment) for commitment in cast.commitments]
            except CryptoFault as error:
                raise CeremonyFault(peer_index, f"commitment for validator {validator}: {error}") from None
            nonce_point = G1.GENERATOR * cast.w - commitments[0] * cast.c
            if _challenge(participant, cast.commitments[0], nonce_point.encode()) != cast.c:
                raise CeremonyFault(peer_index, f"proof of knowledge for validator {validator} does not verify")
            checked.append(commitments)
        return checked

    def _check_shares(self, participant: int, commitments: Sequence[Sequence[G1]]) -> None:
        shares = self._shares[participant]
        points = [public_polynomial_at(of_validator, self._own) for of_validator in commitments]
        weights = [int.from_bytes(_drawn(self._entropy, WEIGHT_BYTES), "big") or 1 for _ in points]
        weighted = sum(weight * share for weight, share in zip(weights, shares, strict=True)) % CURVE_ORDER
        if G1.GENERATOR * weighted == g1_linear_combination(points, weights):
            return
        for validator, (share, point) in enumerate(zip(shares, points, strict=True)):
            if G1.GENERATOR * share != point:
                raise CeremonyFault(peer_index_of(participant), f"invalid share for validator {validator}")
        raise AssertionError("the weighted sum is wrong, but no share of it is")

    def _make_keys(self, validator: int, dealt: Sequence[Sequence[G1]]) -> ValidatorKeys:
        summed = [_sum(commitments[k] for commitments in dealt) for k in range(self._threshold)]
        public_shares = [public_polynomial_at(summed, participant) for participant in share_indices(self._operators)]
        if summed[0].is_infinity or any(share.is_infinity for share in public_shares):
            raise CeremonyFault(None, f"the keys of validator {validator} came out as infinity; start a new ceremony")
        secret = (self._own_shares[validator] + sum(self._shares[peer][validator] for peer in self._peers)) % CURVE_ORDER
        encoded = tuple(share.encode() for share in public_shares)
        return ValidatorKeys(summed[0].encode(), encoded, _scalar_bytes(secret))

    def _random_scalar(self) -> int:
        while True:
            scalar = hash_to_scalar(_drawn(self._entropy, SEED_BYTES))
            if scalar != 0:
                return scalar


def _challenge(participant: int, commitment: bytes, nonce_point: bytes) -> int:
    return hash_to_scalar(bytes([participant, CONTEXT]) + commitment + nonce_point)


def _parse(message: Any, body: bytes, peer_index: int, what: str) -> Any:
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise CeremonyFault(peer_index, f"malformed {what}") from None
    return message


def _scalar(peer_index: int, encoded: bytes, what: str, *, allow_zero: bool = False) -> int:
    scalar = int.from_bytes(encoded, "big")
    if len(encoded) != SCALAR_BYTES or scalar >= CURVE_ORDER:
        raise CeremonyFault(peer_index, f"{what}: the scalar is not canonical")
    if scalar == 0 and not allow_zero:
        raise CeremonyFault(peer_index, f"{what}: the scalar is zero")
    return scalar


def _scalar_bytes(scalar: int) -> bytes:
    return scalar.to_bytes(SCALAR_BYTES, "big")


def _sum(points: Any) -> G1:
    total = G1.identity()
    for point in points:
        total = total + point
    return total


def _drawn(entropy: Callable[[int], bytes], count: int) -> bytes:
    drawn = entropy(count)
    if len(drawn) != count:
        raise CryptoFault("entropy source returned too few or too many bytes")
    return drawn
