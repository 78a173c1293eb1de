"""Each test runs a child, because a process has one standard input and output."""

from __future__ import annotations

import multiprocessing
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]

PREAMBLE = """
import os, sys
from streamipc.transports.stdio import open_stdio

def read_all(transport):
    data, buffer = b"", memoryview(bytearray(1 << 16))
    while count := transport.read_into(buffer):
        data += buffer[:count]
    return data

def write(transport, data):
    transport.write(memoryview(data))
"""


@pytest.fixture
def run(monkeypatch):
    """Run lines of Python and return what came out of both streams."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # would hide what is held back

    def run_child(source, input=b"", **options):  # noqa: A002
        child = subprocess.run(
            [sys.executable, "-W", "error", "-c", PREAMBLE + source],
            input=input,
            capture_output=True,
            timeout=30,
            **options,
        )
        assert child.returncode == 0, child.stderr.decode()
        return child.stdout, child.stderr

    return run_child


def test_bytes_pass_both_ways(run):
    source = """
transport = open_stdio()
write(transport, read_all(transport).upper())
transport.close()
"""
    assert run(source, b"echo") == (b"ECHO", b"")


def test_print_and_c_code_and_grandchildren_write_to_standard_error(run):
    source = """
import subprocess
transport = open_stdio()
print("printed", flush=True)
os.write(1, b"low level\\n")
subprocess.run(["echo", "grandchild"])
write(transport, b"frame")
transport.close()
"""
    assert run(source) == (b"frame", b"printed\nlow level\ngrandchild\n")


def test_nobody_else_gets_the_input(run):
    source = """
import subprocess
transport = open_stdio()
assert os.read(0, 10) == b""
assert sys.stdin.read() == ""
assert subprocess.run(["cat"], capture_output=True).stdout == b""
write(transport, read_all(transport))
transport.close()
"""
    assert run(source, b"for the session") == (b"for the session", b"")


def test_grandchildren_do_not_inherit_the_private_copies(run):
    source = """
import subprocess
transport = open_stdio()
assert min(*transport.read_fds, transport.write_fd) > 2
listing = "import os; print(sorted(os.listdir('/proc/self/fd'), key=int))"
command = [sys.executable, "-S", "-E", "-c", listing]
listed = subprocess.run(command, close_fds=False, stdout=subprocess.PIPE).stdout
assert listed == b"['0', '1', '2', '3']\\n", listed
transport.close()
"""
    assert run(source) == (b"", b"")


def test_close_puts_both_back(run):
    source = """
transport = open_stdio()
print("during")
transport.close()
transport.close()
print("after", sys.stdin.readline())
"""
    assert run(source, b"left over") == (b"after left over\n", b"during\n")


def test_what_was_printed_before_goes_where_it_was_meant_to(run):
    source = """
print("before", end=" ")
transport = open_stdio()
write(transport, b"frame")
transport.close()
"""
    assert run(source) == (b"before frame", b"")


def test_closing_by_halves_leaves_standard_output_to_be_put_back(run):
    source = """
transport = open_stdio()
transport.close_write()
transport.close()
print("after")
"""
    assert run(source) == (b"after\n", b"")


def test_what_the_buffer_of_stdin_has_read_ahead_is_kept(run):
    source = """
assert sys.stdin.buffer.readline() == b"greeting\\n"
transport = open_stdio()
write(transport, read_all(transport))
assert sys.stdin.buffer.read() == b"", "read twice"
transport.close()
"""
    assert run(source, b"greeting\nframe") == (b"frame", b"")


def test_a_second_session_is_refused_until_the_first_is_closed(run):
    source = """
transport = open_stdio()
try:
    open_stdio()
except RuntimeError as error:
    assert "already belong to a session of this process" in str(error)
else:
    raise AssertionError
transport.close()
again = open_stdio()
write(again, b"again")
again.close()
"""
    assert run(source) == (b"again", b"")


def test_no_descriptor_is_left_open(run):
    source = """
before = os.listdir("/proc/self/fd")
open_stdio().close()
assert os.listdir("/proc/self/fd") == before
assert os.get_inheritable(0) and os.get_inheritable(1)
"""
    assert run(source) == (b"", b"")


@pytest.mark.parametrize(("fd", "name"), [(0, "standard input"), (1, "standard output")])
@pytest.mark.parametrize("when", ["at the start", "by the program", "by its object"])
def test_a_closed_stream_is_an_error_that_names_it(run, fd, name, when):
    close = {
        "at the start": "",
        "by the program": f"os.close({fd})",
        "by its object": f"(sys.stdin, sys.stdout)[{fd}].close()",
    }[when]
    source = f"""
{close}
try:
    open_stdio()
