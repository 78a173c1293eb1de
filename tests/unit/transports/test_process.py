"""With real children: started, wrapped, dying, stopped, shut down."""

from __future__ import annotations

import errno
import io
import os
import pathlib
import select
import shlex
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from streamipc.exceptions import SessionClosedError
from streamipc.transports import _exit, _watch
from streamipc.transports.base import Transport
from streamipc.transports.process import ProcessTransport, start_process, wrap_process

PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}

SAY_READY = "import os, signal, sys; os.write(1, b'ready'); "


@pytest.fixture
def start(python):
    """Start a child that runs some Python, and end it when the test ends."""
    transports = []

    def start_child(source, **options):
        transport = start_process(python(source), **options)
        transports.append(transport)
        return transport

    yield start_child
    for transport in transports:
        transport.close_write()
        transport.shutdown(0)
        transport.close()


@pytest.fixture
def watched(start):
    """Start a child and watch it; the event says that it is dead."""

    def start_child(source, **options):
        transport = start(source, **options)
        dead = threading.Event()
        transport.watch(dead.set)
        return transport, dead

    return start_child


@pytest.fixture(params=["pidfd", "waiting thread", "no poll"])
def every_platform(request, monkeypatch):
    """Run the test as on Linux, on macOS, and as close to Windows as Linux comes."""
    if request.param != "pidfd":
        monkeypatch.setattr(_watch, "_open_pidfd", lambda pid, into: None)
    if request.param == "no poll":
        monkeypatch.setattr(_watch, "can_poll", lambda: False)


# Starting


def test_bytes_pass_through_a_child(read_all, write_all):
    transport = start_process(["cat"])
    assert isinstance(transport, Transport)
    write_all(transport, b"through the cat")
    transport.close_write()
    assert read_all(transport) == b"through the cat"
    assert transport.shutdown(5) == 0
    transport.close()
    transport.close()
    assert transport.returncode == 0


def test_directory_and_environment_are_the_childs(tmp_path, read_all, start):
    source = "import os; os.write(1, os.getcwd().encode() + os.environb[b'COLOUR'])"
    transport = start(source, cwd=tmp_path, env={"COLOUR": "red"})
    assert read_all(transport) == os.fsencode(tmp_path) + b"red"


def test_a_command_line_for_the_shell(read_all):
    transport = start_process("echo $((6 * 7))", shell=True)
    assert read_all(transport) == b"42\n"
    transport.shutdown(5)
    transport.close()


def test_a_command_may_come_from_an_iterator(read_all):
    transport = start_process(word for word in ["echo", "words"])
    assert read_all(transport) == b"words\n"
    transport.shutdown(5)
    transport.close()


@pytest.mark.parametrize("empty", ["", b"", [], (), iter(())])
def test_an_empty_command_is_refused(empty):
    with pytest.raises(ValueError, match="the command to start is empty"):
        start_process(empty)


@pytest.mark.parametrize("option", ["stdin", "stdout", "bufsize", "text", "encoding"])
def test_options_that_the_transport_sets_are_refused_by_name(option):
    with pytest.raises(TypeError, match=f"^{option}: the session sets this option"):
        start_process(["cat"], **{option: None})


def test_a_failed_start_raises_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        start_process(["no-such-program"])
    (tmp_path / "file").write_text("not executable")
    with pytest.raises(PermissionError):
        start_process([tmp_path / "file"])
    with pytest.raises(FileNotFoundError):
        start_process(["cat"], cwd=tmp_path / "missing")


@pytest.mark.parametrize(
    "command", ["python child.py", ["python child.py"], b"python child.py", "no such/program -x"]
)
def test_a_command_line_that_is_one_text_is_told_to_be_a_list(command):
    with pytest.raises(
        FileNotFoundError, match="No such file or directory; a command is a list"
    ) as caught:
        start_process(command)
    assert caught.value.errno == errno.ENOENT
    assert os.fsdecode(caught.value.filename) in os.fsdecode(
        command if isinstance(command, (str, bytes)) else command[0]
    )


def test_a_directory_that_is_missing_is_not_taken_for_the_command(tmp_path):
    program = tmp_path / "a program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    with pytest.raises(FileNotFoundError) as caught:
        start_process([program], cwd=tmp_path / "no such")
    assert "list" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="Windows joins the list")
def test_a_list_for_the_shell_is_refused():
    with pytest.raises(ValueError, match="with shell=True the command is one text"):
        start_process(["echo", "words"], shell=True)


