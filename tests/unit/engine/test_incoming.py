"""What handlers return and raise at the edges of what they may."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest
from handover import LONG, Eventually
from shared_messages import Echo, Note

from streamipc import (
    ErrorMessage,
    IpcError,
    IpcPeer,
    JsonMessageSerializer,
    Limits,
    NativeMessageSerializer,
    RemoteError,
    RequestCancelledError,
    RequestContext,
    SerializationError,
)
from streamipc.engine import incoming
from streamipc.protocol.envelopes import Request, Response


@pytest.fixture
def sides(connected: Callable[..., tuple[Any, Any]]) -> tuple[Any, Any]:
    left, right = connected()
    right.start()
    return left, right


def test_a_generator_for_notifications_runs_to_its_end_although_nobody_takes_its_items(
    sides: tuple[Any, Any],
) -> None:
    left, right = sides
    seen: list[int] = []
    done = threading.Event()

    @right.on_message
    def handle(msg: Note) -> Any:
        for number in range(msg.number):
            seen.append(number)
            yield number
        done.set()

    left.notify(Note(number=3))

    assert done.wait(LONG)
    assert seen == [0, 1, 2]


def test_an_exception_whose_traceback_cant_be_shown_is_told_without(
    sides: tuple[Any, Any],
) -> None:
    left, right = sides

    class Odd(Exception):
        @property
        def __cause__(self) -> Any:
            raise ValueError("no cause")

        @__cause__.setter
        def __cause__(self, cause: Any) -> None: ...

    @right.on_request
    def handle(msg: Echo) -> Any:
        raise Odd("what went wrong")

    with pytest.raises(RemoteError, match="what went wrong") as caught:
        left.request(Echo()).result(LONG)
    assert caught.value.remote_type.endswith("Odd")
    assert caught.value.remote_traceback == ""


class Recording:
    """A serializer that remembers what it was given."""

    def __init__(self) -> None:
        self.encoded: list[Any] = []
        self._plain = NativeMessageSerializer()
        self.decode = self._plain.decode

    def encode(self, envelope: Any) -> Any:
        self.encoded.append(envelope)
        return self._plain.encode(envelope)


@pytest.mark.parametrize("end", ["returns", "raises", "raises as cancelled", "passes on"])
def test_a_cancelled_request_has_no_answer_built(
    connected: Callable[..., tuple[Any, Any]], end: str
) -> None:
    serializer = Recording()
    left, right = connected(None, IpcPeer(serializer, handler_threads=1))
    entered = threading.Event()

    @right.on_request
    def handle(msg: Echo, ctx: RequestContext) -> Any:
        if msg.value == "next":
            return "next"
        cancelled = threading.Event()
        ctx.on_cancel(cancelled.set)
        entered.set()
        assert cancelled.wait(LONG)
        if end == "raises":
            raise ValueError("on purpose")
        if end == "raises as cancelled":
            ctx.raise_if_cancelled()
        return NotImplemented if end == "passes on" else "answer"

    right.start()
    future = left.request(Echo())
    assert entered.wait(LONG)
    future.cancel()

    # The only handler thread comes to it when all of the first is over.
    assert left.request(Echo("next")).result(LONG) == "next"
    assert [type(envelope) for envelope in serializer.encoded] == [Response]
    assert left.stats.late == 0


@pytest.mark.parametrize("by", ["return", "generator", "subclass"])
@pytest.mark.parametrize("tracebacks", [True, False])
def test_a_returned_error_message_fails_the_request(
    connected: Callable[..., tuple[Any, Any]], by: str, tracebacks: bool
) -> None:
    left, right = connected(None, IpcPeer(tracebacks=tracebacks))
    error = ErrorMessage("no glue", "app.OutOfStock", "Traceback of another process")

    class Own(ErrorMessage):
        pass

    def generate() -> Any:
        yield 1
        return error

    @right.on_request
    def handle(msg: Echo) -> Any:
        if msg.value == "plain":  # its type is remembered
            return error.message
        if by == "generator":
            return generate()
        return Own(error.message, error.type, error.traceback) if by == "subclass" else error

    right.start()
    for _ in range(3):
        assert left.request(Echo("plain")).result(LONG) == "no glue"
        with pytest.raises(RemoteError) as caught:
            left.request(Echo()).result(LONG)
        assert str(caught.value) == "app.OutOfStock: no glue"
        assert caught.value.remote_type == "app.OutOfStock"
        assert caught.value.remote_traceback == (error.traceback if tracebacks else "")


def test_an_error_message_of_odd_fields_reaches_the_caller_as_text(sides: tuple[Any, Any]) -> None:
    left, right = sides
    odd: Any = ErrorMessage(5, ValueError, None)  # type: ignore[arg-type]
    right.on_request(Echo)(lambda msg: odd)

    with pytest.raises(RemoteError, match="5"):
        left.request(Echo()).result(LONG)


def test_an_error_message_for_nobody_is_let_go(sides: tuple[Any, Any]) -> None:
    left, right = sides
    reported: list[BaseException] = []
    right.on_exception(reported.append)
    right.on_message(Note)(lambda msg: ErrorMessage("x"))
    right.on_request(Echo)(lambda msg: reported)
    left.notify(Note())
    end = threading.Event()
    right.on_message(Note)(lambda msg: end.set())
    left.notify(Note())

    assert end.wait(LONG)
    assert reported == []


@pytest.mark.parametrize("serializer", [NativeMessageSerializer, JsonMessageSerializer])
@pytest.mark.parametrize("inline", [True, False])
def test_without_tracebacks_the_caller_is_told_type_and_text_alone(
    connected: Callable[..., tuple[Any, Any]], serializer: Any, inline: bool
) -> None:
    left, right = connected(IpcPeer(serializer()), IpcPeer(serializer(), tracebacks=False))

    @right.on_request(inline=inline)
    def handle(msg: Echo) -> Any:
        try:
            raise ConnectionError("postgres://app:secret@db refused")
        except ConnectionError:
            if msg.value == "unsent":
                return object()
            if msg.value == "items":
                return (left for left in [object()])
            if msg.value == "passed on":
                return NotImplemented
            raise LookupError("no such user") from None if msg.value else KeyError("secret")

    right.start()
    for value in (None, "x", "unsent", "items", "passed on"):
        with pytest.raises(IpcError) as caught:
            (left.stream if value == "items" else left.request)(Echo(value)).result(LONG)
        error: BaseException | None = caught.value
        assert getattr(error, "remote_traceback", "") == ""
        while error is not None:
            assert "secret" not in str(error)
            assert "Traceback" not in str(error)
            assert __file__ not in str(error)
            error = error.__cause__
        if value in (None, "x"):
            assert str(caught.value) == "LookupError: no such user"


def test_what_is_awaitable_and_no_coroutine_is_refused_too(sides: tuple[Any, Any]) -> None:
    left, right = sides

    class Later:
        def __await__(self) -> Any:
            yield

    right.on_request(Echo)(lambda msg: Later())

    with pytest.raises(RemoteError, match="returned a coroutine, and streamipc has no event loop"):
        left.request(Echo()).result(LONG)


def test_threads_of_a_handler_that_need_its_lock_at_the_same_time_get_the_same(
    sides: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = sides
    creation = incoming._creation
    called: list[str] = []

    class Overtaken:
        """Another thread registers its callback after we have looked for the lock."""

        def __init__(self, context: RequestContext) -> None:
            self._context = context

        def __enter__(self) -> None:
            monkeypatch.setattr(incoming, "_creation", creation)
            other = threading.Thread(
                target=lambda: self._context.on_cancel(lambda: called.append("the other's"))
            )
            other.start()
            other.join()
            creation.acquire()

        def __exit__(self, *_: object) -> None:
            creation.release()

    entered, cancelled = threading.Event(), threading.Event()

    @right.on_request
    def handle(msg: Echo, context: RequestContext) -> None:
        monkeypatch.setattr(incoming, "_creation", Overtaken(context))
        context.on_cancel(lambda: called.append("ours"))
        context.on_cancel(cancelled.set)
        entered.set()
        assert cancelled.wait(LONG)

    future = left.request(Echo())
    assert entered.wait(LONG)
    future.cancel()

    assert cancelled.wait(LONG)
    assert called == ["the other's", "ours"]


def test_a_thread_that_waits_for_credit_is_told_when_its_handler_returns(
    sides: tuple[Any, Any], eventually: Eventually
) -> None:
    left, right = sides
    outcome: queue.SimpleQueue[str] = queue.SimpleQueue()

    @right.on_request
    def handle(msg: Echo, ctx: RequestContext) -> str:
        def send() -> None:
            try:
                while True:
                    ctx.progress("item")
            except RequestCancelledError as error:
                outcome.put(str(error))

        threading.Thread(target=send).start()
        eventually(lambda: ctx._served.wakers)  # the caller takes none
        return "done"

    stream = left.stream(Echo(), window=1)

    assert "its handler has returned" in outcome.get(timeout=LONG)
    assert stream.result(LONG) == "done"


def test_a_request_that_never_needed_a_lock_has_none_to_renew_after_a_fork() -> None:
    engine: Any = None
    served = incoming.IncomingRequest(engine, Request(1, Echo()), (), 1, None, 0)

    served.forget_after_fork()

    assert served._lock is None


def test_a_request_without_a_handler_has_none_to_be_slow() -> None:
    engine: Any = None
    served = incoming.IncomingRequest(engine, Request(1, Echo()), (), 1, None, 0)

    served.took(10.0)

    assert not served.is_offloaded


def test_what_is_granted_twice_by_one_mark_counts_once() -> None:
    """Whoever read it was interrupted, and another applies it again."""
    request = Request(1, Echo(), None, None, 4)
    nobody: Any = None
    served = incoming.IncomingRequest(nobody, request, (), 1, None, 4)
    served.credit = 0
    mark = object()
    served.granted(1, mark)
    served.granted(1, mark)
    assert served.credit == 1
    served.granted(1, object())
    assert served.credit == 2


def test_one_that_was_overtaken_by_another_thread_waits_on_until_the_handler_returns(
    sides: tuple[Any, Any], eventually: Eventually
) -> None:
    left, right = sides
    responder = right._engine.responder
    wait = responder.wait
    waits: queue.Queue[Any] = queue.Queue()
    outcome: queue.Queue[BaseException] = queue.Queue()
    may_return = threading.Event()

    def send(context: RequestContext) -> None:
        try:
            context.progress("first")
            context.progress("second")
        except RequestCancelledError as error:
            outcome.put(error)

    @right.on_request
    def handle(msg: Echo, context: RequestContext) -> str:
        threading.Thread(target=send, args=(context,)).start()
        assert may_return.wait(LONG)
        return "reply"

    def be_overtaken(served: Any, end: float) -> bool:
        waits.put(served)
        is_ready = bool(wait(served, end))
        if not served.over:
            served.credit -= 1  # another thread of the handler's has sent an item
        return is_ready

    responder.wait = be_overtaken
    stream = left.stream(Echo(), window=1)
    request = waits.get(timeout=LONG)
    assert next(stream) == "first"
    assert waits.get(timeout=LONG) is request
    assert request.credit == 0
    eventually(lambda: request.wakers)  # it sleeps
    may_return.set()

    assert "its handler has returned" in str(outcome.get(timeout=LONG))
    assert list(stream) == []
    assert stream.result(LONG) == "reply"


class Once(NativeMessageSerializer):
    """Decodes no large payload twice."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def decode(self, payload: Any, /, *tail: Any) -> Any:
        if len(payload) in self.sizes:
            raise ValueError("not once more")
        if len(payload) > 10_000:
            self.sizes.append(len(payload))
        return super().decode(payload, *tail)


def test_a_request_that_its_serializer_does_not_decode_once_more_fails(
    connected: Callable[..., tuple[Any, Any]],
) -> None:
    limits = Limits(held_bytes=1 << 20)
    peer = IpcPeer(Once(), limits=limits, max_frame_size=1 << 20, handler_threads=1)
    left, right = connected(None, peer)
    entered, may_return = threading.Event(), threading.Event()

    @right.on_request
    def handle(msg: Echo) -> int:
        entered.set()
        assert may_return.wait(LONG)
        return len(msg.value)

    right.start()
    first = left.request(Echo("x" * 50_000))
    assert entered.wait(LONG)
    folded = left.request(Echo([set() for _ in range(10_000)]))
    left.notify(Note())
    assert right.receive(timeout=LONG) == Note()  # by now it has read all that came before
    may_return.set()

    assert first.result(LONG) == 50_000
    with pytest.raises(SerializationError, match="not once more"):
        folded.result(LONG)
    assert left.call(Echo("xx"), timeout=LONG) == 2
    assert right._engine.flow.total == 0
