"""Which log lines are let through, by their kind. The lines themselves: tests/cli/test_log_limits.py."""

from charon_actors.log_limits import LIMITS, MAX_KINDS, LineKind, LogLimits


def test_texts_that_somebody_else_chooses_fill_neither_memory_nor_log() -> None:
    limits = LogLimits()
    admitted = sum(limits.admits(LineKind("error", "p2p", str(number)), 0.0) for number in range(10 * MAX_KINDS))
    assert admitted <= MAX_KINDS + LIMITS["error"][0]
    assert len(limits._entries) <= MAX_KINDS + 4
    assert sum(left_out.lines for left_out in limits.due(0.0, is_end=True)) == 10 * MAX_KINDS - admitted
    assert limits.admits(LineKind("error", "p2p", "news"), 1000.0), "the others have had their rest"
    assert len(limits._entries) < MAX_KINDS
