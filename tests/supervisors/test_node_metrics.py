"""What becomes of facts in a node's numbers."""

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from actors.crypto_workers import WorkerLost
from actors.facts import Fact
from actors.mailbox import Mailbox, MailboxFull
from actors.metrics import Metrics
from supervisors.mailboxes import MailboxSampled, sample
from supervisors.node_metrics import NodeMetrics


def numbers(*facts: Fact, **labels: str) -> dict[str, float]:
    """The series with these labels, by name, after these facts."""
    metrics = Metrics({"cluster_hash": "ab"})
    for fact in facts:
        NodeMetrics(metrics, [], lambda: None, lambda: 0.0).note(fact)
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        each.name: each.value for family in families for each in family.samples if each.labels == {"cluster_hash": "ab", **labels}
    }


async def test_what_waits_in_mailboxes_is_a_number_and_what_is_lost_as_well() -> None:
    facts: list[Fact] = []
    full = Mailbox[int]("full", 1)
    full.tell(1)
    with pytest.raises(MailboxFull):
        full.tell(2)
    with trio.move_on_after(0.05):
        await sample([full], facts.append, 0.02)
    assert facts[:2] == [MailboxSampled("full", 1, 1, 0), MailboxSampled("full", 1, 0, 0)]
    assert numbers(facts[0], facts[1], actor="full") == {
        "charon_actors_mailbox_queued": 1,
        "charon_actors_mailbox_rejected_total": 1,
        "charon_actors_mailbox_dropped_total": 0,
    }


def test_lost_worker_processes_are_counted_by_job() -> None:
    facts = [WorkerLost("verify_chunk", 1), WorkerLost("verify_chunk", 2)]
    assert numbers(*facts, job="verify_chunk") == {"charon_actors_crypto_workers_lost_total": 2}
