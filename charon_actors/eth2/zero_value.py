"""The default value of an SSZ type. Pure. Source: consensus-specs `ssz/simple-serialize.md`, default values."""

from typing import Any

from charon_actors.eth2.ssz import Container, List, SszType, Uint


def zero_value(of: SszType) -> Any:
    """The default value of an SSZ type without vectors of containers, as consensus-specs define it."""
    match of:
        case Uint():
            return 0
        case Container():
            return {name: zero_value(field) for name, field in of.fields.items()}
        case List():
            return []
        case _:
            return bytes(of.fixed_size or 0)
