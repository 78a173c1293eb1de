from __future__ import annotations

import logging
import sys

import pytest

from streamipc import _log


class NoMemory(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise MemoryError


@pytest.fixture
def no_logging():
    logger = logging.getLogger("streamipc")
    refuses = NoMemory()
    logger.addFilter(refuses)
    yield
    logger.removeFilter(refuses)


def test_an_error_is_logged_with_its_traceback(caplog):
    try:
        raise ValueError("of somebody's")
    except ValueError as error:
        _log.log_error("100 % wrong", error)
    assert caplog.records[0].levelname == "ERROR"
    assert "100 % wrong\nTraceback" in caplog.text
    assert "ValueError: of somebody's" in caplog.text


def test_a_warning_is_logged(caplog):
    _log.log_warning("beware")
    assert [(one.levelname, one.message) for one in caplog.records] == [("WARNING", "beware")]


@pytest.mark.usefixtures("no_logging")
def test_what_cant_be_logged_is_said_on_standard_error(capsys):
    _log.log_error("lost", ValueError("x"))
    assert capsys.readouterr().err == "lost\n(not logged: MemoryError: )\n"


@pytest.mark.usefixtures("no_logging")
def test_what_cant_be_said_anywhere_is_not_said(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    _log.log_warning("lost")


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_an_error_that_cant_say_what_it_is_is_logged_all_the_same(connected, caplog):
    left, _ = connected()
    left._engine.report(Speechless())
    assert "Speechless in a session: <str() of the exception failed: RuntimeError>" in caplog.text
    assert caplog.records[0].exc_info[0] is Speechless
