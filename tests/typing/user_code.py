"""Code as a user writes it, read by type checkers and never run.

A line that ends with ``# wrong`` must be reported by each checker; no other line may be.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, TypeVar

from typing_extensions import assert_type

from streamipc import (
    CounterIdGenerator,
    ErrorMessage,
    IpcPeer,
    IpcSession,
    JsonMessageSerializer,
    LogMessage,
    Message,
    MessageSerializer,
    NativeMessageSerializer,
    PidHrtimeRequestIdGenerator,
    PoolFuture,
    PoolStream,
    ProcessSession,
    RemoteError,
    Replies,
    Request,
    RequestContext,
    ResponseFuture,
    SessionClosedError,
    WorkerInfo,
    WorkerLostError,
    WorkerPool,
    WorkersUnavailableError,
    python_command,
)

T = TypeVar("T")


class Greeting(Message):
    text: str


class SayHello(Request[Greeting]):
    name: str
    times: int = 1


class Ahead(Request["Later"]):
    """Its reply is defined below it."""


class Later(Message):
    value: int


class Sum(Request[int]):
    numbers: list[Decimal]


class Stop(Request[None]):
    pass


class Point(Message, frozen=True):
    x: int
    y: int = 0


class Options(Message, kw_only=True, wire_name="app.Options"):
    level: int = 1
    name: str


@dataclass
class Explicit(Message):
    value: int | None = None


class Child(Greeting):
    language: str


class Box(Message, Generic[T]):
    value: T


class Fetch(Request[T]):
    key: str


class Base(Message, abstract=True):
    key: str


class Derived(Base):
    size: int = 0


# Peers and sessions.

peer = IpcPeer(timeout=10.0)
IpcPeer(JsonMessageSerializer(), id_generator=PidHrtimeRequestIdGenerator(), handler_threads=2)
IpcPeer(NativeMessageSerializer(), timeout=None, id_generator=CounterIdGenerator())
IpcPeer(timeout="soon")  # wrong
IpcPeer(serializer=object())  # wrong
serializer: MessageSerializer = JsonMessageSerializer()

session = peer.create_command_session(["child"], cwd="/tmp", env={"A": "1"})
assert_type(session, ProcessSession)
assert_type(session.pid, int)
assert_type(session.returncode, int | None)
stdio = peer.create_stdio_session()
assert_type(stdio, IpcSession)
pipe = peer.create_stream_session(1, 0)
assert_type(pipe, IpcSession)

with IpcPeer() as inner_peer, inner_peer.create_command_session(["child"]) as inner:
    assert_type(inner_peer, IpcPeer)
    assert_type(inner, ProcessSession)


# A reply has the type that its request names.

assert_type(session.request(SayHello("x")).result(), Greeting)
assert_type(session.request(SayHello("x"), timeout=3).result(timeout=5), Greeting)
assert_type(session.request(Ahead()).result(), Later)
assert_type(session.request(Sum([Decimal(1)])).result(), int)
assert_type(session.request(Stop()).result(), None)
assert_type(session.request(Fetch[bytes]("k")).result(), bytes)
assert_type(session.request(Greeting("x")).result(), Any)

future = session.request(SayHello("x"))
assert_type(future, ResponseFuture[Greeting])
plain: Future[Greeting] = future
for done in as_completed([future, plain]):
    assert_type(done.result(), Greeting)
assert_type(future.exception(timeout=1), BaseException | None)

no_name = session.request(SayHello("x")).result().name  # wrong
wrong_reply: int = session.request(SayHello("x")).result()  # wrong
session.request("hello")  # wrong
session.request(SayHello("x"), timeout="1")  # wrong
session.notify(object())  # wrong
forgotten = session.request(SayHello("x")).text  # wrong
no_item = session.stream(SayHello("x")).text  # wrong
session.on_message(inline=True)  # wrong
session.on_message(LogMessage, inline=True)  # wrong


# Fields are checked where a message is made.

SayHello("x", times=2)
SayHello(3)  # wrong
SayHello()  # wrong
SayHello("x", "y")  # wrong
SayHello(nobody="x")  # wrong
Point(1, 2).x = 5  # wrong
Point(y=2)  # wrong
Options(name="n", level=2)
Options("n")  # wrong
Explicit(5)
Explicit("5")  # wrong
Child("x", "de")
Child("x")  # wrong
Derived("k", 1)
Derived(size=1)  # wrong
Box(1)
assert_type(Box("x").value, str)
LogMessage("text", level="warning")
ErrorMessage("text")
LogMessage(5)  # wrong


# Decorators leave handlers as they are.


@session.on_request
def hello(msg: SayHello) -> Greeting:
    return Greeting(msg.name)


@session.on_request(SayHello)
def with_context(msg: SayHello, context: RequestContext) -> Greeting:
    assert_type(context.time_remaining(), float)
    return Greeting(msg.name)


@session.on_request(inline=True)
def quick(msg: Sum) -> int:
    return len(msg.numbers)


@session.on_message
def note(msg: LogMessage, source: IpcSession) -> None:
    source.notify(msg)


@session.on_message(Greeting)
def greeted(msg: Greeting) -> None: ...


@peer.on_request
def for_all(msg: SayHello) -> Greeting:
    return Greeting(msg.name)


@peer.on_message
def heard(msg: LogMessage) -> None: ...


@session.on_exception
def failed(error: BaseException) -> None: ...


@session.on_close
def gone() -> None: ...


as_function: Callable[[SayHello], Greeting] = hello
assert_type(hello(SayHello("x")), Greeting)
assert_type(quick(Sum([])), int)
assert_type(for_all(SayHello("x")), Greeting)
hello(Greeting("x"))  # wrong
session.off_request(hello)
session.off_message(note)
session.off_exception(failed)
session.off_close(gone)


# What comes back otherwise.

assert_type(python_command("-m", "shop.words", Path("x")), list[str])
python_command(1)  # wrong
assert_type(session.receive(), Message)
assert_type(session.receive(timeout=1.5), Message)
assert_type(session.closed, bool)
assert_type(session.stats.pending, int)
assert_type(session.pending, int)
assert_type(session.closed_error, SessionClosedError | None)
assert_type(session.stderr_tail, str)
peer.broadcast(LogMessage("x"))
peer.broadcast("x")  # wrong


def handle(error: Exception) -> str:
    if isinstance(error, SessionClosedError):
        assert_type(error.returncode, int | None)
        assert_type(error.signal, str | None)
        return error.stderr_tail
    if isinstance(error, RemoteError):
        return error.remote_type + error.remote_traceback
    return ""


# Worker pools.

pool = WorkerPool(python_command("child.py"), size=2, ready=Stop(), backoff=(0.1, 30.0))
WorkerPool(lambda: peer.create_command_session(["child"]), max_requests=100, name="words")
WorkerPool("child", size="two")  # wrong
WorkerPool(ready="yes", command="child")  # wrong
assert_type(pool.call(SayHello("x"), timeout=5), Greeting)
assert_type(pool.call(Greeting("x")), Any)
pooled = pool.request(SayHello("x"), retries=1)
assert_type(pooled, PoolFuture[Greeting])
assert_type(pooled.result(timeout=1), Greeting)
for done in as_completed([pooled]):
    assert_type(done.result(), Greeting)
with pool.stream(SayHello("x")) as pool_stream:
    assert_type(pool_stream, PoolStream[Greeting])
    assert_type(pool_stream.result(), Greeting)
assert_type(pool.map([SayHello("x")], ordered=False), Replies[Greeting])
assert_type(pool.map([SayHello("x")], return_exceptions=True), Replies[Greeting | Exception])
for one in pool.map(Sum([Decimal(number)]) for number in range(3)):
    assert_type(one, int)
pool.request("hello")  # wrong
pool.map(["hello"])  # wrong
pool.call(SayHello("x"), retries="one")  # wrong
assert_type(pool.workers[0].pid, int | None)
assert_type(pool.stats.lost, int)
assert_type(pool.start(), WorkerPool)
assert_type(pool.check(), bool)


@pool.on_request
def asked_by_worker(msg: SayHello) -> Greeting:
    return Greeting(msg.name)


@pool.on_message(LogMessage)
def told_by_worker(msg: LogMessage) -> None: ...


def event(name: str, info: WorkerInfo) -> None:
    assert_type(info.state, str)


WorkerPool("child", on_event=event)
try:
    pool.call(Stop())
except WorkersUnavailableError as error:
    assert_type(error.retry_after, float)
except WorkerLostError as error:
    assert_type(error.returncode, int | None)
