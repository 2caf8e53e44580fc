"""One chain as its beacon node describes it: slot arithmetic, the fork of an epoch, domains. Pure; time is an argument.

Rules that are easy to get wrong:

    a duty's fork version     that of the last entry of the fork schedule, in listed order, with `epoch <= duty epoch`; several
                              forks at one epoch: the last wins (test chains start with five forks at epoch 0)
    a voluntary exit          the Capella version of the lock's network, whatever the epoch (EIP-7044)
    a builder registration    the version of the first schedule entry, zero validators root
    the fork of data          from the `*_FORK_EPOCH` values of the spec, which may disagree with the schedule (the beacon mock)

Limits: at most MAX_SPEC_KEYS values and MAX_FORKS schedule entries; numbers are uint64; anything else is a ChainFault.
Source: specification 08 §2 (required keys), §6; 20 §2.4 (what an old node leaves out).
"""

import math
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

import msgspec

from charon_actors.eth2.forks import FAR_FUTURE_EPOCH, Fork
from charon_actors.eth2.preset import Preset, preset_from_spec
from charon_actors.eth2.signing import DomainType, builder_domain, compute_domain, compute_signing_root

MAX_SPEC_KEYS: Final = 4096
MAX_FORKS: Final = 64
MAX_SLOT_DURATION_S: Final = 3600.0


class ChainFault(Exception):
    """A beacon node's description of its chain is incomplete or makes no sense."""


class ForkEntry(msgspec.Struct, frozen=True):
    """From `epoch` on, signatures use `version` (4 bytes)."""

    epoch: int
    version: bytes


class Chain(msgspec.Struct, frozen=True, dict=True):
    """A chain's parameters. genesis_validators_root: 32 bytes; capella_fork_version: 4 bytes, that of the lock's network.

    `fork_epochs` holds only the forks that are scheduled; `spec` is the beacon node's `config/spec` as given.
    """

    genesis_time_s: float
    genesis_validators_root: bytes
    slot_duration_s: float
    slots_per_epoch: int
    fork_schedule: tuple[ForkEntry, ...]
    fork_epochs: Mapping[Fork, int]
    capella_fork_version: bytes
    spec: Mapping[str, str] = MappingProxyType({})

    @property
    def has_made_up_blocks(self) -> bool:
        """Whether it is the one of Charon's beacon mock, whose blocks have any proposer and are of Capella, whatever its spec says."""
        return self.spec.get("CONFIG_NAME") == "charon-simnet"

    @cached_property
    def preset(self) -> Preset:
        """The sizes of this chain's SSZ types. Raises: ChainFault (a size that makes no sense)."""
        try:
            return preset_from_spec(self.spec)
        except ValueError as error:
            raise ChainFault(f"config/spec: {error}") from None

    def slot_at(self, unix_s: float) -> int:
        """The slot at that instant; negative before genesis. Consistent with `slot_start_s` to the last bit."""
        slot = math.floor((unix_s - self.genesis_time_s) / self.slot_duration_s)
        if self.slot_start_s(slot + 1) <= unix_s:
            return slot + 1
        return slot - 1 if self.slot_start_s(slot) > unix_s else slot

    def slot_start_s(self, slot: int) -> float:
        """When the slot starts, in Unix seconds."""
        return self.genesis_time_s + slot * self.slot_duration_s

    def epoch_of(self, slot: int) -> int:
        return slot // self.slots_per_epoch

    def first_slot(self, epoch: int) -> int:
        return epoch * self.slots_per_epoch

    def fork_at(self, epoch: int) -> Fork:
        """The fork whose containers data of that epoch has."""
        return max((fork for fork, since in self.fork_epochs.items() if since <= epoch), default=Fork.PHASE0)

    def fork_version_at(self, epoch: int) -> bytes:
        """The 4-byte version that signatures of that epoch use. Raises: ChainFault (before the first entry)."""
        version = None
        for entry in self.fork_schedule:
            if entry.epoch <= epoch:
                version = entry.version
        if version is None:
            raise ChainFault(f"the fork schedule has no entry for epoch {epoch}")
        return version

    def domain(self, domain_type: DomainType, epoch: int) -> bytes:
        """The 32-byte domain of an object of that epoch (table above). Raises: ChainFault; ValueError for deposits."""
        match domain_type:
            case DomainType.VOLUNTARY_EXIT:
                version = self.capella_fork_version
            case DomainType.APPLICATION_BUILDER:
                if not self.fork_schedule:
                    raise ChainFault("the fork schedule is empty")
                return builder_domain(self.fork_schedule[0].version)
            case DomainType.DEPOSIT:
                raise ValueError("deposits are signed offline: use deposit_domain with the lock's fork version")
            case _:
                version = self.fork_version_at(epoch)
        return compute_domain(domain_type, version, self.genesis_validators_root)

    def signing_root(self, object_root: bytes, domain_type: DomainType, epoch: int) -> bytes:
        """The 32 bytes to sign for an object with that root (32 bytes). Raises: as `domain`."""
        return compute_signing_root(object_root, self.domain(domain_type, epoch))


