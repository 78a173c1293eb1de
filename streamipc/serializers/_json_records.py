"""Codecs of classes with fields: messages, dataclasses, NamedTuple, TypedDict.

A record is made when its class is first met, its fields are looked at when its first
value is: by then the names in their annotations are defined, and classes may refer to
each other in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .. import messages
from .._shown import shown
from ..exceptions import SerializationError
from ..messages import Message, wire_name_of
from ._json_codec import Bad, Codec, describe, expected, type_name, unexpected
from ._json_text import quote

__all__ = ["DictRecord", "FieldSpec", "Record", "TupleRecord", "record_by_name", "record_of"]

MISSING: Any = object()

_set = object.__setattr__  # past the __setattr__ of frozen classes


class FieldSpec:
    """One field.

    Args:
        name: in Python and in JSON.
        codec: of its type.
        default: what it is where it is missing; ``MISSING``: there is none.
        factory: makes the default, or ``None``.
        required: whether it must be there.
    """

    __slots__ = ("codec", "default", "factory", "name", "required")

    def __init__(
        self,
        name: str,
        codec: Codec,
        default: Any = MISSING,
        factory: Callable[[], Any] | None = None,
        required: bool = True,
    ) -> None:
        self.name = name
        self.codec = codec
        self.default = default
        self.factory = factory
        self.required = required and default is MISSING and factory is None


class Record(Codec):
    """A message or another dataclass, written as an object with a key for each field."""

    __slots__ = (
        "_fields",
        "_known",
        "_mentioned",
        "_required",
        "_rows",
        "bound",
        "head",
        "variants",
    )

    def __init__(self, cls: type, name: str, bound: tuple[Codec, ...] = ()) -> None:
        super().__init__(name, cls, shapes=[dict])
        self.head = f',"type":{quote(self.name)}'
        """What an envelope with such a message says of its type."""
        self.bound = bound
        """What the type variables of a generic class stand for; empty: they are open."""
        self.variants: dict[tuple[Codec, ...], Record] = {}
        """The same class with its type variables bound."""
        self._fields: tuple[FieldSpec, ...] | None = None
        # The same, laid out for the loops below: name, exact, codec.
        self._rows: tuple[tuple[str, type | None, Codec], ...] | None = None
        self._mentioned: tuple[Codec, ...] = ()
        self._known: frozenset[str] = frozenset()
        self._required: frozenset[str] = frozenset()

    def with_arguments(self, bound: tuple[Codec, ...]) -> Record:
        """Return the codec of this class with its type variables bound."""
        made = self.variants.get(bound)
        if made is None:
            cls: Any = self.cls
            made = self.variants[bound] = type(self)(cls, self.name, bound)
        return made

    def fields(self) -> tuple[FieldSpec, ...]:
        """Return the fields; look at the annotations if this is the first time."""
        if self._fields is None:
            from ._json_build import fields_of

            # Two threads may do this at once and come to the same result.
            fields, self._mentioned = fields_of(self)
            self._known = frozenset(field.name for field in fields)
            self._required = frozenset(field.name for field in fields if field.required)
            self._rows = tuple((field.name, field.codec.exact, field.codec) for field in fields)
            self._fields = fields
        return self._fields

    def _compiled(self) -> tuple[tuple[str, type | None, Codec], ...]:
        self.fields()
        return self._rows or ()

    def encode(self, value: Any) -> Any:
        if type(value) is not self.cls:
            return self._encode_subclass(value)
        rows = self._rows
        if rows is None:
            rows = self._compiled()
        made = {}
        name = ""
        try:
            for name, exact, codec in rows:
                item = getattr(value, name)
                made[name] = item if type(item) is exact else codec.encode(item)
        except Bad as bad:
            bad.steps.append(name)
            raise
        except AttributeError:
            if hasattr(value, name):
                raise
            raise Bad(f"not set (a field of {self.name})", name) from None
        return made

    def _encode_subclass(self, value: Any) -> Any:
        """Write a value of a subclass with its name, so that it comes back as one."""
        if not isinstance(value, self.cls or object):
            raise unexpected(self.name, value)
        from ._json_named import record_for

        record = record_for(type(value))
        if record is None:
            raise Bad(
                f"expected {self.name}, got its subclass {type_name(type(value))}, which is no "
                "Message: the other side could not tell; make it a Message or name it in the "
                "annotation"
            )
        return record.wrap(value)

    def decode(self, data: Any) -> Any:
        if type(data) is dict and "$type" in data:
            return self.unwrap(data)
        return self.decode_fields(data)

    def decode_fields(self, data: Any) -> Any:
        """Return the value whose fields are ``data``, which has no ``$type``."""
        if type(data) is not dict:
            data = self._no_fields(data)
        rows = self._rows
        if rows is None:
            rows = self._compiled()
        cls: Any = self.cls
        made = cls.__new__(cls)
        if len(data) != len(rows):
            return self._fill(made, self._completed(data))
        name = ""
        try:
            for name, exact, codec in rows:
                item = data[name]
                _set(made, name, item if type(item) is exact else codec.decode(item))
        except Bad as bad:
            bad.steps.append(name)
            raise
        except KeyError:  # as many keys as there are fields, but not the same
            return self._fill(made, self._completed(data))
        return made

    def _no_fields(self, data: Any) -> dict[str, Any]:
        """Return the fields of an empty array: several languages write an empty object so."""
        if data == [] and not self.requires_fields():
            return {}
        raise expected(self.name, data)

    def requires_fields(self) -> bool:
        """Say whether there is a field without a default."""
        self.fields()
        return bool(self._required)

    def _fill(self, made: Any, values: dict[str, Any]) -> Any:
        for name, value in values.items():
            _set(made, name, value)
        return made

    def _completed(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the values of all fields: those of ``data``, decoded, and defaults."""
        fields = self.fields()
        for key in data:
            if key not in self._known:
                raise Bad(f"unknown field of {self.name}", key)
        made = {}
        for field in fields:
            if field.name in data:
                try:
                    made[field.name] = field.codec.decode(data[field.name])
                except Bad as bad:
                    bad.steps.append(field.name)
                    raise
            elif field.required:
                raise Bad(f"missing (required by {self.name})", field.name)
            elif field.factory is not None:
                made[field.name] = field.factory()
            elif field.default is not MISSING:
                made[field.name] = field.default
        return made

    def wrap(self, value: Any) -> Any:
        if type(value) is not self.cls:
            return self._encode_subclass(value)
        return {"$type": self.name, **self.encode(value)}

    def claims(self, data: dict[str, Any]) -> bool:
        name = data.get("$type")
        if name == self.name:
            return True
        cls = self._subclass(name)
        return cls is not None

    def _subclass(self, name: Any) -> Record | None:
        """Return the codec of the class of that name, if it is one that fits here."""
        from ._json_named import record_named

        record = record_named(name)
        if record is None or not issubclass(record.cls or object, self.cls or object):
            return None
        return record

    def unwrap(self, data: dict[str, Any]) -> Any:
        fields = dict(data)
        name = fields.pop("$type")
        if name == self.name:
            return self.decode_fields(fields)
        record = self._subclass(name)
        if record is None:
            raise Bad(f"expected {self.name}, got $type {describe(name)}")
        return record.decode_fields(fields)

    def hollow(self) -> Any:
        """Return a value with something in each field, but nothing that is of its type."""
        cls: Any = self.cls
        made = cls.__new__(cls)
        for field in self.fields():
            _set(made, field.name, MISSING)
        return made

    def suits(self, data: dict[str, Any]) -> bool:
        """Say whether the keys of ``data`` are those of this class."""
        self.fields()
        return self._required <= data.keys() <= self._known

    def children(self) -> Iterable[Codec]:
        return [*[field.codec for field in self.fields()], *self._mentioned]


