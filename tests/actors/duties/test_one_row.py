"""A kind of duty is one row and one file: a made-up one works without a change anywhere else, and nobody else knows the kinds by name."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from actors.beacon import ProposerDefinition
from actors.duties import NoDuty
from actors.duties.kinds import KINDS
from actors.duties.kinds.kind import DutyKind, Known
from actors.duties.messages import AwaitDecided, LookUpSlot
from actors.duties.story import DutyContext, Timeline, agree
from charon_actors.eth2.duty import PERFORMED, ROWS, Agreement, Duty, DutyType, GroupGoesTo
from charon_actors.eth2.signed_data import SignedData
from tests.actors.duties.rig import ALICE, Clock, Rig, rig_of, settle, signed_attestation

ROOT = Path(__file__).parents[3]
KIND = DutyType.AGGREGATOR  # in the wire's numbers, not performed yet
SLOT = 9


class AwaitVerse(AwaitDecided[bytes], frozen=True):
    kind: ClassVar[DutyType] = KIND


class WhoSings(LookUpSlot[bytes], frozen=True):
    kind: ClassVar[DutyType] = KIND


class Choir:
    """Validators that agree on a verse."""

    def __init__(self) -> None:
        self.submitted: list[Mapping[bytes, SignedData]] = []
        self.kind = DutyKind(
            KIND,
            does="sings",
            called="the verse",
            named="verses",
            summary=sorted,
            define=self.define,
            story=self.sing,
            submit=self.submit,
            look_ups={WhoSings: self.who},
        )

    async def define(self, beacon: Any, epoch: int, active: Mapping[int, bytes]) -> Iterable[ProposerDefinition]:
        return [ProposerDefinition(pubkey, index, SLOT) for index, pubkey in active.items() if pubkey == ALICE and epoch == 1]

    async def sing(self, definitions: Mapping[bytes, ProposerDefinition], on: DutyContext, timeline: Timeline) -> None:
        async def fetch() -> dict[str, bytes]:
            return {"0x" + pubkey.hex(): b"la" for pubkey in definitions}

        decided = await agree(fetch, on, timeline)
        timeline.step("serve")
        on.serve(timeline.duty, lambda stored: {0: next(iter(decided.values()))})

    async def submit(self, signed: Mapping[bytes, SignedData], on: DutyContext) -> None:
        self.submitted.append(signed)

    def who(self, asked: WhoSings, known: Known) -> bytes:
        for pubkey in known.definitions(KIND, asked.slot):
            return pubkey
        raise NoDuty("nobody sings")


async def test_a_made_up_kind_is_resolved_started_agreed_on_served_and_submitted(autojump_clock: Clock) -> None:
    choir = Choir()

    def prepare(rig: Rig) -> None:
        rig.kinds = {**KINDS, KIND: choir.kind}

    async with rig_of(prepare, slot=8) as rig:
        await rig.until(SLOT + 0.8)  # it starts at two thirds of the slot
        assert await rig.address.ask(AwaitVerse(SLOT)) == b"la"
        assert await rig.address.ask(WhoSings(SLOT)) == ALICE
        with pytest.raises(NoDuty, match="no validator of the cluster sings in slot 10"):
            await rig.address.ask(AwaitVerse(10))
        rig.group(SLOT, {ALICE: signed_attestation(SLOT)}, KIND)
        await settle()
        [ended] = [ended for ended in rig.ended if ended.duty == Duty(SLOT, KIND)]
    assert choir.submitted == [{ALICE: signed_attestation(SLOT)}]
    assert (ended.step, ended.reason) == ("done", None)


def test_each_kind_that_is_performed_has_its_file_and_each_file_its_row() -> None:
    for kind in PERFORMED:
        assert (kind in KINDS) == (ROWS[kind].group_goes_to is GroupGoesTo.BEACON_NODE)
    assert all(kind in PERFORMED and ROWS[kind].agreement is Agreement.WHEN_ASKED for kind in KINDS)


# Who else may know a kind by name, and why.
KNOWS_KINDS = {
    "actors/consensus/actor.py": "the values of attesters may be compared before PREPARE; messages of the priority protocol",
    "actors/signatures/peers.py": "a block is large, so it comes in by a door of its own",
    "actors/validator_api/handlers.py": "a route says which duty a submission is for",
    "charon_actors/eth2/duty.py": "the table",
    "charon_actors/eth2/proposal.py": "a signed object says which duty it can belong to",
    "charon_actors/eth2/signed": "likewise",
    "charon_actors/eth2/signed_data.py": "the table of signed objects",
    "charon_actors/eth2/unsigned_data.py": "the table of what is agreed on",
    "charon_actors/qbft/messages.py": "how long a value may be",
    "charon_actors/qbft/timers.py": "proposals have a shorter first round",
    "supervisors/simulation": "mocks of what stands around a node",
    "supervisors/simnet.py": "what it counts",
}


def test_nobody_else_knows_the_kinds_by_name() -> None:
    found = set()
    for package in ("charon_actors", "actors", "supervisors"):
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if name.startswith("actors/duties/kinds/"):
                continue
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if (
                    isinstance(node, ast.Attribute)
                    and ast.unparse(node.value) == "DutyType"
                    and node.attr in DutyType.__members__
                ):
                    found.add(name)
    assert {name for name in found if not name.startswith(tuple(KNOWS_KINDS))} == set()
