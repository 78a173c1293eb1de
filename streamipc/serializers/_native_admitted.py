"""Which types of the user's own may be sent and rebuilt, beside message classes.

There are two ways in. Enum classes, dataclasses and NamedTuples are admitted when they
occur in the annotations of a message class that is defined in this process. Any class is
admitted when the user says so (``allow=[...]``). The peer only ever names them; where a
name is unknown, the annotations of newly defined messages are looked through, and
nothing is imported.
"""

from __future__ import annotations

import copyreg
import enum
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

from .._shown import escaped, name_of_type, reason, shown
from .._signals import let_through
from ..exceptions import SerializationError
from ..messages import Message, _registry, default_wire_name, names_beside
from ._native_builders import ENUM, FLAG, NAMEDTUPLE, OBJECT, RECORD, need
from ._native_layout import Layout

__all__ = ["Admitted", "NotAdmittedError"]


class NotAdmittedError(SerializationError):
    """An object is of a type that is not sent.

    Args:
        obj: the object.
    """

    def __init__(self, obj: object) -> None:
        super().__init__(f"{_described(type(obj))} object can't be sent")
        self.obj = obj


class _Type:
    """An admitted class: its name on the wire and how it is sent."""

    __slots__ = ("cls", "kind", "layout", "name")

    def __init__(self, cls: type, kind: str) -> None:
        self.cls = cls
        self.kind = kind
        self.name = default_wire_name(cls)
        self.layout = Layout(cls, self.name) if kind == "record" else None


class _Types:
    """Admitted classes by themselves and by their names."""

    def __init__(self) -> None:
        self.by_class: dict[type, _Type] = {}
        self.by_name: dict[str, _Type] = {}

    def add(self, hint: Any) -> bool:
        """Admit the classes in a type annotation, and those in the fields of these.

        Returns:
            Whether every name in all of these could be resolved.
        """
        complete = True
        todo = [hint]
        seen: dict[int, Any] = {}  # what may name itself: classes and type statements
        while todo:
            hint = todo.pop()
            named = isinstance(hint, type) or type(hint).__name__ == "TypeAliasType"
            if named and id(hint) not in seen:
                seen[id(hint)] = hint
                hints, known = self._inside(hint)
                todo.extend(hints)
                complete = complete and known
            todo.extend(_parts(hint))
        return complete

    def _inside(self, named: Any) -> tuple[list[Any], bool]:
        """Admit a class; return the types that it or an alias names, and if these are all."""
        if not isinstance(named, type):
            try:
                return [named.__value__], True
            except Exception as error:  # a name in it is not defined (yet)
                let_through(error)
                return [], False
        kind = _kind(named)
        if kind and named not in self.by_class:
            self.enter(named, kind)
        if kind in ("record", "namedtuple") or hasattr(named, "__total__"):
            return _hints(named)
        return [], True

    def enter(self, cls: type, kind: str) -> None:
        entry = _Type(cls, kind)
        self.by_class[cls] = entry
        self.by_name[entry.name] = entry


_annotated = _Types()
"""What occurs in the annotations of message classes: the same for every serializer."""

_looked_through: WeakSet[type] = WeakSet()


def _look_through_messages() -> None:
    for cls in list(_registry.values()):
        if cls not in _looked_through:
            hints, complete = _hints(cls)
            for hint in hints:
                complete = _annotated.add(hint) and complete
            if complete:
                _looked_through.add(cls)


