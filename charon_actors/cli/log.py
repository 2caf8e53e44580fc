"""Log records on stderr and in a file: the three forms that Charon's users and tools know.

    form      line
    console   TIME LEVL TOPIC      MESSAGE                                  {"field": value}      stack lines after it
    json      {"level", "ts", "caller", "msg", "stacktrace"?, fields…, "topic"?}
    logfmt    ts= level= caller= msg= fields… pretty="the console line without time"

Control characters are escaped, so that no peer can forge a line or colour a terminal. What the libraries say with Python's own logging
(from WARNING on) comes here as well. How many lines there are is bounded by `log_limits.py`, how long they are here: a value has at most
MAX_VALUE_CHARACTERS, a list or object MAX_ITEMS values, a line MAX_LINE_CHARACTERS (of one that would be longer all values are cut to
SHORT_VALUE_CHARACTERS), the lines of a stack MAX_STACK_CHARACTERS.
Source: specification 09 §7.1, §7.2.
"""

import contextlib
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from charon_actors.errors import UserError

if TYPE_CHECKING:
    from actors.log_lines import LimitLines

LEVELS: Final = {"debug": 10, "info": 20, "warn": 30, "error": 40}
SHORT: Final = {"debug": ("DEBG", 35), "info": ("INFO", 34), "warn": ("WARN", 33), "error": ("ERRO", 31)}
MAX_LINE_CHARACTERS: Final = 16384
MAX_VALUE_CHARACTERS: Final = 4096
SHORT_VALUE_CHARACTERS: Final = 256
MAX_ITEMS: Final = 256
MAX_DEPTH: Final = 6
MAX_NUMBER_BITS: Final = 256
MAX_STACK_CHARACTERS: Final = 16384
MAX_FILE_BYTES: Final = 100 * 1024 * 1024
BACKUPS: Final = 10

Record = MutableMapping[str, Any]


def console_line(record: Mapping[str, Any], clock_text: str, *, is_coloured: bool) -> str:
    """One record for people. record: level, topic, msg, stacktrace (text, may be empty) and the fields in `fields`."""
    level, colour = SHORT[record["level"]]
    topic = f"{record['topic'][:10]:10}"
    if is_coloured:
        level, topic = f"\x1b[{colour}m{level}\x1b[0m", f"\x1b[32m{topic}\x1b[0m"
    fields = json.dumps(record["fields"], ensure_ascii=False, default=str) if record["fields"] else ""
    head = f"{clock_text} " if clock_text else ""
    line = f"{head}{level} {topic} {escape(record['msg']):40}" + (f" {fields}" if fields else "")
    return _cut(line) + (f"\n{record['stacktrace']}" if record["stacktrace"] else "")


def json_line(record: Mapping[str, Any], timestamp: str) -> str:
    line: dict[str, Any] = {"level": record["level"], "ts": timestamp, "caller": record["caller"], "msg": record["msg"]}
    if record["stacktrace"]:
        line["stacktrace"] = record["stacktrace"]
    line |= record["fields"]
    if record["topic"]:
        line["topic"] = record["topic"]
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=str)


def logfmt_line(record: Mapping[str, Any], timestamp: str) -> str:
    pairs: dict[str, Any] = {"ts": timestamp, "level": record["level"], "caller": record["caller"], "msg": record["msg"]}
    if record["stacktrace"]:
        pairs["stacktrace"] = record["stacktrace"]
    pairs |= record["fields"]
    if record["topic"]:
        pairs["topic"] = record["topic"]
    pairs["pretty"] = console_line({**record, "stacktrace": ""}, "", is_coloured=False) + "\n"
    return " ".join(f"{key}={_logfmt_value(value)}" for key, value in pairs.items())


