"""Whatever the other side does, the session says what it saw and goes on, or ends clearly."""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shared_messages import Add, Echo, Note, SayHello

from streamipc import (
    IpcPeer,
    JsonMessageSerializer,
    Limits,
    LogMessage,
    NativeMessageSerializer,
    ProtocolError,
    RemoteError,
    RequestTimeoutError,
    SerializationError,
    SessionClosedError,
)
from streamipc.protocol.envelopes import Notification, Request

Script = Callable[..., list[str]]

MAGIC = b"\xf3\x4a\x9d\xe2"

# Children


FOREIGN = """
import json, os, sys

def frame(text):
    data = text if isinstance(text, bytes) else text.encode()
    return b"\\xf3\\x4a\\x9d\\xe2" + len(data).to_bytes(4, "big") + data

def reply(id, value):
    return frame(json.dumps({"kind": "response", "id": id, "body": value}))

def read_request():
    head = sys.stdin.buffer.read(8)
    if len(head) < 8:
        sys.exit()
    return json.loads(sys.stdin.buffer.read(int.from_bytes(head[4:], "big")))

def write(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
"""
"""A child that is not ours: it speaks the JSON serializer by hand."""


def json_peer(**options: Any) -> IpcPeer:
    return IpcPeer(JsonMessageSerializer(), **options)


def test_a_child_that_prints_between_frames_is_understood(script: Script) -> None:
    command = script(
        FOREIGN
        + """
write(b"Welcome to the child!\\n")
write(reply(read_request()["id"], "one") + b"a warning\\n")
write(b"\\xf3\\x4a" + reply(read_request()["id"], "two") + b"bye\\n")
read_request()
"""
    )
    with json_peer().create_command_session(command) as session:
        assert session.request(Echo()).result(timeout=10) == "one"
        assert session.request(Echo()).result(timeout=10) == "two"
        junk = [session.receive(timeout=10) for _ in range(4)]
        lines = ["Welcome to the child!", "a warning", "\ufffdJ", "bye"]
        assert junk == [LogMessage(line, "junk") for line in lines]
        assert session.stats.junk == len(b"Welcome to the child!\na warning\n\xf3\x4abye\n")
        assert session.stats.frames_received == 2


def test_a_child_that_prints_inside_of_a_frame_loses_that_frame_alone(script: Script) -> None:
    command = script(
        FOREIGN
        + """
whole = reply(read_request()["id"], "lost" * 10)
write(whole[:20] + b"printed" + whole[20:])
write(reply(read_request()["id"], "found"))
read_request()
"""
    )
    with json_peer().create_command_session(command) as session:
        lost = session.request(Echo(), timeout=20)
        # Its id could be read, so its caller gets the reason; or it can't, and it times out.
        with pytest.raises((SerializationError, RequestTimeoutError)):
            lost.result(timeout=0.5)
        assert session.request(Echo()).result(timeout=10) == "found"


def test_print_in_a_child_of_ours_goes_to_standard_error(script: Script) -> None:
    command = script("""
        import os, subprocess, sys
        print("before")
        from shared_messages import Echo
        from streamipc import IpcPeer
        session = IpcPeer().create_stdio_session()

        @session.on_request
        def echo(msg: Echo) -> object:
            print("in the handler", flush=True)
            os.write(1, b"by number\\n")
            subprocess.run([sys.executable, "-c", "print('grandchild'); input()"], stderr=-3)
            return [sys.stdin.read(), msg.value]

        session.serve_forever()
    """)
    with IpcPeer().create_command_session(command, stderr=None) as session:
        assert session.request(Echo(1)).result(timeout=20) == ["", 1]
        assert session.receive(timeout=10) == LogMessage("before", "junk")
        assert session.stats.junk == len(b"before\n")