except OSError as error:
    os.write(2, str(error).encode())
"""
    options = {"preexec_fn": lambda: os.close(fd)} if when == "at the start" else {}
    _, stderr = run(source, **options)
    assert b"%s (fd %d) is closed; start this process with a pipe" % (name.encode(), fd) in stderr


@pytest.mark.parametrize("when", ["at the start", "by the program"])
def test_without_standard_error_what_is_printed_is_lost(run, when):
    close = "os.close(2)" if when == "by the program" else ""
    source = f"""
{close}
transport = open_stdio()
print("nowhere", flush=True)
assert os.path.samestat(os.fstat(1), os.stat(os.devnull))
write(transport, b"frame")
transport.close()
"""
    options = {"preexec_fn": lambda: os.close(2)} if when == "at the start" else {}
    assert run(source, **options) == (b"frame", b"")


def test_a_file_opened_under_the_number_of_standard_error_is_not_written_to(run, tmp_path):
    source = f"""
file = open({str(tmp_path / "file")!r}, "wb", buffering=0)
assert file.fileno() == 2
transport = open_stdio()
print("nowhere", flush=True)
transport.close()
"""
    assert run(source, preexec_fn=lambda: os.close(2)) == (b"", b"")
    assert (tmp_path / "file").read_bytes() == b""


def test_an_object_in_place_of_stdout_is_left_alone(run):
    source = """
import io
class Log:
    def __init__(self): self.text = ""
    def write(self, text): self.text += text
mine = sys.stdout = Log()
transport = open_stdio()
print("mine")
transport.close()
assert sys.stdout is mine and mine.text == "mine\\n"
sys.stdout = None
open_stdio().close()
"""
    assert run(source) == (b"", b"")


def test_a_failure_half_way_leaves_everything_as_it_was(run):
    source = """
real_dup2 = os.dup2
def fail(fd, fd2, *args, **kwargs):
    if fd2 == 1:
        os.dup2 = real_dup2
        raise KeyboardInterrupt
    real_dup2(fd, fd2, *args, **kwargs)
before = sorted(os.listdir("/proc/self/fd"))
os.dup2 = fail
try:
    open_stdio()
except KeyboardInterrupt:
    pass
assert sorted(os.listdir("/proc/self/fd")) == before
print("still", sys.stdin.read(), end="")
open_stdio().close()
"""
    assert run(source, b"here") == (b"still here", b"")


def test_too_many_open_files_leaves_everything_as_it_was(run):
    source = """
import resource, errno
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
import fcntl, termios, select
before = os.listdir("/proc/self/fd")
for limit in (4, 5):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        open_stdio()
    except OSError as error:
        assert error.errno == errno.EMFILE
    else:
        raise AssertionError
resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
assert os.listdir("/proc/self/fd") == before
print(sys.stdin.read(), end="")
"""
    assert run(source, b"fine") == (b"fine", b"")


def test_a_transport_to_nobody_leaves_nothing_open_where_no_descriptor_is_left(run):
    source = """
import errno, resource
from streamipc.transports.stdio import NobodysTransport
NobodysTransport().close()
before = os.listdir("/proc/self/fd")
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
spare = os.dup(0)
os.close(spare)
resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 1, limits[1]))
try:
    NobodysTransport()
except OSError as error:
    assert error.errno == errno.EMFILE
else:
    raise AssertionError
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
assert os.listdir("/proc/self/fd") == before
"""
    assert run(source) == (b"", b"")


IMPORTED = """
from streamipc import IpcPeer
from streamipc.transports.stdio import _is_import_of_multiprocessing

