"""Keystores: vectors both ways, every field guarded, no secret in any fault."""

import copy
import json
import pickle
import random
import time
from contextlib import suppress
from hashlib import pbkdf2_hmac
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charon_actors.crypto import (
    INSECURE_ITERATIONS,
    CryptoFault,
    KeystoreFault,
    decode_keystore,
    decrypt_keystore,
    encode_keystore,
    encrypt_keystore,
    generate_secret,
)
from charon_actors.crypto.keystore import MAX_KEYSTORE_BYTES, _pbkdf2, named_public_key
from charon_actors.crypto.keystore_password import normalise_password
from tests.charon_actors.crypto.vectors import VECTORS, read_vectors

EXPECTED = {name: bytes.fromhex(value["secret"]) for name, value in read_vectors("cluster/keystores/expected.json").items()}
FOLDER = VECTORS / "cluster" / "keystores"
FAST = "keystore-insecure-0"
SECRET = EXPECTED[FAST]
PASSWORD = (FOLDER / f"{FAST}.txt").read_text()
KEYSTORE = decode_keystore((FOLDER / f"{FAST}.json").read_bytes())


@pytest.mark.parametrize("name", EXPECTED)
def test_vectors_decrypt_and_encode_to_the_same_bytes(name: str) -> None:
    content = (FOLDER / f"{name}.json").read_bytes()
    keystore = decode_keystore(content)
    assert decrypt_keystore(keystore, (FOLDER / f"{name}.txt").read_text()) == EXPECTED[name]
    assert encode_keystore(keystore) == content


@pytest.mark.parametrize("name", ["keystore-0", FAST])
def test_encrypting_with_the_vectors_randomness_gives_the_vector(name: str) -> None:
    content = (FOLDER / f"{name}.json").read_bytes()
    wanted = decode_keystore(content)
    kdf = wanted["crypto"]["kdf"]["params"]
    salt, iv, uuid = kdf["salt"], wanted["crypto"]["cipher"]["params"]["iv"], wanted["uuid"].replace("-", "")
    drawn = iter([bytes.fromhex(salt), bytes.fromhex(iv), bytes.fromhex(uuid)])
    made = encrypt_keystore(EXPECTED[name], PASSWORD, lambda count: next(drawn), iterations=kdf["c"])
    assert encode_keystore(made) == content


EIP_PASSWORD = "𝔱𝔢𝔰𝔱𝔭𝔞𝔰𝔰𝔴𝔬𝔯𝔡🔑"
EIP_SECRET = bytes.fromhex("000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f")
EIP_PUBKEY = "9612d7a727c9d0a22e185a1c768478dfe919cada9266988cb32359c11f2b7b27f4ae4040902382ae2910c15e2b420d07"
EIP_SALT = "d4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3"
EIP_IV = "264daa3f303d7259501c93d997d84fe6"


def eip_2335(kdf: dict[str, Any], checksum: str, ciphertext: str, **rest: str) -> dict[str, Any]:
    return {
        "crypto": {
            "kdf": {**kdf, "message": ""},
            "checksum": {"function": "sha256", "params": {}, "message": checksum},
            "cipher": {"function": "aes-128-ctr", "params": {"iv": EIP_IV}, "message": ciphertext},
        },
        **rest,
        "pubkey": EIP_PUBKEY,
        "version": 4,
    }


EIP_EXAMPLES = {
    "scrypt": eip_2335(
        {"function": "scrypt", "params": {"dklen": 32, "n": 262144, "p": 1, "r": 8, "salt": EIP_SALT}},
        "d2217fe5f3e9a1e34581ef8a78f7c9928e436d36dacc5e846690a5581e8ea484",
        "06ae90d55fe0a6e9c5c3bc5b170827b2e5cce3929ed3f116c2811e6366dfe20f",
        description="This is a test keystore that uses scrypt to secure the secret.",
        path="m/12381/60/3141592653/589793238",
        uuid="1d85ae20-35c5-4611-98e8-aa14a633906f",
    ),
    "pbkdf2": eip_2335(
        {"function": "pbkdf2", "params": {"dklen": 32, "c": 262144, "prf": "hmac-sha256", "salt": EIP_SALT}},
        "8a9f5d9912ed7e75ea794bc5a89bca5f193721d30868ade6f73043c6ea6febf1",
        "cee03fde2af33149775b7223e7845e4fb2c8ae1792e5f99fe9ecf474cc8c16ad",
        description="This is a test keystore that uses PBKDF2 to secure the secret.",
        path="m/12381/60/0/0",
        uuid="64625def-3331-4eea-ab6f-782f3ed16a83",
    ),
}