def chain_from_answers(genesis: object, spec: object, fork_schedule: object, capella_fork_version: bytes) -> Chain:
    """The chain that a beacon node describes.

    genesis, spec, fork_schedule: parsed JSON of `/eth/v1/beacon/genesis`, `/eth/v1/config/spec` and
    `/eth/v1/config/fork_schedule`, with or without the envelope `{"data": …}`.
    capella_fork_version: of the lock's network, 4 bytes; empty, for a custom network whose operator did not give it: the one
    that the beacon node's spec names.
    Unknown keys stay in `Chain.spec`; `SLOT_DURATION_MS` is preferred to `SECONDS_PER_SLOT`, one of them must be there.
    Raises: ChainFault.
    """
    genesis_data = _object(_data(genesis), "genesis")
    spec_data = _object(_data(spec), "config/spec")
    if len(spec_data) > MAX_SPEC_KEYS:
        raise ChainFault(f"config/spec has {len(spec_data)} keys, more than {MAX_SPEC_KEYS}")
    texts = {key: value for key, value in spec_data.items() if isinstance(value, str)}
    slots_per_epoch = _number(texts, "SLOTS_PER_EPOCH", "config/spec")
    if not 1 <= slots_per_epoch <= 4096:
        raise ChainFault(f"config/spec: SLOTS_PER_EPOCH is {slots_per_epoch}")
    if not capella_fork_version and "CAPELLA_FORK_VERSION" in texts:
        capella_fork_version = _hex(texts["CAPELLA_FORK_VERSION"], 4, "config/spec: CAPELLA_FORK_VERSION")
    if len(capella_fork_version) != 4:
        raise ChainFault("the Capella fork version of the lock's network has not 4 bytes")
    chain = Chain(
        genesis_time_s=float(_number(genesis_data, "genesis_time", "genesis")),
        genesis_validators_root=_hex(genesis_data.get("genesis_validators_root"), 32, "genesis: genesis_validators_root"),
        slot_duration_s=_slot_duration_s(texts),
        slots_per_epoch=slots_per_epoch,
        fork_schedule=_schedule(_data(fork_schedule)),
        fork_epochs=MappingProxyType(_fork_epochs(texts)),
        capella_fork_version=capella_fork_version,
        spec=MappingProxyType(texts),
    )
    _ = chain.preset  # raises now rather than in the middle of a duty
    return chain


def _data(answer: object) -> Any:
    return answer["data"] if isinstance(answer, Mapping) and "data" in answer else answer


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ChainFault(f"{where}: not a JSON object")
    return value


def _number(values: Mapping[str, Any], key: str, where: str) -> int:
    text = values.get(key)
    if not (isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) <= 20 and int(text) < 2**64):
        raise ChainFault(f"{where}: {key} is missing or not a decimal uint64")
    return int(text)


def _hex(text: object, size: int, where: str) -> bytes:
    if not (isinstance(text, str) and text.startswith("0x") and len(text) == 2 + 2 * size):
        raise ChainFault(f"{where} is not 0x and {2 * size} hex digits")
    try:
        raw = bytes.fromhex(text[2:])
    except ValueError:
        raw = b""
    if len(raw) != size:  # bytes.fromhex skips blanks
        raise ChainFault(f"{where} is not 0x and {2 * size} hex digits")
    return raw


def _slot_duration_s(spec: Mapping[str, str]) -> float:
    if "SLOT_DURATION_MS" in spec:
        seconds = _number(spec, "SLOT_DURATION_MS", "config/spec") / 1000
    else:
        seconds = float(_number(spec, "SECONDS_PER_SLOT", "config/spec"))
    if not 0 < seconds <= MAX_SLOT_DURATION_S:
        raise ChainFault(f"config/spec: a slot of {seconds} s")
    return seconds


def _schedule(entries: object) -> tuple[ForkEntry, ...]:
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_FORKS:
        raise ChainFault(f"fork_schedule: not a list of 1 to {MAX_FORKS} forks")
    schedule = []
    for entry in entries:
        fields = _object(entry, "fork_schedule")
        version = _hex(fields.get("current_version"), 4, "fork_schedule: current_version")
        schedule.append(ForkEntry(_number(fields, "epoch", "fork_schedule"), version))
    return tuple(schedule)


def _fork_epochs(spec: Mapping[str, str]) -> dict[Fork, int]:
    epochs = {Fork.PHASE0: 0}
    for fork in list(Fork)[1:]:
        key = f"{fork.name}_FORK_EPOCH"
        if key not in spec:  # a node older than that fork
            continue
        epoch = _number(spec, key, "config/spec")
        if epoch != FAR_FUTURE_EPOCH:
            epochs[fork] = epoch
    return epochs
