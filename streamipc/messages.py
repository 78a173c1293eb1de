"""Messages, requests, and the registry that knows message types by their wire name.

A message class is a dataclass from the moment it is defined::

    class Greeting(Message):
        text: str

    class SayHello(Request["Greeting"]):
        name: str

The registry holds every class that was ever defined in this process. The receiving side
looks names up in it and never imports anything because a peer said so.
"""

from __future__ import annotations

import os
import sys
from abc import ABCMeta
from dataclasses import Field, dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ._shown import shown
from .exceptions import MessageDefinitionError, SerializationError

if sys.version_info >= (3, 11):
    from typing import dataclass_transform
else:
    from typing_extensions import dataclass_transform

__all__ = ["ErrorMessage", "LogMessage", "Message", "Request", "message_type", "wire_name_of"]

R_co = TypeVar("R_co", covariant=True)

_registry: dict[str, type[Message]] = {}
"""Wire name -> class. Written only while a class is defined (under the import lock or
the GIL's per-operation atomicity: a dict item is set in one step) and read by name."""

_MAIN = ("__main__", "__mp_main__", "<run_path>")
"""What a module that is run, rather than imported, has for its ``__name__``: in the children
of :mod:`multiprocessing`, and under :func:`runpy.run_path`, the latter two."""

_scripts: dict[str, dict[str, Any]] = {}
"""The globals of such modules, by that name, as the last message class to be defined saw them."""

_ABSENT = object()

_MAX_WIRE_NAME = 65_535
"""Bytes; the native header gives the name's length 16 bits."""

_OPTIONS = {
    "eq",
    "frozen",
    "init",
    "kw_only",
    "match_args",
    "order",
    "repr",
    "slots",
    "unsafe_hash",
    "weakref_slot",
}
"""The class keywords that are meant for ``dataclass()``; the rest is ``__init_subclass__``'s."""


def _has_annotations(namespace: dict[str, Any]) -> bool:
    # From Python 3.14 on there is a function that makes them.
    return any(namespace.get(f"__{key}__") for key in ("annotations", "annotate_func", "annotate"))


class MessageMeta(ABCMeta):
    """Makes each subclass of :class:`Message` a dataclass and enters it in the registry.

    A metaclass, because two things can't be done from ``__init_subclass__``: put the new
    class of ``slots=True`` in the place of the first one, and notice an explicit
    ``@dataclass`` on top, which must start from the class as it was written. It derives
    from ``ABCMeta`` so that a message may also inherit from abstract classes.
    """

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        wire_name: str | None = None,
        abstract: bool = False,
        **options: Any,
    ) -> Any:
        for_dataclass = {key: options.pop(key) for key in [*options] if key in _OPTIONS}
        cls: Any = super().__new__(mcls, name, bases, namespace, **options)
        if cls.__module__ in _MAIN:
            _look_at_script(cls.__module__)
        made_again = "__dataclass_params__" in namespace  # by slots=True, without our keywords
        if abstract or (made_again and "__wire_name__" not in namespace):
            # Bases without fields stay plain: a frozen class and others may derive from them.
            if bases and not made_again and _has_annotations(namespace):
                cls = _as_dataclass(cls, for_dataclass, namespace)
            return cls
        # The class that slots=True makes again has the name in its namespace.
        wire_name = cls.__dict__.get("__wire_name__", wire_name)
        old = _registry.get(str(wire_name)) if made_again else None
        if old and (old.__module__, old.__name__) == (cls.__module__, name):
            # dataclass() gives it its qualified name only after it was made.
            cls.__qualname__ = old.__qualname__
        cls.__wire_name__ = _checked_wire_name(
            cls, default_wire_name(cls) if wire_name is None else wire_name
        )
        if not made_again:
            cls = _as_dataclass(cls, for_dataclass, namespace)
        _register(cls)
        return cls

    def __init__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **_: Any
    ) -> None:
        super().__init__(name, bases, namespace)

    def __setattr__(cls, name: str, value: Any) -> None:
        # dataclass() sets this attribute before it looks at anything else.
        if name == "__dataclass_params__" and "__as_written__" in cls.__dict__:
            _restore_as_written(cls)
        super().__setattr__(name, value)

    # ABCMeta's own checks are several times slower, for virtual subclasses that
    # nobody needs here.
    __instancecheck__ = type.__instancecheck__
    __subclasscheck__ = type.__subclasscheck__


