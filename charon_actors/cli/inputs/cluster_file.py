"""What an operator points at: a file of a cluster, told by what stands in it, whatever it is called. For `show` and `verify`.

    cluster lock        has `cluster_definition` or `distributed_validators`
    definition          has `operators`, `config_hash` or `num_validators`
    keystore            has `crypto`
    deposit data        a list of objects with `withdrawal_credentials` or `deposit_data_root`
    overrides           a list of objects with `v1`: newer builder registrations
    ENR                 text that starts with enr:
    identity key        64 hex digits

A file that can't be parsed is what its name says, so that its reader can say what is wrong with it.
Limits: 64 MiB, 64 levels. Source: specification 01-cluster-files, sections 1, 2, 5, 6, 7 and 9.
"""

import re
import sys
from pathlib import Path
from typing import Final

from charon_actors.bounded_json import CLUSTER_FILE, decode_foreign_json
from charon_actors.errors import UserError
from charon_actors.file_kinds import MAX_FILE_BYTES, FileKind, kinds_of, what_it_is
from charon_actors.files.staging import read_file

STDIN: Final = "-"


_BY_NAME: Final = (
    (r".*lock.*\.json", FileKind.LOCK),
    (r".*definition.*\.json", FileKind.DEFINITION),
    (r"deposit.*\.json", FileKind.DEPOSITS),
    (r"keystore.*\.json", FileKind.KEYSTORE),
    (r".*overrides.*\.json", FileKind.OVERRIDES),
    (r"charon-enr-private-key", FileKind.KEY),
)


def read_cluster_file(text: str) -> tuple[str, bytes, FileKind]:
    """Place for errors, content and kind of what an argument names: a path, `-` for standard input, or an ENR itself.

    Raises UserError when it can't be read, or is no file of a cluster.
    """
    if text.startswith("enr:"):
        return "ENR", text.encode("utf-8", "replace"), FileKind.ENR
    if not text:
        raise UserError("FILE", "is empty", "give the path of a file")
    if text == STDIN:
        where, content = "standard input", sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise UserError(where, f"larger than {MAX_FILE_BYTES} bytes", "give a file of a cluster")
    else:
        where, content = text, read_file(Path(text).expanduser(), "give the path of a file")
    kind = file_kind_of(content, Path(text).name)
    if kind is None:
        what = what_it_is(content)
        what = f"{what}, no file of a cluster" if what else "is no file of a cluster"
        raise UserError(where, what, "give a lock, a definition, a deposit file, a keystore or an ENR")
    return where, content, kind


def file_kind_of(content: bytes, name: str = "") -> FileKind | None:
    """What the content is; None when neither it nor the file's name says."""
    stripped = content.strip()
    if stripped.startswith(b"enr:"):
        return FileKind.ENR
    if re.fullmatch(rb"[0-9a-fA-F]{64}", stripped):
        return FileKind.KEY
    try:
        document = decode_foreign_json(content, CLUSTER_FILE)
    except ValueError:
        document = None
    kinds = kinds_of(document)
    if kinds:
        return kinds[0]
    return next((kind for pattern, kind in _BY_NAME if re.fullmatch(pattern, name)), None)
