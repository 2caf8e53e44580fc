"""The forms of log lines, against the lines of eight programs in all three forms."""

import io
import json
from pathlib import Path

import pytest
import structlog

from charon_actors.cli.log import console_line, json_line, logfmt_line, set_up_log
from charon_actors.errors import UserError

VECTORS = Path(__file__).parent.parent / "vectors" / "monitoring" / "log"
PROGRAMS = sorted(path.name.removesuffix("_json.golden") for path in VECTORS.glob("*_json.golden"))
KNOWN = ("level", "ts", "caller", "msg", "stacktrace", "topic")


def records(program: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (VECTORS / f"{program}_json.golden").read_text().splitlines()]
    return [
        {key: line.get(key, "") for key in KNOWN} | {"fields": {k: v for k, v in line.items() if k not in KNOWN}}
        for line in lines
    ]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("form", ["console", "json", "logfmt"])
def test_lines_are_what_charon_writes(program: str, form: str) -> None:
    writers = {
        "console": lambda record: console_line(record, "00:00", is_coloured=True),
        "json": lambda record: json_line(record, "00:00"),
        "logfmt": lambda record: logfmt_line(record, "00:00"),
    }
    written = "".join(writers[form](record) + "\n" for record in records(program))
    assert written == (VECTORS / f"{program}_{form}.golden").read_text()
    assert PROGRAMS


def test_what_a_peer_sends_cannot_forge_a_line(tmp_path: Path) -> None:
    out = io.StringIO()
    set_up_log("console", "info", "disable", str(tmp_path / "a" / "charon.log"), out)
    try:
        log = structlog.get_logger(topic="p2p")
        log.warning("Bad peer\n12:00:00.000 INFO all is well", name="\x1b[31mred\r\n")
        log.debug("only in the file")
    finally:
        structlog.reset_defaults()
    assert len(out.getvalue().splitlines()) == 1
    assert "\x1b" not in out.getvalue()
    file = tmp_path / "a" / "charon.log"
    assert "only in the file" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_log_file_that_took_over_is_as_private_as_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charon_actors.cli.log.MAX_FILE_BYTES", 200)
    set_up_log("console", "info", "disable", str(tmp_path / "charon.log"), io.StringIO())
    try:
        for number in range(10):
            structlog.get_logger(topic="p2p").info("x" * 100, number=number)
    finally:
        structlog.reset_defaults()
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}.items() >= {
        ("charon.log", 0o600),
        ("charon.log.1", 0o600),
    }


@pytest.mark.parametrize(
    ("form", "level", "colour"), [("xml", "info", "auto"), ("json", "loud", "auto"), ("json", "info", "pink")]
)
def test_unknown_settings_are_the_operators_errors(form: str, level: str, colour: str) -> None:
    with pytest.raises(UserError, match="not known"):
        set_up_log(form, level, colour)


def test_a_terminal_that_has_gone_does_not_take_the_program_along() -> None:
    out = io.StringIO()
    set_up_log("console", "info", "disable", out=out)
    out.close()
    structlog.get_logger(topic="p2p").error("nobody reads this")