@pytest.mark.parametrize("command", [None, 7])
def test_what_is_no_command_is_refused(command):
    with pytest.raises(TypeError, match="a command is a list, such as"):
        start_process(command)


@pytest.mark.parametrize(
    ("stderr", "error", "why"),
    [
        (subprocess.STDOUT, ValueError, "stderr=subprocess.STDOUT would put text between"),
        (
            "log",
            ValueError,
            r"stderr is one of .* not 'log'; for a file: stderr=open\('log', 'ab'\)",
        ),
        ("Forward it", ValueError, "not 'Forward it'$"),
        (-7, ValueError, "stderr is one of"),
        (True, TypeError, "bool has no file descriptor"),
        (io.StringIO(), TypeError, "StringIO has no file descriptor"),
        (pathlib.Path("log"), TypeError, "Path has no file descriptor"),
        (b"log", TypeError, "bytes has no file descriptor"),
    ],
)
def test_standard_error_that_can_go_nowhere_is_refused(stderr, error, why):
    with pytest.raises(error, match=why):
        start_process(["cat"], stderr=stderr)


@pytest.mark.parametrize("stderr", [None, subprocess.PIPE])
def test_a_child_whose_pipes_cant_be_used_is_not_left_behind(monkeypatch, stderr):
    def fail(*args, **kwargs):
        raise OSError("too many open files")

    monkeypatch.setattr("streamipc.transports.process.FdTransport.__init__", fail)
    with pytest.raises(OSError, match="too many open files"):
        start_process(["cat"], stderr=stderr)


# Wrapping


def test_a_child_of_the_users_own_is_wrapped(read_all, write_all):
    child = subprocess.Popen(["cat"], **PIPES)
    child.stdin.write(b"buffered ")
    transport = wrap_process(child)
    write_all(transport, b"written")
    transport.close_write()
    assert read_all(transport) == b"buffered written"
    assert transport.process is child
    assert transport.shutdown(5) == 0
    transport.close()
    assert child.stdin.closed
    assert child.stdout.closed


def test_what_the_user_has_read_ahead_is_kept(read_some):
    child = subprocess.Popen(
        ["sh", "-c", "printf 'banner\\nframe'; printf 'one\\ntwo\\n' >&2; cat"],
        stderr=subprocess.PIPE,
        **PIPES,
    )
    assert child.stdout.readline() == b"banner\n"
    assert child.stderr.readline() == b"one\n"
    transport = wrap_process(child)
    assert read_some(transport) == b"frame"
    dead = threading.Event()
    transport.watch(dead.set)
    transport.close_write()
    assert dead.wait(10)
    assert transport.stderr_tail == "two"
    transport.close()


def test_a_dead_child_can_be_wrapped_for_its_last_output(read_all):
    child = subprocess.Popen(["echo", "last words"], **PIPES)
    child.stdin.write(b"too late")
    child.wait()
    transport = wrap_process(child)
    dead = threading.Event()
    transport.watch(dead.set)
    assert dead.wait(10)
    assert read_all(transport) == b"last words\n"
    transport.close()


def test_the_same_child_is_wrapped_once():
    child = subprocess.Popen(["cat"], **PIPES)
    transport = wrap_process(child)
    with pytest.raises(ValueError, match=r"the child 'cat' \(pid \d+\) belongs to a session"):
        wrap_process(child)
    transport.close()
    with pytest.raises(ValueError, match="belongs to a session already"):
        wrap_process(child)
    child.wait()


def test_a_child_that_was_started_here_is_not_wrapped_again():
    transport = start_process(["cat"])
    with pytest.raises(ValueError, match="belongs to a session already"):
        wrap_process(transport.process)
    transport.close_write()
    transport.shutdown(5)
    transport.close()


@pytest.mark.parametrize("missing", ["stdin", "stdout"])
def test_a_child_without_pipes_is_refused(missing):
    options = {name: PIPES[name] if name != missing else subprocess.DEVNULL for name in PIPES}
    expected = pytest.raises(ValueError, match=rf"has no pipe as {missing}; start it with .*PIPE")
    with subprocess.Popen(["cat"], **options) as child, expected:
        wrap_process(child)


def test_a_child_in_text_mode_is_refused():
    expected = pytest.raises(TypeError, match=r"stdin of .* is in text mode; start it without")
    with subprocess.Popen(["cat"], text=True, **PIPES) as child, expected:
        wrap_process(child)


