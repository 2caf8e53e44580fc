"""The forms of a password: what old Go libraries derived keys from is opened, in an order that costs nothing, and nothing else is."""

import copy
import json
import random
import unicodedata
from hashlib import pbkdf2_hmac, sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon_actors.crypto import INSECURE_ITERATIONS, KeystoreFault, decode_keystore, decrypt_keystore, encrypt_keystore, keystore
from charon_actors.crypto.keystore_password import normalise_password, password_candidates
from tests.charon_actors.crypto.vectors import VECTORS

FIELD = VECTORS / "field"
EIP_SECRET = bytes.fromhex("000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f")
OLD: list[dict[str, str]] = json.loads((FIELD / "old_passwords.json").read_text("utf-8"))


def keystore_under(key_text: bytes) -> dict[str, Any]:
    """The keystore of EIP_SECRET whose key was derived from these bytes: made without the code under test."""
    made = copy.deepcopy(encrypt_keystore(EIP_SECRET, "x", random.Random(1).randbytes, iterations=INSECURE_ITERATIONS))
    crypto = made["crypto"]
    salt, iv = bytes.fromhex(crypto["kdf"]["params"]["salt"]), bytes.fromhex(crypto["cipher"]["params"]["iv"])
    derived = pbkdf2_hmac("sha256", key_text, salt, INSECURE_ITERATIONS, 32)
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    ciphertext = Cipher(algorithms.AES(derived[:16]), modes.CTR(iv)).encryptor().update(EIP_SECRET)
    crypto["cipher"]["message"] = ciphertext.hex()
    crypto["checksum"]["message"] = sha256(derived[16:32] + ciphertext).hexdigest()
    return made


def test_the_keystore_of_an_operator_whose_tilde_was_dropped() -> None:
    folder = FIELD / "pw_unicode_altnorm"
    content, password = (folder / "keystore-0.json").read_bytes(), (folder / "keystore-0.txt").read_text("utf-8")
    assert decrypt_keystore(decode_keystore(content), password) == EIP_SECRET


@pytest.mark.parametrize("row", OLD[:40], ids=lambda row: ascii(row["password"]))
def test_what_an_old_library_wrote_is_opened(row: dict[str, str]) -> None:
    assert decrypt_keystore(keystore_under(row["old_form"].encode()), row["password"]) == EIP_SECRET


def test_the_old_form_is_that_of_the_old_library() -> None:
    for row in OLD:
        assert row["old_form"].encode() in password_candidates(row["password"])


def test_of_a_hangul_syllable_only_the_leading_consonant_is_kept() -> None:
    assert password_candidates("비밀") == [unicodedata.normalize("NFD", "비밀").encode(), "\u1107\u1106".encode()]


@pytest.mark.parametrize(
    ("password", "forms"),
    [
        ("correct horse 1!\n", [b"correct horse 1!"]),
        ("пароль", ["пароль".encode()]),  # no mark: nothing to try twice
        ("ñ", ["n\u0303".encode(), b"n"]),
        ("a\x85b", [b"ab", "a\x85b".encode()]),
        ("ñ\x85", ["n\u0303".encode(), "n\u0303\x85".encode(), "n\x85".encode()]),
    ],
)
def test_forms_are_tried_in_order_and_only_where_they_differ(password: str, forms: list[bytes]) -> None:
    assert password_candidates(password) == forms


@pytest.mark.parametrize(("password", "derivations"), [("hunter2", 1), ("contraseña", 2), ("n\x85\u0303", 3)])
def test_a_wrong_password_costs_one_derivation_a_form(password: str, derivations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    others, ours = keystore_under(b"another"), keystore_under(normalise_password(password))
    derived: list[bytes] = []
    real = keystore._pbkdf2

    def derive(text: bytes, salt: bytes, length: int, iterations: int) -> bytes:
        derived.append(text)
        return real(text, salt, length, iterations)

    monkeypatch.setattr(keystore, "_pbkdf2", derive)
    with pytest.raises(KeystoreFault, match="invalid checksum: wrong password"):
        decrypt_keystore(others, password)
    assert len(derived) == derivations
    derived.clear()
    assert decrypt_keystore(ours, password) == EIP_SECRET
    assert len(derived) == 1


@pytest.mark.parametrize(
    ("made_with", "opened_with"),
    [("contraseña", "contrasena"), ("passé", "passe"), ("각", "가나"), ("ab", "a b")],
)
def test_a_password_that_never_had_a_mark_gets_no_other_form(made_with: str, opened_with: str) -> None:
    made = encrypt_keystore(EIP_SECRET, made_with, random.Random(1).randbytes, iterations=INSECURE_ITERATIONS)
    with pytest.raises(KeystoreFault, match="invalid checksum"):
        decrypt_keystore(made, opened_with)


def test_we_write_the_form_of_the_eip_only() -> None:
    made = encrypt_keystore(EIP_SECRET, "contraseña", random.Random(1).randbytes, iterations=INSECURE_ITERATIONS)
    wanted = keystore_under("contrasen\u0303a".encode())
    assert made["crypto"]["checksum"] == wanted["crypto"]["checksum"]


@given(st.text(max_size=60))
def test_there_are_one_to_three_forms(password: str) -> None:
    forms = password_candidates(password)
    assert 1 <= len(forms) <= 3
    assert forms[0] == normalise_password(password)


def test_a_keystore_with_0x_before_its_hex_is_the_same_keystore() -> None:
    folder = FIELD / "pubkey_0x"
    content, password = (folder / "keystore-0.json").read_bytes(), (folder / "keystore-0.txt").read_text("utf-8")
    assert decrypt_keystore(decode_keystore(content), password) == EIP_SECRET
    made = json.loads(content)
    for path in (("kdf", "params", "salt"), ("cipher", "params", "iv"), ("cipher", "message"), ("checksum", "message")):
        place = made["crypto"]
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = "0x" + place[path[-1]]
    assert decrypt_keystore(made, password) == EIP_SECRET
    made["pubkey"] = made["pubkey"][:-2] + ("00" if made["pubkey"][-2:] != "00" else "01")
    with pytest.raises(KeystoreFault, match="pubkey: is not the public key of the secret inside"):
        decrypt_keystore(made, password)


@pytest.mark.parametrize("wrong", ["0x0x", "0X", "0", "0x0", " 0x"])
def test_no_other_prefix_is_taken(wrong: str) -> None:
    made = json.loads((FIELD / "pubkey_0x" / "keystore-0.json").read_bytes())
    made["pubkey"] = wrong + made["pubkey"].removeprefix("0x")
    with pytest.raises(KeystoreFault, match="keystore field pubkey: not 48 bytes in hex"):
        decrypt_keystore(made, "testpassword")
