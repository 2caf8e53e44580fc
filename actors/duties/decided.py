"""What consensus decided, and who waits for it: the store behind the validator API's blocking requests.

Once a value is decided for a duty, nothing else is ever served for it; a clash is refused. Entries leave with their slot's
expiry. Limits: the slots of two epochs of decided values, MAX_WAITING waiting requests.

Many clients ask for committee 0 whatever theirs is. They get committee 0 if it was decided, else the lowest one that was: the same on
all nodes, though each has the set in an order of its own. What was stored under 0 stays, as under any other number.

Source: specification 05 §7 (keys and conflict rules).
"""

from collections import defaultdict
from collections.abc import Callable, Container, Iterable
from typing import Final, TypeVar

from actors.duties.messages import NoDuty
from actors.mailbox import MailboxFull, Reply
from charon_actors.eth2.duty import Duty, DutyType
from charon_actors.eth2.unsigned_data import AttestationData, AttestationUnsigned, Proposal, same_message

MAX_WAITING: Final = 16384

R = TypeVar("R")
W = TypeVar("W")


class ClashingValue(Exception):
    """Consensus decided two different things for one key; the first stays."""


class DecidedValues:
    """Attestation data by slot and committee, proposals by slot."""

    def __init__(self) -> None:
        self._attestation_data: dict[int, dict[int, AttestationData]] = {}
        self._proposals: dict[int, Proposal] = {}
        self._waiting_attestations: defaultdict[int, list[tuple[int, Reply[AttestationData]]]] = defaultdict(list)
        self._waiting_proposals: defaultdict[int, list[Reply[Proposal]]] = defaultdict(list)

    @property
    def waiting(self) -> int:
        """How many requests wait, those included that were given up since the last expiry."""
        return sum(map(len, self._waiting_attestations.values())) + sum(map(len, self._waiting_proposals.values()))

    def put_attestations(self, slot: int, values: Iterable[AttestationUnsigned]) -> None:
        """Raises: ClashingValue; what was stored before stays, nothing of `values` is stored."""
        by_committee = dict(self._attestation_data.get(slot, {}))
        for value in sorted(values, key=lambda value: value.duty.committee_index):
            committee_index, data = value.duty.committee_index, value.data
            if by_committee.setdefault(committee_index, data) != data:
                raise ClashingValue(f"slot {slot}, committee {committee_index}: two attestation data were decided")
            first = by_committee.setdefault(0, data)
            if (first.source_epoch, first.source_root, first.target_epoch, first.target_root) != (
                data.source_epoch,
                data.source_root,
                data.target_epoch,
                data.target_root,
            ):
                raise ClashingValue(f"slot {slot}: attestation data with two sources or targets were decided")
        self._attestation_data[slot] = by_committee
        waiting = self._waiting_attestations.pop(slot, [])
        for committee_index, reply in waiting:
            self.await_attestation_data(slot, committee_index, reply)

    def put_proposal(self, slot: int, proposal: Proposal) -> None:
        """Raises: ClashingValue."""
        first = self._proposals.setdefault(slot, proposal)
        if not same_message(first, proposal):
            raise ClashingValue(f"slot {slot}: two proposals were decided")
        for reply in self._waiting_proposals.pop(slot, []):
            reply.send(proposal)

    def await_attestation_data(self, slot: int, committee_index: int, reply: Reply[AttestationData]) -> None:
        """Answer now or when it is decided. A committee that nobody of ours sits in, of a decided slot: NoDuty."""
        by_committee = self._attestation_data.get(slot)
        if by_committee is None:
            self._wait(self._waiting_attestations[slot], (committee_index, reply), reply)
        elif committee_index in by_committee:
            reply.send(by_committee[committee_index])
        else:
            reply.fail(NoDuty(f"no validator of the cluster attests in slot {slot}, committee {committee_index}"))

    def await_proposal(self, slot: int, reply: Reply[Proposal]) -> None:
        if slot in self._proposals:
            reply.send(self._proposals[slot])
        else:
            self._wait(self._waiting_proposals[slot], reply, reply)

    def proposals(self, slots: Iterable[int]) -> tuple[Proposal, ...]:
        """Those of `slots` that were decided."""
        return tuple(self._proposals[slot] for slot in slots if slot in self._proposals)

    def expire(self, before_slot_attestations: int, before_slot_proposals: int) -> None:
        """Forget older slots, whose waiting requests get NoDuty, and everywhere the requests that were given up."""
        for slot in [slot for slot in self._attestation_data if slot < before_slot_attestations]:
            del self._attestation_data[slot]
        for slot in [slot for slot in self._proposals if slot < before_slot_proposals]:
            del self._proposals[slot]
        for slot in [slot for slot in self._waiting_attestations if slot < before_slot_attestations]:
            for _, reply in self._waiting_attestations.pop(slot):
                reply.fail(NoDuty(f"the attestation duty of slot {slot} is over"))
        for slot in [slot for slot in self._waiting_proposals if slot < before_slot_proposals]:
            for waiting in self._waiting_proposals.pop(slot):
                waiting.fail(NoDuty(f"the proposal of slot {slot} is over"))
        _drop(self._waiting_attestations, lambda entry: entry[1].is_abandoned)
        _drop(self._waiting_proposals, lambda reply: reply.is_abandoned)

    def release(self, slots: Iterable[int], attester_slots: Container[int], proposer_slots: Container[int]) -> None:
        """The duties of `slots` are known now: who waits for a slot without one gets NoDuty."""
        for slot in slots:
            if slot not in attester_slots:
                for _, reply in self._waiting_attestations.pop(slot, []):
                    reply.fail(NoDuty(f"no validator of the cluster attests in slot {slot}"))
            if slot not in proposer_slots:
                for waiting in self._waiting_proposals.pop(slot, []):
                    waiting.fail(NoDuty(f"no validator of the cluster proposes in slot {slot}"))

    def give_up(self, duty: Duty) -> None:
        """The duty has ended without a decision: who waits for it gets NoDuty."""
        reason = NoDuty(f"the cluster did not agree on {duty} in time")
        if duty.type is DutyType.PROPOSER:
            for waiting in self._waiting_proposals.pop(duty.slot, []):
                waiting.fail(reason)
        if duty.type is DutyType.ATTESTER:
            for _, reply in self._waiting_attestations.pop(duty.slot, []):
                reply.fail(reason)

    def _wait(self, waiting: list[W], entry: W, reply: Reply[R]) -> None:
        if len(waiting) >= MAX_WAITING:
            reply.fail(MailboxFull(f"{MAX_WAITING} requests wait for one slot"))
        else:
            waiting.append(entry)


def _drop(waiting: dict[int, list[W]], is_given_up: Callable[[W], bool]) -> None:
    """Also the slots that nobody waits for then."""
    for slot, entries in list(waiting.items()):
        entries[:] = [entry for entry in entries if not is_given_up(entry)]
        if not entries:
            del waiting[slot]
