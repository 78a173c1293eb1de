"""Requests and their replies: what comes back, and what comes back when it goes wrong."""

from __future__ import annotations

import concurrent.futures
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from shared_messages import Add, Echo, Fail, Greeting, Note, SayHello

from streamipc import (
    CounterIdGenerator,
    IpcPeer,
    IpcSession,
    JsonMessageSerializer,
    LogMessage,
    Message,
    PidHrtimeRequestIdGenerator,
    ProcessSession,
    ProtocolError,
    RemoteError,
    Request,
    RequestContext,
    RequestTimeoutError,
    SerializationError,
    SessionClosedError,
    UnhandledRequestError,
    current_request,
)

Connected = Callable[..., tuple[IpcSession, IpcSession]]


@pytest.fixture(params=["native", "json"])
def pair(request: pytest.FixtureRequest, connected: Connected) -> tuple[IpcSession, IpcSession]:
    """The asking session, and the answering one that is not started yet."""
    if request.param == "json":
        return connected(IpcPeer(JsonMessageSerializer()), IpcPeer(JsonMessageSerializer()))
    return connected()


# Replies


def test_a_typed_request_gets_its_typed_reply(pair: Any) -> None:
    asking, answering = pair
    answering.on_request(SayHello)(lambda msg: Greeting(f"Hello, {msg.name}!"))
    answering.start()

    assert asking.request(SayHello("Ada")).result(timeout=10) == Greeting("Hello, Ada!")
    assert asking.call(SayHello("Bob")) == Greeting("Hello, Bob!")


def test_none_is_a_reply(pair: Any) -> None:
    asking, answering = pair
    answering.on_request(Echo)(lambda msg: None)
    answering.start()

    assert asking.request(Echo("x")).result(timeout=10) is None


def test_a_plain_message_may_be_requested(pair: Any) -> None:
    asking, answering = pair
    answering.on_request(LogMessage)(lambda msg: [msg.message, msg.level])
    answering.start()

    assert asking.request(LogMessage("x")).result(timeout=10) == ["x", "info"]


def test_replies_come_as_they_are_ready_not_in_the_order_asked(pair: Any) -> None:
    asking, answering = pair
    go = threading.Event()

    @answering.on_request
    def echo(msg: Echo) -> Any:
        if msg.value == "slow":
            assert go.wait(10)
        return msg.value

    answering.start()
    slow = asking.request(Echo("slow"))
    assert asking.request(Echo("quick")).result(timeout=10) == "quick"
    assert not slow.done()
    go.set()
    assert slow.result(timeout=10) == "slow"


def test_requests_run_at_the_same_time_up_to_the_limit(connected: Connected) -> None:
    asking, answering = connected(None, IpcPeer(handler_threads=3))
    together = threading.Barrier(3)
    running: list[int] = []

    @answering.on_request
    def echo(msg: Echo) -> int:
        running.append(answering.stats.running)
        together.wait(10)
        return together.wait(10)

    answering.start()
    futures = [asking.request(Echo()) for _ in range(9)]
    concurrent.futures.wait(futures, timeout=20)

    assert sorted(f.result(0) for f in futures) == sorted([0, 1, 2] * 3)
    assert max(running) <= 3


def test_wait_as_completed_and_callbacks_work_without_anyone_in_result(pair: Any) -> None:
    asking, answering = pair
    answering.on_request(Echo)(lambda msg: msg.value)
    answering.start()
    called: list[Any] = []
    all_called = threading.Semaphore(0)
    futures = [asking.request(Echo(n)) for n in range(20)]
    for future in futures:
        future.add_done_callback(lambda f: (called.append(f.result(0)), all_called.release()))

    done = {f.result(0) for f in concurrent.futures.as_completed(futures, timeout=10)}
    assert done == set(range(20))
    assert concurrent.futures.wait(futures, timeout=10).not_done == set()
    assert all(all_called.acquire(timeout=10) for _ in futures)
    assert sorted(called) == list(range(20))


