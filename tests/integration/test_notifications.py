"""Notifications: in order, bounded, kept for receive(), broadcast."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from interrupting import signals_raise
from shared_messages import Echo, Note

from streamipc import (
    IpcPeer,
    IpcSession,
    LogMessage,
    Message,
    RequestContext,
    RequestTimeoutError,
    SerializationError,
    SessionClosedError,
    SyncIpcSession,
)
from streamipc.engine import shutdown

Connected = Callable[..., tuple[IpcSession, IpcSession]]


class Unsent(Message):
    value: object


@pytest.mark.usefixtures("switching")
def test_notifications_are_handled_one_at_a_time_in_the_order_sent(connected: Connected) -> None:
    sending, handling = connected()
    numbers: list[int] = []
    at_once: list[int] = []
    inside = threading.Semaphore(1)
    end = threading.Event()

    @handling.on_message
    def note(msg: Note) -> None:
        if not inside.acquire(blocking=False):
            at_once.append(msg.number)
        numbers.append(msg.number)
        inside.release()
        if msg.number == 4999:
            end.set()

    handling.start()
    for number in range(5000):
        sending.notify(Note(number=number))
    assert end.wait(200)
    assert numbers == list(range(5000))
    assert at_once == []


@pytest.mark.usefixtures("switching")
def test_receive_gives_what_no_handler_took_in_the_order_sent(connected: Connected) -> None:
    sending, receiving = connected()

    @receiving.on_message
    def odd_ones(msg: Note) -> Any:
        return None if msg.number % 2 else NotImplemented

    receiving.start()
    for number in range(600):
        # A LogMessage has no handler at all, and must not overtake those that have one.
        sending.notify(LogMessage(str(number)) if number % 3 == 0 else Note(number=number))
    expected = [n for n in range(600) if n % 3 == 0 or n % 2 == 0]
    received = [receiving.receive(timeout=20) for _ in expected]

    assert [int(m.message) if isinstance(m, LogMessage) else m.number for m in received] == expected


def test_receive_starts_the_session_and_waits(connected: Connected) -> None:
    sending, receiving = connected()
    threading.Timer(0.02, sending.notify, (Note("x"),)).start()

    assert receiving.receive() == Note("x")


def test_receive_says_when_nothing_came_in_time(connected: Connected) -> None:
    _, receiving = connected()

    with pytest.raises(RequestTimeoutError, match=r"no notification came within 0.05 s"):
        receiving.receive(timeout=0.05)
    with pytest.raises(RequestTimeoutError):
        receiving.receive(timeout=0)


@pytest.mark.parametrize("bad", [-1, float("nan"), "1", True])
def test_receive_refuses_a_timeout_that_is_none(connected: Connected, bad: Any) -> None:
    _, receiving = connected()

    with pytest.raises((TypeError, ValueError), match="timeout must be"):
        receiving.receive(timeout=bad)


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("timeout", [None, 30])
def test_threads_in_receive_share_what_comes(
    connected: Connected, in_threads: Any, timeout: float | None
) -> None:
    sending, receiving = connected()
    taken: list[int] = []

    def work(number: int) -> None:
        if number == 0:
            for n in range(800):
                sending.notify(Note(number=n))
        else:
            for _ in range(200):
                message = receiving.receive(timeout)
                assert isinstance(message, Note)
                taken.append(message.number)

    in_threads(5, work)
    assert sorted(taken) == list(range(800))


def test_what_nobody_receives_is_dropped_counted_and_logged_once(
    connected: Connected, caplog: pytest.LogCaptureFixture, eventually: Any
) -> None:
    sending, receiving = connected()
    receiving.on_request(Echo)(lambda msg: msg.value)
    with caplog.at_level(logging.WARNING, "streamipc"):
        receiving.start()
        for number in range(1100):
            sending.notify(Note(number=number))
        assert sending.request(Echo("behind them")).result(timeout=10) == "behind them"
        eventually(lambda: caplog.records)  # by another thread, perhaps, than the one that answers

    assert receiving.stats.dropped == 1100 - 1024
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "on_message" in caplog.text
    kept = [receiving.receive(timeout=10) for _ in range(1024)]
    assert [m.number for m in kept] == list(range(76, 1100))  # type: ignore[attr-defined]


def test_what_was_not_received_can_be_taken_after_the_end(connected: Connected) -> None:
    sending, receiving = connected()
    receiving.start()
    sending.notify(Note("last"))
    sending.close()
    closed = threading.Event()
    receiving.on_close(closed.set)
    assert closed.wait(10)

    assert receiving.receive() == Note("last")
    with pytest.raises(SessionClosedError, match="the peer closed the connection"):
        receiving.receive()


def test_the_end_of_the_session_ends_a_receive(connected: Connected) -> None:
    sending, receiving = connected()
    receiving.start()
    threading.Timer(0.05, sending.close).start()

    with pytest.raises(SessionClosedError):
        receiving.receive()


def test_a_slow_handler_bounds_the_sender(connected: Connected) -> None:
    sending, handling = connected()
    go = threading.Event()
    handled: list[int] = []
    last = threading.Event()

    @handling.on_message
    def note(msg: Note) -> None:
        assert go.wait(30)
        handled.append(msg.number)
        if msg.number == 3999:
            last.set()

    handling.start()
    sent: list[int] = []

    def send() -> None:
        for number in range(40):
            sending.notify(Note("x" * 100_000, number))
            sent.append(number)
        for number in range(40, 4000):
            sending.notify(Note("x" * 2_000, number))
            sent.append(number)

    thread = threading.Thread(target=send)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    # What waits for its handler, what is in the pipe, and one that is being written.
    assert len(sent) < 1024 + 600
    go.set()
    thread.join(30)
    assert not thread.is_alive()
    assert last.wait(30)
    assert handled == list(range(4000))


def test_what_was_told_before_the_end_is_handled_however_slowly(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More than half a second, which a handler may take on a busy machine though it is not stuck.
    monkeypatch.setattr(shutdown, "_CANCELLED_HANDLERS", 1.5)
    telling, handling = connected()
    handled: list[int] = []
    closed = threading.Event()

    @handling.on_message
    def note(msg: Note) -> None:
        time.sleep(0.02)  # all together, longer than one that is stuck is given
        handled.append(msg.number)

    handling.on_close(closed.set)
    handling.start()
    for number in range(100):
        telling.notify(Note(number=number))
    telling.close()

    assert closed.wait(60)
    assert handled == list(range(100))
    assert handling.stats.dropped == 0


def test_what_no_handler_gets_to_see_before_the_end_is_counted_and_logged(
    connected: Connected, caplog: pytest.LogCaptureFixture
) -> None:
    telling, handling = connected()
    entered, release = threading.Event(), threading.Event()
    handling.on_message(Note)(lambda msg: (entered.set(), release.wait(30)))
    handling.start()
    for number in range(10):
        telling.notify(Note(number=number))
    assert entered.wait(30)
    with caplog.at_level(logging.WARNING, "streamipc"):
        telling.close()
        handling.close(timeout=60)
    release.set()

    assert handling.stats.dropped == 9
    assert "9 notifications were still waiting for their handler" in caplog.text


def test_a_handler_of_notifications_may_ask_while_many_wait(connected: Connected) -> None:
    sending, handling = connected()
    sending.on_request(Echo)(lambda msg: msg.value)
    answers: list[int] = []
    end = threading.Event()

    @handling.on_message
    def note(msg: Note, session: IpcSession) -> None:
        answers.append(session.request(Echo(msg.number)).result(timeout=20))
        if msg.number == 1999:
            end.set()

    handling.start()
    for number in range(2000):
        sending.notify(Note(number=number))
    assert end.wait(200)
    assert answers == list(range(2000))


def test_a_slow_notification_does_not_delay_requests(connected: Connected) -> None:
    asking, answering = connected()
    go = threading.Event()
    entered = threading.Event()
    answering.on_message(Note)(lambda msg: (entered.set(), go.wait(20)))
    answering.on_request(Echo)(lambda msg: msg.value)
    answering.start()
    asking.notify(Note())
    assert entered.wait(10)

    assert [asking.request(Echo(n)).result(timeout=10) for n in range(100)] == list(range(100))
    go.set()


def test_the_context_of_a_notification(connected: Connected) -> None:
    sending, handling = connected()
    seen: list[Any] = []
    end = threading.Event()

    @handling.on_message
    def note(msg: Note, ctx: RequestContext) -> None:
        ctx.progress("goes nowhere")
        ctx.raise_if_cancelled()
        seen.extend([ctx.request_id, ctx.deadline, ctx.cancelled, dict(ctx.metadata), ctx.session])
        end.set()

    handling.start()
    sending.notify(Note(), metadata={"trace": "7"})
    assert end.wait(10)
    assert seen == [None, None, False, {"trace": "7"}, handling]


@pytest.mark.parametrize("answer", [None, "something", NotImplemented])
def test_all_handlers_of_a_notification_are_called_in_order_the_peers_last(
    connected: Connected, answer: Any
) -> None:
    sending, handling = connected()
    order: list[str] = []
    end = threading.Event()

    def named(name: str) -> Callable[[Message], Any]:
        def handler(msg: Message) -> Any:
            order.append(name)
            return answer

        return handler

    first, second = named("first"), named("second")
    handling.peer.on_message(named("peer's"))
    handling.on_message(first)
    handling.on_message(second)
    handling.on_message(LogMessage)(named("of another type"))
    handling.peer.on_message(Note)(lambda msg: end.set())
    handling.start()
    sending.notify(Note())
    assert end.wait(10)
    assert order == ["first", "second", "peer's"]

    handling.off_message(first)
    order.clear()
    end.clear()
    sending.notify(Note())
    assert end.wait(10)
    assert order == ["second", "peer's"]


def test_an_exception_in_one_message_handler_is_reported_and_the_next_is_called(
    connected: Connected,
) -> None:
    sending, handling = connected()
    reported: list[BaseException] = []
    seen: list[str] = []
    end = threading.Event()

    def fail(error: BaseException) -> None:
        raise error

    handling.on_exception(reported.append)
    handling.on_message(Note)(lambda msg: seen.append("first"))
    for error in (ValueError("handler"), SystemExit(3), KeyboardInterrupt()):
        handling.on_message(Note)(functools.partial(lambda error, msg: fail(error), error))

    @handling.on_message
    def generator(msg: Note) -> Any:
        seen.append("generator")
        yield
        raise LookupError("generator")

    @handling.on_message
    def last(msg: Note) -> None:
        seen.append("last")
        end.set()

    handling.start()
    sending.notify(Note())

    assert end.wait(10)
    assert seen == ["first", "generator", "last"]
    assert [type(error) for error in reported] == [
        ValueError,
        SystemExit,
        KeyboardInterrupt,
        LookupError,
    ]


@pytest.mark.parametrize("taken", ["by the first", "by the last", "by one that fails", "by none"])
def test_receive_gets_a_notification_that_each_handler_refused(
    connected: Connected, taken: str
) -> None:
    sending, receiving = connected()

    @receiving.on_message
    def first(msg: Note) -> Any:
        return None if taken == "by the first" else NotImplemented

    @receiving.on_message
    def failing(msg: Note) -> Any:
        if taken == "by one that fails":
            raise ValueError("on purpose")
        return NotImplemented

    @receiving.peer.on_message
    def last(msg: Note) -> Any:
        return None if taken == "by the last" else NotImplemented

    receiving.start()
    sending.notify(Note())
    sending.notify(LogMessage("behind it"))

    expected = [Note()] if taken == "by none" else []
    assert [receiving.receive(10) for _ in [*expected, 1]] == [*expected, LogMessage("behind it")]


def test_context_variables_of_one_message_are_seen_by_its_handlers_and_by_no_other(
    connected: Connected,
) -> None:
    sending, handling = connected()
    variable: ContextVar[int] = ContextVar("variable", default=-1)
    seen: list[int] = []
    end = threading.Event()

    @handling.on_message
    def first(msg: Note) -> None:
        seen.append(variable.get())
        variable.set(msg.number)

    @handling.on_message
    def second(msg: Note) -> None:
        seen.append(variable.get())
        if msg.number == 1:
            end.set()

    handling.start()
    sending.notify(Note(number=0))
    sending.notify(Note(number=1))

    assert end.wait(10)
    assert seen == [-1, 0, -1, 1]


def test_a_notification_handler_is_never_inline(connected: Connected) -> None:
    _, handling = connected()

    for owner in (handling, handling.peer):
        with pytest.raises(TypeError, match=r"inline=True is for on_request\(\) alone"):
            owner.on_message(inline=True)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="inline"):
            owner.on_message(Note, inline=True)  # type: ignore[call-overload]


# Broadcast


def test_broadcast_reaches_all_live_sessions(connected: Connected) -> None:
    peer = IpcPeer()
    others = [connected(peer)[1] for _ in range(4)]
    gone = peer.sessions[0]
    gone.close()

    assert len(peer.sessions) == 3
    assert peer.broadcast(Note("to all")) == {}
    received = []
    for other in others:
        try:
            received.append(other.receive(timeout=10))
        except SessionClosedError:
            received.append(None)
    assert sorted(map(str, received)) == sorted(map(str, [None, *[Note("to all")] * 3]))


def test_a_session_that_fails_does_not_hide_a_broadcast_from_the_others(
    connected: Connected, make_wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = IpcPeer()
    (one, first), (two, second) = connected(peer), connected(peer)
    broken, theirs = connected(peer)
    monkeypatch.setattr(broken, "notify", lambda message: 1 / 0)

    failures = peer.broadcast(Note("x"))
    assert list(failures) == [broken]
    assert isinstance(failures[broken], ZeroDivisionError)
    assert [s.receive(timeout=10) for s in (first, second)] == [Note("x"), Note("x")]
    assert {one, two, broken} == set(peer.sessions)
    assert theirs.stats.frames_received == 0


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has no such signal")
@pytest.mark.parametrize("step", ["begin", "finish"])
def test_what_a_signals_handler_raises_in_a_broadcast_comes_out(
    connected: Connected, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It is no failure of the session whose turn it is."""
    peer = IpcPeer()
    left, _ = connected(peer)
    with signals_raise(TimeoutError) as interrupt:
        notifier = left._engine.notifier
        monkeypatch.setattr(notifier, "begin", lambda message: interrupt())
        if step != "begin":
            monkeypatch.setattr(notifier, "begin", lambda message: lambda deadline: interrupt())
        with pytest.raises(TimeoutError, match="of a signal's handler"):
            peer.broadcast(Note("x"))


