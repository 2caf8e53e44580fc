"""A file of two copies: whatever a crash or a full disk leaves of a write, the content is the old one or the new one."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.twin_file import (
    COPY_BYTES,
    MAX_CONTENT_BYTES,
    TwinFault,
    create_twin,
    decode_copy,
    encode_copy,
    open_twin,
)


def content_of(path: Path) -> bytes:
    twin = open_twin(path)
    twin.close()
    return twin.content


def test_what_was_written_last_is_there(tmp_path: Path) -> None:
    path = tmp_path / "twin"
    create_twin(path, b"0").close()
    for number in range(1, 9):
        twin = open_twin(path)
        assert twin.content == b"%d" % (number - 1)
        twin.write(b"%d" % number)
        assert twin.content == b"%d" % number
        twin.close()
    assert path.stat().st_size == 2 * COPY_BYTES
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("writes", [1, 2, 3])
def test_a_write_that_is_cut_off_at_any_byte_leaves_the_old_content(tmp_path: Path, writes: int) -> None:
    path = tmp_path / "twin"
    twin = create_twin(path, b"0")
    for number in range(1, writes + 1):
        twin.write(b"%d" % number)
    twin.close()
    before = path.read_bytes()
    twin = open_twin(path)
    twin.write(b"new")
    twin.close()
    after = path.read_bytes()
    changed = [at for at in range(len(before)) if before[at] != after[at]]
    for cut in changed:
        path.write_bytes(after[:cut] + before[cut:])
        assert content_of(path) == b"%d" % writes
        torn = open_twin(path)  # and it goes on from there
        torn.write(b"again")
        torn.close()
        assert content_of(path) == b"again"


def test_a_disk_that_refuses_leaves_the_old_content_and_takes_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "twin"
    twin = create_twin(path, b"old")
    pwrite = os.pwrite
    for kept in (0, 5, 40):  # of the copy; the rest is lost
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", lambda fd, data, at, kept=kept: pwrite(fd, data[:kept], at))
            with pytest.raises(OSError, match="No space"):
                twin.write(b"new")
        assert twin.content == b"old"
        copy = tmp_path / "copy"
        copy.write_bytes(path.read_bytes())
        assert content_of(copy) == b"old"
    twin.write(b"new")
    twin.close()
    assert content_of(path) == b"new"


def test_what_is_no_twin_file_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "twin"
    for content in (b"", b"x" * 10_000, bytes(2 * COPY_BYTES)):
        path.write_bytes(content)
        with pytest.raises(TwinFault):
            open_twin(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises((TwinFault, OSError)):
        open_twin(path)


def test_one_opener_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "twin"
    twin = create_twin(path, b"x")
    with pytest.raises(BlockingIOError):
        open_twin(path)
    twin.close()
    twin.close()
    open_twin(path).close()


@given(st.binary(max_size=MAX_CONTENT_BYTES), st.integers(0, 2**64 - 1))
def test_a_copy_is_read_as_it_was_written(content: bytes, number: int) -> None:
    assert decode_copy(encode_copy(content, number).ljust(COPY_BYTES, b"\0")) == (number, content)


@given(st.binary(max_size=200), st.data())
def test_a_copy_with_a_wrong_bit_is_none(content: bytes, data: st.DataObject) -> None:
    copy = bytearray(encode_copy(content, 7))
    bit = data.draw(st.integers(0, len(copy) * 8 - 1))
    copy[bit // 8] ^= 1 << bit % 8
    assert decode_copy(bytes(copy)) is None