def test_a_callback_may_ask_again(pair: Any) -> None:
    asking, answering = pair
    answering.on_request(Echo)(lambda msg: msg.value)
    answering.start()
    chain: list[Any] = []
    end = threading.Event()

    def again(future: Any) -> None:
        chain.append(future.result(0))
        if len(chain) == 10:
            end.set()
        else:
            nested = asking.request(Echo(len(chain)))
            assert nested.result(timeout=10) == len(chain)
            asking.request(Echo(len(chain))).add_done_callback(again)

    asking.request(Echo(0)).add_done_callback(again)
    assert end.wait(20)
    assert chain == list(range(10))


def test_a_callback_that_raises_harms_nothing(pair: Any, caplog: pytest.LogCaptureFixture) -> None:
    asking, answering = pair
    added, called = threading.Event(), threading.Event()
    answering.on_request(Echo)(lambda msg: added.wait(10) and msg.value)
    answering.start()
    future = asking.request(Echo(1))
    future.add_done_callback(lambda f: 1 / 0)
    future.add_done_callback(lambda f: called.set())
    added.set()  # so that one thread calls both, in this order

    assert called.wait(10)
    assert asking.request(Echo(2)).result(timeout=10) == 2
    assert "ZeroDivisionError" in caplog.text


def test_large_messages_pass_both_ways(pair: Any) -> None:
    asking, answering = pair
    answering.on_request(Echo)(lambda msg: msg.value * 2)
    answering.start()
    text = "0123456789abcdef" * 65_536

    assert asking.request(Echo(text)).result(timeout=30) == text * 2


def test_a_dead_reply_is_not_kept_alive_by_the_session(
    connected: Connected, eventually: Callable[..., None]
) -> None:
    asking, answering = connected()
    answering.on_request(SayHello)(lambda msg: Greeting(msg.name))
    answering.start()
    replies = []
    for _ in range(20):
        reply = asking.request(SayHello("x")).result(timeout=10)
        replies.append(weakref.ref(reply))
    del reply

    def freed() -> bool:
        gc.collect()
        return sum(ref() is not None for ref in replies) <= 1

    eventually(freed)


@pytest.mark.parametrize("watched", [False, True])
def test_what_a_request_leaves_is_no_work_for_the_garbage_collector(
    connected: Connected, watched: bool, eventually: Callable[..., None]
) -> None:
    """The future and its call would be in a cycle: thousands of them in a second."""
    asking, answering = connected()
    answering.on_request(SayHello)(lambda msg: Greeting(msg.name))
    answering.start()
    asking.call(SayHello("warm up"))
    gc.disable()
    try:
        future = asking.request(SayHello("x"))
        called: list[bool] = []
        if watched:
            future.add_done_callback(lambda done: called.append(True))
            concurrent.futures.wait([future], timeout=10)
            eventually(lambda: called)
        assert future.result(timeout=10) == Greeting("x")
        left = weakref.ref(future)
        del future
        eventually(lambda: left() is None)
    finally:
        gc.enable()


def test_a_callback_is_called_though_others_look_as_the_reply_comes(
    connected: Connected, eventually: Callable[..., None]
) -> None:
    asking, answering = connected()
    entered, may_answer = threading.Event(), threading.Event()

    @answering.on_request
    def greet(msg: SayHello) -> Greeting:
        entered.set()
        assert may_answer.wait(10)
        return Greeting(msg.name)

    class Watched(list[Any]):
        """The outcome; somebody looks at the future right behind its coming."""

        def append(self, outcome: Any) -> None:
            super().append(outcome)
            assert future.done()

    answering.start()
    future = asking.request(SayHello("x"))
    assert entered.wait(10)
    future._call.outcome = Watched()
    called: list[Any] = []
    future.add_done_callback(called.append)
    may_answer.set()

    eventually(lambda: called)
    assert called == [future]


# Handlers


