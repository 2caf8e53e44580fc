"""Peer index and share index: the two numbers of an operator, and the only place that makes one of the other. Pure.

    peer index     0 … n-1   place in the operator list; consensus, connections, metrics
    share index    1 … n     x of the key share, for 0 is where the group's secret stands; partial signatures, keystores

A validator's public shares stand in operator order, so share s is at `public_shares[peer_index_of(s)]`.

Source: specification 01 §1.1, 05 §1.
"""

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def share_index_of(peer_index: int) -> int:
    """The share index (from 1) of the operator at this place of the list (from 0)."""
    return peer_index + 1


def peer_index_of(share_index: int) -> int:
    """The place in the list (from 0) of the operator with this share index (from 1)."""
    return share_index - 1


def share_indices(operators: int) -> range:
    """Those of that many operators, ascending."""
    return range(1, operators + 1)


def by_share_index(in_operator_order: Iterable[T]) -> dict[int, T]:
    """What each operator has, such as a public share, by share index; ascending."""
    return dict(enumerate(in_operator_order, start=1))
