"""How sessions start and end, with real children."""

from __future__ import annotations

import functools
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shared_messages import Echo, Greeting, Note, SayHello

from streamipc import (
    IpcError,
    IpcPeer,
    IpcSession,
    ProcessSession,
    SessionClosedError,
)

Script = Callable[..., list[str]]
Connected = Callable[..., tuple[IpcSession, IpcSession]]

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no POSIX signals")

# Start


def test_no_message_arrives_before_its_handler(wire: Any) -> None:
    wire.ask(1, "early")
    wire.tell("early")
    assert not wire.session.closed
    assert "not started" in repr(wire.session)
    assert wire.session.stats.frames_received == 0
    told: list[Any] = []
    wire.session.on_request(lambda msg: f"answered {msg.message}")
    wire.session.on_message(told.append)
    assert wire.silent()
    assert wire.session.start() is wire.session
    wire.session.start()

    assert wire.hear()["body"] == "answered early"
    wire.ask(2, "x")
    wire.hear()
    assert "open" in repr(wire.session)


@pytest.mark.parametrize(
    "use",
    [
        lambda session: session.start(),
        lambda session: session.__enter__(),
        lambda session: session.request(Echo(), timeout=60),
        lambda session: session.notify(Note()),
        lambda session: session.stream(Echo()),
        lambda session: session.receive(timeout=10),
        lambda session: threading.Thread(target=session.serve_forever).start(),
    ],
)
def test_the_first_use_starts_a_session(wire: Any, use: Any, eventually: Any) -> None:
    wire.tell("x")
    use(wire.session)
    eventually(lambda: wire.session.stats.frames_received == 1)


def test_serve_forever_returns_when_the_peer_is_gone_and_handlers_have_finished(
    wire: Any,
) -> None:
    entered, go = threading.Event(), threading.Event()

    @wire.session.on_request
    def answer(msg: Any) -> str:
        entered.set()
        assert go.wait(10)
        return "finished"

    server = threading.Thread(target=wire.session.serve_forever)
    server.start()
    wire.ask(1, "x")
    assert entered.wait(10)
    wire.hang_up()
    server.join(0.1)
    assert server.is_alive()
    go.set()

    assert wire.hear()["body"] == "finished"
    server.join(10)
    assert not server.is_alive()
    wire.session.serve_forever()


def test_serve_forever_raises_an_interrupt(script: Script) -> None:
    command = script("""
        import signal
        from streamipc import IpcPeer
        signal.signal(signal.SIGINT, signal.default_int_handler)
        session = IpcPeer().create_stdio_session()
        session.on_request(lambda msg: NotImplemented)
        try:
            session.serve_forever()
        except KeyboardInterrupt:
            session.close()
            raise SystemExit(5)
    """)
    with IpcPeer().create_command_session(command) as session:
        if os.name == "posix":
            assert session.request(Echo()).exception(timeout=10) is not None
            session.process.send_signal(signal.SIGINT)
        assert session.process.wait(10) == 5


# Close


def test_a_child_sees_the_end_and_exits_by_itself(echo_child: list[str]) -> None:
    session = IpcPeer().create_command_session(echo_child)
    assert session.request(Echo(1)).result(timeout=10) == 1
    assert session.returncode is None
    session.close()

    assert session.returncode == 0
    assert session.process.returncode == 0
    session.close()
    with pytest.raises(ProcessLookupError):
        os.kill(session.pid, 0)


def test_a_child_that_was_never_used_is_ended_too(echo_child: list[str]) -> None:
    session = IpcPeer().create_command_session(echo_child)
    session.close()
    assert session.returncode is not None


LADDER = """
    import os, signal, sys, time
    from shared_messages import Echo
    from streamipc import IpcPeer
    session = IpcPeer().create_stdio_session()
    session.on_request(Echo)(lambda msg: os.getpid())
    {setting}
    session.start()
    while True:
        time.sleep(60)
"""


