"""Makes classes dataclasses at once, and imports :mod:`dataclasses` when somebody looks.

That import takes a third of the time that a child needs for its first reply, most of it for
:mod:`inspect`, which serves for docstrings; and ``dataclass()`` itself takes a third of a
millisecond for each class. A process that only sends and answers messages needs nothing of
it but ``__init__``.

So where a class is as plain as most are (annotations, and defaults that are values), its
attributes that ``dataclass()`` would set are descriptors: whoever looks at one of them
first has the real ``dataclass()`` make them all. Only ``__init__`` is made here, when the
first instance is. Anything that is not plain (``field()``, ``ClassVar``, ``InitVar``,
``KW_ONLY``, slots, options, …) goes to ``dataclass()`` straight away.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["MISSING", "PlainFields", "defer_dataclass", "plain_fields_of"]

MISSING = object()
"""Stands for a default that a field does not have."""

_PLAIN = "__streamipc_fields__"

_SPECIAL = ("ClassVar", "InitVar", "KW_ONLY")
"""Annotations that dataclass() takes for something else than the type of a field."""


def plain_fields_of(cls: type) -> PlainFields | None:
    """Return what is known of the fields of ``cls``; ``None``: ask :mod:`dataclasses`."""
    plain: PlainFields | None = cls.__dict__.get(_PLAIN)
    return plain if plain is not None and plain.cls is cls else None


def defer_dataclass(cls: Any, namespace: dict[str, Any]) -> bool:
    """Make ``cls`` a dataclass, or return ``False`` if it is not plain enough.

    Args:
        cls: a class just made.
        namespace: what stands in its body.
    """
    fields = _plain_fields(cls, namespace)
    if fields is None:
        return False
    plain = PlainFields(cls, fields)
    attributes: dict[str, Any] = {name: _Later(name, plain) for name in _LATER}
    attributes["__match_args__"] = tuple(fields)
    attributes["__init__"] = _LaterInit("__init__", plain)
    attributes[_PLAIN] = plain
    if cls.__doc__:
        del attributes["__doc__"]
    for name, value in attributes.items():
        if name == "__doc__" or name not in namespace:
            type.__setattr__(cls, name, value)
    if "__hash__" not in namespace:
        type.__setattr__(cls, "__hash__", None)
    return True


class PlainFields:
    """The fields of a class, inherited ones too.

    Attributes:
        cls: the class itself.
        fields: annotation and default of each field, by name, in order.
    """

    def __init__(self, cls: Any, fields: dict[str, tuple[Any, Any]]) -> None:
        self.cls = cls
        self.fields = fields
        self._has_post_init = hasattr(cls, "__post_init__")
        self._made: dict[str, Any] | None = None

    def made(self, name: str) -> Any:
        """Return an attribute that ``dataclass()`` makes, and set them all.

        Two threads may do it at the same time: both make the same.
        """
        made = self._made
        if made is None:
            made = self._made = self._make()
        for key, value in made.items():
            if type(self.cls.__dict__.get(key)) is _Later:
                type.__setattr__(self.cls, key, value)
        return made[name]

    def _make(self) -> dict[str, Any]:
        """Apply ``dataclass()`` to a class that has the same fields and nothing else.

        So whoever uses the real one meanwhile finds each attribute there, old or new.
        """
        from dataclasses import dataclass

        cls = self.cls
        twin = type(
            cls.__name__,
            (),
            {
                "__module__": cls.__module__,
                "__qualname__": cls.__qualname__,
                # Not what is written: dataclass() would look up names, at the wrong time.
                "__annotations__": dict.fromkeys(self.fields, object),
                "__init__": cls.__init__,
                **{name: value for name, (_, value) in self.fields.items() if value is not MISSING},
            },
        )
        made = dataclass(twin).__dict__
        for name, (annotation, _) in self.fields.items():
            made["__dataclass_fields__"][name].type = annotation
        return {name: made[name] for name in _LATER}

    def make_init(self) -> Any:
        """Return the ``__init__`` that ``dataclass()`` would make."""
        cls = self.cls
        lines = [f"self.{name}={name}" for name in self.fields]
        if self._has_post_init:
            lines.append("self.__post_init__()")
        made: dict[str, Any] = {}
        module = sys.modules.get(cls.__module__)
        exec(  # the names are identifiers that stand in the class
            f"def __init__({','.join(('self', *self.fields))}):\n " + "\n ".join(lines or ["pass"]),
            {} if module is None else module.__dict__,
            made,
        )
        init = made["__init__"]
        init.__module__ = cls.__module__
        init.__qualname__ = f"{cls.__qualname__}.__init__"
        init.__defaults__ = (
            tuple(value for _, value in self.fields.values() if value is not MISSING) or None
        )
        init.__annotations__ = {name: annotation for name, (annotation, _) in self.fields.items()}
        init.__annotations__["return"] = None
        return init


class _Later:
    """An attribute of a class that is made when somebody looks at it."""

    __slots__ = ("_name", "_plain")

    def __init__(self, name: str, plain: PlainFields) -> None:
        self._name = name
        self._plain = plain

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        value = self._made(self._name, self._plain)
        bind = getattr(type(value), "__get__", None)
        return value if bind is None else bind(value, instance, owner)

    @staticmethod
    def _made(name: str, plain: PlainFields) -> Any:
        return plain.made(name)


class _LaterInit(_Later):
    """As :class:`_Later`, without :mod:`dataclasses`."""

    __slots__ = ()

    @staticmethod
    def _made(name: str, plain: PlainFields) -> Any:
        init = plain.make_init()
        if type(plain.cls.__dict__.get(name)) is _LaterInit:
            type.__setattr__(plain.cls, name, init)
        return init


_LATER = ("__dataclass_fields__", "__dataclass_params__", "__doc__", "__eq__", "__repr__")
if sys.version_info >= (3, 13):
    _LATER += ("__replace__",)


def _plain_fields(cls: Any, namespace: dict[str, Any]) -> dict[str, tuple[Any, Any]] | None:
    """Return annotation and default of each field, or ``None`` if one is special."""
    if (
        "__slots__" in namespace
        or "__annotate_func__" in namespace  # 3.14: names in it may not be defined yet
        or cls.__abstractmethods__
        or cls.__new__ is not object.__new__
    ):
        return None
    fields: dict[str, tuple[Any, Any]] = {}
    for base in cls.__mro__[-1:0:-1]:
        if "__dataclass_fields__" in base.__dict__ and plain_fields_of(base) is None:
            return None
        inherited: PlainFields | None = getattr(base, _PLAIN, None)
        if inherited is not None:
            fields.update(inherited.fields)
    for name, annotation in namespace.get("__annotations__", {}).items():
        default = namespace.get(name, MISSING)
        if (
            name == "self"
            or (name[:2] == "__" == name[-2:])
            or _is_special(annotation, cls.__module__)
            or (hasattr(cls, name) if default is MISSING else not _is_value(default))
        ):
            return None
        fields[name] = (annotation, default)
    defaults = [default is not MISSING for _, default in fields.values()]
    if defaults != sorted(defaults) or any(_is_field(value) for value in namespace.values()):
        return None  # dataclass() says what is wrong
    return fields


def _is_special(annotation: Any, module: str) -> bool:
    """Tell whether an annotation might be ``ClassVar``, ``InitVar`` or ``KW_ONLY``."""
    if isinstance(annotation, str):
        if any(word in annotation for word in _SPECIAL):
            return True
        name = annotation.partition("[")[0].strip()
        annotation = getattr(sys.modules.get(module), name, None)  # it may be an alias
    return any(
        annotation is special
        or type(annotation) is special
        or getattr(annotation, "__origin__", None) is special
        for home in ("typing", "dataclasses")
        for special in (getattr(sys.modules.get(home), word, MISSING) for word in _SPECIAL)
    )


def _is_value(default: Any) -> bool:
    """Tell whether a default is no field(), descriptor or mutable object."""
    kind = type(default)
    return not (
        kind.__hash__ is None
        or hasattr(kind, "__get__")
        or hasattr(kind, "__set_name__")
        or _is_field(default)
    )


def _is_field(value: Any) -> bool:
    dataclasses = sys.modules.get("dataclasses")
    return dataclasses is not None and isinstance(value, dataclasses.Field)
