"""The child of streamipc for all workloads.

Arguments: ``spin=SECONDS``, ``threads=NUMBER``, ``json``, ``inline`` (small messages are
answered on the reading thread), ``call`` (asks the parent from the main thread), ``numpy``.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import functions
import memory
from messages import (
    Answer,
    Ask,
    CallBack,
    Count,
    Expect,
    GiveBack,
    Go,
    Hold,
    Measured,
    Peak,
    Run,
    Sleep,
    Tell,
    Told,
    Trace,
    Weigh,
)

from streamipc import IpcPeer, IpcSession, JsonMessageSerializer, RequestContext

if "numpy" in sys.argv:
    import numpy  # noqa: F401 - arrays are read where numpy is imported

options: dict[str, object] = {}
for argument in sys.argv[1:]:
    name, _, value = argument.partition("=")
    if name == "spin":
        options["spin"] = float(value)
    elif name == "threads":
        options["handler_threads"] = int(value)
    elif name == "json":
        options["serializer"] = JsonMessageSerializer()

session = IpcPeer(**options).create_stdio_session()  # type: ignore[arg-type]


def ask_parent(seconds: float, where: IpcSession) -> list[float]:
    """Ask for so many seconds; return what each call took."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        where.request(Ask(7, "a small message")).result()
        took.append(time.perf_counter() - start)
    return took


@session.on_request(inline="inline" in sys.argv)
def ask(msg: Ask) -> Answer:
    return Answer(msg.number + 1, msg.text)


told = expected = 0
in_order = True
all_told = threading.Event()


@session.on_request
def expect(msg: Expect) -> None:
    global expected
    expected = msg.count


@session.on_message
def tell(msg: Tell) -> None:
    global told, in_order
    in_order = in_order and msg.number == told
    told += 1
    if told == expected:
        all_told.set()


@session.on_request
def count_told(msg: Told) -> tuple[int, bool]:
    all_told.wait(60)
    return told, in_order


@session.on_request
def count(msg: Count) -> Iterator[int]:
    yield from range(msg.limit)
    return msg.limit


@session.on_request
def weigh(msg: Weigh) -> int:
    return functions.weigh(msg.data)


@session.on_request
def give_back(msg: GiveBack) -> object:
    return msg.data


@session.on_request
def run(msg: Run) -> object:
    return getattr(functions, msg.name)(*msg.arguments)


before = 0


@session.on_request
def trace(msg: Trace) -> None:
    global before
    before = memory.reset_peak()


@session.on_request
def peak(msg: Peak) -> int:
    return memory.peak() - before


@session.on_request
def sleep(msg: Sleep) -> None:
    time.sleep(msg.seconds)


@session.on_request
def hold(msg: Hold) -> None:
    threading.Event().wait()


@session.on_request
def call_back(msg: CallBack, context: RequestContext) -> list[float]:
    return ask_parent(msg.seconds, context.session)


if "call" in sys.argv:
    go = session.receive()
    assert isinstance(go, Go)
    ask_parent(go.seconds * 0.2, session)
    session.notify(Measured(ask_parent(go.seconds, session)))

session.serve_forever()
