"""The identity key: vectors, OpenSSL (`cryptography`) as a second implementation, hostile bytes."""

import hashlib
import random
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature
from eth_utils import keccak as independent_keccak
from eth_utils import to_checksum_address
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charon_actors.crypto import (
    CryptoFault,
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
from charon_actors.crypto.secp256k1 import K1_ORDER
from tests.charon_actors.crypto.vectors import read_vectors, unhex

K1 = read_vectors("core/k1_and_hash.json")["k1"]
DER = read_vectors("p2p/signatures.json")["cases"]
PRIVATE, DIGEST = unhex(K1[0]["privkey"]), unhex(K1[0]["digest"])
PUBLIC, SIGNATURE = unhex(K1[0]["pubkey_compressed"]), unhex(K1[0]["signature_rsv"])


@pytest.mark.parametrize("case", K1)
def test_recoverable_signature_is_the_vector(case: dict[str, str]) -> None:
    private, digest, signature = (unhex(case[name]) for name in ("privkey", "digest", "signature_rsv"))
    assert k1_public_key(private).hex() == case["pubkey_compressed"]
    assert k1_sign_recoverable(private, digest) == signature
    assert k1_recover(digest, signature).hex() == case["pubkey_compressed"]
    assert k1_sign_compact(private, digest) == signature[:64]


def test_recovery_accepts_the_ethereum_offset_and_nothing_else() -> None:
    for v in range(256):
        candidate = SIGNATURE[:64] + bytes([v])
        if v in (0, 1, 27, 28):
            assert (k1_recover(DIGEST, candidate) == PUBLIC) == (v % 27 == SIGNATURE[64])
        else:
            with pytest.raises(CryptoFault):
                k1_recover(DIGEST, candidate)


@pytest.mark.parametrize("case", DER)
def test_identity_signature_is_the_vector_and_high_s_is_refused(case: dict[str, str]) -> None:
    private, digest = unhex(case["private_key"]), hashlib.sha256(unhex(case["message"])).digest()
    public, high = k1_public_key(private), unhex(case["high_s_variant_must_not_be_produced"])
    assert k1_sign_der(private, digest).hex() == case["signature_der"]
    assert k1_verify_der(public, digest, unhex(case["signature_der"]))
    assert not k1_verify_der(public, digest, high)
    compact = b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(high))
    assert not k1_verify_compact(public, digest, compact)
    assert k1_verify_compact(public, digest, compact, allow_high_s=True)


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_openssl_agrees(seed: int) -> None:
    rng = random.Random(seed)
    private, digest = k1_generate(rng.randbytes), rng.randbytes(32)
    openssl = ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256K1())
    numbers = openssl.public_key().public_numbers()
    assert k1_uncompressed(k1_public_key(private)) == numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    ours = k1_sign_der(private, digest)
    openssl.public_key().verify(ours, digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    r, s = decode_dss_signature(ours)
    assert s <= K1_ORDER // 2
    assert k1_sign_compact(private, digest) == r.to_bytes(32, "big") + s.to_bytes(32, "big")
    r, s = decode_dss_signature(openssl.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()))))
    assert k1_verify_der(k1_public_key(private), digest, encode_dss_signature(r, min(s, K1_ORDER - s)))


def test_a_signature_is_for_one_key_and_one_digest() -> None:
    other = k1_public_key(b"\2" * 32)
    assert k1_verify_recoverable(PUBLIC, DIGEST, SIGNATURE)
    assert not k1_verify_recoverable(other, DIGEST, SIGNATURE)
    assert not k1_verify_recoverable(PUBLIC, bytes(32), SIGNATURE)
    assert not k1_verify_der(other, DIGEST, k1_sign_der(PRIVATE, DIGEST))
    assert not k1_verify_compact(other, DIGEST, SIGNATURE[:64])


@given(st.binary(max_size=70), st.binary(max_size=40))
@example(bytes(65), bytes(32))
@example(b"\xff" * 64 + b"\0", DIGEST)
@example(SIGNATURE, DIGEST[:-1])
@settings(max_examples=300, deadline=None)
def test_recovery_of_noise_ends_in_a_key_or_a_fault(signature: bytes, digest: bytes) -> None:
    with suppress(CryptoFault):
        assert len(k1_recover(digest, signature)) == 33
    assert not k1_verify_recoverable(b"\2" + bytes(32), digest, signature)


@given(st.binary(min_size=65, max_size=65))
@settings(max_examples=100, deadline=None)
def test_recovery_of_65_bytes_ends_in_a_key_or_a_fault(signature: bytes) -> None:
    try:
        recovered = k1_recover(DIGEST, signature[:64] + bytes([signature[64] % 2]))
    except CryptoFault:
        return
    assert recovered != PUBLIC


