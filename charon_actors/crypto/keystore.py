"""Keystores of EIP-2335: one BLS secret in a JSON object, under a password.

    DK = kdf(normalised password)      pbkdf2-hmac-sha256 or scrypt, 32 bytes
    checksum = sha256(DK[16:32] ‖ ciphertext)                          says whether the password is right
    secret   = AES-128-CTR(DK[0:16], iv, ciphertext)                   32 bytes

A password has up to three forms (`keystore_password.py`); reading tries those that differ, writing takes that of EIP-2335. Hex is read
with or without 0x, and written without.

A keystore may come from anywhere, so reading is bounded: the parameters of the table are checked before anything is computed,
and each fault names its field. Keys that we don't know are ignored, missing `pubkey`, `path` and so on are fine; what two readers
could read differently is refused: the same key twice, bytes that are no UTF-8, NaN. No fault holds a password, a key or a value of
the file.

    field                      limit                                      reason
    whole file                 64 KiB                                     real ones have 1 KiB
    password                   1024 characters, 3 forms
    pbkdf2 c                   1 … 10 million (usual 262 144)             some 3 s
    scrypt n                   power of two from 2
    scrypt 128·n·r             512 MiB (usual 256 MiB)                    memory
    scrypt n·r·p               2^24 (usual 2^21)                          some 8 s
    scrypt r, p                1 … 64, 1 … 64
    dklen                      32 … 64
    salt                       0 … 128 bytes

Source: specification 01-cluster-files section 7.1; EIP-2335.
"""

import re
from collections.abc import Mapping
from hashlib import pbkdf2_hmac, sha256
from hmac import compare_digest
from typing import Any, Final

import msgspec

from charon_actors.bounded_json import KEYSTORE, decode_json_file
from charon_actors.crypto.bls import public_key
from charon_actors.crypto.faults import CryptoFault, Entropy, KeystoreFault
from charon_actors.crypto.group import decode_scalar
from charon_actors.crypto.keystore_password import mistaken, normalise_password, password_candidates
from charon_actors.file_kinds import BYTE_ORDER_MARK, FileKind, clause, form_by_beginning, other_than, what_it_is, why_no_json

PBKDF2_ITERATIONS: Final = 262_144  # 2^18, of EIP-2335
INSECURE_ITERATIONS: Final = 16  # of `--insecure-keys`, for tests only
SCRYPT_N: Final = 262_144  # 2^18, with r = 8 and p = 1: of EIP-2335
SCRYPT_R: Final = 8
SCRYPT_P: Final = 1
PATH: Final = "m/12381/3600/0/0/0"  # Charon writes it into every keystore; shares are not derived from a seed

MAX_KEYSTORE_BYTES: Final = 64 * 1024
MAX_PBKDF2_ITERATIONS: Final = 10_000_000
MAX_SCRYPT_MEMORY_BYTES: Final = 512 * 1024 * 1024
MAX_SCRYPT_WORK: Final = 2**24
MAX_SCRYPT_FACTOR: Final = 64
MAX_SALT_BYTES: Final = 128
MIN_DERIVED_BYTES: Final = 32
MAX_DERIVED_BYTES: Final = 64

_KEYSTORE_KEYS: Final = frozenset(
    {"crypto", "pubkey", "kdf", "cipher", "checksum", "uuid"}
)  # one of them: it may be a damaged keystore

_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*\Z")


