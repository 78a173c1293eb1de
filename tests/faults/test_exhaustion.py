"""The system has no more of something: one request fails, or one call; nothing is stuck."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from shared_messages import Echo, Note

from streamipc import (
    IpcPeer,
    NativeMessageSerializer,
    ProtocolError,
    RemoteError,
    RequestTimeoutError,
    SerializationError,
    SessionClosedError,
)

TIMEOUT = 20

Script = Callable[..., list[str]]

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="limits of the address space and /proc: Linux"
)


def run(command: Sequence[str], **options: Any) -> list[str]:
    """Run a program that is expected to end well; return the lines that it printed."""
    options.setdefault("stderr", subprocess.PIPE)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=280, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


NO_DESCRIPTORS = """
    import contextlib, errno, os, resource, sys, threading, time
    from shared_messages import Echo
    from streamipc import IpcError, IpcPeer

    how, command = sys.argv[1], sys.argv[2:]

    def descriptors():
        return set(os.listdir("/proc/self/fd"))

    def make(peer):
        if how == "command":
            return peer.create_command_session(command)
        return makes.create_stream_session(ends[3], ends[0])

    peer = makes = IpcPeer()
    if how == "sync":
        from streamipc import SyncIpcSession

        makes = IpcPeer(session_type=SyncIpcSession)
    with peer.create_command_session(command) as warm:
        assert warm.request(Echo(1)).result(timeout=20) == 1
        warm.request(Echo("x" * 1_000_000)).result(timeout=20)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    failed = made = 0
    before = descriptors()
    for spare in range(16):
        ends = [*os.pipe(), *os.pipe()] if how != "command" else []
        most = max(map(int, descriptors()))  # the one of the listing itself
        resource.setrlimit(resource.RLIMIT_NOFILE, (most + spare, hard))
        session = None
        try:
            session = make(peer)
            session.start()
            made += 1
            if how == "command":
                assert session.request(Echo(spare)).result(timeout=20) == spare
        except OSError as error:
            assert error.errno == errno.EMFILE, error
            failed += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if session is not None:
            session.close()
        for fd in ends[1:3]:
            os.close(fd)
        for fd in () if session else ends[::3]:
            with contextlib.suppress(OSError):
                os.close(fd)  # a session that came so far as to own it has closed it
        if how == "command" and sys.version_info < (3, 11):
            before = descriptors()  # Popen itself leaves a pipe open there (gh-87474)
        end = time.monotonic() + 20
        while descriptors() - before or threading.active_count() > 1:
            assert time.monotonic() < end, (spare, descriptors() - before, threading.enumerate())
            time.sleep(0.002)
    print(failed > 0, made > 0, failed + made)
    with peer.create_command_session(command) as session:
        print(session.request(Echo("works again")).result(timeout=20))