@posix
@pytest.mark.parametrize(
    ("setting", "patience", "returncode"),
    [
        ("", 0.1, -signal.SIGTERM),
        # It has as long again to handle it: two seconds, of which this takes next to none.
        (
            "signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGUSR1))",
            2,
            -signal.SIGUSR1,
        ),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", 0.1, -signal.SIGKILL),
    ],
    ids=["SIGTERM", "handled", "SIGKILL"],
)
def test_a_child_that_does_not_exit_is_made_to(
    script: Script, setting: str, patience: float, returncode: int
) -> None:
    session = IpcPeer().create_command_session(script(LADDER.format(setting=setting)))
    assert session.request(Echo()).result(timeout=20) == session.pid
    start = time.monotonic()
    session.close(timeout=patience)

    assert session.returncode == returncode
    assert time.monotonic() - start < 20


def test_handlers_in_flight_finish_and_answer_before_the_end(wire: Any) -> None:
    entered, go = threading.Event(), threading.Event()

    @wire.session.on_request
    def answer(msg: Any) -> str:
        entered.set()
        assert go.wait(10)
        return "finished"

    wire.session.start()
    wire.ask(1, "x")
    assert entered.wait(10)
    closing = threading.Thread(target=wire.session.close, args=(60,))
    closing.start()
    while not wire.session.closed:
        time.sleep(0.001)
    wire.ask(2, "too late")
    refusal = wire.hear()
    assert (refusal["id"], refusal["code"]) == (2, "closed")
    go.set()
    assert wire.hear()["body"] == "finished"
    closing.join(10)
    assert not closing.is_alive()


def test_replies_that_are_still_to_come_are_waited_for(script: Script) -> None:
    command = script("""
        import time
        from shared_messages import Echo, Note
        from streamipc import IpcPeer
        session = IpcPeer().create_stdio_session()

        @session.on_request
        def slow(msg: Echo) -> object:
            session.notify(Note("slow"))
            time.sleep(0.2)
            return msg.value

        session.serve_forever()
    """)
    session = IpcPeer().create_command_session(command)
    future = session.request(Echo("slow"))
    assert session.receive(timeout=10) == Note("slow")
    session.close(timeout=60)

    assert future.result(0) == "slow"
    assert session.returncode == 0


def test_closing_waits_for_pending_replies_and_no_longer(wire: Any) -> None:
    future = wire.session.request(Echo())
    closing = threading.Thread(target=wire.session.close, args=(60,))
    closing.start()
    # The peer answers, and keeps the stream open.
    wire.say(kind="response", id=wire.hear()["id"], body="at last")
    assert future.result(timeout=10) == "at last"
    closing.join(20)
    assert not closing.is_alive()


def test_what_was_queued_goes_out_before_the_end(connected: Connected) -> None:
    sending, receiving = connected()
    text = "x" * 500_000

    def send() -> None:
        for n in range(10):
            sending.notify(Note(text, n))
        sending.close(timeout=60)

    thread = threading.Thread(target=send)
    thread.start()
    numbers = [receiving.receive(timeout=10).number for _ in range(10)]  # type: ignore[attr-defined]
    thread.join(10)

    assert numbers == list(range(10))
    assert not thread.is_alive()


def test_closing_although_the_peer_never_reads(wire: Any) -> None:
    stuck = [wire.session.request(Echo("x" * 500_000), timeout=0.05) for _ in range(5)]
    start = time.monotonic()
    wire.session.close(timeout=0.2)
    assert time.monotonic() - start < 20
    assert all(future.done() for future in stuck)


def test_a_handler_may_close_its_session(echo_child: list[str], wire: Any) -> None:
    closed = threading.Event()
    wire.session.on_close(closed.set)

    @wire.session.on_request
    def close(msg: Any, session: IpcSession) -> str:
        session.close()
        return "bye"

    wire.session.start()
    wire.ask(1, "x")
    assert wire.hear()["body"] == "bye"
    assert closed.wait(10)


def test_a_callback_may_close_the_session(connected: Connected) -> None:
    asking, answering = connected()
    answering.on_request(Echo)(lambda msg: msg.value)
    answering.start()
    closed = threading.Event()
    asking.on_close(closed.set)
    asking.request(Echo()).add_done_callback(lambda f: asking.close())
    assert closed.wait(10)


