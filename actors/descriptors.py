"""File descriptors: how many this process may have, and which share of them a listening port may fill.

    who                          share of the soft limit    at most
    validator API                1/4                        VALIDATOR_API_MOST
    monitoring                   1/16                       MONITORING_MOST
    beacon nodes, peers, files   the rest, two thirds and more

At a limit of 1024, which is what a shell and systemd give unless told otherwise, that is 256 and 32 connections; validator clients
open some ten to a hundred. Whoever starts a program raises the soft limit towards the hard one first, for the soft one is only kept
low for programs that use `select`, which Trio does not.
"""

import resource
from typing import Final

VALIDATOR_API_MOST: Final = 512
MONITORING_MOST: Final = 32
RAISED_TO: Final = 65_536
FEWEST: Final = 8  # below that not even an honest client gets along


def raise_limit() -> int:
    """Raise the soft limit of descriptors to the hard one, RAISED_TO at most; the soft limit from now on. Never lowers it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = RAISED_TO if hard == resource.RLIM_INFINITY else min(hard, RAISED_TO)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft if soft != resource.RLIM_INFINITY else RAISED_TO
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # a container's own rules; the shares below count with what there is
        return soft
    return wanted


def validator_api_connections() -> int:
    """How many connections the validator API may have."""
    return _share(4, VALIDATOR_API_MOST)


def monitoring_connections() -> int:
    """How many connections the monitoring port may have."""
    return _share(16, MONITORING_MOST)


def _share(divisor: int, most: int) -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else max(min(soft // divisor, most), FEWEST)
