"""What may go wrong with keys, points and signatures, and where randomness comes from.

The ground floor has no randomness of its own: whoever needs some is given an `Entropy`, in production `secrets.token_bytes`,
in tests a seeded one. No text of a fault holds a secret, a password or a part of one.
"""

from collections.abc import Callable

Entropy = Callable[[int], bytes]
"""`entropy(n)` returns n bytes. In production they come from the operating system; anything else is for tests."""


class CryptoFault(Exception):
    """A key, point, signature, address or share that cannot be used. The text names what and why, never its value."""


class KeystoreFault(CryptoFault):
    """A keystore that cannot be read: `field` is the JSON path (`crypto.kdf.params.n`), "" for the file as a whole."""

    def __init__(self, field: str, what: str) -> None:
        super().__init__(f"keystore field {field}: {what}" if field else f"keystore: {what}")
        self.field, self.what = field, what

    def __reduce__(self) -> tuple[object, ...]:  # it may come from a worker process
        return (KeystoreFault, (self.field, self.what))


def is_bytes_of(value: object, *lengths: int) -> bool:
    """Whether this is `bytes` of one of the lengths. Foreign values are asked this before they reach a C library."""
    return isinstance(value, bytes) and len(value) in lengths
