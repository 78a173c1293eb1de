"""Sessions without threads: the same API, run by whoever waits."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from long_child import register
from long_messages import (
    AskBack,
    Blob,
    Context,
    Count,
    Down,
    Forever,
    Report,
    Step,
    Stubborn,
    Swap,
    WaitFor,
)

from streamipc import (
    IpcPeer,
    IpcSession,
    JsonMessageSerializer,
    LogMessage,
    Message,
    RemoteError,
    RequestContext,
    RequestTimeoutError,
    SessionClosedError,
    SyncIpcSession,
    UnhandledRequestError,
)
from streamipc.engine import shutdown
from streamipc.engine.incoming import IncomingRequest


class Parcel(Message):
    data: bytes


def sync_peer(**options: Any) -> IpcPeer:
    return IpcPeer(session_type=SyncIpcSession, **options)


@pytest.fixture
def no_thread() -> Iterator[None]:
    """Fail if a thread exists in this process when the test ends that was not there before."""
    before = threading.active_count()
    started: list[str] = []
    original = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        started.append(thread.name)
        original(thread)

    threading.Thread.start = start  # type: ignore[method-assign]
    yield
    threading.Thread.start = original  # type: ignore[method-assign]
    assert started == []
    assert threading.active_count() == before


@pytest.fixture(params=["", "sync"], ids=["threads there", "no thread there"])
def session(
    request: pytest.FixtureRequest, no_thread: None, child: Callable[..., list[str]]
) -> Iterator[Any]:
    with sync_peer().create_command_session(child(request.param)) as session:
        yield session


def test_requests_are_answered(session: SyncIpcSession) -> None:
    assert isinstance(session, SyncIpcSession)
    futures = [session.request(Blob(b"x" * size)) for size in range(100)]

    assert [future.result(timeout=30) for future in futures] == list(range(100))
    assert session.call(Blob(b"abc"), timeout=5) == 3
    assert session.stats.pending == 0


def test_errors_are_raised(session: SyncIpcSession) -> None:
    with pytest.raises(UnhandledRequestError):
        session.call(Step(1))
    with pytest.raises(RemoteError, match="on purpose"):
        session.call(Count(3, fail_after=1))


def test_progress_arrives_in_order_and_before_the_result(session: SyncIpcSession) -> None:
    items: list[Any] = []

    assert session.request(Count(100), on_progress=items.append).result(30) == 100
    assert items == [Step(number) for number in range(100)]


def test_streams_work_and_closing_one_early_reaches_the_child(session: SyncIpcSession) -> None:
    with session.stream(Count(500), window=4) as stream:
        assert list(stream) == [Step(number) for number in range(500)]
        assert stream.result() == 500
    with session.stream(Count(10**9, name="left")) as stream:
        next(stream)

    session.call(WaitFor("left closed"))


def test_a_dropped_stream_reaches_the_child(session: SyncIpcSession) -> None:
    next(session.stream(Count(10**9, name="dropped")))
    gc.collect()
    session.tick()

    session.call(WaitFor("dropped closed"))


def test_a_dropped_stream_reaches_the_child_while_another_thread_sleeps(
    child: Callable[..., list[str]], eventually: Callable[..., None]
) -> None:
    with sync_peer().create_command_session(child()) as session:
        stream = session.stream(Count(10**9, name="dropped"), timeout=None)
        next(stream)
        leader = session._engine.leader
        with ThreadPoolExecutor(1) as pool:
            heard = pool.submit(session.call, WaitFor("dropped closed"), timeout=40)
            eventually(lambda: leader.thread not in (None, threading.get_ident()))
            wait([heard], timeout=0.05)  # until it sleeps: all items granted have come
            del stream
            gc.collect()

            heard.result(timeout=20)


def test_deadlines_pass(session: SyncIpcSession, child: Callable[..., list[str]]) -> None:
    late = session.request(Count(10**9), timeout=0.1)
    with pytest.raises(RequestTimeoutError):
        late.result()
    with pytest.raises(RequestTimeoutError):
        session.receive(timeout=0.05)


def test_a_wait_that_is_over_leaves_the_request_alive(session: SyncIpcSession) -> None:
    register(session)
    future = session.request(AskBack())  # we must be asked back and answer first
    with pytest.raises(RequestTimeoutError, match="goes on"):
        future.result(timeout=0)

    assert future.result(timeout=30)["metadata"] == {}


def test_the_child_asks_back(session: SyncIpcSession) -> None:
    register(session)

    assert session.call(AskBack(), metadata={"a": "b"})["metadata"] == {}
    assert session.call(AskBack(inline=True))["deadline"]


@pytest.mark.parametrize("depth", [1, 2, 20])
def test_calls_within_calls(session: SyncIpcSession, depth: int) -> None:
    register(session)

    assert session.call(Down(depth)) == depth


def test_large_payloads_both_ways_at_a_time_do_not_block_each_other(
    session: SyncIpcSession,
) -> None:
    register(session)
    size = 1 << 20
    swap = session.request(Swap(size, 5))
    ours = [session.request(Blob(b"y" * size)) for _ in range(5)]

    assert [future.result(timeout=60) for future in ours] == [size] * 5
    assert swap.result(timeout=60) == 5 * size


@pytest.mark.usefixtures("exit_status_is_waited_for")
def test_a_child_that_dies_fails_what_is_pending(session: Any) -> None:
    future = session.request(Count(10**9))
    session.kill()

    with pytest.raises(SessionClosedError) as caught:
        future.result(timeout=30)
    assert caught.value.signal == "SIGKILL"
    with pytest.raises(SessionClosedError):
        session.request(Blob(b""))


def test_a_function_for_standard_error_is_refused(child: Callable[..., list[str]]) -> None:
    """Nobody would read: the child would wait once it has written 64 KiB."""
    with pytest.raises(ValueError, match="stderr"):
        sync_peer().create_command_session(child(), stderr=print)


def test_standard_error_may_go_to_a_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('to the file', file=sys.stderr)"]
    with open(tmp_path / "errors", "wb") as file:
        session: Any = sync_peer().create_command_session(command, stderr=file)
        session.close(timeout=30)

    assert (tmp_path / "errors").read_text() == "to the file\n"


def test_both_sides_of_a_socket_may_be_full() -> None:
    """The one who waits for room reads meanwhile, from the very descriptor it writes to."""
    ours, theirs = socket.socketpair()
    session = sync_peer().create_stream_session(ours, ours)
    other = IpcPeer().create_stream_session(theirs, theirs)
    for side in (session, other):
        side.on_request(Blob)(lambda msg: len(msg.data))
    size = 1 << 20
    got: list[int] = []

    def ask() -> None:
        sent = [other.request(Blob(b"x" * size)) for _ in range(5)]
        got.extend(future.result(timeout=60) for future in sent)

    asking = threading.Thread(target=ask)
    asking.start()
    sent = [session.request(Blob(b"y" * size)) for _ in range(5)]

    assert [future.result(timeout=60) for future in sent] == [size] * 5
    while asking.is_alive():
        session.tick(timeout=0.1)
    assert got == [size] * 5
    other.close()
    session.close()


def test_a_thread_that_waits_for_room_leaves_reading_to_the_one_who_reads(
    eventually: Callable[..., None],
) -> None:
    incoming, write = os.pipe()
    read, outgoing = os.pipe()
    session: Any = sync_peer().create_stream_session(write, read)
    leader, channel = session._engine.leader, session._engine.channel
    waiting = threading.Thread(target=lambda: session.serve_forever(), daemon=True)
    waiting.start()
    eventually(lambda: leader.thread == waiting.ident)
    sending = threading.Thread(target=lambda: session.notify(Parcel(bytes(4 << 20))))
    sending.start()
    eventually(lambda: channel.waiting)
    assert leader.thread == waiting.ident

    got = 0
    while got < 4 << 20:
        got += len(os.read(incoming, 1 << 20))
    sending.join(10)
    assert not sending.is_alive()
    os.close(outgoing)
    waiting.join(10)
    assert not waiting.is_alive()
    session.close()
    os.close(incoming)


def test_a_request_for_which_there_is_no_room_fails_at_its_deadline() -> None:
    incoming, write = os.pipe()
    read, outgoing = os.pipe()
    session = sync_peer().create_stream_session(write, read)
    begun = session.request(Blob(bytes(4 << 20)), timeout=0.1)
    unsent = session.request(Blob(bytes(4 << 20)), timeout=0.1)

    for future in (begun, unsent):
        with pytest.raises(RequestTimeoutError, match=r"no reply to .*Blob .* within 0\.1 s"):
            future.result(timeout=10)
    assert session.stats.pending == 0
    os.close(outgoing)
    session.close(timeout=0)
    os.close(incoming)


def test_closing_the_peer_closes_its_sessions_without_a_thread(
    no_thread: None, child: Callable[..., list[str]]
) -> None:
    with sync_peer() as peer:
        sessions = [peer.create_command_session(child()) for _ in range(2)]
        assert [session.call(Blob(b"abc")) for session in sessions] == [3, 3]

    assert [session.returncode for session in sessions] == [0, 0]


def test_closing_reaps_the_child(no_thread: None, child: Callable[..., list[str]]) -> None:
    session = sync_peer().create_command_session(child("sync"))
    closed: list[Any] = []
    session.on_close(closed.append)
    pending = session.request(Blob(b"abc"))
    session.close(timeout=60)
    session.close()

    assert pending.result() == 3  # replies that were still to come were waited for
    assert session.returncode == 0
    assert closed == [session]
    assert session.closed


def test_json_works_too(no_thread: None, child: Callable[..., list[str]]) -> None:
    peer = sync_peer(serializer=JsonMessageSerializer())
    with peer.create_command_session(child("sync", "json")) as session:
        assert session.call(Context(), metadata={"a": "b"})["metadata"] == {"a": "b"}


def test_a_child_without_threads_has_none(child: Callable[..., list[str]]) -> None:
    with IpcPeer().create_command_session(child("sync")) as session:
        assert session.call(Context())["thread"] == "MainThread"


@pytest.mark.parametrize("how", ["cancelled", "raise_if_cancelled"])
def test_a_handler_without_threads_sees_that_it_is_cancelled(
    child: Callable[..., list[str]], how: str
) -> None:
    """Nobody else reads there, so asking has to."""
    with IpcPeer().create_command_session(child("sync")) as session:
        started = threading.Event()
        future = session.request(Forever("one", how), on_progress=lambda _: started.set())
        assert started.wait(30)
        future.cancel()

        session.call(WaitFor("one cancelled"), timeout=30)


# In one process: a session without threads, and one with.


@pytest.fixture
def pair(connected: Callable[..., Any]) -> tuple[SyncIpcSession, IpcSession]:
    session, other = connected(sync_peer(), IpcPeer())
    return session, other


def test_tick_reads_what_is_there_and_runs_handlers(pair: Any) -> None:
    session, other = pair
    register(session)
    assert session.tick() is False
    future = other.request(Blob(b"abc"))

    assert session.tick(timeout=10) is True
    assert future.result(timeout=10) == 3
    future = other.request(Blob(b"abc"))
    assert session.tick(0) is True
    assert future.result(timeout=10) == 3
    assert session.tick(0.01) is False


def test_nothing_happens_between_calls(pair: Any) -> None:
    session, other = pair
    register(session)
    session.start()
    future = other.request(Blob(b"abc"))
    with pytest.raises(RequestTimeoutError):
        future.result(timeout=0.1)

    session.tick()
    assert future.result(timeout=10) == 3


def test_tick_raises_when_the_session_has_ended(pair: Any) -> None:
    session, other = pair
    session.start()
    other.start()
    other.close()
    while not session.closed:
        session.tick(timeout=10)
    with pytest.raises(SessionClosedError):
        session.tick()


def test_receive_takes_notifications_without_handler(pair: Any) -> None:
    session, other = pair
    for number in range(10):
        other.notify(Step(number))

    assert [session.receive(timeout=10) for _ in range(10)] == [Step(n) for n in range(10)]


def test_notifications_are_handled_in_order(pair: Any) -> None:
    session, other = pair
    seen: list[int] = []

    @session.on_message
    def step(msg: Step) -> None:
        seen.append(msg.number)

    for number in range(100):
        other.notify(Step(number))
    while len(seen) < 100:
        assert session.tick(timeout=10)

    assert seen == list(range(100))


def test_a_notification_handler_may_ask_while_thousands_wait(pair: Any) -> None:
    session, other = pair
    register(other)
    seen: list[int] = []

    @session.on_message
    def step(msg: Step) -> None:
        if msg.number % 500 == 0:
            assert session.call(Blob(b"abc"), timeout=20) == 3
        seen.append(msg.number)

    sender = threading.Thread(target=lambda: [other.notify(Step(n)) for n in range(5000)])
    sender.start()
    while len(seen) < 5000:
        session.tick(timeout=20)
    sender.join()

    assert seen == list(range(5000))


def test_done_callbacks_and_on_exception_are_called(pair: Any) -> None:
    session, other = pair
    register(other)
    called: list[Any] = []
    reported: list[BaseException] = []
    session.on_exception(reported.append)
    other.start()

    def fail(item: Any) -> None:
        raise LookupError("in on_progress")

    future = session.request(Report([1, 2, 3]), on_progress=fail)
    future.add_done_callback(called.append)
    assert future.result(timeout=10) == "done"
    session.tick()

    assert called == [future]
    assert [str(error) for error in reported] == ["in on_progress"]


def test_cancelled_requests_do_not_start(pair: Any) -> None:
    session, other = pair
    started: list[str] = []

    @session.on_request
    def stubborn(msg: Stubborn) -> None:
        started.append(msg.name)

    futures = [other.request(Stubborn(str(number))) for number in range(4)]
    futures[1].cancel()
    futures[2].cancel()
    other.notify(Step(1))
    assert session.receive(timeout=10) == Step(1)

    assert futures[3].result(timeout=10) is None
    assert started == ["0", "3"]


def test_closing_in_a_handler_closes_behind_it(pair: Any) -> None:
    session, other = pair

    @session.on_request
    def stop(msg: Context) -> str:
        session.close()
        return "closing"

    future = other.request(Context())
    session.serve_forever()

    assert future.result(timeout=10) == "closing"
    assert session.closed


def test_a_transport_that_cant_be_polled_is_refused(tmp_path: Any) -> None:
    class Transport:
        def read_into(self, buffer: memoryview) -> int:
            return 0

        def write(self, data: memoryview) -> int:
            return len(data)

        def close_write(self) -> None: ...

        def close(self) -> None: ...

    with pytest.raises(ValueError, match="polled"):
        sync_peer().create_session(Transport())


def test_a_session_that_is_dropped_warns_and_closes(child: Callable[..., list[str]]) -> None:
    session = sync_peer().create_command_session(child("sync"))
    session.call(Blob(b""))
    process = session.process
    with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031 - collected here
        del session
        gc.collect()

    assert process.returncode is not None


def test_a_session_that_only_its_request_holds_ends_when_that_is_answered(
    child: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector finds it, and its peer."""
    monkeypatch.setattr(shutdown, "_JOIN", 60.0)
    future = sync_peer().create_command_session(child("sync")).request(Blob(b"answered"))
    replies: list[Any] = []

    def ask() -> None:
        replies.append(future.result(20))
        gc.collect()

    caller = threading.Thread(target=ask)
    with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031 - collected there
        caller.start()
        caller.join(30)

    assert replies == [len(b"answered")]


