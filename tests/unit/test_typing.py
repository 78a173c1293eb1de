"""Requests, futures and streams are generic classes of typing."""

from __future__ import annotations

import subprocess
import sys
import typing
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import pytest

from streamipc import LogMessage, Message, Request, ResponseFuture, ResponseStream
from streamipc.serializers.json import JsonMessageSerializer

T = TypeVar("T")
K = TypeVar("K")


class Greeting(Message):
    text: str


class Hello(Request[Greeting]):
    name: str


class Fetch(Request[list[T]]):
    """Generic by its reply alone."""

    key: T


class FetchMore(Request[T], Generic[K, T]):
    key: K
    old: T


class Page(Message, Generic[T]):
    items: list[T]


class FetchPage(Page[T], Request[T]):
    """Generic by another base too."""


class FetchAgain(Fetch[int]):
    again: bool = True


def test_a_request_names_its_reply_for_whoever_looks() -> None:
    (base,) = Hello.__orig_bases__  # type: ignore[attr-defined]

    assert typing.get_origin(base) is Request
    assert typing.get_args(base) == (Greeting,)
    assert repr(base).startswith("streamipc.messages.Request[")
    assert Hello.__mro__ == (Hello, *Request.__mro__)


@pytest.mark.parametrize(
    ("cls", "variables"), [(Fetch, (T,)), (FetchMore, (K, T)), (FetchPage, (T,)), (Hello, ())]
)
def test_a_request_has_the_variables_of_its_bases(cls: Any, variables: tuple[Any, ...]) -> None:
    assert cls.__parameters__ == variables
    assert issubclass(cls, Generic)  # type: ignore[arg-type]


@pytest.mark.parametrize("cls", [Hello, Fetch, FetchMore, FetchPage, LogMessage])
def test_type_hints_can_be_had(cls: Any) -> None:
    hints = typing.get_type_hints(cls)

    assert set(hints) == set(cls.__dataclass_fields__)
    assert typing.get_type_hints(Hello) == {"name": str}


def test_a_generic_request_takes_arguments() -> None:
    assert typing.get_args(Fetch[int]) == (int,)
    assert typing.get_args(FetchMore[str, int]) == (str, int)
    assert Fetch[int](3) == Fetch(3)
    assert FetchAgain(3).again
    assert FetchAgain.__parameters__ == ()  # type: ignore[attr-defined]


def test_wrong_brackets_are_refused() -> None:
    with pytest.raises(TypeError, match="not a generic class"):
        Hello[int]  # type: ignore[misc]
    with pytest.raises(TypeError, match="Too many"):
        Request[int, str]  # type: ignore[misc]
    with pytest.raises(TypeError, match="Too many"):
        ResponseStream[int, str]  # type: ignore[misc]
    with pytest.raises(TypeError):
        FetchMore[int]  # type: ignore[misc]
    with pytest.raises(TypeError):
        Greeting[int]  # type: ignore[misc]


def test_the_variables_of_a_request_reach_its_fields() -> None:
    class Uses(Message):
        one: FetchMore[str, list[int]]

    serializer = JsonMessageSerializer()
    from streamipc.protocol.envelopes import Notification

    message = Uses(FetchMore("a", [1]))
    (payload,) = serializer.encode(Notification(message))

    assert serializer.decode(memoryview(payload)).message == message  # type: ignore[union-attr]


def test_futures_and_streams_take_the_type_of_the_reply() -> None:
    assert issubclass(ResponseFuture, Future)
    assert typing.get_args(ResponseFuture[int]) == (int,)
    assert typing.get_args(ResponseStream[Greeting]) == (Greeting,)


def test_a_subclass_of_a_future_may_be_generic() -> None:
    class Mine(ResponseFuture[T], Generic[T]):
        pass

    assert typing.get_args(Mine[int]) == (int,)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="class X[T] is new in Python 3.12")
def test_the_short_form_of_generic_classes_works() -> None:
    program = """
from streamipc import Request
class Get[T](Request[T]):
    key: T
assert Get[int]("x").key == "x"
assert Get.__parameters__ == Get.__type_params__
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