def test_a_child_whose_pipe_is_closed_is_refused():
    with subprocess.Popen(["cat"], **PIPES) as child:
        child.stdin.close()
        with pytest.raises(ValueError, match=r"stdin of .* is closed"):
            wrap_process(child)


def test_what_is_no_child_is_refused():
    with pytest.raises(TypeError, match=r"expected a subprocess\.Popen object, not int"):
        wrap_process(42)


# Standard error


def test_standard_error_is_passed_on_and_its_end_is_kept(watched, capfd):
    transport, dead = watched("import os; os.write(2, b'one\\ntwo')")
    assert dead.wait(10)
    assert transport.stderr_tail == "one\ntwo"
    assert capfd.readouterr().err == "one\ntwo"


def test_a_callback_gets_each_line(watched, capfd):
    lines = []
    transport, dead = watched("import os; os.write(2, b'one\\ntwo')", stderr=lines.append)
    assert dead.wait(10)
    assert lines == ["one", "two"]
    assert transport.stderr_tail == "one\ntwo"
    assert capfd.readouterr().err == ""


def test_a_pipe_keeps_the_end_alone(watched, capfd):
    transport, dead = watched("import os; os.write(2, b'kept')", stderr=subprocess.PIPE)
    assert dead.wait(10)
    assert transport.stderr_tail == "kept"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("mode", ["wb", "w"])
def test_a_file_gets_all_and_nothing_is_kept(watched, tmp_path, mode):
    with (tmp_path / "log").open(mode) as file:
        transport, dead = watched("import os; os.write(2, b'logged')", stderr=file)
        assert dead.wait(10)
    assert (tmp_path / "log").read_bytes() == b"logged"
    assert transport.stderr_tail == ""


def test_a_child_is_never_blocked_by_standard_error_that_nobody_reads(watched):
    """Ours is a full pipe; the child writes more than all buffers hold."""
    reader, writer = os.pipe()
    stderr = os.dup(2)
    os.dup2(writer, 2)
    try:
        os.set_blocking(writer, False)
        try:
            while True:
                os.write(writer, bytes(4096))
        except BlockingIOError:
            os.set_blocking(writer, True)
        source = "import os; [os.write(2, bytes(65536)) for _ in range(64)]; os.write(2, b'end')"
        transport, dead = watched(source)
        assert dead.wait(20)
    finally:
        os.dup2(stderr, 2)
        for fd in (stderr, reader, writer):
            os.close(fd)
    assert transport.stderr_tail.endswith("end")


