"""Where a running node keeps its state: the slashing record and what belongs to it, and its own node record.

A lock often comes from a place that can't be written (ConfigMap, Secret, `:ro` mount, read-only root). But an empty slashing record has
forgotten what was signed, so it must never be begun in one place while the true one stands in another. The first row that applies decides:

    situation                                                       place
    records stand in two of the places below                        refused: one of them has forgotten what the other knows
    --state-dir                                                     that directory, made (0700) when missing; records elsewhere: refused
    records stand in one of the places below                        there, also if it can't be written now: refused then
    the directory of the lock can be written                        beside the lock
    $STATE_DIRECTORY (a service manager's StateDirectory=)          its first directory
    $XDG_STATE_HOME, or ~/.local/state; on a disk that stays        charon-actors/<peer name>-<8 hex digits> in it
    otherwise                                                       refused, with the flag and the volume that mend it

Not on a disk that stays: what lives in memory or in the writable layer of a container. Whoever names such a directory with
--state-dir, or has a lock in one, is told so once a start.
Source: XDG Base Directory Specification 0.8; systemd.exec(5), `StateDirectory=`.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from charon_actors.errors import UserError
from charon_actors.files.staging import ownership_hint

FLEETING: Final = frozenset({"aufs", "overlay", "ramfs", "tmpfs"})
_REMEDY: Final = (
    "name a directory on a disk that stays with --state-dir or CHARON_STATE_DIR (Compose: a volume; Kubernetes: a mounted "
    "PersistentVolumeClaim; systemd: StateDirectory=charon)"
)

_ALL_OF_THEM: Final = "slashing-protection.*, consensus-participation and node-record.enr"

Say = Callable[[str], None]


def state_place(
    given: Path | None,
    where: str,
    lock_path: Path,
    peer: tuple[str, bytes],
    records: Sequence[str],
    environment: Mapping[str, str],
    say: Say,
) -> Path:
    """The directory, which exists and can be written. given: of --state-dir, None without; where: the flag's place for errors.

    peer: our name and public key. records: names of the files that must not be left behind. Raises: UserError.
    """
    beside = lock_path.parent
    places = _places(beside, peer, environment)
    candidates = {os.path.realpath(path): path for path in reversed([*([given] if given is not None else []), *places])}
    known = [path for path in candidates.values() if _has_any(path, records)]
    if len(known) > 1:
        listed = " and ".join(str(path) for path in known)
        raise UserError(
            listed,
            "both hold a slashing record of this node, and each has forgotten what the other knows",
            "move the older one away; if you can't tell which, keep both away and start with --slashing-record-lost",
        )
    if given is not None:
        if known and os.path.realpath(known[0]) != os.path.realpath(given):
            raise UserError(
                where,
                f"the slashing record is in {known[0]}, not in {given}",
                f"stop every node that uses it and move {_ALL_OF_THEM} there",
            )
        _make(given)
        if not _can_write(given):
            raise UserError(str(given), "cannot be written", ownership_hint(given))
        _warn_of_fleeting(given, say)
        return given
    if known:
        if not _can_write(known[0]):
            raise UserError(
                str(known[0]),
                "holds the slashing record and cannot be written",
                f"mount it writable, or move {_ALL_OF_THEM} to a directory of their own and name that with --state-dir",
            )
        if os.path.realpath(known[0]) != os.path.realpath(beside):
            say(f"the node's records are in {known[0]}")
        return known[0]
    if _can_write(beside):
        _warn_of_fleeting(beside, say)
        return beside
    for place in places[1:]:
        if _usable(place, is_trusted=place == _service_directory(environment)):
            say(f"{beside} cannot be written: the node's records are in {place}")
            return place
    raise UserError(
        str(beside),
        "cannot be written, and there is no other place for the slashing record, which must outlive this start",
        _REMEDY,
    )


def _places(beside: Path, peer: tuple[str, bytes], environment: Mapping[str, str]) -> list[Path]:
    """Where records may stand without --state-dir, in the order of the table."""
    name, public_key = peer
    service, home = _service_directory(environment), _state_home(environment)
    own = f"{name}-{hashlib.sha256(public_key).hexdigest()[:8]}"
    return [beside, *([service] if service else []), *([home / "charon-actors" / own] if home else [])]


def _service_directory(environment: Mapping[str, str]) -> Path | None:
    first = environment.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(first) if first.startswith("/") else None


def _state_home(environment: Mapping[str, str]) -> Path | None:
    named = environment.get("XDG_STATE_HOME", "")
    if named.startswith("/"):  # the specification: relative paths are to be ignored
        return Path(named)
    home = environment.get("HOME", "")
    return Path(home) / ".local" / "state" if home.startswith("/") and Path(home).is_dir() else None


def _has_any(directory: Path, names: Sequence[str]) -> bool:
    return any(os.path.lexists(directory / name) for name in names)


def _usable(place: Path, *, is_trusted: bool) -> bool:
    try:
        if not is_trusted and file_system_of(place) in FLEETING:
            return False
        _make(place)
    except UserError:
        return False
    return _can_write(place)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(str(directory), f"cannot be made ({error.strerror})", ownership_hint(_nearest(directory))) from error


def _can_write(directory: Path) -> bool:
    """Tried, not asked: network disks and security modules have rules that modes don't show."""
    try:
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


def _warn_of_fleeting(directory: Path, say: Say) -> None:
    kind = file_system_of(directory)
    if kind in FLEETING:
        what = "memory" if kind in ("ramfs", "tmpfs") else "the container's own layer"
        say(f"{directory} is in {what}: the slashing record does not outlive it; {_REMEDY}")


def file_system_of(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system on which `path`, or the nearest directory above it that exists, lies; "" if it isn't known."""
    try:
        device = _nearest(path).stat().st_dev
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:  # proc(5): id, parent, major:minor, root, mount point, options …, "-", type, source, options
        fields = line.split(" ")
        if len(fields) > 6 and fields[2] == wanted and "-" in fields[6:]:
            return fields[fields.index("-", 6) + 1]
    return ""


def _nearest(path: Path) -> Path:
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