def test_an_answer_is_left_to_the_thread_that_writes(
    connected: Connected, eventually: Callable[..., None]
) -> None:
    """Threads that wait for their turn to write would switch some ten times for each answer."""
    asking, answering = connected(None, IpcPeer(handler_threads=2))
    begun, may_return, ran = threading.Semaphore(0), threading.Event(), []

    @answering.on_request
    def wait(msg: Echo) -> object:
        begun.release()
        assert may_return.wait(10)
        ran.append(msg.value)
        return msg.value

    answering.start()
    replies = [asking.request(Echo(n), timeout=30) for n in range(8)]
    # The second begins when the first is found to be slow: the others are offloaded.
    assert begun.acquire(timeout=10)
    assert begun.acquire(timeout=10)
    writer = answering._engine.writer
    writer.turn[0] = []  # as of a thread that is held up in the midst of writing
    may_return.set()
    eventually(lambda: len(ran) == 8 and not answering.stats.running)
    assert not any(reply.done() for reply in replies)
    writer.turn.clear()
    writer.flush_some()

    assert [reply.result() for reply in replies] == list(range(8))


def test_not_implemented_passes_the_message_to_the_next_handler(pair: Any) -> None:
    asking, answering = pair
    order: list[str] = []

    @answering.on_request
    def first(msg: Echo) -> Any:
        order.append("first")
        return NotImplemented

    @answering.on_request
    def second(msg: Message) -> Any:
        order.append("second")
        return msg.value if msg.value == "mine" else NotImplemented

    @answering.peer.on_request
    def of_the_peer(msg: Echo) -> Any:
        order.append("peer")
        return "the peer's"

    answering.start()
    assert asking.request(Echo("mine")).result(timeout=10) == "mine"
    assert asking.request(Echo("other")).result(timeout=10) == "the peer's"
    assert order == ["first", "second", "first", "second", "peer"]


def test_a_handler_that_was_taken_back_is_not_called(pair: Any) -> None:
    asking, answering = pair
    own = answering.on_request(Echo)(lambda msg: "own")
    peers = answering.peer.on_request(Echo)(lambda msg: "peer's")
    answering.start()

    assert asking.request(Echo()).result(timeout=10) == "own"
    answering.off_request(own)
    assert asking.request(Echo()).result(timeout=10) == "peer's"
    answering.peer.off_request(peers)
    with pytest.raises(UnhandledRequestError):
        asking.request(Echo()).result(timeout=10)
    with pytest.raises(ValueError, match="not registered"):
        answering.off_request(own)


def test_handlers_of_the_peer_serve_all_of_its_sessions(connected: Connected) -> None:
    peer = IpcPeer()
    peer.on_request(Echo)(lambda msg, ctx: [msg.value, ctx.session in peer.sessions])
    one, answering_one = connected(None, peer)
    two, answering_two = connected(None, peer)
    answering_one.start()
    answering_two.start()

    assert one.request(Echo(1)).result(timeout=10) == [1, True]
    assert two.request(Echo(2)).result(timeout=10) == [2, True]
    assert set(peer.sessions) == {answering_one, answering_two}


def test_the_context_tells_about_the_request(pair: Any) -> None:
    asking, answering = pair
    seen: dict[str, Any] = {}

    @answering.on_request
    def echo(msg: Echo, ctx: RequestContext) -> None:
        current = current_request()
        assert current is not None
        seen.update(
            session=ctx.session,
            id=ctx.request_id,
            metadata=dict(ctx.metadata),
            remaining=ctx.time_remaining(),
            cancelled=ctx.cancelled,
            same=current.request_id == ctx.request_id,
        )
        ctx.raise_if_cancelled()

    answering.start()
    future = asking.request(Echo(), timeout=50, metadata={"user": "ada"})
    future.result(timeout=10)

    assert seen["session"] is answering
    assert seen["id"] == future.id
    assert seen["metadata"] == {"user": "ada"}
    assert 40 < seen["remaining"] <= 50
    assert seen["cancelled"] is False
    assert seen["same"]


def test_without_a_deadline_the_time_is_endless(pair: Any) -> None:
    asking, answering = pair
    answering.on_request(Echo)(lambda msg, ctx: [ctx.deadline, str(ctx.time_remaining())])
    answering.start()

    assert asking.request(Echo(), timeout=None).result(timeout=10) == [None, "inf"]


def test_a_second_parameter_annotated_so_gets_the_session(pair: Any) -> None:
    asking, answering = pair
    seen: list[Any] = []

    @answering.on_request
    def echo(msg: Echo, session: IpcSession) -> None:
        seen.append(session)

    answering.start()
    asking.request(Echo()).result(timeout=10)
    assert seen == [answering]