"""


@linux
@pytest.mark.parametrize("how", ["command", "streams", "sync"])
def test_a_session_that_finds_no_descriptors_fails_and_leaves_none(
    how: str, script: Script, echo_child: list[str]
) -> None:
    printed = run([*script(NO_DESCRIPTORS), how, *echo_child])
    assert printed == ["True True 16", "works again"]


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """No descriptor can be had meanwhile, not even for a module that is to be imported."""
    import resource

    from streamipc import futures  # noqa: F401

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_one = os.dup(0)
    os.close(next_one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


MORE_THAN_A_PIPE_HOLDS = 4 << 20


@linux
def test_whoever_waits_for_room_needs_no_descriptor_for_it(connected: Any, eventually: Any) -> None:
    left, right = connected()
    came: queue.Queue[int] = queue.Queue()
    right.on_message(Note)(lambda msg: came.put(len(msg.text)))
    left.start()
    large = "x" * MORE_THAN_A_PIPE_HOLDS
    waiting = threading.Thread(target=left.notify, args=(Note(large),))
    with no_descriptors():
        waiting.start()
        eventually(lambda: left._engine.channel.waiting)
        with pytest.raises(RequestTimeoutError):
            left.request(Echo(large), timeout=0.2).result()
        assert waiting.is_alive()
    right.start()

    assert came.get(timeout=TIMEOUT) == len(large)
    waiting.join(TIMEOUT)
    assert not waiting.is_alive()


@linux
def test_whoever_waits_for_room_without_descriptors_hears_of_the_end(
    connected: Any, eventually: Any
) -> None:
    left, _ = connected()
    left.start()
    ended: queue.Queue[BaseException] = queue.Queue()

    def send() -> None:
        try:
            left.notify(Note("x" * MORE_THAN_A_PIPE_HOLDS))
        except SessionClosedError as error:
            ended.put(error)

    with no_descriptors():
        threading.Thread(target=send).start()
        eventually(lambda: left._engine.channel.waiting)
        left.close(timeout=0)
        assert "this side closed the session" in str(ended.get(timeout=TIMEOUT))


def test_a_handler_without_memory_fails_its_request_alone(connected: Any) -> None:
    left, right = connected()

    @right.on_request(Echo)
    def fill(msg: Any) -> Any:
        if msg.value == "much":
            raise MemoryError
        return bytearray(1 << 62) if msg.value == "more" else msg.value

    right.start()
    for value in ("much", "more"):
        with pytest.raises(RemoteError, match=r"MemoryError|^$|memory"):
            left.request(Echo(value)).result(timeout=TIMEOUT)
    assert left.request(Echo("little")).result(timeout=TIMEOUT) == "little"


class Short(NativeMessageSerializer):
    """Runs out of memory for envelopes that say so."""

    def __init__(self) -> None:
        super().__init__()
        self.encoding = self.decoding = False

    def encode(self, envelope: Any, /) -> Any:
        if self.encoding:
            raise MemoryError
        return super().encode(envelope)

    def decode(self, payload: memoryview, /) -> Any:
        if self.decoding and len(payload) > 100:
            raise MemoryError
        return super().decode(payload)


def test_encoding_without_memory_fails_its_call_alone(connected: Any) -> None:
    serializer = Short()
    left, right = connected(IpcPeer(serializer), IpcPeer(serializer))

    @right.on_request(Echo)
    def answer(msg: Any) -> Any:
        serializer.encoding = msg.value == "no reply"
        return msg.value

    right.start()
    for call, message in ((left.request, Echo(1)), (left.notify, Note())):
        serializer.encoding = True
        with pytest.raises(SerializationError, match="MemoryError"):
            call(message)
        serializer.encoding = False
    assert left.request(Echo("works")).result(timeout=TIMEOUT) == "works"


def test_decoding_without_memory_is_reported_and_the_session_lives(
    connected: Any, eventually: Any
) -> None:
    serializer = Short()
    left, right = connected(right=IpcPeer(serializer))
    errors: list[BaseException] = []
    right.on_exception(errors.append)

    @right.on_request(Echo)
    def answer(msg: Any) -> Any:
        return msg.value

    right.start()
    serializer.decoding = True
    left.notify(Note("x" * 200))
    assert left.request(Echo("short")).result(timeout=TIMEOUT) == "short"
    eventually(lambda: errors)  # by another thread, perhaps, than the one that answers
    assert ["MemoryError" in str(error) for error in errors] == [True]


LITTLE_MEMORY = """
    import resource, sys, threading
    from shared_messages import Echo
    from streamipc import IpcPeer

    limited = threading.Event()
    session = IpcPeer(handler_threads=2).create_stdio_session()

    @session.on_request
    def echo(msg: Echo) -> object:
        limited.wait(20)  # or the first large one may come before the limit
        if isinstance(msg.value, int):
            return bytes(msg.value)
        return len(msg.value)

    session.start()
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), used + (100 << 20)))
    limited.set()
    session.serve_forever()
