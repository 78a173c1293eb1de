from __future__ import annotations

import logging
import os
import signal
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
    left._engine.errors.report(Speechless())
    assert "Speechless in a session: <str() of the exception failed: RuntimeError>" in caplog.text
    assert caplog.records[0].exc_info[0] is Speechless


def test_a_few_errors_of_a_kind_are_logged_in_a_second_and_the_rest_counted(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(_log.time, "monotonic", lambda: now[0])
    limit = _log.LogLimit()
    assert [limit.admit("a") for _ in range(12)] == [0] * 10 + [None] * 2
    assert limit.admit("b") == 0
    now[0] += 1
    assert limit.admit("a") == 2
    assert [limit.admit("a") for _ in range(10)] == [0] * 9 + [None]
    assert limit.left_out() == 1
    assert limit.left_out() == 0


def test_kinds_without_end_take_no_memory():
    limit = _log.LogLimit()
    for kind in range(10_000):
        limit.admit(kind)
    assert len(limit._counts) <= 64


def test_a_flood_of_errors_is_cut_short_in_the_log_and_told_of_at_the_end(connected, caplog):
    left, _ = connected()
    for _ in range(1000):
        left._engine.errors.report(ValueError("the same"))
    left.start()
    left.close()
    assert caplog.text.count("ValueError in a session: the same") < 100
    assert "more errors of a session that has ended were not logged" in caplog.text


def test_errors_of_kinds_without_end_are_cut_short_too(monkeypatch):
    limit = _log.LogLimit()
    monkeypatch.setattr(_log.time, "monotonic", lambda: 1.0)
    admitted = [limit.admit(number % 1000) for number in range(10_000)]
    assert sum(one is not None for one in admitted) == 64 * 10
    assert limit.left_out() == 10_000 - 64 * 10
    monkeypatch.setattr(_log.time, "monotonic", lambda: 3.0)
    assert limit.admit("new") == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_copy_reports_although_the_parent_was_reporting_in_that_moment(connected):
    left, _ = connected()
    with left._engine.host._limit._lock:  # as another thread of the parent may hold it
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            left._engine.errors.report(ValueError("of the copy's"))
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_limit_in_a_forked_process_goes_on_counting():
    limit = _log.LogLimit()
    limit._lock.acquire()
    limit.forget_after_fork()
    assert limit.admit("a") == 0


def test_kinds_that_are_quiet_make_room_for_others(monkeypatch):
    limit = _log.LogLimit()
    monkeypatch.setattr(_log.time, "monotonic", lambda: 1.0)
    for kind in range(63):
        limit.admit(kind)
    monkeypatch.setattr(_log.time, "monotonic", lambda: 3.0)

    assert [limit.admit("one") for _ in range(11)] == [0] * 10 + [None]
    assert limit.admit("two") == 0
    assert limit.left_out() == 1
