"""From an annotation to its codec.

``build`` never fails: what can't be carried, or has a name that is not defined yet, gets
a codec that says so when a value is there.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import types
import typing
from collections import abc
from collections.abc import Callable, Mapping
from typing import Any

from ..messages import Message
from ._json_choices import PLAIN_LITERALS, LiteralCodec, enum_codec
from ._json_codec import Bad, Codec, type_name
from ._json_containers import Fixed, Items
from ._json_containers import Mapping as MappingCodec
from ._json_free import FREE, FreeOf, Open, unsupported
from ._json_records import DictRecord, FieldSpec, Record, TupleRecord, record_of
from ._json_scalars import BOOL, FLOAT, INT, NONE, STR, scalar_of
from ._json_scope import Scope, Unresolved, own_annotations
from ._json_unions import Optional, Union

__all__ = ["build", "fields_of"]

_BASIC: dict[Any, Codec] = {
    None: NONE,
    type(None): NONE,
    bool: BOOL,
    int: INT,
    float: FLOAT,
    str: STR,
    Any: FREE,
    object: FREE,
}

# What a value must be, what makes one from a list, and its tag.
_ITEMS: dict[type, tuple[Callable[[Any], Any] | None, str]] = {
    list: (None, ""),
    set: (set, "$set"),
    frozenset: (frozenset, "$frozenset"),
    collections.deque: (collections.deque, "$deque"),
    abc.Set: (set, "$set"),
    abc.MutableSet: (set, "$set"),
    abc.Sequence: (None, ""),
    abc.MutableSequence: (None, ""),
    abc.Collection: (None, ""),
    abc.Iterable: (None, ""),
    abc.Reversible: (None, ""),
}


def _defaultdict(made: dict[Any, Any]) -> Any:
    return collections.defaultdict(None, made)


_MAPPINGS: dict[type, Callable[[Any], Any] | None] = {
    dict: None,
    abc.Mapping: None,
    abc.MutableMapping: None,
    collections.OrderedDict: collections.OrderedDict,
    collections.defaultdict: _defaultdict,
    collections.Counter: collections.Counter,
}

_QUALIFIERS = ("Final", "ClassVar", "Required", "NotRequired", "ReadOnly")


class Lazy(Codec):
    """An annotation with a name that is not defined yet, or that is being looked at.

    Tried anew at each use until it can be resolved.
    """

    __slots__ = ("_annotation", "_field", "_made", "_scope")

    is_lazy = True

    def __init__(self, annotation: Any, scope: Scope) -> None:
        super().__init__(str(getattr(annotation, "__forward_arg__", annotation)))
        self._annotation = annotation
        self._scope = scope
        self._field = scope.field
        self._made: Codec | None = None

    def resolved(self) -> Codec:
        """Return the codec that this one stands for. Raises: Unresolved."""
        made = self._made
        if made is None:
            made = self._made = _build(self._annotation, self._scope.settled(self._field))
        return made

    def encode(self, value: Any) -> Any:
        return self.resolved().encode(value)

    def decode(self, data: Any) -> Any:
        return self.resolved().decode(data)

    def children(self) -> tuple[Codec, ...]:
        try:
            return (self.resolved(),)
        except Unresolved:
            return ()


def build(annotation: Any, scope: Scope) -> Codec:
    """Return the codec of ``annotation``, which stands in ``scope``."""
    try:
        return _build(annotation, scope)
    except Unresolved:
        return Lazy(annotation, scope)


def _build(annotation: Any, scope: Scope) -> Codec:
    if isinstance(annotation, (str, typing.ForwardRef)):
        text = annotation if isinstance(annotation, str) else annotation.__forward_arg__
        key = (text, *scope.bindings.values())
        return _once(key, annotation, lambda: scope.evaluate(annotation), scope, scope)
    try:
        basic = _BASIC.get(annotation)
    except TypeError:  # not hashable, as Literal[[]] or Annotated with a list
        basic = None
    if basic is not None:
        return basic
    origin = typing.get_origin(annotation)
    if origin is not None:
        return _build_generic(annotation, origin, typing.get_args(annotation), scope)
    if isinstance(annotation, typing.TypeVar):
        return scope.bindings.get(annotation, FREE)
    if hasattr(annotation, "__supertype__"):  # NewType
        return _build(annotation.__supertype__, scope)
    if type(annotation).__name__ == "TypeAliasType":
        return _build_alias(annotation, annotation, (), scope)
    if isinstance(annotation, type):
        return _build_class(annotation, (), scope, bare=True)
    special = getattr(annotation, "_name", "")
    if special == "Self":
        return record_of(scope.target)
    if special == "LiteralString":
        return STR
    if special in _QUALIFIERS:  # bare Final
        return FREE
    return unsupported(annotation)


def _once(
    key: Any, annotation: Any, value: Callable[[], Any], scope: Scope, within: Scope
) -> Codec:
    """Build what has a name once in a scope; where it names itself, it is looked up later.

    Args:
        key: the name, or the alias, and what its variables stand for.
        annotation: as it stands in ``scope``.
        value: returns what the name means.
        scope: where the name stands.
        within: where what it means is to be read.
    """
    known = scope.named.get(key)
    if known is not None:
        return known
    scope.named[key] = Lazy(annotation, scope)
    try:
        made = _build(value(), within)
    except BaseException:
        del scope.named[key]
        raise
    scope.named[key] = made
    return made


def _build_alias(annotation: Any, alias: Any, args: tuple[Any, ...], scope: Scope) -> Codec:
    """Build ``type Alias[T] = ...`` of Python 3.12."""
    arguments = tuple(build(arg, scope) for arg in args)
    within = (
        scope
        if not args
        else scope.child(dict(zip(alias.__type_params__, arguments, strict=False)))
    )
    return _once((alias, *arguments), annotation, lambda: alias.__value__, scope, within)


def _build_generic(annotation: Any, origin: Any, args: tuple[Any, ...], scope: Scope) -> Codec:
    if origin is typing.Annotated:
        return _build(args[0], scope)
    if origin is typing.Union or origin is types.UnionType:
        return _build_union(args, scope)
    if origin is typing.Literal:
        try:
            return LiteralCodec(args, [_build_literal(value) for value in args])
        except (Bad, TypeError):  # there is no form for a value in JSON, or no hash of it
            return unsupported(annotation)
    if isinstance(origin, type):
        return _build_class(origin, args, scope, bare=annotation is getattr(typing, "Tuple", None))
    if type(origin).__name__ == "TypeAliasType":
        return _build_alias(annotation, origin, args, scope)
    if getattr(origin, "_name", "") in _QUALIFIERS:
        return _build(args[0], scope)
    return unsupported(annotation)


def _build_union(args: tuple[Any, ...], scope: Scope) -> Codec:
    members: list[Codec] = []
    nullable = False
    waiting = [_build(arg, scope) for arg in args]
    while waiting:
        codec = waiting.pop(0)
        if codec is FREE:
            return FREE
        if codec is NONE:
            nullable = True
        elif isinstance(codec, (Optional, Union)):
            # A union behind an alias; typing has flattened the others.
            waiting[:0] = [*codec.children(), *[NONE] * codec.nullable]
        else:
            members.append(codec)
    if len(members) == 1:
        return Optional(members[0])
    if any(member.is_lazy for member in members):
        raise Unresolved("a union can't be a member of itself")
    return Union(members, nullable)


def _build_literal(value: Any) -> Codec:
    if isinstance(value, enum.Enum):
        return enum_codec(type(value))
    cls = type(value)
    return PLAIN_LITERALS.get(cls) or scalar_of(cls) or unsupported(value)


def _build_class(cls: Any, args: tuple[Any, ...], scope: Scope, *, bare: bool) -> Codec:
    scalar = scalar_of(cls)
    if scalar is not None:
        return scalar
    if issubclass(cls, enum.Enum):
        return enum_codec(cls)
    if cls is tuple:
        return _build_tuple(args, scope, bare=bare)
    if cls in _ITEMS:
        make, tag = _ITEMS[cls]
        item = build(args[0], scope) if args else FREE
        return Items(f"{cls.__name__}[{item.name}]" if args else cls.__name__, cls, item, make, tag)
    if cls in _MAPPINGS:
        return _build_mapping(cls, args, scope)
    is_record = (
        "__wire_name__" in cls.__dict__
        if issubclass(cls, Message)
        else "__dataclass_fields__" in cls.__dict__
        or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
        or (issubclass(cls, dict) and hasattr(cls, "__required_keys__"))
    )
    if is_record:
        record = record_of(cls)
        return record.with_arguments(tuple(build(arg, scope) for arg in args)) if args else record
    return Open(type_name(cls), cls)


def _build_tuple(args: tuple[Any, ...], scope: Scope, *, bare: bool) -> Codec:
    if bare:
        return Items("tuple", tuple, FREE, tuple, "$tuple")
    if len(args) == 2 and args[1] is Ellipsis:
        item = build(args[0], scope)
        return Items(f"tuple[{item.name}, ...]", tuple, item, tuple, "$tuple")
    # typing.Tuple[()] has the argument () on Python 3.10.
    return Fixed(tuple(build(arg, scope) for arg in args if arg != ()))


def _build_mapping(cls: Any, args: tuple[Any, ...], scope: Scope) -> Codec:
    make = _MAPPINGS[cls]
    key = build(args[0], scope) if args else FREE
    value: Codec = FREE
    if cls is collections.Counter:
        value = INT
    elif len(args) > 1:  # dict[str] is a type to Python
        value = build(args[1], scope)
    if key is FREE and value is FREE:
        return FreeOf(cls.__name__, cls, make)
    return MappingCodec(f"{cls.__name__}[{key.name}, {value.name}]", cls, key, value, make)


# -- fields ----------------------------------------------------------------------------


def fields_of(record: Record) -> tuple[tuple[FieldSpec, ...], tuple[Codec, ...]]:
    """Return the fields of a class, and the codecs of the types that its bases name.

    The latter are those of generic bases, such as the reply in ``Request[Color]``.
    """
    cls: Any = record.cls
    scopes: dict[type, Scope] = {}
    parameters = getattr(cls, "__parameters__", ())
    _enter(cls, cls, dict(zip(parameters, record.bound, strict=False)), scopes)
    named = tuple(codec for scope in scopes.values() for codec in scope.bindings.values())

    def scope_of(name: str) -> Scope:
        home = next((c for c in cls.__mro__ if name in own_annotations(c)), cls)
        scope = scopes[home]
        scope.field = name
        return scope

    if isinstance(record, DictRecord):
        return _typed_dict_fields(cls, scopes), named
    if isinstance(record, TupleRecord):
        hints: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            hints.update(own_annotations(base))
        return tuple(
            FieldSpec(
                name,
                build(hints.get(name, Any), scope_of(name)),
                **({"default": cls._field_defaults[name]} if name in cls._field_defaults else {}),
            )
            for name in cls._fields
        ), named
    fields = []
    for field in dataclasses.fields(cls):
        codec = build(field.type, scope_of(field.name))
        if field.default is not dataclasses.MISSING:
            fields.append(FieldSpec(field.name, codec, field.default))
        elif field.default_factory is not dataclasses.MISSING:
            fields.append(FieldSpec(field.name, codec, factory=field.default_factory))
        else:
            fields.append(FieldSpec(field.name, codec))
    return tuple(fields), named


def _enter(
    cls: type, target: type, bindings: Mapping[Any, Codec], scopes: dict[type, Scope]
) -> None:
    """Make the scopes of ``cls`` and its bases, each with what its variables stand for."""
    scope = scopes[cls] = Scope(cls, target, bindings)
    # A TypedDict has its bases here alone, not in __bases__ and __mro__.
    originals = cls.__dict__.get("__orig_bases__", ())
    for base in originals:
        origin = typing.get_origin(base)
        if isinstance(origin, type) and origin not in scopes:
            arguments = [build(arg, scope) for arg in typing.get_args(base)]
            parameters = getattr(origin, "__parameters__", ())
            _enter(origin, target, dict(zip(parameters, arguments, strict=False)), scopes)
    for plain in (*cls.__bases__, *originals):
        if typing.get_origin(plain) is None and plain not in scopes and isinstance(plain, type):
            _enter(plain, target, {}, scopes)


def _typed_dict_fields(cls: Any, scopes: Mapping[type, Scope]) -> tuple[FieldSpec, ...]:
    fields = []
    for name, annotation in own_annotations(cls).items():
        scope = scopes[_home_of_key(name, cls)]
        scope.field = name
        required = _qualified(annotation, scope)
        if required is None:
            required = name in cls.__required_keys__
        codec = build(annotation, scope) if name != "$type" else _Reserved(name)
        fields.append(FieldSpec(name, codec, required=required))
    return tuple(fields)


class _Reserved(Codec):
    """A key that a TypedDict may have, and nothing that is read back."""

    __slots__ = ()

    def encode(self, value: Any) -> Any:
        return self.decode(value)

    def decode(self, data: Any) -> Any:
        raise Bad("JSON can't carry a TypedDict's key of this name: it tells a value's type")


def _home_of_key(name: str, cls: type) -> type:
    """Return the TypedDict in whose body a key was written; each has those of its bases too."""
    for base in cls.__dict__.get("__orig_bases__", ()):
        origin = typing.get_origin(base) or base
        if isinstance(origin, type) and name in own_annotations(origin):
            return _home_of_key(name, origin)
    return cls


def _qualified(annotation: Any, scope: Scope) -> bool | None:
    """Return what ``Required`` or ``NotRequired`` in an annotation say, if one is there.

    ``__required_keys__`` does not know about those in annotations that are texts, as all
    are after ``from __future__ import annotations``.
    """
    while True:
        if isinstance(annotation, (str, typing.ForwardRef)):
            try:
                annotation = scope.evaluate(annotation)
            except Unresolved:
                return None
        name = getattr(typing.get_origin(annotation), "_name", "")
        if name in ("Required", "NotRequired"):
            return bool(name == "Required")
        if typing.get_origin(annotation) is not typing.Annotated and name != "ReadOnly":
            return None
        annotation = typing.get_args(annotation)[0]