@pytest.mark.usefixtures("switching")
def test_many_threads_may_close_at_once(connected: Connected, in_threads: Any) -> None:
    for _ in range(5):
        asking, answering = connected()
        answering.on_request(Echo)(lambda msg: msg.value)
        answering.start()
        futures = [asking.request(Echo(n)) for n in range(20)]
        pair = (asking, answering)
        in_threads(8, lambda n, pair=pair: pair[n % 2].close())
        for n, future in enumerate(futures):
            try:
                assert future.result(timeout=10) == n
            except SessionClosedError:
                pass


@pytest.mark.usefixtures("switching")
def test_every_future_ends_when_sessions_close_under_load(
    connected: Connected, in_threads: Any
) -> None:
    asking, answering = connected()
    answering.on_request(Echo)(lambda msg: msg.value)
    answering.start()
    outcomes: list[str] = []

    def work(number: int) -> None:
        if number == 0:
            while len(outcomes) < 100:
                time.sleep(0.001)
            (asking if number % 2 else answering).close()
            return
        for n in range(10**9):
            try:
                assert asking.request(Echo(n)).result(timeout=10) == n
                outcomes.append("reply")
            except SessionClosedError:
                outcomes.append("closed")
                return

    in_threads(9, work)
    assert outcomes.count("closed") == 8
    assert asking.stats.pending == 0


def test_on_close_is_called_once_with_the_session_if_it_likes(connected: Connected) -> None:
    asking, answering = connected()
    calls: list[Any] = []
    all_called = threading.Semaphore(0)

    @asking.on_close
    def plain() -> None:
        calls.append("plain")
        all_called.release()

    @asking.on_close
    def with_session(session: IpcSession) -> None:
        calls.append(session)
        all_called.release()

    @asking.peer.on_close
    def of_peer(session: IpcSession) -> None:
        calls.append("peer")
        all_called.release()

    not_called = asking.on_close(lambda: calls.append("taken back"))
    asking.off_close(not_called)
    with pytest.raises(ValueError, match="not registered"):
        asking.off_close(not_called)
    asking.start()
    answering.close()
    for _ in range(3):
        assert all_called.acquire(timeout=10)
    asking.close()
    asking.on_close(lambda: calls.append("at once"))

    assert calls == ["plain", asking, "peer", "at once"]
    with pytest.raises(TypeError):
        asking.on_close("no function")  # type: ignore[type-var]


def test_on_close_takes_what_is_written_in_c(connected: Connected, eventually: Any) -> None:
    """Some of these tell their signature and some don't, which depends on Python's version."""
    asking, _ = connected()
    reported: list[BaseException] = []
    asking.on_exception(reported.append)
    told: dict[str, Any] = {
        "set.add": set(),
        "set.discard": {asking, 1},
        "set.clear": {1, 2},
        "list.append": [],
        "list.clear": [1, 2],
        "dict.clear": {1: 2},
        "deque.append": deque(),
        "deque.clear": deque([1]),
        "partial": {asking},
    }
    for name, container in told.items():
        method = getattr(container, name.partition(".")[2] or "discard")
        asking.on_close(functools.partial(method) if name == "partial" else method)
        asking.peer.on_close(method)
    over = threading.Event()
    asking.on_close(over.set)
    asking.peer.on_close(over.set)
    asking.start()
    asking.close()
    assert over.wait(10)
    late: set[Any] = {asking}
    asking.on_close(late.discard)

    assert late == set()
    assert told == {
        "set.add": {asking},
        "set.discard": {1},
        "set.clear": set(),
        "list.append": [asking, asking],
        "list.clear": [],
        "dict.clear": {},
        "deque.append": deque([asking, asking]),
        "deque.clear": deque(),
        "partial": set(),
    }
    assert reported == []


def test_what_a_callable_without_a_signature_raises_is_reported_once(connected: Connected) -> None:
    asking, _ = connected()
    reported: list[BaseException] = []
    calls: list[tuple[Any, ...]] = []

    class Hidden:
        """It says that it has no signature."""

        __signature__ = "none"

        def __call__(self, *args: Any) -> None:
            calls.append(args)
            raise TypeError("of its own")

    asking.on_exception(reported.append)
    asking.on_close(Hidden())
    asking.start()
    asking.close()

    assert calls == [(asking,)]
    assert [str(error) for error in reported] == ["of its own"]


