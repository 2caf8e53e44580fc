"""The forks of the consensus layer that this node knows, by the number that Charon writes on the wire. Pure data.

A fork's number is the "data version" of specification 05 §10.1; its label is what the Beacon API writes (`Eth-Consensus-Version`,
the field `version`). The newest fork implemented is Fulu: data of an unknown fork is refused, never guessed.

Source: specification 05 §10.1 (numbers), 08 §6.1 (forks).
"""

import enum
from typing import Final

FAR_FUTURE_EPOCH: Final = 2**64 - 1  # "not scheduled", 08 §6.1


class Fork(enum.IntEnum):
    """A fork; the value is the data version on the wire, and later forks compare greater."""

    PHASE0 = 0
    ALTAIR = 1
    BELLATRIX = 2
    CAPELLA = 3
    DENEB = 4
    ELECTRA = 5
    FULU = 6

    @property
    def label(self) -> str:
        """`fulu`: the lower-case name of the Beacon API."""
        return self.name.lower()


class UnknownFork(ValueError):
    """A fork name or number that this node does not implement."""


_BY_LABEL: Final = {fork.label: fork for fork in Fork}


def fork_from_label(text: str) -> Fork:
    """The fork of a Beacon API name, in any case (07 §5.6). Raises: UnknownFork."""
    fork = _BY_LABEL.get(text.lower())
    if fork is None:
        raise UnknownFork(f"fork {text[:32]!r} is not known here")
    return fork


def fork_from_number(number: int) -> Fork:
    """The fork of a data version on the wire. Raises: UnknownFork."""
    if not Fork.PHASE0 <= number <= Fork.FULU:
        raise UnknownFork(f"data version {number} is not known here")
    return Fork(number)