def test_a_session_that_does_not_read_does_not_keep_a_broadcast_from_the_others(
    connected: Connected,
) -> None:
    peer = IpcPeer()
    silent = [connected(peer)[1] for _ in range(3)]  # not started, so nobody reads there
    listening = [connected(peer)[1].start() for _ in range(3)]
    broken, gone = connected(peer)
    message = Note("more than a pipe holds " * 200_000)
    failures: list[Any] = []
    telling = threading.Thread(target=lambda: failures.append(peer.broadcast(message, 60)))
    telling.start()

    assert all(session.receive(timeout=20) == message for session in listening)
    assert not failures  # it returns once all have it
    gone.close()
    for session in silent:
        assert session.receive(timeout=20) == message
    telling.join(20)
    assert [list(failed) for failed in failures] == [[broken]]
    assert isinstance(failures[0][broken], SessionClosedError)


def test_a_broadcast_that_cant_be_serialized_fails_for_each(connected: Connected) -> None:
    peer = IpcPeer()
    sessions = {connected(peer)[0] for _ in range(2)}
    failures = peer.broadcast(Unsent(object()))

    assert set(failures) == sessions
    assert all(isinstance(error, SerializationError) for error in failures.values())
    with pytest.raises(TypeError):
        peer.broadcast("no message")  # type: ignore[arg-type]