@pytest.mark.parametrize("what", ["on_request", "on_message", "on_exception", "on_close"])
@pytest.mark.parametrize("where", ["session", "peer"])
def test_no_decorator_takes_a_coroutine_function(
    connected: Connected, what: str, where: str
) -> None:
    session, _ = connected()

    async def later(_: Any) -> None: ...

    with pytest.raises(TypeError, match=f"{what}: .*later.* is a coroutine function"):
        getattr(session if where == "session" else session.peer, what)(later)


def test_a_failing_on_close_is_reported_and_the_others_are_called(
    connected: Connected, caplog: pytest.LogCaptureFixture
) -> None:
    asking, _ = connected()
    called = threading.Event()
    asking.on_close(lambda: 1 / 0)
    asking.on_close(called.set)
    with caplog.at_level(logging.ERROR, "streamipc"):
        asking.start()
        asking.close()

    assert called.is_set()
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.usefixtures("switching")
def test_an_on_close_that_races_with_the_end_is_called_exactly_once(
    connected: Connected, in_threads: Any
) -> None:
    for _ in range(20):
        asking, _ = connected()
        asking.start()
        calls: list[int] = []

        def work(number: int, session: Any = asking, calls: Any = calls) -> None:
            if number == 0:
                session.close()
            else:
                for n in range(20):
                    session.on_close(lambda n=n: calls.append(n))

        in_threads(2, work)
        assert sorted(calls) == list(range(20))


# Death


@pytest.mark.usefixtures("exit_status_is_waited_for")
def test_what_was_written_before_death_is_delivered(script: Script) -> None:
    command = script("""
        import os
        from shared_messages import Echo, Note
        from streamipc import IpcPeer
        session = IpcPeer().create_stdio_session()

        @session.on_request
        def echo(msg: Echo) -> object:
            for number in range(msg.value):
                session.notify(Note("x" * 1000, number))
            os._exit(7)

        session.serve_forever()
    """)
    with IpcPeer().create_command_session(command) as session:
        future = session.request(Echo(500))
        with pytest.raises(SessionClosedError, match="exited with code 7"):
            future.result(timeout=10)
        assert [session.receive(timeout=10).number for _ in range(500)] == list(range(500))
        with pytest.raises(SessionClosedError):
            session.receive(timeout=10)


def test_a_reply_in_the_pipe_outlives_its_child(script: Script) -> None:
    command = script("""
        import json, os, sys
        head = sys.stdin.buffer.read(8)
        request = json.loads(sys.stdin.buffer.read(int.from_bytes(head[4:], "big")))
        answer = json.dumps({"kind": "response", "id": request["id"], "body": "x" * 60000}).encode()
        os.write(1, b"\\xf3\\x4a\\x9d\\xe2" + len(answer).to_bytes(4, "big") + answer)
        os.kill(os.getpid(), 9)
    """)
    from streamipc import JsonMessageSerializer

    peer = IpcPeer(JsonMessageSerializer())
    for _ in range(5):
        with peer.create_command_session(command) as session:
            assert session.request(Echo()).result(timeout=10) == "x" * 60000


@posix
@pytest.mark.parametrize("how", ["quiet", "flooding"])
def test_death_is_seen_within_100_ms_although_a_grandchild_holds_the_pipe(
    script: Script, how: str
) -> None:
    body = (
        "time.sleep(60)"
        if how == "quiet"
        else "[os.write(1, b'junk' * 50_000) for _ in iter(int, 1)]"
    )
    command = script(f"""
        import os, sys, time
        pid = os.fork()
        if pid == 0:
            {body}
        os.write(2, b"%d\\n" % pid)
        sys.stdin.buffer.read(8)
        time.sleep(60)
    """)
    grandchild: list[int] = []
    told = threading.Event()

    def line(text: str) -> None:
        grandchild.append(int(text))
        told.set()

    session = IpcPeer().create_command_session(command, stderr=line)
    try:
        futures = [session.request(Echo(n)) for n in range(10)]
        assert told.wait(10)
        session.kill()
        start = time.monotonic()
        for future in futures:
            with pytest.raises(SessionClosedError, match="was killed by SIGKILL"):
                future.result(timeout=20)
        # 100 ms are promised; the rest is for a busy machine. The pipe is held for a minute.
        assert time.monotonic() - start < 20
    finally:
        session.close(timeout=1)
        os.kill(grandchild[0], signal.SIGKILL)
    assert session.returncode == -9