def encrypt_keystore(
    secret: bytes,
    password: str,
    entropy: Entropy,
    *,
    iterations: int = PBKDF2_ITERATIONS,
    use_scrypt: bool = False,
    pubkey: bytes = b"",
) -> dict[str, Any]:
    """The keystore of a 32-byte secret, as a JSON object in Charon's order of keys. Some 35 ms; with scrypt 0.7 s and 256 MiB.

    iterations: of PBKDF2; less than the default only for tests (INSECURE_ITERATIONS). use_scrypt: instead of PBKDF2, at full cost.
    pubkey: the secret's public key, 48 bytes, if the caller knows it: it is believed, which saves 0.1 ms.
    Raises CryptoFault for a malformed secret, KeystoreFault for an unusable password or number of iterations.
    """
    decode_scalar(secret)
    pubkey = pubkey or public_key(secret)
    if type(iterations) is not int or not 1 <= iterations <= MAX_PBKDF2_ITERATIONS:
        raise KeystoreFault("crypto.kdf.params.c", f"not from 1 to {MAX_PBKDF2_ITERATIONS}")
    normalised = normalise_password(password)
    if not normalised:
        raise KeystoreFault("", "password is empty")
    salt, iv, uuid = _draw(entropy, 32), _draw(entropy, 16), _draw(entropy, 16)
    kdf: dict[str, Any]
    if use_scrypt:
        derived = _Scrypt(salt, SCRYPT_N, SCRYPT_R, SCRYPT_P, 32).derive(normalised)
        params = {"dklen": 32, "n": SCRYPT_N, "p": SCRYPT_P, "r": SCRYPT_R, "salt": salt.hex()}
        kdf = {"function": "scrypt", "message": "", "params": params}
    else:
        derived = _pbkdf2(normalised, salt, 32, iterations)
        params = {"c": iterations, "dklen": 32, "prf": "hmac-sha256", "salt": salt.hex()}
        kdf = {"function": "pbkdf2", "message": "", "params": params}
    ciphertext = _aes_128_ctr(derived[:16], iv, secret)
    digits = uuid.hex().upper()
    return {
        "crypto": {
            "checksum": {
                "function": "sha256",
                "message": sha256(derived[16:32] + ciphertext).hexdigest(),
                "params": {},
            },
            "cipher": {"function": "aes-128-ctr", "message": ciphertext.hex(), "params": {"iv": iv.hex()}},
            "kdf": kdf,
        },
        "description": "",
        "pubkey": pubkey.hex(),
        "path": PATH,
        "uuid": "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])),
        "version": 4,
    }


def decrypt_keystore(keystore: Mapping[str, Any], password: str) -> bytes:
    """The 32-byte secret of a keystore, as decoded from JSON. Costs up to some seconds and 512 MiB (table of limits above).

    A `pubkey` that the file names must be the secret's; without one (or with an empty one) that is not checked.
    Raises KeystoreFault with the field at fault; "crypto.checksum.message" mostly means that the password is wrong.
    """
    _as_object(keystore, "")
    if "version" in keystore and (type(keystore["version"]) is not int or keystore["version"] != 4):
        raise KeystoreFault("version", "not 4")
    crypto = _object(keystore, "", "crypto")
    checksum, cipher, kdf = (_object(crypto, "crypto", name) for name in ("checksum", "cipher", "kdf"))
    _expect(checksum, "crypto.checksum", "function", "sha256")
    _expect(cipher, "crypto.cipher", "function", "aes-128-ctr")
    wanted = _hex(checksum, "crypto.checksum", "message", 32, 32)
    ciphertext = _hex(cipher, "crypto.cipher", "message", 32, 32)
    iv = _hex(_object(cipher, "crypto.cipher", "params"), "crypto.cipher.params", "iv", 16, 16)
    kdf_params = _kdf_params(kdf)

    for candidate in password_candidates(password):
        derived = kdf_params.derive(candidate)
        if compare_digest(sha256(derived[16:32] + ciphertext).digest(), wanted):
            secret = _aes_128_ctr(derived[:16], iv, ciphertext)
            break
    else:
        what = f"invalid checksum: wrong password, or the file is damaged{mistaken(password)}"
        raise KeystoreFault("crypto.checksum.message", what)

    try:
        decode_scalar(secret)
    except CryptoFault:
        raise KeystoreFault("crypto.cipher.message", "does not hold a BLS secret key") from None
    named = _named_public_key(keystore)
    if named is not None and public_key(secret) != named:
        raise KeystoreFault("pubkey", "is not the public key of the secret inside")
    return secret