# After the end


@pytest.mark.parametrize(
    "use",
    [
        lambda session: session.notify(Note()),
        lambda session: session.request(Echo()),
        lambda session: session.receive(),
        lambda session: next(session.stream(Echo())),
    ],
    ids=["notify", "request", "receive", "stream"],
)
def test_handlers_that_fail_because_the_session_has_ended_are_logged_once(
    connected: Connected, caplog: pytest.LogCaptureFixture, use: Callable[[IpcSession], Any]
) -> None:
    sending, handling = connected()
    go_on = threading.Event()
    handled: list[int] = []

    @handling.on_message
    def note(msg: Note) -> None:
        assert go_on.wait(30)
        handled.append(msg.number)
        use(handling)

    handling.start()
    for number in range(300):
        sending.notify(Note(number=number))
    sending.close()
    assert handling._engine.shutdown.ended.wait(30)
    go_on.set()
    assert handling._engine.shutdown.closed.wait(30)

    assert handled == list(range(300))
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    assert "a handler failed because its session has ended (" in record.message
    assert "the peer closed the connection" in record.message


def test_a_request_that_the_end_has_failed_is_logged_once_by_all_who_waited(
    connected: Connected, caplog: pytest.LogCaptureFixture
) -> None:
    sending, handling = connected()
    futures: list[Any] = []
    asked = threading.Event()

    @handling.on_message
    def note(msg: Note) -> None:
        if not futures:
            futures.append(handling.request(Echo(), timeout=None))
            asked.set()
        futures[0].result(timeout=30)

    over = threading.Event()
    sending.on_request(Echo)(lambda msg: over.wait(30))
    handling.start()
    for number in range(20):
        sending.notify(Note(number=number))
    assert asked.wait(30)
    sending.close(timeout=0)
    assert handling._engine.shutdown.closed.wait(30)
    over.set()

    assert [record.levelname for record in caplog.records if record.exc_info] == []
    said = [record for record in caplog.records if "a handler failed" in record.message]
    assert len(said) == 1