@dataclass_transform(field_specifiers=(field, Field))
class Message(metaclass=MessageMeta, abstract=True):
    """Base class of everything that is sent. A subclass is a dataclass at once.

    Class keywords, all optional:
        wire_name: the name of the type on the wire; by default ``module.QualName``, with
            ``__main__`` replaced by the name under which others would import that file.
        abstract: ``True`` for a base class that is never sent itself: it gets no wire
            name. Its fields, if it has any, are inherited as those of any dataclass.
        frozen, kw_only, slots, and the other arguments of :func:`dataclasses.dataclass`.
        Others go to the ``__init_subclass__`` of a base class.

    An explicit ``@dataclass(...)`` on top of a subclass is fine and wins.

    Raises:
        MessageDefinitionError: another class already has this wire name, or the wire name
            is not a non-empty text of at most 65,535 bytes.
    """

    __slots__ = ()
    if TYPE_CHECKING:  # else typing.get_type_hints() of each message would show them
        __wire_name__: ClassVar[str]
        __streamipc_layout__: ClassVar[Any]  # of the class, or of a base; _native_layout.py
        __wants_reply__: ClassVar[bool]  # faster than isinstance() with a metaclass
    else:
        __streamipc_layout__ = None
        __wants_reply__ = False


class Request(Message, Generic[R_co], abstract=True):
    """A message whose reply has a type: ``class SayHello(Request[Greeting])``.

    ``session.request(SayHello("x"))`` is then a ``ResponseFuture[Greeting]`` to type
    checkers. ``R`` may be a message class, its name in quotes, or any type that the
    serializer carries, such as ``list[int]`` or ``None``.
    """

    __slots__ = ()
    if not TYPE_CHECKING:
        __wants_reply__ = True


def message_type(wire_name: str) -> type[Message]:
    """Return the class registered under ``wire_name``.

    Raises:
        SerializationError: no class of that name is defined in this process; nothing
            is imported to find it.
    """
    try:
        return _registry[wire_name]
    except KeyError:
        module = wire_name.rpartition(".")[0]
        where = f" (probably {shown(module, 200)})" if module else ""
        raise SerializationError(
            f"unknown message type {shown(wire_name, 200)}: no Message class of that wire name is "
            f"defined in this process (pid {os.getpid()}); import the module that defines "
            f"it{where} before the message arrives"
        ) from None


def wire_name_of(cls: type[Message]) -> str:
    """Return the name of a message class on the wire.

    Raises:
        SerializationError: ``cls`` is ``Message`` or ``Request`` itself.
    """
    name = cls.__dict__.get("__wire_name__")
    if name is None:
        raise SerializationError(f"{cls.__name__} itself can't be sent: define a subclass of it")
    return str(name)


def default_wire_name(cls: type) -> str:
    """Return ``module.QualName``, with the importable name in place of ``__main__``."""
    module = cls.__module__
    if module in _MAIN:
        module = _importable_name(module, names_beside(cls))
    return f"{module}.{cls.__qualname__}"


def _importable_name(module: str, scope: dict[str, Any]) -> str:
    """Return the name under which other files would import a module that is being run.

    ``python -m`` leaves the real name in its ``__spec__`` (PEP 451); for a script it is the
    file's name, below every folder above it that is a package. A session typed in or given
    by ``-c`` has no such name.
    """
    spec_name = str(getattr(scope.get("__spec__"), "name", module))
    if spec_name not in _MAIN:
        return spec_name
    path = scope.get("__file__")
    if not path:
        return module
    folder, file = os.path.split(os.path.abspath(path))
    parts = [os.path.splitext(file)[0]]
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, package = os.path.split(folder)
        parts.insert(0, package)
    return ".".join(parts)


