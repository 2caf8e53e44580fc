"""What the chain says about the cluster's validators, read once an epoch. No I/O; the actor fetches.

The right state is that of the epoch's first slot. While no block of it is there many nodes can't give it; then `head` has to do for
the moment, and the next slot asks again (08 §5.1). So within an epoch:

    never read, or in an earlier epoch     ask for the current slot, on failure for `head` (then provisional)
    provisional, and a slot has passed     ask for the epoch's first slot, on failure for `head` again
    otherwise                              answer from memory

Limits: the cluster's validators, and nothing else. Source: specification 08 §5.1.
"""

from collections.abc import Iterable

from charon_actors.eth2.beacon_api import ACTIVE_STATUSES, Validator


class ValidatorsCache:
    """The cluster's validators by group public key (48 bytes)."""

    def __init__(self) -> None:
        self._validators: dict[bytes, Validator] = {}
        self._epoch: int | None = None
        self._provisional_at: int | None = None

    def states_to_ask(self, slot: int, slots_per_epoch: int) -> tuple[str, ...]:
        """The states to ask for, best first; empty when memory will do. slot: the current one, negative before genesis."""
        if slot < 0:
            return () if self._epoch == -1 and self._provisional_at == slot else ("head",)
        epoch = slot // slots_per_epoch
        if self._epoch != epoch:
            return (str(slot), "head")
        if self._provisional_at is not None and self._provisional_at != slot:
            return (str(epoch * slots_per_epoch), "head")
        return ()

    def replace(self, slot: int, slots_per_epoch: int, state: str, validators: Iterable[Validator]) -> None:
        """Remember the answer to the question for `state`."""
        self._validators = {validator.pubkey: validator for validator in validators}
        self._epoch = -1 if slot < 0 else slot // slots_per_epoch
        self._provisional_at = slot if state == "head" else None

    def get(self, pubkey: bytes) -> Validator | None:
        return self._validators.get(pubkey)

    def active_indices(self) -> tuple[int, ...]:
        """Indices of the validators that are active, ascending."""
        return tuple(sorted(v.index for v in self._validators.values() if v.status in ACTIVE_STATUSES))