def test_standard_error_that_can_be_written_again_gets_what_waited(watched, eventually):
    reader, writer = os.pipe()
    stderr = os.dup(2)
    os.dup2(writer, 2)
    received = b""
    try:
        os.set_blocking(writer, False)
        try:
            while True:
                os.write(writer, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(writer, True)
        transport, dead = watched(
            SAY_READY + "os.write(2, b'waiting\\n'); sys.stdin.buffer.read()",
        )
        eventually(lambda: transport.stderr_tail)
        while not received.endswith(b"waiting\n"):
            received += os.read(reader, 1 << 16)
        transport.close_write()
        assert dead.wait(10)
    finally:
        os.dup2(stderr, 2)
        for fd in (stderr, reader, writer):
            os.close(fd)


def test_a_child_that_closes_standard_error_lives_on(watched, read_some, write_all):
    transport, dead = watched("import os; os.close(2); os.write(1, os.read(0, 9))")
    write_all(transport, b"alive")
    assert read_some(transport) == b"alive"
    assert dead.wait(10)


# Death


@pytest.mark.usefixtures("every_platform")
def test_death_is_reported_once_with_status_and_last_lines(start, monkeypatch):
    # Where reading blocks, the thread that reads may be late.
    monkeypatch.setattr(_watch, "_LAST_LINES", 10.0)
    transport = start("import os, sys; os.write(2, b'last'); sys.exit(3)")
    seen = []
    dead = threading.Event()

    def on_exit():
        seen.append((threading.current_thread().name, transport.returncode, transport.stderr_tail))
        dead.set()

    transport.watch(on_exit)
    assert dead.wait(10)
    transport.close()
    assert seen == [(f"streamipc-child-{transport.process.pid}", 3, "last")]


@pytest.mark.usefixtures("every_platform")
def test_death_is_seen_while_a_grandchild_holds_all_pipes_open(start, eventually):
    transport = start(
        "import os, sys\n"
        "if os.fork() == 0:\n"
        "    sys.stdin.buffer.read()\n"
        "    os._exit(0)\n"
        "os.write(2, b'said before')\n"
        "os._exit(7)"
    )
    dead = threading.Event()
    transport.watch(dead.set)
    assert dead.wait(10)
    assert transport.returncode == 7
    # Where reading blocks, the thread that reads may be late.
    eventually(lambda: transport.stderr_tail == "said before")


def test_a_grandchild_that_floods_standard_error_does_not_delay_the_news(watched):
    transport, dead = watched(
        "import os, sys, threading\n"
        "if os.fork() == 0:\n"
        "    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0))).start()\n"
        "    while True: os.write(2, b'x' * 65536)\n"
        "os._exit(0)",
        stderr=subprocess.PIPE,
    )
    assert dead.wait(10)
    assert transport.returncode == 0


@pytest.mark.usefixtures("every_platform")
def test_death_is_seen_while_the_user_waits_for_it_too(start):
    transport = start("import sys; sys.stdin.buffer.read()")
    waiter = threading.Thread(target=transport.process.wait)
    waiter.start()
    dead = threading.Event()
    transport.watch(dead.set)
    transport.close_write()
    assert dead.wait(10)
    waiter.join(10)
    assert transport.returncode == 0


@pytest.mark.usefixtures("every_platform")
def test_a_child_that_was_dead_and_reaped_is_reported_too(start):
    transport = start("pass")
    transport.process.wait()
    dead = threading.Event()
    transport.watch(dead.set)
    assert dead.wait(10)


def test_closing_ends_the_thread_while_the_child_lives(watched):
    transport, dead = watched("import sys; sys.stdin.buffer.read()")
    (watching,) = threads_of(transport)
    transport.close()
    watching.join(10)
    assert not watching.is_alive()
    assert not dead.is_set()


def threads_of(transport):
    name = f"streamipc-child-{transport.process.pid}"
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def test_closing_from_the_watching_thread_is_fine(start):
    transport = start("pass")
    closed = threading.Event()

    def on_exit():
        transport.close()
        closed.set()

    transport.watch(on_exit)
    assert closed.wait(10)


def test_closing_while_a_callback_hangs_leaves_the_rest_to_the_thread(start, eventually):
    entered, go_on = threading.Event(), threading.Event()

    def on_line(line):
        entered.set()
        go_on.wait(30)

    transport = start(
        "import os, sys; os.write(2, b'line\\n'); sys.stdin.buffer.read()", stderr=on_line
    )
    transport.watch(lambda: None)
    assert entered.wait(10)
    transport._watcher.close(timeout=0)
    assert not transport.process.stderr.closed
    go_on.set()
    eventually(lambda: transport.process.stderr.closed)
    transport.close()


def test_watching_that_begins_behind_the_end_touches_nobodys_descriptor(start):
    """One thread starts a session while another closes it."""
    transport = start("import sys; sys.stdin.buffer.read()")
    number = transport.process.stderr.fileno()
    transport.close()
    theirs, write = os.pipe()
    os.dup2(theirs, number)
    os.write(write, b"theirs")
    transport.watch(lambda: None)
    assert not transport._watcher.started
    assert os.get_blocking(number)
    assert os.read(number, 100) == b"theirs"
    for fd in {theirs, number, write}:
        os.close(fd)


def test_watching_that_fails_while_it_is_closed_leaves_nothing_open(start, monkeypatch):
    transport = start("import sys; sys.stdin.buffer.read()")

    def fail(thread):
        transport.close()
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            transport.watch(lambda: None)
    assert transport.process.stderr.closed


def test_watching_twice_is_refused(watched):
    transport, dead = watched("pass")
    with pytest.raises(RuntimeError, match="is being watched already"):
        transport.watch(lambda: None)
    assert dead.wait(10)


def test_no_thread_to_watch_is_an_error_that_leaves_nothing_behind(start, monkeypatch):
    transport = start("import sys; sys.stdin.buffer.read()")

    def fail(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            transport.watch(lambda: None)
    dead = threading.Event()
    transport.watch(dead.set)
    transport.close_write()
    assert dead.wait(10)


def test_without_eventfd_a_pipe_wakes_the_thread(start, monkeypatch):
    monkeypatch.delattr(os, "eventfd", raising=False)
    transport = start("import sys; sys.stdin.buffer.read()")
    transport.watch(lambda: None)
    (watching,) = threads_of(transport)
    transport.close()
    watching.join(10)
    assert not watching.is_alive()


# Somebody else reaps


@pytest.fixture(params=["the kernel", "a thread", "a signal handler"])
def somebody_else_reaps(request, monkeypatch):
    """Have all exit statuses taken by someone who is always quicker than we are."""
    taken = _exit.ExitStatus._ask

    def too_late(status, options):
        with suppress(ChildProcessError):
            if not os.waitpid(status._process.pid, options)[0]:
                return
        taken(status, options)

    if request.param == "the kernel":
        handler = signal.SIG_IGN
    elif request.param == "a thread":
        handler = signal.SIG_DFL
        monkeypatch.setattr(_exit.ExitStatus, "_ask", too_late)
    else:

        def handler(*_):
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass

        monkeypatch.setattr(_exit.ExitStatus, "_ask", too_late)
    before = signal.signal(signal.SIGCHLD, handler)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("every_platform", "somebody_else_reaps")
@pytest.mark.parametrize("end", ["sys.exit(3)", "os.kill(os.getpid(), 9)", "pass"])
def test_a_status_that_somebody_else_took_is_not_made_up(start, end):
    transport = start(f"import os, sys; sys.stdin.buffer.read(); {end}")
    dead = threading.Event()
    transport.watch(dead.set)
    assert not transport.has_ended
    transport.close_write()
    assert dead.wait(10)
    assert transport.has_ended
    assert transport.returncode is None
    error = transport.closed_error()
    assert "exited, with a status that somebody else has taken" in str(error)
    assert (error.returncode, error.signal) == (None, None)


@pytest.mark.usefixtures("every_platform", "somebody_else_reaps")
def test_a_child_whose_status_is_taken_is_shut_down_soon(start):
    transport = start("import signal; signal.pause()")
    assert transport.shutdown(0) is None
    assert transport.has_ended
    assert transport.shutdown(60) is None


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="tells of the end and leaves the status")
@pytest.mark.parametrize("first", ["ours", "Popen"])
def test_a_status_is_not_lost_while_the_one_who_took_it_waits_for_a_cpu(python, first, monkeypatch):
    """Who comes meanwhile waits for him, however long that takes."""
    taken, asked_again = threading.Event(), threading.Event()
    waitpid = os.waitpid

    def slow(pid, options):
        if taken.is_set():
            asked_again.set()
        answer = waitpid(pid, options)
        taken.set()
        asked_again.wait(0.5)
        return answer

    process = subprocess.Popen(python("raise SystemExit(3)"))
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    ours = _exit.ExitStatus(process)
    monkeypatch.setattr(os, "waitpid", slow)
    one = threading.Thread(target=ours.reap if first == "ours" else process.wait)
    one.start()
    assert taken.wait(30)
    other = _exit.ExitStatus(process)
    other.reap()
    one.join()

    assert not asked_again.is_set()
    assert (ours.code, other.code, process.returncode) == (3, 3, 3)


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="tells of the end and leaves the status")
@pytest.mark.parametrize(("first", "code"), [("ours", 3), ("Popen", 0)])
def test_who_has_interrupted_the_one_who_asks_for_a_status_does_not_wait_for_him(
    python, first, code, monkeypatch
):
    """As a finalizer does, on the same thread. The 0 is Popen's own guess."""
    monkeypatch.setattr(_exit, "_PATIENCE", 1e6)
    waitpid = os.waitpid

    def interrupted(pid, options):
        monkeypatch.setattr(os, "waitpid", waitpid)
        _exit.ExitStatus(process).reap()
        return waitpid(pid, options)

    process = subprocess.Popen(python("raise SystemExit(3)"))
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    status = _exit.ExitStatus(process)
    monkeypatch.setattr(os, "waitpid", interrupted)
    status.reap() if first == "ours" else process.wait()

    assert process.returncode == code


