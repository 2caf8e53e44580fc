"""A small file that no crash can tear: its content stands in it twice, and only one of the two is ever written.

    offset   0                             COPY_BYTES
             copy 0                        copy 1

    a copy   magic (8) · number (8, big-endian) · length (2) · content · SHA-256 of all that (32)

A write goes to the copy that doesn't hold the newest content, with the next number, and returns once it is on disk. A crash, or a disk
that refuses, spoils at most that copy; the other one still says what was said before. Both copies have their place on disk from the
beginning, a page each: a write needs no room, changes no size, and costs one fdatasync. The file is made whole under another name and
renamed, so half a file is never a new one, but a damaged one. It is locked (flock) while it is open, where the file system can do that.

Limits: MAX_CONTENT_BYTES. Blocking: every call may wait for the disk; one writer, not thread-safe.
"""

import errno
import fcntl
import hashlib
import os
import stat
from pathlib import Path
from typing import Final

COPY_BYTES: Final = 4096  # a page, so that no write of the one copy touches the other's sector
MAX_CONTENT_BYTES: Final = 1024

_MAGIC: Final = b"CASPtwin"
_HEAD_BYTES: Final = 18
_SUM_BYTES: Final = 32


class TwinFault(Exception):
    """Neither copy is whole: the file is damaged, or of another program."""


class TwinFile:
    """Open with `open_twin` or `create_twin`. content: what stands on disk for sure."""

    def __init__(self, descriptor: int, content: bytes, number: int, place: int) -> None:
        self._descriptor, self.content, self._number, self._place = descriptor, content, number, place

    def write(self, content: bytes) -> None:
        """Replace the content, durably. Raises: OSError; then the old content stands, or the new one, and it may be tried again."""
        place = 1 - self._place
        copy = encode_copy(content, self._number + 1)
        written = os.pwrite(self._descriptor, copy, place * COPY_BYTES)
        if written != len(copy):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fdatasync(self._descriptor)
        self.content, self._number, self._place = content, self._number + 1, place

    def close(self) -> None:
        """Also gives up the lock. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def encode_copy(content: bytes, number: int) -> bytes:
    if len(content) > MAX_CONTENT_BYTES:
        raise ValueError(f"{len(content)} bytes, more than {MAX_CONTENT_BYTES}")
    covered = _MAGIC + number.to_bytes(8, "big") + len(content).to_bytes(2, "big") + content
    return covered + hashlib.sha256(covered).digest()


def decode_copy(data: bytes) -> tuple[int, bytes] | None:
    """Number and content of a copy; None when it isn't whole."""
    length = int.from_bytes(data[16:18], "big")
    end = _HEAD_BYTES + length
    if data[:8] != _MAGIC or length > MAX_CONTENT_BYTES or len(data) < end + _SUM_BYTES:
        return None
    if hashlib.sha256(data[:end]).digest() != data[end : end + _SUM_BYTES]:
        return None
    return int.from_bytes(data[8:16], "big"), data[_HEAD_BYTES:end]


def create_twin(path: Path, content: bytes) -> TwinFile:
    """A new file with that content (mode 0600), instead of what stands there. Raises: OSError, also when another process has it."""
    staged = path.with_name(path.name + ".new")
    staged.unlink(missing_ok=True)
    descriptor = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor)
        image = encode_copy(content, 1).ljust(COPY_BYTES, b"\0") + bytes(COPY_BYTES)
        if os.pwrite(descriptor, image, 0) != len(image):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
        staged.replace(path)
        sync_folder(path.parent)
    except BaseException:
        os.close(descriptor)
        raise
    return TwinFile(descriptor, content, 1, 0)


def open_twin(path: Path) -> TwinFile:
    """Raises: TwinFault; OSError, with EWOULDBLOCK when another process has it open."""
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)  # a pipe must not hold us
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise TwinFault("it is not a file")
        _lock(descriptor)
        copies = [(decode_copy(os.pread(descriptor, COPY_BYTES, place * COPY_BYTES)), place) for place in (0, 1)]
        whole = [(copy, place) for copy, place in copies if copy is not None]
        if not whole:
            raise TwinFault("neither of its two copies is whole")
        (number, content), place = max(whole)
        return TwinFile(descriptor, content, number, place)
    except BaseException:
        os.close(descriptor)
        raise


def sync_folder(folder: Path) -> None:
    """So that a rename in it outlives a power cut. Raises: OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass  # a file system without locks; the databases have their own
