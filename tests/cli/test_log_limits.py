"""However often somebody makes a node say something, the log stays small, and says how much was left out."""

import ast
import io
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

import charon_actors.cli.log
from actors.log_lines import LEFT_OUT, LimitLines
from charon_actors.cli.log import MAX_LINE_CHARACTERS, MAX_STACK_CHARACTERS, flush_log, set_up_log
from charon_actors.log_limits import LIMITS, PERIOD_S, SUBJECTS

ROOT = Path(__file__).parents[2]
FLOOD = 10_000
WRITERS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
SEVERAL = "<several>"


def said_in_the_source() -> list[tuple[str, str, str]]:
    """(topic, level, text) of every line that the source can log; a text that is not one constant has several."""
    found: set[tuple[str, str, str]] = set()
    for path in (each for package in ("actors", "charon_actors", "supervisors") for each in (ROOT / package).rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        topics = {
            str(topic.value)
            for call in calls
            if ast.unparse(call.func).endswith("get_logger")
            for topic in [*call.args, *(keyword.value for keyword in call.keywords)]
            if isinstance(topic, ast.Constant)
        }
        for call in calls:
            is_log = isinstance(call.func, ast.Attribute) and "log" in ast.unparse(call.func.value).lower()
            if not (is_log and isinstance(call.func, ast.Attribute) and call.func.attr in WRITERS and call.args):
                continue
            texts = [node.value for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant)]
            for text in texts or [SEVERAL]:
                found |= {(topic, WRITERS[call.func.attr], str(text)) for topic in topics or {"p2p"}}
    return sorted(found)


class Written:
    """What came out of the pipeline that `charon run` has, on a clock of the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.out = 1000.0, io.StringIO()
        set_up_log("json", "debug", "disable", out=self.out)
        limit = charon_actors.cli.log._limit
        assert limit is not None
        monkeypatch.setattr(limit, "_clock", lambda: self.now)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.getvalue().splitlines()]

    def left_out(self) -> int:
        return sum(line["left_out"] for line in self.lines if line["msg"] == LEFT_OUT)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    root = logging.getLogger()
    before = list(root.handlers)
    try:
        yield Written(monkeypatch)
    finally:
        structlog.reset_defaults()
        root.handlers[:] = before
        monkeypatch.setattr(charon_actors.cli.log, "_limit", None)


def test_the_source_says_what_it_is_known_to_say() -> None:
    said = said_in_the_source()
    assert ("sched", "warning", "The chain was reorganised, reading duties again") in said
    assert ("p2p", "debug", "Peer broke a protocol") in said  # of a peer, of a relay
    assert len({topic for topic, _, _ in said}) > 12
    assert len(said) > 100


def test_what_a_healthy_node_says_is_no_kind_without_a_bucket_of_its_own() -> None:
    """A text that somebody else chooses would be a new kind each time: of those that aren't constant, all are of a ceremony's steps."""
    several = {topic for topic, _, text in said_in_the_source() if text == SEVERAL}
    assert several <= {"dkg", "http", "parsigex", "vapi"}  # the last three: texts passed to a method, constants there


@pytest.mark.slow
def test_ten_thousand_of_each_line_are_a_few_and_a_number(written: Written) -> None:
    kinds = said_in_the_source()
    for topic, level, text in kinds:
        write = getattr(structlog.get_logger(topic=topic), level)
        for number in range(FLOOD):
            write(text, reason=number)
    written.now += PERIOD_S
    flush_log()
    count = Counter((line.get("topic", ""), line["level"].replace("warn", "warning"), line["msg"]) for line in written.lines)
    told = {
        (line["topic"], line["level"].replace("warn", "warning"), line["line"]): line["left_out"]
        for line in written.lines
        if line["msg"] == LEFT_OUT
    }
    for topic, level, text in kinds:
        key = (topic, level, text[:200])
        assert count[topic, level, text] == LIMITS[level][0]
        assert told[key] == FLOOD - LIMITS[level][0]
    assert len(written.lines) <= sum(LIMITS[level][0] + 1 for _, level, _ in kinds)


def test_each_topic_is_flooded_and_each_has_its_first_lines_and_its_number(written: Written) -> None:
    """The same, with a thousand of each and warnings only, for those who don't run the slow tests."""
    kinds = [kind for kind in said_in_the_source() if kind[1] == "warning"]
    for topic, level, text in kinds:
        for number in range(1000):
            getattr(structlog.get_logger(topic=topic), level)(text, reason=number)
    flush_log(is_end=True)
    assert len(written.lines) == len(kinds) * 101
    assert written.left_out() == len(kinds) * 900


def test_a_flood_goes_on_at_its_pace_and_its_number_is_said_once_a_period(written: Written) -> None:
    log = structlog.get_logger(topic="sched")
    for _ in range(600):  # a minute, ten lines in each tenth of a second
        for _ in range(10):
            log.warning("The chain was reorganised, reading duties again", epoch=1)
        written.now += 0.1
    flush_log(is_end=True)
    ordinary = [line for line in written.lines if line["msg"] != LEFT_OUT]
    assert 155 <= len(ordinary) <= 161  # 100 at once, one a second
    assert len(written.lines) - len(ordinary) <= 3
    assert len(ordinary) + written.left_out() == 6000
    assert all(line["in_s"] <= PERIOD_S + 1 for line in written.lines if line["msg"] == LEFT_OUT)