"""


@linux
def test_a_child_with_little_memory_answers_what_it_cant_hold(script: Script) -> None:
    # One arena: malloc(3) maps twice the 64 MiB that it wants for each thread's, and gives the
    # unaligned half back, which would be counted if it came to it in the counting.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    command = script(LITTLE_MEMORY)
    with IpcPeer().create_command_session(command, env=environment) as session:
        assert session.request(Echo("small")).result(timeout=TIMEOUT) == 5
        # More than is left, also if the stacks of a few threads come free.
        large = bytes(240 << 20)
        for value, error in (
            (large, ProtocolError),
            (3 << 30, RemoteError),  # more than an allocator has set aside
            (large, ProtocolError),
        ):
            # It can't be read; or not be answered.
            assert isinstance(session.request(Echo(value)).exception(timeout=60), error)
            assert session.request(Echo("small")).result(timeout=TIMEOUT) == 5
    assert session.returncode == 0


NO_THREADS = """
    import queue, resource, socket, sys, threading, time
    from shared_messages import Echo, Note
    from streamipc import IpcPeer

    def limit(on):
        # Threads are given a stack that does not fit into what is left.
        threading.stack_size((1 << 30) if on else 0)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        most = used + (200 << 20) if on else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))

    def pair(peer=None):
        a, b = socket.socketpair()
        peer = peer or IpcPeer()
        return peer.create_stream_session(a, a), peer.create_stream_session(b, b)

    def serve(session):
        @session.on_request(Echo)
        def echo(msg):
            if msg.value == "slow":
                time.sleep(0.01)
            if msg.value == "stuck":
                release.wait(20)
            return msg.value

        @session.on_message(Note)
        def note(msg):
            notes.append(msg.number)

    notes = []
    release = threading.Event()
    left, right = pair()
    serve(right)
    left.start()
    right.start()
    peer = IpcPeer()
    closing = pair(peer)
    for session in closing:
        session.start()
    limit(True)
    try:
        threading.Thread(target=print).start()
        print("a thread could be started")
    except RuntimeError:
        pass
    # The threads there are do it all.
    values = ["slow", 1, "slow", 2, 3] * 10
    for number in range(5):
        left.notify(Note(number=number))
    futures = [left.request(Echo(value)) for value in values]
    called = queue.Queue()
    futures[0].add_done_callback(lambda f: called.put(f.result()))
    print([f.result(timeout=20) for f in futures] == values, notes, called.get(timeout=20))
    print(type(left.request(Echo("stuck"), timeout=0.001).exception(timeout=20)).__name__)
    release.set()

    # A session that can't have its first thread says so and is gone.
    one, other = pair()
    for session in (one, other):
        try:
            session.start()
            print("started")
        except RuntimeError as error:
            print("can't start new thread" in str(error))
        session.close()
    print(one.closed, other.closed)
    left.close()
    right.close()
    print(left.closed, right.closed)
    peer.close()
    print([session.closed for session in closing])
    limit(False)
    left, right = pair()
    serve(right)
    right.start()
    print(left.request(Echo("works again")).result(timeout=20))
    left.close()
    right.close()
    end = time.monotonic() + 20
    while threading.active_count() > 1 and time.monotonic() < end:
        time.sleep(0.002)  # close() waits a second for them
    print(threading.active_count())
"""


@linux
def test_without_new_threads_the_old_ones_do_it_all(script: Script) -> None:
    assert run(script(NO_THREADS)) == [
        "True [0, 1, 2, 3, 4] slow",
        "RequestTimeoutError",
        "True",
        "True",
        "True True",
        "True True",
        "[True, True]",
        "works again",
        "1",
    ]


FULL_DISK = """
    import sys, time
    from streamipc import IpcPeer
    from shared_messages import Echo

    with IpcPeer().create_command_session(sys.argv[1:]) as session:
        for number in range(20):
            session.request(Echo(number)).result(timeout=20)
        end = time.monotonic() + 20
        while "line 19" not in session.stderr_tail and time.monotonic() < end:
            time.sleep(0.002)
        session.kill()
        try:
            session.request(Echo(0)).result(timeout=20)
        except Exception as error:
            print(type(error).__name__)
    print("line 19" in session.stderr_tail)