def test_an_inline_handler_answers(pair: Any) -> None:
    asking, answering = pair

    @answering.on_request(inline=True)
    def echo(msg: Echo) -> Any:
        return msg.value

    answering.start()
    assert [asking.request(Echo(n)).result(timeout=10) for n in range(50)] == list(range(50))


def test_a_handler_may_ask_back(pair: Any) -> None:
    asking, answering = pair

    @answering.on_request
    def hello(msg: SayHello, session: IpcSession) -> Greeting:
        title = session.request(Echo("Dr")).result(timeout=10)
        return Greeting(f"Hello, {title} {msg.name}!")

    asking.on_request(Echo)(lambda msg: msg.value)
    answering.start()

    futures = [asking.request(SayHello(str(n))) for n in range(30)]
    assert [f.result(timeout=10).text for f in futures] == [f"Hello, Dr {n}!" for n in range(30)]


def test_a_nested_request_has_no_more_time_than_the_outer_one(pair: Any) -> None:
    asking, answering = pair
    remaining: list[float] = []
    answering.on_request(Echo)(lambda msg, ctx: ctx.session.request(SayHello("x")).result(10))
    asking.on_request(SayHello)(lambda msg, ctx: remaining.append(ctx.time_remaining()))
    answering.start()
    asking.request(Echo(), timeout=5).result(timeout=10)

    assert 0 < remaining[0] <= 5


# Errors


def test_the_exception_of_a_handler_reaches_the_caller_with_its_traceback(pair: Any) -> None:
    asking, answering = pair

    @answering.on_request
    def fail(msg: Fail) -> None:
        raise ValueError(msg.text)

    answering.start()
    with pytest.raises(RemoteError, match=r"^ValueError: on purpose$") as caught:
        asking.request(Fail()).result(timeout=10)

    assert caught.value.remote_type == "ValueError"
    assert caught.value.remote_message == "on purpose"
    assert "test_requests.py" in caught.value.remote_traceback
    assert "raise ValueError(msg.text)" in str(caught.value.__cause__)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (Unspeakable(), "Unspeakable: <str.. of the exception failed: RuntimeError>"),
        (ValueError("\ud800 surrogate"), "ValueError"),
        (ValueError("x" * 100_000), "ValueError: xxx"),
        (StopIteration(1), "StopIteration"),
    ],
)
def test_whatever_a_handler_raises_is_answered_and_the_session_lives(
    pair: Any, error: BaseException, text: str
) -> None:
    asking, answering = pair

    @answering.on_request
    def fail(msg: Fail) -> None:
        raise error

    answering.on_request(Echo)(lambda msg: msg.value)
    answering.start()
    for _ in range(2):
        with pytest.raises(RemoteError, match=text):
            asking.request(Fail()).result(timeout=10)
    assert asking.request(Echo(1)).result(timeout=10) == 1


@pytest.mark.parametrize("length", [100, 1000, 2000, 100_000])
def test_an_error_that_does_not_fit_into_a_frame_is_answered_in_short(
    connected: Connected, length: int
) -> None:
    asking, answering = connected(IpcPeer(), IpcPeer(max_frame_size=1024))

    @answering.on_request
    def fail(msg: Fail) -> None:
        raise ValueError("x" * length)

    answering.on_request(Echo)(lambda msg: msg.value)
    answering.start()
    for _ in range(20):  # more than there are threads
        with pytest.raises(RemoteError, match="ValueError"):
            asking.request(Fail()).result(timeout=10)
    assert asking.request(Echo(1)).result(timeout=10) == 1


def test_a_reply_that_cant_be_sent_is_an_error_that_names_the_request(pair: Any) -> None:
    asking, answering = pair
    answering.on_request(Echo)(lambda msg: object() if msg.value else "fine")
    answering.start()

    with pytest.raises(SerializationError, match=r"reply to shared_messages\.Echo .*object"):
        asking.request(Echo(1)).result(timeout=10)
    assert asking.request(Echo(0)).result(timeout=10) == "fine"


