"""execnet: channels of built-in types to a module that runs in the child."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from . import CHILDREN, NUMBER, TEXT, Caller, check


@contextmanager
def open_gateway() -> Iterator[tuple[Any, int]]:
    """Start a child; give its gateway and its pid."""
    import execnet

    group = execnet.Group()
    gateway = group.makegateway("popen")
    try:
        channel = gateway.remote_exec("import os; channel.send(os.getpid())")
        yield gateway, channel.receive(30)
    finally:
        group.terminate(timeout=5)


def run(gateway: Any, name: str) -> Any:
    """Run a file of ``children`` in the gateway's process; return its channel."""
    return gateway.remote_exec((CHILDREN / name).read_text(encoding="utf-8"))


@contextmanager
def open_caller() -> Iterator[Caller]:
    with open_gateway() as (gateway, pid):

        def make_call() -> Callable[[], Any]:
            channel = run(gateway, "execnet_echo.py")

            def call() -> Any:
                channel.send((NUMBER, TEXT))
                return channel.receive(30)

            return call

        call = make_call()
        check(*call())
        channel = run(gateway, "execnet_echo.py")
        yield Caller(
            pid,
            call,
            make_call=make_call,
            submit=lambda number: channel.send((number, TEXT)),
            collect=lambda _: channel.receive(30),
        )
