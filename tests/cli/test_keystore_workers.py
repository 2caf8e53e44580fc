"""Many keystores at once: in order, the first file at fault named whatever is done first, and progress that shows when it matters."""

import os
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from select import select

import pytest

from charon_actors.cli import keystore_workers
from charon_actors.cli.keystore_workers import decrypt_all, encrypt_all
from charon_actors.crypto.bls import generate_secret, public_key
from charon_actors.crypto.keystore import decode_keystore, decrypt_keystore, encode_keystore, encrypt_keystore, named_public_key
from charon_actors.errors import UserError
from charon_actors.files.keystore_files import Keystore

SECRETS = [generate_secret(secrets.token_bytes) for _ in range(40)]


def keystore(secret: bytes, path: str, password: str = "right", *, iterations: int = 16) -> Keystore:
    made = encrypt_keystore(secret, "right", secrets.token_bytes, iterations=iterations)
    return Keystore(encode_keystore(made), password, path=path)


@pytest.mark.parametrize("is_insecure", [True, False])
def test_keystores_go_both_ways_in_their_order(is_insecure: bool) -> None:
    shares = SECRETS if is_insecure else SECRETS[:5]
    made = encrypt_all(shares, is_insecure=is_insecure)
    assert decrypt_all(made) == shares
    assert {decode_keystore(k.content)["crypto"]["kdf"]["params"]["c"] for k in made} == {16 if is_insecure else 262144}
    assert {k.insecure for k in made} == {is_insecure}
    assert len({k.password for k in made}) == len(made)
    assert encrypt_all([], is_insecure=is_insecure) == []
    assert decrypt_all([]) == []


def test_known_public_keys_are_believed_for_cheap_keystores_only() -> None:
    """And then the first keystore, which is opened again, still shows a mix-up."""
    known = [public_key(secret) for secret in SECRETS[:2]]
    assert [named_public_key(k.content) for k in encrypt_all(SECRETS[:2], is_insecure=True, pubkeys=known)] == known
    assert [named_public_key(k.content) for k in encrypt_all(SECRETS[:2], is_insecure=False, pubkeys=known[::-1])] == known
    with pytest.raises(Exception, match="is not the public key of the secret inside"):
        encrypt_all(SECRETS[:2], is_insecure=True, pubkeys=known[::-1])
    with pytest.raises(ValueError, match="zip"):
        encrypt_all(SECRETS[:2], is_insecure=True, pubkeys=known[:1])


def test_keystores_that_open_to_another_secret_are_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        keystore_workers, "encrypt_keystore", lambda secret, *rest, pubkey, **named: encrypt_keystore(SECRETS[0], *rest, **named)
    )
    with pytest.raises(RuntimeError, match="opens to another secret"):
        encrypt_all(SECRETS[1:3], is_insecure=True)


def test_the_first_file_at_fault_is_named_not_the_first_to_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Number 1 takes a quarter of a second to be found wrong, number 2 none; most of the rest is dropped then."""
    opened = []

    def decrypt(decoded: dict[str, object], password: str) -> bytes:
        opened.append(password)
        return decrypt_keystore(decoded, password)

    monkeypatch.setattr(keystore_workers, "decrypt_keystore", decrypt)
    monkeypatch.setattr(keystore_workers, "MAX_WORKERS", 2)
    batch = [
        keystore(SECRETS[0], "a/keystore-0.json"),
        keystore(SECRETS[1], "a/keystore-1.json", "hunter2", iterations=2_000_000),
        Keystore(b"not JSON", "hunter2", path="a/keystore-2.json"),
        *[keystore(SECRETS[3], "a/keystore-3.json", iterations=400_000)] * 100,
    ]
    with pytest.raises(UserError, match=r"^a/keystore-1\.json: keystore decryption: .*wrong password") as caught:
        decrypt_all(batch)
    assert "hunter2" not in str(caught.value)
    assert len(opened) < 50


@contextmanager
def terminal() -> Iterator[int]:
    """stderr is a terminal; the end that a person would look at."""
    ours, theirs = os.openpty()
    with open(theirs, "w") as stderr, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", stderr)
        patch.setenv("TERM", "xterm")
        yield ours
    os.close(ours)


def test_a_terminal_sees_a_bar_when_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keystore_workers, "SHOWN_AFTER_S", 0.0)
    with terminal() as end:
        encrypt_all(SECRETS, is_insecure=True)
        shown = ""
        while "40/40" not in shown and select([end], [], [], 10)[0]:
            shown += os.read(end, 4096).decode()
    assert "Encrypting keystores" in shown
    assert "40/40" in shown


def test_quick_work_shows_nothing() -> None:
    with terminal() as end:
        encrypt_all(SECRETS[:10], is_insecure=True)
        assert select([end], [], [], 0.05)[0] == []


def test_a_file_gets_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keystore_workers, "SHOWN_AFTER_S", 0.0)
    with (tmp_path / "log").open("w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        made = encrypt_all(SECRETS, is_insecure=True)
        decrypt_all(made)
    assert (tmp_path / "log").read_text() == "Encrypting keystores: 40\nDecrypting keystores: 40\n"


def test_more_keystores_than_the_queue_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keystore_workers, "WINDOW", 7)
    assert decrypt_all([keystore(secret, "") for secret in SECRETS]) == SECRETS


def test_the_interpreter_goes_on_while_a_key_is_derived() -> None:
    """Else threads would not use more than one core."""
    slow = keystore(SECRETS[0], "", iterations=3_000_000)  # some 0.4 s
    ticks = 0
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(decrypt_all, [slow])
        while not opened.done():
            time.sleep(0.001)
            ticks += 1
    assert opened.result() == SECRETS[:1]
    assert ticks > 20