def test_a_reply_that_is_too_large_is_an_error(connected: Connected) -> None:
    asking, answering = connected(IpcPeer(), IpcPeer(max_frame_size=10_000))
    answering.on_request(Echo)(lambda msg: "x" * msg.value)
    answering.start()

    with pytest.raises(ProtocolError, match="max_frame_size is 10,000"):
        asking.request(Echo(20_000)).result(timeout=10)
    assert asking.request(Echo(2)).result(timeout=10) == "xx"


def test_a_reply_larger_than_the_caller_takes_is_an_error(connected: Connected) -> None:
    asking, answering = connected(IpcPeer(max_frame_size=10_000), IpcPeer())
    answering.on_request(Echo)(lambda msg: "x" * msg.value)
    answering.start()

    with pytest.raises(ProtocolError, match="max_frame_size is 10,000"):
        asking.request(Echo(200_000)).result(timeout=10)
    assert asking.request(Echo(2)).result(timeout=10) == "xx"


def test_a_request_larger_than_the_peer_takes_is_answered(connected: Connected) -> None:
    asking, answering = connected(IpcPeer(), IpcPeer(max_frame_size=10_000))
    answering.on_request(Echo)(lambda msg: len(msg.value))
    answering.start()

    with pytest.raises(ProtocolError, match="max_frame_size is 10,000"):
        asking.request(Echo("x" * 200_000)).result(timeout=10)
    assert asking.request(Echo("xx")).result(timeout=10) == 2


def test_a_handler_that_returns_a_coroutine_is_told_so(pair: Any) -> None:
    asking, answering = pair

    async def coroutine() -> int:
        return 1

    answering.on_request(Echo)(lambda msg: coroutine())
    answering.start()

    with pytest.raises(RemoteError, match="returned a coroutine, and streamipc has no event loop"):
        asking.request(Echo()).result(timeout=10)


def test_a_request_without_a_handler_is_answered(pair: Any) -> None:
    asking, answering = pair
    answering.on_request(Echo)(lambda msg: NotImplemented)
    answering.start()

    with pytest.raises(UnhandledRequestError, match=r"no handler for shared_messages\.Add"):
        asking.request(Add(1, 2)).result(timeout=10)
    with pytest.raises(UnhandledRequestError, match=r"every handler of shared_messages\.Echo"):
        asking.request(Echo()).result(timeout=10)


@pytest.mark.parametrize(("method", "kind"), [("request", Echo), ("notify", Note)])
def test_a_value_that_cant_be_sent_raises_in_the_caller_and_nothing_is_sent(
    pair: Any, method: str, kind: Any
) -> None:
    asking, answering = pair
    answering.on_request(Echo)(lambda msg: msg.value)
    answering.start()

    asking.request(Echo(1)).result(timeout=10)
    before = asking.stats
    with pytest.raises(SerializationError, match=r"value|text"):
        getattr(asking, method)(kind(object()))
    assert asking.stats == before
    assert asking.request(Echo(1)).result(timeout=10) == 1


@pytest.mark.parametrize(("method", "kind"), [("request", Echo), ("notify", Note)])
def test_a_message_that_is_too_large_raises_in_the_caller_and_nothing_is_sent(
    connected: Connected, method: str, kind: Any
) -> None:
    asking, answering = connected(IpcPeer(max_frame_size=10_000))
    answering.on_request(Echo)(lambda msg: msg.value)
    answering.start()

    asking.request(Echo(1)).result(timeout=10)
    before = asking.stats
    with pytest.raises(
        ProtocolError, match=r"(Echo|Note): .* takes 20,\d+ bytes .*max_frame_size is 10,000"
    ):
        getattr(asking, method)(kind("x" * 20_000))
    assert asking.stats == before
    assert asking.request(Echo(1)).result(timeout=10) == 1


@pytest.mark.parametrize("method", ["request", "notify", "call", "stream"])
@pytest.mark.parametrize("bad", ["text", None, Echo, Note, 7])
def test_what_is_no_message_is_refused(connected: Connected, method: str, bad: Any) -> None:
    asking, _ = connected()

    with pytest.raises(TypeError, match=r"takes an instance of a Message class"):
        getattr(asking, method)(bad)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.request(Echo()),
        lambda s: s.notify(Note()),
        lambda s: s.call(Echo()),
        lambda s: s.stream(Echo()),
        lambda s: s.receive(),
        lambda s: s.receive(timeout=1),
        lambda s: s.start(),
    ],
)
@pytest.mark.parametrize("started", [True, False])
def test_a_closed_session_says_so(connected: Connected, call: Any, started: bool) -> None:
    asking, _ = connected()
    if started:
        asking.start()
    asking.close()

    assert asking.closed
    with pytest.raises(SessionClosedError, match="this side closed the session"):
        call(asking)


