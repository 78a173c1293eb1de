"""SIGPIPE has its default back, as in many programs for the command line."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

from streamipc.transports import _sigpipe
from streamipc.transports._sigpipe import SigpipeHeldBack

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="there is no SIGPIPE")

HEAD = """
import io, os, signal, socket, sys, threading
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
from streamipc.transports._sigpipe import SigpipeHeldBack
from streamipc.transports._stderr import StderrSink
from streamipc.transports.files import FileWriter
from streamipc.transports.pipe import FdTransport
from streamipc.transports.stdio import open_stdio
from streamipc.transports.streams import open_streams
DATA = memoryview(b"x")

def broken():
    reading, writing = os.pipe()
    os.close(reading)
    return writing

"""

PIPE = """
transport = FdTransport(os.pipe()[0], broken())
for _ in range(3):
    try:
        transport.write(DATA)
    except BrokenPipeError:
        print("broken")
"""

WAYS = {
    "a pipe": PIPE,
    "a pipe, many buffers": """
        try:
            FdTransport(os.pipe()[0], broken()).write_some([DATA, DATA])
        except BrokenPipeError:
            print("broken")
        """,
    "a descriptor that is left blocking": """
        try:
            FdTransport(os.pipe()[0], broken(), nonblocking=False).write(DATA)
        except BrokenPipeError:
            print("broken")
        """,
    "a socket": """
        ours, theirs = socket.socketpair()
        theirs.close()
        try:
            FdTransport(ours.fileno(), ours.fileno()).write(DATA)
        except BrokenPipeError:
            print("broken")
        """,
    "a file object": """
        for buffering in (0, -1):
            try:
                writer = FileWriter(os.fdopen(broken(), "wb", buffering))
                writer.write(DATA)
            except BrokenPipeError:
                print("broken")
            writer.close()
        """,
    "a file object that holds bytes": """
        file = os.fdopen(broken(), "wb")
        file.write(b"before")
        open_streams(file, os.pipe()[0])  # reading from it will tell
        print("broken", flush=True)
        os._exit(0)  # closing the file is its owner's, who has the default of SIGPIPE
        """,
    "a file object that is written to beside the session, and closed with it": """
        reading, writing = os.pipe()
        file = os.fdopen(writing, "wb")
        transport = open_streams(file, os.pipe()[0])
        file.write(b"beside")
        os.close(reading)
        transport.close()
        print("broken")
        """,
    "an object without a descriptor, read on a thread": """
        class Slow(io.RawIOBase):
            def readable(self): return True
            def readinto(self, buffer):
                buffer[:1] = b"x"
                return 1

        transport = open_streams(os.pipe()[1], os.pipe()[0], Slow())
        transport.close()
        for thread in threading.enumerate():
            if thread.name == "streamipc-pump":
                thread.join(30)
        print("broken")
        """,
    "standard error that passes on a child's": """
        os.dup2(broken(), 2)
        StderrSink(True, None, "child").feed(b"x")
        print("broken")
        """,
    "what was printed before the session closed": """
        transport = open_stdio()
        print("lost")
        os.dup2(broken(), 1)
        transport.close()
        print("broken")
        """,
    "a thread that has SIGPIPE blocked": """
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        try:
            FdTransport(os.pipe()[0], broken()).write(DATA)
        except BrokenPipeError:
            print("broken")
        assert signal.SIGPIPE in signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPIPE})
        """,
}


def run(body: str) -> subprocess.CompletedProcess[str]:
    source = HEAD + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.PIPE,
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_write_that_nobody_reads_is_an_error_and_does_not_end_the_process(way: str) -> None:
    done = run(textwrap.dedent(WAYS[way]) + "\nassert signal.SIGPIPE not in signal.sigpending()")

    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"broken"}


def test_the_programs_own_writes_end_it_as_it_wished() -> None:
    done = run(PIPE + 'sys.stdout.flush()\nos.write(broken(), b"x")\nprint("still here")')

    assert done.returncode == -signal.SIGPIPE
    assert "still here" not in done.stdout


def test_a_sigpipe_that_waited_before_is_left_to_the_one_who_blocked_it() -> None:
    done = run("""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        try:
            os.write(broken(), b"x")
        except BrokenPipeError:
            pass
        with SigpipeHeldBack():
            pass
        assert signal.SIGPIPE in signal.sigpending()
    """)

    assert done.returncode == 0, done.stderr


def test_an_interrupt_as_sigpipe_is_blocked_leaves_nothing_blocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = _sigpipe._signal.pthread_sigmask

    def interrupted(how: int, signals: tuple[int, ...]) -> object:
        before = real(how, signals)
        if how == signal.SIG_BLOCK and signals:
            raise KeyboardInterrupt  # CPython runs signal handlers after the system call
        return before

    with monkeypatch.context() as patch:
        patch.setattr(_sigpipe._signal, "pthread_sigmask", interrupted)
        with pytest.raises(KeyboardInterrupt), SigpipeHeldBack():
            pass
    assert signal.SIGPIPE not in real(signal.SIG_BLOCK, ())
