"""A terminal as standard input: whoever sits before it is told, and its keys work."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import textwrap
from pathlib import Path

import pytest

from streamipc.protocol.framing import MAGIC
from streamipc.transports import _terminal

REPOSITORY = Path(__file__).resolve().parents[3]
SUPPORT = REPOSITORY / "tests" / "support"

CHILD = """
import signal, sys
from shared_messages import Echo
from streamipc import IpcPeer, IpcSession, SyncIpcSession

signal.signal(signal.SIGINT, signal.default_int_handler)
kind = SyncIpcSession if "sync" in sys.argv else IpcSession
session = IpcPeer(session_type=kind).create_stdio_session()

@session.on_request
def echo(msg: Echo) -> object:
    return msg.value

session.serve_forever()
print("served")
"""


def _take_controlling_terminal():
    import fcntl

    fcntl.ioctl(2, termios.TIOCSCTTY, 0)


class Terminal:
    """A child in a terminal of its own, and what stands there."""

    def __init__(self, *command, **streams):
        self.fd, slave = pty.openpty()
        self.slave = slave  # held, so that settings can be looked at
        self.child = subprocess.Popen(
            command,
            stdin=streams.get("stdin", slave),
            stdout=streams.get("stdout", slave),
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_controlling_terminal,
        )
        self.text = ""

    def until(self, text):
        while text not in self.text:
            assert select.select([self.fd], [], [], 20)[0], self.text
            self.text += os.read(self.fd, 1 << 12).decode(errors="replace")
        return self.text

    def is_raw(self):
        return not termios.tcgetattr(self.slave)[3] & termios.ISIG

    def press(self, key):
        os.write(self.fd, key)

    def end(self):
        return self.child.wait(30)


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), str(SUPPORT)]))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    made = []

    def start(source=CHILD, *arguments, **streams):
        file = tmp_path / "child.py"
        file.write_text(textwrap.dedent(source))
        made.append(Terminal(sys.executable, str(file), *arguments, **streams))
        return made[-1]

    yield start
    for one in made:
        one.child.kill()
        one.child.wait()
        os.close(one.fd)
        os.close(one.slave)


KINDS = pytest.mark.parametrize("kind", ["threads", "sync"])


@KINDS
@pytest.mark.parametrize(
    ("key", "status"),
    [(b"\x03", -signal.SIGINT), (b"\x04", 0), (b"\x1c", -signal.SIGQUIT)],
    ids=["Ctrl-C", "Ctrl-D", "Ctrl-backslash"],
)
@pytest.mark.parametrize("before", [b"", b"hello\r"], ids=["at once", "after a line"])
def test_a_child_that_was_started_by_hand_says_so_and_ends_by_a_key(
    terminal, eventually, kind, key, status, before
):
    typed = terminal(CHILD, kind)
    said = typed.until("ends it.")
    assert "child.py is the child's side of a streamipc session" in said
    assert "IpcPeer().create_command_session([sys.executable, " in said
    eventually(typed.is_raw)  # it serves
    typed.press(before + key)
    assert typed.end() == status
    assert not typed.is_raw()
    if key == b"\x04":
        typed.until("served")


def test_ctrl_c_ends_a_child_that_has_not_started_its_session_yet(terminal):
    typed = terminal("""
        import signal, time
        from streamipc import IpcPeer
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        IpcPeer().create_stdio_session()
        time.sleep(60)
    """)
    typed.until("ends it.")
    assert not typed.is_raw()
    typed.press(b"\x03")
    assert typed.end() == -signal.SIGINT


def test_keys_are_keys_until_a_frame_arrives(terminal, eventually):
    typed = terminal("""
        import sys, termios
        from streamipc.transports.stdio import open_stdio

        def read():
            return bytes(buffer[:transport.read_into(buffer)])

        buffer = memoryview(bytearray(100))
        before = termios.tcgetattr(0)
        transport = open_stdio()
        transport.session_starts()
        read_first = read()
        print("read", read_first, file=sys.stderr, flush=True)
        frames = b""
        while len(frames) < 9:
            frames += read()
            print("read", frames, file=sys.stderr, flush=True)
        transport.close()
        assert termios.tcgetattr(0) == before
        print("served")
    """)
    typed.until("ends it.")
    eventually(typed.is_raw)
    typed.press(b"hello")
    typed.until("read b'hello'")
    typed.press(MAGIC + b"\x00\x03\x04")
    typed.until(f"read {MAGIC + bytes((0, 3, 4))!r}")
    typed.press(b"\x03\x04")
    typed.until("served")
    assert typed.end() == 0


def test_a_program_in_the_background_leaves_the_terminal_as_it_is(terminal):
    typed = terminal("""
        import os, subprocess, sys, textwrap
        source = '''
        import termios
        from streamipc.transports.stdio import open_stdio
        before = termios.tcgetattr(2)
        transport = open_stdio()
        transport.session_starts()
        assert termios.tcgetattr(2) == before
        transport.close()
        '''
        command = [sys.executable, "-c", textwrap.dedent(source)]
        child = subprocess.run(command, preexec_fn=os.setpgrp, timeout=30)
        print("ended", child.returncode)
    """)
    typed.until("ends it.")
    typed.until("ended 0")
    assert typed.end() == 0


@pytest.mark.parametrize("other", ["stdin", "stdout"])
def test_it_is_enough_that_one_of_the_two_is_the_terminal(terminal, eventually, other):
    reader, writer = os.pipe()
    source = CHILD.replace("session.serve_forever()", "print('up')\n" + "session.serve_forever()")
    typed = terminal(source, **{other: reader if other == "stdin" else writer})
    typed.until("up")
    if other == "stdout":
        typed.until("ends it.")
        eventually(typed.is_raw)
    typed.press(b"\x03")
    assert typed.end() == -signal.SIGINT
    os.close(reader)
    os.close(writer)


def test_a_program_that_was_interrupted_and_goes_on_has_its_terminal_back(terminal, eventually):
    typed = terminal("""
        import signal, time
        from streamipc import IpcPeer
        signal.signal(signal.SIGINT, signal.default_int_handler)
        session = IpcPeer().create_stdio_session()
        try:
            session.serve_forever()
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            print("interrupted")
        time.sleep(60)
    """)
    typed.until("ends it.")
    eventually(typed.is_raw)
    typed.press(b"\x03")
    typed.until("interrupted")
    assert not typed.is_raw()
    typed.press(b"\x03")
    assert typed.end() == -signal.SIGINT


@KINDS
def test_a_program_may_hold_the_other_side_of_the_terminal(terminal, eventually, kind):
    from shared_messages import Echo

    from streamipc import IpcPeer, LogMessage

    held = terminal(CHILD, kind)
    held.until("ends it.")
    eventually(held.is_raw)  # or what is sent is echoed, and keys are taken out of it
    fd = os.dup(held.fd)
    with IpcPeer().create_stream_session(fd, fd) as session:
        session.on_message(LogMessage)(lambda msg: None)
        text = "\x03\x04\x1c\x1a\r\n\x00" * 100
        assert session.request(Echo(text)).result(timeout=20) == text
        assert session.request(Echo(text)).result(timeout=20) == text


def test_a_terminal_that_a_program_has_made_raw_is_not_typed_into(terminal):
    from shared_messages import Echo

    from streamipc import IpcPeer

    held = terminal("import os, sys; sys.stdin.readline()\n" + CHILD)
    fd = os.dup(held.fd)
    with IpcPeer().create_stream_session(fd, fd) as session:
        held.press(b"\n")
        assert session.request(Echo("\x03")).result(timeout=20) == "\x03"
        assert session.stats.junk == 0


# What is said


@pytest.mark.parametrize(
    ("argv", "module", "name", "arguments"),
    [
        (["/usr/bin/child.py", "x"], None, "child.py", '"/usr/bin/child.py"'),
        (["-c"], None, "This program", "..."),
        ([""], None, "This program", "..."),
        ([], None, "This program", "..."),
        (["/somewhere/app/child.py"], "app.child", "app.child", '"-m", "app.child"'),
        (["/somewhere/app/__main__.py"], "app.__main__", "app", '"-m", "app"'),
    ],
)
def test_the_text_says_how_the_program_was_started(
    monkeypatch, capsys, argv, module, name, arguments
):
    from importlib.machinery import ModuleSpec

    monkeypatch.setattr(sys, "argv", argv)
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", ModuleSpec(module, None) if module else None)
    _terminal.say_what_this_is()
    said = capsys.readouterr().err
    assert said.startswith(f"{name} is the child's side")
    assert f"create_command_session([sys.executable, {arguments}])" in said


def test_nobody_is_told_where_there_is_no_standard_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    _terminal.say_what_this_is()


# Which terminal, and which key


def test_a_terminal_of_others_a_pipe_and_a_closed_descriptor_are_not_typed_into():
    master, slave = pty.openpty()
    reader, writer = os.pipe()
    assert not any(map(_terminal.is_by_hand, (master, slave, reader, writer)))
    assert not any(map(_terminal.is_in_foreground, (slave, reader, writer)))
    for fd in (master, slave, reader, writer):
        os.close(fd)
    assert not _terminal.is_by_hand(writer)


@pytest.fixture
def slave():
    master, slave = pty.openpty()
    yield slave
    os.close(master)
    os.close(slave)


def test_the_terminals_own_keys_are_found(slave):
    settings = termios.tcgetattr(slave)
    settings[6][termios.VINTR] = b"\x18"
    settings[6][termios.VQUIT] = b"\0"  # switched off
    termios.tcsetattr(slave, termios.TCSANOW, settings)
    keys = _terminal.Keys(slave)
    assert keys.pressed(b"abc \x03\x1c\0") is None
    assert keys.pressed(b"abc \x1a\x18") == signal.SIGTSTP
    assert keys.pressed(b"abc \x18\x1a") == signal.SIGINT
    assert keys.pressed(b"\x04\x18") == 0
    assert keys.pressed(b"") is None


def test_no_key_is_found_in_a_frame_nor_after_it(slave):
    assert _terminal.FRAME == MAGIC
    for cut in range(1, 5):
        keys = _terminal.Keys(slave)
        assert keys.pressed(b"motd\r\n" + MAGIC[:cut]) is (-1 if cut == 4 else None) or cut == 4
        assert keys.pressed(MAGIC[cut:] + b"\x03") == (-1 if cut < 4 else signal.SIGINT)