@pytest.mark.parametrize("function", EIP_EXAMPLES)
def test_examples_of_eip_2335_both_ways(function: str) -> None:
    example = EIP_EXAMPLES[function]
    assert decrypt_keystore(example, EIP_PASSWORD) == EIP_SECRET
    drawn = iter([bytes.fromhex(EIP_SALT), bytes.fromhex(EIP_IV), bytes(16)])
    made = encrypt_keystore(EIP_SECRET, EIP_PASSWORD, lambda count: next(drawn), use_scrypt=function == "scrypt")
    assert made["crypto"] == example["crypto"]
    assert made["pubkey"] == example["pubkey"]


def test_the_unusual_password_of_eip_2335_is_normalised() -> None:
    assert normalise_password(EIP_PASSWORD) == bytes.fromhex("7465737470617373776f7264f09f9491")


def test_a_known_public_key_is_believed_and_named_without_opening() -> None:
    entropy = random.Random(1).randbytes
    lie = encrypt_keystore(SECRET, PASSWORD, entropy, iterations=INSECURE_ITERATIONS, pubkey=bytes.fromhex(EIP_PUBKEY))
    assert lie["pubkey"] == EIP_PUBKEY
    assert named_public_key(encode_keystore(lie)) == bytes.fromhex(EIP_PUBKEY)
    with pytest.raises(KeystoreFault, match="pubkey: is not the public key of the secret inside"):
        decrypt_keystore(lie, PASSWORD)


@pytest.mark.parametrize("nothing", [..., "", None])
def test_a_keystore_that_names_no_public_key(nothing: object) -> None:
    assert named_public_key(encode_keystore(altered("pubkey", nothing))) is None


@pytest.mark.parametrize("wrong", ["00", "x" * 96, 5, [], "0x0x" + EIP_PUBKEY])
def test_a_malformed_public_key_is_named(wrong: object) -> None:
    with pytest.raises(KeystoreFault) as fault:
        named_public_key(encode_keystore(altered("pubkey", wrong)))
    assert fault.value.field == "pubkey"


@pytest.mark.parametrize("iterations", [1, 16, 199, 200, 201])
def test_both_implementations_of_pbkdf2_agree_where_they_meet(iterations: int) -> None:
    for length in (32, 64):
        assert _pbkdf2(b"password", b"salt", length, iterations) == pbkdf2_hmac(
            "sha256", b"password", b"salt", iterations, length
        )


