"""`charon simnet` as its users meet it: a program with a summary, a report and an exit status."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from supervisors.simnet import NodeView, SimnetSettings, SimnetView, make_cluster, percentile
from tests.cli.conftest import Charon

CHARON = [sys.executable, "-m", "charon_actors.cli.main"]
TOTAL_MIB = 400


def check_shape(report: Any, *, nodes: int) -> None:
    """Exactly the keys that were promised, and the kinds of their values."""
    assert list(report) == ["ok", "slots", "nodes"]
    assert isinstance(report["ok"], bool)
    assert isinstance(report["slots"], int)
    assert [node["index"] for node in report["nodes"]] == list(range(nodes))
    for node in report["nodes"]:
        assert list(node) == ["index", "ready_s", "duties", "latency_ms"]
        assert isinstance(node["ready_s"], float)
        assert set(node["duties"]) == set(node["latency_ms"]) == {"attester", "proposer"}
        for counts in node["duties"].values():
            assert list(counts) == ["expected", "succeeded"]
            assert all(isinstance(count, int) for count in counts.values())
        for latency in node["latency_ms"].values():
            assert list(latency) == ["p50", "p99"]
            assert all(each is None or isinstance(each, float) for each in latency.values())


@contextmanager
def simnet(directory: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [*CHARON, "simnet", *arguments], cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        try:
            yield program
        finally:
            program.kill()


def wait_for_line(program: "subprocess.Popen[str]", pattern: str) -> str:
    assert program.stdout is not None
    for line in program.stdout:
        if re.search(pattern, line):
            return line
    raise AssertionError(f"it ended with {program.wait()} and never said {pattern!r}: {program.stderr and program.stderr.read()}")


def rss_mib(pid: int) -> float:
    """Peak resident memory of a process and its children together."""
    total = 0.0
    for each in [pid, *children(pid)]:
        status = Path(f"/proc/{each}/status").read_text()
        total += int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]
    return total


def children(pid: int) -> list[int]:
    found = [int(text) for task in Path(f"/proc/{pid}/task").iterdir() for text in (task / "children").read_text().split()]
    return found + [deeper for each in found for deeper in children(each)]


@pytest.mark.slow
def test_a_short_run_ends_with_a_summary_a_report_and_status_zero(tmp_path: Path) -> None:
    arguments = ("--nodes=3", "--validators=1", "--slots=1", "--slot-duration=4s", "--report=report.json")
    with simnet(tmp_path, *arguments) as program:
        out, err = program.communicate(timeout=60)
    assert (program.returncode, err) == (0, ""), out
    report = json.loads((tmp_path / "report.json").read_text())
    check_shape(report, nodes=3)
    assert (report["ok"], report["slots"]) == (True, 1)
    assert [node["duties"]["proposer"] for node in report["nodes"]] == [{"expected": 1, "succeeded": 1}] * 3
    assert out.splitlines()[-1] == "simnet: ok after 1 slots"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json"], "nothing else is left"


@pytest.mark.slow
def test_four_nodes_stay_below_the_promised_memory(tmp_path: Path) -> None:
    with simnet(tmp_path, "--slots=3", "--slot-duration=3s") as program:
        wait_for_line(program, r"^slot +\d+ .*")
        wait_for_line(program, r"^slot +\d+ .*")
        assert rss_mib(program.pid) < TOTAL_MIB
        program.communicate(timeout=60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_signal_ends_an_endless_run_with_its_summary(tmp_path: Path, number: signal.Signals) -> None:
    with simnet(tmp_path, "--nodes=3", "--validators=1", "--slot-duration=3s", "--report=report.json") as program:
        wait_for_line(program, r"^slot +\d+ .*proposer 3/3")
        time.sleep(0.5)  # somewhere inside the next slot
        began = time.monotonic()
        program.send_signal(number)
        out, err = program.communicate(timeout=30)
    assert (program.returncode, err) == (0, ""), out
    assert time.monotonic() - began < 5
    assert re.search(r"^simnet: ok after \d+ slots$", out, flags=re.MULTILINE)
    report = json.loads((tmp_path / "report.json").read_text())
    check_shape(report, nodes=3)
    assert report["ok"] is True


def test_a_signal_before_the_first_slot_is_over_is_not_a_success(tmp_path: Path) -> None:
    with simnet(tmp_path, "--nodes=3", "--validators=1", "--slot-duration=30s", "--report=report.json") as program:
        wait_for_line(program, "Ctrl-C ends it")
        time.sleep(0.5)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=30)
    assert (program.returncode, err) == (1, ""), out
    assert out.splitlines()[-1] == "simnet: NOT ok, it ended before the first slot was over"
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["ok"], report["slots"]) == (False, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["click.core", "trio", "supervisors.supervisor"])
def test_a_signal_while_it_is_being_loaded_is_no_traceback(tmp_path: Path, module: str, number: signal.Signals) -> None:
    program = subprocess.Popen(
        [sys.executable, "-X", "importtime", *CHARON[1:], "simnet", "--slots=1"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stderr is not None
    with program:
        try:
            for line in program.stderr:
                if line.rstrip().endswith(f" {module}"):
                    break
            program.send_signal(number)
            _, err = program.communicate(timeout=30)
        finally:
            program.kill()
    said = [line for line in err.splitlines() if line and not line.startswith("import time:")]
    if module != "click.core":  # there the command has not begun: Python itself answers
        assert said in ([], ["Interrupted."])
    assert program.returncode not in (None, 0)


@pytest.mark.slow
def test_on_a_terminal_there_is_a_table_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = ["simnet", "--nodes=3", "--validators=1", "--slot-duration=3s"]
    program = subprocess.Popen(
        [*CHARON, *arguments], cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    seen, was_told, began = b"", False, time.monotonic()
    try:
        while program.poll() is None:
            try:
                seen += os.read(ours, 65536)
            except OSError:
                break
            assert time.monotonic() - began < 90
            if b"1 counted" in seen and not was_told:
                was_told = True
                program.send_signal(signal.SIGINT)
        program.wait(timeout=30)
    finally:
        program.kill()
        os.close(ours)
    text = seen.decode()
    assert "proposer" in text
    assert "simnet: ok after 1 slots" in text
    assert "Traceback" not in text
    assert program.returncode == 0, text


# the numbers


def view_of(expected: int, succeeded: int, *, counted: int = 5, ready_s: float | None = 1.0) -> SimnetView:
    node = NodeView(0, "some-name", ready_s)
    node.expected["attester"], node.succeeded["attester"] = expected, succeeded
    return SimnetView([node], counted=counted)


@pytest.mark.parametrize(
    ("view", "is_ok"),
    [
        (view_of(3, 3), True),
        (view_of(3, 2), False),
        (view_of(0, 0, counted=0), False),
        (view_of(3, 3, ready_s=None), False),
        (SimnetView([], counted=0), False),
        (SimnetView([NodeView(0, "a", 1.0), view_of(1, 0).nodes[0]], counted=1), False),
        (SimnetView([NodeView(0, "a", 1.0)], counted=1, refused={"signature does not verify": 1}), False),
    ],
)
def test_ok_means_that_everything_expected_succeeded_everywhere(view: SimnetView, is_ok: bool) -> None:
    assert view.is_ok is is_ok
    assert view.report()["ok"] is is_ok


@pytest.mark.parametrize(
    ("seconds", "p50", "p99"),
    [
        ([], None, None),
        ([0.2], 200.0, 200.0),
        ([0.4, 0.1, 0.2, 0.3], 200.0, 400.0),
        ([n / 1000 for n in range(1, 201)], 100.0, 198.0),
    ],
)
def test_percentiles_by_nearest_rank(seconds: list[float], p50: float | None, p99: float | None) -> None:
    assert (percentile(seconds, 50), percentile(seconds, 99)) == (p50, p99)


def test_the_same_seed_makes_the_same_cluster(tmp_path: Path) -> None:
    def keys(seed: int) -> tuple[bytes, list[bytes], list[dict[int, bytes]]]:
        dealt, identities = make_cluster(SimnetSettings(tmp_path, nodes=3, validators=2, seed=seed))
        return dealt.lock.lock_hash, identities, [dict(shares) for shares in dealt.shares]

    assert keys(5) == keys(5)
    assert keys(5)[0] != keys(6)[0]


# what is wrong with the flags


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--nodes=2"], "--nodes: 2 is out of range; give 3 to 16"),
        (["--nodes=17"], "--nodes: 17 is out of range; give 3 to 16"),
        (["--validators=0"], "--validators: 0 is out of range; give 1 to 64"),
        (["--slots=-1"], "--slots: -1 is out of range; give 0 to 1000000"),
        (["--slot-duration=100ms"], "--slot-duration: is out of range; give 500ms to 1m"),
        (["--slot-duration=2"], None),
        (["--seed=x"], None),
        (["--log-level=loud", "--report=report.json"], None),
        (["--report=no/such/directory/report.json"], None),
        (["--report=."], None),
        (["--nope"], "charon simnet: unknown flag: --nope; see `charon simnet --help`"),
    ],
)
def test_bad_flags_are_one_line_and_nothing_is_left(
    charon: Charon, tmp_path: Path, arguments: list[str], error: str | None
) -> None:
    outcome = charon("simnet", *arguments)
    if error is not None:
        assert outcome.error == error
    assert arguments[0].split("=")[0] in outcome.error
    assert outcome.error.count("; ") >= 1
    assert outcome.stdout == ""
    assert not os.listdir(tmp_path)