is_import = _is_import_of_multiprocessing()
"""


def names_of(source, name):
    """Return what lines of Python define that a thread runs as a module of this name."""
    names = {"__name__": name}
    thread = threading.Thread(target=lambda: exec(source, names))
    thread.start()
    thread.join()
    return names


def test_a_session_in_an_import_of_multiprocessings_has_nobody_to_notify(monkeypatch):
    from streamipc import LogMessage

    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    names = names_of(f"{IMPORTED}session = IpcPeer().create_stdio_session()", "__mp_main__")
    assert names["is_import"]
    names["session"].notify(LogMessage("for nobody"), timeout=1)
    with pytest.raises(TypeError, match="notify"):
        names["session"].notify("no message")
    names["session"].close()


def test_what_multiprocessing_runs_is_no_import(monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    assert not names_of(IMPORTED, "__main__")["is_import"]


def test_without_multiprocessing_there_is_no_import_of_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "multiprocessing.process")
    assert not names_of(IMPORTED, "somebodys")["is_import"]


def test_blocking_mode_is_given_back(run):
    source = """
transport = open_stdio()
assert not os.get_blocking(transport.write_fd)
transport.close()
assert os.get_blocking(1)
"""
    assert run(source) == (b"", b"")


def read_exactly(fd, count):
    """Read from a terminal: the kernel carries its bytes in its own time and pieces."""
    data = b""
    while len(data) < count:
        data += os.read(fd, count - len(data))
    return data


def test_a_terminal_passes_all_bytes_and_is_put_back(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    source = """
import termios
before = termios.tcgetattr(0)
transport = open_stdio()
write(transport, b"ready")
buffer = memoryview(bytearray(100))
got = b""
while len(got) < 6:
    got += buffer[:transport.read_into(buffer)]
write(transport, got)
assert transport.read_into(buffer) == 1
transport.close()
assert termios.tcgetattr(0) == before
"""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + source], stdin=slave, stdout=slave
    ) as child:
        assert read_exactly(master, 5) == b"ready"
        os.write(master, b"\x03\x04\r\n\x1a\x11")
        assert read_exactly(master, 6) == b"\x03\x04\r\n\x1a\x11"
        os.write(master, b"!")
    os.close(master)
    os.close(slave)
    assert child.returncode == 0


def test_one_socket_for_both_directions_survives_the_session(monkeypatch):
    import socket

    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    source = """
transport = open_stdio()
write(transport, b"frame ")
transport.close_write()
transport.close()
print("after")
"""
    ours, theirs = socket.socketpair()
    with subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + source], stdin=theirs, stdout=theirs
    ) as child:
        theirs.close()
        assert ours.makefile("rb").read() == b"frame after\n"
    ours.close()
    assert child.returncode == 0


def test_a_forked_process_holds_no_pipe_open_and_keeps_its_output_on_standard_error(run):
    source = """
