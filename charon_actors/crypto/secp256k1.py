"""The node's identity key: secp256k1 signatures in the three shapes the protocols want, Keccak-256, Ethereum addresses.

    recoverable   65 bytes R ‖ S ‖ V   consensus messages, EIP-712, node signatures of a lock    (06 §4.2, 01 §4)
    DER           low S                libp2p identity, always over SHA-256(message)             (03 §1)
    compact       64 bytes R ‖ S       ENR                                                       (01 §1.1)

All sign a 32-byte digest which the caller made, with the deterministic nonce of RFC 6979 and low S. Private keys are 32 bytes
from 1 to the order minus 1, public keys 33 bytes compressed. Verification answers False on anything malformed; recovery raises.

Source: specification 06-consensus-qbft section 4.2, 03-p2p section 1, 01-cluster-files section 1.1; EIP-55 (checksummed text).
"""

import re
from typing import Final

from coincurve import PrivateKey, PublicKey
from coincurve.ecdsa import cdata_to_der, deserialize_compact, signature_normalize
from Crypto.Hash import keccak

from charon_actors.crypto.faults import CryptoFault, Entropy, is_bytes_of

K1_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
DIGEST_BYTES: Final = 32
RECOVERABLE_BYTES: Final = 65
MAX_DER_BYTES: Final = 72  # two integers of 33 bytes with their headers

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}\Z")


def k1_generate(entropy: Entropy) -> bytes:
    """A new private key: 32 bytes, uniform from 1 to K1_ORDER - 1 (48 bytes of entropy, bias below 2^-128)."""
    drawn = entropy(48)
    if len(drawn) != 48:
        raise CryptoFault("entropy source returned too few or too many bytes")
    return (int.from_bytes(drawn, "big") % (K1_ORDER - 1) + 1).to_bytes(32, "big")


def k1_public_key(private: bytes) -> bytes:
    """33 bytes, compressed. Raises CryptoFault unless the private key is 32 bytes and from 1 to K1_ORDER - 1."""
    return bytes(_private_key(private).public_key.format(compressed=True))


def k1_compressed(public: bytes) -> bytes:
    """Any SEC1 form (33 or 65 bytes) to the 33 compressed bytes. Raises CryptoFault when it is not a point of the curve."""
    return bytes(_public_key(public).format(compressed=True))


def k1_uncompressed(public: bytes) -> bytes:
    """Any SEC1 form to the 64 bytes x ‖ y. Raises CryptoFault when it is not a point of the curve."""
    return bytes(_public_key(public).format(compressed=False)[1:])


def k1_sign_recoverable(private: bytes, digest: bytes) -> bytes:
    """65 bytes R ‖ S ‖ V with V 0 or 1, over the 32-byte digest itself. Raises CryptoFault on a malformed key or digest."""
    return bytes(_private_key(private).sign_recoverable(_digest(digest), hasher=None))


def k1_recover(digest: bytes, signature: bytes) -> bytes:
    """The 33-byte public key that made this 65-byte signature of the digest; V may be 0, 1, 27 or 28. Raises CryptoFault."""
    _digest(digest)
    if not is_bytes_of(signature, RECOVERABLE_BYTES):
        raise CryptoFault("signature not 65 bytes")
    v = signature[64]
    if v not in (0, 1, 27, 28):
        raise CryptoFault("signature's recovery id is not 0, 1, 27 or 28")
    plain = signature[:64] + bytes([v % 27])
    try:
        return bytes(PublicKey.from_signature_and_message(plain, digest, hasher=None).format(compressed=True))
    except Exception:
        raise CryptoFault("no public key can have made this signature") from None


def k1_verify_recoverable(public: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether the 65-byte signature of the digest recovers to this 33-byte key. False on anything malformed."""
    try:
        return k1_recover(digest, signature) == public
    except CryptoFault:
        return False


def k1_sign_der(private: bytes, digest: bytes) -> bytes:
    """DER, low S, over the digest itself. Raises CryptoFault on a malformed key or digest."""
    return bytes(_private_key(private).sign(_digest(digest), hasher=None))


def k1_verify_der(public: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether this is the key's low-S signature in strict DER. False on anything else, high S included."""
    if not is_bytes_of(signature, *range(MAX_DER_BYTES + 1)):
        return False
    try:
        return bool(_public_key(public).verify(signature, _digest(digest), hasher=None))
    except Exception:  # coincurve raises plain ValueError and Exception for unparsable DER
        return False


def k1_sign_compact(private: bytes, digest: bytes) -> bytes:
    """64 bytes R ‖ S, low S. Raises CryptoFault on a malformed key or digest."""
    return k1_sign_recoverable(private, digest)[:64]


def k1_verify_compact(public: bytes, digest: bytes, signature: bytes, *, allow_high_s: bool = False) -> bool:
    """Whether the 64 bytes R ‖ S are the key's signature of the digest. High S only passes when allowed (ENR of files)."""
    if not is_bytes_of(signature, 64):
        return False
    try:
        decoded = deserialize_compact(signature)
        if allow_high_s:
            decoded = signature_normalize(decoded)[1]
        return bool(_public_key(public).verify(cdata_to_der(decoded), _digest(digest), hasher=None))
    except Exception:
        return False


def keccak256(content: bytes) -> bytes:
    """Keccak-256 with the padding of the original submission, as Ethereum uses it: not SHA3-256. 32 bytes."""
    return keccak.new(digest_bits=256, data=content).digest()


def ethereum_address(public: bytes) -> str:
    """The account of a public key (33 or 65 bytes) in EIP-55 text. Raises CryptoFault when it is not a point of the curve."""
    return checksum_address("0x" + keccak256(k1_uncompressed(public))[12:].hex())


def checksum_address(text: str) -> str:
    """0x and 40 hex digits of any case, written with the mixed case of EIP-55. Raises CryptoFault on other text."""
    if not _is_address(text):
        raise CryptoFault("not an Ethereum address: wanted 0x and 40 hex digits")
    digits = text[2:].lower()
    nibbles = keccak256(digits.encode("ascii")).hex()
    return "0x" + "".join(
        digit.upper() if int(nibble, 16) >= 8 else digit for digit, nibble in zip(digits, nibbles, strict=False)
    )


def _private_key(private: bytes) -> PrivateKey:
    if not is_bytes_of(private, 32) or not 0 < int.from_bytes(private, "big") < K1_ORDER:
        raise CryptoFault("secp256k1 private key: not 32 bytes from 1 to the order minus 1")
    return PrivateKey(private)


def _public_key(public: bytes) -> PublicKey:
    if not is_bytes_of(public, 33, 65):
        raise CryptoFault("invalid secp256k1 public key: not 33 or 65 bytes")
    try:
        return PublicKey(public)
    except Exception:
        raise CryptoFault("invalid secp256k1 public key: not a point of the curve") from None


def _digest(digest: bytes) -> bytes:
    if not is_bytes_of(digest, DIGEST_BYTES):
        raise CryptoFault("digest: not 32 bytes")
    return digest


def _is_address(text: object) -> bool:
    return isinstance(text, str) and _ADDRESS.match(text) is not None
