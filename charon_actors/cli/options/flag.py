"""What a flag and an argument of a command are. `table.py` says what becomes of them, `flags.py` has those that several commands share."""

from collections.abc import Mapping
from typing import Final

import msgspec

from charon_actors.cli.options.values import Blank, Kind, Value

ENVIRONMENT_PREFIX: Final = "CHARON_"


def environment_name(flag_name: str) -> str:
    """`CHARON_P2P_TCP_ADDRESS` for `p2p-tcp-address`."""
    return ENVIRONMENT_PREFIX + flag_name.upper().replace("-", "_")


class Unbuilt(msgspec.Struct, frozen=True):
    """Of a flag of Charon that this version doesn't have yet. means: what is so without it.

    remedy: what to do instead, where it must not be ignored; empty where a notice is enough.
    """

    means: str
    remedy: str = ""


class Flag(msgspec.Struct, frozen=True):
    """A flag of Charon: name without dashes, kind, default in the kind's Python type, help in one sentence.

    required: some source must give a value. aliases: older names. inert: why the flag has no effect any more. unbuilt: see `table.py`.
    secret: the value is never shown, not even in the start-up banner. blank: what an empty element of a list means.
    words: a fixed set, in lower case, each with the word that it means. has_more_words: others are for the command to judge.
    """

    name: str
    kind: Kind
    default: Value
    help: str
    required: bool = False
    short: str = ""
    aliases: tuple[str, ...] = ()
    inert: str = ""
    secret: bool = False
    unbuilt: Unbuilt | None = None
    blank: Blank = Blank.REFUSED
    words: Mapping[str, str] = {}
    has_more_words: bool = False

    @property
    def environment_name(self) -> str:
        return environment_name(self.name)

    @property
    def is_hidden(self) -> bool:
        """Accepted, but nothing that help should lead anybody to."""
        return bool(self.inert) or self.unbuilt is not None


class Argument(msgspec.Struct, frozen=True):
    """A word of the command line that belongs to no flag; its value is a text. Several are given in the table's order.

    name: as in `Values.text(name)`; help shows it in capitals. choices: all that it may be, empty for anything.
    """

    name: str
    help: str
    default: str = ""
    required: bool = False
    choices: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        return "|".join(self.choices) or self.name.upper()