def test_the_status_of_the_users_own_wait_is_true_beside_one_who_reaps_all(start):
    transport = start("import sys; sys.exit(3)")
    assert transport.process.wait(10) == 3
    assert transport.returncode == 3


def test_a_zero_that_popen_made_up_is_not_believed(python):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        process = subprocess.Popen(python("import sys; sys.exit(3)"), **PIPES)
        transport = wrap_process(process)
        assert process.wait(10) == 0  # this is Popen's own guess
        assert transport.has_ended
        assert transport.returncode is None
        transport.close()
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("every_platform", "somebody_else_reaps")
@pytest.mark.parametrize("how", ["wait", "wait with a timeout", "poll", "kill twice"])
def test_a_lost_status_is_known_as_such_also_where_the_user_asks_popen_for_it(
    start, how, eventually
):
    transport = start("import sys; sys.stdin.buffer.read(); sys.exit(3)")
    process = transport.process
    if how == "kill twice":
        process.kill()
        eventually(lambda: process.kill() or process.returncode is not None)
    else:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.001)
        transport.close_write()
        if how == "poll":
            eventually(lambda: process.poll() is not None)
        else:
            process.wait(10 if "timeout" in how else None)
    assert process.returncode == 0
    assert transport.has_ended
    assert transport.returncode is None


