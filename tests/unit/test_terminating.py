"""SIGTERM while a session serves: whether it ends the process at once."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from streamipc._terminating import OnSigterm

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal masks")


def ends_the_process(stop: Callable[[], bool]) -> bool:
    """Have a SIGTERM come; tell whether another one, which ends the process, was sent on."""

    def stop_and_hold_back_the_next() -> bool:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        return stop()

    try:
        with OnSigterm(stop_and_hold_back_the_next):
            signal.raise_signal(signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        return signal.SIGTERM in signal.sigpending()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is pending is forgotten
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.parametrize("is_something_to_be_finished", [True, False])
def test_it_does_if_nothing_is_to_be_finished(is_something_to_be_finished: bool) -> None:
    ends = ends_the_process(lambda: is_something_to_be_finished)

    assert ends is not is_something_to_be_finished


def test_a_session_that_is_open_is_closed_instead(
    connected: Callable[..., tuple[Any, Any]],
) -> None:
    _, session = connected()
    session.start()

    assert not ends_the_process(session._close_soon)
    session.serve_forever()  # returns
    assert session.closed


def test_nothing_is_finished_for_a_peer_that_has_hung_up(
    connected: Callable[..., tuple[Any, Any]],
) -> None:
    gone, session = connected()
    session.start()
    gone.close()
    assert session._engine.shutdown.ended.wait(10)

    assert ends_the_process(session._close_soon)


def test_nothing_is_finished_without_a_thread_to_do_it(
    connected: Callable[..., tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, session = connected()
    session.start()

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        assert ends_the_process(session._close_soon)


def test_where_signals_cant_be_handled_serving_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("signal only works in main thread of the main interpreter")

    stops: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(_signal, "signal", refuse)
        with OnSigterm(lambda: bool(stops.append("stop"))):  # type: ignore[func-returns-value]
            pass

    assert stops == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# Ctrl-C


@pytest.mark.parametrize("is_child", [True, False])
def test_ctrl_c_is_printed_unless_the_parent_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_child: bool
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with pytest.raises(KeyboardInterrupt) as caught, OnSigterm(lambda: True, is_child):
        raise KeyboardInterrupt
    sys.excepthook(caught.type, caught.value, caught.tb)
    said = capsys.readouterr().err
    assert said == "" if is_child else said.endswith("KeyboardInterrupt\n")

    another = KeyboardInterrupt("another")
    sys.excepthook(KeyboardInterrupt, another, None)
    assert capsys.readouterr().err == "KeyboardInterrupt: another\n"


@pytest.mark.parametrize("error", [LookupError, SystemExit])
def test_other_errors_are_printed_as_ever(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with pytest.raises(error), OnSigterm(lambda: True, is_child=True):
        raise error
    assert sys.excepthook is sys.__excepthook__
