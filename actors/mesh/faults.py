"""What can go wrong below a stream, and how it is said."""

import trio


class DialFault(Exception):
    """An address could not be dialed; the text is the reason."""


class HandshakeFault(Exception):
    """The upgrade failed; the raw stream is closed."""


class PeerRefused(HandshakeFault):
    """The peer proved an identity that is not the expected one, or is not allowed."""


DIAL_ERRORS: tuple[type[Exception], ...] = (
    DialFault,
    OSError,
    HandshakeFault,  # and PeerRefused
    trio.TooSlowError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)


def describe(error: BaseException) -> str:
    """One line for logs: what went wrong, without a traceback."""
    if isinstance(error, trio.TooSlowError):
        return "too slow"
    text = str(error) or type(error).__name__
    return (error.strerror or text) if isinstance(error, OSError) else text
