"""The identity key on disk: `charon-enr-private-key`, 64 hex digits without newline, mode 0600.

Stricter than Charon, which overwrites a key file that it can't parse and accepts keys of any length: we refuse whenever a file
exists and require exactly 64 digits of a number that is a key. Source: specification 01-cluster-files, section 1.1.
"""

import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from charon_actors.errors import UserError
from charon_actors.file_kinds import clause, what_it_is
from charon_actors.files.staging import LEFTOVER, is_taken, leftovers, read_file, staging

KEY_FILE: Final = "charon-enr-private-key"
PRIVATE: Final = 0o600

Warn = Callable[[str], None]

_K1_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def load_key_file(path: Path, warn: Warn) -> bytes:
    """The identity key, 32 bytes. Raises UserError: missing, unreadable, malformed.

    Warns when others may read the file, and of a staging directory that a killed process left beside it.
    """
    content = read_file(path, "create one with `charon create enr`", missing="private key not found")
    text = content.strip()
    if not re.fullmatch(rb"[0-9a-fA-F]{64}", text):
        mistaken = "starts with 0x (remove that)" if re.fullmatch(rb"0x[0-9a-fA-F]{64}", text) else what_it_is(content)
        what = f"malformed private key{clause(mistaken)}"
        raise UserError(str(path), what, "the file holds exactly 64 hex digits; restore your backup")
    key = bytes.fromhex(text.decode("ascii"))
    if not 0 < int.from_bytes(key, "big") < _K1_ORDER:
        raise UserError(str(path), "the number is no secp256k1 key", "restore your backup")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        warn(f"{path}: the private key can be read by other users (mode {mode:04o}); run `chmod 600 {path}`")
    for found in leftovers(path.parent):
        warn(f"{found}: {'; '.join(LEFTOVER)}")
    return key


def write_identity(directory: Path, key: bytes) -> Path:
    """A new identity key file; its path. Refuses whenever a file exists, readable or not. Raises UserError."""
    path = directory / KEY_FILE
    if is_taken(path):
        raise UserError(str(path), f"{KEY_FILE} already exists", "`charon enr` prints its ENR; move it away for a new one")
    with staging(directory) as stage:
        stage.write(KEY_FILE, key.hex().encode("ascii"), PRIVATE)
        stage.commit()
    return path