def test_popen_of_somebody_else_is_used_where_it_has_taken_the_place(monkeypatch, read_all):
    class Theirs(subprocess.Popen):
        pass

    monkeypatch.setattr(subprocess, "Popen", Theirs)
    transport = start_process(["echo", "theirs"])
    assert type(transport.process) is Theirs
    assert read_all(transport) == b"theirs\n"
    assert transport.shutdown(5) == 0
    transport.close()


def test_a_status_is_seen_by_one_of_several_who_look_and_known_to_all(start):
    transport = start("import sys; sys.stdin.buffer.read(); sys.exit(3)")
    started = threading.Barrier(5)
    codes = []

    def look():
        started.wait()
        while not transport.has_ended:
            pass
        codes.append(transport.returncode)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    transport.close_write()
    for thread in threads:
        thread.join()
    assert codes == [3] * 4


def test_a_child_that_is_no_popen_of_subprocess_is_believed(python):
    class Other:
        """As gevent's: its own way to learn of the end, and no lock of Popen's."""

        def __init__(self, command):
            self._real = subprocess.Popen(command, **PIPES)

        returncode = property(lambda self: self._real.returncode)
        pid = property(lambda self: self._real.pid)
        stdin = property(lambda self: self._real.stdin)
        stdout = property(lambda self: self._real.stdout)
        stderr = None

        def wait(self, timeout=None):
            return self._real.wait(timeout)

        def poll(self):
            return self._real.poll()

        def terminate(self):
            self._real.terminate()

    transport = wrap_process(Other(python("import sys; sys.stdin.buffer.read(); sys.exit(4)")))
    dead = threading.Event()
    transport.watch(dead.set)
    transport.close_write()
    assert dead.wait(10)
    assert transport.shutdown(5) == 4
    transport.close()


# The ladder


@pytest.mark.usefixtures("every_platform")
def test_a_child_that_ends_by_itself_is_given_the_time(start):
    transport = start("import sys; sys.stdin.buffer.read(); sys.exit(5)")
    transport.watch(lambda: None)
    transport.close_write()
    assert transport.shutdown(10) == 5


@pytest.mark.usefixtures("every_platform")
def test_a_child_that_does_not_end_gets_sigterm(start, read_some):
    transport = start(SAY_READY + "signal.pause()")
    assert read_some(transport) == b"ready"
    assert transport.shutdown(0) == -signal.SIGTERM


def test_a_child_that_ignores_sigterm_gets_sigkill(start, read_some):
    source = "import os, signal; signal.signal(15, signal.SIG_IGN); os.write(1, b'ready');"
    transport = start(source + "[signal.pause() for _ in range(9)]")
    transport.watch(lambda: None)
    assert read_some(transport) == b"ready"
    assert transport.shutdown(0) == -signal.SIGKILL


def test_a_stopped_child_gets_sigkill(start, read_some):
    transport = start(SAY_READY + "os.kill(os.getpid(), signal.SIGSTOP)")
    assert read_some(transport) == b"ready"
    os.waitid(os.P_PID, transport.process.pid, os.WSTOPPED)
    assert transport.shutdown(0) == -signal.SIGKILL


def test_shutting_down_twice_and_beside_a_wait_of_the_users(start):
    transport = start("import signal; signal.pause()")
    codes = []
    waiter = threading.Thread(target=lambda: codes.append(transport.process.wait()))
    waiter.start()
    assert transport.shutdown(0) == -signal.SIGTERM
    waiter.join(10)
    assert codes == [-signal.SIGTERM]
    assert transport.shutdown(0) == -signal.SIGTERM