transport = open_stdio()
pid = os.fork()
if pid == 0:
    private = (*transport.read_fds, transport.write_fd)
    transport.close_after_fork()
    for fd in private:
        try:
            os.fstat(fd)
        except OSError:
            continue
        raise AssertionError
    transport.close()
    print("from the fork", flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
write(transport, b"parent")
transport.close()
"""
    assert run(source) == (b"parent", b"from the fork\n")


def test_standard_input_without_a_buffer_has_read_nothing_ahead(run):
    source = """
import io
sys.__stdin__ = io.TextIOWrapper(io.FileIO(0, closefd=False))
transport = open_stdio()
write(transport, read_all(transport).upper())
transport.close()
"""
    assert run(source, b"echo")[0] == b"ECHO"


def test_what_is_printed_goes_nowhere_once_standard_error_is_closed(run):
    source = """
os.close(2)
transport = open_stdio()
os.write(1, b"printed")
write(transport, read_all(transport).upper())
transport.close()
"""
    assert run(source, b"echo") == (b"ECHO", b"")


def test_copies_that_somebody_else_has_closed_are_not_put_back(run):
    source = """
transport = open_stdio()
os.closerange(3, 10)
transport.close()
os.write(1, b"printed")
open_stdio().close()
"""
    assert run(source, b"echo") == (b"", b"printed")


# What is printed meanwhile


@pytest.fixture
def run_and_kill(monkeypatch):
    """Run lines of Python that end by SIGKILL; return what came out of both streams."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)

    def run_child(source):
        source = PREAMBLE + source + "\nimport signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
        child = subprocess.run(
            [sys.executable, "-W", "error", "-c", source],
            input=b"",
            capture_output=True,
            timeout=30,
        )
        assert child.returncode == -9, child.stderr.decode()
        return child.stdout, child.stderr

    return run_child


WRAPPED = {
    "as it was": "",
    "another encoding": "sys.stdout.reconfigure(encoding='utf-8')",
    "buffer wrapped": "sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')",
    "buffer detached": "sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding='utf-8')",
    "raw wrapped": "sys.stdout = io.TextIOWrapper(sys.stdout.detach().detach(), encoding='utf-8')",
    "codecs": "sys.stdout = codecs.getwriter('utf-8')(sys.stdout.detach())",
    "fdopen": "sys.stdout = os.fdopen(1, 'w', closefd=False)",
    "open": "sys.stdout = open(1, 'w', closefd=False)",
    "stderr": "sys.stdout.detach(); sys.stdout = sys.stderr",
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_each_line_is_out_before_the_process_is_killed(run_and_kill, wrap, when):
    source = f"""
import codecs, io
if {when == "before"}:
    {wrap or "pass"}
transport = open_stdio()
if {when == "after"}:
    {wrap or "pass"}
transport.session_starts()
print("one", 2)
print("three", flush=False)
"""
    assert run_and_kill(source) == (b"", b"one 2\nthree\n")


def test_what_is_printed_to_the_object_that_python_made_is_out_too(run_and_kill):
    source = """
import io
sys.stdout = io.StringIO()
transport = open_stdio()
print("mine")
print("kept", file=sys.__stdout__)
assert sys.stdout.getvalue() == "mine\\n"
"""
    assert run_and_kill(source) == (b"", b"kept\n")


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_a_standard_output_that_was_wrapped_again_is_put_back(run, wrap):
    source = f"""
import codecs, io
{wrap}
print("before")
transport = open_stdio()
write(transport, b"frame ")
print("during")
transport.close()
print("after")
transport = open_stdio()
transport.close()
print("and again")
"""
    stdout, stderr = run(source)
    if "stderr" in wrap:
        assert (stdout, stderr) == (b"frame ", b"before\nduring\nafter\nand again\n")
    else:
        assert (stdout, stderr) == (b"before\nframe after\nand again\n", b"during\n")


def test_output_is_held_back_again_once_the_session_is_closed(run):
    source = """
import codecs
before = sys.stdout.line_buffering
transport = open_stdio()
assert sys.stdout.line_buffering
transport.close()
assert sys.stdout.line_buffering is before is False
sys.stdout = writer = codecs.getwriter("utf-8")(sys.stdout.detach())
transport = open_stdio()
assert "write" in vars(writer)
transport.session_starts()
transport.close()
transport.session_starts()
assert "write" not in vars(writer)
"""
    assert run(source) == (b"", b"")


def test_an_object_that_was_closed_or_detached_meanwhile_is_left_alone(run):
    source = """
import io
transport = open_stdio()
sys.stdout = io.TextIOWrapper(sys.stdout.detach())
print("during")
transport.close()
print("after")
"""
    assert run(source) == (b"after\n", b"during\n")


def test_lines_whose_reader_is_gone_do_not_keep_the_session_from_being_made(run):
    source = """
print("nobody reads this")
transport = open_stdio()
transport.close()
open_stdio().close()
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
"""
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + source],
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
    ) as child:
        os.close(writer)
        _, said = child.communicate(timeout=30)
    assert b"belonged to a session of this process that is over" in said


# Standard input that was wrapped again

READ_AHEAD = {
    "buffer": "f = sys.stdin.buffer",
    "buffer in place of stdin": "f = sys.stdin = sys.stdin.detach()",
    "text": "f = sys.stdin",
    "text wrapped again": (
        "f = sys.stdin = io.TextIOWrapper(sys.stdin.detach(), encoding='latin-1', newline='')"
    ),
    "buffer of text wrapped again": (
        "sys.stdin = io.TextIOWrapper(sys.stdin.detach(), encoding='latin-1'); f = sys.stdin.buffer"
    ),
    "buffer below codecs": ("f = sys.stdin.detach(); sys.stdin = codecs.getreader('utf-8')(f)"),
    "fdopen": "f = sys.stdin = os.fdopen(0, 'rb', closefd=False)",
}


@pytest.mark.parametrize("wrap", READ_AHEAD.values(), ids=READ_AHEAD.keys())
def test_what_was_read_ahead_belongs_to_the_session(run, wrap):
    source = f"""
import codecs, io
{wrap}
assert len(f.readline()) == 9
transport = open_stdio()
write(transport, read_all(transport))
transport.close()
"""
    assert run(source, b"greeting\nframe\r\nand more") == (b"frame\r\nand more", b"")


