"""Four operators go from nothing to attestations and blocks that a real chain accepts: the README's tutorial, as a test.

Every step is a process of its own, as operators have them. The chain's checks are third-party code.
"""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.rig import Bench, Lodestar, Operators, Rig, needs, wait_for

pytestmark = [pytest.mark.interop, pytest.mark.timeout(1200)]

VALIDATORS = 4
SLOT_S = 4
SLOTS_PER_EPOCH = 8


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operators]:
    """`create enr` ×4, `create dkg`, `dkg` ×4: the files of four operators."""
    needs("devnet-bench-1.41.0")
    with Rig(tmp_path_factory.mktemp("cluster")) as rig:
        operators = Operators(rig)
        operators.create_dkg(operators.create_enrs(), VALIDATORS)
        operators.dkg()
        yield operators


def test_the_ceremony_leaves_identical_locks_and_each_operator_their_own_keys(cluster: Operators) -> None:
    homes = [folder / ".charon" for folder in cluster.folders]
    assert len({(home / "cluster-lock.json").read_bytes() for home in homes}) == 1
    assert len({(home / "deposit-data.json").read_bytes() for home in homes}) == 1
    lock = json.loads((homes[0] / "cluster-lock.json").read_text())
    for index, home in enumerate(homes):
        for number, validator in enumerate(lock["distributed_validators"]):
            keystore = json.loads((home / f"validator_keys/keystore-{number}.json").read_text())
            assert "0x" + keystore["pubkey"] == validator["public_shares"][index]
            assert (home / f"validator_keys/keystore-{number}.txt").stat().st_mode & 0o077 == 0
        assert not [path for path in home.iterdir() if path.name.startswith(".") or "staging" in path.name]