def test_an_interrupted_shutdown_kills_the_child_at_once(start, monkeypatch):
    transport = start("import signal; signal.pause()")
    real, calls = _watch.wait_for_exit, []

    def interrupted(process, status, timeout):
        calls.append(timeout)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(process, status, timeout)

    monkeypatch.setattr("streamipc.transports.process.wait_for_exit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transport.shutdown(60)
    assert transport.returncode == -signal.SIGKILL


def test_a_child_of_another_user_is_not_waited_for_for_ever(start, monkeypatch):
    transport = start("import sys; sys.stdin.buffer.read()")

    def refuse(*args):
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr("streamipc.transports.process._UNKILLABLE", 0)
        patch.setattr(transport.process, "send_signal", refuse)
        assert transport.shutdown(0) is None


def test_no_warning_about_a_running_child_after_shutdown():
    source = """
import gc, sys
from streamipc.transports.process import start_process
transport = start_process(["cat"])
transport.watch(lambda: None)
transport.close_write()
transport.shutdown(5)
transport.close()
del transport
gc.collect()
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", source], capture_output=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, b"")


# What the error says


@pytest.mark.parametrize(
    ("source", "fate", "returncode", "signal_name"),
    [
        ("import sys; sys.exit(3)", "exited with code 3", 3, None),
        ("pass", "exited with code 0", 0, None),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL", -9, "SIGKILL"),
        ("import os; os.kill(os.getpid(), 40)", "was killed by signal 40", -40, "signal 40"),
    ],
)
def test_the_error_says_how_the_child_ended(start, source, fate, returncode, signal_name):
    transport = start(source)
    transport.process.wait()
    error = transport.closed_error("no reply to Hello")
    assert isinstance(error, SessionClosedError)
    command = shlex.join(transport.process.args)
    pid = transport.process.pid
    assert str(error) == f"no reply to Hello: the child {command!r} (pid {pid}) {fate}"
    assert (error.returncode, error.signal) == (returncode, signal_name)


@pytest.mark.usefixtures("exit_status_is_waited_for")
def test_the_error_ends_with_the_last_lines_of_standard_error(watched):
    transport, _ = watched("import os; os.write(2, b'Traceback\\nValueError: no\\n'); os._exit(1)")
    # Right after the end of its output, the status may still be on its way.
    assert transport.read_into(memoryview(bytearray(1))) == 0
    error = transport.closed_error()
    assert error.stderr_tail == "Traceback\nValueError: no"
    assert str(error).endswith(
        "exited with code 1; the last lines of its standard error:\n"
        "    Traceback\n    ValueError: no"
    )


def test_the_error_says_that_the_child_lives(start, read_some):
    transport = start("import os, signal; os.close(1); signal.pause()")
    assert read_some(transport) == b""
    error = transport.closed_error()
    assert str(error).endswith(") is still running")
    assert (error.returncode, error.signal) == (None, None)
    transport.close()
    assert str(transport.closed_error()).endswith(") is still running")


def test_a_long_command_is_shortened(start):
    transport = start("pass #" + "x" * 500)
    assert len(str(transport.closed_error())) < 200


# Forks


@pytest.mark.usefixtures("exit_status_is_waited_for")
def test_all_who_ask_at_once_are_told_the_exit_status_that_is_still_to_come(watched):
    transport, _ = watched("import os; os.close(1); os.read(0, 1); os._exit(7)")
    assert transport.read_into(memoryview(bytearray(1))) == 0
    started = threading.Barrier(5)
    codes = []

    def ask():
        started.wait()
        codes.append(transport.closed_error().returncode)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    transport.close_write()
    for thread in threads:
        thread.join()
    assert codes == [7] * 4


def test_a_forked_process_neither_holds_the_pipes_nor_touches_the_child(script):
    source = """
        import os, threading
        from streamipc.transports.process import start_process

        def descriptors():
            held = {}
            for fd in map(int, os.listdir("/proc/self/fd")):
                try:
                    held[fd] = os.readlink(f"/proc/self/fd/{fd}")
                except OSError:
                    pass  # the one that listdir had open
            return held

        transport = start_process(["cat"])
        dead = threading.Event()
        transport.watch(dead.set)
        go_read, go_write = os.pipe()
        before = set(descriptors())
        pid = os.fork()
        if pid == 0:
            os.close(go_write)
            transport._watcher._lock.acquire()  # as if another thread had held them
            transport._lock.acquire()
            transport.close_after_fork()
            transport.close()
            held = descriptors()
            assert set(held) <= before | {go_read} and not any(
                fd > 2 and fd != go_read and name != "/dev/null" for fd, name in held.items()
            ), held
            os.read(go_read, 1)
            del transport
            os._exit(0)
        transport.write(memoryview(b"undisturbed"))
        buffer = memoryview(bytearray(20))
        assert transport.read_into(buffer) == 11
        transport.close_write()
        assert dead.wait(10), "the forked process holds the pipe open"
        os.close(go_write)
        assert os.waitpid(pid, 0)[1] == 0
        assert transport.shutdown(5) == 0
        transport.close()
    """
    command = script(source)
    command[1:1] = ["-X", "dev", "-W", "error", "-W", "ignore::DeprecationWarning"]
    done = subprocess.run(command, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_transport_that_was_never_watched_can_be_left_after_a_fork():
    transport = start_process(["cat"])
    copies = [os.dup(fd) for fd in (*transport.read_fds, transport.write_fd)]
    process = transport.process
    transport.close_after_fork()
    assert process.returncode == 0
    for fd in copies:
        os.close(fd)
    os.waitpid(process.pid, 0)
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()


def test_it_is_a_process_transport():
    transport = start_process(["true"])
    assert isinstance(transport, ProcessTransport)
    transport.shutdown(5)
    transport.close()


def test_last_lines_that_were_there_before_the_watch_are_kept(python, read_all):
    line = "x" * 99
    source = f"import sys; sys.stderr.write('{line}\\n' * 600)"
    process = subprocess.Popen(python(source), stderr=subprocess.PIPE, **PIPES)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    dead = threading.Event()
    seen = []
    transport = ProcessTransport(process, forward=False, on_line=seen.append)
    transport.watch(dead.set)

    assert dead.wait(30)
    assert read_all(transport) == b""
    transport.close()
    assert len(seen) == 600


def test_standard_error_may_be_a_terminal_whose_child_has_gone(python):
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        python("import sys; sys.stderr.write('last words\\n')"), stderr=theirs, **PIPES
    )
    os.close(theirs)
    process.stderr = os.fdopen(ours, "rb", buffering=0)
    dead = threading.Event()
    transport = ProcessTransport(process, forward=False, on_line=None)
    transport.watch(dead.set)

    assert dead.wait(30)
    transport.close()


def test_a_child_is_seen_to_die_where_there_is_no_pidfd(monkeypatch, python):
    def fail(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", fail, raising=False)
    transport = start_process(python("pass"), stderr=None)
    dead = threading.Event()
    transport.watch(dead.set)

    assert dead.wait(30)
    assert transport.returncode == 0
    transport.close()


def test_a_child_that_dies_while_the_watch_is_being_ended_is_not_reported(start):
    lines = []
    entered, go_on = threading.Semaphore(0), threading.Semaphore(0)

    def on_line(line):
        lines.append(line)
        entered.release()
        assert go_on.acquire(timeout=30)

    source = "import os, sys; os.write(2, b'1\\n'); sys.stdin.read(1); os.write(2, b'2\\n')"
    transport = start(source, stderr=on_line)
    reports = []
    transport.watch(lambda: reports.append("dead"))
    assert entered.acquire(timeout=10)
    transport.write(memoryview(b"x"))
    pidfd = os.pidfd_open(transport.process.pid)
    assert select.select([pidfd], [], [], 10)[0], "the child lives"
    os.close(pidfd)
    go_on.release()
    assert entered.acquire(timeout=10)  # the next look has found both, line and death
    transport._watcher.close(timeout=0)
    go_on.release()

    assert transport._watcher.done.wait(10)
    transport.close()
    assert lines == ["1", "2"]
    assert reports == []


def test_where_reading_blocks_the_thread_closes_standard_error_when_the_child_has_ended(
    start, monkeypatch
):
    monkeypatch.setattr(_watch, "can_poll", lambda: False)
    transport = start("import sys; sys.stdin.read(1)")
    reader = f"streamipc-child-{transport.process.pid}-stderr"
    transport.watch(lambda: None)
    transport._watcher.close()
    assert not transport.process.stderr.closed
    transport.write(memoryview(b"x"))

    for thread in threading.enumerate():
        if thread.name == reader:
            thread.join(10)
    assert transport.process.stderr.closed


@pytest.mark.parametrize("code", [0, 3])
def test_a_status_that_popen_has_found_is_believed(python, code):
    with subprocess.Popen(python(f"raise SystemExit({code})")) as process:
        process.wait(30)
        status = _exit.ExitStatus(process)
        status.wait()
        assert (status.code, status.is_lost) == (code, False)
        assert status.fate == f"exited with code {code}"