@posix
@pytest.mark.usefixtures("exit_status_is_waited_for")
def test_a_child_that_ends_by_itself_is_reaped_although_nobody_asks_for_it() -> None:
    # Its output ends a moment before its life, as that of any dying process does.
    session = IpcPeer().create_command_session(["sh", "-c", "exec 0<&- 1>&- 2>&-; sleep 0.01"])
    over = threading.Event()
    session.on_close(over.set)
    session.start()

    assert over.wait(10)
    # The attribute of Popen, for session.returncode would reap it.
    assert session.process.returncode == 0


def test_terminate_and_kill_are_those_of_the_child(echo_child: list[str]) -> None:
    for method, code in (("terminate", 0), ("kill", -9)):
        with IpcPeer().create_command_session(echo_child) as session:
            session.request(Echo()).result(timeout=10)
            getattr(session, method)()
            closed = threading.Event()
            session.on_close(closed.set)
            assert closed.wait(10)
            with pytest.raises(SessionClosedError):
                session.request(Echo()).result(timeout=10)
        if os.name == "posix":
            assert session.returncode == code


@posix
def test_a_child_ends_with_its_parent_although_a_handler_runs(
    script: Script, eventually: Any
) -> None:
    child = script("""
        import os, time
        from shared_messages import Echo, Note
        from streamipc import IpcPeer
        session = IpcPeer().create_stdio_session()

        @session.on_request
        def echo(msg: Echo, ctx) -> object:
            session.notify(Note())
            while not ctx.cancelled:
                time.sleep(0.005)

        session.serve_forever()
    """)
    parent = script(
        f"""
        import os
        from shared_messages import Echo
        from streamipc import IpcPeer
        session = IpcPeer().create_command_session({child!r})
        session.request(Echo())
        session.receive(timeout=10)
        print(session.pid, flush=True)
        os._exit(0)
    """,
        name="parent.py",
    )
    done = subprocess.run(parent, capture_output=True, text=True, timeout=30)
    stat = Path(f"/proc/{int(done.stdout)}/stat")

    def is_dead() -> bool:
        try:
            # Or a zombie: nobody reaps orphans in a container without an init.
            return ") Z " in stat.read_text()
        except OSError:
            return True

    eventually(is_dead)


# The end of the interpreter


LEFT_OPEN = """
    import sys, threading
    from shared_messages import Echo, Note
    from streamipc import IpcPeer
    peer = IpcPeer(timeout=600)
    silent = peer.create_command_session(
        [sys.executable, "-c", "import sys; sys.stdin.buffer.read()"]
    )
    session = peer.create_command_session({child!r})
    unused = peer.create_command_session({child!r})
    pending = None
    {use}
    print("end", flush=True)
"""


@pytest.mark.parametrize(
    "use",
    [
        "pass",
        "session.request(Echo(1)).result()",
        "pending = [session.request(Echo(n)) for n in range(100)]",
        "threading.Thread(target=session.receive, daemon=True).start()",
        "threading.Thread(target=silent.request(Echo(1)).result, daemon=True).start()",
        "threading.Thread(target=lambda: [session.notify(Note()) for _ in iter(int, 1)], "
        "daemon=True).start()",
        "sys.exit(0)",
        "del session, unused, silent, peer",
    ],
)
def test_leaving_the_interpreter_with_open_sessions_is_quick_and_silent(
    script: Script, echo_child: list[str], use: str
) -> None:
    command = script(LEFT_OPEN.format(child=echo_child, use=use), name="parent.py")
    # Requests would wait for ten minutes.
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)

    # The child's own words, where it was told more than it takes.
    said = [line for line in done.stderr.splitlines() if "wait for receive()" not in line]
    assert said == []
    assert done.returncode == 0