def named_public_key(content: bytes) -> bytes | None:
    """The 48 bytes that a keystore file says are its public key, None if it says nothing. Opens nothing, so it may be a lie.

    Raises KeystoreFault as `decode_keystore`, and for a malformed `pubkey`.
    """
    return _named_public_key(decode_keystore(content))


def _named_public_key(keystore: Mapping[str, Any]) -> bytes | None:
    return None if keystore.get("pubkey") in (None, "") else _hex(keystore, "", "pubkey", 48, 48)


def encode_keystore(keystore: Mapping[str, Any]) -> bytes:
    """The file: JSON with an indent of one space, no trailing newline."""
    return msgspec.json.format(msgspec.json.encode(keystore), indent=1)


def _pbkdf2(password: bytes, salt: bytes, length: int, iterations: int) -> bytes:
    """PBKDF2-HMAC-SHA256. pycryptodome's is a quarter faster than OpenSSL's in the `cryptography` wheel, and leaves the lock as well.

    The standard library's takes more than twice the time for each iteration, but less to get going.
    """
    if iterations < 200:
        return pbkdf2_hmac("sha256", password, salt, iterations, length)
    from Crypto.Hash import SHA256  # here and below: 30 ms that `charon enr` need not wait for
    from Crypto.Protocol.KDF import PBKDF2

    derived: bytes = PBKDF2(password, salt, length, iterations, hmac_hash_module=SHA256)
    return derived


def decode_keystore(content: bytes) -> dict[str, Any]:
    """A file's JSON object, not looked at any further.

    Raises KeystoreFault: longer than 64 KiB, not JSON in UTF-8, a key twice in one object (in any letter case), not an object.
    """
    if len(content) > MAX_KEYSTORE_BYTES:
        raise KeystoreFault("", f"longer than {MAX_KEYSTORE_BYTES} bytes{clause(form_by_beginning(content))}")
    decoded = _parse(content)
    other = other_than(FileKind.KEYSTORE, decoded)
    if not isinstance(decoded, dict):
        raise KeystoreFault("", f"not a JSON object{clause(other or what_it_is(content))}")
    if other:
        raise KeystoreFault("", f"another file{clause(other)}")
    return decoded


def _parse(content: bytes) -> Any:
    try:
        return decode_json_file(content, KEYSTORE)
    except ValueError as error:
        raise KeystoreFault("", f"not JSON: {why_no_json(content, error)}") from None


def is_no_keystore(content: bytes, *, is_claimed: bool) -> str:
    """What a file surely is instead: "is empty", "is a list", … "" for what may be a keystore, also a damaged one.

    content: at least MAX_FILE_BYTES + 1 bytes, if there are so many. is_claimed: by a name or a password, so that only a list is none.
    """
    text = _as_utf8(content).strip()
    if text.startswith(b"["):
        return "is a list"
    if is_claimed:
        return ""
    if not text:
        return "is empty"
    if len(content) > MAX_KEYSTORE_BYTES:
        seen = what_it_is(content)
        return seen if seen.startswith("is a cluster ") else ""
    try:
        decoded = _parse(content.removeprefix(BYTE_ORDER_MARK))
    except KeystoreFault:
        return ""
    if not isinstance(decoded, dict) or not decoded or {str(key).lower() for key in decoded} & _KEYSTORE_KEYS:
        return ""
    return other_than(FileKind.KEYSTORE, decoded) or "is an object of another program"


