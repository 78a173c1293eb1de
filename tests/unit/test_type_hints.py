"""What reads annotations at run time (Sphinx, dependency injection, beartype) can read ours."""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from inspect import isfunction
from typing import Any, TypeVar

import pytest

import streamipc
from streamipc import IpcPeer, IpcSession, Message, Request, ResponseFuture, ResponseStream

if sys.version_info >= (3, 11):
    from typing import Self, get_overloads
else:
    from typing_extensions import Self, get_overloads

MODULES = ("streamipc", "streamipc.envelopes")
"""The public ones: their ``__all__`` is the public API."""


def public() -> Iterator[tuple[str, Any]]:
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or isfunction(value):
                yield f"{module_name}.{name}", value


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the functions of a class that a user may call, those of bases of ours too."""
    for base in cls.__mro__:
        if not base.__module__.startswith("streamipc"):
            continue
        for name, value in vars(base).items():
            if isinstance(value, property):
                value = value.fget
            elif isinstance(value, (classmethod, staticmethod)):
                value = value.__func__
            is_ours = getattr(value, "__module__", "").startswith("streamipc")
            if isfunction(value) and is_ours and (name[0] != "_" or name[-2:] == "__"):
                yield name, value


CLASSES = {name: value for name, value in public() if inspect.isclass(value)}
FUNCTIONS = {name: value for name, value in public() if not inspect.isclass(value)} | {
    f"{name}.{key}": value for name, cls in CLASSES.items() for key, value in members(cls)
}


def test_the_walk_finds_what_is_public() -> None:
    assert {
        "streamipc.current_request",
        "streamipc.python_command",
        "streamipc.envelopes.message_type",
        "streamipc.envelopes.Request.__init__",
        "streamipc.IpcPeer.create_command_session",
        "streamipc.IpcSession.peer",
        "streamipc.ProcessSession.process",
        "streamipc.ProcessSession.on_request",
        "streamipc.SyncIpcSession.tick",
        "streamipc.RequestContext.session",
        "streamipc.ResponseFuture.result",
        "streamipc.MessageSerializer.decode",
        "streamipc.SerializationError.__init__",
    } <= set(FUNCTIONS)


@pytest.mark.parametrize("name", CLASSES)
def test_the_annotations_of_a_class_are_types(name: str) -> None:
    bases = [base for base in CLASSES[name].__mro__ if base.__module__.startswith("streamipc")]
    hints = typing.get_type_hints(CLASSES[name])

    assert hints.keys() == {key for base in bases for key in inspect.get_annotations(base)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_annotations_of_a_function_are_types(name: str) -> None:
    function = FUNCTIONS[name]
    hints = typing.get_type_hints(function)

    assert hints.keys() == function.__annotations__.keys()
    assert not any(isinstance(hint, (str, typing.ForwardRef)) for hint in hints.values())
    signature = inspect.signature(function)
    assert hints.keys() <= {*signature.parameters, "return"}


@pytest.mark.parametrize(
    "name",
    # Python can't tell it of its own exceptions, nor of those that take the same.
    [n for n, c in CLASSES.items() if not issubclass(c, Exception) or isfunction(c.__init__)],
)
def test_a_class_says_how_it_is_made(name: str) -> None:
    parameters = inspect.signature(CLASSES[name]).parameters

    assert "self" not in parameters


A_DECORATOR = typing.get_origin(Callable[..., Any])


@pytest.mark.parametrize(
    ("method", "first", "results"),
    [
        (IpcSession.request, "message", [ResponseFuture, ResponseFuture]),
        (IpcSession.stream, "message", [ResponseStream, ResponseStream]),
        (IpcSession.call, "message", [TypeVar, Any]),
        (IpcSession.on_request, "target", [A_DECORATOR, TypeVar]),
        (IpcSession.on_message, "target", [A_DECORATOR, TypeVar]),
        (IpcSession.on_exception, "target", [A_DECORATOR, TypeVar]),
        (IpcPeer.on_request, "target", [A_DECORATOR, TypeVar]),
    ],
    ids=lambda item: getattr(item, "__qualname__", None),
)
def test_the_overloads_of_a_method_are_types(method: Any, first: str, results: list[Any]) -> None:
    overloads = [typing.get_type_hints(function) for function in get_overloads(method)]

    assert all(first in hints for hints in overloads)
    assert [kind_of(hints["return"]) for hints in overloads] == results


def kind_of(hint: Any) -> Any:
    return TypeVar if isinstance(hint, TypeVar) else typing.get_origin(hint) or hint


def test_hints_name_the_classes_that_users_import() -> None:
    assert typing.get_type_hints(IpcSession.peer.fget)["return"] is IpcPeer  # type: ignore[attr-defined]
    assert typing.get_type_hints(IpcSession.start)["return"] is Self
    assert typing.get_type_hints(IpcSession.stats.fget)["return"] is streamipc.Stats  # type: ignore[attr-defined]
    assert typing.get_type_hints(IpcPeer.create_session) == {
        "transport": streamipc.Transport,
        "serializer": streamipc.MessageSerializer | None,
        "max_frame_size": int | None,
        "return": IpcSession,
    }
    (typed, untyped) = map(typing.get_type_hints, get_overloads(IpcSession.request))
    assert typing.get_origin(typed["message"]) is Request
    assert untyped["message"] is Message
    assert typing.get_args(typed["return"]) == typing.get_args(typed["message"])
    assert issubclass(typing.get_origin(typed["return"]), Future)