def test_leaving_the_interpreter_with_a_stuck_handler_is_quick_and_silent(script: Script) -> None:
    command = script("""
        import os, threading
        from shared_messages import Echo, Note
        from streamipc import IpcPeer
        a, b = os.pipe(), os.pipe()
        left = IpcPeer().create_stream_session(a[1], b[0])
        right = IpcPeer().create_stream_session(b[1], a[0])
        entered = threading.Event()
        right.on_request(Echo)(lambda msg: (entered.set(), threading.Event().wait()))
        right.on_message(Note)(lambda msg: threading.Event().wait())
        right.start()
        for _ in range(5):
            left.notify(Note())
        left.request(Echo())
        entered.wait()
    """)
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)

    assert done.stderr == ""
    assert done.returncode == 0


# Dropped sessions


def test_a_dropped_session_warns_and_is_ended(echo_child: list[str], eventually: Any) -> None:
    session: Any = IpcPeer().create_command_session(echo_child)
    assert session.request(Echo(1)).result(timeout=10) == 1
    process = session.process
    with pytest.warns(  # noqa: PT031 - a thread of its own may drop it last
        ResourceWarning, match=r"unclosed <ProcessSession pid=\d+ open>"
    ):
        session = None
        eventually(lambda: process.returncode is not None)


def test_a_session_that_ended_before_its_child_warns_and_ends_the_child_when_dropped(
    script: Script, eventually: Any
) -> None:
    command = script("""
        import os, time
        os.close(1)
        time.sleep(60)
    """)
    session: Any = IpcPeer().create_command_session(command)
    over = threading.Event()
    session.on_close(over.set)
    session.start()
    assert over.wait(10)
    process = session.process
    with pytest.warns(  # noqa: PT031 - the thread that has called on_close may drop it last
        ResourceWarning, match=r"unclosed <ProcessSession pid=\d+ closed>"
    ):
        session = None
        eventually(lambda: process.returncode is not None)


def test_a_dropped_session_of_streams_warns_and_closes_them() -> None:
    incoming, theirs = os.pipe()
    theirs_in, outgoing = os.pipe()
    sessions = [IpcPeer().create_stream_session(theirs, theirs_in)]
    with pytest.warns(ResourceWarning, match=r"unclosed <IpcSession not started>"):
        sessions.clear()

    assert os.read(incoming, 1) == b""
    os.close(incoming)
    os.close(outgoing)


def test_a_dropped_session_is_ended_although_the_warning_is_an_error(
    script: Script,
) -> None:
    command = script("""
        import os, warnings
        from streamipc import IpcPeer
        warnings.simplefilter("error")
        incoming, theirs = os.pipe()
        theirs_in, outgoing = os.pipe()
        IpcPeer().create_stream_session(theirs, theirs_in).start()
        assert os.read(incoming, 1) == b""
    """)
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)

    assert done.returncode == 0, done.stderr
    assert "ResourceWarning: unclosed" in done.stderr


def test_a_closed_session_is_dropped_without_a_word(connected: Connected) -> None:
    left, _ = connected()
    left.start()
    left.close()
    del left
    gc.collect()


# Other ways to make sessions