def test_one_peers_flood_hides_neither_anothers_line_nor_another_fault(written: Written) -> None:
    log = structlog.get_logger(topic="p2p")
    for _ in range(FLOOD):
        log.bind(peer="evil").warning("Peer info problem", problem="x")
    log.bind(peer="good").warning("Peer info problem", problem="y")
    log.error("Actor crashed", actor="mesh")
    said = [line for line in written.lines if line.get("peer") != "evil"]
    assert [(line["msg"], line.get("peer")) for line in said] == [("Peer info problem", "good"), ("Actor crashed", None)]
    flush_log(is_end=True)
    assert [line["peer"] for line in written.lines if line["msg"] == LEFT_OUT] == ["evil"]


def test_the_number_comes_without_any_further_line_and_is_not_lost_at_the_end(written: Written) -> None:
    for _ in range(150):
        structlog.get_logger(topic="sse").warning("Event that makes no sense", node="http://x")
    flush_log()
    assert written.left_out() == 0, "its period is not over"
    written.now += PERIOD_S
    flush_log()
    flush_log(is_end=True)
    [line] = [line for line in written.lines if line["msg"] == LEFT_OUT]
    assert (line["left_out"], line["in_s"], line["node"], line["line"]) == (50, 30.0, "http://x", "Event that makes no sense")
    assert (line["level"], line["topic"]) == ("warn", "sse")


def test_what_libraries_log_comes_through_the_same_door(written: Written) -> None:
    library = logging.getLogger("trio.serve_listeners")
    for number in range(FLOOD):
        library.error("accept returned %s; retrying", number, exc_info=OSError(24, "too many \x1b[31mopen files"))
    logging.getLogger("httpx").info("not of interest")
    flush_log(is_end=True)
    assert len(written.lines) == 101
    assert written.lines[0] | {"ts": "", "caller": "", "stacktrace": ""} == {
        "level": "error",
        "ts": "",
        "caller": "",
        "msg": "A library says",
        "stacktrace": "",
        "library": "trio.serve_listeners",
        "text": "accept returned 0; retrying",
        "topic": "lib",
    }
    assert "too many \\x1b[31mopen files" in written.lines[0]["stacktrace"]
    assert written.left_out() == FLOOD - 100


@pytest.mark.parametrize("form", ["console", "json", "logfmt"])
def test_a_line_is_short_whatever_is_in_it(form: str) -> None:
    out = io.StringIO()
    set_up_log(form, "debug", "disable", out=out)
    deep: Any = "x"
    for _ in range(500):
        deep = [deep]
    hostile = {
        "error": "x" * 2**20,
        "many": ["y" * 100] * 100_000,
        "keys": {f"k{n}": {"n": "z" * 1000} for n in range(10_000)},
        "deep": deep,
        "number": 10**5000,
        "bytes": b"b" * 2**20,
        "object": Exception("e" * 2**20),
        "tuple": ("t",) * 100_000,
    }
    try:
        log = structlog.get_logger(topic="p2p")
        log.warning("hostile", **hostile)
        log.warning("m" * 2**20)
        log.error("raised", exc_info=ValueError("v" * 2**20 + "\x1b[31m"))
        log.error("raised", exc_info=ExceptionGroup("g", [ValueError("v" * 5000 + f"\n{n}") for n in range(1000)]))
    finally:
        structlog.reset_defaults()
    whole = out.getvalue()
    assert len(whole) < 4 * (3 * MAX_LINE_CHARACTERS + MAX_STACK_CHARACTERS)
    assert all(len(line) < 3 * MAX_LINE_CHARACTERS + MAX_STACK_CHARACTERS for line in whole.splitlines())
    assert "\x1b" not in whole
    assert "hostile" in whole
    if form == "json":
        assert all(json.loads(line) for line in whole.splitlines())
        assert json.loads(whole.splitlines()[0])["error"].endswith("… (1048576 characters)")


def test_whoever_embeds_a_node_takes_the_processor_alone() -> None:
    lines: list[Any] = []

    def keep(_: Any, method: str, event: Any) -> Any:
        lines.append((method, dict(event)))
        raise structlog.DropEvent

    limit = LimitLines(clock=lambda: 5.0)
    structlog.configure(processors=[limit, keep])
    try:
        for _ in range(1000):
            structlog.get_logger(topic="mine").error("Again")
        limit.flush(is_end=True)
    finally:
        structlog.reset_defaults()
    assert len(lines) == 101
    assert lines[-1] == ("error", {"topic": "mine", "event": LEFT_OUT, "line": "Again", "left_out": 900, "in_s": 0.0})


def test_every_subject_is_a_field_that_some_line_has() -> None:
    source = "".join(
        path.read_text() for package in ("actors", "charon_actors", "supervisors") for path in (ROOT / package).rglob("*.py")
    )
    assert [name for name in SUBJECTS if f"{name}=" not in source] == []