@given(st.integers(0, 2**32), st.text(min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_what_was_encrypted_is_decrypted_with_this_password_only(seed: int, password: str) -> None:
    entropy = random.Random(seed).randbytes
    secret = generate_secret(entropy)
    try:
        keystore = encrypt_keystore(secret, password, entropy, iterations=INSECURE_ITERATIONS)
    except KeystoreFault:
        assert not normalise_password(password)
        return
    content = encode_keystore(keystore)
    assert decrypt_keystore(decode_keystore(content), password + "\n") == secret  # a trailing newline is harmless
    with pytest.raises(KeystoreFault) as fault:
        decrypt_keystore(keystore, password + "x")
    assert fault.value.field == "crypto.checksum.message"
    assert secret.hex() not in content.decode()


def test_both_rules_for_the_c1_control_characters_can_be_read() -> None:
    """EIP-2335 drops U+0080 to U+009F, the library of Charon keeps them (01, section 7.1)."""
    assert normalise_password("a\x85b") == b"ab"
    assert normalise_password("a\x85b", keep_c1=True) == "a\x85b".encode()
    strict = encrypt_keystore(SECRET, "ab", random.Random(1).randbytes, iterations=INSECURE_ITERATIONS)
    assert decrypt_keystore(strict, "a\x85b") == SECRET
    loose = copy.deepcopy(strict)
    from charon_actors.crypto import keystore as room

    with pytest.MonkeyPatch.context() as patch:  # a file made with the other rule
        patch.setattr(room, "normalise_password", lambda password, **_: password.encode())
        loose = encrypt_keystore(SECRET, "a\x85b", random.Random(1).randbytes, iterations=INSECURE_ITERATIONS)
    assert loose["crypto"]["checksum"] != strict["crypto"]["checksum"]
    assert decrypt_keystore(loose, "a\x85b") == SECRET


def altered(path: str, value: object) -> dict[str, Any]:
    keystore = copy.deepcopy(KEYSTORE)
    *folders, name = path.split(".")
    place = keystore
    for folder in folders:
        place = place[folder]
    if value is ...:
        del place[name]
    else:
        place[name] = value
    return keystore


SCRYPT = {"dklen": 32, "n": 16, "r": 8, "p": 1, "salt": "00" * 32}


def scrypt(**params: object) -> dict[str, Any]:
    return altered("crypto.kdf", {"function": "scrypt", "params": {**SCRYPT, **params}, "message": ""})


BROKEN: dict[str, tuple[Any, ...]] = {
    "crypto": (..., None, [], "x"),
    "crypto.kdf": (..., 5),
    "crypto.kdf.params": (..., []),
    "crypto.kdf.function": (..., "argon2", None, []),
    "crypto.kdf.params.c": (..., 0, -1, 10_000_001, 10**400, 16.0, True, "16", None),
    "crypto.kdf.params.dklen": (..., 31, 65, 2**31, 32.0),
    "crypto.kdf.params.prf": (..., "hmac-sha512", 1),
    "crypto.kdf.params.salt": (..., "0", "zz", "00" * 129, 5, " 00", "00\n"),
    "crypto.cipher": (..., None),
    "crypto.cipher.function": (..., "aes-256-ctr"),
    "crypto.cipher.message": (..., "00" * 31, "00" * 33, "0x" + "00" * 31, 0),
    "crypto.cipher.params": (..., "iv"),
    "crypto.cipher.params.iv": (..., "00" * 15, "00" * 17),
    "crypto.checksum": (...,),
    "crypto.checksum.function": (..., "sha512"),
    "crypto.checksum.message": (..., "00" * 32, "00" * 31),
    "version": (3, "4", 4.0, None, True),
    "pubkey": ("00" * 48, "ab", 7, "affcbf73c0609899141340513dc85f0ab2b6099e7beb700b7dbc000bcefc25b6"),
}


@pytest.mark.parametrize(
    ("keystore", "field"),
    [
        *((altered(path, value), path) for path, values in BROKEN.items() for value in values),
        (scrypt(n=15), "crypto.kdf.params.n"),
        (scrypt(n=1), "crypto.kdf.params.n"),
        (scrypt(n=2**20), "crypto.kdf.params.n"),
        (scrypt(n=2**62), "crypto.kdf.params.n"),
        (scrypt(n=2**19, p=8), "crypto.kdf.params.n"),
        (scrypt(n=2.0), "crypto.kdf.params.n"),
        (scrypt(r=0), "crypto.kdf.params.r"),
        (scrypt(r=2**30), "crypto.kdf.params.r"),
        (scrypt(p=2**30), "crypto.kdf.params.p"),
        (scrypt(p=None), "crypto.kdf.params.p"),
        (scrypt(), "crypto.checksum.message"),
    ],
)
def test_each_bad_field_is_named_at_once(keystore: dict[str, Any], field: str) -> None:
    started = time.monotonic()
    with pytest.raises(KeystoreFault) as fault:
        decrypt_keystore(keystore, PASSWORD)
    assert fault.value.field == field
    assert time.monotonic() - started < 1  # nothing expensive before the limits are checked
    text = str(fault.value) + repr(fault.value)
    assert PASSWORD not in text
    assert SECRET.hex() not in text


def test_missing_version_and_pubkey_are_read() -> None:
    assert decrypt_keystore(altered("version", ...), PASSWORD) == SECRET
    assert decrypt_keystore(altered("pubkey", ...), PASSWORD) == SECRET
    assert decrypt_keystore(altered("pubkey", ""), PASSWORD) == SECRET
    assert decrypt_keystore(altered("pubkey", KEYSTORE["pubkey"].upper()), PASSWORD) == SECRET


@pytest.mark.parametrize("password", ["", "\n\x00", "x" * 1025, "\ud800", 5, None, b"bytes"])
def test_unusable_passwords_are_refused_without_showing_them(password: str) -> None:
    with pytest.raises(KeystoreFault) as fault:
        encrypt_keystore(SECRET, password, random.Random(1).randbytes, iterations=INSECURE_ITERATIONS)
    assert not password or str(password) not in str(fault.value)
    with pytest.raises(KeystoreFault):
        decrypt_keystore(KEYSTORE, password)


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, b"\1" * 31])
def test_what_is_no_secret_is_not_encrypted(secret: bytes) -> None:
    with pytest.raises(CryptoFault):
        encrypt_keystore(secret, "password", random.Random(1).randbytes)