class TupleRecord(Record):
    """A NamedTuple, written as an object with a key for each field."""

    __slots__ = ()

    def hollow(self) -> Any:
        cls: Any = self.cls
        return tuple.__new__(cls, [MISSING] * len(self.fields()))

    def decode_fields(self, data: Any) -> Any:
        cls: Any = self.cls
        if type(data) is not dict:
            data = self._no_fields(data)
        return tuple.__new__(cls, self._completed(data).values())


class DictRecord(Record):
    """A TypedDict, written as the object that it is."""

    __slots__ = ()

    def accepts(self, value: Any) -> bool:
        return isinstance(value, dict) and self.suits(value)

    def encode(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise unexpected(self.name, value)
        fields = self.fields()
        made = {}
        for field in fields:
            if field.name in value:
                try:
                    made[field.name] = field.codec.encode(value[field.name])
                except Bad as bad:
                    bad.steps.append(field.name)
                    raise
            elif field.required:
                raise Bad(f"missing (required by {self.name})", field.name)
        if len(made) != len(value):
            extra = next(key for key in value if key not in made)
            raise Bad(
                f"unknown field of {self.name}", extra if type(extra) is str else shown(extra)
            )
        return made

    def decode_fields(self, data: Any) -> Any:
        return self._completed(data if type(data) is dict else self._no_fields(data))

    def wrap(self, value: Any) -> Any:
        return {"$type": self.name, **self.encode(value)}

    def _subclass(self, name: Any) -> Record | None:
        return None


_records: dict[type, Record] = {}
_classes: dict[tuple[str, str], type] = {}
"""The class of that module and name that was met last; one defined anew takes its place,
so that a program which goes on defining classes does not grow for ever."""


def record_of(cls: type) -> Record:
    """Return the codec of a class with fields.

    Raises:
        SerializationError: ``cls`` is no such class.
    """
    record = _records.get(cls)
    if record is not None:
        return record
    if issubclass(cls, Message):
        record = Record(cls, wire_name_of(cls))
    elif "__dataclass_fields__" in cls.__dict__:
        record = Record(cls, type_name(cls))
    elif issubclass(cls, tuple) and hasattr(cls, "_fields"):
        record = TupleRecord(cls, type_name(cls))
    elif issubclass(cls, dict) and hasattr(cls, "__required_keys__"):
        record = DictRecord(cls, type_name(cls))
    else:
        raise SerializationError(
            f"body: expected a Message, got a value of {type_name(cls)}; "
            "only messages can be sent by themselves"
        )
    key = (cls.__module__, cls.__qualname__)
    old = _classes.get(key)
    if old is not None:
        _records.pop(old, None)
    _classes[key] = cls
    _records[cls] = record
    return record


def record_by_name(name: str) -> Record:
    """Return the codec of the message class with that wire name; import nothing.

    Raises:
        SerializationError: no such class is defined.
    """
    cls: Any = messages._registry.get(name)
    record = _records.get(cls)
    return record_of(messages.message_type(name)) if record is None else record
