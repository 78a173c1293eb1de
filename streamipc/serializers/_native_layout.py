"""How the native serializer takes a message apart and puts it together again.

A message travels as the dict of its fields. It is rebuilt without ``__init__`` and
``__post_init__``: what the sender's object held is what the receiver's object holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from .._shown import shown
from ..exceptions import SerializationError
from ..messages import wire_name_of

__all__ = ["Layout", "layout_of"]


class Layout:
    """What is known about the fields of one class.

    Attributes:
        cls: the class itself; a class that inherited or copied this record is not it.
        wire: the wire name in UTF-8.
        names: the names of the fields.
        direct: fields may be written to the instance's ``__dict__``.
    """

    __slots__ = ("_defaults", "cls", "direct", "name", "names", "wire")

    def __init__(self, cls: type, name: str) -> None:
        self.cls = cls
        self.name = name
        self.wire = name.encode()
        self._defaults = _defaults_of(cls, name)
        self.names = frozenset(self._defaults)
        self.direct = bool(cls.__dictoffset__) and not any(
            hasattr(_class_attribute(cls, name), "__set__") for name in self.names
        )

    def state_of(self, obj: Any) -> dict[str, Any]:
        """Return the fields of ``obj``, in a dict that must not be changed."""
        try:
            state: dict[str, Any] = obj.__dict__
            if state.keys() == self.names:
                return state
        except AttributeError:
            pass  # slots=True
        state = {}
        for name in self._defaults:
            try:
                state[name] = getattr(obj, name)
            except AttributeError:
                raise SerializationError(
                    f"{self.name}.{name} has no value: the object was not fully initialised, "
                    "or the field was deleted"
                ) from None
        return state

    def build(self, state: Any) -> Any:
        """Return a new instance with the fields in ``state``, which came from the peer.

        Raises:
            SerializationError: a field is unknown, or missing and without a default.
        """
        if type(state) is not dict:
            raise SerializationError(f"{self.name}: the fields are a {type(state).__name__}")
        if state.keys() != self.names:
            state = self._completed(state)
        cls: Any = self.cls
        obj = cls.__new__(cls)
        if self.direct:
            obj.__dict__.update(state)
        else:
            for name, value in state.items():
                object.__setattr__(obj, name, value)
        return obj

    def _completed(self, state: dict[str, Any]) -> dict[str, Any]:
        unknown = [key for key in state if key not in self.names]
        if unknown:
            listed = ", ".join(f"{shown(key)}" for key in unknown[:5])
            raise SerializationError(
                f"{self.name} has no field {listed}: the other side defines it differently; "
                "both sides must use the same version of the class"
            )
        full = {}
        for name, make in self._defaults.items():
            if name in state:
                full[name] = state[name]
            elif make is None:
                raise SerializationError(
                    f"{self.name}.{name}: missing, and the field has no default"
                )
            else:
                full[name] = make()
        return full


def _defaults_of(cls: Any, name: str) -> dict[str, Callable[[], Any] | None]:
    """Return what makes the default of each field, or ``None`` where it has none."""
    if not dataclasses.is_dataclass(cls):
        raise SerializationError(f"{name} is no dataclass, so it has no fields to send")
    defaults: dict[str, Callable[[], Any] | None] = {}
    for field in dataclasses.fields(cls):
        make: Callable[[], Any] | None = None
        if field.default_factory is not dataclasses.MISSING:
            make = field.default_factory
        elif field.default is not dataclasses.MISSING:
            make = _Constant(field.default)
        defaults[field.name] = make
    return defaults


class _Constant:
    """Gives the default of a field, in the form of a default factory."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __call__(self) -> Any:
        return self._value


def layout_of(cls: Any) -> Layout:
    """Return the layout of a message class.

    It is kept on the class: a class that is defined anew under the same name has its
    own, and a class that nobody uses any more takes it along.
    """
    layout: Layout | None = cls.__streamipc_layout__
    if layout is None or layout.cls is not cls:  # none yet, or that of a base
        layout = cls.__streamipc_layout__ = Layout(cls, wire_name_of(cls))
    return layout


def _class_attribute(cls: type, name: str) -> Any:
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__dict__[name]
    return None
