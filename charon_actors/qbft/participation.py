"""In which duties this node has said something in consensus: what a life of the node must know of the lives before. Pure.

Nothing of an instance survives its node. A node that says something else for the same duty in its next life, because its clock was set
back or because it is quick, is a liar to its peers (06 §10). So before it says anything in a duty, the duty's slot is on disk; what
stands there at the beginning of a life is only listened to.

Slots are kept as ranges, a few for each type of duty, that may say too much and never too little:

    a slot                                     becomes
    the first one                              the range from 0 to it: of what was before nothing is known
    at most JOINED_SLOTS above a range's end   the end of that range: an ordinary node has one range
    anywhere else, in no range                 a range of its own
    one range more than RANGES                 the two lowest are joined, with everything between them

So a clock that was far ahead for a minute leaves a short range in the future, and doesn't silence the node until that time has come; and
a proposal that was taken part in doesn't silence the attestation of the same slot.

Limits: RANGES a type. Source: specification 06 §10 (restart mid-duty); docs/threat-model.md.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from charon_actors.eth2.duty import Duty, DutyType

RANGES: Final = 4
JOINED_SLOTS: Final = 64  # two epochs: a validator attests once in each

_VERSION: Final = 1
Range = tuple[int, int]  # first and last slot


class ParticipationFault(ValueError):
    """Not an encoded Participation of this version."""


class Participation(msgspec.Struct, frozen=True):
    """ranges: by duty type, in ascending order, without overlaps."""

    ranges: dict[DutyType, tuple[Range, ...]] = {}

    def covers(self, duty: Duty) -> bool:
        """Whether something may have been said in it."""
        return any(first <= duty.slot <= last for first, last in self.ranges.get(duty.type, ()))

    def joined_by(self, duties: Iterable[Duty]) -> "Participation":
        """With those, too."""
        ranges = dict(self.ranges)
        for duty in duties:
            ranges[duty.type] = _with(ranges.get(duty.type, ()), duty.slot)
        return Participation(ranges)


def _with(ranges: tuple[Range, ...], slot: int) -> tuple[Range, ...]:
    if not ranges:
        return ((0, slot),)
    if any(first <= slot <= last for first, last in ranges):
        return ranges
    below = [each for each in ranges if each[1] < slot]
    above = ranges[len(below) :]
    if slot - below[-1][1] <= JOINED_SLOTS:  # there is one below: the lowest range begins with 0
        below[-1] = (below[-1][0], slot)
    else:
        below.append((slot, slot))
    found = (*below, *above)
    return found if len(found) <= RANGES else ((found[0][0], found[1][1]), *found[2:])


def encode_participation(participation: Participation) -> bytes:
    """At most 1 + 13 * (2 + 16 * RANGES) bytes."""
    parts = [bytes([_VERSION])]
    for duty_type, ranges in sorted(participation.ranges.items()):
        parts.append(bytes([duty_type, len(ranges)]))
        parts += [slot.to_bytes(8, "big") for each in ranges for slot in each]
    return b"".join(parts)


def decode_participation(data: bytes) -> Participation:
    """Raises: ParticipationFault."""
    if data[:1] != bytes([_VERSION]):
        raise ParticipationFault("of another version")
    found: dict[DutyType, tuple[Range, ...]] = {}
    at = 1
    while at < len(data):
        head = data[at : at + 2]
        if len(head) < 2 or head[0] not in list(DutyType) or len(data) < at + 2 + 16 * head[1]:
            raise ParticipationFault("cut off, or of a duty that doesn't exist")
        numbers = [int.from_bytes(data[place : place + 8], "big") for place in range(at + 2, at + 2 + 16 * head[1], 8)]
        found[DutyType(head[0])] = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        at += 2 + 16 * head[1]
    return Participation(found)