class Tally:
    """What the bench node accepted of the cluster, against what was due."""

    def __init__(self, bench: Bench, operators: Operators) -> None:
        self.bench = bench
        lock = json.loads((operators.folders[0] / ".charon/cluster-lock.json").read_text())
        self._due: dict[int, set[tuple[str, int, int]]] = {}
        self.keys = [validator["distributed_public_key"] for validator in lock["distributed_validators"]]

    def slot(self) -> int:
        """The slot of now. Notes what is due in this epoch: the bench node doesn't answer about past ones."""
        slot = int((time.time() - self.bench.genesis) // SLOT_S)
        epoch = max(slot // SLOTS_PER_EPOCH, 0)
        if epoch not in self._due:
            self._due[epoch] = self._due_in(epoch)
        return slot

    def _due_in(self, epoch: int) -> set[tuple[str, int, int]]:
        ids = ",".join(self.keys)
        indices = [each["index"] for each in self.bench.get(f"/eth/v1/beacon/states/head/validators?id={ids}")["data"]]
        attesters = self.bench.post(f"/eth/v1/validator/duties/attester/{epoch}", indices)["data"]
        proposers = self.bench.get(f"/eth/v1/validator/duties/proposer/{epoch}")["data"]
        return {("attestation", int(duty["slot"]), int(duty["validator_index"])) for duty in attesters} | {
            ("block", int(duty["slot"]), int(duty["validator_index"])) for duty in proposers if duty["validator_index"] in indices
        }

    def due(self, first: int, last: int) -> set[tuple[str, int, int]]:
        """(kind, slot, validator index) in the slots from first to last, of epochs that `slot` has seen."""
        epochs = range(first // SLOTS_PER_EPOCH, last // SLOTS_PER_EPOCH + 1)
        return {duty for epoch in epochs for duty in self._due[epoch] if first <= duty[1] <= last}

    def missed(self, first: int, last: int) -> set[tuple[str, int, int]]:
        return self.due(first, last) - {(kind, slot, index) for kind, slot, index, _ in self.bench.arrivals(first)}


def needs_second_round(duty: tuple[str, int, int], absent: int) -> bool:
    """A block whose first consensus round would be led by a node that is down: the one excuse there is, and why.

    Rounds of proposals last 1.5 s, and a proposal's deadline is 5/12 of the slot (05 §2, 06 §6). In slots of 12 s that leaves 3.5 s for
    the second round, in slots of 4 s only 0.17 s; Charon has the same timers. Attestations have time for a second round here, too.
    """
    kind, slot, _ = duty
    return kind == "block" and (slot + 1 + 1) % 4 == absent


@pytest.mark.parametrize("form", ["ssz", "json"])
def test_a_chain_of_today_finalises_and_gets_every_attestation_and_block(cluster: Operators, tmp_path: Path, form: str) -> None:
    """Fulu on the bench node: all four nodes, then one killed, then two, then all back."""
    with Rig(tmp_path) as rig:
        operators = cluster.elsewhere(rig)
        bench = Bench(rig, fork="fulu", keys=operators.folders[0] / ".charon/deposit-data.json", slot_seconds=SLOT_S)
        for index in range(4):
            operators.run(index, bench.url)
        for index in range(4):
            url = f"http://127.0.0.1:{operators.api[index]}"
            wait_for(f"node {index}", lambda index=index: operators.is_ready(index), 60)  # type: ignore[misc]
            more = ("--json",) if form == "json" else ()
            bench.client(f"vc{index}", url, operators.folders[index] / ".charon/validator_keys", *more)
        tally = Tally(bench, operators)

        first = SLOTS_PER_EPOCH  # epoch 1: every client has read its duties
        wait_for("epoch 3", lambda: tally.slot() > 3 * SLOTS_PER_EPOCH, 200)
        assert tally.missed(first, tally.slot() - 2) == set()

        operators.rig.stop("node1", signal.SIGKILL)
        killed = tally.slot() + 1
        wait_for("an epoch with three of four", lambda: tally.slot() > killed + SLOTS_PER_EPOCH, 60)
        missed = tally.missed(killed, tally.slot() - 2)
        assert {duty for duty in missed if not needs_second_round(duty, absent=1)} == set()
        for kind, slot, _ in missed:
            assert f'"duty": "{slot}/proposer"' in rig.log("node0"), f"the log does not name the {kind} that was missed"

        if form == "ssz":
            operators.rig.stop("node2", signal.SIGKILL)
            down = tally.slot() + 1
            wait_for("half an epoch with two of four", lambda: tally.slot() > down + 4, 60)
            silent = tally.slot() - 1
            assert tally.missed(down, silent) == tally.due(down, silent), "something was signed without a threshold"
            operators.run(2, bench.url)

        operators.run(1, bench.url)
        wait_for("node 1 again", lambda: operators.is_ready(1), 60)
        back = tally.slot() + 2
        wait_for("an epoch with all again", lambda: tally.slot() > back + SLOTS_PER_EPOCH, 60)
        assert tally.missed(back, tally.slot() - 2) == set()

        stats: dict[str, Any] = bench.stats()
        assert stats["rejected"] == {}
        wait_for("finality", lambda: bench.stats()["finalized_epoch"] >= 2, 120)


def test_a_real_beacon_node_finalises_on_the_ceremonys_deposits(cluster: Operators, tmp_path: Path) -> None:
    """Lodestar's beacon node and validator clients (capella), genesis made from the ceremony's deposit-data.json."""
    with Rig(tmp_path) as rig:
        operators = cluster.elsewhere(rig)
        chain = Lodestar(rig, deposits=operators.folders[0] / ".charon/deposit-data.json", slot_seconds=SLOT_S)
        for index in range(4):
            operators.run(index, chain.lifted_url)
        for index in range(4):
            wait_for(f"node {index}", lambda index=index: operators.is_answering(index), 60)  # type: ignore[misc]
            chain.client(f"vc{index}", operators.api[index], operators.folders[index] / ".charon/validator_keys")

        def is_final() -> bool:
            chain.note_duties()
            return chain.finalized_epoch() >= 2

        wait_for("finality", is_final, 300, every_s=1)
        first, last = 2, chain.head_epoch() - 2
        for epoch in range(first, last + 1):
            assert chain.missed_heads(epoch, VALIDATORS) == [], f"epoch {epoch}: not included at distance 1"
            assert chain.missed_blocks(epoch, VALIDATORS) == []
        assert "INVALID_SIGNATURE" not in rig.log("beacon")
