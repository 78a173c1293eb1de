"""Who may use a session, from its start to its end, whatever interrupts that."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from handover import LONG
from interrupting import interrupted_at
from shared_messages import Echo

from streamipc import IpcPeer, IpcSession, RequestContext, SessionClosedError, SyncIpcSession
from streamipc.engine.lifecycle import Lifecycle

STARTING = ("streamipc/engine/engine.py", "streamipc/engine/lifecycle.py", "streamipc/_host.py")


@pytest.mark.parametrize("session_type", [IpcSession, SyncIpcSession])
def test_a_start_that_is_interrupted_anywhere_is_made_up_for_by_the_next_use(
    session_type: type[IpcSession],
) -> None:
    for k in range(1, 1000):
        (a, b), (c, d) = os.pipe(), os.pipe()
        with IpcPeer(session_type=session_type) as peer, IpcPeer() as other:
            right = other.create_stream_session(d, a)
            right.on_request(Echo)(lambda msg: msg.value)
            right.start()
            session: Any = peer.create_stream_session(b, c)
            interrupted = interrupted_at(k, STARTING, session.start)

            assert session.call(Echo("next"), timeout=LONG) == "next"
            assert session._engine.lifecycle.is_open
            assert session in peer._kept
        if not interrupted:
            break
    assert k > 10


def test_a_session_is_open_from_its_start_until_it_takes_nothing_any_more(
    connected: Callable[..., tuple[Any, Any]],
) -> None:
    left, _ = connected()
    lifecycle = left._engine.lifecycle
    assert not lifecycle.is_open
    left.start()
    assert lifecycle.is_open
    left.close()
    assert not lifecycle.is_open
    with pytest.raises(SessionClosedError, match="Echo was not sent; this side closed"):
        left.request(Echo())


class Host:
    """Counts how often it was told that the session is started."""

    def __init__(self) -> None:
        self.starts = 0

    def started(self) -> None:
        self.starts += 1

    def closed_error(self, what: str, is_silent: bool) -> SessionClosedError:
        return SessionClosedError(f"{what}; silent: {is_silent}")


def make_lifecycle(heard: list[object], ends: list[object]) -> tuple[Lifecycle, Host]:
    host: Any = Host()
    made = Lifecycle(
        threading.RLock(), host, lambda: None, lambda: bool(heard), lambda: ends.append(1)
    )
    return made, host


def test_what_is_refused_while_it_is_started_is_never_open() -> None:
    ends: list[object] = []
    lifecycle, _ = make_lifecycle([], ends)
    lifecycle.begin()
    lifecycle.refuse("the first reason")
    lifecycle.refuse("the second reason")
    lifecycle.open()

    assert not lifecycle.is_open
    assert len(ends) == 2
    with pytest.raises(SessionClosedError, match="the first reason"):
        lifecycle.begin()


def test_nobody_keeps_a_session_that_had_ended_before_it_was_started() -> None:
    lifecycle, host = make_lifecycle([], [])
    lifecycle.refuse("too late")
    with pytest.raises(SessionClosedError, match="too late"):
        lifecycle.begin()

    assert host.starts == 0


@pytest.mark.parametrize(
    ("heard", "closing", "silent"),
    [(False, False, True), (True, False, False), (False, True, False)],
)
def test_a_peer_is_silent_that_went_of_itself_without_a_word(
    heard: bool, closing: bool, silent: bool
) -> None:
    lifecycle, _ = make_lifecycle([1] * heard, [])
    lifecycle.is_closing = closing

    assert str(lifecycle.error()) == f"the session is ending; silent: {silent}"


def test_one_who_finds_the_session_closed_and_then_open_is_let_in(
    connected: Callable[..., tuple[Any, Any]],
) -> None:
    left, _ = connected()
    left.start()  # by another thread, meanwhile
    left._engine.lifecycle.enter(Echo())

    assert left._engine.lifecycle.is_open


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fork(2) is called by its name")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_request_that_is_cancelled_first_of_all_in_a_copy_that_c_has_forked_is_the_parents() -> (
    None
):
    """Nothing tells us of such a fork: whatever comes first has to notice."""
    (a, b), (c, d) = os.pipe(), os.pipe()
    with IpcPeer(session_type=SyncIpcSession) as peer, IpcPeer() as other:
        session = peer.create_stream_session(b, c)
        future = session.request(Echo("kept"))
        pid = ctypes.PyDLL(None).fork()
        if pid == 0:
            signal.alarm(60)
            try:
                is_cancelled = future.cancel() and future.cancelled()
                is_over = session._engine.lifecycle.is_forked() and session.closed
                os._exit(not (is_cancelled and is_over))
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        right = other.create_stream_session(d, a)
        cancelled: list[bool] = []

        @right.on_request
        def echo(msg: Echo, ctx: RequestContext) -> object:
            cancelled.append(ctx.cancelled)
            return msg.value

        right.start()
        assert future.result(LONG) == "kept"
        assert session.call(Echo("next"), timeout=LONG) == "next"
        assert cancelled == [False, False]


def test_one_who_waits_to_receive_is_told_of_a_session_that_is_closed_before_it_began(
    connected: Callable[..., tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, _ = connected()
    lifecycle = left._engine.lifecycle
    start = lifecycle.start

    def be_overtaken() -> None:
        left.close()  # by another thread
        start()

    monkeypatch.setattr(lifecycle, "start", be_overtaken)
    with pytest.raises(SessionClosedError, match="this side closed"):
        left.receive(timeout=LONG)
    assert not lifecycle.begun