@pytest.mark.parametrize("method", ["request", "notify", "call", "stream"])
@pytest.mark.parametrize("by", ["us", "the peer"])
def test_the_error_of_a_session_that_has_ended_names_what_was_not_sent(
    connected: Connected, method: str, by: str
) -> None:
    asking, answering = connected()
    over = threading.Event()
    asking.on_close(over.set)
    asking.start()
    (asking if by == "us" else answering).close()
    assert over.wait(10)

    with pytest.raises(SessionClosedError, match=r"(Echo|Note) was not sent; .* clos"):
        getattr(asking, method)(Note() if method == "notify" else Echo())


# Ids


@pytest.mark.parametrize("generator", [CounterIdGenerator, PidHrtimeRequestIdGenerator])
def test_ids_come_from_the_generator(generator: Any, connected: Connected) -> None:
    generate = generator()
    given: list[Any] = []

    def record() -> Any:
        given.append(generate())
        return given[-1]

    asking, answering = connected(IpcPeer(id_generator=record))
    answering.on_request(Echo)(lambda msg, ctx: ctx.request_id)
    answering.start()

    replies = [asking.request(Echo()).result(timeout=10) for _ in range(5)]
    assert replies == given
    assert len(set(given)) == 5


def test_sessions_may_share_a_generator(connected: Connected) -> None:
    peer = IpcPeer(id_generator=CounterIdGenerator())
    ids = []
    for _ in range(2):
        asking, answering = connected(peer)
        answering.on_request(Echo)(lambda msg, ctx: ctx.request_id)
        answering.start()
        ids.append(asking.request(Echo()).result(timeout=10))

    assert ids == [1, 2]


@pytest.mark.parametrize("bad", [None, -1, 2**64, 1.5, "", "x" * 256, b"x", []])
def test_an_id_that_cant_travel_raises_in_the_caller(pair: Any, bad: Any) -> None:
    json = isinstance(pair[0].peer.options.serializer, JsonMessageSerializer)
    serializer = JsonMessageSerializer() if json else None
    peer = IpcPeer(serializer, id_generator=lambda: bad)
    import os

    a, b = os.pipe()
    with peer.create_stream_session(b, a) as session:
        with pytest.raises(SerializationError, match="id"):
            session.request(Echo())
        assert session.stats.pending == 0


def test_an_id_that_is_pending_is_refused(connected: Connected) -> None:
    asking, answering = connected(IpcPeer(id_generator=lambda: 7))
    go = threading.Event()
    answering.on_request(Echo)(lambda msg: go.wait(10))
    answering.start()
    first = asking.request(Echo())

    with pytest.raises(ProtocolError, match="7, the id of a pending request"):
        asking.request(Echo())
    go.set()
    assert first.result(timeout=10) is True


# A session type, a serializer and a transport of the user's own


class MySession(IpcSession):
    def shout(self, text: str) -> Any:
        return self.request(Echo(text.upper())).result(timeout=10)


def test_a_session_type_of_the_users_own(connected: Connected) -> None:
    asking, answering = connected(IpcPeer(session_type=MySession))
    answering.on_request(Echo)(lambda msg: msg.value)
    answering.start()

    assert isinstance(asking, MySession)
    assert asking.shout("x") == "X"


def test_a_session_type_of_the_users_own_with_a_child(echo_child: list[str]) -> None:
    with IpcPeer(session_type=MySession).create_command_session(echo_child) as session:
        assert isinstance(session, MySession)
        assert isinstance(session, ProcessSession)
        assert session.shout("x") == "X"
        assert session.pid == session.process.pid


class MyProcessSession(ProcessSession):
    pass


