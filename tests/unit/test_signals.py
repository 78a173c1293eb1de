"""What a signal's handler has raised is told from any other error."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streamipc._signals import begin_with, interrupt_in, let_through

if not hasattr(signal, "SIGALRM"):
    pytest.skip("Windows has no such signal", allow_module_level=True)


class Soft(Exception):
    """As the soft time limit of Celery."""


def plain(number: int, frame: Any) -> None:
    raise Soft


def of_any_arguments(*arguments: Any) -> None:
    raise TimeoutError("an OSError")


def that_walks_the_stack(number: int, frame: Any) -> None:
    while frame is not None:
        frame = frame.f_back
    raise Soft


class Handlers:
    def __call__(self, number: int, frame: Any) -> None:
        raise Soft

    def method(self, number: int, frame: Any) -> None:
        self._deeper()

    def _deeper(self) -> None:
        raise Soft

    def that_is_gone(self, number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Soft


HANDLERS: list[Any] = [
    plain,
    of_any_arguments,
    that_walks_the_stack,
    Handlers(),
    Handlers().method,
    Handlers().that_is_gone,
    functools.partial(plain),
    functools.partial(Handlers().method),
    signal.default_int_handler,
]


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)


def interrupted() -> None:
    os.kill(os.getpid(), signal.SIGALRM)
    for _ in range(1000):
        pass


def caught(function: Callable[[], object]) -> tuple[BaseException, BaseException | None]:
    """Return what a function raises, and what of that a signal's handler has."""
    try:
        function()
    except BaseException as error:
        return error, interrupt_in(error)
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("handler", HANDLERS, ids=repr)
def test_what_a_handler_has_raised_is_found(handler: Any) -> None:
    signal.signal(signal.SIGALRM, handler)

    error, found = caught(interrupted)

    assert found is error


@pytest.mark.parametrize("suppressed", [False, True])
def test_so_it_is_where_it_was_made_another_error_of(suppressed: bool) -> None:
    signal.signal(signal.SIGALRM, plain)

    def wrap() -> None:
        try:
            interrupted()
        except Exception as error:
            raise ValueError("x") from (None if suppressed else error)

    error, found = caught(wrap)

    assert isinstance(error, ValueError)
    assert isinstance(found, Soft)


def test_an_interrupt_that_is_let_through_still_tells_what_it_has_interrupted() -> None:
    """That may be what another signal has raised."""
    signal.signal(signal.SIGALRM, plain)
    first = TimeoutError("of another signal")

    def start() -> None:
        try:
            raise first
        finally:
            try:
                interrupted()
            finally:  # as __exit__() of a lock that is not held
                raise RuntimeError("release unlocked lock")

    def let_it_through() -> None:
        try:
            start()
        except RuntimeError as error:
            let_through(error)

    error, found = caught(let_it_through)

    assert isinstance(error, Soft)
    assert found is error
    assert error.__context__ is first
    assert first.__context__ is None


def test_no_other_error_is_taken_for_one() -> None:
    signal.signal(signal.SIGALRM, plain)

    def recurse(depth: int, frames: Any = None) -> None:
        if depth:
            recurse(depth - 1, frames)
        raise OSError("x")

    for function in (lambda: int("x"), lambda: recurse(5), lambda: [][0]):
        assert caught(function)[1] is None  # type: ignore[arg-type]


def test_what_was_being_handled_before_does_not_count() -> None:
    """A user whose code has caught it goes on with us, and something else goes wrong."""
    signal.signal(signal.SIGALRM, plain)

    try:
        interrupted()
    except Soft:
        error, found = caught(lambda: int("x"))

    assert isinstance(error.__context__, Soft)
    assert found is None


def test_other_threads_run_no_handlers() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(caught(lambda: plain(1, None))[1]))
    thread.start()
    thread.join()

    assert found == [None]


def test_an_error_that_a_program_raises_itself_is_none() -> None:
    """Nobody has called the code at the top of it."""
    program = """
from streamipc._signals import interrupt_in
try:
    raise TimeoutError("of the program's own")
except TimeoutError as error:
    assert interrupt_in(error) is None
print("told")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=60, stdout=subprocess.PIPE, check=True
    )
    assert done.stdout.decode().strip() == "told"


def test_an_error_tells_of_one_that_it_has_taken_the_place_of() -> None:
    earlier, error, cause = KeyError("earlier"), ValueError("later"), TypeError("cause")
    error.__context__ = cause
    begin_with(earlier, error)
    begin_with(earlier, error)  # it does already

    assert cause.__context__ is earlier
    assert earlier.__context__ is None