class Admitted:
    """The user's types that one serializer sends and rebuilds.

    Args:
        allow: classes admitted by the user, beside those in annotations.

    Raises:
        TypeError: an element of ``allow`` is not a class.
        ValueError: two different classes in ``allow`` have the same name.
    """

    def __init__(self, allow: Iterable[type]) -> None:
        self._own = _Types()
        for cls in allow:
            if not isinstance(cls, type):
                raise TypeError(f"allow takes classes, not {shown(cls)}")
            old = self._own.by_name.get(default_wire_name(cls))
            if old is not None and old.cls is not cls:
                raise ValueError(f"allow has two different classes named {old.name}")
            self._own.add(cls)
            if cls not in self._own.by_class:
                self._own.enter(cls, "object")

    def with_type(self, cls: type) -> Admitted:
        """Return the same with one more class that the user would have admitted."""
        made = Admitted(())
        made._own.by_class.update(self._own.by_class)
        made._own.by_name.update(self._own.by_name)
        made._own.add(cls)
        if cls not in made._own.by_class:
            made._own.enter(cls, "object")
        return made

    def reducer(self, cls: type, obj: Any) -> Callable[[Any], Any]:
        """Return what takes objects of ``cls`` apart for the pickler.

        Raises:
            SerializationError: ``cls`` is not admitted.
        """
        entry = self._own.by_class.get(cls) or _annotated.by_class.get(cls)
        if entry is None:
            _look_through_messages()
            entry = _annotated.by_class.get(cls)
            if entry is None:
                raise _refused(cls, obj)
        found = entry
        return lambda obj: _REDUCERS[found.kind](found, obj)

    def _named(self, name: object, *kinds: str) -> _Type:
        need(name, str)
        entry = self._own.by_name.get(name) or _annotated.by_name.get(name)  # type: ignore[call-overload]
        if entry is None:
            _look_through_messages()
            entry = _annotated.by_name.get(name)  # type: ignore[call-overload]
        if entry is None or entry.kind not in kinds:
            raise SerializationError(
                f"{escaped(need(name, str))} is not allowed here: import the module that defines "
                "it and the message that uses it, or admit it by "
                "NativeMessageSerializer(allow=[...])"
            )
        return entry  # type: ignore[no-any-return]

    def build_enum(self, name: object, member: object) -> Any:
        cls: Any = self._named(name, "enum").cls
        try:
            return cls.__members__[need(member, str)]
        except KeyError:
            raise SerializationError(f"{name} has no member {shown(member, 200)}") from None

    def build_flag(self, name: object, value: object) -> Any:
        cls = self._named(name, "enum").cls
        if not issubclass(cls, enum.Flag):
            raise SerializationError(f"{name} is no Flag")
        # enum would remember each such number for ever.
        if need(value, int) < 0 or value & ~_mask(cls):  # type: ignore[operator]
            raise SerializationError(f"{shown(value)} has bits that no member of {name} has")
        return cls(value)

    def build_record(self, name: object, state: object) -> Any:
        layout = self._named(name, "record").layout
        assert layout is not None
        return layout.build(state)

    def build_namedtuple(self, name: object, values: object) -> Any:
        cls: Any = self._named(name, "namedtuple").cls
        if len(need(values, tuple)) != len(cls._fields):
            raise SerializationError(f"{name} needs the fields {', '.join(cls._fields)}")
        return tuple.__new__(cls, need(values, tuple))

    def build_object(
        self,
        name: object,
        call: object,
        args: object,
        kwargs: object,
        state: object,
        items: object,
        pairs: object,
    ) -> Any:
        """Rebuild an object of a class in ``allow``, as :mod:`pickle` would."""
        cls: Any = self._named(name, "object").cls
        make = cls if need(call, bool) else cls.__new__
        first = () if call else (cls,)
        obj = make(*first, *need(args, tuple), **need(kwargs, dict))
        if type(obj) is not cls:
            raise SerializationError(f"{name} made a {type(obj).__qualname__} of its arguments")
        if state is not None:
            _set_state(obj, state)
        if items is not None:
            for item in need(items, list):
                obj.append(item)
        if pairs is not None:
            for key, value in need(pairs, list):
                obj[key] = value
        return obj


def _reduce_enum(entry: _Type, obj: Any) -> Any:
    name = obj.name
    if name in entry.cls.__members__:  # type: ignore[attr-defined]
        return ENUM, (entry.name, name)
    # Several members of a Flag at once.
    value = int(obj.value)
    mask = _mask(entry.cls)
    if value < 0:  # pragma: no cover - ~Bits.A of an IntFlag, on Python 3.10
        value &= mask
    if value & ~mask:
        raise SerializationError(f"{shown(value)} has bits that no member of {entry.name} has")
    return FLAG, (entry.name, value)


def _mask(cls: Any) -> int:
    """Return the bits that the members of a Flag have."""
    mask = 0
    for member in cls.__members__.values():
        mask |= member.value
    return mask


