"""BLS signatures of the consensus layer: 32-byte secrets, 48-byte public keys, 96-byte signatures.

    public key   secret · g1
    signature    secret · H(message)
    verify       e(public key, H(message)) = e(g1, signature)

Everything is bytes outside and decoded inside, so a caller cannot skip a check: every public key and every signature is checked
for flags, curve and subgroup, and infinity is refused on both sides (an infinite key would "sign" everything).
Measured: sign 0.3 ms, verify 1 ms, both without releasing the interpreter lock; for many signatures use `batch` or workers.

Source: specification 08-beacon-node section 8, 01-cluster-files section 5; draft-irtf-cfrg-bls-signature-05, ciphersuite
BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_.
"""

from collections.abc import Iterable, Sequence

from charon_actors.crypto.faults import CryptoFault, Entropy
from charon_actors.crypto.group import (
    G1,
    G2,
    decode_public_key,
    decode_scalar,
    encode_scalar,
    pairings_agree,
    random_scalar,
)


def generate_secret(entropy: Entropy) -> bytes:
    """A new secret: 32 bytes, big endian, uniform from 1 to CURVE_ORDER - 1."""
    return encode_scalar(random_scalar(entropy))


def public_key(secret: bytes) -> bytes:
    """48 bytes, compressed G1. Raises CryptoFault unless the secret is 32 bytes, canonical and not zero."""
    return (G1.GENERATOR * decode_scalar(secret)).encode()


def sign(secret: bytes, message: bytes) -> bytes:
    """96 bytes, compressed G2. The message is any bytes, in duties a 32-byte signing root. Raises CryptoFault as `public_key`."""
    return (G2.hash_message(message) * decode_scalar(secret)).encode()


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the key signed the message. False, never an exception, for whatever is malformed, infinite or out of subgroup."""
    return fast_aggregate_verify([public_key], message, signature)


def aggregate_signatures(signatures: Sequence[bytes]) -> bytes:
    """The sum of one or more signatures, 96 bytes.

    Raises CryptoFault for none, for a malformed one, and when the sum is infinity (signatures that cancel each other).
    """
    if not signatures:
        raise CryptoFault("no signatures to aggregate")
    total = G2.identity()
    for signature in signatures:
        total = total + G2.decode(signature)
    if total.is_infinity:
        raise CryptoFault("aggregate of signatures is infinity")
    return total.encode()


def fast_aggregate_verify(public_keys: Sequence[bytes], message: bytes, signature: bytes) -> bool:
    """Whether the signature is the sum of all keys' signatures of the one message. False for no keys and anything malformed.

    The sum says nothing about who signed what: the keys must have proven their possession, or stand in a verified lock.
    """
    try:
        total = G1.identity()
        for key in public_keys:
            total = total + decode_public_key(key)
        decoded = G2.decode(signature)
        if total.is_infinity or not isinstance(message, bytes):
            return False
        return pairings_agree([(total, G2.hash_message(message))], decoded)
    except (CryptoFault, TypeError):  # TypeError: not bytes at all, for example a list, which the cache cannot hash
        return False


def aggregate_verify(statements: Iterable[tuple[bytes, bytes]], signature: bytes) -> bool:
    """Whether the signature is the sum of signatures of all (public key, message) statements. False for none, or anything malformed.

    About 0.3 ms a key and 0.15 ms a message. A sum can hide signatures that are wrong by +δ and -δ: for signatures that one party
    made, not for those of several (those are for `batch`). AggregateVerify of the draft; its statements may repeat keys.
    """
    sums: dict[bytes, G2] = {}
    try:
        for key, message in statements:
            hashed = G2.hash_message(message)
            sums[key] = sums[key] + hashed if key in sums else hashed
        return pairings_agree(((decode_public_key(key), hashed) for key, hashed in sums.items()), G2.decode(signature))
    except (CryptoFault, TypeError):
        return False