def test_a_process_session_type_makes_no_session_of_streams() -> None:
    import os

    fds = os.pipe()
    try:
        with pytest.raises(TypeError, match="MyProcessSession is for child processes"):
            IpcPeer(session_type=MyProcessSession).create_stream_session(fds[1], fds[0])
    finally:
        for fd in fds:
            os.close(fd)


class ReprSerializer:
    """A user's serializer: Python literals, two kinds of envelopes and errors."""

    def encode(self, envelope: Any) -> list[bytes]:
        from streamipc.protocol import envelopes as e

        if isinstance(envelope, e.Request):
            return [repr(("request", envelope.id, envelope.message.value)).encode()]
        if isinstance(envelope, e.Response):
            return [repr(("response", envelope.id, envelope.value)).encode()]
        if isinstance(envelope, e.ErrorResponse):
            return [repr(("error", envelope.id, envelope.error.message)).encode()]
        raise SerializationError(f"no way to send {type(envelope).__name__}")

    def decode(self, payload: memoryview) -> Any:
        import ast

        from streamipc import ErrorMessage
        from streamipc.protocol import envelopes as e

        kind, id_, body = ast.literal_eval(bytes(payload).decode())
        if kind == "request":
            return e.Request(id_, Echo(body))
        if kind == "response":
            return e.Response(id_, body)
        return e.ErrorResponse(id_, ErrorMessage(body))


def test_a_serializer_of_the_users_own(connected: Connected) -> None:
    asking, answering = connected(IpcPeer(ReprSerializer()), IpcPeer(ReprSerializer()))

    @answering.on_request
    def echo(msg: Echo) -> Any:
        if msg.value == "wrong":
            raise ValueError("wrong")
        return [msg.value]

    answering.start()
    assert asking.request(Echo(("a", 1))).result(timeout=10) == [("a", 1)]
    with pytest.raises(RemoteError, match="wrong"):
        asking.request(Echo("wrong")).result(timeout=10)
    with pytest.raises(SerializationError, match="no way to send Notification"):
        asking.notify(Note())


def test_a_request_times_out_although_the_serializer_cant_cancel(
    connected: Connected, caplog: pytest.LogCaptureFixture
) -> None:
    asking, answering = connected(IpcPeer(ReprSerializer()), IpcPeer(ReprSerializer()))
    go = threading.Event()
    answering.on_request(Echo)(lambda msg: go.wait(10) and "late" if msg.value else "quick")
    answering.start()
    with caplog.at_level(logging.ERROR, "streamipc"):
        for future in [asking.request(Echo(1), timeout=0.05) for _ in range(3)]:
            with pytest.raises(RequestTimeoutError):
                future.result(timeout=10)
    go.set()
    assert asking.request(Echo(0)).result(timeout=10) == "quick"


class Undescribable(Request[None]):
    value: Any = None


class FailingSerializer(ReprSerializer):
    """Can't say anything about an error."""

    def encode(self, envelope: Any) -> list[bytes]:
        if type(envelope).__name__ == "ErrorResponse":
            raise ZeroDivisionError("no error can be sent")
        return super().encode(envelope)


def test_a_serializer_that_cant_send_errors_leaves_the_session_alive(
    connected: Connected, caplog: pytest.LogCaptureFixture, eventually: Callable[..., None]
) -> None:
    asking, answering = connected(IpcPeer(ReprSerializer()), IpcPeer(FailingSerializer()))
    answering.on_request(Echo)(lambda msg: 1 / msg.value)
    answering.start()

    # Their time is not over before they start: then they would not fail.
    failing = [asking.request(Echo(0), timeout=1) for _ in range(20)]
    assert asking.request(Echo(1)).result(timeout=10) == 1
    eventually(lambda: "no error can be sent" in caplog.text)
    for future in failing:
        with pytest.raises(RequestTimeoutError):
            future.result(timeout=10)
    assert asking.request(Echo(1)).result(timeout=10) == 1


def test_another_lock_in_the_place_of_threadings_does_no_harm(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = connected()
    there.on_request(Echo)(lambda msg: msg.value)
    there.start()
    lock = threading.Lock
    monkeypatch.setattr(threading, "Lock", lambda: lock())
    assert here.call(Echo(1)) == 1
    monkeypatch.setattr(threading, "Lock", lock)
    assert here.call(Echo(2)) == 2