def test_notifications_are_handled_after_an_interrupt_between_two_of_them(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, other = pair
    seen: list[str] = []

    @session.on_message
    def handle(msg: LogMessage) -> None:
        seen.append(msg.message)

    run = IncomingRequest.run_notification

    def interrupt(served: IncomingRequest) -> None:
        monkeypatch.setattr(IncomingRequest, "run_notification", run)
        raise KeyboardInterrupt

    monkeypatch.setattr(IncomingRequest, "run_notification", interrupt)
    other.notify(LogMessage("on its way"))
    with pytest.raises(KeyboardInterrupt):
        session.tick(10)
    other.notify(LogMessage("handled"))
    session.tick(10)

    assert seen == ["on its way", "handled"]


def test_awaiting_it_is_refused(pair: Any) -> None:
    session, other = pair
    register(other)
    other.start()

    async def main() -> None:
        with pytest.raises(RuntimeError, match="SyncIpcSession"):
            await session.request(Blob(b""))
        with pytest.raises(RuntimeError, match="SyncIpcSession"):
            async for _ in session.stream(Count(1)):
                pass

    asyncio.run(main())


# Two sessions without threads, in two threads of the user's.


@pytest.fixture
def both(connected: Callable[..., Any]) -> tuple[SyncIpcSession, SyncIpcSession]:
    left, right = connected(sync_peer(), sync_peer())
    return left, right


def in_threads(*functions: Callable[[], object]) -> None:
    errors: list[BaseException] = []

    def run(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(f,), daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []


@pytest.mark.parametrize("kind", ["request", "notify", "mixed"])
def test_both_sides_send_much_at_once(both: Any, kind: str) -> None:
    size, count = 300_000, 20
    finished: list[SyncIpcSession] = []

    def side(session: SyncIpcSession) -> None:
        futures = []
        for number in range(count):
            if kind != "notify":
                futures.append(session.request(Blob(b"x" * size)))
            if kind != "request":
                session.notify(Parcel(bytes([number]) + b"x" * size))
        assert [future.result(timeout=50) for future in futures] == [size] * len(futures)
        if kind != "request":
            received = [session.receive(timeout=50) for _ in range(count)]
            assert [blob.data[0] for blob in received] == list(range(count))  # type: ignore[attr-defined]
        finished.append(session)
        while len(finished) < 2:  # what was read while sending is answered now at the latest
            session.tick(timeout=0.01)

    for session in both:
        register(session)
    in_threads(lambda: side(both[0]), lambda: side(both[1]))


def test_both_sides_notify_more_than_may_wait(both: Any) -> None:
    """Neither runs handlers while it sends, and neither waits for the other to do so."""
    counts = dict.fromkeys(both, 0)

    def side(session: SyncIpcSession) -> None:
        @session.on_message
        def step(msg: Step) -> None:
            assert msg.number == counts[session]
            counts[session] += 1

        for number in range(20_000):
            session.notify(Step(number))
        while counts[session] < 20_000:
            session.tick(timeout=20)

    in_threads(lambda: side(both[0]), lambda: side(both[1]))


def test_several_threads_may_wait_on_one_session(both: Any) -> None:
    left, right = both
    register(right)

    def many(number: int) -> None:
        for length in range(50):
            assert left.call(Blob(b"x" * length), timeout=30) == length

    def serve() -> None:
        right.serve_forever()

    server = threading.Thread(target=serve)
    server.start()
    try:
        in_threads(*(lambda number=number: many(number) for number in range(6)))  # type: ignore[misc]
    finally:
        left.close()
        server.join(20)
    assert not server.is_alive()


def test_a_thread_that_waits_is_not_held_up_by_a_handler_on_another(pair: Any) -> None:
    session, other = pair
    register(other)
    stuck, release = threading.Event(), threading.Event()

    @session.on_request
    def block(msg: Context) -> str:
        stuck.set()
        assert release.wait(30)
        return "released"

    blocked = other.request(Context())
    ticking = threading.Thread(target=session.tick, args=(20,))
    ticking.start()
    assert stuck.wait(10)
    try:
        assert [session.call(Blob(b"x" * n), timeout=10) for n in range(20)] == list(range(20))
        with pytest.raises(RequestTimeoutError):
            session.call(Count(10**9), timeout=0.1)
    finally:
        release.set()
        ticking.join(20)
        session.tick()
    assert blocked.result(timeout=10) == "released"


def test_a_shorter_deadline_of_another_thread_is_noticed(pair: Any) -> None:
    """The thread that reads sleeps until its own deadline; another's comes first."""
    session, other = pair
    release = threading.Event()
    other.on_request(Stubborn)(lambda msg: release.wait(30))
    other.start()
    waiting = threading.Event()

    def wait_long() -> None:
        waiting.set()
        with pytest.raises((RequestTimeoutError, CancelledError)):
            long.result()

    long = session.request(Stubborn("long"), timeout=20)
    thread = threading.Thread(target=wait_long)
    long_before = time.monotonic()
    thread.start()
    assert waiting.wait(10)
    with pytest.raises(RequestTimeoutError):
        session.call(Stubborn("short"), timeout=0.1)
    assert time.monotonic() - long_before < 15
    long.cancel()
    thread.join(10)
    release.set()

    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork() does not exist on Windows")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_it_may_be_used_before_a_fork(child: Callable[..., list[str]]) -> None:
    with sync_peer().create_command_session(child("sync")) as session:
        assert session.call(Blob(b"abc")) == 3
        pid = os.fork()
        if pid == 0:
            ok = False
            try:
                session.call(Blob(b"abc"))
            except SessionClosedError:
                ok = True
            finally:
                os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert session.call(Blob(b"abcd")) == 4


def test_a_context_is_given_to_handlers(pair: Any) -> None:
    session, other = pair

    @session.on_request
    def context(msg: Context, context: RequestContext) -> float:
        return context.time_remaining()

    future = other.request(Context(), timeout=10)
    session.tick(10)

    assert 0 < future.result(timeout=10) <= 10


# A child that dies while nobody reads


IDLE = "import sys; sys.stdin.buffer.read(1)"


def idle_session() -> Any:
    return sync_peer().create_command_session([sys.executable, "-c", IDLE])


def die(session: Any) -> None:
    """Have the child die; it is not reaped by it."""
    os.kill(session.pid, 9)
    os.waitid(os.P_PID, session.pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("started", [True, False])
def test_the_death_of_an_idle_child_is_seen_by_closed_and_by_the_next_request(
    started: bool,
) -> None:
    for ask in ("request", "stream", "call"):
        session = idle_session()
        if started:
            session.start()
        assert not session.closed
        die(session)
        assert session.closed
        with pytest.raises(SessionClosedError, match=r"was not sent; .* was killed by SIGKILL"):
            getattr(session, ask)(Blob(b""))
        assert session.peer.sessions == []
        session.close()


def test_a_request_sees_the_death_although_another_process_holds_the_pipes() -> None:
    source = """if True:
        import os, sys
        if os.fork() == 0:
            os.write(1, b"held")
            sys.stdin.buffer.read()
        os.wait()
    """
    session = sync_peer().create_command_session([sys.executable, "-c", source])
    junk = session.receive(timeout=30)
    assert isinstance(junk, LogMessage)
    assert junk.message == "held"
    die(session)
    with pytest.raises(SessionClosedError, match="was killed by SIGKILL"):
        session.request(Blob(b""))
    session.close()


def test_what_an_idle_child_had_written_is_received_after_its_death_was_seen() -> None:
    source = "import os; os.write(1, b'last words'); os.read(0, 1)"
    session = sync_peer().create_command_session([sys.executable, "-c", source])
    session.start()
    poller = select.poll()
    poller.register(session.process.stdout.fileno(), select.POLLIN)
    assert poller.poll(30_000)
    die(session)
    with pytest.raises(SessionClosedError):
        session.request(Blob(b""))
    received = session.receive(timeout=5)
    assert isinstance(received, LogMessage)
    assert received.message == "last words"
    session.close()
