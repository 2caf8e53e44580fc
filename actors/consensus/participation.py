"""Where the consensus actor keeps the duties that it has said something in, so that its next life knows: a twin file.

    content    genesis validators root (32) · what `encode_participation` makes

A file of another chain is as good as none: its slots say nothing here. One that is damaged is the operator's to decide about.
Blocking calls run in one thread of their own: the default's are shared with DNS, which peers can make slow.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

import trio

from actors.change_log import ChangeLog
from actors.log import get_logger
from actors.twin_file import TwinFault, TwinFile, create_twin, open_twin
from charon_actors.errors import UserError
from charon_actors.passing_errors import may_pass
from charon_actors.qbft import Participation, ParticipationFault, decode_participation, encode_participation

T = TypeVar("T")

log = get_logger("qbft")

LOAD_AGAIN_S: Final = 1.0


class ParticipationStore(Protocol):
    """What the consensus actor needs of it."""

    async def load(self) -> Participation:
        """What the lives before have left. Raises: UserError."""

    async def put(self, participation: Participation) -> None:
        """Durably. Raises: OSError; then what stood before still stands."""

    def close(self) -> None: ...


class ForgetfulStore:
    """For a node without a disk: knows only what this life has said."""

    async def load(self) -> Participation:
        return Participation()

    async def put(self, participation: Participation) -> None:
        pass

    def close(self) -> None: ...


class ParticipationFile:
    """path: of the file; it is made when there is something to put into it. genesis_validators_root: 32 bytes, of the chain."""

    def __init__(self, path: Path, genesis_validators_root: bytes) -> None:
        self._path, self._root = path, genesis_validators_root
        self._file: TwinFile | None = None
        self._thread = trio.CapacityLimiter(1)

    async def load(self) -> Participation:
        """Waits for a disk that fails for a moment. Raises: UserError."""
        warnings = ChangeLog(repeat_s=60.0)
        while True:
            try:
                return await self._in_thread(self._load)
            except OSError as error:
                if isinstance(error, BlockingIOError):
                    remedy = "stop the other node; never run two with the same keys"
                    raise UserError(participation_at(self._path), "is in use by another process", remedy) from None
                if not may_pass(error):
                    raise UserError(
                        participation_at(self._path), f"cannot be opened: {error.strerror}", "check its permissions"
                    ) from None
                if warnings.is_due(str(error), trio.current_time()):
                    log.warning("Consensus can't begin, trying again", reason=f"{participation_at(self._path)}: {error.strerror}")
            await trio.sleep(LOAD_AGAIN_S)

    async def put(self, participation: Participation) -> None:
        await self._in_thread(self._put, self._root + encode_participation(participation))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _load(self) -> Participation:
        self.close()
        try:
            self._file = open_twin(self._path)
            if self._file.content[:32] != self._root:
                return Participation()
            return decode_participation(self._file.content[32:])
        except FileNotFoundError:
            if self._path.is_symlink():
                raise UserError(
                    participation_at(self._path),
                    "is a link that leads nowhere",
                    "mount or restore what it leads to, or remove the link",
                ) from None
            return Participation()
        except (TwinFault, ParticipationFault) as fault:
            raise UserError(
                participation_at(self._path),
                f"is damaged: {fault}",
                "delete it, unless this machine's clock was set back since the node ran last",
            ) from None

    def _put(self, content: bytes) -> None:
        if self._file is None:
            self._file = create_twin(self._path, content)
        else:
            self._file.write(content)

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Not abandoned when cancelled: one write at a time."""
        return await trio.to_thread.run_sync(function, *args, limiter=self._thread)


def participation_at(path: Path) -> str:
    return f"consensus participation file {path}"