def test_on_exception_is_told_of_each_of_them(
    connected: Connected, caplog: pytest.LogCaptureFixture
) -> None:
    sending, handling = connected()
    go_on = threading.Event()
    errors: list[BaseException] = []
    handling.on_exception(errors.append)

    @handling.on_message
    def note(msg: Note) -> None:
        assert go_on.wait(30)
        handling.notify(msg)

    handling.start()
    for number in range(10):
        sending.notify(Note(number=number))
    sending.close()
    assert handling._engine.shutdown.ended.wait(30)
    go_on.set()
    assert handling._engine.shutdown.closed.wait(30)

    assert [type(error) for error in errors] == [SessionClosedError] * 10
    assert caplog.records == []


def test_the_end_of_another_session_is_logged_each_time(
    connected: Connected, caplog: pytest.LogCaptureFixture
) -> None:
    sending, handling = connected()
    _, other = connected()
    other.close()
    handling.on_message(Note)(lambda msg: other.notify(msg))
    with handling:
        for number in range(3):
            sending.notify(Note(number=number))
        sending.close()
        assert handling._engine.shutdown.closed.wait(30)

    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3


# Peers that do not read


@pytest.fixture
def deaf() -> Iterator[tuple[IpcPeer, list[IpcSession], list[socket.socket]]]:
    """Return a peer with three sessions, and the other ends, which nobody reads from."""
    ends = [socket.socketpair() for _ in range(3)]
    with IpcPeer() as peer:
        sessions = [peer.create_stream_session(ours, ours).start() for ours, _ in ends]
        yield peer, sessions, [theirs for _, theirs in ends]
        for _, theirs in ends:
            theirs.close()