@pytest.mark.parametrize("iterations", [0, -1, 10_000_001, 2.5, True])
def test_impossible_iterations_are_refused(iterations: int) -> None:
    with pytest.raises(KeystoreFault):
        encrypt_keystore(SECRET, "password", random.Random(1).randbytes, iterations=iterations)


def test_a_zero_secret_inside_is_refused() -> None:
    from charon_actors.crypto import keystore as room

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "public_key", lambda secret: b"")
        patch.setattr(room, "decode_scalar", lambda secret: 0)
        zero = encrypt_keystore(bytes(32), PASSWORD, random.Random(1).randbytes, iterations=INSECURE_ITERATIONS)
    with pytest.raises(KeystoreFault) as fault:
        decrypt_keystore(zero, PASSWORD)
    assert fault.value.field == "crypto.cipher.message"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
PATHS = [
    "crypto",
    "crypto.kdf",
    "crypto.kdf.function",
    "crypto.kdf.params",
    "crypto.kdf.params.dklen",
    "crypto.kdf.params.prf",
    "crypto.kdf.params.salt",
    "crypto.cipher",
    "crypto.cipher.message",
    "crypto.cipher.params",
    "crypto.cipher.params.iv",
    "crypto.checksum",
    "crypto.checksum.message",
    "pubkey",
]


@given(st.sampled_from(PATHS), JSON)
@settings(max_examples=300, deadline=None)
def test_hostile_values_end_in_the_secret_or_a_keystore_fault(path: str, value: object) -> None:
    with suppress(KeystoreFault):
        assert decrypt_keystore(altered(path, value), PASSWORD) == SECRET


@given(JSON)
@settings(max_examples=100)
def test_anything_else_is_no_keystore(value: object) -> None:
    with pytest.raises(KeystoreFault):
        decrypt_keystore(value, PASSWORD)  # type: ignore[arg-type]


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_files_of_noise_end_in_a_fault_or_an_object(content: bytes) -> None:
    with suppress(KeystoreFault):
        assert isinstance(decode_keystore(content), dict)
        named_public_key(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"5",
        b"{",
        b"\xff",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"a":' + b"9" * 5000 + b"}",
        b" " * MAX_KEYSTORE_BYTES + b"{}",
        b'{"a":1,"a":1}',
        b'{"crypto":{"kdf":{"function":"scrypt","Function":"pbkdf2"}}}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        "{}".encode("utf-32-le"),
    ],
)
def test_files_that_hurt_parsers_are_faults(content: bytes) -> None:
    with pytest.raises(KeystoreFault):
        decode_keystore(content)


def test_a_fault_survives_the_way_out_of_a_worker_process() -> None:
    fault = pickle.loads(pickle.dumps(KeystoreFault("crypto.kdf", "missing")))
    assert (fault.field, str(fault)) == ("crypto.kdf", "keystore field crypto.kdf: missing")