def _as_utf8(content: bytes) -> bytes:
    """As far as a byte order mark says how; what can't be read stays."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace").encode("utf-8", "replace")
    return content.removeprefix(BYTE_ORDER_MARK)


class _Pbkdf2:
    def __init__(self, salt: bytes, iterations: int, length: int) -> None:
        self._salt, self._iterations, self._length = salt, iterations, length

    def derive(self, password: bytes) -> bytes:
        return _pbkdf2(password, self._salt, self._length, self._iterations)


class _Scrypt:
    def __init__(self, salt: bytes, n: int, r: int, p: int, length: int) -> None:
        self._salt, self._n, self._r, self._p, self._length = salt, n, r, p, length

    def derive(self, password: bytes) -> bytes:
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        try:
            return Scrypt(self._salt, self._length, self._n, self._r, self._p).derive(password)
        except (ValueError, MemoryError):  # OpenSSL has limits of its own, such as n < 2^(16·r)
            raise KeystoreFault("crypto.kdf.params", "the machine cannot compute this scrypt") from None


def _kdf_params(kdf: Mapping[str, Any]) -> _Pbkdf2 | _Scrypt:
    where = "crypto.kdf.params"
    params = _object(kdf, "crypto.kdf", "params")
    function = kdf.get("function")
    if function not in ("pbkdf2", "scrypt"):
        raise KeystoreFault("crypto.kdf.function", "neither pbkdf2 nor scrypt")
    length = _integer(params, where, "dklen", MIN_DERIVED_BYTES, MAX_DERIVED_BYTES)
    salt = _hex(params, where, "salt", 0, MAX_SALT_BYTES)
    if function == "pbkdf2":
        _expect(params, where, "prf", "hmac-sha256")
        return _Pbkdf2(salt, _integer(params, where, "c", 1, MAX_PBKDF2_ITERATIONS), length)
    n = _integer(params, where, "n", 2, MAX_SCRYPT_WORK)
    r = _integer(params, where, "r", 1, MAX_SCRYPT_FACTOR)
    p = _integer(params, where, "p", 1, MAX_SCRYPT_FACTOR)
    if n & (n - 1):
        raise KeystoreFault(f"{where}.n", "not a power of two")
    if 128 * n * r > MAX_SCRYPT_MEMORY_BYTES:
        raise KeystoreFault(f"{where}.n", f"wants more than {MAX_SCRYPT_MEMORY_BYTES // 2**20} MiB of memory")
    if n * r * p > MAX_SCRYPT_WORK:
        raise KeystoreFault(f"{where}.n", "wants more work than a real keystore, n·r·p above 2^24")
    return _Scrypt(salt, n, r, p, length)


def _object(parent: Mapping[str, Any], where: str, name: str) -> Mapping[str, Any]:
    return _as_object(parent.get(name), f"{where}.{name}".lstrip("."))


def _as_object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise KeystoreFault(where, "missing or not an object")
    return value


def _expect(parent: Mapping[str, Any], where: str, name: str, wanted: str) -> None:
    if parent.get(name) != wanted:
        raise KeystoreFault(f"{where}.{name}", f"not {wanted}")


def _integer(parent: Mapping[str, Any], where: str, name: str, least: int, most: int) -> int:
    value = parent.get(name)
    if type(value) is not int or not least <= value <= most:
        raise KeystoreFault(f"{where}.{name}", f"not a whole number from {least} to {most}")
    return value


def _hex(parent: Mapping[str, Any], where: str, name: str, least: int, most: int) -> bytes:
    value = parent.get(name)
    digits = value.removeprefix("0x") if isinstance(value, str) and len(value) <= 2 + 2 * most else "0"  # odd, so no hex
    if not 2 * least <= len(digits) <= 2 * most or not _HEX.match(digits):
        size = f"{least}" if least == most else f"{least} to {most}"
        raise KeystoreFault(f"{where}.{name}".lstrip("."), f"not {size} bytes in hex")
    return bytes.fromhex(digits)


def _aes_128_ctr(key: bytes, iv: bytes, content: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    encryptor = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
    return encryptor.update(content) + encryptor.finalize()


def _draw(entropy: Entropy, count: int) -> bytes:
    drawn = entropy(count)
    if len(drawn) != count:
        raise CryptoFault("entropy source returned too few or too many bytes")
    return drawn
