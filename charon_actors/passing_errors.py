"""Which errors of a disk pass: what fails for their sake is worth trying again. Pure."""

import errno
from typing import Final

PASSING: Final = frozenset(
    {
        errno.ENOSPC,  # full, until somebody makes room
        errno.EDQUOT,
        errno.EIO,  # a cable, a controller, a network disk
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EAGAIN,
        errno.EINTR,
        errno.ENFILE,
        errno.EMFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
    }
)


def may_pass(error: BaseException | None) -> bool:
    """Whether it is an OSError of the moment, and not one of permissions or names."""
    return isinstance(error, OSError) and error.errno in PASSING
