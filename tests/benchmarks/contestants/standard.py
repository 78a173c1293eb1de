"""The standard library: ``multiprocessing`` and ``concurrent.futures``."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from . import NUMBER, TEXT, Caller, check

# The start method that works on every system, and with threads.
context = multiprocessing.get_context("spawn")


def answer(number: int, text: str) -> tuple[int, str]:
    return number + 1, text


def serve(connection: Connection) -> None:
    """Run in the child: answer until the parent closes its end."""
    while True:
        try:
            number, text = connection.recv()
        except EOFError:
            return
        connection.send(answer(number, text))


@contextmanager
def open_connection(target: Any, *args: Any) -> Iterator[tuple[Connection, int]]:
    """Run ``target(connection, *args)`` in a child; give the other end and the child's pid."""
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *args))
    process.start()
    theirs.close()
    try:
        assert process.pid is not None
        yield ours, process.pid
    finally:
        ours.close()
        process.join()
        process.close()


@contextmanager
def open_pipe() -> Iterator[Caller]:
    with open_connection(serve) as (connection, child):

        def submit(number: int) -> None:
            connection.send((number, TEXT))

        def collect(_: None) -> Any:
            return connection.recv()

        def call() -> Any:
            connection.send((NUMBER, TEXT))
            return connection.recv()

        check(*call())
        yield Caller(child, call, submit=submit, collect=collect)


@contextmanager
def open_executor() -> Iterator[tuple[ProcessPoolExecutor, int]]:
    """Start a pool of one process; give it and the process's pid."""
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        yield executor, executor.submit(os.getpid).result()


@contextmanager
def open_pool() -> Iterator[Caller]:
    with open_executor() as (executor, pid):

        def call() -> Any:
            return executor.submit(answer, NUMBER, TEXT).result()

        check(*call())
        yield Caller(
            pid,
            call,
            make_call=lambda: call,
            submit=lambda number: executor.submit(answer, number, TEXT),
            collect=lambda future: future.result(),
        )
