"""What the slashing guard says about its work."""

from actors.facts import Fact


class OnlyListening(Fact, frozen=True):
    """Records were lost: nothing is signed for `left_s` seconds, 0 when that is over."""

    left_s: float
