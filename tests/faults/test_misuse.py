"""What users will try although nobody told them to: it works, or says why not."""

from __future__ import annotations

import gc
import os
import subprocess
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from shared_messages import Echo, Note

from streamipc import IpcPeer, SessionClosedError

TIMEOUT = 20


def in_threads(count: int, function: Callable[[int], object]) -> None:
    """Call a function with 0, 1, … in as many threads; raise what one of them raised."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(function, range(count)))


def answering(session: Any) -> None:
    """Have a session answer every ``Echo``."""

    @session.on_request(Echo)
    def echo(msg: Any) -> Any:
        return msg.value


def test_a_session_may_be_used_from_a_handler_of_another(connected: Any) -> None:
    left, middle_in = connected()
    middle_out, right = connected()
    answering(right)

    @middle_in.on_request(Echo)
    def pass_on(msg: Any) -> Any:
        return middle_out.request(Echo(msg.value)).result()

    for session in (middle_in, right):
        session.start()
    futures = [left.request(Echo(number)) for number in range(300)]
    assert [future.result(timeout=TIMEOUT) for future in futures] == list(range(300))


def test_handlers_of_two_sessions_may_use_each_others_session(connected: Any) -> None:
    one, other = (
        connected(IpcPeer(handler_threads=1), IpcPeer(handler_threads=1)),
        connected(IpcPeer(handler_threads=1), IpcPeer(handler_threads=1)),
    )
    (a, b), (c, d) = one, other

    @b.on_request(Echo)
    def over_c(msg: Any) -> Any:
        return c.request(Echo(msg.value)).result() if msg.value else "end"

    @d.on_request(Echo)
    def over_a(msg: Any) -> Any:
        return a.request(Echo(msg.value - 1)).result()

    for session in (b, d):
        session.start()
    assert a.request(Echo(5)).result(timeout=TIMEOUT) == "end"


@pytest.mark.parametrize("where", ["handler", "inline handler", "notification", "exception"])
def test_a_session_may_be_closed_from_its_handlers(connected: Any, where: str) -> None:
    left, right = connected()
    done = threading.Event()

    def close(_: Any) -> str:
        right.close()
        done.set()
        return "closed"

    right.on_request(Echo, inline=where == "inline handler")(close)
    right.on_message(Note)(close)
    right.on_exception(close)
    right.start()
    if where == "notification":
        left.notify(Note())
    elif where == "exception":
        right._engine.errors.report(ValueError("anything"))
    else:
        assert left.request(Echo()).result(timeout=TIMEOUT) == "closed"
    assert done.wait(TIMEOUT)
    assert right._engine.shutdown.closed.wait(TIMEOUT)


@pytest.mark.parametrize("which", ["done callback", "on_close", "on_progress", "on_cancel"])
def test_a_session_may_be_closed_from_its_callbacks(connected: Any, which: str) -> None:
    left, right = connected()
    called, registered = threading.Event(), threading.Event()
    hold = threading.Event()

    def close_left(*_: Any) -> None:
        left.close()
        called.set()

    def close_right() -> None:
        right.close()
        called.set()
        hold.set()

    @right.on_request(Echo)
    def echo(msg: Any, context: Any) -> Any:
        context.progress("item")
        if which == "on_cancel":
            context.on_cancel(close_right)
            registered.set()
            hold.wait(TIMEOUT)
        return msg.value

    right.start()
    if which == "on_close":
        left.on_close(close_left)
        left.request(Echo()).result(timeout=TIMEOUT)
        left.close()
    elif which == "on_progress":
        left.request(Echo(), on_progress=close_left)
    else:
        future = left.request(Echo())
        if which == "on_cancel":
            assert registered.wait(TIMEOUT)
            future.cancel()
        else:
            future.add_done_callback(close_left)
    assert called.wait(TIMEOUT)
    hold.set()
    closed = right if which == "on_cancel" else left
    assert closed._engine.shutdown.closed.wait(TIMEOUT)


def test_many_threads_and_callbacks_may_close_at_once(connected: Any) -> None:
    for _ in range(10):
        left, right = connected()
        answering(right)
        right.start()
        futures = [left.request(Echo(number)) for number in range(50)]
        for future in futures:
            future.add_done_callback(lambda _, session=left: session.close())
        in_threads(8, lambda number, pair=(left, right): pair[number % 2].close())
        assert left.closed
        assert right.closed
        assert not wait(futures, timeout=TIMEOUT).not_done


def test_a_done_callback_may_ask_again_and_wait(connected: Any) -> None:
    left, right = connected()
    answering(right)
    right.start()
    outcome: list[Any] = []
    done = threading.Event()

    def ask_again(future: Any) -> None:
        value = future.result() + 1
        if value < 30:
            left.request(Echo(value)).add_done_callback(ask_again)
            return
        outcome.append(left.request(Echo("waited for")).result(timeout=TIMEOUT))
        done.set()

    left.request(Echo(0)).add_done_callback(ask_again)
    assert done.wait(TIMEOUT)
    assert outcome == ["waited for"]


def test_more_callbacks_than_threads_may_wait_for_replies_of_their_own(connected: Any) -> None:
    left, right = connected(IpcPeer(handler_threads=2), IpcPeer(handler_threads=2))
    answering(right)
    right.start()
    outcome: list[Any] = []
    futures = []
    done = threading.Semaphore(0)

    def ask(future: Any) -> None:
        outcome.append(left.request(Echo(future.result())).result(timeout=TIMEOUT))
        done.release()

    for number in range(40):
        futures.append(left.request(Echo(number)))
        futures[-1].add_done_callback(ask)
    for _ in range(40):
        assert done.acquire(timeout=TIMEOUT)
    assert sorted(outcome) == list(range(40))


def test_handlers_may_come_and_go_while_requests_arrive(connected: Any) -> None:
    left, right = connected()
    answering(right)
    right.start()
    over = threading.Event()

    def change() -> None:
        while not over.is_set():

            def passes(msg: Any) -> Any:
                return NotImplemented

            right.on_request(Echo)(passes)
            right.off_request(passes)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        in_threads(4, lambda n: [_same(left, (n, i)) for i in range(200)])
    finally:
        over.set()
        changer.join()


def _same(session: Any, value: Any) -> None:
    assert session.request(Echo(value)).result(timeout=TIMEOUT) == value


def test_a_handler_that_registers_another_from_within(connected: Any) -> None:
    left, right = connected()

    @right.on_request(Echo)
    def first(msg: Any) -> Any:
        right.off_request(first)
        right.on_request(Echo)(lambda m: "second")
        return "first"

    right.start()
    assert left.request(Echo()).result(timeout=TIMEOUT) == "first"
    assert left.request(Echo()).result(timeout=TIMEOUT) == "second"


STUCK = """
    import sys, threading
    from shared_messages import Echo
    from streamipc import IpcPeer

    a, b = __import__("socket").socketpair()
    left = IpcPeer().create_stream_session(a, a)
    right = IpcPeer().create_stream_session(b, b)
    entered = threading.Semaphore(0)

    @right.on_request(Echo)
    def never(msg):
        entered.release()
        threading.Event().wait()

    right.start()
    futures = [left.request(Echo()) for _ in range(3)]
    for _ in futures:
        entered.acquire()
    right.close(timeout=0.1)
    print(right.closed)
    print([type(f.exception(timeout=10)).__name__ for f in futures])
    left.close(timeout=0.1)