LARGE = LogMessage("x" * 100_000)


def test_notify_gives_up_after_its_timeout(deaf: Any) -> None:
    _, (session, *_), (end, *_) = deaf

    def fill() -> None:
        for _ in range(1000):
            session.notify(LARGE, timeout=0.05)

    with pytest.raises(RequestTimeoutError, match="the peer does not read"):
        fill()
    end.settimeout(30)
    received = 0
    while received < 10:  # the session lives on
        received += len(end.recv(1 << 16))
    assert not session.closed


def test_broadcast_is_not_held_up_by_a_peer_that_does_not_read(deaf: Any) -> None:
    peer, (stuck, healthy, other), (_, *ends) = deaf
    counts = [0, 0]

    def read(number: int) -> None:
        while data := ends[number].recv(1 << 16):
            counts[number] += len(data)

    readers = [threading.Thread(target=read, args=(number,)) for number in range(2)]
    for reader in readers:
        reader.start()
    failures: list[dict[IpcSession, Exception]] = []
    for _ in range(100):
        failures.append(peer.broadcast(LARGE, timeout=0.2))
    healthy.close()
    other.close()
    for reader in readers:
        reader.join()

    assert {session for failed in failures for session in failed} == {stuck}
    assert isinstance(failures[-1][stuck], RequestTimeoutError)
    assert counts[0] == counts[1] > 100 * len(LARGE.message)


