"""Attestations: the vote of each validator, once an epoch.

From Electra on one request serves all committees (05 §6, `fetch_only_commidx_0`).

What was decided is served by committee. Many clients ask for committee 0 whatever theirs is: they get committee 0 if it was decided, else
the lowest one that was, the same on all nodes, though each has the set in an order of its own. What was stored under 0 stays, as under
any other number; two heads may be decided for two committees (before Electra), two sources or targets never.

Source: specification 05 §3, §6, §7; 07 §5.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import ClassVar, Final

from actors.beacon import AttesterDuties, FetchAttestationData, SubmitAttestations
from actors.beacon import Message as BeaconMessage
from actors.duties.decided import ClashingValue
from actors.duties.kinds.kind import DutyKind, Known
from actors.duties.messages import AwaitDecided, LookUpSlot, UnknownValidator
from actors.duties.story import DutyContext, Timeline, agree, reading_ms, until_done
from actors.mailbox import Address
from charon_actors.eth2.attestation import vote_index
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.forks import Fork
from charon_actors.eth2.signed_data import SignedData, VersionedAttestation
from charon_actors.eth2.unsigned_data import (
    AttestationData,
    AttestationUnsigned,
    AttesterDefinition,
    WrongValue,
    decided_attestations,
    encode_unsigned,
)


class AwaitAttestationData(AwaitDecided[AttestationData], frozen=True):
    """The attestation data that the cluster agreed on for a committee. A committee that nobody of ours sits in: NoDuty."""

    kind: ClassVar[DutyType] = DutyType.ATTESTER
    committee_index: int

    @property
    def key(self) -> int:
        return self.committee_index


class PubkeyOfAttester(LookUpSlot[bytes], frozen=True):
    """The group public key (48 bytes) of the validator that attests there. committee_index: its own, or 0. Raises: UnknownValidator."""

    kind: ClassVar[DutyType] = DutyType.ATTESTER
    committee_index: int
    validator_index: int


class AttesterAt(LookUpSlot[AttesterDefinition], frozen=True):
    """Who attests at that position of a committee (before Electra, attestations name nobody). Raises: UnknownValidator."""

    kind: ClassVar[DutyType] = DutyType.ATTESTER
    committee_index: int
    position: int


async def define(beacon: Address[BeaconMessage], epoch: int, active: Mapping[int, bytes]) -> Sequence[AttesterDefinition]:
    return (await beacon.ask(AttesterDuties(epoch=epoch, indices=tuple(sorted(active))))).duties


async def attest(definitions: Mapping[bytes, AttesterDefinition], on: DutyContext, timeline: Timeline) -> None:
    """Agree on what the validators of `definitions` (by group public key) attest, and serve it."""
    decided = await agree(lambda: fetch(definitions, on, timeline), on, timeline)
    read = partial(on.off_loop, reading_ms(decided), _read, (decided, timeline.duty, definitions, on.chain))
    values = await until_done(read, timeline)
    await on.sources.confirm(timeline.duty.slot, max(value.data.source_epoch for value in values))
    timeline.step("serve")
    if missing := definitions.keys() - {value.duty.pubkey for value in values}:
        timeline.fault(WrongValue(f"nothing was decided for {len(missing)} of our validators"))
    on.serve(timeline.duty, partial(by_committee, values, timeline.duty.slot))


async def fetch(definitions: Mapping[bytes, AttesterDefinition], on: DutyContext, timeline: Timeline) -> dict[str, bytes]:
    """Attestation data for each validator."""
    timeline.step("fetch")
    slot = timeline.duty.slot
    fork = on.chain.fork_at(on.chain.epoch_of(slot))
    indices = {pubkey: vote_index(definition.committee_index, fork) for pubkey, definition in definitions.items()}
    fetched = {
        index: await on.beacon.ask(FetchAttestationData(slot=slot, committee_index=index))
        for index in sorted(set(indices.values()))
    }
    on.sources.heard(slot, max(data.source_epoch for data in fetched.values()))
    return {
        "0x" + pubkey.hex(): encode_unsigned(AttestationUnsigned(data=fetched[indices[pubkey]], duty=definition))
        for pubkey, definition in definitions.items()
    }


def _read(of: tuple[Mapping[str, bytes], Duty, Mapping[bytes, AttesterDefinition], Chain]) -> list[AttestationUnsigned]:
    return decided_attestations(*of)


def by_committee(
    values: Iterable[AttestationUnsigned], slot: int, stored: Mapping[int, AttestationData]
) -> dict[int, AttestationData]:
    """`stored` and `values`, as they are served. Raises: ClashingValue."""
    merged = dict(stored)
    for value in sorted(values, key=lambda value: value.duty.committee_index):
        committee_index, data = value.duty.committee_index, value.data
        if merged.setdefault(committee_index, data) != data:
            raise ClashingValue(f"slot {slot}, committee {committee_index}: two attestation data were decided")
        first = merged.setdefault(0, data)
        if (first.source_epoch, first.source_root, first.target_epoch, first.target_root) != (
            data.source_epoch,
            data.source_root,
            data.target_epoch,
            data.target_root,
        ):
            raise ClashingValue(f"slot {slot}: attestation data with two sources or targets were decided")
    return merged


async def submit(signed: Mapping[bytes, SignedData], on: DutyContext) -> None:
    by_fork: dict[Fork, list[VersionedAttestation]] = {}
    for attestation in signed.values():
        assert isinstance(attestation, VersionedAttestation), "the signatures actor has checked the type"
        by_fork.setdefault(attestation.fork, []).append(attestation)
    for fork, attestations in by_fork.items():
        await on.beacon.ask(SubmitAttestations(fork=fork, attestations=tuple(attestations)))


def _pubkey_of(asked: PubkeyOfAttester, known: Known) -> bytes:
    duty: AttesterDefinition
    for pubkey, duty in known.definitions(asked.kind, asked.slot).items():
        if duty.validator_index == asked.validator_index and asked.committee_index in (0, duty.committee_index):
            return pubkey
    raise UnknownValidator(
        f"validator {asked.validator_index} of the cluster has no duty in slot {asked.slot}, committee {asked.committee_index}"
    )


def _attester_at(asked: AttesterAt, known: Known) -> AttesterDefinition:
    duty: AttesterDefinition
    for duty in known.definitions(asked.kind, asked.slot).values():
        if (duty.committee_index, duty.validator_committee_index) == (asked.committee_index, asked.position):
            return duty
    raise UnknownValidator(
        f"no validator of the cluster is at position {asked.position} of committee {asked.committee_index} in slot {asked.slot}"
    )


ATTESTER: Final = DutyKind(
    DutyType.ATTESTER,
    does="attests",
    called="the attestation duty",
    named="attester_slots",
    summary=lambda slots: len(list(slots)),
    define=define,
    story=attest,
    submit=submit,
    look_ups={PubkeyOfAttester: _pubkey_of, AttesterAt: _attester_at},
)
