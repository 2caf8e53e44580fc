"""Actors log where the program wants it, and nowhere by themselves."""

import logging

import pytest
import structlog

from actors.log import get_logger


def say(error: Exception | None = None) -> None:
    log = get_logger("room").bind(peer="anna")
    log.debug("Detail", of=1)
    log.warning("100 % of it is lost", count=3)
    if error is not None:
        log.error("Broken", exc_info=error)


def test_a_program_that_has_set_up_nothing_hears_nothing(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    structlog.reset_defaults()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # those of pytest, and of a command that ran in this process before
    say(ValueError("x"))
    assert capfd.readouterr() == ("", "")


def test_logging_of_the_standard_library_hears_it(caplog: pytest.LogCaptureFixture) -> None:
    structlog.reset_defaults()
    with caplog.at_level(logging.INFO, "charon_actors.room"):
        say(ValueError("x"))
    texts = [record.getMessage() for record in caplog.records]
    assert texts == ["100 % of it is lost peer='anna' count=3", "Broken peer='anna'"]
    assert caplog.records[1].exc_info is not None
    assert caplog.records[1].name == "charon_actors.room"


def test_structlog_hears_it_once_it_is_set_up() -> None:
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as records:
        say()
    assert records[1] == {
        "event": "100 % of it is lost",
        "topic": "room",
        "peer": "anna",
        "count": 3,
        "log_level": "warning",
    }
