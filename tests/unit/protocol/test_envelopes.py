"""Envelopes are plain records; ids are unique."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Hashable
from unittest.mock import ANY

import pytest

from streamipc import CounterIdGenerator, ErrorMessage, LogMessage, PidHrtimeRequestIdGenerator
from streamipc.protocol import envelopes
from streamipc.protocol.envelopes import (
    ERROR_CODES,
    Cancel,
    Credit,
    ErrorResponse,
    Notification,
    Progress,
    Request,
    Response,
    fault_of,
)

MESSAGE = LogMessage("x")


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (Request(1, MESSAGE), Request(1, MESSAGE, None, None, 0), Request(2, MESSAGE)),
        (Response(1, "x"), Response(1, "x"), Response(1, "y")),
        (
            ErrorResponse(1, ErrorMessage("x")),
            ErrorResponse(1, ErrorMessage("x"), "handler"),
            ErrorResponse(1, ErrorMessage("x"), "closed"),
        ),
        (Notification(MESSAGE), Notification(MESSAGE, None), Notification(MESSAGE, {"a": "b"})),
        (Progress(1, "x"), Progress(1, "x"), Progress("1", "x")),
        (Credit(1, 2), Credit(1, 2), Credit(1, 3)),
        (Cancel(1), Cancel(1), Cancel(2)),
    ],
    ids=lambda envelope: type(envelope).__name__,
)
def test_envelopes_compare_by_their_fields_and_show_them(
    one: object, same: object, other: object
) -> None:
    assert one == same
    assert one != other
    assert one != "something else"
    assert repr(one).startswith(f"{type(one).__name__}(")
    assert not isinstance(one, Hashable)


def test_a_cancel_is_no_progress_of_the_same_id() -> None:
    assert Cancel(1) != Progress(1, None)


def test_an_envelope_leaves_it_to_others_whether_they_are_equal_to_it() -> None:
    assert Cancel(1) == ANY


def test_every_error_code_has_an_exception() -> None:
    from streamipc import IpcError
    from streamipc.protocol.connection import error_from

    errors = {code: error_from(ErrorResponse(1, ErrorMessage("x"), code)) for code in ERROR_CODES}
    assert all(isinstance(error, IpcError) for error in errors.values())
    assert len({type(error) for error in errors.values()}) == len(ERROR_CODES)


def test_the_counter_counts_from_one() -> None:
    count = CounterIdGenerator()

    assert [count(), count(), count()] == [1, 2, 3]
    assert CounterIdGenerator()() == 1


def test_an_id_of_process_and_clock_names_both() -> None:
    before = time.perf_counter_ns()
    pid, _, nanoseconds = PidHrtimeRequestIdGenerator()().partition(".")

    assert int(pid) == os.getpid()
    assert before <= int(nanoseconds) <= time.perf_counter_ns()


def test_a_clock_that_stands_still_repeats_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        @staticmethod
        def perf_counter_ns() -> int:
            return 1000

    monkeypatch.setattr(envelopes, "time", Clock)
    generate = PidHrtimeRequestIdGenerator()

    assert [generate() for _ in range(100)] == [f"{os.getpid()}.{1000 + n}" for n in range(100)]


@pytest.mark.parametrize("generator", [CounterIdGenerator, PidHrtimeRequestIdGenerator])
def test_ids_are_unique_across_threads(generator: type) -> None:
    generate = generator()
    ids: list[object] = []
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda: ids.extend([generate() for _ in range(1000)]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)

    assert len(set(ids)) == 8000


def test_an_envelope_shows_its_fields() -> None:
    assert repr(Credit(1, 2)) == "Credit(count=2, id=1)"


def test_a_notification_keeps_its_metadata() -> None:
    assert Notification(MESSAGE, {"a": "b"}).metadata == {"a": "b"}


@pytest.mark.parametrize(
    ("envelope", "fault"),
    [
        (Credit(1, 2), None),
        (Credit(1, 2.0), "count is 2.0, no whole number"),  # type: ignore[arg-type]
        (Credit(1, True), "count is True, no whole number"),
        (ErrorResponse(1, ErrorMessage("x")), None),
        (ErrorResponse(1, MESSAGE), "error is a LogMessage, not an ErrorMessage"),  # type: ignore[arg-type]
        (ErrorResponse(1, ErrorMessage("x"), 5), "code is a int, no text"),  # type: ignore[arg-type]
        (Cancel(-1), "id is -1, not a number from 0 to 2**64-1 or a text of 1 to 255 bytes"),
    ],
    ids=repr,
)
def test_what_is_wrong_with_an_envelope_is_told(envelope: object, fault: str | None) -> None:
    assert fault_of(envelope) == fault
