"""Keystores of a ceremony: right ones in their places, errors that surface, and threads that stop when nobody waits."""

import threading

import pytest
import trio
import trio.lowlevel

from actors.dkg.keystore_threads import encrypt_in_threads
from charon_actors.crypto import CryptoFault, decode_keystore, decrypt_keystore
from charon_actors.files.keystore_files import Keystore
from tests.charon_actors.dkg.vectors import counting_entropy


def ours() -> int:
    return sum(thread.name == "dkg keystores" for thread in threading.enumerate())


async def no_threads() -> None:
    with trio.fail_after(10):
        while ours():
            await trio.sleep(0.01)


async def test_every_secret_is_under_its_own_password() -> None:
    secrets = [number.to_bytes(32, "big") for number in range(1, 20)]
    made: dict[int, Keystore] = {}
    await encrypt_in_threads(secrets, 16, counting_entropy("k"), made.__setitem__)
    assert sorted(made) == list(range(19))
    for place, secret in enumerate(secrets):
        assert decrypt_keystore(decode_keystore(made[place].content), made[place].password) == secret
        assert len(made[place].password) == 32
    assert len({keystore.password for keystore in made.values()}) == 19
    await no_threads()


async def test_an_error_surfaces() -> None:
    with pytest.raises(CryptoFault):
        await encrypt_in_threads([bytes(32)] * 5, 16, counting_entropy("k"), lambda place, keystore: None)
    await no_threads()


async def test_cancelled_threads_stop_after_the_keystore_at_hand() -> None:
    made: dict[int, Keystore] = {}
    with trio.move_on_after(0.05) as scope:
        await encrypt_in_threads([b"\x01" * 32] * 1000, 200_000, counting_entropy("k"), made.__setitem__)
    assert scope.cancelled_caught
    count = len(made)
    await no_threads()
    await trio.lowlevel.checkpoint()
    assert len(made) == count < 100
