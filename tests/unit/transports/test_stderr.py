from __future__ import annotations

import contextlib
import logging
import os
import pty
import sys

import pytest

from streamipc.transports._stderr import StderrSink, quoted


@pytest.fixture
def fd2():
    """``with fd2(fd):`` makes ``fd`` our standard error; -1: none."""

    @contextlib.contextmanager
    def replaced(fd):
        saved = os.dup(2)
        if fd < 0:
            os.close(2)
        else:
            os.dup2(fd, 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)

    return replaced


def fill(writer):
    os.set_blocking(writer, False)
    total = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            total += os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    return total


def test_the_tail_is_bounded_by_lines_and_by_bytes():
    sink = StderrSink(False, None, "")
    assert sink.tail == ""
    sink.feed(b"".join(b"line %d\n" % number for number in range(100)))
    assert sink.tail.splitlines() == [f"line {number}" for number in range(80, 100)]
    sink.feed(b"x" * 100_000)
    assert sink.tail == "x" * 8192


def test_bytes_that_are_no_text_are_shown_in_the_tail():
    sink = StderrSink(False, None, "")
    sink.feed(b"caf\xe9")
    assert sink.tail == "caf\\xe9"


def test_lines_are_put_together_from_pieces():
    lines = []
    sink = StderrSink(False, lines.append, "")
    for piece in (b"on", b"e\r\ntw", b"o\n\nthr"):
        sink.feed(piece)
    assert lines == ["one", "two", ""]
    sink.finish()
    sink.finish()
    assert lines == ["one", "two", "", "thr"]


def test_a_line_without_an_end_comes_in_pieces():
    lines = []
    sink = StderrSink(False, lines.append, "")
    sink.feed(b"x" * 200_000)
    sink.finish()
    assert "".join(lines) == "x" * 200_000
    assert max(map(len, lines)) == 1 << 16


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_callback_that_fails_is_logged_and_called_again(caplog, error):
    lines = []

    def on_line(line):
        lines.append(line)
        raise error("no")

    sink = StderrSink(False, on_line, "the child 'x'")
    with caplog.at_level(logging.ERROR, "streamipc"):
        sink.feed(b"one\ntwo\n")
    assert lines == ["one", "two"]
    assert "the callback for the standard error of the child 'x' failed" in caplog.text
    assert f"{error.__name__}: no" in caplog.text


def test_what_a_full_pipe_does_not_take_waits_and_the_rest_is_counted(fd2):
    reader, writer = os.pipe()
    filled = fill(writer)
    sink = StderrSink(True, None, "the child 'x'")
    with fd2(writer):
        sink.feed(b"y" * 300_000)
        assert sink.wants_to_write
        received = b""
        while sink.wants_to_write:
            received += os.read(reader, 1 << 20)
            sink.write_waiting()
        received += os.read(reader, 1 << 20)
    kept = 256 << 10
    assert received[filled:] == (
        b"y" * kept
        + b"[streamipc: %s bytes of the child 'x' lost]\n" % f"{300_000 - kept:,}".encode()
    )
    os.close(reader)
    os.close(writer)


def test_a_closed_standard_error_is_given_up_quietly(fd2):
    sink = StderrSink(True, None, "")
    with fd2(-1):
        sink.feed(b"nowhere")
    assert not sink.wants_to_write
    assert sink.tail == "nowhere"


def test_a_full_disk_is_given_up_quietly(fd2):
    sink = StderrSink(True, None, "")
    with open("/dev/full", "wb", buffering=0) as full, fd2(full.fileno()):
        sink.feed(b"x" * 1_000_000)
    assert not sink.wants_to_write


def test_a_pipe_that_nobody_reads_any_more_is_given_up_quietly(fd2):
    reader, writer = os.pipe()
    os.close(reader)
    sink = StderrSink(True, None, "")
    with fd2(writer):
        sink.feed(b"nowhere")
    assert not sink.wants_to_write
    os.close(writer)


def test_a_non_blocking_pipe_that_is_full_is_tried_again(fd2, monkeypatch):
    reader, writer = os.pipe()
    fill(writer)
    os.set_blocking(writer, False)
    monkeypatch.setattr("streamipc.transports._stderr._writable", lambda fd: True)
    sink = StderrSink(True, None, "")
    with fd2(writer):
        sink.feed(b"later")
        assert sink.wants_to_write
    os.close(reader)
    os.close(writer)


def test_a_file_and_a_terminal_take_all(fd2, tmp_path):
    with (tmp_path / "log").open("wb") as file, fd2(file.fileno()):
        StderrSink(True, None, "").feed(b"x" * 100_000)
    assert (tmp_path / "log").stat().st_size == 100_000
    master, slave = pty.openpty()
    with fd2(slave):
        StderrSink(True, None, "").feed(b"y" * 1000)
    # The kernel carries bytes from one end of a terminal to the other in its own time and
    # pieces, so one read may find a part of them.
    received = b""
    while len(received) < 1000:
        received += os.read(master, 2000)
    os.close(master)
    os.close(slave)
    assert received == b"y" * 1000


def test_a_file_that_happens_to_have_number_two_is_not_written_to(fd2, monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "__stderr__", None)
    with fd2(writer):
        StderrSink(True, None, "").feed(b"x")
    os.close(writer)
    assert os.read(reader, 10) == b""
    os.close(reader)


def test_the_last_lines_are_quoted_and_can_be_made_harmless():
    tail = "one\ttab \x1b[2J\rü\x00\ntwo"

    assert quoted("") == ""
    assert quoted("one\ntwo") == "; the last lines of its standard error:\n    one\n    two"
    assert quoted(tail, printable=True).splitlines()[1:] == [
        "    one\ttab \\x1b[2J\\rü\\x00",
        "    two",
    ]