"""


def test_handlers_that_never_end_do_not_keep_a_session_open(script: Any) -> None:
    # In a process of its own: the threads of such handlers stay until it ends.
    done = subprocess.run(script(STUCK), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True", str(["SessionClosedError"] * 3)]
    assert not done.stderr


def register(session: Any, handler: Callable[..., Any]) -> None:
    # A frame whose variables were looked through for an annotation keeps them all alive.
    session.on_request(Echo)(handler)


def test_a_session_dropped_in_mid_flight_lives_as_long_as_its_future(eventually: Any) -> None:
    to_right, from_left = reversed(os.pipe())
    to_left, from_right = reversed(os.pipe())
    left = IpcPeer().create_stream_session(to_right, from_right)
    entered, leave = threading.Event(), threading.Event()

    def hold(msg: Any) -> Any:
        entered.set()
        leave.wait(TIMEOUT)
        return msg.value

    with IpcPeer().create_stream_session(to_left, from_left) as right:
        register(right, hold)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            future = left.request(Echo("kept"))
            assert entered.wait(TIMEOUT)
            del left
            gc.collect()
            assert not caught
            leave.set()
            assert future.result(timeout=TIMEOUT) == "kept"
            del future
            eventually(lambda: gc.collect() is not None and caught)
            assert [warning.category for warning in caught] == [ResourceWarning]
        eventually(lambda: right.closed)


def test_a_message_changed_after_the_call_was_sent_as_it_was(connected: Any) -> None:
    left, right = connected()
    answering(right)
    seen: list[Any] = []
    both = threading.Barrier(2)

    @right.on_message(Note)
    def see(msg: Any) -> None:
        seen.append(msg.text)
        both.wait(TIMEOUT)

    right.start()
    for size in (10, 1000, 300_000, 3_000_000):
        value: Any = {"data": bytearray(b"a" * size), "list": [1, 2], "text": "x"}
        expected = {"data": bytearray(b"a" * size), "list": [1, 2], "text": "x"}
        message = Echo(value)
        future = left.request(message)
        value["data"][:] = b"b" * size
        value["list"].append(3)
        message.value = "something else"
        assert future.result(timeout=TIMEOUT) == expected
        note = Note("before")
        left.notify(note)
        note.text = "after"
        both.wait(TIMEOUT)
    assert seen == ["before"] * 4


def test_the_same_popen_is_wrapped_once(echo_child: list[str]) -> None:
    process = subprocess.Popen(echo_child, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with IpcPeer().create_process_session(process) as session:
        for peer in (IpcPeer(), IpcPeer()):
            with pytest.raises(ValueError, match=r"already|session"):
                peer.create_process_session(process)
        assert session.request(Echo("alive")).result(timeout=TIMEOUT) == "alive"
    with pytest.raises(ValueError, match=r"\w"):
        IpcPeer().create_process_session(process)


def test_the_same_popen_wrapped_by_many_threads_is_wrapped_once(
    echo_child: list[str],
) -> None:
    process = subprocess.Popen(echo_child, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    sessions: list[Any] = []
    refused: list[Exception] = []

    def wrap(number: int) -> None:
        try:
            sessions.append(IpcPeer().create_process_session(process))
        except ValueError as error:
            refused.append(error)

    in_threads(8, wrap)
    assert len(sessions) == 1
    assert len(refused) == 7
    with sessions[0] as session:
        assert session.request(Echo("alive")).result(timeout=TIMEOUT) == "alive"


def test_every_method_of_a_closed_session_says_so(connected: Any) -> None:
    left, right = connected()
    answering(right)
    right.start()
    assert left.request(Echo(1)).result(timeout=TIMEOUT) == 1
    left.close()
    with pytest.raises(SessionClosedError, match="closed"):
        left.request(Echo(2))
    with pytest.raises(SessionClosedError):
        left.notify(Note())
    with pytest.raises(SessionClosedError):
        left.receive(timeout=1)
    left.close()


def test_waiting_for_a_reply_inside_an_inline_handler(connected: Any) -> None:
    left, right = connected()

    @left.on_request(Echo)
    def echo(msg: Any) -> Any:
        return msg.value

    @right.on_request(Echo, inline=True)
    def ask_back(msg: Any) -> Any:
        return right.request(Echo(msg.value)).result(timeout=TIMEOUT)

    left.start()
    right.start()
    futures = [left.request(Echo(number)) for number in range(20)]
    assert [future.result(timeout=TIMEOUT) for future in futures] == list(range(20))


def test_a_reply_waited_for_in_a_notification_handler_of_both_sides(connected: Any) -> None:
    left, right = connected()
    done = threading.Semaphore(0)
    for session in (left, right):
        answering(session)

        @session.on_message(Note)
        def ask(msg: Any, session: Any = session) -> None:
            assert session.request(Echo(msg.number)).result(timeout=TIMEOUT) == msg.number
            done.release()

        session.start()
    for number in range(50):
        left.notify(Note(number=number))
        right.notify(Note(number=number))
    for _ in range(100):
        assert done.acquire(timeout=TIMEOUT)