@pytest.mark.usefixtures("exit_status_is_waited_for")
@pytest.mark.parametrize(
    ("source", "returncode"),
    [("", 0), ("import sys; sys.exit(3)", 3), ("import os; os._exit(4)", 4)],
)
def test_a_child_that_exits_at_once_ends_the_session(
    script: Script, source: str, returncode: int
) -> None:
    with IpcPeer().create_command_session(script(source)) as session:
        with pytest.raises(SessionClosedError, match=f"exited with code {returncode}") as caught:
            session.request(Echo()).result(timeout=10)
        assert caught.value.returncode == returncode
        assert caught.value.signal is None
        with pytest.raises(SessionClosedError, match=f"exited with code {returncode}"):
            session.notify(Note())
        with pytest.raises(SessionClosedError):
            session.receive(timeout=10)


@pytest.mark.usefixtures("exit_status_is_waited_for")
def test_a_child_that_exits_with_a_traceback_shows_it(script: Script, capfd: Any) -> None:
    command = script("import sys; sys.stdin.buffer.read(1); import no_such_module")
    with (
        IpcPeer().create_command_session(command) as session,
        pytest.raises(SessionClosedError) as caught,
    ):
        session.request(Echo()).result(timeout=10)

    error = caught.value
    assert "no reply to shared_messages.Echo" in str(error)
    assert "exited with code 1" in str(error)
    assert "No module named 'no_such_module'" in str(error)
    assert error.returncode == 1
    assert error.stderr_tail.endswith("No module named 'no_such_module'")
    assert session.returncode == 1
    assert session.stderr_tail == error.stderr_tail
    assert "No module named 'no_such_module'" in capfd.readouterr().err