@given(st.binary(max_size=80), st.binary(max_size=80))
@settings(max_examples=200, deadline=None)
def test_verification_of_noise_is_false(public: bytes, signature: bytes) -> None:
    for key in (public, PUBLIC):
        assert not k1_verify_der(key, DIGEST, signature)
        assert not k1_verify_compact(key, DIGEST, signature)
        assert not k1_verify_compact(key, DIGEST, signature, allow_high_s=True)


def test_unusual_der_is_refused() -> None:
    good = k1_sign_der(PRIVATE, DIGEST)
    for bad in (good + b"\0", good[:-1], b"\x30\x81" + good[1:], b"", good.hex()):
        assert not k1_verify_der(PUBLIC, DIGEST, bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("private", [bytes(32), K1_ORDER.to_bytes(32, "big"), b"\xff" * 32, b"\1" * 31, b"\1" * 33, b""])
def test_private_keys_outside_the_order_are_refused(private: bytes) -> None:
    for use in (k1_public_key, lambda p: k1_sign_der(p, DIGEST), lambda p: k1_sign_recoverable(p, DIGEST)):
        with pytest.raises(CryptoFault):
            use(private)


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33)])
def test_only_digests_of_32_bytes_are_signed(digest: bytes) -> None:
    for sign in (k1_sign_der, k1_sign_recoverable, k1_sign_compact):
        with pytest.raises(CryptoFault):
            sign(PRIVATE, digest)


def test_generated_keys_are_in_range() -> None:
    assert k1_generate(bytes) == (1).to_bytes(32, "big")
    assert 0 < int.from_bytes(k1_generate(lambda count: b"\xff" * count), "big") < K1_ORDER
    with pytest.raises(CryptoFault):
        k1_generate(lambda count: bytes(count + 1))


def test_compression_goes_both_ways() -> None:
    uncompressed = b"\4" + k1_uncompressed(PUBLIC)
    assert k1_compressed(uncompressed) == k1_compressed(PUBLIC) == PUBLIC
    for bad in (PUBLIC[:-1], b"\5" + PUBLIC[1:], b"\2" + b"\xff" * 32, uncompressed[:-1] + b"\0", b""):
        with pytest.raises(CryptoFault):
            k1_compressed(bad)


@given(st.binary(max_size=300))
@settings(max_examples=50)
def test_keccak_is_the_independent_one(content: bytes) -> None:
    assert keccak256(content) == independent_keccak(content)


@given(st.binary(min_size=20, max_size=20))
@settings(max_examples=50)
def test_checksummed_addresses_are_the_independent_ones(account: bytes) -> None:
    assert checksum_address("0x" + account.hex()) == to_checksum_address(account)
    assert checksum_address("0x" + account.hex().upper()) == to_checksum_address(account)


def test_address_of_a_key() -> None:
    # The account of private key 1, known to every Ethereum tool.
    assert ethereum_address(k1_public_key((1).to_bytes(32, "big"))) == "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"


@pytest.mark.parametrize("text", ["", "0x", "0x" + "0" * 39, "0x" + "0" * 41, "0" * 40, "0X" + "0" * 40, "0x" + "g" * 40, None])
def test_other_text_is_no_address(text: str) -> None:
    with pytest.raises(CryptoFault):
        checksum_address(text)


def test_an_address_with_a_newline_is_none() -> None:
    with pytest.raises(CryptoFault):
        checksum_address("0x" + "0" * 40 + "\n")


@pytest.mark.parametrize(
    ("key", "message", "signature"),
    [
        (
            "01",
            "Satoshi Nakamoto",
            "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d82442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5",
        ),
        (
            "01",
            "All those moments will be lost in time, like tears in rain. Time to die...",
            "8600dbd41e348fe5c9465ab92d23e3db8b98b873beecd930736488696438cb6b547fe64427496db33bf66019dacbf0039c04199abb0122918601db38a72cfc21",
        ),
        (
            "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364140",
            "Satoshi Nakamoto",
            "fd567d121db66e382991534ada77a6bd3106f0a1098c231e47993447cd6af2d06b39cd0eb1bc8603e159ef5c20a5c8ad685a45b06ce9bebed3f153d10d93bed5",
        ),
        (
            "f8b8af8ce3c7cca5e300d33939540c10d45ce001b8f252bfbc57ba0342904181",
            "Alan Turing",
            "7063ae83e7f62bbb171798131b4a0564b956930092b33b07b395615d9ec7e15c58dfcc1e00a35e1572f366ffe34ba0fc47db1e7189759b9fb233c5b05ab388ea",
        ),
    ],
)
def test_signatures_are_deterministic_as_rfc_6979_says(key: str, message: str, signature: str) -> None:
    """The vectors that wallets share for secp256k1 with SHA-256; the RFC itself has none for this curve."""
    secret = bytes.fromhex(key.zfill(64))
    assert k1_sign_compact(secret, hashlib.sha256(message.encode()).digest()).hex() == signature