def test_stuck_peers_take_no_time_from_one_that_is_busy(deaf: Any, connected: Connected) -> None:
    peer, *_ = deaf
    sending, reading = connected(peer, IpcPeer())
    came = threading.Semaphore(0)
    reading.on_message(LogMessage)(lambda msg: came.release())
    reading.start()
    over = threading.Event()

    def keep_busy() -> None:
        while not over.is_set():
            sending.notify(LogMessage("z" * 1_000_000))

    busy = threading.Thread(target=keep_busy)
    busy.start()
    failed = [peer.broadcast(LARGE, timeout=2).keys() for _ in range(10)]
    over.set()
    busy.join()

    assert not any(sending in sessions for sessions in failed)
    assert any(failed)


def test_a_stuck_peer_gets_broadcasts_again_once_it_reads(
    deaf: Any, eventually: Callable[..., None]
) -> None:
    peer, (stuck, *rest), (end, *_) = deaf
    for session in rest:
        session.close()
    while not peer.broadcast(LARGE, timeout=0.05):
        pass
    assert peer.broadcast(LARGE, timeout=0.05)
    reading = threading.Thread(target=lambda: [None for _ in iter(lambda: end.recv(1 << 16), b"")])
    reading.start()
    eventually(lambda: not peer.broadcast(LogMessage("again"), timeout=1))
    stuck.close()
    reading.join()


@pytest.mark.parametrize("takes_timeout", [True, False])
def test_a_notify_of_the_users_own_is_given_the_time_of_a_broadcast(takes_timeout: bool) -> None:
    given: list[Any] = []

    class Own(IpcSession):
        def notify(self, message: Message, *rest: Any, **options: Any) -> None:
            given.append(options)

    class Older(Own):
        def notify(self, message: Message) -> None:  # type: ignore[override]
            given.append(message)

    ours, theirs = socket.socketpair()
    with theirs, IpcPeer(session_type=Own if takes_timeout else Older) as peer:
        peer.create_stream_session(ours, ours).start()
        assert not peer.broadcast(LARGE, timeout=5)
    if takes_timeout:
        assert 4 < given[0]["timeout"] <= 5
    else:
        assert given == [LARGE]


def test_a_session_without_threads_gets_broadcasts_again_once_its_peer_reads() -> None:
    ours, theirs = socket.socketpair()
    with theirs, IpcPeer(session_type=SyncIpcSession) as peer:
        peer.create_stream_session(ours, ours).start()
        while not peer.broadcast(LARGE, timeout=0.05):
            pass
        assert peer.broadcast(LARGE, timeout=0.05)
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while theirs.recv(1 << 20):
                pass
        assert not peer.broadcast(LogMessage("again"), timeout=5)


@pytest.mark.parametrize("method", ["notify", "broadcast"])
def test_a_request_is_no_notification(connected: Connected, method: str) -> None:
    sending, receiving = connected()
    owner = sending.peer if method == "broadcast" else sending

    with pytest.raises(TypeError, match=rf"{method}\(\) gets no reply, .*Echo .* use request\(\)"):
        getattr(owner, method)(Echo())
    assert sending.stats.frames_sent == 0
    assert receiving.stats.frames_received == 0