@pytest.mark.usefixtures("exit_status_is_waited_for")
@pytest.mark.skipif(os.name != "posix", reason="Windows has no signals")
def test_a_child_killed_in_the_middle_of_a_frame_fails_what_is_pending(script: Script) -> None:
    command = script(
        FOREIGN
        + """
import signal
whole = reply(read_request()["id"], "x" * 1000)
write(whole[:500])
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    with json_peer().create_command_session(command) as session:
        with pytest.raises(SessionClosedError, match="was killed by SIGKILL") as caught:
            session.request(Echo()).result(timeout=10)
        assert caught.value.returncode == -9
        assert caught.value.signal == "SIGKILL"


def test_a_child_that_never_answers_meets_the_deadline(script: Script) -> None:
    command = script("import sys; sys.stdin.buffer.read()")
    with IpcPeer().create_command_session(command) as session:
        with pytest.raises(RequestTimeoutError, match=r"Echo \(request 1\) within 0.1 s"):
            session.request(Echo(), timeout=0.1).result()
        session.notify(Note())
        assert session.stats.pending == 0
        assert not session.closed


def test_a_child_that_never_reads_lets_requests_time_out(script: Script) -> None:
    command = script("import time; time.sleep(60)")
    peer = IpcPeer()
    session = peer.create_command_session(command)
    futures = [session.request(Echo("x" * 600_000), timeout=0.1) for _ in range(5)]
    for future in futures:
        with pytest.raises(RequestTimeoutError):
            future.result(timeout=10)
    session.close(timeout=0)
    assert session.returncode is not None


def test_a_child_that_closes_stdout_but_lives_on_fails_what_is_pending(script: Script) -> None:
    command = script("""
        import os, sys
        sys.stdin.buffer.read(8)
        os.close(1)
        sys.stdin.buffer.read()
    """)
    with (
        IpcPeer().create_command_session(command) as session,
        pytest.raises(
            SessionClosedError, match=r"the peer closed the connection: .*\) is still running"
        ),
    ):
        session.request(Echo()).result(timeout=10)
    assert session.returncode == 0


def test_a_child_that_closes_stdin_but_lives_on_ends_the_session(script: Script) -> None:
    command = script("""
        import os, time
        os.close(0)
        os.write(2, b"closed\\n")
        time.sleep(60)
    """)
    closed = threading.Event()
    session = IpcPeer().create_command_session(command, stderr=lambda line: closed.set())
    session.start()
    assert closed.wait(10)
    with pytest.raises(SessionClosedError, match=r"no longer reads.*\) is still running"):
        session.request(Echo()).result(timeout=10)
    with pytest.raises(SessionClosedError):
        session.notify(Note())
    session.close(timeout=0)
    assert session.returncode is not None


def test_a_command_that_does_not_exist_raises_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-command"):
        IpcPeer().create_command_session([str(tmp_path / "no-such-command")])


def test_a_command_that_is_not_executable_raises_at_once(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_text("no program")
    with pytest.raises(PermissionError):
        IpcPeer().create_command_session([str(file)])


def test_a_directory_that_does_not_exist_raises_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        IpcPeer().create_command_session([sys.executable], cwd=tmp_path / "nowhere")


# Frames


def lives(wire: Any) -> None:
    """Assert that a request still gets its reply."""
    wire.ask(999, "still there?")
    heard = wire.hear()
    assert (heard["kind"], heard["id"], heard["body"]) == ("response", 999, "still there?")


@pytest.fixture
def served(wire: Any) -> Any:
    """A wire whose session answers LogMessages with their text, and keeps exceptions."""
    wire.errors = []
    wire.error_came = threading.Semaphore(0)

    @wire.session.on_request
    def answer(msg: LogMessage) -> str:
        return msg.message

    @wire.session.on_exception
    def keep(error: Exception) -> None:
        wire.errors.append(error)
        wire.error_came.release()

    wire.session.start()
    return wire


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"garbage",
        b"\0" * 100,
        b"{",
        b"null",
        b"[1,2]",
        b'{"kind":7}',
        b'{"kind":"request"}',
        b'{"kind":"response","id":[]}',
        b'{"kind":"cancel","id":null}',
        b'{"kind":"notification","type":"no.such.Type","body":{}}',
        b"[" * 100_000,
        b"\xff\xfe",
        pickle.dumps(print),
        b"".join(NativeMessageSerializer().encode(Notification(LogMessage("native")))),
    ],
    ids=lambda payload: repr(payload[:30]),
)
def test_a_frame_that_means_nothing_is_reported_and_the_session_lives(
    served: Any, payload: bytes
) -> None:
    served.write(served.frame(payload))
    assert served.error_came.acquire(timeout=10)

    (error,) = served.errors
    assert isinstance(error, SerializationError)
    assert served.session.stats.junk == 0
    assert served.session.stats.unreadable == 1
    lives(served)


def test_bad_frames_that_nobody_has_time_for_are_counted_and_not_kept(
    wire: Any, eventually: Any
) -> None:
    release = threading.Event()
    reported: list[BaseException] = []

    @wire.session.on_exception
    def report(error: BaseException) -> None:
        release.wait(60)
        reported.append(error)

    wire.session.start()
    wire.write(wire.frame(b"{]") * 3_000)
    eventually(lambda: wire.session.stats.unreadable == 3_000)
    release.set()
    wire.session.close()

    assert 1_024 <= len(reported) < 1_100


def test_a_payload_of_json_meets_the_native_serializer(
    connected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    asking, answering = connected(json_peer(), IpcPeer())
    errors: list[BaseException] = []
    came = threading.Event()
    answering.on_exception(lambda error: (errors.append(error), came.set()))
    answering.start()

    with pytest.raises(SerializationError, match="same serializer"):
        asking.request(Echo(1), timeout=60).result(timeout=30)
    assert came.wait(10)
    assert isinstance(errors[0], SerializationError)
    assert "JSON" in str(errors[0]) or "json" in str(errors[0])


@pytest.mark.parametrize(
    ("type_", "body", "says"),
    [
        ("no.such.Type", {}, "no.such.Type"),
        ("no.such." + "T" * 600, {}, "no.such"),
        ("shared_messages.Add", {"a": 1, "b": "x"}, "body.b"),
        ("shared_messages.Add", {"a": 1}, "b"),
        ("shared_messages.Add", {"a": 1, "b": None}, "body.b"),
        ("shared_messages.Add", [], "body"),
        ("shared_messages.Add", {"a": 1, "b": 2.5}, "body.b"),
    ],
)
@pytest.mark.parametrize("max_frame_size", [1024, 1 << 20])
def test_a_request_that_cant_be_read_is_answered_and_the_session_lives(
    make_wire: Any, type_: str, body: Any, says: str, max_frame_size: int
) -> None:
    wire = make_wire(max_frame_size=max_frame_size)
    wire.session.on_request(Add)(lambda msg: msg.a + msg.b)
    wire.session.on_request(LogMessage)(lambda msg: msg.message)
    wire.session.start()
    wire.say(kind="request", id=5, type=type_, body=body)
    heard = wire.hear()

    assert (heard["kind"], heard["id"], heard["code"]) == ("error", 5, "serialization")
    assert says in heard["body"]["message"]
    lives(wire)


def test_an_oversized_request_is_answered_and_skipped(make_wire: Any) -> None:
    wire = make_wire(max_frame_size=2000)
    wire.session.on_request(LogMessage)(lambda msg: msg.message)
    wire.session.start()
    wire.ask(5, "x" * 300_000)
    heard = wire.hear()

    assert (heard["kind"], heard["id"], heard["code"]) == ("error", 5, "protocol")
    assert "max_frame_size is 2,000" in heard["body"]["message"]
    lives(wire)


def test_an_oversized_notification_is_reported(make_wire: Any) -> None:
    wire = make_wire(max_frame_size=2000)
    errors: list[BaseException] = []
    came = threading.Event()
    wire.session.on_exception(lambda error: (errors.append(error), came.set()))
    wire.session.on_request(LogMessage)(lambda msg: msg.message)
    wire.session.start()
    wire.tell("x" * 300_000)

    assert came.wait(10)
    assert isinstance(errors[0], ProtocolError)
    lives(wire)


def test_an_oversized_reply_fails_its_request(make_wire: Any) -> None:
    wire = make_wire(max_frame_size=2000)
    future = wire.session.request(Echo())
    wire.say(kind="response", id=wire.hear()["id"], body="x" * 300_000)

    with pytest.raises(ProtocolError, match="max_frame_size is 2,000"):
        future.result(timeout=10)


def test_a_truncated_frame_at_the_end_of_the_stream_is_shown_as_junk(wire: Any) -> None:
    future = wire.session.request(Echo())
    wire.write(wire.frame(b"x" * 100)[:50])
    wire.hang_up()

    with pytest.raises(SessionClosedError, match="the peer closed the connection"):
        future.result(timeout=10)
    message = wire.session.receive(timeout=10)
    assert message.level == "junk"
    assert message.message.endswith("x" * 42)
    with pytest.raises(SessionClosedError):
        wire.session.receive(timeout=10)


def test_junk_is_seen_by_handlers_too(wire: Any) -> None:
    seen: list[LogMessage] = []
    came = threading.Event()

    @wire.session.on_message
    def log(msg: LogMessage) -> None:
        seen.append(msg)
        came.set()

    wire.session.start()
    wire.write(b"hello\n")
    assert came.wait(10)
    assert seen == [LogMessage("hello", "junk")]


def test_junk_is_handed_out_in_lines_however_it_comes(wire: Any) -> None:
    wire.session.start()
    wire.write(b"line one")
    wire.write(b"\nline two\r\n\nthe last")
    got = [wire.session.receive(timeout=10) for _ in range(4)]

    assert [message.message for message in got] == ["line one", "line two", "", "the last"]


def test_a_frame_ends_a_line_of_junk(wire: Any) -> None:
    wire.session.start()
    wire.write(b"before")
    wire.tell("a note")
    wire.write(b"after")
    got = [wire.session.receive(timeout=10) for _ in range(3)]

    assert got == [LogMessage("before", "junk"), LogMessage("a note"), LogMessage("after", "junk")]


def test_very_many_short_lines_of_junk_cost_no_message_each(wire: Any, eventually: Any) -> None:
    wire.session.start()
    wire.write(b"\n" * 60_000)
    eventually(lambda: wire.session.stats.junk == 60_000)

    assert wire.session.stats.dropped < 30_000


def test_a_reply_nobody_asked_for_is_counted(served: Any) -> None:
    served.say(kind="response", id=77, body=1)
    lives(served)
    assert served.session.stats.late == 1


def test_an_id_used_twice_is_reported_and_answered_once(served: Any) -> None:
    go = threading.Event()
    served.session.on_request(Echo)(lambda msg: go.wait(10))
    for _ in range(2):
        served.say(kind="request", id=5, type="shared_messages.Echo", body={"value": 1})
    assert served.error_came.acquire(timeout=10)
    go.set()

    assert served.hear()["id"] == 5
    assert isinstance(served.errors[0], ProtocolError)
    lives(served)


def test_a_cancel_for_nothing_is_ignored(served: Any) -> None:
    served.say(kind="cancel", id=5)
    served.say(kind="credit", id=5, count=1)
    lives(served)
    assert served.errors == []


def test_a_pickle_that_names_a_function_is_refused_and_nothing_is_called(
    tmp_path: Path, connected: Any
) -> None:
    proof = tmp_path / "proof"

    class Evil:
        def __reduce__(self) -> Any:
            return (os.system, (f"touch {proof}",))

    # The frame of a real request, its body exchanged for one of the same size.
    bomb = pickle.dumps(Evil(), 5)
    filler = b"A" * 64
    envelope = Request(1, Echo(filler.decode()))
    honest = b"".join(bytes(part) for part in NativeMessageSerializer().encode(envelope))
    position = honest.index(b"\x80\x05")
    forged = honest[:position] + bomb
    incoming, theirs_out = os.pipe()
    theirs_in, outgoing = os.pipe()
    with (
        IpcPeer().create_stream_session(theirs_out, theirs_in) as session,
        open(incoming, "rb", buffering=0) as answers,
        open(outgoing, "wb", buffering=0) as requests,
    ):
        session.on_request(Echo)(lambda msg: msg.value)
        requests.write(MAGIC + len(forged).to_bytes(4, "big") + forged)
        requests.write(MAGIC + len(honest).to_bytes(4, "big") + honest)
        head = answers.read(8)
        refusal = answers.read(int.from_bytes(head[4:], "big"))
        head = answers.read(8)
        reply = answers.read(int.from_bytes(head[4:], "big"))

    assert b"SerializationError" in refusal
    assert filler in reply
    assert not proof.exists()


# Handlers in a real child


BAD_HANDLERS = """
    import sys
    from shared_messages import Echo
    from streamipc import IpcPeer

    session = IpcPeer().create_stdio_session()

    async def coroutine():
        return 1

    @session.on_request
    def echo(msg: Echo) -> object:
        if msg.value == "raise":
            raise LookupError("nothing there")
        if msg.value == "unserializable":
            return lambda: None
        if msg.value == "coroutine":
            return coroutine()
        if msg.value == "exit":
            sys.exit(7)
        if msg.value == "print":
            print("printed by a handler", flush=True)
        return msg.value

    session.serve_forever()
"""


@pytest.mark.usefixtures("capfd")
def test_no_handler_of_a_child_harms_the_session(script: Script, eventually: Any) -> None:
    def is_passed_on(text: bytes) -> bool:
        # Not capfd.readouterr(): it reads the file and then empties it, and what is written in
        # between is lost.
        return text in os.pread(2, os.fstat(2).st_size, 0)

    with IpcPeer().create_command_session(script(BAD_HANDLERS)) as session:
        for value, kind, says in [
            ("raise", RemoteError, "LookupError: nothing there"),
            ("unserializable", SerializationError, "function"),
            ("coroutine", RemoteError, "no event loop"),
            ("exit", RemoteError, "SystemExit: 7"),
        ]:
            with pytest.raises(kind, match=says):
                session.request(Echo(value)).result(timeout=10)
        assert session.request(Echo("print")).result(timeout=10) == "print"
        eventually(lambda: is_passed_on(b"printed by a handler\n"))
        assert session.stats.junk == 0
    assert session.returncode == 0


def test_a_child_without_the_message_says_what_to_import(script: Script) -> None:
    command = script("""
        from streamipc import IpcPeer
        IpcPeer().create_stdio_session().serve_forever()
    """)
    with (
        IpcPeer().create_command_session(command) as session,
        pytest.raises(SerializationError, match=r"import the module .*'shared_messages'"),
    ):
        session.request(SayHello("x")).result(timeout=10)


def test_a_failing_notification_handler_reaches_on_exception_else_the_log(
    wire: Any, caplog: pytest.LogCaptureFixture, eventually: Any
) -> None:
    @wire.session.on_message
    def fail(msg: LogMessage) -> None:
        raise ValueError(msg.message)

    with caplog.at_level(logging.ERROR, "streamipc"):
        wire.session.start()
        wire.tell("to the log")
        eventually(lambda: "to the log" in caplog.text)
        seen: list[tuple[BaseException, Any]] = []
        came = threading.Semaphore(0)

        @wire.session.on_exception
        def passes_on(error: ValueError) -> Any:
            return NotImplemented

        @wire.session.on_exception
        def keep(error: Exception, session: Any) -> None:
            seen.append((error, session))
            came.release()

        wire.tell("to the handler")
        assert came.acquire(timeout=10)

    assert [str(error) for error, _ in seen] == ["to the handler"]
    assert seen[0][1] is wire.session
    assert "to the handler" not in caplog.text


def test_an_on_exception_handler_that_raises_leaves_both_in_the_log(
    wire: Any, caplog: pytest.LogCaptureFixture, eventually: Any
) -> None:
    wire.session.on_message(LogMessage)(lambda msg: 1 / 0)
    wire.session.on_exception(lambda error: [].pop())
    wire.session.start()
    with caplog.at_level(logging.ERROR, "streamipc"):
        wire.tell("x")
        eventually(lambda: "IndexError" in caplog.text and "ZeroDivisionError" in caplog.text)


def test_metadata_that_cant_travel_is_refused(wire: Any) -> None:
    bad: list[Any] = [{"a": 1}, {1: "a"}, {"a": "x" * 70_000}]
    for metadata in bad:
        with pytest.raises((TypeError, ValueError), match="metadata"):
            wire.session.request(Echo(), metadata=metadata)
        with pytest.raises((TypeError, ValueError), match="metadata"):
            wire.session.notify(Note(), metadata=metadata)
    assert wire.silent()


def test_the_bytes_on_the_wire_are_those_of_the_manual(wire: Any) -> None:
    wire.session.request(Echo("x"), timeout=5, metadata={"a": "b"})
    request = wire.hear()
    wire.session.notify(Note("n", 1))
    note = wire.hear()

    assert request["kind"] == "request"
    assert request["type"] == "shared_messages.Echo"
    assert request["body"] == {"value": "x"}
    assert request["metadata"] == {"a": "b"}
    assert 0 < request["timeout"] <= 5
    assert note["type"] == "shared_messages.Note"
    assert note["body"] == {"text": "n", "number": 1}
    assert json.dumps(note)


# A terminal between the two sides


COOKED = """
import sys, time
from shared_messages import Echo, Note
from streamipc import IpcPeer

if "served" not in sys.argv:
    time.sleep(60)
session = IpcPeer().create_stdio_session()
session.on_request(Echo)(lambda msg: msg.value)
session.notify(Note("ready"))
session.serve_forever()
"""


@pytest.fixture
def in_terminal(script: Script) -> Any:
    """Return what starts a command with a terminal in front of it, as ``ssh -tt`` does."""
    import shutil
    import subprocess

    if shutil.which("script") is None:
        pytest.skip("the command script (util-linux) is not installed")
    command = [*script(COOKED), "served"]

    def start(*, served: bool) -> Any:
        line = " ".join(command if served else command[:-1])
        return IpcPeer(timeout=30).create_command_session(
            ["script", "-qc", line, "/dev/null"],
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # script kills its process group when it is ended
        )

    return start


def test_a_terminal_that_echoes_the_request_is_named_in_the_timeout(in_terminal: Any) -> None:
    said = ""
    with in_terminal(served=False) as session:
        for _ in range(30):  # until that has started
            said = str(session.request(Echo("it"), timeout=1).exception(timeout=30))
            if "no frame" in said:
                break
        session.kill()
    assert r"bytes that are no frame, beginning with b'\xf3J\x9d\xe2^@^@^@" in said
    assert "as if a terminal stood between the two sides" in said


def test_a_child_that_speaks_first_can_be_talked_to_through_a_terminal(in_terminal: Any) -> None:
    with in_terminal(served=True) as session:
        said = ""
        while not isinstance(message := session.receive(timeout=30), Note):
            said += message.message
        assert "Start it from that program" in said
        text = "\x03\x04\r\n\x15" * 50
        assert session.request(Echo(text)).result(timeout=30) == text
        session.kill()


def test_what_a_child_that_is_no_session_prints_is_in_the_timeout(eventually: Any) -> None:
    command = ["sh", "-c", "echo 'usage: tool FILE'; exec sleep 60"]
    with IpcPeer().create_command_session(command) as session:
        eventually(lambda: session.stats.junk)
        future = session.request(Echo(), timeout=0.2)
        with pytest.raises(RequestTimeoutError, match=r"17 bytes .* b'usage: tool FILE\\n'"):
            future.result(timeout=30)
        session.kill()


def test_what_came_before_a_request_of_a_session_that_works_is_not_in_its_timeout(
    wire: Any, eventually: Any
) -> None:
    wire.session.start()
    wire.write(b"a line\n")
    wire.tell("it works")
    eventually(lambda: wire.session.stats.junk and wire.session.stats.frames_received)
    # As if a minute had passed since: a deadline may be late by so much on a busy machine.
    pieces = wire.session._engine.dispatcher._junk.seen._pieces
    then, count, data = pieces.pop()
    pieces.append((then - 60, count, data))
    said = str(wire.session.request(Echo(), timeout=0.1).exception(timeout=30))
    assert said.endswith("within 0.1 s")


# They are no frames, which could be decoded once more when their turn comes.
LINES = [f"{number} " * 12_000 for number in range(100, 130)]


@pytest.fixture
def narrow(make_wire: Any) -> Any:
    """A wire whose session holds less than ``LINES``."""
    return make_wire(limits=Limits(held_bytes=1 << 20), max_frame_size=1 << 20)


def test_lines_that_take_much_of_what_may_be_held_all_come_to_their_handler(
    narrow: Any, eventually: Any
) -> None:
    seen: list[str] = []
    errors: list[BaseException] = []
    may_go_on = threading.Event()
    narrow.session.on_exception(errors.append)

    @narrow.session.on_message
    def take(msg: LogMessage) -> None:
        assert may_go_on.wait(30)
        seen.append(msg.message)

    narrow.session.start()
    writing = threading.Thread(target=narrow.write, args=("\n".join([*LINES, ""]).encode(),))
    writing.start()
    eventually(lambda: narrow.session._engine.flow.paused)
    may_go_on.set()
    writing.join(30)
    eventually(lambda: len(seen) == len(LINES) or errors)

    assert seen == LINES
    assert errors == []


def test_of_lines_that_take_more_than_may_wait_for_receive_the_last_ones_come(
    narrow: Any,
) -> None:
    session = narrow.session
    session.start()
    narrow.write("\n".join([*LINES, ""]).encode())
    narrow.hang_up()
    assert session._engine.shutdown.closed.wait(30)
    got = [
        session.receive(timeout=30).message for _ in session._engine.inbox._received.items.copy()
    ]

    with pytest.raises(SessionClosedError):
        session.receive(timeout=30)
    assert 5 < len(got) == len(LINES) - session.stats.dropped
    assert got == LINES[-len(got) :]