def test_a_child_of_the_users_own_is_owned_by_the_session(echo_child: list[str]) -> None:
    process = subprocess.Popen(echo_child, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with IpcPeer().create_process_session(process) as session:
        assert isinstance(session, ProcessSession)
        assert session.process is process
        assert session.pid == process.pid
        assert session.request(SayHello("Ada")).result(timeout=10) == Greeting("Hello, Ada!")
        with pytest.raises(ValueError, match="belongs to a session already"):
            IpcPeer().create_process_session(process)
    assert process.returncode == 0
    assert process.stdin is not None
    assert process.stdin.closed


def test_a_childs_standard_error_is_kept_and_can_be_followed(
    script: Script, eventually: Any
) -> None:
    command = script("""
        import sys
        for n in range(100):
            print(f"line {n}", file=sys.stderr)
        sys.stderr.flush()
        from streamipc import IpcPeer
        IpcPeer().create_stdio_session().serve_forever()
    """)
    lines: list[str] = []
    with IpcPeer().create_command_session(command, stderr=lines.append) as session:
        with pytest.raises(IpcError):
            session.request(Echo()).result(timeout=10)
        eventually(lambda: lines[-1:] == ["line 99"])
        assert session.stderr_tail.splitlines() == lines[-20:]
    assert lines == [f"line {n}" for n in range(100)]


def test_stdio_is_put_back_when_its_session_closes(script: Script) -> None:
    command = script("""
        import sys
        from shared_messages import Echo, Note
        from streamipc import IpcPeer
        peer = IpcPeer()
        session = peer.create_stdio_session()
        try:
            peer.create_stdio_session()
        except RuntimeError as error:
            pass
        done = []
        session.on_request(Echo)(lambda msg: msg.value)
        session.start()
        assert session.receive(timeout=10) == Note("close")
        session.close()
        print("plain again", flush=True)
        try:
            peer.close()
            peer.create_stdio_session()
        except Exception as error:
            print(type(error).__name__, error, flush=True)
    """)
    from streamipc import LogMessage

    with IpcPeer().create_command_session(command) as session:
        assert session.request(Echo(1)).result(timeout=10) == 1
        session.notify(Note("close"))
        text = ""
        while "new IpcPeer" not in text:
            message = session.receive(timeout=10)
            assert isinstance(message, LogMessage)
            assert message.level == "junk"
            text += message.message
    assert text.startswith("plain again\nIpcError the peer is closed")


def test_a_peer_closes_all_its_sessions_side_by_side(script: Script) -> None:
    tells = 'session.on_close(lambda: os.write(2, b"hung up\\n"))'
    slow = script(LADDER.format(setting=tells))
    hung_up = threading.Semaphore(0)
    with IpcPeer() as peer:
        sessions = [
            peer.create_command_session(slow, stderr=lambda line: hung_up.release())
            for _ in range(4)
        ]
        for session in sessions:
            session.request(Echo()).result(timeout=20)
        assert set(peer.sessions) == set(sessions)
        closing = threading.Thread(target=peer.close, args=(60,))
        closing.start()
        # One after the other, the second would see the end when the first has exited.
        for _ in sessions:
            assert hung_up.acquire(timeout=30)
        for session in sessions:
            session.kill()
        closing.join(30)
        assert not closing.is_alive()
        assert peer.sessions == []
        assert all(session.returncode is not None for session in sessions)
        with pytest.raises(IpcError, match="the peer is closed"):
            peer.create_command_session(slow)
        peer.close()


def test_a_peer_forgets_sessions_that_have_ended(connected: Connected, eventually: Any) -> None:
    peer = IpcPeer()
    one, other = connected(peer)
    two, _ = connected(peer)
    one.start()
    other.close()
    eventually(lambda: peer.sessions == [two])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"serializer": object()}, "needs the methods encode and decode"),
        ({"id_generator": 7}, "must be callable"),
        ({"max_frame_size": 10}, "from 1,024"),
        ({"max_frame_size": 1 << 32}, "max_frame_size"),
        ({"max_frame_size": 1e6}, "whole number"),
        ({"handler_threads": 0}, "handler_threads"),
        ({"handler_threads": True}, "whole number"),
        ({"session_type": int}, "subclass of IpcSession"),
        ({"session_type": "x"}, "subclass of IpcSession"),
        ({"spin": -1}, "0 or more"),
        ({"timeout": "x"}, "timeout must be"),
    ],
)
def test_settings_that_cant_be_are_refused(arguments: Any, why: str) -> None:
    with pytest.raises((TypeError, ValueError), match=why):
        IpcPeer(**arguments)


def test_what_is_no_transport_is_refused() -> None:
    with pytest.raises(TypeError, match=r"needs the method read_into\(\)"):
        IpcPeer().create_session(object())  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_NOFILE and /proc are those of Linux")
def test_a_session_that_cant_be_made_leaves_no_child_behind(
    echo_child: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import streamipc.session

    def fail(*_: Any) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(streamipc.session, "Engine", fail)
    with pytest.raises(OSError, match="too many"):
        IpcPeer().create_command_session(echo_child)