def names_beside(cls: type) -> dict[str, Any]:
    """Return the globals of the module that defines ``cls``, which its annotations go by."""
    scope = _scripts.get(cls.__module__)
    if scope is not None:
        return scope
    module = sys.modules.get(cls.__module__)
    return {} if module is None else vars(module)


def _look_at_script(module: str) -> None:
    """Remember the globals of the main script, which is defining a class.

    ``sys.modules`` may know another: ``python -m cProfile script.py`` runs the script with
    globals that are no module's, and so do trace, pdb and most programs of their kind.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") != module:
        frame = frame.f_back
    if frame is not None:  # otherwise code of another module makes the class
        _scripts[module] = frame.f_globals


def _checked_wire_name(cls: type, name: object) -> str:
    try:
        if isinstance(name, str) and 1 <= len(name.encode()) <= _MAX_WIRE_NAME:
            return name
    except UnicodeEncodeError:  # half of a surrogate pair
        pass
    raise MessageDefinitionError(
        f"wire_name of {cls.__module__}.{cls.__qualname__} must be a text of 1 to "
        f"{_MAX_WIRE_NAME} bytes in UTF-8, not {shown(name)}"
    )


def _register(cls: type[Message]) -> None:
    """Enter ``cls`` under its wire name.

    The same class defined anew (a reloaded module, a notebook cell run again,
    ``@dataclass(slots=True)``) takes the place of the old one, as its name does in Python.
    """
    name = cls.__wire_name__
    old = _registry.get(name)
    if old is not None and (old.__module__, old.__qualname__) != (cls.__module__, cls.__qualname__):
        hint = ""
        if (old.__module__ == "__main__") != (cls.__module__ == "__main__"):
            hint = (
                " (one file was run as a script and imported as well: "
                "move its messages into a module of their own)"
            )
        raise MessageDefinitionError(
            f"wire name {name!r} of {cls.__module__}.{cls.__qualname__} is already that of "
            f"{old.__module__}.{old.__qualname__}{hint}; give one of them another wire_name="
        )
    _registry[name] = cls


def _as_dataclass(cls: Any, options: dict[str, Any], namespace: dict[str, Any]) -> Any:
    """Return ``cls`` as a dataclass, which with ``slots=True`` is a class made anew."""
    written = dict(cls.__dict__)
    cls = dataclass(**options)(cls)
    cell = namespace.get("__classcell__")
    if cell is not None:  # what super() in its methods goes by
        cell.cell_contents = cls
    made = cls.__dict__
    cls.__as_written__ = {
        key: written.get(key, _ABSENT)
        for key in {*written, *made}
        if written.get(key, _ABSENT) is not made.get(key, _ABSENT)
    }
    return cls


def _restore_as_written(cls: type) -> None:
    """Take back what the implicit ``dataclass()`` did to ``cls``."""
    changed = cls.__dict__["__as_written__"]
    del cls.__as_written__  # type: ignore[attr-defined]
    for key, value in changed.items():
        if value is _ABSENT:
            delattr(cls, key)
        else:
            setattr(cls, key, value)


# The built-in messages stand last: defining them runs the code above.


class LogMessage(Message, wire_name="streamipc.LogMessage"):
    """A line for a log.

    Args:
        message: the text.
        level: ``"info"``, ``"warning"``, …; ``"junk"`` for bytes between frames.
    """

    message: str
    level: str = "info"


class ErrorMessage(Message, wire_name="streamipc.ErrorMessage"):
    """What went wrong on the other side.

    A handler that returns one fails the request: the caller gets a ``RemoteError``.

    Args:
        message: the exception's text.
        type: qualified name of the exception's class, without ``builtins.``.
        traceback: formatted as Python would print it; empty where there is none.
    """

    message: str
    type: str = ""
    traceback: str = ""
