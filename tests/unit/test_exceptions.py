"""What leaves the library when something goes wrong."""

from __future__ import annotations

import pickle
import traceback

import pytest

import streamipc
from streamipc import (
    IpcError,
    RemoteError,
    RequestTimeoutError,
    SerializationError,
    SessionClosedError,
)

EXCEPTIONS = [
    value
    for name in streamipc.__all__
    if isinstance(value := getattr(streamipc, name), type) and issubclass(value, BaseException)
]


@pytest.mark.parametrize("cls", EXCEPTIONS)
def test_every_exception_is_an_ipc_error(cls: type) -> None:
    assert issubclass(cls, IpcError)
    assert issubclass(cls, Exception)


def test_code_that_knows_nothing_of_the_library_can_catch_them() -> None:
    assert issubclass(SessionClosedError, ConnectionError)
    assert issubclass(RequestTimeoutError, TimeoutError)


def test_the_end_of_a_session_says_how_the_child_ended() -> None:
    error = SessionClosedError("gone", returncode=-9, signal="SIGKILL", stderr_tail="oops")

    assert (error.returncode, error.signal, error.stderr_tail) == (-9, "SIGKILL", "oops")
    assert str(error) == "gone"
    assert SessionClosedError().returncode is None


def test_a_remote_error_shows_the_remote_traceback_as_its_cause() -> None:
    error = RemoteError("boom", "app.Oops", "Traceback …\n  File child.py, line 3\n")

    assert str(error) == "app.Oops: boom"
    shown = "".join(traceback.format_exception(error))
    assert "File child.py, line 3" in shown
    assert shown.index("child.py") < shown.index("app.Oops: boom")


def test_a_remote_error_without_type_and_traceback_is_its_text() -> None:
    error = RemoteError("boom")

    assert str(error) == "boom"
    assert error.__cause__ is None


@pytest.mark.parametrize(
    "error",
    [
        RemoteError("boom", "app.Oops", "Traceback …"),
        SerializationError("why"),
        SessionClosedError("gone", returncode=3, signal=None, stderr_tail="tail"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_survive_pickling(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__
