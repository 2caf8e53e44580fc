"""How many operators make a threshold. Pure. Source: specification 01-cluster-files, section 8."""

from typing import Final

MIN_OPERATORS: Final = 3
MIN_THRESHOLD: Final = 2


def default_threshold(operators: int) -> int:
    """ceil(2n/3): the least that keeps two halves of a cluster from signing different things."""
    return -(-2 * operators // 3)