def _logfmt_value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[\s"=\\\x00-\x1f]', text) or not text else text


def escape(text: str) -> str:
    """Printable: control characters and line breaks as Python writes them in a string."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _cut(line: str) -> str:
    return line if len(line) <= MAX_LINE_CHARACTERS else line[:MAX_LINE_CHARACTERS] + "…"


class _Renderer:
    """Last of structlog's processors: writes the record to stderr in the chosen form, and to the file for people."""

    def __init__(self, form: str, level: str, is_coloured: bool, file: "_RotatingFile | None", out: TextIO) -> None:
        self._form, self._least, self._is_coloured, self._file, self._out = form, LEVELS[level], is_coloured, file, out

    def __call__(self, logger: Any, method: str, event: Record) -> Any:
        import structlog

        level = {"warning": "warn", "exception": "error", "critical": "error"}.get(method, method)
        if LEVELS[level] < self._least and self._file is None:
            raise structlog.DropEvent
        error = event.pop("exc_info", None)
        record: dict[str, Any] = {
            "level": level,
            "topic": str(event.pop("topic", "")),
            "msg": _shortened(str(event.pop("event", "")), MAX_VALUE_CHARACTERS),
            "caller": str(event.pop("caller", "")),
            "stacktrace": _stack(error),
        }
        record["fields"] = _plain_object(event, MAX_VALUE_CHARACTERS)
        if len(json.dumps(record["fields"], ensure_ascii=False)) > MAX_LINE_CHARACTERS // 2:
            record["fields"] = _plain_object(event, SHORT_VALUE_CHARACTERS)
        now = time.time()
        if LEVELS[level] >= self._least:
            with contextlib.suppress(OSError, ValueError):  # a terminal that has gone must not take the node along
                self._out.write(self._line(record, now) + "\n")
                self._out.flush()
        if self._file is not None:
            self._file.write(console_line(record, _clock_text(now), is_coloured=False) + "\n")
        raise structlog.DropEvent

    def _line(self, record: Mapping[str, Any], now: float) -> str:
        if self._form == "console":
            return console_line(record, _clock_text(now), is_coloured=self._is_coloured)
        timestamp = datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z")
        if self._form == "json":
            return json_line({**record, "caller": _caller()}, timestamp)
        return logfmt_line({**record, "caller": _caller()}, timestamp)


def _clock_text(now: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03d}"


def _plain_object(event: Mapping[str, Any], limit: int) -> dict[str, Any]:
    budget = [MAX_ITEMS]
    return {_shortened(str(key), limit): _plain(value, limit, budget, MAX_DEPTH) for key, value in event.items()}


def _plain(value: Any, limit: int, budget: list[int], depth: int) -> Any:
    """What JSON has, of bounded size. budget: how many more values of lists and objects there may be."""
    if isinstance(value, str):
        return escape(_shortened(value, limit))
    if isinstance(value, dict | list | tuple) and depth == 0:
        return "…"
    if isinstance(value, dict):
        kept = list(zip(value.items(), _counted(budget), strict=False))
        return {escape(_shortened(str(key), limit)): _plain(each, limit, budget, depth - 1) for (key, each), _ in kept}
    if isinstance(value, list | tuple):
        return [_plain(each, limit, budget, depth - 1) for each, _ in zip(value, _counted(budget), strict=False)]
    if isinstance(value, int) and value.bit_length() > MAX_NUMBER_BITS:
        return f"a number of {value.bit_length()} bits"
    return value if isinstance(value, int | float | bool | type(None)) else escape(_shortened(str(value), limit))


def _counted(budget: list[int]) -> Iterator[int]:
    while budget[0] > 0:
        budget[0] -= 1
        yield budget[0]


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def _stack(error: Any) -> str:
    if error is True:
        error = sys.exc_info()[1]
    if not isinstance(error, BaseException):
        return ""
    lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
    text = "\n".join(f"\t{escape(_shortened(line, MAX_VALUE_CHARACTERS))}" for line in lines)
    if len(text) <= MAX_STACK_CHARACTERS:
        return text
    half = MAX_STACK_CHARACTERS // 2
    return f"{text[:half]}…\n\t…{text[-half:]}"  # where it was raised stands at the end


def _caller() -> str:
    frame = sys._getframe(2)
    while frame.f_back is not None and ("structlog" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{path.parent.name}/{path.name}:{frame.f_lineno}"


class _RotatingFile:
    """Appends; at MAX_FILE_BYTES the file becomes FILE.1, and so on up to BACKUPS. Mode 0600.

    While the disk refuses, lines are lost and counted; the count is written once it takes lines again.
    """

    def __init__(self, path: Path) -> None:
        from logging import makeLogRecord
        from logging.handlers import RotatingFileHandler

        class PrivateFileHandler(RotatingFileHandler):
            error: Exception | None = None

            def handleError(self, record: Any) -> None:
                """logging's own writes a traceback for each line."""
                found = sys.exc_info()[1]
                self.error = found if isinstance(found, Exception) else None

            def _open(self) -> Any:
                return open(self.baseFilename, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600))

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handler = PrivateFileHandler(path, maxBytes=MAX_FILE_BYTES, backupCount=BACKUPS)
        except OSError as error:
            raise UserError(
                str(path), f"the log file can't be written ({error.strerror})", "choose another --log-output-path"
            ) from error
        self._handler.terminator = ""
        self._make = makeLogRecord
        self._path, self._lost = path, 0

    def write(self, line: str) -> None:
        if self._lost and self._emit(f"{self._lost} lines or more may be missing here: the file could not be written\n") is None:
            self._lost = 0
        error = self._emit(line)
        if error is not None:
            self._lost += 1
            if self._lost == 1:
                with contextlib.suppress(OSError, ValueError):
                    print(f"Notice: the log file {self._path} can't be written ({error}), trying again", file=sys.stderr)

    def _emit(self, line: str) -> Exception | None:
        self._handler.error = None
        self._handler.emit(self._make({"msg": "%s", "args": (line,)}))
        return self._handler.error


_limit: "LimitLines | None" = None  # of the process, as stderr is


def set_up_log(form: str, level: str, colour: str, output_path: str = "", out: TextIO | None = None) -> None:
    """Where log records go from now on. Raises: UserError for a form, level or colour that doesn't exist, or an unwritable file."""
    global _limit  # noqa: PLW0603
    import structlog

    from actors.log_lines import LimitLines

    _one_of("--log-format", form, ("console", "json", "logfmt"))
    _one_of("--log-level", level, tuple(LEVELS))
    _one_of("--log-color", colour, ("auto", "force", "disable"))
    stream = sys.stderr if out is None else out
    is_coloured = colour == "force" or (colour == "auto" and stream.isatty())
    file = _RotatingFile(Path(output_path).expanduser()) if output_path else None
    _limit = LimitLines()
    processors: list[Callable[..., Any]] = [
        structlog.contextvars.merge_contextvars,
        _limit,
        _Renderer(form, level, is_coloured, file, stream),
    ]
    least = 10 if file is not None else LEVELS[level]
    structlog.configure(
        processors=processors, wrapper_class=structlog.make_filtering_bound_logger(least), cache_logger_on_first_use=False
    )
    _take_over_from_libraries()


def flush_log(*, is_end: bool = False) -> None:
    """Say what was left out of the log, once its period is over, or in any case at the end."""
    if _limit is not None:
        _limit.flush(is_end=is_end)


def _take_over_from_libraries() -> None:
    """What they log would go to stderr as it is, and as often as they like."""
    import logging

    import structlog

    class LibraryLines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log = structlog.get_logger(topic="lib")
            write = log.error if record.levelno >= logging.ERROR else log.warning
            write("A library says", library=record.name, text=record.getMessage(), exc_info=(record.exc_info or (None, None))[1])

        def handleError(self, record: logging.LogRecord) -> None:
            """A message whose arguments don't fit it is the library's fault, and no reason for a traceback a line."""

    root = logging.getLogger()
    for handler in [each for each in root.handlers if type(each).__name__ == LibraryLines.__name__]:
        root.removeHandler(handler)  # of an earlier call
    root.addHandler(LibraryLines(logging.WARNING))


def _one_of(flag: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(flag, f'"{value}" is not known', f"use one of {', '.join(choices)}")