"""

TALKATIVE = """
    import sys
    from shared_messages import Echo
    from streamipc import IpcPeer

    session = IpcPeer().create_stdio_session()

    @session.on_request
    def echo(msg: Echo) -> object:
        print("x" * 20_000, "\\nline", msg.value, file=sys.stderr, flush=True)
        return msg.value

    session.serve_forever()
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full: Linux")
def test_a_full_disk_behind_our_standard_error_blocks_nobody(script: Script) -> None:
    child = script(TALKATIVE, "talkative.py")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*script(FULL_DISK), *child], stdout=subprocess.PIPE, stderr=full, text=True, timeout=60
        )
    assert done.stdout.splitlines() == ["SessionClosedError", "True"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full: Linux")
def test_a_full_disk_behind_the_childs_standard_error_fails_its_requests(script: Script) -> None:
    with open("/dev/full", "w") as full:
        command = script(TALKATIVE)
        with IpcPeer().create_command_session(command, stderr=full) as session:
            for _ in range(3):
                with pytest.raises(RemoteError, match="No space left"):
                    session.request(Echo("x")).result(timeout=TIMEOUT)


@pytest.mark.parametrize("kind", ["pipes", "sockets", "files"])
def test_streams_that_do_not_block_are_waited_for(kind: str) -> None:
    import socket

    if kind == "sockets":
        a, b = socket.socketpair()
        a.setblocking(False)
        b.setblocking(False)
        ends: Any = (a, a, b, b)
    else:
        to_right, to_left = os.pipe(), os.pipe()
        for fd in (*to_right, *to_left):
            os.set_blocking(fd, False)
        ends = (to_right[1], to_left[0], to_left[1], to_right[0])
        if kind == "files":
            ends = tuple(os.fdopen(fd, "wb" if at % 2 == 0 else "rb") for at, fd in enumerate(ends))
    left = IpcPeer().create_stream_session(ends[0], ends[1])
    right = IpcPeer().create_stream_session(ends[2], ends[3])

    @right.on_request(Echo)
    def echo(msg: Any) -> Any:
        return msg.value

    with left, right:
        values = [b"x" * size for size in (1, 70_000, 3_000_000)]

        def ask(number: int) -> None:
            for value in values:
                assert left.request(Echo(value)).result(timeout=TIMEOUT) == value

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, range(4)))


INTERRUPTED = """
    import signal, sys
    from shared_messages import Add, Echo, Note
    from streamipc import IpcPeer

    ticks = 0

    def tick(*_):
        global ticks
        ticks += 1

    signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    if len(sys.argv) == 1:
        session = IpcPeer().create_stdio_session()

        @session.on_request
        def echo(msg: Echo) -> object:
            return msg.value

        @session.on_request
        def count(msg: Add):
            for number in range(msg.a):
                yield number

        session.serve_forever()
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.exit(0 if ticks else 3)

    with IpcPeer().create_command_session(sys.argv[1:]) as session:
        for number in range(500):
            assert session.request(Echo(number)).result(timeout=20) == number
        large = bytes(range(256)) * 20_000
        for _ in range(5):
            assert session.request(Echo(large)).result(timeout=20) == large
        futures = [session.request(Echo(large)) for _ in range(5)]
        assert all(future.result(timeout=20) == large for future in futures)
        for number in range(300):
            session.notify(Note("x" * 2000))
        with session.stream(Add(300, 0)) as stream:
            assert list(stream) == list(range(300))
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(ticks > 20, session.returncode)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="setitimer(2): POSIX")
def test_signals_all_the_time_interrupt_nothing(script: Script) -> None:
    command = script(INTERRUPTED)
    assert run([*command, *command]) == ["True 0"]