def test_text_that_was_read_ahead_keeps_a_character_that_is_not_complete(run):
    source = """
import io
sys.stdin = io.TextIOWrapper(sys.stdin.detach(), encoding="utf-8")
assert sys.stdin.readline() == "greeting\\n"
transport = open_stdio()
write(transport, read_all(transport))
"""
    # The first byte of a frame, where the pipe had no more of it.
    assert run(source, "greeting\nfür".encode() + b"\xf3") == ("für".encode() + b"\xf3", b"")


def test_a_standard_input_that_can_only_be_written_to_has_read_nothing_ahead(run):
    source = """
sys.stdin = os.fdopen(0, "w", closefd=False)
transport = open_stdio()
write(transport, read_all(transport))
"""
    assert run(source, b"frame") == (b"frame", b"")


def test_text_that_was_read_ahead_and_cant_be_written_back_keeps_no_session_from_being_made(run):
    source = """
import codecs, io
codecs.register_error("mine", lambda error: ("\ufffd", error.end))
sys.stdin = io.TextIOWrapper(sys.stdin.detach(), encoding="ascii", errors="mine")
assert sys.stdin.readline() == "greeting\\n"
transport = open_stdio()
write(transport, b"up")
"""
    assert run(source, b"greeting\n\xff") == (b"up", b"")


@pytest.mark.parametrize("name", ["stdin", "stdout"])
def test_a_stream_that_was_closed_and_opened_again_is_open(run, name):
    source = f"""
sys.{name}.close()
sys.{name} = os.fdopen({int(name == "stdout")}, {"rw"[name == "stdout"]!r}, closefd=False)
transport = open_stdio()
write(transport, read_all(transport).upper())
transport.close()
"""
    assert run(source, b"echo") == (b"ECHO", b"")


# After the end


def test_what_is_printed_when_the_peer_is_gone_goes_to_standard_error(run):
    source = """
transport = open_stdio()
write(transport, b"frame")
transport.stay_redirected()
transport.close()
print("after")
assert sys.stdin.read() == ""
print("unfinished", end="")
try:
    open_stdio()
except RuntimeError as error:
    assert "that is over" in str(error)
else:
    raise AssertionError
"""
    assert run(source) == (b"frame", b"after\nunfinished")


def test_the_peer_sees_no_end_before_the_process_ends(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    hold, release = os.pipe()
    source = f"""
transport = open_stdio()
transport.stay_redirected()
transport.close()
print("closed")
os.read({hold}, 1)
"""
    with subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[hold],
    ) as child:
        os.close(hold)
        assert child.stderr.readline() == b"closed\n"
        os.set_blocking(child.stdout.fileno(), False)
        assert child.stdout.read() is None  # not b"", which is the end
        os.close(release)
        os.set_blocking(child.stdout.fileno(), True)
        assert child.stdout.read() == b""


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_nothing_fails_for_want_of_a_reader(monkeypatch, told):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    source = f"""
transport = open_stdio()
write(transport, b"up")
assert read_all(transport) == b""
if {told}:
    transport.stay_redirected()
transport.close()
print("nobody reads this")
print("nor this", end="")
"""
    with subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout.read(2) == b"up"
        # As when the parent is killed, whose descriptors the kernel closes at the same time.
        child.stdout.close()
        child.stderr.close()
        child.stdin.close()
    assert child.returncode == 0


def test_an_end_without_readers_and_without_descriptors_is_one(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    source = """
import resource
transport = open_stdio()
write(transport, b"up")
assert read_all(transport) == b""
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
transport.stay_redirected()
transport.close()
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
"""
    with subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout.read(2) == b"up"
        child.stdout.close()
        child.stderr.close()
        child.stdin.close()
    assert child.returncode == 0


def test_a_file_is_put_back_whoever_is_gone(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    source = """
transport = open_stdio()
transport.stay_redirected()
transport.close()
print("after")
"""
    with open(tmp_path / "out", "wb") as out:
        subprocess.run(
            [sys.executable, "-c", PREAMBLE + source],
            stdin=subprocess.DEVNULL,
            stdout=out,
            check=True,
            timeout=30,
        )
    assert (tmp_path / "out").read_text() == "after\n"
