"""rpyc: calls of methods of a service in the child, with values as arguments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import NUMBER, TEXT, Caller, check, child_command


@contextmanager
def open_connection() -> Iterator[Any]:
    import rpyc

    connection = rpyc.connect_subproc(child_command("rpyc_child.py"))
    try:
        yield connection
    finally:
        connection.close()
        connection.proc.kill()  # does nothing to one that has gone by itself
        connection.proc.wait()


@contextmanager
def open_caller() -> Iterator[Caller]:
    import rpyc

    with open_connection() as connection:
        ask = connection.root.ask  # kept: looking it up is a call of its own
        ask_async = rpyc.async_(ask)

        def call() -> Any:
            return ask(NUMBER, TEXT)

        check(*call())
        yield Caller(
            connection.proc.pid,
            call,
            make_call=lambda: call,
            submit=lambda number: ask_async(number, TEXT),
            collect=lambda result: result.value,
        )