def _reduce_record(entry: _Type, obj: Any) -> Any:
    assert entry.layout is not None
    return RECORD, (entry.name, dict(entry.layout.state_of(obj)))


def _reduce_namedtuple(entry: _Type, obj: Any) -> Any:
    return NAMEDTUPLE, (entry.name, tuple(obj))


def _reduce_object(entry: _Type, obj: Any) -> Any:
    try:
        reduced = obj.__reduce_ex__(4)
    except Exception as error:
        let_through(error)
        raise SerializationError(
            f"__reduce_ex__ of {_described(entry.cls)} failed: {reason(error)}"
        ) from error
    if type(reduced) is not tuple:
        reduced = (reduced, ())  # the name of a global
    parts: Any = (*reduced, None, None, None)
    made, args, state, items, pairs = parts[:5]
    kwargs: dict[str, Any] = {}
    call = made is entry.cls
    if made is copyreg.__newobj__ and args[0] is entry.cls:  # type: ignore[attr-defined]
        args = args[1:]
    elif made is copyreg.__newobj_ex__ and args[0] is entry.cls:  # type: ignore[attr-defined]
        _, args, kwargs = args
    elif not call:
        raise SerializationError(
            f"{_described(entry.cls)} can't be sent: its __reduce__ names {shown(made)}, but only "
            "the class itself may be called to rebuild an object"
        )
    return OBJECT, (
        entry.name,
        call,
        tuple(args),
        dict(kwargs),
        state,
        None if items is None else list(items),
        None if pairs is None else list(pairs),
    )


_REDUCERS: dict[str, Callable[[_Type, Any], Any]] = {
    "enum": _reduce_enum,
    "record": _reduce_record,
    "namedtuple": _reduce_namedtuple,
    "object": _reduce_object,
}


def _set_state(obj: Any, state: Any) -> None:
    setter = getattr(obj, "__setstate__", None)
    if setter is not None:
        setter(state)
        return
    slots = None
    if type(state) is tuple and len(state) == 2:
        state, slots = state
    for part in (state, slots):
        for name, value in (need(part, dict) if part is not None else {}).items():
            object.__setattr__(obj, need(name, str), value)


def _refused(cls: type, obj: Any) -> SerializationError:
    if isinstance(obj, type) or cls.__name__ in _CODE:
        name = getattr(obj, "__qualname__", cls.__qualname__)
        return SerializationError(
            f"{name} ({_described(cls)}) can't be sent: functions and classes do not travel"
        )
    return NotAdmittedError(obj)


_CODE = ("function", "method", "builtin_function_or_method", "method-wrapper")


def _described(cls: type) -> str:
    return name_of_type(cls)


def _kind(cls: type) -> str | None:
    """Tell how an annotated class is sent; ``None`` if it is not of the user's making."""
    if issubclass(cls, enum.Enum):
        return "enum"
    if issubclass(cls, Message):
        return None
    if hasattr(cls, "__dataclass_fields__"):
        return "record"
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return "namedtuple"
    return None


def _hints(cls: type) -> tuple[list[Any], bool]:
    """Return the annotations of ``cls`` as types, and whether all could be resolved."""
    try:
        return list(typing.get_type_hints(cls).values()), True
    except Exception as error:
        let_through(error)  # else one name that is not defined (yet) hides all others: one by one
    hints: list[Any] = []
    complete = True
    for base in cls.__mro__:
        scope = names_beside(base) or typing.__dict__
        for name, hint in inspect.get_annotations(base).items():
            alone: Any = SimpleNamespace(__annotations__={name: hint})
            try:
                hints += typing.get_type_hints(alone, scope, dict(vars(base))).values()
            except Exception as error:
                let_through(error)
                complete = False
    return hints, complete


def _parts(hint: Any) -> Iterator[Any]:
    """Yield the types that ``hint`` is made of."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        for value in typing.get_args(hint):
            yield type(value)
    elif origin is not None:
        yield origin
        for part in typing.get_args(hint):
            yield from part if isinstance(part, (list, tuple)) else (part,)
    elif isinstance(hint, typing.TypeVar):
        yield from hint.__constraints__
        if hint.__bound__ is not None:
            yield hint.__bound__
    elif hasattr(hint, "__supertype__") and not isinstance(hint, type):  # NewType
        yield hint.__supertype__
