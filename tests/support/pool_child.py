"""A worker of the tests' pools; its arguments say what is wrong with it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

if "broken" in sys.argv:
    sys.exit("no licence file")
if "hangs" in sys.argv:
    time.sleep(600)

from pool_messages import (
    Add,
    AskBack,
    Count,
    Die,
    DieOnce,
    Echo,
    Fail,
    Heard,
    Log,
    Name,
    Nap,
    Pid,
    Ready,
    Said,
    Spin,
    Tell,
)

from streamipc import IpcPeer, JsonMessageSerializer, RequestContext

session = IpcPeer(JsonMessageSerializer() if "json" in sys.argv else None).create_stdio_session()
heard: list[str] = []


@session.on_request
def add(msg: Add) -> int:
    return msg.a + msg.b


@session.on_request
def pid(msg: Pid) -> int:
    return os.getpid()


@session.on_request
def echo(msg: Echo) -> object:
    return msg.value


@session.on_request
def fail(msg: Fail) -> None:
    raise ValueError(msg.text)


@session.on_request
def nap(msg: Nap, ctx: RequestContext) -> str:
    end = time.monotonic() + msg.seconds
    while time.monotonic() < end:
        time.sleep(0.005)
        if msg.heeds:
            ctx.raise_if_cancelled()
    return "rested"


@session.on_request
def spin(msg: Spin) -> str:
    end = time.monotonic() + msg.seconds
    while time.monotonic() < end:
        pass
    return "spun"


@session.on_request
def die(msg: Die) -> None:
    print("about to die", file=sys.stderr, flush=True)
    if msg.how < 0:
        os.kill(os.getpid(), -msg.how)
        time.sleep(60)
    os._exit(msg.how)


@session.on_request
def die_once(msg: DieOnce) -> int:
    try:
        os.close(os.open(msg.path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return os.getpid()
    os._exit(3)


@session.on_request
def log(msg: Log) -> int:
    with open(msg.path, "a", encoding="utf-8") as file:
        file.write(msg.line + "\n")
    time.sleep(msg.seconds)
    return os.getpid()


@session.on_request
def count(msg: Count) -> Iterator[int]:
    for number in range(msg.n):
        time.sleep(msg.pause)
        yield number
    return msg.n


@session.on_request
def ask_back(msg: AskBack, ctx: RequestContext) -> str:
    return ctx.session.call(Name())


@session.on_request
def tell(msg: Tell, ctx: RequestContext) -> None:
    ctx.session.notify(Said(msg.text))


@session.on_message
def said(msg: Said) -> None:
    heard.append(msg.text)


@session.on_request
def what_was_heard(msg: Heard) -> list[str]:
    return heard


@session.on_request
def ready(msg: Ready) -> int:
    if "never-ready" in sys.argv:
        time.sleep(600)
    if "not-ready" in sys.argv:
        raise RuntimeError("the model can't be loaded")
    if "dies-in-ready" in sys.argv:
        os._exit(4)
    return os.getpid()


session.serve_forever()
