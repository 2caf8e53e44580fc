"""Which of several descriptions of the chain holds, when beacon nodes are upgraded one after the other. No I/O; `chain_watch.py` reads.

A chain's genesis and its slot times never change: a node that says otherwise is on another network (`is_same_network`). Its forks do
change, weeks before they happen: a fork gets an epoch, now and then another one, seldom none again. A new description replaces the
known one when

    rule       the node or nodes say
    more       a node, primary or fallback, knows of more forks than we do: whoever doesn't know a fork leaves the chain at it
    otherwise  each primary has described the chain, and none as we know it: a fork was put off, or called off

So an old node beside an upgraded one changes nothing, and nodes that differ for good (each client lists what it likes) never make us go
to and fro. But a node may lie, and a wrong fork makes every signature worthless. So while the node runs a new description is believed
only (`is_believed`) when the best of the nodes that have described the chain gives it, or any two do; what one of the others says alone
waits for that. And it replaces the known one CHANGES times at first, then once in CHANGE_INTERVAL_S: real forks are months apart. Only
what signatures and containers depend on is compared: clients differ in the rest of their `config/spec`.

Source: specification 08 §2 (static cache), §6.2.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from charon_actors.eth2.chain import Chain
from charon_actors.eth2.forks import FAR_FUTURE_EPOCH

CHANGES: Final = 3
CHANGE_INTERVAL_S: Final = 3600.0


def is_same_network(one: Chain, other: Chain) -> bool:
    return _network(one) == _network(other)


def newest_chain(known: Chain, primaries: Sequence[Chain | None], fallbacks: Sequence[Chain | None]) -> Chain:
    """`known`, or what replaces it. primaries, fallbacks: as each node has last described it, None if it has not; all of our network."""
    told = [chain for chain in (*primaries, *fallbacks) if chain is not None]
    newest = max(told, key=forks_known, default=known)
    if forks_known(newest) > forks_known(known):
        return newest
    said = [chain for chain in primaries if chain is not None]
    if not said or len(said) < len(primaries) or any(_facts(chain) == _facts(known) for chain in said):
        return known
    best = max(said, key=forks_known)
    if forks_known(newest) > forks_known(best):  # a fallback's: else we went over to it again at once
        best = newest
    return known if _facts(best) == _facts(known) else best


def is_believed(newest: Chain, told: Sequence[Chain]) -> bool:
    """Whether a new description may replace the known one. told: of each node that has described the chain, the best node's first."""
    return bool(told) and (_facts(told[0]) == _facts(newest) or sum(_facts(chain) == _facts(newest) for chain in told) > 1)


def forks_known(chain: Chain) -> int:
    """How many forks have an epoch, by schedule and by spec; of two descriptions the one with more is newer."""
    return len(_schedule(chain)) + len(chain.fork_epochs)


def forks_text(chain: Chain) -> str:
    """For the log: the versions by epoch and the names of the forks."""
    versions = (f"0x{version.hex()} from epoch {epoch}" for epoch, version in _schedule(chain).items())
    names = (f"{fork.label} from epoch {epoch}" for fork, epoch in chain.fork_epochs.items())
    return ", ".join((*versions, *names))


def _network(chain: Chain) -> object:
    return chain.genesis_time_s, chain.genesis_validators_root, chain.slot_duration_s, chain.slots_per_epoch


def _facts(chain: Chain) -> object:
    return chain.fork_schedule[0].version, _schedule(chain), dict(chain.fork_epochs), chain.preset


def _schedule(chain: Chain) -> Mapping[int, bytes]:
    """The version from each epoch on; of several forks at one epoch the last one holds."""
    return {entry.epoch: entry.version for entry in chain.fork_schedule if entry.epoch != FAR_FUTURE_EPOCH}
