"""What came instead of a frame, as the error of a request tells it."""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from streamipc import IpcPeer, LogMessage
from streamipc.engine.junk import PATIENCE, JunkLines, JunkSeen
from streamipc.protocol.framing import MAGIC, Junk


def test_nothing_is_said_where_nothing_came() -> None:
    assert JunkSeen().text(0.0, b"") == ""


def test_what_came_before_the_request_is_not_told() -> None:
    seen = JunkSeen()
    seen.add(b"early")
    since = time.monotonic()
    while time.monotonic() == since:
        pass
    assert seen.text(time.monotonic(), b"") == ""
    seen.add(b"first\n")
    seen.add(b"second\n")
    assert seen.text(since, b"") == (
        "; instead came 13 bytes that are no frame, beginning with b'first\\n'"
    )


def test_what_is_not_known_to_be_junk_yet_is_told_too() -> None:
    seen = JunkSeen()
    assert "3 bytes that are no frame, beginning with b'end'" in seen.text(0.0, b"end")
    seen.add(b"first")
    assert "8 bytes that are no frame, beginning with b'first'" in seen.text(0.0, b"end")


def test_the_text_is_short_and_plain_whatever_came() -> None:
    seen = JunkSeen()
    for _ in range(1000):
        seen.add(b"\x1b[2J\xff" * 10_000)
    text = seen.text(0.0, b"")
    assert len(text) < 600
    assert text.isascii()
    assert text.isprintable()
    assert len(seen.text(0.0, b"\0" * 10_000)) < 600


def test_the_echo_of_a_terminal_is_called_by_its_name() -> None:
    seen = JunkSeen()
    seen.add(MAGIC + b"^@^@^@C^A")
    assert "as if a terminal stood between the two sides" in seen.text(0.0, b"")
    assert "terminal" not in JunkSeen().text(0.0, MAGIC + b"\xff\xff\xff\xff")


def test_each_line_has_its_own_time_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("streamipc.engine.junk.time", clock)
    handed_out: list[str] = []
    reminders: list[float] = []
    lines = JunkLines(threading.Lock(), handed_out.append, lambda due, _: reminders.append(due))

    def pass_time() -> None:
        """Have a third of a line's time pass, and what was asked for meanwhile happen."""
        now[0] += PATIENCE / 3
        while reminders and reminders[0] <= now[0]:
            reminders.pop(0)
            lines.time_is_over()

    lines.received(Junk(b"one "))
    for _ in range(12):
        pass_time()
        lines.received(Junk(b"line\none "))
    pass_time()
    assert handed_out == ["one line"] * 12
    assert lines.lingers
    for _ in range(3):
        pass_time()
    assert handed_out == ["one line"] * 12 + ["one "]
    assert not lines.lingers


def test_a_line_that_has_no_end_is_handed_out_after_a_while(eventually: Any) -> None:
    (read, write), (other, ours) = os.pipe(), os.pipe()
    lines: list[str] = []
    with IpcPeer().create_stream_session(ours, read) as session:
        session.on_message(LogMessage)(lambda msg: lines.append(msg.message))
        session.start()
        os.write(write, b"whole\nbegun")
        eventually(lambda: len(lines) == 2)
        os.close(write)
    os.close(other)
    assert lines == ["whole", "begun"]
