"""Keys, signatures, groups and keystores. Pure: randomness is passed in, nothing touches a file or a socket."""

from charon_actors.crypto.batch import Check, verify_all
from charon_actors.crypto.bls import (
    aggregate_signatures,
    fast_aggregate_verify,
    generate_secret,
    public_key,
    sign,
    verify,
)
from charon_actors.crypto.faults import CryptoFault, Entropy, KeystoreFault
from charon_actors.crypto.group import CURVE_ORDER, G1, G2, g1_linear_combination, small_multiple
from charon_actors.crypto.keystore import (
    INSECURE_ITERATIONS,
    decode_keystore,
    decrypt_keystore,
    encode_keystore,
    encrypt_keystore,
)
from charon_actors.crypto.secp256k1 import (
    checksum_address,
    ethereum_address,
    k1_compressed,
    k1_generate,
    k1_public_key,
    k1_recover,
    k1_sign_compact,
    k1_sign_der,
    k1_sign_recoverable,
    k1_uncompressed,
    k1_verify_compact,
    k1_verify_der,
    k1_verify_recoverable,
    keccak256,
)
from charon_actors.crypto.threshold import recover_public_key, recover_secret, recover_signature, split_secret

__all__ = [
    "CURVE_ORDER",
    "G1",
    "G2",
    "INSECURE_ITERATIONS",
    "Check",
    "CryptoFault",
    "Entropy",
    "KeystoreFault",
    "aggregate_signatures",
    "checksum_address",
    "decode_keystore",
    "decrypt_keystore",
    "encode_keystore",
    "encrypt_keystore",
    "ethereum_address",
    "fast_aggregate_verify",
    "g1_linear_combination",
    "generate_secret",
    "k1_compressed",
    "k1_generate",
    "k1_public_key",
    "k1_recover",
    "k1_sign_compact",
    "k1_sign_der",
    "k1_sign_recoverable",
    "k1_uncompressed",
    "k1_verify_compact",
    "k1_verify_der",
    "k1_verify_recoverable",
    "keccak256",
    "public_key",
    "recover_public_key",
    "recover_secret",
    "recover_signature",
    "sign",
    "small_multiple",
    "split_secret",
    "verify",
    "verify_all",
]
